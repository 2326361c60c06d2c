"""One search: nodes for some tasks of one service, taken from the shelves of `scheduler/rows.py`.

The problem: "the fewest tasks of this service first" is another order for every service, and keeping the nodes sorted
in every order would cost more than looking at all of them. The idea: for a service, nearly all nodes are strangers.
Those without a task of it come first, in the one order that is kept for all: by tasks in all, then by name. Only the
few nodes that have one (or where the service keeps failing) have a heap of their own, and they come after.

Where preferences or neighbours count, the shelves are divided into *lanes*: nodes that are equal in all of that. Within
a lane the order is the simple one; between lanes it is decided anew for every task, in a tree of the branches that
tasks are spread over: a task in one rack changes the order of the racks of its zone, and of the zones, and no other.
`binpack` and `random` rank every node by itself, and so do rules about a node's name: those look at all nodes once.

Who does this for real: swarmkit's decision tree over spread preferences (manager/scheduler/nodeset.go) has our lanes
as its leaves. Next file: `scheduler/index.py`.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace, merge
from itertools import islice
from operator import attrgetter
from typing import Any

from scheduler.attributes import value
from scheduler.company import Company
from scheduler.constraints import holds
from scheduler.request import Request
from scheduler.rows import Class, Level, Row, Rows
from scheduler.strategies import branch, counting, lot, unreserved
from scheduler.terms import IDENTITY, Terms

Key = tuple[Any, ...]
NOTHING = float("-inf")
_REST: Mapping[str, Callable[[Row], Key]] = {  # what decides among rows of the same rank
    "spread": attrgetter("total", "name"),
    "binpack": lambda row: (-row.total, row.name),
    "random": lambda row: (row.name,),
}


class Search:
    """What is known of one request while places are taken for its tasks.

    `own`: node -> how many tasks of the service stay there; `leaving`: node -> how many are on their way out.
    """

    def __init__(
        self, rows: Rows, request: Request, terms: Terms, own: dict[str, int], leaving: Mapping[str, int],
        failures: Mapping[str, int], company: Company | None, seed: int,
    ) -> None:  # fmt: skip
        self.rows, self.request, self.terms, self.own, self.leaving = rows, request, terms, own, leaving
        self.company, self.seed = company, seed
        self.tallies = [one for one in company.hard if one.constraint.within in IDENTITY] if company else []
        self.failures = {name: many for name, count in failures.items() if (many := counting(count))}
        # Nodes that come after the strangers.
        self.known: dict[str, int] = {**self.failures, **own} if self.failures else own
        self.plain = not (terms.generic or self.tallies or (terms.most and leaving))  # strangers need only room
        self.rest = _REST[terms.strategy]
        self.count = sum(own.values()) if terms.strategy == "random" else 0
        self.branches: list[dict[tuple[str, ...], int]] = [{} for _ in terms.spread]
        for name, count in own.items() if terms.spread else ():
            self._branch_out(rows.by_name[name], count)
        self.lanes: list[Lane] = []
        self.tree: Branch | None = None
        self._before: tuple[str, ...] = ()  # those of `known` that were so before this search
        self._others: dict[Class | None, list[Row]] = {}  # the same, or the nodes that are named, by class

    def run(self, count: int) -> list[Row]:
        """Take places for so many tasks, or for as many as fit."""
        taken: list[Row] = []
        self._before = tuple(self.known)
        self.lanes = self._lanes()
        if len(self.lanes) == 1 and self.company is None:
            lane = self.lanes[0]
            for more in (lane.strangers, lane.alike):
                while len(taken) < count and (some := more(count - len(taken))):
                    self._put(some)
                    lane.later.append(some)
                    taken += some
        elif self._only_grows():
            self.tree = Branch(self, self.lanes, 0)
        while len(taken) < count and (best := self._best()) is not None:
            taken.append(best)
            self._put([best])
        for lane in self.lanes:
            lane.close()
        self.lanes, self.tree = [], None  # they know us: nothing of the search is left to the garbage collector
        return taken

    def fits(self, row: Row) -> bool:
        """Whether one more task fits, as far as the row alone can say."""
        terms, node = self.terms, row.node
        if node is None or (terms.cpus and row.cpus < terms.cpus) or (terms.memory and row.memory < terms.memory):
            return False
        if terms.most and self.own.get(row, 0) + self.leaving.get(row, 0) >= terms.most:
            return False
        if terms.generic and any(row.generic.get(name, 0) < amount for name, amount in terms.generic.items()):
            return False
        return not self.tallies or all(one.passes(one.place(node)) for one in self.tallies)

    def rank(self, row: Row) -> Key:
        """The row's place within its lane, before `rest`: the scores of `scheduler/strategies.py` that differ there."""
        name, failures = row.name, self.failures.get(row, 0)
        if self.terms.strategy == "spread":
            return failures, self.own.get(name, 0)
        if self.terms.strategy == "random":
            return failures, lot(self.seed, self.request.key, self.count, name)
        assert row.node is not None
        capacity = row.node.capacity
        cpus, memory = round(capacity.cpus * 1000), capacity.memory_bytes
        return failures, unreserved(cpus - row.cpus, cpus) + unreserved(memory - row.memory, memory)

    def _best(self) -> Row | None:
        """The next row, out of its lane."""
        if self.tree is not None:
            return self.tree.take() if self.tree.key() is not None else None
        best, at = None, None
        for lane in self.lanes:
            key = lane.key()
            if key is not None and (at is None or key < at):
                best, at = lane, key
        return best.take() if best else None

    def _only_grows(self) -> bool:
        """Whether a task that is placed makes no lane better than it was, but for its own, and opens none."""
        company = self.company
        still = company is None or not (company.wishes or any(not one.shrinks for one in company.hard))
        return still and self.terms.strategy != "random"

    def others(self, kinds: Iterable[Class], only: list[Row] | None) -> Iterator[Row]:
        """The nodes of some classes that were no strangers before this search; or those that the request names."""
        if not self._others:
            by_name = self.rows.by_name
            for row in (by_name[name] for name in self._before if name in by_name) if only is None else only:
                self._others.setdefault(row.kind, []).append(row)
        return (row for kind in kinds for row in self._others.get(kind, ()))

    def _put(self, rows: Sequence[Row]) -> None:
        """One more task on each of some rows that have equally many tasks of the service."""
        terms, own = self.terms, self.own
        self.rows.put(rows, terms.cpus, terms.memory)
        self.count += len(rows)
        own.update(dict.fromkeys(rows, own.get(rows[0], 0) + 1))
        if self.known is not own:
            self.known.update(dict.fromkeys(rows, 0))
        if not (terms.generic or terms.spread or self.company):
            return
        for row in rows:
            for name, amount in terms.generic.items():
                row.generic[name] = row.generic.get(name, 0) - amount
            if self.company and row.node:
                self.company.add(row.node)
            self._branch_out(row, 1)

    def _branch_out(self, row: Row, count: int) -> None:
        if self.branches and row.node:
            path = branch(row.node, self.terms.spread)
            for depth, counts in enumerate(self.branches, start=1):
                counts[path[:depth]] = counts.get(path[:depth], 0) + count

    def _lanes(self) -> "list[Lane]":
        """The classes that may take the service, by what else differs between them."""
        terms, only = self.terms, self._only()
        if self.company is not None:
            rules = (*self.company.hard, *self.company.wishes)
            groups = self._groups([rule.constraint.within for rule in rules])
        else:
            if terms.version != self.rows.version:
                terms.version, terms.groups = self.rows.version, self._groups([])
            groups = terms.groups
        return [Lane(self, kinds, unmet=unmet, only=only) for unmet, kinds in groups]

    def _groups(self, within: Sequence[str]) -> list[tuple[int, list[Class]]]:
        """Classes that the service may use, with the weight of its wishes that they do not meet."""
        terms = self.terms
        found: dict[Key, list[Class]] = {}
        for kind in self.rows.classes.values():
            if kind.passes(self.request, terms.signature):
                unmet = sum(one.weight for one in terms.wishes if not holds(one, kind.sample))
                places = [value(kind.sample, one) for one in within if one not in IDENTITY]
                found.setdefault((unmet, branch(kind.sample, terms.spread), *places), []).append(kind)
        return [(key[0], kinds) for key, kinds in found.items()]

    def _only(self) -> list[Row] | None:
        """The nodes that the request names, by a volume that lies there or by a rule; None if it names none."""
        rules, volumes = self.terms.named, self.request.volumes
        nodes = dict.fromkeys(volumes[name] for name in self.terms.volumes if name in volumes)
        if not nodes and not rules:
            return None
        rows: Iterable[Row] = self.rows.by_name.values()
        if nodes:
            rows = [self.rows.by_name[node] for node in nodes if node in self.rows.by_name and len(nodes) == 1]
        return [row for row in rows if row.node and all(holds(one, row.node) for one in rules)]


