"""Where a command begins, and what becomes of errors.

The problem: a traceback tells a user that somebody else's program is broken, and no script can read it. The idea:
every error ends as one message, one remedy and an exit code; with `--json` also as one object on stdout. A bug of
ours is one line and the path of a file with the rest. Everything is imported when it is needed and not before.

Next file: `tree.py`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miniorch.errors import MiniorchError


def main() -> None:
    """Run a command; never returns."""
    from miniorch.errors import MiniorchError

    arguments = sys.argv[1:]
    if arguments[:1] == ["__complete"]:
        from miniorch.cli.complete import complete

        sys.exit(complete(arguments[1:]))
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments  # what follows is another program's
    if "--debug" in own:
        arguments.remove("--debug")
        os.environ["MINIORCH_DEBUG"] = "1"
    try:
        from miniorch.cli.tree import app

        app(arguments, prog_name="miniorch")
    except MiniorchError as error:
        sys.exit(_report(error, json="--json" in own))
    except Exception as error:
        sys.exit(_report_bug(error))


def _report(error: MiniorchError, *, json: bool) -> int:
    from miniorch.cli.output import show_error

    if os.environ.get("MINIORCH_DEBUG"):
        import traceback

        traceback.print_exc()
    show_error(error, json=json)
    return error.exit_code


def _report_bug(error: Exception) -> int:
    """A bug of ours: one line for the person, all the rest into a file."""
    import tempfile
    import traceback

    text = traceback.format_exc()
    if os.environ.get("MINIORCH_DEBUG"):
        print(text, file=sys.stderr)
    with tempfile.NamedTemporaryFile("w", prefix="miniorch-bug-", suffix=".log", delete=False) as file:
        file.write(f"{sys.argv}\n{text}")
    print(f"error[E0000]: this is a bug in miniorch ({type(error).__name__}); details: {file.name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
