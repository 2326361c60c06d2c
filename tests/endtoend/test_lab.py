"""A lab of three nodes inside the test node: cut, kill, pause, reboot, and nothing left behind.

One lab for all stories, in the order of the file: each leaves three ready nodes to the next.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import TAG, LabMachine, running_lab, traces
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

WEB = """\
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8000 -h /www"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"]
      interval: 1s
    ports: ["8100:8000", "127.0.0.1:8110:8000"]
    deploy:
      replicas: 3
"""
PAGE = "http://127.0.0.1:8100/"


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabMachine]:
    with running_lab(node, data_root, tmp_path_factory.mktemp("lab"), "--label", "n2:zone=b") as machine:
        yield machine


@pytest.fixture(scope="module")
def web(lab: LabMachine) -> LabMachine:
    lab.miniorch("run", lab.file(WEB, "web.yml"))
    return lab


def test_three_nodes_are_ready_each_with_an_engine_and_an_address_of_its_own(lab: LabMachine) -> None:
    nodes = {node["name"]: node for node in lab.json("nodes")}
    assert {name: node["address"] for name, node in nodes.items()} == {
        f"node{number}": f"10.210.0.{number}" for number in (1, 2, 3)
    }
    assert all(node["ready"] for node in nodes.values())
    assert nodes["node2"]["labels"] == {"zone": "b"}
    assert lab.inside("n2", "hostname") == "node2\n"
    assert "Server Version" in lab.inside("2", "docker", "info")
    assert lab.inside("node2", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"  # dockerd's doing
    assert "default via 10.210.0.254" in lab.inside("node3", "ip", "route")
    assert TAG.replace("-", "_") in lab.node.run(["nft", "list", "tables"]).stdout
    assert "-P FORWARD DROP" in lab.inside("node2", "iptables", "-S", "FORWARD")


def test_the_same_again_changes_nothing_and_other_wishes_are_refused(lab: LabMachine) -> None:
    before = lab.json("lab", "ls")["nodes"]
    lab.miniorch("lab", "up")
    assert lab.json("lab", "ls")["nodes"] == before
    assert "3 nodes already" in lab.miniorch("lab", "up", "--nodes", "2", code=7).stderr
    assert "did you mean node3" in lab.miniorch("lab", "cut", "nod3", code=2).stderr


def test_an_app_is_spread_and_its_port_answers_on_localhost(web: LabMachine) -> None:
    assert web.places() == ["node1", "node2", "node3"]
    assert {web.fetch(PAGE) for _ in range(9)} == {"web-1\n", "web-2\n", "web-3\n"}
    assert web.fetch("http://127.0.0.1:8110/")  # each node has it on its own localhost alone
    assert web.json("lab", "ls")["ports"] == {"8100": "web/web", "8110": "web/web"}


def test_a_node_whose_cable_is_cut_is_replaced_and_converges_when_healed(web: LabMachine) -> None:
    web.miniorch("lab", "cut", "node2")
    began = time.monotonic()
    until(lambda: len(web.places()) == 3 and "node2" not in web.places(), 30, "web runs elsewhere", pause=0.2)
    print(f"\ncut node2: replaced after {time.monotonic() - began:.1f} s")
    assert web.fetch(PAGE)
    assert web.states()["node2"] in ("unreachable", "down")
    assert web.inside("node2", "docker", "ps", "-q").strip()  # it goes on, unheard
    web.miniorch("lab", "heal", "node2")
    until(lambda: web.states()["node2"] == "ready", 20, "node2 is ready again", pause=0.2)
    until(lambda: not web.inside("node2", "docker", "ps", "-q").strip(), 20, "the surplus container is gone", pause=0.2)


def test_a_node_without_power_comes_back_as_the_same_node(web: LabMachine) -> None:
    identity = web.inside("node3", "sha256sum", f"/var/lib/{TAG}/node3/state/identity.crt")
    web.miniorch("lab", "kill", "node3")
    assert web.power()["node3"] == "off"
    assert "lab start node3" in web.miniorch("lab", "exec", "node3", "--", "true", code=5).stderr
    until(lambda: web.fetch(PAGE), 10, "another node answers")
    web.miniorch("lab", "start", "node3")
    until(lambda: set(web.states().values()) == {"ready"}, 20, "all nodes are ready", pause=0.2)
    assert web.inside("node3", "sha256sum", f"/var/lib/{TAG}/node3/state/identity.crt") == identity


def test_time_stands_still_on_a_paused_node(web: LabMachine) -> None:
    pulse = f"/var/lib/{TAG}/node2/state/pulse"
    web.inside(
        "node2",
        "sh",
        "-c",
        f"touch {pulse}; while touch -c {pulse}; [ -e {pulse} ]; do sleep 0.1; done > /dev/null 2>&1 &",
    )

    def beat() -> str:
        return web.node.run(["stat", "-c", "%y", pulse]).stdout

    first = beat()
    until(lambda: beat() != first, 5, "something happens there")
    web.miniorch("lab", "pause", "node2")
    last = beat()
    assert web.power()["node2"] == "paused"
    said = web.miniorch("lab", "up").stdout
    assert "2 nodes are ready" in said
    assert "left cut or paused: node2" in said
    assert "lab resume node2" in web.miniorch("lab", "exec", "node2", "--", "true", code=5).stderr
    assert beat() == last
    web.miniorch("lab", "resume", "node2")
    assert web.inside("node2", "echo", "here") == "here\n"
    until(lambda: beat() != last, 5, "what happened there goes on")
    web.node.run(["rm", pulse])


def test_after_a_reboot_of_the_host_it_is_the_same_cluster(web: LabMachine, node: TestNode) -> None:
    cluster = web.json("version")["cluster"]
    group = f"from miniorch.lab.group import Group; Group('{TAG}').kill()"
    node.run([sys.executable, "-c", group])
    node.run(["rm", "-rf", f"/run/{TAG}"])
    node.run(["nft", "delete", "table", "ip", TAG.replace("-", "_")])
    node.run(["iptables", "-F", "DOCKER-USER"])
    until(lambda: traces(node) == [], 5, "all is gone but for the disks")
    assert "help: miniorch lab up for the lab, which is off" in web.miniorch("ps", code=5).stderr
    web.miniorch("lab", "up")
    assert web.json("version")["cluster"] == cluster
    until(lambda: len(web.places()) == 3 and web.fetch(PAGE), 30, "web answers again", pause=0.2)


def test_only_the_right_token_makes_a_node_and_removing_the_node_ends_it(lab: LabMachine) -> None:
    manager = next(node["address"] for node in lab.json("nodes") if node["role"] == "manager")

    def on_n3(*argv: str) -> Any:
        command = [sys.executable, "-m", "miniorch.cli.main", *argv]
        return lab.miniorch("lab", "exec", "n3", "--", *command, code=None)

    def token(*words: str) -> str:
        text: str = lab.miniorch("token", *words, "--quiet").stdout
        return text.strip()

    assert "a node sees only its own tasks" in on_n3("nodes").stderr
    lab.miniorch("node", "rm", "node3", "--force")
    assert "no longer one of this cluster's" in on_n3("nodes").stderr
    refusal = lab.miniorch("lab", "start", "n3", code=6).stderr
    assert "node3: the certificate of node3 is no longer one" in refusal
    assert "miniorch lab exec node3 -- miniorch down --all" in refusal
    on_n3("down", "--all")
    old, good = token("show", "--role", "worker"), token("rotate", "--role", "worker")
    foreign = "-".join([*good.split("-")[:3], "a" * 52, good.split("-")[4]])
    for bad, more, words in (
        (old, (), "rotated or revoked"),
        (token("create", "--ttl", "1s"), (), "has expired"),
        (foreign, (), "Nothing was sent"),
        (good, ("--manager",), "makes no manager"),
        (token("show", "--role", "manager"), (), "no second one"),
    ):
        if words == "has expired":
            time.sleep(1)
        done = on_n3("join", "--token", bad, *more, manager)
        assert done.returncode, words
        assert words in done.stderr
    done = on_n3("join", "--token", good, manager)
    assert "node3 has joined as worker and is ready" in done.stdout, done.stderr
    assert lab.states()["node3"] == "ready"
