"""Services to tasks: every slot of a service has exactly one live task with the service's newest spec, or is done.

The problem: tasks die, specs change, replicas come and go, and each of these may happen at any step of another. The
idea: no memory of what we were doing. Look at the tasks of one service and ask of each slot: is there a live task? is
it the right one? may I take one away now? The answers are at most one small step per slot, and the next look takes the
next step. Three rules keep people happy:

- a slot's next task waits until its last one has truly ended, so a volume never has two writers;
- a changed spec replaces one slot at a time, and only while all the others serve;
- a task leaves DNS, VIP and HAProxy (DRAINING) before it is told to stop.

Which ended tasks get a successor at all, and when, is said in `miniorch/slots.py`.

Who does this for real: swarmkit's replicated orchestrator, updater and restart supervisor, in one page. Where we
differ: stop-first only. Next file: `miniorch/controllers/placement.py`.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

from miniorch.clock import new_id
from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.loop import WRITES_PER_PLAN, Plan
from miniorch.model import (
    DesiredState,
    Endpoints,
    Node,
    Service,
    Status,
    Task,
    TaskState,
)
from miniorch.slots import BACKOFF_LIMIT_SECONDS, failures_in_a_row, is_done, is_wanted, next_at
from miniorch.state.records import Write

DRAIN_LIMIT_SECONDS = 5.0  # then a task stops even if some node still sends it traffic


class Services:
    """The controller of services and of their tasks' `desired_state`. Keys are `app/service`."""

    name = "services"

    def __init__(self, liveness: Liveness, chance: random.Random) -> None:
        self._liveness = liveness
        self._chance = chance

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case Service() | Endpoints():
                return (item.key,)
            case Task():
                return (item.service_key,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
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
        self.writes: list[Write] = []
        self.again: float | None = None

    def plan_removal(self) -> Plan:
        """Every task goes; then the service itself."""
        for task in self.tasks:
            self._retire(task, DesiredState.REMOVED, "the app is being removed")
        if not self.tasks:
            self.writes.append(self.cache.erase(self.service, "removed"))
        return self._plan()

    def plan_slots(self, chance: random.Random) -> Plan:
        """One step for each slot that is not as it should be."""
        slots: dict[int, list[Task]] = {number: [] for number in range(1, self.service.spec.replicas + 1)}
        for task in self.tasks:
            if task.slot in slots:
                slots[task.slot].append(task)
            else:
                self._retire(task, DesiredState.REMOVED, f"only {self.service.spec.replicas} wanted")
        broken = sum(1 for tasks in slots.values() if not any(map(self._serves, tasks)))
        for number, tasks in slots.items():
            if len(self.writes) > WRITES_PER_PLAN:
                break  # the rest is for the next look
            broken += self._step_slot(number, tasks, broken, chance)
        return self._plan()

    def _step_slot(self, number: int, tasks: list[Task], broken: int, chance: random.Random) -> int:
        """One step for one slot; returns 1 if it takes away a task that served."""
        ended = [task for task in tasks if not task.live]
        for task in ended[:-1]:  # only the last one is kept, for its logs
            self._retire(task, DesiredState.REMOVED, "")
        live = [task for task in tasks if task.live]
        if not live:
            self._start(number, ended[-1] if ended else None, chance)
            return 0
        newest = live[-1]
        for task in live[:-1]:  # never meant to be; heals itself
            self._retire(task, DesiredState.SHUTDOWN, f"slot {number} has a newer task")
        if newest.desired_state is not DesiredState.RUNNING:
            self._retire(newest, DesiredState.SHUTDOWN, "")
        elif not is_wanted(newest, self.service) and (broken == 0 or not self._serves(newest)):
            why = "restarted by hand" if newest.spec == self.service.spec.task else "the spec has changed"
            self._retire(newest, DesiredState.SHUTDOWN, why)
            return 1
        return 0

    def _serves(self, task: Task) -> bool:
        """Whether a task does its part: it takes traffic, or its work is done."""
        if is_done(task, self.service):
            return True
        return task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING

    def _start(self, number: int, last: Task | None, chance: random.Random) -> None:
        """A new task for an empty slot, unless nothing follows its last one, or it must rest after failures."""
        attempt = 0
        if last is not None:
            at = next_at(last, self.service)
            if at is None:
                return
            if self._is_to_come(at, max(BACKOFF_LIMIT_SECONDS, self.service.spec.restart.delay_seconds)):
                self._look_again(at - self.now)
                return
            attempt = failures_in_a_row(last) if is_wanted(last, self.service) else 0
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
        )
        self.writes.append(Write(task, 0, why=f"created in place of {_fate(last)}" if last and attempt else "created"))

    def _retire(self, task: Task, goal: DesiredState, why: str) -> None:
        """The next step on a task's way out: out of traffic, then stopped, then (goal REMOVED) gone."""
        if not task.node:  # no agent has ever seen it: nothing to stop
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
        if task.live and task.desired_state is DesiredState.RUNNING and task.status.state is TaskState.RUNNING:
            self._desire(task, DesiredState.DRAINING, f"taken out of traffic: {why}")
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
        nodes: list[Node] = [node for node in self.cache.nodes.values() if node.ready]
        return all(self.liveness.applied_revision(node.name) >= known for node in nodes)

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
        return Plan(self.writes, self.again)


def _fate(task: Task) -> str:
    """`k3m9x2ab, which failed (exit code 1)`."""
    verbs = {TaskState.FAILED: "failed", TaskState.COMPLETE: "ended"}
    why = f" ({task.status.message})" if task.status.message else ""
    return f"{task.id}, which {verbs.get(task.status.state, 'was rejected')}{why}"
