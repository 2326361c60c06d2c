"""`python -m netplugin.main --verify`: is this node's kernel as the state says? What `miniorch net verify` runs.

It asks the server itself, and no net process: one that has stopped listening would find everything in order. While the
server is away it takes what the net process has kept on disk, and says so. A change may be on its way at this very
moment, so a difference counts when it is still there a second later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from miniorch.client import Transport, list_kind
from miniorch.errors import Conflict, MiniorchError
from miniorch.model import Cluster, Endpoints, Node
from netplugin.driver import EndpointNotes
from netplugin.kernel import Kernel
from netplugin.known import Known, learn
from netplugin.topology import Topology, topology
from netplugin.verify import Difference

ASK_SECONDS = 5.0
AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `repaired` was there and is no more."""

    node: str
    differences: tuple[str, ...]
    repaired: tuple[str, ...] = ()
    note: str = ""


async def ask(transport: Transport, node: str) -> Known:
    """What the server says now. Raises `MiniorchError`."""
    known = Known()
    for kind, query in ((Cluster, ""), (Node, ""), (Endpoints, f"node={node}")):
        known = learn(known, node, kind, await list_kind(transport, kind, query))
    return known


async def check(
    node: str, transport: Transport, kernel: Kernel, notes: EndpointNotes, kept: Known, *, repair: bool
) -> Report:
    """Compare, and with `repair` mend and compare again. Raises `MiniorchError` if nothing is known to compare with."""
    note = ""

    async def wanted() -> Topology:
        nonlocal note
        try:
            async with asyncio.timeout(ASK_SECONDS):
                known = await ask(transport, node)
        except (MiniorchError, TimeoutError) as error:
            known, note = kept, f"the server does not answer ({error}): compared with what this node heard last"
        if known.cluster is None or known.node is None:
            raise Conflict(f"nothing is known of node {node} to compare with", remedy="miniorch up; miniorch nodes")
        return topology(known.cluster, known.node, known.endpoints, known.peers, notes.all())

    found = await _lasting(kernel, wanted, notes)
    if not repair or not found:
        return Report(node, tuple(one.describe() for one in found), (), note)
    await asyncio.to_thread(kernel.repair, await wanted(), found)
    left = {one.what: one for one in await _lasting(kernel, wanted, notes)}
    mended = tuple(one.describe() for one in found if one.what not in left)
    return Report(node, tuple(one.describe() for one in left.values()), mended, note)


async def _lasting(kernel: Kernel, wanted: Callable[[], Awaitable[Topology]], notes: EndpointNotes) -> list[Difference]:
    """The differences that are there now and after a moment."""

    def endpoints() -> dict[str, str]:
        return {note.id: note.address for note in notes.all()}

    found = await asyncio.to_thread(kernel.verify, await wanted(), endpoints)
    if not found:
        return []
    await asyncio.sleep(AGAIN_SECONDS)
    before = {one.what for one in found}
    again = await asyncio.to_thread(kernel.verify, await wanted(), endpoints)
    return [one for one in again if one.what in before]
