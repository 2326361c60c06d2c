"""The index: what a scheduler remembers between two decisions, so that it need not look at everything again.

The problem: a cluster of 5,000 nodes changes a little a thousand times a minute, and whoever counts it anew for each
decision does nothing else. The idea: the index is told of every change of a node, a task or a service, and keeps its
books (`scheduler/rows.py`) current, each change at the same small cost. Its answers depend on what is, never on how it
came about: an index that has followed a year of changes and one made a moment ago decide alike, and both like the
obvious scheduler (`scheduler/oracle.py`).

A place that was given is taken at once, though its task is still on its way through the store. When the task comes
back with its node it is known by its id, and counted once; `settle` gives back the places of those that do not come.

Who does this for real: the "assumed pods" of kube-scheduler's cache; the node set of swarmkit's scheduler. Where we
differ: rules that are rare (a wish about each node's neighbours) are left to the oracle instead of being made fast.
Next file: `scheduler/victims.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter

from miniorch.model import DesiredState, Node, Task, TaskState
from miniorch.spec import Resources, ServiceSpec
from scheduler import oracle
from scheduler.company import Company, refusing
from scheduler.constraints import NEGATIVE
from scheduler.filters import FILTERS
from scheduler.request import Board, NodeView, Request, is_left
from scheduler.rows import OF_A_CLASS, OF_A_ROW, Row, Rows
from scheduler.search import Search
from scheduler.terms import IDENTITY, Terms

_NAME = attrgetter("name")
_KNOWN = all(rule.name in OF_A_CLASS | OF_A_ROW for rule in FILTERS)


class _Views(Mapping[str, NodeView]):
    """All nodes with their tasks, each made when it is asked for: after a change nobody looks at all of them again."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self.names: list[str] = []  # of nodes that are there, in order; empty: nobody has asked since one came or went

    def __getitem__(self, name: str) -> NodeView:
        row = self._rows[name]
        if row.node is None:
            raise KeyError(name)
        if row.view is None:
            row.view = NodeView(row.node, tuple(row.tasks[key] for key in sorted(row.tasks)))
        return row.view

    def __iter__(self) -> Iterator[str]:
        if not self.names:
            self.names = sorted(name for name, row in self._rows.items() if row.node is not None)
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names) or sum(1 for _ in self)


