"""The store on disk: one append-only table.

The problem: what the API has confirmed must be there after a power cut, every change must be told to every watcher in
order, and the event loop must never wait for a disk. The idea: a row is one change of one key. It is never updated, so
the table is at once the current state (the rows that nothing supersedes), the history that watches read, and, by its
unique index (key, previous), the compare-and-swap: of two writers that replace revision 7 of a key, one can insert.

All SQL runs in one thread. It takes everything that waits and runs it as one SQLite transaction, so a hundred waiting
writers share one fsync (group commit); nobody gets an answer before the commit that contains what it read or wrote.

Who does this for real: kine, which gives k3s its SQLite. Where we differ: a transaction of many keys is one revision
here, as in etcd, so the revision is a column and not the row's number. Next file: `miniorch/controllers/loop.py`.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from miniorch.errors import Compacted, Conflict, MiniorchError, NotAllowed, Temporary, Unsupported, UsageError
from miniorch.state.limits import after_prefix, check_key, check_txn
from miniorch.state.store import Change, Compare, Entry, Listing, Operation, Put
from miniorch.state.watchers import Batch, Watchers, cut

FORMAT = 1  # PRAGMA user_version; a higher one was written by a newer miniorch
FREED_PAGES = 2000  # at most so many pages (4 KiB each) are given back by one compaction
GROUP_JOBS = 500  # at most so many requests share one SQLite transaction
_SCHEMA = f"""
CREATE TABLE history (
    revision INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    created  INTEGER NOT NULL,  -- revision at which the key came to be
    previous INTEGER NOT NULL,  -- revision of the row that this one supersedes; 0: none
    deleted  INTEGER NOT NULL,
    value    BLOB    NOT NULL,
    PRIMARY KEY (revision, key),
    UNIQUE (key, previous)
);
CREATE TABLE meta (compacted INTEGER NOT NULL);
INSERT INTO meta VALUES (0);
PRAGMA user_version = {FORMAT};
"""
_Row = tuple[int, str, int, int, int, bytes]  # as in the table
T = TypeVar("T")


class _Job:
    """One request on its way to the thread and back."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class SqliteStore:
    """A `Store` in one file. Raises `Conflict` if another server uses it, `Unsupported` if its format is not ours."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._closed = False
        self._lock = _lock(self.path)
        try:
            self._connection = _open(self.path)
        except BaseException:
            os.close(self._lock)
            raise
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._watchers = Watchers(self._changes)
        self._thread = threading.Thread(target=self._serve, name=f"store {self.path.name}", daemon=True)
        self._thread.start()

    # What callers see: each method hands one piece of work to the thread.

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._do(lambda connection: _entry(_newest(connection, key)))

    async def list(self, prefix: str) -> Listing:
        return await self._do(lambda connection: _list(connection, prefix))

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        wanted, todo = tuple(compares), tuple(operations)
        written = await self._do(lambda connection: _txn(connection, wanted, todo))
        return None if written is None else written.revision

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        return self._watchers.watch(prefix, after)

    async def _changes(self, prefix: str, after: int) -> Batch:
        return await self._do(lambda connection: _changes(connection, prefix, after))

    async def compact(self, revision: int) -> None:
        await self._do(lambda connection: _compact(connection, revision))

    async def revision(self) -> int:
        return await self._do(_revision)

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
        job = _Job(work)
        self._jobs.put(job)
        return cast(T, await job.done)

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Back in the event loop: ring the watchers, then answer. In the order of commits."""
        for job in jobs:
            if isinstance(job.result, _Written):
                self._watchers.publish(job.result.revision, job.result.keys)
            if job.done.cancelled():  # the caller has gone; what it asked for has been done all the same
                continue
            if job.error is not None:
                job.done.set_exception(job.error)
            else:
                job.done.set_result(job.result)

    # What the thread does.

    def _serve(self) -> None:
        last = False
        while not last:
            jobs: list[_Job] = []
            item = self._jobs.get()
            while item is not None:
                jobs.append(item)
                if len(jobs) == GROUP_JOBS or self._jobs.empty():
                    break
                item = self._jobs.get()
            last = item is None
            if jobs:
                self._run(jobs)
                with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                    jobs[0].done.get_loop().call_soon_threadsafe(self._finish, jobs)
        self._connection.close()
        os.close(self._lock)  # only now may another server open the file

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


def _open(path: Path) -> sqlite3.Connection:
    """The connection, its settings checked and its table made. It is handed to the thread and used nowhere else."""
    connection: sqlite3.Connection | None = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for everybody
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # lets compaction shrink the file; before any table
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # fsync at every commit: confirmed means it is on the disk
        connection.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        elif version != FORMAT:
            raise Unsupported(f"{path} has format {version}, this miniorch reads format {FORMAT}: use the newer one")
    except (sqlite3.Error, OSError, MiniorchError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, PermissionError):
            raise NotAllowed(f"may not write to {path}", remedy="use sudo") from None
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise Unsupported(f"{path} is not a store of miniorch: {error}") from None
        if isinstance(error, MiniorchError):
            raise
        raise Temporary(f"cannot open the store {path}: {error}") from None
    return connection


