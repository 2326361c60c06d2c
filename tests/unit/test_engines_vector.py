"""One snapshot, three nodes, several engines: the same task goes to different nodes, for reasons that can be computed.

    n1   4 CPUs, 8192 MB, zone a   db (1 CPU, 2048 MB)
    n2   4 CPUs, 8192 MB, zone b   web.1 (1 CPU, 512 MB), cache (1 CPU, 1024 MB)
    n3   2 CPUs, 4096 MB, zone b   nothing

web.2 (1 CPU, 512 MB) of three replicas wants a place. The numbers of the engines' own formulas are written beside
ours: classic Swarm's weights, Swarm mode's counts, Marathon's and Aurora's vetoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from test_index import index_of

from miniorch.model import Node, Status, Task, TaskState
from miniorch.spec import Placement, Resources, ServiceSpec, TaskSpec
from scheduler import oracle
from scheduler.request import Board, NodeView, Request
from scheduler.spellings import marathon
from scheduler.strategies import strategy_of

MB = 1 << 20
WANTED = Resources(1.0, 512 * MB)


def node(name: str, cpus: float, memory: int, zone: str) -> Node:
    return Node(name, "10.200.0.0/24", "10.200.0.1", Resources(cpus, memory * MB), labels={"zone": zone})


def task(service: str, on: str, memory: int) -> Task:
    spec = TaskSpec("x", reserved=Resources(1.0, memory * MB))
    return Task(service, "shop", service, 1, spec, 0.0, node=on, status=Status(TaskState.RUNNING))


BOARD = Board.of([
    NodeView(node("n1", 4.0, 8192, "a"), (task("db", "n1", 2048),)),
    NodeView(node("n2", 4.0, 8192, "b"), (task("web", "n2", 512), task("cache", "n2", 1024))),
    NodeView(node("n3", 2.0, 4096, "b")),
])  # fmt: skip


def web(rule: Sequence[str] = (), **placement: object) -> Request:
    rules = marathon(rule) if rule else ()
    asked = replace(Placement(constraints=rules), **placement)  # type: ignore[arg-type]
    return Request("shop", "web", ServiceSpec(TaskSpec("x", reserved=WANTED), replicas=3, placement=asked))


def winner(request: Request) -> str:
    """The node that both schedulers choose, the obvious one and the fast one."""
    name = oracle.best(request, BOARD)
    assert name is not None
    assert index_of(BOARD).place(request, ["web.2"]) == [name]
    return name


def scores(request: Request, *names: str) -> list[tuple[int, ...]]:
    """What the named scorers say, node by node."""
    scorers = [one for name in names for one in strategy_of(request).scorers if one.name == name]
    assert len(scorers) == len(names)
    return [tuple(one.score(request, view, BOARD) for one in scorers) for view in BOARD.views.values()]


def test_swarm_mode_counts_tasks_of_the_service_and_then_all_and_takes_the_empty_node() -> None:
    assert scores(web(), "of this service", "in all") == [(0, 1), (1, 2), (0, 0)]
    assert winner(web()) == "n3"


def test_swarm_mode_with_a_spread_over_zones_takes_the_node_in_the_empty_zone() -> None:
    request = web(spread=("node.labels.zone",))
    assert scores(request, "in its zone") == [(0,), (1,), (1,)]
    assert winner(request) == "n1"


def classic_weight(view: NodeView, sign: int) -> int:
    """Classic Swarm's weight with health 100: shares in whole percent as they would be, minus 1000 or plus."""
    used, total = view.reserved, view.node.capacity
    cpus = int((used.cpus + WANTED.cpus) * 100 // int(total.cpus * 1.05))
    memory = (used.memory_bytes + WANTED.memory_bytes) // MB * 100 // int(total.memory_bytes // MB * 105 // 100)
    return cpus + memory + sign * 1000


def test_classic_swarms_weights() -> None:
    views = BOARD.views.values()
    assert [classic_weight(view, -1) for view in views] == [79 - 1000, 98 - 1000, 61 - 1000]
    assert [classic_weight(view, +1) for view in views] == [1079, 1098, 1061]


def test_classic_swarms_spread_and_ours_take_the_node_with_the_smallest_use() -> None:
    lowest = min(BOARD.views.values(), key=lambda view: classic_weight(view, -1))
    assert lowest.node.name == winner(web()) == "n3"


def test_classic_swarms_binpack_and_ours_put_the_nodes_in_one_order() -> None:
    request = web(strategy="binpack")
    weights = {name: classic_weight(view, +1) for name, view in BOARD.views.items()}
    ranks = {name: strategy_of(request).rank(request, view, BOARD) for name, view in BOARD.views.items()}
    order = sorted(ranks, key=lambda name: ranks[name])
    assert order == sorted(weights, key=lambda name: -weights[name]) == ["n2", "n1", "n3"]
    assert winner(request) == "n2"


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (("zone", "GROUP_BY", "2"), "n1 n2 n3"),  # since 2020: b has its share, and the odd one is not taken yet
        (("zone", "GROUP_BY"), "n1"),  # before: a zone that is not used comes first
        (("hostname", "UNIQUE"), "n1 n3"),  # as Aurora's `host: limit:1`
        (("hostname", "MAX_PER", "2"), "n1 n2 n3"),
        (("zone", "CLUSTER"), "n2 n3"),
        (("zone", "LIKE", "a|c"), "n1"),
        (("zone", "UNLIKE", "a|c"), "n2 n3"),
    ],
)
def test_what_marathon_and_aurora_would_accept(rule: tuple[str, ...], fits: str) -> None:
    request = web(rule)
    assert " ".join(name for name, view in BOARD.views.items() if oracle.fits(request, view, BOARD)) == fits
    assert winner(request) in fits
