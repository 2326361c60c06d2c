"""Which of several servers runs the loops, and how it is kept from writing when it no longer does.

The problem: nobody can know that he leads. Between the look at a lease and the write that follows, a process may be
stopped for a minute, and another leads by then. The idea: leading is a guess, and every write checks it. The leader is
who put the one key below `/leaders/` with a lease; the revision of that put is its *epoch*. Each transaction of a loop
compares the key with the epoch. A deposed leader may believe what it likes: the store refuses it, for ever.

The same comparison answers two more questions. What did the leader before me write? All of it has a revision below my
epoch, so a copy of the store that has reached the epoch lacks nothing. And was my write done, when no answer came? I
put the key again: whatever was on its way compares an epoch of the past now, and will not arrive.

Times: a lease lasts `ttl`, is renewed every third of it, and a leader that could not renew it stops after two thirds by
its own monotonic clock, before anybody else can lead. A server that starts again finds its own name in the key and
replaces it without waiting; the name belongs to a state directory, which one process at a time has locked.

Who does this for real: Patroni (who also taught the inequality), Kubernetes' leader election, with a fencing token as
etcd's Jepsen report asks for. Next file: `miniorch/controllers/loop.py`.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from miniorch.clock import Clock
from miniorch.codec import decode, encode
from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.ending import ended
from miniorch.errors import MiniorchError, NotFound, NotLeader
from miniorch.model import Leader
from miniorch.state.records import path_of
from miniorch.state.store import Compare, Put, Store

log = logging.getLogger("leadership")

TTL_SECONDS = 10.0
RETRY_SECONDS = (0.1, 5.0)  # between two attempts to stand while the store is away: first, and at most
KEY = path_of(Leader("", 0.0))
Duties = Callable[[Compare], Awaitable[str]]


class Leadership:
    """One server's part in the election. It leads while `epoch` is not 0, as far as it knows."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        liveness: Liveness,
        name: str,
        clock: Clock,
        chance: random.Random,
        ttl_seconds: float = TTL_SECONDS,
    ) -> None:
        self.name = name
        self.epoch = 0
        self._store = store
        self._cache = cache
        self._liveness = liveness
        self._clock = clock
        self._chance = chance
        self._ttl = ttl_seconds
        self._lease = 0
        self._unbroken = 0  # the epoch of a term that ended by the wish to begin the next
        self._heard_at = clock.monotonic()  # when the store answered last
        self._changed = asyncio.Event()

    def store_is_silent(self) -> bool:
        """Whether this server may be far behind, and another might know more."""
        return self._clock.monotonic() > self._heard_at + 1.5 * self._ttl  # it is asked once per lease, at least

    def require(self) -> None:
        """Raises `NotLeader` unless this server leads."""
        if not self.epoch:
            leader = self._cache.leaders.get("leader")
            who, remedy = "nobody does at this moment", "miniorch doctor"
            if leader and leader.name != self.name:
                machine = leader.name.rpartition("-")[0] or leader.name
                who, remedy = f"{leader.name} does", f"the same command on the machine {machine}"
            raise NotLeader(f"server {self.name} does not lead, {who}", remedy=remedy)

    def notice(self) -> None:
        """The cache shows another leader, or none."""
        self._changed.set()

    async def run(self, duties: Duties) -> None:
        """Stand for election, for ever; run `duties` while elected. They end with a sentence, or are cancelled."""
        failures = 0
        while True:
            try:
                renewed_at = await self._stand()
                failures = 0
                why = await self._serve(renewed_at, duties)
                log.warning("server %s no longer leads: %s", self.name, why)
            except MiniorchError as error:
                if not failures:
                    log.warning("server %s cannot stand for election: %s", self.name, error.message)
                failures, self._unbroken = failures + 1, 0
                first, most = RETRY_SECONDS
                await asyncio.sleep(min(first * 2.0**failures, most) * self._chance.uniform(0.5, 1.0))

    async def resign(self) -> None:
        """Let another lead at once, if the store answers. For a server that ends on purpose."""
        lease, self._lease = self._lease, 0
        if lease:
            try:
                async with asyncio.timeout(1.0):
                    await self._store.revoke(lease)
            except (MiniorchError, TimeoutError):
                log.info("the lease ends by itself")

    async def _stand(self) -> float:
        """Wait until this server leads. Returns from when on its lease counts (monotonic)."""
        while True:
            entry = await self._store.get(KEY)
            self._heard_at = self._clock.monotonic()
            if entry is not None and decode(Leader, entry.value).name != self.name:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._ttl):
                        await self._until_deposed(entry.modified)
                continue
            began = self._clock.monotonic()
            lease = await self._store.grant(self._ttl)
            value = encode(Leader(self.name, self._clock.now()))
            before = entry.modified if entry else 0
            epoch = await self._store.txn([Compare(KEY, before)], [Put(KEY, value, lease)])
            if epoch is None:
                await self._store.revoke(lease)
                continue
            if not before or before != self._unbroken:
                self._liveness.grace()  # somebody else may have led and heard the heartbeats, or nobody has
            self._lease, self.epoch = lease, epoch
            return began

    async def _serve(self, renewed_at: float, duties: Duties) -> str:
        """One term. Returns why it ended."""
        epoch = self.epoch
        log.info("server %s leads, epoch %d", self.name, epoch)
        parts = [
            asyncio.ensure_future(self._keep(renewed_at)),
            asyncio.ensure_future(self._until_deposed(epoch)),
            asyncio.ensure_future(duties(Compare(KEY, epoch))),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.epoch = 0
            for part in parts:
                part.cancel()
            await ended(*parts)
        self._unbroken = epoch if parts[2] in done else 0
        return "; ".join(part.result() for part in parts if part in done)

    async def _keep(self, renewed_at: float) -> str:
        """Renew the lease. Returns why that is over."""
        while True:
            await asyncio.sleep(max(0.0, renewed_at + self._ttl / 3 - self._clock.monotonic()))
            trouble, until = "it stood still", renewed_at + self._ttl * 2 / 3
            while (asked_at := self._clock.monotonic()) < until:
                try:
                    async with asyncio.timeout(until - asked_at):
                        await self._store.keep_alive(self._lease)
                    break
                except NotFound:
                    return "its lease has ended"
                except TimeoutError:
                    trouble = "the store does not answer"
                except MiniorchError as error:
                    trouble = error.message
                    await asyncio.sleep(min(self._chance.uniform(0.2, 0.5), until - self._clock.monotonic()))
            else:
                silent = self._clock.monotonic() - renewed_at
                return f"its lease of {self._ttl:g} s was not renewed for {silent:.1f} s: {trouble}"
            renewed_at = self._heard_at = asked_at

    async def _until_deposed(self, epoch: int) -> str:
        """Returns when the cache shows that the key was put again, or is gone."""
        await self._cache.reached(epoch)
        while True:
            self._changed.clear()
            leader = self._cache.leaders.get("leader")
            if leader is None:
                return "its lease has ended"
            if self._cache.modified(leader) != epoch:
                return f"server {leader.name} leads"
            await self._changed.wait()
