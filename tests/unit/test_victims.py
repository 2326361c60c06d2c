"""Scaling down leaves behind what placing would have made."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_index import machine, service

from miniorch.model import Availability, Node, NodeState, Status, Task, TaskState
from miniorch.spec import Resources
from scheduler import oracle
from scheduler.request import Board, NodeView, Request
from scheduler.strategies import branch
from scheduler.victims import victims


def running(request: Request, slot: int, node: str) -> Task:
    task = oracle.task_of(request, f"{request.service}{slot}", node)
    return replace(task, slot=slot, status=Status(TaskState.RUNNING))


def board_of(nodes: list[Node], *tasks: Task) -> Board:
    return Board.of(NodeView(node, tuple(task for task in tasks if task.node == node.name)) for node in nodes)


def gone(tasks: list[Task], count: int, board: Board, request: Request) -> list[int]:
    return [task.slot for task in victims(tasks, count, board, request)]


def test_highest_slot_goes_when_all_nodes_are_equal() -> None:
    web = service()
    tasks = [running(web, slot, f"n{slot}") for slot in (1, 2, 3)]
    assert gone(tasks, 2, board_of([machine(f"n{slot}") for slot in (1, 2, 3)], *tasks), web) == [3, 2]


def test_node_with_most_tasks_of_the_service_loses_one_first() -> None:
    web = service()
    tasks = [running(web, 1, "n1"), running(web, 2, "n1"), running(web, 3, "n2")]
    assert gone(tasks, 2, board_of([machine("n1"), machine("n2")], *tasks), web) == [2, 3]


def test_fuller_node_loses_one_first_when_the_service_is_even() -> None:
    web, db = service(), service("db")
    tasks = [running(web, 1, "n1"), running(web, 2, "n2")]
    assert gone(tasks, 1, board_of([machine("n1"), machine("n2")], *tasks, running(db, 1, "n1")), web) == [1]


def test_branches_are_evened_before_nodes() -> None:
    web = service(spread=("node.labels.zone",))
    nodes = [
        machine("n1", labels={"zone": "a"}),
        machine("n2", labels={"zone": "b"}),
        machine("n3", labels={"zone": "b"}),
    ]
    tasks = [running(web, 1, "n1"), running(web, 2, "n1"), running(web, 3, "n2"), running(web, 4, "n3")]
    # Both zones have two; n1 has most. Then zone b is the fuller one.
    assert gone(tasks, 3, board_of(nodes, *tasks), web) == [2, 4, 3]


def test_who_does_not_serve_goes_first() -> None:
    web = service()
    nodes = [
        machine("down", state=NodeState.DOWN),
        machine("drained", availability=Availability.DRAIN),
        machine("n1"),
        machine("n2"),
    ]
    tasks = [
        running(web, 1, "n1"),
        replace(running(web, 2, "n2"), status=Status(TaskState.STARTING)),
        running(web, 3, "drained"),
        running(web, 4, "down"),
        running(web, 5, "was removed"),
        replace(running(web, 6, ""), status=Status(TaskState.PENDING)),
    ]
    assert gone(tasks, 6, board_of(nodes, *tasks), web) == [6, 5, 4, 3, 2, 1]


def test_binpack_empties_the_emptier_node() -> None:
    web, db = service(reserved=Resources(1.0), strategy="binpack"), service("db", reserved=Resources(2.0))
    tasks = [running(web, 1, "n1"), running(web, 2, "n2"), running(web, 3, "n2")]
    board = board_of([machine("n1"), machine("n2")], *tasks, running(db, 1, "n1"))
    assert gone(tasks, 2, board, web) == [3, 2]


@st.composite
def placed(draw: st.DrawFn) -> tuple[Request, Board, list[Task]]:
    spread: Any = draw(st.sampled_from([(), ("node.labels.zone",), ("node.labels.zone", "node.labels.rack")]))
    web = service(spread=spread)
    nodes = [
        machine(f"n{number}", labels={"zone": draw(st.sampled_from("ab")), "rack": draw(st.sampled_from("12"))})
        for number in range(draw(st.integers(1, 6)))
    ]
    names = st.sampled_from([node.name for node in nodes])
    tasks = [running(web, slot, draw(names)) for slot in range(1, draw(st.integers(0, 14)) + 1)]
    return web, board_of(nodes, *tasks), tasks


@given(placed(), st.integers(0, 16))
def test_what_is_left_is_as_even_as_it_can_be(case: tuple[Request, Board, list[Task]], count: int) -> None:
    web, board, tasks = case
    taken = victims(tasks, count, board, web)
    assert len(taken) == len({task.id for task in taken}) == min(count, len(tasks))
    assert victims(tasks[::-1], count, board, web) == taken
    left = [task for task in tasks if task not in taken]
    levels = (*web.spec.placement.spread, "node.name")
    for attributes in (levels[: depth + 1] for depth in range(len(levels))):
        before, after = (
            Counter(branch(board.views[task.node].node, attributes) for task in some) for some in (tasks, left)
        )
        for parent in {place[:-1] for place in before}:
            inside = {place: count for place, count in before.items() if place[:-1] == parent}
            highest = max(after[place] for place in inside)
            # Who has lost a task was among the fullest, so it is at most one below the fullest that is left.
            assert all(after[place] >= highest - 1 for place in inside if after[place] < before[place])
