"""What a lab is before anything of it exists: names, addresses, folders and the few commands that make its wire.

The problem: a lab touches namespaces, cgroups, a bridge and a firewall, and all of it must be found again after a crash
and removed without a trace. The idea: nothing is remembered that can be computed. From the lab's name and a node's
number follow every path, address and device; what a person chose (how many nodes, labels, limits) is one small file.
But for the environment, everything in this file is pure.

Who does this for real: kind and Vagrant. Where we differ: a node is three namespaces and a Docker Engine, up in a
second. Next file: `miniorch/lab/machine.py`.
"""

import ipaddress
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from miniorch.errors import Conflict, UsageError
from miniorch.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE

NODES_LIMIT = 20  # each takes about 250 MB
DEFAULT_NODES = 3
HOST_PART = 254  # the host's own address on the wire is .254, node 3's is .3
WIRE_CANDIDATES = [f"10.210.{third}.0/24" for third in range(256)]
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
ETCD_PORT, ETCD_PEER_PORT = 2379, 2380
# On each manager, at the same place: servers are told of it once. Below /etc, which each node has for itself.
ETCD_FOLDER = Path("/etc/etcd")
ETCD_FILES = {"ca": ETCD_FOLDER / AUTHORITY_FILE, "cert": ETCD_FOLDER / CERTIFICATE_FILE, "key": ETCD_FOLDER / KEY_FILE}
LEAST_BYTES, LEAST_CPUS = 128 << 20, 0.1  # a node with less cannot run its own Docker Engine


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lab is found on its host. The tests' labs have names of their own and never meet the user's."""

    name: str = "lab"

    @classmethod
    def here(cls) -> "Place":
        """The lab that this process speaks of: MINIORCH_LAB names another one than the usual. Raises `UsageError`."""
        name = os.environ.get("MINIORCH_LAB") or "lab"
        if not re.fullmatch("[a-z][a-z0-9]{0,11}", name):
            raise UsageError(
                f'MINIORCH_LAB wants at most 12 small letters and digits, got "{name}"', remedy="unset MINIORCH_LAB"
            )
        return cls(name)

    @property
    def tag(self) -> str:
        """Marks all that belongs to this lab: folders, cgroups, the firewall's table."""
        return "miniorch-lab" if self.name == "lab" else f"miniorch-lab-{self.name}"

    @property
    def run(self) -> Path:
        """What a reboot of the host wipes out."""
        return Path("/run", self.tag)

    @property
    def state(self) -> Path:
        """The nodes' disks, and what was chosen."""
        return Path("/var/lib", self.tag)

    @property
    def file(self) -> Path:
        return self.state / "lab.json"

    @property
    def current(self) -> Path:
        """Exists while the lab is up: the socket of its cluster, for `miniorch` outside of it."""
        return self.run / "current"

    @property
    def images_socket(self) -> Path:
        """Where nodes get images of the host's engine. Not below /run, which each node has for itself."""
        return self.state / "images.sock"

    @property
    def host_device(self) -> str:
        """The host's end of the wire. A device's name has at most 15 characters."""
        return f"mo-{self.name}"[:15]

    @property
    def table(self) -> str:
        return self.tag.replace("-", "_")

    def api_socket(self, node: str) -> Path:
        return self.run / node / "run/miniorch/api.sock"


