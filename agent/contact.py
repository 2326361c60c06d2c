"""Saying "still here", and knowing since when nobody has heard it.

The leader counts the silences of a node (`miniorch/controllers/liveness.py`), and the node counts its own, for the
tasks that shall not outlive it (`stop_after_seconds`). Both count from the same beat: the node from the moment at which
it sent it, the leader from when it came. So the node's silence is always the longer one, and such a task has been
stopped before the leader lets another one take its place. What is counted here is lost with the agent: one that starts
while its node is cut off counts anew, and hears of its tasks only when it is not.
"""

import random
from dataclasses import dataclass
from typing import Any

from agent.ingress import Ingress
from agent.stock import Stock
from miniorch.client import Transport
from miniorch.clock import Clock

HEARTBEAT_SECONDS = 1.0  # until a server has said how often it wants to hear us
BEAT_TIMEOUT_SECONDS = 3.0  # for who makes the transport: then another server may be the one to ask
EARLIEST = 0.8  # of the time between two: a thousand nodes that start together do not speak together for ever


@dataclass(eq=False)
class Contact:
    """The heartbeats of one node."""

    _transport: Transport
    _node: str
    _ingress: Ingress
    _stock: Stock
    _clock: Clock
    _chance: random.Random

    def __post_init__(self) -> None:
        self._every = HEARTBEAT_SECONDS
        self._answered = self._clock.monotonic()  # when the last one was sent that a server has answered
        self._said_held: dict[int, str] = {}

    def alone_seconds(self) -> float:
        """Since when no server has answered."""
        return self._clock.monotonic() - self._answered

    async def beat(self, trouble: str) -> float:
        """Send one; seconds until the next. Raises what the server answers; `NotFound`: register again."""
        began = self._clock.monotonic()
        self._said_held = held = dict(await self._ingress.ports_in_use())
        ports = {str(port): held[port] for port in sorted(held)}
        body: dict[str, Any] = {"ready": not trouble, "message": trouble, "ports_in_use": ports}
        if (images := self._stock.names) != self._stock.told:
            body["images"] = images
        answer = await self._transport.request("POST", f"/v1/nodes/{self._node}/heartbeat", body)
        self._every = answer.get("next_in_seconds", HEARTBEAT_SECONDS)
        self._answered = began
        self._stock.told = images
        return self.pause(self._clock.monotonic() - began)

    def pause(self, gone_seconds: float) -> float:
        """Until the next, when the one before began so long ago."""
        return max(self._every / 4, self._every * self._chance.uniform(EARLIEST, 1.0) - gone_seconds)

    async def has_news(self) -> bool:
        """Whether a port cannot be published that could before, or can again: that must not wait."""
        return dict(await self._ingress.ports_in_use()) != self._said_held
