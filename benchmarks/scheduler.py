"""How fast the scheduler decides, and how fast a decision gets through the store to who watches it.

    .venv/bin/python benchmarks/scheduler.py [decide] [flat] [lanes] [scale] [store] [loop] [--rounds 5]

Every figure is a ratio to a yardstick that runs beside it, round by round: a scheduler in plain Python that looks at
all nodes once per service and keeps those that fit in a heap. On a quiet machine it decides 4 to 5 times as fast as
swarmkit's Go code; swarmkit gets 0.037 of the yardstick's rate from its store to a watcher, in memory. Seconds are of
the processor, so that other load counts little; for SQLite they are of the clock. `store` has all the parts that a
server has between a decision and who watches, `loop` is the server's own loop with one controller.

The cluster is half full when the clock starts. One half of what is decided are new services of 100 replicas, the other
half are running services that grow from 50 to 100. In the same run the answers are compared: they are the yardstick's,
node by node, and no node is above its capacity or lacks the label.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from yardstick import Yardstick  # noqa: E402 (it lies beside this file)

from miniorch.clock import SystemClock  # noqa: E402 (found by the line above)
from miniorch.controllers.loop import Loop  # noqa: E402
from miniorch.controllers.placement import Placer  # noqa: E402
from miniorch.garbage import sparing  # noqa: E402
from miniorch.model import Event, Node, Service, Status, Task, TaskState, changed  # noqa: E402
from miniorch.spec import Constraint, Placement, Resources, ServiceSpec, TaskSpec  # noqa: E402
from miniorch.state.memory import MemoryStore  # noqa: E402
from miniorch.state.records import Write, from_entry, put, transactions  # noqa: E402
from miniorch.state.sqlite import SqliteStore  # noqa: E402
from miniorch.state.store import Compare, Store  # noqa: E402
from scheduler.index import Index  # noqa: E402
from scheduler.request import Request  # noqa: E402

MIB = 1024 * 1024
CACHE = ROOT / ".cache"  # on a disk, which a folder for temporary files need not be
SWARMKIT = 0.037  # of the yardstick's rate, from the store to a watcher
SIZES = ((4, 8192), (8, 16384), (16, 32768), (32, 65536))  # of nodes: processors, MiB
SHAPES = ((0.1, 128), (0.2, 256), (0.25, 512), (0.5, 512), (0.5, 1024))  # of tasks
NOW = 1_000_000.0


def cluster(count: int) -> list[Node]:
    """Nodes of four sizes; every second one has an SSD."""
    nodes = []
    for number in range(count):
        cpus, memory = SIZES[number % len(SIZES)]
        labels = {"disk": "ssd" if number // len(SIZES) % 2 else "hdd", "zone": "abc"[number % 3]}
        capacity = Resources(float(cpus), memory * MIB)
        nodes.append(Node(f"node{number:06}", "", "", capacity, platform="linux/amd64", labels=labels))
    return nodes


def service(number: int, scale: float = 1.0) -> Request:
    """A service of 100 replicas that wants one kind of disk."""
    cpus, memory = SHAPES[number % len(SHAPES)]
    reserved = Resources(round(cpus * scale, 3), int(memory * MIB * scale))
    disk = Constraint("node.labels.disk", "==", ("ssd" if number % 2 else "hdd",))
    spec = ServiceSpec(TaskSpec("web:1", reserved=reserved), 100, placement=Placement((disk,)))
    return Request("shop", f"s{number}", spec)


@dataclass
class Case:
    """A cluster that is half full, and what is to be decided: services with how many more tasks each gets."""

    nodes: list[Node]
    services: list[Request]
    filled: list[tuple[Request, int]]
    wanted: list[tuple[Request, int]]

    @classmethod
    def of(cls, nodes: int, tasks: int) -> Case:
        """`tasks` are decided, and as many are there before. Together they want about 95 % of the processors."""
        machines = cluster(nodes)
        count = tasks // 100
        shapes = statistics.mean(cpus for cpus, _ in SHAPES)
        scale = 0.95 * sum(node.capacity.cpus for node in machines) / (shapes * 2 * tasks)
        services = [service(number, scale) for number in range(count * 3 // 2)]
        growing, full = services[:count], services[count:]
        new = [service(number, scale) for number in range(len(services), len(services) + count // 2)]
        filled = [*((one, 50) for one in growing), *((one, 100) for one in full)]
        wanted = [*((one, 50) for one in growing), *((one, 100) for one in new)]
        random.Random(1).shuffle(wanted)
        return cls(machines, [*services, *new], filled, wanted)

    def index(self) -> Index:
        index = Index()
        for node in self.nodes:
            index.node(node.name, node)
        for request in self.services:
            index.service(request.key, request.spec)
        for number, (request, count) in enumerate(self.filled):
            index.place(request, [f"f{number}.{task}" for task in range(count)])
        return index

    def batches(self) -> Iterator[tuple[Request, list[str]]]:
        for number, (request, count) in enumerate(self.wanted):
            yield request, [f"t{number}.{task}" for task in range(count)]


def said(what: str, text: str) -> None:
    print(f"{what:7} {text}   load {os.getloadavg()[0]:.1f}", flush=True)


def median(what: str, values: Sequence[float], goal: str) -> None:
    low, high = min(values), max(values)
    print(f"{what:7} median {statistics.median(values):.2f} ({low:.2f} to {high:.2f}); {goal}\n", flush=True)


def decide(rounds: int, nodes: int = 5_000, tasks: int = 100_000) -> None:
    """Ours beside the yardstick, service by service, on the same cluster."""
    case, ratios = Case.of(nodes, tasks), []
    for _ in range(rounds):
        index, yardstick = case.index(), Yardstick(case.nodes)
        for request, count in case.filled:
            yardstick.place(request, count)
        ours = theirs = 0.0
        placed = 0
        for request, ids in case.batches():
            started = time.process_time()
            places = index.place(request, ids)
            between = time.process_time()
            wanted = yardstick.place(request, len(ids))
            ours, theirs = ours + between - started, theirs + time.process_time() - between
            assert places == [*wanted, *[None] * (len(ids) - len(wanted))], request.key
            placed += len(wanted)
        check(index, case.nodes)
        ratios.append(theirs / ours)
        said("decide", f"{placed} of {tasks}: {placed / ours:9,.0f}/s, yardstick {placed / theirs:9,.0f}/s, ratio {ratios[-1]:.2f}")  # fmt: skip # noqa: E501
    median("decide", ratios, "at least 3 is wanted, 5 hoped for")


def check(index: Index, nodes: Sequence[Node]) -> None:
    """By the tasks themselves: nobody is above capacity, everybody has the disk that was asked for."""
    views = index.board().views
    assert len(views) == len(nodes)
    for node in nodes:
        tasks = views[node.name].tasks
        assert sum(round(task.spec.reserved.cpus * 1000) for task in tasks) <= round(node.capacity.cpus * 1000)
        assert sum(task.spec.reserved.memory_bytes for task in tasks) <= node.capacity.memory_bytes
        disks = {"ssd" if int(task.service[1:]) % 2 else "hdd" for task in tasks}
        assert disks <= {node.labels["disk"]}


def flat(rounds: int) -> None:
    """What a placement costs in clusters of all sizes: the best of the rounds, as a table for docs/scheduling.md."""
    best: dict[tuple[int, str], float] = {}
    for _ in range(rounds):
        for count in (100, 1_000, 10_000, 100_000):
            case = Case.of(count, 20_000)
            index, yardstick = case.index(), Yardstick(case.nodes)
            few = case.wanted[: 20 if count > 10_000 else 100]
            for name, work in (
                ("ours", lambda request, ids, index=index: index.place(request, ids)),
                ("looking at all", lambda request, ids, yard=yardstick: yard.place(request, len(ids))),
            ):
                started = time.process_time()
                for number, (request, many) in enumerate(few):
                    work(request, [f"{number}.{task}" for task in range(many)])
                took = (time.process_time() - started) / sum(many for _, many in few) * 1e6
                best[count, name] = min(took, best.get((count, name), took))
    print("   nodes   microseconds per placement; the bar is ours, one # per tenth of one")
    for count in (100, 1_000, 10_000, 100_000):
        ours, theirs = best[count, "ours"], best[count, "looking at all"]
        print(f"{count:8,}   {ours:5.1f}  looking at all {theirs:8.1f}   {'#' * round(ours * 10)}")
    said("flat", "cost must not grow with the cluster")


def lanes(_: int) -> None:
    """Spread over zones and their racks: the first of many tasks looks at every rack, the others do not."""
    even = Placement(spread=("node.labels.zone", "node.labels.rack"))
    request = replace(service(0), spec=replace(service(0).spec, placement=even))
    for zones, racks in ((3, 2), (10, 10), (100, 50)):
        index = Index()
        for n, node in enumerate(cluster(10_000)):
            labels = {"zone": f"z{n % zones}", "rack": f"r{n % zones}-{n // zones % racks}"}
            index.node(node.name, replace(node, labels=labels))
        for count, what in ((1, "zones are sorted"), (1, "one task"), (500, "500 tasks")):
            started = time.process_time()
            assert all(index.place(request, [f"{what}.{number}" for number in range(count)]))
            said("lanes", f"{zones * racks:5,} racks: {what}, {(time.process_time() - started) * 1000:.1f} ms")


def scale(rounds: int) -> None:
    for _ in range(min(rounds, 2)):
        asyncio.run(very_large())


async def very_large(nodes: int = 100_000, tasks: int = 1_000_000) -> None:
    """A very large cluster, empty, with an object for each task. The clock has 10 s, memory 4 GB."""
    machines = cluster(nodes)
    services = [service(number, 0.25) for number in range(tasks // 100)]
    status = Status(TaskState.ASSIGNED, "", NOW)
    index, made = Index(), []
    with sparing():  # as in the server
        started = time.process_time()
        for request in services:
            index.service(request.key, request.spec)
        for node in machines:
            index.node(node.name, node)
        for number, request in enumerate(services):
            ids, spec = [f"{number}.{task}" for task in range(100)], request.spec.task
            for slot, (identifier, name) in enumerate(zip(ids, index.place(request, ids), strict=True), start=1):
                assert name is not None
                task = Task(identifier, request.app, request.service, slot, spec, NOW, node=name, status=status)
                index.task(None, task)
                made.append(task)
        took = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024
    said("scale", f"{nodes:,} nodes, {len(made):,} tasks: {took:.1f} s, {len(made) / took:,.0f}/s, {memory:.2f} GB")
    check(index, machines)


def beside(case: Case, work: Callable[[], tuple[int, float]]) -> tuple[int, float, float]:
    """What some work says, and the yardstick's decisions per second: one half of them before it, one after it."""
    yardstick, took, placed = Yardstick(case.nodes), 0.0, 0
    for request, count in case.filled:
        yardstick.place(request, count)

    def measure(some: Sequence[tuple[Request, int]]) -> None:
        nonlocal took, placed
        started = time.process_time()
        placed += sum(len(yardstick.place(request, count)) for request, count in some)
        took += time.process_time() - started

    half = len(case.wanted) // 2
    measure(case.wanted[:half])
    done = work()
    measure(case.wanted[half:])
    return *done, placed / took


