"""The lab's published ports on the host's localhost: a small process that passes connections on to a ready node.

The problem: a page that web publishes answers on every node of the lab, and the reader's browser runs on none of them.
The idea: follow what the server says of endpoints and nodes, listen on 127.0.0.1 for each published port, and carry
bytes to any node that is ready; HAProxy there does the rest. A node that has lost its power costs a connection half a
second, and then the next one is tried. A port that is published on a node's own localhost alone is reached from inside
the node's network namespace. The same process gives the nodes what images the host's own engine has.

    python -m miniorch.lab.forward LAB
"""

import asyncio
import contextlib
import ctypes
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import IO

from agent.docker_engine import DockerEngine
from agent.inside import Inside
from agent.peers import Peers
from miniorch.client import Transport, mirror
from miniorch.ending import ended
from miniorch.lab.lab import Lab
from miniorch.lab.plan import Place
from miniorch.listener import QuietServer, listen, until_told_to_end
from miniorch.model import Endpoints, Node, NodeState
from miniorch.processes import PidFile
from miniorch.servers import transport_to

CONNECT_SECONDS = 0.5
CLONE_NEWNET = 0x40000000
AGAIN_SECONDS = 5.0  # for a port that somebody else holds
CHUNK = 1 << 16
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forwarder:
    """Listeners on the host, one per published port."""

    def __init__(self, transport: Transport, folder: Path) -> None:
        """`folder` has each node's pid, and in it we say what answers, for `lab ls`."""
        self._transport = transport
        self._folder = folder
        self._file = folder / "ports.json"
        self._targets: list[Node] = []  # ready ones first
        self._wanted: dict[int, str] = {}  # port -> service
        self._local: set[int] = set()  # ports that answer on each node's localhost only
        self._listeners: dict[int, asyncio.Server] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(Node))
                group.create_task(self._follow(Endpoints))
                group.create_task(self._listen())
        finally:
            for listener in self._listeners.values():
                listener.close()

    async def _follow(self, kind: type[Node] | type[Endpoints]) -> None:
        async for snapshot in mirror(self._transport, kind):
            if kind is Node:
                nodes = [node for node in snapshot.items.values() if isinstance(node, Node) and node.address]
                nodes.sort(key=lambda node: (not node.ready or node.state is not NodeState.READY, node.name))
                self._targets = nodes
            else:
                services = [one for one in snapshot.items.values() if isinstance(one, Endpoints)]
                self._wanted = {port.published: one.key for one in services for port in one.ports}
                self._local = {port.published for one in services for port in one.ports if port.local}
            self._changed.set()

    async def _listen(self) -> None:
        """Make the listeners fit what is published; look again at ports that were taken."""
        while True:
            self._changed.clear()
            for port in [port for port in self._listeners if port not in self._wanted]:
                self._listeners.pop(port).close()
            taken = {}
            for port in sorted(set(self._wanted) - set(self._listeners)):
                try:
                    self._listeners[port] = await asyncio.start_server(self._carry_from(port), "127.0.0.1", port)
                except OSError as error:
                    taken[port] = f"taken by another program ({error.strerror})"
            said = {str(port): taken.get(port, service) for port, service in sorted(self._wanted.items())}
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(said))
            fresh.replace(self._file)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), AGAIN_SECONDS if taken else None)

    def _carry_from(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                far = await self._connect(port)
                if far is not None:
                    with contextlib.closing(far[1]):
                        ways = [asyncio.create_task(pump(reader, far[1])), asyncio.create_task(pump(far[0], writer))]
                        try:
                            await asyncio.wait(ways)
                        finally:
                            for way in ways:
                                way.cancel()
                            await ended(*ways)

        return carry

    async def _connect(self, port: int) -> Streams | None:
        if port not in self._local:
            return await connect([node.address for node in self._targets], port)
        for node in self._targets:
            pid = PidFile(self._folder / node.name / "init.pid").pid()
            with contextlib.suppress(OSError):
                if pid is not None:
                    return await asyncio.open_connection(sock=await asyncio.to_thread(connect_inside, pid, port))
        return None


def connect_inside(pid: int, port: int) -> socket.socket:
    """A connection to localhost as a process sees it. A socket stays in the namespace in which it was made."""
    kernel = ctypes.CDLL(None, use_errno=True)

    def enter(namespace: IO[bytes]) -> None:
        if kernel.setns(namespace.fileno(), CLONE_NEWNET):  # of this thread alone
            raise OSError(ctypes.get_errno(), "setns")

    with open(f"/proc/{pid}/ns/net", "rb") as theirs, open("/proc/thread-self/ns/net", "rb") as ours:
        enter(theirs)
        try:
            return socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        finally:
            enter(ours)


async def connect(addresses: Collection[str], port: int) -> Streams | None:
    """A connection to the first address that takes it; None when none does."""
    for address in addresses:
        with contextlib.suppress(OSError, TimeoutError):
            return await asyncio.wait_for(asyncio.open_connection(address, port), CONNECT_SECONDS)
    return None


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes one way; the end of one side is told to the other."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(place: Place) -> None:
    servers = transport_to(Lab(place, print).sockets)
    forwarding = asyncio.create_task(Forwarder(servers, place.run).run())
    stopping = asyncio.create_task(until_told_to_end().wait())
    engine = DockerEngine()
    giver = QuietServer(Inside(lambda task: None, engine, Peers(engine, "host")))
    giving = asyncio.create_task(giver.serve(sockets=[listen(place.images_socket, 0o600)]))
    done, _ = await asyncio.wait([forwarding, stopping, giving], return_when=asyncio.FIRST_COMPLETED)
    giver.stop()
    forwarding.cancel()
    stopping.cancel()
    await ended(forwarding, stopping, giving)
    place.images_socket.unlink(missing_ok=True)
    for one in done:
        one.result()


if __name__ == "__main__":
    asyncio.run(serve(Place(sys.argv[1])))
