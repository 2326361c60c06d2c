"""Documents that are run: the `console` blocks of a page, one shell command after the other, with what they must print.

    ```console until=20s
    $ miniorch ps dockchat
    dockchat/db.1 ... running ...
    ```

A line after `$ ` is a command; the lines below it are what it prints. In them `...` stands for anything within a line,
and a line that is only `...` for any number of lines. `until=20s` tries again until it matches (no sleeps), `exit=2`
expects that exit code. A block without expected lines only has to end well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```console([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One command of a page."""

    place: str  # "README.md:12"
    command: str
    expected: str
    until_seconds: float = 0.0
    exit_code: int = 0

    def matches(self, output: str) -> bool:
        return not self.expected.strip() or _pattern(self.expected).fullmatch(_trim(output) + "\n") is not None


def steps(page: Path) -> list[Step]:
    """All commands of a page, in order. Raises `ValueError` for a block of which something would never be run."""
    text = page.read_text()
    fences, found = [*FENCE.finditer(text)], []
    if len(fences) != max(text.count("```console"), 1):
        raise ValueError(f"{page.name}: {len(fences)} console blocks begin and end at a line's beginning, not all")
    for fence in fences:
        place = f"{page.name}:{text[: fence.start()].count(chr(10)) + 1}"
        options = dict(word.split("=", 1) for word in fence[1].split())
        if unknown := set(options) - {"until", "exit"}:
            raise ValueError(f"{place}: unknown option {', '.join(sorted(unknown))}")
        until = float(options.get("until", "0s").removesuffix("s"))
        before, *parts = re.split(r"^\$ ", fence[2], flags=re.MULTILINE)
        if before or not parts:
            raise ValueError(f"{place}: a console block begins with a command, after a dollar sign")
        for part in parts:
            command, _, expected = part.partition("\n")
            found.append(Step(place, command, expected, until, int(options.get("exit", "0"))))
    return found


def _trim(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _pattern(expected: str) -> re.Pattern[str]:
    parts = []
    for line in _trim(expected).splitlines():
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            words = [r"\s+".join(map(re.escape, piece.split(" "))) for piece in re.sub(r" +", " ", line).split("...")]
            parts.append(r"[^\n]*".join(words) + r"[ ]*\n")
    return re.compile("".join(parts))
