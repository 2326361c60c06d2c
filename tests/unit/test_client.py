"""The client and the real HTTP server, over a real Unix socket."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniorch.api.app import MAX_BODY_BYTES, make_app
from miniorch.client import list_kind, mirror
from miniorch.clock import SystemClock
from miniorch.codec import encode
from miniorch.errors import Compacted, Conflict, MiniorchError, NotFound, NotLeader, Unreachable, UsageError
from miniorch.listener import QuietServer, listen
from miniorch.model import Service
from miniorch.server import Server
from miniorch.servers import OneOf
from miniorch.spec import AppSpec, Port, ServiceSpec, TaskSpec
from miniorch.state.memory import MemoryStore
from miniorch.state.store import Put
from miniorch.transport import HttpTransport

SHOP = AppSpec({"web": ServiceSpec(TaskSpec("web:1"), ports=(Port(5000, 80),))})
WEB = Service("two", "web", SHOP.services["web"], "10.201.0.1")


class Api:
    """A server that can be stopped and started again on the same store and socket."""

    def __init__(self, path: str, store: MemoryStore | None = None, name: str = "one") -> None:
        self.path = path
        self.store = store or MemoryStore()
        self.name = name

    async def start(self) -> None:
        server = Server(self.store, SystemClock(), random.Random(1), name=self.name)
        await server.prepare()
        self.http = QuietServer(make_app(server.handlers, lambda node: "unix:///nowhere"))
        self.loop = asyncio.create_task(server.run())
        self.serving = asyncio.create_task(self.http.serve([listen(Path(self.path), 0o660)]))
        async with asyncio.timeout(5):
            while not self.http.started:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.http.stop()
        await self.serving
        self.loop.cancel()
        await asyncio.gather(self.loop, return_exceptions=True)


@pytest.fixture
@asynccontextmanager
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(str(tmp_path / "api.sock"))
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
        await api.store.close()


@pytest.fixture
def transport(tmp_path: Path) -> HttpTransport:
    return HttpTransport(str(tmp_path / "api.sock"), timeout_seconds=5.0)


async def test_answers_and_refusals_arrive_as_they_were_sent(api: Api, transport: HttpTransport) -> None:
    answer = await transport.request("PUT", "/v1/apps/shop", SHOP)
    assert answer["changes"][0]["action"] == "create"
    services = await list_kind(transport, Service)
    assert services.items["shop/web"].spec == SHOP.services["web"]
    with pytest.raises(Conflict, match="port 5000"):
        await transport.request("PUT", "/v1/apps/other", SHOP)
    with pytest.raises(NotFound, match="no such service") as refused:
        await transport.request("GET", "/v1/explain/shop/nope")
    assert (refused.value.code, refused.value.remedy) == ("E0201", "miniorch services")
    with pytest.raises(UsageError, match="larger than 4 MiB"):
        await transport.request("PUT", "/v1/apps/shop", "x" * (MAX_BODY_BYTES + 1))


async def test_a_mirror_survives_a_server_that_goes_away_and_misses_nothing(api: Api, transport: HttpTransport) -> None:
    seen = mirror(transport, Service)
    assert (await anext(seen)).items == {}
    await transport.request("PUT", "/v1/apps/shop", SHOP)
    assert list((await anext(seen)).items) == ["shop/web"]
    await api.stop()
    with pytest.raises(Unreachable, match="does not answer") as refused:
        await transport.request("GET", "/v1/version")
    assert refused.value.remedy == "miniorch up"
    await api.start()
    await transport.request("PUT", "/v1/apps/two", AppSpec({"web": ServiceSpec(TaskSpec("x"))}))
    async with asyncio.timeout(10):
        while sorted((await anext(seen)).items) != ["shop/web", "two/web"]:
            pass
    await seen.aclose()  # type: ignore[attr-defined]


class Told:
    """A transport that answers with its name, or refuses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.refusal: MiniorchError | None = None
        self.lines: list[Any] = [{"revision": 1}]

    async def request(self, method: str, path: str, body: object = None) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return self.name

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        for line in self.lines:
            yield {"from": self.name, **line}


