"""The file of the SQLite store grows with what is kept, and not with what is written."""

from __future__ import annotations

import asyncio
from pathlib import Path

from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Put

KEYS, VALUE = 100, bytes(1024)
KEPT = 500  # revisions, as `REVISIONS_KEPT` in miniorch/server.py
MB = 1 << 20


def test_file_stays_small_while_far_more_is_written_than_is_kept(tmp_path: Path) -> None:
    """15 MB are written, 0.6 MB are kept. Readers and watchers go on meanwhile."""
    sizes = []

    async def story() -> None:
        store = SqliteStore(tmp_path / "state.db")
        told = 0

        async def watch() -> None:
            nonlocal told
            async for batch in store.watch("/", 0):
                told += len(batch)

        watching = asyncio.create_task(watch())
        for _ in range(30):
            await asyncio.gather(*(store.txn([], [Put(f"/{number % KEYS}", VALUE)]) for number in range(KEPT)))
            await store.compact(max(0, await store.revision() - KEPT))
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        assert len((await store.list("/")).entries) == KEYS
        async with asyncio.timeout(20):
            while told < 30 * KEPT:
                await asyncio.sleep(0.01)
        watching.cancel()
        await store.close()
        assert (tmp_path / "state.db").stat().st_size < 3 * MB

    asyncio.run(story())
    assert max(sizes) < 24 * MB, sizes  # up to 16 MB of it is the write-ahead log, which is used again and again
    assert max(sizes[15:]) <= max(sizes[:15]) * 1.1, sizes
