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
BROKEN_PIPE = 141  # as in output.py, which is not imported for every command


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
    if sys.stdout is None:  # closed by the caller (`>&-`): then nothing is printed, and all else is as always
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until this process ends)
    try:
        from miniorch.cli.tree import app

        try:
            app(arguments, prog_name="miniorch")
        finally:
            sys.stdout.flush()  # what cannot be written is said here, and not by Python at its very end
    except MiniorchError as error:
        sys.exit(_report(error, json="--json" in own))
    except BrokenPipeError:  # nobody reads on
        os._exit(BROKEN_PIPE)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            sys.exit(_report_bug(error))
        print(f"error[E0000]: the output cannot be written: {(error.strerror or '').lower()}", file=sys.stderr)
        os._exit(1)  # Python would try to write the rest once more
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
