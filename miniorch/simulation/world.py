"""A whole cluster on virtual time: one seed, one history.

The problem: the bugs that matter need three things to go wrong in one second. The idea: build the real server, the real
agents and the real scheduler over a memory store, fake engines and a bad network; draw the faults of a whole run from
the seed beforehand; and whenever time is about to pass, compare what is with what must be (`invariants.py`). The first
broken promise ends the run with the moment, the sentence and the seed that shows it again.

A process that crashes is cancelled, and its cable is cut first, so that it cannot say goodbye. What it had asked of the
server or an engine goes on there: that is where the interesting races are.

Who does this for real: FoundationDB, TigerBeetle (vopr.zig), Antithesis. Where we differ: a run takes a second, and the
code under test is unchanged Python.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from agent.agent import Agent
from miniorch.client import Transport, mirror
from miniorch.errors import MiniorchError, Temporary
from miniorch.model import Endpoints, Event
from miniorch.server import Server
from miniorch.simulation.engine import FakeEngine
from miniorch.simulation.invariants import ALWAYS, AT_REST, History, Picture, broken
from miniorch.simulation.loop import VirtualClock, VirtualLoop, run
from miniorch.simulation.machine import Machine
from miniorch.simulation.network import SimTransport, Wire
from miniorch.state.memory import MemoryStore
from miniorch.state.records import from_entry


class PromiseBroken(AssertionError):
    """An invariant does not hold. The message tells when, what, and the last events before."""


class World:
    """A store, a server, a network, and nodes with an engine, an agent and a net process each."""

    def __init__(self, seed: int, nodes: int = 1, engine: type[FakeEngine] = FakeEngine) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        disk = self.chance("disk")
        self.store = MemoryStore(lambda: disk.uniform(0.0, 0.01))
        self.wire = Wire(self.chance("network"))
        self.user = SimTransport(self.wire)
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.machines = {node: Machine(self.clock, self.chance(node), engine) for node in self.nodes}
        self.log: list[str] = []
        self._running: dict[str, asyncio.Task[None]] = {}  # process -> its life
        self._lines: dict[str, SimTransport] = {}  # process -> its cable
        self._starts = 0
        self._history = History()
        self._seen: tuple[int, ...] = ()
        self._told: set[str] = set()  # events in the log
        self._digest = hashlib.sha256()

    def chance(self, name: str) -> random.Random:
        """A generator of its own for each part, so that one part's rolls do not shift another's."""
        return random.Random(f"{self.seed} {name}")

    @property
    def processes(self) -> list[str]:
        return ["server", *(f"{kind} {node}" for node in self.nodes for kind in ("agent", "net"))]

    async def begin(self) -> None:
        """Start every process and watch over the promises from now on."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.clockwork.before_time_passes = self._look
        for process in self.processes:
            self.restart(process)

    async def end(self) -> str:
        """Stop looking and stop everything. Returns the digest of the whole history."""
        self.check(AT_REST)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.clockwork.before_time_passes = lambda: None
        for process in reversed(self.processes):
            await self.crash(process)
        await self.store.close()
        return self._digest.hexdigest()

    async def crash(self, process: str) -> None:
        """kill -9. A process that is down already stays down."""
        life, line = self._running.pop(process, None), self._lines.pop(process, None)
        if life is None:
            return
        self.note(f"{process} is killed")
        if line is not None:
            line.cut = True
        if process == "server":
            await self.wire.down()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)

    def restart(self, process: str) -> None:
        """Start a process that is down; nothing if it runs."""
        if process in self._running:
            return
        self.note(f"{process} starts")
        self._starts += 1
        chance = self.chance(f"{process}, start {self._starts}")
        life = self._serve(chance) if process == "server" else self._live(process, chance)
        self._running[process] = asyncio.get_running_loop().create_task(life, name=process)

    def cut(self, node: str, away: bool) -> None:
        """Pull a node's cable to the server, or plug it in again."""
        self.note(f"{node} is {'cut off' if away else 'connected again'}")
        for process, line in self._lines.items():
            if process.endswith(f" {node}"):
                line.cut = away

    async def _serve(self, chance: random.Random) -> None:
        server = Server(self.store, self.clock, chance)
        await server.prepare()
        self.wire.up(server.handlers)
        await server.run()

    async def _live(self, process: str, chance: random.Random) -> None:
        kind, node = process.split()
        line = self._lines[process] = SimTransport(self.wire)
        if kind == "agent":
            machine = self.machines[node]
            await Agent(line, machine.engine, machine.ingress, node, self.clock, chance, machine.files).run()
        else:
            await net_main(node, line)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """A user's request, repeated until the server answers."""
        while True:
            try:
                return await self.user.request(method, path, body)
            except Temporary:
                await asyncio.sleep(0.5)

    # Watching

    def picture(self) -> Picture:
        return Picture.take(self.store.snapshot("/"), self.machines)

    def check(self, promises: tuple[Callable[[Picture], list[str]], ...] = ALWAYS) -> None:
        """Raises `PromiseBroken`."""
        world = self.picture()
        self._fail(broken(world, promises) + self._history.look(world))

    def _look(self) -> None:
        """Time is about to pass: has anything changed, and is everything as it must be?"""
        for process, life in self._running.items():
            if life.done() and not life.cancelled():
                self._fail([f"{process} ended by itself: {life.exception()!r}"])
        seen = (self.store.snapshot("/cluster").revision, *(one.engine.steps for one in self.machines.values()))
        if seen == self._seen:
            return
        self._seen = seen
        self._digest.update(f"{self.clock.monotonic():.6f} {seen}\n".encode())
        for entry in self.store.snapshot("/events/").entries:
            if entry.key not in self._told:
                self._told.add(entry.key)
                event: Event = from_entry(entry)
                self.note(f"{event.subject}: {event.message}")
        self.check()

    def note(self, line: str) -> None:
        self.log.append(f"{self.clock.monotonic():8.3f}  {line}")
        self._digest.update(self.log[-1].encode())

    def _fail(self, sentences: list[str]) -> None:
        if sentences:
            told = "\n".join(self.log[-40:])
            when = f"at {self.clock.monotonic():.3f} s of seed {self.seed}"
            raise PromiseBroken(f"{when}: {'; '.join(sentences)}\nwhat happened before:\n{told}")


async def net_main(node: str, transport: Transport) -> None:
    """A net process without a kernel: it follows the endpoints and says so, as `netplugin` does."""
    async for snapshot in mirror(transport, Endpoints):
        await asyncio.sleep(0.05)
        try:
            body = {"component": "net", "revision": snapshot.revision}
            await transport.request("POST", f"/v1/nodes/{node}/applied", body)
        except MiniorchError:
            continue  # the next snapshot says it again


def simulate(
    seed: int, story: Callable[[World], Awaitable[None]], nodes: int = 1, engine: type[FakeEngine] = FakeEngine
) -> str:
    """Run a story in a world of this seed; the digest of its history. Raises `PromiseBroken`."""

    async def whole() -> str:
        world = World(seed, nodes, engine)
        await world.begin()
        await story(world)
        return await world.end()

    return run(whole(), seed=seed, until=100_000)
