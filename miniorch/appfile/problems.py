"""What is wrong with an app file, said so that it can be mended: place, line, caret, one remedy.

The problem: "Additional property port is not allowed" has been asked about for ten years. The idea: a problem is a
value with a place; the reader collects all of them instead of stopping at the first, and this module shows them, the
way Elm and rustc do: what was refused, `file:line:column`, the line itself, a caret, and how to mend it.

    E0100 not readable at all     E0103 not YAML, or beyond a limit   E0106 names what is not there
    E0101 written twice           E0104 wrong type or value           E0107 clashes with another place
    E0102 a key nobody knows      E0105 something is missing          E0108 a ${VARIABLE}
    E0109 a file beside the app file                                  E0110 ignored, and --strict was given

`miniorch explain E0102` teaches each. What is right is told, too: the report (`Report`) says what became of each key.
`run` and `plan` show one line of it, `plan --report` all, and `--strict` refuses a file of which anything is ignored.

Next file: `miniorch/appfile/yaml.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from miniorch.appfile.keys import Verdict
from miniorch.errors import AppFileError

SHOWN_AT_ONCE, NAMED_AT_MOST = 10, 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: file, line and column from 1, and how many characters of that line it takes.

    Line 0: the file as a whole.
    """

    line: int
    column: int
    width: int = 1
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `hint` stands beside the caret, `note` names another place, `remedy` mends it."""

    code: str
    message: str
    place: Place | None = None
    remedy: str = ""
    hint: str = ""
    note: str = ""

    def show(self, name: str, texts: Mapping[str, str]) -> str:
        """Everything but the first line's `error[E....]: ` and the last line's `help: `."""
        shown = [self.message, f"  --> {self.place or name}"]
        if self.place:
            shown += _excerpt(self.place, texts.get(self.place.file, "").splitlines(), self.hint)
        if self.note:
            shown.append(f"note: {self.note}")
        return "\n".join(shown)

    def to_plain(self) -> dict[str, Any]:
        """For `--json`: every field."""
        place = self.place or Place(0, 0)
        return {
            "code": self.code, "message": self.message, "file": place.file, "line": place.line,
            "column": place.column, "hint": self.hint, "note": self.note, "remedy": self.remedy,
        }  # fmt: skip


def _excerpt(place: Place, lines: Sequence[str], hint: str) -> list[str]:
    if not 0 < place.line <= len(lines):
        return []
    text = lines[place.line - 1]
    if len(text) > 200:  # a hostile or generated line: the position must do
        return []
    number = str(place.line)
    # Tabs stay tabs under the line, so that the caret lands where the eye expects it.
    indent = "".join("\t" if letter == "\t" else " " for letter in text[: place.column - 1])
    caret = "^" * max(1, min(place.width, len(text) - place.column + 1))
    return [f"{number} | {text}", f"{' ' * len(number)} | {indent}{caret} {hint}".rstrip()]


def refusal(problems: Sequence[Problem], name: str, texts: Mapping[str, str]) -> AppFileError:
    """One error that holds all problems in the order of their places: the first ten, and how many more there are.

    `name` is the (first) app file's, `texts` what each file holds that a place may name.
    """
    order = {file: number for number, file in enumerate(texts)}
    unique: dict[tuple[str, Place | str], Problem] = {}
    for one in problems:  # what stands under an alias, or is extended, is read, and refused, more than once
        unique.setdefault((one.code, one.place or one.message), one)
    ordered = sorted(unique.values(), key=lambda one: _position(one.place, order))
    details = [one.to_plain() for one in ordered]
    first = ordered[0]
    if len(ordered) == 1:
        return AppFileError(first.show(name, texts), remedy=first.remedy, code=first.code, details=details)
    blocks = []
    for number, problem in enumerate(ordered[:SHOWN_AT_ONCE]):
        head = "" if number == 0 else f"error[{problem.code}]: "
        blocks.append(head + problem.show(name, texts) + (f"\nhelp: {problem.remedy}" if problem.remedy else ""))
    more = len(ordered) - SHOWN_AT_ONCE
    blocks.append(f"{len(ordered)} errors in {name}" + (f", {more} of them not shown" if more > 0 else ""))
    return AppFileError("\n\n".join(blocks), code=first.code, details=details)


def _position(place: Place | None, order: Mapping[str, int]) -> tuple[int, int, int]:
    return (order.get(place.file, -1), place.line, place.column) if place else (-1, 0, 0)


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One key: `services.web.links`."""

    path: str
    verdict: Verdict
    why: str
    place: Place


@dataclass(slots=True)
class Report:
    """The rows in the order of reading. A key that is noted twice keeps the later verdict, and all reasons for it."""

    rows: dict[tuple[str, Place], Row] = field(default_factory=dict)

    def note(self, path: str, verdict: Verdict, why: str, place: Place) -> None:
        old = self.rows.get((path, place))
        if old is not None and old.why and why and why not in old.why and old.verdict is verdict:
            why = f"{old.why}; {why}"
        self.rows[path, place] = Row(path, verdict, why, place)

    def of(self, verdict: Verdict) -> list[Row]:
        return [row for row in self.rows.values() if row.verdict is verdict]

    def summary(self) -> str:
        """One line about what is not honoured; "" when everything is."""
        parts = []
        for verdict in (Verdict.APPROXIMATED, Verdict.IGNORED):
            rows = self.of(verdict)
            names = list(dict.fromkeys(row.path.rsplit(".", 1)[-1] for row in rows))
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            if rows:
                parts.append(f"{len(rows)} {verdict.value} ({', '.join(names[:NAMED_AT_MOST])}{more})")
        return f"keys of the file: {', '.join(parts)}; plan --report says how and why" if parts else ""

    def lines(self) -> list[str]:
        """Every key in aligned columns, and a count."""
        ordered = sorted(self.rows.values(), key=lambda row: (row.place.file, row.place.line, row.place.column))
        rows = [(str(row.place), row.path, row.verdict.value, row.why) for row in ordered]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        padded = ["  ".join([*(row[n].ljust(widths[n]) for n in range(3)), row[3]]).rstrip() for row in rows]
        counts = Counter(row.verdict for row in self.rows.values())
        return [*padded, ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in list(Verdict)[:4])]

    def to_plain(self) -> list[dict[str, Any]]:
        """For `--json`."""
        return [
            {"key": row.path, "verdict": row.verdict.value, "why": row.why, "file": row.place.file,
             "line": row.place.line, "column": row.place.column}
            for row in self.rows.values()
        ]  # fmt: skip

    def ignored_as_problems(self) -> list[Problem]:
        """What `--strict` refuses."""
        return [
            Problem("E0110", f"{row.path} would be ignored: {row.why}", row.place, "delete it")
            for row in self.of(Verdict.IGNORED)
        ]
