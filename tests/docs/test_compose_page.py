"""docs/compose.md says what the reader's own table says."""

from __future__ import annotations

from pathlib import Path

from reference import compose_tables


def test_the_page_about_compose_files_is_current() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compose.md").read_text()
    begin = text.index("## At the top of the file\n")
    assert text[begin:] == compose_tables(), "replace the tables: scripts/reference.py compose"
