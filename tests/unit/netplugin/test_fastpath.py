"""A container's door as rules: its fence, and which packets go on by the fast path."""

from __future__ import annotations

import pytest

from agent.docker_engine import SYSCTLS
from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.driver import Endpoint
from netplugin.fastpath import (
    CLIENT_PORTS,
    CLIENT_STEP,
    OTHER_PORTS,
    TRACKED_PORTS,
    fenced,
    ruleset,
    unfenced,
    unreached,
)
from netplugin.overlay import Peer
from netplugin.topology import outer_name, topology

CLUSTER = Cluster("c1")
NODE = Node("node1", "10.200.3.0/24", "10.200.3.1", Resources(), address="192.0.2.1")
PEERS = (Peer("192.0.2.2", "10.200.4.0/24", "10.200.4.1"), Peer("192.0.2.3", "10.200.5.0/24", "10.200.5.1"))
WEB, DB, LOG = "10.200.3.2", "10.200.4.3", "10.200.3.4"
WIRED = [Endpoint("1a2b3c4d5e", WEB, "t-web", "shop/back"), Endpoint("2b3c4d5e6f", LOG, "t-log", "shop/log")]
WEB_DEVICE, LOG_DEVICE = (outer_name(one.id) for one in WIRED)
ALL_FIT = {WEB_DEVICE: 1450, LOG_DEVICE: 1450, "mo-vxlan": 1450}


def service(name: str, address: str, *networks: str) -> Endpoints:
    return Endpoints("shop", name, "", (), (Backend(f"t-{name}", 1, "n", address, True),), (), networks)


SHOP = [service("web", WEB, "back"), service("db", DB, "back"), service("log", LOG, "log")]


def table(sizes: dict[str, int], *, peers: tuple[Peer, ...] = PEERS, fast: bool = True) -> dict[str, list[str]]:
    """Sets, maps and chains: name -> lines."""
    wanted = topology(CLUSTER, NODE, SHOP, peers, WIRED).doors
    lines = [line.strip() for line in ruleset("miniorch", wanted, sizes, 1450, fast=fast).splitlines()]
    assert lines[:3] == ["table netdev miniorch", "delete table netdev miniorch", "table netdev miniorch {"]
    found: dict[str, list[str]] = {}
    for line in lines[3:-1]:
        if line.startswith(("set ", "map ", "chain ")):
            name = " ".join(line.split()[:2])
            found[name] = [line.partition("{ ")[2].removesuffix(" }")] if not line.startswith("chain") else []
        elif line != "}":
            found[name].append(line)
    return found


def test_a_container_sends_as_itself_and_what_stays_in_its_networks_goes_the_fast_path() -> None:
    held = table(ALL_FIT)
    assert held[f"chain {WEB_DEVICE}"] == [
        f'type filter hook ingress device "{WEB_DEVICE}" priority 0;',
        f"ether type ip ip saddr {WEB} goto from-shop/back",
        "ether type arp accept",
        "drop",
    ]
    assert held["chain from-shop/back"] == ["ip daddr @in-shop/back goto fast"], "all else goes the long way"
    assert held["set in-shop/back"] == [f"type ipv4_addr; size 2; elements = {{ {WEB}, {DB} }};"]


def test_the_next_hop_is_the_far_node_or_the_container() -> None:
    held = table(ALL_FIT)
    assert held["map ways"] == [
        "typeof ip daddr : ip daddr; size 2; elements = { 10.200.4.0 : 10.200.4.1, 10.200.5.0 : 10.200.5.1 };"
    ]
    assert f'{WEB} : "{WEB_DEVICE}", {LOG} : "{LOG_DEVICE}"' in held["map cables"][0]
    far, near = (
        'fwd ip to ip daddr & 255.255.255.0 map @ways device "mo-vxlan"',
        "fwd ip to ip daddr device ip daddr map @cables",
    )
    assert [line for line in held["chain ports"] if "fwd" in line] == [far, near]
    assert held["chain pings"] == [far, near]


def test_what_comes_out_of_the_tunnel_is_asked_for_its_sender_s_networks() -> None:
    held = table(ALL_FIT)
    assert held["chain mo-vxlan"][1:] == ["ip saddr vmap @members"]
    assert f"{DB} : goto from-shop/back" in held["map members"][0]


def test_each_node_asks_for_its_own_container_s_port_in_both_directions() -> None:
    ports = table(ALL_FIT)["chain ports"]
    assert ports[0] == 'th sport >= 49152 iifname != "mo-vxlan" accept'
    assert ports[2] == "th dport >= 49152 accept", "after the way to another node, before the one into a container"


