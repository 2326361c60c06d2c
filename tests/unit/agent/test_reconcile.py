"""The agent's decision, as plain data: tasks and containers in, actions out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.actions import (
    Abandon,
    Action,
    Conclude,
    Create,
    Discard,
    FetchImage,
    Probe,
    Remove,
    Report,
    Start,
    Stop,
)
from agent.engine import Container
from agent.health import Health
from agent.reconcile import Known, plan
from miniorch.model import DesiredState, Status, Task, TaskState
from miniorch.spec import HealthCheck, Mount, Resources, TaskSpec

CHECK = HealthCheck(("true",))
SPEC = TaskSpec("mongo:7")


def task(
    state: TaskState, desired: DesiredState = DesiredState.RUNNING, spec: TaskSpec = SPEC, **status: object
) -> Task:
    return Task(
        "k3m9",
        "dockchat",
        "db",
        1,
        spec,
        100.0,
        desired,
        node="node1",
        status=Status(state, **status),  # type: ignore[arg-type]
    )


MADE = Container("c1", "k3m9", running=False, started=False, address="10.200.0.2")
RUNS = replace(MADE, running=True, started=True)
ENDED = replace(MADE, started=True, exit_code=3)


def step(one: Task, *containers: Container, known: Known | None = None, now: float = 0.0) -> list[Action]:
    return plan([one], containers, known or Known(), now)


@pytest.mark.parametrize("state", [TaskState.ASSIGNED, TaskState.PREPARING])
def test_new_task_gets_its_image_first(state: TaskState) -> None:
    assert step(task(state)) == [FetchImage(task(state))]


def test_task_with_image_gets_a_container() -> None:
    one = task(TaskState.PREPARING)
    assert step(one, known=Known(images={"k3m9": "sha256:1"})) == [Create(one, "sha256:1")]


@pytest.mark.parametrize("state", [TaskState.ASSIGNED, TaskState.PREPARING])
def test_container_made_before_a_crash_is_started(state: TaskState) -> None:
    assert step(task(state), MADE) == [Start(task(state), MADE)]


def test_made_container_that_does_not_start_three_times_in_a_row_is_made_anew() -> None:
    one = task(TaskState.PREPARING)
    assert step(one, MADE, known=Known(attempts={one.id: 2})) == [Start(one, MADE)]
    assert step(one, MADE, known=Known(attempts={one.id: 3})) == [Remove(one, MADE)]
    assert step(one, known=Known(attempts={}, images={one.id: "sha256:7"})) == [Create(one, "sha256:7")]
    assert step(task(TaskState.RUNNING), RUNS, known=Known(attempts={one.id: 3})) == []


@pytest.mark.parametrize("state", [TaskState.ASSIGNED, TaskState.PREPARING])
def test_container_started_before_a_crash_is_adopted(state: TaskState) -> None:
    one = task(state)
    wanted = replace(one.status, state=TaskState.STARTING, address="10.200.0.2", container_id="c1")
    assert step(one, RUNS) == [Report(one, wanted)]


def test_task_without_health_check_runs_as_soon_as_it_is_started() -> None:
    one = task(TaskState.STARTING)
    assert step(one, RUNS) == [Report(one, replace(one.status, state=TaskState.RUNNING))]


def test_task_with_health_check_is_probed_and_runs_after_its_first_success() -> None:
    one = task(TaskState.STARTING, spec=replace(SPEC, healthcheck=CHECK), health="starting")
    assert step(one, RUNS) == [Probe(one, RUNS)]
    assert step(one, RUNS, known=Known(health={"k3m9": Health(CHECK, 0.0)})) == []
    well = Known(health={"k3m9": Health(CHECK, 0.0, healthy=True)})
    assert step(one, RUNS, known=well) == [Report(one, replace(one.status, state=TaskState.RUNNING, health="healthy"))]


def test_unhealthy_task_is_reported_then_stopped_then_failed_with_that_reason() -> None:
    one = task(TaskState.STARTING, spec=replace(SPEC, healthcheck=CHECK), health="starting")
    ill = Known(health={"k3m9": Health(CHECK, 0.0, verdict="never became healthy: refused")})
    reported = replace(one.status, health="unhealthy", message="never became healthy: refused")
    assert step(one, RUNS, known=ill) == [Report(one, reported)]
    two = replace(one, status=reported)
    assert step(two, RUNS) == [Stop(two, RUNS, "never became healthy: refused")]
    dead = replace(ENDED, exit_code=0)
    (end,) = step(two, dead)
    assert isinstance(end, Conclude)
    assert (end.status.state, end.status.message) == (TaskState.FAILED, "never became healthy: refused")


def test_unhealthy_task_runs_until_the_server_has_heard_of_it_unless_it_must_not_outlive_its_contact() -> None:
    ill = task(TaskState.RUNNING, spec=replace(SPEC, healthcheck=CHECK), health="unhealthy", message="refused")
    assert step(ill, RUNS, known=Known(alone_seconds=3600.0, unheard={"k3m9"})) == []
    assert step(ill, RUNS, known=Known(alone_seconds=3600.0)) == [Stop(ill, RUNS, "refused")]
    (end,) = step(ill, ENDED, known=Known(unheard={"k3m9"}))  # by itself, meanwhile
    assert isinstance(end, Conclude)
    ended = replace(ill, desired_state=DesiredState.SHUTDOWN)
    assert step(ended, RUNS, known=Known(unheard={"k3m9"})) == [Stop(ended, RUNS, "it is not wanted any more")]
    alone = replace(ill, spec=replace(ALONE, healthcheck=CHECK))
    assert step(alone, RUNS, known=Known(alone_seconds=29.9, unheard={"k3m9"})) == []
    assert step(alone, RUNS, known=Known(alone_seconds=30.0, unheard={"k3m9"})) == [Stop(alone, RUNS, "refused")]


@pytest.mark.parametrize("state", [TaskState.PREPARING, TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING])
def test_container_that_ended_by_itself_is_concluded(state: TaskState) -> None:
    (end,) = step(task(state), ENDED)
    assert isinstance(end, Conclude)
    assert (end.status.state, end.status.exit_code, end.status.container_id) == (TaskState.FAILED, 3, "c1")
    assert end.status.message == "exit code 3"


def test_exit_code_zero_is_complete() -> None:
    (end,) = step(task(TaskState.RUNNING), replace(ENDED, exit_code=0))
    assert isinstance(end, Conclude)
    assert end.status.state is TaskState.COMPLETE


@pytest.mark.parametrize("state", [TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING])
def test_container_that_vanished_is_a_failure(state: TaskState) -> None:
    (report,) = step(task(state, container_id="c1"))
    assert isinstance(report, Report)
    assert (report.status.state, report.status.message) == (TaskState.FAILED, "its container is gone")
    assert report.status.container_id == ""


def test_running_task_is_left_alone() -> None:
    assert step(task(TaskState.RUNNING), RUNS) == []


def test_draining_is_reported_and_the_container_goes_on() -> None:
    one = task(TaskState.RUNNING, DesiredState.DRAINING)
    (report,) = step(one, RUNS)
    assert isinstance(report, Report)
    assert report.status.state is TaskState.DRAINING
    assert step(replace(one, status=report.status), RUNS) == []


@pytest.mark.parametrize("desired", [DesiredState.SHUTDOWN, DesiredState.REMOVED])
def test_unwanted_container_is_stopped_and_then_reported(desired: DesiredState) -> None:
    one = task(TaskState.RUNNING, desired)
    assert step(one, RUNS) == [Stop(one, RUNS, "it is not wanted any more")]
    (report,) = step(one, replace(ENDED, exit_code=143))
    assert isinstance(report, Report)
    assert (report.status.state, report.status.exit_code) == (TaskState.SHUTDOWN, 143)


def test_unwanted_task_that_never_ran_is_reported_at_once() -> None:
    one = task(TaskState.ASSIGNED, DesiredState.SHUTDOWN)
    assert step(one) == [Report(one, replace(one.status, state=TaskState.SHUTDOWN, message="stopped"))]
    assert step(one, MADE) == [Remove(one, MADE)], "an engine that was killed may have begun it, and not know"


def test_removed_task_loses_its_container_then_says_so() -> None:
    one = task(TaskState.SHUTDOWN, DesiredState.REMOVED, container_id="c1")
    assert step(one, ENDED) == [Remove(one, ENDED)]
    assert step(one) == [Report(one, replace(one.status, container_id=""))]
    assert step(replace(one, status=replace(one.status, container_id=""))) == []


def test_ended_task_keeps_its_container_for_its_logs() -> None:
    assert step(task(TaskState.FAILED, container_id="c1"), ENDED) == []
    assert step(task(TaskState.SHUTDOWN, DesiredState.SHUTDOWN, container_id="c1"), ENDED) == []


def test_task_that_was_given_up_as_lost_is_stopped_when_its_node_is_back() -> None:
    one = task(TaskState.LOST)
    assert step(one, RUNS) == [Stop(one, RUNS, "the task is lost")]


def test_container_of_an_unknown_task_is_discarded() -> None:
    stray = Container("c9", "gone", running=True, started=True)
    assert plan([], [stray], Known(), 0.0) == [Discard(stray)]


def test_second_container_of_a_task_is_discarded_and_the_running_one_stays() -> None:
    second = replace(MADE, id="c0")
    assert step(task(TaskState.RUNNING), second, RUNS) == [Discard(second)]


def test_busy_task_gets_no_second_action() -> None:
    one = task(TaskState.ASSIGNED)
    assert step(one, known=Known(busy={"k3m9": "FetchImage"})) == []
    assert plan([], [RUNS], Known(busy={"k3m9": "Start"}), 0.0) == []


def test_image_for_an_unwanted_task_is_given_up() -> None:
    busy = Known(busy={"k3m9": "FetchImage"})
    assert step(task(TaskState.PREPARING, DesiredState.SHUTDOWN), known=busy) == [Abandon("k3m9")]
    assert plan([], [], busy, 0.0) == [Abandon("k3m9")]
    assert step(task(TaskState.PREPARING, DesiredState.SHUTDOWN), known=Known(busy={"k3m9": "Create"})) == []


def test_failed_action_rests_before_it_is_tried_again() -> None:
    resting = Known(retry_at={"k3m9": 10.0})
    one = task(TaskState.ASSIGNED)
    assert step(one, known=resting, now=9.9) == []
    assert step(one, known=resting, now=10.0) == [FetchImage(one)]


def test_oldest_task_comes_first() -> None:
    young, old = task(TaskState.ASSIGNED), replace(task(TaskState.ASSIGNED), id="z", created_at=1.0)
    assert [action.key for action in plan([young, old], [], Known(), 0.0)] == ["z", "k3m9"]


@pytest.mark.parametrize(
    ("container", "avx", "words"),
    [
        (replace(ENDED, exit_code=132), False, "--image db=mongo:4.4"),
        (replace(ENDED, exit_code=132), True, "SIGILL"),
        (replace(ENDED, exit_code=137, oom_killed=True), True, "out of memory: it used more than its limit of 64 MB"),
        (replace(ENDED, exit_code=137), True, "exit code 137: ended by SIGKILL"),
        (replace(ENDED, exit_code=127), True, "command not found"),
        (replace(ENDED, exit_code=126), True, "cannot be executed"),
    ],
)
def test_exit_codes_are_explained(container: Container, avx: bool, words: str) -> None:
    one = task(TaskState.RUNNING, spec=replace(SPEC, limit=Resources(memory_bytes=64 << 20)))
    (end,) = step(one, container, known=Known(avx=avx))
    assert isinstance(end, Conclude)
    assert words in end.status.message


def test_every_action_is_a_sentence() -> None:
    one = task(TaskState.RUNNING)
    said = [
        action.describe()
        for action in (
            Report(one, one.status), FetchImage(one), Abandon("k3m9"), Create(one, "i"), Start(one, MADE),
            Probe(one, RUNS), Stop(one, RUNS, "why"), Conclude(one, ENDED, one.status), Remove(one, ENDED),
            Discard(ENDED),
        )
    ]  # fmt: skip
    assert all("k3m9" in sentence for sentence in said)


ALONE = TaskSpec("web:1", stop_after_seconds=30.0)


def test_task_that_shall_not_outlive_its_contact_is_stopped_when_no_server_answers() -> None:
    one = task(TaskState.RUNNING, spec=ALONE)
    assert step(one, RUNS, known=Known(alone_seconds=29.9)) == []
    wanted = replace(one.status, health="cut off", message="no server has answered for 30 s")
    assert step(one, RUNS, known=Known(alone_seconds=30.0)) == [Report(one, wanted)]
    told = replace(one, status=wanted)
    assert step(told, RUNS, known=Known(alone_seconds=31.0)) == [Stop(told, RUNS, wanted.message)]
    ended = replace(RUNS, running=False, exit_code=0)
    (last,) = step(told, ended, known=Known(alone_seconds=31.0))
    assert isinstance(last, Conclude)
    assert last.status.state is TaskState.SHUTDOWN  # and not COMPLETE: it has not done its work
    waits = task(TaskState.PREPARING, spec=ALONE)
    assert step(waits, MADE, known=Known(alone_seconds=31.0)) == []
    assert step(task(TaskState.RUNNING), RUNS, known=Known(alone_seconds=3600.0)) == []


def test_task_with_a_volume_starts_only_when_nobody_else_can_write_there() -> None:
    spec = TaskSpec("db", mounts=(Mount("data", "/data"),))
    lost = replace(task(TaskState.LOST, spec=spec), id="old")
    fresh, known = task(TaskState.PREPARING, spec=spec), Known(images={"k3m9": "sha256:1"})
    left = replace(RUNS, id="c0", task="old")
    assert plan([lost, fresh], [left], known, 0.0) == [Stop(lost, left, "the task is lost")]
    assert plan([fresh], [left], known, 0.0) == [Discard(left)]
    gone = replace(left, running=False, exit_code=0)
    assert plan([lost, fresh], [gone], known, 0.0) == [Create(fresh, "sha256:1")]
    free = task(TaskState.PREPARING)
    assert Create(free, "sha256:1") in plan([free], [left], known, 0.0)
