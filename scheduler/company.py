"""Company: what lies where, as far as one service's rules ask: its own rules, and those of what already runs.

The problem: "not beside a web", "at most two per zone", "where redis is" cannot be answered by looking at one node. The
idea: each such rule is a `Tally`, one number per place, where a place is a value of the attribute `within`: a node's
name, a zone, a rack. Asking is a look into a table; placing one more task of the service adds one to it. So ten
thousand tasks are counted once and not for each question.

Rules bind both ways: a task that runs and wants no `web` beside it keeps a new `web` away, though the newcomer says
nothing; one of another app only where its rule names the newcomer's app. What keeps away counts while it lives; what
attracts counts only if it stays, or has done its work there.

Who does this for real: Kubernetes' inter-pod affinity, with the same symmetry and the same limit (its namespaces).
Where we differ: a first task that wants to be with its own kind may go anywhere, whichever way that wish is written.
Next file: `scheduler/constraints.py`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

from miniorch.model import DesiredState, Node, NodeState, Task, TaskState
from miniorch.spec import Constraint
from scheduler.attributes import on_platform, split, value
from scheduler.constraints import CONTAINER_LABEL, NEGATIVE, REPLICAS, holds, is_static, positive
from scheduler.request import Board, NodeView, Request

NAMED = 3  # of the tasks at a place, in a sentence


@dataclass(slots=True)
class Tally:
    """One rule about a place, and what has been counted so far."""

    constraint: Constraint
    kind: str  # "apart", "beside", "at most" or "evenly"
    number: int  # of "at most" and "evenly"; 0: none was given
    mine: bool  # whether one more task of the service counts, too
    about: Callable[[Task], bool]  # whether the rule is about a task, of any service
    owner: str = ""  # the running service whose rule it is; "": the newcomer's own
    replicas: int = 1
    open: frozenset[str] = frozenset()  # "evenly" without a number: the places where tasks may go at all
    counts: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)  # place -> the first few that were counted there
    first: tuple[str, ...] = ()  # the first few places where something was counted

    @property
    def shrinks(self) -> bool:
        """Whether a place that fails goes on failing while tasks of the service are added where they may go."""
        return self.kind != "evenly" or self.number > 0

    def place(self, node: Node) -> str | None:
        return value(node, self.constraint.within)

    def on(self, view: NodeView) -> list[Task]:
        """The tasks on a node that count."""
        return [task for task in view.tasks if self.is_there(task, view.node) and self.about(task)]

    def is_there(self, task: Task, node: Node) -> bool:
        """Whether a task counts. One whose node is down may have a successor, which must not be in its own way."""
        if split(self.constraint.within)[0] and node.state is NodeState.DOWN and task.live:
            return any(mount.volume for mount in task.spec.mounts)
        if self.kind in ("apart", "at most"):
            return task.live
        return (task.live and task.desired_state is DesiredState.RUNNING) or task.status.state is TaskState.COMPLETE

    def add(self, place: str | None, by: int = 1) -> None:
        """So many more tasks of the newcomer's service lie there."""
        if self.mine:
            self.count(place, by)

    def count(self, place: str | None, by: int = 1, name: str = "") -> None:
        """What has no place is not counted."""
        if place is None:
            return
        self.counts[place] = self.counts.get(place, 0) + by
        if not self.counts[place]:
            del self.counts[place]
        names = self.named.setdefault(place, []) if name else []
        if name and name not in names and len(names) < NAMED:
            names.append(name)

    def fill(self, tasks: Iterable[tuple[Node, Task]], app: str) -> None:
        """Count tasks; a service of `app` reads their names."""
        for node, task in tasks:
            if self.is_there(task, node):
                self.count(self.place(node), 1, as_seen(task, app))

    def passes_with(self, moving: int, old: str | None, place: str) -> bool:
        """Whether one more could go to a place to which `moving` of those counted at another have come along."""
        steps = [(old, -moving), (place, moving)] if moving else []
        for at, by in steps:
            self.count(at, by)
        try:
            return self.passes(place)
        finally:
            for at, by in steps:
                self.count(at, -by)

    def passes(self, place: str | None) -> bool:
        """Whether one more task of the service may go there. Who has no place is apart from all, and beside nobody."""
        if place is None:
            return self.kind == "apart"
        here = self.counts.get(place, 0)
        if self.kind == "apart":
            return not here
        if self.kind == "beside":
            return here > 0 or (self.mine and not self.counts)
        if self.kind == "at most":
            return here < self.number
        return self._evens(here)

    def _evens(self, here: int) -> bool:
        """Marathon's GROUP_BY. With a number of places: each gets its share, and some one more. Without one, as before
        2020: an unused place, and when all are in use, one of the smallest.
        """
        if self.number:
            share, more = divmod(self.replicas, self.number)
            fuller = sum(count > share for count in self.counts.values())
            return here < share or (here == share and fuller < more) if here else len(self.counts) < self.number
        used = {self.counts.get(place, 0) for place in self.open}
        return not here or (all(used) and here <= min(used, default=here))


