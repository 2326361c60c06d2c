"""Promises about two moments: what may follow what.

The problem: much of what can go wrong cannot be seen in a picture: that a task went back from running to starting, that
a deposed server wrote, that a slot was filled for the tenth time in a second. The idea: each promise is a class that
remembers what it needs and nothing else. It sees every transaction (`wrote`), with its writer as only the simulation
knows him, and every picture (`look`), and answers with the sentences that say how it is broken; none is good.

Next file: `witness.py`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from miniorch.codec import decode
from miniorch.model import App, DesiredState, Leader, Service, Task, TaskState
from miniorch.simulation.invariants import Picture, decoded, has_labels_for, is_over, takes_work
from miniorch.simulation.sequence import (
    ANewLeaderGrantsGrace,
    NothingStartsBeforeWhatItNeeds,
    Promise,
    TasksDrainBeforeTheyStop,
)
from miniorch.simulation.store import LEADER, Record
from miniorch.spec import AppSpec, Placement, ServiceSpec
from miniorch.state.store import Put

KNOWN_SECONDS = 10.0  # after so long who leads knows that a node takes no work
TO_STOP = ("unhealthy", "cut off")
REST_SECONDS = 9.5  # an address is not given again for two lifetimes of a DNS answer (10 s, by a clock that may drift)
AT_MOST, WITHIN_SECONDS = 6, 5.0  # new tasks of a slot that fails


class OnlyTheLeaderWrites(Promise):
    """Whatever a loop writes, its server led when it decided and still leads, without a break, when it is written.

    Servers may believe what they like: two may think that they lead, but only one has an effect.
    """

    def wrote(self, record: Record) -> list[str]:
        keys = [one.key for one in record.operations if one.key not in (LEADER, "/cluster/cluster")]
        if record.part != "loops" or not keys:
            return []
        what = f"{record.writer} wrote {keys[0]} at revision {record.revision}"
        if record.leader is None:
            return [f"{what} while nobody led"]
        leader = decode(Leader, record.leader.value)
        if leader.name != record.writer:
            return [f"{what} while {leader.name} led"]
        before = record.leader_when_sent.modified if record.leader_when_sent else 0
        if before != record.leader.modified:
            return [f"{what} as it had decided in the term before (epoch {before}, now {record.leader.modified})"]
        return []


class EachWritesItsOwnFields(Promise):
    """Users write wishes, loops write `desired_state` and the node, and from then on the agent writes `status`."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._wishes: dict[str, Service | App] = {}

    def stands(self, service: Service) -> None:
        """What a store begins with that has been restored."""
        self._wishes[f"/services/{service.key}"] = replace(service, held="")

    def wrote(self, record: Record) -> list[str]:
        wrong = []
        for one in record.operations:
            if one.key.startswith(("/services/", "/apps/")) and isinstance(one, Put):
                known, wish = self._wishes.get(one.key), decoded(one.key, one.value)
                self._wishes[one.key] = wish = replace(wish, held="") if isinstance(wish, Service) else wish
                if record.part == "loops" and wish != known:  # why a service is held is no wish
                    wrong.append(f"a loop of {record.writer} wrote the wish {one.key}")
            if one.key.startswith("/tasks/"):
                before = self._tasks.pop(one.key, None)
                if isinstance(one, Put):
                    after: Task = decoded(one.key, one.value)
                    self._tasks[one.key] = after
                    if before is not None and record.part == "api" and _not_status(before) != _not_status(after):
                        wrong.append(f"a report to {record.writer} changed more than the status of {after.id}")
                    given_up = after.status.state is TaskState.LOST  # nobody is left who could say it
                    changed = before is not None and before.node and after.status != before.status
                    if changed and record.part == "loops" and not given_up:
                        wrong.append(f"a loop of {record.writer} changed the status of {after.id}, which has a node")
        return wrong


