"""docs/security.md shows the table of access that the server reads."""

from __future__ import annotations

from pathlib import Path

from miniorch.api.routes import TABLE


def test_the_security_page_has_the_current_table_of_access() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert f"```text\n{TABLE.rstrip(chr(10))}\n```" in page, "copy miniorch/api/routes.txt into docs/security.md"
