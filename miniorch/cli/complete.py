"""What a shell offers when Tab is pressed: commands, options, and the names of what is there at this moment.

The problem: a completion that is slow, or that prints an error into somebody's half-written line, is worse than none.
The idea: three short scripts (`completion.bash`, `.zsh`, `.fish`) ask `miniorch __complete WORDS...`, whose last word
is the one to be completed. It prints a candidate and a word about it per line, or `:files` where the shell should offer
files. What can stand at a place click finds in the command tree, and the metavar there says what kind of name. Live
names come over a bare socket (importing `transport.py` would double the time), within 300 ms all together, and whatever
goes wrong, nothing is printed.

Who does this for real: kubectl and gh, with the same hidden command. Next file: `scripts/reference.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LESSONS = Path(__file__).parents[1] / "lessons.md"
LIMIT_SECONDS = 0.3  # unless MINIORCH_COMPLETION_SECONDS says otherwise
FILES = ":files"


def completion(shell: str) -> None:
    """Print what `eval` (bash, zsh) or `source` (fish) makes completion of."""
    print(Path(__file__).with_name(f"completion.{shell}").read_text(), end="")


def complete(words: Sequence[str]) -> int:
    """Print the candidates for the last word. Never an error, whatever happens."""
    with contextlib.suppress(Exception):
        *before, current = words or [""]
        found = [one for one in candidates(before, current) if one[0].startswith(current) or one[0] == FILES]
        print("\n".join("\t".join(one).rstrip() for one in dict.fromkeys(found)))
    return 0


class Names:
    """The names of what is there, from the server, all within one limit."""

    def __init__(self, path: str = "", limit_seconds: float = 0.0) -> None:
        name = os.environ.get("MINIORCH_LAB", "lab")
        lab = Path(f"/run/miniorch-lab{f'-{name}' * (name != 'lab')}/current")  # as in contexts.py
        near = f"{os.environ.get('MINIORCH_RUN_DIR', '/run/miniorch')}/api.sock"
        in_lab = lab.exists() and "MINIORCH_RUN_DIR" not in os.environ
        self._path = path or (lab.read_text().split()[0] if in_lab else near)
        self._limit = limit_seconds or float(os.environ.get("MINIORCH_COMPLETION_SECONDS", LIMIT_SECONDS))
        self._deadline = 0.0  # from the first question on

    def of(self, word: str) -> Iterator[tuple[str, str]]:
        """What may stand where a metavar says APP, APP/SERVICE, TASK, ...; each with a word about it."""
        match word:
            case "APP":
                yield from ((one["name"], "app") for one in self._list("apps"))
            case "APP/SERVICE" | "APP/SERVICE=N":
                end = "=" if word.endswith("=N") else ""
                for one in self._list("services"):
                    yield f"{one['app']}/{one['name']}{end}", one["spec"]["task"]["image"]
            case "TASK" | "TASK:PATH":
                for one in self._list("tasks"):
                    yield f"{one['app']}/{one['service']}.{one['slot']}{word[4:5]}", "task"
            case "NODE":
                yield from ((one["name"], "node") for one in self._list("nodes"))
            case "CONTEXT":
                from miniorch.contexts import LOCAL_NAME, known

                yield from ((one, "context") for one in (LOCAL_NAME, *known()))
            case "CODE":
                yield from re.findall(r"^## (E\d{4}) *(.*)", LESSONS.read_text(), re.M)
            case "FILE" | "PATH" | "FOLDER":
                yield FILES, ""

    def _list(self, kind: str) -> list[Any]:
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(self._left())
                wire.connect(self._path)
                wire.sendall(f"GET /v1/{kind} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                while part := wire.recv(1 << 18):
                    answer += part
                    wire.settimeout(self._left())
            items: list[Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["items"]
        except (OSError, ValueError, KeyError):
            return []
        return items

    def _left(self) -> float:
        self._deadline = self._deadline or time.monotonic() + self._limit
        return max(0.001, self._deadline - time.monotonic())


def candidates(before: Sequence[str], current: str) -> Iterator[tuple[str, str]]:
    """What may come after the words `before`, each with a word about it; after a command that is not there, nothing."""
    import click
    from click.shell_completion import ShellComplete

    from miniorch.cli.tree import app

    command: click.Command | None = app
    for word in before:
        if isinstance(command, click.Group) and not word.startswith("-"):
            command = command.commands.get(word)
    if isinstance(command, click.Group) and not current.startswith("-"):
        yield from ((name, (one.help or "").partition(".")[0]) for name, one in command.commands.items())
    elif command is not None:
        for item in ShellComplete(app, {}, "miniorch", "").get_completions([*before], current):
            yield item.value, item.help or ""


def named(metavar: str) -> Iterator[tuple[str, str]]:
    """The names of what is there that a metavar such as `APP/SERVICE|TASK` speaks of."""
    names = Names()
    for word in metavar.strip("[]").split("|"):
        yield from names.of(word)