class Branch:
    """The lanes below one branch of what tasks are spread over; at depth 0 all of them.

    Parts are kept by the key that they had. It is never above the one that they have, so only the first is asked again.
    """

    def __init__(self, search: Search, lanes: "list[Lane]", depth: int) -> None:
        self._path = lanes[0].path[:depth] if depth else ()
        self._counts = search.branches[depth - 1] if depth else None
        self._depth = depth
        below: Sequence[Lane | Branch] = lanes
        if depth < len(search.branches) - 1:
            parts: dict[str, list[Lane]] = {}
            for lane in lanes:
                parts.setdefault(lane.path[depth], []).append(lane)
            below = [Branch(search, part, depth + 1) for part in parts.values()]
        found = ((one.key(depth), number, one) for number, one in enumerate(below))
        self._parts = [(key, number, one) for key, number, one in found if key is not None]
        heapify(self._parts)

    def key(self, depth: int = 0) -> Key | None:
        """That of the best lane, with the tasks in its branches from a depth on; None if all lanes are full."""
        while self._parts:
            known, number, part = self._parts[0]
            now = part.key(self._depth)
            if now is None:
                heappop(self._parts)
            elif now > known:
                heapreplace(self._parts, (now, number, part))
            elif self._counts is None:
                return now
            else:
                return (*now[:2], self._counts.get(self._path, 0), *now[2:])
        return None

    def take(self) -> Row:
        """The best row, after `key` has found it."""
        return self._parts[0][2].take()


