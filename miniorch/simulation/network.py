"""The way between agents and server, with everything that a network does to messages.

The problem: the difference between "it was not done" and "nobody told me that it was done" never shows on a good day.
The idea: a `Transport` that calls the server's handlers directly and, by seed, delays, loses the request (nothing has
happened) or loses the answer (it has happened and the caller does not know). Everything passes through JSON, so no
object is ever shared by two processes.

A request that the server is working on belongs to the server: it dies with the server, not with the caller.

Who does this for real: the `SimulatedNetwork` of FoundationDB, Maelstrom in front of real programs. Next file:
`miniorch/simulation/machine.py`.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from miniorch.api.handlers import Handlers
from miniorch.api.routes import dispatch, stream
from miniorch.codec import to_plain
from miniorch.errors import MiniorchError, Unreachable, from_wire, to_wire

T = TypeVar("T")
Line = tuple[Any, MiniorchError | None]
BUFFERED_LINES = 100  # what a stream holds between the two sides, as socket buffers do


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network is. Rates are shares of messages, delays virtual seconds per direction."""

    delay_seconds: tuple[float, float] = (0.001, 0.01)
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    late_requests: float = 0.0  # the caller gives up, and the request arrives after all
    broken_streams: float = 0.0  # per line


GOOD = Weather()
POOR = Weather((0.001, 0.05), lost_requests=0.01, lost_answers=0.01, late_requests=0.03, broken_streams=0.003)
BAD = Weather((0.001, 0.5), lost_requests=0.1, lost_answers=0.1, late_requests=0.1, broken_streams=0.05)
LATE_SECONDS = 8.0


class Wire:
    """What all transports share: the server, if there is one, and the weather."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.weather = GOOD
        self._handlers: Handlers | None = None
        self._serving: dict[asyncio.Task[Any], None] = {}

    def up(self, handlers: Handlers) -> None:
        """A server answers from now on."""
        self._handlers = handlers

    async def down(self) -> None:
        """The server is gone, and with it all that it was doing."""
        self._handlers = None
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    @property
    def handlers(self) -> Handlers:
        if self._handlers is None:
            raise Unreachable("the server does not answer", remedy="miniorch up")
        return self._handlers

    def serve(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work of the server's, whoever asked for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._serving[task] = None
        task.add_done_callback(self._served)
        return task

    def _served(self, task: asyncio.Task[Any]) -> None:
        self._serving.pop(task, None)
        if not task.cancelled():
            task.exception()  # has been looked at: the caller may be gone

    async def travel(self) -> None:
        await asyncio.sleep(self._chance.uniform(*self.weather.delay_seconds))

    def late_seconds(self) -> float:
        return self._chance.uniform(0.0, LATE_SECONDS)

    def chance_of(self, rate: float) -> bool:
        return rate > 0 and self._chance.random() < rate


class SimTransport:
    """A `Transport` for one agent or user. `cut` is a pulled cable."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.cut = False

    async def request(self, method: str, path: str, body: object = None) -> Any:
        wire, sent = self._wire, over_the_wire(body)
        await wire.travel()
        self._check_line()
        if wire.chance_of(wire.weather.lost_requests):
            raise Unreachable("the server does not answer (the request was lost)")
        if wire.chance_of(wire.weather.late_requests):
            wire.serve(self._late(method, path, sent))
            raise Unreachable("the server does not answer (the request is late)")
        work = wire.serve(dispatch(wire.handlers, method, path, sent))
        await asyncio.wait([work])
        if work.cancelled():
            raise Unreachable("the server's answer broke off")
        await wire.travel()
        self._check_line()
        if wire.chance_of(wire.weather.lost_answers):
            raise Unreachable("the server's answer broke off (the answer was lost)")
        try:
            return over_the_wire(work.result())
        except MiniorchError as error:
            raise _received(error) from None

    async def _late(self, method: str, path: str, body: Any) -> None:
        await asyncio.sleep(self._wire.late_seconds())
        await dispatch(self._wire.handlers, method, path, body)

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        wire = self._wire
        await wire.travel()
        self._check_line()
        lines: asyncio.Queue[Line] = asyncio.Queue(BUFFERED_LINES)
        pump = wire.serve(_pump(wire.handlers, path, lines))
        try:
            while True:
                item, error = await self._next(lines, pump)
                await wire.travel()
                self._check_line()
                if error is not None:
                    raise _received(error)
                if item is None:
                    return
                if wire.chance_of(wire.weather.broken_streams):
                    raise Unreachable("the server's stream broke off")
                yield item
        finally:
            pump.cancel()

    async def _next(self, lines: asyncio.Queue[Line], pump: asyncio.Task[None]) -> Line:
        """The next line of a stream, unless the server dies first."""
        line = asyncio.ensure_future(lines.get())
        try:
            await asyncio.wait([line, pump], return_when=asyncio.FIRST_COMPLETED)
            if pump.cancelled():
                raise Unreachable("the server's stream broke off")
            return await line
        finally:
            line.cancel()

    def _check_line(self) -> None:
        if self.cut:
            raise Unreachable("the server does not answer (this node is cut off)")


async def _pump(handlers: Handlers, path: str, lines: asyncio.Queue[Line]) -> None:
    """The server's side of a stream: (line, None) for each, then (None, None) or (None, error)."""
    source = stream(handlers, path)
    try:
        async for item in source:
            await lines.put((over_the_wire(item), None))
        await lines.put((None, None))
    except MiniorchError as error:
        await lines.put((None, error))
    finally:
        await source.aclose()  # type: ignore[attr-defined]


def over_the_wire(value: object) -> Any:
    """The value as the other side gets it: a copy, made of JSON."""
    return json.loads(json.dumps(to_plain(value)))


def _received(error: MiniorchError) -> MiniorchError:
    return from_wire(to_wire(error), error.status)
