"""A watch as a stream of JSON-ready lines.

Each line carries the revision from which to go on after a break. A line without a change is a ping: it tells the
reader that the server lives, so that silence means that it does not. A ping also says when the server itself hears
nothing from its store: the stream stays open, and whoever knows another server may go there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from miniorch.client import PING_SECONDS
from miniorch.codec import Json
from miniorch.ending import ended
from miniorch.state.records import from_entry
from miniorch.state.store import Change, Store


async def watch_kind(
    store: Store, kind: str, after: int, wanted: Callable[[object], bool], silent: Callable[[], bool] = lambda: False
) -> AsyncIterator[object]:
    """Changes of the wanted objects of a kind after a revision, and a ping in every quiet `PING_SECONDS`.

    An object that changes from wanted to unwanted (a task that moves) is reported as deleted.
    """
    watch = store.watch(f"/{kind}/", after)
    waiting: asyncio.Task[Any] | None = None
    revision = after
    try:
        yield {"revision": revision}  # at once, so that the client knows that it is connected
        while True:
            waiting = waiting or asyncio.ensure_future(anext(watch, None))
            done, _ = await asyncio.wait([waiting], timeout=PING_SECONDS)
            if not done:
                yield {"revision": revision, **({"store": "silent"} if silent() else {})}
                continue
            batch, waiting = waiting.result(), None
            if batch is None:
                return  # the store was closed
            for change in batch:
                line = _line(kind, change, wanted)
                if line is not None:
                    yield line
                revision = change.revision
    finally:
        if waiting is not None:
            waiting.cancel()
            await ended(waiting)
        await watch.aclose()


def _line(kind: str, change: Change, wanted: Callable[[object], bool]) -> object:
    """What to tell of a change; None if it is not wanted."""
    if change.entry is not None and wanted(from_entry(change.entry)):
        return Json(b'{"revision":%d,"put":%s}' % (change.revision, change.entry.value))
    if change.previous is not None and wanted(from_entry(change.previous)):
        return {"revision": change.revision, "delete": change.key.removeprefix(f"/{kind}/")}
    return None
