"""State and kernel side by side, without a kernel."""

from __future__ import annotations

from netplugin.overlay import Snapshot
from netplugin.verify import Difference, addresses_and_device, commands, compare, forwards, neighbours, routes, rules

WANTED: Snapshot = {
    "device mo-vxlan": ("id 7 local 192.0.2.1 dstport 4789 nolearning address 0a:6d:0a:c8:01:01 mtu 1450 up",),
    "fdb 0a:6d:0a:c8:02:01": ("dst 192.0.2.2",),
    "neighbour 10.200.2.1": ("lladdr 0a:6d:0a:c8:02:01",),
    "route 10.200.0.0/16": ("unreachable",),
    "route 10.200.2.0/24": ("via 10.200.2.1 dev mo-vxlan onlink src 10.200.1.1",),
}


def test_equal_snapshots_have_no_difference() -> None:
    assert compare(WANTED, dict(WANTED)) == []


def test_difference_names_what_is_and_what_should_be() -> None:
    found = {**WANTED, "fdb 0a:6d:0a:c8:02:01": ("dst 192.0.2.9",), "route 10.200.9.0/24": ("dev tun0 proto static",)}
    del found["neighbour 10.200.2.1"]
    assert [one.describe() for one in compare(WANTED, found)] == [
        "fdb 0a:6d:0a:c8:02:01: is dst 192.0.2.9; should be dst 192.0.2.2",
        "neighbour 10.200.2.1: is absent; should be lladdr 0a:6d:0a:c8:02:01",
        "route 10.200.9.0/24: is dev tun0 proto static; should be absent",
    ]


def test_of_a_long_set_or_chain_only_what_differs_is_named() -> None:
    (one,) = compare({"set peers": ("type ipv4_addr", "a", "b")}, {"set peers": ("type ipv4_addr", "b", "c")})
    assert one == Difference("set peers", ("c",), ("a",))
    (order,) = compare({"chain x": ("a", "b")}, {"chain x": ("b", "a")})
    assert order == Difference("chain x", ("b", "a"), ("a", "b"))


def test_everything_missing_is_made_in_an_order_that_works() -> None:
    todo = commands(compare(WANTED, {}))
    assert todo.ip == (
        "link add mo-vxlan address 0a:6d:0a:c8:01:01 mtu 1450 type vxlan id 7 local 192.0.2.1 dstport 4789 nolearning",
        "link set mo-vxlan up",
        "neigh replace 10.200.2.1 lladdr 0a:6d:0a:c8:02:01 dev mo-vxlan nud permanent",
        "route replace unreachable 10.200.0.0/16 proto 109",
        "route replace 10.200.2.0/24 via 10.200.2.1 dev mo-vxlan onlink src 10.200.1.1 proto 109",
    )
    assert todo.bridge == ("fdb append 0a:6d:0a:c8:02:01 dev mo-vxlan dst 192.0.2.2 self permanent",)


def test_everything_superfluous_is_removed() -> None:
    todo = commands(compare({}, WANTED))
    assert todo.ip[0] == "link del mo-vxlan"
    assert "route del 10.200.2.0/24 via 10.200.2.1 dev mo-vxlan onlink src 10.200.1.1 proto 109" in todo.ip
    assert todo.bridge == ("fdb del 0a:6d:0a:c8:02:01 dev mo-vxlan dst 192.0.2.2 self",)


def test_stale_forwarding_entry_goes_before_the_right_one_comes() -> None:
    found = {**WANTED, "fdb 0a:6d:0a:c8:02:01": ("dst 192.0.2.2", "dst 192.0.2.9")}
    assert commands(compare(WANTED, found)).bridge == ("fdb del 0a:6d:0a:c8:02:01 dev mo-vxlan dst 192.0.2.9 self",)


def test_new_mtu_keeps_the_device_and_another_network_makes_it_anew() -> None:
    (device,) = WANTED["device mo-vxlan"]
    smaller = {**WANTED, "device mo-vxlan": (device.replace("1450", "1350"),)}
    assert commands(compare(smaller, WANTED)).ip == ("link set mo-vxlan mtu 1350 up",)
    other = {**WANTED, "device mo-vxlan": (device.replace("id 7", "id 8"),)}
    assert commands(compare(other, WANTED)).ip[0] == "link del mo-vxlan"


def test_route_of_another_program_is_shown_and_left_alone() -> None:
    found = {**WANTED, "route 10.200.2.0/25": ("dev tun0 proto static",)}
    (one,) = compare(WANTED, found)
    assert commands([one]).ip == ()


def test_what_the_programs_list_is_read_in_the_words_of_what_is_wanted() -> None:
    info = {"id": 7, "local": "192.0.2.1", "port": 4789, "learning": False}
    lo = {"local": "10.200.1.1", "prefixlen": 32, "scope": "global", "label": "lo:miniorch"}
    links = [
        {"ifname": "lo", "addr_info": [lo, {"local": "127.0.0.1", "prefixlen": 8, "scope": "host", "label": "lo"}]},
        {"ifname": "mo-vxlan", "mtu": 1450, "address": "0a:6d:0a:c8:01:01", "flags": ["BROADCAST", "UP"],
         "linkinfo": {"info_kind": "vxlan", "info_data": info}, "addr_info": []},
    ]  # fmt: skip
    far = {"dst": "10.200.2.0/24", "gateway": "10.200.2.1", "dev": "mo-vxlan", "prefsrc": "10.200.1.1"}
    found = addresses_and_device(links, "lo:miniorch")
    pool = {"type": "unreachable", "dst": "10.200.0.0/16", "protocol": "109"}
    found |= routes([{**far, "protocol": "109", "flags": ["onlink"]}, pool])
    found |= neighbours([{"dst": "10.200.2.1", "lladdr": "0a:6d:0a:c8:02:01", "state": ["PERMANENT"]}])
    found |= forwards([{"mac": "0a:6d:0a:c8:02:01", "dst": "192.0.2.2", "state": "permanent"}])
    assert found == WANTED | {"address 10.200.1.1/32": ("dev lo label lo:miniorch",)}


def test_rules_are_read_as_chains_in_order_and_sets_without_one() -> None:
    listing = """table ip miniorch {
\tset senders {
\t\ttypeof ip saddr . @th,336,24
\t\telements = { 192.0.2.3 . 0xac803,
\t\t\t     192.0.2.2 . 0xac802 }
\t}

\tchain tunnel {
\t\ttype filter hook input priority filter - 10; policy accept;
\t\tip saddr { 192.0.2.2, 192.0.2.3 } accept
\t}
}
"""
    assert rules(listing) == {
        "set senders": ("typeof ip saddr . @th,336,24", "192.0.2.2 . 0xac802", "192.0.2.3 . 0xac803"),
        "chain tunnel": (
            "type filter hook input priority filter - 10; policy accept;",
            "ip saddr { 192.0.2.2, 192.0.2.3 } accept",
        ),
    }
    assert rules("") == {}
