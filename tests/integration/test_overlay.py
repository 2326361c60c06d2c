"""Three machines on one wire, each with a net process and containers that are network namespaces: no Docker needed."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from node import TestNode, until
from wire import Wire

from miniorch.codec import encode
from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.known import Known
from netplugin.overlay import mac, network_number, peers_of

pytestmark = [pytest.mark.root]

REPOSITORY = Path(__file__).parents[2]
CLUSTER = Cluster("c1")
FRONT, WEB, OTHER = "10.200.1.5", "10.200.2.5", "10.200.1.6"  # on node1, node2, node1
VIP = "10.201.0.2"

SERVE = """
import socket
server = socket.create_server(("", 80))
while True:
    client, peer = server.accept()
    client.sendall(peer[0].encode() + b" " + b"x" * 1_000_000)
    client.close()
"""
ASK = """
import socket, sys, time
began = time.monotonic()
try:
    with socket.create_connection((sys.argv[1], 80), 5) as client:
        data = b"".join(iter(lambda: client.recv(1 << 16), b""))
    print(data.split()[0].decode(), len(data) > 1_000_000)
except OSError as error:
    print(type(error).__name__, error.errno, time.monotonic() - began < 1)
"""
FROM = """
import socket, sys
address, port, own, ttl = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    client.settimeout(5)
    client.bind(("", own))
    try:
        client.connect((address, port))
        print(len(b"".join(iter(lambda: client.recv(1 << 16), b""))) > 1_000_000)
    except OSError as error:
        print(error.errno)
"""
TRACKED = """
import socket, sys
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket
with NFCTSocket() as flows:
    for flow in flows.dump():
        way, back = (NFCTAttrTuple.from_netlink(2, flow.get_attr(f"CTA_TUPLE_{one}")) for one in ("ORIG", "REPLY"))
        if way.proto == socket.IPPROTO_TCP and int(sys.argv[1]) in (way.sport, way.dport):
            print(way.saddr, way.daddr, back.dport)
"""
ECHO = """
import socket
with socket.create_server(("", 7)) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    while word := client.recv(99):
        client.sendall(word)
"""
TALK = """
import socket, time
with socket.create_connection((%r, 7), 5, ("", 40031)) as client:
    try:
        while True:
            client.sendall(b"word")
            print(client.recv(99).decode(), flush=True)
            time.sleep(0.05)
    except OSError as error:
        print(error.errno, flush=True)
"""
STAND = """
import socket, sys
with socket.create_connection(("198.51.100.3", 7), 5) as client:
    try:
        for word in sys.stdin:
            client.sendall(word.encode())
            print(client.recv(99).decode(), end="", flush=True)
    except OSError as error:
        print(error.errno)
"""
PING = "import sys; from netplugin.trace import ping; print(ping(sys.argv[1]).result)"
HEAR = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
    ear.bind(("", 9))
    print("ready", flush=True)
    while (word := ear.recv(99)) != b"end":
        print(word.decode(), flush=True)
"""


