"""Why is it here, why is it nowhere, and what would help: the answers to `miniorch explain`.

Three sources, one structure (`miniorch/verdicts.py`): the record of the decision as it was made; the same question
asked again of the state as it is now, as if the task had to be placed anew; and, for what fits nowhere, the changes
that would help, each of which has been tried.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import WAITING, request_for, unmet_dependencies
from miniorch.errors import NotFound
from miniorch.model import Service, Task
from miniorch.slots import current, is_wanted, next_at, recent_failures, told, unknown
from miniorch.verdicts import DecisionRecord, Placed, Remedy, Trace
from scheduler.explain import ROWS, again, look, trace, whole
from scheduler.remedies import remedies
from scheduler.request import Board

TOLD, NODES = 10, 10_000  # tasks of a service with a whole answer; fewer, if so many nodes would be asked for them


@dataclass(frozen=True, slots=True)
class Now:
    """A place for one more task of the service, as it would be decided now; `verdict` is about a task's own node."""

    trace: Trace
    remedies: tuple[Remedy, ...]
    verdict: str = ""  # "again", "equal", "elsewhere", "refused"; "" for a task without a node
    why: str = ""


@dataclass(frozen=True, slots=True)
class Then:
    """A decision as it was made. `revision` is where it was written; it was decided by the state of `decided_from`."""

    revision: int
    decided_from: int
    at: float
    trace: Trace
    placed: tuple[Placed, ...]
    in_all: int


def explain_service(service: Service, cache: Cache, now: float, *, every_node: bool) -> dict[str, Any]:
    """All tasks of a service, the first ones with whole answers."""
    tasks = sorted(current(cache.tasks_of(service.key), cache.services, now), key=lambda task: task.slot)
    return _answer(service.key, tasks, cache, now, every_node=every_node)


def explain_task(task: Task, cache: Cache, now: float, *, every_node: bool) -> dict[str, Any]:
    return _answer(task.service_key, [task], cache, now, every_node=every_node)


def explain_then(key: str, at: int, cache: Cache, *, slot: str = "", task: str = "") -> dict[str, Any]:
    """The newest decision at or before a revision about a service, one slot of it, or one task. Raises `NotFound`."""
    about = [one for one in cache.decisions_of(key) if _is_about(one, slot, task)]
    found = [one for one in about if cache.modified(one) <= at]
    if not found:
        name = f"{key}.{slot}" if slot else task or key
        kept = ", ".join(str(cache.modified(one)) for one in reversed(about))
        raise NotFound(
            f"no decision about {name} at or before revision {at} is on record; "
            + (f"on record: {kept}" if kept else "none is"),
            remedy=f"miniorch explain {name} --at {cache.modified(about[0])}" if about else f"miniorch explain {key}",
        )
    return {"revision": cache.revision, "service": key, "at": at, "then": _then(found[-1], cache),
            "on_record": _listed(about, cache)}  # fmt: skip


def service_of_task(task: str, cache: Cache) -> tuple[str, str]:
    """Service and whole id of a task that may be gone, by its record and the beginning of its id. Raises `NotFound`."""
    for one in reversed(cache.decisions.values()):
        for known in one.tasks:
            if known.startswith(task):
                return one.service_key, known
    raise NotFound(f"no decision about task {task} is on record", remedy="miniorch explain APP/SERVICE")


def _answer(key: str, tasks: Sequence[Task], cache: Cache, now: float, *, every_node: bool) -> dict[str, Any]:
    records = cache.decisions_of(key)
    service = cache.services.get(key)
    look_again = _Again(service, cache, now, every_node)
    newest = {task: one for one in records for task in one.tasks}
    unmet = unmet_dependencies(service, cache) if service else []
    told = {task.id: record for task in tasks if (record := newest.get(task.id))}
    each = {id(one) for one in told.values()}  # a record is sent once, however many tasks it is about
    rows = [_row(task, told.get(task.id), unmet, cache, now, look_again) for task in tasks]
    return {"revision": cache.revision, "service": key, "held": service.held if service else "", "tasks": rows,
            "decisions": [_then(one, cache) for one in records if id(one) in each],
            "on_record": _listed(records, cache)}  # fmt: skip


