"""Python's search for garbage, in pieces so small that nobody waits for it.

The problem: what refers to itself in a circle is freed by a collector that stops the process while it looks. Its looks
at young objects are short, but now and then it looks at all: with five thousand streams open that takes a third of a
second, in which nobody hears of a change. The idea: whatever has survived two looks is set aside (`gc.freeze` costs
nothing), and everything is looked at only when as much has been set aside since the last time as there was then. So
each object is looked at a few times in its life, and no more dead ones wait than there were living ones.

Who does this for real: Go's collector, which waits until the heap has doubled; Instagram's servers freeze what they
share. Next file: `miniorch/api/watch.py`.
"""

import asyncio
import contextlib
import gc
from collections.abc import Iterator

LATER_SECONDS = 1.0  # than what has made so many objects: that is not over yet


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Meanwhile the collector looks at everything only when that has doubled, and between two turns of the loop."""
    loop, passed, everything, grown = asyncio.get_running_loop(), 1, 0, 0
    for threshold in gc.get_threshold()[:2]:
        passed *= threshold + 1  # so many new objects there are before what is young is looked at a second time

    def look_at_all() -> None:
        nonlocal everything, grown
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        everything, grown = gc.get_freeze_count(), 0

    def looked(phase: str, info: dict[str, int]) -> None:
        nonlocal everything, grown
        if phase == "stop" and info["generation"] == 1:
            gc.freeze()
            grown += passed - info["collected"]
            if grown > everything > 0:
                everything = 0
                loop.call_soon_threadsafe(loop.call_later, LATER_SECONDS, look_at_all)

    look_at_all()
    gc.callbacks.append(looked)
    try:
        yield
    finally:
        gc.callbacks.remove(looked)
        gc.unfreeze()