async def fill(store: Store, items: Sequence[object]) -> None:
    operations = [put(item) for item in items]
    for first in range(0, len(operations), 120):
        await store.txn([], operations[first : first + 120])


async def through(store: Store, case: Case, clock: Callable[[], float]) -> tuple[int, float]:
    """Decide, write each task with its node, and wait until a watcher that reads every object has seen all."""
    index = case.index()
    batches = list(case.batches())
    await fill(
        store,
        [
            Task(identifier, request.app, request.service, slot, request.spec.task, NOW)
            for request, ids in batches
            for slot, identifier in enumerate(ids, start=1)
        ],
    )
    listing = await store.list("/tasks/")
    tasks: dict[str, Task] = {task.id: task for task in map(from_entry, listing.entries)}
    revisions = {identifier: entry.modified for identifier, entry in zip(tasks, listing.entries, strict=True)}
    seen: set[str] = set()
    wanted, all_seen, status = -1, asyncio.Event(), Status(TaskState.ASSIGNED, "waits for the node's agent", NOW)

    async def watch() -> None:
        async for changes in store.watch("/tasks/", listing.revision):
            for change in changes:
                assert change.entry is not None
                task = from_entry(change.entry)
                index.task(None, task)
                seen.add(task.id)
            if len(seen) == wanted:
                all_seen.set()

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    with sparing():  # as in the server
        started, written, pending = clock(), 0, []
        for request, ids in batches:
            writes = []
            for identifier, name in zip(ids, index.place(request, ids), strict=True):
                if name is not None:
                    task = tasks[identifier]
                    writes.append(Write(changed(task, node=name, status=status), revisions[identifier]))
            written += len(writes)
            for one in transactions(writes, lambda write: Event("", 0.0, "", "", ""), Compare("/leaders/leader", 0)):
                pending.append(asyncio.create_task(store.txn(one.compares, one.operations)))
            if len(pending) > 64:
                assert all(await asyncio.gather(*pending))
                pending = []
        assert all(await asyncio.gather(*pending))
        wanted = written
        while len(seen) < wanted:
            await asyncio.wait_for(all_seen.wait(), 60)
        took = clock() - started
    watcher.cancel()
    await store.close()
    check(index, case.nodes)
    return written, took


