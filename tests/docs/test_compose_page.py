"""docs/compose.md says what the reader's own table says."""

from __future__ import annotations

from pathlib import Path

from miniorch.appfile.support import page


def test_the_page_about_compose_files_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "compose.md"
    assert path.read_text() == page(), "make it anew: python -m miniorch.appfile.support > docs/compose.md"
