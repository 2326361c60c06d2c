"""One HTTP request that streams both ways: a user's `exec`, the server's to an agent, the agent's to Docker.

The problem: `exec` and `cp` need a body that is sent while the answer is read, of any size, in little memory. The idea:
HTTP/1.1 is simple enough on a socket. The body goes out in chunks, each `await`ed until the other side has room; the
answer is read as it comes. After the head of an answer that switches protocols, both directions are plain bytes.

To another machine it goes over TLS, and only to the node that is meant: its name is in the URL, and in its certificate.
Where the URL names none, a manager is meant.

Where we differ from a client library: no pools, no redirects, no retries; one connection, one request, then it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from miniorch.identity import client_context, peer
from miniorch.model import Role
from miniorch.transport import STATE_DIRECTORY, refusal

PIECE = 64 * 1024
CONNECT_SECONDS = 5.0


class _PatientReader(asyncio.StreamReader):
    """What had come before the connection broke can still be read: a refusal is sent before all is listened to."""

    def set_exception(self, exc: BaseException) -> None:
        self.feed_eof()


class Exchange:
    """Use `open` to make one, and `close` it. Everything raises `OSError` or `EOFError` when the other side is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, has_body: bool) -> None:
        self.reader = reader
        self.writer = writer
        self._open = has_body
        self.status = 0
        self.headers: dict[str, str] = {}  # names in lower case

    @classmethod
    async def open(
        cls, url: str, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None,
        folder: Path = Path(STATE_DIRECTORY),
    ) -> Exchange:  # fmt: skip
        """Send the head to `unix:///path`, `tcp://HOST:PORT` or, as this machine, to `https://NODE@HOST:PORT`, with a
        `body` as JSON; else `send` and `end` follow.
        """
        scheme, _, place = url.partition("://")
        loop = asyncio.get_running_loop()
        reader = _PatientReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        if scheme == "unix":
            transport, _ = await loop.create_unix_connection(lambda: protocol, place)
        else:
            node, _, place = place.rpartition("@")
            host, _, port = place.rpartition(":")
            secure = client_context(folder) if scheme == "https" else None
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, _ = await loop.create_connection(lambda: protocol, host.strip("[]"), int(port), ssl=secure)
            name, role = peer(transport.get_extra_info("peercert"))
            if secure and (name != node if node else role != Role.MANAGER):
                transport.abort()
                raise ConnectionError(f"{place} is not {node or 'a manager of this cluster'}")
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        payload = b"" if body is None else json.dumps(body).encode()
        lines = {"host": "localhost", "connection": "close", **(headers or {})}
        if body is not None:
            lines |= {"content-type": "application/json", "content-length": str(len(payload))}
        has_body = body is None and method in ("PUT", "POST")
        if has_body:
            lines["transfer-encoding"] = "chunked"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + payload)
        return cls(reader, writer, has_body)

    async def send(self, data: bytes) -> None:
        """A piece of the body; returns when there is room for the next."""
        if data and self._open:
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self.writer.drain()

    async def end(self) -> None:
        """The body is complete. Without this the other side takes it as cut off."""
        if self._open:
            self._open = False
            self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()

    async def send_all(self, pieces: AsyncIterator[bytes]) -> None:
        """The whole body. It may be refused before all of it is sent: then the answer says why."""
        with contextlib.suppress(OSError):
            async for piece in pieces:
                await self.send(piece)
            await self.end()

    async def head(self) -> None:
        """Read `status` and `headers`."""
        first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        self.status = int(first.split()[1])
        for line in rest:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    async def accepted(self) -> None:
        """Read the head of an answer. Raises what it says if it is a refusal of ours."""
        await self.head()
        if self.status >= 400:
            raise refusal((await self.text()).encode(), self.status)

    async def body(self) -> AsyncIterator[bytes]:
        """The answer, in pieces. Its end is only reached if it is complete."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                async for piece in self._exactly(size):
                    yield piece
                await self.reader.readexactly(2)
        elif "content-length" in self.headers:
            async for piece in self._exactly(int(self.headers["content-length"])):
                yield piece
        else:
            while piece := await self.reader.read(PIECE):
                yield piece

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            piece = await self.reader.read(min(size, PIECE))
            if not piece:
                raise EOFError("the answer broke off")
            size -= len(piece)
            yield piece

    async def lines(self, patience_seconds: float | None) -> AsyncIterator[bytes]:
        """The answer line by line. Raises `TimeoutError` when none of it comes for so long."""
        rest, pieces = b"", self.body()
        while True:
            async with asyncio.timeout(patience_seconds):
                piece = await anext(pieces, b"")
            if not piece:
                return
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line

    async def text(self) -> str:
        """The whole answer; for short ones."""
        return b"".join([piece async for piece in self.body()]).decode(errors="replace")

    def close(self) -> None:
        """Hang up. What the other side has not read yet is lost."""
        self.writer.transport.abort()
