"""From endpoints to nftables: decisions as plain text."""

from __future__ import annotations

import pytest

from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.topology import topology

CLUSTER = Cluster("c1")
NODE = Node("node1", "10.200.3.0/24", "10.200.3.1", Resources())


def service(name: str, vip: str, *backends: tuple[str, bool]) -> Endpoints:
    tasks = (
        Backend(f"{name}{slot}", slot, "node1", address, ready) for slot, (address, ready) in enumerate(backends, 1)
    )
    return Endpoints("dockchat", name, vip, (), tuple(tasks))


def rules(*endpoints: Endpoints) -> list[str]:
    return [line.strip() for line in topology(CLUSTER, NODE, endpoints).ruleset.splitlines()]


def test_table_is_replaced_as_a_whole() -> None:
    assert rules()[:3] == ["table ip miniorch", "delete table ip miniorch", "table ip miniorch {"]
    assert rules()[-1] == "}"


def test_service_with_several_tasks_is_spread_by_chance() -> None:
    web = service("web", "10.201.0.2", ("10.200.3.12", True), ("10.200.3.2", True))
    assert "dnat to numgen random mod 2 map { 0 : 10.200.3.2, 1 : 10.200.3.12 }" in rules(web)
    assert "ip daddr vmap { 10.201.0.2 : goto to-dockchat/web }" in rules(web)


def test_service_with_one_task_goes_there() -> None:
    assert "dnat to 10.200.3.2" in rules(service("db", "10.201.0.2", ("10.200.3.2", True)))


def test_task_that_is_not_ready_gets_no_traffic() -> None:
    web = service("web", "10.201.0.2", ("10.200.3.2", True), ("10.200.3.3", False), ("", True))
    assert "dnat to 10.200.3.2" in rules(web)
    assert not any("dnat" in line and "10.200.3.3" in line for line in rules(web))


def test_service_without_ready_task_has_no_chain_and_so_is_refused() -> None:
    text = rules(service("db", "10.201.0.2", ("10.200.3.2", False)))
    assert not any("10.201.0.2" in line for line in text)
    assert text.count("ip daddr 10.201.0.0/16 goto refuse") == 2
    assert "meta l4proto tcp reject with tcp reset" in text


def test_task_that_reaches_itself_is_seen_as_the_node() -> None:
    assert "ip saddr . ip daddr { 10.200.3.2 . 10.200.3.2 } snat to 10.200.3.1" in rules(
        service("db", "10.201.0.2", ("10.200.3.2", True))
    )


def test_only_what_leaves_the_pools_is_masqueraded() -> None:
    assert "ip saddr 10.200.0.0/16 ip daddr != { 10.200.0.0/16, 10.201.0.0/16 } masquerade" in rules()


def test_order_of_endpoints_changes_nothing() -> None:
    web = service("web", "10.201.0.2", ("10.200.3.2", True))
    db = service("db", "10.201.0.3", ("10.200.3.3", True))
    assert topology(CLUSTER, NODE, [web, db]) == topology(CLUSTER, NODE, [db, web])


def test_nothing_but_addresses_and_plain_names_reaches_nft() -> None:
    odd = Endpoints("a;b", "x{ }\n", "10.201.0.2", (), (Backend("t", 1, "n", "10.200.3.2", True),))
    assert "chain to-a_b/x____ {" in rules(odd)
    with pytest.raises(ValueError, match="flush"):
        rules(Endpoints("a", "b", "10.201.0.2", (), (Backend("t", 1, "n", "flush ruleset", True),)))
