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

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any

from miniorch.model import NodeState, Task, TaskState
from scheduler.request import Board, NodeView, Request
from scheduler.strategies import branch, strategy_of

Key = tuple[Any, ...]


def victims(tasks: Iterable[Task], count: int, board: Board, request: Request) -> list[Task]:
    """So many of a service's tasks, in the order in which they go. The same arguments give the same answer."""
    scorers = strategy_of(request).scorers
    here: dict[str, list[Task]] = {}  # node -> tasks of the service, the next to go last
    for task in sorted(tasks, key=lambda task: (-_stage(task, board), task.slot, task.id)):
        here.setdefault(task.node, []).append(task)
    views = {name: board.views[name] for name in here if name in board.views}
    places = {name: [branch(view.node, one.branch) for one in scorers if one.branch] for name, view in views.items()}
    branches = Counter(place for name in views for place in places[name] for _ in here[name])

    def key(name: str) -> Key:
        """The node with the lowest loses a task: what is good for placing is bad here."""
        task, view = here[name][-1], views.get(name)
        if view is None:
            return _stage(task, board), float("-inf"), -task.slot
        counts = iter(places[name])
        scores = (branches[next(counts)] if one.branch else one.score(request, view, board) for one in scorers)
        return _stage(task, board), *(-score for score in scores), -task.slot

    heap = [(key(name), name) for name in here]
    heapify(heap)
    taken: list[Task] = []
    while heap and len(taken) < count:
        known, name = heappop(heap)
        if known == key(name):
            taken.append(here[name].pop())
            branches.subtract(places.get(name, ()))
            if name in views:
                views[name] = _without(views[name], taken[-1])
        if here[name]:  # it has lost a task, or others of its branch have gone
            heappush(heap, (key(name), name))
    return taken


def _without(view: NodeView, task: Task) -> NodeView:
    return replace(view, tasks=tuple(one for one in view.tasks if one.id != task.id))


def _stage(task: Task, board: Board) -> int:
    """0 to 4: has no node, nobody knows what it does, its node is to be empty, does not run yet, runs."""
    view = board.views.get(task.node)
    if not task.node:
        return 0
    if view is None or view.node.state is not NodeState.READY:
        return 1
    if not (view.node.takes_work and view.node.ready):
        return 2
    return 4 if task.status.state is TaskState.RUNNING else 3
