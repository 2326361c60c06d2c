"""How waiting looks: on a terminal one live line per service, in a pipe one line per change of a task's state.

At most three lines per task in a pipe (preparing, starting, and how it ended up), whatever happens. With `-q` nothing.
"""

import sys
from collections.abc import Sequence
from typing import Any

from miniorch.cli.output import terminal
from miniorch.cli.progress import Line, Verdict
from miniorch.model import Task, TaskState

TOLD = {
    TaskState.PREPARING: "prepares its image", TaskState.STARTING: "starts", TaskState.RUNNING: "runs",
    TaskState.FAILED: "failed", TaskState.REJECTED: "was rejected", TaskState.COMPLETE: "ended",
}  # fmt: skip
WHY_LETTERS = 120  # the whole reason stands in the final error


class Screen:
    """The quiet one (`-q`): it shows nothing."""

    def show(self, verdict: Verdict, tasks: Sequence[Task]) -> None:
        """What waiting has come to so far."""

    def say(self, message: str) -> None:
        """One line that stays."""

    def close(self) -> None:
        """What stays on the screen stays from now on."""


def open_screen(quiet: bool) -> Screen:
    if quiet:
        return Screen()
    return Live() if terminal() else Plain()


class Plain(Screen):
    """A line when a task enters a state that is told, once. What stood there at the first look is no news."""

    def __init__(self) -> None:
        self._told: set[tuple[str, TaskState]] | None = None
        self._said: set[str] = set()

    def show(self, verdict: Verdict, tasks: Sequence[Task]) -> None:
        seen = {(task.id, task.status.state) for task in tasks if task.status.state in TOLD}
        if self._told is None:
            settled = [task for task in tasks if task.status.state is TaskState.RUNNING or task.status.state.ended]
            self._told = {(task.id, task.status.state) for task in settled}
        for task in tasks:
            state = task.status.state
            if (task.id, state) in seen - self._told:
                why = " ".join(task.status.message.split()) if state.ended else ""
                words, reason = f"{task.name} {TOLD[state]}", f": {why[:WHY_LETTERS]}" if why else ""
                print(f"{words}{' again' if words in self._said else ''}{reason}", flush=True)
                self._said.add(words)
        self._told |= seen

    def say(self, message: str) -> None:
        print(message, flush=True)


class Live(Screen):
    """Redrawn in place by rich, four times a second at most."""

    def __init__(self) -> None:
        self._live: Any = None

    def show(self, verdict: Verdict, tasks: Sequence[Task]) -> None:
        from rich.live import Live as RichLive

        if self._live is None:
            self._live = RichLive(refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(_drawing(verdict.lines))

    def say(self, message: str) -> None:
        if self._live is None:
            print(message, flush=True)
        else:
            self._live.console.print(message, highlight=False, markup=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        sys.stdout.flush()


def _drawing(lines: Sequence[Line]) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for _ in range(3):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in lines:
        done = line.up == line.wanted and not line.words
        count = Text(f"{line.up}/{line.wanted} up", style="green" if done else "yellow")
        grid.add_row(Text(line.service, style="bold"), count, Text(" ".join(line.words.split())))
    return grid
