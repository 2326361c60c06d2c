"""The net process with a real dockerd and a real kernel, in a private machine without a default route."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node import TestNode, until

from miniorch.codec import encode
from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Port, Resources
from netplugin.known import Known

pytestmark = [pytest.mark.root, pytest.mark.docker]

OWN = "10.200.0.1"
WEB, DB, EMPTY = "10.201.0.2", "10.201.0.3", "10.201.0.4"
WEB_1, WEB_2, DB_1, OTHER = "10.200.0.11", "10.200.0.12", "10.200.0.21", "10.200.0.31"
REPOSITORY = Path(__file__).parents[2]


def state() -> Known:
    web = tuple(Backend(f"web{slot}", slot, "node1", address, True) for slot, address in ((1, WEB_1), (2, WEB_2)))
    return Known(
        Cluster("c1"),
        Node("node1", "10.200.0.0/24", OWN, Resources()),
        (),
        (
            Endpoints("dockchat", "web", WEB, (Port(5000, 80),), web),
            Endpoints("dockchat", "db", DB, (), (Backend("db1", 1, "node1", DB_1, True),)),
            Endpoints("dockchat", "empty", EMPTY, (), ()),
            Endpoints("other", "secret", "10.201.0.9", (), (Backend("s1", 1, "node1", OTHER, True),)),
        ),
    )


class NetProcess:
    """The net process of a node, with everything it needs on disk and no server."""

    def __init__(self, node: TestNode, log: Path) -> None:
        self.node = node
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "netplugin.main", "--node", "node1"]
            self.process = self.node.popen(argv, cwd=REPOSITORY, stderr=log)
        until(self.is_up, 10, f"the net process serves DNS: {self.log.read_text()}")

    def is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "10.201.0.2" in dig(self.node, "web.dockchat.miniorch.internal")

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=10)
        self.process = None
        return code

    def undo(self) -> None:
        if self.process is not None:
            self.end()
        self.node.run([sys.executable, "-m", "netplugin.main", "--undo"], cwd=REPOSITORY)


def write_state(node: TestNode, known: Known) -> None:
    node.run(["sh", "-c", "cat > /var/lib/miniorch/net.json"], input=encode(known).decode())


def dig(node: TestNode, *words: str) -> str:
    return node.run(["dig", "+short", "+tries=1", "+time=2", f"@{OWN}", *words], check=False).stdout.strip()


def run_container(node: TestNode, name: str, address: str, *command: str, app: str = "dockchat") -> None:
    resolv = node.scratch / f"resolv-{app}"
    resolv.write_text(f"nameserver {OWN}\nsearch {app}.miniorch.internal\noptions ndots:1 timeout:2\n")
    network = f"name=miniorch,ip={address},driver-opt=miniorch.task={name},driver-opt=miniorch.networks={app}/default"
    argv = ["run", "-d", "--name", name, "--network", network, "-v", f"{resolv}:/etc/resolv.conf:ro"]
    node.docker(*argv, "busybox:1", *(command or ("sleep", "1000")))


def web(text: str) -> tuple[str, ...]:
    return "sh", "-c", f"mkdir /www; echo {text} > /www/index.html; exec httpd -f -p 80 -h /www"


def get(node: TestNode, container: str | None, address: str) -> str:
    """What a web server answers, asked from a container or (None) from the node itself; "" if it is refused."""
    # Not wget: a static glibc crashes in its name look-up.
    fetch = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {address} 80 | tail -n 1"
    if container is None:
        return node.run(["sh", "-c", fetch], check=False, timeout=10).stdout.strip()
    return node.docker("exec", container, "sh", "-c", fetch, check=False, timeout=10).stdout.strip()


@pytest.fixture(scope="module")
def net(node: TestNode) -> Iterator[NetProcess]:
    before = picture(node)
    write_state(node, state())
    net = NetProcess(node, node.scratch / "net.log")
    net.start()
    node.docker("network", "create", "-d", "miniorch", "--subnet", "10.200.0.0/24", "--gateway", OWN, "miniorch")
    run_container(node, "web1", WEB_1, *web("one"))
    run_container(node, "web2", WEB_2, *web("two"))
    run_container(node, "db1", DB_1)
    run_container(node, "secret", OTHER, app="other")
    until(lambda: get(node, None, WEB_1) == "one" and get(node, None, WEB_2) == "two", 5, "the web servers answer")
    yield net
    node.clear()
    net.undo()
    node.run(["rm", "-f", "/var/lib/miniorch/net.json"])
    assert picture(node) == before, "undo left something on the machine"


def picture(node: TestNode) -> str:
    """Everything of the node's network that the net process may touch."""
    script = "ip -br link; ip -br -4 address; ip -4 route show table all; iptables -S | sort; nft list tables"
    return node.run(["sh", "-c", script]).stdout


