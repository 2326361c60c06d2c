"""What all handlers share: read with a revision, write one transaction, start again when somebody else was faster.

A handler that changes something reads it with its revision, and tries again from the start when the transaction shows
that it has moved on meanwhile (`retrying`). So two people may scale the same service at once, and both orders of their
requests are the same as if one had waited for the other.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from miniorch.api.routes import Call
from miniorch.clock import Clock
from miniorch.controllers.loop import event_about
from miniorch.errors import NotFound, Temporary, UsageError
from miniorch.model import Cluster, Member, Node, Service, Task, Token
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.records import Versioned, Write, commit, put, read
from miniorch.state.store import Store

ATTEMPTS = 10
PAUSE_SECONDS = 0.002  # at most, before the second; each time twice as long, or a thousand that join win every race
MISSING: dict[type, tuple[str, str]] = {
    Task: ("no such task", "miniorch ps -a"), Service: ("no such service", "miniorch services"),
    Node: ("no such node", "miniorch nodes"), Token: ("no such token", "miniorch token show"),
    Member: ("no such user", ""), Cluster: ("the cluster record is missing", ""),
}  # fmt: skip
T = TypeVar("T")
W = TypeVar("W", bound="Writing")
Handler = Callable[[W, Call], Awaitable[Any]]


class Retry(Exception):
    """A transaction lost a race: read again."""


def retrying(handler: Handler[W]) -> Handler[W]:
    """A handler that starts again from its first read when it has lost a race."""

    async def attempts(self: W, call: Call) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                return await handler(self, call)
            except Retry:
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt * self._chance.random())
        raise Temporary("too many others write the same object at the same time", remedy="run the command again")

    return attempts


@dataclass(eq=False)
class Writing:
    """A group of handlers over a store."""

    _store: Store
    _clock: Clock
    _chance: random.Random

    async def _must(self, cls: type[T], key: str, then: str = "") -> Versioned[T]:
        found = await read(self._store, cls, key)
        if found is None:
            what, remedy = MISSING[cls]
            raise NotFound(f"{what}{then}: {key}", remedy=remedy)
        return found

    async def _cluster(self) -> Versioned[Cluster]:
        return await self._must(Cluster, "cluster")

    @staticmethod
    def _alone(cluster: Versioned[Cluster]) -> Write:
        """Write the cluster's record back as it is: of two requests that both read lists of subnets, service addresses
        or ports after it, one fails and reads again. Comparing only the new object's own key would let both pass.
        """
        return Write(cluster.item, cluster.modified)

    async def _commit(self, writes: list[Write]) -> int:
        now = self._clock.now()
        events = [event_about(write.item, write.why, now, self._chance) for write in writes if write.why]
        if len(writes) > TXN_OPERATIONS:
            message = f"this would change {len(writes)} objects at once, at most {TXN_OPERATIONS} can be"
            raise UsageError(message, remedy="split the app file into several apps")
        fits = len(writes) + len(events) <= TXN_OPERATIONS
        revision = await commit(self._store, writes, events if fits else ())
        if revision is None:
            raise Retry
        for start in range(0, 0 if fits else len(events), TXN_OPERATIONS):  # what is told may come a moment later
            await self._store.txn([], [put(event) for event in events[start : start + TXN_OPERATIONS]])
        return revision
