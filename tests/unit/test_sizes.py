"""The product stays small enough to be read in an afternoon. Raising a limit needs a line here that says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = sorted(
    path for room in ("miniorch", "agent", "scheduler", "netplugin") for path in (ROOT / room).rglob("*.py")
)
FILE_LINES, FUNCTION_LINES, AFTERNOON_LINES, COLUMNS = 400, 60, 3500, 120


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def afternoon() -> list[Path]:
    """The files that ARCHITECTURE.md numbers under "Read in this order"."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return [ROOT / name for name in re.findall(r"^\d+\. \[([\w/.]+)\]\(\1\)", text, re.M)]


def test_no_file_is_longer_than_a_sitting() -> None:
    assert {str(path.relative_to(ROOT)): lines(path) for path in PRODUCT if lines(path) > FILE_LINES} == {}


def test_every_function_fits_a_screen() -> None:
    assert [f"{where}: {n}" for path in PRODUCT for where, n in functions(path) if n > FUNCTION_LINES] == []


def test_the_afternoon_path_exists_and_fits_an_afternoon() -> None:
    path = afternoon()
    assert 10 <= len(path) <= 15
    assert [file.name for file in path if not file.exists()] == []
    assert sum(map(lines, path)) <= AFTERNOON_LINES


def test_no_file_is_a_place_for_homeless_functions() -> None:
    assert [path.name for path in PRODUCT if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_product_size_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    total, path = sum(map(lines, PRODUCT)), sum(map(lines, afternoon()))
    with capsys.disabled():
        print(f"\nproduct: {len(PRODUCT)} files, {total} lines; afternoon path: {path} of {AFTERNOON_LINES} lines")
    assert total > 0
