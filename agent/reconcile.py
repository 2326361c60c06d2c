"""The agent's decision: this node's tasks and its containers, compared.

The problem: an agent may be killed between any two steps, miss every event, and come back to containers that it knows
nothing of. The idea: keep no plan and no memory of what was under way. Look at each task and at the container that
carries its id, and name the *one* next step; the next look names the next. An agent that starts now and one that has
run for a year see the same and do the same, so adopting a container is not a special case: it is the table below.

    task wants      no container          made, never started   runs                      has ended
    ----------      ------------          -------------------   ----                      ---------
    to run          not yet started:      start it              report STARTING, RUNNING, report FAILED or COMPLETE
                    image, then create;                         DRAINING as health says;  with its last lines
                    else FAILED: gone                           unhealthy, and heard: stop it
    to stop         report SHUTDOWN       remove it             stop it                   report SHUTDOWN
    to be removed   report "no container" remove it             stop it                   remove it
    (unknown)       -                     discard               discard                   discard

The last line waits until the server has listed this node's tasks once: empty is not the same as unknown. And a task
with a volume starts only when no container runs any more that might write into it: an unknown one, or one of its slot's
task before, which is left of a time when the node was given up.

What does not start three times in a row is made anew: an engine that was killed may have made it by half. Or it has
begun it and forgotten that, so what never started has ended only when it is removed.

A node that hears no server goes on as it is. An unhealthy task, too, runs until the server is known to have heard of
it, since nobody else could put another in its place. Only a task that asks for it (`stop_after_seconds`) is stopped
then, so that one elsewhere may take its place and be the only one.

Who does this for real: the kubelet's `SyncPod`, swarmkit's `exec.Do`. Next file: `agent/agent.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from agent.causes import why_it_ended
from agent.engine import Container
from agent.health import Health
from miniorch.model import HAS_RUN, DesiredState, Status, Task, TaskState
from miniorch.slots import volumes_of

START_TRIES = 3
TO_END = (DesiredState.SHUTDOWN, DesiredState.REMOVED)
UNHEALTHY, CUT_OFF = TO_STOP = ("unhealthy", "cut off")  # in `Status.health`: why we stop what should run


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent remembers between two looks. All of it may be lost: it only saves repeated work."""

    busy: Mapping[str, str] = field(default_factory=dict)  # key -> name of the action under way
    retry_at: Mapping[str, float] = field(default_factory=dict)  # key -> not before
    attempts: Mapping[str, int] = field(default_factory=dict)  # key -> how often in a row its next step has failed
    images: Mapping[str, str] = field(default_factory=dict)  # task -> image id that is here
    health: Mapping[str, Health] = field(default_factory=dict)  # task -> what its probes say; absent: nobody probes
    avx: bool = True
    alone_seconds: float = 0.0  # since when no server has answered
    unheard: Collection[str] = ()  # tasks that the server lists with another health than ours


def plan(tasks: Sequence[Task], containers: Sequence[Container], known: Known, now: float) -> list[Action]:
    """The next step of every task and container that needs one, oldest task first.

    `tasks` must be complete, their statuses the newest known here or at the server; `now` is on `retry_at`'s clock.
    """
    mine, strays = _assign(tasks, containers)
    actions: list[Action] = []
    for task in sorted(tasks, key=lambda task: (task.created_at, task.id)):
        if task.id in known.busy:
            if known.busy[task.id] == FetchImage.__name__ and task.desired_state in TO_END:
                actions.append(Abandon(task.id))
        elif known.retry_at.get(task.id, now) <= now:
            action = _next_step(task, mine.get(task.id), known)
            begins = isinstance(action, Create | Start)
            if action is not None and not (begins and _is_in_the_way(task, tasks, mine, strays)):
                actions.append(action)
    wanted = {task.id for task in tasks}
    for key, kind in known.busy.items():
        if kind == FetchImage.__name__ and key not in wanted:
            actions.append(Abandon(key))
    for container in strays:
        free = container.id not in known.busy and container.task not in known.busy
        if free and known.retry_at.get(container.id, now) <= now:
            actions.append(Discard(container))
    return actions


def _assign(tasks: Sequence[Task], containers: Sequence[Container]) -> tuple[dict[str, Container], list[Container]]:
    """Each task's container, and the containers that are nobody's or a task's second."""
    ids = {task.id for task in tasks}
    mine: dict[str, Container] = {}
    strays = []
    for container in sorted(containers, key=lambda one: (not one.running, not one.started, one.id)):
        if container.task in ids and container.task not in mine:
            mine[container.task] = container
        else:
            strays.append(container)
    return mine, strays


