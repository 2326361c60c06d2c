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
import random
from collections.abc import Callable
from typing import Any

from agent.agent import Agent
from agent.contact import BEAT_TIMEOUT_SECONDS
from miniorch.client import Transport, mirror
from miniorch.codec import from_plain
from miniorch.ending import end, ended
from miniorch.errors import MiniorchError, Temporary
from miniorch.model import Endpoints
from miniorch.pool import DEFAULT_POOL
from miniorch.server import Server
from miniorch.servers import OneOf
from miniorch.simulation.engine import FakeEngine
from miniorch.simulation.invariants import AT_REST
from miniorch.simulation.loop import Chance, VirtualClock, VirtualLoop, on_behalf_of
from miniorch.simulation.machine import Machine
from miniorch.simulation.network import GOOD, SimTransport, Wire
from miniorch.simulation.store import FINE, PARTY, SharedStore, SimStore
from miniorch.simulation.witness import PromiseBroken, Witness
from miniorch.spec import AppSpec
from miniorch.transport import READ_TIMEOUT_SECONDS

__all__ = ["PromiseBroken", "World"]

RETRY_SECONDS, TOLD_SECONDS = 1.0, 2.0  # of a net process, as in `netplugin/main.py`
MANY_NODES = 200  # more do not start all at once, and need more subnets
BOOT_SECONDS = 0.005
WIDE_POOL = "10.128.0.0/9"
STILL_SECONDS = 1.0  # after so long without a change the end of a run is looked at
START_AGAIN_SECONDS = 1.0  # what systemd waits before it starts a server that could not start