# The SQL, one function per question.

_COLUMNS = "revision, key, created, previous, deleted, value"


class _Written(NamedTuple):
    """What a transaction has done, for the watchers."""

    revision: int
    keys: Sequence[str]


def _entry(row: _Row | None) -> Entry | None:
    if row is None or row[4]:
        return None
    return Entry(key=row[1], value=row[5], created=row[2], modified=row[0])


def _newest(connection: sqlite3.Connection, key: str) -> _Row | None:
    """The last row of a key, a deletion too. `previous` grows with `revision`, so the unique index finds it."""
    query = f"SELECT {_COLUMNS} FROM history WHERE key = ? ORDER BY previous DESC LIMIT 1"
    row: _Row | None = connection.execute(query, (key,)).fetchone()
    return row


def _revision(connection: sqlite3.Connection) -> int:
    # Compaction may remove the newest row (a deletion); the revision must not fall back because of it.
    query = "SELECT max(compacted, ifnull((SELECT max(revision) FROM history), 0)) FROM meta"
    return int(connection.execute(query).fetchone()[0])


def _compacted(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT compacted FROM meta").fetchone()[0])


def _below(prefix: str, column: str = "key") -> tuple[str, list[str]]:
    """The condition "has this prefix", as a range that the index can walk."""
    end = after_prefix(prefix)
    return (f"{column} >= ?", [prefix]) if end is None else (f"{column} >= ? AND {column} < ?", [prefix, end])


def _list(connection: sqlite3.Connection, prefix: str) -> Listing:
    condition, values = _below(prefix, "h.key")
    rows = connection.execute(
        f"""SELECT {_COLUMNS} FROM history AS h WHERE {condition} AND deleted = 0 AND NOT EXISTS
            (SELECT 1 FROM history AS newer WHERE newer.key = h.key AND newer.previous = h.revision)
            ORDER BY key""",
        values,
    )
    return Listing(_revision(connection), tuple(entry for row in rows if (entry := _entry(row))))


def _txn(
    connection: sqlite3.Connection, compares: Sequence[Compare], operations: Sequence[Operation]
) -> _Written | None:
    for compare in compares:
        entry = _entry(_newest(connection, compare.key))
        if (entry.modified if entry else 0) != compare.modified:
            return None
    revision = _revision(connection)
    rows: list[_Row] = []
    for operation in operations:
        last = _newest(connection, operation.key)
        alive = _entry(last)
        previous = last[0] if last else 0
        if isinstance(operation, Put):
            created = alive.created if alive else revision + 1
            rows.append((revision + 1, operation.key, created, previous, 0, bytes(operation.value)))
        elif alive:
            rows.append((revision + 1, operation.key, alive.created, previous, 1, b""))
    if not rows:
        return _Written(revision, ())
    connection.executemany(f"INSERT INTO history ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows)
    return _Written(revision + 1, [row[1] for row in rows])


def _changes(connection: sqlite3.Connection, prefix: str, after: int) -> Batch:
    compacted = _compacted(connection)
    if after < compacted:
        raise Compacted(f"revision {after} is history: everything up to {compacted} has been compacted")
    condition, values = _below(prefix, "new.key")
    rows = connection.execute(
        f"""SELECT new.revision, new.key, new.created, new.previous, new.deleted, new.value,
                   old.revision, old.key, old.created, old.previous, old.deleted, old.value
            FROM history AS new LEFT JOIN history AS old ON old.revision = new.previous AND old.key = new.key
            WHERE new.revision > ? AND {condition} ORDER BY new.revision, new.key""",
        (after, *values),
    )
    changes = (Change(row[0], row[1], _entry(row[:6]), _entry(row[6:]) if row[6] is not None else None) for row in rows)
    return cut(changes, _revision(connection))


def _compact(connection: sqlite3.Connection, revision: int) -> None:
    newest = _revision(connection)
    if revision > newest:
        raise UsageError(f"cannot compact up to revision {revision}: the newest is {newest}")
    if revision <= _compacted(connection):
        return
    # What was current at `revision` stays, even if a later row supersedes it: it is that row's `previous`.
    connection.execute(
        """DELETE FROM history WHERE rowid IN (
               SELECT old.rowid FROM history AS old WHERE old.revision <= :upto AND (old.deleted = 1 OR EXISTS (
                   SELECT 1 FROM history AS newer
                   WHERE newer.key = old.key AND newer.previous = old.revision AND newer.revision <= :upto)))""",
        {"upto": revision},
    )
    connection.execute("UPDATE meta SET compacted = ?", (revision,))
    # Give free pages back to the file system. Python's sqlite3 runs one step of this pragma per call, and that is one
    # page; the bound keeps other requests from waiting long.
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, FREED_PAGES)):
        connection.execute("PRAGMA incremental_vacuum")
