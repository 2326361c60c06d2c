"""What the watches of a node's two processes are told of endpoints, and when they must list again."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from miniorch.api.routes import Call
from miniorch.api.watch import Watch
from miniorch.clock import SystemClock
from miniorch.errors import Compacted
from miniorch.identity import LOCAL
from miniorch.model import Backend, Endpoints, Task
from miniorch.server import Server
from miniorch.spec import Port, TaskSpec
from miniorch.state.memory import MemoryStore
from miniorch.state.records import put

INNER = Endpoints("shop", "db", "10.201.0.1")
OUTER = Endpoints("other", "web", "10.201.0.2", (Port(80, 8080),))
BACKEND = (Backend("t1", 1, "n1", "10.200.0.2", ready=True),)


@pytest.fixture
@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """Nothing but its copy of the store runs. n1 has a task of the shop."""
    made = Server(MemoryStore(), SystemClock(), random.Random(1))
    await made.prepare()
    await made.store.txn([], [put(Task("t1", "shop", "db", 1, TaskSpec("db"), 0.0, node="n1")), put(INNER), put(OUTER)])
    following = asyncio.create_task(made.loop.cache.follow(made.store, made._changed))
    try:
        yield made
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await made.store.close()


async def begun(server: Server, **query: str) -> Watch:
    revision = str(await server.store.revision())
    watch = await server.handlers.watch(
        Call(LOCAL, {"kind": "endpoints"}, {"node": "n1", "revision": revision, **query})
    )
    await watch.take()
    return watch


async def write(server: Server, *items: object) -> None:
    for item in items:
        await server.store.txn([], [put(item)])


async def told(watch: Watch) -> list[object]:
    """The last line is of the other app's endpoints: until then."""
    found: list[object] = []
    while not found or not str(found[-1]).startswith("other/web"):
        for line in map(json.loads, await watch.take()):
            item = line.get("put", {})
            found.append(f"{item['app']}/{item['service']} {item['vip']} {len(item.get('backends', ()))}")
    return found


async def test_agent_hears_of_inner_services_when_their_address_changes_and_net_of_each_task(server: Server) -> None:
    agent, net = await begun(server, outside="1"), await begun(server)
    moved, opened = replace(INNER, vip="10.201.0.9"), replace(INNER, vip="10.201.0.9", ports=(Port(1, 2),))
    inner, outer = replace(INNER, backends=BACKEND), replace(OUTER, backends=BACKEND)
    full = replace(opened, backends=BACKEND)
    await write(server, inner, INNER, moved, opened, full, replace(full, ports=()), moved, outer)
    assert await told(agent) == [
        *("shop/db 10.201.0.9 0", "shop/db 10.201.0.9 0", "shop/db 10.201.0.9 1", "shop/db 10.201.0.9 1"),
        "other/web 10.201.0.2 1",
    ]
    assert len(await told(net)) == 8
    agent.close()
    net.close()


async def test_first_task_of_another_app_makes_both_list_again(server: Server) -> None:
    agent, net = await begun(server, outside="1"), await begun(server)
    await write(server, Task("t2", "third", "web", 1, TaskSpec("web"), 0.0, node="n1"))
    for watch in (agent, net):
        with pytest.raises(Compacted, match="tasks of other apps"):
            await watch.take()
        watch.close()
