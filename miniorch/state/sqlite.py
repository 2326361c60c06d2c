"""The store on disk: one file, one thread.

The problem: what the API has confirmed must be there after a power cut, every change must be told to every watcher in
order, and the event loop must never wait for a disk. The idea: all SQL runs in one thread. It takes everything that
waits and runs it as one SQLite transaction, so a hundred waiting writers share one fsync (group commit); nobody gets an
answer before the commit that contains what it read or wrote. What the SQL says stands in `miniorch/state/sql.py`.

Who does this for real: kine's writers, and every database since the 1980s. Where we differ: one process has the file
for itself, and a second server is refused; several servers share a store only on etcd. Next file:
`miniorch/state/sql.py`.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from miniorch.errors import Conflict, MiniorchError, NotAllowed, Temporary
from miniorch.state import sql
from miniorch.state.limits import check_key, check_txn
from miniorch.state.store import Change, Compare, Entry, Listing, Operation
from miniorch.state.watchers import Batch, Watchers

GROUP_JOBS = 500  # at most so many requests share one SQLite transaction
AGAIN_SECONDS = 1.0  # after a full disk has kept a lease from ending
T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """One request on its way to the thread and back. `done` is None for the end of a lease: nobody waits for it."""

    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any] | None
    result: Any = None
    error: Exception | None = None


class SqliteStore:
    """A `Store` in one file. Raises `Conflict` if another server uses it, `Unsupported` if its format is not ours."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._closed = False
        self._lock = _lock(self.path)
        try:
            self._connection = sql.open_file(self.path, time.monotonic())
        except BaseException:
            os.close(self._lock)
            raise
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._watchers = Watchers(self._changes)
        self._reads: dict[tuple[str, int], asyncio.Future[Batch]] = {}
        self._thread = threading.Thread(target=self._serve, name=f"store {self.path.name}", daemon=True)
        self._thread.start()

    # What callers see: each method hands one piece of work to the thread.

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._do(lambda connection: sql.entry_of(sql.newest(connection, key)))

    async def list(self, prefix: str) -> Listing:
        return await self._do(lambda connection: sql.list_prefix(connection, prefix))

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        wanted, todo = tuple(compares), tuple(operations)
        written = await self._do(lambda connection: sql.txn(connection, wanted, todo))
        return None if written is None else written.revision

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        return self._watchers.watch(prefix, after)

    async def _changes(self, prefix: str, after: int) -> Batch:
        """Watchers that were rung together ask for the same, and share one answer."""
        key = (prefix, after)
        shared = self._reads.get(key)
        if shared is None:
            read = self._do(lambda connection: sql.changes(connection, prefix, after))
            shared = self._reads[key] = asyncio.ensure_future(read)
            shared.add_done_callback(lambda done: (self._reads.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(shared)

    async def grant(self, seconds: float) -> int:
        return await self._do(lambda connection: sql.grant(connection, seconds, time.monotonic()))

    async def keep_alive(self, lease: int) -> None:
        await self._do(lambda connection: sql.keep_alive(connection, lease, time.monotonic()))

    async def revoke(self, lease: int) -> None:
        await self._do(lambda connection: sql.revoke(connection, lease))

    async def compact(self, revision: int) -> None:
        await self._do(lambda connection: sql.compact(connection, revision))

    async def revision(self) -> int:
        return await self._do(sql.revision)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watchers.close()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise Temporary("the store is closed")
        self._loop = asyncio.get_running_loop()
        done = self._loop.create_future()
        self._jobs.put(_Job(work, done))
        return cast(T, await done)

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Back in the event loop: ring the watchers, then answer. In the order of commits."""
        for job in jobs:
            if isinstance(job.result, sql.Written):
                self._reads.clear()  # under way, and may lack this
                self._watchers.publish(job.result.revision, job.result.keys)
            if job.done is None or job.done.cancelled():  # the caller has gone; what it asked for has been done
                continue
            if job.error is not None:
                job.done.set_exception(job.error)
            else:
                job.done.set_result(job.result)

    # What the thread does.

    def _serve(self) -> None:
        last, pause = False, 0.0
        while not last:
            jobs: list[_Job] = []
            with contextlib.suppress(queue.Empty):  # a lease has ended
                item = self._jobs.get(timeout=self._until_a_lease_ends(pause))
                while item is not None:
                    jobs.append(item)
                    if len(jobs) == GROUP_JOBS or self._jobs.empty():
                        break
                    item = self._jobs.get()
                last = item is None
            self._run_and_tell(jobs)
            pause = self._end_leases()
        self._connection.close()
        os.close(self._lock)  # only now may another server open the file

    def _until_a_lease_ends(self, pause: float) -> float | None:
        first = sql.next_deadline(self._connection)
        return None if first is None else max(first[1] - time.monotonic(), pause, 0.0)

    def _end_leases(self) -> float:
        """End what has run out, each lease as one revision. Returns for how long to leave the disk alone."""
        while (first := sql.next_deadline(self._connection)) and first[1] <= time.monotonic():
            job = _Job(functools.partial(sql.revoke, lease=first[0]), None)
            self._run_and_tell([job])
            if job.error is not None:
                return AGAIN_SECONDS
        return 0.0

    def _run_and_tell(self, jobs: Sequence[_Job]) -> None:
        if jobs:
            self._run(jobs)
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._finish, jobs)

    def _run(self, jobs: Sequence[_Job]) -> None:
        """All jobs in one transaction. If that fails, each alone, so that a full disk stops writers but not readers."""
        try:
            self._connection.execute("BEGIN")
            for job in jobs:
                try:
                    job.result = job.work(self._connection)
                except MiniorchError as error:  # refused before anything was written
                    job.error = error
            self._connection.execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            for job in jobs:
                job.result, job.error = None, None
                if len(jobs) > 1:
                    self._run([job])
                else:
                    job.error = self._readable(error)

    def _readable(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        if "full" in str(error):
            return Temporary(f"the disk with {self.path} is full: nothing was written")
        return Temporary(f"the store {self.path} cannot be read or written: {error}")


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
