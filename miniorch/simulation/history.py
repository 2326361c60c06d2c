"""Promises about two moments: what may follow what.

The problem: much of what can go wrong cannot be seen in a picture: that a task went back from running to starting, that
a deposed server wrote, that a slot was filled for the tenth time in a second. The idea: each promise is a class that
remembers what it needs and nothing else. It is told every transaction (`wrote`): who wrote, as only the simulation
knows him, what was there before and what is there after. It answers with the sentences that say how it is broken; none
is good. Two promises are about containers, of which no transaction tells: they see every picture (`look`).

Next file: `witness.py`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from miniorch.codec import decode
from miniorch.model import DesiredState, Leader, Service, Task, TaskState
from miniorch.simulation.invariants import Picture, has_labels_for, is_over, takes_work
from miniorch.simulation.sequence import (
    ANewLeaderGrantsGrace,
    Change,
    NamesLeadToTheirOwn,
    NobodySendsToWhatStops,
    NothingStartsBeforeWhatItNeeds,
    Promise,
    Step,
    TasksDrainBeforeTheyStop,
    TasksRunBeforeTheyTakeTraffic,
)
from miniorch.simulation.store import LEADER, RESTORED
from miniorch.spec import AppSpec, ServiceSpec

KNOWN_SECONDS = 10.0  # after so long who leads knows that a node takes no work
REST_SECONDS = 9.5  # an address is not given again for two lifetimes of a DNS answer (10 s, by a clock that may drift)
AT_MOST, WITHIN_SECONDS = 6, 5.0  # new tasks of a slot that fails


class OnlyTheLeaderWrites(Promise):
    """Whatever a loop writes, its server led when it decided and still leads, without a break, when it is written.

    Servers may believe what they like: two may think that they lead, but only one has an effect.
    """

    trusting = False

    def wrote(self, step: Step) -> Iterator[str]:
        record = step.record
        keys = [one.key for one in record.operations if one.key not in (LEADER, "/cluster/cluster")]
        if record.part != "loops" or not keys:
            return
        what = f"{record.writer} wrote {keys[0]} at revision {record.revision}"
        if record.leader is None:
            yield f"{what} while nobody led"
            return
        leader = decode(Leader, record.leader.value)
        before = record.leader_when_sent.modified if record.leader_when_sent else 0
        if leader.name != record.writer:
            yield f"{what} while {leader.name} led"
        elif before != record.leader.modified:
            yield f"{what} as it had decided in the term before (epoch {before}, now {record.leader.modified})"


class EachWritesItsOwnFields(Promise):
    """Users write wishes, loops write `desired_state` and the node, and from then on the agent writes `status`."""

    trusting = False

    def wrote(self, step: Step) -> Iterator[str]:
        record = step.record
        loops = record.part == "loops"
        for kind, key, before, after in ((one.kind, one.key, one.before, one.after) for one in step.changes):
            if after is None:
                continue
            if loops and kind in ("services", "apps") and _wish(before) != _wish(after):
                yield f"a loop of {record.writer} wrote the wish /{kind}/{key}"
            if kind != "tasks" or before is None:
                continue
            if record.part == "api" and _not_status(before) != _not_status(after):
                yield f"a report to {record.writer} changed more than the status of {key}"
            given_up = after.status.state is TaskState.LOST  # nobody is left who could say it
            if loops and before.node and after.status != before.status and not given_up:
                yield f"a loop of {record.writer} changed the status of {key}, which has a node"


class WhatWasAcknowledgedIsWritten(Promise):
    """A user who hears "done" at a revision finds in the store what was asked for."""

    def __init__(self) -> None:
        self._wishes: dict[str, list[tuple[int, ServiceSpec | None]]] = {}

    def wrote(self, step: Step) -> Iterable[str]:
        since = 0 if step.record.part == RESTORED else step.record.revision
        for one in step.of("services"):
            self._wishes.setdefault(one.key, []).append((since, one.after.spec if one.after else None))
        return ()

    def acknowledged(self, app: str, asked: AppSpec, since: int, revision: int) -> list[str]:
        """The user asked when the store was at revision `since`; others may have changed it before the answer."""
        wrong = []
        for name, spec in asked.services.items():
            versions = self._wishes.get(f"{app}/{name}", [])
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
        self._gone: set[str] = set()

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("tasks"):
            if one.after is None:
                self._gone.add(one.key)
            elif one.key in self._gone:
                yield f"{one.key} has come back from the dead"
            elif one.before is not None:
                yield from _changed_wrongly(one.before, one.after)


def _changed_wrongly(before: Task, after: Task) -> Iterator[str]:
    old, new = before.status.state, after.status.state
    if new.order < old.order or (old.ended and new is not old):
        yield f"{after.id} went from {old.value} back to {new.value}"
    if (before.spec, before.slot, before.round) != (after.spec, after.slot, after.round):
        yield f"the spec of {after.id} has changed"
    if before.node and after.node != before.node:
        yield f"{after.id} moved from {before.node} to {after.node}"
    if before.status.address and after.status.address not in ("", before.status.address):
        yield f"{after.id} changed its address from {before.status.address} to {after.status.address}"


class JobsThatAreOverStayOver(Promise):
    """A job that is over never runs again, unless the service has changed, was restarted or scaled meanwhile."""

    def __init__(self) -> None:
        self._over: dict[tuple[str, int], Task] = {}

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("services"):
            gone = [slot for slot, last in self._over.items() if slot[0] == one.key and not _stays(last, one.after)]
            for slot in gone:
                del self._over[slot]
        new_last = sorted(step.of("tasks"), key=lambda one: one.before is None)
        for one in (one for one in new_last if one.after is not None):
            task: Task = one.after
            slot = (task.service_key, task.slot)
            last = self._over.get(slot, task)
            if last.id != task.id and one.before is None:
                yield f"{task.id} runs again what was over with {last.id}"
            elif task.status.state.ended and _stays(task, step.world.services.get(task.service_key)):
                self._over[slot] = task
            elif last.id == task.id:
                self._over.pop(slot, None)


class OnlyReadyNodesGetTasks(Promise):
    """No task is put on a node that has been away, not ready or drained for a while, as the store says."""

    def __init__(self) -> None:
        self._silent: dict[str, float] = {}  # node -> since when

    def wrote(self, step: Step) -> Iterator[str]:
        for one in step.of("nodes"):
            if one.after is None or takes_work(one.after):
                self._silent.pop(one.key, None)
            else:
                self._silent.setdefault(one.key, step.at)
        for task in step.placed:
            since = self._silent.get(task.node, step.at)
            if step.at - since > KNOWN_SECONDS:
                yield f"{task.id} was put on {task.node}, which takes no work since {since:.1f} s"


class TasksGoWhereLabelsAllow(Promise):
    """A task is put on a node that has, or had a moment ago, the labels that its service asks for. Later ones may be
    others: a task that runs is not moved for them.
    """

    def __init__(self) -> None:
        self._allowed: dict[tuple[str, str], float] = {}  # (service, node) -> until when it is so

    def wrote(self, step: Step) -> Iterator[str]:
        choosy = {key: one for key, one in step.world.services.items() if one.spec.placement.constraints}
        fresh = [one.key for one in step.of("services") if one.key in choosy and _other_rules(one)]
        pairs = [(key, node) for key in fresh for node in step.world.nodes.values()]
        pairs += [(key, one.after) for one in step.of("nodes") if one.after for key in choosy]
        for key, node in pairs:
            if has_labels_for(choosy[key], node):
                self._allowed[key, node.name] = float("inf")
            elif self._allowed.get((key, node.name)) == float("inf"):
                self._allowed[key, node.name] = step.at
        for task in (one for one in step.placed if one.service_key in choosy):
            if step.at - self._allowed.get((task.service_key, task.node), float("-inf")) > KNOWN_SECONDS:
                yield f"{task.id} was put on {task.node}, which lacks the labels for {task.service_key}"


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

    def look(self, world: Picture, at: float, at_rest: bool) -> Iterator[str]:
        for node, boxes in world.boxes.items():
            before, held = self._held.get(node, set()), {box.spec.address for box in boxes}
            self._freed.update(((node, address), at) for address in before - held)
            for address in sorted(held - before):
                rested = at - self._freed.pop((node, address), at - REST_SECONDS)
                if rested < REST_SECONDS:
                    yield f"{address} of {node} is given again after {rested:.1f} s"
            self._held[node] = held


class FailingSlotsAreNotHammered(Promise):
    """However often it fails, a slot gets at most so many tasks in so many seconds."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, int], deque[float]] = {}

    def wrote(self, step: Step) -> Iterator[str]:
        for task in (one.after for one in step.of("tasks") if one.before is None and one.after and one.after.attempt):
            times = self._times.setdefault((task.service_key, task.slot), deque(maxlen=AT_MOST))
            if len(times) == AT_MOST and step.at - times[0] < WITHIN_SECONDS:
                took = step.at - times[0]
                yield f"slot {task.service_key}.{task.slot} fails, {AT_MOST} times in {took:.1f} s"
            times.append(step.at)


