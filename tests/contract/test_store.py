"""One rule a test, every store the same answer. What is true here is what controllers may rely on."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from bench import Bench, assert_gapless, put, take

from miniorch.errors import Compacted, NotFound, Temporary, UsageError
from miniorch.state.store import Change, Compare, Delete, Entry, Put, Store

BIG = b"x" * 400_000

# Revisions and reading


async def test_new_store_is_at_revision_0_and_empty(store: Store) -> None:
    assert await store.revision() == 0
    assert (await store.list("/")).entries == ()
    assert await store.get("/a") is None


async def test_each_transaction_is_one_revision(store: Store) -> None:
    assert await put(store, "/a") == 1
    assert await store.txn([], [Put("/b", b""), Put("/c", b"")]) == 2
    assert await store.revision() == 2


async def test_entry_tells_when_it_was_made_and_last_changed(store: Store) -> None:
    await put(store, "/a", b"1")
    await put(store, "/other")
    await put(store, "/a", b"2")
    assert await store.get("/a") == Entry("/a", b"2", created=1, modified=3)


async def test_key_that_is_made_again_is_new(store: Store) -> None:
    await put(store, "/a")
    await store.txn([], [Delete("/a")])
    await put(store, "/a")
    assert await store.get("/a") == Entry("/a", b"v", created=3, modified=3)


async def test_listing_is_sorted_and_names_its_revision(store: Store) -> None:
    for key in ("/b", "/a/2", "/a/10", "/a"):
        await put(store, key)
    listing = await store.list("/")
    assert [entry.key for entry in listing.entries] == ["/a", "/a/10", "/a/2", "/b"]
    assert listing.revision == 4


async def test_listing_holds_only_newest_and_no_deleted_entries(store: Store) -> None:
    await put(store, "/a", b"1")
    await put(store, "/a", b"2")
    await put(store, "/b")
    await store.txn([], [Delete("/b")])
    assert (await store.list("/")).entries == (Entry("/a", b"2", 1, 2),)


@pytest.mark.parametrize(
    ("prefix", "inside"),
    [
        ("/a", ["/a", "/a/", "/a/x", "/ab", "/a\u00e4", "/a\ud7ff", "/a\ue000", "/a\U0010ffff", "/a\U0010ffffz"]),
        ("/a/", ["/a/", "/a/x"]),
        ("/a\ud7ff", ["/a\ud7ff"]),
        ("/a\U0010ffff", ["/a\U0010ffff", "/a\U0010ffffz"]),
        ("/a%", []),
        ("/A", []),
    ],
)
async def test_prefix_means_the_text_a_key_begins_with(store: Store, prefix: str, inside: list[str]) -> None:
    keys = ["/", "/a", "/a/", "/a/x", "/ab", "/b", "/a\u00e4", "/a\ud7ff", "/a\ue000", "/a\U0010ffff", "/a\U0010ffffz"]
    await store.txn([], [Put(key, b"") for key in keys])
    assert [entry.key for entry in (await store.list(prefix)).entries] == sorted(inside)
    if inside:
        changes = await take(store.watch(prefix, 0), 1)
        assert [change.key for change in changes] == sorted(inside)


async def test_values_come_back_byte_for_byte(store: Store) -> None:
    value = bytes(range(256))
    await store.txn([], [Put("/bytes", value), Put("/empty", b"")])
    assert [entry.value for entry in (await store.list("/")).entries] == [value, b""]


# Transactions


async def test_put_if_absent_works_once(store: Store) -> None:
    assert await store.txn([Compare("/a", 0)], [Put("/a", b"1")]) == 1
    assert await store.txn([Compare("/a", 0)], [Put("/a", b"2")]) is None
    entry = await store.get("/a")
    assert entry is not None
    assert entry.value == b"1"


async def test_compare_on_a_revision_that_is_old_changes_nothing(store: Store) -> None:
    await put(store, "/a", b"1")
    await put(store, "/a", b"2")
    assert await store.txn([Compare("/a", 1)], [Put("/a", b"3"), Put("/b", b"")]) is None
    assert await store.revision() == 2
    assert await store.get("/b") is None


async def test_deleted_key_compares_as_absent(store: Store) -> None:
    await put(store, "/a")
    await store.txn([], [Delete("/a")])
    assert await store.txn([Compare("/a", 1)], [Put("/a", b"")]) is None
    assert await store.txn([Compare("/a", 2)], [Put("/a", b"")]) is None
    assert await store.txn([Compare("/a", 0)], [Put("/a", b"")]) == 3


async def test_all_compares_must_hold(store: Store) -> None:
    await put(store, "/a")
    await put(store, "/b")
    assert await store.txn([Compare("/a", 1), Compare("/b", 1)], [Put("/c", b"")]) is None
    assert await store.txn([Compare("/a", 1), Compare("/b", 2)], [Put("/c", b"")]) == 3


async def test_transaction_that_changes_nothing_keeps_the_revision(store: Store) -> None:
    await put(store, "/a")
    assert await store.txn([], []) == 1
    assert await store.txn([Compare("/a", 1)], []) == 1
    assert await store.txn([], [Delete("/never")]) == 1
    assert await store.revision() == 1


async def test_key_may_occur_once_in_a_transaction(store: Store) -> None:
    with pytest.raises(UsageError, match="twice"):
        await store.txn([], [Put("/a", b""), Delete("/a")])
    assert await store.revision() == 0


@pytest.mark.parametrize(
    ("key", "words"),
    [("a", "begin"), ("", "begin"), ("/" + "\u00e4" * 256, "513 bytes"), ("/a\0b", "NUL"), ("/\ud800", "Unicode")],
)
async def test_bad_key_is_refused(store: Store, key: str, words: str) -> None:
    for attempt in (store.txn([], [Put(key, b"")]), store.txn([Compare(key, 0)], []), store.get(key)):
        with pytest.raises(UsageError, match=words):
            await attempt


async def test_largest_key_and_value_are_kept_and_one_byte_more_is_refused(store: Store) -> None:
    key = "/" + "k" * 511
    await put(store, key, b"x" * 1024 * 1024)
    with pytest.raises(UsageError, match="1048577 bytes"):
        await put(store, key, b"x" * (1024 * 1024 + 1))
    entry = await store.get(key)
    assert entry is not None
    assert len(entry.value) == 1024 * 1024


async def test_transaction_has_at_most_128_compares_and_128_operations(store: Store) -> None:
    compares = [Compare(f"/{number:0500}", 0) for number in range(129)]
    puts = [Put(compare.key, b"v" * 9000) for compare in compares]
    with pytest.raises(UsageError, match="at most 128 compares"):
        await store.txn(compares, [])
    with pytest.raises(UsageError, match="at most 128 compares"):
        await store.txn([], puts)
    assert await store.txn(compares[1:], puts[1:]) == 1
    assert await store.txn([], [Delete(put.key) for put in puts[1:]]) == 2
    assert (await store.list("/")).entries == ()


async def test_transaction_has_at_most_1400000_bytes(store: Store) -> None:
    fits = [Compare("/a", 0)], [Put("/a", b"x" * 1_000_000), Put("/b", b"x" * 399_994)]
    assert await store.txn(*fits) == 1
    with pytest.raises(UsageError, match="1400001 bytes"):
        await store.txn([Compare("/ab", 0)], fits[1])


async def test_1000_racing_swaps_have_one_winner_per_revision(store: Store) -> None:
    won: list[int] = []

    async def racer() -> None:
        mine = 0
        while mine < 250:
            entry = await store.get("/counter")
            value = int(entry.value) if entry else 0
            compare = Compare("/counter", entry.modified if entry else 0)
            revision = await store.txn([compare], [Put("/counter", b"%d" % (value + 1))])
            if revision is not None:
                won.append(revision)
                mine += 1

    await asyncio.gather(*(racer() for _ in range(4)))
    assert sorted(won) == list(range(1, 1001))
    assert await store.get("/counter") == Entry("/counter", b"1000", 1, 1000)


async def test_caller_that_gave_up_disturbs_nobody(store: Store) -> None:
    writes = [asyncio.ensure_future(put(store, f"/{number}")) for number in range(20)]
    await asyncio.sleep(0)
    writes[3].cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    revision = await put(store, "/last")
    changes = await take(store.watch("/", 0), revision)
    assert_gapless(changes, revision)
    assert {change.key for change in changes} >= {f"/{number}" for number in range(20) if number != 3} | {"/last"}


# Transactions at the same time


async def test_refused_transactions_do_not_hurt_those_that_come_at_the_same_time(store: Store) -> None:
    async def attempt(number: int) -> int | None:
        lease = 2**40 if number % 10 == 9 else 0  # there is none of this name
        return await store.txn([Compare("/a", number % 2)], [Put(f"/{number}", b"x" * 60_000, lease)])

    await put(store, "/a")
    answers = await asyncio.gather(*(attempt(number) for number in range(40)), return_exceptions=True)
    done = set()
    for number, answer in enumerate(answers):
        if number % 2 == 0:
            assert answer is None
        elif number % 10 == 9:
            assert isinstance(answer, NotFound)
        else:
            entry = await store.get(f"/{number}")
            assert entry is not None
            assert entry.modified == answer
            done.add(entry.key)
    assert {entry.key for entry in (await store.list("/")).entries} == done | {"/a"}


async def test_of_two_that_each_read_what_the_other_writes_one_is_refused(store: Store) -> None:
    async def write(reads: str, writes: str) -> int | None:
        return await store.txn([Compare(reads, 0)], [Put(writes, b"")])

    pairs = [write(f"/{number}/{one}", f"/{number}/{1 - one}") for number in range(50) for one in (0, 1)]
    answers = await asyncio.gather(*pairs)
    assert all((answers[at] is None) != (answers[at + 1] is None) for at in range(0, 100, 2))
    assert len((await store.list("/")).entries) == 50


async def test_many_writers_at_once_come_out_as_if_one_after_the_other(store: Store) -> None:
    """30 writers move money between 12 accounts, and every change is told with what stood there before."""
    accounts = [f"/{number:02}" for number in range(12)]
    await store.txn([], [Put(account, b"100") for account in accounts])

    async def move(writer: int, turn: int) -> None:
        giver, taker = (accounts[(writer * step + turn) % 12] for step in (1, 5))
        answer: int | None = None
        while answer is None and giver != taker:
            before = {entry.key: entry for entry in (await store.list("/")).entries}
            answer = await store.txn(
                [Compare(key, before[key].modified) for key in (giver, taker)],
                [
                    Put(giver, b"%d" % (int(before[giver].value) - 1)),
                    Put(taker, b"%d" % (int(before[taker].value) + 1)),
                    Put(f"/moves/{writer}/{turn}", b""),
                ],
            )
            assert answer is None or answer > max(before[giver].modified, before[taker].modified)

    async def moves(writer: int) -> None:
        for turn in range(4):
            await move(writer, turn)

    await asyncio.gather(*(moves(writer) for writer in range(30)))
    end = await store.revision()
    changes = await take(store.watch("/", 0), end)
    assert_gapless(changes, end)
    now: dict[str, Entry] = {}
    for revision, told in itertools.groupby(changes, lambda change: change.revision):
        for change in told:
            assert change.previous == now.get(change.key)
            assert change.entry is not None
            assert change.entry.modified == revision
            now[change.key] = change.entry
        assert sum(int(now[account].value) for account in accounts) == 1200
    assert tuple(now[key] for key in sorted(now)) == (await store.list("/")).entries


# Watches


async def test_watch_tells_the_past_then_the_future(store: Store) -> None:
    await put(store, "/a", b"1")
    watch = store.watch("/", 0)
    assert [change.revision for change in await anext(watch)] == [1]
    soon = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await put(store, "/a", b"2")
    (change,) = await soon
    assert change == Change(2, "/a", Entry("/a", b"2", 1, 2), Entry("/a", b"1", 1, 1))


async def test_watch_begins_after_the_revision_given(store: Store) -> None:
    for _ in range(4):
        await put(store, "/a")
    assert [change.revision for change in await take(store.watch("/", 2), 4)] == [3, 4]


async def test_watch_from_a_future_revision_waits_for_it(store: Store) -> None:
    soon = asyncio.ensure_future(anext(store.watch("/", 2)))
    for _ in range(3):
        await put(store, "/a")
    assert [change.revision for change in await soon] == [3]


async def test_deletion_is_told_with_what_stood_there(store: Store) -> None:
    await put(store, "/a", b"1")
    await store.txn([], [Delete("/a")])
    await put(store, "/a", b"2")
    changes = await take(store.watch("/", 1), 3)
    assert changes == [
        Change(2, "/a", None, Entry("/a", b"1", 1, 1)),
        Change(3, "/a", Entry("/a", b"2", 3, 3), None),
    ]


async def test_transaction_of_many_keys_arrives_whole_and_in_order_of_keys(store: Store) -> None:
    keys = [f"/{number:04}" for number in range(128)]  # as many as a transaction may have; a batch holds 500
    for _ in range(9):
        await store.txn([], [Put(key, b"") for key in reversed(keys)])
    watch, told = store.watch("/", 0), 0
    while told < 9:
        batch = await anext(watch)
        assert [change.key for change in batch] == keys * (len(batch) // len(keys))
        told = batch[-1].revision


async def test_watch_sees_only_its_prefix(store: Store) -> None:
    soon = asyncio.ensure_future(anext(store.watch("/a/", 0)))
    await put(store, "/ab")
    await put(store, "/b/a/")
    await store.txn([], [Put("/a/x", b""), Put("/b", b"")])
    assert [change.key for change in await soon] == ["/a/x"]


async def test_failed_transaction_tells_nobody(store: Store) -> None:
    soon = asyncio.ensure_future(anext(store.watch("/", 0)))
    await store.txn([Compare("/a", 7)], [Put("/a", b"")])
    await store.txn([], [Delete("/a")])
    await put(store, "/b")
    assert [change.key for change in await soon] == ["/b"]


async def test_slow_watcher_misses_nothing_and_gets_it_in_order(store: Store) -> None:
    watch = store.watch("/", 0)
    await put(store, "/a")
    seen = list(await anext(watch))
    for first in range(0, 3000, 100):
        await asyncio.gather(*(put(store, f"/{first + number}") for number in range(100)))
    batches = 0
    end = await store.revision()
    while seen[-1].revision < end:
        seen.extend(await anext(watch))
        batches += 1
    assert_gapless(seen, end)
    assert len(seen) == 3001
    assert batches >= 3000 // 500  # it was not handed everything at once


async def test_watchers_and_writers_at_once_see_one_history(store: Store) -> None:
    async def follow() -> list[Change]:
        seen: list[Change] = []
        async for batch in store.watch("/", 0):
            seen.extend(batch)
            if seen[-1].key == "/last":
                break
        return seen

    readers = [asyncio.ensure_future(follow()) for _ in range(5)]
    await asyncio.gather(*(put(store, f"/{number % 7}", b"%d" % number) for number in range(300)))
    end = await put(store, "/last")
    histories = [await reader for reader in readers]
    assert_gapless(histories[0], end)
    assert len(histories[0]) == 301
    assert all(history == histories[0] for history in histories)


async def test_closing_ends_watches_and_refuses_requests(store: Store) -> None:
    async def drain() -> int:
        return sum([len(batch) async for batch in store.watch("/", 0)])

    idle, other = asyncio.ensure_future(drain()), asyncio.ensure_future(drain())
    await put(store, "/a")
    await store.close()
    assert {await idle, await other} <= {0, 1}
    for request in (
        store.get("/a"),
        store.list("/"),
        store.txn([], [Put("/b", b"")]),
        store.revision(),
        store.grant(5.0),
        store.revoke(1),
        store.compact(1),
    ):
        with pytest.raises(Temporary, match="closed"):
            await request
    await store.close()


# Leases


async def test_lease_that_is_not_kept_alive_takes_its_keys_with_it_as_one_revision(store: Store, bench: Bench) -> None:
    lease = await store.grant(bench.lease_seconds)
    await store.txn([], [Put("/b", b"1", lease), Put("/a", b"2", lease), Put("/c", b"3")])
    seen = await take(store.watch("/", 1), 2)
    assert seen == [
        Change(2, "/a", None, Entry("/a", b"2", 1, 1)),
        Change(2, "/b", None, Entry("/b", b"1", 1, 1)),
    ]
    assert [entry.key for entry in (await store.list("/")).entries] == ["/c"]
    with pytest.raises(NotFound, match="has ended"):
        await store.keep_alive(lease)


async def test_lease_that_is_kept_alive_lives_on(store: Store, bench: Bench) -> None:
    lease = await store.grant(bench.lease_seconds)
    await store.txn([], [Put("/a", b"", lease)])
    for _ in range(6):
        await asyncio.sleep(bench.lease_seconds / 4)
        await store.keep_alive(lease)
    assert await store.revision() == 1


async def test_lease_that_has_ended_cannot_be_kept_alive_or_put_with(store: Store) -> None:
    lease = await store.grant(60.0)
    await store.revoke(lease)
    with pytest.raises(NotFound, match="has ended"):
        await store.keep_alive(lease)
    with pytest.raises(NotFound, match="has ended"):
        await store.txn([], [Put("/b", b""), Put("/a", b"", lease)])
    assert await store.txn([Compare("/a", 7)], [Put("/a", b"", lease)]) is None
    assert await store.revision() == 0


async def test_revoking_a_lease_deletes_its_keys_at_once_and_may_be_repeated(store: Store) -> None:
    lease, other = await store.grant(60.0), await store.grant(60.0)
    assert 0 < lease != other > 0
    await store.txn([], [Put("/a", b"", lease), Put("/b", b"", other)])
    await store.revoke(lease)
    assert [entry.key for entry in (await store.list("/")).entries] == ["/b"]
    await store.revoke(lease)
    assert await store.revision() == 2


async def test_lease_without_keys_ends_without_a_revision(store: Store) -> None:
    await store.revoke(await store.grant(60.0))
    assert await store.revision() == 0


async def test_key_belongs_to_the_lease_it_was_last_put_with(store: Store) -> None:
    first, second = await store.grant(60.0), await store.grant(60.0)
    await store.txn([], [Put("/moved", b"", first), Put("/freed", b"", first), Put("/again", b"", first)])
    await store.txn([], [Put("/moved", b"", second), Put("/freed", b""), Delete("/again")])
    await put(store, "/again")
    await store.revoke(first)
    assert [entry.key for entry in (await store.list("/")).entries] == ["/again", "/freed", "/moved"]
    await store.revoke(second)
    assert [entry.key for entry in (await store.list("/")).entries] == ["/again", "/freed"]


async def test_key_of_a_lease_can_be_compared_and_is_never_the_same_again(store: Store) -> None:
    lease = await store.grant(60.0)
    epoch = await store.txn([Compare("/leader", 0)], [Put("/leader", b"n1", lease)])
    assert epoch == 1
    await store.keep_alive(lease)
    assert await store.txn([Compare("/leader", epoch)], [Put("/work", b"1")]) == 2
    await store.revoke(lease)
    assert await store.txn([Compare("/leader", 0)], [Put("/leader", b"n2")]) == 4
    assert await store.txn([Compare("/leader", epoch)], [Put("/work", b"2")]) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 86401.0, float("nan")])
async def test_lease_of_no_or_endless_length_is_refused(store: Store, seconds: float) -> None:
    with pytest.raises(UsageError, match="a lease lasts"):
        await store.grant(seconds)


# Compaction


async def test_watch_from_a_compacted_revision_is_refused(store: Store) -> None:
    for _ in range(5):
        await put(store, "/a")
    await store.compact(3)
    with pytest.raises(Compacted, match="3"):
        await anext(store.watch("/", 2))
    assert [change.revision for change in await take(store.watch("/", 3), 5)] == [4, 5]


async def test_compaction_keeps_what_is_current_and_what_changes_call_previous(store: Store) -> None:
    await put(store, "/a", b"1")
    await put(store, "/a", b"2")
    await put(store, "/kept")
    await put(store, "/gone")
    await store.txn([], [Delete("/gone")])
    await put(store, "/a", b"3")
    await store.compact(5)
    listing = await store.list("/")
    assert listing.entries == (Entry("/a", b"3", 1, 6), Entry("/kept", b"v", 3, 3))
    assert await take(store.watch("/", 5), 6) == [Change(6, "/a", Entry("/a", b"3", 1, 6), Entry("/a", b"2", 1, 2))]


async def test_compaction_keeps_the_revision_even_if_nothing_is_left(store: Store) -> None:
    await put(store, "/a")
    await store.txn([], [Delete("/a")])
    await store.compact(2)
    assert await store.revision() == 2
    assert await store.txn([Compare("/a", 0)], [Put("/a", b"")]) == 3


async def test_compaction_of_the_future_is_refused_and_of_the_past_is_nothing(store: Store) -> None:
    await put(store, "/a")
    with pytest.raises(UsageError, match="newest"):
        await store.compact(2)
    await store.compact(1)
    await store.compact(0)
    await store.compact(1)


async def test_quiet_watcher_is_not_overtaken_by_compaction(store: Store) -> None:
    watch = store.watch("/quiet", 0)
    await put(store, "/quiet")
    assert [change.revision for change in await anext(watch)] == [1]
    soon = asyncio.ensure_future(anext(watch))
    for _ in range(3):  # the watcher's next read stands before these: afterwards it waits
        await store.revision()
    for _ in range(10):
        await put(store, "/busy")
    await store.compact(10)
    await put(store, "/quiet")
    assert [change.revision for change in await soon] == [12]


# No space


async def filled(store: Store) -> Temporary:
    """What a writer is told when there is no more room. Most of what fills the store is the past of one key."""
    await put(store, "/a", b"1")
    try:
        while True:
            await put(store, "/big", BIG)
    except Temporary as error:
        return error


async def test_full_store_refuses_a_transaction_as_a_whole_and_says_why(limited: Store) -> None:
    error = await filled(limited)
    assert re.search("full|space exceeded", error.message)
    assert error.remedy
    before = await limited.list("/")
    with pytest.raises(Temporary):
        await limited.txn([Compare("/a", 1)], [Put("/a", b"2"), Put("/b", b""), Put("/bigger", BIG)])
    assert await limited.list("/") == before


async def test_full_store_goes_on_being_read_and_watched_and_keeps_leases_alive(limited: Store) -> None:
    lease = await limited.grant(60.0)
    await filled(limited)
    end = await limited.revision()
    assert await limited.get("/a") == Entry("/a", b"1", 1, 1)
    assert [entry.key for entry in (await limited.list("/")).entries] == ["/a", "/big"]
    assert_gapless(await take(limited.watch("/", 0), end), end)
    await limited.keep_alive(lease)


async def test_compaction_makes_room_in_a_full_store_and_its_watches_go_on(limited: Store) -> None:
    await filled(limited)
    end = await limited.revision()
    soon = asyncio.ensure_future(anext(limited.watch("/last", end)))
    await limited.compact(end)
    for number in range(2):
        await put(limited, f"/last{number}", BIG)
    assert (await soon)[0].key == "/last0"


# Restarts


def test_restart_keeps_revision_entries_history_and_compaction(lasting: Bench) -> None:
    async def before(store: Store) -> None:
        await put(store, "/a", b"1")
        await put(store, "/a", b"2")
        await put(store, "/b")
        await store.txn([], [Delete("/b")])
        await store.compact(1)

    async def after(store: Store) -> None:
        assert await store.revision() == 4
        assert (await store.list("/")).entries == (Entry("/a", b"2", 1, 2),)
        assert [change.revision for change in await take(store.watch("/", 1), 4)] == [2, 3, 4]
        with pytest.raises(Compacted):
            await anext(store.watch("/", 0))
        assert await put(store, "/c") == 5

    lasting.run(before)
    lasting.restart()
    lasting.run(after)


def test_leases_outlive_a_restart_of_the_store(lasting: Bench) -> None:
    leases: list[int] = []

    async def before(store: Store) -> None:
        leases.extend([await store.grant(lasting.lease_seconds), await store.grant(60.0)])
        await store.txn([], [Put(f"/{number}", b"", lease) for number, lease in enumerate(leases)])

    async def after(store: Store) -> None:
        await store.keep_alive(leases[1])
        assert [change.key for change in await take(store.watch("/", 1), 2)] == ["/0"]
        with pytest.raises(NotFound):
            await store.keep_alive(leases[0])
        assert await store.grant(60.0) not in leases

    lasting.run(before)
    lasting.restart()
    lasting.run(after)
