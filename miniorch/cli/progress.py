"""Is the app up, will it ever be, and what should the person who waits be told? Pure.

The problem: a `run` that waits for ever, or that says "failed" while the second attempt is about to work. The idea:
look at all tasks of the app at one moment and judge. Up: every slot has a running task of the wanted spec, or one that
has done its job, and no older one is left. Failed: a slot failed three times in a row *since we began*, or its image
was refused twice; what an earlier `run` left behind does not count, its cause may have been mended. Given up: a job
that failed and is not tried again (`miniorch/slots.py`). Not placed: no node fits, for ten seconds. Held: what is
wanted would find no node, so what runs is not replaced.

Who does this for real: `kubectl rollout status`, without the second half; fly's deploy. Next file: `run.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


def _newest(services: Sequence[Service], tasks: Sequence[Task]) -> Iterator[tuple[Service, int, Task | None]]:
    """Of each slot that is wanted the task that counts: the live one of the wanted spec, else the last that ended."""
    for service in sorted(services, key=lambda one: one.name):
        own = [task for task in tasks if task.service == service.name]
        for slot in slots_of(service, own):
            found = [task for task in own if task.slot == slot and is_wanted(task, service)]
            yield service, slot, max(found, key=lambda task: (task.live, task.created_at), default=None)


def failures(services: Sequence[Service], tasks: Sequence[Task]) -> dict[tuple[str, int], int]:
    """Per (service, slot): how often in a row it failed so far, with the wanted spec."""
    return {(service.name, slot): _in_a_row(task) for service, slot, task in _newest(services, tasks) if task}


def judge(
    services: Sequence[Service], tasks: Sequence[Task], now: float, *, began: float, before: Failures,
    node_ready: bool = True,
) -> Verdict:  # fmt: skip
    """`services` are those that are wanted, `tasks` all of the app; `before` is `failures` at the time `began`."""
    left = {task.id: task for task in tasks if task.live}
    ups, words = Counter[str](), {service.name: list[str]() for service in services}
    causes: list[tuple[str, Task, int]] = []
    for service, slot, task in _newest(services, tasks):
        if task is not None:
            left.pop(task.id, None)
        if task is not None and _is_up(task, service, now):
            ups[service.name] += 1
            continue
        words[service.name].append(_words(task, service, slot, now))
        if task is not None and is_given_up(task, service):
            causes.append(("given up", task, failures_in_a_row(task)))
        elif task is not None:
            causes += _hopeless(task, now, began, before.get((service.name, slot), 0), node_ready)
    lines, up = [], True
    for service in sorted(services, key=lambda one: one.name):
        old = [task for task in left.values() if task.service == service.name]
        said = words[service.name] + [f"the old {task.name} {'goes on' if service.held else 'ends'}" for task in old]
        lines.append(Line(service.name, ups[service.name], service.spec.replicas, *said[:1]))
        up = up and not old and ups[service.name] == service.spec.replicas
        if service.held and now - began >= HELD_SECONDS:  # what has failed may be why another is held: it comes first
            causes += [("held", task, 0) for task in tasks if task.live and task.service == service.name]
    leaving = sorted({task.service for task in left.values()} - set(words))
    lines += [Line(name, 0, 0, "is being removed") for name in leaving]
    return Verdict(up and not leaving, tuple(lines), *causes[0] if causes else ())


def slowest(services: Sequence[Service], tasks: Sequence[Task], now: float) -> Task | None:
    """The task that the others wait for: the furthest one that is not up; what waits for it comes before it in life."""
    waiting = [task for service, _, task in _newest(services, tasks) if task and not _is_up(task, service, now)]
    return max(waiting, key=lambda task: task.status.state.order, default=None)


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


def _hopeless(task: Task, now: float, began: float, before: int, node_ready: bool) -> list[tuple[str, Task, int]]:
    state, times = task.status.state, _in_a_row(task)
    if state is TaskState.PENDING:
        patience = UNPLACED_SECONDS if node_ready else NO_NODE_SECONDS
        return [("unplaced", task, 0)] * (now - max(task.status.since, began) >= patience)
    if state not in BROKEN:
        return []
    kind, limit = ("rejected", REJECTIONS) if state is TaskState.REJECTED else ("failed", FAILURES)
    # Failures from before count as known: one more is enough to see that nothing was mended.
    fresh = times - before if times > before else 0
    return [(kind, task, times)] * (fresh >= max(1, limit - before))


def _words(task: Task | None, service: Service, slot: int, now: float) -> str:
    if task is None:
        return f"{service.name}.{slot} waits for the old one to end"
    message = told(task, service, now)
    return f"{task.name} {task.status.state.value}" + (f": {message}" if message else "")
