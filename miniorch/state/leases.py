"""Leases for a store without a disk: who holds one lives; who stops renewing it loses what was put with it.

The problem: a key that says "I lead" must go away when its writer dies, and a dead writer deletes nothing. The idea:
the store gives a key a time to live, and the writer renews it. When the time is up, the store deletes the key itself,
as one ordinary revision that every watcher sees.

Who does this for real: etcd's lessor. Where we differ: one timer for each lease instead of a heap, because a cluster
has a handful. The SQLite store keeps its leases in tables (`sql.py`), so that they outlive the process. Next file:
`miniorch/state/memory.py`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from miniorch.errors import NotFound, UsageError


@dataclass(slots=True)
class _Lease:
    seconds: float
    timer: asyncio.TimerHandle
    keys: set[str] = field(default_factory=set)


class Leases:
    """All leases of one store, in the event loop's time. `expired(lease)` is called when the time of one is up."""

    def __init__(self, expired: Callable[[int], object]) -> None:
        self._expired = expired
        self._leases: dict[int, _Lease] = {}
        self._by_key: dict[str, int] = {}
        self._last = 0

    def grant(self, seconds: float) -> int:
        check_seconds(seconds)
        self.add(self._last + 1, seconds)
        return self._last

    def add(self, lease: int, seconds: float) -> None:
        """A lease whose number was given elsewhere."""
        timer = asyncio.get_running_loop().call_later(seconds, self._expired, lease)
        self._leases[lease] = _Lease(seconds, timer)
        self._last = lease

    def keep_alive(self, lease: int) -> None:
        self.check(lease)
        self.again(lease, self._leases[lease].seconds)

    def again(self, lease: int, seconds: float) -> None:
        """So long from now, if it lives."""
        if held := self._leases.get(lease):
            held.timer.cancel()
            held.timer = asyncio.get_running_loop().call_later(seconds, self._expired, lease)

    def keys(self, lease: int) -> list[str]:
        """What goes away with a lease, sorted."""
        return sorted(self._leases[lease].keys) if lease in self._leases else []

    def check(self, lease: int) -> None:
        """Raises `NotFound` unless the lease lives."""
        if lease not in self._leases:
            raise ended(lease)

    def attach(self, key: str, lease: int) -> None:
        """`key` has been put with `lease`, or deleted (0): it goes away with this lease and no other."""
        if key in self._by_key:
            self._leases[self._by_key.pop(key)].keys.discard(key)
        if lease:
            self._leases[lease].keys.add(key)
            self._by_key[key] = lease

    def end(self, lease: int) -> list[str]:
        """Forget a lease. Returns the keys that must go with it, sorted."""
        held = self._leases.pop(lease, None)
        if held is None:
            return []
        held.timer.cancel()
        for key in held.keys:
            del self._by_key[key]
        return sorted(held.keys)

    def close(self) -> None:
        for held in self._leases.values():
            held.timer.cancel()


def check_seconds(seconds: float) -> None:
    """Raises `UsageError` unless a lease may have this length."""
    if not 0 < seconds <= 86400:
        raise UsageError(f"a lease lasts more than 0 and at most 86400 seconds, not {seconds}")


def ended(lease: int) -> NotFound:
    return NotFound(f"lease {lease} has ended")
