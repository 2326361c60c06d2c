"""What one packet needs of the two views, picked out of all that there is."""

from __future__ import annotations

import socket
import threading

import pytest

from miniorch.errors import Conflict
from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.driver import Endpoint
from netplugin.overlay import Peer, Snapshot
from netplugin.topology import topology
from netplugin.trace import Question, Step, knock, listeners, must_be_ours, steps

WEB, DB = "10.200.0.5", "10.200.1.7"
NODE = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources(), address="192.0.2.1")
ENDPOINTS = (
    Endpoints("shop", "web", "10.201.0.2", (), (Backend("t1", 1, "node1", WEB, True),), (), ("back", "front")),
    Endpoints("shop", "db", "10.201.0.3", (), (Backend("t2", 1, "node2", DB, True),), (), ("back",)),
)
WIRED = [Endpoint("abcdef0123456789", WEB, "t1", "shop/back,shop/front")]
WANTED = topology(Cluster("c"), NODE, ENDPOINTS, [Peer("192.0.2.2", "10.200.1.0/24", "10.200.1.1")], WIRED)
ASKED = Question(1, WEB, DB, "10.201.0.3", "to-shop/db")
RULES: Snapshot = {
    "chain services": ("ip daddr vmap { 10.201.0.2 : goto to-shop/web, 10.201.0.3 : goto to-shop/db }",),
    "chain to-shop/db": (f"dnat to {DB}",),
    "map members": ("type ipv4_addr : verdict", f"{WEB} : goto from-shop/back/front", f"{DB} : goto from-shop/back"),
    "chain from-shop/back/front": ("ip daddr @in-shop/back accept", "ip daddr @in-shop/front accept", "goto stranger"),
    "set in-shop/back": ("type ipv4_addr", WEB, DB),
    "set in-shop/front": ("type ipv4_addr", WEB),
    "netdev chain moabcdef01": ("type filter hook ingress", f"ip saddr {WEB} goto from-shop/back/front", "drop"),
    "netdev map ways": ("typeof ip daddr : ip daddr", "10.200.1.0 : 10.200.1.1", "10.200.2.0 : 10.200.2.1"),
    "netdev map cables": ("typeof ip daddr : oif", f'{WEB} : "moabcdef01"'),
}
SHOULD = WANTED.entries(1450) | RULES | {"forwarding": ("ip_forward 1",)}


def picked(holds: Snapshot, asked: Question = ASKED) -> dict[str, Step]:
    return {step.name: step for step in steps(asked, WIRED, WANTED, SHOULD, holds)}


def test_a_packet_to_another_node_needs_these_and_no_others() -> None:
    holds = SHOULD | {f"route {WEB}/32": ("dev moabcdef01 src 10.200.0.1",)}
    found = picked(holds)
    way = ["cable", "door", "service", "networks", "fast path", "forwarding", "route", "device", "neighbour", "fdb"]
    assert list(found) == way
    assert all(step.state == step.kernel != () for step in found.values())
    assert (found["networks"].kernel, found["route"].what) == (("shop/back",), "route 10.200.1.0/24")


def test_a_packet_to_the_same_node_needs_a_cable() -> None:
    asked = Question(1, WEB, WEB)
    assert [step.what for step in steps(asked, WIRED, WANTED, SHOULD, {})][-1] == f"route {WEB}/32"


def test_a_door_that_leads_into_another_container_shows() -> None:
    found = picked(SHOULD | {"netdev map cables": (f'{WEB} : "mo99999999"',)})["door"]
    assert (found.state[-1], found.kernel[-1]) == (f'{WEB} : "moabcdef01"', f'{WEB} : "mo99999999"')


def test_the_fast_path_leads_to_the_node_or_the_device() -> None:
    assert picked(SHOULD)["fast path"].kernel == ("10.200.1.0 : 10.200.1.1",)
    assert picked(SHOULD, Question(1, WEB, WEB))["fast path"].kernel == (f'{WEB} : "moabcdef01"',)
    astray = SHOULD | {"netdev map ways": ("10.200.1.0 : 10.200.2.1",)}
    assert picked(astray)["fast path"].kernel == ("10.200.1.0 : 10.200.2.1",)
    assert "fast path" not in picked(SHOULD, Question(1, WEB, "10.200.9.9")), "a node may well have none"


def test_a_service_address_that_leads_nowhere_shows() -> None:
    holds = SHOULD | {"chain services": ("ip daddr vmap { 10.201.0.2 : goto to-shop/web }",)}
    assert (picked(holds)["service"].state, picked(holds)["service"].kernel) == ((f"dnat to {DB}",), ())


def test_an_address_that_is_missing_in_a_set_shows() -> None:
    holds = SHOULD | {"set in-shop/back": ("type ipv4_addr", WEB)}
    assert (picked(holds)["networks"].state, picked(holds)["networks"].kernel) == (("shop/back",), ())


def test_an_address_of_nobody_has_no_way() -> None:
    assert picked(SHOULD, Question(1, WEB, "10.200.9.9"))["route"].state == ()


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "169.254.1.1"])
def test_nobody_has_containers_knock_at_what_is_not_the_clusters(address: str) -> None:
    must_be_ours(Question(1, WEB, DB, "10.201.0.2"), WANTED)
    for asked in (Question(1, WEB, address), Question(1, WEB, vip=address)):
        with pytest.raises(Conflict, match=f"{address} is no address of a task"):
            must_be_ours(asked, WANTED)


def test_listeners_are_those_of_the_kernels_table() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    rows = ("00000000:1388 00000000:0000 0A", "0B00007F:9999 00000000:0000 0A", "0500C80A:1388 0100C80A:C0DE 01")
    table = head + "".join(f"{number}: {row} 0\n" for number, row in enumerate(rows))
    six = head + "0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0\n"
    assert listeners(table, six) == ("0.0.0.0:80", "0.0.0.0:5000", "127.0.0.1:39321")


def test_a_knock_says_whether_somebody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        assert knock("127.0.0.1", port).result == "ok"
        thread.join()
    assert knock("127.0.0.1", port).result == "refused"
