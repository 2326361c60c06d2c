"""Rows: all nodes as numbers, kept in the order in which they would be taken.

The problem: to find the best of 5,000 nodes, a scheduler looks at 5,000 nodes, and a moment later again. The idea: keep
them sorted. A row is a node with what is free on it and how many tasks it has. Rows stand on three shelves:

- by **class**: nodes that no rule can tell apart. Only what some service has asked about makes a difference, so that a
  thousand labels that nobody mentions make no class. A rule about nodes is asked once per class;
- by **size**: how much is free, in steps that are the reservations in use. A step that is too small is never looked at;
- by **level**: how many tasks are there. A level is sorted by name, but only when somebody takes from it.

One more task on a node moves one row by one level. Nothing here costs more in a larger cluster, except a reservation or
an attribute that nobody has mentioned before: then all rows are sorted anew.

Who does this for real: the bucket queue (Dial, 1969); size classes of memory allocators; Nomad's computed node classes.
Next file: `scheduler/search.py`.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from miniorch.model import DesiredState, Node, Task
from scheduler.attributes import generic, value
from scheduler.filters import FILTERS
from scheduler.request import Board, NodeView, Request
from scheduler.terms import IDENTITY, Terms

STEPS = 16  # reservations of processor (and as many of memory) that have a step of their own
FRESH = 64  # the square of how many may be unsorted, per sorted one
GARBAGE = 32  # rows in a level that stand elsewhere by now
OF_A_CLASS = frozenset({"ready", "drain", "ports", "platform", "constraint"})  # filters that ask the class
OF_A_ROW = frozenset({"capacity", "max per node", "volume", "affinity"})  # filters that `search.py` knows
_CLASS_FILTERS = tuple(rule for rule in FILTERS if rule.name in OF_A_CLASS)
_NOWHERE = Board({})


class Level:
    """Rows of one class and size with so many tasks. Rows that have moved on stay until they come up."""

    __slots__ = ("fresh", "live", "rows", "size", "total")

    def __init__(self, size: "Size", total: int) -> None:
        self.size = size
        self.total = total
        self.live = 0  # how many really are here
        self.rows: list[Row] = []  # by name, the first last
        self.fresh: list[Row] = []  # came since, in no order

    def order(self) -> None:
        """Have both lists in order. What came is sorted in when it is much: so that it costs each row little."""
        if len(self.fresh) ** 2 > FRESH * len(self.rows):
            self.rows += self.fresh
            self.fresh = []
            self.rows.sort(reverse=True)
        elif self.fresh:
            self.fresh.sort(reverse=True)

    def top(self) -> "list[Row]":
        """The list at whose end the first row is, after `order`."""
        return self.fresh if self.fresh and (not self.rows or self.fresh[-1] < self.rows[-1]) else self.rows

    def sweep(self) -> None:
        """Forget the rows that stand elsewhere by now."""
        self.rows = sorted({row for row in (*self.rows, *self.fresh) if row.level is self}, reverse=True)
        self.fresh = []


class Size:
    """Rows of one class on which at least so much is free."""

    __slots__ = ("cpus", "levels", "memory")

    def __init__(self, cpus: float, memory: float) -> None:
        self.cpus = cpus
        self.memory = memory
        self.levels: dict[int, Level] = {}

    def at(self, total: int) -> Level:
        level = self.levels.get(total)
        if level is None:
            level = self.levels[total] = Level(self, total)
        return level


OFF = Level(Size(0, 0), 0)  # of rows that stand nowhere: their node is not there


class Class:
    """Nodes that no rule tells apart, except by name and by what runs there."""

    __slots__ = ("answers", "key", "rows", "sample", "sizes")

    def __init__(self, key: tuple[object, ...], sample: Node) -> None:
        self.key = key
        self.sample = sample
        self.sizes: dict[tuple[int, int], Size] = {}
        self.rows: dict[str, Row] = {}
        self.answers: dict[object, bool] = {}

    def passes(self, request: Request, signature: object) -> bool:
        """What the filters that ask about the node alone say; asked once for all services with the same rules."""
        answer = self.answers.get(signature)
        if answer is None:
            answer = self.answers[signature] = self._ask(request)
        return answer

    def _ask(self, request: Request) -> bool:
        placement, task = request.spec.placement, request.spec.task
        if any(generic(self.sample).get(name, 0) < amount for name, amount in task.reserved.generic.items()):
            return False
        constraints = tuple(one for one in placement.constraints if one.subject not in IDENTITY)
        spec = replace(request.spec, placement=replace(placement, constraints=constraints))
        view = NodeView(self.sample)
        return all(rule.passes(replace(request, spec=spec), view, _NOWHERE) for rule in _CLASS_FILTERS)


class Row(str):
    """A node's name, by which rows are sorted, with its numbers. `node` is None for one that is not there, though some
    task says that it is on it.
    """

    __slots__ = ("cpus", "generic", "kind", "level", "memory", "name", "node", "tasks", "total", "view")

    def __init__(self, name: str) -> None:
        self.name = name
        self.node: Node | None = None
        self.tasks: dict[str, Task] = {}
        self.cpus = 0  # free, in thousandths; may be below zero
        self.memory = 0  # free, in bytes
        self.generic: dict[str, int] = {}  # free
        self.total = 0  # tasks that stay
        self.kind: Class | None = None
        self.level: Level = OFF
        self.view: NodeView | None = None  # made when it is asked for

    def hold(self, task: Task, sign: int) -> None:
        """Count what a task has reserved (`sign` 1), or count it no longer (-1)."""
        if task.live:
            reserved = task.spec.reserved
            self.cpus -= sign * round(reserved.cpus * 1000)
            self.memory -= sign * reserved.memory_bytes
            for name, amount in reserved.generic.items():
                self.generic[name] = self.generic.get(name, 0) - sign * amount
            self.total += sign * (task.desired_state is DesiredState.RUNNING)

    def describe(self, node: Node | None) -> None:
        """The node is now like this. The capacity of one that is not there is nothing."""
        for old, sign in ((self.node, -1), (node, 1)):
            if old is not None:
                self.cpus += sign * round(old.capacity.cpus * 1000)
                self.memory += sign * old.capacity.memory_bytes
                for name, amount in generic(old).items():
                    self.generic[name] = self.generic.get(name, 0) + sign * amount
        self.node = node
        self.view = None


def _has_port(number: str, node: Node) -> bool:
    return number in node.ports_in_use


class Rows:
    """All rows, on their shelves."""

    def __init__(self) -> None:
        self.by_name: dict[str, Row] = {}
        self.classes: dict[tuple[object, ...], Class] = {}
        self.version = 0  # of the set of classes
        self._cpus: list[int] = []
        self._memory: list[int] = []
        self._asked: dict[str, Callable[[Node], object]] = {}
        self._stale = False  # something new is asked about: all rows must be sorted anew

    def learn(self, terms: Terms) -> None:
        """Have a shelf for what a service reserves and asks about."""
        for steps, amount in ((self._cpus, terms.cpus), (self._memory, terms.memory)):
            if amount > 0 and amount not in steps and len(steps) < STEPS:
                insort(steps, amount)
                self._stale = True
        for name in terms.asked():
            if name not in self._asked and name not in IDENTITY:
                self._asked[name] = partial(value, attribute=name)
                self._stale = True
        for port in terms.spec.ports:
            number = str(port.published)
            if number not in self._asked:
                self._asked[number] = partial(_has_port, number)
                self._stale = True

    def sort(self) -> None:
        """Sort all rows anew, if something new is asked about."""
        if self._stale:
            self._stale = False
            self.version += 1
            self.classes.clear()
            for row in self.by_name.values():
                row.kind, row.level = None, OFF
                self.enter(row)

    def enter(self, row: Row) -> None:
        """Put a row where it belongs now."""
        node = row.node
        if node is None:
            return
        key = (node.takes_work, node.ready, node.platform, *[ask(node) for ask in self._asked.values()])
        kind = self.classes.get(key)
        if kind is None:
            kind = self.classes[key] = Class(key, node)
            self.version += 1
        kind.rows[row.name] = row
        row.kind = kind
        self._stand(row, self._size(row))

    def leave(self, row: Row) -> None:
        """Take a row out, before its node changes or goes."""
        if row.kind is not None:
            self._lift(row.level)
            del row.kind.rows[row.name]
            if not row.kind.rows:
                del self.classes[row.kind.key]
                self.version += 1
        row.kind, row.level = None, OFF

    def moved(self, row: Row) -> None:
        """What is free on a row has changed, or how many tasks it has."""
        if row.level is not OFF:
            self._lift(row.level)
            self._stand(row, self._size(row))

    def put(self, rows: Sequence[Row], cpus: int, memory: int) -> None:
        """One more task on each of some rows. This is what a decision costs."""
        new = OFF
        for row in rows:
            row.cpus = free = row.cpus - cpus
            row.memory = left = row.memory - memory
            row.total = total = row.total + 1
            level = row.level
            size = level.size
            level.live -= 1
            if not level.live:
                del size.levels[level.total]
            if free < size.cpus or left < size.memory:
                size = self._size(row)
            if new.size is not size or new.total != total:  # rows come in runs from the same level
                new = size.at(total)
            new.fresh.append(row)
            new.live += 1
            row.level = new

    def _size(self, row: Row) -> Size:
        assert row.kind is not None
        key = (bisect_right(self._cpus, row.cpus), bisect_right(self._memory, row.memory))
        size = row.kind.sizes.get(key)
        if size is None:
            cpus = self._cpus[key[0] - 1] if key[0] else float("-inf")
            memory = self._memory[key[1] - 1] if key[1] else float("-inf")
            size = row.kind.sizes[key] = Size(cpus, memory)
        return size

    def _stand(self, row: Row, size: Size) -> None:
        row.level = level = size.at(row.total)
        level.live += 1
        level.fresh.append(row)
        if len(level.rows) + len(level.fresh) > 2 * level.live + GARBAGE:
            level.sweep()

    def _lift(self, level: Level) -> None:
        level.live -= 1
        if not level.live:
            del level.size.levels[level.total]

    def levels(self, kinds: Iterable[Class], cpus: int, memory: int) -> list[Level]:
        """All levels on which so much may be free, the fullest first."""
        low = bisect_right(self._cpus, cpus) if cpus else 0
        least = bisect_right(self._memory, memory) if memory else 0
        found = [
            level
            for kind in kinds
            for (step, other), size in kind.sizes.items()
            if step >= low and other >= least
            for level in size.levels.values()
        ]
        found.sort(key=lambda level: -level.total)
        return found
