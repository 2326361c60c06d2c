"""Which address a new task gets.

The problem: Docker's own address management hands a freed address to the very next container, while some other
container still has it in its DNS cache: a client of the database talks to a web server. The idea: the agent chooses.
An address that was freed rests for twice the lifetime of a DNS answer, and the search goes round the subnet instead of
starting at the bottom, so even an agent that was just restarted, and remembers nothing, rarely repeats one.

Who does this for real: AWS's VPC CNI lets freed addresses cool down for 30 s. What is in use is never remembered here:
the containers' labels and the tasks' statuses say it. Next file: `agent/health.py`.
"""

import ipaddress
from collections.abc import Collection, Mapping

from miniorch.errors import EngineError

DNS_TTL_SECONDS = 5.0
REST_SECONDS = 2 * DNS_TTL_SECONDS


def choose(subnet: str, taken: Collection[str], freed: Mapping[str, float], last: str, now: float) -> str:
    """The first free address after `last`, round and round; network, gateway and broadcast are never given.

    `freed` says when (on the clock of `now`) an address was given up. If nothing but resting addresses is left, the
    one that has rested longest is given: a stale DNS answer for a moment is better than no task. Raises a temporary
    `EngineError` when all are taken.
    """
    network = ipaddress.IPv4Network(subnet)
    first, count = int(network.network_address) + 2, network.num_addresses - 3  # the one before is the node's own
    start = int(ipaddress.IPv4Address(last)) + 1 - first if last else 0
    start = start if 0 < start <= count else 0
    free = []
    for number in range(start, start + count):
        address = _dotted(first + number % count)
        if address not in taken:
            if now - freed.get(address, now - REST_SECONDS) >= REST_SECONDS:
                return address
            free.append(address)
    if free:
        return min(free, key=lambda address: freed[address])
    raise EngineError(f"all {count} addresses of this node's subnet {subnet} are in use", temporary=True)


def _dotted(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
