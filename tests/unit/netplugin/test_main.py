"""What the net process remembers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miniorch.client import Snapshot
from miniorch.codec import to_plain
from miniorch.errors import Conflict, Unreachable
from miniorch.listener import listen, take_lock
from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.driver import Endpoint
from netplugin.known import Known, learn, load, save
from netplugin.main import Net
from netplugin.topology import Topology

CLUSTER = Cluster("c1")
NODE = Node("node1", "10.200.0.0/24", "127.0.0.9", Resources(), ports_in_use={"80": "nginx"})
OTHER = Node("node2", "10.200.1.0/24", "10.200.1.1", Resources())
DB = Endpoints("chat", "db", "10.201.0.3")


def test_snapshots_add_up_to_what_is_known() -> None:
    known = learn(Known(), "node1", Cluster, Snapshot(1, {"cluster": CLUSTER}))
    known = learn(known, "node1", Node, Snapshot(2, {"node1": NODE, "node2": OTHER}))
    known = learn(known, "node1", Endpoints, Snapshot(3, {"chat/db": DB}))
    assert known == Known(CLUSTER, NODE, (), (DB,), 3)


def test_node_that_is_not_listed_yet_keeps_what_was_known() -> None:
    known = Known(CLUSTER, NODE, (), (DB,), 3)
    assert learn(known, "node1", Node, Snapshot(4, {})) == known
    assert learn(known, "node1", Cluster, Snapshot(4, {})) == known


def test_endpoints_that_are_listed_no_more_are_gone() -> None:
    assert learn(Known(CLUSTER, NODE, (), (DB,), 3), "node1", Endpoints, Snapshot(4, {})).endpoints == ()


def test_memory_survives_a_restart_but_reports_no_revision_of_another_life(tmp_path: Path) -> None:
    save(tmp_path / "state" / "net.json", Known(CLUSTER, NODE, (), (DB,), 3))
    assert load(tmp_path / "state" / "net.json") == Known(CLUSTER, NODE, (), (DB,), -1)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["net.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"node": {"name": 1}}'])
def test_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.json").write_text(text)
    assert load(tmp_path / "net.json") == Known()
    assert load(tmp_path / "absent.json") == Known()


def test_plugin_socket_replaces_a_dead_one_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "plugins" / "miniorch.sock"
    for _ in range(2):
        with listen(path, 0o600), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_second_process_is_refused(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "net" / "lock", "a net process")
    with pytest.raises(Conflict):
        take_lock(tmp_path / "net" / "lock", "a net process")
    os.close(lock)
    os.close(take_lock(tmp_path / "net" / "lock", "a net process"))


class Server:
    """A server that lists, streams one change of endpoints when told, and is away for the first report."""

    def __init__(self) -> None:
        self.items: dict[str, list[object]] = {"cluster": [CLUSTER], "nodes": [NODE], "endpoints": [DB]}
        self.more: asyncio.Queue[tuple[int, object]] = asyncio.Queue()
        self.reports: asyncio.Queue[Any] = asyncio.Queue()
        self.away = 1
        self.before_report: Callable[[], Any] = lambda: None

    async def request(self, method: str, path: str, body: object = None) -> Any:
        if method == "GET":
            return {
                "revision": 7,
                "items": [to_plain(item) for item in self.items[path.rpartition("/")[2].partition("?")[0]]],
            }
        if self.away:
            self.away -= 1
            raise Unreachable("the server is away")
        self.reports.put_nowait((path, body, self.before_report()))
        return {}

    async def stream(self, path: str) -> AsyncIterator[Any]:
        while True:
            if "endpoints" not in path:
                await asyncio.Event().wait()
            revision, item = await self.more.get()
            yield {"revision": revision, "put": to_plain(item)}


class Machine:
    """A kernel that takes down what was applied."""

    def __init__(self) -> None:
        self.rulesets: list[str] = []
        self.held: set[str] = set()

    def holds(self, endpoint: str) -> bool:
        return endpoint in self.held

    def apply(self, wanted: Topology) -> None:
        self.rulesets.append(wanted.ruleset)

    def admit(self, text: str) -> None: ...

    def sweep(self, endpoints: Collection[str]) -> list[str]:
        return []

    def wire(self, endpoint: str, address: str) -> str:
        return ""

    def unwire(self, endpoint: str) -> None: ...


def test_change_is_applied_kept_and_only_then_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netplugin.main.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("netplugin.main.TOLD_SECONDS", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.9", 0))
        port = probe.getsockname()[1]

    async def run() -> None:
        server, machine = Server(), Machine()
        server.items["endpoints"] = [replace(DB, draining=True)]
        server.before_report = lambda: (machine.rulesets[-1:], load(tmp_path / "state" / "net.json"))
        net = Net("node1", server, machine, tmp_path / "run", tmp_path / "state", port)
        plugin = listen(tmp_path / "miniorch.sock", 0o600)
        task = asyncio.create_task(net.run(plugin))
        try:
            path, body, _ = await asyncio.wait_for(server.reports.get(), 5)  # somebody waits for it: a backend drains
            assert (path, body) == ("/v1/nodes/node1/applied", {"component": "net", "revision": 7})
            backend = Backend("t", 1, "node1", "10.200.0.7", True)
            changed = Endpoints("chat", "db", "10.201.0.3", (), (backend,), draining=True)
            server.more.put_nowait((9, changed))
            while body["revision"] < 9:
                _, body, (held, kept) = await asyncio.wait_for(server.reports.get(), 5)
            assert "dnat to 10.200.0.7" in held[0]
            assert kept == Known(CLUSTER, NODE, (), (changed,), -1)
            _, again, _ = await asyncio.wait_for(server.reports.get(), 5)
            assert again == body, "while something drains there may be another leader"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            plugin.close()
            assert net.dns is not None
            net.dns.close()

    asyncio.run(run())


async def test_endpoint_that_no_container_has_twice_is_forgotten_and_its_address_leaves_the_rules(
    tmp_path: Path,
) -> None:
    machine = Machine()
    net = Net("node1", Server(), machine, tmp_path / "run", tmp_path / "state")
    machine.held = {"aa" * 32}
    for number, name in enumerate(("aa", "bb")):
        net.notes.write(Endpoint(name * 32, f"10.200.0.{number}", "t", "chat/default"))
    await net.sweep()
    assert len(net.notes.wired()) == 2, "it may be between the first call and the device"
    assert not net.changed.is_set()
    net.notes.write(Endpoint("cc" * 32, "10.200.0.9", "t", "chat/default"))
    await net.sweep()
    assert {note.id for note in net.notes.wired()} == {"aa" * 32, "cc" * 32}
    assert net.changed.is_set()