class WhatWasAcknowledgedIsWritten(Promise):
    """A user who hears "done" at a revision finds in the store what was asked for."""

    def __init__(self) -> None:
        self._wishes: dict[str, list[tuple[int, ServiceSpec | None]]] = {}

    def wrote(self, record: Record) -> list[str]:
        for one in record.operations:
            if one.key.startswith("/services/"):
                spec = decoded(one.key, one.value).spec if isinstance(one, Put) else None
                self._wishes.setdefault(one.key, []).append((record.revision, spec))
        return []

    def stands(self, service: Service) -> None:
        """What a store begins with that has been restored."""
        self._wishes[f"/services/{service.key}"] = [(0, service.spec)]

    def acknowledged(self, app: str, asked: AppSpec, since: int, revision: int) -> list[str]:
        """The user asked when the store was at revision `since`; others may have changed it before the answer."""
        wrong = []
        for name, spec in asked.services.items():
            versions = self._wishes.get(f"/services/{app}/{name}", [])
            before = [written for at, written in versions if at <= since][-1:]
            if spec not in before + [written for at, written in versions if since < at <= revision]:
                wrong.append(f"the user was told that {app}/{name} is changed at revision {revision}, and it is not")
        return wrong


class NoRevisionGoesBack(Promise):
    """Whoever follows the store never hears of an older revision, unless an older store has come back."""

    def __init__(self) -> None:
        self._heard: dict[str, int] = {}

    def heard(self, process: str, revision: int) -> list[str]:
        before = self._heard.get(process, 0)
        self._heard[process] = revision
        return [f"{process} heard of revision {revision} after {before}"] if revision < before else []


class TasksOnlyMoveForward(Promise):
    """An end is final, what is gone stays gone; what a task was made from and where it was put never change."""

    def __init__(self) -> None:
        self._last: dict[str, Task] = {}
        self._gone: set[str] = set()

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        wrong = [f"{task} has come back from the dead" for task in world.tasks if task in self._gone]
        for key, task in world.tasks.items():
            before = self._last.get(key)
            if before is not None and before is not task:
                wrong += _changed_wrongly(before, task)
        gone = world.gone if world.whole else sorted(self._last.keys() - world.tasks.keys())
        self._gone.update(gone)
        self._last.update(world.tasks)
        for key in gone:
            self._last.pop(key, None)
        return wrong


