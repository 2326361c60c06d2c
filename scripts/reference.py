"""The pages that are made from the product's own tables, so that they cannot lie; tests compare them.

    .venv/bin/python scripts/reference.py cli > docs/cli.md
    .venv/bin/python scripts/reference.py compose           the tables of docs/compose.md
    .venv/bin/python scripts/reference.py man .cache/man    (make man; then: man -l .cache/man/miniorch-run.1)

A man page is roff: lines that begin with a dot are commands, all others are text; so a dot at the beginning of text,
and every backslash and minus sign, must be escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from miniorch import __version__
from miniorch.appfile.keys import PARTS, Verdict
from miniorch.cli.tree import EXIT_CODES, app

HEAD = """# The command line

This page is made from the commands' own help: `scripts/reference.py cli`. `make man` makes man
pages of the same, `miniorch completion bash` (or zsh, fish) what a shell needs to complete commands and live names.

Options that mean the same everywhere: `--json` prints JSON on stdout (an error as an object, too), `-q` only the
outcome, `--yes` answers yes, `--no-input` refuses to ask, `--debug` (or `MINIORCH_DEBUG=1`) shows the traceback of an
error. Ctrl-C ends the waiting and not what is waited for; what is said then tells how to come back.

In a pipe there are plain columns and at most one line per change of state; `ACCESSIBLE=1` has the same on a terminal.
`NO_COLOR=1` turns colours off, `FORCE_COLOR=1` on. `MINIORCH_COMPLETION_SECONDS` (0.3) is how long a
completion may ask the server for names. `MINIORCH_RUN_DIR` and `MINIORCH_STATE_DIR` say where sockets and
state are, `MINIORCH_CONTEXT` which cluster is spoken to (`miniorch context`),
`MINIORCH_LAB` the name of a lab beside the usual one.
"""


def codes() -> list[str]:
    """The exit codes, one sentence each."""
    text = EXIT_CODES.replace("\b\n", "").split("\n\n")[0].replace("\n", " ").removeprefix("Exit codes: ")
    return [code.strip(" .") for code in text.split(";")]


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Name (of one in a group: both words), command and its context, in the order of the tree."""
    group: Any = app
    with click.Context(group, info_name="miniorch") as above:
        yield from _below(group, above, "")


def _below(group: Any, above: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name, command in group.commands.items():
        with click.Context(command, info_name=name, parent=above, terminal_width=100) as context:
            if hasattr(command, "commands"):
                yield from _below(command, context, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}", command, context


def cli_page() -> str:
    """docs/cli.md."""
    parts = [HEAD, "## Exit codes\n\n" + "\n".join(f"- {code}" for code in codes()) + "\n"]
    for name, command, context in commands():
        parts.append(f"## miniorch {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def man_pages() -> dict[str, str]:
    """File name -> roff, one page per command and one for all."""
    pages, listed = {}, []
    for name, command, context in commands():
        title, usage = f"miniorch-{name.replace(' ', '-')}", command.collect_usage_pieces(context)
        short, _, more = command.help.partition(". ")
        lines = [*_head(title, short.rstrip(".")), ".SH SYNOPSIS", f".B miniorch {_text(name)}", _text(" ".join(usage)),
                 ".SH DESCRIPTION", _text(f"{short.rstrip('.')}. {more}")]  # fmt: skip
        for heading, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
            params = [param for param in command.get_params(context) if param.param_type_name == kind]
            lines += [f".SH {heading}"] * bool(params)
            for param in params:
                term, words = param.get_help_record(context)
                lines += [".TP", f".B {_text(term)}", _text(words)]
        lines += [".SH EXAMPLE", ".EX", _text(command.epilog.removeprefix("Example: ")), ".EE"]
        pages[f"{title}.1"] = "\n".join([*lines, ".SH SEE ALSO", r".BR miniorch (1)", ""])
        listed += [".TP", rf".BR {_text(title)} (1)", _text(f"{short.rstrip('.')}.")]
    about = str(app.help)
    top = [*_head("miniorch", "a small container orchestrator"), ".SH SYNOPSIS", ".B miniorch", "COMMAND [OPTIONS]"]
    top += [".SH DESCRIPTION", _text(about), ".SH COMMANDS", *listed, ".SH EXIT STATUS"]
    for code in codes():
        number, _, words = code.partition(" ")
        top += [".TP", f".B {number}", _text(words)]
    pages["miniorch.1"] = "\n".join([*top, ""])
    return pages


def _head(title: str, short: str) -> list[str]:
    head = f'.TH {_text(title.upper())} 1 "" "miniorch {__version__}"'
    return [head, ".SH NAME", rf"{_text(title)} \- {_text(short)}"]


def _text(words: str) -> str:
    escaped = words.replace("\\", r"\e").replace("-", r"\-").replace("\n", " ")
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped


def compose_tables() -> str:
    """The tables of docs/compose.md."""
    lines = []
    for part in PARTS.values():
        lines += [f"## {part.title}", "", "| key | | |", "| --- | --- | --- |"]
        for key in part.values():
            verdict = "see below" if key.verdict is Verdict.PART else key.verdict.value
            lines.append(f"| `{key.name}` | {verdict} | {key.why} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cli"]:
            sys.stdout.write(cli_page())
        case ["compose"]:
            sys.stdout.write(compose_tables())
        case ["man", folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in man_pages().items():
                Path(folder, name).write_text(text)
        case _:
            sys.exit(__doc__)
