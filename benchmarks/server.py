"""The real server process over its socket: hot paths beside plain FastAPI, thousands of watchers, 10,000 heartbeats.

    .venv/bin/python benchmarks/server.py [--rounds 5] [--watchers 1000,5000] [--nodes 10000] [--seconds 2]

Plain FastAPI is an app that answers the same JSON the way its tutorial does (a dictionary returned, a body read by
pydantic), in the same uvicorn, with the same parser, on the same kind of socket. Both are asked by the same client, in
this process, over 16 connections; the rounds alternate. What is compared is the processor time of the server for each
request, which other load on the machine changes less than it changes a rate.

Watchers are open streams of nodes; one node is changed, and the time is taken until the last stream has it. Memory is
the server's resident memory, before and after. Heartbeats come from nodes that are registered, each every five seconds,
spread evenly; the share is of one processor, in the server.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from miniorch.model import Cluster, Node  # noqa: E402 (found by the line above)
from miniorch.spec import Resources  # noqa: E402
from miniorch.state.limits import TXN_OPERATIONS  # noqa: E402
from miniorch.state.records import put  # noqa: E402
from miniorch.state.sqlite import SqliteStore  # noqa: E402

CONNECTIONS = 16
HEARTBEAT_SECONDS = 5.0
CHANGES = 10
OPENED_AT_ONCE = 100  # as many as may wait to be accepted
WATCHED_NODES = 20
BEAT = {"ready": True, "message": "", "ports_in_use": {}}


def plain(path: str) -> None:
    """The app that ours is compared with."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    from miniorch.listener import QuietServer, listen

    class Heartbeat(BaseModel):
        ready: bool = True
        message: str = ""
        ports_in_use: dict[str, str] = {}

    app, known = FastAPI(), json.loads(sys.stdin.readline())

    @app.get("/v1/{kind}")
    async def listed(kind: str) -> Any:
        return known[kind]

    @app.post("/v1/nodes/{node}/heartbeat")
    async def heartbeat(node: str, beat: Heartbeat) -> Any:
        return {}

    asyncio.run(QuietServer(app).serve([listen(Path(path), 0o600)]))


