"""The private machine itself: what other integration tests rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
from node import TestNode

pytestmark = [pytest.mark.root, pytest.mark.docker]


def test_containers_survive_a_killed_dockerd(node: TestNode) -> None:
    node.docker("run", "-d", "--name", "survivor", "busybox:1", "sleep", "1000")
    try:
        node.stop_dockerd(kill=True)
        node.start_dockerd()
        assert node.docker("inspect", "-f", "{{.State.Running}}", "survivor").stdout.strip() == "true"
    finally:
        node.docker("rm", "-f", "survivor")


def test_docker_drops_forwarded_packets_as_on_a_fresh_machine(node: TestNode) -> None:
    assert "-P FORWARD DROP" in node.run(["iptables", "-S", "FORWARD"]).stdout


def test_a_closed_node_leaves_nothing() -> None:
    with TestNode(name="passing") as passing:
        assert passing.run(["hostname"]).stdout == "passing\n"
        assert passing.run(["ip", "route", "show", "default"]).stdout == ""
        passing.run(["sh", "-c", "echo x > /var/lib/miniorch/x; echo x > /etc/miniorch-x; echo x > /run/miniorch-x"])
        sleeper = passing.popen(["sleep", "1000"])
    sleeper.wait(timeout=5)
    assert passing.leftovers() == []
    assert not any(Path(place).exists() for place in ("/etc/miniorch-x", "/run/miniorch-x"))
