"""What becomes of a node that falls silent or is drained, and of what runs there."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from builders import NODE, T0, StoppedClock, outdated, plan_service, said, service, task

from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import DOWN_BEATS, GRACE_BEATS, TICK_SECONDS, UNREACHABLE_BEATS, Liveness
from miniorch.controllers.services import LOST_SECONDS, STOP_MARGIN_SECONDS, Services
from miniorch.controllers.upkeep import Silence
from miniorch.model import Availability, DesiredState, Leader, Node, NodeState, TaskState
from miniorch.slots import unknown
from miniorch.spec import Mount, Restart, RestartPolicy, TaskSpec

AWAY = replace(NODE, name="n2", state=NodeState.DOWN, state_since=T0 - 12)
DRAINED = replace(NODE, name="n2", availability=Availability.DRAIN)
WITH_VOLUME = TaskSpec("db", mounts=(Mount("data", "/data"),))


def listening(clock: StoppedClock, liveness: Liveness, seconds: float) -> None:
    """Time in which this server stood still at no moment."""
    for _ in range(round(seconds / TICK_SECONDS)):
        clock.time += TICK_SECONDS
        liveness.tick()


def states(liveness: Liveness, *nodes: Node) -> list[NodeState]:
    return [write.item.state for write in Silence(liveness).plan("*", Cache.holding(*nodes), T0).writes]  # type: ignore[attr-defined]


def plan(*items: Any, **more: Any) -> list[str]:
    return said(plan_service(service(), *items, **more).writes)


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_silent_node_is_first_unreachable_then_down() -> None:
    clock = StoppedClock()
    liveness = Liveness(clock)
    liveness.beat("n1")
    listening(clock, liveness, UNREACHABLE_BEATS - 0.5)
    assert states(liveness, NODE) == []
    listening(clock, liveness, 0.5)
    assert states(liveness, NODE) == [NodeState.UNREACHABLE]
    listening(clock, liveness, DOWN_BEATS - UNREACHABLE_BEATS)
    assert states(liveness, NODE, replace(NODE, name="n3", state=NodeState.DOWN)) == [NodeState.DOWN]
    liveness.beat("n1")
    assert states(liveness, NODE) == []


def test_the_next_look_comes_when_the_next_node_may_be_too_late() -> None:
    clock = StoppedClock()
    liveness = Liveness(clock)
    liveness.beat("n1")
    listening(clock, liveness, 2.0)
    again = Silence(liveness).plan("*", Cache.holding(NODE), T0).again_in_seconds
    assert again is not None
    assert abs(again - (UNREACHABLE_BEATS - 2.0)) < 0.01
    assert list(Silence(liveness).keys(Leader("a", T0), False)) == ["*"]


def test_a_new_leader_gives_every_node_time_to_find_it() -> None:
    clock = StoppedClock()
    liveness = Liveness(clock)
    liveness.grace()
    listening(clock, liveness, GRACE_BEATS + UNREACHABLE_BEATS - 0.5)
    assert states(liveness, NODE) == []
    listening(clock, liveness, 0.5)
    assert states(liveness, NODE) == [NodeState.UNREACHABLE]


def test_a_leader_that_stood_still_blames_nobody_for_it() -> None:
    clock = StoppedClock()
    liveness = Liveness(clock)
    liveness.beat("n1")
    listening(clock, liveness, 1.0)
    clock.time += 60.0  # paused; it is asked before its own clock work has noticed
    assert states(liveness, NODE) == []
    liveness.tick()
    listening(clock, liveness, DOWN_BEATS - 1.5)
    assert states(liveness, NODE) == [NodeState.UNREACHABLE]
    listening(clock, liveness, 0.5)
    assert states(liveness, NODE) == [NodeState.DOWN]


def test_ten_thousand_nodes_speak_every_five_seconds_and_few_every_second() -> None:
    liveness = Liveness(StoppedClock())
    assert [liveness.every(nodes) for nodes in (1, 100, 800, 10_000)] == [1.0, 1.0, 2.0, 5.0]
    assert Liveness(StoppedClock(), 3.0).every(3) == 3.0


# --- a node that is down ---------------------------------------------------------------------------------------------


def test_a_task_on_a_node_that_is_down_gets_a_successor_and_is_stopped_when_that_has_a_place() -> None:
    away = task(node="n2", ident="old")
    assert plan(NODE, AWAY, away) == ["new web.1"]
    waits = task(1, TaskState.PENDING, node="", age=1.0, ident="new")
    assert plan(NODE, AWAY, away, waits) == []
    placed = task(1, TaskState.ASSIGNED, age=1.0, ident="new")
    assert plan(NODE, AWAY, away, placed) == ["old: desired draining, running"]


def test_an_unreachable_node_keeps_its_tasks() -> None:
    assert plan(NODE, replace(AWAY, state=NodeState.UNREACHABLE), task(node="n2")) == []


def test_nothing_is_replaced_when_there_is_no_other_node() -> None:
    assert plan(AWAY, task(node="n2")) == []
    assert plan(AWAY, replace(DRAINED, name="n3"), task(node="n2")) == []


def test_a_task_with_a_volume_waits_for_its_node_and_says_so() -> None:
    db = service()
    db = replace(db, spec=replace(db.spec, task=WITH_VOLUME))
    away = task(of=db, node="n2")
    assert said(plan_service(db, NODE, AWAY, away).writes) == []
    assert unknown(away, AWAY, T0) == (
        "was running; n2 is down since 12 s and has its volume shop/data, so it waits: miniorch node inspect n2"
    )
    assert unknown(away, NODE, T0) == ""


def test_whoever_is_back_before_its_successor_has_a_place_stays() -> None:
    back, waits = task(ident="old"), task(1, TaskState.PENDING, node="", age=1.0, ident="new")
    assert plan(NODE, back, waits) == ["erase new"]
    placed = task(1, TaskState.ASSIGNED, age=1.0, ident="new")
    assert plan(NODE, back, placed) == ["old: desired draining, running"]


def test_a_job_that_turns_out_to_be_done_is_not_done_again() -> None:
    job = service(restart=RestartPolicy(Restart.ON_FAILURE))
    done = task(1, TaskState.COMPLETE, of=job, ident="old")
    waits = task(1, TaskState.PENDING, of=job, node="", age=1.0, ident="new")
    assert said(plan_service(job, NODE, done, waits).writes) == ["erase new"]


def test_a_successor_is_made_only_if_the_lost_one_has_said_nothing_since() -> None:
    lost = task(node="n2", ident="old")
    (write,) = plan_service(service(), NODE, AWAY, lost).writes
    assert write.since is not None
    assert write.since.item == lost
    ended = task(1, TaskState.FAILED, ident="old")
    assert [one.since for one in plan_service(service(), NODE, ended).writes] == [None]


@pytest.mark.parametrize("state", [TaskState.COMPLETE, TaskState.FAILED])
def test_work_that_is_over_is_not_begun_again_when_its_successor_is_lost(state: TaskState) -> None:
    """It was to move from a drained node, and ended there by itself at its last try."""
    once = service(restart=RestartPolicy(Restart.ANY, max_attempts=1))
    over = replace(task(1, state, of=once, ident="old"), attempt=1)
    lost = task(1, TaskState.PREPARING, of=once, node="n2", age=1.0, ident="new")
    assert said(plan_service(once, NODE, AWAY, over, lost).writes) == ["erase new"]
    assert said(plan_service(once, NODE, AWAY, over).writes) == []
    assert said(plan_service(once, NODE, AWAY, replace(over, attempt=0), lost).writes) == ["new web.1"]


def test_a_successor_waits_until_the_cut_off_agent_must_have_stopped_the_task() -> None:
    clock = StoppedClock()
    liveness = Liveness(clock)
    web = service()
    spec = replace(web.spec.task, stop_after_seconds=30.0, stop_grace_seconds=2.0)
    web = replace(web, spec=replace(web.spec, task=spec))
    away = task(of=web, node="n2")
    liveness.beat("n2")
    listening(clock, liveness, 30.0 + 2.0)
    early = plan_service(web, NODE, AWAY, away, liveness=liveness)
    assert (list(early.writes), early.again_in_seconds) == ([], STOP_MARGIN_SECONDS)
    listening(clock, liveness, STOP_MARGIN_SECONDS)
    assert said(plan_service(web, NODE, AWAY, away, liveness=liveness).writes) == ["new web.1"]


def test_a_task_is_lost_after_a_day_or_with_its_node() -> None:
    away = task(node="n2")
    day = replace(AWAY, state_since=T0 - LOST_SECONDS)
    assert plan(NODE, day, away) == ["t1: desired running, lost"]
    assert plan(NODE, away) == ["t1: desired running, lost"]
    lost = task(1, TaskState.LOST, node="n2")
    assert plan(NODE, day, lost) == ["new web.1"]


def test_what_is_to_be_removed_is_forgotten_when_its_node_is_down() -> None:
    """The agent removes containers that the server does not know, once it is back: they take no traffic by then."""
    assert plan(NODE, AWAY, task(1), task(2, node="n2")) == ["t2: desired draining, running"]
    leaving = replace(task(2, node="n2"), desired_state=DesiredState.DRAINING, desired_since=T0)
    assert plan(NODE, AWAY, task(1), leaving) == ["erase t2"]
    assert plan(NODE, replace(AWAY, state=NodeState.READY), task(1), leaving) != ["erase t2"]  # it is back
    gone = replace(service(), removing=True)
    assert said(plan_service(gone, NODE, AWAY, replace(leaving, slot=1)).writes) == ["erase t2"]


# --- a node that is drained ------------------------------------------------------------------------------------------


def test_a_drained_nodes_task_serves_until_its_successor_does() -> None:
    old = task(node="n2", ident="old")
    assert plan(NODE, DRAINED, old) == ["new web.1"]
    assert plan(NODE, DRAINED, old, task(1, TaskState.STARTING, age=1.0, ident="new")) == []
    assert plan(NODE, DRAINED, old, task(1, age=1.0, ident="new")) == ["old: desired draining, running"]
    leaving = replace(old, desired_state=DesiredState.DRAINING, desired_since=T0 - 6)
    assert plan(NODE, DRAINED, leaving, task(1, age=1.0, ident="new")) == ["old: desired shutdown, running"]


def test_volumes_and_jobs_stay_on_a_drained_node() -> None:
    db = service()
    db = replace(db, spec=replace(db.spec, task=WITH_VOLUME))
    assert said(plan_service(db, NODE, DRAINED, task(of=db, node="n2")).writes) == []
    job = service(restart=RestartPolicy(Restart.ON_FAILURE))
    assert said(plan_service(job, NODE, DRAINED, task(of=job, node="n2")).writes) == []


def test_a_changed_spec_still_waits_for_those_that_serve() -> None:
    web = service(replicas=2)
    old = [outdated(task(1)), outdated(task(2, node="n2"))]
    assert said(plan_service(web, NODE, AWAY, *old).writes) == ["new web.2"]


# --- who is looked at ------------------------------------------------------------------------------------------------


def test_a_change_of_a_node_looks_at_the_services_there_and_on_nodes_that_are_to_be_left() -> None:
    api = service("api")
    cache = Cache.holding(service(), api, NODE, AWAY, task(node="n2"), task(of=api, node="n2", ident="a1"))
    controller = Services(Liveness(StoppedClock()), random.Random(1))
    assert list(controller.keys(NODE, False)) == ["n1"]
    assert list(controller.plan("n1", cache, T0).others) == ["shop/api", "shop/web"]
    assert list(controller.plan("n2", cache, T0).others) == ["shop/api", "shop/web"]
