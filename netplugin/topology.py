"""From what the server says to what the kernel shall hold: pure, so every line of it can be tested without a kernel.

The problem: a service has one stable address (its VIP), while its tasks come and go. The idea: no process carries the
traffic. Each node's kernel rewrites the destination of a packet to a VIP into the address of one ready task, by chance
per connection, and rewrites the answers back. All rules stand in nftables tables of our own (the doors' in
`netplugin/fastpath.py`), which are replaced as a whole in one transaction: there is never half a rule set, and
connection tracking keeps the connections that exist.

Who does this for real: kube-proxy (iptables and nftables modes), Docker Swarm with IPVS. Where we differ: a VIP takes
every port and protocol, since most app files do not say which ports a service listens on. What cannot be served is
refused at once instead of leaving the client to a time-out.

Read the result on any node: `nft list table ip miniorch`. Next file: `netplugin/overlay.py`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from miniorch.model import Cluster, Endpoints, Node
from netplugin.fastpath import CLIENT_PORTS, CLIENT_STEP, OTHER_PORTS, TRACKED_PINGS, TRACKED_PORTS, Doors, doors
from netplugin.isolation import isolation, members
from netplugin.overlay import (
    DEVICE,
    Overlay,
    Peer,
    Snapshot,
    entries,
    guard,
    overlay,
)

if TYPE_CHECKING:
    from netplugin.driver import Endpoint

TABLE = "miniorch"
GATEWAY = "169.254.1.1"  # every container's default gateway, the same on every node
CABLES = 109  # group of containers' devices: `ip link show group 109`
LABEL = "lo:miniorch"  # `ip address show label lo:miniorch` lists our addresses


@dataclass(frozen=True, slots=True)
class Topology:
    """All that a node's kernel must hold besides its containers' own devices."""

    pool_address: str  # the node's own address: source of what the node sends to containers, listens for DNS
    container_pool: str
    vip_pool: str
    ruleset: str  # input of `nft -f -`
    doors: Doors  # what `netplugin/fastpath.py` makes rules of, for the devices that are there
    overlay: Overlay | None = None  # the way to the other nodes, if there are any
    served: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # service address -> its ready tasks' addresses

    def entries(self, mtu: int) -> Snapshot:
        """Addresses, routes and the overlay, in the words of `ip`. `mtu` is what a container may send at once."""
        found = {
            f"address {GATEWAY}/32": (f"dev lo scope link label {LABEL}",),
            f"address {self.pool_address}/32": (f"dev lo label {LABEL}",),
            # An address that nobody has must not reach the default gateway. Containers and nodes have longer routes.
            f"route {self.container_pool}": ("unreachable",),
            # Never used as it stands, since the output chain rewrites the packet; but without any route the node itself
            # could not even begin to connect to a VIP.
            f"route {self.vip_pool}": (f"dev lo src {self.pool_address}",),
        }
        return found | (entries(self.overlay, mtu) if self.overlay else {})


def topology(
    cluster: Cluster,
    node: Node,
    endpoints: Iterable[Endpoints],
    peers: Iterable[Peer] = (),
    wired: Iterable["Endpoint"] = (),
) -> Topology:
    """What `node`'s kernel shall hold. `wired` are its own containers, which the endpoints may not show yet.

    Raises `ValueError` for what is no address (nothing else reaches nft).
    """
    containers, vips = str(IPv4Network(cluster.container_pool)), str(IPv4Network(cluster.vip_pool))
    own = str(IPv4Address(node.pool_address))
    services = sorted(endpoints, key=lambda item: item.key)
    way = overlay(cluster.id, node, peers)
    served = {item.vip: tuple(ready_addresses(item)) for item in services if item.vip}
    nodes = [own, *(peer.pool_address for peer in way.peers)] if way else [own]
    wired = list(wired)
    found = members(services, wired)
    more = [*guard(way), *isolation(found, nodes, containers, vips)]
    rules = ruleset(str(IPv4Network(node.subnet)), own, containers, vips, services, more)
    cables = {outer_name(one.id): one.address for one in wired}
    return Topology(own, containers, vips, rules, doors(cables, found, way.peers if way else ()), way, served)


def outer_name(endpoint: str) -> str:
    """The node's end of an endpoint's veth pair. Device names have 15 characters at most; Docker's ids have 64."""
    return f"mo{endpoint[:8]}"


