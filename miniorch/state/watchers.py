"""Watches with bounded memory, the same for every backend.

The problem: a watcher that is slow, or a client that has gone to sleep, must neither lose a change nor make the server
keep everything for it. The idea: a watcher has no queue. It is a prefix and the revision up to which it has seen
everything; a write only rings its bell, and the watcher then reads what is new from the backend's history, a bounded
batch at a time. A slow one simply reads larger batches, and one that is too slow finds its place compacted away.

Who does this for real: etcd moves slow watchers to an "unsynced" group that reads from the key-value history in the
same way (mvcc/watchable_store.go). Where we differ: here every watcher works like that, always. Next file:
`miniorch/state/memory.py`.
"""

import asyncio
import bisect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from miniorch.errors import Compacted
from miniorch.state.store import Change

BATCH_CHANGES = 500
BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of whole revisions, and the revision up to which nothing is missing. `complete`: there was no more."""

    changes: Sequence[Change]
    upto: int
    complete: bool


def cut(changes: Iterable[Change], head: int) -> Batch:
    """The first changes of an ordered history: as many whole revisions as fit a batch, at least one."""
    taken: list[Change] = []
    size = 0
    for change in changes:
        if taken and change.revision != taken[-1].revision and (len(taken) >= BATCH_CHANGES or size >= BATCH_BYTES):
            return Batch(taken, taken[-1].revision, complete=False)
        taken.append(change)
        size += _bytes(change)
    return Batch(taken, head, complete=True)


def _bytes(change: Change) -> int:
    return sum(len(entry.value) for entry in (change.entry, change.previous) if entry)


def history(after: int, compacted: int) -> Compacted:
    return Compacted(f"revision {after} is history: everything up to {compacted} has been compacted")


class History:
    """Changes in memory, in order: all those after the revision `floor`, up to the revision `head`."""

    def __init__(self, floor: int = 0) -> None:
        self.floor = self.head = floor
        self._changes: list[Change] = []
        self._bytes = 0

    def append(self, revision: int, changes: Iterable[Change]) -> None:
        """All changes of a revision that is newer than `head`, sorted by key."""
        self.head = revision
        for change in changes:
            self._changes.append(change)
            self._bytes += _bytes(change)

    def read(self, prefix: str, after: int) -> Batch:
        if after < self.floor:
            raise history(after, self.floor)
        first = self._first_after(after)
        last, upto = len(self._changes), self.head
        if last - first > BATCH_CHANGES:  # hundreds may ask at the same moment: each holds up the others only so long
            upto = self._changes[first + BATCH_CHANGES].revision
            last = self._first_after(upto)
        new = (self._changes[index] for index in range(first, last))
        batch = cut((change for change in new if change.key.startswith(prefix)), upto)
        return batch if batch.upto == self.head else replace(batch, complete=False)

    def forget(self, upto: int) -> None:
        if upto > self.floor:
            self.floor = upto
            self.head = max(self.head, upto)
            gone = self._first_after(upto)
            self._bytes -= sum(map(_bytes, self._changes[:gone]))
            del self._changes[:gone]

    def shrink(self, changes: int, size: int) -> None:
        """Forget the older half of what is kept, if it is more than so many changes or bytes."""
        while len(self._changes) > changes or self._bytes > size:
            self.forget(self._changes[(len(self._changes) - 1) // 2].revision)

    def _first_after(self, revision: int) -> int:
        return bisect.bisect_right(self._changes, revision, key=lambda change: change.revision)


@dataclass(eq=False, slots=True)
class _Watcher:
    prefix: str
    after: int  # everything up to this revision has been handed over
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    idle: bool = False  # waits for the bell and has missed nothing
    failed: Exception | None = None


class Watchers:
    """All watches of one store. `read(prefix, after)` gives the next batch or raises `Compacted`."""

    def __init__(self, read: Callable[[str, int], Awaitable[Batch]]) -> None:
        self._read = read
        self._watchers: dict[_Watcher, None] = {}  # rung in the order of their beginning, never by chance
        self._closed = False

    def publish(self, revision: int, keys: Iterable[str]) -> None:
        """A revision has been written. Must be called in the order of revisions, in the event loop's thread."""
        changed = tuple(keys)
        for watcher in self._watchers:
            if any(key.startswith(watcher.prefix) for key in changed):
                watcher.idle = False
                watcher.bell.set()
            elif watcher.idle:
                # Nothing for this one: it moves along, or compaction would overtake a watcher that missed nothing.
                watcher.after = max(watcher.after, revision)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """See `Store.watch`."""
        watcher = _Watcher(prefix, after)
        self._watchers[watcher] = None
        try:
            while not self._closed:
                watcher.bell.clear()  # before reading: what is written meanwhile rings again
                if watcher.failed is not None:
                    raise watcher.failed
                batch = await self._read(prefix, watcher.after)
                watcher.after = max(watcher.after, batch.upto)
                if batch.changes:
                    yield batch.changes
                if batch.complete and not watcher.bell.is_set() and not self._closed:
                    watcher.idle = True
                    await watcher.bell.wait()
                    watcher.idle = False
        finally:
            self._watchers.pop(watcher, None)

    def close(self) -> None:
        """End every watch at its next step."""
        self._closed = True
        self.ring()

    def ring(self) -> None:
        """Have every watcher read, whether there is something for it or not."""
        for watcher in self._watchers:
            watcher.bell.set()

    def fail(self, error: Exception) -> None:
        """End every watch there is with an error."""
        for watcher in self._watchers:
            watcher.failed = error
        self.ring()
