"""The SQLite store's SQL, one function per question: one table, to which rows are only added.

The problem: a log from which a store can be brought back, in which a watch finds the past, and which does not grow for
ever. The idea: a row is one change of one key. Rows stand in the order of revisions, so writing is adding at the end;
each names the revision of the row that it supersedes, and with that one is the change that a watcher is told. What no
row supersedes is true now. Compaction removes superseded rows.

A group of rows is one statement for each `ROWS_AT_ONCE`: Python gives up its lock for every single step of SQLite, and
whoever has given it up in a busy process waits milliseconds to get it back.

Who does this for real: kine, which gives k3s its SQLite. Where we differ: a transaction of many keys is one revision
here, as in etcd, so the revision is a column and not the row's number. Next file: `miniorch/state/etcd.py`.
"""

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from miniorch.errors import Conflict, MiniorchError, NotAllowed, Temporary, Unsupported
from miniorch.state.limits import after_prefix
from miniorch.state.store import Change, Entry, Operation, Put
from miniorch.state.watchers import BATCH_BYTES, BATCH_CHANGES, Batch, history, size_of

FORMAT = 3  # PRAGMA user_version; a higher one was written by a newer miniorch
COMPACTED_REVISIONS = 5000  # are compacted at one go: others want to write meanwhile
FREED_PAGES = 2000  # at most so many pages (4 KiB each) are given back by one of these
ROWS_AT_ONCE = 256
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
    """
CREATE TABLE log (
    revision INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    created  INTEGER NOT NULL,  -- revision at which the key came to be
    previous INTEGER NOT NULL,  -- revision of the row that this one supersedes; 0: none
    lease    INTEGER NOT NULL,  -- with which the key was put; 0: none
    value    BLOB,              -- NULL: deleted
    PRIMARY KEY (revision, key)
);
INSERT INTO log SELECT revision, key, created, previous, lease, iif(deleted, NULL, value) FROM history ORDER BY 1, 2;
DROP TABLE history;
ALTER TABLE log RENAME TO history;
""",
)
Row = tuple[int, str, int, int, int, bytes | None]  # as in the table
Lease = tuple[int, float, Sequence[str]]  # its number, its seconds, the keys that were put with it
T = TypeVar("T")


class Loaded(NamedTuple):
    """What is true now, the leases that had not ended, and the revision."""

    now: dict[str, Entry]
    leases: Sequence[Lease]
    head: int


class Unsure(sqlite3.OperationalError):
    """COMMIT has failed. Here it was not done, but a crash now may find it whole in the write-ahead log."""


def open_file(path: Path) -> tuple[sqlite3.Connection, Loaded]:
    """The connection, its settings checked and its tables made, and what it held. It is for the thread alone."""
    connection: sqlite3.Connection | None = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for everybody
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # the file by any name, for what memory does not know of
        if not path.stat().st_size:  # before any table; later it would be a write, for which the disk may be too full
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # lets compaction shrink the file
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # fsync at every commit: confirmed means it is on the disk
        connection.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise Unsupported(f"{path} has format {version}, this miniorch reads format {FORMAT}: use the newer one")
        if version < FORMAT:
            if not version and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise Unsupported(f"{path} is not a store of miniorch: it has tables of another program")
            steps = "".join(_STEPS[version:])
            connection.executescript(f"BEGIN;{steps}PRAGMA user_version = {FORMAT};COMMIT;")
        return connection, load(connection)
    except (sqlite3.Error, OSError, MiniorchError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, PermissionError):
            raise NotAllowed(f"may not write to {path}", remedy="use sudo") from None
        if is_because(error, sqlite3.SQLITE_BUSY):
            raise Conflict(f"another program has {path} open", remedy="end that program; fuser names it") from None
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise Unsupported(f"{path} is not a store of miniorch, or damaged: {error}") from None
        if isinstance(error, MiniorchError):
            raise
        raise Temporary(f"cannot open the store {path}: {error}") from None


def is_because(error: BaseException, code: int) -> bool:
    return getattr(error, "sqlite_errorcode", None) == code