def ruleset(
    subnet: str,
    pool_address: str,
    container_pool: str,
    vip_pool: str,
    services: list[Endpoints],
    more: Iterable[str],
) -> str:
    """The whole table as one transaction, with `more` sets and chains. The empty declaration before `delete` makes that
    work the first time.
    """
    ready = {item: ready_addresses(item) for item in services if item.vip}
    served = {item: addresses for item, addresses in ready.items() if addresses}
    lines = [f"table ip {TABLE}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
    for item, addresses in served.items():
        lines += _chain(chain_name(item), [f"dnat to {_one_of(addresses)}"])
    verdicts = ", ".join(f"{IPv4Address(item.vip)} : goto {chain_name(item)}" for item in served)
    lines += _chain("services", [f"ip daddr vmap {{ {verdicts} }}"] if served else [])
    lines += _chain("refuse", ["meta l4proto tcp reject with tcp reset", "reject with icmp type port-unreachable"])
    lines += _chain("prerouting", ["type nat hook prerouting priority -101; policy accept;", "jump services"])
    # A packet that still has a VIP for destination here met no chain above: unknown service, or none ready. What this
    # node begins is refused where only the first packet of a connection is asked, what containers begin in `isolation`.
    refused = f"ip daddr {vip_pool} goto refuse"
    lines += _chain("output", ["type nat hook output priority -101; policy accept;", "jump services", refused])
    sources = _source_rules(pool_address, container_pool, vip_pool, served.values())
    client = f"ip saddr {subnet} ip saddr != {pool_address} ip daddr {container_pool} meta l4proto"
    lines += _chain("postrouting", [*sources, *_moved(client)])
    return "\n".join([*lines, *more, "}", ""])


def ready_addresses(item: Endpoints) -> list[str]:
    """Addresses of the tasks that may get traffic, sorted."""
    ready = {IPv4Address(backend.address) for backend in item.backends if backend.ready and backend.address}
    return [str(address) for address in sorted(ready)]


def chain_name(item: Endpoints) -> str:
    """A name that teaches: `to-dockchat/web`."""
    return "to-" + re.sub(r"[^a-zA-Z0-9/_.-]", "_", item.key)


def _one_of(addresses: list[str]) -> str:
    if len(addresses) == 1:
        return addresses[0]
    choices = ", ".join(f"{number} : {address}" for number, address in enumerate(addresses))
    return f"numgen random mod {len(addresses)} map {{ {choices} }}"


def _source_rules(own: str, container_pool: str, vip_pool: str, backends: Iterable[list[str]]) -> list[str]:
    rules = ["type nat hook postrouting priority 99; policy accept;"]
    # A task that is sent to itself by its own VIP would see a packet from its own address and drop it.
    selves = ", ".join(f"{address} . {address}" for address in sorted({one for many in backends for one in many}))
    if selves:
        rules.append(f"ip saddr . ip daddr {{ {selves} }} snat to {own}")
    # The far node takes only what comes from our own subnet: whoever else sends from here is seen as this node.
    rules.append(f'oifname "{DEVICE}" ip saddr != {container_pool} snat to {own}')
    # Nobody outside knows a way back to the pools.
    rules.append(f"ip saddr {container_pool} ip daddr != {{ {container_pool}, {vip_pool} }} masquerade")
    return rules


def _moved(client: str) -> list[str]:
    """Where the node looks for its own containers' tracked connections (`netplugin/fastpath.py`). `client` matches what
    these send to others, up to the protocol.

    To service addresses a port goes up by a fixed step, so that two of them never meet, and one that is used again
    soon is the same again to the task: it knows that as the same connection begun anew, while from a port chosen at
    random it may take the new one's packets for the last one's. All else shares some ports by chance: what a program
    has chosen below or above, and connections from tracked ports, which tracking itself would move anywhere.
    """
    ports, first = f"{client} {{ tcp, udp }}", TRACKED_PORTS.partition("-")[0]
    pings, first_ping = f"{client} icmp", TRACKED_PINGS.partition("-")[0]
    return [
        f"{ports} th sport {CLIENT_PORTS} ct status dnat snat to :th sport | {CLIENT_STEP:#x}",
        f"{ports} ct status dnat snat to :{OTHER_PORTS}",
        f"{ports} th sport >= {first} snat to :{OTHER_PORTS}",
        f"{pings} ct status dnat snat to :{TRACKED_PINGS}",
        f"{pings} icmp id >= {first_ping} snat to :{TRACKED_PINGS}",
    ]


def _chain(name: str, rules: list[str]) -> list[str]:
    return [f"    chain {name} {{", *(f"        {rule}" for rule in rules), "    }"]