def store(rounds: int, nodes: int = 5_000, tasks: int = 100_000) -> None:
    """From the decision through the store to a watcher: in memory, and in SQLite with fsync."""
    case = Case.of(nodes, tasks)
    found: dict[str, list[float]] = {"memory": [], "SQLite": []}
    for _ in range(rounds):
        for name, ratios in found.items():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                kept = MemoryStore() if name == "memory" else SqliteStore(Path(folder, "state.db"))
                clock = time.process_time if name == "memory" else time.perf_counter
                work = through(kept, case, clock)
                written, took, rate = beside(case, lambda work=work: asyncio.run(work))
            ratios.append(written / took / rate / SWARMKIT)
            said("store", f"{name}: {written} written and seen, {written / took:8,.0f}/s, yardstick {rate:9,.0f}/s, {ratios[-1]:.1f} x swarmkit")  # fmt: skip # noqa: E501
    median("memory", found["memory"], "at least 10 times swarmkit's is wanted, 25 hoped for")
    median("SQLite", found["SQLite"], "at least 5 times swarmkit's in memory is wanted")


async def looped(case: Case) -> tuple[int, float]:
    """The server's own loop with its controller of waiting tasks: events and records of decisions are written, too."""
    kept = MemoryStore()
    loop = Loop(kept, [Placer()], SystemClock(), random.Random(1))
    items: list[object] = [*case.nodes]
    items += [Service(one.app, one.service, one.spec, "10.201.0.1") for one in case.services]
    for request, ids in case.batches():
        items += [Task(one, request.app, request.service, slot, request.spec.task, NOW) for slot, one in enumerate(ids)]
    await fill(kept, items)
    done = asyncio.Event()

    def tell(item: object, gone: bool) -> None:
        loop.changed(item, gone)
        if not loop.cache.waiting:
            done.set()

    follower = asyncio.create_task(loop.cache.follow(kept, tell))
    await asyncio.sleep(0)
    await loop.cache.reached(await kept.revision())
    done.clear()
    count = sum(len(ids) for _, ids in case.batches())
    with sparing():
        started = time.process_time()
        runner = asyncio.create_task(loop.run(Compare("/leaders/leader", 0)))
        await asyncio.wait_for(done.wait(), 600)
        took = time.process_time() - started
    for task in (runner, follower):
        task.cancel()
    assert len([task for task in loop.cache.tasks.values() if task.node]) == count
    return count, took


def loop(rounds: int, nodes: int = 5_000, tasks: int = 20_000) -> None:
    case, ratios = Case.of(nodes, tasks), []
    for _ in range(rounds):
        count, took, rate = beside(case, lambda: asyncio.run(looped(case)))
        ratios.append(count / took / rate / SWARMKIT)
        said("loop", f"{count} placed, {count / took:8,.0f}/s, yardstick {rate:9,.0f}/s, {ratios[-1]:.1f} x swarmkit")
    median("loop", ratios, "with events and records of decisions; no figure is asked for")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="PART")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    CACHE.mkdir(exist_ok=True)
    works = {"decide": decide, "flat": flat, "lanes": lanes, "scale": scale, "store": store, "loop": loop}
    for part in options.parts or works:
        works[part](options.rounds)


if __name__ == "__main__":
    main()
