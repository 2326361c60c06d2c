"""A storm: many tasks that fit nowhere, and nodes that join one after the other. What does each of them cost?

    .venv/bin/python benchmarks/pending.py [tasks [nodes]]
    .venv/bin/python benchmarks/pending.py neighbours [services [nodes]]

Services of 100 tasks each want more memory than any node has. Then twenty nodes join that help nobody, a second apart,
and one on which one task fits. For each join: how many services were asked about it, how many looked for a place among
all nodes, how many statuses were written, and the processor's time. The controller is the real one; the store is the
cache itself. Correctness is checked in the same run: nobody waits who would fit, and at last there is silence.

The second: each service waits to be beside one that runs nowhere, so a change of any node may help it, and every node
tells of a new image at the same moment.
"""

import os
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a scheduler.py

import miniorch.controllers.placement as placement
from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import Placer
from miniorch.model import Node, Service, Status, Task, TaskState
from miniorch.spec import Constraint, Placement, Resources, ServiceSpec, TaskSpec

GIB, REPLICAS, JOINING = 1 << 30, 100, 20
FILES = TaskSpec("web:1", reserved=Resources(0.1, 64 * GIB))
asked: Counter[str] = Counter()


class Storm:
    """A placer and its queue; whatever it writes is seen at once."""

    def __init__(self) -> None:
        self.cache, self.placer, self.now = Cache(), Placer(), 1_000_000.0
        self.queue: dict[str, None] = {}
        self.longest = 0.0  # plan, in seconds: so long nobody else is heard

    def put(self, item: object) -> None:
        self.cache.write(item, self.cache.revision + 1, self._changed)

    def _changed(self, item: object, gone: bool) -> None:
        self.queue.update(dict.fromkeys(self.placer.keys(item, gone)))

    def settle(self) -> None:
        """Until nothing is due. Each time a second later."""
        self.now += 1.0
        while self.queue:
            key = next(iter(self.queue))
            del self.queue[key]
            began = time.process_time()
            plan = self.placer.plan(key, self.cache, self.now)
            self.longest = max(self.longest, time.process_time() - began)
            asked["plans"] += 1
            self.queue.update(dict.fromkeys(plan.others))
            for write in plan.writes:
                asked["statuses"] += isinstance(write.item, Task)
                self.put(write.item)
            if plan.again_in_seconds == 0.0:
                self.queue[key] = None


def counted(name: str) -> None:
    right = getattr(placement, name)

    def counting(*args: Any, **more: Any) -> Any:
        asked[name] += 1
        return right(*args, **more)

    setattr(placement, name, counting)


def node(number: int, memory: int = 32 * GIB) -> Node:
    return Node(f"n{number}", "10.200.0.0/24", "", Resources(16.0, memory))


def neighbours(services: int = 200, nodes: int = 50) -> None:
    beside = Placement((Constraint("service", "==", ("db",)),))
    storm = Storm()
    for number in range(nodes):
        storm.put(node(number))
    for number in range(services):
        storm.put(Service("shop", f"s{number}", ServiceSpec(TaskSpec("web:1"), placement=beside), ""))
        storm.put(Task(f"t{number}", "shop", f"s{number}", 1, TaskSpec("web:1"), 0.0))
    storm.settle()
    for number in range(5):
        asked.clear()
        storm.longest, began = 0.0, time.process_time()
        for name in range(nodes):
            storm.put(replace(node(name), images=(f"image:{number}",)))
        storm.settle()
        print(
            f"{services} services wait, {nodes} nodes tell of an image: {asked['place']} searches, {asked['plans']} "
            f"plans, {(time.process_time() - began) * 1000:.0f} ms, the longest {storm.longest * 1000:.0f} ms; "
            f"load {os.getloadavg()[0]:.1f}"
        )
        assert asked["place"] == services, "once, however many nodes have changed"
    storm.put(Service("shop", "db", ServiceSpec(TaskSpec("db:1")), ""))
    storm.put(Task("db", "shop", "db", 1, TaskSpec("db:1"), 0.0, node="n7", status=Status(TaskState.RUNNING)))
    storm.settle()
    assert {task.node for task in storm.cache.tasks.values()} == {"n7"}


def main() -> None:
    if sys.argv[1:2] == ["neighbours"]:
        counted("place")
        neighbours(*map(int, sys.argv[2:4]))
        return
    tasks, nodes = (int(word) for word in (sys.argv[1:] + ["100000", "1000"][len(sys.argv) - 1 :])[:2])
    for name in ("refused_by", "place"):
        counted(name)
    storm = Storm()
    for number in range(nodes):
        storm.put(node(number))
    for number in range(tasks // REPLICAS):
        storm.put(Service("shop", f"s{number}", ServiceSpec(FILES, REPLICAS), ""))
        for slot in range(1, REPLICAS + 1):
            storm.put(Task(f"t{number}-{slot}", "shop", f"s{number}", slot, FILES, 0.0))
    began = time.process_time()
    storm.settle()
    print(f"{tasks} tasks wait on {nodes} nodes, all with a reason after {time.process_time() - began:.1f} s of CPU")
    assert {task.status.state for task in storm.cache.tasks.values()} == {TaskState.PENDING}
    for number in range(JOINING + 1):
        asked.clear()
        helps = number == JOINING
        began = time.process_time()
        storm.put(node(nodes + number, (64 if helps else 32) * GIB))
        storm.settle()
        print(
            f"join {number + 1:2}: {asked['refused_by']} questions about the new node, {asked['place']} searches, "
            f"{asked['plans']} plans, {asked['statuses']} statuses, {(time.process_time() - began) * 1000:6.1f} ms; "
            f"load {os.getloadavg()[0]:.1f}"
        )
        assert asked["refused_by"] <= 2 * tasks // REPLICAS
        assert asked["place"] <= helps
        assert asked["statuses"] <= 2 * placement.TELL_TASKS
    placed = [task for task in storm.cache.tasks.values() if task.node]
    assert [task.node for task in placed] == [f"n{nodes + JOINING}"]
    asked.clear()
    storm.settle()
    assert not asked, "nobody asks when nothing has happened"


main()
