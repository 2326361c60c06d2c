"""Inside a container of Docker's: run a command in it, read its output, take files out, put files in.

The problem: all of these are streams of any size, and people hang up in the middle. The idea: one connection to dockerd
for each, nothing in between but the sockets' own buffers. For a command Docker gives its connection away: after the
head of the answer, what we write is the command's input and what comes is its output, each piece with eight bytes that
say which of stdout and stderr it is (with a terminal there is only one, and no such heads).

Docker has no call that ends a command. But it is a process of this machine: its whole session is killed.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

from agent.docker_connection import Connection, accepted
from agent.engine import ExecResult, Processes, Stat
from agent.images import start_error
from agent.listeners import processes
from miniorch.errors import EngineError, NotFound
from miniorch.exchange import PIECE, Exchange
from miniorch.frames import SIZE, Command, Frame, Kind

PIECE_HEAD = struct.Struct("!BxxxI")  # which stream, how long
FAILED = (b"OCI runtime exec failed: ", b"unable to find user ")
START_TRIES = 50
NOT_STARTED = (126, 127, 128)  # what Docker gives a command that it could not start
OUTPUT_BYTES = 4096


class DockerInside(Connection):
    """What the engine's protocol calls inside."""

    # ---- commands ----

    async def run_in(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        output, code = b"", -1
        async with contextlib.aclosing(self.exec(container, Command(command), _no_input())) as run:
            await anext(run)  # until here Docker's time, from here the command's
            try:
                async with asyncio.timeout(timeout_seconds):
                    async for kind, payload in run:
                        if kind is Kind.EXIT:
                            code = int(payload)
                        else:
                            output = (output + payload)[-OUTPUT_BYTES:]
            except TimeoutError:
                raise EngineError(f"`{' '.join(command)}` did not end within {timeout_seconds:g} s") from None
        return ExecResult(code, output.decode(errors="replace"))

    async def exec(self, container: str, what: Command, input: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        options = {"stdin": what.stdin, "tty": what.tty, "user": what.user, "workdir": what.workdir or None}
        made = await self.call(lambda api: str(api.exec_create(container, list(what.command), **options)["Id"]))
        upgrade = {"connection": "Upgrade", "upgrade": "tcp"}
        feeding, ended = None, False
        async with self.open("POST", f"/exec/{made}/start", upgrade, {"Detach": False, "Tty": what.tty}) as wire:
            try:
                await accepted(wire)
                # Not earlier: what reaches dockerd together with the request is lost.
                feeding = asyncio.create_task(self._feed(wire, made, what, input), name=f"input of {made[:12]}")
                yield Kind.STARTED, b""
                held, spoken = b"", False
                async for kind, piece in apart(wire.body(), what.tty):
                    if not spoken and (held + piece).startswith(FAILED) and len(held) < PIECE:
                        held += piece  # Docker tells of a failed start in the command's output
                        continue
                    yield kind, held + piece
                    held, spoken = b"", True
                found = await self.call(lambda api: api.exec_inspect(made))
                while found["Running"]:  # its output has ended; dockerd hears of its own end a moment later
                    await asyncio.sleep(0.05)
                    found = await self.call(lambda api: api.exec_inspect(made))
                ended, code = True, found["ExitCode"]
                if held and code in NOT_STARTED and not found["Pid"]:
                    why, code = _why(held.decode(errors="replace"), code, what)
                    yield Kind.ERROR, why.encode()
                elif held:
                    yield Kind.STDOUT, held
                yield Kind.EXIT, b"%d" % (-1 if code is None else code)
            finally:
                if feeding is not None:
                    feeding.cancel()
                wire.close()
                if not ended and wire.status < 400:
                    # A task of its own: whoever is being cancelled here may be cancelled again.
                    await asyncio.shield(self.call(lambda api: kill(api, made)))

    async def _feed(self, wire: Exchange, made: str, what: Command, input: AsyncIterator[Frame]) -> None:
        """Hand on what is typed, until the process has ended or somebody hangs up."""
        with contextlib.suppress(OSError, EngineError):
            if what.tty and what.rows:
                await self._resize(made, what.rows, what.columns)
            async for kind, payload in input:
                match kind:
                    case Kind.STDIN:
                        wire.writer.write(payload)
                        await wire.writer.drain()
                    case Kind.STDIN_END if what.tty:
                        wire.writer.write(b"\x04")  # closing it would hang the terminal up, and lose output
                    case Kind.STDIN_END:
                        wire.writer.write_eof()
                    case Kind.RESIZE:
                        await self._resize(made, *SIZE.unpack(payload))

    async def _resize(self, made: str, rows: int, columns: int) -> None:
        with contextlib.suppress(EngineError):  # it has just ended
            await self.call(lambda api: api.exec_resize(made, height=rows, width=columns))

    async def top(self, container: str) -> Processes:
        found = await self.call(lambda api: api.top(container))
        return Processes(tuple(found["Titles"]), tuple(map(tuple, found["Processes"])))

    # ---- what it says ----

    async def logs(self, container: str, *, tail: int, follow: bool) -> AsyncIterator[bytes]:
        found = await self.call(lambda api: api.inspect_container(container))
        query = f"stdout=1&stderr=1&tail={tail}&follow={int(follow)}"
        async with self.open("GET", f"/containers/{container}/logs?{query}") as wire:
            await accepted(wire)
            async for _, piece in apart(wire.body(), found["Config"]["Tty"]):
                yield piece

    # ---- files ----

    async def stat(self, container: str, path: str) -> Stat:
        async with self.open("HEAD", _archive(container, path)) as wire:
            await wire.head()  # an answer to HEAD has no body, and says nothing more of an error
        if wire.status == 404:
            raise _nothing_at(path)
        if "x-docker-container-path-stat" not in wire.headers:
            remedy = f"miniorch exec TASK -- ls -la {os.path.dirname(path) or '/'}"
            raise EngineError(f"Docker cannot follow {path}; do its links lead in a circle?", remedy=remedy)
        found = json.loads(base64.b64decode(wire.headers["x-docker-container-path-stat"]))
        return Stat(found["name"], bool(found["mode"] & 1 << 31), found["linkTarget"])

    async def archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        async with self.open("GET", _archive(container, path)) as wire:
            await accepted(wire, _nothing_at(path))
            async for piece in wire.body():
                yield piece

    async def unpack(self, container: str, path: str, tar: AsyncIterator[bytes]) -> None:
        async with self.open("PUT", _archive(container, path), {"content-type": "application/x-tar"}) as wire:
            await wire.send_all(tar)
            await accepted(wire, _nothing_at(path))


async def apart(pieces: AsyncIterator[bytes], tty: bool) -> AsyncIterator[Frame]:
    """Docker's stream of a container's output as frames. With a terminal there are no heads, and no errors apart."""
    rest, kind, left = bytearray(), Kind.STDOUT, 0
    async for piece in pieces:
        rest += piece
        while rest and not tty and (left or len(rest) >= PIECE_HEAD.size):
            if not left:
                stream, left = PIECE_HEAD.unpack_from(rest)
                kind = Kind.STDERR if stream == 2 else Kind.STDOUT
                del rest[: PIECE_HEAD.size]
            part = bytes(rest[:left])
            del rest[: len(part)]
            left -= len(part)
            if part:
                yield kind, part
        if tty:
            yield kind, piece
            rest.clear()


def _why(said: str, code: int, what: Command) -> tuple[str, int]:
    """Why a command did not start, and the exit code that a shell would have for it: Docker's differ by release."""
    if "chdir" in said:
        return f"there is no folder {what.workdir} in the container to run it in", code
    if said.startswith(FAILED[1].decode()):
        return f"the container knows no user {what.user}", code
    error = start_error(said)
    if error is None:
        return said.strip().removeprefix(FAILED[0].decode()), code
    return error.message, 127 if "127" in error.message else 126


def kill(api: Any, made: str) -> None:
    """End a command that was run in a container: the leader of a session, and everything in that session. Blocks."""
    for _ in range(START_TRIES):
        found = api.exec_inspect(made)
        if found["ExitCode"] is not None:
            return
        if found["Pid"]:
            break
        time.sleep(0.1)  # it is just being started
    for pid in processes():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == found["Pid"]:
                os.kill(pid, signal.SIGKILL)


async def _no_input() -> AsyncIterator[Frame]:
    return
    yield


def _archive(container: str, path: str) -> str:
    return f"/containers/{container}/archive?path={quote(path, safe='')}"


def _nothing_at(path: str) -> NotFound:
    return NotFound(f"there is no {path} in the container")
