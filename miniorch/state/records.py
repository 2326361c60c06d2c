"""Model objects in the store: one key and one encoding per kind, and a revision beside each object.

The key of an object is `/<kind>/<key>`: `/services/dockchat/web`, `/tasks/k3m9x2ab`. Whoever wants to change an object
says at which revision it was read (`Versioned.modified`); the store refuses if it has moved on since.

The bytes are those of `miniorch/codec.py`; msgspec makes and reads them ten times as fast, and what it does not accept
is read again there, for the message that names the value. An entry keeps its object: what was written by this process
is not read at all, and what another one wrote is read once, however many watch it. Nine tenths of a task are its spec,
which all tasks of a service share: it is written once, and read once, for all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_type_hints

import msgspec
from msgspec.structs import force_setattr

from miniorch.codec import decode
from miniorch.errors import Unsupported, UsageError
from miniorch.model import KINDS, Event, Task, key_of, kind_of
from miniorch.spec import TaskSpec
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.store import Compare, Delete, Entry, Operation, Put, Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """An object as it was at revision `modified`."""

    item: T
    modified: int


_KINDS = {cls: kind for kind, cls in KINDS.items()}
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}


def path_of(item: object) -> str:
    """Where an object stands in the store."""
    return f"/{_KINDS[type(item)]}/{key_of(item)}"


class _Specs:
    """Specs beside their bytes, each once. Who has asked about very many forgets them and begins again."""

    def __init__(self) -> None:
        self._bytes: dict[int, tuple[TaskSpec, msgspec.Raw]] = {}  # by id of the spec, which cannot go away meanwhile
        self._specs: dict[bytes, TaskSpec] = {}

    def written(self, spec: TaskSpec) -> msgspec.Raw:
        known = self._bytes.get(id(spec))
        return known[1] if known else self._keep(spec, _ENCODER.encode(spec))

    def read(self, raw: msgspec.Raw) -> TaskSpec:
        value = bytes(raw)
        spec = self._specs.get(value)
        if spec is None:
            spec = msgspec.json.decode(value, type=TaskSpec)
            self._keep(spec, value)
        return spec

    def _keep(self, spec: TaskSpec, value: bytes) -> msgspec.Raw:
        if len(self._bytes) >= SPECS_KEPT:
            self._bytes.clear()
            self._specs.clear()
        raw = msgspec.Raw(value)
        self._bytes[id(spec)], self._specs[value] = (spec, raw), spec
        return raw


SPECS_KEPT = 10_000
_SPECS = _Specs()
_FIELDS = tuple(field.name for field in fields(Task))
_VALUES = attrgetter(*_FIELDS)
_HINTS = {**get_type_hints(Task), "spec": msgspec.Raw}
# A task on its way to JSON or from it: its spec is in JSON already.
_Form: Any = msgspec.defstruct(
    "_Form",
    [(one.name, _HINTS[one.name], *([] if one.default is MISSING else [one.default])) for one in fields(Task)],
    gc=False,
)
_FORMS = msgspec.json.Decoder(_Form)


def put(item: object) -> Put:
    if type(item) is not Task:
        return Put(path_of(item), _ENCODER.encode(item), 0, item)
    form = _Form(*_VALUES(item))
    form.spec = _SPECS.written(item.spec)
    return Put(f"/tasks/{item.id}", _ENCODER.encode(form), 0, item)


def from_entry(entry: Entry) -> Any:
    """The object in an entry; its kind is the first part of the key. Raises `Unsupported` for what is not ours."""
    if entry.item is None:
        kind = entry.key.split("/", 2)[1]
        try:
            force_setattr(entry, "item", _read(kind, entry.value))
        except (KeyError, UsageError) as error:
            why = error.message if isinstance(error, UsageError) else f"there is no kind {kind}"
            raise Unsupported(
                f"the store holds {entry.key}, which this miniorch cannot read: {why}",
                remedy="the newer miniorch that wrote it; else miniorch restore FILE --force",
            ) from None
    return entry.item


def _read(kind: str, value: bytes) -> Any:
    try:
        if kind != "tasks":
            return _DECODERS[kind].decode(value)
        form = _FORMS.decode(value)
        form.spec = _SPECS.read(form.spec)
        return msgspec.convert(form, Task, from_attributes=True)
    except msgspec.MsgspecError:
        return decode(KINDS[kind], value)


async def read(store: Store, cls: type[T], key: str) -> Versioned[T] | None:
    """One object, or None."""
    entry = await store.get(f"/{kind_of(cls)}/{key}")
    return None if entry is None else Versioned(from_entry(entry), entry.modified)


async def read_all(store: Store, cls: type[T], below: str = "") -> list[Versioned[T]]:
    """All objects of a kind whose key begins with `below`, sorted by key."""
    listing = await store.list(f"/{kind_of(cls)}/{below}")
    return [Versioned(from_entry(entry), entry.modified) for entry in listing.entries]


class Write(msgspec.Struct, frozen=True, gc=False):
    """A wish: `item` shall stand in the store (or be erased), if it is still as it was at revision `modified`.

    `why` is the sentence that goes into the events; empty for what nobody wants to read.
    """

    item: object
    modified: int  # 0: it must not exist yet
    erase: bool = False
    why: str = ""
    since: Versioned[Any] | None = None  # what it follows from and leaves alone: this, too, must be as it was


OPERATIONS_AT_ONCE = TXN_OPERATIONS - 1  # one comparison is the epoch's
BYTES_AT_ONCE = 1_000_000  # it refuses requests above 1.5 MiB


@dataclass(frozen=True, slots=True)
class Transaction:
    """As many writes of a plan as fit into one transaction, with their events."""

    compares: list[Compare]
    operations: list[Operation]
    events: list[Event]


def transactions(writes: Sequence[Write], event_of: Callable[[Write], Event], guard: Compare) -> Iterator[Transaction]:
    """All writes in their order, cut into as few transactions as possible. Each compares `guard`, too."""
    one, count, size = Transaction([guard], [], []), 0, 0
    for write in writes:
        first: Operation = Delete(path_of(write.item)) if write.erase else put(write.item)
        event = event_of(write) if write.why else None
        more = [first] if event is None else [first, put(event)]
        compares = [Compare(first.key, write.modified)]
        if write.since is not None:
            compares.append(Compare(path_of(write.since.item), write.since.modified))
        units, grown = max(len(more), len(compares)), sum([len(each.value) for each in more if type(each) is Put])
        count, size = count + units, size + grown
        if one.operations and (count > OPERATIONS_AT_ONCE or size > BYTES_AT_ONCE):
            yield one
            one, count, size = Transaction([guard], [], []), units, grown
        one.compares.extend(compares)
        one.operations.extend(more)
        if event is not None:
            one.events.append(event)
    yield one


async def commit(store: Store, writes: Sequence[Write], events: Sequence[object] = ()) -> int | None:
    """All writes as one transaction; None if any object has moved on since it was read."""
    compares = [Compare(path_of(write.item), write.modified) for write in writes]
    operations: list[Operation] = [Delete(path_of(write.item)) if write.erase else put(write.item) for write in writes]
    operations.extend(put(event) for event in events)
    return await store.txn(compares, operations)