class Lane:
    """Nodes that differ in nothing but what is on them, the best first."""

    def __init__(self, search: Search, kinds: list[Class], *, unmet: int, only: list[Row] | None) -> None:
        self._search = search
        self._kinds = kinds
        self._unmet = unmet
        self._only = only
        self._sample = kinds[0].sample
        self.path = branch(self._sample, search.terms.spread)
        self._ready: list[Row] = []  # strangers out of their levels, the best last
        self._unfit: list[Row] = []  # out of their levels as well
        self.later: list[list[Row]] = []  # no strangers any more, not ranked yet; those in one list have the same rank
        self._equals: dict[Key, list[Row]] = {}  # rows that fit by their rank, the best last in that of `_first`
        self._ranks: list[Key] = []  # of those, as a heap
        self._first: Key | None = None
        self._count = search.count  # that the lots in the heap were drawn for
        self._waits = True  # the others, for somebody to ask for them
        plain = only is None and search.terms.strategy == "spread"  # else each node has a rank of its own
        self._levels = search.rows.levels(kinds, search.terms.cpus, search.terms.memory) if plain else []

    def _others(self) -> Iterator[Row]:
        """All that are no strangers, but for what this search has made so."""
        if self._only is None and self._search.terms.strategy != "spread":
            return (row for kind in self._kinds for row in kind.rows.values())
        return self._search.others(self._kinds, self._only)

    def key(self, depth: int = 0) -> Key | None:
        """Failures, the weight of wishes that are not met, tasks in its branches from a depth on, the rank of the best
        row; None if there is none.
        """
        first = self.first() if self.open else None
        if first is None:
            return None
        company, branches = self._search.company, self._search.branches
        unmet = self._unmet + (company.unmet(self._sample) if company else 0)
        counts = (branches[at].get(self.path[: at + 1], 0) for at in range(depth, len(branches)))
        return first[0], unmet, *counts, *first[1:]

    @property
    def open(self) -> bool:
        """Whether the rules about whole places let one more task in."""
        company, node = self._search.company, self._sample
        if company is None:
            return True
        return all(one.passes(one.place(node)) for one in company.hard if one.constraint.within not in IDENTITY)

    def first(self) -> Key | None:
        """The rank of the best row, and what follows."""
        search = self._search
        while self._ready or self._levels:
            if not self._ready:
                self._ready = self.strangers(1 + len(search.known) // len(search.lanes))[::-1]
            elif search.tallies and not search.fits(self._ready[-1]):
                self._unfit.append(self._ready.pop())
            else:
                return *search.rank(self._ready[-1]), *search.rest(self._ready[-1])
        if self._waits:
            self.later += ([row] for row in self._others())
            self._waits = False
        if search.terms.strategy == "random" and self._count != search.count:  # another lot, whatever lane took a task
            self.later += ([row] for rows in self._equals.values() for row in rows)
            self._equals, self._ranks, self._first, self._count = {}, [], None, search.count
        if self.later:
            self._enter()
        while self._ranks:
            rank = self._ranks[0]
            rows = self._equals[rank]
            if rank != self._first:
                rows.sort(key=search.rest, reverse=True)
                self._first = rank
            while search.tallies and rows and not search.fits(rows[-1]):  # neighbours have come meanwhile
                rows.pop()
            if rows:
                return *rank, *search.rest(rows[-1])
            del self._equals[heappop(self._ranks)]
        return None

    def _enter(self) -> None:
        """Rank what has waited for it, as far as it fits once more."""
        search = self._search
        for rows in self.later:
            if fitting := [row for row in rows if search.fits(row)]:
                rank = search.rank(fitting[0])
                if rank not in self._equals:
                    heappush(self._ranks, rank)
                self._equals.setdefault(rank, []).extend(fitting)
                self._first = None if rank == self._first else self._first
        self.later = []

    def take(self) -> Row:
        """The best row, after `first` has found it."""
        row = (self._ready or self._equals[self._ranks[0]]).pop()
        self.later.append([row])
        return row

    def alike(self, most: int) -> list[Row]:
        """At most so many of the best rows: as many at once as cannot come again before the others had their turn."""
        if self.first() is None:
            return []
        rows, many = self._equals[self._ranks[0]], most if self._search.terms.strategy == "spread" else 1
        found = rows[-many:]
        del rows[-many:]
        return found[::-1]

    def strangers(self, most: int) -> list[Row]:
        """At most so many of the best nodes that have no task of the service."""
        found: list[Row] = []
        while self._levels and len(found) < most:
            same = [level for level in self._levels if level.total == self._levels[-1].total]
            each = [self._pick(level) for level in same]
            merged = merge(*each)  # has a name, because it closes what it reads when it goes
            found += islice(merged, most - len(found))
            if len(found) < most:
                del self._levels[-len(same) :]
            else:
                found[-1].level.top().pop()  # nobody has asked for one after it
            for rows in each:
                rows.close()
        return found

    def _pick(self, level: Level) -> Generator[Row, None, None]:
        """The strangers of a level that fit, in order, each taken out of it when the next is asked for. It gets the
        others back when this is closed.
        """
        search, terms = self._search, self._search.terms
        known, plain = search.known, search.plain
        cpus, memory = terms.cpus or NOTHING, terms.memory or NOTHING
        kept, last = [], None
        level.order()
        try:
            while rows := level.top():
                row = rows[-1]
                if row.level is level and row is not last:
                    if row in known or row.cpus < cpus or row.memory < memory or not (plain or search.fits(row)):
                        kept.append(row)
                    else:
                        yield row
                    last = row
                rows.pop()
        finally:
            level.rows += kept[::-1]  # all that are left come after them

    def close(self) -> None:
        """Give back what was looked at and not taken."""
        for row in (*self._ready, *self._unfit):
            row.level.fresh.append(row)
        self._ready, self._unfit = [], []