class Index:
    """All nodes, tasks and services, ready for decisions. `seed` is for the strategy `random`."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._rows = Rows()
        self._views = _Views(self._rows.by_name)
        self._own: dict[str, dict[str, int]] = {}  # service -> node -> tasks that stay
        self._leaving: dict[str, dict[str, int]] = {}  # service -> node -> live tasks that do not
        self._given: list[tuple[Sequence[str], list[Row], Request]] = []  # places, to be entered by the tasks' ids
        self._promised: dict[str, tuple[Row, Request]] = {}  # id of a task that has a place and has not come back
        self._services: dict[str, ServiceSpec] = {}
        self._terms: dict[str, Terms] = {}
        self._refusing: set[str] = set()  # services that keep others away
        self._rules = Board({})  # those alone: whether one of them means a newcomer
        self._board: Board | None = None

    def fill(self, tasks: Iterable[Task]) -> None:
        """What `task` does for many, before any node is there."""
        for task in tasks:
            if task.node and _counts(task):
                row = self._row(task.node)
                row.tasks[task.id] = task
                row.hold(task, 1)

    def board(self) -> Board:
        """Everything as a board, with the tasks whose places have been given. It holds until the next change."""
        if self._board is None:
            views: Mapping[str, NodeView] = self._views
            if promises := self._promises():
                places: dict[str, list[Task]] = {}
                for identifier, (row, request) in promises.items():
                    places.setdefault(row.name, []).append(oracle.task_of(request, identifier, row.name))
                views = {
                    name: NodeView(view.node, (*view.tasks, *places[name])) if name in places else view
                    for name, view in views.items()
                }
            self._board = Board(views, self._services, {}, self.seed)
            self._board.once("refusing", lambda: refusing(self._rules))
        return self._board

    # changes

    def node(self, name: str, node: Node | None) -> None:
        """A node was added or has changed; None: it is gone."""
        row = self._row(name)
        self._board = None
        if (row.node is None) is not (node is None):
            self._views.names = []
        if is_left(row.node) is not is_left(node):
            self._count(row, -1 if is_left(node) else 1)
        self._rows.leave(row)
        row.describe(node)
        self._rows.enter(row)

    def task(self, before: Task | None, after: Task | None) -> None:
        """A task was added, has changed, or is gone."""
        self._board = None
        held: Task | None = None
        if before is not None and before.node:
            held = self._row(before.node).tasks.pop(before.id, None)
        if after is None or not after.node or not _counts(after):
            after = None
        else:
            row = self._row(after.node)
            row.tasks[after.id] = after
            row.view = None
            promise = self._promises().pop(after.id, None) if self._given or self._promised else None
            if promise is not None:
                if promise[0] is row and _counts_alike(after, promise[1].spec.task.reserved):
                    return
                held = oracle.task_of(promise[1], after.id, promise[0].name)
            elif held is not None and held.node == row and _stays(held) and _counts_alike(after, held.spec.reserved):
                return
        if held is not None:
            self._hold(self._row(held.node), held, -1)
        if after is not None:
            self._hold(row, after, 1)

    def service(self, key: str, spec: ServiceSpec | None) -> None:
        """A service was added or has changed; None: it is gone."""
        self._board = None
        if spec is None:
            self._services.pop(key, None)
            self._terms.pop(key, None)
            self._refusing.discard(key)
        else:
            self._services[key] = spec
            refuses = any(one.operator in NEGATIVE for one in self._learn(key, spec).social)
            (self._refusing.add if refuses else self._refusing.discard)(key)
        self._rules = Board({}, {key: self._services[key] for key in sorted(self._refusing)})

    def settle(self) -> None:
        """Give back places whose task has not come back with its node."""
        if self._promises():
            self._board = None
        for identifier, (row, request) in self._promised.items():
            self._hold(row, oracle.task_of(request, identifier, row.name), -1)
        self._promised = {}

    # decisions

    def place(
        self, request: Request, ids: Sequence[str], failures: Mapping[str, int] | None = None
    ) -> list[str | None]:
        """A node for each of the tasks with these ids, in their order; None where no node fits any more.

        The places are taken. `failures`: node -> how often the service's present version has failed there lately.
        """
        search = self._search(request, failures or {})
        if search is None:
            places = self._ask_the_oracle(request, ids, failures or {})
        else:
            rows = search.run(len(ids))
            self._given.append((tuple(ids), rows, request))
            places = [*map(_NAME, rows), *[None] * (len(ids) - len(rows))]
        if any(places):
            self._board = None
        return places

    def _search(self, request: Request, failures: Mapping[str, int]) -> Search | None:
        """None for what is rare: wishes by which nodes differ that are equal in all that the rows know."""
        terms = self._terms.get(request.key)
        if terms is None or terms.spec is not request.spec:
            terms = self._learn(request.key, request.spec)
        self._rows.sort()
        company = self._company(request, terms)
        if terms.singles_out or not _KNOWN or (company and _singles_out(company)):
            return None
        own, leaving = self._own.setdefault(request.key, {}), self._leaving.get(request.key, {})
        return Search(self._rows, request, terms, own, leaving, failures, company, self.seed)

    def _learn(self, key: str, spec: ServiceSpec) -> Terms:
        terms = self._terms[key] = Terms(spec)
        self._rows.learn(terms)
        return terms

    def _company(self, request: Request, terms: Terms) -> Company | None:
        """None if no rule about neighbours concerns the service, neither its own nor one of another."""
        if not terms.social and (not self._refusing or Company(request, self._rules).empty):
            return None
        return Company(request, self.board())

    def _ask_the_oracle(self, request: Request, ids: Sequence[str], failures: Mapping[str, int]) -> list[str | None]:
        board = self.board()
        known = {(request.key, node): count for node, count in failures.items()}
        places = oracle.place(request, Board(board.views, board.services, known, board.seed), ids)
        for identifier, name in zip(ids, places, strict=True):
            if name is not None:
                row = self._row(name)
                self._promises()[identifier] = (row, request)
                self._hold(row, oracle.task_of(request, identifier, name), 1)
        return places

    # books

    def _promises(self) -> dict[str, tuple[Row, Request]]:
        if self._given:
            for ids, rows, request in self._given:
                self._promised.update(zip(ids, zip(rows, repeat(request)), strict=False))
            self._given = []
        return self._promised

    def _row(self, name: str) -> Row:
        row = self._rows.by_name.get(name)
        if row is None:
            row = self._rows.by_name[name] = Row(name)
        return row

    def _hold(self, row: Row, task: Task, sign: int) -> None:
        row.hold(task, sign)
        row.view = None
        self._rows.moved(row)
        if not is_left(row.node):
            self._tally(task, sign)

    def _count(self, row: Row, sign: int) -> None:
        """A node has come with what is on it, or has gone with it: what leaves with its node counts nowhere."""
        for task in row.tasks.values():
            self._tally(task, sign)
        for identifier, (other, request) in self._promises().items():
            if other is row:
                self._tally(oracle.task_of(request, identifier, row.name), sign)

    def _tally(self, task: Task, sign: int) -> None:
        if task.live:
            stays = task.desired_state is DesiredState.RUNNING
            counts = (self._own if stays else self._leaving).setdefault(task.service_key, {})
            counts[task.node] = counts.get(task.node, 0) + sign
            if not counts[task.node]:
                del counts[task.node]


def _singles_out(company: Company) -> bool:
    """Whether wishes about neighbours, or rules that a placement can loosen, are about single nodes."""
    rules = [*company.wishes, *(one for one in company.hard if not one.shrinks)]
    return any(one.constraint.within in IDENTITY for one in rules)


def _counts(task: Task) -> bool:
    """Whether a task means anything: one that has done its work still holds the place of its data."""
    return not task.status.state.ended or task.status.state is TaskState.COMPLETE


def _stays(task: Task) -> bool:
    return task.desired_state is DesiredState.RUNNING and not task.status.state.ended


def _counts_alike(task: Task, reserved: Resources) -> bool:
    """Whether a task means what one that stays and has reserved so much means."""
    return (task.spec.reserved is reserved or task.spec.reserved == reserved) and _stays(task)
