"""`python -m netplugin.main --trace`: one node's half of a packet's way. What `miniorch trace` asks of both ends.

For each step there are two views side by side, in the words of `ip`, `bridge` and `nft`: what the state says that the
kernel shall hold, and what it holds. Both come from what `net verify` compares (`netplugin/verify.py`); here only what
one packet needs is picked out (`steps`, pure). Then the live probes: this process steps into the container's network
namespace, and asks its name server and knocks at the other end from there, as the program in the container would.

The verdicts are drawn where both halves are known: `miniorch/cli/trace.py`.
"""

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dnslib import RCODE, DNSRecord

from miniorch.errors import Conflict
from netplugin.driver import Endpoint
from netplugin.iproute import forwarding, found, links, listed_rules, underlay_mtu, wanted_rules
from netplugin.overlay import DEVICE, Snapshot, mac
from netplugin.topology import Topology, outer_name

PROBE_SECONDS = 2.0
NEW_NETWORK = 0x40000000  # CLONE_NEWNET, what setns(2) checks the file to be
LISTEN = "0A"
LOOPBACK_V6 = "00000000000000000000000001000000"
PING = struct.pack(">BBHHH", 8, 0, 0xF7FD, 1, 1)  # type 8, code 0, checksum, id 1, sequence 1
REFUSED_BY = {3: "refused"}


@dataclass(frozen=True, slots=True)
class Question:
    """Of whose packet is asked: a container of this node, and the other end."""

    pid: int  # of a process in the container
    address: str
    target: str = ""  # the other container's address
    vip: str = ""
    chain: str = ""  # the service's, "to-shop/db"
    name: str = ""  # to be looked up
    port: int = 0  # to be knocked at; 0: ping


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Equal views are right."""

    name: str  # "route", "neighbour", ...
    what: str  # "route 10.200.2.0/24"
    state: tuple[str, ...]
    kernel: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A live attempt. `result` is "ok", "refused", "no answer", "no route", or what DNS said."""

    what: str
    result: str
    milliseconds: float
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What one node says."""

    node: str
    steps: tuple[Step, ...]
    listening: tuple[str, ...] = ()  # of the container: "0.0.0.0:5000"
    probes: dict[str, Probe] = field(default_factory=dict)  # "name", "service", "address"


# --- the two views ---


def steps(
    asked: Question, wired: Iterable[Endpoint], wanted: Topology, should: Snapshot, holds: Snapshot
) -> list[Step]:
    """The steps of a packet from this container to `target`, in its order."""
    devices = {one.address: outer_name(one.id) for one in wired}
    local = {f"route {address}/32": (f"dev {device} src {wanted.pool_address}",) for address, device in devices.items()}
    should = should | local
    picked: list[Step] = []

    def add(name: str, what: str, part: Callable[[Snapshot], tuple[str, ...]] | None = None) -> None:
        part = part or (lambda view: view.get(what, ()))
        picked.append(Step(name, what, part(should), part(holds)))

    add("cable", f"route {asked.address}/32")
    if asked.address in devices:
        door = f"netdev chain {devices[asked.address]}"
        # Without the line of the hook, but with where packets for it are handed to.
        add("door", door, lambda view: view.get(door, ())[1:] + _fast(view, asked.address, wanted))
    if asked.vip:
        verdict = f"{asked.vip} : goto {asked.chain}"
        add("service", f"chain {asked.chain}", lambda view: _backends(view, asked.chain, verdict))
    if asked.target:
        add("networks", "sets in-...", lambda view: _shared(view, asked.address, asked.target))
        add("fast path", "fast path", lambda view: _fast(view, asked.target, wanted))
        if not picked[-1].state + picked[-1].kernel:  # not all packets fit through, or the kernel knows no such thing
            picked.pop()
        add("forwarding", "forwarding")
        if asked.target in devices:
            add("route", f"route {asked.target}/32")
        for peer in wanted.overlay.peers if wanted.overlay else ():
            if IPv4Address(asked.target) in IPv4Network(peer.subnet):
                add("route", f"route {peer.subnet}")
                add("device", f"device {DEVICE}")
                add("neighbour", f"neighbour {peer.pool_address}")
                add("fdb", f"fdb {mac(peer.pool_address)}")
        if picked[-1].name == "forwarding":  # the target is nobody's: only the route to nowhere is left
            add("route", f"route {asked.target}/32", lambda view: local.get(f"route {asked.target}/32", ()))
    return picked


def _backends(rules: Snapshot, chain: str, verdict: str) -> tuple[str, ...]:
    """The service's chain, if packets to its address come there."""
    reached = any(verdict in line for line in rules.get("chain services", ()))
    return rules.get(f"chain {chain}", ()) if reached else ()


def _fast(rules: Snapshot, target: str, wanted: Topology) -> tuple[str, ...]:
    """Where packets for an address are handed to: its node, or its device."""
    subnets = [IPv4Network(subnet) for subnet in wanted.doors.ways]
    keys = [target, *(str(net.network_address) for net in subnets if IPv4Address(target) in net)]
    lines = [*rules.get("netdev map ways", ()), *rules.get("netdev map cables", ())]
    return tuple(line for line in lines if line.partition(" : ")[0] in keys and " : " in line)