class World(Witness):
    """A store, servers, a network, and nodes with an engine, an agent and a net process each."""

    def __init__(self, seed: int, nodes: int = 1, engine: type[FakeEngine] = FakeEngine, servers: int = 1) -> None:
        self.seed = seed
        self.wire = Wire(self.chance)
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.servers = [f"server{number}" for number in range(1, servers + 1)]
        self.clocks = {machine: VirtualClock() for machine in (*self.nodes, *self.servers)}
        machines = {node: Machine(self.clocks[node], self.chance(node), engine, node) for node in self.nodes}
        super().__init__(VirtualClock(), SharedStore(self.chance("store"), self.wire), machines)
        self.user = OneOf(self._line("user"))
        self._running: dict[str, asyncio.Task[None]] = {}  # process -> its life
        self._lines: dict[str, list[SimTransport]] = {}  # process -> its cables
        self._fallen: list[tuple[str, BaseException | None]] = []  # processes that ended by themselves
        self._paused: dict[str, None] = {}
        self._off: dict[str, None] = {}  # nodes without power

    def chance(self, name: str) -> random.Random:
        """A generator of its own for each part."""
        return Chance(self.seed, name)

    @property
    def processes(self) -> list[str]:
        return [*self.servers, *(f"{kind} {node}" for node in self.nodes for kind in ("agent", "net"))]

    async def begin(self) -> None:
        """Start every process and watch over the promises from now on."""
        self._loop.before_time_passes = self._look
        for process in self.processes:
            self.restart(process)
            if len(self.nodes) > MANY_NODES:
                await asyncio.sleep(BOOT_SECONDS)

    async def end(self) -> str:
        """Stop looking and stop everything. Returns the digest of the whole history."""
        self.look()
        for _ in range(100):  # a job that runs again and again is between two steps just now
            if self.clock.monotonic() - self._changed_at >= STILL_SECONDS:
                break
            await asyncio.sleep(STILL_SECONDS / 10)
            self.look()
        self.check(self.picture(), AT_REST)
        self._loop.before_time_passes = lambda: None
        for process in reversed(self.processes):
            await self.crash(process)
        await self.store.close()
        return self.digest

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """A user's request, repeated until a server answers."""
        incarnation, since = self.store.incarnation, self.store.head
        while True:
            try:
                answer = await self.user.request(method, path, body)
            except Temporary:
                await asyncio.sleep(0.5)
                continue
            if method == "PUT" and path.startswith("/v1/apps/") and incarnation == self.store.incarnation:
                app, asked = path.rpartition("/")[2], from_plain(AppSpec, body)
                self.look()  # it may have been written since the last look at a large world
                wrong = self.history.wishes.acknowledged(app, asked, since, answer["revision"])
                self.fail({"WhatWasAcknowledgedIsWritten": wrong})
            return answer

    # Faults: whatever begins has its own way to end, and `mend` ends all of it but clocks. A party is "user", a node, a
    # server or "store"; a machine is a node or a server; a process is "server1", "agent node1" or "net node1".

    async def crash(self, process: str) -> None:
        """kill -9. A process that is down already stays down."""
        life = self._running.pop(process, None)
        if life is None:
            return
        self.note(f"{process} is killed")
        for line in self._lines.pop(process, ()):
            line.cut = True
        if process in self.servers:
            await self.wire.down(process)
        life.cancel()
        if machine_of(process) not in self._paused:
            await ended(life)

    def restart(self, process: str) -> None:
        """Start a process that is down; nothing if it runs, or its machine has no power."""
        machine = machine_of(process)
        if process in self._running or machine in self._off:
            return
        self.note(f"{process} starts")
        chance = self.chance(process)
        life = self._serve(process, chance) if process in self.servers else self._live(process, chance)
        context = on_behalf_of(machine, "loops")
        task = asyncio.get_running_loop().create_task(life, name=process, context=context)
        task.add_done_callback(self._ended)
        self._running[process] = task
        if process.startswith("agent"):
            self.history.agent_started(machine)

    async def power_off(self, node: str) -> None:
        """Nothing runs on a node any more. What was on its disk is still there."""
        self.note(f"{node} loses its power")
        self.go_on(node)
        self._off[node] = None
        self.machines[node].power_off()
        for process in (f"agent {node}", f"net {node}"):
            await self.crash(process)

    def power_on(self, node: str) -> None:
        if node in self._off:
            self.note(f"{node} has power again")
            del self._off[node]
            self.machines[node].engine.power_on()
            for process in (f"agent {node}", f"net {node}"):
                self.restart(process)

    def pause(self, machine: str) -> None:
        """SIGSTOP for all of a machine's processes."""
        if machine not in self._off and machine not in self._paused:
            self.note(f"{machine} stands still")
            self._paused[machine] = None
            self._loop.freeze(machine)

    def go_on(self, machine: str) -> None:
        """SIGCONT: with all that it believed when it was stopped."""
        if machine in self._paused:
            self.note(f"{machine} goes on")
            del self._paused[machine]
            self._loop.thaw(machine)

    def part(self, one: str, other: str) -> None:
        """Requests do not arrive, nor do answers."""
        self.wire.block(one, other)
        self.wire.block(other, one)

    def join(self, one: str, other: str) -> None:
        self.wire.unblock(one, other)
        self.wire.unblock(other, one)

    def cut(self, node: str, away: bool) -> None:
        """Pull a node's cable to all servers, or plug it in again."""
        for server in self.servers:
            (self.part if away else self.join)(node, server)

    def mend(self) -> None:
        """Everything works from now on, and every process runs. Clocks stay as they are."""
        self.note("everything is mended")
        self.wire.weather, self.store.weather, self.store.full = GOOD, FINE, False
        self.store.thaw()
        parties = ["user", PARTY, *self.servers, *self.nodes]
        for source in parties:
            for target in parties:
                self.wire.unblock(source, target)
        for machine in self.machines.values():
            machine.engine.mend()
        for name in (*self.nodes, *self.servers):
            self.go_on(name)
        for node in self.nodes:
            self.power_on(node)
        for process in self.processes:
            self.restart(process)

    # How

    @property
    def _loop(self) -> VirtualLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and life in self._running.values():
            self._fallen.append((life.get_name(), life.exception()))

    def _look(self) -> None:
        for process, error in self._fallen:
            if isinstance(error, PromiseBroken):
                raise error
            self.fail({"process": [f"{process} ended by itself: {error!r}"]})
        self.look()

    def _line(self, party: str, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> list[SimTransport]:
        """One cable to each server."""
        return [SimTransport(self.wire, party, server, timeout_seconds) for server in self.servers]

    async def _serve(self, name: str, chance: random.Random) -> None:
        while True:
            pool = WIDE_POOL if len(self.nodes) > MANY_NODES else DEFAULT_POOL
            server = Server(SimStore(self.store, name), self.clocks[name], chance, pool, name=name)
            try:
                await server.prepare()
            except Temporary:
                await asyncio.sleep(START_AGAIN_SECONDS)
                continue
            self.wire.up(server.handlers, name)
            return await server.run()

    async def _live(self, process: str, chance: random.Random) -> None:
        kind, node = process.split()
        lines, beats = self._line(node), self._line(node, BEAT_TIMEOUT_SECONDS)
        self._lines[process] = lines + beats
        machine = self.machines[node]
        transport = OneOf(lines)
        if kind == "net":
            await net_main(node, transport, self._heard)
        else:
            clock = self.clocks[node]
            parts = (machine.engine, machine.ingress, node, clock, chance, machine.files)
            await Agent(transport, *parts, beats=OneOf(beats)).run()

    def _heard(self, process: str, revision: int) -> None:
        if self.trusted:
            self.fail({"NoRevisionGoesBack": self.history.revisions.heard(process, revision)})


def machine_of(process: str) -> str:
    """`agent node1` runs on node1, server1 on server1."""
    return process.rpartition(" ")[2]


async def net_main(node: str, transport: Transport, heard: Callable[[str, int], None]) -> None:
    """A net process without a kernel: it follows the endpoints and says so, as `netplugin/main.py` does."""
    newest, changed = 0, asyncio.Event()
    draining: list[Endpoints] = []

    async def report() -> None:
        while True:
            changed.clear()
            try:
                if draining:
                    await asyncio.sleep(0.05)  # the kernel takes it over
                    body = {"component": "net", "revision": newest}
                    await transport.request("POST", f"/v1/nodes/{node}/applied", body)
                async with asyncio.timeout(TOLD_SECONDS if draining else None):
                    await changed.wait()
            except TimeoutError:
                continue
            except MiniorchError:
                await asyncio.sleep(RETRY_SECONDS)

    reporting = asyncio.ensure_future(report())
    try:
        async for snapshot in mirror(transport, Endpoints, f"node={node}"):
            newest = snapshot.revision
            heard(f"net {node}", newest)
            before, draining = draining, [one for one in snapshot.items.values() if one.draining]
            if draining != before:
                changed.set()
    finally:
        await end(reporting)
