"""A server whose store is away says so to whoever asks, and serves as soon as it is there."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from miniorch.errors import NotLeader, Unreachable
from miniorch.listener import listen
from miniorch.model import Cluster
from miniorch.pool import DEFAULT_POOL
from miniorch.server import prepared
from miniorch.state.memory import MemoryStore
from miniorch.state.records import read
from miniorch.state.store import Entry
from miniorch.transport import HttpTransport
from miniorch.up import connects


class Away(MemoryStore):
    """Until `problem` is taken away."""

    problem = "no etcd answers at h:1"

    async def get(self, key: str) -> Entry | None:
        if self.problem:
            raise Unreachable(self.problem, remedy="systemctl status etcd")
        return await super().get(key)


async def test_until_the_store_answers_everybody_hears_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniorch.server.STORE_AWAY_SECONDS", 0.01)
    store, socket = Away(), tmp_path / "api.sock"
    options = argparse.Namespace(
        state_directory=str(tmp_path), name="n1", pool=DEFAULT_POOL, socket=str(socket), store="", lease_seconds=10.0,
        heartbeat_seconds=1.0,
    )  # fmt: skip
    preparing = asyncio.create_task(prepared(options, store, random.Random(1)))
    transport = HttpTransport(str(socket))

    async def said(method: str, path: str, body: object = None) -> tuple[str, str]:
        with pytest.raises(NotLeader) as told:
            await transport.request(method, path, body)
        assert told.value.code == Unreachable.code
        return told.value.message, told.value.remedy

    async with asyncio.timeout(10):
        while not connects(str(socket)):
            await asyncio.sleep(0.01)
    for problem in ("no etcd answers at h:1", "etcd h:1 did not answer in time"):
        store.problem = problem
        wanted = (f"the server waits for its store: {problem}", "systemctl status etcd")
        async with asyncio.timeout(10):
            while await said("GET", "/v1/version") != wanted:
                await asyncio.sleep(0.01)
        assert await said("PUT", "/v1/apps/shop", {"services": {}}) == wanted
    with contextlib.closing(listen(other := tmp_path / "other.sock", 0o600)):  # a command goes on to the next
        several = HttpTransport(str(socket), str(other), timeout_seconds=0.1)
        with pytest.raises(Unreachable, match="other"):
            await several.request("GET", "/v1/version")
    store.problem = ""
    server = await asyncio.wait_for(preparing, 10)
    assert not connects(str(socket))
    assert await read(server.store, Cluster, "cluster") is not None
    await store.close()