@dataclass(frozen=True, slots=True)
class LabNode:
    """One machine of the lab, as it was ordered. 0 of `cpus` and `memory_bytes`: all that the host has."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    memory_bytes: int = 0

    @property
    def number(self) -> int:
        return int(self.name.removeprefix("node"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What was chosen for a lab; its file holds exactly this."""

    wire: str = WIRE_CANDIDATES[0]
    store: str = "sqlite"  # or "etcd"
    nodes: tuple[LabNode, ...] = ()
    managers: int = 1  # the first so many nodes; each has a member of the etcd

    def address(self, node: LabNode) -> str:
        return str(ipaddress.ip_network(self.wire)[node.number])

    @property
    def host_address(self) -> str:
        return str(ipaddress.ip_network(self.wire)[HOST_PART])

    def manages(self, node: LabNode) -> bool:
        return node.number <= self.managers

    def store_url(self) -> str:
        """What the servers are told of their store; "" for a file."""
        if self.store != "etcd":
            return ""
        hosts = [f"{self.address(node)}:{ETCD_PORT}" for node in self.nodes if self.manages(node)]
        return f"etcd://{','.join(hosts)}?" + "&".join(f"{name}={file}" for name, file in ETCD_FILES.items())

    def etcd(self, node: LabNode) -> list[str]:
        """The options of a manager's member of the etcd, which serves nobody without a certificate."""
        peers = {one.name: f"https://{self.address(one)}:{ETCD_PEER_PORT}" for one in self.nodes if self.manages(one)}
        own = f"https://{self.address(node)}:{ETCD_PORT}"
        files = dict(zip(("trusted-ca-file", "cert-file", "key-file"), ETCD_FILES.values(), strict=True))
        return [
            "--name", node.name, "--listen-peer-urls", peers[node.name], "--initial-advertise-peer-urls",
            peers[node.name], "--listen-client-urls", own, "--advertise-client-urls", own,
            *(f"--{side}{name}={file}" for side in ("", "peer-") for name, file in files.items()),
            "--client-cert-auth", "--peer-client-cert-auth",
            "--initial-cluster", ",".join(f"{name}={url}" for name, url in peers.items()),
        ]  # fmt: skip

    def node(self, name: str) -> LabNode | None:
        """The node that somebody calls `node2`, `n2` or `2`."""
        return next((one for one in self.nodes if one.name == full_name(name)), None)


def full_name(word: str) -> str:
    """`node2` for `2`, `n2` and `node2`; anything else as it is."""
    short = re.fullmatch(r"(?:node|n)?([1-9]\d?)", word)
    return f"node{short[1]}" if short else word


def free_wire(routes: Collection[str]) -> str:
    """The first /24 for the wire that no route of the host covers. Raises `Conflict` when there is none."""
    taken = [ipaddress.ip_network(route, strict=False) for route in routes]
    for wire in WIRE_CANDIDATES:
        if not any(ipaddress.ip_network(wire).overlaps(route) for route in taken if route.version == 4):
            return wire
    raise Conflict("every network below 10.210.0.0/16 has a route on this machine already", remedy="ip route")