def test_containers_reach_each_other_and_the_node_without_a_default_route(net: NetProcess, node: TestNode) -> None:
    assert node.run(["ip", "route", "show", "default"]).stdout == ""
    assert get(node, "db1", WEB_1) == "one"
    assert get(node, "web2", WEB_1) == "one"
    assert get(node, None, WEB_2) == "two"
    node.docker("exec", "db1", "ping", "-c1", "-W2", OWN)
    node.docker("exec", "db1", "ping", "-c1", "-W2", node.address)


def test_first_packet_between_two_containers_waits_for_nothing(net: NetProcess, node: TestNode) -> None:
    run_container(node, "fresh", "10.200.0.41")
    try:
        ping = node.docker("exec", "fresh", "ping", "-c1", "-W2", WEB_1).stdout
        assert float(ping.split("time=")[1].split()[0]) < 100, ping  # milliseconds
    finally:
        node.docker("rm", "-f", "fresh")


def test_container_has_one_interface_and_the_common_gateway(net: NetProcess, node: TestNode) -> None:
    assert node.docker("exec", "db1", "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]
    assert "default via 169.254.1.1 dev eth0" in node.docker("exec", "db1", "ip", "route").stdout


def test_service_address_spreads_over_its_ready_tasks(net: NetProcess, node: TestNode) -> None:
    assert {get(node, "db1", WEB) for _ in range(30)} == {"one", "two"}
    assert {get(node, None, WEB) for _ in range(30)} == {"one", "two"}


def test_task_reaches_itself_through_its_own_service_address(net: NetProcess, node: TestNode) -> None:
    assert {get(node, "web1", WEB) for _ in range(30)} == {"one", "two"}


@pytest.mark.parametrize("address", [EMPTY, "10.201.77.77"])
@pytest.mark.parametrize("asker", ["db1", None])
def test_service_address_without_ready_tasks_is_refused_at_once(
    net: NetProcess, node: TestNode, address: str, asker: str | None
) -> None:
    script = f"time -f %e nc -w 5 {address} 80 < /dev/null"
    if asker is None:
        done = node.run(["busybox", "sh", "-c", script.replace("nc", "busybox nc")], check=False)
    else:
        done = node.docker("exec", asker, "sh", "-c", script, check=False)
    assert "refused" in done.stderr, done.stderr
    assert float(done.stderr.split()[-1]) < 1


def test_container_address_without_container_is_unreachable(net: NetProcess, node: TestNode) -> None:
    done = node.docker("exec", "db1", "nc", "-w", "5", "10.200.9.9", "80", check=False)
    assert "Host is unreachable" in done.stderr or "No route" in done.stderr, done.stderr


def test_names_of_the_own_app_are_found_and_of_others_are_not(net: NetProcess, node: TestNode) -> None:
    def lookup(container: str, name: str) -> str:
        return node.docker("exec", container, "nslookup", name, check=False).stdout

    assert f"Address: {WEB}" in lookup("db1", "web")
    assert WEB_1 in lookup("db1", "tasks.web.dockchat.miniorch.internal")
    assert f"Address: {WEB_2}" in lookup("db1", "2.web.dockchat.miniorch.internal")
    assert "NXDOMAIN" in lookup("secret", "web.dockchat.miniorch.internal")
    assert "10.201.0.9" in lookup("secret", "secret")
    assert get(node, "db1", "web") in ("one", "two")
    assert dig(node, "-x", WEB_1) == "1.web.dockchat.miniorch.internal."
    assert dig(node, "+tcp", "db.dockchat.miniorch.internal") == DB


def test_foreign_name_without_resolvers_fails_at_once(net: NetProcess, node: TestNode) -> None:
    done = node.run(["dig", "+tries=1", "+time=5", f"@{OWN}", "www.example.com"])
    assert "SERVFAIL" in done.stdout
    took = re.search(r"Query time: (\d+) msec", done.stdout)
    assert took is not None
    assert int(took[1]) < 100, "a name that nobody can resolve must not cost the container its resolver's time-out"


def test_container_cannot_send_with_the_address_of_another(net: NetProcess, node: TestNode) -> None:
    node.docker("run", "-d", "--name", "forger", "--network", "name=miniorch,ip=10.200.0.66", "--cap-add", "NET_ADMIN",
                "busybox:1", "sleep", "1000")  # fmt: skip
    try:
        node.docker("exec", "forger", "ip", "address", "add", "10.200.0.67/32", "dev", "eth0")
        way = "set -- $(ip route show 10.200.0.66); ip route add 10.200.0.67 dev $3"  # or no answer could come back
        node.run(["sh", "-ec", way])
        node.docker("exec", "forger", "ping", "-c1", "-W1", OWN)
        forged = node.docker("exec", "forger", "ping", "-c1", "-W1", "-I", "10.200.0.67", OWN, check=False)
        assert "100% packet loss" in forged.stdout
    finally:
        node.docker("rm", "-f", "forger")


def test_traffic_goes_on_when_the_net_process_is_killed_and_names_when_it_is_back(
    net: NetProcess, node: TestNode
) -> None:
    net.end(signal.SIGKILL)
    assert get(node, "db1", WEB_1) == "one"
    assert {get(node, "db1", WEB) for _ in range(20)} == {"one", "two"}
    net.start()
    assert get(node, "db1", "web") in ("one", "two")
    node.docker("restart", "-t", "0", "web2")
    until(lambda: get(node, "db1", WEB_2) == "two", 5, "a restarted container is wired again")
    node.docker("rm", "-f", "db1")
    run_container(node, "db1", DB_1)
    assert get(node, "db1", WEB_1) == "one"


def test_stopped_container_leaves_no_device_and_no_route(net: NetProcess, node: TestNode) -> None:
    before = node.run(["ip", "-br", "link"]).stdout.count("mo")
    run_container(node, "brief", "10.200.0.99")
    assert node.run(["ip", "-br", "link"]).stdout.count("mo") == before + 1
    ways = "ip route; nft list map netdev miniorch cables"
    until(lambda: node.run(["sh", "-c", ways]).stdout.count("10.200.0.99") == 2, 5, "it is on the fast path, too")
    node.docker("rm", "-f", "brief")
    assert node.run(["ip", "-br", "link"]).stdout.count("mo") == before
    assert "10.200.0.99" not in node.run(["sh", "-c", ways]).stdout
    assert "ip saddr 10.200.0.99" not in node.run(["nft", "list", "table", "netdev", "miniorch"]).stdout


def test_port_published_by_hand_is_refused_with_the_right_way(net: NetProcess, node: TestNode) -> None:
    done = node.docker("run", "--name", "by-hand", "--network", "miniorch", "-p", "8080:80", "busybox:1", check=False)
    node.docker("rm", "-f", "by-hand", check=False)
    assert "publish through miniorch: ports: in the app file" in done.stderr


def test_dockerd_restart_leaves_traffic_alone(net: NetProcess, node: TestNode) -> None:
    node.stop_dockerd(kill=True)
    assert get(node, None, WEB_1) == "one"
    node.start_dockerd()
    assert get(node, "db1", WEB) in ("one", "two")


def test_second_net_process_is_refused(net: NetProcess, node: TestNode) -> None:
    done = node.run([sys.executable, "-m", "netplugin.main"], cwd=REPOSITORY, check=False)
    assert done.returncode == 7
    assert "already" in done.stderr
    assert "Traceback" not in done.stderr


def test_net_process_is_small_and_idle(net: NetProcess, node: TestNode) -> None:
    assert net.process is not None
    process = Path(f"/proc/{net.process.pid}")
    kilobytes = int((process / "status").read_text().split("VmRSS:")[1].split()[0])
    assert kilobytes < 60_000, f"{kilobytes} kB resident"

    def ticks() -> int:
        return sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))

    before = ticks()
    with pytest.raises(subprocess.TimeoutExpired):
        net.process.wait(5.0)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 5.0
    assert share < 0.04, f"{share:.2%} of a core"


