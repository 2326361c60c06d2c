"""Random histories: whatever is done to them, SQLite, etcd and memory answer the same (memory is the oracle)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, EtcdBench, SqliteBench
from etcd_process import EtcdProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from miniorch.errors import MiniorchError, NotFound
from miniorch.state.memory import MemoryStore
from miniorch.state.store import Compare, Delete, Put, Store

KEYS = ["/a", "/a/", "/a/b", "/ab", "/\u00e4", "/\U0010ffff"]
keys = st.sampled_from(KEYS)
revisions = st.integers(0, 12)
leases = st.integers(0, 3)  # the how-manieth that was granted, from 1 on; 0: none
operations = st.lists(
    st.one_of(
        st.builds(Put, keys, st.binary(max_size=3)),
        st.builds(Put, keys, st.binary(max_size=3), leases),
        st.builds(Delete, keys),
    ),
    max_size=4,
    unique_by=lambda operation: operation.key,
)
compares = st.lists(st.builds(Compare, keys, revisions), max_size=1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("txn"), compares, operations),
        st.tuples(st.just("txn"), st.just([]), operations),
        st.tuples(st.just("list"), st.sampled_from(["", "/", "/a", "/a/", "/\u00e4", "/\U0010ffff"])),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("compact"), revisions),
        st.tuples(st.just("watch"), st.sampled_from(["/", "/a", "/a/"]), revisions),
        st.tuples(st.just("grant")),
        st.tuples(st.just("revoke"), leases),
        st.tuples(st.just("keep alive"), leases),
        st.tuples(st.just("restart")),
    ),
    min_size=5,
    max_size=25,
)


async def past(store: Store, prefix: str, after: int) -> list[Any]:
    """All changes that a watch tells before it has to wait. A last write marks the end."""
    end = await store.revision()
    seen: list[Any] = []
    if after < end:
        async for batch in store.watch("", after):
            seen.extend(batch)
            if seen[-1].revision >= end:
                break
    return [change for change in seen if change.key.startswith(prefix)]


def with_lease(operation: Put | Delete, granted: list[int]) -> Put | Delete:
    if isinstance(operation, Put) and operation.lease:
        return replace(operation, lease=numbered(operation.lease, granted))
    return operation


def numbered(lease: int, granted: list[int]) -> int:
    """The lease in this store; a number that no store has given if there are not so many."""
    return granted[lease - 1] if 0 < lease <= len(granted) else 2**40 + lease


async def answer(store: Store, granted: list[int], step: tuple[Any, ...]) -> Any:
    try:
        match step:
            case ("txn", wanted, todo):
                return await store.txn(wanted, [with_lease(one, granted) for one in todo])
            case ("list", prefix):
                return await store.list(prefix)
            case ("get", key):
                return await store.get(key)
            case ("compact", revision):
                return await store.compact(revision)
            case ("watch", prefix, after):
                return await past(store, prefix, after)
            case ("grant",):
                granted.append(await store.grant(3600.0))
            case ("revoke", lease):
                return await store.revoke(numbered(lease, granted))
            case ("keep alive", lease):
                return await store.keep_alive(numbered(lease, granted))
    except NotFound:
        return NotFound
    except MiniorchError as error:
        return type(error), error.message


@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
def test_stores_cannot_be_told_apart(kind: str, etcd: EtcdProcess) -> None:
    @settings(max_examples=60)
    @given(history=steps)
    def whatever(history: list[tuple[Any, ...]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = SqliteBench(Path(folder)) if kind == "sqlite" else EtcdBench(Path(folder), etcd)
            asyncio.run(whole(bench, history))

    whatever()


async def whole(bench: Bench, history: list[tuple[Any, ...]]) -> None:
    memory, other = MemoryStore(), bench.open()
    granted: tuple[list[int], list[int]] = [], []
    try:
        for step in history:
            if step == ("restart",):
                await other.close()
                other = bench.open()
            else:
                assert await answer(other, granted[0], step) == await answer(memory, granted[1], step), step
            assert await other.revision() == await memory.revision()
        assert await other.list("") == await memory.list("")
        await asyncio.gather(*(other.revoke(lease) for lease in granted[0]))
    finally:
        await other.close()
        await memory.close()