class Company:
    """All tallies of one request. `hard` must pass (`others`: rules of others), `wishes` are preferred."""

    def __init__(self, request: Request, board: Board) -> None:
        about = [one for one in request.spec.placement.constraints if not is_static(one)]
        tallies = [_own(one, request, board) for one in about]
        self._promising: dict[str, tuple[str, ...]] = {}
        self.wishes = [one for one in tallies if one.constraint.weight]
        self.others = _others(request, board)
        self.hard = [*(one for one in tallies if not one.constraint.weight), *self.others]

    @classmethod
    def of(cls, request: Request, board: Board) -> "Company":
        """Counted once per board; do not add to it."""
        placement, task = request.spec.placement, request.spec.task
        labels = tuple(task.options.labels.items())
        key = (cls, request.key, placement, request.spec.replicas, task.image, labels)
        return board.once(key, lambda: cls(request, board))

    @property
    def empty(self) -> bool:
        return not self.hard and not self.wishes

    def promising(self, within: str, board: Board) -> tuple[str, ...]:
        """Places, a few of them, that are likely to pass all hard rules within an attribute."""
        if within not in self._promising:
            about = [one for one in self.hard if one.constraint.within == within]
            sought = [place for one in about if one.kind == "beside" for place in one.first]
            known = {place for view in board.views.values() if (place := value(view.node, within)) is not None}
            fewest = nsmallest(NAMED, known, key=lambda at: (sum(one.counts.get(at, 0) for one in about), at))
            self._promising[within] = tuple(dict.fromkeys((*sought, *fewest)))
        return self._promising[within]

    def passes(self, node: Node) -> bool:
        return all(one.passes(one.place(node)) for one in self.hard)

    def unmet(self, node: Node) -> int:
        """The weights of what is preferred and would not be there."""
        return sum(one.constraint.weight for one in self.wishes if not one.passes(one.place(node)))

    def add(self, node: Node, by: int = 1) -> None:
        """One more task of the service has been placed there."""
        for one in (*self.hard, *self.wishes):
            one.add(one.place(node), by)


def _own(constraint: Constraint, request: Request, board: Board) -> Tally:
    number = int(constraint.values[0]) if constraint.subject == REPLICAS and constraint.values else 0
    if constraint.subject == REPLICAS:
        kind = {"<=": "at most", "evenly": "evenly"}.get(constraint.operator, "beside")
    else:
        kind = "apart" if constraint.operator in NEGATIVE else "beside"
    counts, newcomer = _counts(constraint, request.key), _newcomer(request)
    tally = Tally(constraint, kind, number, counts(newcomer), counts, replicas=request.spec.replicas)
    if kind == "evenly" and not number:
        tally.open = frozenset(_open(constraint.within, request, board))
    tally.fill(((node, task) for node, task in _tasks(constraint, request, board) if counts(task)), request.app)
    if constraint.subject == "image":
        test = positive(constraint)
        for view in board.views.values():
            for image in view.node.images:
                if any(map(test, image_names(image))):
                    tally.count(tally.place(view.node), 1, image)
    tally.first = tuple(nsmallest(NAMED, tally.counts))
    return tally


def _others(request: Request, board: Board) -> list[Tally]:
    """The rules of running services that keep this one away from them."""
    found, newcomer = [], _newcomer(request)
    for owner, constraint in refusing(board):
        app = owner.partition("/")[0]
        if owner == request.key or not (app == request.app or _names_app(constraint, request.app)):
            continue
        if not _counts(constraint, owner)(newcomer):
            continue
        tally = Tally(constraint, "apart", 0, False, _of(owner), owner)
        tally.fill(tasks_by_service(board).get(owner, ()), request.app)
        found.append(tally)
    return found


