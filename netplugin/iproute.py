"""Running `ip`, `bridge`, `nft` and `iptables`: what the kernel holds, as snapshots, and lines that change it.

The programs are asked for JSON, and told many lines at once (`-batch`): 3,000 entries are one short process. And what
this file runs, anybody can run by hand (docs/network.md). Next file: `netplugin/nft.py`.
"""

import contextlib
import functools
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miniorch.errors import Conflict, MiniorchError
from netplugin import fastpath, verify
from netplugin.overlay import DEVICE, OVERHEAD, PORT, ROUTE_PROTOCOL, Snapshot
from netplugin.topology import LABEL, TABLE, Topology

COMMAND_SECONDS = 10.0
DEFAULT_MTU = 1450
GATES = "MINIORCH"  # chains of iptables with this beginning are ours
CABLE = re.compile(r"mo[0-9a-f]{8}")  # the node's end of a container's cable
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
Link = Mapping[str, Any]


def links() -> list[Link]:
    """All devices with their addresses: ip -json -details address show."""
    return _json("ip", "-details", "address", "show")


def underlay_mtu(seen: Iterable[Link], wanted: Topology) -> int:
    """What fits into a packet of the wire beside VXLAN's headers, in bytes. The wire is where the node's address is; on
    a cluster of one, where the default route points. Raises `Conflict` if no device has the node's address.
    """
    if wanted.overlay is None:
        defaults = {str(route.get("dev")) for route in _json("ip", "route", "show", "default")}
        sizes = [int(link["mtu"]) for link in seen if link.get("ifname") in defaults]
        return min(sizes) - OVERHEAD if sizes else DEFAULT_MTU
    for link in seen:
        if any(one.get("local") == wanted.overlay.address for one in link.get("addr_info", ())):
            return int(link["mtu"]) - OVERHEAD
    raise Conflict(
        f"this node's address {wanted.overlay.address} is on none of its devices: packets to other nodes cannot leave",
        remedy=f"ip address show; ip address add {wanted.overlay.address}/24 dev DEVICE",
    )


def found(wanted: Topology | None, seen: Iterable[Link] | None = None) -> Snapshot:
    """What the kernel holds of ours. With `wanted`, also routes of others in its pools."""
    seen = links() if seen is None else seen
    held = verify.addresses_and_device(seen, LABEL)
    pools = (wanted.container_pool, wanted.vip_pool) if wanted else ()
    ours = _json("ip", "route", "show", "proto", str(ROUTE_PROTOCOL))
    listed = [{**route, "protocol": str(ROUTE_PROTOCOL)} for route in ours]
    for pool in pools:
        listed += _json("ip", "route", "show", "root", pool)
    held |= verify.routes(listed)
    if any(link.get("ifname") == DEVICE for link in seen):
        held |= verify.neighbours(_json("ip", "-4", "neigh", "show", "dev", DEVICE, "nud", "permanent"))
        held |= verify.forwards(_json("bridge", "fdb", "show", "dev", DEVICE))
    return held


def listed_rules(seen: Iterable[Link]) -> Snapshot:
    """Our tables as nft lists them, without the doors of devices that are gone; empty if there are none."""
    listing = ""
    for family in ("ip", "netdev"):
        with contextlib.suppress(MiniorchError):
            listing += command(["nft", "-s", "list", "table", family, TABLE])
    there = {str(link["ifname"]) for link in seen}

    def holds(name: str) -> bool:
        door = name.removeprefix("netdev chain ")
        return door == name or not ours(door) or door in there

    return {name: lines for name, lines in verify.rules(listing).items() if holds(name)}


def wanted_rules(wanted: Topology, seen: Iterable[Link], mtu: int) -> Snapshot:
    """What nft should list. The tables are loaded in a network namespace that vanishes at once, beside devices of the
    same names.
    """
    sizes = {str(link["ifname"]): int(link["mtu"]) for link in seen if ours(link["ifname"])}
    doors = fastpath.ruleset(TABLE, wanted.doors, sizes, sizes.get(DEVICE, mtu), fast=knows_forward())
    make = 'printf "link add %s type veth\\n" "$@" | ip -batch - && nft -f - && nft -s list ruleset'
    return verify.rules(
        command(["unshare", "--net", "sh", "-c", make, "sh", *sorted({*sizes, DEVICE})], wanted.ruleset + doors)
    )


