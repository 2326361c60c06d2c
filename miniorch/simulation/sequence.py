"""Promises about two moments, first part: what must come before what. The others are in `history.py`.

Each is a class that remembers what it needs and nothing else. It sees every transaction (`wrote`) and every picture
(`look`), and answers with the sentences that say how it is broken; none is good.
"""

from miniorch.model import DesiredState, NodeState, Service, Task, TaskState
from miniorch.simulation.invariants import Picture, decoded
from miniorch.simulation.store import LEADER, Record
from miniorch.spec import Condition
from miniorch.state.store import Put

GRACE_SECONDS = {NodeState.UNREACHABLE: 2.4, NodeState.DOWN: 4.1}  # a little less, for clocks that drift
TO_END = (DesiredState.SHUTDOWN, DesiredState.REMOVED)
MET_BY = {
    TaskState.STARTING: (Condition.STARTED,),
    TaskState.RUNNING: (Condition.STARTED, Condition.HEALTHY),
    TaskState.COMPLETE: (Condition.STARTED, Condition.COMPLETED),
    TaskState.FAILED: (Condition.STARTED,),
}


class Promise:
    """What all have in common: they may look at both and say nothing."""

    def wrote(self, record: Record) -> list[str]:
        return []

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        return []


class TasksDrainBeforeTheyStop(Promise):
    """Whoever takes traffic leaves it before it is told to stop, or forgotten, unless its node is away."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._nodes: set[str] = set()  # that are not down

    def wrote(self, record: Record) -> list[str]:
        wrong = []
        for one in record.operations:
            if one.key.startswith("/nodes/"):
                name = one.key.removeprefix("/nodes/")
                there = isinstance(one, Put) and decoded(one.key, one.value).state is not NodeState.DOWN
                (self._nodes.add if there else self._nodes.discard)(name)
            if one.key.startswith("/tasks/"):
                before = self._tasks.pop(one.key, None)
                after: Task | None = decoded(one.key, one.value) if isinstance(one, Put) else None
                if after is not None:
                    self._tasks[one.key] = after
                ends = after is None or after.desired_state in TO_END
                forgotten = after is None and before is not None and before.node not in self._nodes
                if before is not None and _takes_traffic(before) and ends and not forgotten:
                    wrong.append(f"{before.id} was told to stop while it took traffic")
        return wrong


class NothingStartsBeforeWhatItNeeds(Promise):
    """A task gets a node only when each service that its own depends on was as far as it must be, once at least."""

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._waiting: set[str] = set()
        self._met: set[tuple[str, Condition]] = set()

    def stands(self, service: Service) -> None:
        """What a store begins with that has been restored: how far it once was, nobody knows any more."""
        self._services[service.key] = service
        self._met |= {(service.key, condition) for condition in Condition}

    def wrote(self, record: Record) -> list[str]:
        wrong = []
        for one in record.operations:
            if one.key.startswith("/services/") and isinstance(one, Put):
                service: Service = decoded(one.key, one.value)
                self._services[service.key] = service
            elif one.key.startswith("/services/"):
                gone = one.key.removeprefix("/services/")
                self._services.pop(gone, None)
                self._met = {met for met in self._met if met[0] != gone}
            elif one.key.startswith("/tasks/") and isinstance(one, Put):
                wrong += self._look_at(decoded(one.key, one.value))
        return wrong

    def _look_at(self, task: Task) -> list[str]:
        if not task.node:
            self._waiting.add(task.id)
            return []
        self._met |= {(task.service_key, condition) for condition in MET_BY.get(task.status.state, ())}
        service = self._services.get(task.service_key)
        if task.id not in self._waiting or service is None:
            return []
        self._waiting.discard(task.id)
        needed = {(f"{task.app}/{name}", condition) for name, condition in service.spec.depends_on.items()}
        missing = sorted(needed - self._met)
        return [
            f"{task.id} was put on {task.node} before {key} was {condition.value}"
            for key, condition in missing
            if key in self._services and self._services[key].spec.replicas
        ]


class ANewLeaderGrantsGrace(Promise):
    """Who has just begun to lead has heard nobody, and gives nobody up for that."""

    def __init__(self) -> None:
        self._name, self._fresh, self._since = "", False, 0.0
        self._states: dict[str, NodeState] = {}

    def wrote(self, record: Record) -> list[str]:
        before = record.leader_when_sent
        if not self._name and before is not None:  # a store that has come back had a leader already
            self._name = decoded(LEADER, before.value).name
        for one in record.operations:
            if one.key == LEADER and isinstance(one, Put) and decoded(one.key, one.value).name != self._name:
                self._name, self._fresh = decoded(one.key, one.value).name, True
        return []

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        if self._fresh:
            # Of whoever leads at the first look (of a store that has come back, too) nobody knows since when.
            self._fresh, self._since = False, at if self._states else float("-inf")
        now, led = {node.name: node.state for node in world.nodes.values()}, at - self._since
        wrong = [
            f"{self._name} called {node} {state.value} when it had led for {led:.1f} s"
            for node, state in now.items()
            if self._states.get(node, state) is not state and led < GRACE_SECONDS.get(state, 0.0)
        ]
        self._states.update(now)
        return wrong


def _takes_traffic(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING
