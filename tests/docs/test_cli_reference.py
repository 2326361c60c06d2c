"""docs/cli.md says what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from miniorch.cli.reference import page


def test_the_command_line_page_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "cli.md"
    assert path.read_text() == page(), "make it anew: python -m miniorch.cli.reference > docs/cli.md"
