"""The Docker network driver with a kernel that only remembers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from miniorch.errors import MiniorchError
from netplugin import driver as driver_module
from netplugin.driver import Driver, Endpoint, EndpointNotes

ID = "ab12cd34" * 8
CREATE = {
    "EndpointID": ID,
    "Interface": {"Address": "10.200.0.5/24"},
    "Options": {"miniorch.task": "t1", "miniorch.networks": "chat/default,chat/back"},
}
JOIN = {"EndpointID": ID, "SandboxKey": "/run/docker/netns/x", "Options": {}}


class Wires:
    """A kernel that remembers which endpoints are wired; it can be told to fail or to hang."""

    def __init__(self) -> None:
        self.wired: dict[str, str] = {}
        self.trouble: Exception | None = None
        self.hang: threading.Event | None = None

    def wire(self, endpoint: str, address: str) -> str:
        if self.hang:
            self.hang.wait()
        if self.trouble:
            raise self.trouble
        self.wired[endpoint] = address
        return f"mc{endpoint[:8]}"

    def unwire(self, endpoint: str) -> None:
        self.wired.pop(endpoint, None)

    def holds(self, endpoint: str) -> bool:
        return endpoint in self.wired


class Plugin:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wires = Wires()
        self.logged: list[str] = []
        self.admitted: list[tuple[str, str]] = []
        self.restart()

    def restart(self) -> None:
        self.notes = EndpointNotes(self.folder / "endpoints")
        self.driver = Driver(self.wires, self.notes, self.logged.append, self.admit)

    async def admit(self, endpoint: Endpoint) -> None:
        assert endpoint.id in self.wires.wired
        self.admitted.append((endpoint.address, endpoint.networks))

    def call(self, name: str, body: Any = None) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return asyncio.run(self.driver.answer(name, data))


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def test_plugin_is_a_local_network_driver(plugin: Plugin) -> None:
    assert plugin.call("Plugin.Activate") == {"Implements": ["NetworkDriver"]}
    assert plugin.call("NetworkDriver.GetCapabilities")["Scope"] == "local"


def test_create_only_notes_and_join_wires(plugin: Plugin) -> None:
    assert plugin.call("NetworkDriver.CreateEndpoint", CREATE) == {"Interface": {}}
    assert (plugin.wires.wired, plugin.admitted) == ({}, [])
    assert plugin.call("NetworkDriver.Join", JOIN) == {
        "InterfaceName": {"SrcName": "mcab12cd34", "DstPrefix": "eth"},
        "Gateway": "169.254.1.1",
        "StaticRoutes": [{"Destination": "169.254.1.1/32", "RouteType": 1}],
        "DisableGatewayService": True,
    }
    assert plugin.wires.wired == {ID: "10.200.0.5"}
    assert plugin.admitted == [("10.200.0.5", "chat/default,chat/back")], "before its first instruction"


def test_address_comes_from_the_agent_where_docker_gives_none(plugin: Plugin) -> None:
    options = {"miniorch.task": "t1", "miniorch.address": "10.200.0.6"}
    request = {"EndpointID": ID, "Interface": {}, "Options": options}
    assert plugin.call("NetworkDriver.CreateEndpoint", request) == {"Interface": {"Address": "10.200.0.6/32"}}
    plugin.call("NetworkDriver.Join", JOIN)
    assert plugin.wires.wired == {ID: "10.200.0.6"}


def test_address_that_a_container_has_is_not_given_to_another(plugin: Plugin) -> None:
    other = {**CREATE, "EndpointID": "cd" * 32, "Options": {"miniorch.task": "t2"}}
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.call("NetworkDriver.Join", JOIN)
    assert plugin.call("NetworkDriver.CreateEndpoint", other) == {"Err": "the address 10.200.0.5 is in use by t1"}
    plugin.wires.wired.clear()  # it has ended, and Docker could not say so: this process was away
    assert "Err" not in plugin.call("NetworkDriver.CreateEndpoint", other)
    assert [note.id for note in plugin.notes.wired()] == [other["EndpointID"]], "one address, one container's networks"
    plugin.call("NetworkDriver.DeleteEndpoint", CREATE)
    assert (note := plugin.notes.at("10.200.0.5")) is not None
    assert note.id == other["EndpointID"]


def test_start_that_docker_has_forgotten_may_be_made_again(plugin: Plugin) -> None:
    """A dockerd that is killed between Join and the container's first process starts it anew, with another endpoint."""
    again = {**CREATE, "EndpointID": "cd" * 32}
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.call("NetworkDriver.Join", JOIN)
    assert "Err" not in plugin.call("NetworkDriver.CreateEndpoint", again)
    assert plugin.wires.wired == {}, "the first pair, whose end lies in a namespace without a process, is gone"
    assert "Err" not in plugin.call("NetworkDriver.Join", {**JOIN, "EndpointID": again["EndpointID"]})
    assert plugin.wires.wired == {again["EndpointID"]: "10.200.0.5"}
    assert [note.id for note in plugin.notes.wired()] == [again["EndpointID"]]


