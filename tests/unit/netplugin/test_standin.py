"""The net process speaks for a machine whose agent is dead, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from netplugin.standin import SPEAK_SECONDS, gone, stand_in


class Leader:
    """Notes the heartbeats that it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    async def request(self, method: str, path: str, body: object = None) -> Any:
        self.heard.append((path, body))
        return {"next_in_seconds": 0.01}

    def stream(self, path: str) -> AsyncGenerator[Any, None]:
        raise AssertionError(f"nobody follows {path} here")


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class FakeAgent:
    """Accepts on a socket until it dies, with all its connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open: list[asyncio.StreamWriter] = []

    async def live(self) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.open.append(writer)

        self._server = await asyncio.start_unix_server(accept, str(self.path))

    def die(self) -> None:
        self._server.close()
        for writer in self.open:
            writer.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_it_speaks_while_the_agent_is_away_and_for_half_a_minute_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netplugin.standin.RECONNECT_SECONDS", 0.01)

    async def story() -> None:
        path, leader, clock = tmp_path / "agent.sock", Leader(), Hands()
        standing = asyncio.create_task(stand_in("n1", path, leader, clock))
        await asyncio.sleep(0.05)
        assert leader.heard == []  # an agent that was never there is not missed
        agent = FakeAgent(path)
        await agent.live()
        await until(lambda: agent.open)
        await asyncio.sleep(0.05)
        assert leader.heard == []
        agent.die()
        await until(lambda: len(leader.heard) >= 3)
        assert leader.heard[0][0] == "/v1/nodes/n1/heartbeat"
        assert leader.heard[0][1]["ready"] is False
        clock.at += SPEAK_SECONDS + 1
        await asyncio.sleep(0.05)
        said = len(leader.heard)
        await asyncio.sleep(0.05)
        assert len(leader.heard) == said
        standing.cancel()

    asyncio.run(story())


def test_a_socket_that_nobody_listens_on_is_a_dead_agent(tmp_path: Path) -> None:
    async def story() -> None:
        agent = FakeAgent(tmp_path / "agent.sock")
        await agent.live()
        watching = asyncio.create_task(gone(agent.path))
        await until(lambda: agent.open)
        assert not watching.done()
        agent.die()
        assert await watching is False  # it has been there

    asyncio.run(story())
    assert asyncio.run(gone(tmp_path / "agent.sock"))
