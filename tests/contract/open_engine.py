"""The simulation's engine with something inside its containers: a few files, and programs that answer as their real
namesakes do. As `agent/docker_inside.py` is for Docker.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import tarfile
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from agent.engine import Processes, Stat
from miniorch.errors import EngineError, NotFound
from miniorch.frames import Command, Frame, Kind
from miniorch.simulation.engine import FakeEngine


class FakeOpenEngine(FakeEngine):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.commands: dict[str, list[Command]] = defaultdict(list)  # by container: what is run in it at this moment
        self.files: dict[str, dict[str, bytes]] = defaultdict(lambda: {"/tmp/.keep": b""})

    async def logs(self, container: str, *, tail: int, follow: bool) -> AsyncIterator[bytes]:
        box = self._box(container)
        position, ended = max(0, len(box.lines) - tail), False
        while not ended:
            await self._reach(0.02)
            ended = not follow or box.state == "exited"
            for line in box.lines[position:]:
                yield line
            position = len(box.lines)

    async def exec(self, container: str, what: Command, input: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        await self._reach(0.05)
        box = self._box(container)
        if box.state != "running":
            raise EngineError(f"container {container} is not running")
        self.commands[box.id].append(what)
        try:
            async with contextlib.aclosing(run(what, input)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self.commands[box.id].remove(what)

    async def stat(self, container: str, path: str) -> Stat:
        await self._reach(0.02)
        return stat(self.files[self._box(container).id], path)

    async def archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        await self._reach(0.02)
        yield packed(self.files[self._box(container).id], path)

    async def unpack(self, container: str, path: str, tar: AsyncIterator[bytes]) -> None:
        if not (await self.stat(container, path)).folder:
            raise EngineError(f"{path} is no folder")
        unpack(self.files[self._box(container).id], path, b"".join([piece async for piece in tar]))

    async def top(self, container: str) -> Processes:
        await self._reach(0.02)
        box = self._box(container)
        commands = [box.spec.command or ("init",), *(what.command for what in self.commands[box.id])]
        rows = ((str(number), " ".join(command)) for number, command in enumerate(commands, 1))
        return Processes(("PID", "CMD"), tuple(rows))


async def run(what: Command, input: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
    """Knows `cat`, `sh -c "exit N"` and `sleep`; every other program is not in the image."""
    yield Kind.STARTED, b""
    program, *arguments = what.command
    code = b"0"
    if program == "cat" and what.stdin:
        async for kind, payload in input:
            if kind is Kind.STDIN_END:
                break
            if kind is Kind.STDIN:
                yield Kind.STDOUT, payload
    elif program == "sh":
        code = arguments[-1].rpartition(" ")[2].encode()
    elif program == "sleep":
        await asyncio.sleep(float(arguments[0]))
    elif program != "cat":
        code = b"127"
        yield Kind.ERROR, f"exit code 127: command not found in the image: {program}".encode()
    yield Kind.EXIT, code


def stat(files: dict[str, bytes], path: str) -> Stat:
    """Raises `NotFound`."""
    name = path.rstrip("/").rpartition("/")[2]
    if not below(files, path):
        raise NotFound(f"there is no {path} in the container")
    return Stat(name or "/", path not in files)


def below(files: dict[str, bytes], path: str) -> list[str]:
    """The paths of all files at and below one."""
    return [known for known in files if f"{known}/".startswith(f"{path.rstrip('/')}/")]


def packed(files: dict[str, bytes], path: str) -> bytes:
    """What is at a path, as a tar stream."""
    tar, found = io.BytesIO(), stat(files, path)
    with tarfile.open(fileobj=tar, mode="w") as writing:
        for known in below(files, path):
            member = tarfile.TarInfo(found.name + known[len(path.rstrip("/")) :])
            member.size = len(files[known])
            writing.addfile(member, io.BytesIO(files[known]))
    return tar.getvalue()


def unpack(files: dict[str, bytes], path: str, tar: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar)) as reading:
        for member in reading:
            file = reading.extractfile(member)
            if file is not None:
                files[f"{path.rstrip('/')}/{member.name}"] = file.read()
