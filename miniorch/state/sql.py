"""The SQLite store's SQL, one function per question: one append-only table.

The problem: the current state, the history that watches read, and compare-and-swap. The idea: a row is one change of
one key. It is never updated, so the table is at once the current state (the rows that nothing supersedes), the history,
and, by its unique index (key, previous), the compare-and-swap: of two writers that replace revision 7 of a key, one can
insert. A row also names the lease that its key was put with; when that one ends, the rows that are current are deleted.

A lease's deadline counts this process's monotonic clock and stands in a temporary table: renewing one must not cost an
fsync. At start every lease gets its full time again, since nobody could renew it while the file was closed.

Who does this for real: kine, which gives k3s its SQLite. Where we differ: a transaction of many keys is one revision
here, as in etcd, so the revision is a column and not the row's number. Next file: `miniorch/state/etcd.py`.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from miniorch.errors import MiniorchError, NotAllowed, Temporary, Unsupported, UsageError
from miniorch.state.leases import check_seconds, ended
from miniorch.state.limits import after_prefix
from miniorch.state.store import Change, Compare, Delete, Entry, Listing, Operation, Put
from miniorch.state.watchers import Batch, cut, history

FORMAT = 2  # PRAGMA user_version; a higher one was written by a newer miniorch
FREED_PAGES = 2000  # at most so many pages (4 KiB each) are given back by one compaction
_STEPS = (  # what each format added to the one before
    """
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
""",
    """
