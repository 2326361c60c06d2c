"""The store as two Python containers: what the protocol means, without a disk.

The problem: the simulation runs thousands of clusters and must not wait for disks, and the SQLite store needs something
simple to be compared with. The idea: a dictionary of what is true now and a list of every change since the last
compaction. `tests/contract/test_store.py` runs the same rules against both and lets random histories race.

Who does this for real: swarmkit keeps its whole state in such a memory store and replicates the changes by raft. Next
file: `miniorch/state/sqlite.py`.
"""

import asyncio
import bisect
from collections.abc import AsyncGenerator, Callable, Sequence

from miniorch.errors import Compacted, Temporary, UsageError
from miniorch.state.limits import check_key, check_txn
from miniorch.state.store import Change, Compare, Entry, Listing, Operation, Put
from miniorch.state.watchers import Batch, Watchers, cut


class MemoryStore:
    """A `Store` that lives as long as its process. `latency` gives the seconds that the next operation waits."""

    def __init__(self, latency: Callable[[], float] = lambda: 0.0) -> None:
        self._latency = latency
        self._now: dict[str, Entry] = {}
        self._sorted: list[str] = []  # the keys of `_now`
        self._history: list[Change] = []
        self._revision = 0
        self._compacted = 0
        self._closed = False
        self._watchers = Watchers(self._read)

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
        return Listing(self._revision, tuple(self._now[key] for key in self._sorted[first:last]))

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        await self._pause()
        for compare in compares:
            entry = self._now.get(compare.key)
            if (entry.modified if entry else 0) != compare.modified:
                return None
        changes = [self._apply(operation) for operation in operations]
        done = sorted((change for change in changes if change), key=lambda change: change.key)
        if done:
            self._revision += 1
            self._history.extend(done)
            self._watchers.publish(self._revision, [change.key for change in done])
        revision = self._revision
        await self._pause()
        return revision

    def _apply(self, operation: Operation) -> Change | None:
        key, revision, previous = operation.key, self._revision + 1, self._now.get(operation.key)
        if isinstance(operation, Put):
            entry = Entry(key, operation.value, previous.created if previous else revision, revision)
            self._now[key] = entry
            if previous is None:
                bisect.insort(self._sorted, key)
            return Change(revision, key, entry, previous)
        if previous is None:
            return None
        del self._now[key]
        del self._sorted[bisect.bisect_left(self._sorted, key)]
        return Change(revision, key, None, previous)

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        return self._watchers.watch(prefix, after)

    async def _read(self, prefix: str, after: int) -> Batch:
        if after < self._compacted:
            raise Compacted(f"revision {after} is history: everything up to {self._compacted} has been compacted")
        first = bisect.bisect_right(self._history, after, key=lambda change: change.revision)
        new = (self._history[index] for index in range(first, len(self._history)))
        return cut((change for change in new if change.key.startswith(prefix)), self._revision)

    async def compact(self, revision: int) -> None:
        await self._pause()
        if revision > self._revision:
            raise UsageError(f"cannot compact up to revision {revision}: the newest is {self._revision}")
        if revision > self._compacted:
            self._compacted = revision
            del self._history[: bisect.bisect_right(self._history, revision, key=lambda change: change.revision)]

    async def revision(self) -> int:
        await self._pause()
        return self._revision

    async def close(self) -> None:
        self._closed = True
        self._watchers.close()

    async def _pause(self) -> None:
        """Let others run, as a disk would: a simulation in which reads and writes never wait hides every race."""
        await asyncio.sleep(self._latency())
        if self._closed:
            raise Temporary("the store is closed")