def ours(device: str) -> bool:
    """Whether a device can have a door."""
    return device == DEVICE or CABLE.fullmatch(device) is not None


@functools.cache
def knows_forward() -> bool:
    """Whether this kernel can hand packets from device to device (its module nft_fwd_netdev)."""
    rule = "type filter hook ingress device lo priority 0; fwd ip to 192.0.2.1 device lo"
    return _run(["unshare", "--net", "nft", "-f", "-"], f"table netdev x {{ chain y {{ {rule}; }}; }}").returncode == 0


def gates(wanted: Topology) -> list[tuple[str, ...]]:
    """What lets the pool through whatever Docker or an administrator has closed: a chain of iptables, and a rule.

    An accept in our own table would not help. Chains of our own hold the rules, since a comment at a rule is one more
    look at each packet. Of rules that are put in from the top, the commonest comes last.
    """
    pool, accept = wanted.container_pool, ("-j", "ACCEPT")
    rules: list[tuple[str, ...]] = []
    forward = "DOCKER-USER" if chain("DOCKER-USER") else "FORWARD"
    if forward == "DOCKER-USER" or "-P FORWARD DROP" in chain("FORWARD"):
        ours = f"{GATES}-FORWARD"
        rules += [(ours, "-s", pool, *accept), (ours, "-d", pool, *accept), (forward, "-j", ours)]
    if "-P INPUT DROP" in chain("INPUT"):
        ours = f"{GATES}-INPUT"
        for protocol in ("udp", "tcp"):  # DNS, asked by containers
            rules.append((ours, "-s", pool, "-d", wanted.pool_address, "-p", protocol, "--dport", "53", *accept))
        if wanted.overlay:  # from whom, says our own table
            rules.append((ours, "-p", "udp", "--dport", str(PORT), *accept))
        rules.append(("INPUT", "-j", ours))
    return rules


def has_gate(gate: tuple[str, ...]) -> bool:
    """Whether iptables has a rule."""
    return _run(["iptables", "-w", "5", "-C", *gate], "").returncode == 0


def forwarding(wanted: Topology) -> tuple[Snapshot, Snapshot]:
    """What a packet of a container needs before our own table is asked: as it should be, and as it is."""
    there = {" ".join(gate): has_gate(gate) for gate in gates(wanted)}
    there["ip_forward 1"] = IP_FORWARD.read_text().strip() == "1"
    return {"forwarding": tuple(there)}, {"forwarding": tuple(words for words, held in there.items() if held)}


def chain(name: str) -> list[str]:
    """The lines of `iptables -S NAME`; none if there is no such chain, or no iptables at all."""
    try:
        return command(["iptables", "-w", "5", "-S", name]).splitlines()
    except MiniorchError:
        return []


def batch(todo: verify.Commands) -> str:
    """Run all lines, whatever becomes of each; the first complaint, or nothing."""
    complaints = []
    for program, lines in (("ip", todo.ip), ("bridge", todo.bridge)):
        if lines:
            text = "".join(f"{line}\n" for line in lines)
            complaints += _run([program, "-force", "-batch", "-"], text).stderr.splitlines()
    return complaints[0] if complaints else ""


def command(argv: Sequence[str], text: str = "") -> str:
    """Run a command that must succeed; what it printed."""
    done = _run(argv, text)
    if done.returncode != 0:
        raise MiniorchError(f"{' '.join(argv)} failed: {' '.join(done.stderr.split())}")
    return done.stdout


def _json(program: str, *words: str) -> list[Any]:
    return list(json.loads(command([program, "-json", *words]) or "[]"))


def _run(argv: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        raise MiniorchError(f"the program {argv[0]} is missing", remedy="make setup") from None
    except subprocess.TimeoutExpired:
        raise MiniorchError(f"{' '.join(argv)} did not end within {COMMAND_SECONDS:g} s") from None