def test_plugin_socket_is_for_root_only(net: NetProcess, node: TestNode) -> None:
    assert node.run(["stat", "-c", "%a", "/run/docker/plugins/miniorch.sock"]).stdout == "600\n"


def test_docker_that_comes_after_the_net_process_still_closes_forwarding_and_lets_our_pool_through() -> None:
    with TestNode(name="late") as late:
        write_state(late, state())
        net = NetProcess(late, late.scratch / "net.log")
        net.start()
        assert late.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"
        late.start_dockerd()
        late.load_busybox()
        late.docker("network", "create", "-d", "miniorch", "--subnet", "10.200.0.0/24", "--gateway", OWN, "miniorch")
        run_container(late, "web1", WEB_1, *web("one"))
        run_container(late, "db1", DB_1)
        assert "-P FORWARD DROP" in late.run(["iptables", "-S", "FORWARD"]).stdout
        until(lambda: get(late, "db1", WEB_1) == "one", 5, "containers reach each other")
        late.run(["sh", "-c", "iptables -F MINIORCH-FORWARD; nft delete table netdev miniorch"])
        assert get(late, "db1", WEB_1) == ""
        argv = [sys.executable, "-m", "netplugin.main", "--node", late.name, "--verify", "--repair"]
        repaired = json.loads(late.run(argv, cwd=REPOSITORY).stdout)
        assert repaired["differences"] == []
        mended = [line.partition(":")[0] for line in repaired["repaired"]]
        assert {"forwarding", "netdev chain fast", "netdev map cables"} <= set(mended)
        assert sum(one.startswith("netdev chain mo") for one in mended) == 2
        assert get(late, "db1", WEB_1) == "one"
        late.stop_dockerd()  # it would wait 45 s for the driver when the containers are removed
        net.undo()
        assert not any(word in picture(late) for word in ("mo", "10.200.", "10.201.", "169.254.")), (
            "undo left something"
        )
    assert late.leftovers() == []


