"""Runs a rule on a fresh store of one kind: memory, a file, or a part of its own of a real etcd."""

from __future__ import annotations

import abc
import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from etcd_process import EtcdProcess

from miniorch.state.etcd import EtcdStore
from miniorch.state.memory import MemoryStore
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Change, Delete, Put, Store

Rule = Callable[[Store], Awaitable[None]]
DEADLINE_SECONDS = 30.0
ROOM_BYTES = 4_000_000
_numbers = itertools.count(1)


class Bench(abc.ABC):
    """A store that can be opened more than once. `lease_seconds` is the shortest that this kind can measure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lease_seconds = 0.2

    @abc.abstractmethod
    def open(self) -> Store: ...

    async def limit(self, store: Store) -> None:  # noqa: B027 (an etcd has its limit when it is started)
        """From now on there is room for `ROOM_BYTES`."""

    def restart(self) -> None:  # noqa: B027 (a file needs none)
        """What a restart of the machine does to the store, between two runs."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        store = self.open()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[Store]:
        async with self.opened() as store:
            await self.limit(store)
            yield store

    def run(self, rule: Rule) -> None:
        async def whole() -> None:
            async with self.opened() as store:
                await rule(store)

        asyncio.run(whole())

    def end(self) -> None:  # noqa: B027 (only an etcd has something to give back)
        pass


class MemoryBench(Bench):
    def open(self) -> Store:
        return MemoryStore()

    async def limit(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.space = ROOM_BYTES


class SqliteBench(Bench):
    def open(self) -> Store:
        return SqliteStore(self.path / "state.db")

    async def limit(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        pages = ROOM_BYTES // 4096
        await store._on_disk(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())


class EtcdBench(Bench):
    """Below a root of its own, with revisions that count from the etcd's present one: as in an empty etcd."""

    def __init__(self, path: Path, etcd: EtcdProcess) -> None:
        super().__init__(path)
        self.lease_seconds = 1.0
        self._etcd = etcd
        self._root = f"/t{next(_numbers)}"
        self.origin = etcd.revision()

    def open(self) -> EtcdStore:
        return EtcdStore([self._etcd.endpoint], self._root, origin=self.origin)

    def restart(self) -> None:
        self._etcd.kill()
        self._etcd.start()

    def end(self) -> None:
        """Leave no key, whose lease would end as a revision in somebody else's test, and no etcd that is full."""

        async def clear(store: Store) -> None:
            keys = [entry.key for entry in (await store.list("/")).entries]
            for first in range(0, len(keys), 128):
                await store.txn([], [Delete(key) for key in keys[first : first + 128]])
            await store.compact(await store.revision())

        self.run(clear)


async def put(store: Store, key: str, value: bytes = b"v") -> int:
    revision = await store.txn([], [Put(key, value)])
    assert revision is not None
    return revision


def assert_gapless(changes: Sequence[Change], end: int) -> None:
    """Every revision up to `end` is there, in order, and no key twice in one."""
    order = [(change.revision, change.key) for change in changes]
    assert order == sorted(set(order))
    assert {revision for revision, _ in order} == set(range(1, end + 1))


async def take(watch: AsyncIterator[Sequence[Change]], revision: int) -> list[Change]:
    """Changes from a watch, up to the one of a revision."""
    seen: list[Change] = []
    async for batch in watch:
        seen.extend(batch)
        if seen[-1].revision >= revision:
            break
    return seen
