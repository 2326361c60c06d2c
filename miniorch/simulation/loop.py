"""An event loop in which time is a number.

The problem: a cluster that must survive ten minutes of trouble cannot be tested ten thousand times in real time, and a
failure that depends on which of two threads was faster cannot be seen again. The idea: all that waits in miniorch waits
through asyncio, so it is enough to replace the loop. When nothing is ready to run, this one does not sleep: it sets its
clock to the next timer. What is ready at the same moment runs in an order that a seed decides. So one seed is one
history, and two minutes pass in a fraction of a second.

What would break that promise is refused: threads, sockets, pipes, processes.

Who does this for real: FoundationDB's simulator, TigerBeetle's VOPR, trio's MockClock. Next file:
`miniorch/simulation/engine.py`.
"""

import asyncio
import gc
import random
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
EPOCH = 1_700_000_000.0  # what the wall clock shows when a simulation begins


class SimulationError(Exception):
    """The simulated program did what a simulation cannot replay, or waits for what will never happen."""


class _Selector(selectors.SelectSelector):
    """Where an event loop sleeps. Here sleeping means: it is later now."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.end = float("inf")
        self.before_time_passes: Callable[[], None] = lambda: None  # everything that can happen now has happened
        self._sealed = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._sealed:
            raise SimulationError("the simulation has no sockets, pipes or files to wait for")
        self._sealed = True  # asyncio's own wake-up pipe comes first, and nothing after it
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise SimulationError(f"at {self.time:.3f} s everything waits and nothing will ever happen: a deadlock")
        if self.time + timeout > self.end:
            raise SimulationError(f"the simulation was to end within {self.end:g} virtual seconds")
        if timeout > 0:
            self.before_time_passes()
        self.time += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio on virtual time. With `chance`, callbacks that are ready together run in shuffled order."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.clockwork = _Selector()
        self._chance = chance
        self._home = threading.get_ident()
        self.failures: list[BaseException] = []  # exceptions that nobody was there to receive
        super().__init__(self.clockwork)
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        return self.clockwork.time

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if self._chance is not None and len(ready) > 1:
            order = list(ready)
            self._chance.shuffle(order)
            ready.clear()
            ready.extend(order)
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise SimulationError("the simulation has no threads: no executor, no asyncio.to_thread, no getaddrinfo")

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        if threading.get_ident() != self._home:
            raise SimulationError("the simulation has no threads: nobody can call from another one")
        return self.call_soon(callback, *args, context=context)  # asyncio closes forgotten generators in this way

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SimulationError("the simulation has no processes")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SimulationError("the simulation has no processes")

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or SimulationError(context["message"]))


class VirtualClock:
    """The `Clock` of a simulation: the loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()

    def now(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


def run(main: Coroutine[Any, Any, T], *, seed: int | None = None, until: float = 3600.0) -> T:
    """What `main` returns, on virtual time. Without a seed the order of asyncio is kept.

    Raises `SimulationError` on a deadlock, after `until` virtual seconds, or if a task failed unseen.
    """
    loop = VirtualLoop(None if seed is None else random.Random(seed))
    loop.clockwork.end = until
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
    loop.clockwork.end = float("inf")
    loop.clockwork.before_time_passes = lambda: None
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=3600))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
