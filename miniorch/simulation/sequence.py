"""Promises about two moments, first part: what they are told of, and what must come before what. The others are in
`history.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from miniorch.controllers.services import DRAIN_LIMIT_SECONDS
from miniorch.model import DesiredState, NodeState, Task, TaskState
from miniorch.simulation.invariants import Picture
from miniorch.simulation.store import RESTORED, Record
from miniorch.spec import Condition

READY_SECONDS = 1.0
TO_END = (DesiredState.SHUTDOWN, DesiredState.REMOVED)
GRACE_SECONDS = {NodeState.UNREACHABLE: 2.4, NodeState.DOWN: 4.1}  # a little less, for clocks that drift
MET_BY = {
    TaskState.STARTING: (Condition.STARTED,),
    TaskState.RUNNING: (Condition.STARTED, Condition.HEALTHY),
    TaskState.COMPLETE: (Condition.STARTED, Condition.COMPLETED),
    TaskState.FAILED: (Condition.STARTED,),
}


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction has done to one object. None: it is not there."""

    kind: str
    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """A transaction, when it was done, and how the store is after it."""

    record: Record
    changes: Sequence[Change]
    world: Picture
    at: float = 0.0

    def of(self, kind: str) -> list[Change]:
        return [one for one in self.changes if one.kind == kind]

    @property
    def placed(self) -> list[Task]:
        """The tasks that were given their node."""
        tasks = self.of("tasks")
        return [one.after for one in tasks if one.after and one.after.node and not (one.before and one.before.node)]


class Promise:
    """`trusting`: not asked while what an older store has made true again is on its way."""

    trusting = True

    def wrote(self, step: Step) -> Iterable[str]:
        return ()

    def look(self, world: Picture, at: float, at_rest: bool) -> Iterable[str]:
        return ()


class TasksDrainBeforeTheyStop(Promise):
    """Whoever takes traffic leaves it before it is told to stop, or forgotten, wherever its node is."""

    trusting = False

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("tasks"):
            ends = one.after is None or one.after.desired_state in TO_END
            if one.before is not None and _takes_traffic(one.before) and ends:
                yield f"{one.key} was told to stop while it took traffic"


class TasksRunBeforeTheyTakeTraffic(Promise):
    """Endpoints may lag behind a task's end, but nobody is sent to one that has never been well."""

    def wrote(self, step: Step) -> Iterator[str]:
        for endpoints in (one.after for one in step.of("endpoints") if one.after):
            for task in (step.world.tasks.get(one.task) for one in endpoints.backends if one.ready):
                if task is not None and task.status.state.order < TaskState.RUNNING.order:
                    yield f"{task.id} is {task.status.state.value} and takes traffic"


class NobodySendsToWhatStops(Promise):
    """When a task of a service that stays is told to stop, no proxy sends anything there: of a node that the store has
    called ready for a while, and unless it has drained for as long as is waited at most, by the clocks of who wrote it.
    """

    def __init__(self) -> None:
        self._ready: dict[str, float] = {}  # node -> since when

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("nodes"):
            if one.after is not None and one.after.state is NodeState.READY:
                self._ready.setdefault(one.key, step.at)
            else:
                self._ready.pop(one.key, None)
        tasks = ((one.before, one.after) for one in step.of("tasks") if one.before and one.after)
        told = {after.id for before, after in tasks if _is_told_to_stop(before, after)}
        ready = [node for node, since in self._ready.items() if step.at >= since + READY_SECONDS]
        for node in ready if told else ():
            for endpoints in step.world.traffic[node]:
                service = step.world.services.get(endpoints.key)
                if endpoints.ports and service is not None and not service.removing:
                    for task in (backend.task for backend in endpoints.backends if backend.ready):
                        if task in told:
                            yield f"{task} was told to stop while the proxy of {node} sent traffic to it"


def _is_told_to_stop(before: Task, after: Task) -> bool:
    drained = after.desired_since - before.desired_since
    was, now = before.live and before.desired_state is DesiredState.DRAINING, after.live
    return was and now and after.desired_state is not DesiredState.DRAINING and 0.0 <= drained < DRAIN_LIMIT_SECONDS


class NothingStartsBeforeWhatItNeeds(Promise):
    """A task gets a node only when each service that its own depends on was as far as it must be, once at least."""

    trusting = False

    def __init__(self) -> None:
        self._met: set[tuple[str, Condition]] = set()

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("services"):
            if one.after is None:
                self._met -= {(one.key, condition) for condition in Condition}
            elif step.record.part == RESTORED:  # how far it once was, nobody knows any more
                self._met |= {(one.key, condition) for condition in Condition}
        for one in step.of("tasks"):
            if (task := one.after) is not None and task.node:
                self._met |= {(task.service_key, condition) for condition in MET_BY.get(task.status.state, ())}
                if one.before is not None and not one.before.node:
                    yield from self._missing(task, step.world)

    def _missing(self, task: Task, world: Picture) -> Iterator[str]:
        service = world.services.get(task.service_key)
        needs = service.spec.depends_on.items() if service else ()
        for key, condition in sorted({(f"{task.app}/{name}", condition) for name, condition in needs} - self._met):
            if key in world.services and world.services[key].spec.replicas:
                yield f"{task.id} was put on {task.node} before {key} was {condition.value}"


class ANewLeaderGrantsGrace(Promise):
    """Who has just begun to lead has heard nobody, and gives nobody up for that."""

    def __init__(self) -> None:
        self._name, self._since = "", float("-inf")

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("leaders"):
            if one.after is not None and one.after.name != self._name:  # of the first one nobody knows since when
                self._name, self._since = one.after.name, step.at if self._name else float("-inf")
        led = step.at - self._since
        for before, after in ((one.before, one.after) for one in step.of("nodes") if one.before and one.after):
            if before.state is not after.state and led < GRACE_SECONDS.get(after.state, 0.0):
                yield f"{self._name} called {after.name} {after.state.value} when it had led for {led:.1f} s"


class NamesLeadToTheirOwn(Promise):
    """Who gets an address is known by the names of its own service and by no other: DNS answers, and proxies send,
    as the endpoints say.
    """

    def __init__(self) -> None:
        self._named: dict[str, set[str]] = {}  # address -> services

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("endpoints"):
            for backend in one.before.backends if one.before else ():
                self._named[backend.address].discard(one.key)
            for backend in one.after.backends if one.after else ():
                self._named.setdefault(backend.address, set()).add(one.key)
        for task in (one.after for one in step.of("tasks") if one.after and one.after.live):
            for key in sorted(self._named.get(task.status.address, set()) - {task.service_key}):
                yield f"{task.id} has {task.status.address}, which the names of {key} lead to"


def _takes_traffic(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING
