"""What a person sees: tables, durations, and whether this is a terminal at all.

In a pipe a table is plain aligned columns, one line per row and never cut, so that `grep` and `cut` work. On a terminal
that is too narrow, the last columns go below the row, wrapped: nothing is cut there either. Colour only repeats what a
word says; `NO_COLOR` turns it off, `FORCE_COLOR` on.
"""

import contextlib
import inspect
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miniorch.codec import to_plain
from miniorch.errors import AppFileError, MiniorchError, UsageError, to_wire

RED, GREEN, YELLOW, MAGENTA = 31, 32, 33, 35
COLOURS = {
    "running": GREEN, "complete": GREEN, "ready": GREEN, "ok": GREEN, "starting": YELLOW, "preparing": YELLOW,
    "warning": YELLOW, "pending": MAGENTA, "new": MAGENTA, "failed": RED, "rejected": RED, "lost": RED, "bad": RED,
    "no": RED, "bold": 1,
}  # fmt: skip
GAP, INDENT = "  ", "    "

INTERRUPTED = 130  # exit code: 128 + SIGINT
BROKEN_PIPE = 141  # exit code: 128 + SIGPIPE, when nobody reads on


def terminal() -> bool:
    """Whether redrawn lines make sense here. `ACCESSIBLE=1` says no: screen readers read every redraw."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("ACCESSIBLE")


def coloured() -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def table(rows: Sequence[Mapping[str, str]], empty: str = "") -> str:
    """Rows below the names of their cells, or `empty` when there are none."""
    if not rows:
        return empty
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "\n".join(layout(list(rows[0]), [list(row.values()) for row in rows], width, coloured()))


def layout(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, colour: bool) -> list[str]:
    """The lines of a table. With a `width`, columns that do not fit stand below their row, each beginning a line."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    beside = len(head)
    while width is not None and beside > 1 and sum(widths[:beside]) + len(GAP) * (beside - 1) > width:
        beside -= 1
    lines = []
    for number, row in enumerate((head, *rows)):
        cells = [_painted(cell, "bold" if number == 0 else cell, colour) for cell in row[:beside]]
        spaces = [" " * (size - len(cell)) for cell, size in zip(row[:beside], widths, strict=False)]
        lines.append(GAP.join(cell + space for cell, space in zip(cells, spaces, strict=True)).rstrip())
        for name, cell in zip(head[beside:], row[beside:], strict=True) if number else ():
            lines += _wrapped(f"{name.lower()}: {cell}", width or 0) if cell else []
    return lines


def _painted(cell: str, look: str, colour: bool) -> str:
    return f"\x1b[{COLOURS[look]}m{cell}\x1b[0m" if colour and look in COLOURS else cell


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)


def json_text(value: object, *, line: bool = False) -> str:
    return json.dumps(to_plain(value), indent=None if line else 2, ensure_ascii=False)


def as_json(value: object, *, line: bool = False) -> None:
    print(json_text(value, line=line), flush=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has found or done: `facts` for programs (`--json`), `words` for people, a command that may come
    `next` (not in a pipe, where nobody reads it), and the exit code.
    """

    facts: Any
    words: str = ""
    next: str = ""
    code: int = 0


def done(words: str, next: str = "", **facts: object) -> Answer:
    """How a command has ended."""
    return Answer(facts, words, next)


def say(work: Callable[..., Any], given: dict[str, Any]) -> int:
    """Do a command's work, print its answer, return the exit code. `--json` makes it quiet. Some print as they go."""
    json, quiet = given.get("json", False), given.get("quiet", False)
    given = {**given, **({"quiet": quiet or json} if "quiet" in given else {})}
    takes = inspect.signature(work).parameters
    answer = work(**{name: value for name, value in given.items() if name not in ("json", "quiet") or name in takes})
    if not isinstance(answer, Answer):
        return answer or 0
    if json:
        as_json(answer.facts)
    elif answer.words:
        print(answer.words)
    if answer.next and sys.stdout.isatty() and not (quiet or json):
        print(f"next: {answer.next}")
    return answer.code


def ago(seconds: float) -> str:
    """A duration in its largest unit: `12s`, `3m`, `5h`, `2d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (unit == "m" and seconds >= size):
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def show_error(error: MiniorchError, *, json: bool = False) -> None:
    """One message and one remedy, on stderr, the most important line last. With `json` also all fields on stdout."""
    if json:
        details = {"details": error.details} if isinstance(error, AppFileError) else {}
        as_json({**to_wire(error), "exit_code": error.exit_code, **details})
    sys.stdout.flush()
    print(f"error[{error.code}]: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"help: {error.remedy}", file=sys.stderr)


def confirm(question: str, *, yes: bool, no_input: bool) -> None:
    """Ask before data dies. Raises `UsageError` where nobody can be asked, or when the answer is not yes."""
    if yes:
        return
    from miniorch.contexts import chosen

    if place := chosen():
        question = f"[{place}] {question}"
    if no_input or not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here.", remedy="add --yes if that is meant")
    with detaching("nothing was done; the same again asks again, --yes does not ask"):
        answer = input(f"{question} [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done", remedy="answer y, or add --yes")


@contextlib.contextmanager
def detaching(words: str) -> Iterator[None]:
    """Ctrl-C ends the looking, not what is looked at: exit code 130 and how to come back. A second one ends at once.

    Ctrl-D at a question says the same.
    """
    try:
        yield
    except (KeyboardInterrupt, EOFError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(f"\n{words}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def sentence(items: Sequence[Any], last: str = "and") -> str:
    """`a, b and c`."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that somebody may have meant; "" if there is none."""
    import difflib

    return next(iter(difflib.get_close_matches(word[:100], list(known), 1)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
