"""Our store on SQLite and on etcd, beside the bare clients: transactions, watch latency, and a list of 10,000 tasks.

    .venv/bin/python benchmarks/state.py [--rounds 5] [--seconds 1]

Values have 256 bytes; everything is on the disk when it is confirmed (SQLite: `synchronous = FULL`). "alone" is one
writer that waits for each answer; "64 at once" are 64 writers, whose transactions share commits and, on their way to
etcd, requests. The guarantees differ: SQLite is in this process and on one machine; etcd is a server, here with one
member, and could be on three machines. The etcd is our own, in a temporary folder and on a free port. The kinds
alternate within each round, so that load hits all of them; the ratio is the median over rounds of the ratio to the
first column. Of the bare client's list only the bytes are read, so "list" is what to compare it with; on SQLite, where
this process wrote everything, the objects are there already.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from etcd_process import EtcdProcess, running  # noqa: E402 (found by the line above)

from miniorch.model import DesiredState, Task  # noqa: E402
from miniorch.spec import TaskSpec  # noqa: E402
from miniorch.state.etcd import EtcdStore  # noqa: E402
from miniorch.state.etcd_member import etcd3  # noqa: E402
from miniorch.state.limits import TXN_OPERATIONS  # noqa: E402
from miniorch.state.records import from_entry, put  # noqa: E402
from miniorch.state.sqlite import SqliteStore  # noqa: E402
from miniorch.state.store import Put, Store  # noqa: E402

VALUE = bytes(256)
AT_ONCE = 64
CHANGES = 300
TASKS = 10_000
_keys = itertools.count()


def bare_sqlite(folder: Path, seconds: float) -> float:
    """One INSERT a transaction, as simple as it can be."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, value BLOB)")
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        connection.execute("INSERT INTO kv VALUES (?, ?)", (f"/k{next(_keys)}", VALUE))
        done += 1
    connection.close()
    return done / seconds


def bare_etcd(client: etcd3.Etcd3Client, seconds: float) -> float:
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        client.put(f"/bare/k{next(_keys)}", VALUE)
        done += 1
    return done / seconds


async def ours(store: Store, seconds: float, writers: int) -> float:
    done, end = 0, time.perf_counter() + seconds

    async def write() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await store.txn([], [Put(f"/k{next(_keys)}", VALUE)])
            done += 1

    await asyncio.gather(*(write() for _ in range(writers)))
    return done / seconds


async def latency(store: Store) -> list[float]:
    """Milliseconds from the call of a put until a watcher has the change."""
    key, times, sent = f"/latency{next(_keys)}", [], 0.0
    arrived = asyncio.Event()

    async def watch() -> None:
        async for _ in store.watch(key, await store.revision()):
            times.append((time.perf_counter() - sent) * 1000)
            arrived.set()

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.2)
    for _ in range(CHANGES):
        arrived.clear()
        sent = time.perf_counter()
        await store.txn([], [Put(key, VALUE)])
        await arrived.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return times


def bare_latency(client: etcd3.Etcd3Client) -> list[float]:
    times: list[float] = []
    arrived, sent, key = threading.Event(), [0.0], f"/bare/latency{next(_keys)}"

    def told(_: object) -> None:
        times.append((time.perf_counter() - sent[0]) * 1000)
        arrived.set()

    watch = client.add_watch_callback(key, told)
    time.sleep(0.2)
    for _ in range(CHANGES):
        arrived.clear()
        sent[0] = time.perf_counter()
        client.put(key, VALUE)
        arrived.wait(5)
    client.cancel_watch(watch)
    return times


async def fill(store: Store) -> None:
    spec = TaskSpec("registry.example/shop/web:1.25", environment={"A": "1", "B": "2"})
    tasks = [
        put(Task(f"t{n:06}", "shop", "web", n, spec, 1.0, DesiredState.RUNNING, 1.0, f"node{n % 100}"))
        for n in range(TASKS)
    ]
    for first in range(0, TASKS, TXN_OPERATIONS):
        await store.txn([], tasks[first : first + TXN_OPERATIONS])


