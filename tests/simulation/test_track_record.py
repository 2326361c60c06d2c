"""Bugs that the simulation has found, each as the smallest run that shows it, with its story.

`undone_by` names the mutant that takes the mend back: with it the run breaks the promise again, without it, today, it
keeps every promise. The table in docs/simulation.md is made from these files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mutants import MUTANTS
from test_mutants import breaks

from miniorch.codec import from_plain
from miniorch.simulation.chaos import Case
from miniorch.simulation.command import live

RECORDS = {path.stem: json.loads(path.read_text()) for path in Path(__file__).parent.glob("track_record/*.json")}
PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_bug_of_the_past_is_mended_and_would_be_seen_again(name: str) -> None:
    record = RECORDS[name]
    case = from_plain(Case, record["case"])
    assert live(case).violations == ()
    with MUTANTS[record["undone_by"]].make():
        assert breaks(case, record["promise"])


def test_every_record_tells_its_story_and_the_page_shows_them_all() -> None:
    assert len(RECORDS) >= 2
    text = PAGE.read_text()
    for name in sorted(RECORDS):
        assert row(name, RECORDS[name]) in text, f"docs/simulation.md lacks: {row(name, RECORDS[name])}"


def row(name: str, record: dict[str, Any]) -> str:
    """A line of the page's table."""
    case = record["case"]
    size = f"seed {case['seed']}, {case['nodes']} nodes, {len(case['faults'])} faults"
    return f"| `{name}` | {record['story']} | {record['found']} | {record['mended']} | {size} |"
