"""Circles are freed however old they are, but never by a look at everything that nobody has asked for."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from miniorch import garbage
from miniorch.garbage import sparing


class Circle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The generations that were looked at."""
    monkeypatch.setattr(garbage, "LATER_SECONDS", 0.01)
    seen: list[int] = []

    def looked(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(info["generation"])

    gc.callbacks.append(looked)
    yield seen
    gc.callbacks.remove(looked)


async def test_everything_is_looked_at_only_when_it_has_doubled_and_then_old_circles_are_freed(
    looks: list[int],
) -> None:
    young, seldom, _ = gc.get_threshold()
    some = 2 * young * seldom  # enough that young objects are looked at a second time
    there = [[0] for _ in range(3 * some)]
    with sparing():
        everything = gc.get_freeze_count()
        assert everything > len(there)
        dead, kept = Circle(), [[0] for _ in range(some)]
        assert gc.get_freeze_count() > everything
        gone = weakref.ref(dead)
        del dead
        looks.clear()
        kept += [[0] for _ in range(some)]
        await asyncio.sleep(0.1)
        assert 1 in looks
        assert 2 not in looks
        assert gone() is not None
        kept += [[0] for _ in range(2 * everything)]
        assert 2 not in looks  # not in the midst of it
        await asyncio.sleep(0.1)
        assert looks.count(2) == 1
        assert gone() is None


async def test_afterwards_the_collector_is_as_it_was() -> None:
    before = list(gc.callbacks)
    with sparing():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == before
