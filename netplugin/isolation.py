"""Who may speak to whom: containers that share a network of an app, and nobody else.

The problem: all containers of a cluster live in one routed pool, so without a rule each of them could reach each other
one, a stranger's database as well. The idea: default closed. A packet that begins a connection to a container must come
from a node (health probes, HAProxy) or from a container that is on one of the same networks; all else is refused at
once, so that a program sees an error and not a time-out. Answers pass by connection tracking and cost one look.

    ip saddr vmap @members        10.200.0.5 : goto from-shop/back/front     whose container sends?
    chain from-shop/back/front    ip daddr @in-shop/back accept              is the other one there, too?
                                  ip daddr @in-shop/front accept
                                  goto stranger

So the rules grow with the number of containers, not of pairs, and a packet costs two look-ups in a hash.

A container belongs to its networks before its first instruction: the network driver tells the kernel (`admission`)
before Docker goes on, and the server's endpoints follow. Other nodes learn of it a moment later. So what arrives from
another node with an unknown source is dropped without a word: the sender tries again, and by then it is known.

Who does this for real: Calico (a set per policy), Cilium (an identity per group of labels). Where we differ: networks
are all the policy there is. Everything here is pure. Next file: `netplugin/fastpath.py`, which asks the same sets where
a packet comes in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from miniorch.model import Endpoints
from netplugin.overlay import DEVICE

if TYPE_CHECKING:
    from netplugin.driver import Endpoint

NAME_CHARACTERS = 120  # nft takes 255
Networks = frozenset[str]  # "shop/back", "shop/front"


def networks_of(item: Endpoints) -> Networks:
    return frozenset(f"{item.app}/{network}" for network in item.networks)


def members(endpoints: Iterable[Endpoints], wired: Iterable[Endpoint]) -> dict[str, Networks]:
    """Address -> its networks. `wired` are this node's own containers, which the endpoints may not show yet.

    The endpoints know better, since networks may change while a container runs; unless they still mean another task.
    """
    known = {
        backend.address: (backend.task, networks_of(item))
        for item in endpoints
        for backend in item.backends
        if backend.address
    }
    for one in wired:
        if one.networks and known.get(one.address, ("",))[0] != one.task:
            known[one.address] = (one.task, frozenset(one.networks.split(",")))
    return {str(IPv4Address(address)): networks for address, (_, networks) in sorted(known.items())}


def isolation(found: Mapping[str, Networks], nodes: Iterable[str], container_pool: str, vip_pool: str) -> list[str]:
    """The part of the table that holds containers apart. `nodes` are the pool addresses of this node and its peers."""
    lines = groups_and_sets(found, "accept", ["goto stranger"])
    lines += ["    chain stranger {", *(f"        {rule}" for rule in _STRANGER), "    }"]
    verdicts = ", ".join(f"{address} : goto {chain_of(one)}" for address, one in found.items())
    elements = f" elements = {{ {verdicts} }};" if verdicts else ""
    rules = [
        "type filter hook forward priority -10; policy accept;",
        "ct state established,related accept",
        f"ip daddr {vip_pool} goto refuse",  # met no chain of `services`: no such service, or no task of it is ready
        f"ip daddr != {container_pool} accept",
        f"ip saddr {{ {', '.join(sorted(nodes))} }} accept",
        "ip saddr vmap @members",
        "goto stranger",
    ]
    return [
        *lines,
        f"    map members {{ type ipv4_addr : verdict;{elements} }}",
        "    chain isolation {",
        *(f"        {rule}" for rule in rules),
        "    }",
    ]


def groups_and_sets(
    found: Mapping[str, Networks], verdict: str, otherwise: list[str], *, fixed: bool = False
) -> list[str]:
    """A set per network, and a chain per group of networks that a container is on: `verdict` if the other is there,
    too. In this family's table and in that of the doors (`netplugin/fastpath.py`).
    """
    lines = []
    for network in sorted({network for networks in found.values() for network in networks}):
        inside = [address for address, networks in found.items() if network in networks]
        size = f" size {len(inside)};" if fixed else ""
        lines.append(f"    set {_set(network)} {{ type ipv4_addr;{size} elements = {{ {', '.join(inside)} }}; }}")
    for group in sorted({tuple(sorted(networks)) for networks in found.values()}):
        lines += [
            f"    chain {_chain(group)} {{",
            *(f"        {rule}" for rule in _from(group, verdict, otherwise)),
            "    }",
        ]
    return lines


def chain_of(networks: Networks) -> str:
    """The chain that a container's packets go through."""
    return _chain(tuple(sorted(networks)))


def admission(table: str, address: str, networks: Networks) -> str:
    """What lets one container in, without replacing the table. Refused by nft if the address was somebody else's."""
    address, group = str(IPv4Address(address)), tuple(sorted(networks))
    lines = []
    for network in group:
        lines.append(f"add set ip {table} {_set(network)} {{ type ipv4_addr; }}")
        lines.append(f"add element ip {table} {_set(network)} {{ {address} }}")
    lines.append(f"add chain ip {table} {_chain(group)}")
    lines.append(f"flush chain ip {table} {_chain(group)}")  # it may be there with the same rules
    lines += [f"add rule ip {table} {_chain(group)} {rule}" for rule in _from(group, "accept", ["goto stranger"])]
    lines.append(f"add element ip {table} members {{ {address} : goto {_chain(group)} }}")
    return "\n".join([*lines, ""])


_STRANGER = (f'iifname "{DEVICE}" drop', "goto refuse")


def _from(group: tuple[str, ...], verdict: str, otherwise: list[str]) -> list[str]:
    return [*(f"ip daddr @{_set(network)} {verdict}" for network in group), *otherwise]


def _set(network: str) -> str:
    return _name("in-", network)


def _chain(group: tuple[str, ...]) -> str:
    """`from-shop/back/front`: no name of a network has a slash, so no two groups have one name."""
    app = group[0].partition("/")[0]
    return _name("from-", "/".join([app, *(network.partition("/")[2] for network in group)]))


def _name(kind: str, text: str) -> str:
    """What nft takes as a name, readable if it can be."""
    name = re.sub(r"[^a-zA-Z0-9/_.-]", "_", text)
    if name != text or len(name) > NAME_CHARACTERS:
        name = f"{name[:NAME_CHARACTERS]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return kind + name
