"""Transactions on their way to an etcd: as bytes, and many in one request.

The problem: etcd confirms a request when it is on the disks of most members, which takes as long for one transaction as
for fifty, and each request costs the client and etcd far more than what is in it. The idea is group commit: what waits
travels together, as the nested transactions of one outer transaction that compares nothing. etcd decides all compares
before it does anything, so only transactions may share a request of which none writes what another reads or writes;
then they come out as if they had been done one after the other. All of them get the same revision.

A request is put together by hand: a message is its fields, and a field is a number, a length and bytes. The messages of
`etcd3` are plain Python, too, and cost ten times as much as everything else here.

Who does this for real: every database since the 1980s, for its log; etcd itself, for its disk. Where we differ: it is
the client that groups, because only the client knows its transactions before they are sent. Next file:
`miniorch/state/etcd.py`.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from miniorch.errors import NotFound, UsageError
from miniorch.state.limits import TXN_BYTES, TXN_OPERATIONS
from miniorch.state.store import Compare, Operation, Put

GATHER_SECONDS = 0.05  # a request that takes longer does not keep the next one back
OPEN_GROUPS = 8  # a transaction is offered to so many of the last groups: all of them would take time squared


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """One transaction and who waits for its answer."""

    request: bytes  # a TxnRequest
    size: int  # etcd counts the longest of its lists
    reads: frozenset[str]
    writes: frozenset[str]
    done: asyncio.Future[int | None]


@dataclass(slots=True)
class Group:
    """Transactions that may share a request: disjoint, and together within the limits of an etcd.

    etcd allows 128 operations in the outer transaction, and in each inner one what the outer has left of that.
    """

    members: list[Waiting] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    size: int = 0
    length: int = 0

    def takes(self, one: Waiting) -> bool:
        """Add a transaction if it fits."""
        size, room = max(self.size, one.size), self.length + len(one.request)
        if self.members and not (
            len(self.members) + 1 + size <= TXN_OPERATIONS
            and room <= TXN_BYTES  # less than the 1.5 MiB of an etcd: an inner transaction has a head, too
            and self.writes.isdisjoint(one.writes)
            and self.writes.isdisjoint(one.reads)
            and self.reads.isdisjoint(one.writes)
        ):
            return False
        self.members.append(one)
        self.reads |= one.reads
        self.writes |= one.writes
        self.size, self.length = size, room
        return True

    def request(self) -> bytes:
        """A TxnRequest; that of the only member, if it is the only one."""
        if len(self.members) == 1:
            return self.members[0].request
        return b"".join([_message(2, _message(4, one.request)) for one in self.members])

    def answers(self, response: bytes) -> list[int | None]:
        """What the TxnResponse says of each member: the etcd's revision, or None if a compare did not hold."""
        outer = _fields(response)
        revision = _fields(outer.pieces[1][0]).numbers[3]
        single = len(self.members) == 1
        held = [2 in outer.numbers] if single else map(_inner_held, outer.pieces[3])
        return [revision if all_held else None for all_held in held]

    def fail(self, error: Exception) -> None:
        for one in self.members:
            if not one.done.done():
                one.done.set_exception(error)


def grouped(waiting: Iterable[Waiting]) -> list[Group]:
    """All of them in as few groups as can be seen at a glance."""
    groups: list[Group] = []
    for one in waiting:
        if not any(group.takes(one) for group in groups[-OPEN_GROUPS:]):
            groups.append(Group())
            groups[-1].takes(one)
    return groups


class GroupCommit:
    """Sends transactions by `ask`, which takes a TxnRequest to the etcd and brings its TxnResponse."""

    def __init__(self, root: bytes, origin: int, ask: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._root, self._origin, self._ask = root, origin, ask
        self._waiting: list[Waiting] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        """See `Store.txn`."""
        one = Waiting(
            encoded(self._root, self._origin, compares, operations),
            max(len(compares), len(operations)),
            frozenset([compare.key for compare in compares]),
            frozenset([operation.key for operation in operations]),
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(one)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="etcd transactions")
        return await one.done

    async def _send(self) -> None:
        """While transactions are under way, others gather."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            calls = [asyncio.create_task(self._commit(group)) for group in grouped(waiting)]
            self._under_way.update(calls)
            for call in calls:
                call.add_done_callback(self._under_way.discard)
            await asyncio.wait(calls, timeout=GATHER_SECONDS)
            await asyncio.sleep(0)  # who has got an answer writes again

    async def _commit(self, group: Group) -> None:
        try:
            answers = group.answers(await self._ask(group.request()))
        except (UsageError, NotFound) as error:  # refused as a whole, because of one: the end of its lease, a limit
            if len(group.members) == 1:
                group.fail(error)
            else:
                await asyncio.gather(*(self._commit(Group([one])) for one in group.members))
        except Exception as error:  # of whatever kind: nobody waits for ever
            group.fail(error)
        else:
            for one, revision in zip(group.members, answers, strict=True):
                if not one.done.done():  # else its caller has given up waiting
                    one.done.set_result(None if revision is None else revision - self._origin)


def encoded(root: bytes, origin: int, compares: Sequence[Compare], operations: Sequence[Operation]) -> bytes:
    """A TxnRequest (etcd's rpc.proto) for keys below `root` and revisions after `origin`."""
    parts: list[bytes] = []
    for compare in compares:  # `result` is EQUAL, which is 0 and not sent; `target` is MOD
        modified = b"\x30" + _number(compare.modified + origin) if compare.modified else b"\x30\0"
        parts.append(_message(1, b"\x10\x02" + _message(3, root + compare.key.encode()) + modified))
    for operation in operations:
        key = _message(1, root + operation.key.encode())
        if isinstance(operation, Put):
            lease = b"\x18" + _number(operation.lease) if operation.lease else b""
            parts.append(_message(2, _message(2, key + _message(2, operation.value) + lease)))
        else:
            parts.append(_message(2, _message(3, key)))
    return b"".join(parts)


def _message(number: int, value: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return b"%c%b%b" % (number << 3 | 2, _number(len(value)), value)


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    if value < 0x80:
        return b"%c" % value
    if value < 0x4000:
        return b"%c%c" % (value & 0x7F | 0x80, value >> 7)
    return b"%c%b" % (value & 0x7F | 0x80, _number(value >> 7))


@functools.lru_cache(64)  # in a group, most are alike
def _inner_held(operation: bytes) -> bool:
    """Whether the compares of an inner transaction held, by its ResponseOp. What is false is not sent."""
    return 2 in _fields(_fields(operation).pieces[4][0]).numbers


@dataclass(frozen=True, slots=True)
class _Fields:
    """What a message holds, by number."""

    numbers: dict[int, int]
    pieces: dict[int, list[bytes]]


def _fields(message: bytes) -> _Fields:
    found = _Fields({}, {})
    at = 0
    while at < len(message):
        tag, at = _number_at(message, at)
        value, at = _number_at(message, at)
        if tag & 7 == 0:
            found.numbers[tag >> 3] = value
        else:
            found.pieces.setdefault(tag >> 3, []).append(message[at : at + value])
            at += value
    return found


def _number_at(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
