"""The net process: hear what the server says, make the kernel and the DNS say the same.

The problem: containers need their network and their names while the server is away, while dockerd restarts, and while
this very process restarts. The idea: the data path is the kernel's and needs no process at all. This one only follows
three lists (cluster, nodes, endpoints), applies the whole of what it knows (`netplugin/known.py`) after each change and
once a minute, and keeps it on disk. Ending it, or killing it, touches no container.

The plugin socket comes first, before anything that might take time: dockerd waits 15 seconds per call for a plugin
that is away. `--undo` removes all that was made on this machine,
`--verify` looks whether it is all there (`netplugin/check.py`).
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from miniorch.client import Transport, mirror
from miniorch.clock import SystemClock
from miniorch.codec import decode, encode
from miniorch.errors import Conflict, MiniorchError
from miniorch.listener import QuietServer, listen, take_lock, until_told_to_end
from miniorch.model import Cluster, Endpoints, Node
from miniorch.servers import transport_to
from miniorch.transport import RUN_DIRECTORY, STATE_DIRECTORY
from netplugin.check import ask, check
from netplugin.dns import Answerer
from netplugin.driver import Driver, Endpoint, EndpointNotes, Wiring
from netplugin.isolation import admission
from netplugin.kernel import Kernel
from netplugin.known import Known, learn, load, save
from netplugin.resolve import PORT, Service, Upstream
from netplugin.standin import stand_in
from netplugin.topology import TABLE, Topology, topology
from netplugin.trace import Question, look

PLUGIN_SOCKET = Path("/run/docker/plugins/miniorch.sock")
AGAIN_SECONDS = 60.0  # how often everything is looked at without a reason
RETRY_SECONDS = 1.0
TOLD_SECONDS = 2.0  # between two reports of the same
GATHER_SECONDS = 0.2  # between two looks at most: what comes in a burst is applied together
SWEEP_SECONDS = 30.0
BEAT_SECONDS = 3.0  # until another server is asked


def log(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, file=sys.stderr, flush=True)


class Machine(Wiring, Protocol):
    """What this process needs of the kernel."""

    def apply(self, wanted: Topology) -> None: ...

    def admit(self, text: str) -> None: ...

    def sweep(self, endpoints: Collection[str]) -> list[str]: ...


class Net:
    """The process's parts and its loops."""

    def __init__(
        self, node: str, transport: Transport, kernel: Machine, run: Path, state: Path, dns_port: int = PORT
    ) -> None:
        self.node = node
        self.transport = transport
        self.kernel = kernel
        self.dns_port = dns_port
        self.file = state / "net.json"
        self.known = load(self.file)
        self.notes = EndpointNotes(run / "net" / "endpoints")
        self.changed, self.applied = asyncio.Event(), asyncio.Event()
        self.applied_revision = -1
        self.draining: list[Endpoints] = []  # of that revision, those that a task is to leave
        self.dns: Service | None = None
        self._said = ""
        self._idle: set[str] = set()  # endpoints that no container had at the last sweep
        self._ruling = asyncio.Lock()  # held from a look at what is known until the kernel holds it

    async def run(self, plugin: socket.socket) -> None:
        """Serve until cancelled."""
        driver = Driver(self.kernel, self.notes, log, self.admit)
        # Docker keeps its connection open; were it closed in the moment of a call, Docker would repeat that 1 s later.
        server = QuietServer(driver, timeout_keep_alive=3600)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([plugin]))
            group.create_task(self.apply_changes())
            group.create_task(self.keep_tidy())
            group.create_task(self.report())
            group.create_task(self.follow(Cluster))
            group.create_task(self.follow(Node))
            group.create_task(self.follow(Endpoints, f"node={self.node}"))

    # ---- what the server says ----

    async def follow(self, kind: type[Cluster] | type[Node] | type[Endpoints], query: str = "") -> None:
        """Take in each complete snapshot of a kind, for ever."""
        async for snapshot in mirror(self.transport, kind, query):
            before, self.known = self.known, learn(self.known, self.node, kind, snapshot)
            if self.known != before or kind is Endpoints:  # a server that restarted wants to hear it again
                self.changed.set()

    async def report(self) -> None:
        """Tell the server that this node's traffic follows what drains, and soon again: there may be another leader."""
        while True:
            self.applied.clear()
            body = {"component": "net", "revision": self.applied_revision}
            try:
                if self.draining:
                    await self.transport.request("POST", f"/v1/nodes/{self.node}/applied", body)
                async with asyncio.timeout(TOLD_SECONDS if self.draining else None):
                    await self.applied.wait()
            except TimeoutError:
                continue
            except MiniorchError:
                await asyncio.sleep(RETRY_SECONDS)

    # ---- what the node does ----

    async def apply_changes(self) -> None:
        """Apply all that is known: at the start, after each change, every minute, and a second after a failure."""
        while True:
            self.changed.clear()
            pause = AGAIN_SECONDS
            try:
                await self.apply(self.known)
                self.say("")
                await asyncio.sleep(GATHER_SECONDS)
            except (MiniorchError, OSError, ValueError) as error:
                self.say(f"could not apply the endpoints of revision {self.known.revision}: {error}")
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # not `wait_for`: in Python 3.11 it can swallow a cancellation
                    await self.changed.wait()

    async def apply(self, known: Known) -> None:
        """Kernel, DNS, disk, and only then the word that it is done."""
        if known.cluster is None or known.node is None:
            return
        own = known.node.pool_address
        await self.rule(known)
        answerer = Answerer(known.cluster, known.node, known.endpoints, self.notes.at)
        if self.dns is None or self.dns.own != own:
            if self.dns is not None:
                self.dns.close()
            self.dns = None
            self.dns = await self.listen(Service(own, answerer, Upstream()))
        self.dns.answerer = answerer
        save(self.file, known)
        if known.revision >= 0:
            self.applied_revision = known.revision
            before, self.draining = self.draining, [one for one in known.endpoints if one.draining]
            if self.draining != before:
                self.applied.set()

    async def sweep(self) -> None:
        """Remove what no container uses.

        While we are away Docker gives up telling us of an end, and one that is killed forgets to: then only the devices
        and the note say that it was.
        """
        for device in await asyncio.to_thread(self.kernel.sweep, [note.id for note in self.notes.wired()]):
            log(f"removed the device {device}, which no container uses")
        idle = {note.id for note in self.notes.wired() if not self.kernel.holds(note.id)}
        for endpoint in sorted(idle & self._idle):
            log(f"forgot the endpoint {endpoint[:8]}, which no container has")
            self.notes.remove(endpoint)
            self.changed.set()  # its address leaves the networks, too
        self._idle = idle

    async def keep_tidy(self) -> None:
        """Sweep, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            with contextlib.suppress(MiniorchError):  # what the kernel refuses is there at the next look
                await self.sweep()

    async def rule(self, known: Known) -> None:
        """Make the kernel hold all that is known."""
        assert known.cluster is not None
        assert known.node is not None
        async with self._ruling:
            wired = self.notes.wired()
            wanted = topology(known.cluster, known.node, known.endpoints, known.peers, wired)
            await asyncio.to_thread(self.kernel.apply, wanted)

    async def admit(self, container: Endpoint) -> None:
        """Let a container into its networks, before its first instruction."""
        if not container.networks:
            return  # made by hand: it reaches the node and the outside
        try:
            async with self._ruling:
                text = admission(TABLE, container.address, frozenset(container.networks.split(",")))
                await asyncio.to_thread(self.kernel.admit, text)
        except MiniorchError:  # its address had other networks a moment ago
            await self.rule(self.known)
        self.changed.set()  # the fast path can wait until many have come

    async def listen(self, service: Service) -> Service:
        try:
            await service.open(self.dns_port)
        except OSError as error:
            raise Conflict(
                f"no DNS for containers: port {self.dns_port} of {service.own} is taken by another server ({error})",
                remedy=f"ss -lnutp sport = :{self.dns_port}",
            ) from None
        return service

    def say(self, message: str) -> None:
        """Log a lasting condition once, not once a second."""
        if message and message != self._said:
            log(message)
        self._said = message


async def serve(node: str, servers: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT. The data path stays."""
    plugin = listen(PLUGIN_SOCKET, 0o600)
    log(f"node {node}: Docker finds the network driver at {PLUGIN_SOCKET}")
    clock, beats = SystemClock(), transport_to(servers, timeout_seconds=BEAT_SECONDS)
    net = Net(node, transport_to(servers), Kernel(clock), Path(RUN_DIRECTORY), Path(STATE_DIRECTORY))
    running = asyncio.create_task(net.run(plugin), name="net")
    told = asyncio.create_task(until_told_to_end().wait(), name="signals")
    standing = asyncio.create_task(stand_in(node, Path(RUN_DIRECTORY) / "agent.sock", beats, clock), name="stand-in")
    await asyncio.wait([running, told, standing], return_when=asyncio.FIRST_COMPLETED)
    for task in (running, told, standing):
        task.cancel()
    await asyncio.gather(told, standing, return_exceptions=True)
    with contextlib.suppress(asyncio.CancelledError):
        await running  # raises what ended it
    log("ended; containers keep their network")


