"""The way between machines, with everything that a network does to messages.

The problem: the difference between "it was not done" and "nobody told me that it was done" never shows on a good day.
The idea: a `Transport` that calls a server's handlers directly and, by seed, delays, loses the request (nothing has
happened) or the answer (it has happened and the caller does not know), or delivers late or twice. Between any two
machines each direction can be silent on its own. Everything passes as plain data, made anew for each message, so no
object is ever shared by two processes.

A request that the server is working on belongs to the server: it dies with the server, not with the caller. As with
TCP, what was on its way into a silent direction arrives when that ends, unless the caller has lost patience.

Who does this for real: the `SimulatedNetwork` of FoundationDB, Maelstrom in front of real programs. Next file:
`miniorch/simulation/store.py`.
"""

import asyncio
import functools
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from miniorch.api.handlers import Handlers, Listed
from miniorch.api.routes import dispatch
from miniorch.codec import Json, to_plain
from miniorch.ending import ended
from miniorch.errors import MiniorchError, Unreachable, from_wire, to_wire
from miniorch.identity import LOCAL, Caller
from miniorch.model import KINDS, Role
from miniorch.simulation.loop import begin, on_behalf_of, over
from miniorch.transport import READ_TIMEOUT_SECONDS

T = TypeVar("T")
Lines = asyncio.Queue[tuple[Any, MiniorchError | None]]
BUFFERED_LINES = 100  # what a stream holds between the two sides, as socket buffers do
LATE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network is. Rates are shares of messages, delays virtual seconds per direction."""

    delay_seconds: tuple[float, float] = (0.001, 0.01)
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    late_requests: float = 0.0  # the caller gives up, and the request arrives after all
    repeated_requests: float = 0.0  # it arrives, and later once more
    broken_streams: float = 0.0  # per line


GOOD = Weather()
POOR = Weather((0.001, 0.05), 0.01, 0.01, late_requests=0.03, repeated_requests=0.01, broken_streams=0.003)
BAD = Weather((0.001, 0.5), 0.1, 0.1, late_requests=0.1, repeated_requests=0.05, broken_streams=0.05)


class Wire:
    """All cables between parties (machines, the user, the store), and the servers that answer at their ends."""

    def __init__(self, chance: Callable[[str], random.Random]) -> None:
        """`chance` is asked for a generator for each link in each direction."""
        self.chance = functools.cache(chance)
        self.weather = GOOD
        self._handlers: dict[str, Handlers] = {}
        self._serving: dict[str, dict[asyncio.Task[Any], str]] = {}  # server -> its work and for whom that is
        self._blocked: dict[tuple[str, str], asyncio.Event] = {}  # (source, target) -> set when it is over

    def up(self, handlers: Handlers, server: str = "server1") -> None:
        """A server answers from now on."""
        self._handlers[server] = handlers

    async def down(self, server: str = "server1") -> None:
        """A server is gone, and with it all that it was doing."""
        self._handlers.pop(server, None)
        serving = list(self._serving.pop(server, ()))
        for task in serving:
            task.cancel()
        await ended(*serving)

    def handlers(self, server: str) -> Handlers:
        if server not in self._handlers:
            raise Unreachable(f"{server} does not answer", remedy="miniorch up")
        return self._handlers[server]

    def serve(self, server: str, caller: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work of a server's, whoever asked for it."""
        serving = self._serving.setdefault(server, {})
        task = begin(work, on_behalf_of(server, "api"), serving)
        serving[task] = caller
        return task

    def block(self, source: str, target: str) -> None:
        """This direction is silent from now on."""
        self._blocked.setdefault((source, target), asyncio.Event())

    def unblock(self, source: str, target: str) -> None:
        if (source, target) in self._blocked:
            self._blocked.pop((source, target)).set()

    def reset(self, one: str, other: str) -> None:
        """Every connection between the two breaks off."""
        for server, caller in ((one, other), (other, one)):
            for task in [task for task, of in self._serving.get(server, {}).items() if of == caller]:
                task.cancel()

    def may_pass(self, source: str, target: str) -> bool:
        return (source, target) not in self._blocked

    async def travel(self, source: str, target: str) -> None:
        """Until a message has arrived."""
        await asyncio.sleep(self.chance(f"{source} {target}").uniform(*self.weather.delay_seconds))
        while not self.may_pass(source, target):
            await self._blocked[source, target].wait()


