"""The way to the other nodes: one VXLAN device, and per node exactly three entries.

The problem: a container's address means something on its own node only; the wire between the machines knows the
machines. The idea: put the packet, as an Ethernet frame, into a UDP packet from machine to machine (VXLAN). Usually a
VXLAN floods frames and learns from the answers who lives where; we know it, so nothing is flooded and nothing learned:

    ip route 10.200.2.0/24 via 10.200.2.1      whose containers are those? node2's, tunnel address 10.200.2.1
    ip neigh 10.200.2.1 lladdr 0a:6d:0a:c8:02:01    which MAC has that address?
    bridge fdb 0a:6d:0a:c8:02:01 dst 192.0.2.2      behind which machine is that MAC?

So a cluster of 1,000 nodes costs each of them 3,000 entries, however many containers run. MAC and network number follow
from what both ends know already: there is nothing to exchange.

Who does this for real: flannel. Where we differ: what comes out of the tunnel must carry a source address of the
machine that sent it (`guard`), so a node can speak for its own containers alone. Everything here is pure.
Next file: `netplugin/verify.py`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from miniorch.model import Node, NodeState

DEVICE = "mo-vxlan"
PORT = 4789
OVERHEAD = 50  # bytes: Ethernet 14 + VXLAN 8 + UDP 8 + IP 20
ROOM = 4096  # of a set: one that cannot grow is faster, and each frame is looked for in one
ROUTE_PROTOCOL = 109  # `ip route show proto 109` lists our routes

Snapshot = dict[str, tuple[str, ...]]  # "neighbour 10.200.2.1" -> ("lladdr 0a:6d:0a:c8:02:01",)


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Another node, as far as packets are concerned."""

    address: str  # on the wire
    subnet: str  # its containers
    pool_address: str  # its end of the tunnel


@dataclass(frozen=True, slots=True)
class Overlay:
    """This node's end of the tunnel, and all others."""

    network: int  # VNI: tells our frames from those of another cluster on the same wire
    address: str  # on the wire
    pool_address: str
    peers: tuple[Peer, ...]


def peers_of(own: Node, nodes: Iterable[Node]) -> tuple[Peer, ...]:
    """The nodes that packets can be sent to. A node that is down is none: its addresses are refused at once, instead of
    leaving everybody who asks to a time-out. Neither is an entry that claims what is ours (this machine's former name).
    """
    others = (node for node in nodes if node.address and node.state is not NodeState.DOWN)
    apart = (node for node in others if node.address != own.address and node.subnet != own.subnet)
    return tuple(sorted(Peer(node.address, node.subnet, node.pool_address) for node in apart))


def overlay(cluster: str, own: Node, peers: Iterable[Peer]) -> Overlay | None:
    """What `own` needs to reach its peers; None if it has none. Raises `ValueError` for what is no address."""
    found = tuple(
        Peer(str(IPv4Address(peer.address)), str(IPv4Network(peer.subnet)), str(IPv4Address(peer.pool_address)))
        for peer in peers
    )
    if not own.address or not found:
        return None
    return Overlay(network_number(cluster), str(IPv4Address(own.address)), str(IPv4Address(own.pool_address)), found)


def network_number(cluster: str) -> int:
    """A VNI from the cluster's id: 24 bits, never 0."""
    return int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:4]) % ((1 << 24) - 1) + 1


def mac(pool_address: str) -> str:
    """10.200.2.1 -> 0a:6d:0a:c8:02:01. The first byte says "locally administered", the last four are the address."""
    return ":".join(f"{byte:02x}" for byte in (0x0A, 0x6D, *IPv4Address(pool_address).packed))


def entries(wanted: Overlay, mtu: int) -> Snapshot:
    """What the kernel shall hold for the overlay, in the words of `ip` and `bridge`."""
    own = wanted.pool_address
    device = f"id {wanted.network} local {wanted.address} dstport {PORT} nolearning address {mac(own)} mtu {mtu} up"
    found: Snapshot = {f"device {DEVICE}": (device,)}
    for peer in wanted.peers:
        found[f"route {peer.subnet}"] = (f"via {peer.pool_address} dev {DEVICE} onlink src {own}",)
        found[f"neighbour {peer.pool_address}"] = (f"lladdr {mac(peer.pool_address)}",)
        found[f"fdb {mac(peer.pool_address)}"] = (f"dst {peer.address}",)
    return found


def guard(wanted: Overlay | None) -> list[str]:
    """nftables: the tunnel is for peers, and each of them sends what comes from its own containers.

    The set holds pairs of an outer and an inner source: 42 bytes behind the start of the UDP header (UDP 8, VXLAN 8,
    Ethernet 14, 12 into IP) stands the inner packet's source address, whose first bits are the sender's subnet.
    """
    if wanted is None:
        return []
    bits = IPv4Network(wanted.peers[0].subnet).prefixlen
    source = f"ip saddr . @th,336,{bits}"
    pairs = (f"{peer.address} . {_prefix(peer.subnet)}" for peer in wanted.peers)
    addresses = ", ".join(dict.fromkeys(peer.address for peer in wanted.peers))
    room = max(ROOM, len(wanted.peers))
    return [
        f"    set peers {{ type ipv4_addr; size {room}; elements = {{ {addresses} }}; }}",
        f"    set senders {{ typeof {source}; size {room}; elements = {{ {', '.join(pairs)} }}; }}",
        "    chain raw {",
        "        type filter hook prerouting priority -300; policy accept;",
        f"        udp dport {PORT} goto tunnel",
        "    }",
        "    chain tunnel {",
        # The inner frame's type: IPv4 alone. What is too short to be compared does not match. Connections inside the
        # tunnel are tracked: to track the tunnel, too, would be two looks more per packet, for nothing.
        f"        {source} @senders @th,224,16 0x0800 notrack accept",
        "        ip daddr @peers drop",  # what this machine forwards is masqueraded, and would pass for its own
        "        fib daddr type != unicast drop",  # to this machine, in whatever way
        "    }",
        "    chain tunnel_out {",
        "        type filter hook output priority -300; policy accept;",
        f"        udp dport {PORT} ip daddr @peers notrack",
        "    }",
    ]


def _prefix(subnet: str) -> str:
    network = IPv4Network(subnet)
    return f"{int(network.network_address) >> (32 - network.prefixlen):#x}"
