"""The cluster's addresses: one network, of which one half is for containers and the other for services.

The problem: a network that a machine reaches already is taken from it without a word when containers get the same
addresses. The idea: whoever names a pool (`--pool`) hears of that before anything is started; doctor asks the same.

Next file: `netplugin/overlay.py`, which makes routes of it.
"""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from typing import Any

from miniorch.errors import Conflict, UsageError

DEFAULT_POOL = "10.200.0.0/15"
OUR_PROTOCOL = "109"  # the net process marks its routes with it


def split_pool(pool: str) -> tuple[str, str]:
    """The two halves of a pool: containers, services. Raises `UsageError`."""
    try:
        network = ipaddress.ip_network(pool)
    except ValueError as error:
        raise UsageError(
            f"--pool wants a network such as {DEFAULT_POOL}: {error}", remedy=f"--pool {DEFAULT_POOL}"
        ) from None
    if network.version != 4 or network.prefixlen > 22:
        raise UsageError(f"--pool {pool}: wants an IPv4 network of /22 or larger", remedy=f"--pool {DEFAULT_POOL}")
    containers, services = network.subnets(prefixlen_diff=1)
    return str(containers), str(services)


def clashes(pools: Sequence[str], routes: Sequence[Any]) -> list[str]:
    """Networks in a pool that this machine has a way to, other than ours. `routes` is what `ip -j route` prints."""
    networks = [ipaddress.ip_network(pool) for pool in pools]
    return [
        f"{route['dst']} on {route.get('dev', '?')}"
        for route in routes
        if route["dst"] != "default" and str(route.get("protocol")) != OUR_PROTOCOL
        if any(ipaddress.ip_network(route["dst"], strict=False).overlaps(network) for network in networks)
    ]


def check_pool(pool: str) -> None:
    """Raises `UsageError` for what is no pool, `Conflict` for one of which a part is in use here."""
    halves = split_pool(pool)
    try:
        routes = json.loads(subprocess.run(["ip", "-j", "route"], capture_output=True, check=True).stdout or "[]")
    except (OSError, subprocess.CalledProcessError):
        return  # nothing starts without `ip`, and doctor says so
    if taken := clashes(halves, routes):
        raise Conflict(f"--pool {pool} clashes with {', '.join(taken)}", remedy="name an unused network; ip route")
