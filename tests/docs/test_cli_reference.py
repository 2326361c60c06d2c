"""docs/cli.md and the man pages say what the commands say of themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from reference import cli_page, commands, man_pages


def test_the_command_line_page_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "cli.md"
    assert path.read_text() == cli_page(), "make it anew: scripts/reference.py cli > docs/cli.md"


def test_every_command_has_a_man_page_with_its_options_and_an_example() -> None:
    pages = man_pages()
    assert set(pages) == {"miniorch.1", *(f"miniorch-{name.replace(' ', '-')}.1" for name, _, _ in commands())}
    for name, command, _ in commands():
        title = f"miniorch-{name.replace(' ', '-')}"
        text = pages[f"{title}.1"].replace("\\-", "-")
        options = {option for param in command.params for option in param.opts if option[0] == "-"}
        assert options - set(re.findall(r"(?<![\w-])--?\w[\w-]*", text)) == set(), name
        assert [
            f".SH {part}" for part in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLE") if f".SH {part}" not in text
        ] == []
        assert title in pages["miniorch.1"].replace("\\-", "-")


def test_a_man_page_is_roff_in_which_no_text_is_taken_for_a_command() -> None:
    known = r"\.(TH|SH|TP|B|BR|EX|EE)( .*)?"
    for name, text in man_pages().items():
        assert [line for line in text.splitlines() if line[:1] in (".", "'") and not re.fullmatch(known, line)] == [], (
            name
        )
        assert not re.search(r"(?<!\\)-", text.replace("miniorch 0.", "")), name
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=text, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), name