def undo() -> None:
    """Remove everything that the net process made on this machine."""
    Kernel(SystemClock()).undo()
    shutil.rmtree(Path(RUN_DIRECTORY) / "net", ignore_errors=True)
    (Path(STATE_DIRECTORY) / "net.json").unlink(missing_ok=True)
    PLUGIN_SOCKET.unlink(missing_ok=True)


async def verify(node: str, transport: Transport, *, repair: bool) -> None:
    """Print what is not as it should be, as JSON."""
    notes = EndpointNotes(Path(RUN_DIRECTORY) / "net" / "endpoints")
    kept = load(Path(STATE_DIRECTORY) / "net.json")
    report = await check(node, transport, Kernel(SystemClock()), notes, kept, repair=repair)
    print(encode(report).decode())


async def trace(node: str, transport: Transport, asked: str) -> None:
    """Print this node's half of a packet's way, as JSON."""
    known = await ask(transport, node)
    if known.cluster is None or known.node is None:
        raise Conflict(f"nothing is known of node {node}", remedy="miniorch nodes")
    wired = EndpointNotes(Path(RUN_DIRECTORY) / "net" / "endpoints").all()
    wanted = topology(known.cluster, known.node, known.endpoints, known.peers, wired)
    print(encode(look(node, decode(Question, asked.encode()), wanted, wired)).decode())


