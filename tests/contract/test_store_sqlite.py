"""What only the store on disk promises: its file, its lock, its thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest
from bench import Bench, SqliteBench, assert_gapless, put, take

from miniorch.errors import Compacted, Conflict, Temporary, UnknownOutcome, Unsupported
from miniorch.state import sql
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Change, Compare, Delete, Entry, Put, Store


@pytest.fixture
def disk(tmp_path: Path) -> Bench:
    return SqliteBench(tmp_path)


@pytest.fixture
def store(disk: Bench) -> AbstractAsyncContextManager[Store]:
    return disk.opened()


def test_file_of_the_first_format_is_brought_up_to_date(disk: Bench) -> None:
    connection = sqlite3.connect(disk.path / "state.db")
    connection.executescript(
        sql._STEPS[0] + "INSERT INTO history VALUES (1, '/a', 1, 0, 0, x'31'); PRAGMA user_version = 1;"
    )
    connection.close()

    async def rule(store: Store) -> None:
        assert await store.get("/a") == Entry("/a", b"1", 1, 1)
        await store.txn([], [Put("/b", b"", await store.grant(60.0))])

    disk.run(rule)


async def test_full_disk_keeps_a_lease_from_ending_only_while_it_is_full(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    lease = await store.grant(0.2)
    await store.txn([], [Put("/a", b"", lease)])
    await store._on_disk(lambda connection: connection.execute("PRAGMA query_only = 1"))
    await asyncio.sleep(0.4)
    assert await store.revision() == 1
    await store._on_disk(lambda connection: connection.execute("PRAGMA query_only = 0"))
    assert [change.entry for change in await take(store.watch("/", 1), 2)] == [None]


def in_a_process(program: str, disk: Bench) -> subprocess.CompletedProcess[str]:
    """Runs Python text with the store's file as its argument."""
    argv = [sys.executable, "-c", program, str(disk.path / "state.db")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


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
    done = in_a_process(program, disk)
    assert done.returncode == -9
    assert done.stdout.split()[-1] == "50"

    async def after(store: Store) -> None:
        assert await store.revision() == 50
        assert len((await store.list("/")).entries) == 50

    disk.run(after)


def test_store_that_cannot_be_written_to_is_opened_and_read(disk: Bench) -> None:
    """As after kill -9 on a disk that is full: here, no file of the process may grow beyond a page."""
    disk.run(lambda store: put(store, "/a"))
    program = (
        "import asyncio, resource, sys\n"
        "from miniorch.errors import Temporary\n"
        "from miniorch.state.sqlite import SqliteStore\n"
        "from miniorch.state.store import Put\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    try:\n"
        "        await store.txn([], [Put('/b', b'')])\n"
        "    except Temporary:\n"
        "        print([entry.key for entry in (await store.list('/')).entries])\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    done = in_a_process(program, disk)
    assert (done.stdout, done.stderr) == ("['/a']\n", "")


def test_second_server_on_the_same_file_is_refused_with_the_first_ones_pid(disk: Bench) -> None:
    async def rule(store: Store) -> None:
        with pytest.raises(Conflict, match=rf"another server \(pid {os.getpid()}\) uses"):
            disk.open()
        await put(store, "/still-works")

    disk.run(rule)
    disk.run(rule)  # the first one has let go


def test_newer_format_is_refused_and_left_alone(disk: Bench) -> None:
    disk.run(lambda store: store.revision())
    connection = sqlite3.connect(disk.path / "state.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unsupported, match="format 99"):
        disk.open()


def test_file_that_is_no_store_is_refused_and_left_alone(disk: Bench) -> None:
    (disk.path / "state.db").write_text("somebody's shopping list\n" * 100)
    with pytest.raises(Unsupported, match="not a store"):
        disk.open()
    assert (disk.path / "state.db").read_text().startswith("somebody's")


async def test_only_the_owner_may_read_the_file(store: Store, disk: Bench) -> None:
    await put(store, "/a")
    for path in disk.path.glob("state.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_of_a_group_for_which_the_disk_has_no_room_is_written_what_fits(store: Store, disk: Bench) -> None:
    await put(store, "/a")
    await disk.limit(store)
    writes = [put(store, f"/{number}", b"x" * 400_000) for number in range(20)]
    late = store.txn([Compare("/a", 9)], [Put("/a", b"x" * 400_000)])
    *answers, none, last = await asyncio.gather(*writes, late, put(store, "/last"), return_exceptions=True)
    assert {type(answer) for answer in answers} == {int, Temporary}
    assert none is None
    assert isinstance(last, int)
    kept = [f"/{number}" for number, answer in enumerate(answers) if isinstance(answer, int)]
    assert [entry.key for entry in (await store.list("/")).entries] == sorted([*kept, "/a", "/last"])


async def test_what_memory_has_forgotten_is_read_from_the_file(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    for _ in range(12):
        await asyncio.gather(*(put(store, f"/{number}") for number in range(100)))
    watch = store.watch("/", 0)
    seen = list(await anext(watch))
    store._history.forget(1100)
    assert len(seen) < 1100
    soon = asyncio.ensure_future(take(watch, 1201))
    assert await store.txn([], [Delete("/7")]) == 1201
    seen += await soon
    assert_gapless(seen, 1201)
    assert seen[1107] == Change(1108, "/7", Entry("/7", b"v", 8, 1108), Entry("/7", b"v", 8, 1008))


def test_who_waits_for_the_disk_when_the_store_is_closed_is_served_or_refused(disk: Bench) -> None:
    confirmed: list[str] = []

    async def write(store: Store, key: str) -> None:
        with contextlib.suppress(Temporary):
            await store.txn([], [Put(f"{key}.{number}", b"") for number in range(100)])
            confirmed.append(key)

    async def before(store: Store) -> None:
        writing = [asyncio.ensure_future(write(store, f"/{number}")) for number in range(300)]
        while not confirmed:
            await asyncio.sleep(0)
        late = [asyncio.ensure_future(write(store, f"/late{number}")) for number in range(10)]
        await store.close()
        await asyncio.gather(*writing, *late)

    async def after(store: Store) -> None:
        kept = [entry.key for entry in (await store.list("/")).entries]
        assert sorted(kept) == sorted(f"{key}.{number}" for key in confirmed for number in range(100))

    disk.run(before)
    disk.run(after)


async def test_compaction_gives_space_back(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    for number in range(100):
        await put(store, "/a", b"%d" % number * 20_000)
    pages = await store._on_disk(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await store.compact(100)
    left = await store._on_disk(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    assert left < pages / 5


async def test_disk_never_holds_up_the_event_loop(store: Store, disk: Bench) -> None:
    assert isinstance(store, SqliteStore)
    gate, order = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slow(connection: sqlite3.Connection) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)  # waits for the loop: the loop must run
        order.append("disk")

    work = asyncio.ensure_future(store._on_disk(slow))
    await asyncio.sleep(0)
    order.append("loop")
    gate.set()
    await work
    assert order == ["loop", "disk"]


def breaks_in_commit(monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """COMMIT says that the disk has failed; `done`: what was written is there nevertheless."""

    class Broken:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def execute(self, statement: str) -> sqlite3.Cursor:
            if statement == "COMMIT":
                if done:
                    self._connection.execute(statement)
                raise sqlite3.OperationalError("disk I/O error")
            return self._connection.execute(statement)

        def rollback(self) -> None:
            self._connection.rollback()

    whole = sql.within

    def within(connection: Any, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return whole(cast(sqlite3.Connection, Broken(connection)), lambda _: work(connection))

    monkeypatch.setattr(sql, "within", within)


@pytest.mark.parametrize("done", [False, True])
def test_commit_that_fails_is_an_unknown_outcome_and_memory_never_differs_from_the_file(
    disk: Bench, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    async def before(store: Store) -> None:
        await put(store, "/a")
        with monkeypatch.context() as broken:
            breaks_in_commit(broken, done=done)
            answers = await asyncio.gather(
                *(put(store, f"/lost{number}") for number in range(3)), return_exceptions=True
            )
        assert [type(answer) for answer in answers] == [UnknownOutcome] * 3
        assert await store.revision() == 1
        if done:  # what memory does not know is never written over
            with pytest.raises(Temporary, match="start it again"):
                await put(store, "/b")
            assert [change.revision for change in await take(store.watch("/", 0), 1)] == [1]
        else:
            assert await put(store, "/b") == 2

    async def after(store: Store) -> None:
        kept = [entry.key for entry in (await store.list("/")).entries]
        assert kept == (["/a", "/lost0", "/lost1", "/lost2"] if done else ["/a", "/b"])
        end = await put(store, "/c")
        assert_gapless(await take(store.watch("/", 0), end), end)

    disk.run(before)
    disk.run(after)


async def test_nothing_is_confirmed_into_a_file_that_was_taken_away(store: Store, disk: Bench) -> None:
    await put(store, "/a")
    (disk.path / "state.db").rename(disk.path / "away.db")
    with pytest.raises(Temporary, match="was removed") as refused:
        await put(store, "/b")
    assert "miniorch backup" in refused.value.remedy
    (disk.path / "state.db").touch()
    with pytest.raises(Temporary, match="another file"):
        await put(store, "/b")
    assert await store.get("/a") == Entry("/a", b"v", 1, 1)  # enough for a backup
    (disk.path / "away.db").rename(disk.path / "state.db")
    assert await put(store, "/b") == 2


async def test_file_is_one_servers_by_whatever_name(store: Store, disk: Bench) -> None:
    await put(store, "/a")
    (disk.path / "link.db").symlink_to(disk.path / "state.db")
    program = "import sys; from miniorch.state.sqlite import SqliteStore; SqliteStore(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(disk.path / "link.db")], capture_output=True, text=True, timeout=30
    )
    assert "Conflict: another program has" in done.stderr
    assert await put(store, "/b") == 2


def test_damaged_file_and_other_programs_database_are_refused(disk: Bench) -> None:
    disk.run(lambda store: put(store, "/a"))
    path = disk.path / "state.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with pytest.raises(Unsupported, match="damaged"):
        disk.open()
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    with pytest.raises(Unsupported, match="another program"):
        disk.open()


async def test_watcher_is_not_told_that_memory_has_forgotten_while_it_waited(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    for number in range(20):
        await put(store, f"/{number}")
    watch = store.watch("/", 5)
    soon = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    store._history.forget(10)
    assert [change.revision for change in await soon] == list(range(6, 21))


async def test_watcher_of_the_past_hears_of_nothing_that_has_not_been_entered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that heard of it in the file would not find it in a listing."""
    assert isinstance(store, SqliteStore)
    for number in range(10):
        await put(store, f"/{number}")
    store._history.forget(10)
    reading = store._read("/", 0)
    real = store._on_disk

    async def overtaken(work: Any) -> Any:
        monkeypatch.undo()
        await real(lambda connection: sql.append(connection, 10, [(11, "/11", 11, 0, 0, b"")]))
        return await real(work)

    monkeypatch.setattr(store, "_on_disk", overtaken)
    batch = await reading
    assert (batch.upto, len(batch.changes)) == (10, 10)


async def test_closing_goes_on_when_its_caller_gives_up(disk: Bench) -> None:
    store = disk.open()
    writing = [asyncio.ensure_future(put(store, f"/{number}")) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(10):
        assert sorted(await asyncio.gather(*writing)) == list(range(1, 51))
        await store.close()
    again = disk.open()
    assert await again.revision() == 50
    await again.close()


async def test_long_compaction_lets_writers_come_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "COMPACTED_REVISIONS", 5)
    for _ in range(100):
        await put(store, "/a")
    compacting = asyncio.ensure_future(store.compact(98))
    await asyncio.sleep(0)
    await put(store, "/b")
    assert not compacting.done()
    await compacting
    with pytest.raises(Compacted, match="98"):
        await anext(store.watch("/", 97))
    assert [change.revision for change in await take(store.watch("/", 98), 101)] == [99, 100, 101]