def _shared(rules: Snapshot, source: str, target: str) -> tuple[str, ...]:
    """The networks ("shop/back") by which packets from one address to another pass."""
    passes = next((line for line in rules.get("map members", ()) if line.startswith(f"{source} : ")), "")
    tests = rules.get(f"chain {passes.rpartition(' ')[2]}", ()) if passes else ()
    sets = [test.split()[2].removeprefix("@") for test in tests if test.startswith("ip daddr @")]
    return tuple(name.removeprefix("in-") for name in sets if target in rules.get(f"set {name}", ()))


# --- the live half ---


def must_be_ours(asked: Question, wanted: Topology) -> None:
    """Raises `Conflict` for an address outside of the pools: whoever may look may not knock at every door in reach."""
    pools = [IPv4Network(pool) for pool in (wanted.container_pool, wanted.vip_pool)]
    for address in filter(None, (asked.vip, asked.target)):
        if not any(IPv4Address(address) in pool for pool in pools):
            raise Conflict(f"{address} is no address of a task or a service", remedy="miniorch services")


def look(node: str, asked: Question, wanted: Topology, wired: Iterable[Endpoint]) -> View:
    """Compare, then probe. Ends inside the container's network namespace: for a process that does nothing else.

    Raises `Conflict` if the container has ended, or an address is not one of the cluster's.
    """
    must_be_ours(asked, wanted)
    seen = links()
    mtu = underlay_mtu(seen, wanted)
    should = wanted.entries(mtu) | wanted_rules(wanted, seen, mtu)
    let, lets = forwarding(wanted)
    compared = steps(asked, wired, wanted, should | let, found(wanted, seen) | listed_rules(seen) | lets)
    try:
        listening = listeners(*(Path(f"/proc/{asked.pid}/net/{table}").read_text() for table in ("tcp", "tcp6")))
        with Path(f"/proc/{asked.pid}/ns/net").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "the container's network cannot be entered")
    except FileNotFoundError:
        raise Conflict("its container has ended", remedy="miniorch ps") from None
    probes = {}
    if asked.name:
        probes["name"] = look_up(wanted.pool_address, asked.name)
    for name, address in (("service", asked.vip), ("address", asked.target)):
        if address:
            probes[name] = knock(address, asked.port) if asked.port else ping(address)
    return View(node, tuple(compared), listening, probes)


def look_up(server: str, name: str) -> Probe:
    """Ask a name server, as a program here would: dig @SERVER NAME."""
    what = f"asked {server} for {name}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.settimeout(PROBE_SECONDS)
        way.connect((server, 53))

        def ask() -> str:
            way.send(bytes(DNSRecord.question(name).pack()))
            reply.append(DNSRecord.parse(way.recv(4096)))
            code = RCODE.get(reply[0].header.rcode)
            return "ok" if code == "NOERROR" else str(code)

        reply: list[DNSRecord] = []
        result, took = _timed(ask)
    return Probe(what, result, took, tuple(str(one.rdata) for one in reply[0].rr) if reply else ())


def knock(address: str, port: int) -> Probe:
    """Open a TCP connection and close it: nc -z ADDRESS PORT."""

    def connect() -> str:
        with socket.create_connection((address, port), PROBE_SECONDS):
            return "ok"

    return Probe(f"connected to {address}:{port}", *_timed(connect))


def ping(address: str) -> Probe:
    """ping -c1 ADDRESS"""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as way:
        way.settimeout(PROBE_SECONDS)
        way.connect((address, 0))

        def echo() -> str:
            way.send(PING)
            kind = way.recv(1500)[20]  # behind the IP header
            return "ok" if kind == 0 else REFUSED_BY.get(kind, f"ICMP {kind}")

        return Probe(f"ping {address}", *_timed(echo))


def _timed(attempt: Callable[[], str]) -> tuple[str, float]:
    began = time.monotonic()
    try:
        result = attempt()
    except ConnectionRefusedError:
        result = "refused"
    except TimeoutError:
        result = f"no answer in {PROBE_SECONDS:g} s"
    except OSError as error:
        result = os.strerror(error.errno).lower() if error.errno else str(error)
    return result, round((time.monotonic() - began) * 1000, 1)


def listeners(*tables: str) -> tuple[str, ...]:
    """Who listens, from /proc/PID/net/tcp and tcp6: "0.0.0.0:5000". Addresses there are little-endian words."""
    found = set()
    for line in (line for table in tables for line in table.splitlines()[1:]):
        local, state = line.split()[1], line.split()[3]
        address, _, port = local.partition(":")
        if state == LISTEN:
            loopback = address.endswith("7F") if len(address) == 8 else address == LOOPBACK_V6
            found.add((int(port, 16), "127.0.0.1" if loopback else "0.0.0.0"))
    return tuple(f"{address}:{port}" for port, address in sorted(found))
