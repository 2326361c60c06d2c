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
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from miniorch.errors import Compacted
from miniorch.state.store import Change

BATCH_CHANGES = 500
BATCH_BYTES = 4 * 1024 * 1024  # of what is read from a disk; memory has it already
HISTORY_CHANGES = 20_000  # kept in memory for slow watchers, and
HISTORY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of whole revisions, and the revision up to which nothing is missing. `complete`: there was no more."""

    changes: Sequence[Change]
    upto: int
    complete: bool


def size_of(change: Change) -> int:
    entry, previous = change.entry, change.previous
    return (len(entry.value) if entry else 0) + (len(previous.value) if previous else 0)


def history(after: int, compacted: int) -> Compacted:
    return Compacted(f"revision {after} is history: everything up to {compacted} has been compacted")


class History:
    """Changes in memory, in order: all those after the revision `floor`, up to the revision `head`."""

    def __init__(self, floor: int = 0) -> None:
        self.floor = self.head = floor
        self._changes: list[Change] = []
        self.size = 0

    def append(self, revision: int, changes: Sequence[Change]) -> None:
        """All changes of a revision that is newer than `head`, sorted by key."""
        self.head = revision
        self._changes += changes
        self.size += sum(map(size_of, changes))

    def read(self, prefix: str, after: int) -> Batch:
        if after < self.floor:
            raise history(after, self.floor)
        first = self._first_after(after)
        last, upto = len(self._changes), self.head
        if last - first > BATCH_CHANGES:  # hundreds may ask at the same moment: each holds up the others only so long
            upto = self._changes[first + BATCH_CHANGES - 1].revision
            last = self._first_after(upto)
        new = [change for change in self._changes[first:last] if change.key.startswith(prefix)]
        return Batch(new, upto, complete=upto == self.head)

    def forget(self, upto: int) -> None:
        if upto > self.floor:
            self.floor = upto
            self.head = max(self.head, upto)
            gone = self._first_after(upto)
            self.size -= sum(map(size_of, self._changes[:gone]))
            del self._changes[:gone]

    def shrink(self, changes: int = HISTORY_CHANGES, size: int = HISTORY_BYTES) -> None:
        """Forget the older half of what is kept, if it is more than so many changes or bytes."""
        while len(self._changes) > changes or self.size > size:
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

    def publish(self, revision: int, keys: Sequence[str]) -> None:
        """A revision has been written that changed these keys, sorted. Must be called in the order of revisions, in the
        event loop's thread.
        """
        for watcher in self._watchers:
            first = bisect.bisect_left(keys, watcher.prefix)  # if any key has the prefix, the first after it does
            if first < len(keys) and keys[first].startswith(watcher.prefix):
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
