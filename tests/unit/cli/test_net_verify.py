"""`miniorch net verify`: what is said of each node, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_api import Cli, FakeApi

from miniorch.errors import Unreachable
from miniorch.model import Node, NodeState
from miniorch.spec import Resources

STALE = "fdb 0a:6d:0a:c8:02:01: is dst 192.0.2.9; should be dst 192.0.2.2"


def report(node: str, *differences: str, repaired: tuple[str, ...] = (), note: str = "") -> dict[str, Any]:
    return {"node": node, "differences": differences, "repaired": repaired, "note": note}


@pytest.fixture
def nodes(api: FakeApi) -> FakeApi:
    """Two nodes whose kernels are as they should be."""
    for number in (1, 2):
        name = f"node{number}"
        api.lists["nodes"].append(Node(name, f"10.200.{number}.0/24", f"10.200.{number}.1", Resources()))
        api.answers["GET", f"/v1/nodes/{name}/network"] = report(name)
    return api


def test_every_node_is_asked_and_all_is_well(nodes: FakeApi, cli: Cli) -> None:
    done = cli("net", "verify")
    assert (done.returncode, done.stdout) == (0, "node1: as it should be\nnode2: as it should be\n")
    assert cli("net", "verify", "node2").stdout == "node2: as it should be\n"


def test_difference_is_one_line_and_an_exit_code(nodes: FakeApi, cli: Cli) -> None:
    nodes.answers["GET", "/v1/nodes/node1/network"] = report("node1", STALE)
    done = cli("net", "verify")
    assert (done.returncode, done.stdout) == (1, f"node1: {STALE}\nnode2: as it should be\n")
    assert json.loads(cli("net", "verify", "--json").stdout)[0]["differences"] == [STALE]


def test_repair_says_what_it_mended_and_what_it_could_not(nodes: FakeApi, cli: Cli) -> None:
    nodes.answers["POST", "/v1/nodes/node1/network"] = report("node1", repaired=(STALE,))
    nodes.answers["POST", "/v1/nodes/node2/network"] = report("node2", "route 10.200.7.0/25: ...", note="by memory")
    done = cli("net", "verify", "--repair")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"node1: repaired: {STALE}",
        "node1: now as it should be",
        "node2: by memory",
        "node2: route 10.200.7.0/25: ...",
    ]


def test_node_that_cannot_be_asked_is_named(nodes: FakeApi, cli: Cli) -> None:
    gone = Node("node3", "10.200.3.0/24", "10.200.3.1", Resources(), state=NodeState.DOWN)
    nodes.lists["nodes"].append(gone)
    nodes.answers["GET", "/v1/nodes/node2/network"] = Unreachable("the agent on node2 does not answer")
    done = cli("net", "verify")
    assert done.returncode == 5
    assert "node2: not looked at: the agent on node2 does not answer" in done.stdout
    assert "node3: not looked at: it is down" in done.stdout


def test_unknown_node_is_refused(nodes: FakeApi, cli: Cli) -> None:
    done = cli("net", "verify", "node9")
    assert done.returncode == 2
    assert done.stderr.endswith("there is no node node9; did you mean node2?\nhelp: miniorch nodes\n")
