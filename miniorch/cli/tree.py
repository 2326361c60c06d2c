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
from inspect import Parameter, signature
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


def option(spelling: str, help: str, **more: Any) -> Any:
    """What `--file -f FILE` says: names, and what stands for the value in help."""
    words = spelling.split()
    names = [word for word in words if word.startswith("-")]
    return typer.Option(*names, help=help, metavar=" ".join(words[len(names) :]) or None, **more)


def argument(metavar: str, help: str, **more: Any) -> Any:
    return typer.Argument(metavar=metavar, help=help, **more)


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
    work: str,
    example: str,
    *,
    of: typer.Typer = app,
    name: str | None = None,
    files: bool = False,
    quiet: bool = False,
    json: bool = True,
    **more: Any,
) -> Callable[[Words], Words]:
    """A command: its words are the signature that follows, its work is the function `work`, called with the same names.

    `files` adds all that says which app files, `quiet` and `json` the options that `output.py` alone obeys.
    """

    def declare(words: Words) -> Words:
        @functools.wraps(words)
        def call(**given: Any) -> None:
            from miniorch.cli.output import say

            module, _, function = work.partition(":")
            if code := say(getattr(importlib.import_module(f"miniorch.cli.{module}"), function), given):
                raise typer.Exit(code)

        own = signature(words)
        params = [*FILES * files, *own.parameters.values(), *[QUIET] * quiet, *[JSON] * json]
        call.__signature__ = own.replace(parameters=params)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in params}
        WORK.append((words, work))
        of.command(name, epilog=f"Example: {example}", **more)(call)
        return words

    return declare


def _param(name: str, default: Any, kind: type, words: Any) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, words])


FILES = [
    _param("file", "", str, argument("[FILE]", "The app file; - is standard input. Without one: compose.yaml here.")),
    _param("files", [], list[str], option("--file -f FILE", "An app file; further ones are laid over the first.")),
    _param("name", "", str, option("--name NAME", "The app's name instead of the file's.")),
    _param("image", [], list[str], option("--image SERVICE=IMAGE", "Run this image instead. May be repeated.")),
    _param("profile", [], list[str], option("--profile PROFILE", "Also services of this profile. May be repeated.")),
    _param("strict", False, bool, option("--strict", "Refuse a file with keys that would be ignored.")),
]
QUIET = _param("quiet", False, bool, option("--quiet -q", "Print only the outcome."))
JSON = _param("json", False, bool, option("--json", "Print JSON."))
OneApp = Annotated[str, argument("APP", "The app.")]
AnyApp = Annotated[str, argument("[APP]", "Only this app.")]
OneService = Annotated[str, argument("APP/SERVICE", "The service.")]
Tasks = Annotated[str, argument("APP/SERVICE|TASK", "A service, APP/SERVICE.SLOT or the beginning of a task's id.")]
Detach = Annotated[bool, option("--detach -d", "Do not wait.")]
Timeout = Annotated[float, option("--timeout SECONDS", "How long to wait.", min=0.1)]
Tail = Annotated[int, option("--tail -n LINES", "How many old lines.", min=0)]
Follow = Annotated[bool, option("--follow -f", "Go on as more comes.")]
Pool = Annotated[str, option("--pool NETWORK", "For containers and services; first start.")]
NodeName = Annotated[str, option("--node NAME", "This machine's name in the cluster.")]
StoreUrl = Annotated[str, option("--store URL", "sqlite:///PATH or etcd://HOST:PORT,...; kept for later.")]
OtherCommand = Annotated[
    list[str],
    argument("COMMAND...", "What to run there.", callback=lambda words: words[1:] if words[0] == "--" else words),
]
Yes = Annotated[bool, option("--yes -y", "Do not ask.")]
NoInput = Annotated[bool, option("--no-input", "Never ask; refuse what would need a question.")]


@app.callback()
def root(
    debug: Annotated[bool, option("--debug", "Show the traceback of an error (also MINIORCH_DEBUG=1).")] = False,
) -> None:
    if debug:  # `main` takes it out of the arguments wherever it stands; this is for the help page
        os.environ["MINIORCH_DEBUG"] = "1"


# --- app files -------------------------------------------------------------------------------------------------------


@command("run:run", "miniorch run examples/dockchat.yml --image db=mongo:4.4", files=True, quiet=True)
def run(
    if_revision: Annotated[
        int | None, option("--if-revision N", "Only if the app has not changed since. See plan.")
    ] = None,
    detach: Detach = False,
    timeout: Timeout = 300.0,
) -> None:
    """Run an app file and wait until the app truly answers. Starts miniorch if it does not run yet."""


@command("run:plan", "miniorch plan examples/dockchat.yml --report", files=True, quiet=True)
def plan(report: Annotated[bool, option("--report", "Say of each key what becomes of it.")] = False) -> None:
    """Show what run would change and where each task would go, and change nothing."""


@command("run:config", "miniorch config examples/dockchat.yml", files=True)
def config() -> None:
    """Print an app file as it is understood. All files laid over each other, all variables filled in."""


# --- looking ---------------------------------------------------------------------------------------------------------


@command("show:ps", "miniorch ps dockchat")
def ps(app: AnyApp = "", ended: Annotated[bool, option("--all -a", "Also tasks that have ended.")] = False) -> None:
    """List tasks, one line each. Of a job, also the one that has done its work."""


@command("show:services", "miniorch services")
def services(app: AnyApp = "") -> None:
    """List services with their addresses and published ports."""


@command("nodes:nodes", "miniorch nodes")
def nodes() -> None:
    """List machines with what they have and what runs there."""


