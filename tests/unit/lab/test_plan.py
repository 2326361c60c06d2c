"""What a lab is made of follows from its name and from what was ordered."""

from __future__ import annotations

import pytest

from miniorch.codec import decode, encode
from miniorch.errors import Conflict, MiniorchError, UsageError
from miniorch.lab.plan import (
    LabNode,
    Place,
    Plan,
    cable_lines,
    free_wire,
    nat_rules,
    node_lines,
    ordered,
    read_labels,
    read_memory,
)

MB = 1 << 20


def order(before: Plan | None = None, count: int = 0, store: str = "", **more: object) -> Plan:
    labels, limits, managers = more.get("labels", {}), more.get("limits", (0.0, 0)), more.get("managers", 0)
    return ordered(before, count, store, labels, *limits, "10.210.0.0/24", managers)  # type: ignore[arg-type, misc]


def refused(*argv: object, **more: object) -> MiniorchError:
    with pytest.raises(MiniorchError) as caught:
        order(*argv, **more)  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


def test_without_wishes_there_are_three_nodes_with_fixed_names_and_addresses() -> None:
    plan = order()
    assert [(node.name, plan.address(node)) for node in plan.nodes] == [
        ("node1", "10.210.0.1"),
        ("node2", "10.210.0.2"),
        ("node3", "10.210.0.3"),
    ]
    assert (plan.host_address, plan.store) == ("10.210.0.254", "sqlite")


def test_the_same_order_again_changes_nothing_and_more_nodes_leave_those_there_as_they_are() -> None:
    plan = order(count=2, labels={"node2": {"zone": "b"}}, limits=(1.0, 512 * MB))
    assert order(plan) == order(plan, 2) == plan
    grown = order(plan, 3, limits=(1.0, 512 * MB))
    assert grown.nodes == (*plan.nodes, LabNode("node3", {}, 1.0, 512 * MB))
    assert decode(Plan, encode(grown)) == grown


def test_what_a_lab_that_exists_cannot_follow_is_refused() -> None:
    plan = order(count=3)
    assert "3 nodes already" in str(refused(plan, 2))
    assert "sqlite, not in etcd" in str(refused(plan, 3, "etcd"))
    assert "other limits" in str(refused(plan, limits=(2.0, 0)))
    assert refused(plan, labels={"node2": {"zone": "b"}}).remedy == "miniorch node label node2 zone=b"
    assert "names node4" in str(refused(plan, labels={"node4": {"zone": "b"}}))
    assert "at most" in str(refused(plan, 99))
    for cpus in (0.01, float("nan"), -1.0):
        assert "too little" in str(refused(limits=(cpus, 0)))


def test_several_managers_share_an_etcd_in_which_each_has_a_member() -> None:
    plan = order(count=4, managers=3)
    assert [plan.manages(node) for node in plan.nodes] == [True, True, True, False]
    assert plan.store_url().startswith("etcd://10.210.0.1:2379,10.210.0.2:2379,10.210.0.3:2379?ca=/etc/etcd/")
    options = plan.etcd(plan.nodes[1])
    assert options[options.index("--listen-client-urls") + 1] == "https://10.210.0.2:2379"
    assert options[-1] == "node1=https://10.210.0.1:2380,node2=https://10.210.0.2:2380,node3=https://10.210.0.3:2380"
    assert order(plan) == plan
    assert decode(Plan, encode(plan)) == plan
    assert len(order(managers=5).nodes) == 5
    assert "managers: 3, not 1" in refused(plan, managers=1).message
    assert "one store" in refused(managers=3, store="sqlite").message
    assert "do not fit" in refused(count=2, managers=3).message


def test_an_etcd_listens_nowhere_without_asking_for_certificates() -> None:
    plan = order(store="etcd")
    options = plan.etcd(plan.nodes[0])
    assert {"--client-cert-auth", "--peer-client-cert-auth"} < set(options)
    assert not any("http:" in option for option in options)
    assert [option for option in options if option.endswith("/authority.crt")] == [
        "--trusted-ca-file=/etc/etcd/authority.crt", "--peer-trusted-ca-file=/etc/etcd/authority.crt",
    ]  # fmt: skip
    assert plan.store_url() == (
        "etcd://10.210.0.1:2379?ca=/etc/etcd/authority.crt&cert=/etc/etcd/identity.crt&key=/etc/etcd/identity.key"
    )
    assert order().store_url() == ""


@pytest.mark.parametrize("word", ["node2", "n2", "2"])
def test_a_node_has_a_long_and_two_short_names(word: str) -> None:
    found = order().node(word)
    assert found is not None
    assert found.name == "node2"
    assert read_labels([f"{word}:zone=b", f"{word}:disk="]) == {"node2": {"zone": "b", "disk": ""}}


def test_an_unknown_name_is_no_node() -> None:
    assert [order().node(word) for word in ("node4", "0", "node", "", "n2x")] == [None] * 5


@pytest.mark.parametrize("word", ["zone=b", "n2:zone", "n2:=b", ":zone=b", ""])
def test_a_label_without_node_or_key_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="NODE:KEY=VALUE"):
        read_labels([word])


def test_memory_is_read_with_its_unit() -> None:
    assert [read_memory(word) for word in ("", "512m", "1.5G", "512MB")] == [0, 512 * MB, 1536 * MB, 512 * MB]
    for word in ("512", "much", "-1g"):
        with pytest.raises(UsageError):
            read_memory(word)


def test_the_wire_takes_the_first_network_that_the_host_does_not_use() -> None:
    assert free_wire(["192.0.2.0/24", "127.0.0.0/8", "fd00::/64"]) == "10.210.0.0/24"
    assert free_wire(["10.210.0.0/24", "10.210.1.7"]) == "10.210.2.0/24"
    with pytest.raises(Conflict):
        free_wire(["10.0.0.0/8"])


def test_a_lab_with_another_name_shares_nothing_with_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other = Place(), Place("other")
    assert (str(usual.run), usual.host_device) == ("/run/miniorch-lab", "mo-lab")
    for what in ("run", "state", "tag", "table", "host_device", "current"):
        assert getattr(usual, what) != getattr(other, what), what
    assert len(Place("a" * 12).host_device) <= 15
    monkeypatch.setenv("MINIORCH_LAB", "other")
    assert Place.here() == other
    monkeypatch.setenv("MINIORCH_LAB", "../x")
    with pytest.raises(UsageError):
        Place.here()


def test_a_node_has_a_way_out_only_if_there_is_one() -> None:
    plan = order()
    inside = node_lines(plan, plan.nodes[1], outside=False)
    assert inside == ["address add 10.210.0.2/24 dev eth0", "link set eth0 up"]
    assert node_lines(plan, plan.nodes[1], outside=True) == [*inside, "route add default via 10.210.0.254"]
    cable = "link add node2 type veth peer name eth0 address 02:6d:6f:00:00:02 netns 77"
    assert cable_lines(plan.nodes[1], 77)[0] == cable
    assert 'ip saddr 10.210.0.0/24 oifname != "mo-lab" masquerade' in nat_rules(Place(), plan)
