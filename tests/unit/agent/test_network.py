"""The agent answers for its node's network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from agent.inside import Inside
from agent.network import look
from miniorch.clock import SystemClock
from miniorch.errors import Conflict
from miniorch.simulation.engine import FakeEngine


def test_get_looks_and_post_mends() -> None:
    asked: list[tuple[str, ...]] = []
    said: list[Mapping[str, Any]] = []

    async def network(*words: str) -> bytes:
        asked.append(words)
        return b'{"node":"node1"}'

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: Mapping[str, Any]) -> None:
        said.append(message)

    async def ask() -> None:
        app = Inside(
            lambda task: None,
            FakeEngine(SystemClock(), random.Random(1)),
            network=network,
            admit=lambda caller, path: None,
        )
        for method in ("GET", "POST"):
            await app({"method": method, "path": "/v1/nodes/node1/network", "query_string": b""}, receive, send)

    asyncio.run(ask())
    assert asked == [("--verify",), ("--verify", "--repair")]
    assert [message.get("status", message.get("body")) for message in said] == [200, b'{"node":"node1"}'] * 2


def test_what_keeps_the_look_from_happening_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("MINIORCH_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("MINIORCH_STATE_DIR", str(tmp_path))
    with pytest.raises(Conflict, match=r"node1 could not be looked at.*nothing is known of node node1"):
        asyncio.run(look("node1", "--verify"))
