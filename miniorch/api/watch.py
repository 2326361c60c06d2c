"""Watches: one look at each change for all who want to hear of it.

The problem: with a thousand nodes, each of which watches its own tasks, a thousand streams would read, filter and
encode each change of a task, and 999 of them for nothing. The idea: a `Fanout` follows a kind in the store, once for
the whole server. It turns each change into the bytes of its line and hands them to those who want them; they are
indexed by what they select (app, node), so that a task of node5 is no concern of the others' watches. Who begins at an
older revision, or reads too slowly and has a full buffer, is *behind*: it reads from the store's history, a batch at a
time, until it has caught up with the fan-out, and then joins it. So memory is bounded, and nobody misses anything or
hears of it twice.

Each line carries the revision from which to go on after a break: one up to which everything has been told. Many changes
may share a revision, and a break in the midst of them must not lose the others; so only the last of them carries it.

A line without a change is a ping: it tells the reader that the server lives, so that silence means that it does not. A
ping also says when the server itself hears nothing from its store: the stream stays open, and whoever knows another
server may go there.

Who does this for real: the watch cache of Kubernetes' API server; etcd's synced and unsynced watchers. Next file:
`miniorch/api/scope.py`.
"""

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from miniorch.client import PING_SECONDS
from miniorch.codec import Json
from miniorch.model import Event
from miniorch.state.records import from_entry
from miniorch.state.store import Change, Entry, Store

BUFFERED_BYTES = 256 * 1024  # of lines that a reader has not taken; beyond, it is behind

Selection = tuple[str | None, str | None]  # app, node; None: whatever it is


def owner_of(item: object) -> Selection:
    """The app and the node of an object, as far as it has one. An event's are in its subject."""
    if isinstance(item, Event):
        first = item.subject.partition("/")[0]
        return (None, first) if item.kind == "node" else (first, None)
    return getattr(item, "app", None), getattr(item, "node", None)


def selects(selection: Selection, item: object) -> bool:
    """Whether an object passes the filters of a list or watch."""
    app, node = owner_of(item)
    return selection[0] in (None, app) and selection[1] in (None, node)


def selection_of(query: Mapping[str, str]) -> Selection:
    return query.get("app"), query.get("node")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a watch wants to hear of. `further` is asked about what `selection` lets through; a change is not told if
    `alike` says so of the object as it was and as it is.
    """

    selection: Selection = (None, None)
    further: Callable[[object], bool] | None = None
    alike: Callable[[object, object], bool] | None = None

    def __call__(self, item: object) -> bool:
        return selects(self.selection, item) and (self.further is None or self.further(item))


class Watch:
    """One reader's lines."""

    def __init__(self, fanout: "Fanout", wish: Wish, after: int) -> None:
        self.wish = wish
        self.after = after  # everything up to this revision has been told, or stands in `_lines`
        self.behind = after < fanout.revision
        self._fanout = fanout
        self._lines = [Json(b'{"revision":%d}\n' % after)]  # at once, so that the client knows that it is connected
        self._bytes = 0
        self._over = False
        self._error: Exception | None = None
        self._replaying: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._told_at = self._loop.time()
        self._pinging = self._loop.call_later(PING_SECONDS, self._ping)

    async def take(self) -> Sequence[Json]:
        """All lines that are there, at least one; none when the store was closed. Raises what ended the watch."""
        while not self._lines:
            if self._error is not None:
                raise self._error
            if self._over:
                return ()
            if self.behind and self._replaying is None:
                self._replaying = asyncio.create_task(self._replay(), name="replay")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        lines, self._lines, self._bytes = self._lines, [], 0
        return lines

    def tell(self, lines: Sequence[Json], revision: int) -> None:
        """All that is to be told of a revision."""
        self._lines.extend(lines)
        self._bytes += sum(map(len, lines))
        self._told_at = self._loop.time()
        self.after = revision
        if self._bytes > BUFFERED_BYTES:
            self.behind = True
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """There is nothing more to come than what has been told."""
        self._over, self._error = True, error
        self._wake()

    def close(self) -> None:
        """The reader has gone. Must be called."""
        self._pinging.cancel()
        if self._replaying is not None:
            self._replaying.cancel()
        self._fanout.leave(self)
        self.end()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _replay(self) -> None:
        """One batch of the past."""
        try:
            self.behind = not await self._fanout.replay(self)
        except Exception as error:
            self.end(error)
        finally:
            self._replaying = None
            self._wake()

    def _ping(self) -> None:
        """One timer for many lines."""
        if self._told_at + PING_SECONDS <= self._loop.time():
            if not self._lines:
                self.after = self.after if self.behind else max(self.after, self._fanout.revision)
                silent = b',"store":"silent"' if self._fanout.silent() else b""
                self._lines.append(Json(b'{"revision":%d%b}\n' % (self.after, silent)))
            self._told_at = self._loop.time()
            self._wake()
        self._pinging = self._loop.call_at(self._told_at + PING_SECONDS, self._ping)


