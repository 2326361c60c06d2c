"""Which address a new task gets.

The problem: Docker's own address management hands a freed address to the very next container, while some other
container still has it in its DNS cache: a client of the database talks to a web server. The idea: the agent chooses.
An address that was freed rests for twice the lifetime of a DNS answer, and the search goes round the subnet instead of
starting at the bottom, so even an agent that was just restarted, and remembers nothing, rarely repeats one.

Who does this for real: AWS's VPC CNI lets freed addresses cool down for 30 s. What is in use is never remembered here:
the containers' labels and the tasks' statuses say it. Next file: `agent/health.py`.
"""

import functools
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
    hosts = _hosts(subnet)
    start = hosts.index(last) + 1 if last in hosts else 0
    free = [address for address in hosts[start:] + hosts[:start] if address not in taken]
    rested = [address for address in free if now - freed.get(address, now - REST_SECONDS) >= REST_SECONDS]
    if rested:
        return rested[0]
    if free:
        return min(free, key=lambda address: freed[address])
    raise EngineError(f"all {len(hosts)} addresses of this node's subnet {subnet} are in use", temporary=True)


@functools.lru_cache
def _hosts(subnet: str) -> list[str]:
    return [str(host) for host in ipaddress.ip_network(subnet).hosts()][1:]  # [0] is the node's own