class _Again:
    """Asks the question anew for some tasks of one service. All that wait have the same answer."""

    def __init__(self, service: Service | None, cache: Cache, now: float, every_node: bool) -> None:
        self.service, self.most = service, 0 if every_node else ROWS
        self.request = request_for(service, cache) if service else None
        self.board = _board(service, cache, now)
        self.left = max(1, min(TOLD, NODES // max(1, len(cache.nodes))))
        self.like = ""  # the waiting task whose answer is that of all who wait

    def ask(self, task: Task) -> Now | None:
        """None when that has been told of another, or of enough others."""
        waits = not task.node
        if self.request is None or not task.live or not self.left or (waits and self.like):
            return None
        self.left -= 1
        self.like = self.like or (task.id if waits else "")
        board = self.board if waits else _without(self.board, task)
        looks = look(self.request, board.views.values(), board)
        goes_to = looks[0].name if looks and not looks[0].against else ""
        found = trace(self.request, board, looks, chosen=goes_to, most=self.most)
        verdict, why = again(self.request, task.node, looks) if task.node else ("", "")
        return Now(found, remedies(self.request, board, looks), verdict, why)


def _row(
    task: Task, record: DecisionRecord | None, unmet: list[str], cache: Cache, now: float, look_again: _Again
) -> dict[str, Any]:
    service = cache.services.get(task.service_key)
    waits = task.live and not task.node
    return {
        "task": task.id, "name": f"{task.app}/{task.name}", "state": task.status.state.value,
        "desired_state": task.desired_state.value,
        "message": unknown(task, cache.nodes.get(task.node), now) or told(task, service, now),
        "next_at": next_at(task, service) if service and not task.live else None, "node": task.node,
        "waits_for": unmet if task.status.state in WAITING or _is_old(task, service) else [],
        "now": look_again.ask(task),
        "like": look_again.like if waits and look_again.like != task.id else "",
        "then": cache.modified(record) if record else None,
    }  # fmt: skip


def _is_old(task: Task, service: Service | None) -> bool:
    """Whether a task is to be replaced, which waits for the same."""
    return service is not None and task.live and not is_wanted(task, service)


def _board(service: Service | None, cache: Cache, now: float) -> Board:
    """The board that placement decides from. What is told of a node that is away says for how long."""
    views = dict(cache.board.views)
    views.update((name, replace(view, now=now)) for name, view in views.items() if not view.node.takes_work)
    often = recent_failures(service, cache.tasks_of(service.key), now) if service else {}
    failures = {(service.key, node): count for node, count in often.items()} if service else {}
    return replace(cache.board, views=views, failures=failures)


def _without(board: Board, task: Task) -> Board:
    """The board as if a task had to be placed anew."""
    view = board.views.get(task.node)
    if view is None:
        return board
    alone = replace(view, tasks=tuple(one for one in view.tasks if one.id != task.id))
    return replace(board, views={**board.views, task.node: alone})


def _is_about(record: DecisionRecord, slot: str, task: str) -> bool:
    if not slot and not task:
        return True
    return task in record.tasks or slot in map(str, record.slots)


def _then(record: DecisionRecord, cache: Cache) -> Then:
    written = cache.modified(record)
    return Then(written, record.revision, record.at, whole(record.trace), record.placed, record.in_all)


def _listed(records: Iterable[DecisionRecord], cache: Cache) -> list[dict[str, Any]]:
    """What `--at` can be asked of, the newest first."""
    return [
        {"revision": cache.modified(one), "at": one.at, "placed": one.placed, "in_all": one.in_all}
        for one in reversed(list(records))
    ]
