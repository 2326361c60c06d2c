"""An event loop in which time is a number.

The problem: a cluster that must survive ten minutes of trouble cannot be tested ten thousand times in real time, and a
failure that depends on which of two threads was faster cannot be seen again. The idea: all that waits in miniorch waits
through asyncio, so it is enough to replace the loop. When nothing is ready to run, this one does not sleep: it sets its
clock to the next timer. What is ready at the same moment runs in an order that a seed decides. So one seed is one
history, and two minutes pass in a fraction of a second. All chance (`Chance`) depends on the moment and on who rolls,
and not on how often others have rolled before: what is left out of a history changes only what depends on it.

A process that is stopped (SIGSTOP) and goes on a minute later with its old beliefs is the worst liar there is. Every
callback carries the context of who began it, so this loop knows on which machine it runs, and can leave it lying.

What would break the promise is refused: threads, sockets, pipes, processes.

Who does this for real: FoundationDB's simulator, TigerBeetle's VOPR, trio's MockClock. Next file:
`miniorch/simulation/engine.py`.
"""

import asyncio
import contextvars
import functools
import gc
import heapq
import random
import selectors
import threading
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
EPOCH = 1_700_000_000.0  # what the wall clock shows when a simulation begins
TICK_SECONDS = 1e-6
PARTY: contextvars.ContextVar[str] = contextvars.ContextVar("party")  # the machine that the running code runs on
PART: contextvars.ContextVar[str] = contextvars.ContextVar("part")  # of a server: "api" or "loops"


def on_behalf_of(party: str, part: str = "") -> contextvars.Context:
    """A context for a task: it, and all that it begins, runs on the machine `party`, and stands still with it."""
    context = contextvars.copy_context()
    context.run(PARTY.set, party)
    context.run(PART.set, part)
    return context


@functools.lru_cache(10_000)
def salt(words: str) -> int:
    """A number for a name, the same in every process; `hash` of text is not, `hash` of numbers is."""
    return zlib.crc32(words.encode())


