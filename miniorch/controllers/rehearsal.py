"""What would happen, found out by letting it happen to a copy.

The problem: a second program that foretells what the first one does is wrong as soon as the first one changes. The
idea: the controllers are pure, so the very same ones run here, over a copy of the state and a time that is only a
number. The agents are played by one obliging function: what is assigned runs at once, what is to stop stops at once. It
goes on until nothing changes any more; then the copy *is* the answer. `miniorch plan` and `miniorch what-if` read it.
The server that is asked has other work, too: what would take it more than some seconds (thousands of tasks of one
service that are replaced one after the other) is given up.

What it does not know is what only reality knows: images that cannot be had, programs that fail. Who does this for real:
Nomad's `plan` runs its scheduler over a snapshot with a change put in. Next file: `miniorch/api/whatif.py`.
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace

from miniorch.clock import SystemClock
from miniorch.controllers.cache import Cache
from miniorch.controllers.endpoints import Reachability
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.loop import Controller
from miniorch.controllers.placement import Placer
from miniorch.controllers.services import Services
from miniorch.model import KINDS, DesiredState, NodeState, Task, TaskState
from miniorch.spec import Restart
from miniorch.state.records import Write

HORIZON_SECONDS = 150.0  # of its own time: longer than any rest or drain
MOST_WORK = 1_500_000  # tasks looked at, and ten for each write: five to ten seconds
STATE = ("services", "tasks", "nodes", "volumes", "endpoints")  # kinds that the controllers decide by


class _Obliging(Liveness):
    """Every node has applied everything; one that is down has been silent for long."""

    def silent_for(self, node: str) -> float:
        return float("inf")

    def applied_revision(self, node: str, *, published: bool) -> int:
        return 2**62


class Rehearsal:
    """A copy of the state in which the controllers act and agents oblige."""

    def __init__(self, cache: Cache, edits: Iterable[object], now: float) -> None:
        """`edits` are objects that are written into the copy first."""
        items = [item for kind in STATE for item in getattr(cache, kind).values()]
        self.cache = Cache.holding(*items)
        self._now = now
        self._until = now + HORIZON_SECONDS
        chance = random.Random(cache.revision)
        self._controllers: tuple[Controller, ...] = (
            Services(_Obliging(SystemClock()), chance),
            Placer(),
            Reachability(),
        )
        self._queue: dict[tuple[int, str], None] = {}
        self._later: dict[tuple[int, str], float] = {}
        self._touched: dict[str, None] = {}  # tasks that an agent has not looked at yet
        self.work = 0
        for item in edits:
            self._put(Write(item, 0))

    async def settle(self) -> bool:
        """Let everything happen that follows; False if that is too much. Others get their turn after each step."""
        for kind in KINDS:
            for item in getattr(self.cache, kind).values():
                self._changed(item, False)
        while self.work <= MOST_WORK and self._step():  # noqa: ASYNC110 (nothing is waited for: others may go on)
            await asyncio.sleep(0)
        return self.work <= MOST_WORK

    def _step(self) -> bool:
        for id in list(self._touched):
            del self._touched[id]
            if (task := self.cache.tasks.get(id)) is not None and (seen := self._obliged(task)) != task:
                self._put(Write(seen, 0))
        if not self._queue:
            due = min(self._later.values(), default=self._until)
            if due >= self._until:
                return False
            self._now = max(self._now, due)
            for name in [name for name, at in self._later.items() if at <= due]:
                del self._later[name]
                self._queue[name] = None
        number, key = next(iter(self._queue))
        del self._queue[number, key]
        plan = self._controllers[number].plan(key, self.cache, self._now)
        self.work += 1 + self.cache.count_of(key) + 10 * len(plan.writes)
        for write in plan.writes:
            self._put(write)
        self._queue |= dict.fromkeys((number, other) for other in plan.others)
        if plan.again_in_seconds is not None:
            self._later[number, key] = self._now + plan.again_in_seconds
        return True

    def _put(self, write: Write) -> None:
        self.cache.write(write.item, self.cache.revision + 1, self._changed, erase=write.erase)

    def _changed(self, item: object, gone: bool) -> None:
        for number, controller in enumerate(self._controllers):
            for key in controller.keys(item, gone):
                self._queue[number, key] = None
        if isinstance(item, Task) and not gone:
            self._touched[item.id] = None

    def _obliged(self, task: Task) -> Task:
        """A task as its agent leaves it, if there is one."""
        node, status = self.cache.nodes.get(task.node), task.status
        if node is None or node.state is not NodeState.READY or not node.ready:
            return task
        if task.desired_state in (DesiredState.SHUTDOWN, DesiredState.REMOVED):
            state = TaskState.SHUTDOWN if task.live else status.state
            return replace(task, status=replace(status, state=state, container_id="", since=self._now))
        if status.state in (TaskState.ASSIGNED, TaskState.PREPARING, TaskState.STARTING):
            service = self.cache.services.get(task.service_key)
            works = service is not None and service.spec.restart.condition is not Restart.ANY
            state = TaskState.COMPLETE if works else TaskState.RUNNING
            return replace(task, status=replace(status, state=state, message="", since=self._now))
        return task
