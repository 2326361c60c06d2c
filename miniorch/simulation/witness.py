"""Who watches a simulated cluster, and ends the run at the first broken promise.

Whenever time is about to pass, everything that could happen at this moment has happened. If anything has changed by
then, a picture is taken and held against what must be (`invariants.py`). What is seen goes into a log for people and
into a digest, by which two runs can be compared. Next file: `chaos.py`.

What is taken is a picture of what has changed (`parts.py`), and every `WHOLE_SECONDS` one of everything.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from miniorch.simulation.history import History
from miniorch.simulation.invariants import ALWAYS, AT_REST, Picture
from miniorch.simulation.loop import VirtualClock
from miniorch.simulation.machine import Machine
from miniorch.simulation.parts import Parts
from miniorch.simulation.sequence import Step
from miniorch.simulation.store import PARTY, RESTORED, Record, SharedStore
from miniorch.state.store import Put

LAST_EVENTS = 50  # that a failure shows
LINES_KEPT = 20_000  # of the log
WHOLE_SECONDS = 30.0  # virtual ones between two looks at everything
TOLD_SECONDS = 0.5  # and between two pictures for who tells the story
RESTORED_SECONDS = 60.0  # after so long a restored cluster is as it was told to be


class PromiseBroken(AssertionError):
    """An invariant does not hold. The message tells when, what, and the last events before.

    `promises` are the names of what was broken ("process": one ended by itself), `sentences` say how.
    """

    def __init__(self, at: float, promises: Sequence[str], sentences: Sequence[str], log: Sequence[str]) -> None:
        told = "\n".join(log)
        super().__init__(f"at {at:.3f} s: {'; '.join(sentences)}\nwhat happened before:\n{told}")
        self.at = at
        self.promises = tuple(promises)
        self.sentences = tuple(sentences)
        self.log = tuple(log)


class Witness:
    """Sees the store and all machines, as nobody inside can."""

    def __init__(self, clock: VirtualClock, store: SharedStore, machines: Mapping[str, Machine]) -> None:
        self.clock = clock
        self.store = store
        self.machines = machines
        self.looking_on: Callable[[float, Picture], None] = lambda at, world: None  # shown everything now and then
        self.log: list[str] = []
        self.events = 0  # lines that the log ever had
        self.history = History()
        self._seen = (0, 0)  # the store's head and incarnation
        self._stirred: dict[str, None] = {}  # machines on which something has changed since
        for machine in machines.values():
            machine.engine.stirred = lambda name: self._stirred.setdefault(name)
        self._changed_at = 0.0
        self._whole_at = self._told_at = float("-inf")
        self._parts = Parts(machines)
        self._trusted_at = 0.0
        self._incarnation = 0
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of the whole history so far."""
        return self._digest.hexdigest()

    @property
    def trusted(self) -> bool:
        """Whether promises can be asked for. Not while what an older store has made true again is on its way."""
        return self.clock.monotonic() >= self._trusted_at

    def note(self, line: str) -> None:
        self.log.append(f"{self.clock.monotonic():8.3f}  {line}")
        self._digest.update(self.log[-1].encode())
        self.events += 1
        if len(self.log) > LINES_KEPT:
            del self.log[: LINES_KEPT // 2]

    def picture(self) -> Picture:
        """Of everything, to keep."""
        return self._parts.world.kept

    def check(self, world: Picture, promises: Sequence[Callable[[Picture], list[str]]] = ALWAYS) -> None:
        """Raises `PromiseBroken`."""
        told = {promise.__name__: promise(world) for promise in promises}
        self.fail(told | self.history.look(world, self.clock.monotonic(), promises is AT_REST))

    def check_step(self) -> None:
        """Look at what has changed; from time to time, at everything. Raises `PromiseBroken`."""
        at, part = self.clock.monotonic(), self._parts.cut()
        if at >= self._told_at + TOLD_SECONDS:
            self._told_at = at
            self.looking_on(at, part.world)
        if self.trusted:
            self.check(part)
            if at >= self._whole_at + WHOLE_SECONDS:
                self._whole_at = at
                self.check(self.picture())
        else:
            self.history.left_alone.excuse(part)

    def look(self) -> None:
        """Time is about to pass: has anything changed, and is everything as it must be?"""
        seen = (self.store.head, self.store.incarnation)
        if seen == self._seen and not self._stirred:
            return
        self._digest.update(f"{self.clock.monotonic():.6f} {seen} {list(self._stirred)}\n".encode())
        self._seen, self._changed_at = seen, self.clock.monotonic()
        self._parts.stir(self._stirred)
        self._stirred.clear()
        records = self.store.take_records()
        if self.store.incarnation != self._incarnation:
            self._begin_anew()
        else:
            for record in records:
                self._follow(record)
        self.check_step()

    def _follow(self, record: Record) -> None:
        """Keep the objects as they are in the store, and ask whether this might follow what was before."""
        step = Step(record, self._parts.follow(record.operations), self._parts.world, self.clock.monotonic())
        for one in step.of("events"):
            if one.after is not None:
                self.note(f"{one.after.subject}: {one.after.message}")
        self.fail(self.history.wrote(step, self.trusted))

    def _begin_anew(self) -> None:
        """An older store has come back. What is known is worth nothing, and what runs may run twice for a while."""
        self._incarnation = self.store.incarnation
        self._trusted_at = self.clock.monotonic() + RESTORED_SECONDS
        self._whole_at = float("-inf")
        self._parts.begin_anew()
        self.history = History()
        found = [Put(entry.key, entry.value) for entry in self.store.snapshot().entries]
        record = Record(self.store.head, PARTY, RESTORED, found, None, None)
        self.history.wrote(Step(record, self._parts.follow(found), self._parts.world, self.clock.monotonic()))
        self.history.left_alone.excuse(self.picture())

    def fail(self, sentences: Mapping[str, list[str]]) -> None:
        """Sentences by promise. Raises `PromiseBroken` if there is any."""
        promises = [promise for promise, told in sentences.items() if told]
        if promises:
            told = [sentence for promise in promises for sentence in sentences[promise]]
            raise PromiseBroken(self.clock.monotonic(), promises, told, self.log[-LAST_EVENTS:])
