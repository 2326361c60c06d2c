"""Nodes for many tasks of one service, one after the other.

The problem: ten thousand tasks on a thousand nodes are ten million verdicts, and a server that is busy with those for a
minute loses its leadership meanwhile. The idea: a task that has been placed changes one node. So all nodes are looked
at once, the fitting ones stand in a heap by their rank, and only the node that was taken is looked at again. The
answers are those of `schedule`, asked each time anew; whoever wants to know *why* asks that one.

Who does this for real: swarmkit schedules a group of equal tasks together (manager/scheduler/nodeset.go). Next file:
`scheduler/explain.py`.
"""

import heapq
from collections.abc import Iterable

from scheduler.filters import FILTERS
from scheduler.request import NodeView, Request
from scheduler.strategies import SPREAD, Strategy


class Places:
    """The fitting nodes of one request, the best first."""

    def __init__(self, request: Request, views: Iterable[NodeView], strategy: Strategy = SPREAD) -> None:
        self._request = request
        self._strategy = strategy
        self._heap: list[tuple[tuple[int, ...], str]] = []
        for view in views:
            self.changed(view)

    def take(self) -> str | None:
        """The best node's name; it is out until it is given back by `changed`. None when no node fits."""
        return heapq.heappop(self._heap)[1] if self._heap else None

    def changed(self, view: NodeView) -> None:
        """Enter a node as it is now, if it fits."""
        if all(rule.check(self._request, view) is None for rule in FILTERS):
            heapq.heappush(self._heap, (self._strategy.rank(self._request, view), view.node.name))
