"""The store of a simulated cluster, and one connection to it for each server.

The problem: a store that answers "yes" or "no" is the easy half. A real one is silent for seconds, changes its own
leader in the middle of a transaction, forgets what a watch still wanted to know, or comes back from a backup, and who
asked does not know whether it was done. The idea: one `MemoryStore` that all servers share, and a `SimStore` per server
that stands where `EtcdStore` stands and keeps its promises: it carries each request over the wire, gives up after a
deadline with the error that is honest then, and resumes a watch where it was.

The store remembers who wrote what and who led at that moment (`Record`). No product code can be asked that question.

Who does this for real: Maelstrom's services, madsim's etcd. Next file: `miniorch/simulation/machine.py`.
"""

import asyncio
import contextvars
import functools
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from miniorch.errors import Compacted, Temporary, UnknownOutcome, Unreachable
from miniorch.simulation.loop import PART, VirtualLoop, begin, on_behalf_of, ring
from miniorch.simulation.network import Wire
from miniorch.state.leases import Leases
from miniorch.state.memory import MemoryStore
from miniorch.state.store import Change, Compare, Entry, Listing, Operation
from miniorch.state.watchers import Batch, History, Watchers

T = TypeVar("T")
PARTY = "store"
LEADER, RESTORED = "/leaders/leader", "restored"
DEADLINE_SECONDS = 5.0
LATE_SECONDS = 3.0
WRITER: contextvars.ContextVar[tuple[str, str, Entry | None]] = contextvars.ContextVar("writer")


@dataclass(frozen=True, slots=True)
class StoreWeather:
    """How the store is. Rates are shares of requests; a request that is unknown was done, or not, or will be."""

    delay_seconds: tuple[float, float] = (0.0, 0.01)
    unreachable: float = 0.0
    unknown: float = 0.0  # of what writes


FINE = StoreWeather()
ROUGH = StoreWeather((0.0, 0.3), unreachable=0.2, unknown=0.05)


@dataclass(frozen=True, slots=True)
class Record:
    """One transaction. `part`: "api", "loops", "lease" if the store itself did it, RESTORED if it holds this again."""

    revision: int
    writer: str
    part: str
    operations: Sequence[Operation]
    leader_when_sent: Entry | None
    leader: Entry | None


class SharedStore(MemoryStore):
    """What really stands in the store. Faults that all servers feel are methods."""

    def __init__(self, chance: random.Random, wire: Wire) -> None:
        super().__init__()
        self.chance = chance
        self.wire = wire
        self.weather = FINE
        self.incarnation = 0  # grows when an older state comes back
        self.full = False  # no space left
        self.listeners: dict[Watchers, None] = {}
        self._records: list[Record] = []
        self._awake = asyncio.Event()
        self._awake.set()
        self._waiting: dict[asyncio.Future[bool], None] = {}  # for an answer, over a connection that may break
        self._kept: tuple[dict[str, Entry], int, list[tuple[int, float, list[str]]]] | None = None  # leases last

    # Faults

    def freeze(self) -> None:
        """Silent from now on; what it was doing stands still."""
        self._awake.clear()
        _loop().freeze(PARTY)

    def thaw(self) -> None:
        _loop().thaw(PARTY)
        self._awake.set()

    def change_leader(self) -> None:
        """All connections break off, whatever they were waiting for."""
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(False)

    def compact_now(self) -> None:
        """Nobody can watch the past any more."""
        self._history.forget(self.head)

    def keep(self) -> None:
        """Take the snapshot that `restore` brings back."""
        held = [(number, one.seconds, sorted(one.keys)) for number, one in self._leases._leases.items()]
        self._kept = dict(self._now), self.head, held

    def restore(self) -> None:
        """As at the last `keep`: the revision is lower than before, and all that was written since is gone."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        now, revision, leases = kept
        self._leases.close()
        self._leases = Leases(self._end)
        for number, seconds, keys in leases:
            on_behalf_of(PARTY).run(self._grant_again, number, seconds, keys)
        self._now, self._sorted, self._history = now, sorted(now), History(revision)
        self.incarnation += 1
        for listener in self.listeners:
            listener.ring()

    def _grant_again(self, number: int, seconds: float, keys: list[str]) -> None:
        self._leases.add(number, seconds)
        for key in keys:
            self._leases.attach(key, number)

    # What connections and witnesses need

    @property
    def head(self) -> int:
        return self._history.head

    def take_records(self) -> list[Record]:
        """What has been written since the last call."""
        taken, self._records = self._records, []
        return taken

    def do(self, work: Coroutine[Any, Any, T], writer: tuple[str, str, Entry | None]) -> asyncio.Task[T]:
        """A request that has arrived: it is done whether or not anybody waits for the answer."""
        context = on_behalf_of(PARTY)
        context.run(WRITER.set, writer)
        return begin(work, context)

    async def answered(self, task: asyncio.Task[Any]) -> bool:
        """Wait for the end of a request; False if the connection breaks off before."""
        answer = ring(task)
        self._waiting[answer] = None
        try:
            return await answer
        finally:
            del self._waiting[answer]

    async def changes(self, incarnation: int, prefix: str, after: int) -> Batch:
        await self._awake.wait()
        if incarnation != self.incarnation:
            raise Compacted("the store has been restored: what was seen before may never have happened")
        return await self._read(prefix, after)

    def leader(self) -> Entry | None:
        return self._now.get(LEADER)

    def chance_of(self, rate: float) -> bool:
        return rate > 0 and self.chance.random() < rate

    def _write(self, operations: Sequence[Operation]) -> int:
        writer, part, leader_when_sent = WRITER.get((PARTY, "lease", None))
        leader, before = self.leader(), self.head
        revision = super()._write(operations)
        if revision != before:
            self._records.append(Record(revision, writer, part, operations, leader_when_sent, leader))
            for listener in self.listeners:
                listener.publish(revision, sorted(operation.key for operation in operations))
        return revision

    def _end(self, lease: int) -> None:
        """The store itself deletes what was put with a lease, whoever's it was."""
        context = on_behalf_of(PARTY)
        context.run(WRITER.set, (PARTY, "lease", None))
        context.run(super()._end, lease)

    async def close(self) -> None:
        await super().close()
        for listener in self.listeners:
            listener.close()

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.uniform(*self.weather.delay_seconds))


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


