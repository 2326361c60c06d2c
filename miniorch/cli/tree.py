"""The command tree: names, options and help of all commands, and nothing that works.

The problem: a command line that needs half a second to say `--help` feels broken. The idea: a command here is words
alone, one table (`commands.txt`) that click makes a parser and help of; the function that works is imported when the
command is called, with what the parameters are called. The same tree makes docs/cli.md and the man pages
(`scripts/reference.py`), refuses wrong usage (`misuse.py`) and is what a shell completes (`complete.py`).

Next file: `run.py`.
"""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ABOUT = "A container orchestrator small enough to read in an afternoon and real enough to run."
EXIT_CODES = """\b
Exit codes: 0 done and true; 1 the app failed; 2 wrong usage; 3 app file refused; 4 accepted but not placed;
5 server or Docker not reachable; 6 not allowed; 7 conflict; 130 interrupted, the app goes on.

Example: miniorch run examples/dockchat.yml
"""
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
NUMBERS: dict[str, Any] = {"whole": (int, click.IntRange), "number": (float, click.FloatRange)}


class Command(click.Command):
    """One that says what its arguments are, and which command a wrong word was for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if rows := [one.get_help_record(ctx) for one in self.params if isinstance(one, click.Argument)]:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)


class Group(Command, click.Group):
    """Several commands, listed as they stand in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _do(work: str, **given: Any) -> None:
    """The work `module:function` of a command."""
    from miniorch.cli.output import say

    module, _, function = work.partition(":")
    if code := say(getattr(importlib.import_module(f"miniorch.cli.{module}"), function), given):
        raise click.exceptions.Exit(code)


def _tree(text: str) -> Group:
    # `main` takes it out of the arguments wherever it stands; this is for the help page.
    debug = _option("--debug  flag  Show the traceback of an error (also MINIORCH_DEBUG=1).")
    app = Group("miniorch", context_settings=HELP, params=[debug], help=ABOUT, epilog=EXIT_CODES)
    shared: dict[str, list[click.Parameter]] = {}
    command: click.Command = app
    for line in text.splitlines():
        if line.startswith("["):
            command = _declare(app, line)
        elif line.startswith("@") and command is app:
            name, line = re.split(" +", line, maxsplit=1)
            shared.setdefault(name, []).append(_option(line))
        elif line.startswith("@"):
            command.params += [param for name in line.split() for param in shared[name]]
        elif line and not command.help:
            command.help = line
        elif line and not line.startswith("#"):
            command.params.append(_option(line))
            if command.params[-1].metavar == "COMMAND...":  # options behind a name are another's
                command.allow_interspersed_args, command.ignore_unknown_options = False, True
    return app


def _declare(app: Group, line: str) -> click.Command:
    """What `[lab up] lab:up  miniorch lab up` says: a command of a group, or without a work a group."""
    head, example = line.split("  ")
    names, _, work = head[1:].partition("]")
    group, _, name = names.rpartition(" ")
    command = Command(name, callback=partial(_do, work.strip())) if work else Group(name, context_settings=HELP)
    command.epilog = f"Example: {example}"
    above = app.commands[group] if group else app
    assert isinstance(above, Group)
    above.add_command(command)
    return command


def _option(line: str) -> click.Parameter:
    """What `--tail -n LINES  whole 0.. = 100  How many.` says; without dashes it is an argument."""
    spelling, kind, words = re.split("  +", line, maxsplit=2)
    names = [word for word in spelling.split() if word[0] == "-" or word.islower()]
    kind, _, default = kind.partition(" = ")
    kind, _, span = kind.partition(" ")
    more: dict[str, Any] = {"metavar": " ".join(spelling.split()[len(names) :]) or None, "help": words}
    if kind in NUMBERS:
        plain, ranged = NUMBERS[kind]
        more["type"] = ranged(*(plain(end) if end else None for end in span.split(".."))) if span else plain
    elif "|" in kind:
        more["type"] = click.Choice(kind.split("|"))
    elif kind != "flag":
        more["shell_complete"] = _live
    if not names[-1].startswith("-"):
        more |= {"default": ""} if str(more["metavar"]).startswith("[") else {"required": True}
        if kind == "command":
            more["callback"] = _without_dashes
        return click.Argument(names, nargs=-1 if kind in ("texts", "command") else 1, **more)
    if kind == "flag":
        more |= {"default": None} if "/" in spelling else {"is_flag": True}
    else:
        more["default"] = default or ("" if kind == "text" else None)
    return click.Option(names, show_default=bool(default), multiple=kind == "texts", **more)


def _without_dashes(context: click.Context, param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if words[:1] == ("--",) else words


def _live(context: click.Context, param: click.Parameter, current: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from miniorch.cli.complete import named

    return [CompletionItem(word, help=about) for word, about in named(param.metavar or "")]


app = _tree(Path(__file__).with_name("commands.txt").read_text())