async def test_of_several_servers_the_one_that_answered_is_kept_until_it_is_away_or_does_not_lead() -> None:
    a, b = Told("a"), Told("b")
    servers = OneOf([a, b])
    assert await servers.request("GET", "/") == "a"
    a.refusal = NotLeader("b does")
    assert [await servers.request("GET", "/") for _ in range(2)] == ["b", "b"]
    a.refusal, b.refusal = None, Unreachable("dead")
    assert [await servers.request("GET", "/") for _ in range(2)] == ["a", "a"]
    a.refusal = b.refusal = Unreachable("dead")
    with pytest.raises(Unreachable):
        await servers.request("GET", "/")
    a.refusal = b.refusal = NotFound("no such task")  # an answer is an answer
    with pytest.raises(NotFound):
        await servers.request("GET", "/")


async def test_a_stream_is_left_when_its_server_hears_nothing_from_the_store_and_there_is_another() -> None:
    a, b = Told("a"), Told("b")
    a.lines = [{"revision": 1}, {"revision": 1, "store": "silent"}, {"revision": 2}]
    assert len([line async for line in OneOf([a]).stream("/")]) == 3
    servers = OneOf([a, b])
    with pytest.raises(Unreachable, match="hears nothing"):
        [line async for line in servers.stream("/")]
    assert [line["from"] async for line in servers.stream("/")] == ["b"]


async def test_a_mirror_whose_revision_was_compacted_or_is_of_another_store_lists_again(
    api: Api, transport: HttpTransport
) -> None:
    """The server finds out about compaction when the answer has begun: the error comes as a line of the stream."""
    for number in range(20):
        await transport.request("PUT", f"/v1/apps/a{number}", AppSpec({"web": ServiceSpec(TaskSpec("x"))}))
    with pytest.raises(Compacted, match="was not this store's"):
        await anext(transport.stream("/v1/watch/services?revision=100000"))
    seen = mirror(transport, Service)
    await anext(seen)
    await api.stop()
    api.store, old = MemoryStore(), api.store  # a new one, at a lower revision
    await old.close()
    await api.start()
    await transport.request("PUT", "/v1/apps/two", AppSpec({"web": ServiceSpec(TaskSpec("x"))}))
    async with asyncio.timeout(10):
        while list((await anext(seen)).items) != ["two/web"]:
            pass
    await api.stop()
    for number in range(3):
        await api.store.txn([], [Put(f"/services/two/s{number}", encode(replace(WEB, name=f"s{number}")))])
    await api.store.compact(await api.store.revision())
    await api.start()
    async with asyncio.timeout(10):
        while len((await anext(seen)).items) != 4:
            pass
    await seen.aclose()  # type: ignore[attr-defined]


async def test_what_only_the_leader_does_is_done_whoever_is_asked_first(api: Api, tmp_path: Path) -> None:
    second = Api(str(tmp_path / "second.sock"), api.store, "two")
    await second.start()
    try:
        ways = [HttpTransport(one.path, timeout_seconds=5.0) for one in (api, second)]
        refused = []
        for way in ways:
            with pytest.raises((NotLeader, NotFound)) as error:
                await way.request("DELETE", "/v1/nodes/nobody")
            refused.append(type(error.value))
        assert refused == [NotFound, NotLeader], "the first leads"
        for order in ((api.path, second.path), (second.path, api.path)):
            with pytest.raises(NotFound, match="nobody"):
                await HttpTransport(*order, timeout_seconds=5.0).request("DELETE", "/v1/nodes/nobody")
    finally:
        await second.stop()


async def test_the_socket_admits_its_owner_and_group_only(api: Api, transport: HttpTransport) -> None:
    assert stat.S_IMODE(Path(api.path).stat().st_mode) == 0o660


def test_no_socket_is_one_readable_error(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        HttpTransport(str(tmp_path / "none.sock")).request_now("GET", "/v1/version")
