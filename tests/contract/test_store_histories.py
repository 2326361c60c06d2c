"""Random histories: whatever is done to both, SQLite and memory answer the same (memory is the oracle)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniorch.errors import MiniorchError
from miniorch.state.memory import MemoryStore
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Compare, Delete, Put, Store

KEYS = ["/a", "/a/", "/a/b", "/ab", "/\u00e4", "/\U0010ffff"]
keys = st.sampled_from(KEYS)
revisions = st.integers(0, 12)
operations = st.lists(
    st.one_of(st.builds(Put, keys, st.binary(max_size=3)), st.builds(Delete, keys)),
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


async def answer(store: Store, step: tuple[Any, ...]) -> Any:
    try:
        match step:
            case ("txn", wanted, todo):
                return await store.txn(wanted, todo)
            case ("list", prefix):
                return await store.list(prefix)
            case ("get", key):
                return await store.get(key)
            case ("compact", revision):
                return await store.compact(revision)
            case ("watch", prefix, after):
                return await past(store, prefix, after)
    except MiniorchError as error:
        return type(error), error.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps)
def test_sqlite_and_memory_cannot_be_told_apart(history: list[tuple[Any, ...]]) -> None:
    async def whole(folder: Path) -> None:
        memory, disk = MemoryStore(), SqliteStore(folder / "state.db")
        try:
            for step in history:
                if step == ("restart",):
                    await disk.close()
                    disk = SqliteStore(folder / "state.db")
                else:
                    assert await answer(disk, step) == await answer(memory, step), step
                assert await disk.revision() == await memory.revision()
            assert await disk.list("") == await memory.list("")
        finally:
            await disk.close()
            await memory.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(whole(Path(folder)))
