"""The runner of documents must be able to fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import Step, steps


def page(tmp_path: Path, text: str) -> list[Step]:
    path = tmp_path / "page.md"
    path.write_text(text)
    return steps(path)


def test_commands_and_what_they_print_are_found(tmp_path: Path) -> None:
    text = "# T\n\n```console until=5s exit=2\n$ first\none ... two\n$ second\n```\n\n```sh\n$ not this\n```\n"
    assert page(tmp_path, text) == [
        Step("page.md:3", "first", "one ... two\n", 5.0, 2),
        Step("page.md:3", "second", "", 5.0, 2),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```console untl=3s\n$ x\n```\n", "page.md:1: unknown option untl"),
        ("```console\n$ x\n```\n  ```console\n  $ y\n  ```\n", "page.md: 1 console blocks"),
        ("# T\n", "page.md: 0 console blocks"),
        ("# T\n```console\nx\n$ y\n```\n", "page.md:2: a console block begins with a command"),
        ("```console\n# x\n```\n", "page.md:1: a console block begins with a command"),
    ],
)
def test_what_would_never_be_run_is_an_error(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        page(tmp_path, text)


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("a b", "a b\n", True),
        ("a b", "a    b\n", True),
        ("a b", "a c\n", False),
        ("a b", "a b\nmore\n", False),
        ("a ... d", "a b c d\n", True),
        ("a ... d", "a b\nc d\n", False),
        ("...\nend", "x\ny\nend\n", True),
        ("...\nend", "x\ny\nend\nz\n", False),
        ("a\n...\nz", "a\nz\n", True),
        ("a\n...", "a\nb\nc\n", True),
        ("a\n...", "a\n", True),
        ("a\n...", "b\n", False),
        ("...", "only one line\n", True),
        ("a (1) [x]", "a (1) [x]\n", True),
        ("", "anything\n", True),
    ],
)
def test_expected_lines_match_whole_output_with_gaps(expected: str, output: str, fits: bool) -> None:
    assert Step("p:1", "c", expected).matches(output) is fits
