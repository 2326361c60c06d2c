"""Waiting for an app, judged from one look."""

from __future__ import annotations

from dataclasses import replace

from miniorch.cli.progress import Verdict, failures, judge, slowest
from miniorch.model import DesiredState, Service, Status, Task, TaskState
from miniorch.slots import digest_of
from miniorch.spec import HealthCheck, Placement, Restart, RestartPolicy, ServiceSpec, TaskSpec

SPEC = TaskSpec("web:1", healthcheck=HealthCheck(("true",)))
WEB = Service("shop", "web", ServiceSpec(SPEC, replicas=2), "10.201.0.1")
S = TaskState


def task(slot: int, state: TaskState, *, spec: TaskSpec = SPEC, since: float = 0.0, attempt: int = 0, id: str = "",
         at: float = 0.0, message: str = "", service: str = "web") -> Task:  # fmt: skip
    status = Status(state, message, since)
    return Task(id or f"t{slot}", "shop", service, slot, spec, at, status=status, attempt=attempt)


def look(*tasks: Task, now: float = 100.0, began: float = 100.0, before: dict[tuple[str, int], int] | None = None,
         service: Service = WEB, node_ready: bool = True) -> Verdict:  # fmt: skip
    return judge([service], tasks, now, began=began, before=before or {}, node_ready=node_ready)


def test_up_means_every_slot_runs_the_wanted_spec() -> None:
    assert look(task(1, S.RUNNING), task(2, S.RUNNING)).up
    assert not look(task(1, S.RUNNING)).up
    assert not look(task(1, S.RUNNING), task(2, S.STARTING)).up
    assert not look(task(1, S.RUNNING), task(2, S.RUNNING, spec=TaskSpec("web:0"))).up


def test_a_task_that_is_on_its_way_out_is_not_up() -> None:
    leaving = replace(task(2, S.RUNNING), desired_state=DesiredState.DRAINING)
    assert not look(task(1, S.RUNNING), leaving).up


def test_old_and_surplus_tasks_must_have_ended() -> None:
    there = (task(1, S.RUNNING), task(2, S.RUNNING))
    assert not look(*there, task(3, S.RUNNING)).up
    assert not look(*there, task(1, S.RUNNING, spec=TaskSpec("web:0"), id="old")).up
    assert look(*there, task(1, S.SHUTDOWN, spec=TaskSpec("web:0"), id="old")).up
    assert not look(*there, task(1, S.RUNNING, service="gone", id="g")).up


def test_without_a_health_check_a_task_must_stay_for_two_seconds() -> None:
    plain = replace(WEB, spec=ServiceSpec(TaskSpec("web:1")))
    young = task(1, S.RUNNING, spec=plain.spec.task, since=99.0)
    assert not look(young, service=plain).up
    assert look(young, service=plain, now=101.5).up


def test_an_update_that_finds_no_place_is_said_at_once() -> None:
    held = replace(WEB, held="no node fits")
    old = [task(slot, S.RUNNING, spec=TaskSpec("web:0")) for slot in (1, 2)]
    assert look(*old, service=held, now=100.5).cause is None, "its controller may just be looking at it"
    verdict = look(*old, service=held, now=101.0)
    assert (verdict.up, verdict.kind, verdict.cause) == (False, "held", old[0])
    assert verdict.lines[0].words == "web.1 waits for the old one to end"


def test_what_has_failed_is_told_before_what_is_held_because_of_it() -> None:
    job = replace(WEB, name="zjob", spec=ServiceSpec(SPEC, restart=RestartPolicy(Restart.NEVER)))
    tasks = [task(1, S.RUNNING, spec=TaskSpec("web:0")), task(1, S.FAILED, id="j", service="zjob")]
    services = [replace(WEB, held="waits for zjob, which failed"), job]
    verdict = judge(services, tasks, 102.0, began=100.0, before={})
    assert (verdict.kind, verdict.cause) == ("given up", tasks[1])


def test_rules_that_have_changed_are_up_when_every_task_was_looked_at() -> None:
    placement = Placement(max_per_node=1)
    ruled = replace(WEB, spec=replace(WEB.spec, placement=placement))
    tasks = [task(slot, S.RUNNING) for slot in (1, 2)]
    assert not look(*tasks, service=ruled).up
    assert look(*(replace(one, placed_by=digest_of(placement)) for one in tasks), service=ruled).up


