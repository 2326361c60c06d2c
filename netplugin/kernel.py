"""The only place that changes the kernel: devices, routes, addresses, nftables, iptables.

The problem: a container needs a network before its first instruction, on any machine, without disturbing what is
there. The idea: route, do not bridge. A container gets one end of a veth pair; the node's end carries no address, only
a /32 route to the container. Inside, the default route goes through 169.254.1.1, which every node holds. Each packet
so crosses the node's routing, where connection tracking sees both directions.

Who does this for real: Calico. Where we differ: 169.254.1.1 really exists on `lo`, since proxy ARP alone stays silent
on a machine without a default route. Every call is idempotent and the kernel is the only state: whatever we make is
marked (`mo`/`mc` names, route protocol 109, address label, iptables comment), so `undo` needs no memory.

Methods block for some milliseconds and are thread-safe. Each line says which command it equals. Next file:
`netplugin/driver.py`.
"""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from miniorch.clock import Clock
from miniorch.errors import MiniorchError
from netplugin.topology import GATEWAY, TABLE, Topology

PROTOCOL = 109  # `ip route show proto 109` lists our routes
LABEL = "lo:miniorch"  # `ip address show label lo:miniorch` lists our addresses
COMMENT = ("-m", "comment", "--comment", "miniorch")
OURS = re.compile(r"m[oc][0-9a-f]{8}")
VXLAN_OVERHEAD = 50
DEFAULT_MTU = 1450
LEFTOVER_SECONDS = 30.0
COMMAND_SECONDS = 5.0
SYSCTL = Path("/proc/sys/net/ipv4")


def outer_name(endpoint: str) -> str:
    """The node's end of an endpoint's veth pair. Device names have 15 characters at most; Docker's ids have 64."""
    return f"mo{endpoint[:8]}"


def inner_name(endpoint: str) -> str:
    """The container's end, until Docker moves it inside and calls it eth0."""
    return f"mc{endpoint[:8]}"


