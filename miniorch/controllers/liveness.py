"""What the server knows of nodes and does not write down: heartbeats, and how far their traffic follows.

The problem: a thousand nodes that each write "still here" every few seconds would keep the store busy with news that
nobody reads. The idea: heartbeats live in the leader's memory, and only a *change* (a node falls silent, or speaks
again) is written. A server that begins to lead knows of no heartbeat, so it grants every node a full period of grace.
"""

from miniorch.clock import Clock

HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 15.0  # three heartbeats, as Swarm's dispatcher counts

COMPONENTS = ("agent", "net")  # who on a node directs traffic: HAProxy is the agent's, VIP and DNS are net's


class Liveness:
    """Heartbeats and applied revisions by node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._beats: dict[str, float] = {}
        self._applied: dict[tuple[str, str], int] = {}

    def grace(self) -> None:
        """Forget everything: whatever came before was not heard by us."""
        self._since = self._clock.monotonic()
        self._beats.clear()
        self._applied.clear()

    def beat(self, node: str) -> None:
        self._beats[node] = self._clock.monotonic()

    def silent_for(self, node: str) -> float:
        """Seconds since the node's last heartbeat, or since this server leads."""
        return self._clock.monotonic() - self._beats.get(node, self._since)

    def applied(self, node: str, component: str, revision: int) -> None:
        """`component` on `node` directs traffic by the endpoints of `revision`."""
        self._applied[node, component] = revision

    def applied_revision(self, node: str) -> int:
        """The endpoints revision that all of a node's traffic follows."""
        return min(self._applied.get((node, component), 0) for component in COMPONENTS)
