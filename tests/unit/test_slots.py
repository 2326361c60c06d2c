"""What follows an end, as one table of policies and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miniorch.model import DesiredState, Service, Status, Task, TaskState
from miniorch.slots import STEADY_SECONDS, current, failures_in_a_row, is_done, is_given_up, is_wanted, next_at, told
from miniorch.spec import Restart, RestartPolicy, ServiceSpec, TaskSpec

ANY, ON_FAILURE, NEVER = Restart.ANY, Restart.ON_FAILURE, Restart.NEVER
S = TaskState


def service(condition: Restart, max_attempts: int = 0) -> Service:
    policy = RestartPolicy(condition, max_attempts)
    return Service("shop", "setup", ServiceSpec(TaskSpec("setup:1"), restart=policy), "10.201.0.1", round=2)


def task(state: TaskState, *, attempt: int = 0, lived: float = 3.0, ran: float = 3.0) -> Task:
    status = Status(state, since=lived, ran_seconds=ran)
    return Task("t1", "shop", "setup", 1, TaskSpec("setup:1"), 0.0, status=status, attempt=attempt, round=2)


@pytest.mark.parametrize(
    ("state", "conditions"),
    [
        (S.COMPLETE, {ON_FAILURE, NEVER}),
        (S.FAILED, {NEVER}),
        (S.REJECTED, set()),  # it never ran: "run it once" is not done
        (S.SHUTDOWN, set()),
        (S.LOST, set()),
        (S.RUNNING, set()),
    ],
)
def test_policy_says_which_ends_are_final(state: TaskState, conditions: set[Restart]) -> None:
    final = {one for one in Restart if is_done(task(state), service(one)) or is_given_up(task(state), service(one))}
    assert final == conditions


def test_job_is_done_by_success_and_given_up_by_failure() -> None:
    assert is_done(task(S.COMPLETE), service(NEVER))
    assert not is_given_up(task(S.COMPLETE), service(NEVER))
    assert is_given_up(task(S.FAILED), service(NEVER))
    assert not is_done(task(S.FAILED), service(NEVER))


@pytest.mark.parametrize("state", [S.FAILED, S.REJECTED])
def test_slot_is_given_up_after_so_many_successors_in_a_row(state: TaskState) -> None:
    assert [is_given_up(task(state, attempt=n), service(ON_FAILURE, 3)) for n in range(4)] == [
        False,
        False,
        False,
        True,
    ]


def test_task_that_ran_long_failed_for_the_first_time_whatever_other_machines_clocks_say_of_its_end() -> None:
    assert failures_in_a_row(task(S.FAILED, attempt=5, ran=STEADY_SECONDS)) == 1
    assert failures_in_a_row(task(S.FAILED, attempt=5, lived=3600.0, ran=1.0)) == 6
    assert failures_in_a_row(task(S.REJECTED, attempt=5, lived=STEADY_SECONDS)) == 6
    assert failures_in_a_row(task(S.LOST, attempt=5)) == 0


def test_nothing_is_final_that_is_not_wanted_any_more() -> None:
    job, done = service(NEVER), task(S.COMPLETE)
    assert is_wanted(done, job)
    for outdated in (replace(done, round=1), replace(done, spec=TaskSpec("setup:0"))):
        assert not is_wanted(outdated, job)
        assert not is_done(outdated, job)
    told_to_go = replace(done, desired_state=DesiredState.REMOVED)  # scaled down, and up again before it was gone
    assert not is_done(told_to_go, job)


def test_what_follows_an_end_is_told_with_its_time() -> None:
    def said(state: TaskState, policy: Service, attempt: int = 0) -> str:
        one = task(state, attempt=attempt)
        return told(replace(one, status=replace(one.status, message="why")), policy, now=3.5)

    assert said(S.FAILED, service(ANY), 7) == "why; 8 times in a row, next try in 60 s"
    assert said(S.FAILED, service(ON_FAILURE, 3), 3) == "why; not tried again: miniorch restart shop/setup"
    for quiet in (said(S.FAILED, service(ANY)), said(S.COMPLETE, service(NEVER)), said(S.RUNNING, service(ANY), 7)):
        assert quiet == "why"
    slow = replace(service(ANY), spec=replace(service(ANY).spec, restart=RestartPolicy(ANY, delay_seconds=9.0)))
    assert said(S.FAILED, slow) == "why; next try in 9 s"
    assert next_at(task(S.SHUTDOWN, attempt=7), slow) == 3.0


def test_a_slot_is_seen_by_its_live_task_or_by_the_end_that_stands() -> None:
    resting, job = task(S.FAILED, attempt=7), {"shop/setup": service(NEVER)}
    always = {"shop/setup": service(ANY)}
    assert current([resting], always, now=10.0) == [resting]
    assert current([resting], always, now=99.0) == []  # the next one is just being made
    live = replace(task(S.PENDING), id="t2", created_at=1.0)
    assert current([resting, live], always, now=10.0) == [live]
    assert current([resting], job, now=99.0) == [resting]
    assert current([resting], {}, now=10.0) == []
