"""Rules about what lies where: affinity, anti-affinity both ways, and Marathon's counting operators."""

from __future__ import annotations

from dataclasses import replace

import pytest
from boards import board, fitting, leaving, node, refusal, task, wants
from hypothesis import given
from hypothesis import strategies as st

from miniorch.model import Availability, TaskState
from scheduler.company import Company, names
from scheduler.explain import look
from scheduler.remedies import remedies
from scheduler.rules import tell_affinity
from scheduler.spellings import expression
from scheduler.victims import victims

N1, N2, N3 = node("n1", zone="a"), node("n2", zone="b"), node("n3", zone="b")


# --- beside and apart ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ("service == db", "n1"),
        ("service == shop/db", "n1"),
        ("service != db", "n2 n3"),
        ("service == db within node.labels.zone", "n1"),
        ("service == mq within node.labels.zone", "n2 n3"),
        ("service != mq within node.labels.zone", "n1"),
        ("service in db, mq", "n1 n2"),
        ("service not in db, mq", "n3"),
        ("service matches d*", "n1"),
        ("service == log", ""),
        ("service == other/log", "n3"),
        ("service != other/log", "n1 n2"),
        ("task == db.1", "n1"),
        ("task == db.2", ""),
        ("task == id-mq.1", "n2"),
        ("task != mq.1", "n1 n3"),
        ("image == redis:7", "n2"),
        ("image == redis", "n2"),
        ("image != redis", "n1 n3"),
        ("image matches /^red/", "n2"),
        ("image == busybox:1", "n3"),
        ("container.labels.tier == data", "n1"),
        ("container.labels.tier != data", "n2 n3"),
        ("container.labels.tier exists", "n1 n2"),
        ("container.labels.tier not exists", "n3"),
        ("container.labels.level > 3", "n2"),
        ("affinity:container==db", "n1"),
        ("affinity:container==shop_db_1", "n1"),
        ("affinity:container!=db*", "n2 n3"),
        ("affinity:container==/^(db|mq)/", "n1 n2"),
        ("affinity:image==redis", "n2"),
        ("affinity:image==redis:*", "n2"),
        ("affinity:tier==data", "n1"),
        ("affinity:tier!=data", "n2 n3"),
        ("affinity:com.docker.compose.service==mq", "n2"),
        ("affinity:container==~nowhere", "n1 n2 n3"),
    ],
)
def test_each_spelling_of_affinity(rule: str, where: str) -> None:
    there = board(
        (N1, [task("db.1", labels={"tier": "data"})]),
        (N2, [task("mq.1", image="redis:7", labels={"tier": "bus", "level": "4"})]),
        (replace(N3, images=("busybox:1",)), ["other/log.1"]),
    )
    assert fitting(wants(rule), there) == where


def test_a_node_without_the_label_is_apart_from_all_and_beside_nobody() -> None:
    there = board((N1, ["db.1"]), (node("n4"), []))
    assert fitting(wants("service != db within node.labels.zone"), there) == "n4"
    assert fitting(wants("service == db within node.labels.zone"), there) == "n1"


def test_the_first_of_a_kind_that_wants_to_be_together_may_go_anywhere() -> None:
    for rule in ("service == web within node.labels.zone", "replicas together within node.labels.zone"):
        assert fitting(wants(rule), board((N1, []), (N2, []), (N3, []))) == "n1 n2 n3"
        assert fitting(wants(rule), board((N1, []), (N2, ["web.1"]), (N3, []))) == "n2 n3"


def test_own_kind_apart_within_a_zone_is_how_an_app_goes_across_zones() -> None:
    rule = "service != web within node.labels.zone"
    assert fitting(wants(rule), board((N1, []), (N2, ["web.1"]), (N3, []))) == "n1"
    assert fitting(wants(rule), board((N1, ["web.2"]), (N2, ["web.1"]), (N3, []))) == ""