def mixed(*numbers: float) -> int:
    """64 bits that tell nothing of what they were made from."""
    bits = hash(numbers) & 0xFFFFFFFFFFFFFFFF
    bits = (bits ^ bits >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return bits ^ bits >> 32


class Chance(random.Random):
    """Chance without memory: the n-th roll of a name at a moment, whatever was rolled before that moment."""

    def __init__(self, seed: int, name: str) -> None:
        super().__init__(0)
        self._salt = salt(f"{seed} {name}")
        self._loop = asyncio.get_running_loop()
        self._at, self._rolled = -1.0, 0

    def random(self) -> float:
        now = self._loop.time()
        self._rolled = self._rolled + 1 if now == self._at else 1
        self._at = now
        return (mixed(self._salt, now, self._rolled) >> 11) / 0x20000000000000


class SimulationError(Exception):
    """The simulated program did what a simulation cannot replay, or waits for what will never happen."""


class _Selector(selectors.SelectSelector):
    """Where asyncio keeps what it waits for. Its own wake-up pipe comes first, and nothing after it."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():
            raise SimulationError("the simulation has no sockets, pipes or files to wait for")
        return super().register(fileobj, events, data)


class _Call:
    """What `asyncio.Handle` and `TimerHandle` are elsewhere, without what a simulation has no use for."""

    __slots__ = ("_args", "_callback", "_context", "_when")

    def __init__(self, when: float, callback: Any, args: Any, context: contextvars.Context | None) -> None:
        self._when, self._callback, self._args = when, callback, args
        self._context = contextvars.copy_context() if context is None else context

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._callback = self._args = None

    def cancelled(self) -> bool:
        return self._callback is None


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio on virtual time. With a seed, callbacks that are ready together run in shuffled order."""

    def __init__(self, seed: int | None = None) -> None:
        self.end = float("inf")
        self.before_time_passes: Callable[[], None] = lambda: None  # everything that can happen now has happened
        self.failures: list[BaseException] = []  # exceptions that nobody was there to receive
        self._now = 0.0
        self._timers: list[tuple[float, int, _Call]] = []  # by moment, then in the order they were set
        self._set = 0
        self._seed = seed
        self._home = threading.get_ident()
        self._frozen: dict[str, list[_Call]] = {}  # party -> what it would have done meanwhile
        super().__init__(_Selector())
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        call = _Call(self._now, callback, args, context)
        self._ready.append(call)  # type: ignore[attr-defined]
        return call

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Never so soon that adding it changes nothing: who waits for his own drifting clock would wait for ever."""
        later = max(when, self._now + TICK_SECONDS) if when > self._now else when
        timer = _Call(later, callback, args, context)
        self._set += 1
        heapq.heappush(self._timers, (later, self._set, timer))
        return timer

    def freeze(self, party: str) -> None:
        """SIGSTOP: nothing that runs on behalf of a party (`on_behalf_of`) goes on. Its timers ring unheard."""
        self._frozen.setdefault(party, [])

    def thaw(self, party: str) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._ready.extend(self._frozen.pop(party, ()))  # type: ignore[attr-defined]

    def _run_once(self) -> None:
        """One round: all that is ready, or else the next moment at which something is."""
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        if not ready:
            while timers and timers[0][2]._callback is None:
                heapq.heappop(timers)
            self._let_time_pass()
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if timer._callback is not None:
                ready.append(timer)
        batch = list(ready)
        ready.clear()
        if self._seed is not None and len(batch) > 1:
            batch = self._shuffled(self._seed, batch)
        for call in batch:
            if self._frozen and (party := call._context.get(PARTY, "")) in self._frozen:
                self._frozen[party].append(call)
            elif call._callback is not None:
                try:
                    call._context.run(call._callback, *call._args)
                except Exception as error:
                    self.failures.append(error)

    def _shuffled(self, seed: int, batch: list[_Call]) -> list[_Call]:
        """The order of two calls depends on nothing but the moment and how many of their own machines came before."""
        before: dict[str, int] = {}
        ranked: list[tuple[int, int, _Call]] = []
        for call in batch:
            party = call._context.get(PARTY, "")
            before[party] = count = before.get(party, 0) + 1
            ranked.append((mixed(seed, self._now, salt(party), count), len(ranked), call))
        return [call for _, _, call in sorted(ranked)]

    def _let_time_pass(self) -> None:
        if not self._timers:
            raise SimulationError(f"at {self._now:.3f} s everything waits and nothing will ever happen: a deadlock")
        next_at = self._timers[0][0]
        if next_at > self.end:
            raise SimulationError(f"the simulation was to end within {self.end:g} virtual seconds")
        if next_at > self._now:
            self.before_time_passes()
            self._now = next_at

    def run_in_executor(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise SimulationError("the simulation has no threads: no executor, no asyncio.to_thread, no getaddrinfo")

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        if threading.get_ident() != self._home:
            raise SimulationError("the simulation has no threads: nobody can call from another one")
        return self.call_soon(callback, *args, context=context)  # asyncio closes forgotten generators in this way

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SimulationError("the simulation has no processes")

    subprocess_shell = subprocess_exec

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or SimulationError(context["message"]))


class VirtualClock:
    """The `Clock` of one machine: the loop's time, unless its wall clock has jumped or both run too fast."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._jumped = self._shown = self._since = 0.0
        self._rate = 1.0

    def now(self) -> float:
        return EPOCH + self._jumped + self.monotonic()

    def monotonic(self) -> float:
        return self._shown + (self._loop.time() - self._since) * self._rate

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock, or NTP does."""
        self._jumped += seconds

    def drift(self, share: float) -> None:
        """Both clocks run faster by this share of time from now on; they show no other time because of it."""
        self._shown, self._since, self._rate = self.monotonic(), self._loop.time(), 1.0 + share


def begin(
    work: Coroutine[Any, Any, T], context: contextvars.Context, book: dict[asyncio.Task[Any], Any] | None = None
) -> asyncio.Task[T]:
    """Work that goes on even if whoever asked for it is gone. When it has ended it is crossed out in `book`."""

    def end(task: asyncio.Task[Any]) -> None:
        if book is not None:
            book.pop(task, None)
        if not task.cancelled():
            task.exception()  # has been looked at

    task = asyncio.get_running_loop().create_task(work, context=context)
    task.add_done_callback(end)
    return task


async def over(task: asyncio.Task[Any]) -> None:
    """Wait for the end of a task, which goes on if the waiter does not: `asyncio.wait` at a third of the price."""
    if not task.done():
        await ring(task)


def ring(task: asyncio.Task[Any]) -> asyncio.Future[bool]:
    """True when a task is over, unless it has been set before."""
    bell: asyncio.Future[bool] = task.get_loop().create_future()

    def end(_: asyncio.Task[Any]) -> None:
        if not bell.done():
            bell.set_result(True)

    task.add_done_callback(end)
    return bell


def run(main: Coroutine[Any, Any, T], *, seed: int | None = None, until: float = 3600.0) -> T:
    """What `main` returns, on virtual time. Without a seed the order of asyncio is kept.

    Raises `SimulationError` on a deadlock, after `until` virtual seconds, or if a task failed unseen.
    """
    loop = VirtualLoop(seed)
    loop.end = until
    asyncio.set_event_loop(loop)
    collecting = gc.isenabled()
    gc.disable()  # it would close forgotten generators at moments that no seed decides
    try:
        result = loop.run_until_complete(main)
        if loop.failures:
            raise SimulationError(f"a task failed and nobody looked: {loop.failures[0]!r}") from loop.failures[0]
        return result
    finally:
        _wind_up(loop)
        if collecting:
            gc.enable()


def _wind_up(loop: VirtualLoop) -> None:
    """End what still runs, so that no test leaves anything to the next."""
    loop.end = float("inf")
    loop.before_time_passes = lambda: None
    try:
        for party in list(loop._frozen):  # what stands still could not even be cancelled
            loop.thaw(party)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=3600))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
