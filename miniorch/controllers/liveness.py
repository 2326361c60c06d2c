"""What the server knows of nodes and does not write down: heartbeats, and how far their traffic follows.

The problem: a thousand nodes that each write "still here" every second would keep the store busy with news that nobody
reads. The idea: heartbeats live in the leader's memory, and only a *change* (a node falls silent, or speaks again) is
written. The answer to each tells the agent when to send the next, so that the leader hears a bounded number a second.

Calling a node dead that is alive costs more than a second's delay, so silence is counted with care. A server that
begins to lead has heard nobody and grants a period of grace. And a leader that stood still itself (a paused process, a
busy processor) has heard nobody for that long either: `tick` notices, and that time does not count as theirs.

How long is too long: the beats come every second, a tenth earlier or later. After two and a half of them one was lost
and the next is late: nothing new goes there. After four and a quarter, four in a row were lost: that is a pulled cable,
and in a small cluster it is known within 5 s of it. A network that loses more wants slower beats
(`--heartbeat-seconds`), which stretch all of this.

Who does this for real: swarmkit's dispatcher (5 s, three beats), Kubernetes' leases (10 s, five beats, then 300 s).
"""

from miniorch.clock import Clock

HEARTBEAT_SECONDS = 1.0  # between two beats of a node, in a cluster of up to `HEARD_PER_SECOND` nodes
SLOWEST = 5  # with ten thousand nodes it is so many times that, and no more
HEARD_PER_SECOND = 400
UNREACHABLE_BEATS, DOWN_BEATS = 2.5, 4.25  # silences, in beats
GRACE_BEATS = 3.0  # of a new leader: until the last agent has found it
TICK_SECONDS = 0.25

COMPONENTS = ("agent", "net")  # who on a node directs traffic: HAProxy is the agent's, VIP and DNS are net's


class Liveness:
    """Heartbeats and applied revisions by node."""

    def __init__(self, clock: Clock, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._clock = clock
        self._beat = heartbeat_seconds
        self._ticked = clock.monotonic()
        self._stood_still = 0.0  # how long this server did, in all
        self._since = (self._ticked, 0.0)  # the moment from which silence counts, and `_stood_still` at that
        self._beats: dict[str, tuple[float, float]] = {}
        self._applied: dict[str, dict[str, int]] = {}  # node -> by component

    def every(self, nodes: int) -> float:
        """Seconds between two heartbeats of one of so many nodes."""
        return self._beat * min(max(1.0, nodes / HEARD_PER_SECOND), SLOWEST)

    def grace(self) -> None:
        """Forget everything: whatever came before was not heard by us."""
        self._ticked = self._clock.monotonic()
        self._since = (self._ticked + GRACE_BEATS * self._beat, self._stood_still)
        self._beats.clear()
        self._applied.clear()

    def tick(self) -> None:
        """Called every `TICK_SECONDS` while this server leads; whatever it comes late by, we stood still."""
        self._stood_still += self._late()
        self._ticked = self._clock.monotonic()

    def beat(self, node: str) -> None:
        self._beats[node] = (self._clock.monotonic(), self._stood_still + self._late())

    def silent_for(self, node: str) -> float:
        """Seconds since the node's last heartbeat, or since it could have sent one, in which we listened."""
        since, stood_still = self._beats.get(node, self._since)
        return self._clock.monotonic() - since - (self._stood_still + self._late() - stood_still)

    def _late(self) -> float:
        late = self._clock.monotonic() - self._ticked - TICK_SECONDS
        return late if late > TICK_SECONDS else 0.0

    def applied(self, node: str, component: str, revision: int) -> None:
        """`component` on `node` directs traffic by the endpoints of `revision`."""
        self._applied.setdefault(node, {})[component] = revision

    def applied_revision(self, node: str, *, published: bool) -> int:
        """The revision that a node's traffic to the endpoints of a service follows, which may have published ports."""
        known = self._applied.get(node, {})
        return min(known.get(one, 0) for one in (COMPONENTS if published else COMPONENTS[1:]))
