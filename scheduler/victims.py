"""Victims: which tasks go when a service is scaled down.

The problem: four tasks on two nodes, two are to go, and "the newest two" may both be on one node; what was spread out
is lopsided afterwards, and nothing ever moves it back. The idea: scaling down is placing backwards. Who does not serve
goes first. Then, one after the other, a task goes from the node that the strategy would take last: from the fullest
branch, the node with most tasks of the service, the fullest node (`binpack`: the emptiest). Of several there, and of
equal nodes, the highest slot goes.

Who does this for real: swarmkit takes from nodes with most tasks of the service, but forgets the branches of its own
spread preferences; Marathon's scale-down keeps its groups even; ECS has a rule per strategy. Next file:
`miniorch/controllers/services.py`.
"""

from collections.abc import Iterable
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any

from miniorch.model import NodeState, Task, TaskState
from scheduler.request import Board, NodeView, Request
from scheduler.scorers import Branch, branch
from scheduler.strategies import strategy_of

Key = tuple[Any, ...]


def victims(tasks: Iterable[Task], count: int, board: Board, request: Request) -> list[Task]:
    """So many of a service's tasks, in the order in which they go. The same arguments give the same answer."""
    return _Choice(tasks, board, request).take(count)


class _Choice:
    def __init__(self, tasks: Iterable[Task], board: Board, request: Request) -> None:
        self._request = request
        self._board = board
        self._scorers = strategy_of(request).scorers
        self._views: dict[str, NodeView] = {}
        self._here: dict[str, list[Task]] = {}  # node -> tasks of the service, the next to go last
        self._branches: dict[Key, int] = {}
        for task in sorted(tasks, key=lambda task: (-self._stage(task), task.slot, task.id)):
            self._here.setdefault(task.node, []).append(task)
        for name, here in self._here.items():
            if name in board.views:
                self._views[name] = board.views[name]
            self._branch_out(name, len(here))

    def take(self, count: int) -> list[Task]:
        heap = [(self._key(name), name) for name in self._here]
        heapify(heap)
        taken: list[Task] = []
        while heap and len(taken) < count:
            key, name = heappop(heap)
            now = self._key(name)
            if now == key:
                taken.append(self._remove(name))
                now = self._key(name) if self._here[name] else ()
            if now:  # others of its branch have gone, or it has lost a task
                heappush(heap, (now, name))
        return taken

    def _stage(self, task: Task) -> int:
        """0 to 4: has no node, nobody knows what it does, its node is to be empty, does not run yet, runs."""
        view = self._board.views.get(task.node)
        if not task.node:
            return 0
        if view is None or view.node.state is not NodeState.READY:
            return 1
        if not (view.node.takes_work and view.node.ready):
            return 2
        return 4 if task.status.state is TaskState.RUNNING else 3

    def _key(self, name: str) -> Key:
        """The node with the lowest loses a task: what is good for placing is bad here."""
        task, view = self._here[name][-1], self._views.get(name)
        if view is None:
            return self._stage(task), float("-inf"), -task.slot
        scores = (
            self._branches[branch(view.node, scorer.attributes)]
            if isinstance(scorer, Branch)
            else scorer.score(self._request, view, self._board)
            for scorer in self._scorers
        )
        return self._stage(task), *(-score for score in scores), -task.slot

    def _remove(self, name: str) -> Task:
        task = self._here[name].pop()
        if name in self._views:
            view = self._views[name]
            self._views[name] = replace(view, tasks=tuple(one for one in view.tasks if one.id != task.id))
        self._branch_out(name, -1)
        return task

    def _branch_out(self, name: str, count: int) -> None:
        for scorer in self._scorers if name in self._views else ():
            if isinstance(scorer, Branch):
                place = branch(self._views[name].node, scorer.attributes)
                self._branches[place] = self._branches.get(place, 0) + count
