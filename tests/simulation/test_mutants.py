"""Every deliberate bug of `mutants/` is caught: by its recorded run here, by a fresh one within 500 seeds in
`make drill` (`mutants/record.py --look`)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from mutants import CASES, MUTANTS

from miniorch.codec import from_plain
from miniorch.simulation.chaos import Case
from miniorch.simulation.command import live

SEEDS_NEAR_BY = 10


def test_there_are_a_dozen_bugs_and_each_has_its_run() -> None:
    assert len(MUTANTS) >= 12
    assert {path.stem for path in CASES.glob("*.json")} == set(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_bug_is_caught_by_its_recorded_run(name: str) -> None:
    """Any change of the product may shift what happens in a run, so the seeds beside the recorded one help out."""
    recorded = json.loads(MUTANTS[name].path.read_text())
    with MUTANTS[name].make():
        caught = breaks(from_plain(Case, recorded["case"]), recorded["promise"])
    assert caught, f"{MUTANTS[name].says} Record it anew: tests/simulation/mutants/record.py {name}"


def breaks(case: Case, promise: str) -> bool:
    """Whether the promise is broken in this run, or in one with a seed near by."""
    return any(promise in live(replace(case, seed=case.seed + more)).promises for more in range(SEEDS_NEAR_BY))
