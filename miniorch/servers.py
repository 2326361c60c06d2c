"""Several servers as one: which there are, and what is done when one of them does not answer.

The problem: any of the managers may be off, cut off, or only follow another. The idea: agents stay with the one that
answered, and go on to the next when it fails them (`OneOf`); a command tries one after the other (`transport.py`).
Which there are stands in a file that the agent keeps up to date (`agent/servers.py`) and that is read again after a
failure, so a manager that joins later is found without a restart.

Who does this for real: etcd's clients with their list of endpoints; swarm's agents, to whom a manager sends the list.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from miniorch.client import Transport
from miniorch.errors import NotLeader, Unreachable
from miniorch.identity import is_worker, servers_of
from miniorch.transport import API_SOCKET, READ_TIMEOUT_SECONDS, STATE_DIRECTORY, HttpTransport


class OneOf:
    """Several servers as one `Transport`: stays with the one that answered, and goes on to the next when that one is
    away, has lost its store, or only follows. For requests that do no harm when they are done twice.
    """

    def __init__(self, servers: Sequence[Transport], look: Callable[[], Sequence[Transport]] | None = None) -> None:
        """`look` says which servers there are by now; it is asked when all have failed once."""
        self._servers = tuple(servers)
        self._look = look
        self._at = 0

    async def request(self, method: str, path: str, body: object = None) -> Any:
        left = len(self._servers)
        while True:
            at = self._at
            try:
                return await self._servers[at].request(method, path, body)
            except (Unreachable, NotLeader):
                self._leave(at)
                left -= 1
                if left <= 0:
                    raise

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        at = self._at
        try:
            async with contextlib.aclosing(self._servers[at].stream(path)) as lines:
                async for line in lines:
                    if line.get("store") == "silent" and len(self._servers) > 1:
                        raise Unreachable("this server hears nothing from its store", remedy="miniorch doctor")
                    yield line
        except Unreachable:
            self._leave(at)
            raise

    def _leave(self, at: int) -> None:
        if self._at == at:  # of those who fail together, one moves us on
            self._at = (at + 1) % len(self._servers)
            if self._at == 0 and self._look is not None:
                self._servers = tuple(self._look())


def transport_to(
    servers: Sequence[str], folder: Path = Path(STATE_DIRECTORY), timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> Transport:
    """The way to these servers; without any, to those that this machine knows, whoever they are at the time."""

    def now() -> list[HttpTransport]:
        found = servers or ways(folder)
        return [HttpTransport(one, folder=folder, timeout_seconds=timeout_seconds) for one in found]

    return OneOf(now(), None if servers else now)


def ways(folder: Path = Path(STATE_DIRECTORY), own: str = API_SOCKET) -> list[str]:
    """Whom a machine asks: a manager its own server, and those of the others while that one is away."""
    others = servers_of(folder)
    return others if is_worker(folder) else [own, *others]
