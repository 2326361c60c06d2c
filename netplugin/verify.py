"""The state beside the kernel: what is missing, what is wrong, what is too much.

The problem: an overlay fails silently. One stale forwarding entry sends a service's packets to the wrong machine, and
every list that the orchestrator prints looks fine. The idea: describe what the kernel shall hold and what it does hold
in the same words, those of `ip`, `bridge` and `nft`, and compare. The same comparison serves twice: the net process
turns each difference into a command (so that applying what is there already does nothing, also with 1,000 nodes), and
`miniorch net verify` shows it.

Who does this for real: Docker had a script to compare FDB entries with Swarm's state, after users had lost weeks;
Cilium and Calico have `status` commands. Where we differ: rules are compared, too. nft itself brings the wanted ones
into the form in which it lists them, in a network namespace that vanishes at once (`netplugin/kernel.py`).

Everything here is pure: snapshots in, differences out.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netplugin.overlay import DEVICE, ROUTE_PROTOCOL, Snapshot


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be. `found` and `wanted` name what only one side has."""

    what: str
    found: tuple[str, ...]
    wanted: tuple[str, ...]

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.what}: is {_listed(self.found)}; should be {_listed(self.wanted)}"


def _listed(lines: tuple[str, ...]) -> str:
    return " | ".join(lines) or "absent"


def compare(wanted: Snapshot, found: Snapshot) -> list[Difference]:
    """Every difference, in the order of their names."""
    differences = []
    for what in sorted(wanted.keys() | found.keys()):
        should, does = wanted.get(what, ()), found.get(what, ())
        if should == does:
            continue
        only = (tuple(one for one in does if one not in should), tuple(one for one in should if one not in does))
        differences.append(Difference(what, *(only if any(only) else (does, should))))  # else: another order
    return differences


# --- what a difference costs to mend ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for `ip -batch` and `bridge -batch`. Rules are not among them: they are replaced as a whole."""

    ip: tuple[str, ...]
    bridge: tuple[str, ...]


def commands(differences: Iterable[Difference]) -> Commands:
    """What makes the kernel as it should be. First the device, then what needs it: the order of the words here."""
    ip: dict[str, list[str]] = {kind: [] for kind in ("device", "address", "neighbour", "route")}
    bridge = []
    for one in differences:
        kind, _, name = one.what.partition(" ")
        match kind:
            case "device":
                ip[kind] += _device(one)
            case "address":
                ip[kind] += [f"address del {name} dev lo" for _ in one.found if not one.wanted]
                ip[kind] += [f"address replace {name} {how}" for how in one.wanted]
            case "neighbour":
                ip[kind] += [f"neigh del {name} dev {DEVICE}" for _ in one.found if not one.wanted]
                ip[kind] += [f"neigh replace {name} {how} dev {DEVICE} nud permanent" for how in one.wanted]
            case "route":
                ip[kind] += [f"route del {_route(name, how)}" for how in one.found if not foreign(how)]
                ip[kind] += [f"route replace {_route(name, how)}" for how in one.wanted]
            case "fdb":
                bridge += [f"fdb del {name} dev {DEVICE} {how} self" for how in one.found]
                bridge += [f"fdb append {name} dev {DEVICE} {how} self permanent" for how in one.wanted]
    return Commands(tuple(line for lines in ip.values() for line in lines), tuple(bridge))


def _device(one: Difference) -> list[str]:
    """A device whose MTU alone is another is kept; with it would go all that hangs on it."""
    if not one.wanted:
        return [f"link del {DEVICE}"]
    shape, mtu = one.wanted[0].split(" mtu ")
    if one.found and one.found[0].partition(" mtu ")[0] == shape:
        return [f"link set {DEVICE} mtu {mtu}"]
    kind, address = shape.split(" address ")
    size = mtu.partition(" ")[0]
    made = f"link add {DEVICE} address {address} mtu {size} type vxlan {kind}"
    return [*(f"link del {DEVICE}" for _ in one.found), made, f"link set {DEVICE} up"]


