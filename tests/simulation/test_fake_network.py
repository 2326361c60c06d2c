"""Messages get lost here in both ways: before they were done, and after."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from miniorch.api.routes import Route
from miniorch.client import list_kind, mirror
from miniorch.ending import end
from miniorch.errors import NotFound, Unreachable
from miniorch.identity import LOCAL
from miniorch.model import Node
from miniorch.server import Server
from miniorch.simulation.loop import VirtualClock
from miniorch.simulation.network import SimTransport, Weather, Wire
from miniorch.state.memory import MemoryStore

CAPACITY = {"capacity": {"cpus": 4.0, "memory_bytes": 4096}, "engine": "Fake"}


pytestmark = pytest.mark.virtual(seed=1)


@pytest.fixture
def seed() -> int:
    return 1


@pytest.fixture
def wire(seed: int) -> Wire:
    return Wire(lambda link: random.Random(f"{seed} {link}"))


@pytest.fixture
@asynccontextmanager
async def server(wire: Wire, seed: int) -> AsyncIterator[Server]:
    """It runs, and leads."""
    server = Server(MemoryStore(), VirtualClock(), random.Random(seed))
    await server.prepare()
    wire.up(server.handlers)
    running = asyncio.create_task(server.run())
    while not server.leadership.epoch:
        await asyncio.sleep(0.01)
    yield server
    await wire.down()
    await end(running)
    await server.store.close()


async def test_request_and_its_errors_arrive_as_over_a_socket(wire: Wire, server: Server) -> None:
    transport = SimTransport(wire)
    node = await transport.request("POST", "/v1/nodes/node1/register", CAPACITY)
    assert node["subnet"] == "10.200.0.0/24"
    assert list((await list_kind(transport, Node)).items) == ["node1"]
    with pytest.raises(NotFound):
        await transport.request("GET", "/v1/nothing/here/at/all")


@pytest.mark.parametrize(
    ("weather", "happened"),
    [(Weather(lost_requests=1.0), False), (Weather(lost_answers=1.0), True)],
)
async def test_lost_request_has_not_happened_and_lost_answer_has(
    wire: Wire, server: Server, weather: Weather, happened: bool
) -> None:
    wire.weather = weather
    with pytest.raises(Unreachable):
        await SimTransport(wire).request("POST", "/v1/nodes/node1/register", CAPACITY)
    assert (await server.store.get("/nodes/node1") is not None) is happened


async def test_server_that_is_down_does_not_answer(wire: Wire, server: Server) -> None:
    await wire.down()
    with pytest.raises(Unreachable, match="does not answer"):
        await SimTransport(wire).request("GET", "/v1/nodes")


async def test_mirror_follows_through_a_restart_of_the_server_and_a_pulled_cable(wire: Wire, server: Server) -> None:
    transport, seen = SimTransport(wire), []
    admin = SimTransport(wire)

    async def follow() -> None:
        async for snapshot in mirror(transport, Node):
            seen.append(sorted(snapshot.items))

    async def join(name: str) -> None:
        await admin.request("POST", f"/v1/nodes/{name}/register", CAPACITY)
        await asyncio.sleep(5)

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(1)
    await join("node1")
    await wire.down()
    await asyncio.sleep(3)
    wire.up(server.handlers)
    await join("node2")
    transport.cut = True
    await join("node3")
    assert seen[-1] == ["node1", "node2"]
    transport.cut = False
    await asyncio.sleep(1)
    assert seen[-1] == ["node1", "node2", "node3"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("seed", range(5))
async def test_mirror_loses_nothing_in_bad_weather(wire: Wire, server: Server) -> None:
    wire.weather = Weather((0.001, 0.3), 0.1, 0.1, 0.2)
    last: list[list[str]] = []

    async def follow() -> None:
        async for snapshot in mirror(SimTransport(wire), Node):
            last[:] = [sorted(snapshot.items)]

    following = asyncio.ensure_future(follow())
    joined = 0
    while joined < 20:
        try:
            await SimTransport(wire).request("POST", f"/v1/nodes/node{joined:02}/register", CAPACITY)
            joined += 1
        except Unreachable:
            await asyncio.sleep(0.5)
    await asyncio.sleep(60)
    assert last == [[f"node{number:02}" for number in range(20)]]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def register(wire: Wire, name: str) -> None:
    """From node1's place, by an administrator."""
    await SimTransport(wire, "node1", caller=LOCAL).request("POST", f"/v1/nodes/{name}/register", CAPACITY)


async def outcomes(wire: Wire) -> set[str]:
    """What many requests over a bad line end with, each for a node of its own."""
    seen = set()
    for number in range(10):
        try:
            await register(wire, f"node{number}")
        except Unreachable as error:
            seen.add(error.message.partition("(")[2])
    return seen


@pytest.mark.parametrize("answers", [True, False])
async def test_silent_direction_decides_whether_it_was_done(wire: Wire, server: Server, answers: bool) -> None:
    ends = ("server1", "node1") if answers else ("node1", "server1")
    wire.block(*ends)
    assert await outcomes(wire) == {"no way there)", "no answer came)"}  # some fail at once, others wait
    done = len((await server.store.list("/nodes/")).entries)
    assert (done > 0) is answers
    await SimTransport(wire, "node2").request("GET", "/v1/nodes")
    wire.unblock(*ends)
    assert await outcomes(wire) == set()


async def test_what_is_on_its_way_arrives_when_the_silence_ends_soon(wire: Wire, server: Server) -> None:
    asked = asyncio.ensure_future(register(wire, "node1"))
    await asyncio.sleep(0)
    wire.block("node1", "server1")
    await asyncio.sleep(10)
    assert not asked.done()
    wire.unblock("node1", "server1")
    await asked


async def test_repeated_request_is_done_twice(wire: Wire, server: Server) -> None:
    calls: list[str] = []
    wire.up(Counting(calls))  # type: ignore[arg-type]
    wire.weather = Weather(repeated_requests=1.0)
    await SimTransport(wire).request("GET", "/v1/version")
    await asyncio.sleep(10)
    assert calls == ["version", "version"]


class Counting:
    """Handlers that only count."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    async def answer(self, route: Route, call: object) -> object:
        self.calls.append(route.handler)
        return {}


async def test_reset_breaks_streams_off_in_the_middle_and_a_slow_reader_loses_nothing(
    wire: Wire, server: Server
) -> None:
    seen: dict[str, list[int]] = {"node1": [], "node2": []}

    async def follow(party: str) -> None:
        async for line in SimTransport(wire, party).stream("/v1/watch/nodes?revision=0"):
            seen[party] += [line["revision"]] if "put" in line else []
            await asyncio.sleep(0.5 if party == "node1" else 0.0)

    slow, other = asyncio.ensure_future(follow("node1")), asyncio.ensure_future(follow("node2"))
    for number in range(30):
        await register(wire, f"node{number}")
    await asyncio.sleep(1)
    all_of_them = list(seen["node2"])
    assert len(all_of_them) == 30
    assert len(seen["node1"]) < 10
    await asyncio.sleep(30)
    assert seen["node1"][:30] == all_of_them
    wire.reset("node1", "server1")
    with pytest.raises(Unreachable, match="broke off"):
        await slow
    assert not other.done()
    other.cancel()
