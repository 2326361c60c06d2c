"""Every code has a lesson, and each file in a lesson is refused exactly as the lesson prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from miniorch.appfile import problems
from miniorch.appfile.read import read_app_files
from miniorch.errors import AppFileError

ROOT = Path(problems.__file__).parents[2]
TEXT = (ROOT / "miniorch/lessons.md").read_text()
SECTIONS = {found[1]: found[0] for found in re.finditer(r"^## (E\d{4}) .+\n(?:(?!## ).*\n)*", TEXT, re.MULTILINE)}
SAID = re.compile(r"```yaml\n(.*?)```\n\n```console( strict)?\n(.*?)```", re.DOTALL)


def test_every_code_that_is_raised_anywhere_has_a_lesson_and_no_other_has() -> None:
    rooms = ("miniorch", "agent", "scheduler", "netplugin")
    sources = [path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py")]
    raised = {code for source in sources for code in re.findall(r"\"(E\d{4})\"", source)}
    assert raised == set(SECTIONS)


def test_lessons_are_short() -> None:
    words = {code: len(SAID.sub("", text).split()) for code, text in SECTIONS.items()}
    assert {code: count for code, count in words.items() if not 20 <= count <= 120} == {}


@pytest.mark.parametrize("code", [code for code in SECTIONS if code.startswith("E01")])
def test_the_file_of_a_lesson_is_refused_as_the_lesson_says(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = SAID.search(SECTIONS[code])
    assert found is not None
    (tmp_path / "app.yml").write_text(found[1])
    with pytest.raises(AppFileError) as caught:
        read_app_files(["app.yml"], {}, strict=bool(found[2]))
    remedy = f"help: {caught.value.remedy}\n" if caught.value.remedy else ""
    assert f"error[{caught.value.code}]: {caught.value.message}\n{remedy}" == found[3]
    assert caught.value.code == code
