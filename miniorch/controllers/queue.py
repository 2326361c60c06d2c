"""A queue of keys with five promises.

1. A key that is added many times before it is handled is handled once: the queue is never longer than there are keys.
2. A key is never handled twice at the same time: there is one worker, and an addition meanwhile waits for its end. 3. A
key that failed comes back later and later, up to a limit, and two of them not together. 4. A key can be put off. 5. A
key that rests is not handled before the end of its rest, however often it is added.

Who does this for real: client-go's workqueue. Where we differ: time and chance are parameters, for the simulation.
"""

import asyncio
import contextlib
import heapq
import random

from miniorch.clock import Clock

RETRY_FIRST_SECONDS = 0.05
RETRY_LIMIT_SECONDS = 10.0
JITTER = 0.25  # a retry comes by up to this share earlier

Key = tuple[str, str]  # (controller, key)


class WorkQueue:
    """Keys that wait to be handled, in the order in which they became due."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._due: dict[Key, float] = {}  # every waiting key, with the moment from which it may be handled
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self._failures: dict[Key, int] = {}
        self._rests: dict[Key, float] = {}  # until when
        self._woken = asyncio.Event()

    def add(self, key: Key, at: float | None = None) -> None:
        """Handle `key` now, or from moment `at` (monotonic seconds). The earlier wish wins."""
        due = max(self._clock.monotonic() if at is None else at, self._rests.get(key, 0.0))
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        if len(self._heap) > 2 * len(self._due) + 64:  # most of it is overtaken
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        self._woken.set()

    def failed(self, key: Key) -> None:
        """Handle `key` again after a back-off that about doubles with each failure in a row."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(RETRY_FIRST_SECONDS * 2 ** (count - 1), RETRY_LIMIT_SECONDS)
        self.add(key, self._clock.monotonic() + delay * self._chance.uniform(1 - JITTER, 1.0))

    def rest(self, key: Key, until: float) -> None:
        """Do not handle `key` before a moment."""
        self._rests.pop(key, None)
        if until > self._clock.monotonic():
            self._rests[key] = until
            if key in self._due:
                due = max(self._due.pop(key), until)
                self.add(key, due)

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)

    def pop(self) -> Key | None:
        """The next key that is due, or None."""
        while self._heap:
            due, _, key = self._heap[0]
            overtaken = self._due.get(key) != due  # by an earlier addition of the same key
            if not overtaken and due > self._clock.monotonic():
                return None
            heapq.heappop(self._heap)
            if not overtaken:
                del self._due[key]
                return key
        return None

    async def next(self) -> Key:
        """The next key that is due; waits for one."""
        while True:
            key = self.pop()
            if key is not None:
                return key
            wait = self._heap[0][0] - self._clock.monotonic() if self._heap else None
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):  # not wait_for: Python 3.11's can swallow a cancellation
                    await self._woken.wait()