def test_ports_that_containers_choose_are_moved_to_tracked_ones_of_their_own() -> None:
    low, high = map(int, CLIENT_PORTS.split("-"))
    assert SYSCTLS["net.ipv4.ip_local_reserved_ports"] == f"{high + 1}-65535", "Linux begins at 32768"
    tracked, other = (range(int(one[:5]), int(one[6:]) + 1) for one in (TRACKED_PORTS, OTHER_PORTS))
    moved = {port | CLIENT_STEP for port in range(low, high + 1)}
    assert len(moved) == high + 1 - low
    assert moved | set(other) == set(tracked)
    assert not moved & set(other)


def test_clients_of_service_addresses_are_moved_and_so_is_what_has_a_tracked_port_by_itself() -> None:
    rules = topology(CLUSTER, NODE, SHOP, PEERS, WIRED).ruleset
    client = "ip saddr 10.200.3.0/24 ip saddr != 10.200.3.1 ip daddr 10.200.0.0/16 meta l4proto { tcp, udp }"
    wanted = [
        f"{client} th sport 32768-47103 ct status dnat snat to :th sport | 0x4000",
        f"{client} ct status dnat snat to :63488-65535",
        f"{client} th sport >= 49152 snat to :63488-65535",
    ]
    lines = [line.strip() for line in rules.splitlines()]
    assert [line for line in lines if line.startswith(client)] == wanted


def test_a_device_that_not_all_packets_fit_through_is_on_no_fast_path() -> None:
    held = table(ALL_FIT | {LOG_DEVICE: 1350})
    assert f"ether type ip ip saddr {LOG} accept" in held[f"chain {LOG_DEVICE}"]
    assert LOG not in held["map cables"][0]
    assert f"ether type ip ip saddr {WEB} goto from-shop/back" in held[f"chain {WEB_DEVICE}"]
    held = table(ALL_FIT | {"mo-vxlan": 1350})
    assert "map ways" not in held
    assert "chain mo-vxlan" not in held


def test_what_is_too_big_for_a_container_of_this_node_goes_the_long_way_and_is_answered() -> None:
    assert "meta l4proto != tcp ip length > 1450 accept" in table(ALL_FIT)["chain fast"]


def test_without_other_nodes_the_fast_path_stays_in_the_house() -> None:
    held = table({WEB_DEVICE: 1450, LOG_DEVICE: 1450}, peers=())
    assert f"ether type ip ip saddr {WEB} goto from-shop/back" in held[f"chain {WEB_DEVICE}"]
    assert "chain mo-vxlan" not in held
    assert not any("mo-vxlan" in line and "fwd" in line for line in held["chain ports"])


def test_a_kernel_that_cannot_forward_gets_the_fences_alone() -> None:
    held = table(ALL_FIT, fast=False)
    assert set(held) == {f"chain {WEB_DEVICE}", f"chain {LOG_DEVICE}"}
    assert held[f"chain {WEB_DEVICE}"][1:] == [f"ether type ip ip saddr {WEB} accept", "ether type arp accept", "drop"]


def test_from_a_device_of_nobody_nothing_comes_in() -> None:
    assert table(ALL_FIT | {"mo99999999": 1450})["chain mo99999999"][1:] == ["drop"]


def test_a_new_container_s_fence_can_be_set_up_over_any_other() -> None:
    lines = fenced("miniorch", WEB_DEVICE, WEB).splitlines()
    chain = f"chain netdev miniorch {WEB_DEVICE}"
    assert lines[:3] == [
        "add table netdev miniorch",
        f'add {chain} {{ type filter hook ingress device "{WEB_DEVICE}" priority 0; }}',
        f"flush {chain}",
    ]
    rules = [line.partition(f" {WEB_DEVICE} ")[2] for line in lines[3:]]
    assert rules == [f"ether type ip ip saddr {WEB} accept", "ether type arp accept", "drop"]
    assert unfenced("miniorch", WEB_DEVICE).splitlines()[1:] == [f"add {chain}", f"delete {chain}"], (
        "or if none is there"
    )


@pytest.mark.parametrize("make", [lambda text: fenced("miniorch", "mo1", text), lambda text: unreached("m", text)])
def test_nothing_but_addresses_reaches_nft(make: object) -> None:
    with pytest.raises(ValueError, match="flush"):
        make("; flush ruleset")  # type: ignore[operator]
