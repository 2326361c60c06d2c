"""What `benchmarks/scheduler.py` measures against: the straight way to place a service, in plain Python.

The problem: a rate alone says more about the machine than about the scheduler. The idea: a second scheduler beside it
in the same run, as good as a page of code can be. It knows capacity and one label, and gives the same answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from miniorch.model import Node
from scheduler.request import Request


class Yardstick:
    """All nodes are looked at once per service; those that fit stand in a heap."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.rows = [[one.name, round(one.capacity.cpus * 1000), one.capacity.memory_bytes, 0, one.labels["disk"]] for one in nodes]  # fmt: skip # noqa: E501
        self.own: dict[str, dict[str, int]] = {}

    def place(self, request: Request, count: int) -> list[str]:
        reserved, own = request.spec.task.reserved, self.own.setdefault(request.key, {})
        cpus, memory = round(reserved.cpus * 1000), reserved.memory_bytes
        disk = request.spec.placement.constraints[0].values[0]
        heap: list[Any] = [
            (own.get(row[0], 0), row[3], row[0], row)  # type: ignore[call-overload]
            for row in self.rows
            if row[4] == disk and row[1] >= cpus and row[2] >= memory  # type: ignore[operator]
        ]
        heapq.heapify(heap)
        places: list[str] = []
        while heap and len(places) < count:
            mine, total, name, row = heap[0]
            row[1] -= cpus
            row[2] -= memory
            row[3] += 1
            own[name] = mine + 1
            places.append(name)
            if row[1] >= cpus and row[2] >= memory:
                heapq.heapreplace(heap, (mine + 1, total + 1, name, row))
            else:
                heapq.heappop(heap)
        return places