def test_address_survives_a_restart_between_create_and_join(plugin: Plugin) -> None:
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.restart()
    assert "Err" not in plugin.call("NetworkDriver.Join", JOIN)
    assert plugin.wires.wired == {ID: "10.200.0.5"}
    assert (note := plugin.notes.at("10.200.0.5")) is not None
    assert (note.task, note.networks) == ("t1", "chat/default,chat/back")


def test_every_call_may_be_repeated(plugin: Plugin) -> None:
    for call, body in (("CreateEndpoint", CREATE), ("Join", JOIN), ("Leave", JOIN), ("DeleteEndpoint", JOIN)):
        answers = [plugin.call(f"NetworkDriver.{call}", body) for _ in range(2)]
        assert answers[0] == answers[1]
        assert "Err" not in answers[0]


def test_delete_removes_device_and_note_even_without_leave(plugin: Plugin) -> None:
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.call("NetworkDriver.Join", JOIN)
    assert plugin.call("NetworkDriver.DeleteEndpoint", JOIN) == {}
    assert (plugin.wires.wired, plugin.notes.all(), plugin.notes.at("10.200.0.5")) == ({}, [], None)


def test_unknown_endpoints_may_leave_but_not_join(plugin: Plugin) -> None:
    assert plugin.call("NetworkDriver.Leave", JOIN) == {}
    assert plugin.call("NetworkDriver.DeleteEndpoint", JOIN) == {}
    assert "never created" in plugin.call("NetworkDriver.Join", JOIN)["Err"]


@pytest.mark.parametrize("call", ["CreateEndpoint", "Join", "ProgramExternalConnectivity"])
def test_port_published_by_hand_is_refused_with_the_right_way(plugin: Plugin, call: str) -> None:
    ports = {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]}
    answer = plugin.call(f"NetworkDriver.{call}", {**CREATE, "Options": ports})
    assert answer == {"Err": "publish through miniorch: ports: in the app file"}
    assert plugin.notes.all() == []


def test_empty_port_list_is_no_published_port(plugin: Plugin) -> None:
    answer = plugin.call("NetworkDriver.CreateEndpoint", {**CREATE, "Options": {"com.docker.network.portmap": []}})
    assert answer == {"Interface": {}}


@pytest.mark.parametrize("endpoint", ["../../etc/x", "", None, 7, "AB" * 8])
def test_id_that_is_no_id_touches_no_file(plugin: Plugin, endpoint: object) -> None:
    for call in ("CreateEndpoint", "Join", "Leave", "DeleteEndpoint"):
        assert "not an endpoint id" in plugin.call(f"NetworkDriver.{call}", {**CREATE, "EndpointID": endpoint})["Err"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff"])
def test_rubbish_is_answered_with_an_error(plugin: Plugin, body: bytes) -> None:
    assert "Err" in plugin.call("NetworkDriver.Join", body)


def test_network_without_subnet_is_explained(plugin: Plugin) -> None:
    assert "--subnet" in plugin.call("NetworkDriver.CreateEndpoint", {"EndpointID": ID, "Interface": {}})["Err"]


def test_user_reads_what_the_kernel_refused_and_the_remedy(plugin: Plugin) -> None:
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.wires.trouble = MiniorchError("no pool yet", remedy="miniorch up")
    assert plugin.call("NetworkDriver.Join", JOIN) == {"Err": "no pool yet (miniorch up)"}
    plugin.wires.trouble = RuntimeError("boom")
    assert "RuntimeError: boom" in plugin.call("NetworkDriver.Join", JOIN)["Err"]


def test_hanging_kernel_is_an_answer_in_time(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "CALL_SECONDS", 0.05)
    plugin.call("NetworkDriver.CreateEndpoint", CREATE)
    plugin.wires.hang = threading.Event()

    async def join() -> dict[str, Any]:
        answer = await plugin.driver.answer("NetworkDriver.Join", json.dumps(JOIN).encode())
        assert plugin.wires.hang
        plugin.wires.hang.set()
        return answer

    assert "did not finish" in asyncio.run(join())["Err"]


def test_calls_of_newer_engines_are_refused_by_name(plugin: Plugin) -> None:
    assert "does not know the call NetworkDriver.Levitate" in plugin.call("NetworkDriver.Levitate")["Err"]


def test_http_answer_is_json_and_refusals_are_logged(plugin: Plugin) -> None:
    sent: list[Mapping[str, Any]] = []
    body = json.dumps(JOIN).encode()
    pieces = iter([(body[:9], True), (body[9:], False)])

    async def receive() -> Mapping[str, Any]:
        piece, more = next(pieces)
        return {"type": "http.request", "body": piece, "more_body": more}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(plugin.driver({"type": "http", "path": "/NetworkDriver.Join"}, receive, send))
    assert sent[0]["status"] == 200
    assert "never created" in json.loads(sent[1]["body"])["Err"]
    assert len(plugin.logged) == 1