class SimTransport:
    """A `Transport` from one party to one server. `cut`: its process has been killed and says nothing any more."""

    def __init__(
        self,
        wire: Wire,
        party: str = "user",
        server: str = "server1",
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        caller: Caller | None = None,
    ) -> None:
        self._wire = wire
        self._chance = wire.chance(f"{party} {server}")
        self._party = party
        self._server = server
        self._timeout = timeout_seconds
        self._caller = caller or (LOCAL if party == "user" else Caller(party, Role.WORKER, "wire"))
        self.cut = False

    async def request(self, method: str, path: str, body: object = None) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(method, path, to_plain(body))
        except TimeoutError:
            raise Unreachable(f"{self._server} does not answer (no answer came)") from None

    async def _exchange(self, method: str, path: str, sent: Any) -> Any:
        wire, weather = self._wire, self._wire.weather
        await self._connect()
        if self._may(weather.lost_requests):
            raise Unreachable(f"{self._server} does not answer (the request was lost)")
        if self._may(weather.late_requests):
            self._serve(self._late(method, path, sent))
            raise Unreachable(f"{self._server} does not answer (the request is late)")
        work = self._serve(dispatch(wire.handlers(self._server), method, path, sent, self._caller, _answer))
        if self._may(weather.repeated_requests):
            self._serve(self._late(method, path, sent))
        await over(work)
        if work.cancelled():
            raise self._broken_off()
        await wire.travel(self._server, self._party)
        if self.cut or self._may(weather.lost_answers):
            raise self._broken_off()
        try:
            return work.result()
        except MiniorchError as error:
            raise _received(error) from None

    async def _late(self, method: str, path: str, body: Any) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, LATE_SECONDS))
        await dispatch(self._wire.handlers(self._server), method, path, body, self._caller)

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        wire, lines = self._wire, Lines()
        await self._connect()
        pump = self._serve(self._pump(wire.handlers(self._server), path, lines))
        pump.add_done_callback(lambda _: lines.put_nowait((None, self._broken_off())))
        patience = Patience(lambda: lines.put_nowait((None, self._broken_off())))
        try:
            while True:
                item, error = await lines.get()
                patience.renew()
                if error is not None:
                    raise _received(error)
                if item is None:
                    return
                if self.cut or self._may(wire.weather.broken_streams):
                    raise self._broken_off()
                yield item
        finally:
            patience.end()
            pump.cancel()

    async def _pump(self, handlers: Handlers, path: str, lines: Lines) -> None:
        """The server's side of a stream: (line, None) for each, then (None, None) or (None, error)."""
        kind, watch = path.partition("?")[0].rpartition("/")[2], None
        try:
            watch = await dispatch(handlers, "GET", path, read=lambda watch: watch)
            while found := await watch.take():
                # An event for each line would cost more than looking does, and readers are seldom slow.
                while lines.qsize() >= BUFFERED_LINES:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await self._wire.travel(self._server, self._party)
                for line in found:
                    lines.put_nowait((_read(kind, line), None))
            lines.put_nowait((None, None))
        except MiniorchError as error:
            lines.put_nowait((None, error))
        finally:
            if watch is not None:
                watch.close()

    async def _connect(self) -> None:
        """Until the first packet has arrived. Into a silent direction some connections fail at once, others wait."""
        may = self._wire.may_pass(self._party, self._server) and self._wire.may_pass(self._server, self._party)
        if self.cut or (not may and self._may(0.5)):
            raise Unreachable(f"{self._server} does not answer (no way there)")
        await self._wire.travel(self._party, self._server)

    def _may(self, rate: float) -> bool:
        return rate > 0 and self._chance.random() < rate

    def _serve(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._wire.serve(self._server, self._party, work)

    def _broken_off(self) -> Unreachable:
        return Unreachable(f"the answer of {self._server} broke off")


def _answer(answer: Any) -> Any:
    """An answer as plain data; the objects of a list as they are, for nobody changes them."""
    return {"revision": answer.revision, "items": answer.items} if isinstance(answer, Listed) else to_plain(answer)


@functools.lru_cache(1024)
def _read(kind: str, line: Json) -> Any:
    """A line of a watch, with its object read once for the thousands who hear of it; nobody changes it."""
    plain = msgspec.json.decode(line)
    return plain | {"put": msgspec.convert(plain["put"], KINDS[kind])} if "put" in plain else plain


class Patience:
    """Calls `lost` after `READ_TIMEOUT_SECONDS` without a `renew`. One timer for many lines."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self.renew()
        self._timer = self._loop.call_at(self._until, self._look)

    def renew(self) -> None:
        self._until = self._loop.time() + READ_TIMEOUT_SECONDS

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._until <= self._loop.time():
            self._lost()
        else:
            self._timer = self._loop.call_at(self._until, self._look)


def _received(error: MiniorchError) -> MiniorchError:
    return from_wire(to_wire(error), error.status)
