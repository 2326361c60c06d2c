"""The only place that changes the kernel: devices, routes, addresses, nftables, iptables.

The problem: a container needs a network before its first instruction, on any machine, without disturbing what is
there. The idea: route, do not bridge. A container gets one end of a veth pair; the node's end carries no address, only
a /32 route to the container. Inside, the default route goes through 169.254.1.1, which every node holds. So whatever
a container sends meets its node first: the door of its device, then routing and connection tracking.

Who does this for real: Calico. Where we differ: 169.254.1.1 really exists on `lo`, since proxy ARP alone stays silent
on a machine without a default route. Every call is idempotent and the kernel is the only state: whatever we make is
marked (`mo`/`mc` names, route protocol 109, address label, chains of iptables), so `undo` needs no memory. All that is
not a container's is compared first (`netplugin/verify.py`), and only what differs is changed.

Methods block for some milliseconds and are thread-safe. Each line says which command it equals. Next file:
`netplugin/driver.py`.
"""

import contextlib
import fcntl
import re
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from miniorch.clock import Clock
from miniorch.errors import Conflict, MiniorchError
from netplugin.conntrack import forget
from netplugin.fastpath import Doors, fenced, ruleset, unfenced, unreached
from netplugin.iproute import (
    DEFAULT_MTU,
    GATES,
    IP_FORWARD,
    batch,
    chain,
    command,
    forwarding,
    found,
    gates,
    has_gate,
    knows_forward,
    links,
    listed_rules,
    ours,
    underlay_mtu,
    wanted_rules,
)
from netplugin.nft import Nft
from netplugin.overlay import DEVICE, ROUTE_PROTOCOL, Snapshot
from netplugin.topology import CABLES, TABLE, Topology, outer_name
from netplugin.verify import Difference, commands, compare

NO_DOORS = Doors({}, {}, {})
OURS = re.compile(r"\bm[oc][0-9a-f]{8}\b")
CONTAINER = re.compile(r"route \S+/32")
LEFTOVER_SECONDS = 30.0
LOOK_SECONDS = 30.0
ROUNDS = 3  # a device that is made anew takes its entries with it: those are the second round's
DEVICES = Path("/proc/net/dev")
SIOCGIFMTU = 0x8921  # netdevice(7)
SYSCTL = Path("/proc/sys/net/ipv4")


def inner_name(endpoint: str) -> str:
    """The container's end, until Docker moves it inside and calls it eth0."""
    return f"mc{endpoint[:8]}"