def test_three_failures_in_a_row_are_final_and_two_are_not() -> None:
    assert look(task(1, S.FAILED, attempt=1), task(2, S.RUNNING)).cause is None
    verdict = look(task(1, S.FAILED, attempt=2), task(2, S.RUNNING))
    assert (verdict.kind, verdict.times) == ("failed", 3)
    assert look(task(1, S.COMPLETE, attempt=2)).kind == "failed"
    assert look(task(1, S.STARTING, attempt=3)).cause is None


def test_two_rejections_are_final() -> None:
    assert look(task(1, S.REJECTED)).cause is None
    assert look(task(1, S.REJECTED, attempt=1)).kind == "rejected"


def test_what_failed_before_we_began_counts_only_when_it_fails_again() -> None:
    broken = task(1, S.REJECTED, attempt=6)
    before = failures([WEB], [broken])
    assert before == {("web", 1): 7}
    assert look(broken, before=before).cause is None
    again = task(1, S.REJECTED, attempt=7, id="next", at=1.0)
    assert look(broken, again, before=before).cause == again
    assert look(task(1, S.FAILED, attempt=0), before=before).cause is None  # it lived long: counted anew


def test_a_live_task_hides_the_failures_before_it() -> None:
    failed, live = task(1, S.FAILED, attempt=2), task(1, S.PREPARING, attempt=3, id="next", at=1.0)
    assert look(failed, live).cause is None


def test_no_node_for_ten_seconds_is_final_and_thirty_while_no_node_is_ready() -> None:
    waiting = task(1, S.PENDING, since=50.0)
    assert look(waiting, now=109.0).cause is None
    assert look(waiting, now=110.0).kind == "unplaced"
    assert look(waiting, now=110.0, node_ready=False).cause is None
    assert look(waiting, now=130.0, node_ready=False).kind == "unplaced"


def test_each_service_has_a_line_that_names_the_slowest_and_when_it_is_tried_again() -> None:
    lines = look(task(1, S.RUNNING), task(2, S.FAILED, at=99.0, since=99.5, attempt=5, message="exit code 3")).lines
    assert lines[0].words == "web.2 failed: exit code 3; 6 times in a row, next try in 16 s"
    lines = look(task(1, S.RUNNING), task(2, S.STARTING, message="waits for its health check")).lines
    assert [(line.up, line.wanted, line.words) for line in lines] == [
        (1, 2, "web.2 starting: waits for its health check")
    ]


def test_the_cause_of_a_delay_is_the_task_that_others_wait_for() -> None:
    db = Service("shop", "db", ServiceSpec(SPEC), "10.201.0.2")
    starting = task(1, S.STARTING, service="db", id="db")
    assert slowest([WEB, db], [task(1, S.NEW), starting], 0.0) == starting


def test_an_app_with_no_replicas_is_up() -> None:
    assert look(service=replace(WEB, spec=replace(WEB.spec, replicas=0))).up


def job(condition: Restart, max_attempts: int = 0) -> Service:
    return replace(WEB, spec=ServiceSpec(SPEC, restart=RestartPolicy(condition, max_attempts)))


def test_job_that_has_ended_well_is_up() -> None:
    for condition in (Restart.NEVER, Restart.ON_FAILURE):
        verdict = look(task(1, S.COMPLETE), service=job(condition))
        assert verdict.up
        assert [(line.up, line.wanted, line.words) for line in verdict.lines] == [(1, 1, "")]
    assert not look(task(1, S.COMPLETE), service=job(Restart.ANY)).up


def test_job_that_is_given_up_is_final_at_once_even_if_it_failed_before_we_began() -> None:
    failed = task(1, S.FAILED, message="exit code 1")
    verdict = look(failed, service=job(Restart.NEVER), before=failures([WEB], [failed]))
    assert (verdict.kind, verdict.cause, verdict.times) == ("given up", failed, 1)
    assert look(failed, service=job(Restart.ON_FAILURE)).cause is None
    verdict = look(task(1, S.REJECTED, attempt=1), service=job(Restart.ON_FAILURE, max_attempts=1))
    assert (verdict.kind, verdict.times) == ("given up", 2)


def test_task_from_before_a_restart_by_hand_is_an_old_one() -> None:
    again = replace(WEB, round=1)
    assert not look(task(1, S.RUNNING), task(2, S.RUNNING), service=again).up
    assert look(*(replace(task(slot, S.RUNNING), round=1) for slot in (1, 2)), service=again).up
    failed = task(1, S.FAILED)
    assert look(failed, service=replace(job(Restart.NEVER), round=1)).cause is None
