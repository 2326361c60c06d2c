"""The store: a small protocol with etcd's semantics that says no to what it cannot do.

The problem: several writers, one truth, and readers that must learn of every change exactly once. The idea, etcd's:
the whole store has one revision that grows with each transaction; a read says at which revision it was true; a watch
delivers every change after a revision, in order. Writers never lock. They compare: "put this if that key still
has the revision at which I read it". Whoever loses reads again and decides again.

Who does this for real: etcd (etcd.io/docs/v3.5/learning/api_guarantees), and kine, which shows that one append-only
SQL table is enough. Where we differ: no ranges, only prefixes; no nested transactions. In an etcd that others use, too,
their transactions make the revision grow as well.

Transactions that are under way at the same time and have no key in common may get the same revision: whoever did one
knows what became of its own keys, not what else happened at that revision. To know that, list or watch.

Backends: `memory.py` (tests, simulation), `sqlite.py` (the default), `etcd.py` (several servers). One contract suite
runs against all of them: `tests/contract/test_store.py`. Next file: `miniorch/controllers/loop.py`.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec  # its structs are made in a tenth of the time of a frozen dataclass, and the collector passes them by


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key with its value and the revisions at which it was made and last changed.

    `item` is the object that the value encodes, once somebody has made or read it (`records.py`): it is no part of it.
    """

    key: str
    value: bytes
    created: int
    modified: int
    item: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and msgspec.structs.astuple(self)[:4] == msgspec.structs.astuple(other)[:4]


class Compare(msgspec.Struct, frozen=True, gc=False):
    """True if `key` was last modified at `modified`; 0 means that the key does not exist."""

    key: str
    modified: int


class Put(msgspec.Struct, frozen=True, gc=False):
    """`lease`: the entry goes away with it (see `Store.grant`); 0: it stays until it is deleted. `item`: as there."""

    key: str
    value: bytes
    lease: int = 0
    item: Any = None


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Deleting a key that does not exist is no error and no event."""

    key: str


Operation = Put | Delete


class Change(msgspec.Struct, frozen=True, gc=False):
    """One key changed. `entry` is None for a deletion; `previous` is what stood there before, if anything."""

    revision: int
    key: str
    entry: Entry | None
    previous: Entry | None


class Listing(msgspec.Struct, frozen=True, gc=False):
    """What a prefix held at one revision, sorted by key."""

    revision: int
    entries: tuple[Entry, ...]


class Store(Protocol):
    """Keys are text that begins with "/", at most 512 bytes; values are bytes, at most 1 MiB. A transaction has at most
    128 compares, 128 operations and 1.4 MB in all. `UsageError` beyond (`limits.py`).

    Everything may raise `Unreachable`.
    """

    async def get(self, key: str) -> Entry | None:
        """The newest entry of a key."""

    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, and the store's revision at that moment."""

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        """Do all operations as one revision if all compares hold. Returns that revision, or None if one did not hold.

        A transaction that changes nothing keeps the revision. A key may occur once in `operations` (`UsageError`).
        Raises `NotFound` if all compares hold and a put names a lease that has ended; `Unreachable` if nothing was
        done, and `UnknownOutcome` if it may have been done or may still be. A full store raises `Temporary`.
        """

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """Every change below `prefix` with a revision greater than `after`: first the past, then the future.

        Each item holds all matching changes of one or more whole revisions, in order. Raises `Compacted` if `after`
        lies before what is kept.
        """

    async def grant(self, seconds: float) -> int:
        """A new lease, a number above 0: unless it is kept alive, every key put with it is deleted after `seconds`.

        Stores round up to what they can measure (etcd: whole seconds, at least 2). A lease is a hint that its holder
        lives, never a lock: who acts because of it compares, in the same transaction, a key that was put with it.
        """

    async def keep_alive(self, lease: int) -> None:
        """The full time again from now. Raises `NotFound` if the lease has ended; it does not come back."""

    async def revoke(self, lease: int) -> None:
        """End a lease now, as if its time had run out. No error if it has ended already."""

    async def compact(self, revision: int) -> None:
        """Forget superseded entries and changes up to and including `revision`; current values stay.

        If the store is full, what that frees may be written to again.
        """

    async def revision(self) -> int:
        """The newest revision; 0 for a store nobody has written to."""

    async def close(self) -> None:
        """End all watches (their iterators stop) and release files."""
