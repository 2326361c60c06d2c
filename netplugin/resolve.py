"""The sockets of the node's DNS: UDP and TCP, and the way out for names that are not ours.

The problem: a slow resolver somewhere else must never slow down the names of our own services. The idea: our own
answers are given on the spot, from the packet to the reply; only a forwarded question becomes a task of its own, and
there are never more than a few hundred of these. Where the node has no resolver, or cannot reach it, the asker hears
SERVFAIL at once: a machine without an uplink is slow only if its DNS keeps silent.

Who does this for real: dnsmasq, CoreDNS's `forward`. Next file: `netplugin/main.py`.
"""

import asyncio
import contextlib
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from netplugin.dns import FORWARD, HEADER_BYTES, Answerer, refusal

PORT = 53
UPSTREAM_SECONDS = 2.0
TCP_IDLE_SECONDS = 10.0
FORWARDED_AT_ONCE = 256
TCP_CONNECTIONS = 64
RESOLV_CONF = Path("/etc/resolv.conf")


class Upstream:
    """The node's own resolvers, read again whenever the file has changed."""

    def __init__(self, path: Path = RESOLV_CONF, port: int = PORT) -> None:
        self._path = path
        self._port = port
        self._version: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self, own: str) -> list[str]:
        """Addresses of the resolvers; `own` is left out, or we would ask ourselves for ever."""
        try:
            stat = os.stat(self._path)
            if (stat.st_mtime_ns, stat.st_ino) != self._version:
                self._servers = nameservers(self._path.read_text(errors="replace"))
                self._version = (stat.st_mtime_ns, stat.st_ino)
        except OSError:
            self._servers = []
        return [server for server in self._servers if server != own]

    async def ask(self, query: bytes, own: str, *, tcp: bool) -> bytes:
        """The first reply of a resolver, as it came; SERVFAIL if there is none in time."""
        for server in self.servers(own):
            ask = self._ask_tcp if tcp else self._ask_udp
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(UPSTREAM_SECONDS):
                    return await ask(server, query)
        return refusal(query)

    async def _ask_udp(self, server: str, query: bytes) -> bytes:
        # A fresh socket for each question: its random port, beside the id, is what a forger would have to guess.
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _OneReply(query[:2], reply), remote_addr=(server, self._port)
        )
        try:
            transport.sendto(query)
            return await reply
        finally:
            transport.close()

    async def _ask_tcp(self, server: str, query: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()


class _OneReply(asyncio.DatagramProtocol):
    def __init__(self, id: bytes, reply: asyncio.Future[bytes]) -> None:
        self._id = id
        self._reply = reply

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if len(data) >= HEADER_BYTES and data[:2] == self._id and data[2] & 0x80 and not self._reply.done():
            self._reply.set_result(data)

    def error_received(self, exc: Exception) -> None:  # "connection refused": no need to wait for the time-out
        if not self._reply.done():
            self._reply.set_exception(exc)


class Service(asyncio.DatagramProtocol):
    """The listening sockets. `answerer` may be replaced at any time."""

    def __init__(self, own: str, answerer: Answerer, upstream: Upstream) -> None:
        self.own = own
        self.answerer = answerer
        self._upstream = upstream
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._forwarded: dict[asyncio.Task[None], None] = {}
        self._connections = 0

    async def open(self, port: int = PORT) -> None:
        """Listen on the node's pool address. Raises `OSError` if something else has the port."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(self.own, port))
        try:
            self._server = await asyncio.start_server(self._serve_tcp, self.own, port)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in self._forwarded:
            task.cancel()

    # ---- UDP ----

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = self.answerer.answer(data, addr[0])
        if reply == FORWARD:
            if len(self._forwarded) >= FORWARDED_AT_ONCE:
                self._send(refusal(data), addr)
                return
            task = asyncio.get_running_loop().create_task(self._forward(data, addr))
            self._forwarded[task] = None
            task.add_done_callback(self._forwarded.pop)
        elif reply:
            self._send(reply, addr)

    async def _forward(self, query: bytes, addr: Any) -> None:
        self._send(await self._upstream.ask(query, self.own, tcp=False), addr)

    def _send(self, data: bytes, addr: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, addr)

    # ---- TCP: each message follows its length in two bytes ----

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            asker = writer.get_extra_info("peername")[0]
            while self._connections <= TCP_CONNECTIONS:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                reply = self.answerer.answer(query, asker, tcp=True)
                if reply == FORWARD:
                    reply = await self._upstream.ask(query, self.own, tcp=True)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # the asker is gone, or silent
        finally:
            self._connections -= 1
            writer.close()


def nameservers(text: str) -> list[str]:
    """The addresses in a resolv.conf, in order. Link-local IPv6 ones with a zone are kept as they are."""
    found = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                ip_address(words[1])
                found.append(words[1])
    return found
