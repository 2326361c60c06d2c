"""The control loop: from "something changed" to "one transaction", and around again.

The problem: a controller that acts on events is wrong as soon as one event is lost, doubled or late. The idea: an
event only queues a *key*. When its turn comes, the controller looks at the whole state afresh and says what should be
written: `plan(key, state, now) -> Plan`, a pure function. This loop alone writes, in transactions that compare the
leader's epoch, and every object with the revision at which the plan saw it. Who lost a race plans again.

So a controller may be killed after any step: the next one sees the state and goes on from there. And when nobody knows
whether something was written, because no answer came, the loop ends, and a new term of leadership begins behind it.

Who does this for real: Kubernetes' controllers (kubernetes/community, controllers.md). Where we differ: all controllers
share one worker and one queue, which makes every run repeatable in the simulation. Next files, in the order of a task's
life: `services.py`, `placement.py`, `endpoints.py`.
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from miniorch.clock import Clock, new_id
from miniorch.controllers.cache import Cache
from miniorch.controllers.queue import Key, WorkQueue
from miniorch.errors import Temporary, UnknownOutcome
from miniorch.model import (
    KINDS,
    App,
    Event,
    Node,
    Service,
    Task,
    Volume,
    kind_of,
)
from miniorch.state.records import Write, transactions
from miniorch.state.store import Compare, Store
from miniorch.verdicts import DecisionRecord

log = logging.getLogger("controllers")

WRITES_PER_PLAN = 500  # a plan with more is cut, and its key looked at again at once: others want their turn
LOST_RACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What one look at the state came to: writes that belong together, and when to look again in any case.

    The key then rests, whatever changes meanwhile: so that a look that is dear, or that many hear of, is seldom.
    """

    writes: Sequence[Write] = ()
    again_in_seconds: float | None = None
    rest_seconds: float = 0.0
    others: Sequence[str] = ()  # keys of the same controller that are to be looked at


class Controller(Protocol):
    """One concern. It keeps no state of its own between two plans."""

    name: str

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        """The keys to look at again when `item` has changed, or is gone."""

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        """What should be written for `key`. Pure: the same cache and time give the same plan."""


class Loop:
    """Runs controllers over one store, while this server leads."""

    def __init__(self, store: Store, controllers: Sequence[Controller], clock: Clock, chance: random.Random) -> None:
        self.cache = Cache()
        self._store = store
        self._controllers = {controller.name: controller for controller in controllers}
        self._clock = clock
        self._chance = chance
        self._queue: WorkQueue | None = None  # while we lead

    def wake(self, controller: str, key: str) -> None:
        """Have a key looked at for a reason that is not in the store (a heartbeat that came, a revision applied)."""
        if self._queue is not None:
            self._queue.add((controller, key))

    def changed(self, item: object, gone: bool) -> None:
        """The cache has changed: have everything looked at that depends on `item`."""
        if self._queue is not None:
            for controller in self._controllers.values():
                for key in controller.keys(item, gone):
                    self._queue.add((controller.name, key))

    async def run(self, guard: Compare) -> str:
        """Act for one term of leadership, until cancelled. Returns when it is unknown whether a write was done."""
        await self.cache.reached(guard.modified)
        self._queue = queue = WorkQueue(self._clock, self._chance)
        try:
            for kind in KINDS:
                for item in getattr(self.cache, kind).values():
                    self.changed(item, False)
            while True:
                key = await queue.next()
                try:
                    plan = await self._handle(key, guard)
                except UnknownOutcome as error:
                    return f"whether a write was done is unknown ({error.message})"
                except Temporary as error:
                    log.warning("%s %s: %s; trying again", *key, error.message)
                    queue.failed(key)
                    continue
                except Exception:  # a bug in one plan must not stop the others
                    log.exception("%s %s: plan failed; trying again", *key)
                    queue.failed(key)
                    continue
                queue.succeeded(key)
                for other in plan.others:
                    queue.add((key[0], other))
                done_at = self._clock.monotonic()
                queue.rest(key, done_at + plan.rest_seconds)
                if plan.again_in_seconds is not None:
                    queue.add(key, done_at + plan.again_in_seconds)
        finally:
            self._queue = None

    async def _handle(self, key: Key, guard: Compare) -> Plan:
        controller, name = key
        now = self._clock.now()
        plan = self._controllers[controller].plan(name, self.cache, now)
        if not plan.writes:
            await asyncio.sleep(0)  # a thousand keys without work must not keep others from theirs
            return plan
        revision, made = 0, self.cache.made
        for one in transactions(plan.writes, lambda write: self._event(write, now), guard):
            done = await self._store.txn(one.compares, one.operations)
            if done is None:
                # Somebody was faster. Their change is on its way to the cache and queues this key; this is the belt.
                return Plan(again_in_seconds=LOST_RACE_SECONDS)
            revision = done
            for event in one.events:
                log.info("%s: %s", event.subject, event.message)
        await self.cache.reached(revision, made)
        return plan

    def _event(self, write: Write, now: float) -> Event:
        return event_about(write.item, write.why, now, self._chance)


def event_about(item: object, message: str, now: float, chance: random.Random) -> Event:
    """An event whose id sorts by time."""
    match item:
        case Task():
            subject = f"{item.app}/{item.name}"
        case Service() | Volume():
            subject = item.key
        case DecisionRecord():
            subject = item.service_key
        case App() | Node():
            subject = item.name
        case _:
            subject = ""
    identifier = f"{int(now * 1_000_000):016d}-{new_id(chance, 6)}"  # a server writes several in a millisecond
    return Event(identifier, now, kind_of(type(item)).rstrip("s"), subject, message)