def _route(name: str, how: str) -> str:
    words = f"unreachable {name}" if how == "unreachable" else f"{name} {how}"
    return f"{words} proto {ROUTE_PROTOCOL}"


def foreign(how: str) -> bool:
    """A route of another program's in our pools. It is shown, and left alone."""
    return " proto " in f" {how} "


# --- what was found --------------------------------------------------------------------------------------------------


def addresses_and_device(links: Iterable[Mapping[str, Any]], label: str) -> Snapshot:
    """From `ip -json -details address show`: our addresses on lo, and the VXLAN device."""
    found: Snapshot = {}
    for link in links:
        if link.get("ifname") == DEVICE:
            data = link.get("linkinfo", {}).get("info_data", {})
            learning = "learning" if data.get("learning", True) else "nolearning"
            state = "up" if "UP" in link.get("flags", ()) else "down"
            shape = f"id {data.get('id')} local {data.get('local')} dstport {data.get('port')} {learning}"
            found[f"device {DEVICE}"] = (f"{shape} address {link.get('address')} mtu {link.get('mtu')} {state}",)
        for one in link.get("addr_info", ()):
            if one.get("label") == label:
                scope = "" if one["scope"] == "global" else f" scope {one['scope']}"
                found[f"address {one['local']}/{one['prefixlen']}"] = (f"dev lo{scope} label {label}",)
    return found


def routes(listed: Iterable[Mapping[str, Any]]) -> Snapshot:
    """From `ip -json route show`: ours, and those of others that lie in our pools."""
    found: Snapshot = {}
    for route in listed:
        name = route["dst"] if "/" in route["dst"] else f"{route['dst']}/32"
        words = [route["type"]] if route.get("type", "unicast") != "unicast" else []
        words += [f"via {route['gateway']}"] if "gateway" in route else []
        words += [f"dev {route['dev']}"] if "dev" in route and route.get("type") != "unreachable" else []
        words += ["onlink"] if "onlink" in route.get("flags", ()) else []
        words += [f"src {route['prefsrc']}"] if "prefsrc" in route else []
        protocol = route.get("protocol", "boot")
        words += [f"proto {protocol}"] if protocol != str(ROUTE_PROTOCOL) else []
        found[f"route {name}"] = tuple(sorted({*found.get(f"route {name}", ()), " ".join(words)}))
    return found


def neighbours(listed: Iterable[Mapping[str, Any]]) -> Snapshot:
    """From `ip -4 -json neigh show dev mo-vxlan nud permanent`."""
    return {f"neighbour {one['dst']}": (f"lladdr {one.get('lladdr')}",) for one in listed}


def forwards(listed: Iterable[Mapping[str, Any]]) -> Snapshot:
    """From `bridge -json fdb show dev mo-vxlan`. A MAC may lead to several machines; it should not."""
    found: Snapshot = {}
    for one in listed:
        what = f"fdb {one['mac']}"
        found[what] = tuple(sorted({*found.get(what, ()), f"dst {one.get('dst')}"}))
    return found


def rules(listing: str) -> Snapshot:
    """From `nft list table`, of one or more: chains with their rules in order, sets with their elements sorted. What
    stands in a table of the family `netdev` has that word before its name.
    """
    found: Snapshot = {}
    for family, table in re.findall(r"^table (\w+) \S+ \{\n(.*?)^\}", listing, re.M | re.S):
        before = "netdev " if family == "netdev" else ""
        for kind, name, body in re.findall(r"^\t(chain|set|map) (\S+) \{\n(.*?)^\t\}", table, re.M | re.S):
            elements = re.search(r"elements = \{(.*?)\}", body, re.S) if kind != "chain" else None
            lines = [line.strip() for line in (body.replace(elements[0], "") if elements else body).splitlines()]
            members = sorted(" ".join(one.split()) for one in elements[1].split(",")) if elements else []
            found[f"{before}{kind} {name}"] = tuple([line for line in lines if line] + members)
    return found
