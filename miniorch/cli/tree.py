"""The command tree: names, options and help of all commands, and nothing that works.

The problem: a command line that needs half a second to say `--help` feels broken. The idea: this file imports typer
and nothing else; each command imports what it needs when it is called. The same tree makes the help, docs/cli.md, the
man pages (`reference.py`) and what a shell completes (`complete.py`): a metavar such as APP/SERVICE|TASK says what
kind of name stands there.

The commands about this machine and the whole cluster: `tree_machine.py`. Next file: `run.py`.
"""

import os
from enum import StrEnum
from typing import Annotated

import typer

EXIT_CODES = """\b
Exit codes: 0 done and true; 1 the app failed; 2 wrong usage; 3 app file refused; 4 accepted but not placed;
5 server or Docker not reachable; 6 not allowed; 7 conflict; 130 interrupted, the app goes on.

Example: miniorch run examples/dockchat.yml
"""

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

app = typer.Typer(
    help="A container orchestrator small enough to read in an afternoon and real enough to run.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def group(name: str, help: str, example: str) -> typer.Typer:
    """Commands that stand under one name: `miniorch lab up`."""
    own = typer.Typer(
        help=help, epilog=f"Example: {example}", no_args_is_help=True, rich_markup_mode=None, context_settings=HELP
    )
    app.add_typer(own, name=name)
    return own


class Goal(StrEnum):
    """What `wait` may wait for."""

    UP = "up"
    ENDED = "ended"
    GONE = "gone"


File = Annotated[
    str, typer.Argument(metavar="[FILE]", help="The app file; - is standard input. Without one: compose.yaml here.")
]
Files = Annotated[
    list[str],
    typer.Option("--file", "-f", metavar="FILE", help="An app file; further ones are laid over the first."),
]
AppName = Annotated[str, typer.Option("--name", help="The app's name instead of the file's.", metavar="NAME")]
Images = Annotated[
    list[str], typer.Option("--image", metavar="SERVICE=IMAGE", help="Run this image instead. May be repeated.")
]
Profiles = Annotated[
    list[str], typer.Option("--profile", metavar="PROFILE", help="Also services of this profile. May be repeated.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a file with keys that would be ignored.")]
OneApp = Annotated[str, typer.Argument(metavar="APP", help="The app.")]
AnyApp = Annotated[str, typer.Argument(metavar="[APP]", help="Only this app.")]
OneService = Annotated[str, typer.Argument(metavar="APP/SERVICE", help="The service.")]
Tasks = Annotated[
    str, typer.Argument(metavar="APP/SERVICE|TASK", help="A service, APP/SERVICE.SLOT or the beginning of a task's id.")
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long to wait.")]
Tail = Annotated[int, typer.Option("--tail", "-n", min=0, metavar="LINES", help="How many old lines.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the outcome.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Pool = Annotated[str, typer.Option("--pool", metavar="NETWORK", help="For containers and services; first start.")]
NodeName = Annotated[str, typer.Option("--node", metavar="NAME", help="This machine's name in the cluster.")]
StoreUrl = Annotated[
    str, typer.Option("--store", metavar="URL", help="sqlite:///PATH or etcd://HOST:PORT,...; kept for later.")
]
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


# --- app files -------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: miniorch run examples/dockchat.yml --image db=mongo:4.4")
def run(
    file: File = "",
    files: Files = [],
    name: AppName = "",
    image: Images = [],
    profile: Profiles = [],
    strict: Strict = False,
    detach: Detach = False,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run an app file and wait until the app truly answers. Starts miniorch if it does not run yet."""
    from miniorch.cli import run as command

    given = command.read([file, *files], name, image, profile, strict=strict)
    command.run(given, detach=detach, timeout=timeout, quiet=quiet, json=json)


@app.command(epilog="Example: miniorch plan examples/dockchat.yml --report")
def plan(
    file: File = "",
    files: Files = [],
    name: AppName = "",
    image: Images = [],
    profile: Profiles = [],
    strict: Strict = False,
    report: Annotated[bool, typer.Option("--report", help="Say of each key what becomes of it.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show what run would change, and change nothing."""
    from miniorch.cli import run as command

    given = command.read([file, *files], name, image, profile, strict=strict)
    command.plan(given, report=report, quiet=quiet, json=json)


@app.command(epilog="Example: miniorch config examples/dockchat.yml")
def config(
    file: File = "",
    files: Files = [],
    name: AppName = "",
    image: Images = [],
    profile: Profiles = [],
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Print an app file as it is understood. All files laid over each other, all variables filled in."""
    from miniorch.cli import run as command

    command.config(command.read([file, *files], name, image, profile, strict=strict), json=json)


# --- looking ---------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: miniorch ps dockchat")
def ps(
    app: AnyApp = "",
    ended: Annotated[bool, typer.Option("--all", "-a", help="Also tasks that have ended.")] = False,
    json: Json = False,
) -> None:
    """List tasks, one line each. Of a job, also the one that has done its work."""
    from miniorch.cli import show

    show.ps(app, ended=ended, json=json)


@app.command(epilog="Example: miniorch services")
def services(app: AnyApp = "", json: Json = False) -> None:
    """List services with their addresses and published ports."""
    from miniorch.cli import show

    show.services(app, json=json)


@app.command(epilog="Example: miniorch nodes")
def nodes(json: Json = False) -> None:
    """List machines with what they have and what runs there."""
    from miniorch.cli import nodes as command

    command.nodes(json=json)


@app.command(epilog="Example: miniorch logs dockchat/web -f")
def logs(
    name: Tasks,
    follow: Follow = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the tasks that ended last, not of those that run.")
    ] = False,
    tail: Tail = 100,
) -> None:
    """Print what containers wrote."""
    from miniorch.cli import logs as command

    command.logs(name, follow=follow, previous=previous, tail=tail)


@app.command(epilog="Example: miniorch events dockchat -f")
def events(app: AnyApp = "", follow: Follow = False, tail: Tail = 50, json: Json = False) -> None:
    """List what happened, the newest last."""
    from miniorch.cli import history

    history.events(app, follow=follow, count=tail, json=json)


@app.command(epilog="Example: miniorch history dockchat")
def history(app: OneApp, json: Json = False) -> None:
    """List the changes of an app by its file, the newest last."""
    from miniorch.cli import history as command

    command.history(app, json=json)


@app.command(epilog="Example: miniorch explain dockchat/web.1")
def explain(
    name: Annotated[
        str,
        typer.Argument(metavar="APP/SERVICE|TASK|CODE", help="A service, a task, or the code of an error (E0102)."),
    ],
    json: Json = False,
) -> None:
    """Say why a task is where it is, or what an error means. Every node and every rule, also for one that waits."""
    from miniorch.cli import explain as command

    command.explain(name, json=json)


@app.command(epilog="Example: miniorch trace dockchat/web.1 db")
def trace(
    source: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="Who sends. web.1 will do.")],
    target: Annotated[str, typer.Argument(metavar="NAME", help="To whom: db, db.1, an alias or APP/SERVICE.")],
    json: Json = False,
) -> None:
    """Walk a packet from a task to a service. Each step: what the state says, what the kernel holds, what happens."""
    from miniorch.cli import trace as command

    raise typer.Exit(command.trace(source, target, json=json))


@app.command(epilog="Example: miniorch inspect dockchat/web.1")
def inspect(
    name: Annotated[
        str, typer.Argument(metavar="APP|APP/SERVICE|TASK|NODE", help="An app, a service, a task or a node.")
    ],
) -> None:
    """Print all that is known of a thing, as JSON."""
    from miniorch.cli import show

    show.inspect(name)


# --- inside a container ----------------------------------------------------------------------------------------------


@app.command(
    epilog="Example: miniorch exec dockchat/web.1 -- sh",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def exec(
    name: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="A task; of a service, its first.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run there.")],
    tty: Annotated[
        bool | None, typer.Option("--tty/--no-tty", "-t/-T", help="With a terminal.  [default: if this is one]")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Hand over standard input.")] = False,
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="As this user of the container.")] = "",
    workdir: Annotated[str, typer.Option("--workdir", "-w", metavar="FOLDER", help="In this folder.")] = "",
) -> None:
    """Run a command inside a running task. Ends with the command's own exit code."""
    from miniorch.cli import inside

    words = command[1:] if command[0] == "--" else command
    raise typer.Exit(inside.exec_(name, words, tty=tty, interactive=interactive, user=user, workdir=workdir))


@app.command(epilog="Example: miniorch cp dockchat/web.1:/etc/hosts .")
def cp(
    source: Annotated[str, typer.Argument(metavar="TASK:PATH|PATH", help="What; - is a tar archive on stdin.")],
    target: Annotated[str, typer.Argument(metavar="TASK:PATH|PATH", help="Where to; - is a tar archive on stdout.")],
) -> None:
    """Copy files into a task or out of it."""
    from miniorch.cli import inside

    inside.cp(source, target)


@app.command(epilog="Example: miniorch top dockchat/web")
def top(name: Tasks, json: Json = False) -> None:
    """List the processes inside tasks."""
    from miniorch.cli import inside

    inside.top(name, json=json)


# --- changing --------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: miniorch wait dockchat --for up --timeout 60")
def wait(
    name: Annotated[str, typer.Argument(metavar="APP|APP/SERVICE|TASK", help="An app, a service or a task.")],
    goal: Annotated[
        Goal | None, typer.Option("--for", help="What for.  [default: up; of a task: ended]", show_default=False)
    ] = None,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Wait until something is up, has ended, or is gone. Of a task that has ended, its exit code is passed on."""
    from miniorch.cli import wait as command

    raise typer.Exit(command.wait(name, goal.value if goal else "", timeout=timeout, quiet=quiet, json=json))


@app.command(epilog="Example: miniorch restart dockchat/web")
def restart(
    service: OneService, detach: Detach = False, timeout: Timeout = 300.0, quiet: Quiet = False, json: Json = False
) -> None:
    """Replace a service's tasks by new ones, one after the other."""
    from miniorch.cli import wait as command

    command.restart(service, detach=detach, timeout=timeout, quiet=quiet, json=json)


@app.command(epilog="Example: miniorch scale dockchat/web=3")
def scale(
    what: Annotated[str, typer.Argument(metavar="APP/SERVICE=N", help="How many tasks are wanted.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Change the number of a service's tasks. The next run of its app file sets it back."""
    from miniorch.cli import change

    change.scale(what, quiet=quiet, json=json)


@app.command(epilog="Example: miniorch rm dockchat")
def rm(
    app: OneApp,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete the data in its volumes, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove an app and wait until it is gone. Its volumes stay unless --volumes is given."""
    from miniorch.cli import change

    change.remove(app, volumes=volumes, yes=yes, no_input=no_input, quiet=quiet, json=json)


# The rest of the tree, below the names that it uses.
import miniorch.cli.tree_machine  # noqa: E402, I001
import miniorch.cli.tree_cluster  # noqa: E402
import miniorch.cli.tree_nodes  # noqa: E402
import miniorch.cli.tree_lab  # noqa: E402, F401