def test_what_leaves_keeps_away_until_it_has_ended_and_attracts_no_longer() -> None:
    there = board((N1, [leaving("db.1")]), (N2, []))
    assert fitting(wants("service != db"), there) == "n2"
    assert fitting(wants("service == db"), there) == ""
    assert fitting(wants("replicas <= 1"), board((N1, [leaving("web.1")]), (N2, []))) == "n2"


def test_a_data_container_that_has_done_its_work_still_holds_its_place() -> None:
    there = board((N1, [task("data.1", TaskState.COMPLETE)]), (N2, [task("data.1", TaskState.FAILED)]))
    assert fitting(wants("service == data"), there) == "n1"
    assert fitting(wants("service != data"), there) == "n1 n2"


def test_affinities_can_be_a_chain() -> None:
    there = board((N1, []), (N2, ["db.1"]), (N3, []))
    assert fitting(wants("service == db", service="api"), there) == "n2"
    assert fitting(wants("service == api"), there) == ""
    there = board((N1, []), (N2, ["db.1", "api.1"]), (N3, []))
    assert fitting(wants("service == api"), there) == "n2"


# --- both ways -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ("service != web", "n2 n3"),
        ("service != web within node.labels.zone", "n2 n3"),
        ("service not in api, web", "n2 n3"),
        ("service != api", "n1 n2 n3"),
        ("service == web", "n1 n2 n3"),
        ("image != nginx", "n2 n3"),
        ("image != redis", "n1 n2 n3"),
        ("container.labels.tier != front", "n2 n3"),
        ("container.labels.tier not exists", "n2 n3"),
        ("affinity:container!=web", "n2 n3"),
        ("affinity:container!=web*", "n2 n3"),
        ("affinity:container!=~web*", "n1 n2 n3"),
        ("replicas <= 1", "n1 n2 n3"),
        ("node.labels.zone != b", "n1 n2 n3"),
    ],
)
def test_the_rules_of_what_runs_bind_newcomers(rule: str, where: str) -> None:
    rules = wants(rule, service="db").spec.placement.constraints
    there = board((N1, ["db.1"]), (N2, []), (N3, []), services={"shop/db": rules})
    assert fitting(wants(labels={"tier": "front"}), there) == where


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ("service != web", "n1 n2"),
        ("service matches *", "n1 n2"),
        ("service not matches *", "n1 n2"),
        ("service not matches */*", "n1 n2"),
        ("service not exists within node.platform.os", "n1 n2"),
        ("image != nginx", "n1 n2"),
        ("container.labels.tier not exists", "n1 n2"),
        ("affinity:container!=*", "n1 n2"),
        ("service != shop/web", "n2"),
        ("service not in db, shop/web", "n2"),
        ("service not matches shop/*", "n2"),
        ("service not matches /^(?:shop\\/w)/", "n2"),
        ("task != shop/web", "n2"),
        ("affinity:container!=shop/*", "n2"),
    ],
)
def test_a_rule_of_another_app_binds_a_newcomer_only_where_it_names_the_newcomers_app(rule: str, where: str) -> None:
    rules = wants(rule, service="db").spec.placement.constraints
    there = board((N1, ["other/db.1"]), (N2, []), services={"other/db": rules})
    assert fitting(wants(), there) == where


def test_a_rule_of_a_service_without_tasks_binds_nobody() -> None:
    rules = {"shop/db": [expression("service != web")]}
    assert fitting(wants(), board((N1, []), services=rules)) == "n1"
    ended = board((N1, [task("db.1", TaskState.SHUTDOWN)]), services=rules)
    assert fitting(wants(), ended) == "n1"


def test_whose_rule_it_is_is_told() -> None:
    rules = {"other/db": [expression("service != shop/web within node.labels.zone")]}
    there = board((N1, ["other/db.1"]), (node("n4", zone="a"), []), services=rules)
    assert refusal(wants(), there, "n4").detail == (
        "other/db.1 in zone a, which wants service != shop/web within node.labels.zone"
    )


