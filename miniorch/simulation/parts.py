"""What a step has touched, and all that must be looked at with it.

The problem: a day of a thousand nodes is half a million steps. To ask after each whether twenty thousand tasks are well
would take days, and to ask once a second overlooks what is wrong for half of one. The idea: every promise is about a
group: the tasks of a slot, the containers with an address, all that is on a node. Who breaks it has touched a member.
So `Parts` keeps the world and who belongs together in it, and cuts out of it, after each step, the groups of which a
member was touched. The promises are asked of that part as if it were the world; and at times of the whole world, in
case this reasoning is wrong (`tests/simulation/test_parts.py` compares the two at every step).

Who does this for real: databases, which check a constraint for the rows that a transaction has changed. Next file:
`witness.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from miniorch.model import KINDS, Node, Service, Task, Volume
from miniorch.simulation.engine import Box
from miniorch.simulation.invariants import PICTURED, Picture, takes_work
from miniorch.simulation.machine import Machine
from miniorch.simulation.sequence import Change
from miniorch.state.records import from_entry
from miniorch.state.store import Entry, Operation, Put

Group = dict[str, dict[str, Any]]  # name -> its members by key, in an order that does not depend on chance


class Parts:
    """The store's objects and all machines, by what belongs together."""

    def __init__(self, machines: Mapping[str, Machine]) -> None:
        self._machines = machines
        self._boxes: dict[str, tuple[Box, ...]] = dict.fromkeys(machines, ())
        self._folders = {node: machine.files.folders.keys() for node, machine in machines.items()}
        self._traffic = {node: machine.ingress for node, machine in machines.items()}
        self._where: Group = {}  # a container's slot, task or address -> machines
        self.begin_anew()

    def begin_anew(self) -> None:
        """Of the store nothing is known."""
        self.objects: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self.moved: set[str] = set()
        self._on: Group = {}  # node -> tasks
        self._of: Group = {}  # service -> tasks
        self._in: Group = {}  # slot -> tasks
        self._subnets: Group = {}  # subnet -> nodes
        self._touched: dict[str, None] = {}  # machines
        tasks, services, nodes, volumes, endpoints = (self.objects[kind] for kind in PICTURED)
        stored = (tasks, services, nodes, volumes, endpoints)
        self.world = Picture(*stored, self._boxes, self._folders, self._traffic, self.moved)
        self._slots: dict[str, None] = {}

    def follow(self, operations: Iterable[Operation]) -> list[Change]:
        """The store has done this."""
        return [self._change(one) for one in operations]

    def _change(self, one: Operation) -> Change:
        _, kind, key = one.key.split("/", 2)
        item = from_entry(Entry(one.key, one.value, 0, 0)) if isinstance(one, Put) else None
        before = self.objects[kind].pop(key, None)
        if before is not None:
            self._enter(before, away=True)
        if item is not None:
            self.objects[kind][key] = item
            self._enter(item)
        # What is on a node that goes away, or is emptied, may get a successor beside it.
        if isinstance(item or before, Node) and not (item and takes_work(item)):
            self.moved.update(one.id for one in self._on.get(key, {}).values() if one.live)
        elif isinstance(item, Task) and (node := self.objects["nodes"].get(item.node)) and not takes_work(node):
            self.moved.add(key)
        return Change(kind, key, before, item)

    def _enter(self, item: object, *, away: bool = False) -> None:
        match item:
            case Task():
                slot = f"{item.app}-{item.service}.{item.slot}"
                self._slots[slot] = None
                groups = [(self._in, slot), (self._of, item.service_key), (self._on, item.node)]
                for group, name in groups if item.node else groups[:2]:
                    _move(group, name, item.id, item, away)
                if item.node in self._machines:
                    self._touched[item.node] = None
            case Node(name=name, subnet=subnet):
                _move(self._subnets, subnet, name, item, away)
                self._touched[name] = None
            case Service(key=key, vip=vip):
                self._slots |= dict.fromkeys(_slot(one) for one in self._of.get(key, {}).values())
                self._touched |= self._where.get(vip, {})
            case Volume(app=app):
                own = [one for key, tasks in self._of.items() if key.startswith(f"{app}/") for one in tasks.values()]
                self._slots |= dict.fromkeys(_slot(one) for one in own if one.spec.mounts)

    def stir(self, machines: Iterable[str]) -> None:
        """Something has changed there."""
        for node in machines:
            self._touched[node] = None
            before, now = self._boxes[node], tuple(self._machines[node].engine.boxes.values())
            if before != now:
                for boxes, away in ((before, True), (now, False)):
                    for name in _names(boxes):
                        _move(self._where, name, node, None, away)
                self._boxes[node] = now

    def cut(self) -> Picture:
        """The part that has been touched since the last call."""
        all_tasks, services, all_nodes, volumes, endpoints = (self.objects[kind] for kind in PICTURED)
        machines = dict(self._touched)
        for name in (*self._slots, *_names(box for node in self._touched for box in self._boxes.get(node, ()))):
            machines |= self._where.get(name, {})
        tasks: dict[str, Task] = {}
        for node in machines:
            tasks |= self._on.get(node, {})
        for slot in self._slots:
            tasks |= self._in.get(slot, {})
        boxes = {node: self._boxes[node] for node in machines if node in self._boxes}
        known = (box.spec.task for inside in boxes.values() for box in inside)
        tasks |= {task: all_tasks[task] for task in known if task not in tasks and task in all_tasks}
        subnets = {all_nodes[name].subnet for name in self._touched if name in all_nodes}
        names = {*machines, *(task.node for task in tasks.values())}
        names.update(name for subnet in sorted(subnets) for name in self._subnets[subnet])
        part = Picture(
            tasks,
            services,
            {name: all_nodes[name] for name in sorted(names) if name in all_nodes},
            volumes,
            endpoints,
            boxes,
            {node: self._folders[node] for node in boxes},
            {},
            self.moved,
            self.world,
        )
        self._touched.clear()
        self._slots.clear()
        return part


def _move(group: Group, name: str, key: str, item: object, away: bool) -> None:
    if not away:
        group.setdefault(name, {})[key] = item
    elif name in group:
        group[name].pop(key, None)
        if not group[name]:
            del group[name]


def _slot(task: Task) -> str:
    return f"{task.app}-{task.service}.{task.slot}"


def _names(boxes: Iterable[Box]) -> Iterator[str]:
    """What containers on several machines may share: slot (dockchat-db.1 of dockchat-db.1-k3m9x2ab), task, address."""
    for box in boxes:
        yield from (box.spec.name.rsplit("-", 1)[0], box.spec.task, box.spec.address)
