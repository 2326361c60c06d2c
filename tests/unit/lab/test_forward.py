"""What the lab publishes answers on localhost, whichever of its nodes is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from miniorch.codec import to_plain
from miniorch.ending import end
from miniorch.lab.forward import Forwarder
from miniorch.model import Endpoints, Node
from miniorch.spec import Port, Resources


class Said:
    """A server that lists what it is told to, and then nothing changes."""

    def __init__(self, **lists: list[Any]) -> None:
        self.lists = lists

    async def request(self, method: str, path: str, body: object = None) -> Any:
        return {"revision": 1, "items": to_plain(self.lists[path.removeprefix("/v1/")])}

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        await asyncio.Event().wait()
        yield {}


def node(name: str, address: str) -> Node:
    return Node(name, "10.200.0.0/24", "10.200.0.1", Resources(1.0, 1 << 30), address=address)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    writer.close()


async def test_a_connection_goes_to_the_next_node_when_the_first_is_away(tmp_path: Path) -> None:
    far = await asyncio.start_server(shout, "127.0.0.2", 0)
    taken = await asyncio.start_server(shout, "127.0.0.1", 0)
    port, other = (server.sockets[0].getsockname()[1] for server in (far, taken))
    ports = (Port(port, 80), Port(other, 81))
    said = Said(
        nodes=[node("node1", "127.0.0.3"), node("node2", "127.0.0.2")],
        endpoints=[Endpoints("shop", "web", "10.201.0.1", ports)],
    )
    forwarding = asyncio.create_task(Forwarder(said, tmp_path).run())
    async with asyncio.timeout(5):
        while not (tmp_path / "ports.json").exists() or str(port) not in (tmp_path / "ports.json").read_text():
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"HELLO"
        writer.close()
    known = json.loads((tmp_path / "ports.json").read_text())
    assert known[str(port)] == "shop/web"
    assert "taken by another program" in known[str(other)]
    await end(forwarding)
    far.close()
    taken.close()
