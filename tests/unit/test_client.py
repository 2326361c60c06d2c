"""The client and the real HTTP server, over a real Unix socket."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from miniorch.api.app import MAX_BODY_BYTES, make_app
from miniorch.client import UnixTransport, list_kind, mirror
from miniorch.clock import SystemClock
from miniorch.errors import Conflict, NotFound, Unreachable, UsageError
from miniorch.listener import QuietServer, listen
from miniorch.model import AppSpec, Port, Service, ServiceSpec, TaskSpec
from miniorch.server import Server
from miniorch.state.memory import MemoryStore

SHOP = AppSpec({"web": ServiceSpec(TaskSpec("web:1"), ports=(Port(5000, 80),))})


class Api:
    """A server that can be stopped and started again on the same store and socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.store = MemoryStore()

    async def start(self) -> None:
        server = Server(self.store, SystemClock(), random.Random(1))
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


def check(path: Path, scenario: Callable[[Api, UnixTransport], Awaitable[None]]) -> None:
    async def main() -> None:
        api = Api(str(path / "api.sock"))
        await api.start()
        try:
            await scenario(api, UnixTransport(api.path, 5.0))
        finally:
            await api.stop()
            await api.store.close()

    asyncio.run(main())


def test_answers_and_refusals_arrive_as_they_were_sent(tmp_path: Path) -> None:
    async def scenario(api: Api, transport: UnixTransport) -> None:
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

    check(tmp_path, scenario)


def test_a_mirror_survives_a_server_that_goes_away_and_misses_nothing(tmp_path: Path) -> None:
    async def scenario(api: Api, transport: UnixTransport) -> None:
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

    check(tmp_path, scenario)


def test_the_socket_admits_its_owner_and_group_only(tmp_path: Path) -> None:
    async def scenario(api: Api, transport: UnixTransport) -> None:
        assert stat.S_IMODE(Path(api.path).stat().st_mode) == 0o660

    check(tmp_path, scenario)


def test_no_socket_is_one_readable_error(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        UnixTransport(str(tmp_path / "none.sock")).request_now("GET", "/v1/version")