class Machine:
    """A node with its net process, which knows what `learn` said and has no server."""

    def __init__(self, node: TestNode) -> None:
        self.node = node
        self.process: subprocess.Popen[bytes] | None = None
        self.log = node.scratch / "net.log"

    def start(self, known: Known) -> None:
        """(Re)start with this knowledge, and wait until the kernel holds it."""
        self.end()
        self.node.run(["sh", "-c", "cat > /var/lib/miniorch/net.json"], input=encode(known).decode())
        assert known.node is not None
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "netplugin.main", "--node", self.node.name]
            self.process = self.node.popen(argv, cwd=REPOSITORY, stderr=log)
        until(lambda: self.answers(known.node), 15, f"the DNS of {self.node.name} answers: {self.log.read_text()}")

    def answers(self, own: Node | None) -> bool:
        assert own is not None
        asked = ["dig", "+short", "+tries=1", "+time=1", f"@{own.pool_address}", "web.chat.miniorch.internal"]
        return VIP in self.node.run(asked, check=False).stdout

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=10) == 0
            self.process = None

    def run(self, *argv: str, inside: str = "") -> str:
        """Run something on the machine, or in the network of a container."""
        enter = ["nsenter", f"--net=/run/netns/{inside}"] if inside else []
        return self.node.run([*enter, *argv]).stdout.strip()

    def script(self, text: str, *words: str, inside: str = "") -> str:
        return self.run(sys.executable, "-c", text, *words, inside=inside)

    def background(self, text: str, inside: str) -> subprocess.Popen[bytes]:
        argv = ["nsenter", f"--net=/run/netns/{inside}", sys.executable, "-c", text]
        return self.node.popen(argv, stdout=subprocess.PIPE)

    def plugin(self, call: str, body: dict[str, Any]) -> Any:
        """Ask the net process what Docker would ask."""
        connection = http.client.HTTPConnection("plugin")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"/proc/{self.node.pid}/root/run/docker/plugins/miniorch.sock")
        connection.request("POST", f"/NetworkDriver.{call}", json.dumps(body))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert "Err" not in answer, answer
        return answer

    def contain(self, name: str, number: int, address: str, networks: str = "chat/default") -> None:
        """A network namespace that is wired as Docker would wire a container."""
        endpoint = {"EndpointID": f"{number:064x}"[::-1]}
        options = {"miniorch.task": name, "miniorch.networks": networks}
        self.plugin("CreateEndpoint", {**endpoint, "Interface": {"Address": f"{address}/24"}, "Options": options})
        device = self.plugin("Join", endpoint)["InterfaceName"]["SrcName"]
        self.run("sh", "-ec", f"ip netns add {name}; ip link set {device} netns {name} name eth0")
        inside = f"""
            ip link set lo up; ip link set eth0 up; ip address add {address}/32 dev eth0
            ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1"""
        self.run("sh", "-ec", inside, inside=name)

    def verify(self, *more: str) -> Any:
        argv = [sys.executable, "-m", "netplugin.main", "--node", self.node.name, "--verify", *more]
        return json.loads(self.node.run(argv, cwd=REPOSITORY).stdout)

    def picture(self) -> str:
        script = "ip -br link; ip -br -4 address; ip -4 route show table all; nft list ruleset"
        return self.node.run(["sh", "-c", script]).stdout


def known(number: int, addresses: list[str], front: tuple[str, ...] = ("default",), *, internal: bool = False) -> Known:
    """What node `number` knows of a cluster on these addresses."""
    nodes = [
        Node(f"node{n}", f"10.200.{n}.0/24", f"10.200.{n}.1", Resources(), address=address)
        for n, address in enumerate(addresses, 1)
    ]
    fronts = (Backend("front", 1, "node1", FRONT, True), Backend("other", 2, "node1", OTHER, True))
    web = (Backend("web", 1, "node2", WEB, True),)
    endpoints = (
        Endpoints("chat", "front", "10.201.0.3", (), fronts, networks=front, internal=internal),
        Endpoints("chat", "web", VIP, (), web),
    )
    own = nodes[number - 1]
    return Known(CLUSTER, own, peers_of(own, nodes), endpoints)


@pytest.fixture(scope="module")
def machines(rights: None) -> Iterator[list[Machine]]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(TestNode(name=f"node{number}")) for number in (1, 2, 3)]
        wire = stack.enter_context(Wire(nodes, mtu=1400))
        machines = [Machine(node) for node in nodes]
        before = [machine.picture() for machine in machines]
        for number, machine in enumerate(machines, 1):
            machine.start(known(number, list(wire.addresses.values())))
        machines[0].contain("front", 1, FRONT)
        machines[0].contain("other", 2, OTHER)
        machines[1].contain("web", 3, WEB)
        servers = [machines[0].background(SERVE, "front"), machines[1].background(SERVE, "web")]
        until(lambda: machines[0].script(ASK, WEB, inside="front") == f"{FRONT} True", 5, "web answers")
        yield machines
        for server in servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        for machine, was in zip(machines, before, strict=True):
            machine.end()
            machine.run("sh", "-c", "ip -all netns delete")
            machine.node.run([sys.executable, "-m", "netplugin.main", "--undo"], cwd=REPOSITORY)
            assert machine.picture() == was, "undo left something on the machine"


