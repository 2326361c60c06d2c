"""What is no route is refused in our words, as everything else is."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from miniorch.api.app import make_app
from miniorch.clock import SystemClock
from miniorch.server import Server
from miniorch.state.memory import MemoryStore


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nodes/n1"), ("GET", "/nothing"), ("BREW", "/v1/version")])
async def test_a_route_that_does_not_exist_is_named(method: str, path: str) -> None:
    app = make_app(Server(MemoryStore(), SystemClock(), random.Random(1)).handlers, lambda node: "")
    sent: list[Any] = []

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": [], "scheme": "http", "server": None, "client": None}  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type]
    said = json.loads(sent[1]["body"])
    assert (sent[0]["status"], said["message"]) == (404, f"the server has no {method} {path}")
    assert said["remedy"]