ALTER TABLE history ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
CREATE INDEX leased ON history (lease) WHERE lease != 0;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, seconds REAL NOT NULL);
""",
)
_Row = tuple[int, str, int, int, int, bytes]  # as in the table


def open_file(path: Path, now: float) -> sqlite3.Connection:
    """The connection, its settings checked and its tables made. It is handed to the thread and used nowhere else."""
    connection: sqlite3.Connection | None = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for everybody
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # lets compaction shrink the file; before any table
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # fsync at every commit: confirmed means it is on the disk
        connection.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise Unsupported(f"{path} has format {version}, this miniorch reads format {FORMAT}: use the newer one")
        if version < FORMAT:
            steps = "".join(_STEPS[version:])
            connection.executescript(f"BEGIN;{steps}PRAGMA user_version = {FORMAT};COMMIT;")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("CREATE TEMP TABLE deadlines (id INTEGER PRIMARY KEY, seconds REAL, deadline REAL)")
        connection.execute("INSERT INTO deadlines SELECT id, seconds, ? + seconds FROM leases", (now,))
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


_COLUMNS = "revision, key, created, previous, deleted, value"


class Written(NamedTuple):
    """What a transaction has done, for the watchers."""

    revision: int
    keys: Sequence[str]


def entry_of(row: _Row | None) -> Entry | None:
    if row is None or row[4]:
        return None
    return Entry(key=row[1], value=row[5], created=row[2], modified=row[0])


def newest(connection: sqlite3.Connection, key: str) -> _Row | None:
    """The last row of a key, a deletion too. `previous` grows with `revision`, so the unique index finds it."""
    query = f"SELECT {_COLUMNS} FROM history WHERE key = ? ORDER BY previous DESC LIMIT 1"
    row: _Row | None = connection.execute(query, (key,)).fetchone()
    return row


def revision(connection: sqlite3.Connection) -> int:
    # Compaction may remove the newest row (a deletion); the revision must not fall back because of it.
    query = "SELECT max(compacted, ifnull((SELECT max(revision) FROM history), 0)) FROM meta"
    return int(connection.execute(query).fetchone()[0])


def _compacted(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT compacted FROM meta").fetchone()[0])


def _below(prefix: str, column: str = "key") -> tuple[str, list[str]]:
    """The condition "has this prefix", as a range that the index can walk."""
    end = after_prefix(prefix)
    return (f"{column} >= ?", [prefix]) if end is None else (f"{column} >= ? AND {column} < ?", [prefix, end])


def list_prefix(connection: sqlite3.Connection, prefix: str) -> Listing:
    condition, values = _below(prefix, "h.key")
    rows = connection.execute(
        f"""SELECT {_COLUMNS} FROM history AS h WHERE {condition} AND deleted = 0 AND NOT EXISTS
            (SELECT 1 FROM history AS newer WHERE newer.key = h.key AND newer.previous = h.revision)
            ORDER BY key""",
        values,
    )
    return Listing(revision(connection), tuple(entry for row in rows if (entry := entry_of(row))))


def txn(connection: sqlite3.Connection, compares: Sequence[Compare], operations: Sequence[Operation]) -> Written | None:
    known: dict[str, _Row | None] = {}
    for compare in compares:
        row = known[compare.key] = newest(connection, compare.key)
        if (row[0] if row and not row[4] else 0) != compare.modified:
            return None
    for operation in operations:
        if isinstance(operation, Put) and operation.lease and not _lives(connection, operation.lease):
            raise ended(operation.lease)
    return _write(connection, operations, known)


def _write(
    connection: sqlite3.Connection, operations: Sequence[Operation], known: Mapping[str, _Row | None]
) -> Written:
    """`known` are newest rows that were asked for already."""
    before = revision(connection)
    new = before + 1
    rows: list[tuple[int, str, int, int, int, bytes, int]] = []
    for operation in operations:
        last = known[operation.key] if operation.key in known else newest(connection, operation.key)
        alive = entry_of(last)
        previous = last[0] if last else 0
        if isinstance(operation, Put):
            created = alive.created if alive else new
            rows.append((new, operation.key, created, previous, 0, bytes(operation.value), operation.lease))
        elif alive:
            rows.append((new, operation.key, alive.created, previous, 1, b"", 0))
    if not rows:
        return Written(before, ())
    connection.executemany(f"INSERT INTO history ({_COLUMNS}, lease) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return Written(new, [row[1] for row in rows])


def _lives(connection: sqlite3.Connection, lease: int) -> bool:
    return connection.execute("SELECT 1 FROM deadlines WHERE id = ?", (lease,)).fetchone() is not None


def grant(connection: sqlite3.Connection, seconds: float, now: float) -> int:
    check_seconds(seconds)
    lease = connection.execute("INSERT INTO leases (seconds) VALUES (?)", (seconds,)).lastrowid
    assert lease is not None
    connection.execute("INSERT INTO deadlines VALUES (?, ?, ?)", (lease, seconds, now + seconds))
    return lease


def keep_alive(connection: sqlite3.Connection, lease: int, now: float) -> None:
    renewed = connection.execute("UPDATE deadlines SET deadline = ? + seconds WHERE id = ?", (now, lease))
    if not renewed.rowcount:
        raise ended(lease)


def revoke(connection: sqlite3.Connection, lease: int) -> Written:
    rows = connection.execute(
        """SELECT key FROM history AS h WHERE lease = ? AND lease != 0 AND NOT EXISTS
           (SELECT 1 FROM history AS newer WHERE newer.key = h.key AND newer.previous = h.revision) ORDER BY key""",
        (lease,),
    )
    written = _write(connection, [Delete(key) for (key,) in rows.fetchall()], {})
    connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
    connection.execute("DELETE FROM deadlines WHERE id = ?", (lease,))
    return written


def next_deadline(connection: sqlite3.Connection) -> tuple[int, float] | None:
    """The lease that ends first, and when."""
    row: tuple[int, float] | None = connection.execute(
        "SELECT id, deadline FROM deadlines ORDER BY deadline, id LIMIT 1"
    ).fetchone()
    return row


def changes(connection: sqlite3.Connection, prefix: str, after: int) -> Batch:
    compacted = _compacted(connection)
    if after < compacted:
        raise history(after, compacted)
    condition, values = _below(prefix, "new.key")
    rows = connection.execute(
        f"""SELECT new.revision, new.key, new.created, new.previous, new.deleted, new.value,
                   old.revision, old.key, old.created, old.previous, old.deleted, old.value
            FROM history AS new LEFT JOIN history AS old ON old.revision = new.previous AND old.key = new.key
            WHERE new.revision > ? AND {condition} ORDER BY new.revision, new.key""",
        (after, *values),
    )
    told = (
        Change(row[0], row[1], entry_of(row[:6]), entry_of(row[6:]) if row[6] is not None else None) for row in rows
    )
    return cut(told, revision(connection))


def compact(connection: sqlite3.Connection, upto: int) -> None:
    head = revision(connection)
    if upto > head:
        raise UsageError(f"cannot compact up to revision {upto}: the newest is {head}")
    if upto <= _compacted(connection):
        return
    # What was current at `upto` stays, even if a later row supersedes it: it is that row's `previous`.
    connection.execute(
        """DELETE FROM history WHERE rowid IN (
               SELECT old.rowid FROM history AS old WHERE old.revision <= :upto AND (old.deleted = 1 OR EXISTS (
                   SELECT 1 FROM history AS newer
                   WHERE newer.key = old.key AND newer.previous = old.revision AND newer.revision <= :upto)))""",
        {"upto": upto},
    )
    connection.execute("UPDATE meta SET compacted = ?", (upto,))
    # Give free pages back to the file system. Python's sqlite3 runs one step of this pragma per call, and that is one
    # page; the bound keeps other requests from waiting long.
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, FREED_PAGES)):
        connection.execute("PRAGMA incremental_vacuum")
