"""The cache follows whatever the store does, and a plan of any size becomes transactions that every store takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from builders import T0, service, task

from miniorch.controllers.cache import Cache
from miniorch.errors import UnknownOutcome, Unreachable
from miniorch.model import App, Event
from miniorch.state.memory import MemoryStore
from miniorch.state.records import BYTES_AT_ONCE, OPERATIONS_AT_ONCE, Versioned, Write, put, transactions
from miniorch.state.store import Change, Compare, Listing

GUARD = Compare("/leaders/leader", 7)


def event(write: Write) -> Event:
    return Event(f"of {write.why}", T0, "task", "", "")


def test_writes_that_fit_are_one_transaction_that_compares_the_epoch() -> None:
    (one,) = transactions([Write(task(1), 0, why="a"), Write(task(2), 5, erase=True)], event, GUARD)
    assert one.compares == [GUARD, Compare("/tasks/t1", 0), Compare("/tasks/t2", 5)]
    assert [operation.key for operation in one.operations] == ["/tasks/t1", "/events/of a", "/tasks/t2"]


def test_what_a_write_follows_from_is_compared_and_left_alone_and_counts_like_an_operation() -> None:
    old = Versioned(task(1, ident="old"), 7)
    (one,) = transactions([Write(task(2, ident="new"), 0, since=old)], event, GUARD)
    assert one.compares == [GUARD, Compare("/tasks/new", 0), Compare("/tasks/old", 7)]
    assert [operation.key for operation in one.operations] == ["/tasks/new"]
    cut = list(transactions([Write(task(2, ident=f"t{n}"), 0, since=old) for n in range(100)], event, GUARD))
    assert [len(part.compares) <= OPERATIONS_AT_ONCE + 1 for part in cut] == [True, True]
    assert sum(len(part.operations) for part in cut) == 100


def test_many_writes_are_cut_in_their_order_and_none_is_parted_from_its_event() -> None:
    writes = [Write(task(number), 0, why=str(number)) for number in range(1, 501)]
    cut = list(transactions(writes, event, GUARD))
    assert all(len(one.compares) <= 128 and len(one.operations) <= OPERATIONS_AT_ONCE for one in cut)
    assert [compare.key for one in cut for compare in one.compares[1:]] == [f"/tasks/t{n}" for n in range(1, 501)]
    assert all(len(one.operations) == 2 * len(one.events) for one in cut)
    assert len(cut) == 8


def test_large_writes_are_cut_by_their_size() -> None:
    large = service(image="x" * (BYTES_AT_ONCE // 2))
    cut = list(transactions([Write(large, 0)] * 3, event, GUARD))
    assert [len(one.operations) for one in cut] == [1, 1, 1]


class Moody(MemoryStore):
    """Away for the first lists, and its watch begins behind what has been compacted once."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.compacts = 3, True

    async def list(self, prefix: str) -> Listing:
        if self.away:
            self.away -= 1
            raise Unreachable("the store is away")
        return await super().list(prefix)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        if self.compacts:
            self.compacts = False
            await self.txn([], [put(App("late", T0))])
            await self.compact(await self.revision())
        async for batch in super().watch(prefix, after):
            yield batch


@pytest.mark.virtual
async def test_a_cache_survives_a_store_that_is_away_and_one_that_has_forgotten() -> None:
    store, cache = Moody(), Cache()
    told: list[tuple[str, bool]] = []
    await store.txn([], [put(App("early", T0))])
    following = asyncio.create_task(cache.follow(store, lambda item, gone: told.append((item.name, gone))))  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while "late" not in cache.apps:
            await asyncio.sleep(0.1)
        await store.txn([], [put(App("last", T0))])
        await cache.reached(3)
    assert sorted(cache.apps) == ["early", "last", "late"]
    assert ("last", False) in told
    await store.close()
    await following


async def test_who_waits_for_what_a_restored_store_lacks_does_not_wait_for_ever() -> None:
    cache, before = Cache(), 0
    late = asyncio.ensure_future(cache.reached(9))
    await asyncio.sleep(0)
    following = asyncio.ensure_future(cache.follow(MemoryStore(), lambda item, gone: None))
    async with asyncio.timeout(5.0):
        await late  # the copy was made after the question: whatever there was, it has
        assert (cache.revision, cache.made) == (0, 1)
        with pytest.raises(UnknownOutcome):  # made after the write was sent, perhaps before it was done
            await cache.reached(9, before)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
