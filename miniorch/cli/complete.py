"""What a shell offers when Tab is pressed: commands, options, and the names of what is there at this moment.

The problem: a completion that is slow, or that prints an error into somebody's half-written line, is worse than none.
The idea: three short scripts (`completion.bash`, `.zsh`, `.fish`) ask `miniorch __complete WORDS...`, whose last word
is the one to be completed. It prints a candidate and a word about it per line, or `:files` where the shell should offer
files. What can stand at a place click finds in the command tree, and the metavar there says what kind of name. Live
names come over a bare socket (importing `transport.py` would double the time), within 300 ms all together, and whatever
goes wrong, nothing is printed.

Who does this for real: kubectl and gh, with the same hidden command. Next file: `scripts/reference.py`.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
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


def named(metavar: str, path: str = "", limit_seconds: float = 0.0) -> Iterator[tuple[str, str]]:
    """The names of what is there that a metavar such as `APP/SERVICE|TASK` speaks of, each with a word about it."""
    limit = limit_seconds or float(os.environ.get("MINIORCH_COMPLETION_SECONDS", LIMIT_SECONDS))
    ask = partial(_items, path or _socket(), time.monotonic() + limit)
    for word in metavar.strip("[]").split("|"):
        match word:
            case "APP":
                yield from ((one["name"], "app") for one in ask("apps"))
            case "APP/SERVICE" | "APP/SERVICE=N":
                end = "=" if word.endswith("=N") else ""
                for one in ask("services"):
                    yield f"{one['app']}/{one['name']}{end}", one["spec"]["task"]["image"]
            case "TASK" | "TASK:PATH":
                for one in ask("tasks"):
                    yield f"{one['app']}/{one['service']}.{one['slot']}{word[4:5]}", "task"
            case "NODE":
                yield from ((one["name"], "node") for one in ask("nodes"))
            case "CONTEXT":
                from miniorch.contexts import LOCAL_NAME, known

                yield from ((one, "context") for one in (LOCAL_NAME, *known()))
            case "CODE":
                yield from re.findall(r"^## (E\d{4}) *(.*)", LESSONS.read_text(), re.M)
            case "FILE" | "PATH" | "FOLDER":
                yield FILES, ""


def _socket() -> str:
    """Where the server listens that is asked, as `contexts.py` has it."""
    name = os.environ.get("MINIORCH_LAB", "lab")
    lab = Path(f"/run/miniorch-lab{f'-{name}' * (name != 'lab')}/current")
    if lab.exists() and "MINIORCH_RUN_DIR" not in os.environ:
        return lab.read_text().split()[0]
    return f"{os.environ.get('MINIORCH_RUN_DIR', '/run/miniorch')}/api.sock"


def _items(path: str, deadline: float, kind: str) -> list[Any]:
    """What the server lists; nothing where it does not answer in time."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(max(0.001, deadline - time.monotonic()))
            wire.connect(path)
            wire.sendall(f"GET /v1/{kind} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while part := wire.recv(1 << 18):
                answer += part
                wire.settimeout(max(0.001, deadline - time.monotonic()))
        items: list[Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["items"]
    except (OSError, ValueError, KeyError):
        return []
    return items
