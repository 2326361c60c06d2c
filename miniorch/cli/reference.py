"""`docs/cli.md` from the command tree, so that the page cannot lie. A test compares them.

.venv/bin/python -m miniorch.cli.reference > docs/cli.md
"""

import sys
from typing import Any

import typer

from miniorch.cli.main import EXIT_CODES, app

HEAD = """# The command line

This page is made from the commands' own help: `python -m miniorch.cli.reference > docs/cli.md`.

Options that mean the same everywhere: `--json` prints JSON, `-q` only the outcome, `--yes` answers yes, `--no-input`
refuses to ask, `--debug` (or `MINIORCH_DEBUG=1`) shows the traceback of an error. `ACCESSIBLE=1` turns redrawn lines
off, `NO_COLOR=1` colours. `MINIORCH_RUN_DIR` and `MINIORCH_STATE_DIR` say where sockets and state are.
"""


def page() -> str:
    """The whole page as Markdown."""
    group: Any = typer.main.get_command(app)
    codes = EXIT_CODES.replace("\b\n", "").split("\n\n")[0].replace("\n", " ").removeprefix("Exit codes: ")
    parts = [HEAD, "## Exit codes\n\n" + "\n".join(f"- {code.strip(' .')}" for code in codes.split(";")) + "\n"]
    with typer.Context(group, info_name="miniorch") as above:
        for name, command in group.commands.items():
            with typer.Context(command, info_name=name, parent=above, terminal_width=100) as context:
                parts.append(f"## miniorch {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
