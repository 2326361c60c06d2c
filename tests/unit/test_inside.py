"""exec, cp and top from the client to the engine, over two real sockets: the server's and the agent's."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import io
import os
import random
import resource
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from open_engine import FakeOpenEngine

from agent.engine import ContainerSpec
from agent.inside import Inside
from miniorch.api.app import make_app
from miniorch.api.forward import _away
from miniorch.cli.inside import Session
from miniorch.clock import SystemClock
from miniorch.codec import encode
from miniorch.errors import Conflict, MiniorchError, NotFound, Unreachable, UsageError
from miniorch.exchange import Exchange
from miniorch.frames import CHUNK_BYTES, WINDOW_BYTES, Command, Frame, Kind, Unpacker, pack
from miniorch.listener import QuietServer, listen
from miniorch.model import Status, Task, TaskState
from miniorch.server import Server
from miniorch.simulation.engine import Behaviour, Box
from miniorch.spec import Resources, TaskSpec
from miniorch.state.memory import MemoryStore
from miniorch.state.records import Write, commit
from miniorch.transport import HttpTransport

MEGABYTE = 1 << 20


class Chain:
    """A server, an agent and one running container in a fake engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transport = HttpTransport(str(folder / "api.sock"), timeout_seconds=10.0)
        self.store = MemoryStore()
        self.engine = FakeOpenEngine(SystemClock(), random.Random(1))
        self.agent: QuietServer | None = None
        self.box: Box

    async def container(self) -> None:
        self.engine.behave("busybox:1", Behaviour(pull_seconds=0.0))
        await self.engine.use_network("10.200.7.0/24")
        image = await self.engine.pull("busybox:1", lambda line: None)
        spec = ContainerSpec(
            "shop-web.1-t1", "t1", image, "10.200.7.5", "web-1", None, None, {}, {}, Resources(), {}
        )  # fmt: skip
        container = await self.engine.create(spec)
        await self.engine.start(container)
        self.box = self.engine.boxes[container]
        task = Task("t1", "shop", "web", 1, TaskSpec("busybox:1"), 0.0, node="n1", status=Status(TaskState.RUNNING))
        homeless = Task("t2", "shop", "web", 2, TaskSpec("busybox:1"), 0.0)
        await commit(self.store, [Write(task, 0), Write(homeless, 0)])

    def container_of(self, task: str) -> Any:
        return next((box.view() for box in self.engine.boxes.values() if box.spec.task == task), None)

    async def begin(self, *command: str, stdin: bool = True) -> Exec:
        begun = Exec(await self.transport.begin("/v1/tasks/t1/exec"))
        await begun.send((Kind.START, encode(Command(command, stdin=stdin))))
        return begun


