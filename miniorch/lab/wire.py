"""The wire between the lab's nodes: a bridge, a cable to each node, and one to the host.

The problem: on the host, Docker's own firewall rules drop what crosses any bridge. The idea: the bridge lives in a
namespace of its own, where nobody has rules. A node is unplugged by taking its port on the bridge down: what agents,
containers and the overlay see is a real network without this node.

On the host there is one network device and one firewall table, both with the lab's name; nothing of anybody else's is
changed. Where the host's firewall drops what it should forward, as Docker sets it up, two rules in the chain that
Docker keeps for such (DOCKER-USER) let through what the nodes begin; they name the lab's device, so `lab down` finds
them. Killing the process that holds the bridge's namespace removes the bridge and all cables with it.
Next file: `miniorch/lab/lab.py`.
"""

import contextlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from miniorch.errors import MiniorchError, Unsupported
from miniorch.lab.group import Group, wait_until
from miniorch.lab.machine import Machine, spawn_holder
from miniorch.lab.plan import (
    Place,
    Plan,
    bridge_lines,
    cable_lines,
    host_lines,
    nat_rules,
    node_lines,
    port_lines,
    probe_lines,
)  # fmt: skip
from miniorch.processes import PidFile

HOLD = "echo $$; exec sleep infinity > /dev/null 2>&1"
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
STOP_SECONDS = 5.0
IPTABLES, USER_CHAIN = ("iptables", "-w"), "DOCKER-USER"


class Wire:
    """The wire of one lab. Needs root."""

    def __init__(self, place: Place, plan: Plan) -> None:
        self.place, self.plan = place, plan
        self.pid_file = PidFile(place.run / "wire.pid")
        self.group = Group(f"{place.tag}/wire")

    def ensure(self) -> bool:
        """Make it unless it is there. Returns whether it was made now, so that cables must be plugged anew."""
        if self.pid_file.pid() is not None:
            self._let_through()
            return False
        self.remove()
        self.place.run.mkdir(parents=True, exist_ok=True)
        self.group.make(0, 0)
        pid = spawn_holder(self.group.argv(["unshare", "--net", "sh", "-c", HOLD]))
        self._ip(pid, bridge_lines())
        try:
            self._ip(pid, probe_lines())
        except MiniorchError:
            self.remove()
            raise Unsupported("this kernel has no VXLAN, which joins the nodes", remedy="modprobe vxlan") from None
        self._ip(0, host_lines(self.place, self.plan, pid))
        self._ip(pid, port_lines("host"))
        self._let_through()
        if self.outside:
            _feed(["nft", "-f", "-"], nat_rules(self.place, self.plan))
        self.pid_file.write(pid)  # last: half a wire is none, and is made anew
        return True

    def plug(self, machine: Machine) -> None:
        """A cable for a node that has none."""
        pid, node_pid = self.pid_file.pid(), machine.pid_file.pid()
        if pid and node_pid and not _run(["nsenter", "-t", str(node_pid), "-n", "ip", "link", "show", "eth0"]):
            if machine.name in self.ports():  # of a node that lost its power just now; the kernel takes its time
                with contextlib.suppress(MiniorchError):
                    self._ip(pid, [f"link delete {machine.name}"])
            self._ip(pid, cable_lines(machine.node, node_pid))
            self._ip(node_pid, node_lines(self.plan, machine.node, outside=self.outside))

    def ports(self) -> dict[str, bool]:
        """The nodes whose cables end in the bridge, and whether they are plugged in."""
        if (pid := self.pid_file.pid()) is None:
            return {}
        listed = _run(["nsenter", "-t", str(pid), "-n", "ip", "-json", "link", "show", "type", "veth"])
        return {link["ifname"]: "UP" in link["flags"] for link in json.loads(listed or "[]")}

    def set_port(self, name: str, *, up: bool) -> None:
        """Pull a node's cable, or plug it in."""
        self._ip(self.pid_file.pid() or 0, [f"link set {name} {'up' if up else 'down'}"])

    def remove(self) -> None:
        """Take away bridge, cables, the host's device and the firewall's table, as far as they exist."""
        self.group.kill()
        self.pid_file.remove()
        # The kernel takes down a dead namespace's devices in its own time.
        device = Path("/sys/class/net", self.place.host_device)
        if device.exists():
            subprocess.run(["ip", "link", "delete", self.place.host_device], capture_output=True)
        wait_until(lambda: not device.exists(), STOP_SECONDS, f"the device {self.place.host_device} is gone")
        subprocess.run(["nft", "delete", "table", "ip", self.place.table], capture_output=True)
        for rule in self._rules:
            while _works([*IPTABLES, "-D", USER_CHAIN, *rule]):
                pass

    # --- the way out ---

    @property
    def _rules(self) -> list[list[str]]:
        answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
        device = self.place.host_device
        return [["-i", device, "-j", "ACCEPT"], ["-o", device, *answers, "-j", "ACCEPT"]]

    def _let_through(self) -> None:
        """Where the host drops what it should forward, admit what the nodes begin, and the answers."""
        if self._dropped():
            for rule in self._rules:
                _works([*IPTABLES, "-I", USER_CHAIN, *rule])

    def _dropped(self) -> bool:
        policy = "-P FORWARD DROP" in _run([*IPTABLES, "-S", "FORWARD"])
        return policy and f"-i {self.place.host_device} -j ACCEPT" not in _run([*IPTABLES, "-S"])

    @property
    def outside(self) -> bool:
        """Whether nodes can reach what the host reaches."""
        return self.no_way_out == ""

    @property
    def no_way_out(self) -> str:
        """Why nodes reach nothing beyond the wire; "" when they do."""
        if not _run(["ip", "-4", "route", "show", "default"]).strip():
            return "this machine has no default route"
        if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
            return "this machine does not forward packets (sysctl -w net.ipv4.ip_forward=1)"
        if self._dropped():
            device = self.place.host_device
            allow = f"iptables -I FORWARD -i {device} -j ACCEPT; iptables -I FORWARD -o {device} -j ACCEPT"
            return f"this machine's firewall drops what it should forward ({allow}; then lab down, lab up)"
        return ""

    def resolvers(self) -> list[str]:
        """Name servers that nodes can reach: the host's, but for those that listen on its loopback alone."""
        found = []
        for file in RESOLVERS if self.outside else ():
            words = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
            found += [word[1] for word in words if word[:1] == ["nameserver"] and len(word) > 1]
        return [one for one in dict.fromkeys(found) if not one.startswith("127.") and ":" not in one][:3]

    def _ip(self, pid: int, lines: Sequence[str]) -> None:
        """`ip` commands in a process's network namespace; pid 0 is the host's."""
        enter = ["nsenter", "-t", str(pid), "-n"] if pid else []
        _feed([*enter, "ip", "-batch", "-"], "\n".join(lines))


def routes() -> list[str]:
    """The networks that the host has a way to, but for the default route."""
    listed = json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    return [route["dst"] for route in listed if route["dst"] != "default"]


def _run(argv: Sequence[str]) -> str:
    """What a command prints; "" when it fails or is not there."""
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout
    except OSError:
        return ""


def _works(argv: Sequence[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True).returncode == 0
    except OSError:
        return False


def _feed(argv: Sequence[str], text: str) -> None:
    """Run a command that reads what it does from its input. Raises `MiniorchError` with what it says against it."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().replace("\n", "; ")
        raise MiniorchError(f"the lab's wire cannot be made: {said}", remedy="miniorch lab down, then lab up")
