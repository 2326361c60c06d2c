"""Services to tasks: every slot of a service has exactly one live task with the service's newest spec, or is done.

The problem: tasks die, specs change, replicas come and go, and each of these may happen at any step of another. The
idea: no memory of what we were doing. Look at the tasks of one service and ask of each slot: is there a live task? is
it the right one? may I take one away now? The answers are at most one small step per slot, and the next look takes the
next step. Three rules keep people happy:

- a slot's next task waits until its last one has truly ended, so a volume never has two writers;
- a changed spec replaces one slot at a time, only while all the others serve (or are new, and wait for a node), and
  only if the successor would start: what it depends on is there, and a node fits. Else nothing is stopped, and the
  service says why (`held`);
- a task leaves DNS, VIP and HAProxy (DRAINING) before it is told to stop.

One thing breaks the first rule on purpose: a node that is down, or is to be drained. Nobody knows what becomes of a
task on a node that does not answer, and who waits for its end may wait for ever. So a task that *can* move gets a
successor elsewhere first: one that has no named volume, and (with `stop_after_seconds`) one that must have been stopped
by its own agent meanwhile. It is told to stop when the successor has a node (down) or serves (drained; or has a place
only then), and hears it when its node is back: whoever came later stays. Should the node be back before that, the
successor is dropped. All others stay as they are, wait, and say so (`unknown` in `slots.py`).

Which ended tasks get a successor at all, and when, is said in `miniorch/slots.py`.

Who does this for real: swarmkit's replicated orchestrator, updater and restart supervisor, in one page. Where we
differ: a spec's change is stop-first only. Next file: `miniorch/controllers/placement.py`.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

from miniorch.clock import new_id
from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.loop import WRITES_PER_PLAN, Plan
from miniorch.controllers.placement import may_stay, request_for, stands_in_the_way, why_not_stay, would_follow
from miniorch.model import Availability, DesiredState, Endpoints, Node, NodeState, Service, Status, Task, TaskState
from miniorch.slots import (
    BACKOFF_LIMIT_SECONDS,
    digest_of,
    failures_in_a_row,
    failures_until,
    is_done,
    is_wanted,
    next_at,
    slots_of,
    volumes_of,
)
from miniorch.spec import Restart
from miniorch.state.records import Versioned, Write
from scheduler.victims import victims

DRAIN_LIMIT_SECONDS = 5.0  # then a task stops even if some node still sends it traffic
REST_SECONDS = 2e-4  # between two looks at a service, for each of its tasks: as many times as long as a look takes
ON_ITS_WAY = (TaskState.PREPARING, TaskState.STARTING)  # nothing is to be done about a task because of these
LOST_SECONDS = 86_400.0  # so long after its node went down a task is given up
HELD_SECONDS, HELD_TRIES = 10.0, 5  # an update that finds no place: when it is tried again, and for how many slots
SOON_SECONDS = 1.0  # when an update is looked at again that waits for what will have happened soon
HELD_REST_SECONDS, HELD_REST_LIMIT = 5e-4, 60.0  # and its rest, for each such update and each node
MISPLACED = "its placement has changed"
STOP_MARGIN_SECONDS = 5.0  # for the engine, for clocks that differ, and for an agent that was just starting again


class Services:
    """The controller of services and of their tasks' `desired_state`. Keys are `app/service`, and names of nodes: then
    every service is looked at that has a task there, or on a node that it should leave.
    """

    name = "services"

    def __init__(self, liveness: Liveness, chance: random.Random) -> None:
        self._liveness = liveness
        self._chance = chance

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case Service() | Endpoints():
                return (item.key,)
            case Task() if not gone and item.status.state in ON_ITS_WAY and item.desired_state is DesiredState.RUNNING:
                return ()
            case Task():
                return (item.service_key,)
            case Node():
                return (item.name,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        if "/" not in key:
            nodes = {key, *cache.closed}
            there = {one.service_key for name in nodes for one in cache.tasks_on(name) if one.live}
            return Plan(others=sorted({*there, *cache.held}))
        service = cache.services.get(key)
        if service is None:
            return Plan()
        look = _Look(service, cache, now, self._liveness)
        if service.removing:
            return look.plan_removal()
        return look.plan_slots(self._chance)


class _Look:
    """One look at one service: collects the steps of a plan."""

    def __init__(self, service: Service, cache: Cache, now: float, liveness: Liveness) -> None:
        self.service = service
        self.cache = cache
        self.now = now
        self.liveness = liveness
        self.tasks = cache.tasks_of(service.key)
        self.rules = digest_of(service.spec.placement)
        self.writes: list[Write] = []
        self.again: float | None = None
        self.held, self.tries, self.changes = "", 0, False

    def plan_removal(self) -> Plan:
        """Every task goes; then the service itself."""
        for task in self.tasks:
            self._retire(task, DesiredState.REMOVED, "the app is being removed")
        if not self.tasks:
            self.writes.append(self.cache.erase(self.service, "removed"))
        return self._plan()

    def plan_slots(self, chance: random.Random) -> Plan:
        """One step for each slot that is not as it should be."""
        self._give_up_lost()
        if self.writes:  # they are no longer live, which the next look sees
            return self._plan()
        slots: dict[int, list[Task]] = {number: [] for number in self._slots()}
        for task in self.tasks:
            if task.slot in slots:
                slots[task.slot].append(task)
            else:
                self._retire(task, DesiredState.REMOVED, f"only {self.service.spec.replicas} wanted")
        unsettled = {number: tasks for number, tasks in slots.items() if not self._is_settled(tasks)}
        broken = sum(1 for tasks in unsettled.values() if not any(map(self._serves, tasks)) and not _never_ran(tasks))
        order = list(unsettled.items())
        if self.service.held and order:  # the first tells why; some others are asked with it, and the next time others
            turn = 1 + int(self.now // HELD_SECONDS) * (HELD_TRIES - 1) % len(order)
            order[1:] = [*order[turn:], *order[1:turn]]
        for number, tasks in order:
            if len(self.writes) > WRITES_PER_PLAN:
                break  # the rest is for the next look
            broken += self._step_slot(number, tasks, broken, chance)
        self.held = "" if self.changes else self.held
        if self.held:
            self._look_again(HELD_SECONDS)
        if self.held != self.service.held and len(self.writes) <= WRITES_PER_PLAN:
            news = self.held if not self.service.held else ""
            why = f"is not changed further, and what runs goes on: {news}" if news else ""
            self.writes.append(self.cache.change(self.service, replace(self.service, held=self.held), why))
        return self._plan()

    def _slots(self) -> list[int]:
        """The numbers of the slots that count. When some must go, those whose loss leaves the others spread best."""
        wanted = self.service.spec.replicas
        if not wanted:
            return slots_of(self.service, self.tasks)
        live = [task for task in self.tasks if task.live]
        serving = [task for task in live if self._serves(task)] if len(live) > wanted else []
        too_many = len(serving) - wanted
        if too_many <= 0:
            return slots_of(self.service, self.tasks)
        go = victims(serving, too_many, self.cache.board, request_for(self.service, self.cache))
        return slots_of(self.service, self.tasks, {task.slot for task in go})

    def _is_settled(self, tasks: list[Task]) -> bool:
        """Whether nothing is to be done about a slot, which is so of nearly all of them, nearly always."""
        if not tasks or len(tasks) > 2 or any(one.live for one in tasks[:-1]):
            return False
        task, cache = tasks[-1], self.cache
        runs = task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING
        stays = task.node in cache.nodes and task.node not in cache.closed and task.placed_by == self.rules
        return runs and stays and is_wanted(task, self.service)

    def _step_slot(self, number: int, tasks: list[Task], broken: int, chance: random.Random) -> int:
        """One step for one slot; returns 1 if it takes away a task that served."""
        ended = sorted((one for one in tasks if not one.live), key=lambda one: next_at(one, self.service) is None)
        for task in ended[:-1]:  # only the last one is kept, for its logs
            self._retire(task, DesiredState.REMOVED, "")
        live = [task for task in tasks if task.live]
        leaving = {task.id: why for task in live if (why := self._must_move(task))}
        staying = [task for task in live if task.id not in leaving]
        if ended and next_at(ended[-1], self.service) is None and not any(task.node for task in staying):
            for task in live:  # its node was away, or was to be emptied, when the last one ended
                self._retire(task, DesiredState.REMOVED, "the work of its slot is over")
            return 0
        if not staying:
            if all(map(self._can_move, live)):
                self._start(number, tasks[-1] if tasks else None, chance, next(iter(leaving.values()), ""))
                return 0
            staying, leaving = live, {}
        newest = ([task for task in staying if task.node and task.desired_state is DesiredState.RUNNING] or staying)[-1]
        for task in staying:
            if task is not newest:
                goal = DesiredState.SHUTDOWN if task.node else DesiredState.REMOVED
                self._retire(task, goal, f"{newest.id} has slot {number}")
        for task in (one for one in live if one.id in leaving):
            first = not broken and stands_in_the_way(task, newest, self.service, self.cache)
            if first or self._serves(newest) or (newest.node and self._is_away(task)):
                self._retire(task, DesiredState.SHUTDOWN, leaving[task.id])
                if first:
                    return 1
        if newest.desired_state is not DesiredState.RUNNING:
            self._retire(newest, DesiredState.SHUTDOWN, "")
        elif why := self._is_outdated(newest):
            if not self._serves(newest) or self._goes_on(newest, broken):
                why = why_not_stay(newest, self.service, self.cache) if why == MISPLACED else why
                self._retire(newest, DesiredState.SHUTDOWN, why)
                self.changes = True
                return 1
        elif newest.node and newest.placed_by != self.rules and not self._is_away(newest):
            self.writes.append(self.cache.change(newest, replace(newest, placed_by=self.rules)))
        return 0

    def _goes_on(self, task: Task, broken: int) -> bool:
        """Whether a task that serves may be stopped: no other is down, and its successor would start. While one is down
        it is asked once all the same if the service is held, so that what is told stays true.
        """
        if self.tries >= (HELD_TRIES if not broken else bool(self.service.held)):
            return False
        self.tries += 1
        follows, why = would_follow(task, self.service, self.cache, self.now)
        self.held = self.held or why
        if not (follows or why or broken):
            self._look_again(SOON_SECONDS)
        return follows and not broken

    def _is_outdated(self, task: Task) -> str:
        """Why a task is to be replaced by another one; empty if it is as the service says now.

        Rules for its place bind it when *they* have changed, not when a label has. One that they forbid the node of its
        volume finds no other, so it is held.
        """
        if not is_wanted(task, self.service):
            return "restarted by hand" if task.spec == self.service.spec.task else "the spec has changed"
        if task.status.state is TaskState.DRAINING:  # it was told to, by a store that has been restored since
            return "it has left traffic and nobody wants that any more"
        if not task.node or task.placed_by == self.rules or self._is_away(task):
            return ""
        if self.service.spec.restart.condition is not Restart.ANY:
            return ""
        return "" if may_stay(task, self.service, self.cache) else MISPLACED

    def _give_up_lost(self) -> None:
        """A task whose node was removed, or is down for a day, is LOST."""
        nodes, closed = self.cache.nodes, self.cache.closed
        for task in self.tasks:
            there = task.node in nodes and task.node not in closed  # and the same once more for the others, in full
            if there or not (task.live and task.node and self._is_away(task)):
                continue
            node = self.cache.nodes.get(task.node)
            left = node.state_since + LOST_SECONDS - self.now if node else 0.0
            if left > 0:
                self._look_again(left)
                continue
            message = f"{task.node} {'was removed' if node is None else 'is down for a day'}"
            status = replace(task.status, state=TaskState.LOST, message=message, since=self.now)
            self.writes.append(self.cache.change(task, replace(task, status=status), f"lost: {message}"))

    def _is_away(self, task: Task) -> bool:
        """Whether nobody knows what a task that has a node does now."""
        node = self.cache.nodes.get(task.node)
        return node is None or node.state is NodeState.DOWN

    def _must_move(self, task: Task) -> str:
        """Why a live task should be on another node; empty if it is well where it is. Jobs may finish their work."""
        node = self.cache.nodes.get(task.node)
        if node is not None and node.state is NodeState.DOWN:
            return f"{node.name} is down"
        if node is not None and node.availability is Availability.DRAIN and task.desired_state is DesiredState.RUNNING:
            return f"{node.name} is drained" if self.service.spec.restart.condition is Restart.ANY else ""
        return ""

    def _can_move(self, task: Task) -> bool:
        """Whether a successor may run before this task is known to have ended, and might find a place."""
        if volumes_of(task):
            return False
        if self._is_away(task) and task.spec.stop_after_seconds:
            stopped = task.spec.stop_after_seconds + task.spec.stop_grace_seconds + STOP_MARGIN_SECONDS
            left = stopped - self.liveness.silent_for(task.node)
            if left > 0:
                self._look_again(left)
                return False
        return any(node.takes_work for node in self.cache.nodes.values() if node.name != task.node)

    def _serves(self, task: Task) -> bool:
        """Whether a task does its part: it takes traffic, or its work is done."""
        if is_done(task, self.service):
            return True
        runs = task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING
        return runs and not self._is_away(task)

    def _start(self, number: int, last: Task | None, chance: random.Random, why: str = "") -> None:
        """A new task for an empty slot, unless nothing follows its last one, or it must rest after failures."""
        same = last is not None and is_wanted(last, self.service)
        attempt = 0
        if last is not None and not last.live:
            at = next_at(last, self.service)
            if at is None:
                return
            if self._is_to_come(at, max(BACKOFF_LIMIT_SECONDS, self.service.spec.restart.delay_seconds)):
                self._look_again(at - self.now)
                return
            attempt = failures_in_a_row(last) if same else 0
        task = Task(
            id=new_id(chance),
            app=self.service.app,
            service=self.service.name,
            slot=number,
            spec=self.service.spec.task,
            created_at=max(self.now, last.created_at + 0.001) if last else self.now,  # a slot's tasks have an order
            desired_since=self.now,
            status=Status(since=self.now),
            attempt=attempt,
            round=self.service.round,
            networks=self.service.spec.networks,
            internal=self.service.spec.internal,
            failures=failures_until(last) if last is not None and same else (),
        )
        why = f"created in place of {_fate(last)}" if last and attempt else f"created: {why}" if why else "created"
        since = Versioned(last, self.cache.modified(last)) if last and last.live else None  # it may have ended by now
        self.writes.append(Write(task, 0, why=why, since=since))

    def _retire(self, task: Task, goal: DesiredState, why: str) -> None:
        """The next step on a task's way out: out of traffic, then stopped, then (goal REMOVED) gone.

        Out of traffic first even if its node is down: it may be back, unknown to us, before anything is written.
        """
        if task.live and task.desired_state is DesiredState.RUNNING and task.status.state is TaskState.RUNNING:
            self._desire(task, DesiredState.DRAINING, f"taken out of traffic: {why}")
            return
        if not task.node or (goal is DesiredState.REMOVED and self._is_away(task)):
            # No agent has ever seen it; or that agent, once it is back, removes what it finds and we do not know.
            if goal is DesiredState.REMOVED:
                self.writes.append(self.cache.erase(task, f"removed: {why}" if why else ""))
            elif task.live:
                status = replace(task.status, state=TaskState.SHUTDOWN, message=why, since=self.now)
                self.writes.append(self.cache.change(task, replace(task, status=status), f"stopped: {why}"))
            return
        if task.desired_state is DesiredState.REMOVED:
            if not task.live and not task.status.container_id:
                self.writes.append(self.cache.erase(task))
            return
        if task.desired_state is DesiredState.SHUTDOWN and goal is DesiredState.SHUTDOWN:
            return
        if task.live and task.desired_state is DesiredState.DRAINING and not self._drained(task):
            self._look_again(max(0.0, task.desired_since + DRAIN_LIMIT_SECONDS - self.now))
            return
        self._desire(task, goal, f"stop: {why}" if why and task.live else "")

    def _desire(self, task: Task, goal: DesiredState, why: str) -> None:
        changed = replace(task, desired_state=goal, desired_since=self.now)
        self.writes.append(self.cache.change(task, changed, why))

    def _drained(self, task: Task) -> bool:
        """True when no ready node can send traffic to the task any more, or when we have waited long enough."""
        if not self._is_to_come(task.desired_since + DRAIN_LIMIT_SECONDS, DRAIN_LIMIT_SECONDS):
            return True
        endpoints = self.cache.endpoints.get(self.service.key)
        if endpoints is None:
            return True
        if any(backend.task == task.id and backend.ready for backend in endpoints.backends):
            return False
        known = self.cache.modified(endpoints)
        app, published = self.service.app, bool(endpoints.ports)
        return not any(  # only a node with tasks of the app hears of what has no published ports
            published or any(one.app == app for one in self.cache.tasks_on(node.name))
            for node in self.cache.nodes.values()
            if node.state is NodeState.READY and self.liveness.applied_revision(node.name, published=published) < known
        )

    def _is_to_come(self, at: float, wait_seconds: float) -> bool:
        """Whether a wait of at most so many seconds has not ended yet. If it seems to last twice as long, the wall
        clock was set back, or another server's is wrong, and who believed it would wait for an hour.
        """
        return self.now < at <= self.now + 2 * wait_seconds

    def _look_again(self, seconds: float) -> None:
        self.again = seconds if self.again is None else min(self.again, seconds)

    def _plan(self) -> Plan:
        if len(self.writes) > WRITES_PER_PLAN:
            return Plan(self.writes[:WRITES_PER_PLAN], 0.0)
        rest = len(self.tasks) * REST_SECONDS
        if self.held:  # all nodes were asked, and each that changes will have it asked again
            dear = HELD_REST_SECONDS * len(self.cache.nodes) * max(1, len(self.cache.held))
            rest = max(rest, min(dear, HELD_REST_LIMIT))
        return Plan(self.writes, self.again, rest)


def _never_ran(tasks: list[Task]) -> bool:
    """Whether a slot is new, and what is wanted in it has found no node: nothing that is wrong with the others."""
    return any(task.live for task in tasks) and not any(one.node or one.status.state is TaskState.NEW for one in tasks)


def _fate(task: Task) -> str:
    """`k3m9x2ab, which failed (exit code 1)`."""
    verbs = {TaskState.FAILED: "failed", TaskState.COMPLETE: "ended"}
    why = f" ({task.status.message})" if task.status.message else ""
    return f"{task.id}, which {verbs.get(task.status.state, 'was rejected')}{why}"
