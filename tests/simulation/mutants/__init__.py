"""The checker is checked: deliberate bugs, each of which the simulation must catch.

A mutant puts a wrong piece of code in the place of a right one. `cases/<name>.json` holds the
smallest run found in which a promise is broken because of it; without the mutant the same run keeps every promise.

    .venv/bin/python tests/simulation/mutants/record.py skip_the_epoch     finds and keeps the case of one anew
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniorch.simulation.chaos import Case

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Mutant:
    """`faults` are kinds under which it shows soon, `shape` the world in which it does."""

    name: str
    says: str
    faults: str
    shape: Case
    make: Callable[[], AbstractContextManager[None]]

    @property
    def path(self) -> Path:
        return CASES / f"{self.name}.json"


MUTANTS: dict[str, Mutant] = {}


def mutant(
    faults: str, shape: Case | None = None, *, at: tuple[Any, str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a mutant; its docstring is what the bug does.

    With `at`, the function takes the place of that attribute of a class or module, and is given the right one first.
    Without, it is a generator that makes its own changes and takes them back.
    """

    def register(bug: Callable[..., Any]) -> Callable[..., Any]:
        make = contextlib.contextmanager(bug) if at is None else functools.partial(_replaced, *at, bug)
        MUTANTS[bug.__name__] = Mutant(
            bug.__name__, bug.__doc__ or "", faults, shape or Case(0, 3, seconds=150.0), make
        )
        return make

    return register


def _replaced(owner: Any, name: str, bug: Callable[..., Any]) -> AbstractContextManager[None]:
    right = vars(owner)[name]
    return instead(owner, name, lambda *args, **more: bug(right, *args, **more))


@contextlib.contextmanager
def instead(owner: Any, name: str, new: Any) -> Iterator[None]:
    """`new` in the place of an attribute of a class or module."""
    old = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


from mutants import agents, servers  # noqa: E402, F401 (they register themselves)