def test_containers_on_two_nodes_reach_each_other_by_address_and_service(machines: list[Machine]) -> None:
    one, two, _ = machines
    assert one.script(ASK, WEB, inside="front") == f"{FRONT} True", "the source address is kept"
    assert two.script(ASK, FRONT, inside="web") == f"{WEB} True"
    assert one.script(ASK, VIP, inside="front") == f"{FRONT} True"
    assert two.script(ASK, VIP, inside="web") == "10.200.2.1 True", "a task that reaches itself is seen as its node"
    assert one.script(ASK, VIP) == "10.200.1.1 True", "a node is seen with its pool address"
    assert machines[2].script(ASK, VIP) == "10.200.3.1 True"


def test_what_needs_no_tracking_goes_the_fast_path_and_all_else_arrives_as_well(machines: list[Machine]) -> None:
    one, two, _ = machines
    for machine in (one, two):
        until(lambda machine=machine: machine.verify()["differences"] == [], 5, "the fast path leads to all containers")
    assert one.script(FROM, WEB, "80", "40001", "64", inside="front") == "True"
    assert [machine.script(TRACKED, "40001") for machine in (one, two)] == ["", ""]
    assert one.script(FROM, WEB, "80", "50001", "64", inside="front") == "True"
    port = one.script(TRACKED, "50001").split()[2]
    assert [machine.script(TRACKED, "50001") for machine in (one, two)] == [f"{FRONT} {WEB} {port}", ""]
    assert one.script(FROM, OTHER, "80", "40002", "64", inside="front") == "111", "nobody listens there"
    assert one.script(FROM, FRONT, "80", "40002", "64", inside="other") == "True"
    assert one.script(TRACKED, "40002") == "", "nor on the way to a neighbour"
    assert one.script(FROM, WEB, "80", "40003", "1", inside="front") == "113", "node1 says that its time is over"
    assert one.script(FROM, WEB, "80", "40004", "2", inside="front") == "113", "and so does node2"


def test_client_of_a_service_address_is_moved_to_a_port_that_is_tracked(machines: list[Machine]) -> None:
    one, two, _ = machines
    assert one.script(FROM, VIP, "80", "40011", "64", inside="front") == "True"
    source, asked, port = one.script(TRACKED, "40011").split()
    assert (source, asked) == (FRONT, VIP)
    assert int(port) == 40011 + 0x4000, "always the same, so the far end knows a connection that is begun anew"
    remembered = two.script(TRACKED, "80").splitlines()
    assert not any(line.startswith(FRONT) for line in remembered), "the far node has nothing to remember"
    assert one.script(FROM, WEB, "80", "40011", "64", inside="front") == "True", "from one port, by both addresses"


def test_ports_that_others_were_moved_to_and_those_out_of_the_range_stay_apart(machines: list[Machine]) -> None:
    one = machines[0]
    for own in range(40021, 40027):
        assert one.script(FROM, VIP, "80", str(own), "64", inside="front") == "True"
        taken = str(own + 0x4000)
        assert one.script(FROM, WEB, "80", taken, "64", inside="front") == "True", "it was moved out of the way"
        assert int(one.script(TRACKED, taken).split()[2]) >= 63488
        assert one.script(FROM, VIP, "80", taken, "64", inside="front") == "True"
    assert one.script(FROM, VIP, "80", "1023", "64", inside="front") == "True"
    assert int(one.script(TRACKED, "1023").split()[2]) >= 63488
    assert one.script(FROM, VIP, "80", "50123", "64") == "True"
    assert int(one.script(TRACKED, "50123").split()[2]) == 50123, "the node itself is never on the fast path"


def test_fragments_are_put_together_by_tracking(machines: list[Machine]) -> None:
    one, two, _ = machines
    ear = two.background(HEAR, "web")
    try:
        assert ear.stdout is not None
        assert ear.stdout.readline() == b"ready\n"
        send = "import socket; socket.socket(2, 2).sendto(b'x' * {} + b'end', ({!r}, 9))"
        one.script(send.format(90, WEB), inside="front")
        one.script(send.format(4000, WEB), inside="front")
        one.script(send.format(0, WEB), inside="front")
        heard = ear.communicate(timeout=5)[0].split()
        assert [len(word) for word in heard] == [93, 99]
    finally:
        ear.kill()
        ear.wait()


