"""Time and chance as parameters.

A decision that reads the wall clock or rolls a die by itself cannot be replayed. So every part of miniorch that
needs the time takes a `Clock`, every part that needs chance takes a `random.Random`, and every identifier is drawn
from that generator. The simulation hands in a virtual clock and a seed; the processes hand in the
machine's.

Waiting needs nothing of its own: `asyncio.sleep` follows the event loop's time, and the simulation brings its own
event loop.
"""

import random
import time
from typing import Protocol

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing that looks like something else


class Clock(Protocol):
    """What the time is."""

    def now(self) -> float:
        """Seconds since 1970 (wall clock): for people and for records, never for deadlines."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment, never backwards: for deadlines and back-off."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def unseeded() -> random.Random:
    """The machine's chance."""
    return random.Random()


def new_id(chance: random.Random, length: int = 8) -> str:
    """A fresh identifier of `length` characters (5 bits each); the first is a letter, so it is a DNS label."""
    first = chance.choice(ID_ALPHABET[10:])
    return first + "".join(chance.choices(ID_ALPHABET, k=length - 1))
