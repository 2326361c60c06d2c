"""Where a command begins, and what becomes of errors.

The problem: a traceback tells a user that somebody else's program is broken, and no script can read it. The idea:
every error ends as one message, one remedy and an exit code; with `--json` also as one object on stdout. A bug of
ours is one line and the path of a file with the rest. Everything is imported when it is needed and not before.

Next file: `tree.py`.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miniorch.errors import MiniorchError


UNWRITABLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
INTERRUPTED, BROKEN_PIPE = 130, 141  # as in output.py, which is not imported for every command


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
    if own[:1] == ["--version"]:
        arguments[0] = "version"
    if sys.stdout is None:  # closed by the caller (`>&-`): then nothing is printed, and all else is as always
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until this process ends)
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # what cannot be written is said here, and not by Python at its very end
    except MiniorchError as error:
        sys.exit(_report(error, json="--json" in own))
    except (KeyboardInterrupt, EOFError):  # EOFError: Ctrl-D at a question
        print("\ninterrupted; miniorch ps says how things stand", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # nobody reads on
        os._exit(BROKEN_PIPE)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            sys.exit(_report_bug(error))
        print(f"error[E0000]: the output cannot be written: {(error.strerror or '').lower()}", file=sys.stderr)
        os._exit(1)  # Python would try to write the rest once more
    except Exception as error:
        sys.exit(_report_bug(error))


def _run(arguments: list[str]) -> None:
    """One command. Not by click's own `main`, which tells of some errors in words of its own, and of Ctrl-C nothing."""
    import click

    from miniorch.cli.tree import app

    try:
        with app.make_context("miniorch", list(arguments) or ["--help"]) as context:
            app.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:  # a group of commands, and none of them named
        print(error.message)
    except click.UsageError as error:
        from miniorch.cli.misuse import refusal

        raise (refusal(error, error.ctx) if error.ctx else error) from None


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