class SimStore:
    """A `Store`: one server's connection to the shared one."""

    def __init__(self, shared: SharedStore, server: str) -> None:
        self._shared = shared
        self._server = server

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._shared.get(key))

    async def list(self, prefix: str) -> Listing:
        return await self._call(lambda: self._shared.list(prefix))

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        if self._shared.full:
            raise Temporary("the store has no space left")
        return await self._call(lambda: self._shared.txn(compares, operations), writes=True)

    async def grant(self, seconds: float) -> int:
        return await self._call(lambda: self._shared.grant(seconds))

    async def keep_alive(self, lease: int) -> None:
        await self._call(lambda: self._shared.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self._shared.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._call(lambda: self._shared.compact(revision))

    async def revision(self) -> int:
        return await self._call(self._shared.revision)

    async def close(self) -> None:
        """The shared store lives on."""

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        watchers = Watchers(functools.partial(self._read, self._shared.incarnation))
        self._shared.listeners[watchers] = None
        try:
            async for batch in watchers.watch(prefix, after):
                yield batch
        finally:
            self._shared.listeners.pop(watchers, None)

    async def _read(self, incarnation: int, prefix: str, after: int) -> Batch:
        await self._travel(PARTY, self._server)
        return await self._shared.changes(incarnation, prefix, after)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, T]], writes: bool = False) -> T:
        """One request and its answer. Raises `Unreachable`, and for what writes `UnknownOutcome`."""
        shared, arrived = self._shared, False
        writer = (self._server, PART.get(""), shared.leader())
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._travel(self._server, PARTY)
                if shared.chance_of(shared.weather.unreachable):
                    raise Unreachable("the store does not answer")
                arrived = True
                if writes and shared.chance_of(shared.weather.unknown):
                    if shared.chance_of(0.7):
                        shared.do(self._later(work), writer)
                    raise self._lost()
                task = shared.do(work(), writer)
                if not await shared.answered(task):
                    raise self._lost() if writes else Unreachable("the connection to the store broke off")
                await self._travel(PARTY, self._server)
                return task.result()
        except TimeoutError:
            raise self._lost() if writes and arrived else Unreachable("the store does not answer") from None

    async def _later(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await asyncio.sleep(self._shared.chance.uniform(0.0, LATE_SECONDS))
        return await work()

    async def _travel(self, source: str, target: str) -> None:
        if not self._shared.wire.may_pass(source, target):
            await self._shared.wire.travel(source, target)

    @staticmethod
    def _lost() -> UnknownOutcome:
        return UnknownOutcome("the store did not say whether it was done")
