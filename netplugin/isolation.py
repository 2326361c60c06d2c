"""Who may speak to whom: containers that share a network of an app, and nobody else.

The problem: all containers of a cluster live in one routed pool, so without a rule each of them could reach each other
one, a stranger's database as well. The idea: default closed. A packet that begins a connection to a container must come
from a node (health probes, HAProxy) or from a container that is on one of the same networks; all else is refused at
once, so that a program sees an error and not a time-out. Answers to nodes and from outside pass by connection tracking.

    ip saddr vmap @members        10.200.0.5 : goto from-shop/back/front     whose container sends?
    chain from-shop/back/front    ip daddr @in-shop/back accept              is the other one there, too?
                                  ip daddr @in-shop/front accept
                                  goto outside                               what is not in the pool is open to it
    chain from-shop/INTERNAL/db   ip daddr @in-shop/db accept
                                  goto stranger                              all of its networks are internal

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

from miniorch.model import INTERNAL, Endpoints, memberships
from netplugin.overlay import DEVICE

if TYPE_CHECKING:
    from netplugin.driver import Endpoint

NAME_CHARACTERS = 120  # nft takes 255
Networks = frozenset[str]  # "shop/back", "shop/front"; with "shop/INTERNAL" if all of them are internal


def networks_of(item: Endpoints) -> Networks:
    return frozenset(memberships(item))


def internal(networks: Iterable[str]) -> bool:
    return any(network.endswith(f"/{INTERNAL}") for network in networks)


def plain(networks: Iterable[str]) -> list[str]:
    """Without the mark, which nobody shares with anybody."""
    return [network for network in sorted(networks) if not internal([network])]


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
    lines = groups_and_sets(found)
    lines += ["    chain stranger {", *(f"        {rule}" for rule in _STRANGER), "    }"]
    lines += ["    chain outside {", f"        ip daddr != {container_pool} accept", "        goto stranger", "    }"]
    verdicts = ", ".join(f"{address} : goto {chain_of(one)}" for address, one in found.items())
    elements = f" elements = {{ {verdicts} }};" if verdicts else ""
    among = f"{{ {', '.join(sorted(nodes))} }}"
    rules = [
        "type filter hook forward priority -10; policy accept;",
        # From container to container each packet is asked, since networks may be taken away.
        f"ip daddr {container_pool} ip daddr != {among} ip saddr vmap @members",
        "ct state established,related accept",
        f"ip daddr {vip_pool} goto refuse",  # met no chain of `services`: no such service, or no task of it is ready
        f"ip saddr {among} accept",
        "ip saddr vmap @members",
        "goto outside",
    ]
    # The node's other addresses are outside, too: only what begins a connection is asked.
    node = ["type nat hook input priority 99; policy accept;", f"ip daddr != {container_pool} ip saddr vmap @members"]
    return [
        *lines,
        f"    map members {{ type ipv4_addr : verdict;{elements} }}",
        "    chain isolation {",
        *(f"        {rule}" for rule in rules),
        "    }",
        "    chain input {",
        *(f"        {rule}" for rule in node),
        "    }",
    ]


def groups_and_sets(found: Mapping[str, Networks], *, fast: bool = False) -> list[str]:
    """A set per network, and a chain per group of networks that a container is on: whether the other is there, too.
    In this family's table and, of a fixed size, in that of the doors (`netplugin/fastpath.py`).
    """
    lines = []
    for network in plain({network for networks in found.values() for network in networks}):
        inside = [address for address, networks in found.items() if network in networks]
        size = f" size {len(inside)};" if fast else ""
        lines.append(f"    set {_set(network)} {{ type ipv4_addr;{size} elements = {{ {', '.join(inside)} }}; }}")
    for group in sorted({tuple(sorted(networks)) for networks in found.values()}):
        lines += [
            f"    chain {_chain(group)} {{",
            *(f"        {rule}" for rule in _from(group, fast=fast)),
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
    for network in plain(group):
        lines.append(f"add set ip {table} {_set(network)} {{ type ipv4_addr; }}")
        lines.append(f"add element ip {table} {_set(network)} {{ {address} }}")
    lines.append(f"add chain ip {table} {_chain(group)}")
    lines.append(f"flush chain ip {table} {_chain(group)}")  # it may be there with the same rules
    lines += [f"add rule ip {table} {_chain(group)} {rule}" for rule in _from(group)]
    lines.append(f"add element ip {table} members {{ {address} : goto {_chain(group)} }}")
    return "\n".join([*lines, ""])


_STRANGER = (f'iifname "{DEVICE}" drop', "goto refuse")


def _from(group: tuple[str, ...], *, fast: bool = False) -> list[str]:
    rules = [f"ip daddr @{_set(network)} {'goto fast' if fast else 'accept'}" for network in plain(group)]
    return rules if fast else [*rules, "goto stranger" if internal(group) else "goto outside"]


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
