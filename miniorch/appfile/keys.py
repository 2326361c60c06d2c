"""What becomes of each key of a Compose file: one table, read by the reader, the import report and docs/compose.md.

The problem: Swarm ignored `depends_on` for years without a word. The idea: no reader decides in silence. A key is in
the table (`keys.txt`) or it is an error. The table says how it is read, as a text, a number in a range, a duration or a
part with keys of its own; with words behind that it is approximated (how), and an ignored key says why. The report
gives each with its place.

Who does this for real: uncloud and Kompose publish such tables by hand. Next file: `miniorch/appfile/values.py`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    HONOURED = "honoured"
    APPROXIMATED = "approximated"
    IGNORED = "ignored"
    DEFAULT = "default"  # of no key: what holds here because the file says nothing, and would not in Compose
    PART = "-"  # its own keys are what is reported


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its reader, what that takes (a range, words, a part), and the text that stands for a missing one."""

    name: str
    verdict: Verdict = Verdict.HONOURED
    why: str = ""
    reader: str = "any"
    takes: str = ""
    default: str = ""
    example: str = ""


class Part(dict[str, Key]):
    """A mapping of the file: its keys. `short` is the one that a mere text in its place stands for."""

    def __init__(self, title: str, short: str) -> None:
        super().__init__()
        self.title, self.short = title, short
        self.needed: list[Key] = []


def _parse(text: str) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for line in text.splitlines():
        if line.startswith("["):
            head, _, title = line[1:].partition("]")
            name, _, short = head.partition(": ")
            part = parts[name] = Part(title.strip() or name, short)
        elif line and not line.startswith("#"):
            names, how, *rest = re.split("  +", line)
            example = rest.pop(0)[5:] if rest and rest[0].startswith("e.g. ") else ""
            for name in names.split(", "):
                part[name] = key = _key(name, how.removesuffix(" !"), example, "".join(rest))
                part.needed += [key] * how.endswith(" !")
    return parts


def _key(name: str, how: str, example: str, why: str) -> Key:
    how, _, default = how.partition(" = ")
    reader, _, takes = how.partition(" ")
    verdict = Verdict.APPROXIMATED if why else Verdict.PART if reader in ("part", "parts") else Verdict.HONOURED
    return Key(name, Verdict.IGNORED if reader == "ignored" else verdict, why, reader, takes, default, example)


PARTS = _parse(Path(__file__).with_name("keys.txt").read_text())
"""Part of the file -> its keys, in the order of the table."""