def _is_in_the_way(
    task: Task, tasks: Sequence[Task], mine: Mapping[str, Container], strays: Sequence[Container]
) -> bool:
    """Whether a container runs that may write into the volumes of a task that is to start."""
    if not volumes_of(task):
        return False
    of_slot = [one.id for one in tasks if (one.service_key, one.slot) == (task.service_key, task.slot)]
    return any(one.running for one in (*strays, *(mine[key] for key in of_slot if key in mine and key != task.id)))


def _next_step(task: Task, container: Container | None, known: Known) -> Action | None:
    if not task.live:
        return _after_its_end(task, container)
    if task.desired_state in TO_END:
        return _towards_shutdown(task, container)
    cut_off = 0.0 < task.spec.stop_after_seconds <= known.alone_seconds
    if container is None:
        if task.status.state in HAS_RUN:
            return Report(task, _ended(task, TaskState.FAILED, "its container is gone"))
        if cut_off:
            return None
        image = known.images.get(task.id)
        return Create(task, image) if image else FetchImage(task)
    if not container.started:
        if known.attempts.get(task.id, 0) >= START_TRIES:
            return Remove(task, container)
        return None if cut_off else Start(task, container)
    if not container.running:
        return _conclude(task, container, known.avx)
    if cut_off and task.status.health not in TO_STOP:
        message = f"no server has answered for {task.spec.stop_after_seconds:g} s"
        return Report(task, replace(task.status, health=CUT_OFF, message=message))
    if task.status.health == UNHEALTHY and task.id in known.unheard and not cut_off:
        return None
    return _while_it_runs(task, container, known.health.get(task.id))


def _while_it_runs(task: Task, container: Container, health: Health | None) -> Action | None:
    status, check = task.status, task.spec.healthcheck
    if status.state.order < TaskState.STARTING.order:
        return Report(task, started(task, container))
    if status.health in TO_STOP:  # reported before it is acted upon, so a restarted agent knows why it stops
        return Stop(task, container, status.message)
    if check is not None:
        if health is None:
            return Probe(task, container)
        if health.verdict:
            return Report(task, replace(status, health=UNHEALTHY, message=health.verdict))
    if status.state is TaskState.STARTING and (check is None or (health is not None and health.healthy)):
        return Report(task, replace(status, state=TaskState.RUNNING, message="", health="healthy" if check else ""))
    if task.desired_state is DesiredState.DRAINING and status.state is TaskState.RUNNING:
        return Report(task, replace(status, state=TaskState.DRAINING, message="out of traffic, will be stopped"))
    return None


def started(task: Task, container: Container) -> Status:
    """The status of a task whose container has just been started, or was found running."""
    return replace(
        task.status,
        state=TaskState.STARTING,
        message="" if task.spec.healthcheck is None else "waits for its health check to pass",
        address=container.address,
        container_id=container.id,
        health="" if task.spec.healthcheck is None else "starting",
    )


def _conclude(task: Task, container: Container, avx: bool) -> Action:
    """It has ended by itself, or we have ended it because it was unhealthy."""
    stopped = task.status.health in TO_STOP
    message = task.status.message if stopped else why_it_ended(container, task.spec, avx=avx)
    state = TaskState.COMPLETE if container.exit_code == 0 and not stopped else TaskState.FAILED
    if task.status.health == CUT_OFF:
        state = TaskState.SHUTDOWN
    status = _ended(task, state, message, container)
    return Conclude(task, container, replace(status, address=status.address or container.address))


def _towards_shutdown(task: Task, container: Container | None) -> Action:
    if container is not None and container.running:
        return Stop(task, container, "it is not wanted any more")
    if container is not None and not container.started:
        return Remove(task, container)
    if container is None:
        return Report(task, _ended(task, TaskState.SHUTDOWN, "stopped"))
    code = "" if container.exit_code is None else f" (exit code {container.exit_code})"
    return Report(task, _ended(task, TaskState.SHUTDOWN, f"stopped{code}", container))


def _after_its_end(task: Task, container: Container | None) -> Action | None:
    if container is not None and container.running:  # given up as lost, and here we are again
        return Stop(task, container, f"the task is {task.status.state.value}")
    if task.desired_state is not DesiredState.REMOVED:
        return None
    if container is not None:
        return Remove(task, container)
    if task.status.container_id:
        return Report(task, replace(task.status, container_id=""))
    return None


def _ended(task: Task, state: TaskState, message: str, container: Container | None = None) -> Status:
    return replace(
        task.status,
        state=state,
        message=message,
        container_id=container.id if container else "",
        exit_code=container.exit_code if container else None,
    )