@pytest.mark.parametrize("address", [WEB, VIP])
def test_a_network_that_is_taken_away_ends_what_was_on_it_by_either_way(machines: list[Machine], address: str) -> None:
    one, two, _ = machines
    addresses = [f"198.51.100.{n}" for n in (1, 2, 3)]
    echo = two.background(ECHO, "web")
    assert echo.stdout is not None
    echo.stdout.readline()
    talk = one.background(TALK % address, "front")
    assert talk.stdout is not None
    try:
        assert talk.stdout.readline() == b"word\n"
        one.start(known(1, addresses, front=("apart",)))
        assert talk.communicate(timeout=5)[0].split()[-1] == b"104", "connection reset"
    finally:
        for process in (talk, echo):
            process.kill()
            process.communicate()
        one.start(known(1, addresses))
    assert one.script(ASK, WEB, inside="front") == f"{FRONT} True"


def reached(machine: Machine, inside: str, *addresses: str) -> list[bool]:
    """Which of these answer. All others refuse, and at once."""
    said = [machine.script(ASK, address, inside=inside) for address in addresses]
    assert [one for one in said if not one.endswith(" True")] == [], "a time-out, or half an answer"
    return [not one.startswith("ConnectionRefusedError") for one in said]


def test_a_container_on_internal_networks_alone_reaches_the_cluster_and_nothing_else(machines: list[Machine]) -> None:
    one, two, three = machines
    addresses = [f"198.51.100.{n}" for n in (1, 2, 3)]
    outside, inside = [*addresses, "169.254.1.1"], [WEB, VIP, "10.200.1.1"]
    servers = [machine.node.popen([sys.executable, "-c", SERVE]) for machine in machines]
    echo = three.node.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert echo.stdout is not None
    echo.stdout.readline()
    enter = ["nsenter", "--net=/run/netns/front", sys.executable, "-c", STAND]
    standing = subprocess.Popen(one.node.argv(enter), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert standing.stdin is not None
    assert standing.stdout is not None

    def said_there() -> bytes:
        standing.stdin.write(b"word\n")
        standing.stdin.flush()
        return standing.stdout.readline()

    try:
        for address in addresses:
            until(lambda address=address: one.script(ASK, address).endswith(" True"), 5, f"{address} answers")
        assert all(reached(one, "front", *outside, *inside))
        assert one.script(PING, addresses[2], inside="front") == "ok"
        assert said_there() == b"word\n"
        one.start(known(1, addresses, internal=True))
        assert reached(one, "front", *outside, *inside) == [False] * 4 + [True] * 3
        assert one.script(PING, addresses[2], inside="front") == "refused"
        assert said_there() == b"104\n", "what has begun is reset"
        asked = [machine.script(ASK, FRONT) for machine in machines]
        assert asked == [f"10.200.{n}.1 True" for n in (1, 2, 3)], "nodes ask it: health probes, HAProxy"
        assert two.script(ASK, FRONT, inside="web") == f"{WEB} True"
        one.contain("within", 11, "10.200.1.7", "chat/default,chat/INTERNAL")
        assert reached(one, "within", *outside, FRONT, "10.200.1.1") == [False] * 4 + [True] * 2, "from the beginning"
        one.contain("free", 12, "10.200.1.8")
        assert all(reached(one, "free", *outside, FRONT)), "a neighbour that may"
        until(lambda: one.verify()["differences"] == [], 5, "nothing differs")
        one.start(known(1, addresses))
        assert all(reached(one, "front", *outside, *inside))
    finally:
        for process in (*servers, echo, standing):
            process.kill()
            process.communicate()
        one.start(known(1, addresses))


def test_mtu_is_the_wires_less_the_headers_of_vxlan(machines: list[Machine]) -> None:
    assert machines[0].run("cat", "/sys/class/net/mo-vxlan/mtu") == "1350"
    assert "mtu 1350" in machines[0].run("ip", "link", "show", "eth0", inside="front")


def test_address_that_nobody_has_is_refused_at_once_on_whatever_node_it_would_be(machines: list[Machine]) -> None:
    refused = ("OSError 113 True", "ConnectionRefusedError 111 True")  # no route to host, or shut out by isolation
    for address in ("10.200.1.77", "10.200.2.77", "10.200.9.9"):
        assert machines[0].script(ASK, address, inside="front") in refused, address
        assert machines[0].script(ASK, address) == refused[0], address


def udp(source: str, target: str, word: str) -> bytes:
    """An IPv4 packet to port 9, with `word` in it."""
    data = struct.pack("!HHHH", 999, 9, 8 + len(word), 0) + word.encode()
    ip = [0x4500, 20 + len(data), 0, 0, 0x4011, 0]
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(ip) + sum(struct.unpack("!4H", ends))
    total = (total & 0xFFFF) + (total >> 16)
    ip[5] = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!6H", *ip) + ends + data


def vxlan(source: str, word: str) -> str:
    """A program that sends one frame to node2's tunnel: UDP from `source` to web's port 9, with `word` in it."""
    addresses = bytes.fromhex((mac("10.200.2.1") + mac("10.200.1.1")).replace(":", ""))
    frame = addresses + b"\x08\x00" + udp(source, WEB, word)
    data = b"\x08\0\0\0" + struct.pack("!I", network_number(CLUSTER.id) << 8) + frame
    return f"import socket; socket.socket(2, 2).sendto({data!r}, ('198.51.100.2', 4789))"


def test_container_sends_as_itself_alone_however_its_frames_are_wrapped(machines: list[Machine]) -> None:
    one = machines[0]
    ear = one.background(HEAR, "front")
    assert ear.stdout is not None
    gateway = one.run("sh", "-c", f"cat /sys/class/net/$(ip route show {OTHER} | cut -d' ' -f3)/address")
    try:
        assert ear.stdout.readline() == b"ready\n"
        for source, tags, word in (
            (WEB, 0, "an address that may speak to front, but is another's"),
            (WEB, 1, "the same behind the tag of VLAN 0, which the kernel takes off"),
            (WEB, 2, "behind two, of which it takes off one before it looks and one after"),
            (OTHER, 2, "no container has a reason to send such frames"),
            (OTHER, 1, "nor such, although the kernel would take the tag off"),
            (OTHER, 0, "end"),
        ):
            start = bytes.fromhex(gateway.replace(":", "")) + bytes(6) + b"\x81\0\0\0" * tags + b"\x08\0"
            frame = start + udp(source, FRONT, word)
            one.script(f"import socket; socket.socket(17, 3).sendto({frame!r}, ('eth0', 0))", inside="other")
        assert ear.communicate(timeout=5)[0] == b""
    finally:
        ear.kill()
        ear.wait()


def test_tunnel_takes_only_what_a_peer_sends_for_its_own_containers(machines: list[Machine]) -> None:
    one, two, three = machines
    ear = two.background(HEAR, "web")
    assert ear.stdout is not None
    try:
        assert ear.stdout.readline() == b"ready\n"
        one.script(vxlan("10.200.1.1", "peer"))
        three.script(vxlan("10.200.1.1", "a peer that forges the address of another's container"))
        one.script(vxlan("10.200.7.1", "an address of nobody"))
        one.script(vxlan("10.200.1.1", "a container that passes for its node"), inside="front")
        two.script(vxlan("10.200.1.1", "a container to its own node"), inside="web")
        two.start(known(2, ["198.51.100.1", "198.51.100.2"]))
        three.script(vxlan("10.200.3.1", "a machine that is no node"))
        one.script(vxlan("10.200.1.1", "end"))
        assert ear.communicate(timeout=5)[0] == b"peer\n"
    finally:
        ear.kill()
        ear.wait()
        two.start(known(2, [f"198.51.100.{n}" for n in (1, 2, 3)]))


def test_node_that_leaves_takes_its_three_entries_along_and_the_last_one_the_tunnel(machines: list[Machine]) -> None:
    three = machines[2]
    three.run("nft", "add table netdev miniorch; add chain netdev miniorch mo00000009")  # the fence of a lost device
    three.start(known(3, ["", "198.51.100.2", "198.51.100.3"]))
    text = three.run("sh", "-c", "ip route; ip neigh show dev mo-vxlan; bridge fdb show dev mo-vxlan; nft list ruleset")
    assert "10.200.2.0/24" in text
    left = ("10.200.1.0/24", "10.200.1.1", "0a:6d:0a:c8:01:01", "198.51.100.1", "mo00000009")
    assert not any(gone in text for gone in left)
    three.start(known(3, ["", "", "198.51.100.3"]))
    assert "mo-vxlan" not in three.run("ip", "-br", "link")
    three.start(known(3, [f"198.51.100.{n}" for n in (1, 2, 3)]))
    assert three.script(ASK, VIP) == "10.200.3.1 True"


def test_verify_names_each_difference_and_repair_mends_them(machines: list[Machine]) -> None:
    one = machines[0]
    until(lambda: one.verify()["differences"] == [], 5, "the fast path leads to all containers")
    device = one.run("sh", "-c", f"ip route show {FRONT} | cut -d' ' -f3")
    one.run("sh", "-ec", f"""
        bridge fdb del 0a:6d:0a:c8:02:01 dev mo-vxlan dst 198.51.100.2 self
        bridge fdb append 0a:6d:0a:c8:02:01 dev mo-vxlan dst 198.51.100.9 self permanent
        ip neigh del 10.200.2.1 dev mo-vxlan
        ip route del 10.200.3.0/24
        ip route del {FRONT}
        ip route add 10.200.2.64/26 via 10.200.3.1 dev mo-vxlan onlink proto 109
        ip link set eth0 mtu 1300
        nft 'delete element ip miniorch peers {{ 198.51.100.3 }}'
        nft 'flush chain ip miniorch raw; flush chain netdev miniorch {device}'""")  # fmt: skip
    damaged = [
        "chain raw: is absent; should be udp dport 4789 goto tunnel",
        "device mo-vxlan: is ",
        "fdb 0a:6d:0a:c8:02:01: is dst 198.51.100.9; should be dst 198.51.100.2",
        "neighbour 10.200.2.1: is absent; should be lladdr 0a:6d:0a:c8:02:01",
        f"netdev chain {device}: is absent; should be ip saddr {FRONT} goto from-chat/default | ether type arp ",
        f"route {FRONT}/32: is absent; should be dev {device} src 10.200.1.1",
        "route 10.200.2.64/26: is via 10.200.3.1 dev mo-vxlan onlink; should be absent",
        "route 10.200.3.0/24: is absent; should be via 10.200.3.1 dev mo-vxlan onlink src 10.200.1.1",
        "set peers: is absent; should be 198.51.100.3",
    ]
    found = one.verify()
    assert all(line.startswith(start) for line, start in zip(found["differences"], damaged, strict=True)), found
    assert "the server does not answer" in found["note"]
    mended = one.verify("--repair")
    assert mended["differences"] == []
    assert mended["repaired"] == found["differences"]
    assert one.verify()["differences"] == []
    assert one.run("cat", "/sys/class/net/mo-vxlan/mtu") == "1250", "the wire has become narrower"
    assert one.script(ASK, VIP, inside="front") == f"{FRONT} True", "big packets find their way, too"
    assert machines[1].script(ASK, FRONT, inside="web") == f"{WEB} True"
    one.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    mended = one.verify("--repair")
    assert (mended["differences"], mended["repaired"]) == ([], ["forwarding: is absent; should be ip_forward 1"])


def test_address_on_no_device_is_said_and_containers_here_keep_their_network(machines: list[Machine]) -> None:
    one = machines[0]
    one.run("ip", "address", "del", "198.51.100.1/24", "dev", "eth0")
    try:
        done = one.node.run([sys.executable, "-m", "netplugin.main", "--node", "node1", "--verify"],
                            cwd=REPOSITORY, check=False)  # fmt: skip
        assert done.returncode == 7
        assert "this node's address 198.51.100.1 is on none of its devices" in done.stderr
        assert one.script(ASK, FRONT, inside="other") == f"{OTHER} True"
    finally:
        one.run("ip", "address", "add", "198.51.100.1/24", "dev", "eth0")
    assert one.verify("--repair")["differences"] == []
