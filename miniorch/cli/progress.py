"""Is the app up, will it ever be, and what should the person who waits be told? Pure.

The problem: a `run` that waits for ever, or that says "failed" while the second attempt is about to work. The idea:
look at all tasks of the app at one moment and judge. Up: every slot has a running task of the wanted spec, or one that
has done its job, and no older one is left. Failed: a slot failed three times in a row *since we began*, or its image
was refused twice; what an earlier `run` left behind does not count, its cause may have been mended. Given up: a job
that failed and is not tried again (`miniorch/slots.py`). Not placed: no node fits, for ten seconds. Held: what is
wanted would find no node, so what runs is not replaced.

Who does this for real: `kubectl rollout status`, without the second half; fly's deploy. Next file: `run.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from miniorch.model import DesiredState, Node, NodeState, Service, Task, TaskState
from miniorch.slots import digest_of, failures_in_a_row, is_done, is_given_up, is_wanted, slots_of, told, unknown

STEADY_SECONDS = 2.0  # a task without a health check must stay for so long
UNPLACED_SECONDS, HELD_SECONDS = 10.0, 1.0
NO_NODE_SECONDS = 30.0  # while no node is ready at all: it may just be restarting
FAILURES, REJECTIONS = 3, 2
BROKEN = (TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED)
Failures = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Line:
    """One service: how many of its tasks are up, and what the slowest of them does."""

    service: str
    up: int
    wanted: int
    words: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`cause` is the task because of which waiting is pointless, `kind` why: failed, rejected, given up, unplaced or
    held.
    """

    up: bool
    lines: tuple[Line, ...]
    kind: str = ""
    cause: Task | None = None
    times: int = 0


def as_seen(tasks: Sequence[Task], nodes: Mapping[str, Node], now: float) -> list[Task]:
    """What counts of tasks on nodes that are down: nothing where a successor is made, else that they wait there."""
    seen = []
    for task in tasks:
        node = nodes.get(task.node)
        if task.live and node is not None and node.state is NodeState.DOWN:
            if any(one.created_at > task.created_at for one in tasks if _slot(one) == _slot(task)):
                continue
            status = replace(task.status, state=TaskState.PENDING, message=unknown(task, node, now))
            task = replace(task, status=replace(status, since=node.state_since))
        seen.append(task)
    return seen


def _slot(task: Task) -> tuple[str, int]:
    return task.service_key, task.slot


def failures(services: Sequence[Service], tasks: Sequence[Task]) -> dict[tuple[str, int], int]:
    """Per (service, slot): how often in a row it failed so far, with the wanted spec."""
    found = {}
    for service in services:
        for slot in _slots(service, tasks):
            newest = _newest(service, slot, tasks)
            if newest is not None:
                found[service.name, slot] = _in_a_row(newest)
    return found


def judge(
    services: Sequence[Service],
    tasks: Sequence[Task],
    now: float,
    *,
    began: float,
    before: Failures,
    node_ready: bool = True,
) -> Verdict:
    """`services` are those that are wanted, `tasks` all of the app; `before` is `failures` at the time `began`."""
    lines, ups, left = [], [], {task.id: task for task in tasks if task.live}
    verdict: tuple[str, Task, int] | None = None
    held: list[tuple[str, Task, int]] = []
    for service in sorted(services, key=lambda one: one.name):
        up, words = 0, []
        for slot in _slots(service, tasks):
            task = _newest(service, slot, tasks)
            if task is not None:
                left.pop(task.id, None)
            if task is not None and _is_up(task, service, now):
                up += 1
                continue
            words.append(_words(task, service, slot, now))
            if task is not None and verdict is None:
                if is_given_up(task, service):
                    verdict = ("given up", task, failures_in_a_row(task))
                else:
                    verdict = _hopeless(task, now, began, before.get((service.name, slot), 0), node_ready)
        old = [task for task in left.values() if task.service == service.name]
        words += [f"the old {task.name} {'goes on' if service.held else 'ends'}" for task in old]
        if service.held and now - began >= HELD_SECONDS:
            held += [("held", task, 0) for task in tasks if task.live and task.service == service.name]
        lines.append(Line(service.name, up, service.spec.replicas, words[0] if words else ""))
        ups.append(up == service.spec.replicas and not old)
    wanted = {service.name for service in services}
    leaving = sorted({task.service for task in left.values()} - wanted)
    lines += [Line(name, 0, 0, "is being removed") for name in leaving]
    kind, cause, times = verdict or next(iter(held), ("", None, 0))  # what has failed may be why another is held
    return Verdict(all(ups) and not leaving, tuple(lines), kind, cause, times)


def slowest(services: Sequence[Service], tasks: Sequence[Task], now: float) -> Task | None:
    """The task that the others wait for: the furthest one that is not up; what waits for it comes before it in life."""
    waiting = []
    for service in services:
        for slot in _slots(service, tasks):
            task = _newest(service, slot, tasks)
            if task is not None and not _is_up(task, service, now):
                waiting.append(task)
    return max(waiting, key=lambda task: task.status.state.order, default=None)


def _slots(service: Service, tasks: Sequence[Task]) -> list[int]:
    return slots_of(service, [task for task in tasks if task.service == service.name])


def _newest(service: Service, slot: int, tasks: Sequence[Task]) -> Task | None:
    own = [task for task in tasks if task.service == service.name and task.slot == slot and is_wanted(task, service)]
    return max(own, key=lambda task: (task.live, task.created_at), default=None)


def _is_up(task: Task, service: Service, now: float) -> bool:
    if is_done(task, service):
        return True
    if task.status.state is not TaskState.RUNNING or task.desired_state is not DesiredState.RUNNING:
        return False
    if task.placed_by != digest_of(service.spec.placement):  # whether it may stay there is not known yet
        return False
    return task.spec.healthcheck is not None or now - task.status.since >= STEADY_SECONDS


def _in_a_row(newest: Task) -> int:
    if newest.status.state in BROKEN:
        return failures_in_a_row(newest)
    return 0 if newest.status.state is TaskState.RUNNING else newest.attempt


def _hopeless(task: Task, now: float, began: float, before: int, node_ready: bool) -> tuple[str, Task, int] | None:
    state, times = task.status.state, _in_a_row(task)
    if state is TaskState.PENDING:
        patience = UNPLACED_SECONDS if node_ready else NO_NODE_SECONDS
        return ("unplaced", task, 0) if now - max(task.status.since, began) >= patience else None
    if state not in BROKEN:
        return None
    kind, limit = ("rejected", REJECTIONS) if state is TaskState.REJECTED else ("failed", FAILURES)
    # Failures from before count as known: one more is enough to see that nothing was mended.
    fresh = times - before if times > before else 0
    return (kind, task, times) if fresh >= max(1, limit - before) else None


def _words(task: Task | None, service: Service, slot: int, now: float) -> str:
    if task is None:
        return f"{service.name}.{slot} waits for the old one to end"
    message = told(task, service, now)
    return f"{task.name} {task.status.state.value}" + (f": {message}" if message else "")