class Kernel:
    """This node's network namespace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._topology: Topology | None = None
        self._mtu = DEFAULT_MTU  # of containers; known since the last `apply`
        self._looked_for: Topology | None = None  # what the last look found, or made: without rules
        self._looked_at = 0.0
        self._accepted = False  # Docker's forwarding chain has our rules
        self._first_seen: dict[str, float] = {}
        self._lock = threading.Lock()
        self._doors = threading.Lock()  # held from a look at which devices there are until each has its door
        self._cables: dict[str, str] = {}  # a container's device -> the address behind it
        self._nft = Nft()

    def apply(self, wanted: Topology) -> None:
        """Make addresses, routes, rules and firewall what `wanted` says. Touches no container's device.

        What is right already is not touched either, and as long as only services change, not even looked at but for
        every `LOOK_SECONDS`. Raises `MiniorchError` that names what the kernel does not take.
        """
        with self._lock:
            self._rule(wanted)  # first: there is never a tunnel without its guard
            forget(self._topology, wanted)
            self._topology = wanted
            shape = replace(wanted, ruleset="", doors=NO_DOORS, served={})
            if shape == self._looked_for and self._clock.monotonic() < self._looked_at + LOOK_SECONDS:
                return
            self._looked_for = None
            self._accept(wanted)
            if self.devices():
                _forward()
            before = self._mtu
            try:
                self._mtu = underlay_mtu(links(), wanted)
            except Conflict:  # no way to other nodes; what runs here has its network all the same
                self._mend(replace(wanted, overlay=None).entries(DEFAULT_MTU), wanted)
                raise
            if self._mend(wanted.entries(self._mtu), wanted) or self._mtu != before:
                self._rule(wanted)  # a new device has no door
            self._looked_for, self._looked_at = shape, self._clock.monotonic()

    def admit(self, text: str) -> None:
        """Let one container into its networks (`netplugin/isolation.py`): all lines or none, and then it raises."""
        self._nft.run(text)

    def _rule(self, wanted: Topology) -> None:
        """Both tables of nftables in one transaction, anew if a container has come or gone in between."""
        with self._doors:
            self._cables = {**wanted.doors.cables, **self._cables}
            all_doors = replace(wanted.doors, cables=self._cables)
            while True:
                sizes = self._sizes()
                try:
                    doors = ruleset(TABLE, all_doors, sizes, self._mtu, fast=knows_forward())
                    self._nft.run(wanted.ruleset + doors)
                    self._cables = {device: behind for device, behind in self._cables.items() if device in sizes}
                    return
                except MiniorchError:
                    if self._sizes() == sizes:
                        raise

    def _sizes(self) -> dict[str, int]:
        """The MTU of each device that packets between containers come in by."""
        found = {}
        for name in sorted({DEVICE, *self.devices()}):
            with contextlib.suppress(OSError):  # gone
                if ours(name):
                    found[name] = _mtu(name)
        return found

    def _mend(self, wanted: Snapshot, topology: Topology | None) -> bool:
        """Compare and correct until nothing is left to do; whether anything was."""
        said = ""
        for round_ in range(ROUNDS):
            seen = found(topology)
            left = compare(wanted, {what: how for what, how in seen.items() if not CONTAINER.fullmatch(what)})
            todo = commands(left)
            if not todo.ip and not todo.bridge:
                return round_ > 0
            said = batch(todo)
        raise MiniorchError(f"the kernel does not take what it should: {left[0].describe()} {said}".rstrip())

    def verify(self, wanted: Topology, endpoints: Callable[[], Mapping[str, str]]) -> list[Difference]:
        """What the kernel holds beside what it should. `endpoints` (id -> address) is asked after the kernel was."""
        seen = links()
        held = found(wanted, seen) | listed_rules(seen)
        mtu, cables = underlay_mtu(seen, wanted), {outer_name(one): address for one, address in endpoints().items()}
        wanted = replace(wanted, doors=replace(wanted.doors, cables=cables))
        should = wanted.entries(mtu) | wanted_rules(wanted, seen, mtu)
        for device in sorted(cables.keys() & {str(link.get("ifname")) for link in seen}):
            should[f"route {cables[device]}/32"] = (f"dev {device} src {wanted.pool_address}",)
        if self.devices():
            let, lets = forwarding(wanted)
            should, held = should | let, held | lets
        return compare(should, held)

    def repair(self, wanted: Topology, differences: Iterable[Difference]) -> None:
        """Mend what `verify` has found, containers' routes, too."""
        batch(commands(one for one in differences if CONTAINER.fullmatch(one.what)))
        self.apply(wanted)

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
        with self._doors, _netlink() as ip:
            _delete(ip, outer)
            # ip link add mo... group 109 mtu 1450 numtxqueues 1 type veth peer name mc... mtu 1450 numtxqueues 1
            # Made with more queues the kernel takes all but one away again, and every other change of the machine's
            # network waits until no processor can still be using them.
            end = {"mtu": self._mtu, "num_tx_queues": 1, "num_rx_queues": 1}
            ip.link("add", ifname=outer, group=CABLES, kind="veth", **end, peer={"ifname": inner, **end})
            index = socket.if_nametoindex(outer)
            # sysctl net.ipv4.conf.mo....proxy_arp=1: answer for the subnet that Docker routes to the device
            (SYSCTL / "conf" / outer / "proxy_arp").write_text("1")
            # sysctl net.ipv4.conf.mo....rp_filter=0: nothing is left to it behind a fence
            (SYSCTL / "conf" / outer / "rp_filter").write_text("0")
            self._nft.run(fenced(TABLE, outer, address))
            self._cables[outer] = address
            # The kernel holds such an answer back for up to 0.8 s, so that a real owner may answer first: none is there
            (SYSCTL / "neigh" / outer / "proxy_delay").write_text("0")
            # ip link set mo... up
            ip.link("set", index=index, state="up")
            # ip route replace 10.200.0.2/32 dev mo... src 10.200.0.1
            ip.route(
                "replace", dst=f"{address}/32", oif=index, prefsrc=wanted.pool_address, scope=253, proto=ROUTE_PROTOCOL
            )
        # Only now, with dockerd surely up: had we switched forwarding on before it, Docker would not set the policy
        # of FORWARD to DROP, and this machine would route for everybody.
        _forward()
        if not self._accepted:
            with self._lock:
                self._accept(wanted)
        return inner

    def unwire(self, endpoint: str) -> None:
        """Remove the pair; the route goes with it. Fine if it is gone."""
        device = outer_name(endpoint)
        with self._doors, _netlink() as ip:
            if address := self._cables.pop(device, ""):
                with contextlib.suppress(MiniorchError):  # it was not on the fast path
                    self._nft.run(unreached(TABLE, address))
            _delete(ip, device)  # ip link delete mo...
            self._nft.run(unfenced(TABLE, device))

    def holds(self, endpoint: str) -> bool:
        """Whether the pair is there and its inner end is not: a container has it."""
        return _exists(outer_name(endpoint)) and not _exists(inner_name(endpoint))

    def devices(self) -> set[str]:
        """Names of our devices in the node's own namespace."""
        # `socket.if_nameindex` would take the lock that every change of a device needs, and keep it for as long as a
        # busy machine lets this process wait: while thirty containers start, others spin for it meanwhile.
        return set(OURS.findall(DEVICES.read_text()))

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

    # ---- the machine's firewall ----

    def _accept(self, wanted: Topology) -> None:
        self._accepted = bool(chain("DOCKER-USER"))
        for gate in gates(wanted):
            if has_gate(gate):
                continue
            if gate[0].startswith(GATES) and not chain(gate[0]):
                command(["iptables", "-w", "5", "-N", gate[0]])
            command(["iptables", "-w", "5", "-I", *gate])

    # ---- the end ----

    def undo(self) -> None:
        """Remove everything of ours from this machine's network. Containers that still run lose theirs."""
        with _netlink() as ip:
            for name in sorted(self.devices()):
                _delete(ip, name)
        self._mend({}, None)
        if shutil.which("nft"):
            for family in ("ip", "netdev"):
                self._nft.run(f"table {family} {TABLE}\ndelete table {family} {TABLE}\n")
        for name in ("DOCKER-USER", "FORWARD", "INPUT"):
            for rule in chain(name):
                if f"-j {GATES}-" in rule:
                    command(["iptables", "-w", "5", "-D", *rule.split()[1:]])
        for name in (f"{GATES}-FORWARD", f"{GATES}-INPUT"):
            if chain(name):
                command(["iptables", "-w", "5", "-F", name])
                command(["iptables", "-w", "5", "-X", name])
        self._topology = None


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """A route socket; what the kernel refuses becomes our error."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise MiniorchError(f"the kernel refused a change of the network: {error}") from None


def _forward() -> None:
    if IP_FORWARD.read_text().strip() != "1":
        IP_FORWARD.write_text("1")


def _exists(device: str) -> bool:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(device) > 0
    return False


def _mtu(device: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFMTU, struct.pack("16si12x", device.encode(), 0))
    return int(struct.unpack("16si12x", answer)[1])


def _delete(ip: Any, name: str) -> None:
    """Ip link delete NAME, and fine if there is none."""
    with contextlib.suppress(OSError, NetlinkError):
        ip.link("del", index=socket.if_nametoindex(name))
