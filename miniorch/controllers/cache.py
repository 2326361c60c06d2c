"""A copy of the whole store in memory, as objects, kept current by a watch.

Controllers decide from this copy; the store's comparisons catch whatever the copy did not know yet. A controller that
has just written waits until its copy shows the write (`reached`), so that it never decides twice from the same past.

Who does this for real: client-go's informer. Next file: `miniorch/controllers/loop.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from miniorch.errors import Compacted, Temporary
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
        self.endpoints: dict[str, Endpoints] = {}
        self.events: dict[str, Event] = {}
        self.tokens: dict[str, Token] = {}
        self.members: dict[str, Member] = {}
        self.cluster: dict[str, Cluster] = {}
        self.leaders: dict[str, Leader] = {}
        self.revision = 0
        self.changing = 0  # the revision of the change that is being told of
        self._modified: dict[int, int] = {}  # id of an object here -> the revision at which it was written
        self._tasks_of: dict[str, dict[str, Task]] = {}
        self._tasks_on: dict[str, dict[str, Task]] = {}
        self.draining: dict[str, Task] = {}
        self.closed: dict[str, Node] = {}  # nodes that take no new tasks
        self._moved = asyncio.Event()

    @classmethod
    def holding(cls, *items: object) -> Cache:
        """A copy that holds just these objects, written one after the other: for tests and for what-if questions."""
        cache = cls()
        for revision, item in enumerate(items, start=1):
            cache._set(path_of(item), item, revision, lambda item, gone: None)
            cache.revision = revision
        return cache

    def tasks_of(self, service_key: str) -> list[Task]:
        """A service's tasks, oldest first; the order does not depend on chance."""
        return sorted(self._tasks_of.get(service_key, {}).values(), key=lambda task: (task.created_at, task.id))

    def tasks_on(self, node: str) -> list[Task]:
        """A node's tasks, in an order that does not depend on chance."""
        return sorted(self._tasks_on.get(node, {}).values(), key=lambda task: task.id)

    def modified(self, item: object) -> int:
        """The revision at which an object of this copy was written."""
        return self._modified[id(item)]

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
                            self._set(change.key, from_entry(change.entry), change.revision, on_change)
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

    async def reached(self, revision: int) -> None:
        """Wait until this copy holds everything up to `revision`."""
        while self.revision < revision:
            self._moved.clear()
            await self._moved.wait()

    async def _load(self, store: Store, on_change: OnChange) -> None:
        listing = await store.list("/")
        self.changing = listing.revision
        present = {entry.key for entry in listing.entries}
        for kind in KINDS:
            for key in list(getattr(self, kind)):
                if f"/{kind}/{key}" not in present:
                    self._drop(f"/{kind}/{key}", on_change)
        for entry in listing.entries:
            self._set(entry.key, from_entry(entry), entry.modified, on_change)
        self._advance(listing.revision)

    def _advance(self, revision: int) -> None:
        self.revision = revision
        self._moved.set()

    def _set(self, path: str, item: Any, modified: int, on_change: OnChange) -> None:
        self._forget(path)
        _, kind, key = path.split("/", 2)
        getattr(self, kind)[key] = item
        self._modified[id(item)] = modified
        if isinstance(item, Task):
            self._tasks_of.setdefault(item.service_key, {})[item.id] = item
            self._tasks_on.setdefault(item.node, {})[item.id] = item
            if item.live and item.desired_state is DesiredState.DRAINING:
                self.draining[item.id] = item
        if isinstance(item, Node) and not item.takes_work:
            self.closed[item.name] = item
        on_change(item, False)

    def _drop(self, path: str, on_change: OnChange) -> None:
        item = self._forget(path)
        if item is not None:
            on_change(item, True)

    def _forget(self, path: str) -> object | None:
        _, kind, key = path.split("/", 2)
        item: object | None = getattr(self, kind).pop(key, None)
        if item is not None:
            self._modified.pop(id(item), None)
        if isinstance(item, Node):
            self.closed.pop(item.name, None)
        if isinstance(item, Task):
            self.draining.pop(item.id, None)
            for index, key in ((self._tasks_of, item.service_key), (self._tasks_on, item.node)):
                index[key].pop(item.id, None)
                if not index[key]:
                    del index[key]
        return item


def by_name(items: Iterable[Any]) -> list[Any]:
    """Objects in an order that does not depend on chance."""
    return sorted(items, key=lambda item: item.name)
