"""Who may speak to whom, as rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.driver import Endpoint
from netplugin.isolation import admission, members
from netplugin.overlay import Peer
from netplugin.topology import topology

CLUSTER = Cluster("c1")
NODE = Node("node1", "10.200.3.0/24", "10.200.3.1", Resources(), address="192.0.2.1")
WEB, DB, LOG, FRESH = "10.200.3.2", "10.200.3.3", "10.200.3.4", "10.200.3.5"


def service(name: str, address: str, *networks: str, app: str = "shop", ready: bool = True) -> Endpoints:
    return Endpoints(app, name, "", (), (Backend(f"t-{name}", 1, "node1", address, ready),), (), networks)


SHOP = [service("web", WEB, "back", "front"), service("db", DB, "back", ready=False), service("log", LOG, "default")]
WITHIN = [SHOP[0], replace(SHOP[1], internal=True), replace(SHOP[2], internal=True)]


def rules(endpoints: list[Endpoints], *wired: Endpoint, peers: tuple[Peer, ...] = ()) -> str:
    text = topology(CLUSTER, NODE, endpoints, peers, wired).ruleset
    return "\n".join(line.strip() for line in text.splitlines())


def test_a_packet_passes_only_between_members_of_a_network() -> None:
    text = rules(SHOP)
    assert f"map members {{ type ipv4_addr : verdict; elements = {{ {WEB} : goto from-shop/back/front, " in text
    from_web = ["chain from-shop/back/front {", "ip daddr @in-shop/back accept", "ip daddr @in-shop/front accept"]
    assert "\n".join([*from_web, "goto outside", "}"]) in text
    assert "\n".join(["chain from-shop/default {", "ip daddr @in-shop/default accept", "goto outside", "}"]) in text
    assert "\n".join(["chain outside {", "ip daddr != 10.200.0.0/16 accept", "goto stranger", "}"]) in text


def test_a_container_whose_networks_are_all_internal_finds_nothing_open_behind_them() -> None:
    text = rules(WITHIN)
    assert f"{WEB} : goto from-shop/back/front, {DB} : goto from-shop/INTERNAL/back, " in text
    for network in ("back", "default"):
        wanted = [f"chain from-shop/INTERNAL/{network} {{", f"ip daddr @in-shop/{network} accept", "goto stranger", "}"]
        assert "\n".join(wanted) in text
    assert "from-shop/back {" not in text, "nobody is on it alone and may go out"


def test_internal_services_meet_on_their_networks_alone() -> None:
    text = rules(WITHIN)
    assert f"set in-shop/back {{ type ipv4_addr; elements = {{ {WEB}, {DB} }}; }}" in text
    assert "in-shop/INTERNAL" not in text


def test_the_nodes_other_addresses_are_outside_too_where_a_connection_begins() -> None:
    chain = rules(WITHIN).partition("chain input {\n")[2].splitlines()[:2]
    assert chain[0].startswith("type nat hook input ")
    assert chain[1] == "ip daddr != 10.200.0.0/16 ip saddr vmap @members"


def test_a_task_that_gets_no_traffic_yet_is_a_member() -> None:
    assert f"set in-shop/back {{ type ipv4_addr; elements = {{ {WEB}, {DB} }}; }}" in rules(SHOP)


def test_networks_of_the_same_name_in_two_apps_are_two() -> None:
    text = rules([service("web", WEB, "default"), service("web", DB, "default", app="other")])
    assert f"set in-shop/default {{ type ipv4_addr; elements = {{ {WEB} }}; }}" in text
    assert f"set in-other/default {{ type ipv4_addr; elements = {{ {DB} }}; }}" in text


def test_who_is_no_member_is_refused_at_once_and_dropped_when_it_comes_from_another_node() -> None:
    text = rules([])
    assert "ip saddr vmap @members\ngoto outside\n}" in text
    assert 'chain stranger {\niifname "mo-vxlan" drop\ngoto refuse\n}' in text


def test_nodes_reach_every_container() -> None:
    assert "ip saddr { 10.200.3.1, 10.200.4.1 } accept" in rules(
        [], peers=(Peer("192.0.2.2", "10.200.4.0/24", "10.200.4.1"),)
    )


def test_between_containers_each_packet_is_asked_and_answers_to_nodes_and_from_outside_pass() -> None:
    chain = rules(SHOP).partition("chain isolation {\n")[2].splitlines()
    assert chain[1:3] == [
        "ip daddr 10.200.0.0/16 ip daddr != { 10.200.3.1 } ip saddr vmap @members",
        "ct state established,related accept",
    ]


def test_a_container_that_the_endpoints_do_not_show_yet_is_where_its_driver_options_say() -> None:
    found = members(SHOP, [Endpoint("e1", FRESH, "t-new", "shop/back,shop/x")])
    assert found[FRESH] == {"shop/back", "shop/x"}


def test_networks_that_have_changed_since_the_container_was_made_count() -> None:
    assert members(SHOP, [Endpoint("e1", DB, "t-db", "shop/old")])[DB] == {"shop/back"}


def test_an_address_that_has_gone_to_another_container_is_that_containers() -> None:
    assert members(SHOP, [Endpoint("e1", DB, "t-next", "other/default")])[DB] == {"other/default"}


def test_a_container_made_by_hand_is_a_member_of_nothing() -> None:
    assert FRESH not in members(SHOP, [Endpoint("e1", FRESH)])


@pytest.mark.parametrize(
    ("networks", "chain"),
    [("shop/front,shop/back", "from-shop/back/front"), ("shop/back,shop/INTERNAL", "from-shop/INTERNAL/back")],
)
def test_letting_one_container_in_says_the_same_as_the_whole_table(networks: str, chain: str) -> None:
    lines = admission("miniorch", FRESH, frozenset(networks.split(","))).splitlines()
    assert lines[-1] == f"add element ip miniorch members {{ {FRESH} : goto {chain} }}"
    assert not [line for line in lines if "in-shop/INTERNAL" in line]
    added = [line.split(f"{chain} ")[1] for line in lines if line.startswith("add rule")]
    assert "\n".join([f"chain {chain} {{", *added, "}"]) in rules(WITHIN)


def test_names_that_nft_would_not_take_stay_apart() -> None:
    text = rules(
        [service("a", WEB, "x y"), service("b", DB, "x;y"), service("c", LOG, *("n" * 40 + str(n) for n in range(9)))]
    )
    names = {line.split()[1] for line in text.splitlines() if line.startswith("set in-shop/x")}
    assert len(names) == 2
    assert ";" not in "".join(names)
    assert max(len(line.split()[1]) for line in text.splitlines() if line.startswith("chain")) < 200