def refusing(board: Board) -> list[tuple[str, Constraint]]:
    """Rules that keep other services away; not those that a service has against itself alone."""

    def work() -> list[tuple[str, Constraint]]:
        return [
            (key, one)
            for key in sorted(board.services)
            for one in board.services[key].placement.constraints
            if one.operator in NEGATIVE and not one.weight and not is_static(one)
            if not (one.subject == "service" and one.operator == "!=" and one.values[0] == key.partition("/")[2])
        ]

    return board.once("refusing", work)


def _names_app(constraint: Constraint, app: str) -> bool:
    """Whether a rule is about services of one app and says so: `shop/web`, `shop/*`, `/^shop/`. Else an app could keep
    all others from every node by one rule about `*` or about an image.
    """
    values = constraint.values if constraint.subject in ("service", "task") else ()
    return any(re.sub(r"[\\^(?:]", "", one).startswith(f"{app}/") for one in values)


def tasks_by_service(board: Board) -> dict[str, list[tuple[Node, Task]]]:
    """All tasks of the board, by service."""

    def work() -> dict[str, list[tuple[Node, Task]]]:
        found: dict[str, list[tuple[Node, Task]]] = {}
        for view in board.views.values():
            for task in view.tasks:
                found.setdefault(task.service_key, []).append((view.node, task))
        return found

    return board.once("tasks by service", work)


def _tasks(constraint: Constraint, request: Request, board: Board) -> Iterator[tuple[Node, Task]]:
    """The tasks that a rule may be about."""
    by_service = tasks_by_service(board)
    if constraint.subject == REPLICAS:
        yield from by_service.get(request.key, ())
        return
    counts = _counts(constraint, request.key)
    for found in by_service.values():
        if constraint.subject != "service" or counts(found[0][1]):
            yield from found


def _of(service_key: str) -> Callable[[Task], bool]:
    return lambda task: task.service_key == service_key


def _counts(constraint: Constraint, owner: str) -> Callable[[Task], bool]:
    """Whether a rule of the service `owner` is about a task."""
    if constraint.subject == REPLICAS:
        return _of(owner)
    test, subject, app = positive(constraint), constraint.subject, owner.partition("/")[0]
    return lambda task: any(map(test, names(task, subject, app)))


def names(task: Task, subject: str, app: str) -> tuple[str, ...]:
    """What a task is called, as a service of `app` may write it; nothing where it has no such label."""
    if subject == "image":
        return image_names(task.spec.image)
    if subject.startswith(CONTAINER_LABEL):
        label = task.spec.options.labels.get(subject.removeprefix(CONTAINER_LABEL))
        return () if label is None else (label,)
    near = (task.service,) if task.app == app else ()
    if subject == "service":
        return (*near, task.service_key)
    near = (*near, task.name) if task.app == app else ()
    one, two = (f"{task.app}{mark}{task.service}{mark}{task.slot}" for mark in "_-")  # as Compose calls containers
    return (*near, task.service_key, f"{task.app}/{task.name}", one, two, task.id)


def image_names(image: str) -> tuple[str, ...]:
    """`redis:7` is found as `redis:7` and as `redis`; `redis` is `redis:latest`, too."""
    bare = image.partition("@")[0]
    folder, slash, last = bare.rpartition("/")
    repository = folder + slash + last.partition(":")[0]
    return (image, repository) if bare != repository else (f"{image}:latest" if bare == image else image, repository)


def as_seen(task: Task, app: str) -> str:
    return task.name if task.app == app else f"{task.app}/{task.name}"


def _newcomer(request: Request) -> Task:
    return Task("", request.app, request.service, 0, request.spec.task, 0.0)


def _open(within: str, request: Request, board: Board) -> Iterator[str]:
    """The places with a node that takes work and has what the service's other rules ask of nodes."""
    placement = request.spec.placement
    static = [one for one in placement.constraints if is_static(one) and not one.weight]
    for view in board.views.values():
        node, place = view.node, value(view.node, within)
        if place is None or not (node.takes_work and node.ready and all(holds(one, node) for one in static)):
            continue
        if not placement.platforms or any(on_platform(node, one) for one in placement.platforms):
            yield place
