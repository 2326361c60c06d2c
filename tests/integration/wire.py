"""A wire between test nodes: a bridge in a network namespace of its own, where nobody's firewall can drop frames.

with Wire([node1, node2]) as wire:      # addresses 198.51.100.1, .2, ...
    wire.cut(node2); wire.heal(node2)
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from types import TracebackType

from node import TestNode


class Wire:
    """Connects open nodes. Leaving it ends the namespace, and with it every cable."""

    def __init__(self, nodes: Sequence[TestNode], mtu: int = 1500) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.addresses = {node.name: f"198.51.100.{number}" for number, node in enumerate(nodes, 1)}
        self._mtu = mtu
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Wire:
        script = "ip link add wire type bridge && ip link set wire up && echo ready && exec sleep infinity"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", "no bridge could be made"
        for number, (name, node) in enumerate(self.nodes.items(), 1):
            node.run(["ip", "link", "del", "eth0"])  # the node's unplugged wire
            cable = ["type", "veth", "peer", "name", f"port{number}", "netns", str(self._holder.pid)]
            node.run(["ip", "link", "add", "eth0", "mtu", str(self._mtu), *cable])
            node.run(["ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0"])
            node.run(["ip", "link", "set", "eth0", "up"])
            self._port(number, "mtu", str(self._mtu), "master", "wire", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._holder is not None
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def cut(self, node: TestNode) -> None:
        self._port([*self.nodes].index(node.name) + 1, "down")

    def heal(self, node: TestNode) -> None:
        self._port([*self.nodes].index(node.name) + 1, "up")

    def _port(self, number: int, *words: str) -> None:
        assert self._holder is not None
        argv = ["nsenter", "-t", str(self._holder.pid), "-n", "ip", "link", "set", f"port{number}", *words]
        subprocess.run(argv, check=True, capture_output=True, text=True)
