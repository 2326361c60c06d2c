"""The way to other nodes: what it takes, as plain text."""

from __future__ import annotations

import re

import pytest

from miniorch.model import Backend, Cluster, Endpoints, Node, NodeState
from miniorch.spec import Resources
from netplugin.conntrack import lost, shut, stale
from netplugin.driver import Endpoint
from netplugin.overlay import Peer, entries, guard, mac, network_number, overlay, peers_of
from netplugin.topology import Topology, topology

ONE = Node("node1", "10.200.1.0/24", "10.200.1.1", Resources(), address="192.0.2.1")
TWO = Node("node2", "10.200.2.0/24", "10.200.2.1", Resources(), address="192.0.2.2")
THREE = Node("node3", "10.200.3.0/24", "10.200.3.1", Resources(), address="192.0.2.3")
PEER = Peer("192.0.2.2", "10.200.2.0/24", "10.200.2.1")


def test_remote_node_costs_a_route_a_neighbour_and_a_forwarding_entry() -> None:
    way = overlay("c1", ONE, [PEER])
    assert way is not None
    found = entries(way, 1450)
    number = network_number("c1")
    shape = f"id {number} local 192.0.2.1 dstport 4789 nolearning address 0a:6d:0a:c8:01:01 mtu 1450 up"
    assert found == {
        "device mo-vxlan": (shape,),
        "route 10.200.2.0/24": ("via 10.200.2.1 dev mo-vxlan onlink src 10.200.1.1",),
        "neighbour 10.200.2.1": ("lladdr 0a:6d:0a:c8:02:01",),
        "fdb 0a:6d:0a:c8:02:01": ("dst 192.0.2.2",),
    }


def test_cluster_of_one_has_no_tunnel() -> None:
    assert overlay("c1", ONE, []) is None
    assert overlay("c1", Node("node1", "10.200.1.0/24", "10.200.1.1", Resources()), [PEER]) is None
    assert guard(None) == []
    assert not any("mo-vxlan" in what for what in topology(Cluster("c1"), ONE, []).entries(1450))


def test_peers_are_the_others_that_have_an_address_and_are_not_down() -> None:
    down = Node("node3", "10.200.3.0/24", "10.200.3.1", Resources(), address="192.0.2.3", state=NodeState.DOWN)
    silent = Node("node4", "10.200.4.0/24", "10.200.4.1", Resources(), address="192.0.2.4", state=NodeState.UNREACHABLE)
    alone = Node("node5", "10.200.5.0/24", "10.200.5.1", Resources())
    assert [peer.address for peer in peers_of(ONE, [silent, down, TWO, alone, ONE])] == ["192.0.2.2", "192.0.2.4"]


def test_former_entry_of_this_machine_is_no_peer() -> None:
    renamed = Node("old", "10.200.9.0/24", "10.200.9.1", Resources(), address=ONE.address)
    assert peers_of(ONE, [ONE, renamed, TWO]) == (PEER,)


def test_mac_and_network_number_need_no_exchange() -> None:
    assert mac("10.200.255.1") == "0a:6d:0a:c8:ff:01"
    assert network_number("c1") == network_number("c1") != network_number("c2")
    assert all(0 < network_number(str(number)) < 1 << 24 for number in range(1000))


def test_tunnel_takes_from_each_peer_what_its_own_containers_send() -> None:
    text = "\n".join(guard(overlay("c1", ONE, peers_of(ONE, [TWO, THREE]))))
    assert "elements = { 192.0.2.2, 192.0.2.3 }" in text
    assert "elements = { 192.0.2.2 . 0xac802, 192.0.2.3 . 0xac803 }" in text
    assert [line.strip() for line in text.partition("chain tunnel {")[2].splitlines()][1:4] == [
        "ip saddr . @th,336,24 @senders @th,224,16 0x0800 notrack accept",
        "ip daddr @peers drop",
        "fib daddr type != unicast drop",
    ]


def test_only_frames_between_peers_are_left_out_of_tracking_and_no_container_may_send_any() -> None:
    three = topology(Cluster("c1"), ONE, [], peers_of(ONE, [TWO, THREE])).ruleset
    assert re.findall("udp dport 4789 .*", three) == [
        "udp dport 4789 goto tunnel",
        "udp dport 4789 ip daddr @peers notrack",
    ]
    raw = three.partition("hook prerouting priority -300")[2].splitlines()
    assert raw[1].strip() == "udp dport 4789 goto tunnel", "before connections are tracked: none is established"
    assert "peers" not in topology(Cluster("c1"), ONE, []).ruleset


def test_nothing_but_addresses_reaches_the_kernel() -> None:
    for odd in (Peer("x", PEER.subnet, PEER.pool_address), Peer(PEER.address, "; flush", PEER.pool_address)):
        with pytest.raises(ValueError, match=r"x|flush"):
            overlay("c1", ONE, [odd])


def serving(*addresses: str) -> Topology:
    backends = tuple(Backend(f"t{n}", n, "node1", address, True) for n, address in enumerate(addresses, 1))
    return topology(Cluster("c1"), ONE, [Endpoints("chat", "dns", "10.201.0.2", (), backends)])


def test_udp_flow_to_a_task_that_serves_no_more_is_stale() -> None:
    now = serving("10.200.1.5")
    assert stale("10.201.0.2", "10.200.1.6", now)
    assert stale("10.201.0.9", "10.200.1.5", now), "the service is gone"
    assert not stale("10.201.0.2", "10.200.1.5", now)
    assert not stale("8.8.8.8", "8.8.8.8", now), "what is no service is not ours"


def test_flows_are_looked_through_only_when_a_task_has_left() -> None:
    assert lost(None, serving("10.200.1.5")) == [None]
    assert lost(serving("10.200.1.5"), serving("10.200.1.5", "10.200.1.6")) == []
    assert lost(serving("10.200.1.5", "10.200.1.6"), serving("10.200.1.6")) == ["10.201.0.2"]


def test_a_container_is_shut_in_when_its_last_open_network_has_become_internal() -> None:
    def at(networks: str, *addresses: str) -> Topology:
        wired = [Endpoint(f"{n:08x}", address, f"t{n}", networks) for n, address in enumerate(addresses, 1)]
        return topology(Cluster("c1"), ONE, [], [], wired)

    inside = at("chat/back,chat/INTERNAL", "10.200.1.5", "10.200.1.6")
    assert shut(at("chat/back", "10.200.1.5"), inside) == ["10.200.1.5"], "the other one is new"
    assert shut(inside, inside) == shut(inside, at("chat/back", "10.200.1.5")) == []
    assert shut(None, inside) == ["10.200.1.5", "10.200.1.6"], "after a start it may be any"
