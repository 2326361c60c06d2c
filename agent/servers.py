"""Where the servers are, kept up to date on this machine's disk.

The problem: a machine that joined when there was one manager would ask that one for ever, also when three others could
answer. The idea: the cluster's own list of nodes says which of them are managers, and it comes here as every other kind
of object does. Whoever asks a server and gets no answer (`miniorch/servers.py`) reads the file anew.
"""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from miniorch.authority import write_private
from miniorch.client import Transport, mirror
from miniorch.errors import MiniorchError
from miniorch.identity import SERVER_PORT, SERVERS_FILE, is_worker, server_url, servers_of
from miniorch.model import Node, Role

log = logging.getLogger("agent")

AGAIN_SECONDS = 5.0


async def keep_servers(folder: Path, own: str, transport: Transport) -> None:
    """Write the servers of all managers but `own` into a state directory whenever they change, for ever."""
    while True:
        try:
            async for snapshot in mirror(transport, Node):
                known = servers_of(folder)
                wanted = servers_now(known, snapshot.items.values(), own)
                if wanted != known and (wanted or not is_worker(folder)):
                    write_private(folder / SERVERS_FILE, "".join(f"{one}\n" for one in wanted).encode())
                    log.info("servers on other machines: %s", ", ".join(wanted) or "none")
        except (MiniorchError, OSError) as error:
            log.warning("where the servers are is not known any more: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)


def servers_now(known: Iterable[str], nodes: Iterable[Node], own: str) -> list[str]:
    """The servers to ask. What a person chose at `join`, another port of a gateway's say, stays the first."""
    managers = [one for one in nodes if one.role is Role.MANAGER and one.address and one.name != own]
    chosen = [one for one in known if not one.endswith(f":{SERVER_PORT}")]
    return [*chosen, *sorted(server_url(one.address) for one in managers)]
