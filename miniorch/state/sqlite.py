"""The store on disk: the one in memory, and a file that is always ahead of it.

The problem: what the API has confirmed must be there after a power cut, every change must be told to every watcher in
order, and the event loop must never wait for a disk. The idea: one process has the file for itself, so what is true now
can be kept in memory (`memory.py`), and the file is a log: nothing is entered there, told or confirmed before its row
is on the disk. While one group of transactions is being written, by a thread, the next ones gather and then share an
fsync (group commit). A group that the disk refuses leaves no trace in memory. The past that memory has forgotten is
read from the file again.

Who does this for real: redis with its append-only file; every database since the 1980s for the group commit. Where we
differ: a second server is refused; several servers share a store only on etcd. Next file: `miniorch/state/sql.py`.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from miniorch.errors import Conflict, NotAllowed, NotFound, Temporary, UnknownOutcome
from miniorch.state import sql
from miniorch.state.leases import check_seconds
from miniorch.state.limits import check_txn
from miniorch.state.memory import MemoryStore
from miniorch.state.store import Change, Compare, Delete, Operation
from miniorch.state.watchers import Batch, History

GROUP_OPERATIONS = 8000  # with so many a group is full: it is decided at one go, and others want their turn
AGAIN_SECONDS = 1.0  # after a full disk has kept a lease from ending
T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    """One transaction on its way to the disk, and what it comes to, which is decided when its turn comes."""

    compares: Sequence[Compare]
    operations: Sequence[Operation]
    done: asyncio.Future[int | None]
    held: bool = False
    changes: Sequence[Change] = ()
    error: Exception | None = None

    def answer(self, revision: int) -> None:
        if self.done.done():  # the caller has gone; what it asked for has been done
            return
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(revision if self.held else None)


class SqliteStore(MemoryStore):
    """A `Store` in one file. Raises `Conflict` if another server uses it, `Unsupported` if its format is not ours."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._lock = _lock(self.path)
        try:
            self._connection, loaded = sql.open_file(self.path)
            self._file = os.stat(self.path)
        except BaseException:
            os.close(self._lock)
            raise
        self._now, self._idle_leases, head = loaded
        self._sorted = sorted(self._now)
        self._history = History(head)
        self._thread = ThreadPoolExecutor(1, f"store {self.path.name}")
        self._turn = asyncio.Lock()  # of whoever decides, writes and enters what was written
        self._waiting: list[_Waiting] = []
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closing: asyncio.Task[None] | None = None

    async def _pause(self) -> None:
        await super()._pause()
        idle, self._idle_leases = self._idle_leases, ()
        for lease, seconds, keys in idle:  # nobody could renew them while the file was closed
            self._leases.add(lease, seconds)
            for key in keys:
                self._leases.attach(key, lease)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        await self._pause()
        one = _Waiting(tuple(compares), tuple(operations), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if len(self._waiting) == 1:
            self._begin(self._commit_next())
        return await one.done

    async def _commit_next(self) -> None:
        """What waits when the disk is free, as one group. The rest is the next one's."""
        async with self._turn:
            count = size = 0
            while count < len(self._waiting) and size < GROUP_OPERATIONS:
                size += len(self._waiting[count].operations)
                count += 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            if self._waiting:
                self._begin(self._commit_next())
            try:
                await self._commit(group)
            except Exception as error:  # of whatever kind: nobody waits for ever
                for one in group:
                    one.error = error
                    one.answer(0)

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        """If nothing was done, each alone: a disk may have no room for one, and room for the others."""
        head, ahead, rows = self._history.head, dict[str, Change](), list[sql.Row]()
        for one in group:
            one.held, one.error = self._hold(one.compares, ahead), None
            try:
                one.changes = self._changes(one.operations, head + 1, ahead) if one.held else ()
            except NotFound as error:
                one.changes, one.error = (), error
            if one.changes:
                head += 1
                ahead.update({change.key: change for change in one.changes})
                rows += sql.rows(one.changes, one.operations)
        try:
            if rows:
                await self._append(rows)
        except Temporary as error:
            if len(group) > 1 and not isinstance(error, UnknownOutcome):
                for one in group:
                    await self._commit([one])
                return
            for one in group:
                one.changes, one.error = (), error
        for one in group:
            if one.changes:
                self._enter(one.changes, one.operations)
            one.answer(self._history.head)
        self._history.shrink()

    async def _read(self, prefix: str, after: int) -> Batch:
        await asyncio.sleep(0)  # a slow watcher reads again and again: others come between
        if self._closed:
            return Batch((), after, complete=True)
        head = self._history.head  # what is on the disk beyond that is on its way, or was never confirmed
        if after >= self._history.floor:
            return self._history.read(prefix, after)
        return await self._on_disk(lambda connection: sql.changes(connection, prefix, after, head))

    async def _append(self, rows: Sequence[sql.Row], lease: int = 0) -> None:
        """To the end of the log; and if a lease is named, it has ended."""
        head = self._history.head

        def work(connection: sqlite3.Connection) -> None:
            if not self.path.exists() or not os.path.samestat(os.stat(self.path), self._file):
                taken = f"the store {self.path} was removed, or is another file than the one that was opened"
                raise Temporary(taken, remedy="all is in memory: miniorch backup, then down, then restore")
            sql.append(connection, head, rows)
            if lease:
                sql.revoke(connection, lease)

        await self._on_disk(work)

    async def grant(self, seconds: float) -> int:
        await self._pause()
        check_seconds(seconds)
        lease = await self._on_disk(lambda connection: sql.grant(connection, seconds))
        self._leases.add(lease, seconds)
        return lease

    async def revoke(self, lease: int) -> None:
        await self._pause()
        await asyncio.shield(self._begin(self._revoke(lease)))

    async def _revoke(self, lease: int) -> None:
        async with self._turn:
            changes = self._changes([Delete(key) for key in self._leases.keys(lease)], self._history.head + 1, {})
            await self._append(sql.rows(changes, ()), lease)
            self._leases.end(lease)
            self._enter(changes, ())

    def _end(self, lease: int) -> None:
        """Its time is up."""
        if not self._closed:
            self._begin(self._revoke_at_last(lease))

    async def _revoke_at_last(self, lease: int) -> None:
        try:
            await self._revoke(lease)
        except Temporary:
            self._leases.again(lease, AGAIN_SECONDS)

    async def compact(self, revision: int) -> None:
        await self._pause()
        if revision <= self._history.head:
            while not self._closed and not await self._on_disk(lambda connection: sql.compact(connection, revision)):
                pass
        await super().compact(revision)

    async def close(self) -> None:
        """Goes on if its caller gives up; whoever closes once more waits for the same."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close {self.path.name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await super().close()
        while self._tasks:  # who has got in is served, and each group begins the next
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()
        os.close(self._lock)  # only now may another server open the file

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """What goes on when its caller has gone."""
        task = asyncio.create_task(work, name=f"store {self.path.name}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def _on_disk(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In the thread, as one SQLite transaction. Raises `Temporary` if the disk does not do it, and `UnknownOutcome`
        if it may have: the next transaction that is written takes the place of what is in doubt.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, sql.within, self._connection, work)
        except sql.Unsure as error:
            raise UnknownOutcome(f"whether it was written is unknown: {self.path}: {error}") from None
        except (sqlite3.Error, OSError) as error:
            if sql.is_because(error, sqlite3.SQLITE_FULL):
                full, space = f"the disk with {self.path} is full: nothing was written", f"df -h {self.path.parent}"
                raise Temporary(full, remedy=f"make space there: {space}") from None
            raise Temporary(f"the store {self.path} cannot be read or written: {error}") from None


def _lock(path: Path) -> int:
    """Take the file's lock for this process; the kernel frees it when the process dies, however it dies."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        raise NotAllowed(f"may not write to {path.parent}", remedy="use sudo") from None
    except OSError as error:
        raise Temporary(f"cannot use {path.parent} for the store: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise Conflict(f"another server (pid {holder}) uses {path}", remedy="miniorch down") from None
    except OSError as error:
        os.close(lock)
        raise Temporary(f"cannot use {path.parent} for the store: {error.strerror}") from None
    return lock
