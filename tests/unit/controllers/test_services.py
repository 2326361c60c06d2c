"""Slots to tasks: each rule of `miniorch/controllers/services.py` as plain data."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from builders import NODE, T0, StoppedClock, outdated, plan_service, said, service, task

from miniorch.controllers.cache import Cache
from miniorch.controllers.endpoints import derive
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.services import Services
from miniorch.model import DesiredState, Service, TaskState
from miniorch.slots import backoff_seconds
from miniorch.spec import Port, Restart, RestartPolicy


def test_every_empty_slot_gets_one_task() -> None:
    assert said(plan_service(service(replicas=3), task(2)).writes) == ["new web.1", "new web.3"]


def test_a_service_as_it_should_be_needs_nothing() -> None:
    assert plan_service(service(replicas=2), task(1), task(2)).writes == []


@pytest.mark.parametrize("state", [one for one in TaskState if not one.ended and one is not TaskState.DRAINING])
def test_a_live_task_that_nobody_told_to_leave_keeps_its_slot(state: TaskState) -> None:
    assert plan_service(service(), task(1, state)).writes == []


def test_first_failure_is_replaced_at_once() -> None:
    plan = plan_service(service(), task(1, TaskState.FAILED, since=0.0))
    assert said(plan.writes) == ["new web.1"]
    assert plan.writes[0].item.attempt == 1


def test_event_says_in_a_sentence_whom_a_task_replaces() -> None:
    killed = task(1, TaskState.FAILED, ident="old", since=0.0)
    killed = replace(killed, status=replace(killed.status, message="exit code 137: ended by SIGKILL"))
    (write,) = plan_service(service(), killed).writes
    assert write.why == "created in place of old, which failed (exit code 137: ended by SIGKILL)"
    (write,) = plan_service(service(), task(1, TaskState.REJECTED, ident="old", since=0.0)).writes
    assert write.why == "created in place of old, which was rejected"


def test_a_slot_that_keeps_failing_rests() -> None:
    failed = replace(task(1, TaskState.FAILED, since=0.5), attempt=2)
    plan = plan_service(service(), failed)
    assert plan.writes == []
    assert plan.again_in_seconds == pytest.approx(backoff_seconds(3) - 0.5)


def test_backoff_doubles_up_to_a_limit() -> None:
    assert [backoff_seconds(attempt) for attempt in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_slot_does_not_rest_for_an_hour_because_a_wall_clock_was_set_back() -> None:
    failed = replace(task(1, TaskState.FAILED, age=-3599.0, since=-3600.0), attempt=2)
    plan = plan_service(service(), failed)
    assert said(plan.writes) == ["new web.1"]
    assert plan.writes[0].item.created_at > failed.created_at  # the order of a slot's tasks stays what it was


def test_a_task_that_ran_long_did_not_fail_in_a_row() -> None:
    failed = task(1, TaskState.FAILED, age=120.0, since=0.0)
    failed = replace(failed, attempt=5, status=replace(failed.status, ran_seconds=100.0))
    assert plan_service(service(), failed).writes[0].item.attempt == 1


def test_a_new_spec_is_tried_at_once_after_failures() -> None:
    failed = outdated(replace(task(1, TaskState.FAILED, since=0.0), attempt=6))
    plan = plan_service(service(), failed)
    assert said(plan.writes) == ["new web.1"]
    assert plan.writes[0].item.attempt == 0


def test_only_the_last_ended_task_of_a_slot_is_kept() -> None:
    old = task(1, TaskState.FAILED, ident="old", age=50.0, container_id="c")
    last = task(1, TaskState.FAILED, ident="last", age=40.0)
    assert said(plan_service(service(), old, last, task(1)).writes) == ["old: desired removed, failed"]


def test_a_removed_task_is_erased_once_its_container_is_gone() -> None:
    there = task(1, TaskState.FAILED, ident="old", age=50.0, desired=DesiredState.REMOVED, container_id="c")
    gone = replace(there, status=replace(there.status, container_id=""))
    rest = (task(1, TaskState.FAILED, ident="last", age=40.0), task(1))
    assert plan_service(service(), there, *rest).writes == []
    assert said(plan_service(service(), gone, *rest).writes) == ["erase old"]


def test_a_changed_spec_replaces_one_slot_at_a_time() -> None:
    plan = plan_service(service(replicas=3), *(outdated(task(slot)) for slot in (1, 2, 3)))
    assert said(plan.writes) == ["t1: desired draining, running"]


def test_nothing_is_replaced_while_another_slot_does_not_serve() -> None:
    plan = plan_service(service(replicas=2), task(1, TaskState.STARTING), outdated(task(2)))
    assert plan.writes == []


def test_an_outdated_task_that_does_not_serve_is_replaced_at_once() -> None:
    plan = plan_service(service(replicas=2), outdated(task(1, TaskState.STARTING)), outdated(task(2)))
    assert said(plan.writes) == ["t1: desired shutdown, starting"]


def test_a_task_that_left_traffic_for_a_store_that_was_restored_since_is_replaced() -> None:
    """Its agent does not take DRAINING back, so it would hold its slot for ever and serve nobody."""
    plan = plan_service(service(), task(1, TaskState.DRAINING))
    assert said(plan.writes) == ["t1: desired shutdown, draining"]


def test_the_slots_next_task_waits_until_the_last_has_ended() -> None:
    plan = plan_service(service(), outdated(task(1, TaskState.DRAINING, desired=DesiredState.SHUTDOWN)))
    assert plan.writes == []
    plan = plan_service(service(), outdated(task(1, TaskState.SHUTDOWN, desired=DesiredState.SHUTDOWN)))
    assert said(plan.writes) == ["new web.1"]


def test_scaling_down_drains_the_highest_slots() -> None:
    plan = plan_service(service(replicas=1), task(1), task(2), task(3, TaskState.STARTING))
    assert said(plan.writes) == ["t2: desired draining, running", "t3: desired removed, starting"]


def test_scale_to_zero_leaves_no_task() -> None:
    assert said(plan_service(service(replicas=0), task(1)).writes) == ["t1: desired draining, running"]


def test_a_task_without_a_node_is_taken_back_without_an_agent() -> None:
    waiting = task(2, TaskState.PENDING, node="")
    assert said(plan_service(service(replicas=1), task(1), waiting).writes) == ["erase t2"]


def _draining(since: float, ports: tuple[Port, ...] = ()) -> tuple[object, ...]:
    web = service(replicas=1)
    web = replace(web, spec=replace(web.spec, ports=ports))
    leaving = replace(outdated(task(1, desired=DesiredState.DRAINING)), desired_since=T0 - since)
    return web, NODE, leaving, derive(web, [leaving], {})


def test_a_draining_task_stops_when_all_traffic_follows_the_endpoints_without_it() -> None:
    items = _draining(1.0, (Port(5000, 80),))
    liveness = Liveness(StoppedClock())
    revision = Cache.holding(*items).revision
    liveness.applied("n1", "net", revision)
    assert plan_service(*items, liveness=liveness).writes == []
    liveness.applied("n1", "agent", revision)
    assert said(plan_service(*items, liveness=liveness).writes) == ["t1: desired shutdown, running"]


def test_a_proxy_has_nothing_to_do_with_what_has_no_published_ports() -> None:
    items = _draining(1.0)
    liveness = Liveness(StoppedClock())
    liveness.applied("n1", "agent", Cache.holding(*items).revision)
    assert plan_service(*items, liveness=liveness).writes == []
    liveness.applied("n1", "net", Cache.holding(*items).revision)
    assert said(plan_service(*items, liveness=liveness).writes) == ["t1: desired shutdown, running"]


def test_a_draining_task_does_not_wait_for_nodes_that_hear_nothing_of_its_app() -> None:
    items = _draining(1.0)
    liveness = Liveness(StoppedClock())
    far = replace(NODE, name="n2")
    revision = Cache.holding(*items).revision
    for component in ("agent", "net"):
        liveness.applied("n1", component, revision)
    assert said(plan_service(*items, far, liveness=liveness).writes) == ["t1: desired shutdown, running"]
    web, node, leaving, endpoints = items
    everywhere = replace(endpoints, ports=(Port(5000, 80),))
    assert plan_service(web, node, leaving, everywhere, far, liveness=liveness).writes == []


def test_a_task_on_its_way_is_no_reason_to_look_and_one_that_is_gone_is() -> None:
    controller = Services(Liveness(StoppedClock()), random.Random(1))
    assert list(controller.keys(task(1, TaskState.STARTING), False)) == []
    assert list(controller.keys(task(1, TaskState.STARTING), True)) == ["shop/web"]
    assert list(controller.keys(task(1, TaskState.STARTING, desired=DesiredState.SHUTDOWN), False)) == ["shop/web"]
    assert list(controller.keys(task(1, TaskState.RUNNING), False)) == ["shop/web"]


def test_a_draining_task_stops_after_the_limit_in_any_case() -> None:
    waits = plan_service(*_draining(3.0))
    assert (waits.writes, waits.again_in_seconds) == ([], pytest.approx(2.0))
    assert said(plan_service(*_draining(5.0)).writes) == ["t1: desired shutdown, running"]


def test_a_draining_task_does_not_wait_for_an_hour_because_a_wall_clock_was_set_back() -> None:
    assert said(plan_service(*_draining(since=-3600.0)).writes) == said(plan_service(*_draining(since=6.0)).writes)


def test_a_draining_task_does_not_stop_while_the_endpoints_still_name_it() -> None:
    web, node, leaving, _ = _draining(1.0)
    stale = derive(web, [replace(leaving, desired_state=DesiredState.RUNNING)], {})
    liveness = Liveness(StoppedClock())
    for component in ("agent", "net"):
        liveness.applied("n1", component, 99)
    assert plan_service(web, node, leaving, stale, liveness=liveness).writes == []


def test_removal_takes_every_task_and_then_the_service() -> None:
    leaving = replace(service(replicas=2), removing=True)
    ended = task(2, TaskState.FAILED, container_id="c")
    plan = plan_service(leaving, task(1), ended)
    assert said(plan.writes) == ["t1: desired draining, running", "t2: desired removed, failed"]
    assert said(plan_service(leaving).writes) == ["erase web"]


def test_a_service_that_comes_back_while_it_is_removed_gets_new_tasks_afterwards() -> None:
    going = task(1, TaskState.RUNNING, desired=DesiredState.REMOVED, container_id="c")
    assert plan_service(service(), going).writes == []
    gone = replace(going, status=replace(going.status, state=TaskState.SHUTDOWN, container_id=""))
    assert said(plan_service(service(), gone).writes) == ["new web.1"]


def job(condition: Restart = Restart.NEVER, *, replicas: int = 1, max_attempts: int = 0, delay: float = 0.0) -> Service:
    return service(replicas=replicas, restart=RestartPolicy(condition, max_attempts, delay))


@pytest.mark.parametrize("state", [TaskState.COMPLETE, TaskState.FAILED])
def test_job_that_has_ended_is_left_alone_and_kept_for_its_logs(state: TaskState) -> None:
    assert plan_service(job(), task(1, state, container_id="c")).writes == []


def test_job_that_was_stopped_or_whose_node_is_lost_runs_again() -> None:
    for state in (TaskState.SHUTDOWN, TaskState.LOST, TaskState.REJECTED):
        assert said(plan_service(job(), task(1, state)).writes) == ["new web.1"]


def test_job_is_tried_again_after_a_failure_when_its_policy_says_so_and_not_for_ever() -> None:
    failed = task(1, TaskState.FAILED, since=0.0)
    assert said(plan_service(job(Restart.ON_FAILURE, max_attempts=1), failed).writes) == ["new web.1"]
    assert plan_service(job(Restart.ON_FAILURE, max_attempts=1), replace(failed, attempt=1)).writes == []


def test_successor_rests_at_least_as_long_as_the_policy_says() -> None:
    failed = task(1, TaskState.FAILED, since=2.0)
    plan = plan_service(job(Restart.ON_FAILURE, delay=30.0), failed)
    assert (plan.writes, plan.again_in_seconds) == ([], pytest.approx(28.0))
    stopped = task(1, TaskState.SHUTDOWN, since=2.0)
    assert said(plan_service(job(Restart.ON_FAILURE, delay=30.0), stopped).writes) == ["new web.1"]


def test_changed_job_runs_again_and_done_slots_hold_no_update_back() -> None:
    assert said(plan_service(job(), outdated(task(1, TaskState.COMPLETE))).writes) == ["new web.1"]
    plan = plan_service(job(replicas=2), task(1, TaskState.COMPLETE), outdated(task(2)))
    assert said(plan.writes) == ["t2: desired draining, running"]


def test_failed_slot_of_a_new_spec_keeps_the_old_ones_running() -> None:
    plan = plan_service(job(replicas=2), task(1, TaskState.FAILED), outdated(task(2)))
    assert plan.writes == []


def test_restart_by_hand_replaces_one_slot_at_a_time_and_runs_jobs_again() -> None:
    again = replace(service(replicas=2), round=1)
    plan = plan_service(again, task(1), task(2))
    assert said(plan.writes) == ["t1: desired draining, running"]
    assert plan.writes[0].why == "taken out of traffic: restarted by hand"
    plan = plan_service(replace(job(), round=1), task(1, TaskState.FAILED, since=0.0))
    assert said(plan.writes) == ["new web.1"]
    assert (plan.writes[0].item.round, plan.writes[0].item.attempt) == (1, 0)


def test_slots_of_a_job_come_and_go_with_its_scale() -> None:
    done = [task(slot, TaskState.COMPLETE, container_id="c") for slot in (1, 2)]
    assert said(plan_service(job(replicas=3), *done).writes) == ["new web.3"]
    assert said(plan_service(job(replicas=1), *done).writes) == ["t2: desired removed, complete"]
    leaving = replace(done[1], desired_state=DesiredState.REMOVED)
    assert said(plan_service(job(replicas=2), done[0], leaving).writes) == ["new web.2"]
