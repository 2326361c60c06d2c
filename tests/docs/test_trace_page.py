"""docs/scheduling.md, "The trace": its tables name the fields of the trace and the kinds of edits, all of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from miniorch.api.explain import Now, Then
from miniorch.verdicts import Change, Edit, Row, Rule, Score, Trace
from scheduler.explain import ASKED, BRIEFLY, FEW, NAMES, ROWS
from scheduler.remedies import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text().partition("\n## The trace\n")[2]


def column(start: str) -> list[str]:
    """The first column of the table after a text."""
    rows = PAGE.partition(start)[2].partition("\n|")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", rows, re.M)


def fields(cls: type) -> list[str]:
    return [one.name for one in dataclasses.fields(cls)]


@pytest.mark.parametrize(("start", "names"), [("**Trace**", fields(Trace)), ("**Row**", fields(Row))])
def test_each_table_has_the_fields_in_their_order(start: str, names: list[str]) -> None:
    assert column(start) == names


def test_every_kind_of_edit_is_explained() -> None:
    assert column("Each edit has a `kind`") == list(KINDS)


@pytest.mark.parametrize("cls", [Rule, Score, Change, Edit, Now, Then])
def test_the_fields_of_the_parts_are_named(cls: type) -> None:
    assert [name for name in fields(cls) if f"`{name}`" not in PAGE] == []


def test_the_bounds_are_those_of_the_code() -> None:
    assert (ROWS, NAMES, ASKED, FEW, BRIEFLY) == (12, 20, 64, 4, 8)
    for words in ("at most twelve", "the first twenty", "at most 64 nodes", "more than four tasks at once, eight"):
        assert words in PAGE
