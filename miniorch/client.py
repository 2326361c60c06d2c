"""What everybody asks of the server: a request, a stream of JSON lines, and the mirror that is built on them.

The problem: agents, the net process and the command line must learn of every change without polling, survive a server
that goes away, and run under simulation, where there is no socket. The idea: two verbs (`Transport`): `request`, one
JSON answer, and `stream`, JSON lines for as long as both sides live. Everything else is built on top, above all
`mirror`: list once, watch from that revision, list again whenever anything is in doubt. Its consumer sees complete
snapshots and never an event, so a lost event costs nothing (level-triggered).

Who does this for real: client-go's reflector and informer. Where we differ: the whole snapshot is handed over again
for each batch of changes, which is simple and fast enough for one node's share. Next file: `miniorch/transport.py`.
"""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from miniorch.codec import from_plain
from miniorch.errors import Compacted, MiniorchError
from miniorch.model import key_of, kind_of

T = TypeVar("T")

PING_SECONDS = 10.0  # the server sends an empty change this often, so silence means that it is gone
RECONNECT_SECONDS = 0.5


class Transport(Protocol):
    """How requests reach the server. Errors arrive as `MiniorchError`s; no answer is `Unreachable`."""

    async def request(self, method: str, path: str, body: object = None) -> Any:
        """The decoded JSON answer."""

    def stream(self, path: str) -> AsyncGenerator[Any, None]:
        """One decoded JSON value per line, until the server ends the stream. Closing the generator hangs up."""


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """Everything of one kind at one revision, by key."""

    revision: int
    items: dict[str, T]


async def list_kind(transport: Transport, cls: type[T], query: str = "") -> Snapshot[T]:
    """All objects of a kind, now. `query` narrows it, e.g. `node=node1` for tasks and volumes."""
    answer = await transport.request("GET", f"/v1/{kind_of(cls)}{'?' if query else ''}{query}")
    items = [from_plain(cls, plain) for plain in answer["items"]]
    return Snapshot(answer["revision"], {key_of(item): item for item in items})


async def mirror(transport: Transport, cls: type[T], query: str = "") -> AsyncGenerator[Snapshot[T], None]:
    """A complete snapshot now and after every change, for ever: it reconnects, and lists again when it must.

    Nothing is yielded while the server is away: the consumer keeps acting on what it knows. What will not pass by
    itself, a refusal say, is logged.
    """
    import asyncio
    import logging

    said = ""
    while True:
        try:
            snapshot = await list_kind(transport, cls, query)
            yield snapshot
            items, revision = dict(snapshot.items), snapshot.revision
            while True:
                path = f"/v1/watch/{kind_of(cls)}?revision={revision}{'&' if query else ''}{query}"
                async with contextlib.aclosing(transport.stream(path)) as changes:
                    async for change in changes:
                        revision = change["revision"]
                        if "put" in change:
                            item = from_plain(cls, change["put"])
                            items[key_of(item)] = item
                        elif "delete" in change:
                            items.pop(change["delete"], None)
                        else:
                            continue
                        yield Snapshot(revision, dict(items))
                await asyncio.sleep(RECONNECT_SECONDS)
        except Compacted:
            continue
        except MiniorchError as error:
            if not error.temporary and error.message != said:
                logging.error("following %s: %s", kind_of(cls), said := error.message)
            await asyncio.sleep(RECONNECT_SECONDS)
