"""Running `ip`, `bridge`, `nft` and `iptables`: what the kernel holds, as snapshots, and lines that change it.

The programs are asked for JSON, and told many lines at once (`-batch`): 3,000 entries are one short process. And what
this file runs, anybody can run by hand (docs/network.md). Next file: `netplugin/nft.py`.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from miniorch.errors import Conflict, MiniorchError
from netplugin import verify
from netplugin.overlay import DEVICE, OVERHEAD, ROUTE_PROTOCOL, Snapshot
from netplugin.topology import LABEL, TABLE, Topology

COMMAND_SECONDS = 10.0
DEFAULT_MTU = 1450
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


def listed_rules() -> Snapshot:
    """Our table as nft lists it; empty if there is none."""
    try:
        return verify.rules(command(["nft", "-s", "list", "table", "ip", TABLE]))
    except MiniorchError:
        return {}


def wanted_rules(ruleset: str) -> Snapshot:
    """The same of a table that is not loaded here: nft lists it in a network namespace that vanishes at once."""
    load_and_list = f"nft -f - && nft -s list table ip {TABLE}"
    return verify.rules(command(["unshare", "--net", "sh", "-c", load_and_list], ruleset))


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
