"""The command tree: names, options and help of all commands, and nothing that works.

The problem: a command line that needs half a second to say `--help` feels broken. The idea: this file imports typer
and nothing else. A command here is words alone, the signature and its help; `@command` says which function does the
work, and imports it when the command is called. The same tree makes the help, docs/cli.md, the man pages
(`reference.py`) and what a shell completes (`complete.py`): a metavar such as APP/SERVICE|TASK says what kind of name
stands there.

The commands about this machine and the whole cluster: `tree_machine.py`. Next file: `run.py`.
"""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

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


ANOTHERS = {"allow_interspersed_args": False, "ignore_unknown_options": True}  # options behind a name are another's
Words = Callable[..., None]
WORK: list[tuple[Words, str]] = []
"""Each command's words, and `module:function` of what works. A test holds their parameters side by side."""


def command(
    work: str, example: str, *, of: typer.Typer = app, name: str | None = None, **more: Any
) -> Callable[[Words], Words]:
    """A command: its words are the signature that follows, its work is the function `work`, called with the same names.

    What that returns is the exit code, if it returns anything.
    """

    def declare(words: Words) -> Words:
        @functools.wraps(words)
        def call(**given: Any) -> None:
            module, _, function = work.partition(":")
            if code := getattr(importlib.import_module(f"miniorch.cli.{module}"), function)(**given):
                raise typer.Exit(code)

        WORK.append((words, work))
        of.command(name, epilog=f"Example: {example}", **more)(call)
        return words

    return declare


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
OtherCommand = Annotated[
    list[str],
    typer.Argument(
        metavar="COMMAND...", help="What to run there.", callback=lambda words: words[1:] if words[0] == "--" else words
    ),
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
    if_revision: Annotated[
        int | None, typer.Option("--if-revision", metavar="N", help="Only if the app has not changed since. See plan.")
    ] = None,
    detach: Detach = False,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run an app file and wait until the app truly answers. Starts miniorch if it does not run yet."""
    from miniorch.cli import run as command

    given = command.read([file, *files], name, image, profile, strict=strict)
    command.run(given, if_revision=if_revision, detach=detach, timeout=timeout, quiet=quiet, json=json)


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
    """Show what run would change and where each task would go, and change nothing."""
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


@command("show:ps", "miniorch ps dockchat")
def ps(
    app: AnyApp = "",
    ended: Annotated[bool, typer.Option("--all", "-a", help="Also tasks that have ended.")] = False,
    json: Json = False,
) -> None:
    """List tasks, one line each. Of a job, also the one that has done its work."""


@command("show:services", "miniorch services")
def services(app: AnyApp = "", json: Json = False) -> None:
    """List services with their addresses and published ports."""


@command("nodes:nodes", "miniorch nodes")
def nodes(json: Json = False) -> None:
    """List machines with what they have and what runs there."""


@command("whatif:what_if", "miniorch what-if --kill node2", name="what-if")
def what_if(
    kill: Annotated[list[str], typer.Option("--kill", metavar="NODE", help="It loses power. May be repeated.")] = [],
    drain: Annotated[list[str], typer.Option("--drain", metavar="NODE", help="It is drained. May be repeated.")] = [],
    lose: Annotated[
        list[str], typer.Option("--lose", metavar="LABEL=VALUE", help="All nodes with this label lose power.")
    ] = [],
    add: Annotated[
        list[str], typer.Option("--add", metavar="SIZE", help="A node more: cpu=2,memory=4g,label=zone:b.")
    ] = [],
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="NAME", help="All is placed anew: spread, binpack or random.")
    ] = "",
    json: Json = False,
) -> None:
    """Say what would move, what would find no place and what would not be served, and change nothing."""


@command("logs:logs", "miniorch logs dockchat/web -f")
def logs(
    name: Tasks,
    follow: Follow = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the tasks that ended last, not of those that run.")
    ] = False,
    tail: Tail = 100,
) -> None:
    """Print what containers wrote."""


@command("history:events", "miniorch events dockchat -f")
def events(app: AnyApp = "", follow: Follow = False, tail: Tail = 50, json: Json = False) -> None:
    """List what happened, the newest last."""


@command("history:history", "miniorch history dockchat")
def history(app: OneApp, json: Json = False) -> None:
    """List the changes of an app by its file, the newest last."""


@command("explain:explain", "miniorch explain dockchat/web.1")
def explain(
    name: Annotated[
        str,
        typer.Argument(metavar="APP/SERVICE|TASK|CODE", help="A service, a task, or the code of an error (E0102)."),
    ],
    at: Annotated[
        int | None,
        typer.Option("--at", metavar="REVISION", min=0, help="The decision that held then, from its record."),
    ] = None,
    every_node: Annotated[
        bool, typer.Option("--all", "-a", help="A row for each node, a column for each rule.")
    ] = False,
    json: Json = False,
) -> None:
    """Say why a task is where it is or nowhere, and what would help; or what an error means."""


@command("trace:trace", "miniorch trace dockchat/web.1 db")
def trace(
    source: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="Who sends. web.1 will do.")],
    target: Annotated[str, typer.Argument(metavar="NAME", help="To whom: db, db.1, an alias or APP/SERVICE.")],
    json: Json = False,
) -> None:
    """Walk a packet from a task to a service. Each step: what the state says, what the kernel holds, what happens."""


@command("show:inspect", "miniorch inspect dockchat/web.1")
def inspect(
    name: Annotated[
        str, typer.Argument(metavar="APP|APP/SERVICE|TASK|NODE", help="An app, a service, a task or a node.")
    ],
) -> None:
    """Print all that is known of a thing, as JSON."""


# --- inside a container ----------------------------------------------------------------------------------------------


@command("inside:exec_", "miniorch exec dockchat/web.1 -- sh", context_settings=ANOTHERS)
def exec(
    name: Annotated[str, typer.Argument(metavar="APP/SERVICE|TASK", help="A task; of a service, its first.")],
    command: OtherCommand,
    tty: Annotated[
        bool | None, typer.Option("--tty/--no-tty", "-t/-T", help="With a terminal.  [default: if this is one]")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Hand over standard input.")] = False,
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="As this user of the container.")] = "",
    workdir: Annotated[str, typer.Option("--workdir", "-w", metavar="FOLDER", help="In this folder.")] = "",
) -> None:
    """Run a command inside a running task. Ends with the command's own exit code."""


@command("copy:cp", "miniorch cp dockchat/web.1:/etc/hosts .")
def cp(
    source: Annotated[str, typer.Argument(metavar="TASK:PATH|PATH", help="What; - is a tar archive on stdin.")],
    target: Annotated[str, typer.Argument(metavar="TASK:PATH|PATH", help="Where to; - is a tar archive on stdout.")],
) -> None:
    """Copy files into a task or out of it."""


@command("inside:top", "miniorch top dockchat/web")
def top(name: Tasks, json: Json = False) -> None:
    """List the processes inside tasks."""


# --- changing --------------------------------------------------------------------------------------------------------


@command("wait:wait", "miniorch wait dockchat --for up --timeout 60")
def wait(
    name: Annotated[str, typer.Argument(metavar="APP|APP/SERVICE|TASK", help="An app, a service or a task.")],
    goal: Annotated[
        Literal["up", "ended", "gone"] | None,
        typer.Option("--for", help="What for.  [default: up; of a task: ended]", show_default=False),
    ] = None,
    timeout: Timeout = 300.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Wait until something is up, has ended, or is gone. Of a task that has ended, its exit code is passed on."""


@command("wait:restart", "miniorch restart dockchat/web")
def restart(
    name: OneService, detach: Detach = False, timeout: Timeout = 300.0, quiet: Quiet = False, json: Json = False
) -> None:
    """Replace a service's tasks by new ones, one after the other."""


@command("change:scale", "miniorch scale dockchat/web=3")
def scale(
    what: Annotated[str, typer.Argument(metavar="APP/SERVICE=N", help="How many tasks are wanted.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Change the number of a service's tasks. The next run of its app file sets it back."""


@command("change:remove", "miniorch rm dockchat")
def rm(
    app: OneApp,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete the data in its volumes, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove an app and wait until it is gone. Its volumes stay unless --volumes is given."""


# The rest of the tree, below the names that it uses.
import miniorch.cli.tree_machine  # noqa: E402, I001
import miniorch.cli.tree_cluster  # noqa: E402
import miniorch.cli.tree_lab  # noqa: E402, F401
