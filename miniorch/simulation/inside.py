"""What is inside a simulated container: a few files, and programs that answer as their real namesakes do.

As `agent/docker_inside.py` is for Docker. Next file: `network.py`.
"""

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator

from agent.engine import Stat
from miniorch.errors import NotFound
from miniorch.frames import Command, Frame, Kind


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
