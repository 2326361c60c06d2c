"""The obvious scheduler: one page that can be believed at a glance.

The problem: the scheduler that is fast (`scheduler/index.py`) keeps books on every node, and books can be wrong. The
idea: write the same thing once more without any book. For each task, ask every filter about every node, and take the
best by the strategy's scores, then by name; put the task there; begin again. It costs tasks x nodes x rules, which
nobody could wait for in a large cluster, and it has nothing that could be stale. The tests let both decide the same
random cases and compare (`tests/unit/test_index.py`).

Who does this for real: Jepsen's and TigerBeetle's models; a simple implementation is the specification of a fast one.
Next file: `scheduler/index.py`.
"""

from collections.abc import Iterable
from dataclasses import replace

from miniorch.model import Status, Task, TaskState
from scheduler.filters import FILTERS
from scheduler.request import Board, NodeView, Request
from scheduler.strategies import strategy_of


def place(request: Request, board: Board, ids: Iterable[str]) -> list[str | None]:
    """A node for each task with one of these ids, in their order; None where no node fits any more."""
    places = []
    for identifier in ids:
        name = best(request, board)
        places.append(name)
        if name is not None:
            board = with_task(board, name, task_of(request, identifier, name))
    return places


def best(request: Request, board: Board) -> str | None:
    """The node for one more task."""
    fitting = [view for view in board.views.values() if fits(request, view, board)]
    if not fitting:
        return None
    strategy = strategy_of(request)
    return min(fitting, key=lambda view: (strategy.rank(request, view, board), view.node.name)).node.name


def fits(request: Request, view: NodeView, board: Board) -> bool:
    return all(rule.passes(request, view, board) for rule in FILTERS)


def with_task(board: Board, name: str, task: Task) -> Board:
    """The board with one more task on a node."""
    view = board.views[name]
    return replace(board, views={**board.views, name: NodeView(view.node, (*view.tasks, task), view.now)})


def task_of(request: Request, identifier: str, node: str) -> Task:
    """A task as it is when it has just got its node."""
    status = Status(TaskState.ASSIGNED)
    return Task(identifier, request.app, request.service, 0, request.spec.task, 0.0, node=node, status=status)