@dataclass(eq=False)
class Fanout:
    """All watches of one kind. It follows the store as long as there is any."""

    _store: Store
    _kind: str
    revision: int  # everything up to this one has been handed over
    silent: Callable[[], bool]
    _watches: dict[Selection, dict[Wish, dict[Watch, None]]] = field(default_factory=dict)  # in order of beginning
    _following: asyncio.Task[None] | None = None

    def watch(self, wish: Wish, after: int) -> Watch:
        watch = Watch(self, wish, after)
        self._watches.setdefault(wish.selection, {}).setdefault(wish, {})[watch] = None
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name=f"watch of {self._kind}")
        return watch

    @property
    def over(self) -> bool:
        return self._following is not None and not self._watches

    def leave(self, watch: Watch) -> None:
        selection, wish = watch.wish.selection, watch.wish
        self._watches.get(selection, {}).get(wish, {}).pop(watch, None)
        if not self._watches.get(selection, {}).get(wish, True):
            del self._watches[selection][wish]
        if not self._watches.get(selection, True):
            del self._watches[selection]
        if self.over and self._following is not None:
            self._following.cancel()

    def end(self, wish: Wish, error: Exception) -> None:
        """End all watches that want this."""
        for watch in self._watches.get(wish.selection, {}).get(wish, ()):
            watch.end(error)

    async def replay(self, watch: Watch) -> bool:
        """Tell the next batch of the past; whether the watch has caught up with this by then."""
        async with contextlib.aclosing(self._store.watch(f"/{self._kind}/", watch.after)) as past:
            changes = await anext(past, None)
        if changes is None:
            watch.end()
            return True
        for revision, same in itertools.groupby(changes, lambda change: change.revision):
            for lines in _lines(revision, [(_Told(change), (watch.wish,)) for change in same]).values():
                watch.tell(lines, revision)
        watch.after = changes[-1].revision
        return watch.after >= self.revision

    async def _follow(self) -> None:
        error: Exception | None = None
        try:
            async with contextlib.aclosing(self._store.watch(f"/{self._kind}/", self.revision)) as news:
                async for changes in news:
                    self._hand_over(changes)
        except Exception as caught:
            error = caught
        over, self._watches = self._watches, {}
        for watch in (watch for wishes in over.values() for watches in wishes.values() for watch in watches):
            watch.end(error)

    def _hand_over(self, changes: Sequence[Change]) -> None:
        for revision, same in itertools.groupby(changes, lambda change: change.revision):
            told = [(one, self._concerned(one)) for one in map(_Told, same)]
            for wish, lines in _lines(revision, told).items():
                for watch in self._watches[wish.selection][wish]:
                    if not watch.behind and watch.after < revision:
                        watch.tell(lines, revision)
            self.revision = revision

    def _concerned(self, told: "_Told") -> Iterator[Wish]:
        """Those who may want to hear of a change."""
        selections: dict[Selection, None] = {}
        for item in (one for one in (told.new, told.old) if one is not None):
            app, node = owner_of(item)
            selections |= dict.fromkeys(((None, None), (app, None), (None, node), (app, node)))
        return itertools.chain.from_iterable(self._watches.get(selection, ()) for selection in selections)


class _Told:
    """A change, read and put into words once. An object that is no longer wanted (a task that moves) is deleted."""

    def __init__(self, change: Change) -> None:
        self.new, self.old = _item(change.entry), _item(change.previous)
        self._change = change

    @functools.cached_property
    def _put(self) -> bytes:
        return b'"put":' + self._change.entry.value if self._change.entry else b""

    @functools.cached_property
    def _delete(self) -> bytes:
        return b'"delete":' + json.dumps(self._change.key.split("/", 2)[2]).encode()

    def to(self, wish: Wish) -> bytes:
        """As a member of a JSON object; nothing if it is not wanted."""
        if self.new is not None and wish(self.new):
            same = wish.alike and self.old is not None and wish(self.old) and wish.alike(self.old, self.new)
            return b"" if same else self._put
        return self._delete if self.old is not None and wish(self.old) else b""


def _item(entry: Entry | None) -> object | None:
    return from_entry(entry) if entry is not None else None


def _lines(revision: int, told: Sequence[tuple[_Told, Iterator[Wish] | tuple[Wish]]]) -> dict[Wish, list[Json]]:
    """What is to be told of the changes of a revision, by wish. Equal lines are one object, however many want them."""
    words: dict[Wish, list[bytes]] = {}
    for change, wishes in told:
        for wish in wishes:
            if said := change.to(wish):
                words.setdefault(wish, []).append(said)
    made: dict[tuple[int, bytes], Json] = {}

    def line(after: int, said: bytes) -> Json:
        return made.setdefault((after, said), Json(b'{"revision":%d,%b}\n' % (after, said)))

    return {
        wish: [*(line(revision - 1, one) for one in said[:-1]), line(revision, said[-1])]
        for wish, said in words.items()
    }


class Watches:
    """All watches of a server."""

    def __init__(self, store: Store, silent: Callable[[], bool]) -> None:
        self._store = store
        self._silent = silent
        self._fanouts: dict[str, Fanout] = {}

    def open(self, kind: str, after: int, wish: Wish) -> Watch:
        """The changes of the wanted objects of a kind after a revision, and a ping in every quiet `PING_SECONDS`."""
        fanout = self._fanouts.get(kind)
        if fanout is None or fanout.over:  # it begins where its first watch does
            fanout = self._fanouts[kind] = Fanout(self._store, kind, after, self._silent)
        return fanout.watch(wish, after)

    def end(self, kind: str, wish: Wish, error: Exception) -> None:
        """End all watches of a kind that want the same."""
        if kind in self._fanouts:
            self._fanouts[kind].end(wish, error)
