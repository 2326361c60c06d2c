"""The fast scheduler decides like the obvious one, whatever has happened before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from miniorch.model import Availability, DesiredState, Node, NodeState, Status, Task, TaskState
from miniorch.spec import Constraint, Mount, Placement, Port, Resources, ServiceSpec, TaskSpec
from scheduler import oracle
from scheduler.index import Index
from scheduler.request import Board, NodeView, Request

MIB = 1024 * 1024


def machine(name: str, cpus: float = 4.0, memory: int = 1024 * MIB, **fields: Any) -> Node:
    return Node(name, "10.200.0.0/24", "10.200.0.1", Resources(cpus, memory), platform="linux/amd64", **fields)


def service(name: str = "web", *, reserved: Resources | None = None, **fields: Any) -> Request:
    placement = Placement(**{key: fields.pop(key) for key in list(fields) if key in Placement.__slots__})
    task = TaskSpec(f"{name}:1", reserved=reserved or Resources(), mounts=fields.pop("mounts", ()))
    volumes = fields.pop("volumes", {})
    return Request("shop", name, ServiceSpec(task, placement=placement, **fields), volumes)


def index_of(board: Board) -> Index:
    """An index that has just heard of all that is on a board."""
    index = Index(board.seed)
    for key, spec in board.services.items():
        index.service(key, spec)
    index.fill(task for view in board.views.values() for task in view.tasks)
    for name, view in board.views.items():
        index.node(name, view.node)
    return index


class World:
    """The truth, as plain as can be, and beside it an index that has followed all changes."""

    def __init__(self, nodes: Sequence[Node], services: Sequence[Request], seed: int = 0) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.services = {request.key: request for request in services}
        self.tasks: dict[str, Task] = {}
        self.made = 0
        self.last = ""  # the service that was placed last
        self.seed = seed
        self.index = Index(seed)
        for node in nodes:
            self.index.node(node.name, node)
        for key, request in self.services.items():
            self.index.service(key, request.spec)

    def board(self, failures: dict[tuple[str, str], int] | None = None) -> Board:
        views = [
            NodeView(node, tuple(task for task in self.tasks.values() if task.node == node.name))
            for node in self.nodes.values()
        ]
        board = Board.of(views, {key: request.spec for key, request in self.services.items()}, self.seed)
        return replace(board, failures=failures or {})

    def change(self, task: Task | None, identifier: str) -> None:
        before = self.tasks.pop(identifier, None)
        if task is not None and (task.live or task.status.state is TaskState.COMPLETE):
            self.tasks[identifier] = task
        self.index.task(before, task)

    def place(self, request: Request, count: int, failures: dict[str, int] | None = None) -> list[str | None]:
        """Ask both for the same; the tasks come back with their nodes."""
        self.last = request.service
        ids = [f"t{self.made + number}" for number in range(count)]
        self.made += count
        board = self.board({(request.key, node): many for node, many in (failures or {}).items()})
        wanted = oracle.place(request, board, ids)
        got = self.index.place(request, ids, failures)
        assert got == wanted
        for identifier, name in zip(ids, got, strict=True):
            if name is not None:
                self.change(oracle.task_of(request, identifier, name), identifier)
            assert name is None or request.spec.task.reserved == Resources() or self.is_within(name)
        return got

    def is_within(self, name: str) -> bool:
        """Whether the tasks of a node have reserved no more than it has; counted here, not by any filter."""
        reserved = [task.spec.reserved for task in self.tasks.values() if task.node == name and task.live]
        capacity = self.nodes[name].capacity
        cpus = sum(round(one.cpus * 1000) for one in reserved) <= round(capacity.cpus * 1000)
        memory = sum(one.memory_bytes for one in reserved) <= capacity.memory_bytes
        wanted = self.services[f"shop/{self.last}"].spec.task.reserved
        return (cpus or not wanted.cpus) and (memory or not wanted.memory_bytes)

    def check(self) -> None:
        """The index holds what is true."""
        board, seen = self.board(), self.index.board()
        assert {name: sorted(view.tasks, key=str) for name, view in seen.views.items()} == {
            name: sorted(view.tasks, key=str) for name, view in board.views.items()
        }
        assert {name: view.node for name, view in seen.views.items()} == self.nodes


amounts = st.builds(Resources, st.sampled_from([0.0, 0.1, 0.25, 1.0]), st.sampled_from([0, 64 * MIB, 300 * MIB]))
labels = st.fixed_dictionaries(
    {},
    optional={"zone": st.sampled_from("abc"), "rack": st.sampled_from("12"), "disk": st.sampled_from(["ssd", "hdd"])},
)


@st.composite
def clusters(draw: st.DrawFn, most: int = 6) -> list[Node]:
    nodes = []
    for number in range(draw(st.integers(1, most))):
        cpus, memory = draw(st.sampled_from([(0.5, 256), (1.0, 1024), (2.0, 512), (4.0, 4096)]))
        marks = draw(labels)
        if draw(st.integers(0, 3)) == 0:
            marks["resource.gpu"] = str(draw(st.integers(0, 3)))
        fields: dict[str, Any] = {"labels": marks}
        if draw(st.integers(0, 5)) == 0:
            fields["ports_in_use"] = {"80": "nginx (pid 12)"}
        if draw(st.integers(0, 7)) == 0:
            fields["availability"] = Availability.DRAIN
        if draw(st.integers(0, 7)) == 0:
            fields["state"] = NodeState.DOWN
        nodes.append(machine(f"node{number}", cpus, memory * MIB, **fields))
    return nodes


weights = st.sampled_from([0, 0, 0, 5])
within = st.sampled_from(["node.name", "node.labels.zone"])
constraints = st.one_of(
    st.builds(
        Constraint, st.just("node.labels.disk"), st.sampled_from(["==", "!="]), st.just(("ssd",)), weight=weights
    ),
    st.builds(Constraint, st.just("node.labels.zone"), st.just("in"), st.just(("a", "b")), weight=weights),
    st.builds(Constraint, st.just("node.name"), st.sampled_from(["==", "!="]), st.just(("node1",)), weight=weights),
    st.builds(
        Constraint,
        st.just("service"),
        st.sampled_from(["==", "!="]),
        st.sampled_from([("web",), ("db",)]),
        within,
        weights,
    ),
    st.builds(Constraint, st.just("replicas"), st.just("<="), st.sampled_from([("1",), ("2",)]), within, weights),
    st.builds(Constraint, st.just("replicas"), st.just("evenly"), st.sampled_from([(), ("2",)]), within, weights),
    st.builds(Constraint, st.just("replicas"), st.just("together"), st.just(()), within, weights),
)


@st.composite
def requests(draw: st.DrawFn, name: str, *, plain: bool = False) -> Request:
    reserved = draw(amounts)
    if draw(st.integers(0, 7)) == 0:
        reserved = replace(reserved, generic={"gpu": 1})
    fields: dict[str, Any] = {"replicas": draw(st.integers(1, 6))}
    if not plain:
        fields["constraints"] = tuple(draw(st.lists(constraints, max_size=2)))
        fields["strategy"] = draw(st.sampled_from(["", "", "spread", "binpack", "random"]))
    attributes = ["node.labels.zone", "node.labels.rack", "node.role"]
    fields["spread"] = tuple(draw(st.lists(st.sampled_from(attributes), max_size=3, unique=True)))
    fields["max_per_node"] = draw(st.sampled_from([0, 0, 0, 1, 2]))
    fields["ports"] = draw(st.sampled_from([(), (), (Port(80, 80),)]))
    if draw(st.integers(0, 7)) == 0:
        fields["mounts"] = (Mount("data", "/data"),)
        fields["volumes"] = draw(st.sampled_from([{}, {"data": "node0"}, {"data": "node9"}]))
    return service(name, reserved=reserved, **fields)


@st.composite
def worlds(draw: st.DrawFn, *, plain: bool = False) -> World:
    services = [draw(requests(name, plain=plain)) for name in ("web", "db", "cache")]
    return World(draw(clusters()), services, draw(st.integers(0, 3)))


def test_lots_are_drawn_anew_for_every_task_also_in_lanes_that_had_none() -> None:
    """A wish makes two lanes. While one takes tasks, the lots of the other must not stay those of the first task."""
    wish = Constraint("node.labels.disk", "==", ("ssd",), weight=5)
    for seed in range(20):
        nodes = [machine(f"node{number}", labels={"disk": "ssd"} if number == 2 else {}) for number in range(6)]
        request = service(constraints=(wish,), max_per_node=2, strategy="random")
        world = World(nodes, [request], seed)
        assert world.place(request, 6)[:2] == ["node2", "node2"]  # and `place` compares all with the oracle


@settings(max_examples=300)
@given(worlds(), st.data())
def test_index_decides_like_the_oracle_whatever_has_happened(world: World, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 8))):
        step(world, data)
    world.check()


@settings(max_examples=200)
@given(worlds(plain=True), st.data())
def test_index_decides_like_the_oracle_for_services_without_constraints(world: World, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 10))):
        step(world, data)
    world.check()


def step(world: World, data: st.DataObject) -> None:
    what = data.draw(st.sampled_from(["place", "place", "place", "stop", "end", "node", "gone", "spec", "lost"]))
    request = world.services[data.draw(st.sampled_from(sorted(world.services)))]
    names = [f"node{number}" for number in range(7)]
    if what == "place":
        failures = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 8), max_size=2))
        world.place(request, data.draw(st.integers(0, 7)), failures)
    elif what in ("stop", "end") and world.tasks:
        task = world.tasks[data.draw(st.sampled_from(sorted(world.tasks)))]
        states = [TaskState.COMPLETE, TaskState.FAILED] if what == "end" else [TaskState.RUNNING]
        status = Status(data.draw(st.sampled_from(states)))
        gone = what == "end" and data.draw(st.booleans())
        changed = replace(task, desired_state=DesiredState.SHUTDOWN, status=status)
        world.change(None if gone else changed, task.id)
    elif what == "node":
        node = data.draw(clusters(most=1))[0]
        node = replace(node, name=data.draw(st.sampled_from(names)))
        world.nodes[node.name] = node
        world.index.node(node.name, node)
    elif what == "gone":
        name = data.draw(st.sampled_from(names))
        world.nodes.pop(name, None)
        world.index.node(name, None)
    elif what == "spec":
        request = data.draw(requests(request.service))
        world.services[request.key] = request
        world.index.service(request.key, request.spec)
    elif what == "lost":
        world.index.place(request, [f"lost{number}" for number in range(3)])
        world.index.settle()


def test_nodes_of_many_sizes_and_levels_are_taken_in_one_order_and_none_is_forgotten() -> None:
    """Services whose reservations differ leave nodes on which one has room and another has not, side by side."""
    chance = random.Random(4)
    sizes = chance.choices([(2.0, 8192), (4.0, 2048), (8.0, 4096)], k=30)
    nodes = [machine(f"n{number:02}", cpus, memory * MIB) for number, (cpus, memory) in enumerate(sizes)]
    amounts = [Resources(0.1 * number, (700 - 90 * number) * MIB) for number in range(1, 7)]
    world = World(nodes, [service(f"s{number}", reserved=amount) for number, amount in enumerate(amounts)])
    for _ in range(24):
        world.place(world.services[chance.choice(sorted(world.services))], chance.randint(1, 14))
    world.check()
