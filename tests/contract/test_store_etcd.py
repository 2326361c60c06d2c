"""What only the store on etcd promises: many watchers on one stream, roots, pages, an etcd that is not what it was."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Bench, EtcdBench, put, take
from etcd_process import EtcdProcess, running

from miniorch.errors import Compacted
from miniorch.state.etcd import EtcdStore
from miniorch.state.etcd_member import rpc
from miniorch.state.store import Put, Store
from miniorch.state.watchers import HISTORY_BYTES


@pytest.fixture
def bench(etcd: EtcdProcess, tmp_path: Path) -> Iterator[Bench]:
    made = EtcdBench(tmp_path, etcd)
    yield made
    made.end()


async def test_hundreds_of_watchers_share_one_stream(store: Store) -> None:
    watches = [store.watch(f"/{number % 10}/", 0) for number in range(500)]
    first = [asyncio.ensure_future(anext(watch)) for watch in watches]
    await store.txn([], [Put(f"/{number}/x", b"") for number in range(10)])
    for number, told in enumerate(await asyncio.gather(*first)):
        assert [change.key for change in told] == [f"/{number % 10}/x"]
    assert sum("etcd watch" in thread.name for thread in threading.enumerate()) == 1


async def test_nothing_is_left_of_a_closed_store(store: Store) -> None:
    await put(store, "/a")
    await anext(store.watch("/", 0))
    await store.close()
    for _ in range(200):
        if not any("etcd watch" in thread.name for thread in threading.enumerate()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the watch's thread lives on")


async def test_roots_do_not_see_each_other(etcd: EtcdProcess) -> None:
    shop, other = (EtcdStore([etcd.endpoint], root, origin=etcd.revision()) for root in ("/shop", "/shopping"))
    try:
        watch = shop.watch("", 0)
        await put(other, "/b")
        await put(shop, "/a")
        assert [entry.key for entry in (await shop.list("")).entries] == ["/a"]
        assert [entry.key for entry in (await other.list("")).entries] == ["/b"]
        assert [(change.revision, change.key) for change in await anext(watch)] == [(2, "/a")]
        assert await shop.get("/b") is None
        assert await shop.revision() == 2  # what others write makes revisions pass
    finally:
        await shop.close()
        await other.close()


async def test_list_of_many_pages_is_of_one_revision(store: Store) -> None:
    keys = [f"/{number:04}" for number in range(2500)]
    for first in range(0, len(keys), 125):
        await store.txn([], [Put(key, b"0") for key in keys[first : first + 125]])
    over = asyncio.Event()

    async def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            await store.txn([], [Put(key, b"%d" % number) for key in (keys[0], keys[1500], keys[-1])])
            await store.compact(await store.revision())  # takes the later pages away from whoever is slow

    writing = asyncio.create_task(write())
    for _ in range(10):
        listing = await store.list("/")
        assert [entry.key for entry in listing.entries] == keys
        assert len({listing.entries[number].value for number in (0, 1500, -1)}) == 1
    over.set()
    await writing


async def test_watcher_further_behind_than_what_is_kept_must_list_again(store: Store) -> None:
    slow, quick = store.watch("/", 0), store.watch("/last", 0)
    last = asyncio.ensure_future(anext(quick))
    await put(store, "/first")
    await anext(slow)
    for _ in range(HISTORY_BYTES // 2_000_000 + 2):  # each change counts twice: what stood there, too
        await put(store, "/big", b"x" * 1_000_000)
    end = await put(store, "/last")
    assert [change.revision for change in await last] == [end]
    with pytest.raises(Compacted):
        await anext(slow)


async def test_change_whose_past_is_gone_is_not_told_without_it() -> None:
    store = EtcdStore(["127.0.0.1:1"])
    watch = store.watch("/", 0)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    response = rpc.WatchResponse()
    event = response.events.add(type=1)  # a deletion, and what stood there has been compacted
    event.kv.key, event.kv.mod_revision = b"/miniorch/a", 5
    with pytest.raises(Compacted):
        store._take(response)
    with pytest.raises(Compacted, match="everything up to 4"):
        await waiting
    await store.close()


def test_etcd_that_has_lost_its_past_makes_everybody_list_again(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path)

    async def whole() -> None:
        store = EtcdStore([etcd.endpoint])
        try:
            watch = store.watch("/", 0)
            for _ in range(5):
                await put(store, "/a")
            await take(watch, 5)
            etcd.kill()
            shutil.rmtree(etcd.folder / "data")
            etcd.start()
            with pytest.raises(Compacted, match="restored"):
                await anext(watch)
            assert (await store.list("/")).entries == ()
            await put(store, "/b")
            assert [change.key for change in await anext(store.watch("/", 0))] == ["/b"]
        finally:
            await store.close()

    with running(etcd):
        asyncio.run(whole())
