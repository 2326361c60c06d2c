"""Questions about what has not happened, answered by the controllers themselves on a copy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from miniorch.api.whatif import Move, NewNode, Question, places, standing, what_if
from miniorch.controllers.cache import Cache
from miniorch.controllers.rehearsal import Rehearsal
from miniorch.errors import NotFound, UsageError
from miniorch.model import Node, Service, TaskState
from miniorch.spec import Condition, Mount, Placement, Resources, Restart, RestartPolicy, ServiceSpec, TaskSpec
from scheduler.spellings import expression

T0 = 1_000.0
GIB = 1 << 30
NODES = [
    Node("n1", "", "", Resources(4.0, 4 * GIB), labels={"zone": "a"}),
    Node("n2", "", "", Resources(4.0, 4 * GIB), labels={"zone": "b"}),
    Node("n3", "", "", Resources(4.0, 4 * GIB), labels={"zone": "b"}),
]
WEB = Service("shop", "web", ServiceSpec(TaskSpec("web", reserved=Resources(1.0)), 4), "10.201.0.1")
DB = Service("shop", "db", ServiceSpec(TaskSpec("db", mounts=(Mount("data", "/data"),))), "10.201.0.2")


def settled(*edits: object, nodes: Sequence[Node] = tuple(NODES)) -> Cache:
    """A cluster in which everything that was asked for runs: db on n2 with its volume, web on n1, n2, n3 and n1."""

    async def go() -> Cache:
        rehearsal = Rehearsal(Cache.holding(*nodes), edits or (WEB, DB), T0)
        await rehearsal.settle()
        return rehearsal.cache

    return asyncio.run(go())


def ask(cache: Cache, **question: Any) -> dict[str, Any]:
    return asyncio.run(what_if(Question(**question), cache, T0))


def on(cache: Cache) -> dict[str, str]:
    return {task.name: task.node for task in cache.tasks.values()}


def test_the_copy_comes_to_rest_where_the_cluster_would() -> None:
    cache = settled()
    assert on(cache) == {"db.1": "n2", "web.1": "n1", "web.2": "n2", "web.3": "n3", "web.4": "n1"}
    assert {task.status.state for task in cache.tasks.values()} == {TaskState.RUNNING}


def test_a_question_changes_nothing() -> None:
    cache = settled()
    before = dict(cache.tasks), dict(cache.nodes), cache.revision
    ask(cache, kill=("n1",), strategy="binpack")
    assert (dict(cache.tasks), dict(cache.nodes), cache.revision) == before


def test_tasks_of_a_killed_node_move_and_nothing_else_does() -> None:
    answer = ask(settled(), kill=("n1",))
    assert answer["moves"] == [Move("shop/web.1", "n1", "n3"), Move("shop/web.4", "n1", "n2")]
    assert (answer["lost"], answer["waiting"], answer["dark"]) == (["n1"], [], [])


def test_a_task_whose_volume_is_lost_waits_and_its_service_is_dark() -> None:
    answer = ask(settled(), kill=("n2",))
    assert answer["waiting"] == [Move("shop/db.1", "n2", "", "its volume shop/data lies on n2")]
    assert answer["dark"] == ["shop/db"]


def test_what_does_not_fit_elsewhere_says_why_it_waits() -> None:
    full = replace(WEB, spec=replace(WEB.spec, replicas=12))
    answer = ask(settled(full), kill=("n1",))
    assert [move.task for move in answer["waiting"]] == ["shop/web.1", "shop/web.4", "shop/web.7", "shop/web.10"]
    assert "wants 1 CPU, 0 of 4 free" in answer["waiting"][0].why


def test_a_drained_node_is_emptied_but_for_what_has_its_volume_there() -> None:
    answer = ask(settled(), drain=("n2",))
    assert answer["moves"] == [Move("shop/web.2", "n2", "n3")]
    assert (answer["lost"], answer["waiting"], answer["dark"]) == ([], [], [])


def test_what_finds_no_place_runs_on_where_it_is_if_its_node_is_only_drained() -> None:
    big = replace(WEB, spec=ServiceSpec(TaskSpec("web", reserved=Resources(3.0)), 3))
    cache = settled(big)
    (move,) = ask(cache, drain=("n3",))["waiting"]
    assert (move.task, move.before, move.after) == ("shop/web.3", "n3", "n3")
    assert "n1, n2: wants 3 CPUs, 1 of 4 free" in move.why
    (move,) = ask(cache, kill=("n3",))["waiting"]
    assert (move.before, move.after) == ("n3", "")


@pytest.mark.parametrize(
    "rule", ["service != web within node.labels.zone", "replicas <= 1 within node.labels.zone",
             "replicas evenly 2 within node.labels.zone"],
)  # fmt: skip
@pytest.mark.parametrize("gone", ["kill", "drain"])
def test_what_may_be_in_each_zone_once_is_not_in_its_own_way(rule: str, gone: str) -> None:
    web = replace(WEB, spec=replace(WEB.spec, replicas=2, placement=Placement((expression(rule),))))
    answer = ask(settled(web), **{gone: ("n2",)})
    assert (answer["moves"], answer["waiting"]) == ([Move("shop/web.2", "n2", "n3")], [])


@pytest.mark.parametrize("gone", ["kill", "drain"])
def test_what_leaves_its_node_does_not_count_when_its_successor_is_spread(gone: str) -> None:
    web = replace(WEB, spec=replace(WEB.spec, placement=Placement(spread=("node.labels.zone",))))
    four = (*NODES, replace(NODES[0], name="n4"))
    assert sorted(on(settled(web, nodes=four)).values()) == ["n1", "n2", "n3", "n4"]
    assert ask(settled(web, nodes=four), **{gone: ("n3",)})["moves"] == [Move("shop/web.3", "n3", "n2")]


def test_all_nodes_with_a_label_are_lost_and_a_new_one_takes_over() -> None:
    one = NewNode(8.0, 8 * GIB, {"zone": "c"})
    answer = ask(settled(), lose=("zone=b",), add=(one,))
    assert answer["lost"] == ["n2", "n3"]
    assert {move.task: move.after for move in answer["moves"]} == {"shop/web.2": "new1", "shop/web.3": "new1"}


def test_a_new_node_takes_what_waits_and_moves_nothing() -> None:
    full = replace(WEB, spec=replace(WEB.spec, replicas=13))
    answer = ask(settled(full), add=(NewNode(1.0, GIB),))
    assert answer["moves"] == [Move("shop/web.13", "", "new1")]


def test_another_strategy_places_everything_anew() -> None:
    answer = ask(settled(WEB), strategy="binpack")
    assert {move.after for move in answer["moves"]} == {"n1"}
    assert ask(settled(), strategy="spread")["moves"] == []


def test_a_plan_whose_tasks_would_fit_nowhere_says_that_what_runs_stays() -> None:
    big = replace(WEB, spec=replace(WEB.spec, task=TaskSpec("web", reserved=Resources(8.0))))
    moves = asyncio.run(places("shop", [big], settled(), T0)) or []
    assert [(move.task, move.before, move.after) for move in moves] == [
        (f"shop/web.{number}", node, node) for number, node in ((1, "n1"), (2, "n2"), (3, "n3"), (4, "n1"))
    ]
    assert {move.why for move in moves} == {"no node fits (3 looked at): 3 nodes: wants 8 CPUs, 3 of 4 free"}


def test_a_held_update_asks_all_its_tasks_in_turn_whether_they_would_make_room() -> None:
    nodes = [Node(f"n{number}", "", "", Resources(4.0, 4 * GIB)) for number in range(1, 9)]
    web = replace(WEB, spec=ServiceSpec(TaskSpec("web", reserved=Resources(1.0)), 8))
    rule = Placement((expression("node.name != n8"),), max_per_node=1)
    other = Service(
        "shop", "other", ServiceSpec(TaskSpec("x", reserved=Resources(3.0)), 7, placement=rule), "10.201.0.3"
    )
    cache = settled(web, other, nodes=nodes)
    assert sorted(on(cache).values()) == sorted([f"n{number}" for number in range(1, 9)] * 2)[:-1]
    larger = replace(cache.services["shop/web"], spec=replace(web.spec, task=TaskSpec("web", reserved=Resources(2.0))))
    found = asyncio.run(places("shop", (larger,), cache, T0)) or []
    moved = {move.task: move.after for move in found if not move.why}
    assert moved == {"shop/web.1": "n8", "shop/web.8": "n8"}, "six find no place, and the last one does"
    assert len(found) == 8


def test_a_node_that_is_lost_and_drained_is_lost() -> None:
    assert ask(settled(), kill=("n2",), drain=("n2",)) == ask(settled(), kill=("n2",))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"kill": ("n9",)}, "there is no node n9"),
        ({"drain": ("n9",)}, "there is no node n9"),
        ({"lose": ("zone=x",)}, "no node has the label zone=x"),
        ({"lose": ("zone",)}, "no node has the label zone=$"),
        ({"strategy": "spred"}, "no strategy is called 'spred'"),
        ({"add": (NewNode(1.0, GIB),) * 101}, "at most 100 nodes can be added, not 101"),
        ({"add": (NewNode(-1.0, GIB),)}, "a new node has no processor or no memory"),
        ({"add": (NewNode(1.0, GIB, {"resource.gpu": "x"}),)}, "is no number of resources"),
    ],
)
def test_wrong_questions_are_refused(question: dict[str, Any], message: str) -> None:
    with pytest.raises((NotFound, UsageError), match=message):
        ask(settled(), **question)


def planned(cache: Cache, *edits: object) -> list[Move]:
    found = asyncio.run(places("shop", edits, cache, T0))
    assert found is not None
    return found


def test_what_would_keep_the_server_busy_for_long_is_not_acted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = settled()
    monkeypatch.setattr("miniorch.api.whatif.REHEARSED_AT_MOST", 5)
    assert ask(cache, kill=("n1",))["moves"]
    assert asyncio.run(places("shop", [WEB], cache, T0)) is None
    monkeypatch.setattr("miniorch.api.whatif.REHEARSED_AT_MOST", 4)
    with pytest.raises(UsageError, match="a copy of at most 4 tasks"):
        ask(cache, kill=("n1",))


def test_what_would_take_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = settled()
    newer = replace(WEB, spec=replace(WEB.spec, task=replace(WEB.spec.task, image="web:2")))
    monkeypatch.setattr("miniorch.controllers.rehearsal.MOST_WORK", 100)
    assert asyncio.run(places("shop", [newer], cache, T0)) is None
    with pytest.raises(UsageError, match="given up after some seconds"):
        ask(cache, kill=("n1",), strategy="binpack")


def test_plan_names_the_place_of_each_new_task_also_of_one_that_is_replaced_where_it_is() -> None:
    newer = replace(WEB, spec=replace(WEB.spec, task=replace(WEB.spec.task, image="web:2"), replicas=5))
    moves = planned(settled(), newer)
    assert [(move.task, move.before, move.after) for move in moves] == [
        ("shop/web.1", "n1", "n1"),
        ("shop/web.2", "n2", "n2"),
        ("shop/web.3", "n3", "n3"),
        ("shop/web.4", "n1", "n1"),
        ("shop/web.5", "", "n3"),
    ]


def test_plan_waits_for_jobs_and_dependencies_as_the_cluster_would() -> None:
    job = ServiceSpec(TaskSpec("setup"), restart=RestartPolicy(Restart.ON_FAILURE))
    web = replace(WEB, spec=replace(WEB.spec, depends_on={"setup": Condition.COMPLETED}, replicas=1))
    moves = planned(settled(DB), web, Service("shop", "setup", job, "10.201.0.3"))
    assert [(move.task, move.after) for move in moves] == [("shop/web.1", "n2")]


def test_plan_says_why_a_task_would_have_no_place() -> None:
    huge = replace(WEB, spec=ServiceSpec(TaskSpec("web", reserved=Resources(5.0))))
    assert "wants 5 CPUs, 4 of 4 free" in planned(settled(DB), huge)[0].why


def reasons(cache: Cache, app: str = "") -> list[tuple[str, str]]:
    return [(one.service, one.why) for one in asyncio.run(standing(app, cache, T0))]


def test_an_app_with_room_and_replicas_survives_the_loss_of_any_node() -> None:
    assert reasons(settled(WEB)) == []


def test_what_would_not_survive_is_named_with_its_reason() -> None:
    assert reasons(settled()) == [
        ("shop/db", "runs on n2 alone"),
        ("shop/db", "would lack 1 of 1 without n2 (miniorch what-if --kill n2)"),
    ]
    assert reasons(settled(), "other") == []


def test_the_only_node_is_reason_enough() -> None:
    assert reasons(settled(WEB, nodes=NODES[:1])) == [("shop/web", "n1 is the only node")]


def test_a_full_cluster_does_not_survive() -> None:
    full = replace(WEB, spec=replace(WEB.spec, replicas=12))
    assert reasons(settled(full)) == [
        ("shop/web", "would lack 4 of 12 without any of n1, n2, n3 (miniorch what-if --kill n1)")
    ]