def read_labels(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """`n2:zone=b` -> {"node2": {"zone": "b"}}. Raises `UsageError`."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        node, colon, label = word.partition(":")
        key, equals, value = label.partition("=")
        if not (node and colon and key and equals):
            raise UsageError(f'--label wants NODE:KEY=VALUE, got "{word}"', remedy="--label node2:zone=b")
        found.setdefault(full_name(node), {})[key] = value
    return found


def read_memory(word: str) -> int:
    """`512m` -> bytes; "" is 0, which means no limit. Raises `UsageError`."""
    read = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmg]?)b?", word.lower())
    if not word:
        return 0
    if not read:
        raise UsageError(f'--memory wants a number and k, m or g, got "{word}"', remedy="--memory 1g")
    size = int(float(read[1]) * UNITS[read[2]])
    if size < LEAST_BYTES:
        raise UsageError(f"--memory {word} is too little for a node with its Docker Engine", remedy="--memory 512m")
    return size


def ordered(
    before: Plan | None, count: int, store: str, labels: Mapping[str, Mapping[str, str]],
    cpus: float, memory_bytes: int, wire: str, managers: int = 0,
) -> Plan:  # fmt: skip
    """The plan after `lab up` with these options: the one before, and more nodes. 0 and "": as before.

    Raises `Conflict` for a wish that what is there cannot follow, `UsageError` for a node that there will not be.
    """
    plan = before or Plan(wire=wire, store=store or ("etcd" if managers > 1 else "sqlite"), managers=managers or 1)
    again = "miniorch lab down; then the same again"
    if store not in ("", plan.store):
        raise Conflict(f"this lab keeps its state in {plan.store}, not in {store}", remedy=again)
    if managers not in (0, plan.managers):
        raise Conflict(f"this lab has managers: {plan.managers}, not {managers}", remedy=again)
    if plan.managers > 1 and plan.store != "etcd":
        raise UsageError("several managers need one store that all of them reach", remedy="--store etcd")
    count = count or len(plan.nodes) or max(DEFAULT_NODES, plan.managers)
    if plan.managers > count:
        raise UsageError(f"{plan.managers} managers do not fit on {count} nodes", remedy=f"--nodes {plan.managers}")
    if count > NODES_LIMIT:
        raise UsageError(f"a lab has at most {NODES_LIMIT} nodes", remedy=f"--nodes {NODES_LIMIT}")
    if cpus and not cpus >= LEAST_CPUS:
        raise UsageError(f"--cpus {cpus:g} is too little for a node with its Docker Engine", remedy="--cpus 0.5")
    if count < len(plan.nodes):
        raise Conflict(f"this lab has {len(plan.nodes)} nodes already", remedy=again)
    nodes = list(plan.nodes)
    nodes += [LabNode(f"node{number}", {}, cpus, memory_bytes) for number in range(len(nodes) + 1, count + 1)]
    if strangers := sorted(set(labels) - {node.name for node in nodes}):
        raise UsageError(f"--label names {strangers[0]}, but the lab has {count} nodes", remedy="miniorch lab ls")
    for at, node in enumerate(plan.nodes):
        if (cpus or memory_bytes) and (node.cpus, node.memory_bytes) != (cpus, memory_bytes):
            raise Conflict(f"{node.name} exists with other limits", remedy=again)
        if any(node.labels.get(key) != value for key, value in labels.get(node.name, {}).items()):
            key, value = next(iter(labels[node.name].items()))
            raise Conflict(f"{node.name} exists already", remedy=f"miniorch node label {nodes[at].name} {key}={value}")
    nodes = [replace(node, labels={**node.labels, **labels.get(node.name, {})}) for node in nodes]
    return replace(plan, nodes=tuple(nodes))


# --- the wire, as lines for `ip -batch` ------------------------------------------------------------------------------


def bridge_lines() -> list[str]:
    """Inside the wire's own namespace: the switch that all cables end in."""
    return ["link set lo up", "link add wire type bridge", "link set wire up"]


def probe_lines() -> list[str]:
    """What fails on a kernel without VXLAN, and leaves nothing."""
    return ["link add probe type vxlan id 1 dstport 4789", "link delete probe"]


def host_lines(place: Place, plan: Plan, wire_pid: int) -> list[str]:
    """On the host: one cable to the switch, so that the host reaches the nodes."""
    device = place.host_device
    return [
        f"link add {device} type veth peer name host netns {wire_pid}",
        f"address add {plan.host_address}/24 dev {device}",
        f"link set {device} up",
    ]


def port_lines(port: str) -> list[str]:
    return [f"link set {port} master wire", f"link set {port} up"]


def cable_lines(node: LabNode, node_pid: int) -> list[str]:
    """Inside the wire's namespace: the cable of a node, whose other end is the node's eth0.

    A machine that was off has its MAC again; a new one would not be believed until the neighbours' caches expire.
    """
    mac = f"02:6d:6f:00:00:{node.number:02x}"
    return [f"link add {node.name} type veth peer name eth0 address {mac} netns {node_pid}", *port_lines(node.name)]


def node_lines(plan: Plan, node: LabNode, *, outside: bool) -> list[str]:
    """Inside a node: its address, and the way out if there is one."""
    lines = [f"address add {plan.address(node)}/24 dev eth0", "link set eth0 up"]
    return [*lines, *([f"route add default via {plan.host_address}"] if outside else [])]


def nat_rules(place: Place, plan: Plan) -> str:
    """The one rule that lets nodes reach what the host reaches, for `nft -f`."""
    rule = f'ip saddr {plan.wire} oifname != "{place.host_device}" masquerade'
    return f"table ip {place.table} {{\nchain out {{\ntype nat hook postrouting priority srcnat\n{rule}\n}}\n}}\n"
