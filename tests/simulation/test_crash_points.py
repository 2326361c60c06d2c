"""The server is killed before and after each single write of an app's life, and all ends where it would have.

Every write is a place at which the server may die, and none may matter: who starts next sees what is written and goes
on from there. So the writes of a quiet deployment and removal are counted, and the same is run twice for each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from whole_run import simulate

from miniorch.codec import to_plain
from miniorch.errors import NotFound, Unreachable
from miniorch.model import App, Endpoints, Service, Task, TaskState, Volume
from miniorch.simulation.day import dockchat
from miniorch.simulation.loop import on_behalf_of
from miniorch.simulation.store import PARTY, WRITER
from miniorch.simulation.world import World
from miniorch.state.records import from_entry
from miniorch.state.store import Operation

SERVER = "server1"
SEED = 4
DEAD_SECONDS = 0.5
TIMES = ("before", "after")


class Writes:
    """Counts what servers write, and kills the server at write `number` (from 1; 0: never)."""

    def __init__(self, world: World, number: int, time: str) -> None:
        self.count = 0
        self.killed: asyncio.Task[None] | None = None
        self._world = world
        self._number = number
        self._time = time
        self._really_write = world.store._write
        world.store._write = self._write  # type: ignore[method-assign]

    def _write(self, operations: Sequence[Operation]) -> int:
        if WRITER.get(None) is None:  # the end of a lease
            return self._really_write(operations)
        self.count += 1
        if self.count != self._number:
            return self._really_write(operations)
        self._world.part(SERVER, PARTY)  # whatever comes of it, the server does not hear of it
        self.killed = asyncio.get_running_loop().create_task(self._kill(), context=on_behalf_of("user"))
        if self._time == "before":
            raise Unreachable("the server has died")
        return self._really_write(operations)

    @property
    def settled(self) -> bool:
        """No server is dead at this moment."""
        return self.killed is None or self.killed.done()

    async def _kill(self) -> None:
        await self._world.crash(SERVER)
        await asyncio.sleep(DEAD_SECONDS)
        self._world.join(SERVER, PARTY)
        self._world.restart(SERVER)


def objects(world: World, kind: str) -> list[Any]:
    return [from_entry(entry) for entry in world.store.snapshot(f"/{kind}/").entries]


def runs(world: World) -> bool:
    """Everything that was asked for runs."""
    tasks: list[Task] = objects(world, "tasks")
    wanted = sum(service.spec.replicas for service in objects(world, "services"))
    running = sum(task.status.state is TaskState.RUNNING for task in tasks)
    backends = sum(backend.ready for one in objects(world, "endpoints") for backend in one.backends)
    return bool(tasks) and running == len(tasks) == wanted == backends


def end_state(world: World) -> list[object]:
    """What users can tell apart: everything but identifiers, addresses and times."""
    state: list[object] = []
    for kind in ("apps", "services", "tasks", "endpoints", "volumes"):
        for item in objects(world, kind):
            match item:
                case App():
                    state.append((item.name, item.volumes, item.removing))
                case Service():
                    state.append((item.key, item.spec, item.vip, item.round))
                case Task():
                    state.append((item.service_key, item.slot, item.spec, item.node, item.status.state))
                case Endpoints():
                    state.append((item.key, item.ports, [(one.slot, one.ready) for one in item.backends]))
                case Volume():
                    state.append((item.key, item.node))
    for node, machine in world.machines.items():
        boxes = [box for box in machine.engine.boxes.values() if box.state == "running"]
        state.append((node, sorted(box.spec.name.rpartition("-")[0] for box in boxes)))
    return sorted(state, key=str)


def is_gone(world: World) -> bool:
    """Nothing is left."""
    kinds = ("apps", "services", "tasks", "endpoints", "volumes", "releases")
    boxes = [box for machine in world.machines.values() for box in machine.engine.boxes.values()]
    return not boxes and not any(objects(world, kind) for kind in kinds)


def life(number: int, time: str) -> tuple[int, list[object]]:
    """How many writes it takes to deploy an app and to remove it, and how it was in between."""
    result: list[tuple[int, list[object]]] = []

    async def story(world: World) -> None:
        writes = Writes(world, number, time)
        await world.ask("PUT", "/v1/apps/dockchat", to_plain(dockchat()))
        async with asyncio.timeout(300):
            while not runs(world) or not writes.settled:
                await asyncio.sleep(0.5)
        await asyncio.sleep(6.0)  # proxies and DNS follow; a heartbeat finds nothing new
        state = end_state(world)
        with contextlib.suppress(NotFound):  # the server died and the app was gone before it could answer
            await world.ask("DELETE", "/v1/apps/dockchat?volumes=1")
        async with asyncio.timeout(300):
            while not is_gone(world) or not writes.settled:
                await asyncio.sleep(0.5)
        assert (writes.killed is not None) is (number > 0)
        result.append((writes.count, state))

    simulate(SEED, story, nodes=1)
    return result[0]


WRITES, STATE = life(0, "")


def test_a_life_has_many_writes() -> None:
    assert WRITES > 30
    assert len(STATE) > 8


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_a_server_killed_at_any_write_ends_where_it_would_have(number: int, time: str) -> None:
    assert life(number, time)[1] == STATE
