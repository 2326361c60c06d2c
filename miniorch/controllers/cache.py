"""A copy of the whole store in memory, as objects, kept current by a watch.

Controllers decide from this copy; the store's comparisons catch whatever the copy did not know yet. A controller that
has just written waits until its copy shows the write (`reached`), so that it never decides twice from the same past.

Who does this for real: client-go's informer. Next file: `miniorch/controllers/loop.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from miniorch.errors import Compacted, Temporary, UnknownOutcome
from miniorch.model import (
    KINDS,
    App,
    Cluster,
    DesiredState,
    Endpoints,
    Event,
    Leader,
    Member,
    Node,
    Release,
    Service,
    Task,
    Token,
    Volume,
)
from miniorch.state.records import Write, from_entry, path_of
from miniorch.state.store import Store
from miniorch.verdicts import DecisionRecord
from scheduler.index import Index
from scheduler.request import Board

log = logging.getLogger("cache")

OnChange = Callable[[object, bool], None]
AWAY_SECONDS = 0.5  # between two attempts to list a store that is away


class Cache:
    """All objects by kind and key. Read the attributes; write through `Loop`."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.services: dict[str, Service] = {}
        self.tasks: dict[str, Task] = {}
        self.nodes: dict[str, Node] = {}
        self.volumes: dict[str, Volume] = {}
        self.releases: dict[str, Release] = {}
        self.decisions: dict[str, DecisionRecord] = {}
        self.endpoints: dict[str, Endpoints] = {}
        self.events: dict[str, Event] = {}
        self.tokens: dict[str, Token] = {}
        self.members: dict[str, Member] = {}
        self.cluster: dict[str, Cluster] = {}
        self.leaders: dict[str, Leader] = {}
        self.revision = 0
        self.changing = 0  # the revision of the change that is being told of
        self._stored: dict[int, tuple[int, bytes]] = {}  # by id of an object here: when it was written, and its bytes
        self._tasks_of: dict[str, dict[str, Task]] = {}
        self._in_order: dict[str, list[Task]] = {}  # the same, where somebody has asked since the last change
        self._tasks_on: dict[str, dict[str, Task]] = {}
        self._decisions_of: dict[str, dict[int, DecisionRecord]] = {}
        self.ended: dict[str, dict[str, Task]] = {}  # node -> tasks that have ended there, the last ones of their slots
        self.closed: dict[str, Node] = {}  # nodes that take no new tasks
        self.held: dict[str, Service] = {}  # services whose update finds no place
        self.waiting: dict[str, dict[str, Task]] = {}  # service -> its tasks that want a node and have none
        self.leaving: dict[str, Task] = {}  # that live, and are to stop
        self._groups = self._tasks_of, self._tasks_on, self.waiting, self.ended
        self._index: Index | None = None
        self._moved = asyncio.Event()
        self._begun, self.made = 0, 0  # how often it was listed from the store: begun, and the last that is complete

    @classmethod
    def holding(cls, *items: object) -> Cache:
        """A copy that holds just these objects, written one after the other: for tests and for what-if questions."""
        cache = cls()
        for revision, item in enumerate(items, start=1):
            cache.write(item, revision, lambda item, gone: None)
        return cache

    def write(self, item: object, revision: int, on_change: OnChange, *, erase: bool = False) -> None:
        """Change a copy that follows no store."""
        self.changing = self.revision = revision
        if erase:
            self._drop(path_of(item), on_change)
        else:
            self._set(path_of(item), item, revision, on_change)

    def tasks_of(self, service_key: str) -> Sequence[Task]:
        """A service's tasks, oldest first; the order does not depend on chance."""
        found = self._in_order.get(service_key)
        if found is None:
            own = self._tasks_of.get(service_key, {}).values()
            found = self._in_order[service_key] = sorted(own, key=lambda task: (task.created_at, task.id))
        return found

    def count_of(self, service_key: str) -> int:
        return len(self._tasks_of.get(service_key, ()))

    def tasks_on(self, node: str) -> list[Task]:
        """A node's tasks, in an order that does not depend on chance."""
        found = self._tasks_on.get(node, {})
        return [found[key] for key in sorted(found)]

    def decisions_of(self, service_key: str) -> list[DecisionRecord]:
        """The records of decisions about a service, oldest first."""
        return [one for _, one in sorted(self._decisions_of.get(service_key, {}).items())]

    @property
    def board(self) -> Board:
        """All that the scheduler decides from, as it is until the next change."""
        return self.index.board()

    @property
    def index(self) -> Index:
        """The same for many decisions in a row. It is made when somebody asks, and told of each change from then on."""
        if self._index is None:
            self._index = index = Index()
            for key, service in self.services.items():
                index.service(key, service.spec)
            index.fill(self.tasks.values())
            for name, node in self.nodes.items():
                index.node(name, node)
        return self._index

    def modified(self, item: object) -> int:
        """The revision at which an object of this copy was written."""
        return self._stored[id(item)][0]

    def written(self, item: object) -> bytes:
        """An object of this copy as it stands in the store."""
        return self._stored[id(item)][1]

    def some(self, kind: str, node: str | None = None) -> list[Any]:
        """Objects of a kind by key; of tasks only those of a node if one is given."""
        found = getattr(self, kind) if kind != "tasks" or node is None else self._tasks_on.get(node, {})
        return [found[key] for key in sorted(found)]

    def change(self, old: object, new: object, why: str = "") -> Write:
        """The wish that `new` take the place of `old`, which stands in this copy."""
        return Write(new, self.modified(old), why=why)

    def erase(self, old: object, why: str = "") -> Write:
        return Write(old, self.modified(old), erase=True, why=why)

    async def follow(self, store: Store, on_change: OnChange) -> None:
        """Keep this copy current, for ever. `on_change(object, gone)` is told of each change.

        While the store is away the copy stays as it is.
        """
        while True:
            try:
                await self._load(store, on_change)
                async for changes in store.watch("/", self.revision):
                    for change in changes:
                        self.changing = change.revision
                        if change.entry is not None:
                            self._set(
                                change.key, from_entry(change.entry), change.revision, on_change, change.entry.value
                            )
                        else:
                            self._drop(change.key, on_change)
                    self._advance(changes[-1].revision)
            except Compacted:
                continue
            except Temporary as error:
                log.warning("the store cannot be followed: %s", error.message)
                await asyncio.sleep(AWAY_SECONDS)
                continue
            return  # the store was closed

    async def reached(self, revision: int, made: int | None = None) -> None:
        """Wait until this copy holds everything up to `revision`.

        A store that is restored from a backup may never have it. So the wait ends when the copy has been made anew
        since; and raises `UnknownOutcome` if it has been since it had been made `made` times, for who has written.
        """
        begun = self._begun
        while self.revision < revision and self.made <= begun:
            if made is not None and self.made > made:
                raise UnknownOutcome("the store was read anew and has no such revision")
            self._moved.clear()
            await self._moved.wait()

    async def _load(self, store: Store, on_change: OnChange) -> None:
        self._begun = begun = self._begun + 1
        listing = await store.list("/")
        self.changing = listing.revision
        present = {entry.key for entry in listing.entries}
        for kind in KINDS:
            for key in list(getattr(self, kind)):
                if f"/{kind}/{key}" not in present:
                    self._drop(f"/{kind}/{key}", on_change)
        for entry in listing.entries:
            self._set(entry.key, from_entry(entry), entry.modified, on_change, entry.value)
        self.made = begun
        self._advance(listing.revision)

    def _advance(self, revision: int) -> None:
        self.revision = revision
        self._moved.set()

    def _set(self, path: str, item: Any, modified: int, on_change: OnChange, value: bytes = b"") -> None:
        _, kind, key = path.split("/", 2)
        found: dict[str, Any] = getattr(self, kind)
        before = found.get(key)
        found[key] = item
        if before is not None:
            del self._stored[id(before)]
        self._stored[id(item)] = modified, value
        self._sort(key, before, item)
        on_change(item, False)

    def _drop(self, path: str, on_change: OnChange) -> None:
        _, kind, key = path.split("/", 2)
        before = getattr(self, kind).pop(key, None)
        if before is not None:
            del self._stored[id(before)]
            self._sort(key, before, None)
            on_change(before, True)

    def _sort(self, key: str, before: Any, after: Any) -> None:
        """Keep current what is found by something else than its key. The scheduler's index is told."""
        index = self._index
        match after or before:
            case Task() as task:
                self._in_order.pop(task.service_key, None)
                for groups, old, new in zip(self._groups, _groups_of(before), _groups_of(after), strict=True):
                    if old is not None and old != new:
                        del groups[old][key]
                        if not groups[old]:
                            del groups[old]
                    if new is not None:
                        groups.setdefault(new, {})[key] = after
                _keep(self.leaving, key, after, task.live and task.desired_state is not DesiredState.RUNNING)
                if index is not None:
                    index.task(before, after)
            case DecisionRecord() as record:
                records = self._decisions_of.setdefault(record.service_key, {})
                records.pop(record.number, None)
                if after:
                    records[record.number] = after
                elif not records:
                    del self._decisions_of[record.service_key]
            case Service() as service:
                _keep(self.held, key, after, bool(service.held))
                if index is not None:
                    index.service(key, after.spec if after else None)
            case Node() as node:
                _keep(self.closed, key, after, not node.takes_work)
                if index is not None:
                    index.node(key, after)


def _groups_of(task: Task | None) -> tuple[str | None, ...]:
    """Where a task stands in each of `Cache._groups`; None: nowhere."""
    if task is None:
        return None, None, None, None
    own, node, wish = task.service_key, task.node, task.desired_state
    if task.status.state.ended:
        return own, node, None, None if wish is DesiredState.REMOVED else node
    return own, node, own if wish is DesiredState.RUNNING and not node else None, None


def _keep(found: dict[str, Any], key: str, item: Any, belongs: bool) -> None:
    if item is not None and belongs:
        found[key] = item
    else:
        found.pop(key, None)


def by_name(items: Iterable[Any]) -> list[Any]:
    """Objects in an order that does not depend on chance."""
    return sorted(items, key=lambda item: item.name)
