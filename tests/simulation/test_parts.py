"""What is asked of the touched part after a step finds what is asked of the whole world: at every step of bad days, of
good code and of every mutant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from mutants import MUTANTS

from miniorch.codec import from_plain
from miniorch.simulation import witness
from miniorch.simulation.chaos import KINDS, Case
from miniorch.simulation.command import live
from miniorch.simulation.history import History
from miniorch.simulation.invariants import ALWAYS, Picture


class Twins(History):
    """Two histories: one sees parts, the other everything, and both must say the same."""

    everything: Picture

    def __init__(self) -> None:
        super().__init__()
        self.other = History()

    def agent_started(self, node: str) -> None:
        self.other.agent_started(node)
        super().agent_started(node)

    def look(self, world: Picture, at: float = 0.0, at_rest: bool = False) -> dict[str, list[str]]:
        found = super().look(world, at, at_rest)
        if world.whole is not None:
            assert found.keys() == self.other.look(Twins.everything, at, at_rest).keys()
        return found


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How large the parts were that were compared with the whole, and how large that was: how many machines."""
    sizes = [0, 0]
    check = witness.Witness.check

    def both(
        self: witness.Witness, world: Picture, promises: Sequence[Callable[[Picture], list[str]]] = ALWAYS
    ) -> None:
        if world.whole is not None:
            Twins.everything = self.picture()
            sizes[0] += len(world.boxes)
            sizes[1] += len(Twins.everything.boxes)
            found = {one.__name__ for one in promises if one(world)}
            assert found == {one.__name__ for one in promises if one(Twins.everything)}
        check(self, world, promises)

    monkeypatch.setattr(witness, "History", Twins)
    monkeypatch.setattr(witness.Witness, "check", both)
    return sizes


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_part_shows_what_a_mutant_breaks_at_the_step_at_which_the_whole_does(name: str, compared: list[int]) -> None:
    record = json.loads(MUTANTS[name].path.read_text())
    with MUTANTS[name].make():
        live(from_plain(Case, record["case"]))
    assert compared[1] >= compared[0]


@pytest.mark.parametrize("seed", range(3))
def test_part_and_whole_agree_through_a_bad_day(seed: int, compared: list[int]) -> None:
    assert live(Case(seed, 5, 3, 150.0).with_faults(KINDS)).violations == ()
    assert 0 < compared[0] < compared[1]


def test_parts_of_a_large_world_are_small(compared: list[int]) -> None:
    case = replace(Case(1, 20, 1, 40.0, tasks=200), faults=Case(1, 20, 1, 40.0).with_faults(["kill", "power"]).faults)
    assert live(case).violations == ()
    assert compared[0] * 5 < compared[1]
