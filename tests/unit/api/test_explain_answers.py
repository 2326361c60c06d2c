"""`explain` in the server: answers are shared where they are equal, records are found by revision, slot and task."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miniorch.api.explain import TOLD, explain_service, explain_task, explain_then, service_of_task
from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import request_for
from miniorch.errors import NotFound
from miniorch.model import Node, NodeState, Service, Status, Task, TaskState
from miniorch.spec import Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Placed
from scheduler.explain import record

SPEC = ServiceSpec(TaskSpec("web:1", reserved=Resources(1.0)), 50)
WEB = Service("shop", "web", SPEC, "10.201.0.1")


def node(name: str, **more: object) -> Node:
    return replace(Node(name, "10.200.0.0/24", "", Resources(4.0, 1 << 30)), **more)  # type: ignore[arg-type]


def task(slot: int, on: str = "", state: TaskState = TaskState.PENDING) -> Task:
    status = Status(TaskState.RUNNING if on else state)
    return Task(f"id{slot}", "shop", "web", slot, SPEC.task, float(slot), node=on, status=status)


def keep(cache: Cache, *placed: Placed) -> int:
    """The revision of a record of these."""
    number = len(cache.decisions_of("shop/web")) + 1
    request = request_for(WEB, cache)
    made = record(request, cache.board, placed, number=number, at=5.0, revision=cache.revision)
    cache.write(made, cache.revision + 1, lambda item, gone: None)
    return cache.revision


def test_all_who_wait_have_one_answer_and_many_who_run_have_some() -> None:
    waiting, running = [task(slot) for slot in range(1, 4)], [task(slot, "n1") for slot in range(4, 51)]
    answer = explain_service(WEB, Cache.holding(WEB, node("n1"), *waiting, *running), 0.0, every_node=False)
    rows = answer["tasks"]
    assert [row["like"] for row in rows[:4]] == ["", "id1", "id1", ""]
    assert [bool(row["now"]) for row in rows] == [True, False, False] + [True] * (TOLD - 1) + [False] * (48 - TOLD)


def test_a_task_that_runs_is_not_in_its_own_way() -> None:
    full = [task(slot, "n1") for slot in range(1, 5)]
    (row,) = explain_task(full[0], Cache.holding(WEB, node("n1"), *full), 0.0, every_node=False)["tasks"]
    assert row["now"].verdict == "again"
    assert row["now"].remedies == ()


def test_a_node_that_is_away_is_told_for_how_long() -> None:
    away = node("n1", state=NodeState.DOWN, state_since=10.0)
    (row,) = explain_task(task(1), Cache.holding(WEB, away, task(1)), 25.0, every_node=False)["tasks"]
    (told,) = row["now"].trace.rows
    assert told.rules[0].detail == "the node is down since 15 s: no heartbeat"


def test_a_task_that_has_ended_is_not_asked_about_anew() -> None:
    done = task(1, state=TaskState.FAILED)
    (row,) = explain_task(done, Cache.holding(WEB, node("n1"), done), 0.0, every_node=False)["tasks"]
    assert row["now"] is None
    assert row["state"] == "failed"


def test_every_node_has_a_row_if_that_is_wished() -> None:
    cache = Cache.holding(WEB, *(node(f"n{i}") for i in range(30)), task(1))
    few = explain_task(task(1), cache, 0.0, every_node=False)["tasks"][0]["now"].trace.rows
    every = explain_task(task(1), cache, 0.0, every_node=True)["tasks"][0]["now"].trace.rows
    assert (len(few), len(every)) == (2, 30)


def test_the_decision_that_held_at_a_revision_is_found_by_slot_and_by_task_also_of_tasks_that_are_gone() -> None:
    cache = Cache.holding(WEB, node("n1"), node("n2"), task(2, "n1"))
    first = keep(cache, Placed("old1", 1, "n1"), Placed("old2", 2, "n2"))
    second = keep(cache, Placed("id2", 2, "n1"))
    assert explain_then("shop/web", second, cache, slot="1")["then"].revision == first
    assert explain_then("shop/web", second, cache, slot="2")["then"].revision == second
    assert explain_then("shop/web", second - 1, cache, slot="2")["then"].placed[1] == Placed("old2", 2, "n2")
    assert explain_then("shop/web", 999, cache)["then"].revision == second
    assert service_of_task("old", cache) == ("shop/web", "old1")
    assert explain_then("shop/web", 999, cache, task="old1")["then"].revision == first
    with pytest.raises(NotFound, match=f"revision 2 is on record; on record: {second}, {first}") as caught:
        explain_then("shop/web", 2, cache, slot="2")
    assert caught.value.remedy == f"miniorch explain shop/web.2 --at {first}"
    with pytest.raises(NotFound, match="none is"):
        explain_then("shop/web", 999, cache, slot="7")
    with pytest.raises(NotFound, match="no decision about task nobody"):
        service_of_task("nobody", cache)


def test_what_is_on_record_is_listed_the_newest_first_and_a_running_task_knows_its_own() -> None:
    cache = Cache.holding(WEB, node("n1"), task(1, "n1"), task(2, "n1"))
    first = keep(cache, Placed("id1", 1, "n1"))
    second = keep(cache, Placed("id2", 2, "n1"))
    answer = explain_service(WEB, cache, 0.0, every_node=False)
    assert [one["revision"] for one in answer["on_record"]] == [second, first]
    assert [row["then"] for row in answer["tasks"]] == [first, second]
    assert [one.revision for one in answer["decisions"]] == [first, second]


def test_a_record_is_sent_once_however_many_tasks_it_is_about() -> None:
    tasks = [task(slot, "n1") for slot in range(1, 41)]
    cache = Cache.holding(WEB, node("n1"), *tasks)
    keep(cache, Placed("old", 1, "n1"))
    revision = keep(cache, *(Placed(one.id, one.slot, "n1") for one in tasks))
    answer = explain_service(WEB, cache, 0.0, every_node=False)
    assert [row["then"] for row in answer["tasks"]] == [revision] * 40
    assert [one.revision for one in answer["decisions"]] == [revision], "and not those about tasks that are gone"