@command("whatif:what_if", "miniorch what-if --kill node2", name="what-if")
def what_if(
    kill: Annotated[list[str], option("--kill NODE", "It loses power. May be repeated.")] = [],
    drain: Annotated[list[str], option("--drain NODE", "It is drained. May be repeated.")] = [],
    lose: Annotated[list[str], option("--lose LABEL=VALUE", "All nodes with this label lose power.")] = [],
    add: Annotated[list[str], option("--add SIZE", "A node more: cpu=2,memory=4g,label=zone:b.")] = [],
    strategy: Annotated[str, option("--strategy NAME", "All is placed anew: spread, binpack or random.")] = "",
) -> None:
    """Say what would move, what would find no place and what would not be served, and change nothing."""


@command("logs:logs", "miniorch logs dockchat/web -f", json=False)
def logs(
    name: Tasks,
    follow: Follow = False,
    previous: Annotated[bool, option("--previous -p", "Of the tasks that ended last, not of those that run.")] = False,
    tail: Tail = 100,
) -> None:
    """Print what containers wrote."""


@command("history:events", "miniorch events dockchat -f")
def events(app: AnyApp = "", follow: Follow = False, tail: Tail = 50) -> None:
    """List what happened, the newest last."""


@command("history:history", "miniorch history dockchat")
def history(app: OneApp) -> None:
    """List the changes of an app by its file, the newest last."""


@command("explain:explain", "miniorch explain dockchat/web.1")
def explain(
    name: Annotated[str, argument("APP/SERVICE|TASK|CODE", "A service, a task, or the code of an error (E0102).")],
    at: Annotated[int | None, option("--at REVISION", "The decision that held then, from its record.", min=0)] = None,
    every_node: Annotated[bool, option("--all -a", "A row for each node, a column for each rule.")] = False,
) -> None:
    """Say why a task is where it is or nowhere, and what would help; or what an error means."""


@command("trace:trace", "miniorch trace dockchat/web.1 db")
def trace(
    source: Annotated[str, argument("APP/SERVICE|TASK", "Who sends. web.1 will do.")],
    target: Annotated[str, argument("NAME", "To whom: db, db.1, an alias or APP/SERVICE.")],
) -> None:
    """Walk a packet from a task to a service. Each step: what the state says, what the kernel holds, what happens."""


@command("show:inspect", "miniorch inspect dockchat/web.1", json=False)
def inspect(
    name: Annotated[str, argument("APP|APP/SERVICE|TASK|NODE", "An app, a service, a task or a node.")],
) -> None:
    """Print all that is known of a thing, as JSON."""


# --- inside a container ----------------------------------------------------------------------------------------------


@command("inside:exec_", "miniorch exec dockchat/web.1 -- sh", context_settings=ANOTHERS, json=False)
def exec(
    name: Annotated[str, argument("APP/SERVICE|TASK", "A task; of a service, its first.")],
    command: OtherCommand,
    tty: Annotated[bool | None, option("--tty/--no-tty -t/-T", "With a terminal.  [default: if this is one]")] = None,
    interactive: Annotated[bool, option("--interactive -i", "Hand over standard input.")] = False,
    user: Annotated[str, option("--user -u USER", "As this user of the container.")] = "",
    workdir: Annotated[str, option("--workdir -w FOLDER", "In this folder.")] = "",
) -> None:
    """Run a command inside a running task. Ends with the command's own exit code."""


@command("copy:cp", "miniorch cp dockchat/web.1:/etc/hosts .", json=False)
def cp(
    source: Annotated[str, argument("TASK:PATH|PATH", "What; - is a tar archive on stdin.")],
    target: Annotated[str, argument("TASK:PATH|PATH", "Where to; - is a tar archive on stdout.")],
) -> None:
    """Copy files into a task or out of it."""


@command("inside:top", "miniorch top dockchat/web")
def top(name: Tasks) -> None:
    """List the processes inside tasks."""


# --- changing --------------------------------------------------------------------------------------------------------


@command("wait:wait", "miniorch wait dockchat --for up --timeout 60", quiet=True)
def wait(
    name: Annotated[str, argument("APP|APP/SERVICE|TASK", "An app, a service or a task.")],
    goal: Annotated[
        Literal["up", "ended", "gone"] | None,
        option("--for", "What for.  [default: up; of a task: ended]", show_default=False),
    ] = None,
    timeout: Timeout = 300.0,
) -> None:
    """Wait until something is up, has ended, or is gone. Of a task that has ended, its exit code is passed on."""


@command("wait:restart", "miniorch restart dockchat/web", quiet=True)
def restart(name: OneService, detach: Detach = False, timeout: Timeout = 300.0) -> None:
    """Replace a service's tasks by new ones, one after the other."""


@command("change:scale", "miniorch scale dockchat/web=3", quiet=True)
def scale(what: Annotated[str, argument("APP/SERVICE=N", "How many tasks are wanted.")]) -> None:
    """Change the number of a service's tasks. The next run of its app file sets it back."""


@command("change:remove", "miniorch rm dockchat", quiet=True)
def rm(
    app: OneApp,
    volumes: Annotated[bool, option("--volumes", "Delete the data in its volumes, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
) -> None:
    """Remove an app and wait until it is gone. Its volumes stay unless --volumes is given."""


# The rest of the tree, below the names that it uses.
import miniorch.cli.tree_machine  # noqa: E402, I001
import miniorch.cli.tree_cluster  # noqa: E402
import miniorch.cli.tree_lab  # noqa: E402, F401