class Kernel:
    """This node's network namespace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._topology: Topology | None = None
        self._accepted = False  # Docker's forwarding chain has our rules
        self._first_seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def apply(self, wanted: Topology) -> None:
        """Make addresses, routes, rules and firewall what `wanted` says. Touches no container's device."""
        with self._lock, _netlink() as ip:
            lo = ip.link_lookup(ifname="lo")[0]
            # ip address replace 169.254.1.1/32 dev lo scope link
            ip.addr("replace", index=lo, address=GATEWAY, prefixlen=32, scope=253, label=LABEL)
            # ip address replace 10.200.0.1/32 dev lo
            ip.addr("replace", index=lo, address=wanted.pool_address, prefixlen=32, label=LABEL)
            self._drop_addresses(ip, lo, keep={GATEWAY, wanted.pool_address})
            self._drop_routes(ip, keep={wanted.container_pool, wanted.vip_pool})
            # ip route replace unreachable 10.200.0.0/16: an address without a container must not reach the gateway
            ip.route("replace", dst=wanted.container_pool, type="unreachable", proto=PROTOCOL)
            # ip route replace 10.201.0.0/16 dev lo src 10.200.0.1: never used as it stands, the output chain rewrites
            # the packet; but without any route the node itself could not even begin to connect to a VIP
            ip.route("replace", dst=wanted.vip_pool, oif=lo, prefsrc=wanted.pool_address, proto=PROTOCOL)
            _command(["nft", "-f", "-"], wanted.ruleset)
            self._topology = wanted
            self._accept(wanted)

    def _drop_addresses(self, ip: Any, lo: int, keep: Collection[str] = ()) -> None:
        """Remove our addresses of another time: ip address del ADDRESS dev lo."""
        for message in ip.get_addr(index=lo):
            address = message.get_attr("IFA_LOCAL")
            if message.get_attr("IFA_LABEL") == LABEL and address not in keep:
                ip.addr("del", index=lo, address=address, prefixlen=32)

    def _drop_routes(self, ip: Any, keep: Collection[str] = ()) -> None:
        """Remove our routes for pools of another time: ip route del POOL. A container's route goes with its device."""
        for route in ip.get_routes(family=2):
            pool = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
            if route["proto"] == PROTOCOL and route["dst_len"] < 32 and pool not in keep:
                ip.route("del", dst=pool, type=route["type"])

    # ---- one container ----

    def wire(self, endpoint: str, address: str) -> str:
        """Make an endpoint's veth pair and the route to `address`; the inner end's name. Safe to repeat."""
        wanted = self._topology
        if wanted is None:
            raise MiniorchError(
                "this node has no address pool yet: the net process has not heard from miniorch's server so far",
                remedy="miniorch up",
            )
        outer, inner = outer_name(endpoint), inner_name(endpoint)
        with _netlink() as ip:
            _delete(ip, outer)
            # ip link add mo... mtu 1450 type veth peer name mc... mtu 1450
            mtu = self._mtu(ip)
            ip.link("add", ifname=outer, kind="veth", mtu=mtu, peer={"ifname": inner, "mtu": mtu})
            index = ip.link_lookup(ifname=outer)[0]
            # sysctl net.ipv4.conf.mo....proxy_arp=1: answer for the subnet that Docker routes to the device
            (SYSCTL / "conf" / outer / "proxy_arp").write_text("1")
            (SYSCTL / "conf" / outer / "rp_filter").write_text("1")
            # The kernel holds such an answer back for up to 0.8 s, so that a real owner may answer first: none is there
            (SYSCTL / "neigh" / outer / "proxy_delay").write_text("0")
            # ip link set mo... up
            ip.link("set", index=index, state="up")
            # ip route replace 10.200.0.2/32 dev mo... src 10.200.0.1
            ip.route("replace", dst=f"{address}/32", oif=index, prefsrc=wanted.pool_address, scope=253, proto=PROTOCOL)
        # Only now, with dockerd surely up: had we switched forwarding on before it, Docker would not set the policy
        # of FORWARD to DROP, and this machine would route for everybody.
        if (SYSCTL / "ip_forward").read_text().strip() != "1":
            (SYSCTL / "ip_forward").write_text("1")
        if not self._accepted:
            with self._lock:
                self._accept(wanted)
        return inner

    def unwire(self, endpoint: str) -> None:
        """Remove the pair; the route goes with it. Fine if it is gone."""
        with _netlink() as ip:
            _delete(ip, outer_name(endpoint))  # ip link delete mo...

    def devices(self) -> set[str]:
        """Names of our devices in the node's own namespace."""
        with _netlink() as ip:
            names = (str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links())
            return {name for name in names if OURS.fullmatch(name)}

    def sweep(self, endpoints: Collection[str]) -> list[str]:
        """Remove devices that nobody will ask us to remove, and say which.

        A stop while this process was away leaves a pair with both ends here; a container's end is never here longer
        than the moment between Join and its move.
        """
        now, found = self._clock.monotonic(), self.devices()
        self._first_seen = {name: self._first_seen.get(name, now) for name in found}
        wanted = {outer_name(endpoint) for endpoint in endpoints}
        old = {name for name in found if now - self._first_seen[name] >= LEFTOVER_SECONDS}
        stray = sorted(name for name in old if name.startswith("mc") or name not in wanted)
        with _netlink() as ip:
            for name in stray:
                _delete(ip, name)
        return stray

    def _mtu(self, ip: Any) -> int:
        """The underlay's MTU less room for VXLAN. The underlay is where the default route points."""
        for route in ip.get_default_routes(family=2):
            links = ip.get_links(route.get_attr("RTA_OIF")) if route.get_attr("RTA_OIF") else []
            if links:
                return int(links[0].get_attr("IFLA_MTU")) - VXLAN_OVERHEAD
        return DEFAULT_MTU

    # ---- the machine's firewall ----

    def _accept(self, wanted: Topology) -> None:
        """Let the pool through what Docker or an administrator closed. An accept in our own table would not help."""
        pool = wanted.container_pool
        forward = "DOCKER-USER" if _rules("DOCKER-USER") else "FORWARD"
        self._accepted = forward == "DOCKER-USER"
        if self._accepted or "-P FORWARD DROP" in _rules("FORWARD"):
            _insert(forward, "-s", pool, "-j", "ACCEPT")
            _insert(forward, "-d", pool, "-j", "ACCEPT")
        if "-P INPUT DROP" in _rules("INPUT"):
            for protocol in ("udp", "tcp"):  # DNS, asked by containers
                to = ("-s", pool, "-d", wanted.pool_address, "-p", protocol, "--dport", "53")
                _insert("INPUT", *to, "-j", "ACCEPT")

    # ---- the end ----

    def undo(self) -> None:
        """Remove everything of ours from this machine's network. Containers that still run lose theirs."""
        with _netlink() as ip:
            for name in sorted(self.devices()):
                _delete(ip, name)
            self._drop_routes(ip)
            self._drop_addresses(ip, ip.link_lookup(ifname="lo")[0])
        if shutil.which("nft"):
            _command(["nft", "-f", "-"], f"table ip {TABLE}\ndelete table ip {TABLE}\n")
        for chain in ("DOCKER-USER", "FORWARD", "INPUT"):
            for rule in _rules(chain):
                if "--comment miniorch" in rule:
                    _command(["iptables", "-w", "5", "-D", *rule.split()[1:]])
        self._topology = None


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """A route socket; what the kernel refuses becomes our error."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise MiniorchError(f"the kernel refused a change of the network: {error}") from None


def _delete(ip: Any, name: str) -> None:
    """Ip link delete NAME, and fine if there is none."""
    for index in ip.link_lookup(ifname=name):
        with contextlib.suppress(NetlinkError):
            ip.link("del", index=index)


def _rules(chain: str) -> list[str]:
    """The lines of `iptables -S CHAIN`; none if there is no such chain, or no iptables at all."""
    try:
        return _command(["iptables", "-w", "5", "-S", chain]).splitlines()
    except MiniorchError:
        return []


def _insert(chain: str, *rule: str) -> None:
    """iptables -I CHAIN RULE, once."""
    try:
        _command(["iptables", "-w", "5", "-C", chain, *rule[:-2], *COMMENT, *rule[-2:]])
    except MiniorchError:
        _command(["iptables", "-w", "5", "-I", chain, *rule[:-2], *COMMENT, *rule[-2:]])


def _command(argv: list[str], text: str = "") -> str:
    """Run a command that must succeed; what it printed."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        raise MiniorchError(f"the program {argv[0]} is missing", remedy="make setup") from None
    except subprocess.TimeoutExpired:
        raise MiniorchError(f"{' '.join(argv)} did not end within {COMMAND_SECONDS:g} s") from None
    if done.returncode != 0:
        raise MiniorchError(f"{' '.join(argv)} failed: {' '.join(done.stderr.split())}")
    return done.stdout
