"""One rule a test, every store the same answer. What is true here is what controllers may rely on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from miniorch.errors import Compacted, Conflict, Temporary, Unsupported, UsageError
from miniorch.state.memory import MemoryStore
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Change, Compare, Delete, Entry, Put, Store

Rule = Callable[[Store], Awaitable[None]]
DEADLINE_SECONDS = 20.0


class Bench:
    """Runs a rule on a fresh store of one kind and closes it afterwards."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "state.db"

    def open(self) -> Store:
        return MemoryStore() if self.kind == "memory" else SqliteStore(self.path)

    def run(self, rule: Rule) -> None:
        async def whole() -> None:
            store = self.open()
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await rule(store)
            finally:
                await store.close()

        asyncio.run(whole())


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Bench:
    return Bench("sqlite", tmp_path)


async def put(store: Store, key: str, value: bytes = b"v") -> int:
    revision = await store.txn([], [Put(key, value)])
    assert revision is not None
    return revision


async def take(watch: AsyncIterator[Sequence[Change]], revision: int) -> list[Change]:
    """Changes from a watch, up to the one of a revision."""
    seen: list[Change] = []
    async for batch in watch:
        seen.extend(batch)
        if seen[-1].revision >= revision:
            break
    return seen


# Revisions and reading


def test_new_store_is_at_revision_0_and_empty(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        assert await store.revision() == 0
        assert (await store.list("/")).entries == ()
        assert await store.get("/a") is None

    bench.run(rule)


def test_each_transaction_is_one_revision(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        assert await put(store, "/a") == 1
        assert await store.txn([], [Put("/b", b""), Put("/c", b"")]) == 2
        assert await store.revision() == 2

    bench.run(rule)


def test_entry_tells_when_it_was_made_and_last_changed(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a", b"1")
        await put(store, "/other")
        await put(store, "/a", b"2")
        assert await store.get("/a") == Entry("/a", b"2", created=1, modified=3)

    bench.run(rule)


def test_key_that_is_made_again_is_new(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        await store.txn([], [Delete("/a")])
        await put(store, "/a")
        assert await store.get("/a") == Entry("/a", b"v", created=3, modified=3)

    bench.run(rule)


def test_listing_is_sorted_and_names_its_revision(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        for key in ("/b", "/a/2", "/a/10", "/a"):
            await put(store, key)
        listing = await store.list("/")
        assert [entry.key for entry in listing.entries] == ["/a", "/a/10", "/a/2", "/b"]
        assert listing.revision == 4

    bench.run(rule)


def test_listing_holds_only_newest_and_no_deleted_entries(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a", b"1")
        await put(store, "/a", b"2")
        await put(store, "/b")
        await store.txn([], [Delete("/b")])
        assert (await store.list("/")).entries == (Entry("/a", b"2", 1, 2),)

    bench.run(rule)


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
def test_prefix_means_the_text_a_key_begins_with(bench: Bench, prefix: str, inside: list[str]) -> None:
    keys = ["/", "/a", "/a/", "/a/x", "/ab", "/b", "/a\u00e4", "/a\ud7ff", "/a\ue000", "/a\U0010ffff", "/a\U0010ffffz"]

    async def rule(store: Store) -> None:
        await store.txn([], [Put(key, b"") for key in keys])
        assert [entry.key for entry in (await store.list(prefix)).entries] == sorted(inside)
        if inside:
            changes = await take(store.watch(prefix, 0), 1)
            assert [change.key for change in changes] == sorted(inside)

    bench.run(rule)


def test_values_come_back_byte_for_byte(bench: Bench) -> None:
    value = bytes(range(256))

    async def rule(store: Store) -> None:
        await store.txn([], [Put("/bytes", value), Put("/empty", b"")])
        assert [entry.value for entry in (await store.list("/")).entries] == [value, b""]

    bench.run(rule)


# Transactions


def test_put_if_absent_works_once(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        assert await store.txn([Compare("/a", 0)], [Put("/a", b"1")]) == 1
        assert await store.txn([Compare("/a", 0)], [Put("/a", b"2")]) is None
        entry = await store.get("/a")
        assert entry is not None
        assert entry.value == b"1"

    bench.run(rule)


def test_compare_on_a_revision_that_is_old_changes_nothing(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a", b"1")
        await put(store, "/a", b"2")
        assert await store.txn([Compare("/a", 1)], [Put("/a", b"3"), Put("/b", b"")]) is None
        assert await store.revision() == 2
        assert await store.get("/b") is None

    bench.run(rule)


def test_deleted_key_compares_as_absent(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        await store.txn([], [Delete("/a")])
        assert await store.txn([Compare("/a", 1)], [Put("/a", b"")]) is None
        assert await store.txn([Compare("/a", 2)], [Put("/a", b"")]) is None
        assert await store.txn([Compare("/a", 0)], [Put("/a", b"")]) == 3

    bench.run(rule)


def test_all_compares_must_hold(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        await put(store, "/b")
        assert await store.txn([Compare("/a", 1), Compare("/b", 1)], [Put("/c", b"")]) is None
        assert await store.txn([Compare("/a", 1), Compare("/b", 2)], [Put("/c", b"")]) == 3

    bench.run(rule)


def test_transaction_that_changes_nothing_keeps_the_revision(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        assert await store.txn([], []) == 1
        assert await store.txn([Compare("/a", 1)], []) == 1
        assert await store.txn([], [Delete("/never")]) == 1
        assert await store.revision() == 1

    bench.run(rule)


def test_key_may_occur_once_in_a_transaction(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        with pytest.raises(UsageError, match="twice"):
            await store.txn([], [Put("/a", b""), Delete("/a")])
        assert await store.revision() == 0

    bench.run(rule)


@pytest.mark.parametrize(
    ("key", "words"),
    [("a", "begin"), ("", "begin"), ("/" + "\u00e4" * 256, "513 bytes"), ("/a\0b", "NUL"), ("/\ud800", "Unicode")],
)
def test_bad_key_is_refused(bench: Bench, key: str, words: str) -> None:
    async def rule(store: Store) -> None:
        for attempt in (store.txn([], [Put(key, b"")]), store.txn([Compare(key, 0)], []), store.get(key)):
            with pytest.raises(UsageError, match=words):
                await attempt

    bench.run(rule)


def test_largest_key_and_value_are_kept_and_one_byte_more_is_refused(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        key = "/" + "k" * 511
        await put(store, key, b"x" * 1024 * 1024)
        with pytest.raises(UsageError, match="1048577 bytes"):
            await put(store, key, b"x" * (1024 * 1024 + 1))
        entry = await store.get(key)
        assert entry is not None
        assert len(entry.value) == 1024 * 1024

    bench.run(rule)


def test_1000_racing_swaps_have_one_winner_per_revision(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        won: list[int] = []

        async def racer() -> None:
            mine = 0
            while mine < 50:
                entry = await store.get("/counter")
                value = int(entry.value) if entry else 0
                compare = Compare("/counter", entry.modified if entry else 0)
                revision = await store.txn([compare], [Put("/counter", b"%d" % (value + 1))])
                if revision is not None:
                    won.append(revision)
                    mine += 1

        await asyncio.gather(*(racer() for _ in range(20)))
        assert sorted(won) == list(range(1, 1001))
        assert await store.get("/counter") == Entry("/counter", b"1000", 1, 1000)

    bench.run(rule)


def test_caller_that_gave_up_disturbs_nobody(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        writes = [asyncio.ensure_future(put(store, f"/{number}")) for number in range(20)]
        await asyncio.sleep(0)
        writes[3].cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        revision = await put(store, "/last")
        changes = await take(store.watch("/", 0), revision)
        assert [change.revision for change in changes] == list(range(1, revision + 1))

    bench.run(rule)


# Watches


def test_watch_tells_the_past_then_the_future(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a", b"1")
        watch = store.watch("/", 0)
        assert [change.revision for change in await anext(watch)] == [1]
        soon = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await put(store, "/a", b"2")
        (change,) = await soon
        assert change == Change(2, "/a", Entry("/a", b"2", 1, 2), Entry("/a", b"1", 1, 1))

    bench.run(rule)


def test_watch_begins_after_the_revision_given(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        for _ in range(4):
            await put(store, "/a")
        assert [change.revision for change in await take(store.watch("/", 2), 4)] == [3, 4]

    bench.run(rule)


def test_watch_from_a_future_revision_waits_for_it(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        soon = asyncio.ensure_future(anext(store.watch("/", 2)))
        for _ in range(3):
            await put(store, "/a")
        assert [change.revision for change in await soon] == [3]

    bench.run(rule)


def test_deletion_is_told_with_what_stood_there(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a", b"1")
        await store.txn([], [Delete("/a")])
        await put(store, "/a", b"2")
        changes = await take(store.watch("/", 1), 3)
        assert changes == [
            Change(2, "/a", None, Entry("/a", b"1", 1, 1)),
            Change(3, "/a", Entry("/a", b"2", 3, 3), None),
        ]

    bench.run(rule)


def test_transaction_of_many_keys_arrives_whole_and_in_order_of_keys(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        keys = [f"/{number:04}" for number in range(1500)]  # more than a batch holds
        await put(store, "/0000")
        await store.txn([], [Put(key, b"") for key in reversed(keys)])
        watch = store.watch("/", 0)
        batches = [await anext(watch)]
        while batches[-1][-1].revision < 2:
            batches.append(await anext(watch))
        assert [change.key for change in batches[-1] if change.revision == 2] == keys

    bench.run(rule)


def test_watch_sees_only_its_prefix(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        soon = asyncio.ensure_future(anext(store.watch("/a/", 0)))
        await put(store, "/ab")
        await put(store, "/b/a/")
        await store.txn([], [Put("/a/x", b""), Put("/b", b"")])
        assert [change.key for change in await soon] == ["/a/x"]

    bench.run(rule)


def test_failed_transaction_tells_nobody(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        soon = asyncio.ensure_future(anext(store.watch("/", 0)))
        await store.txn([Compare("/a", 7)], [Put("/a", b"")])
        await store.txn([], [Delete("/a")])
        await put(store, "/b")
        assert [change.key for change in await soon] == ["/b"]

    bench.run(rule)


def test_slow_watcher_misses_nothing_and_gets_it_in_order(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        watch = store.watch("/", 0)
        await put(store, "/a")
        seen = list(await anext(watch))
        for first in range(0, 3000, 100):
            await asyncio.gather(*(put(store, f"/{first + number}") for number in range(100)))
        batches = 0
        while seen[-1].revision < 3001:
            seen.extend(await anext(watch))
            batches += 1
        assert [change.revision for change in seen] == list(range(1, 3002))
        assert batches >= 3000 // 500  # it was not handed everything at once

    bench.run(rule)


def test_watchers_and_writers_at_once_see_one_history(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        readers = [asyncio.ensure_future(take(store.watch("/", 0), 300)) for _ in range(5)]
        await asyncio.gather(*(put(store, f"/{number % 7}", b"%d" % number) for number in range(300)))
        histories = [await reader for reader in readers]
        assert [change.revision for change in histories[0]] == list(range(1, 301))
        assert all(history == histories[0] for history in histories)

    bench.run(rule)


def test_closing_ends_watches_and_refuses_requests(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        async def drain() -> int:
            return sum([len(batch) async for batch in store.watch("/", 0)])

        idle, other = asyncio.ensure_future(drain()), asyncio.ensure_future(drain())
        await put(store, "/a")
        await store.close()
        assert {await idle, await other} <= {0, 1}
        with pytest.raises(Temporary, match="closed"):
            await store.get("/a")
        await store.close()

    bench.run(rule)


# Compaction


def test_watch_from_a_compacted_revision_is_refused(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        for _ in range(5):
            await put(store, "/a")
        await store.compact(3)
        with pytest.raises(Compacted, match="3"):
            await anext(store.watch("/", 2))
        assert [change.revision for change in await take(store.watch("/", 3), 5)] == [4, 5]

    bench.run(rule)


def test_compaction_keeps_what_is_current_and_what_changes_call_previous(bench: Bench) -> None:
    async def rule(store: Store) -> None:
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

    bench.run(rule)


def test_compaction_keeps_the_revision_even_if_nothing_is_left(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        await store.txn([], [Delete("/a")])
        await store.compact(2)
        assert await store.revision() == 2
        assert await store.txn([Compare("/a", 0)], [Put("/a", b"")]) == 3

    bench.run(rule)


def test_compaction_of_the_future_is_refused_and_of_the_past_is_nothing(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        with pytest.raises(UsageError, match="newest"):
            await store.compact(2)
        await store.compact(1)
        await store.compact(0)
        await store.compact(1)

    bench.run(rule)


def test_quiet_watcher_is_not_overtaken_by_compaction(bench: Bench) -> None:
    async def rule(store: Store) -> None:
        soon = asyncio.ensure_future(anext(store.watch("/quiet", 0)))
        for _ in range(3):  # the watcher's first read stands before these: afterwards it waits
            await store.revision()
        for _ in range(10):
            await put(store, "/busy")
        await store.compact(9)
        await put(store, "/quiet")
        assert [change.revision for change in await soon] == [11]

    bench.run(rule)


# The disk


def test_restart_keeps_revision_entries_history_and_compaction(disk: Bench) -> None:
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

    disk.run(before)
    disk.run(after)


def test_what_was_confirmed_survives_a_killed_server(disk: Bench) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from miniorch.state.sqlite import SqliteStore\n"
        "from miniorch.state.store import Put\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    for number in range(50):\n"
        "        print(await store.txn([], [Put(f'/{number}', b'v')]), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(disk.path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == -9
    assert done.stdout.split()[-1] == "50"

    async def after(store: Store) -> None:
        assert await store.revision() == 50
        assert len((await store.list("/")).entries) == 50

    disk.run(after)


def test_second_server_on_the_same_file_is_refused_with_the_first_ones_pid(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        with pytest.raises(Conflict, match=rf"another server \(pid {os.getpid()}\) uses"):
            disk.open()
        await put(store, "/still-works")

    disk.run(rule)
    disk.run(rule)  # the first one has let go


def test_newer_format_is_refused_and_left_alone(disk: Bench) -> None:
    disk.run(lambda store: store.revision())
    connection = sqlite3.connect(disk.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unsupported, match="format 99"):
        disk.open()


def test_file_that_is_no_store_is_refused_and_left_alone(disk: Bench) -> None:
    disk.path.write_text("somebody's shopping list\n" * 100)
    with pytest.raises(Unsupported, match="not a store"):
        disk.open()
    assert disk.path.read_text().startswith("somebody's")


def test_only_the_owner_may_read_the_file(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        await put(store, "/a")
        for path in disk.path.parent.glob("state.db*"):
            assert path.stat().st_mode & 0o077 == 0, path

    disk.run(rule)


def test_full_disk_refuses_writes_keeps_reading_and_recovers(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await put(store, "/a", b"1")

        def limit(connection: sqlite3.Connection, pages: int) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

        await store._do(lambda connection: limit(connection, 1))  # SQLite takes the present size: no page more
        big = Put("/big", b"x" * 100_000)
        answers = await asyncio.gather(
            store.txn([], [big]), store.get("/a"), store.txn([Compare("/a", 9)], [big]), return_exceptions=True
        )
        assert isinstance(answers[0], Temporary)
        assert "full" in answers[0].message
        assert answers[1] == Entry("/a", b"1", 1, 1)
        assert answers[2] is None
        assert await store.revision() == 1
        await store._do(lambda connection: limit(connection, 1_000_000))
        assert await store.txn([], [big]) == 2

    disk.run(rule)


def test_compaction_gives_space_back(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        for number in range(100):
            await put(store, "/a", b"%d" % number * 20_000)
        pages = await store._do(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        await store.compact(100)
        left = await store._do(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        assert left < pages / 5

    disk.run(rule)


def test_disk_never_holds_up_the_event_loop(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        gate, order = asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def slow(connection: sqlite3.Connection) -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)  # waits for the loop: the loop must run
            order.append("disk")

        work = asyncio.ensure_future(store._do(slow))
        await asyncio.sleep(0)
        order.append("loop")
        gate.set()
        await work
        assert order == ["loop", "disk"]

    disk.run(rule)
