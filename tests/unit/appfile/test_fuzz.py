"""Thousands of app files: each is accepted or refused with a place, and what was accepted is the same written again.

`make test` tries 2,000, the same every time; `make drill` 100,000 others (MINIORCH_FUZZ says how many).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grammar
import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miniorch.appfile.read import AppFile, read_app_files
from miniorch.appfile.write import config_text
from miniorch.errors import AppFileError

COUNT = int(os.environ.get("MINIORCH_FUZZ", "2000"))
ENVIRONMENT = {"SET": "1", "BROKEN": "\udcff"}


def tried(share: float) -> Callable[[Any], Any]:
    return settings(
        max_examples=max(1, int(COUNT * share)), derandomize="MINIORCH_FUZZ" not in os.environ, database=None,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("files")
    grammar.files(found)
    return found


def read(folder: Path, *contents: bytes) -> AppFile | AppFileError:
    """The app, or the refusal; any other exception is what these tests look for."""
    paths = []
    for number, content in enumerate(contents):
        (folder / f"app{number}.yml").write_bytes(content)
        paths.append(str(folder / f"app{number}.yml"))
    try:
        return read_app_files(paths, ENVIRONMENT, profiles=["dev"])
    except AppFileError as error:
        return error


def check(folder: Path, found: AppFile | AppFileError) -> None:
    if isinstance(found, AppFileError):
        assert "  --> " in found.message
        found.message.encode()
        for one in found.details:
            assert one["message"]
            assert one["remedy"], one
            assert one["line"] > 0 or one["code"] == "E0100", one
        return
    assert "\n".join(found.report.lines()).encode()
    text = config_text(found)
    again = read(folder, text.encode())
    assert isinstance(again, AppFile), f"{again.message}\n{text}"
    assert (again.name, again.spec) == (found.name, found.spec)
    assert config_text(again) == text


@tried(0.3)
@given(tree=grammar.right(), flow=st.booleans())
def test_right_files_are_accepted_and_read_the_same_when_written_again(folder: Path, tree: Any, flow: bool) -> None:
    found = read(folder, grammar.written(tree, flow).encode())
    if isinstance(found, AppFileError):  # drawn side by side, services may clash with each other
        assert {one["code"] for one in found.details} == {"E0107"}, found.message
    check(folder, found)


@tried(0.3)
@given(tree=grammar.nearly(), flow=st.booleans())
def test_nearly_right_files_are_accepted_or_refused_with_a_place(folder: Path, tree: Any, flow: bool) -> None:
    check(folder, read(folder, grammar.written(tree, flow).encode()))


@tried(0.2)
@given(data=grammar.mutated())
def test_files_with_accidents_are_accepted_or_refused_with_a_place(folder: Path, data: bytes) -> None:
    check(folder, read(folder, data))


@tried(0.2)
@given(below=grammar.right(), above=st.one_of(grammar.right(), grammar.nearly()))
def test_two_files_are_one_app_or_refused_with_a_place(folder: Path, below: Any, above: Any) -> None:
    check(folder, read(folder, grammar.written(below, False).encode(), grammar.written(above, True).encode()))


def test_hostile_files_cost_no_more_than_their_length(tmp_path: Path) -> None:
    hostile.write(tmp_path)
    script = [sys.executable, hostile.__file__, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=600)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(hostile.FILES), done.stderr
    slow = {name: calls for name, calls, _ in rows if int(calls) > 2_500_000 + 40 * len(hostile.FILES[name])}
    assert slow == {}
