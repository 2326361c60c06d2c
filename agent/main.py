"""The agent process: the real engine, ingress and files, put together around `agent/agent.py`.

    python -m agent.main --node node1

Ending it, or killing it, touches no container and no published port: both go on without it and are found again. It
listens on one socket, for the server alone: `GET /logs/{task}?tail=N&follow=1`. `--undo` removes all containers of
miniorch from this machine, Docker's network and HAProxy; volumes stay.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import random
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs

from uvicorn.config import Config
from uvicorn.server import Server

from agent.agent import Agent
from agent.docker_engine import DockerEngine
from agent.files import NodeFiles
from agent.haproxy import HAProxy
from miniorch.client import RUN_DIRECTORY, STATE_DIRECTORY, UnixTransport
from miniorch.clock import SystemClock
from miniorch.errors import Conflict, MiniorchError

log = logging.getLogger("agent")

LOG_PATH = re.compile(r"/logs/([0-9a-z]+)")
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Logs:
    """The output of this node's containers, as an ASGI application."""

    def __init__(self, agent: Agent, engine: DockerEngine) -> None:
        self._agent = agent
        self._engine = engine

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        path = LOG_PATH.fullmatch(scope["path"])
        container = self._agent.container_of(path[1]) if path else None
        if container is None:
            await _answer(send, 404, b"this node has no container of that task")
            return
        query = parse_qs(scope["query_string"].decode())
        tail = query.get("tail", ["100"])[0]
        follow = query.get("follow", ["0"])[0] == "1"
        sending = asyncio.ensure_future(self._send(send, container.id, int(tail) if tail.isdigit() else 100, follow))
        hanging_up = asyncio.ensure_future(_hung_up(receive))
        await asyncio.wait([sending, hanging_up], return_when=asyncio.FIRST_COMPLETED)
        for task in (sending, hanging_up):
            task.cancel()
        await asyncio.gather(sending, hanging_up, return_exceptions=True)

    async def _send(self, send: Send, container: str, tail: int, follow: bool) -> None:
        try:
            await _begin(send, 200)
            async for chunk in self._engine.logs(container, tail=tail, follow=follow):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except MiniorchError as error:
            log.warning("logs of %s: %s", container[:12], error.message)
        await send({"type": "http.response.body", "body": b""})


async def _begin(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, status: int, body: bytes) -> None:
    await _begin(send, status)
    await send({"type": "http.response.body", "body": body})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class QuietServer(Server):
    """Uvicorn that leaves signals to us, and sleeps: its own loop would wake up ten times a second."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await asyncio.Event().wait()  # until cancelled


async def serve(node: str) -> None:
    """Run until SIGTERM or SIGINT."""
    run, state = Path(RUN_DIRECTORY), Path(STATE_DIRECTORY)
    engine = DockerEngine()
    ingress = HAProxy(run)
    agent = Agent(
        UnixTransport(), engine, ingress, node, SystemClock(), random.Random(), NodeFiles(state), avx=has_avx()
    )
    config = Config(
        Logs(agent, engine), interface="asgi3", lifespan="off", ws="none", loop="asyncio",
        log_config=None, log_level="warning", access_log=False,
    )  # fmt: skip
    server = QuietServer(config)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("node %s: listening on %s/agent.sock", node, run)
    serving = asyncio.create_task(server.serve(sockets=[listen(run / "agent.sock")]), name="agent socket")
    acting = asyncio.create_task(agent.run(), name="agent")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([serving, acting, stopping], return_when=asyncio.FIRST_COMPLETED)
    failure = acting.exception() if acting.done() else None
    for task in (serving, acting, stopping):
        task.cancel()
    await asyncio.gather(serving, acting, stopping, return_exceptions=True)
    engine.close()
    if failure is not None:
        raise failure
    log.info("ended; containers and published ports go on")
    leave()


def leave() -> NoReturn:
    """End at once. Threads may wait for Docker or the server for a minute, and Python would wait for them."""
    logging.shutdown()
    os._exit(0)


def listen(path: Path) -> socket.socket:
    """A Unix socket for this user alone, in place of one left by a dead process."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def take_lock(run: Path) -> int:
    """Only one agent per machine. The kernel frees the lock however this process ends."""
    run.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict("an agent of miniorch runs on this machine already", remedy="miniorch down") from None
    return descriptor


def has_avx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AVX, or is none that could."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return flags is None or "avx" in flags[1].split()


async def undo() -> None:
    """Remove everything that the agent made on this machine, but for its files."""
    await HAProxy(Path(RUN_DIRECTORY)).end()
    engine = DockerEngine()
    try:
        removed = await engine.undo()
        log.info("removed %d containers, the network and HAProxy", removed)
    finally:
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="agent", description="miniorch's agent: runs this node's containers")
    parser.add_argument("--node", default=socket.gethostname(), help="this node's name")
    parser.add_argument("--undo", action="store_true", help="remove all containers of miniorch here, and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing the terminal does not concern us
    try:
        lock = take_lock(Path(RUN_DIRECTORY))
        asyncio.run(undo() if options.undo else serve(options.node))
        os.close(lock)
    except MiniorchError as error:
        log.error("%s%s", error.message, f" ({error.remedy})" if error.remedy else "")
        return error.exit_code
    except PermissionError as error:
        log.error("the agent needs root: %s", error)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