class Process:
    """A server in a process of its own."""

    def __init__(self, argv: list[str], path: Path, folder: Path, given: str = "") -> None:
        environment = {**os.environ, "MINIORCH_RUN_DIR": str(folder), "MINIORCH_STATE_DIR": str(folder / "state")}
        self.path = str(path)
        self.process = subprocess.Popen(
            [sys.executable, *argv], env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        assert self.process.stdin is not None
        self.process.stdin.write(given.encode() + b"\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"{argv} does not answer"
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def both(folder: Path, nodes: int) -> Iterator[tuple[Process, Process]]:
    """Ours, and plain FastAPI with the same answers."""
    asyncio.run(fill(folder / "state/state.db", nodes))
    ours = Process(["-m", "miniorch.server"], folder / "api.sock", folder)
    try:
        asyncio.run(ask(ours.path, "POST", "/v1/nodes/n1/heartbeat", BEAT))  # until it leads
        known = {kind: asyncio.run(ask(ours.path, "GET", f"/v1/{kind}")) for kind in ("version", "nodes")}
        beside = Process(
            [__file__, "--plain", str(folder / "plain.sock")], folder / "plain.sock", folder, json.dumps(known)
        )
        try:
            yield ours, beside
        finally:
            beside.end()
    finally:
        ours.end()


def request(method: str, path: str, body: Any = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return f"{head}\r\n\r\n".encode() + data


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> tuple[int, bytes]:
    """Status and body of one answer; the connection stays open."""
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(size)


async def ask(path: str, method: str, url: str, body: Any = None) -> Any:
    """One request, tried again until a server leads."""
    for _ in range(300):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            status, answer = await exchange(reader, writer, request(method, url, body))
        finally:
            writer.close()
        if status < 400:
            return json.loads(answer)
        assert status in (421, 503, 409), answer
        await asyncio.sleep(0.1)
    raise TimeoutError(url)


async def fill(path: Path, nodes: int) -> None:
    """A store with nodes. Registering ten thousand, each against all others, is another question."""
    path.parent.mkdir()
    store = SqliteStore(path)
    known = [Node(f"n{n}", "10.0.0.0/24", "10.0.0.1", Resources(2.0, 1 << 30)) for n in range(nodes)]
    await store.txn([], [put(Cluster("benchmark"))])
    for first in range(0, nodes, TXN_OPERATIONS):
        await store.txn([], [put(node) for node in known[first : first + TXN_OPERATIONS]])
    await store.close()


async def requests(path: str, sent: bytes, seconds: float) -> int:
    """How many requests are answered, over all connections."""
    done, end = 0, time.perf_counter() + seconds

    async def one() -> None:
        nonlocal done
        reader, writer = await asyncio.open_unix_connection(path)
        while time.perf_counter() < end:
            status, _ = await exchange(reader, writer, sent)
            assert status == 200, status
            done += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return done


def hot_paths(ours: Process, beside: Process, rounds: int, seconds: float) -> None:
    paths = {
        "GET version": request("GET", "/v1/version"),
        "GET 20 nodes": request("GET", "/v1/nodes"),
        "POST heartbeat": request("POST", "/v1/nodes/n1/heartbeat", BEAT),
    }
    print("requests per second, and microseconds of processor time for each: plain FastAPI, ours")
    print("round  load " + "".join(f"{name:>28}" for name in paths))
    ratios: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(1, rounds + 1):
        row = f"{number:5} {os.getloadavg()[0]:5.2f} "
        for name, sent in paths.items():
            costs = []
            for one in (beside, ours):
                before = one.cpu_seconds()
                done = asyncio.run(requests(one.path, sent, seconds))
                costs.append((one.cpu_seconds() - before) / done * 1e6)
                row += f"{done / seconds:7.0f}/s{costs[-1]:5.0f}"
            ratios[name].append(costs[0] / costs[1])
        print(row, flush=True)
    for name, values in ratios.items():
        print(f"{name}: plain FastAPI needs {statistics.median(values):.2f} times as much (median)")


class Stream(asyncio.Protocol):
    """One watch: as little work as can be, since the server's is to be measured."""

    def __init__(self, heard: asyncio.Semaphore) -> None:
        self.opened = asyncio.Event()
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        if b'"change ' in data:
            self._heard.release()
        elif b"\n{" in data:  # the first line: it follows
            self.opened.set()


async def watch(ours: Process, count: int) -> None:
    """Open `count` streams, change a node a few times, and time the last stream that hears of it."""
    revision = (await ask(ours.path, "GET", "/v1/nodes"))["revision"]
    before = ours.resident()
    loop, heard = asyncio.get_running_loop(), asyncio.Semaphore(0)
    sent = request("GET", f"/v1/watch/nodes?revision={revision}")
    connections: list[asyncio.BaseTransport] = []

    async def beat_all() -> None:  # a node that falls silent would be one more change for all
        for node in range(WATCHED_NODES):
            await ask(ours.path, "POST", f"/v1/nodes/n{node}/heartbeat", BEAT)

    async def open_one() -> None:
        connection, stream = await loop.create_unix_connection(lambda: Stream(heard), ours.path)
        connection.write(sent)
        connections.append(connection)
        await stream.opened.wait()

    for opened in range(0, count, OPENED_AT_ONCE):
        await beat_all()
        await asyncio.gather(*(open_one() for _ in range(min(OPENED_AT_ONCE, count - opened))))
    grown = (ours.resident() - before) / count / 1024
    await beat_all()
    times, costs = [], []
    for number in range(CHANGES):
        started, cpu = time.perf_counter(), ours.cpu_seconds()
        await ask(ours.path, "POST", "/v1/nodes/n1/heartbeat", {**BEAT, "message": f"change {number}"})
        for _ in range(count):
            await heard.acquire()
        times.append((time.perf_counter() - started) * 1000)
        costs.append((ours.cpu_seconds() - cpu) * 1000)
    for connection in connections:
        connection.close()
    told, cost = (", ".join(f"{one:.0f}" for one in values) for values in (times, costs))
    load = os.getloadavg()[0]
    last = f"last one served after {told} ms, for which the server worked {cost} ms"
    print(f"{count} watchers (load {load:.2f}): {grown:.1f} KiB each; {last}", flush=True)


async def heartbeats(ours: Process, nodes: int, seconds: float) -> None:
    """Each of `nodes` once in `HEARTBEAT_SECONDS`, from `CONNECTIONS` clients; the first round is not counted."""
    done, late, started, cpu = 0, 0.0, time.perf_counter(), ours.cpu_seconds()

    async def some(first: int) -> None:
        nonlocal done, late
        reader, writer = await asyncio.open_unix_connection(ours.path)
        for number in range(first, int(nodes * seconds / HEARTBEAT_SECONDS), CONNECTIONS):
            due = started + number * HEARTBEAT_SECONDS / nodes
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, _ = await exchange(reader, writer, request("POST", f"/v1/nodes/n{number % nodes}/heartbeat", BEAT))
            assert status == 200, status
            done, late = done + 1, max(late, time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(some(first) for first in range(CONNECTIONS)))
    done, late, started, cpu = 0, 0.0, time.perf_counter(), ours.cpu_seconds()
    await asyncio.gather(*(some(first) for first in range(CONNECTIONS)))
    passed = time.perf_counter() - started
    share = (ours.cpu_seconds() - cpu) / passed
    beats = f"{done / passed:.0f} heartbeats/s, latest {late * 1000:.0f} ms late"
    print(f"{nodes} nodes (load {os.getloadavg()[0]:.2f}): {beats};")
    print(f"the server needs {share * 100:.0f} % of a processor, {share / done * passed * 1e6:.0f} us each")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--watchers", default="1000,5000")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain)
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for nodes, work in ((WATCHED_NODES, "paths and watchers"), (options.nodes, "heartbeats")):
        with tempfile.TemporaryDirectory() as name, both(Path(name), nodes) as (ours, beside):
            if work == "heartbeats":
                asyncio.run(heartbeats(ours, nodes, 2 * HEARTBEAT_SECONDS))
                continue
            hot_paths(ours, beside, options.rounds, options.seconds)
            for count in map(int, filter(None, options.watchers.split(","))):
                asyncio.run(watch(ours, count))


if __name__ == "__main__":
    main()
