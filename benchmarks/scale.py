"""How soon a service of 10,000 replicas is accepted, written out as tasks, and placed on 1,000 nodes.

    .venv/bin/python benchmarks/scale.py [--replicas 10000] [--nodes 1000] [--rounds 3]

The real server (handlers, control loops, scheduler) over the real store on the disk, called without a socket; the nodes
are records that send heartbeats and never start anything. Beside it, in the same round: what the same number of tasks
costs if each is written alone, one after the other, in the same store. That is what batching is measured against.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a scheduler.py
from miniorch.api.routes import dispatch
from miniorch.clock import SystemClock
from miniorch.codec import to_plain
from miniorch.controllers.liveness import HEARTBEAT_SECONDS
from miniorch.errors import NotLeader
from miniorch.model import Cluster, Node, Task
from miniorch.server import Server
from miniorch.spec import AppSpec, Resources, ServiceSpec, TaskSpec
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.records import put
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Compare, Operation

ALONE = 500  # so many tasks are written alone; the time is scaled up


class Counting(SqliteStore):
    """Counts transactions that changed something."""

    transactions = 0

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        revision = await super().txn(compares, operations)
        self.transactions += revision is not None
        return revision


async def one_round(folder: Path, replicas: int, nodes: int) -> tuple[float, float, float, int, float]:
    """Seconds until accepted, expanded, placed; transactions; seconds if every task were written alone."""
    store = Counting(folder / "state.db")
    await store.txn([], [put(Cluster("benchmark", "10.0.0.0/9", "10.128.0.0/9"))])
    capacity = Resources(64.0, 2**40)
    for first in range(0, nodes, TXN_OPERATIONS):
        names = [f"n{number}" for number in range(first, min(nodes, first + TXN_OPERATIONS))]
        await store.txn([], [put(Node(name, "10.0.0.0/24", "10.0.0.1", capacity)) for name in names])
    server = Server(store, SystemClock(), random.Random(1))
    await server.prepare()
    running = asyncio.create_task(server.run())
    await until_led(server, "/v1/nodes/n0/heartbeat", {})
    spec = AppSpec({"many": ServiceSpec(TaskSpec("image:1", reserved=Resources(0.01, 2**20)), replicas=replicas)})
    beating = asyncio.create_task(beat(server, nodes))
    tasks = server.loop.cache.tasks
    store.transactions = 0
    started = time.perf_counter()
    await dispatch(server.handlers, "PUT", "/v1/apps/app", to_plain(spec))
    accepted = time.perf_counter() - started
    expanded = 0.0
    while not (len(tasks) == replicas and all(task.node for task in tasks.values())):
        if not expanded and len(tasks) == replicas:
            expanded = time.perf_counter() - started
        await asyncio.sleep(0.02)
    placed, count = time.perf_counter() - started, store.transactions
    some: list[Task] = [replace(task, id=f"x{task.id}") for task in list(tasks.values())[:ALONE]]
    for one in (beating, running):
        one.cancel()
    await asyncio.gather(beating, running, return_exceptions=True)
    started = time.perf_counter()
    for task in some:
        await store.txn([Compare(f"/tasks/{task.id}", 0)], [put(task)])
    alone = (time.perf_counter() - started) * replicas / ALONE
    await store.close()
    return accepted, expanded or placed, placed, count, alone


async def until_led(server: Server, path: str, body: object) -> None:
    """A request to a server that may not lead yet."""
    while True:
        try:
            await dispatch(server.handlers, "POST", path, body)
            return
        except NotLeader:
            await asyncio.sleep(0.05)


async def beat(server: Server, nodes: int) -> None:
    while True:
        for number in range(nodes):
            await dispatch(server.handlers, "POST", f"/v1/nodes/n{number}/heartbeat", {})
        await asyncio.sleep(HEARTBEAT_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.replicas} replicas on {options.nodes} nodes, seconds since the request")
    print("round  load  accepted  expanded   placed  transactions  each alone  ratio")
    rounds = []
    for number in range(1, options.rounds + 1):
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            one = asyncio.run(one_round(Path(folder), options.replicas, options.nodes))
        rounds.append(one)
        accepted, expanded, placed, count, alone = one
        print(
            f"{number:5} {load:5.2f} {accepted:9.2f} {expanded:9.2f} {placed:8.2f} {count:13} {alone:11.2f}"
            f" {2 * alone / placed:6.1f}",
            flush=True,
        )
    placed = statistics.median(one[2] for one in rounds)
    print(f"median: placed after {placed:.2f} s, {options.replicas / placed:.0f} tasks/s made, placed and on the disk")


if __name__ == "__main__":
    main()
