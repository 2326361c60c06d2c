"""Who leads, and what keeps everybody else from writing. On virtual time: two servers share one memory store."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from miniorch.errors import NotLeader, UnknownOutcome, Unreachable
from miniorch.model import App
from miniorch.server import Server
from miniorch.simulation.loop import VirtualClock
from miniorch.state.memory import MemoryStore
from miniorch.state.records import path_of, put
from miniorch.state.store import Change, Compare, Entry, Listing, Operation

TTL = 10.0


class Line:
    """A server's way to the store: may be cut, may hang, may swallow the answer of a write."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.away = False
        self.silent = False
        self.swallow = 0  # so many answers to writes
        self.asked = 0

    async def _pass(self) -> None:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise Unreachable("the store is away")

    async def get(self, key: str) -> Entry | None:
        await self._pass()
        return await self.store.get(key)

    async def list(self, prefix: str) -> Listing:
        await self._pass()
        return await self.store.list(prefix)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        await self._pass()
        done = await self.store.txn(compares, operations)
        if self.swallow:
            self.swallow -= 1
            raise UnknownOutcome("no answer came")
        return done

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        async for batch in self.store.watch(prefix, after):
            while self.away or self.silent:
                await asyncio.sleep(0.1)
            yield batch

    async def grant(self, seconds: float) -> int:
        await self._pass()
        return await self.store.grant(seconds)

    async def keep_alive(self, lease: int) -> None:
        await self._pass()
        await self.store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._pass()
        await self.store.revoke(lease)

    async def compact(self, revision: int) -> None:
        await self._pass()

    async def revision(self) -> int:
        await self._pass()
        return await self.store.revision()

    async def close(self) -> None:
        pass


@dataclass
class Servers:
    store: MemoryStore
    lines: dict[str, Line] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self, name: str) -> Server:
        line = self.lines[name] = Line(self.store)
        server = self.servers[name] = Server(line, VirtualClock(), random.Random(name), name=name, ttl_seconds=TTL)
        await server.prepare()
        self.running[name] = asyncio.create_task(server.run())
        return server

    async def kill(self, name: str) -> None:
        self.running[name].cancel()
        await asyncio.gather(self.running.pop(name), return_exceptions=True)

    def leaders(self) -> list[str]:
        return [name for name in self.running if self.servers[name].leadership.epoch]

    async def until(self, condition: Callable[[], bool], seconds: float = 100.0) -> float:
        """How long it took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - began


pytestmark = pytest.mark.virtual(seed=1)


@pytest.fixture
@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    servers = Servers(MemoryStore(lambda: 0.001))
    yield servers
    for name in list(servers.running):
        await servers.kill(name)
    await servers.store.close()


def guard(server: Server) -> Compare:
    return Compare("/leaders/leader", server.leadership.epoch)


async def test_the_only_server_leads_at_once_also_after_it_was_killed(servers: Servers) -> None:
    await servers.start("a")
    assert await servers.until(lambda: servers.leaders() == ["a"]) < 0.1
    await servers.kill("a")
    await servers.start("a")
    assert await servers.until(lambda: servers.leaders() == ["a"]) < 0.1


async def test_one_of_several_leads_and_the_others_name_it(servers: Servers) -> None:
    a, b = await servers.start("a"), await servers.start("b")
    await servers.until(lambda: len(servers.leaders()) == 1)
    (leader,) = servers.leaders()
    follower = b if leader == "a" else a
    await servers.until(lambda: bool(follower.loop.cache.leaders))
    with pytest.raises(NotLeader, match=f"{leader} does"):
        follower.leadership.require()
    (b if leader == "b" else a).leadership.require()


async def test_another_leads_within_the_lease_when_the_leader_dies_and_at_once_when_it_resigns(
    servers: Servers,
) -> None:
    await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    b = await servers.start("b")
    await servers.kill("a")
    assert await servers.until(lambda: servers.leaders() == ["b"]) <= TTL + 0.5
    await servers.start("a")
    await servers.kill("b")
    await b.leadership.resign()
    assert await servers.until(lambda: servers.leaders() == ["a"]) < 0.5


async def test_what_a_deposed_leader_writes_is_refused_for_ever(servers: Servers) -> None:
    a = await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    old = guard(a)
    b = await servers.start("b")
    await servers.kill("a")
    write = [put(App("shop", 0.0))]
    await servers.until(lambda: servers.leaders() == ["b"])
    assert await servers.store.txn([old], write) is None
    assert await servers.store.txn([guard(b)], write) is not None
    await servers.kill("b")
    await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    assert await servers.store.txn([old], write) is None


@pytest.mark.parametrize("how", ["away", "silent"])
async def test_a_leader_without_its_store_stops_before_another_can_lead(
    servers: Servers, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    await servers.start("b")
    await asyncio.sleep(2 * TTL)
    setattr(servers.lines["a"], how, True)
    assert await servers.until(lambda: servers.leaders() == []) <= TTL * 2 / 3 + 0.1
    assert await servers.until(lambda: servers.leaders() == ["b"]) <= TTL * 2 / 3 + 0.5
    asked = servers.lines["a"].asked
    await asyncio.sleep(60.0)
    assert servers.lines["a"].asked - asked < 200  # it neither spins nor ends
    setattr(servers.lines["a"], how, False)
    if how == "away":
        await servers.kill("b")
        assert await servers.until(lambda: servers.leaders() == ["a"]) <= TTL + 6
    assert "server a no longer leads: its lease of 10 s was not renewed" in caplog.text


async def test_a_write_of_unknown_outcome_ends_the_term_and_the_next_begins_behind_it(servers: Servers) -> None:
    a = await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    epoch = a.leadership.epoch
    a.liveness.beat("n1")
    await asyncio.sleep(1.0)
    servers.lines["a"].swallow = 1
    await servers.store.txn([], [put(App("shop", 0.0, removing=True))])  # the loop erases it
    assert await servers.until(lambda: a.leadership.epoch > epoch) < 0.5
    assert await servers.store.get(path_of(App("shop", 0.0))) is None
    assert a.liveness.silent_for("n1") > 0.9  # nobody else has led: what was heard counts on
    await asyncio.sleep(5.0)
    assert len((await servers.store.list("/events/")).entries) == 1  # it was not done twice


async def test_a_new_leader_grants_every_node_grace(servers: Servers) -> None:
    await servers.start("a")
    b = await servers.start("b")
    await servers.until(lambda: servers.leaders() == ["a"])
    await asyncio.sleep(100.0)
    await servers.kill("a")
    await servers.until(lambda: servers.leaders() == ["b"])
    assert b.liveness.silent_for("n1") < -1.0  # counted only when it has had time to find the new leader


async def test_a_follower_whose_store_is_silent_says_so(servers: Servers) -> None:
    await servers.start("a")
    await servers.until(lambda: servers.leaders() == ["a"])
    b = await servers.start("b")
    await asyncio.sleep(60.0)
    assert not b.leadership.store_is_silent()
    servers.lines["b"].away = True
    await asyncio.sleep(60.0)
    assert b.leadership.store_is_silent()
    assert not servers.servers["a"].leadership.store_is_silent()
