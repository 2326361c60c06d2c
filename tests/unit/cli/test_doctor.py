"""What doctor makes of what it sees; and that it sees something on a machine of any kind."""

from __future__ import annotations

import json

from fake_api import Cli

from miniorch.cli.doctor import judge_dns_port, judge_docker, judge_firewall, judge_netdev, judge_routes

POOLS = ("10.200.0.0/16", "10.201.0.0/16")


def test_a_pool_clashes_with_a_network_that_this_machine_knows() -> None:
    routes = [
        {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
        {"dst": "10.200.8.0/24", "dev": "wg0"},
        {"dst": "10.200.0.0/16", "protocol": "109"},
        {"dst": "10.200.0.9", "dev": "mo1234", "protocol": "109"},
    ]
    check = judge_routes(POOLS, routes)
    assert (check.state, check.seen) == ("bad", "clashes with 10.200.8.0/24 on wg0")
    assert "--pool" in check.mend
    assert judge_routes(POOLS, [*routes[:1], *routes[2:]]).state == "ok"
    assert judge_routes(POOLS, [{"dst": "10.0.0.0/8", "dev": "vpn"}]).state == "bad"


def test_docker_must_be_new_enough_and_live_restore_is_advised() -> None:
    states = [one.state for one in judge_docker({"Version": "20.10.24+dfsg1"}, {"LiveRestoreEnabled": True})]
    assert states == ["ok", "ok"]
    states = [one.state for one in judge_docker({"Version": "19.03.1"}, {})]
    assert states == ["bad", "warning"]
    assert next(judge_docker({"Version": "29.1"}, {})).state == "ok"


def test_the_firewall_line_names_policy_and_chain() -> None:
    rules = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n"
    assert judge_firewall("iptables", rules, "").seen == "iptables, FORWARD policy DROP, chain DOCKER-USER"
    assert judge_firewall("nftables", rules, "").state == "warning"
    assert judge_firewall("iptables", "", "not found").state == "warning"


def test_without_ingress_hooks_nothing_works_and_without_fwd_it_is_slower() -> None:
    assert [one.state for one in judge_netdev("", "")] == ["ok", "ok"]
    error = "Error: Could not process rule: No such file or directory"
    slower = list(judge_netdev("", error))
    assert [one.state for one in slower] == ["ok", "warning"]
    assert slower[1].seen.startswith(f"{error}: slower")
    assert slower[1].mend == "modprobe nft_fwd_netdev"
    (none,) = judge_netdev(error, error)  # the second says nothing new then
    assert (none.state, none.seen) == ("bad", error)
    assert "CONFIG_NF_TABLES_NETDEV" in none.mend


def test_a_dns_server_on_all_addresses_is_in_the_way() -> None:
    line = "  {n}: {address}:0035 00000000:0000 {state} 00000000:00000000 00:00000000 00000000"
    everywhere = line.format(n=1, address="00000000", state="07")
    own = line.format(n=1, address="0100007F", state="07")
    assert judge_dns_port([everywhere, ""]).state == "bad"
    assert judge_dns_port([own, ""]).state == "ok"


def test_every_line_that_is_not_ok_says_how_to_mend_it(cli: Cli) -> None:
    done = cli("doctor", "--json")
    checks = json.loads(done.stdout)
    assert {"system", "rights", "nft", "haproxy", "server", "net", "agent"} <= {one["check"] for one in checks}
    assert [one for one in checks if one["state"] != "ok" and not one["mend"]] == []
    assert done.returncode == int(any(one["state"] == "bad" for one in checks))