# --- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "replicas", "running", "where"),
    [
        (("hostname", "UNIQUE"), 3, {"n1": 1}, "n2 n3"),
        (("zone", "UNIQUE"), 3, {"n2": 1}, "n1"),
        (("zone", "UNIQUE"), 3, {"n1": 1, "n2": 1}, ""),
        (("zone", "MAX_PER", "2"), 4, {"n1": 1, "n2": 1, "n3": 1}, "n1"),
        (("zone", "MAX_PER", "2"), 4, {"n1": 1, "n2": 1}, "n1 n2 n3"),
        (("zone", "CLUSTER"), 3, {}, "n1 n2 n3"),
        (("zone", "CLUSTER"), 3, {"n3": 1}, "n2 n3"),
        (("zone", "GROUP_BY", "2"), 4, {}, "n1 n2 n3"),
        (("zone", "GROUP_BY", "2"), 4, {"n1": 1}, "n1 n2 n3"),
        (("zone", "GROUP_BY", "2"), 4, {"n1": 2}, "n2 n3"),
        (("zone", "GROUP_BY", "2"), 4, {"n1": 1, "n2": 1, "n3": 1}, "n1"),
        (("zone", "GROUP_BY", "2"), 3, {"n1": 1, "n2": 1}, "n1 n2 n3"),
        (("zone", "GROUP_BY", "2"), 3, {"n1": 2}, "n2 n3"),
        (("zone", "GROUP_BY", "2"), 3, {"n2": 1, "n3": 1}, "n1"),
        (("zone", "GROUP_BY", "1"), 3, {"n1": 1}, "n1"),
        (("zone", "GROUP_BY", "3"), 3, {"n1": 1, "n2": 1}, ""),
        (("zone", "GROUP_BY"), 3, {}, "n1 n2 n3"),
        (("zone", "GROUP_BY"), 3, {"n2": 1}, "n1"),
        (("zone", "GROUP_BY"), 3, {"n1": 1, "n2": 1}, "n1 n2 n3"),
        (("zone", "GROUP_BY"), 4, {"n1": 1, "n2": 1, "n3": 1}, "n1"),
    ],
)
def test_marathons_counting_operators(
    rule: tuple[str, ...], replicas: int, running: dict[str, int], where: str
) -> None:
    places = [(one, [f"web.{n}" for n in range(running.get(one.name, 0))]) for one in (N1, N2, N3)]
    there = board(*places, (node("n4"), []))  # which has no zone
    expected = f"{where} n4".strip() if rule[0] == "hostname" else where
    assert fitting(wants(rule, replicas=replicas), there) == expected


def test_groups_are_evened_out_over_places_that_can_be_had() -> None:
    closed = replace(N1, availability=Availability.DRAIN)
    there = board((closed, []), (N2, ["web.1"]), (N3, []))
    assert fitting(wants(("zone", "GROUP_BY")), there) == "n2 n3"
    assert fitting(wants(("zone", "GROUP_BY"), "node.labels.zone != a"), board((N1, []), (N2, ["web.1"]))) == "n2"
    assert fitting(wants(("zone", "GROUP_BY"), platforms=("linux/arm64",)), board((N1, []))) == ""


def test_groups_that_must_be_even_are_evened_out_when_tasks_go() -> None:
    there = board((N1, ["web.5", "web.6"]), (N2, ["web.1", "web.2"]), (N3, ["web.3", "web.4"]))
    running = [task for view in there.views.values() for task in view.tasks]
    assert [one.name for one in victims(running, 2, there, wants())] == ["web.6", "web.4"]
    assert [one.name for one in victims(running, 2, there, wants(("zone", "GROUP_BY", "2")))] == ["web.4", "web.2"]