class WhatShouldRunIsLeftAlone(Promise):
    """An agent stops a container only because its task is not wanted or not healthy: not because it started anew, lost
    its server or saw the engine restart. It may learn the reason before the store does, so this is asked at rest."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._stopped: dict[str, tuple[str, str]] = {}  # container -> node, task

    def agent_started(self, node: str) -> None:
        """The agent before may have died with the reason."""
        self._stopped = {box: (on, task) for box, (on, task) in self._stopped.items() if on != node}

    def excuse(self, world: Picture) -> None:
        """What was stopped until now, was so for a store that has been restored since, and has forgotten the reason."""
        self._known.update(box.id for boxes in world.boxes.values() for box in boxes if box.told)

    def look(self, world: Picture, at: float, at_rest: bool) -> Iterator[str]:
        for node, boxes in world.boxes.items():
            for box in boxes:
                if box.told and box.id not in self._known:
                    self._known.add(box.id)
                    self._stopped[box.id] = (node, box.spec.task)
        for box_id, (node, task_id) in list(self._stopped.items()):
            task = world.world.tasks.get(task_id)
            wanted = task is not None and task.desired_state is DesiredState.RUNNING
            reasons = ("unhealthy", "cut off") if task and task.spec.stop_after_seconds else ("unhealthy",)
            if task is None or not wanted or task.status.health in reasons or task.status.state is TaskState.LOST:
                del self._stopped[box_id]
            elif at_rest:
                yield f"{task_id} on {node} was stopped for no reason"


class History:
    """All of them."""

    def __init__(self) -> None:
        self.addresses = AddressesRest()
        self.left_alone = WhatShouldRunIsLeftAlone()
        self.wishes = WhatWasAcknowledgedIsWritten()
        self.revisions = NoRevisionGoesBack()
        self.promises: tuple[Promise, ...] = (
            OnlyTheLeaderWrites(),
            EachWritesItsOwnFields(),
            self.wishes,
            self.revisions,
            TasksOnlyMoveForward(),
            JobsThatAreOverStayOver(),
            OnlyReadyNodesGetTasks(),
            TasksGoWhereLabelsAllow(),
            self.addresses,
            FailingSlotsAreNotHammered(),
            self.left_alone,
            TasksRunBeforeTheyTakeTraffic(),
            TasksDrainBeforeTheyStop(),
            NobodySendsToWhatStops(),
            NothingStartsBeforeWhatItNeeds(),
            ANewLeaderGrantsGrace(),
            NamesLeadToTheirOwn(),
        )

    def wrote(self, step: Step, trusted: bool = True) -> dict[str, list[str]]:
        """Broken promises by name."""
        told = {one: list(one.wrote(step)) for one in self.promises}
        return {type(one).__name__: wrong for one, wrong in told.items() if wrong and (trusted or not one.trusting)}

    def look(self, world: Picture, at: float = 0.0, at_rest: bool = False) -> dict[str, list[str]]:
        """The same, of what no transaction tells."""
        told = {one: list(one.look(world, at, at_rest)) for one in (self.addresses, self.left_alone)}
        return {type(one).__name__: wrong for one, wrong in told.items() if wrong}

    def agent_started(self, node: str) -> None:
        self.addresses.agent_started(node)
        self.left_alone.agent_started(node)


def _wish(item: Any) -> Any:
    """Why a service is held is no wish."""
    return replace(item, held="") if isinstance(item, Service) else item


def _not_status(task: Task) -> tuple[object, ...]:
    return task.spec, task.desired_state, task.desired_since, task.node, task.slot, task.round, task.attempt


def _stays(task: Task, service: Service | None) -> bool:
    """Whether a job's task still is the last of its slot."""
    if service is None or service.removing or task.slot > service.spec.replicas:
        return False
    return is_over(task, service)


def _other_rules(change: Change) -> bool:
    return change.before is None or change.before.spec.placement != change.after.spec.placement
