"""The command tree, and what becomes of errors. Each command imports what it needs when it is called.

The problem: a command line that needs half a second to say `--help` feels broken, and a traceback tells a user that
somebody else's program is. The idea: this file imports typer and nothing else; and every error ends as one message,
one remedy and an exit code that a script can read. A bug of ours is one line and the path of a file with the rest.

Next file: `run.py`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from miniorch.errors import MiniorchError

EXIT_CODES = """\b
Exit codes: 0 done and true; 1 the app failed; 2 wrong usage; 3 app file refused; 4 accepted but not placed;
5 server or Docker not reachable; 6 not allowed; 7 conflict; 130 interrupted, the app goes on.

Example: miniorch run examples/dockchat.yml
"""

app = typer.Typer(
    help="A container orchestrator small enough to read in an afternoon and real enough to run.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

File = Annotated[str, typer.Argument(metavar="FILE", help="The app file (Compose format).")]
App = Annotated[str, typer.Argument(metavar="[APP]", help="Only this app.")]
Name = Annotated[str, typer.Option("--name", help="The app's name instead of the file's.", metavar="NAME")]
Images = Annotated[
    list[str], typer.Option("--image", metavar="SERVICE=IMAGE", help="Run this image instead. May be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the outcome.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Never ask; refuse what would need a question.")]


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (also MINIORCH_DEBUG=1).")
    ] = False,
) -> None:
    if debug:  # `main` takes it out of the arguments wherever it stands; this is for the help page
        os.environ["MINIORCH_DEBUG"] = "1"


@app.command(epilog="Example: miniorch run examples/dockchat.yml --image db=mongo:4.4")
def run(
    file: File,
    name: Name = "",
    image: Images = [],  # noqa: B006
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until the app is up.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to wait.")] = 300.0,
    quiet: Quiet = False,
) -> None:
    """Run an app file and wait until the app truly answers. Starts miniorch if it does not run yet."""
    from miniorch.cli import run as command

    try:
        command.run(file, name, image, detach=detach, timeout=timeout, quiet=quiet)
    except KeyboardInterrupt:
        print("\ninterrupted; the app goes on: miniorch ps", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command(epilog="Example: miniorch plan examples/dockchat.yml")
def plan(file: File, name: Name = "", image: Images = []) -> None:  # noqa: B006
    """Show what run would change, and change nothing."""
    from miniorch.cli import run as command

    command.plan(file, name, image)


@app.command(epilog="Example: miniorch ps dockchat")
def ps(
    app: App = "",
    ended: Annotated[bool, typer.Option("--all", "-a", help="Also tasks that have ended.")] = False,
    json: Json = False,
) -> None:
    """List tasks, one line each."""
    from miniorch.cli import show

    show.ps(app, ended=ended, json=json)


@app.command(epilog="Example: miniorch services")
def services(app: App = "", json: Json = False) -> None:
    """List services with their addresses and published ports."""
    from miniorch.cli import show

    show.services(app, json=json)


@app.command(epilog="Example: miniorch logs dockchat/web -f")
def logs(
    name: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="A service, APP/SERVICE.SLOT or a task id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, metavar="LINES", help="How many old lines.")] = 100,
) -> None:
    """Print what containers wrote."""
    from miniorch.cli import logs as command

    command.logs(name, follow=follow, tail=tail)


@app.command(epilog="Example: miniorch scale dockchat/web=3")
def scale(what: Annotated[str, typer.Argument(metavar="APP/SERVICE=N", help="How many tasks are wanted.")]) -> None:
    """Change the number of a service's tasks. The next run of its app file sets it back."""
    from miniorch.cli import change

    change.scale(what)


@app.command(epilog="Example: miniorch explain dockchat/web.1")
def explain(
    name: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="A service, APP/SERVICE.SLOT or a task id.")],
    json: Json = False,
) -> None:
    """Say why a task is where it is. Every node and every rule, also for one that waits."""
    from miniorch.cli import show

    show.explain(name, json=json)


@app.command(epilog="Example: miniorch events dockchat")
def events(
    app: App = "",
    count: Annotated[int, typer.Option("--tail", "-n", min=0, metavar="LINES", help="How many.")] = 50,
    json: Json = False,
) -> None:
    """List what happened, the newest last."""
    from miniorch.cli import show

    show.events(app, count=count, json=json)


@app.command(epilog="Example: miniorch rm dockchat")
def rm(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete the data in its volumes, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
) -> None:
    """Remove an app and wait until it is gone. Its volumes stay unless --volumes is given."""
    from miniorch.cli import change

    change.remove(app, volumes=volumes, yes=yes, no_input=no_input)


@app.command(epilog="Example: miniorch up")
def up(
    pool: Annotated[
        str, typer.Option("--pool", metavar="NETWORK", help="For containers and services; first start.")
    ] = "",
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="This machine's name in the cluster.")] = "",
    systemd: Annotated[bool, typer.Option("--systemd", help="Hand the processes over to systemd.")] = False,
) -> None:
    """Start miniorch's processes here. These are server, net and agent; only what is missing is started."""
    from miniorch.cli import node as command

    command.up(pool, node, systemd=systemd)


@app.command(epilog="Example: miniorch down --all")
def down(
    everything: Annotated[bool, typer.Option("--all", help="Remove all apps, the network and the state, too.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="With --all: delete all volumes' data, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
) -> None:
    """Stop miniorch's processes. Containers and published ports go on unless --all is given."""
    from miniorch.cli import node as command

    command.down(everything=everything, volumes=volumes, yes=yes, no_input=no_input)


@app.command(epilog="Example: miniorch doctor")
def doctor(json: Json = False) -> None:
    """Check whether this machine is fit. Says what was seen, what is wanted, and the command that mends it."""
    from miniorch.cli import doctor as command

    raise typer.Exit(command.doctor(json=json))


@app.command(epilog="Example: miniorch version")
def version(json: Json = False) -> None:
    """Print the version and the cluster's id."""
    from miniorch.cli import show

    show.version(json=json)


def main() -> None:
    """Run a command; never returns."""
    from miniorch.errors import MiniorchError

    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ["MINIORCH_DEBUG"] = "1"
    try:
        app(arguments, prog_name="miniorch")
    except MiniorchError as error:
        sys.exit(_report(error))
    except Exception as error:
        sys.exit(_report_bug(error))


def _report(error: MiniorchError) -> int:
    from miniorch.cli.output import show_error

    if os.environ.get("MINIORCH_DEBUG"):
        import traceback

        traceback.print_exc()
    show_error(error)
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
