"""Every engine's spelling of a rule, and what is not one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miniorch.spec import Constraint
from scheduler.constraints import Misspelt, text_of
from scheduler.spellings import classic, expression, marathon, reads_as


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("node.labels.disk == ssd", Constraint("node.labels.disk", "==", ("ssd",))),
        ("node.labels.disk==ssd", Constraint("node.labels.disk", "==", ("ssd",))),
        (" node.hostname !=n1 ", Constraint("node.hostname", "!=", ("n1",))),
        ("node.id == n1", Constraint("node.id", "==", ("n1",))),
        ("node.ip == 10.0.0.7", Constraint("node.ip", "==", ("10.0.0.7",))),
        ("node.ip != 10.0.0.0/8", Constraint("node.ip", "!=", ("10.0.0.0/8",))),
        ("node.role == manager", Constraint("node.role", "==", ("manager",))),
        ("Node.ROLE == manager", Constraint("node.role", "==", ("manager",))),
        ("Node.Labels.Disk == ssd", Constraint("node.labels.Disk", "==", ("ssd",))),
        ("node.platform.os == linux", Constraint("node.platform.os", "==", ("linux",))),
        ("node.platform.arch == x86_64", Constraint("node.platform.arch", "==", ("x86_64",))),
        ("engine.labels.storage == ssd", Constraint("engine.labels.storage", "==", ("ssd",))),
        ("node.labels.cores >= 8", Constraint("node.labels.cores", ">=", ("8",))),
        ("node.labels.load<2.5", Constraint("node.labels.load", "<", ("2.5",))),
        ("node.labels.zone in a, b", Constraint("node.labels.zone", "in", ("a", "b"))),
        ("node.labels.zone NOT  IN [a,b]", Constraint("node.labels.zone", "not in", ("a", "b"))),
        ("node.labels.gpu exists", Constraint("node.labels.gpu", "exists")),
        ("node.labels.gpu not exists", Constraint("node.labels.gpu", "not exists")),
        ("node.hostname matches web-*", Constraint("node.hostname", "matches", ("^web-.*$",))),
        ("node.hostname not matches /^web/", Constraint("node.hostname", "not matches", ("^web",))),
        ("node.labels.name is Ünï 1", Constraint("node.labels.name", "is", ("Ünï 1",))),
        ("service == db", Constraint("service", "==", ("db",))),
        ("service != web within node.labels.zone", Constraint("service", "!=", ("web",), "node.labels.zone")),
        ("image == redis", Constraint("image", "==", ("redis",))),
        ("task == db.1", Constraint("task", "==", ("db.1",))),
        ("container.labels.tier != batch", Constraint("container.labels.tier", "!=", ("batch",))),
        ("container.labels.tier exists within labels.zone",
         Constraint("container.labels.tier", "exists", (), "labels.zone")),
        ("replicas <= 2 within node.labels.zone", Constraint("replicas", "<=", ("2",), "node.labels.zone")),
        ("replicas together within node.labels.zone", Constraint("replicas", "together", (), "node.labels.zone")),
        ("replicas evenly 2 within node.labels.zone", Constraint("replicas", "evenly", ("2",), "node.labels.zone")),
        ("replicas <= 1", Constraint("replicas", "<=", ("1",))),
    ],
)  # fmt: skip
def test_an_expression_is_a_subject_an_operator_and_values(text: str, made: Constraint) -> None:
    found = expression(text)
    assert (found.subject, found.operator, found.values, found.within) == (
        made.subject, made.operator, made.values, made.within,
    )  # fmt: skip
    assert (found.text, found.weight) == (text.strip(), 0)
    assert reads_as(found.text) == (found,)
    again = replace(found, text="")
    assert replace(expression(text_of(again)), text="") == again, "what is rendered for it means the same"


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("node.lables.disk == ssd", 'there is no attribute "node.lables.disk"', "write node.labels.disk"),
        ("disk == ssd", 'there is no attribute "disk"', "write node.labels.disk"),
        ("node.hostnam == n1", 'there is no attribute "node.hostnam"', "write node.hostname"),
        ("node.os == linux", 'there is no attribute "node.os"', "write node.platform.os"),
        ("engine.label.a == b", 'there is no attribute "engine.label.a"', "write engine.labels.a"),
        ("services == db", 'there is no attribute "services"', "write service"),
        ("container.label.tier == a", 'there is no attribute "container.label.tier"', "write container.labels.tier"),
        ("container == front", 'there is no attribute "container"', "write task"),
        ("constraint:node==a", '"constraint:node==a" is a line of classic Swarm', "write it below environment"),
        ("service == db within zone", 'there is no attribute "zone" to be within', "write node.labels.zone"),
        ("node.labels.disk = ssd", 'node.labels.disk has no operator "="', "write =="),
        ("node.labels.disk =~ ssd", 'node.labels.disk has no operator "=~"', "write matches"),
        ("node.labels.cores => 8", 'node.labels.cores has no operator "=>"', "write >="),
        ("node.labels.disk notin a", 'node.labels.disk has no operator "notin"', "write not in"),
        ("node.labels.disk exist", 'node.labels.disk has no operator "exist"', "write exists"),
        ("replicas == 2", 'replicas has no operator "=="', "write <="),
        ("node.labels.disk", '"node.labels.disk" has no operator', "as in: node.labels.disk == ssd"),
        ("", "a rule is empty", "as in: node.labels.disk == ssd"),
        ("node.labels.disk ==", "node.labels.disk == wants a value, got none", "as in: node.labels.disk == ssd"),
        ("node.labels.gpu exists now", "node.labels.gpu exists wants no value, got now",
         "as in: node.labels.gpu exists"),
        ("node.labels.cores >= many", 'node.labels.cores >= wants a number, got "many"', "node.labels.cores >= 8"),
        ("node.ip == 10.0.0.300", 'node.ip wants an address or a network, got "10.0.0.300"', "node.ip == 10.0.0.0/8"),
        ("replicas <= none", 'replicas <= wants a number from 1 on, got "none"', "replicas <= 2"),
        ("node.role == manager within node.labels.zone", "node.role is one node's, and within no place",
         "delete within node.labels.zone"),
        ("node.name matches /(/", '"(" is no pattern: missing ), unterminated subpattern at position 0',
         "as in: /^web-[0-9]+$/"),
        ("node.name matches /(a+)+$/", '"(a+)+$" repeats a group in brackets, or has one with (? that is not (?:',
         "as in: /^web-[0-9]+$/"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_with_the_nearest_that_is_one(text: str, message: str, remedy: str) -> None:
    with pytest.raises(Misspelt) as caught:
        expression(text)
    assert (caught.value.message, caught.value.remedy) == (message, remedy)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("constraint:node==swarm-master", ("node.name", "matches", "^swarm-master$", 0)),
        ("constraint:node!=web*", ("node.name", "not matches", "^web.*$", 0)),
        ("constraint:storage==/ssd|nvme/", ("labels.storage", "matches", "ssd|nvme", 0)),
        ("constraint:storage==~ssd", ("labels.storage", "matches", "^ssd$", 1)),
        ("constraint:storage!=~/^hdd/", ("labels.storage", "not matches", "^hdd", 1)),
        ("affinity:container==front", ("task", "matches", "^front$", 0)),
        ("affinity:container!=front*", ("task", "not matches", "^front.*$", 0)),
        ("affinity:image==redis", ("image", "matches", "^redis$", 0)),
        ("affinity:image==~redis", ("image", "matches", "^redis$", 1)),
        ("affinity:tier!=batch", ("container.labels.tier", "not matches", "^batch$", 0)),
        ("affinity:com.docker.compose.service==db", ("service", "matches", "^db$", 0)),
    ],
)
def test_classic_swarms_expressions(text: str, made: tuple[str, str, str, int]) -> None:
    found = classic(*text.split(":", 1))
    assert (found.subject, found.operator, *found.values, found.weight) == made
    assert found.text == text
    assert reads_as(text) == (found,)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("constraint:node", '"constraint:node" has no operator', "write constraint:node==VALUE, or !="),
        ("constraint:node=a", '"constraint:node=a" has no operator', "write constraint:node==a"),
        ("constraint:node=~a", '"constraint:node=~a" has no operator', "write constraint:node==~a"),
        ("constraint:zone>=a", '"constraint:zone>=a" has no operator', "write constraint:zone==a"),
        ("constraint: node==a", '" node" is no key of classic Swarm', "write constraint:node==a"),
        ("constraint:n==a", '"n" is no key of classic Swarm', "write constraint:storage==a"),
        ("constraint:disk==/(/", '"(" is no pattern: missing ), unterminated subpattern at position 0',
         "as in: /^web-[0-9]+$/"),
    ],
)  # fmt: skip
def test_what_classic_swarm_would_have_refused_is_refused(text: str, message: str, remedy: str) -> None:
    with pytest.raises(Misspelt) as caught:
        classic(*text.split(":", 1))
    assert (caught.value.message, caught.value.remedy) == (message, remedy)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("hostname", "UNIQUE"), [("replicas", "<=", ("1",), "node.name")]),
        (("rack", "UNIQUE"), [("replicas", "<=", ("1",), "labels.rack")]),
        (("rack", "MAX_PER", "2"), [("replicas", "<=", ("2",), "labels.rack")]),
        (("@zone", "GROUP_BY", "3"), [("replicas", "evenly", ("3",), "labels.zone")]),
        (("@zone", "GROUP_BY"), [("replicas", "evenly", (), "labels.zone")]),
        (("@region", "CLUSTER"), [("replicas", "together", (), "labels.region")]),
        (("rack", "CLUSTER", "r1"), [("labels.rack", "is", ("r1",), "node.name")]),
        (("cores", "IS", "4.0"), [("labels.cores", "is", ("4.0",), "node.name")]),
        (("rack", "LIKE", "r[12]"), [("labels.rack", "matches", ("^(?:r[12])$",), "node.name")]),
        (("rack", "LIKE", ".*"), [("labels.rack", "matches", ("^(?:.*)$",), "node.name"),
                                  ("labels.rack", "exists", (), "node.name")]),
        (("rack", "unlike", "r1"), [("labels.rack", "not matches", ("^(?:r1)$",), "node.name")]),
    ],
)  # fmt: skip
def test_marathons_operators(words: tuple[str, ...], made: list[tuple[str, str, tuple[str, ...], str]]) -> None:
    found = marathon(words)
    assert [(one.subject, one.operator, one.values, one.within) for one in found] == made
    (text,) = {one.text for one in found}
    assert text == f"[{', '.join(words)}]"
    assert reads_as(text) == found


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("zone", "GROUPBY", "2"), '[zone, GROUPBY, 2] has an operator "GROUPBY" that is not known', "write GROUP_BY"),
        (("zone",), "[zone] is no rule", "write [zone, GROUP_BY, 2]"),
        (("zone", "MAX_PER"), "[zone, MAX_PER] has no value", "write [zone, MAX_PER, 2]"),
        (("zone", "UNIQUE", "2"), "[zone, UNIQUE, 2] has a value, and UNIQUE wants none", "write [zone, UNIQUE]"),
        (("zone", "MAX_PER", "x"), "[zone, MAX_PER, x] wants a number from 1 on", "write [zone, MAX_PER, 2]"),
        (("a b", "UNIQUE"), '"a b" is no name of an attribute', "write [zone, UNIQUE]"),
    ],
)
def test_what_marathon_would_have_refused_is_refused(words: tuple[str, ...], message: str, remedy: str) -> None:
    with pytest.raises(Misspelt) as caught:
        marathon(words)
    assert (caught.value.message, caught.value.remedy) == (message, remedy)