class Exec:
    """A client that does with one exec what a test wants."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._frames = self._received()

    async def send(self, *frames: Frame) -> None:
        await self.exchange.send(b"".join(pack(*frame) for frame in frames))

    async def _received(self) -> AsyncIterator[Frame]:
        await self.exchange.accepted()
        unpacker = Unpacker()
        async for data in self.exchange.body():
            for frame in unpacker.feed(data):
                yield frame

    async def next(self) -> Frame:
        return await anext(self._frames)

    async def rest(self) -> list[Frame]:
        frames = [await self.next()]
        while frames[-1][0] is not Kind.EXIT:
            frames.append(await self.next())
        return frames

    def close(self) -> None:
        self.exchange.close()


@asynccontextmanager
async def served(app: Any, path: Path) -> AsyncIterator[QuietServer]:
    http = QuietServer(app)
    serving = asyncio.create_task(http.serve([listen(path, 0o600)]))
    async with asyncio.timeout(5):
        while not http.started:
            await asyncio.sleep(0.01)
    try:
        yield http
    finally:
        http.stop()
        await serving


@pytest.fixture
@asynccontextmanager
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    chain = Chain(tmp_path)
    server = Server(chain.store, SystemClock(), random.Random(1))
    await server.prepare()
    await chain.container()
    agent = f"unix://{tmp_path}/agent.sock"
    async with (
        served(make_app(server.handlers, lambda node: agent), tmp_path / "api.sock"),
        served(Inside(chain.container_of, chain.engine), tmp_path / "agent.sock") as chain.agent,
    ):
        yield chain
    await chain.store.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


# ---- frames ----


def test_frames_survive_any_cut() -> None:
    sent = [(Kind.STDIN, b"abc"), (Kind.STDIN_END, b""), (Kind.STDOUT, bytes(1000)), (Kind.EXIT, b"0")]
    data = b"".join(pack(*frame) for frame in sent)
    for size in (1, 2, 3, 7, 4096):
        unpacker = Unpacker()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [frame for piece in pieces for frame in unpacker.feed(piece)] == sent


@pytest.mark.parametrize("data", [b"\xff\0\0\0\1x", b"\1\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="no frame"):
        list(Unpacker().feed(data))


# ---- exec ----


async def test_input_comes_back_as_output_and_the_code_is_last(chain: Chain) -> None:
    begun = await chain.begin("cat")
    await begun.send((Kind.STDIN, b"hello"), (Kind.STDIN_END, b""))
    frames = await begun.rest()
    assert frames[0] == (Kind.STARTED, b"")
    assert frames[-1] == (Kind.EXIT, b"0")
    assert {(Kind.STDOUT, b"hello"), (Kind.TAKEN, b"5")} <= set(frames)
    begun.close()
    begun = await chain.begin("sh", "-c", "exit 3", stdin=False)
    assert (await begun.rest())[-1] == (Kind.EXIT, b"3")
    begun.close()
    assert chain.engine.commands[chain.box.id] == []


async def test_ten_megabytes_go_both_ways_in_little_memory(chain: Chain) -> None:
    begun = await chain.begin("cat")
    sent, received, room = hashlib.sha256(), hashlib.sha256(), asyncio.Semaphore(WINDOW_BYTES // CHUNK_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def write() -> None:
        for number in range(10 * MEGABYTE // CHUNK_BYTES):
            await room.acquire()
            piece = bytes([number % 251]) * CHUNK_BYTES
            sent.update(piece)
            await begun.send((Kind.STDIN, piece))
        await begun.send((Kind.STDIN_END, b""))

    writing = asyncio.create_task(write())
    while (frame := await begun.next())[0] is not Kind.EXIT:
        if frame[0] is Kind.STDOUT:
            received.update(frame[1])
        elif frame[0] is Kind.TAKEN:
            room.release()
    await writing
    begun.close()
    assert sent.digest() == received.digest()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kilobytes"


async def test_a_slow_reader_stops_the_writer(chain: Chain) -> None:
    begun = await chain.begin("cat")
    await begun.next()
    taken, sent = 0, 0

    async def write() -> None:
        nonlocal sent
        while sent - taken < WINDOW_BYTES:  # `taken` stays: nobody reads
            await begun.send((Kind.STDIN, bytes(CHUNK_BYTES)))
            sent += CHUNK_BYTES

    await write()
    for _ in range(1000):
        frame = await begun.next()
        if frame[0] is Kind.TAKEN:
            taken += int(frame[1])
        if taken == sent:
            break
    assert taken == sent == WINDOW_BYTES
    begun.close()
    await until(lambda: chain.engine.commands[chain.box.id] == [])


async def test_input_beyond_the_window_ends_the_command(chain: Chain) -> None:
    begun = await chain.begin("sleep", "1000")
    await begun.next()

    async def flood() -> None:
        for _ in range(10 * WINDOW_BYTES // CHUNK_BYTES):
            await begun.send((Kind.STDIN, bytes(CHUNK_BYTES)))
        await begun.next()

    with pytest.raises((OSError, EOFError)):
        await flood()
    await until(lambda: chain.engine.commands[chain.box.id] == [])
    begun.close()


@pytest.mark.parametrize("typed", [0, WINDOW_BYTES])
async def test_a_client_that_hangs_up_ends_its_command_even_with_input_on_the_way(chain: Chain, typed: int) -> None:
    begun = await chain.begin("sleep", "1000")
    await begun.next()
    for _ in range(typed // CHUNK_BYTES):
        await begun.send((Kind.STDIN, bytes(CHUNK_BYTES)))
    assert len(chain.engine.commands[chain.box.id]) == 1
    begun.close()
    await until(lambda: chain.engine.commands[chain.box.id] == [])


async def test_a_program_that_is_not_there_is_an_error_and_a_code(chain: Chain) -> None:
    begun = await chain.begin("nope")
    frames = await begun.rest()
    assert frames[-2][0] is Kind.ERROR
    assert b"nope" in frames[-2][1]
    assert frames[-1] == (Kind.EXIT, b"127")
    begun.close()


async def test_what_cannot_begin_is_refused_with_a_reason(chain: Chain) -> None:
    async def refused(path: str, body: bytes) -> MiniorchError:
        exchange = await chain.transport.begin(path)
        await exchange.send(body)
        with pytest.raises(MiniorchError) as caught:
            await exchange.accepted()
        exchange.close()
        return caught.value

    start = pack(Kind.START, encode(Command(("cat",))))
    assert isinstance(await refused("/v1/tasks/none/exec", start), NotFound)
    assert isinstance(await refused("/v1/tasks/t2/exec", start), Conflict), "it has no node yet"
    assert isinstance(await refused("/v1/tasks/t1/exec", b"GET / HTTP/1.1"), UsageError)
    assert isinstance(await refused("/v1/tasks/t1/exec", pack(Kind.STDIN, b"x")), UsageError)
    assert isinstance(await refused("/v1/tasks/t1/exec", pack(Kind.START, b"{}")), UsageError)
    assert isinstance(await refused("/v1/tasks/t1/exec", pack(Kind.START, b"no JSON")), UsageError)
    await chain.engine.stop(chain.box.id, 1.0)
    error = await refused("/v1/tasks/t1/exec", start)
    assert isinstance(error, Conflict)
    assert error.remedy == "miniorch logs t1"


# ---- files, processes, logs ----


async def test_files_go_in_and_come_out(chain: Chain) -> None:
    content = random.Random(1).randbytes(3 * MEGABYTE)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo("big")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    pieces = iter([made.getvalue()[at : at + 65536] for at in range(0, len(made.getvalue()), 65536)])
    connection, answer = await asyncio.to_thread(
        chain.transport.open, "PUT", "/v1/tasks/t1/archive?path=%2Ftmp", pieces
    )
    answer.close()
    connection.close()
    assert chain.engine.files[chain.box.id]["/tmp/big"] == content
    assert await chain.transport.request("GET", "/v1/tasks/t1/stat?path=%2Ftmp%2Fbig") == {
        "name": "big", "folder": False, "link": "",
    }  # fmt: skip
    connection, answer = await asyncio.to_thread(chain.transport.open, "GET", "/v1/tasks/t1/archive?path=/tmp/big")
    data = await asyncio.to_thread(answer.read)
    connection.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile("big")
        assert file is not None
        assert file.read() == content
    with pytest.raises(NotFound, match="no /nope in the container"):
        await chain.transport.request("GET", "/v1/tasks/t1/archive?path=/nope")
    with pytest.raises(NotFound, match="no /nope in the container"):
        await asyncio.to_thread(
            chain.transport.open, "PUT", "/v1/tasks/t1/archive?path=/nope", iter([b"x" * 65536] * 99)
        )


async def test_processes_and_logs_come_through(chain: Chain) -> None:
    processes = await chain.transport.request("GET", "/v1/tasks/t1/top")
    assert processes == {"titles": ["PID", "CMD"], "rows": [["1", "init"]]}
    connection, answer = await asyncio.to_thread(chain.transport.open, "GET", "/v1/tasks/t1/logs?tail=1")
    assert await asyncio.to_thread(answer.read) == b"started\n"
    connection.close()


async def test_an_agent_that_is_away_is_one_readable_error(chain: Chain) -> None:
    (chain.folder / "agent.sock").unlink()
    with pytest.raises(Unreachable, match="agent on n1 does not answer") as caught:
        await chain.transport.request("GET", "/v1/tasks/t1/top")
    assert caught.value.remedy == "miniorch up   (on n1)"


def test_a_node_that_is_silent_is_told_as_such() -> None:
    for silence in TimeoutError(), OSError(errno.EHOSTUNREACH, "No route to host"):
        assert "n1 does not answer: it is off" in str(_away("n1", silence))
    assert "the agent on n1 does not answer (EOFError)" in str(_away("n1", EOFError()))


@pytest.mark.parametrize("turns", range(1, 6))
def test_input_that_comes_as_the_loop_closes_is_nobodys_complaint(turns: int) -> None:
    """However few turns the loop still makes after the session, as in `asyncio.run`'s last steps."""
    exchange, complaints = mock.Mock(), []
    exchange.send = mock.AsyncMock(side_effect=ConnectionResetError("Connection lost"))
    session = Session(mock.Mock(), "/v1/tasks/t1/exec")
    session._exchange = exchange
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context["message"]))
    handing = loop.create_task(session._hand_over())
    with mock.patch.object(os, "read", side_effect=[b"typed", b""]):
        reader = threading.Thread(target=session._read_input, args=(loop,), daemon=True)
        reader.start()
        for _ in range(turns):
            loop.call_soon(loop.stop)
            loop.run_forever()
        handing.cancel()
        loop.run_until_complete(asyncio.gather(handing, return_exceptions=True))
        loop.close()
        session._sent.release()
        reader.join(10)
    gc.collect()
    assert not reader.is_alive(), "it must not die of a loop that is closed"
    assert complaints == []
