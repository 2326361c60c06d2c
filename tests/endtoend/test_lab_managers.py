"""Three managers in a lab, each with a server and a member of the etcd: any one of them may be lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import LabMachine, running_lab
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

WEB = """\
name: shop
services:
  web:
    image: busybox:1
    command: ["sleep", "1000000"]
    stop_grace_period: 0s
    deploy:
      replicas: 3
"""

STRANGER = """\
import http.client, ssl
for connection in (
    http.client.HTTPConnection("10.210.0.1", 2379, timeout=5),
    http.client.HTTPSConnection("10.210.0.1", 2379, timeout=5, context=ssl._create_unverified_context()),
):
    try:
        connection.request("GET", "/version")
        print("served", connection.getresponse().status)
    except OSError as error:
        print("nobody" if isinstance(error, ConnectionRefusedError) else "refused")
"""


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabMachine]:
    with running_lab(node, data_root, tmp_path_factory.mktemp("lab"), "--managers", "3") as machine:
        machine.miniorch("run", machine.file(WEB, "web.yml"))
        yield machine


def leader(lab: LabMachine) -> str:
    """The node whose server leads; "" while none does, or nobody answers."""
    names = [leader["name"] for leader in lab.listed("leaders")]
    return names[0].rpartition("-")[0] if names else ""


def test_all_three_are_managers_and_know_each_other(lab: LabMachine) -> None:
    assert {node["role"] for node in lab.json("nodes")} == {"manager"}
    for name in lab.names:
        others = [f"https://10.210.0.{number}:7440" for number in (1, 2, 3) if name != f"node{number}"]
        until(lambda others=others, name=name: lab.state_file(name, "servers").split() == others, 10, f"{name} knows")


def test_whoever_is_on_the_wire_without_a_certificate_gets_nothing_from_the_etcd(lab: LabMachine) -> None:
    assert lab.inside("node3", sys.executable, "-c", STRANGER).split() == ["refused", "refused"]
    assert lab.state_file("node3", "store") == lab.state_file("node1", "store") != ""


def test_the_leaders_server_dies_and_another_leads_while_nothing_moves(lab: LabMachine) -> None:
    before, first = lab.running(), leader(lab)
    lab.kill_on(first, "miniorch/server.pid")
    began = time.monotonic()
    until(lambda: leader(lab) not in ("", first), 30, "another one leads", pause=0.2)
    print(f"\nanother leads after {time.monotonic() - began:.1f} s")
    lab.miniorch("scale", "shop/web=4")  # commands go on, and so does the agent beside the dead server
    assert lab.states()[first] == "ready"
    assert lab.running().items() > before.items()
    lab.mend(first)


def test_a_manager_loses_its_power_and_its_tasks_run_elsewhere(lab: LabMachine) -> None:
    first = leader(lab)
    lab.miniorch("lab", "kill", first)
    began = time.monotonic()
    until(lambda: len(lab.places("shop")) == 4 and first not in lab.places("shop"), 60, "all runs elsewhere", pause=0.3)
    print(f"\nthe leader's node is replaced after {time.monotonic() - began:.1f} s")
    lab.mend(first)
    assert set(lab.states().values()) == {"ready"}
    assert leader(lab) not in ("", first)
