"""Which servers a machine knows of follows from the cluster's list of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agent.servers import keep_servers, servers_now
from miniorch.authority import KEY_FILE, write_private
from miniorch.codec import to_plain
from miniorch.errors import Unreachable
from miniorch.identity import SERVERS_FILE, is_worker, servers_of
from miniorch.model import Node, Role
from miniorch.servers import OneOf, ways
from miniorch.simulation.loop import run
from miniorch.spec import Resources


def node(number: int, role: Role = Role.MANAGER) -> Node:
    return Node(f"n{number}", "10.200.0.0/24", "10.200.0.1", Resources(), address=f"192.0.2.{number}", role=role)


class Cluster:
    """A server that has a list of nodes."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.changed = asyncio.Event()

    async def request(self, method: str, path: str, body: object = None) -> Any:
        return {"revision": 1, "items": [to_plain(one) for one in self.nodes]}

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        await self.changed.wait()
        yield {"revision": 2, "delete": "n1"}
        await asyncio.sleep(1000)


def test_a_worker_asks_all_managers_and_a_way_that_a_person_chose_stays_the_first() -> None:
    nodes = [node(2), node(1), node(3, Role.WORKER)]
    both = ["https://192.0.2.1:7440", "https://192.0.2.2:7440"]
    assert servers_now(["https://192.0.2.9:7440"], nodes, "n3") == both
    assert servers_now(["https://gateway:17440", both[1]], nodes, "n3") == ["https://gateway:17440", *both]
    assert servers_now([], nodes, "n1") == both[1:]


@pytest.mark.parametrize(("manager", "left"), [(False, ["https://192.0.2.1:7440"]), (True, [])])
def test_the_file_follows_the_nodes_and_a_worker_never_forgets_its_last_server(
    tmp_path: Path, manager: bool, left: list[str]
) -> None:
    async def story() -> None:
        write_private(tmp_path / SERVERS_FILE, b"https://192.0.2.7:7440\n")
        if manager:
            write_private(tmp_path / KEY_FILE, b"key")
        cluster = Cluster(node(1), node(3, Role.WORKER))
        keeping = asyncio.create_task(keep_servers(tmp_path, "n3", cluster))
        await asyncio.sleep(1)
        assert servers_of(tmp_path) == ["https://192.0.2.1:7440"]
        cluster.changed.set()
        await asyncio.sleep(1)
        assert servers_of(tmp_path) == left
        assert is_worker(tmp_path) is not manager
        assert ways(tmp_path, "/own.sock") == (["/own.sock"] if manager else left)
        keeping.cancel()

    run(story(), seed=1)


class Dead(Cluster):
    async def request(self, method: str, path: str, body: object = None) -> Any:
        raise Unreachable("off")


def test_servers_that_were_not_there_at_the_start_are_found_when_none_of_the_others_answers() -> None:
    async def story() -> None:
        known: list[Any] = [Dead()]
        servers = OneOf(known, lambda: known)
        known = [Dead(), Cluster(node(1))]
        with pytest.raises(Unreachable):
            await servers.request("GET", "/v1/nodes")
        assert (await servers.request("GET", "/v1/nodes"))["revision"] == 1

    run(story(), seed=1)