class JobsThatAreOverStayOver(Promise):
    """A job that is over never runs again, unless the service has changed, was restarted or scaled meanwhile."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._over: dict[tuple[str, int], Task] = {}

    def wrote(self, record: Record) -> list[str]:
        """A service may change, or go and come back, between two looks at a large world."""
        for one in (one for one in record.operations if one.key.startswith("/services/")):
            key, service = one.key.removeprefix("/services/"), None
            if isinstance(one, Put):
                service = decoded(one.key, one.value)
            for slot in [slot for slot, ended in self._over.items() if slot[0] == key and not _stays(ended, service)]:
                del self._over[slot]
        return []

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        for slot, ended in list(self._over.items()):
            if not _stays_over(world.world.tasks.get(ended.id, ended), world):
                del self._over[slot]
        wrong = []
        for task in world.tasks.values():
            ended = self._over.get((task.service_key, task.slot), task)
            if task.id != ended.id and task.id not in self._known:
                wrong.append(f"{task.id} runs again what was over with {ended.id}")
        ended_now = [task for task in world.tasks.values() if task.status.state.ended and _stays_over(task, world)]
        self._over |= {(task.service_key, task.slot): task for task in ended_now}
        self._known.update(world.tasks)
        return wrong


class OnlyReadyNodesGetTasks(Promise):
    """No task is put on a node that has been away, not ready or drained for a while, as the store says."""

    def __init__(self) -> None:
        self._silent: dict[str, float] = {}  # node -> since when
        self._placed: set[str] = set()

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        for node in world.nodes.values():
            if takes_work(node):
                self._silent.pop(node.name, None)
            else:
                self._silent.setdefault(node.name, at)
        for name in [name for name in self._silent if name not in world.world.nodes]:
            del self._silent[name]
        placed = [task for task in world.tasks.values() if task.node and task.id not in self._placed]
        self._placed.update(task.id for task in placed)
        return [
            f"{task.id} was put on {task.node}, which takes no work since {self._silent[task.node]:.1f} s"
            for task in placed
            if at - self._silent.get(task.node, at) > KNOWN_SECONDS
        ]


class TasksGoWhereLabelsAllow(Promise):
    """A task is put on a node that has, or had a moment ago, the labels that its service asks for. Later ones may be
    others: a task that runs is not moved for them.
    """

    def __init__(self) -> None:
        self._placed: set[str] = set()
        self._rules: dict[str, Placement] = {}
        self._allowed: dict[tuple[str, str], float] = {}  # (service, node) -> until when it is so

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        choosy = {one.key: one for one in world.services.values() if one.spec.placement.constraints}
        for key, service in choosy.items():
            fresh = self._rules.get(key) != service.spec.placement
            self._rules[key] = service.spec.placement
            for node in (world.world if fresh else world).nodes.values():
                if has_labels_for(service, node):
                    self._allowed[key, node.name] = float("inf")
                elif self._allowed.get((key, node.name)) == float("inf"):
                    self._allowed[key, node.name] = at
        placed = [task for task in world.tasks.values() if task.node and task.id not in self._placed]
        self._placed.update(task.id for task in placed)
        return [
            f"{task.id} was put on {task.node}, which lacks the labels for {task.service_key}"
            for task in placed
            if task.service_key in choosy
            and at - self._allowed.get((task.service_key, task.node), float("-inf")) > KNOWN_SECONDS
        ]


class AddressesRest(Promise):
    """An address that was given up is not given again while somebody may still know it by its old name.

    An agent that has just started does not know what was given up before (`agent/addresses.py`).
    """

    def __init__(self) -> None:
        self._held: dict[str, set[str]] = {}  # node -> addresses of its containers
        self._freed: dict[tuple[str, str], float] = {}

    def agent_started(self, node: str) -> None:
        for place in [place for place in self._freed if place[0] == node]:
            del self._freed[place]

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        wrong = []
        for node, boxes in world.boxes.items():
            before, held = self._held.get(node, set()), {box.spec.address for box in boxes}
            self._freed.update(((node, address), at) for address in before - held)
            for address in sorted(held - before):
                rested = at - self._freed.pop((node, address), at - REST_SECONDS)
                if rested < REST_SECONDS:
                    wrong.append(f"{address} of {node} is given again after {rested:.1f} s")
            self._held[node] = held
        return wrong


class FailingSlotsAreNotHammered(Promise):
    """However often it fails, a slot gets at most so many tasks in so many seconds."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._times: dict[tuple[str, int], deque[float]] = {}

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        wrong = []
        for task in world.tasks.values():
            if task.id not in self._known and task.attempt:
                times = self._times.setdefault((task.service_key, task.slot), deque(maxlen=AT_MOST))
                if len(times) == AT_MOST and at - times[0] < WITHIN_SECONDS:
                    wrong.append(f"slot {task.service_key}.{task.slot} fails, {AT_MOST} times in {at - times[0]:.1f} s")
                times.append(at)
        self._known.update(world.tasks)
        return wrong


