"""Each operator and each attribute: where it holds, where not, and where there is nothing to look at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from boards import board, fitting, node, refusal, wants

from miniorch.model import Role
from miniorch.spec import Constraint
from scheduler import attributes
from scheduler.constraints import (
    COUNTING,
    NEGATIVE,
    OPERATORS,
    Misspelt,
    check,
    holds,
    is_static,
    predicate,
    samples,
    text_of,
)
from scheduler.spellings import classic, expression, marathon

# What is asked of a label x; the values with which it holds, those with which it does not; None is no label.
TABLE: list[tuple[str, list[str | None], list[str | None]]] = [
    ("x == ssd", ["ssd", "SSD"], ["hdd", "ssd2", None]),
    ("x != ssd", ["hdd", "ssd2", None], ["ssd", "SSD"]),
    ("x is ssd", ["ssd"], ["SSD", "hdd", None]),
    ("x is 4", ["4", "4.0", "4.0004"], ["4.001", "four", None]),
    ("x in a, b", ["a", "B"], ["c", "ab", None]),
    ("x not in a, b", ["c", None], ["a", "B"]),
    ("x matches web*", ["web", "web-1"], ["aweb", "Web", None]),
    ("x matches /eb/", ["web", "eb"], ["we", None]),
    ("x matches w.b", ["web", "w.b"], ["webs", None]),
    ("x matches *", ["", "a", None], []),
    ("x not matches web*", ["aweb", None], ["web", "web-1"]),
    ("x exists", ["", "a"], [None]),
    ("x not exists", [None], ["", "a"]),
    ("x < 8", ["7.9", "-1"], ["8", "9", "seven", "", None]),
    ("x <= 8", ["8", "8.0", "7"], ["8.1", "seven", None]),
    ("x > 8", ["8.1", "10"], ["8", "7", "ten", None]),
    ("x >= 8", ["8", "10"], ["7.99", "ten", None]),
]
MARATHON: list[tuple[tuple[str, ...], list[str | None], list[str | None]]] = [
    (("x", "IS", "a"), ["a"], ["A", "b", None]),
    (("x", "CLUSTER", "a"), ["a"], ["b", None]),
    (("x", "LIKE", "a|b"), ["a", "b"], ["ab", "xa", None]),
    (("x", "UNLIKE", "a|b"), ["ab", "c", None], ["a", "b"]),
]


def with_label(value: str | None) -> dict[str, str]:
    return {} if value is None else {"x": value}


@pytest.mark.parametrize(("text", "yes", "no"), TABLE)
def test_each_operator_holds_where_it_should_and_nowhere_else(
    text: str, yes: list[str | None], no: list[str | None]
) -> None:
    rule = expression(f"node.labels.{text}")
    assert is_static(rule)
    assert [holds(rule, node("n", **with_label(value))) for value in yes] == [True] * len(yes)
    assert [holds(rule, node("n", **with_label(value))) for value in no] == [False] * len(no)
    assert [predicate(rule)(value) for value in [*yes, *no]] == [True] * len(yes) + [False] * len(no)


@pytest.mark.parametrize(("words", "yes", "no"), MARATHON)
def test_marathons_operators_about_a_value(words: tuple[str, ...], yes: list[str | None], no: list[str | None]) -> None:
    (rule,) = marathon(words)
    assert [holds(rule, node("n", **with_label(value))) for value in [*yes, *no]] == [True] * len(yes) + [False] * len(
        no
    )


def test_a_like_that_any_text_fulfils_wants_a_label_all_the_same() -> None:
    there = board((node("n1", x="a"), []), (node("n2"), []))
    assert fitting(wants(("x", "LIKE", ".*")), there) == "n1"


def test_every_operator_is_tried_above() -> None:
    tried = {expression(f"node.labels.{text}").operator for text, _, _ in TABLE}
    assert tried == {*OPERATORS, *NEGATIVE}


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("node.id == n1", "n1", "n2"),
        ("node.name == N1", "n1", "n2"),
        ("node.hostname != n1", "n2", "n1"),
        ("node.ip == 10.0.0.1", "n1", "n2"),
        ("node.ip == 10.0.0.0/24", "n1", "n2"),
        ("node.ip != 10.0.0.0/24", "n2", "n1"),
        ("node.ip in 10.0.0.1, 10.0.7.7", "n1", "n2"),
        ("node.role == worker", "n1", "n2"),
        ("node.platform.os == linux", "n1", "n2"),
        ("node.platform.arch == x86_64", "n1", "n2"),
        ("node.platform.arch != amd64", "n2", "n1"),
        ("node.labels.disk == ssd", "n1", "n2"),
        ("engine.labels.storage == overlay2", "n1", "n2"),
        ("labels.disk == ssd", "n1", "n2"),
        ("labels.storage == overlay2", "n1", "n2"),
    ],
)
def test_each_attribute_of_a_node(text: str, yes: str, no: str) -> None:
    first = replace(node("n1", disk="ssd"), address="10.0.0.1", role=Role.WORKER, engine_labels={"storage": "overlay2"})
    second = replace(
        node("n2", disk="hdd"), address="10.0.1.1", platform="windows/arm64", engine_labels={"disk": "ssd"}
    )
    nodes = {"n1": first, "n2": second}
    assert holds(expression(text), nodes[yes])
    assert not holds(expression(text), nodes[no])


def test_a_node_on_a_cluster_of_one_has_no_address_and_no_platform_before_its_agent_has_spoken() -> None:
    new = replace(node("n1"), platform="")
    assert [attributes.value(new, name) for name in ("node.ip", "node.platform.os", "node.platform.arch")] == [None] * 3
    assert not holds(expression("node.ip == 10.0.0.0/8"), new)
    assert holds(expression("node.ip != 10.0.0.0/8"), new)


def test_classic_swarms_keys_are_labels_of_the_node_or_else_of_its_engine() -> None:
    rule = classic("constraint", "storage==ssd")
    mine, engines = node("n1", storage="ssd"), replace(node("n2"), engine_labels={"storage": "ssd"})
    assert holds(rule, mine)
    assert holds(rule, engines)
    assert not holds(rule, replace(engines, labels={"storage": "hdd"}))


def test_what_fails_says_what_was_seen_what_was_wanted_and_the_label_that_helps() -> None:
    there = board((node("n1", disk="hdd"), []), (node("n2"), []))
    wish = wants("node.labels.disk == ssd")
    rule = refusal(wish, there, "n1")
    assert (rule.detail, rule.seen, rule.wanted) == (
        "wants node.labels.disk == ssd, has disk=hdd", "disk=hdd", "node.labels.disk == ssd",
    )  # fmt: skip
    assert rule.change is not None
    assert (rule.change.what, rule.change.command) == ("it had label disk=ssd", "miniorch node label n1 disk=ssd")
    assert refusal(wish, there, "n2").detail == "wants node.labels.disk == ssd, has no label disk"


@pytest.mark.parametrize(
    ("rules", "labels", "command"),
    [
        (["node.labels.x == a"], {}, "x=a"),
        (["node.labels.x != a"], {"x": "a"}, "x-"),
        (["node.labels.x not exists"], {"x": "a"}, "x-"),
        (["node.labels.x exists"], {}, "x=yes"),
        (["node.labels.x in b, c"], {"x": "a"}, "x=b"),
        (["node.labels.x not in b, c"], {"x": "b"}, "x-"),
        (["node.labels.x < 8"], {"x": "9"}, "x=7"),
        (["node.labels.x > 8"], {}, "x=9"),
        (["node.labels.x >= 8"], {"x": "seven"}, "x=8"),
        (["node.labels.x matches web*"], {"x": "a"}, "x=web"),
        (["constraint:disk==/^ssd$/"], {}, "disk=ssd"),
        ([("x", "LIKE", "ssd.*")], {}, "x=ssd"),
        ([("x", "IS", "4.5")], {"x": "4"}, "x=4.5"),
        (["node.labels.x == a", "node.labels.y == b"], {"y": "c"}, "x=a y=b"),
        (["node.labels.x != b", "node.labels.x in b, c"], {"x": "b"}, "x=c"),
        (["node.labels.x >= 4", "node.labels.x <= 8"], {"x": "9"}, "x=4"),
    ],
)
def test_the_label_that_is_proposed_makes_all_rules_hold(
    rules: list[str], labels: dict[str, str], command: str
) -> None:
    there, wish = board((node("n1", **labels), [])), wants(*rules)
    change = refusal(wish, there, "n1").change
    assert change is not None
    assert change.command == f"miniorch node label n1 {command}"
    changed = dict(labels)
    for edit in change.edits:
        changed.pop(edit.key, None)
        changed.update({edit.key: edit.value} if edit.kind == "label" else {})
    assert fitting(wish, board((node("n1", **changed), []))) == "n1"


def test_what_no_label_can_change_has_no_way_out() -> None:
    there = board((node("n1"), []))
    assert refusal(wants("node.hostname == n9"), there, "n1").change is None
    assert refusal(wants("node.labels.x == a", "node.role == worker"), there, "n1").change is None
    contradiction = refusal(wants("node.labels.x == a", "node.labels.x == b"), there, "n1").change
    assert contradiction is not None
    assert (contradiction.command, contradiction.edits) == ("", ())


def test_a_label_of_the_engine_is_no_business_of_ours_and_is_named() -> None:
    change = refusal(wants("engine.labels.storage == ssd"), board((node("n1"), [])), "n1").change
    assert change is not None
    assert (change.what, change.command) == ("its container engine had label storage=ssd", "")


def test_preferred_constraints_forbid_nothing() -> None:
    there = board((node("n1", disk="hdd"), []))
    assert fitting(wants(expression("node.labels.disk == ssd", 10), "constraint:disk==~ssd"), there) == "n1"


@pytest.mark.parametrize(
    "wrong",
    [
        Constraint("node.lables.x", "==", ("a",)),
        Constraint("node.labels.x", "equals", ("a",)),
        Constraint("node.labels.x", "==", ()),
        Constraint("node.labels.x", "==", ("a", "b")),
        Constraint("node.labels.x", "matches", ("(",)),
        Constraint("node.labels.x", "matches", ("a" * 300,)),
        Constraint("node.labels.x", "in", tuple("a" * 200)),
        Constraint("node.labels.x", "<", ("a",)),
        Constraint("service", "==", ("db",), within="zone"),
        Constraint("replicas", "==", ("1",)),
        Constraint("replicas", "<=", ("0",)),
        Constraint("node.labels.x", "==", ("a",), weight=-1),
        Constraint("node.labels.x", "==", ("a",), weight=10**9),
        Constraint("node.labels.x", "==", ("a",), text="node.labels.x == a\x1b[2J"),
        Constraint("node.labels.x", "==", ("a\nb",)),
        Constraint("node.labels.x", "==", ("a",), text="x" * 5000),
    ],
)
def test_what_makes_no_sense_is_refused_whoever_made_it(wrong: Constraint) -> None:
    with pytest.raises(Misspelt):
        check(wrong)


def test_patterns_that_could_keep_the_server_busy_are_refused() -> None:
    hidden = (r"(?x) ((a*) *) *b", "(a*)(?#)*b", r"^\\*\\*\\*\\*x", "a.*|^b.*c.*", "^(a|b.*c.*)|d.*")
    for pattern in ("(a+)+$", "(a|a)*b", "a*a*b", "(?:x{1,9}){9}", "^" + "a?" * 30, "^" + "(a|a)" * 30, *hidden):
        with pytest.raises(Misspelt):
            check(Constraint("node.labels.x", "matches", (pattern,)))
    for pattern in (
        r"^web-[0-9]+\.(a|b)?\*\(\)+$",
        "^(?:[]*+?|]|a*?)b*+$",
        "web.*",
        r"^\.\*\+\?\|\{",
        "^(a|b|c)(d|e)$",
    ):
        check(Constraint("node.labels.x", "matches", (pattern,)))


def test_a_rule_can_be_written_out() -> None:
    assert (
        text_of(Constraint("service", "!=", ("web",), "node.labels.zone")) == "service != web within node.labels.zone"
    )
    assert text_of(Constraint("node.labels.x", "in", ("a", "b"))) == "node.labels.x in a, b"
    assert text_of(classic("constraint", "node==a")) == "constraint:node==a"
    assert expression(text_of(Constraint("replicas", "evenly", ("2",)))).operator in COUNTING


def test_samples_are_found_or_not_and_always_hold() -> None:
    found = {text: samples(expression(f"node.labels.{text}")) for text, _, _ in TABLE}
    assert found["x matches /eb/"] == ("eb",)
    assert found["x in a, b"] == ("a", "b")
    assert [text for text, texts in found.items() if not texts] == ["x not exists"]
    for text, texts in found.items():
        assert all(holds(expression(f"node.labels.{text}"), node("n", x=one)) for one in texts), text


def test_generic_resources_are_counted_by_labels() -> None:
    there = node("n1", **{"resource.gpu": "2", "resource.disk": "many", "zone": "a"})
    assert attributes.generic(there) == {"gpu": 2}
