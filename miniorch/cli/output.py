"""What a person sees: tables, durations, and whether this is a terminal at all.

On a terminal a table is drawn by rich, which is imported only then: it costs as much time as everything else together.
In a pipe it is plain aligned columns, one line per row and never cut, so that `grep` and `cut` work.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from miniorch.codec import to_plain
from miniorch.errors import MiniorchError, UsageError

COLOURS = {
    "running": "green", "starting": "yellow", "preparing": "yellow", "pending": "magenta", "new": "magenta",
    "failed": "red", "rejected": "red", "lost": "red", "ok": "green", "bad": "red",
}  # fmt: skip


def terminal() -> bool:
    """Whether redrawn lines and colours make sense here. `ACCESSIBLE=1` says no: screen readers read every redraw."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("ACCESSIBLE")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print rows below their headings, or `empty` when there are none."""
    if not rows:
        print(empty)
    elif terminal():
        _rich_table(head, rows)
    else:
        columns = range(len(head))
        widths = [max(len(row[column]) for row in (head, *rows)) for column in columns]
        for row in (head, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(drawn)


def as_json(value: object) -> None:
    print(json.dumps(to_plain(value), indent=2, ensure_ascii=False))


def ago(seconds: float) -> str:
    """A duration in its largest unit: `12s`, `3m`, `5h`, `2d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (unit == "m" and seconds >= size):
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def show_error(error: MiniorchError) -> None:
    """One message and one remedy, on stderr, the most important line last."""
    sys.stdout.flush()
    print(f"error[{error.code}]: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"help: {error.remedy}", file=sys.stderr)


def confirm(question: str, *, yes: bool, no_input: bool) -> None:
    """Ask before data dies. Raises `UsageError` where nobody can be asked, or when the answer is not yes."""
    if yes:
        return
    if no_input or not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here.", remedy="add --yes if that is meant")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done")


def sentence(items: Sequence[Any]) -> str:
    """`a, b and c`."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
