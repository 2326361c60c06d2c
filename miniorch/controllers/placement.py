"""Waiting tasks to nodes, or to an honest sentence about why they wait.

The problem: "pending" without a reason is what users of every orchestrator complain about. The idea: a task waits for
exactly one of two things, and its status says which. NEW: for what it depends on. PENDING: for a node that fits, with
what each node lacks. The choice itself is made by the package `scheduler`, which is pure and knows neither store nor
time; this controller feeds it and writes down its answer.

Who does this for real: swarmkit's scheduler loop; kube-scheduler's "unschedulable" condition. Where we differ: the
whole answer is kept, not a count. Next file: `scheduler/schedule.py`, then `agent/reconcile.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from miniorch.controllers.cache import Cache, by_name
from miniorch.controllers.loop import WRITES_PER_PLAN, Plan
from miniorch.model import (
    DesiredState,
    Node,
    Service,
    Status,
    Task,
    TaskState,
    Volume,
)
from miniorch.slots import is_done, is_given_up, is_wanted
from miniorch.spec import Condition
from miniorch.state.records import Write
from scheduler.places import Places
from scheduler.schedule import NodeView, Placement, Request, Unschedulable, schedule

WAITING = (TaskState.NEW, TaskState.PENDING)
WANTED = {Condition.STARTED: "started", Condition.HEALTHY: "healthy", Condition.COMPLETED: "completed"}


class Placer:
    """The controller of waiting tasks. Its one key looks at all of them, oldest first."""

    name = "placement"

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        return ("*",) if isinstance(item, (Task, Node, Volume, Service)) else ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        waiting = [
            task
            for task in cache.tasks.values()
            if task.status.state in WAITING and task.desired_state is DesiredState.RUNNING
        ]
        waiting.sort(key=lambda task: (task.created_at, task.service_key, task.slot, task.id))
        if not waiting:
            return Plan()
        views = node_views(cache)
        volumes = {volume.key: volume.node for volume in cache.volumes.values()}
        writes: list[Write] = []
        for service_key, tasks in groupby(waiting, lambda task: task.service_key):
            service = cache.services.get(service_key)
            if service is None or service.removing:
                continue
            for write in place(list(tasks), service, cache, views, volumes, now):
                writes.append(write)
                if len(writes) >= WRITES_PER_PLAN:
                    return Plan(writes, 0.0)
        return Plan(writes)


def place(
    tasks: list[Task], service: Service, cache: Cache, views: dict[str, NodeView], volumes: dict[str, str], now: float
) -> Iterator[Write]:
    """What to write for waiting tasks of one service. Placements are entered into `views` and `volumes`."""
    unmet = unmet_dependencies(service, cache)
    if unmet:
        for task in tasks:
            yield from _waits(task, TaskState.NEW, f"waits for {', '.join(unmet)}", cache, now)
        return
    request = request_for(service, volumes)
    places = Places(request, views.values())
    answer: Placement | Unschedulable | None = None
    for task in tasks:
        name = places.take()
        if name is None:
            answer = answer or schedule(request, list(views.values()))
            assert isinstance(answer, Unschedulable)
            yield from _waits(task, TaskState.PENDING, answer.summary, cache, now)
            continue
        placed = replace(task, node=name, status=Status(TaskState.ASSIGNED, "waits for the node's agent", now))
        view = views[name] = replace(views[name], tasks=(*views[name].tasks, placed))
        fresh = [
            Volume(task.app, volume, name)
            for volume in dict.fromkeys(mount.volume for mount in task.spec.mounts if mount.volume)
            if f"{task.app}/{volume}" not in volumes
        ]
        if fresh:
            volumes.update((volume.key, name) for volume in fresh)
            yield from (Write(volume, 0, why=f"lies on {name} from now on") for volume in fresh)
            request = request_for(service, volumes)
            places = Places(request, views.values())
        else:
            places.changed(view)
        yield cache.change(task, placed, f"assigned to {name}")


def unmet_dependencies(service: Service, cache: Cache) -> list[str]:
    """What a service's new tasks still wait for, as words: "db (healthy; db.1 is starting)"."""
    unmet = []
    for name, condition in sorted(service.spec.depends_on.items()):
        key = f"{service.app}/{name}"
        other = cache.services.get(key)
        if other is None:
            unmet.append(f"{name} ({WANTED[condition]}; there is no such service)")
            continue
        tasks = [task for task in cache.tasks_of(key) if task.slot <= other.spec.replicas]
        if len({task.slot for task in tasks if _meets(condition, other, task)}) >= other.spec.replicas:
            continue
        newest = {task.slot: task for task in tasks}  # the later ones win
        given_up = next((task for task in newest.values() if is_given_up(task, other)), None)
        if given_up is not None:
            why = given_up.status.message.partition("\n")[0] or given_up.status.state.value
            remedy = f"miniorch logs {key}; miniorch restart {key}"
            unmet.append(f"{name}, which failed ({why}) and is not tried again: {remedy}")
        else:
            states = ", ".join(f"{task.name} is {task.status.state.value}" for task in newest.values())
            unmet.append(f"{name} ({WANTED[condition]}; {states or 'it has no task yet'})")
    return unmet


def _meets(condition: Condition, other: Service, task: Task) -> bool:
    """Whether a task is what a dependency on its slot waits for. A job that has ended by itself was started, too."""
    state = task.status.state
    if condition is Condition.COMPLETED:
        return state is TaskState.COMPLETE and is_wanted(task, other)
    if condition is Condition.HEALTHY:
        return state is TaskState.RUNNING
    if task.live:
        return state.order >= TaskState.STARTING.order
    return is_done(task, other) or (state is TaskState.FAILED and is_given_up(task, other))


def request_for(service: Service, volumes: dict[str, str]) -> Request:
    """What the scheduler is asked for a task of this service."""
    prefix = f"{service.app}/"
    own = {key.removeprefix(prefix): node for key, node in volumes.items() if key.startswith(prefix)}
    return Request(service.app, service.name, service.spec, own)


def node_views(cache: Cache, without: str = "", now: float = 0.0) -> dict[str, NodeView]:
    """Each node with the live tasks on it; `without` leaves one task out, as if it were to be placed anew."""
    on = {
        name: tuple(task for task in cache.tasks_on(name) if task.live and task.id != without) for name in cache.nodes
    }
    return {node.name: NodeView(node, on[node.name], now) for node in by_name(cache.nodes.values())}


def _waits(task: Task, state: TaskState, message: str, cache: Cache, now: float) -> Iterable[Write]:
    """Nothing to write when the task already waits for the same reason; a task never goes back from PENDING to NEW."""
    state = max(state, task.status.state, key=lambda one: one.order)
    if (state, message) != (task.status.state, task.status.message):
        since = now if state is not task.status.state else task.status.since
        changed = replace(task, status=replace(task.status, state=state, message=message, since=since))
        why = message if state is TaskState.PENDING else ""
        yield cache.change(task, changed, why)