def test_other_services_are_not_counted() -> None:
    there = board((N1, ["db.1", "other/web.1"]), (N2, ["web.1"]))
    assert fitting(wants(("hostname", "UNIQUE")), there) == "n1"


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "detail", "what", "command"),
    [
        ("service == db", "wants service == db, and there is db.1 on n2", "db were here", ""),
        ("service == log", "wants service == log, which is nowhere", "a task with service == log were here", ""),
        ("service != web", "wants service != web, and there is web.1, web.2 and web.3 here",
         "web.1, web.2 and web.3 were not here", ""),
        ("replicas <= 3", "wants replicas <= 3, and there is web.1, web.2 and web.3 here",
         "web.1, web.2 and web.3 were not here", ""),
        ("image == redis", "wants image == redis, which is nowhere", "it had image redis", ""),
        ("image != nginx", "wants image != nginx, and there is web.1, web.2 and web.3 here",
         "web.1, web.2 and web.3 were not here", ""),
        ("service == db within node.labels.zone",
         "wants service == db within node.labels.zone, and there is db.1 in zone b",
         "it had label zone=b", "miniorch node label n1 zone=b"),
        ("replicas <= 2 within node.labels.zone",
         "wants replicas <= 2 within node.labels.zone, and there is web.1, web.2 and web.3 in zone a", "", ""),
        ("service != mq within node.labels.rack",
         "wants service != mq within node.labels.rack, and there is mq.1 in rack r",
         "it had label rack=n1", "miniorch node label n1 rack=n1"),
    ],
)  # fmt: skip
def test_who_lies_where_is_told_with_what_would_help(rule: str, detail: str, what: str, command: str) -> None:
    first = node("n1", zone="a", rack="r")
    there = board(
        (first, ["web.1", "web.2", "web.3"]), (N2, ["db.1"]), (node("n4", rack="r"), ["mq.1"]),
        services={"shop/db": [], "shop/web": []},
    )  # fmt: skip
    told = refusal(wants(rule), there, "n1")
    assert told.detail == detail
    assert (told.change.what if told.change else "", told.change.command if told.change else "") == (what, command)


def test_too_few_zones_are_mended_by_a_label() -> None:
    there = board((N1, ["web.1"]), (N2, ["web.2"]), (N3, []))
    wish = wants("service != web within node.labels.zone", replicas=3)
    told = refusal(wish, there, "n3")
    assert told.detail == "wants service != web within node.labels.zone, and there is web.2 in zone b"
    assert told.change is not None
    assert told.change.command == "miniorch node label n3 zone=n3"
    mended = board((N1, ["web.1"]), (N2, ["web.2"]), (node("n3", zone="n3"), []))
    assert fitting(wish, mended) == "n3"
    # A node whose own task is in the way takes it along wherever it goes.
    assert refusal(wish, there, "n2").change is None


def test_a_label_is_chosen_so_that_all_rules_about_such_places_hold() -> None:
    there = board((node("n1", zone="a"), ["db.1", "web.1"]), (node("n2", zone="b"), ["db.2"]), (node("n3"), []))
    wish = wants("service == db within node.labels.zone", ("zone", "MAX_PER", "1"))
    told = refusal(wish, there, "n3")
    assert told.change is not None
    assert "zone=b" in told.change.command
    assert told.seen == "none without label zone, none without label zone"


@pytest.mark.parametrize(
    ("place", "label"), [("node.labels.zone in a, b", "zone=b"), ("node.labels.zone != b", "zone=n3")]
)
def test_a_label_that_a_constraint_asks_for_is_one_at_which_the_rules_about_such_places_hold(
    place: str, label: str
) -> None:
    there = board((N1, ["web.1"]), (node("n3", zone="b" if "!=" in place else "a"), []))
    wish = wants(place, "service != web within labels.zone", replicas=2)
    first, *_ = remedies(wish, there, look(wish, there.views.values(), there))
    assert (first.nodes, first.change.command) == (("n3",), f"miniorch node label n3 {label}")