def main() -> int:
    parser = argparse.ArgumentParser(prog="netplugin", description="miniorch's net process")
    parser.add_argument("--node", default=socket.gethostname(), help="this node's name")
    parser.add_argument("--server", action="append", default=[], help="a server: socket or https://HOST:PORT; repeat")
    parser.add_argument("--undo", action="store_true", help="remove all that was made on this machine, and end")
    parser.add_argument("--verify", action="store_true", help="compare the kernel with the state, print JSON, and end")
    parser.add_argument("--repair", action="store_true", help="with --verify: mend what differs")
    parser.add_argument("--trace", metavar="JSON", help="look at the way of a container's packet, print JSON, and end")
    options = parser.parse_args()
    try:
        if options.verify:
            asyncio.run(verify(options.node, transport_to(options.server), repair=options.repair))
            return 0
        if options.trace:
            asyncio.run(trace(options.node, transport_to(options.server), options.trace))
            return 0
        lock = take_lock(Path(RUN_DIRECTORY) / "net" / "lock", "a net process")
        if options.undo:
            undo()
        else:
            asyncio.run(serve(options.node, options.server))
        os.close(lock)
    except MiniorchError as error:
        log(f"{error.message}{f' ({error.remedy})' if error.remedy else ''}")
        return error.exit_code
    except PermissionError as error:
        log(f"the net process needs root: {error}")
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