async def listing(store: Store) -> tuple[float, float]:
    """Milliseconds for the list, and until it is 10,000 objects."""
    started = time.perf_counter()
    found = await store.list("/tasks/")
    listed = time.perf_counter()
    assert len([from_entry(entry) for entry in found.entries]) == TASKS
    return (listed - started) * 1000, (time.perf_counter() - started) * 1000


def bare_listing(client: etcd3.Etcd3Client) -> float:
    started = time.perf_counter()
    assert len(list(client.get_prefix("/miniorch/tasks/"))) == TASKS
    return (time.perf_counter() - started) * 1000


@contextmanager
def timed_rounds(names: list[str], rounds: int, unit: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Prints each round as it comes and the medians at the end, with the ratio to the first column."""
    print(f"\n{unit}\nround  load " + "".join(f"{name:>24}" for name in names))
    table: list[dict[str, float]] = []

    def add(row: dict[str, float]) -> None:
        table.append(row)
        values = "".join(f"{row[name]:24.2f}" for name in names)
        print(f"{len(table):5} {os.getloadavg()[0]:5.2f} {values}", flush=True)

    yield add
    middle = {name: statistics.median(row[name] for row in table) for name in names}
    ratio = {name: statistics.median(row[name] / row[names[0]] for row in table) for name in names}
    print("median      " + "".join(f"{middle[name]:24.2f}" for name in names))
    print("ratio       " + "".join(f"{ratio[name]:24.2f}" for name in names))


async def rounds(folder: Path, endpoint: str, count: int, seconds: float) -> None:
    host, _, port = endpoint.partition(":")
    unlimited = (("grpc.max_receive_message_length", -1),)
    bare = etcd3.client(host, int(port), grpc_options=unlimited)
    etcd, sqlite = EtcdStore([endpoint]), SqliteStore(folder / "state.db")
    both: dict[str, Store] = {"our etcd": etcd, "our sqlite": sqlite}
    for store in both.values():
        await fill(store)

    names = ["bare etcd3, alone", "bare sqlite3, alone"]
    names += [f"{name}, {many}" for name in both for many in ("alone", f"{AT_ONCE} at once")]
    with timed_rounds(names, count, "transactions per second") as add:
        for _ in range(count):
            row = {names[0]: await in_thread(bare_etcd, bare, seconds)}
            row[names[1]] = await in_thread(bare_sqlite, folder, seconds)
            for name, store in both.items():
                row[f"{name}, alone"] = await ours(store, seconds, 1)
                row[f"{name}, {AT_ONCE} at once"] = await ours(store, seconds, AT_ONCE)
            add(row)

    names = [f"{name}, {part}" for name in ("bare etcd3", *both) for part in ("p50", "p99")]
    with timed_rounds(names, count, "milliseconds from a put to its watcher") as add:
        for _ in range(count):
            times = {"bare etcd3": await in_thread(bare_latency, bare)}
            for name, store in both.items():
                times[name] = await latency(store)
            cuts = {name: statistics.quantiles(values, n=100) for name, values in times.items()}
            add({f"{name}, p{part}": cuts[name][part - 1] for name in times for part in (50, 99)})

    names = ["bare etcd3, list", *(f"{name}, {part}" for name in both for part in ("list", "objects"))]
    with timed_rounds(names, count, f"milliseconds for a list of {TASKS} tasks, and until they are objects") as add:
        for _ in range(count):
            row = {names[0]: await in_thread(bare_listing, bare)}
            for name, store in both.items():
                row[f"{name}, list"], row[f"{name}, objects"] = await listing(store)
            add(row)
    for store in both.values():
        await store.close()
    # The bare client is left to the end of the process: closing it after a watch prints a traceback.


def in_thread(work: Callable[..., float], *arguments: object) -> Awaitable[float]:
    return asyncio.to_thread(work, *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        etcd = EtcdProcess(Path(name))
        with running(etcd):
            asyncio.run(rounds(Path(name), etcd.endpoint, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
