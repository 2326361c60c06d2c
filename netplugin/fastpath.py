"""A container's door: who may come in there, and which packets go on by the fast path.

The problem: between two containers a packet crosses routing, connection tracking and Docker's chains on both machines,
and for each packet of a connection they say the same. The idea: ask at the device where the packet comes in, before any
of them (nftables' `netdev` family). A container's own device lets in its own address alone. And what needs no tracking
is handed from there to the device where it leaves, like a frame in a switch:

    ip saddr 10.200.0.5 goto from-shop/back/front    this container's; everything else is dropped
    chain from-shop/back/front    ip daddr @in-shop/back goto fast      the other end shares a network with it
    chain fast    fwd ip to 10.200.2.1 device mo-vxlan                  its node is the next hop

Tracking is needed where an answer must be given its service address back. To tell such connections without a look at
each, `topology.py` moves the client's end of them to one of `TRACKED_PORTS`, while containers choose theirs below
(`agent/docker_engine.py`). So a node asks one number, the port of its own container: both directions of a connection
get the same answer, and two connections are never taken for one. Fragments, packets with options or at the end of their
time, and whatever is no TCP, UDP or ping go the long way, where the same networks are asked (`isolation.py`). So the
fast path only ever saves time: without it, everything works.

Who does this for real: nftables' flow tables, which learn connections from tracking (many kernels are built without);
Cilium, in eBPF. Everything here is pure. Next file: `netplugin/dns.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netplugin.isolation import Networks, chain_of, groups_and_sets
from netplugin.overlay import DEVICE, Peer

TRACKED_PORTS = "49152-65535"  # RFC 6335's dynamic ports
CLIENT_PORTS, CLIENT_STEP = "32768-47103", 0x4000  # what containers choose by themselves, and how far that is moved
OTHER_PORTS = "63488-65535"  # where all else is moved: the tracked ports that no step leads to
TRACKED_PINGS = "61440-65535"  # a ping has a number for both ends; most programs take their process id


@dataclass(frozen=True, slots=True)
class Doors:
    """All that the table of doors is made from, besides the devices that are there."""

    cables: Mapping[str, str]  # a container's device on this node -> the address behind it
    members: Mapping[str, Networks]  # address of any container -> its networks
    ways: Mapping[str, str]  # another node's subnet -> its end of the tunnel


def doors(cables: Mapping[str, str], members: Mapping[str, Networks], peers: tuple[Peer, ...]) -> Doors:
    """Raises `ValueError` for what is no address."""
    behind = {device: str(IPv4Address(address)) for device, address in cables.items()}
    return Doors(behind, members, {peer.subnet: peer.pool_address for peer in peers})


def fence(address: str, verdict: str = "accept") -> tuple[str, ...]:
    """What a container may send at all: packets with its own address, and ARP; no frame with a VLAN tag."""
    return (f"ether type ip ip saddr {IPv4Address(address)} {verdict}", "ether type arp accept", "drop")


def fenced(table: str, device: str, address: str) -> str:
    """Sets up a new container's fence, where its frames come into the node: nobody else's packets are asked.

    The device's rp_filter would come too late. By then a forged packet counts as one of the other's connection, those
    for a connected UDP socket of the node pass, and it loses against Ubuntu's net.ipv4.conf.all.rp_filter=2.
    """
    chain = f"netdev {table} {device}"
    lines = [f"add table netdev {table}", f"add chain {chain} {{ {_hook(device)} }}", f"flush chain {chain}"]
    return "\n".join([*lines, *(f"add rule {chain} {rule}" for rule in fence(address)), ""])


def unfenced(table: str, device: str) -> str:
    """Takes a fence away; fine if there is none. Some kernels do that by themselves when the device goes."""
    return f"add table netdev {table}\nadd chain netdev {table} {device}\ndelete chain netdev {table} {device}\n"


def unreached(table: str, address: str) -> str:
    """Takes a container off the fast path; an error if it is not on it."""
    return f"delete element netdev {table} cables {{ {IPv4Address(address)} }}\n"


def ruleset(table: str, wanted: Doors, sizes: Mapping[str, int], mtu: int, *, fast: bool) -> str:
    """The whole table as one transaction. `sizes`: the tunnel's and containers' devices that are there, and the MTU of
    each. Only those of the size `mtu` are on the fast path: of a packet that does not fit the sender must be told.
    """
    devices = {device: size == mtu for device, size in sizes.items()}
    lines = [f"table netdev {table}", f"delete table netdev {table}", f"table netdev {table} {{"]
    fast = fast and any(devices.get(device) for device in wanted.cables)
    if fast:
        lines += _fast(wanted, devices, mtu)
    for device in sorted(devices.keys() - {DEVICE}):
        address = wanted.cables.get(device)
        networks = wanted.members.get(address or "")
        verdict = f"goto {chain_of(networks)}" if fast and devices[device] and networks else "accept"
        # A device that no container is known to have: nothing comes in until it is swept away.
        lines += _chain(device, [_hook(device), *(fence(address, verdict) if address else ("drop",))])
    return "\n".join([*lines, "}", ""])


def _fast(wanted: Doors, devices: Mapping[str, bool], mtu: int) -> list[str]:
    """Sets of a fixed size, which are faster: the table is replaced, not added to."""
    near = {address: f'"{device}"' for device, address in wanted.cables.items() if devices.get(device)}
    lines = [*groups_and_sets(wanted.members, fast=True), *_map("cables", "ip daddr : meta oif", near)]
    far: list[str] = []
    if wanted.ways and devices.get(DEVICE):
        subnets = {IPv4Network(subnet): end for subnet, end in wanted.ways.items()}
        far = [f'fwd ip to ip daddr & {next(iter(subnets)).netmask} map @ways device "{DEVICE}"']
        senders = {address: f"goto {chain_of(networks)}" for address, networks in wanted.members.items()}
        lines += _map("ways", "ip daddr : ip daddr", {str(net.network_address): end for net, end in subnets.items()})
        lines += _map("members", "ip saddr : verdict", senders)
        lines += _chain(DEVICE, [_hook(DEVICE), "ip saddr vmap @members"])
    cable, tracked = "fwd ip to ip daddr device ip daddr map @cables", TRACKED_PORTS.partition("-")[0]
    own = f'th sport >= {tracked} iifname != "{DEVICE}" accept'
    lines += _chain("ports", [own, *far, f"th dport >= {tracked} accept", cable])
    lines += _chain("pings", [*far, cable])
    odd = ["meta pkttype != host", "ip hdrlength != 5", "ip ttl < 2", "ip frag-off & 0x3fff != 0"]
    odd.append(f"meta l4proto != tcp ip length > {mtu}")  # from a node with another MTU; TCP's ends agree on a size
    ping = f"icmp type {{ echo-request, echo-reply }} icmp id < {TRACKED_PINGS.partition('-')[0]} goto pings"
    return [*lines, *_chain("fast", [*(f"{one} accept" for one in odd), "meta l4proto { tcp, udp } goto ports", ping])]


def _map(name: str, kinds: str, elements: Mapping[str, str]) -> list[str]:
    inside = ", ".join(f"{key} : {value}" for key, value in sorted(elements.items()))
    held = f" elements = {{ {inside} }};" if inside else ""
    return [f"    map {name} {{ typeof {kinds}; size {max(1, len(elements))};{held} }}"]


def _hook(device: str) -> str:
    return f'type filter hook ingress device "{device}" priority 0;'


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    return [f"    chain {name} {{", *(f"        {rule}" for rule in rules), "    }"]