def test_devices_that_nobody_uses_are_swept_after_half_a_minute(net: NetProcess, node: TestNode) -> None:
    script = """
import types, netplugin.kernel
from pyroute2 import IPRoute
now = [0.0]
kernel = netplugin.kernel.Kernel(types.SimpleNamespace(monotonic=lambda: now[0]))
wired = sorted(name for name in kernel.devices() if name.startswith("mo"))
with IPRoute() as ip:
    ip.link("add", ifname="mo00000001", kind="veth", peer={"ifname": "mc00000001"})  # a stop while we were away
    ip.link("add", ifname="mo00000002", kind="veth", peer={"ifname": "nobody"})  # its endpoint is unknown
known = [name[2:] for name in wired]
assert kernel.sweep([*known, "00000001"]) == []
now[0] = 29.0
assert kernel.sweep([*known, "00000001"]) == []
now[0] = 31.0
print(*kernel.sweep([*known, "00000001"]))
assert sorted(kernel.devices()) == wired
"""
    assert node.run([sys.executable, "-c", script], cwd=REPOSITORY).stdout.split() == ["mc00000001", "mo00000002"]
    assert get(node, "db1", WEB_1) == "one"


def test_pool_of_another_time_is_forgotten() -> None:
    script = """
from miniorch.clock import SystemClock
from miniorch.model import Cluster, Node
from miniorch.spec import Resources
from netplugin.kernel import Kernel
from netplugin.topology import topology
for net in (200, 100):
    cluster = Cluster("c", f"10.{net}.0.0/16", f"10.{net + 1}.0.0/16")
    node = Node("n", f"10.{net}.0.0/24", f"10.{net}.0.1", Resources())
    Kernel(SystemClock()).apply(topology(cluster, node, []))
"""
    with TestNode(name="moved") as moved:
        moved.run([sys.executable, "-c", script], cwd=REPOSITORY)
        after = picture(moved) + moved.run(["nft", "list", "ruleset"]).stdout
    assert "10.100.0.0/16" in after
    assert "10.20" not in after


def test_undo_is_fine_where_nothing_was_made() -> None:
    with TestNode(name="bare") as bare:
        before = picture(bare)
        bare.run([sys.executable, "-m", "netplugin.main", "--undo"], cwd=REPOSITORY)
        assert picture(bare) == before
