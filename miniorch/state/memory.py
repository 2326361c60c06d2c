"""The store as two Python containers: what the protocol means, without a disk.

The problem: the simulation runs thousands of clusters and must not wait for disks, and the SQLite store needs something
simple to be compared with. The idea: a dictionary of what is true now and a list of every change since the last
compaction. `tests/contract/test_store.py` runs the same rules against both and lets random histories race.

Who does this for real: swarmkit keeps its whole state in such a memory store and replicates the changes by raft. Next
file: `miniorch/state/sqlite.py`.
"""

import asyncio
import bisect
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from operator import attrgetter

from miniorch.errors import Temporary, UsageError
from miniorch.state.leases import Leases
from miniorch.state.limits import check_key, check_txn
from miniorch.state.store import Change, Compare, Delete, Entry, Listing, Operation, Put
from miniorch.state.watchers import Batch, History, Watchers


class MemoryStore:
    """A `Store` that lives as long as its process. `latency` gives the seconds that the next operation waits, and
    `space` the bytes that values and their past may take.
    """

    def __init__(self, latency: Callable[[], float] = lambda: 0.0, space: float = math.inf) -> None:
        self._latency = latency
        self.space = space
        self._now: dict[str, Entry] = {}
        self._sorted: list[str] = []  # the keys of `_now`
        self._history = History()
        self._closed = False
        self._watchers = Watchers(self._read)
        self._leases = Leases(self._end)

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        await self._pause()
        return self._now.get(key)

    async def list(self, prefix: str) -> Listing:
        await self._pause()
        return self.snapshot(prefix)

    def snapshot(self, prefix: str = "") -> Listing:
        """The same as `list`, at once: for the simulation's invariants, which look without letting time pass."""
        first = last = bisect.bisect_left(self._sorted, prefix)
        while last < len(self._sorted) and self._sorted[last].startswith(prefix):
            last += 1
        return Listing(self._history.head, tuple(self._now[key] for key in self._sorted[first:last]))

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        await self._pause()
        if not self._hold(compares, {}):
            return None
        if self.space < math.inf:
            self._check_space(operations)
        revision = self._write(operations)
        await self._pause()
        return revision

    def _check_space(self, operations: Sequence[Operation]) -> None:
        new = sum(len(one.value) for one in operations if isinstance(one, Put))
        if new and self._history.size + sum(len(one.value) for one in self._now.values()) + new > self.space:
            raise Temporary("the store is full: nothing was written", remedy="miniorch rm what is not needed")

    def _hold(self, compares: Sequence[Compare], ahead: Mapping[str, Change]) -> bool:
        """`ahead`: changes that have been decided, and not yet entered."""
        for compare in compares:
            key = compare.key
            entry = ahead[key].entry if key in ahead else self._now.get(key)
            if (entry.modified if entry else 0) != compare.modified:
                return False
        return True

    def _write(self, operations: Sequence[Operation]) -> int:
        """One revision, at once; none if nothing changes."""
        self._enter(self._changes(operations, self._history.head + 1, {}), operations)
        return self._history.head

    def _changes(self, operations: Sequence[Operation], revision: int, ahead: Mapping[str, Change]) -> Sequence[Change]:
        """What operations come to, sorted by key. Raises `NotFound` if a put names a lease that has ended."""
        changes = []
        for operation in operations:
            key = operation.key
            previous = ahead[key].entry if key in ahead else self._now.get(key)
            if isinstance(operation, Put):
                if operation.lease:
                    self._leases.check(operation.lease)
                created = previous.created if previous else revision
                entry = Entry(key, operation.value, created, revision, operation.item)
                changes.append(Change(revision, key, entry, previous))
            elif previous is not None:
                changes.append(Change(revision, key, None, previous))
        changes.sort(key=attrgetter("key"))
        return changes

    def _enter(self, changes: Sequence[Change], operations: Sequence[Operation]) -> None:
        """From now on it is so, and everybody is told."""
        for operation in operations:
            self._leases.attach(operation.key, operation.lease if isinstance(operation, Put) else 0)
        for change in changes:
            key = change.key
            if change.entry is None:
                del self._now[key]
                del self._sorted[bisect.bisect_left(self._sorted, key)]
            else:
                if change.previous is None:
                    bisect.insort(self._sorted, key)
                self._now[key] = change.entry
        if changes:
            self._history.append(changes[0].revision, changes)
            self._watchers.publish(self._history.head, [change.key for change in changes])

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        return self._watchers.watch(prefix, after)

    async def _read(self, prefix: str, after: int) -> Batch:
        return self._history.read(prefix, after)

    async def grant(self, seconds: float) -> int:
        await self._pause()
        return self._leases.grant(seconds)

    async def keep_alive(self, lease: int) -> None:
        await self._pause()
        self._leases.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._pause()
        self._end(lease)

    def _end(self, lease: int) -> None:
        self._write([Delete(key) for key in self._leases.end(lease)])

    async def compact(self, revision: int) -> None:
        await self._pause()
        if revision > self._history.head:
            raise UsageError(f"cannot compact up to revision {revision}: the newest is {self._history.head}")
        self._history.forget(revision)

    async def revision(self) -> int:
        await self._pause()
        return self._history.head

    async def close(self) -> None:
        self._closed = True
        self._leases.close()
        self._watchers.close()

    async def _pause(self) -> None:
        """Let others run, as a disk would: a simulation in which reads and writes never wait hides every race."""
        await asyncio.sleep(self._latency())
        if self._closed:
            raise Temporary("the store is closed")
