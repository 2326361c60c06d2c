"""Running health checks: one small loop per container, with `agent/health.py` as its judge."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from agent.engine import Container, Engine
from agent.health import Health
from miniorch.clock import Clock
from miniorch.ending import ended
from miniorch.errors import EngineError
from miniorch.model import Task, TaskState
from miniorch.spec import HealthCheck


class Probes:
    """All health checks of this node. `changed` is called when a result may matter."""

    def __init__(self, engine: Engine, clock: Clock, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._changed = changed
        self._health: dict[str, Health] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}

    @property
    def health(self) -> Mapping[str, Health]:
        """What is known of each task whose container is probed."""
        return self._health

    def begin(self, task: Task, container: Container) -> None:
        """Probe from now on. A task that was RUNNING when we found it has passed before.

        One that an agent before us started begins its `start_period_seconds` anew: how old it is only a wall clock of
        another machine could say.
        """
        check = task.spec.healthcheck
        assert check is not None
        passed = task.status.state.order > TaskState.STARTING.order
        self._health[task.id] = Health(check, self._clock.monotonic(), healthy=passed)
        self._loops[task.id] = asyncio.create_task(self._loop(task.id, container.id, check), name=f"probe {task.id}")

    def keep_only(self, tasks: Collection[str]) -> None:
        """End the probes of all other tasks."""
        for gone in [key for key in self._loops if key not in tasks]:
            self._loops.pop(gone).cancel()
            del self._health[gone]

    async def close(self) -> None:
        loops = list(self._loops.values())
        self.keep_only(())
        await ended(*loops)

    async def _loop(self, task: str, container: str, check: HealthCheck) -> None:
        while True:
            before = self._health[task]
            try:
                result = await self._engine.run_in(container, check.test, check.timeout_seconds)
                after = before.after(result.exit_code == 0, result.output, self._clock.monotonic())
            except EngineError as error:
                # Docker away says nothing about the container; a command that hangs or cannot be run does.
                after = before if error.temporary else before.after(False, error.message, self._clock.monotonic())
            self._health[task] = after
            if (after.healthy, after.verdict) != (before.healthy, before.verdict):
                self._changed()
            if after.verdict:
                return
            await asyncio.sleep(after.pause_seconds(self._clock.monotonic()))
