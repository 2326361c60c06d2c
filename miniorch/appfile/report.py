"""The import report: what became of each key of an app file, with its place.

`run` and `plan` show one line of it, `plan --report` all, and `--strict` refuses a file of which anything is ignored.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from miniorch.appfile.keys import Verdict
from miniorch.appfile.problems import Place, Problem

NAMED_AT_MOST = 3


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