def within(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do all of it or nothing. Raises `Unsure` if it is not certain which."""
    connection.rollback()  # what is left of a transaction that could not even be taken back
    connection.execute("BEGIN")
    committing = False
    try:
        result = work(connection)
        committing = True
        connection.execute("COMMIT")
    except BaseException as error:
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()
        # A full disk cannot hold the mark of a commit, which is written last. All else may have failed after that.
        if committing and not is_because(error, sqlite3.SQLITE_FULL):
            raise Unsure(str(error)) from error
        raise
    return result


def load(connection: sqlite3.Connection) -> Loaded:
    now: dict[str, Entry] = {}
    leased: dict[str, int] = {}
    query = "SELECT revision, key, created, lease, value FROM history ORDER BY revision, key"
    for changed, key, created, lease, value in connection.execute(query):
        leased[key] = lease
        if value is None:
            now.pop(key, None)
        else:
            now[key] = Entry(key, value, created, changed)
    leases = connection.execute("SELECT id, seconds FROM leases ORDER BY id").fetchall()
    kept = [(number, seconds, [key for key in now if leased[key] == number]) for number, seconds in leases]
    return Loaded(now, kept, _revision(connection))


def rows(changes: Sequence[Change], operations: Sequence[Operation]) -> list[Row]:
    """The changes of a transaction as they are written."""
    leases = {one.key: one.lease for one in operations if isinstance(one, Put) and one.lease}
    made: list[Row] = []
    for change in changes:
        key, entry, previous = change.key, change.entry, change.previous
        before, lease = previous.modified if previous else 0, leases.get(key, 0)
        created, value = (entry.created, entry.value) if entry else (0, None)
        made.append((change.revision, key, created, before, lease, value))
    return made


def append(connection: sqlite3.Connection, head: int, new: Sequence[Row]) -> None:
    """After the revision `head`. Refuses if there is more in the file: a commit that failed has been done after all."""
    (last,) = connection.execute("SELECT max(revision) FROM history").fetchone()
    if last is not None and last > head:
        raise sqlite3.OperationalError(f"it has revision {last}, which this server does not know: start it again")
    for first in range(0, len(new), ROWS_AT_ONCE):
        some = new[first : first + ROWS_AT_ONCE]
        places = ",".join(["(?,?,?,?,?,?)"] * len(some))
        connection.execute(f"INSERT INTO history VALUES {places}", tuple(itertools.chain.from_iterable(some)))


def _revision(connection: sqlite3.Connection) -> int:
    # Compaction may remove the newest row (a deletion); the revision must not fall back because of it.
    query = "SELECT max(compacted, ifnull((SELECT max(revision) FROM history), 0)) FROM meta"
    return int(connection.execute(query).fetchone()[0])


def _compacted(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT compacted FROM meta").fetchone()[0])


def grant(connection: sqlite3.Connection, seconds: float) -> int:
    lease = connection.execute("INSERT INTO leases (seconds) VALUES (?)", (seconds,)).lastrowid
    assert lease is not None
    return lease


def revoke(connection: sqlite3.Connection, lease: int) -> None:
    connection.execute("DELETE FROM leases WHERE id = ?", (lease,))


def changes(connection: sqlite3.Connection, prefix: str, after: int, head: int) -> Batch:
    """The first changes after a revision: as many whole revisions as fit a batch, at least one; none beyond `head`."""
    compacted = _compacted(connection)
    if after < compacted:
        raise history(after, compacted)
    end = after_prefix(prefix)
    found = connection.execute(
        f"""SELECT new.revision, new.key, new.created, new.value, old.revision, old.created, old.value
            FROM history AS new LEFT JOIN history AS old ON old.revision = new.previous AND old.key = new.key
            WHERE new.revision > ? AND new.revision <= ? AND new.key >= ? {"AND new.key < ?" if end else ""}
            ORDER BY new.revision, new.key""",
        (after, head, prefix, end) if end else (after, head, prefix),
    )
    taken: list[Change] = []
    size = 0
    for changed, key, created, value, before, before_created, stood in found:
        if taken and changed != taken[-1].revision and (len(taken) >= BATCH_CHANGES or size >= BATCH_BYTES):
            return Batch(taken, taken[-1].revision, complete=False)
        entry = None if value is None else Entry(key, value, created, changed)
        previous = None if stood is None else Entry(key, stood, before_created, before)
        taken.append(Change(changed, key, entry, previous))
        size += size_of(taken[-1])
    return Batch(taken, head, complete=True)


def compact(connection: sqlite3.Connection, revision: int) -> bool:
    """The next part of a compaction, which costs what was written then, however much is kept. False: there is more."""
    before = _compacted(connection)
    upto = min(revision, before + COMPACTED_REVISIONS)
    if upto <= before:
        return True
    # What was current at `upto` stays, even if a later row supersedes it: it is that row's `previous`.
    done = "FROM history WHERE revision > ? AND revision <= ?"
    connection.execute(f"DELETE FROM history WHERE (revision, key) IN (SELECT previous, key {done})", (before, upto))
    connection.execute(f"DELETE {done} AND value IS NULL", (before, upto))
    connection.execute("UPDATE meta SET compacted = ?", (upto,))
    # Give free pages back to the file system. Python's sqlite3 runs one step of this pragma per call, and that is one
    # page; the bound keeps other requests from waiting long.
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, FREED_PAGES)):
        connection.execute("PRAGMA incremental_vacuum")
    return upto == revision