def test_what_is_nowhere_in_a_zone_may_come_there() -> None:
    there = board((N1, []), (node("n3"), ["db.1"]), services={"shop/db": []})
    told = refusal(wants("service == db within node.labels.zone"), there, "n1")
    assert told.change is not None
    assert [(edit.kind, edit.node, edit.key) for edit in told.change.edits] == [("come", "n1", "shop/db")]


def test_a_passing_node_says_what_is_there() -> None:
    there = board((N1, ["db.1"]))
    rule = tell_affinity(wants("service == db"), there.views["n1"], there)
    assert (rule.ok, rule.detail, rule.wanted) == (True, "db.1 here", "service == db")


# --- kept up to date -------------------------------------------------------------------------------------------------

RULES = (
    "service != web within node.labels.zone", "service == web within node.labels.zone", "service == db",
    "service != db within node.labels.zone", "replicas <= 2 within node.labels.zone", "replicas <= 1",
    "replicas evenly 2 within node.labels.zone", "replicas evenly within node.labels.zone", "image == nginx",
    "replicas together within node.labels.zone", "container.labels.tier != front", "task != web.1",
)  # fmt: skip


@given(
    st.lists(st.sampled_from(RULES), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), st.sampled_from(["web", "db"])), max_size=6),
    st.lists(st.sampled_from(["n1", "n2", "n3", "n4"]), max_size=5),
)
def test_counting_one_more_is_the_same_as_counting_anew(
    rules: list[str], running: list[tuple[str, str]], placed: list[str]
) -> None:
    wish = wants(*rules, replicas=5, labels={"tier": "front"})
    tasks = {name: [task(f"{service}.{n + 10}", labels={"tier": "front"}) for n, (where, service) in enumerate(running)
                    if where == name] for name in ("n1", "n2", "n3", "n4")}  # fmt: skip
    nodes = (N1, N2, N3, node("n4"))
    kept = Company(wish, board(*((one, tasks[one.name]) for one in nodes)))
    shrinking = [one for one in kept.hard if one.shrinks]
    for number, name in enumerate(placed):
        failing = [(tally, place) for tally in shrinking for place in ("a", "b", "n4", None) if not tally.passes(place)]
        kept.add(next(one for one in nodes if one.name == name))
        tasks[name].append(task(f"web.{number + 50}", labels={"tier": "front"}))
        fresh = Company(wish, board(*((one, tasks[one.name]) for one in nodes)))
        assert [kept.passes(one) for one in nodes] == [fresh.passes(one) for one in nodes]
        assert [one.counts for one in kept.hard] == [one.counts for one in fresh.hard]
        assert not any(tally.passes(place) for tally, place in failing if tally.kind != "beside")


def test_preferred_company_is_weighed() -> None:
    there = board((N1, ["db.1"]), (N2, []))
    company = Company(wants(expression("service == db", 5), expression("service != db", 3)), there)
    assert company.passes(N1)
    assert (company.unmet(N1), company.unmet(N2)) == (3, 5)
    assert not company.empty
    assert Company(wants("node.labels.zone == a"), there).empty


def test_names_of_a_task_depend_on_who_asks() -> None:
    one = task("other/web.2", image="registry:5000/team/app@sha256:00")
    assert names(one, "service", "other") == ("web", "other/web")
    assert names(one, "service", "shop") == ("other/web",)
    assert names(one, "task", "shop") == (
        "other/web", "other/web.2", "other_web_2", "other-web-2", "id-web.2",
    )  # fmt: skip
    assert names(one, "image", "shop") == ("registry:5000/team/app@sha256:00", "registry:5000/team/app")
    assert names(task("web.1", image="redis"), "image", "shop") == ("redis:latest", "redis")
    assert names(task("web.1", image="a/b:1"), "image", "shop") == ("a/b:1", "a/b")