class WhatShouldRunIsLeftAlone(Promise):
    """An agent stops a container only because its task is not wanted or not healthy: not because it started anew, lost
    its server or saw the engine restart. It may learn the reason before the store does, so this is asked at rest."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._stopped: dict[str, tuple[str, str]] = {}  # container -> node, task

    def agent_started(self, node: str) -> None:
        """The agent before may have died with the reason."""
        self._stopped = {box: (on, task) for box, (on, task) in self._stopped.items() if on != node}

    def look(self, world: Picture, at: float, at_rest: bool) -> list[str]:
        for node, boxes in world.boxes.items():
            for box in boxes:
                if box.told and box.id not in self._known:
                    self._known.add(box.id)
                    self._stopped[box.id] = (node, box.spec.task)
        for box_id, (_, task_id) in list(self._stopped.items()):
            task = world.world.tasks.get(task_id)
            wanted = task is not None and task.desired_state is DesiredState.RUNNING
            if task is None or not wanted or task.status.health in TO_STOP or task.status.state is TaskState.LOST:
                del self._stopped[box_id]
        return [f"{task} on {node} was stopped for no reason" for node, task in self._stopped.values() if at_rest]


class History:
    """All of them."""

    def __init__(self) -> None:
        self.addresses = AddressesRest()
        self.left_alone = WhatShouldRunIsLeftAlone()
        self.needs = NothingStartsBeforeWhatItNeeds()
        self.wishes = WhatWasAcknowledgedIsWritten()
        self.writers = EachWritesItsOwnFields()
        self.revisions = NoRevisionGoesBack()
        self.promises: tuple[Promise, ...] = (
            OnlyTheLeaderWrites(),
            self.writers,
            self.wishes,
            self.revisions,
            TasksOnlyMoveForward(),
            JobsThatAreOverStayOver(),
            OnlyReadyNodesGetTasks(),
            TasksGoWhereLabelsAllow(),
            self.addresses,
            FailingSlotsAreNotHammered(),
            self.left_alone,
            TasksDrainBeforeTheyStop(),
            self.needs,
            ANewLeaderGrantsGrace(),
        )
        self._readers = [one for one in self.promises if type(one).wrote is not Promise.wrote]
        self._lookers = [one for one in self.promises if type(one).look is not Promise.look]

    def wrote(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Broken promises by name."""
        return _by_name((promise, promise.wrote(record)) for record in records for promise in self._readers)

    def look(self, world: Picture, at: float = 0.0, at_rest: bool = False) -> dict[str, list[str]]:
        """Broken promises by name."""
        return _by_name((promise, promise.look(world, at, at_rest)) for promise in self._lookers)

    def stands(self, service: Service) -> None:
        """A store that has been restored begins with it."""
        for one in (self.wishes, self.needs, self.writers):
            one.stands(service)

    def agent_started(self, node: str) -> None:
        self.addresses.agent_started(node)
        self.left_alone.agent_started(node)


def _by_name(answers: Iterator[tuple[Promise, list[str]]]) -> dict[str, list[str]]:
    wrong: dict[str, list[str]] = {}
    for promise, sentences in answers:
        if sentences:
            wrong.setdefault(type(promise).__name__, []).extend(sentences)
    return wrong


def _not_status(task: Task) -> tuple[object, ...]:
    return task.spec, task.desired_state, task.desired_since, task.node, task.slot, task.round, task.attempt


def _stays_over(task: Task, world: Picture) -> bool:
    return _stays(task, world.services.get(task.service_key))


def _stays(task: Task, service: Service | None) -> bool:
    if service is None or service.removing or task.slot > service.spec.replicas:
        return False
    return is_over(task, service)


def _changed_wrongly(before: Task, after: Task) -> list[str]:
    """A task's state only moves forward; an end is final; what it was made from and where it was put never change."""
    old, new = before.status.state, after.status.state
    wrong = []
    if new.order < old.order or (old.ended and new is not old):
        wrong.append(f"{after.id} went from {old.value} back to {new.value}")
    if (before.spec, before.slot, before.round) != (after.spec, after.slot, after.round):
        wrong.append(f"the spec of {after.id} has changed")
    if before.node and after.node != before.node:
        wrong.append(f"{after.id} moved from {before.node} to {after.node}")
    if before.status.address and after.status.address not in ("", before.status.address):
        wrong.append(f"{after.id} changed its address from {before.status.address} to {after.status.address}")
    return wrong
