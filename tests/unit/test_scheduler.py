"""Where tasks go, as plain data in and plain data out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniorch.model import DesiredState, Node, Status, Task, TaskState
from miniorch.spec import Mount, Port, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Row, Rule
from scheduler.explain import look, trace
from scheduler.filters import FILTERS, amount
from scheduler.oracle import best
from scheduler.refusal import refusal
from scheduler.request import Board, NodeView, Request

MIB = 1024 * 1024
NOTHING = Resources()


def node(name: str, cpus: float = 4.0, memory: int = 1024 * MIB, **fields: object) -> Node:
    made = Node(name=name, subnet="10.200.0.0/24", pool_address="10.200.0.1", capacity=Resources(cpus, memory))
    return replace(made, **fields)  # type: ignore[arg-type]


def task(service: str = "web", slot: int = 1, *, reserved: Resources = NOTHING, **fields: object) -> Task:
    made = Task(f"{service}{slot}", "dockchat", service, slot, TaskSpec("image", reserved=reserved), 0.0)
    return replace(made, **fields)  # type: ignore[arg-type]


def web(
    *, reserved: Resources = NOTHING, volumes: dict[str, str] | None = None, ports: tuple[int, ...] = ()
) -> Request:
    mounts = tuple(Mount(name, f"/{name}") for name in volumes or {})
    spec = ServiceSpec(
        TaskSpec("image", reserved=reserved, mounts=mounts), ports=tuple(Port(port, 80) for port in ports)
    )
    return Request("dockchat", "web", spec, {name: where for name, where in (volumes or {}).items() if where})


def chosen(request: Request, *views: NodeView) -> str:
    name = best(request, Board.of(views))
    assert name, refusal(request, Board.of(views))
    return name


def refused(request: Request, *views: NodeView) -> str:
    assert best(request, Board.of(views)) is None
    return refusal(request, Board.of(views))[0]


def verdict(request: Request, view: NodeView, board: Board) -> Row:
    """What all rules and scorers say of one node."""
    (row,) = trace(request, board, look(request, [view], board), most=0).rows
    return row


def test_node_that_is_not_ready_gets_no_new_task() -> None:
    away = node("node1", ready=False, message="no heartbeat for 15 s")
    assert chosen(web(), NodeView(away), NodeView(node("node2"))) == "node2"
    assert refused(web(), NodeView(away)) == (
        "no node fits (1 looked at): node1: the node is not ready: no heartbeat for 15 s"
    )


def test_cluster_without_nodes_says_so() -> None:
    assert refused(web()) == "no node fits (0 looked at): no node has registered yet"


def test_task_that_reserves_more_than_is_free_waits_and_says_how_much_is_free() -> None:
    busy = NodeView(node("node1"), (task(reserved=Resources(3.5, 768 * MIB)),))
    assert refused(web(reserved=Resources(1.0, 512 * MIB)), busy) == (
        "no node fits (1 looked at): node1: wants 1 CPU, 0.5 of 4 free"
        " and wants 512 MiB of memory, 256 MiB of 1 GiB free"
    )


def test_last_free_share_may_be_taken() -> None:
    busy = NodeView(node("node1", cpus=0.3), (task(reserved=Resources(0.1)), task(slot=2, reserved=Resources(0.1))))
    assert chosen(web(reserved=Resources(0.1, 1024 * MIB)), busy) == "node1"


def test_ended_task_holds_no_capacity_and_a_stopping_one_does() -> None:
    wish = web(reserved=Resources(3.0))
    ended = task(reserved=Resources(3.0), status=Status(TaskState.FAILED))
    stopping = task(reserved=Resources(3.0), status=Status(TaskState.RUNNING), desired_state=DesiredState.SHUTDOWN)
    assert chosen(wish, NodeView(node("node1"), (ended,))) == "node1"
    assert "3 CPUs, 1 of 4 free" in refused(wish, NodeView(node("node1"), (stopping,)))


def test_task_that_reserves_nothing_fits_a_full_node() -> None:
    assert chosen(web(), NodeView(node("node1"), (task(reserved=Resources(9.0, 9 * 1024 * MIB)),))) == "node1"


def test_port_held_by_a_foreign_process_is_named_with_its_holder() -> None:
    taken = node("node1", ports_in_use={"5000": "nginx (pid 12)", "22": "sshd (pid 3)"})
    assert refused(web(ports=(5000,)), NodeView(taken)) == (
        "no node fits (1 looked at): node1: port 5000 is held by nginx (pid 12)"
    )
    assert chosen(web(ports=(5001,)), NodeView(taken)) == "node1"


def test_tasks_follow_their_volume() -> None:
    views = [NodeView(node("node1")), NodeView(node("node2"), (task("db", 1),) * 5)]
    assert chosen(web(volumes={"data": "node2"}), *views) == "node2"
    assert chosen(web(volumes={"data": ""}), *views) == "node1"
    away = [views[0], NodeView(node("node2", ready=False, message="gone"))]
    assert refused(web(volumes={"data": "node2"}), *away) == (
        "no node fits (2 looked at): node1: volume dockchat/data lies on node2; node2: the node is not ready: gone"
    )


def test_folder_of_a_node_is_no_volume() -> None:
    wish = replace(web(), spec=ServiceSpec(TaskSpec("image", mounts=(Mount("", "/src", host_path="/home"),))))
    view = NodeView(node("node1"))
    answer = verdict(wish, view, Board.of([view]))
    assert next(rule for rule in answer.rules if rule.rule == "volume") == Rule("volume", True, "uses no volume")


def test_equal_reasons_of_many_nodes_are_told_once() -> None:
    views = [NodeView(node(f"node{number}", ready=False, message="down")) for number in range(1, 6)]
    assert refused(web(), *views) == "no node fits (5 looked at): 5 nodes: the node is not ready: down"


def test_node_with_fewer_tasks_of_the_service_is_preferred_to_an_emptier_one() -> None:
    mine, others = NodeView(node("node1"), (task(),)), NodeView(node("node2"), (task("db", 1), task("db", 2)))
    assert chosen(web(), mine, others) == "node2"


def test_same_service_name_in_another_app_does_not_count_as_this_service() -> None:
    other = NodeView(node("node1"), (task(app="otherapp"),))
    mine = NodeView(node("node2"), (task(),))
    assert chosen(web(), other, mine) == "node1"


def test_outgoing_tasks_do_not_push_their_successors_away() -> None:
    leaving = task(status=Status(TaskState.RUNNING), desired_state=DesiredState.DRAINING)
    assert chosen(web(), NodeView(node("node1"), (leaving,)), NodeView(node("node2"), (task("db"),))) == "node1"


def test_equal_nodes_are_taken_in_the_order_of_their_names_whatever_the_order_given() -> None:
    views = [NodeView(node(name)) for name in ("b", "a", "c")]
    assert chosen(web(), *views) == chosen(web(), *views[::-1]) == "a"


def test_every_node_and_every_rule_is_answered_for() -> None:
    bad = node("node1", ready=False, message="x", cpus=0.0, ports_in_use={"5000": "nginx (pid 12)"})
    wish = web(reserved=Resources(1.0), ports=(5000,), volumes={"data": "node2"})
    board = Board.of([NodeView(bad), NodeView(node("node2"))])
    worse, good = (verdict(wish, view, board) for view in board.views.values())
    assert (worse.nodes, worse.fits, good.nodes, good.fits) == (("node1",), False, ("node2",), True)
    for one in (worse, good):
        assert [rule.rule for rule in one.rules] == [rule.name for rule in FILTERS]
        assert all(rule.detail for rule in one.rules)
    assert [rule.rule for rule in worse.rules if not rule.ok] == ["ready", "capacity", "ports", "volume"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (512 * MIB, "512 MiB"), (5 * 1024 * 1024 * MIB, "5120 GiB")],
)
def test_amounts_are_written_for_people(count: int, text: str) -> None:
    assert amount(count) == text


# Properties

shares = st.builds(Resources, st.sampled_from([0.0, 0.1, 0.25, 1.0]), st.sampled_from([0, 64 * MIB, 300 * MIB]))


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeView]:
    views = []
    for number in range(draw(st.integers(1, 5))):
        held = {"5000": "nginx (pid 12)"} if draw(st.booleans()) else {}
        cpus, memory = draw(st.sampled_from([(0.5, 256), (1.0, 1024), (2.0, 512)]))
        machine = node(f"node{number}", cpus, memory * MIB, ready=draw(st.integers(0, 4)) > 0, ports_in_use=held)
        views.append(NodeView(machine))
    return views


@st.composite
def wishes(draw: st.DrawFn) -> Request:
    where = draw(st.sampled_from([None, None, {"data": ""}, {"data": "node0"}, {"data": "node9"}]))
    return web(reserved=draw(shares), volumes=where, ports=draw(st.sampled_from([(), (5000,)])))


def grow(views: list[NodeView], wish: Request, slot: int) -> tuple[list[NodeView], str | None]:
    """Ask once and put the task there."""
    answer = best(wish, Board.of(views))
    if answer is None:
        return views, None
    new = task(slot=slot, reserved=wish.spec.task.reserved)
    grown = [replace(view, tasks=(*view.tasks, new)) if view.node.name == answer else view for view in views]
    return grown, answer


@given(clusters(), st.lists(wishes(), max_size=12))
def test_every_placement_passes_every_filter_and_no_node_is_ever_above_capacity(
    views: list[NodeView], wanted: list[Request]
) -> None:
    for slot, wish in enumerate(wanted):
        before = {view.node.name: view for view in views}
        views, answer = grow(views, wish, slot)
        board = Board(before)
        fitting = {name for name, view in before.items() if all(rule.passes(wish, view, board) for rule in FILTERS)}
        assert answer in fitting if answer else not fitting
        assert {name for name, view in before.items() if verdict(wish, view, board).fits} == fitting
        for view in views:
            assert round(view.reserved.cpus, 6) <= view.node.capacity.cpus
            assert view.reserved.memory_bytes <= view.node.capacity.memory_bytes


@given(st.integers(1, 6), st.integers(0, 25), st.randoms(use_true_random=False))
def test_spread_differs_by_at_most_one_on_equal_nodes(nodes: int, replicas: int, order: object) -> None:
    views = [NodeView(node(f"node{number}")) for number in range(nodes)]
    for slot in range(replicas):
        views, _ = grow(views, web(), slot)
        order.shuffle(views)  # type: ignore[attr-defined]
    counts = [len(view.tasks) for view in views]
    assert max(counts) - min(counts) <= 1
