"""A store's bad days, as one server sees them: what was asked, what was done, and what is said about it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from miniorch.errors import Compacted, NotFound, Temporary, UnknownOutcome, Unreachable
from miniorch.simulation.loop import on_behalf_of
from miniorch.simulation.network import Wire
from miniorch.simulation.store import DEADLINE_SECONDS, PARTY, SharedStore, SimStore, StoreWeather
from miniorch.state.store import Change, Compare, Put

pytestmark = pytest.mark.virtual(seed=1)


def made(seed: int) -> SharedStore:
    chance = random.Random(seed)
    return SharedStore(chance, Wire(lambda link: chance))


@pytest.fixture
def shared() -> SharedStore:
    return made(1)


@pytest.fixture
@asynccontextmanager
async def store(shared: SharedStore) -> AsyncIterator[SimStore]:
    """As one server sees it."""
    yield SimStore(shared, "server1")
    await shared.close()


class Watch:
    """All that a watch of everything has seen, until it ended."""

    def __init__(self, store: SimStore, after: int = 0) -> None:
        self.seen: list[str] = []
        self.compacted = False
        self.task = asyncio.ensure_future(self._run(store, after))

    async def _run(self, store: SimStore, after: int) -> None:
        try:
            batch: Sequence[Change]
            async for batch in store.watch("/", after):
                self.seen += [change.key for change in batch]
        except Compacted:
            self.compacted = True


async def write(store: SimStore, key: str) -> int | None:
    return await store.txn([Compare(key, 0)], [Put(key, b"{}")])


async def test_transaction_whose_outcome_is_unknown_was_done_or_not_or_will_be() -> None:
    outcomes = set()
    for shared in map(made, range(20)):
        shared.weather = StoreWeather(unknown=1.0)
        with pytest.raises(UnknownOutcome):
            await write(SimStore(shared, "server1"), "/a")
        at_once = shared.head
        await asyncio.sleep(10)
        outcomes.add((at_once, shared.head))
        await shared.close()
    assert outcomes == {(0, 0), (0, 1)}


async def test_store_that_is_unreachable_has_done_nothing(shared: SharedStore, store: SimStore) -> None:
    shared.weather = StoreWeather(unreachable=1.0)
    with pytest.raises(Unreachable):
        await write(store, "/a")
    await asyncio.sleep(10)
    assert shared.head == 0


async def test_frozen_store_is_given_up_after_the_deadline_and_does_what_it_was_asked_when_it_wakes(
    shared: SharedStore, store: SimStore
) -> None:
    await write(store, "/a")
    watch = Watch(store)
    await asyncio.sleep(1)
    shared.freeze()
    began = asyncio.get_running_loop().time()
    with pytest.raises(UnknownOutcome):
        await write(store, "/b")
    with pytest.raises(Unreachable):
        await store.get("/a")
    assert asyncio.get_running_loop().time() - began == pytest.approx(2 * DEADLINE_SECONDS, abs=0.1)
    assert shared.head == 1
    shared.thaw()
    await asyncio.sleep(1)
    assert watch.seen == ["/a", "/b"]
    watch.task.cancel()


async def test_change_of_leader_breaks_requests_off_and_watches_lose_nothing(
    shared: SharedStore, store: SimStore
) -> None:
    shared.weather = StoreWeather((0.5, 0.5))
    watch = Watch(store)
    writing = asyncio.ensure_future(write(store, "/a"))
    reading = asyncio.ensure_future(store.list("/"))
    await asyncio.sleep(0.2)
    shared.change_leader()
    with pytest.raises(UnknownOutcome):
        await writing
    with pytest.raises(Unreachable):
        await reading
    await asyncio.sleep(2)
    assert watch.seen == ["/a"]
    watch.task.cancel()


@pytest.mark.parametrize("answers", [True, False])
async def test_partition_in_one_direction_decides_whether_it_was_done(
    shared: SharedStore, store: SimStore, answers: bool
) -> None:
    source, target = (PARTY, "server1") if answers else ("server1", PARTY)
    shared.wire.block(source, target)
    with pytest.raises(UnknownOutcome if answers else Unreachable):
        await write(store, "/a")
    assert shared.head == (1 if answers else 0)
    assert await write(SimStore(shared, "server2"), "/b") is not None


async def test_watch_that_was_cut_off_under_a_compaction_begins_anew_and_one_that_kept_up_does_not(
    shared: SharedStore, store: SimStore
) -> None:
    slow, quick = Watch(store), Watch(SimStore(shared, "server2"))
    await asyncio.sleep(1)
    shared.wire.block(PARTY, "server1")
    await write(SimStore(shared, "server2"), "/a")
    await asyncio.sleep(1)
    shared.compact_now()
    await write(SimStore(shared, "server2"), "/b")
    shared.wire.unblock(PARTY, "server1")
    await asyncio.sleep(1)
    assert (slow.seen, slow.compacted) == ([], True)
    assert (quick.seen, quick.compacted) == (["/a", "/b"], False)
    quick.task.cancel()


async def test_restored_store_is_older_and_every_watch_hears_of_it(shared: SharedStore, store: SimStore) -> None:
    lease = await store.grant(10.0)
    await store.txn([], [Put("/led", b"{}", lease)])
    shared.keep()
    await store.revoke(lease)
    await write(store, "/later")
    watch = Watch(store, shared.head)
    await asyncio.sleep(1)
    shared.restore()
    assert (shared.head, [entry.key for entry in shared.snapshot().entries]) == (1, ["/led"])
    await asyncio.sleep(1)
    assert watch.compacted
    await asyncio.sleep(20)  # the lease came back with the key, and nobody keeps it alive
    assert shared.snapshot().entries == ()
    with pytest.raises(NotFound):
        await store.keep_alive(lease)


async def test_full_store_refuses_to_write_and_goes_on_reading(shared: SharedStore, store: SimStore) -> None:
    await write(store, "/a")
    shared.full = True
    with pytest.raises(Temporary, match="no space"):
        await write(store, "/b")
    assert await store.get("/a") is not None
    shared.full = False
    assert await write(store, "/b") == 2


async def test_store_remembers_who_wrote_and_who_led(shared: SharedStore, store: SimStore) -> None:
    write_it = asyncio.get_running_loop().create_task(write(store, "/a"), context=on_behalf_of("server1", "loops"))
    await write_it
    lease = await store.grant(3.0)
    await store.txn([], [Put("/leaders/leader", b"{}", lease)])
    await asyncio.sleep(10)
    first, _, last = shared.take_records()
    assert (first.writer, first.part, first.leader) == ("server1", "loops", None)
    assert (last.writer, last.part) == (PARTY, "lease")
    assert last.leader is not None
    assert shared.take_records() == []
