"""How long `explain` of one task takes in the server, and what the record of a decision costs.

    .venv/bin/python benchmarks/explain.py [nodes ...]

For each size: a cluster with twenty tasks per node, one that runs and one that fits nowhere. `first` is asked of a
state that nobody has looked at yet, `again` of the same one; both with the answer as JSON. `record` is one placement
of 63 tasks, with the record as JSON, and its size. Correctness is checked in the same run.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a scheduler.py

from miniorch.api.explain import explain_task
from miniorch.codec import encode, to_plain
from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import request_for
from miniorch.model import Node, Service, Status, Task, TaskState
from miniorch.spec import Constraint, Placement, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Placed
from scheduler.explain import record

GIB, TASKS_PER_NODE, ROUNDS = 1 << 30, 20, 5


def cluster(nodes: int) -> tuple[Cache, Task, Task]:
    """A cache; a task that runs, and one that waits."""
    spec = ServiceSpec(TaskSpec("db:1", reserved=Resources(0.1, GIB // 4)), replicas=100)
    items: list[object] = [
        Node(f"n{number}", "10.200.0.0/24", "", Resources(4.0, 8 * GIB), labels={"zone": "abc"[number % 3]})
        for number in range(nodes)
    ]
    for number in range(nodes * TASKS_PER_NODE):
        service, node = f"db{number // 100}", f"n{number % nodes}"
        if number % 100 == 0:
            items.append(Service("shop", service, spec, "10.201.0.1"))
        task = Task(f"t{number}", "shop", service, number % 100 + 1, spec.task, 0.0, node=node)
        items.append(replace(task, status=Status(TaskState.RUNNING)))
    zone = Constraint("node.labels.zone", "==", ("b",), text="node.labels.zone == b")
    wanted = TaskSpec("web:1", reserved=Resources(1.0, 5 * GIB))
    web = Service("shop", "web", ServiceSpec(wanted, placement=Placement((zone,))), "10.201.0.2")
    waits = Task("waits", "shop", "web", 1, wanted, 0.0, status=Status(TaskState.PENDING, "no node fits"))
    runs = next(item for item in items if isinstance(item, Task))
    return Cache.holding(*items, web, waits), runs, waits


def measured(cache: Cache, task: Task) -> tuple[float, bytes]:
    start = time.process_time()
    answer = encode(to_plain(explain_task(task, cache, 0.0, every_node=False)))
    return (time.process_time() - start) * 1000, answer


def main() -> None:
    for nodes in map(int, sys.argv[1:] or (3, 100, 1000, 5000)):
        cache, runs, waits = cluster(nodes)
        gc.freeze()  # as in the server: miniorch/garbage.py
        first, answer = measured(cache, waits)
        assert b'"fitting":0' in answer, answer[:500]
        assert b"more were free" in answer, answer[:500]
        pending = min(measured(cache, waits)[0] for _ in range(ROUNDS))
        running = min(measured(cache, runs)[0] for _ in range(ROUNDS))
        request, board = request_for(cache.services["shop/db0"], cache), cache.board
        names = sorted(cache.nodes)
        placed = [Placed(f"new{number}", number, names[number % nodes]) for number in range(63)]
        costs = []
        for _ in range(ROUNDS):
            start = time.process_time()
            kept = encode(record(request, board, placed, number=1, at=0.0, revision=1))
            costs.append((time.process_time() - start) * 1000)
        print(
            f"{nodes:5} nodes, {len(cache.tasks):6} tasks: pending, first {first:6.1f} ms, again {pending:6.1f} ms; "
            f"running {running:6.1f} ms; answer {len(answer)} bytes; "
            f"record {min(costs):5.2f} ms, {len(kept)} bytes; load {os.getloadavg()[0]:.1f}"
        )


main()
