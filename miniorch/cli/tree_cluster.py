"""The command tree, continued: `init`, `join`, `token`, `context`, who belongs to the cluster. See `tree.py`."""

from enum import StrEnum
from typing import Annotated

import typer

from miniorch.cli.tree import Json, NodeName, Pool, Quiet, StoreUrl, app, group

token = group("token", "What admits machines to the cluster. Show, rotate, create, revoke.", "miniorch token show")


class MachineRole(StrEnum):
    """What a token makes of the machine that joins with it."""

    WORKER = "worker"
    MANAGER = "manager"


OneRole = Annotated[MachineRole, typer.Option("--role", help="What a machine becomes that joins with it.")]


@app.command(epilog="Example: miniorch init --advertise 192.0.2.11")
def init(
    advertise: Annotated[
        str, typer.Option("--advertise", metavar="ADDRESS", help="This machine's, where the others reach it.")
    ] = "",
    pool: Pool = "",
    node: NodeName = "",
    store: StoreUrl = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Let other machines join this one. What runs here goes on. Prints the line that makes another machine join."""
    from miniorch.cli import cluster as command

    command.init(advertise, pool, node, store, quiet=quiet, json=json)


@app.command(epilog="Example: miniorch join --token-file token 192.0.2.11")
def join(
    place: Annotated[str, typer.Argument(metavar="ADDRESS[:PORT]", help="A manager's.")],
    token: Annotated[
        str, typer.Option("--token", metavar="TOKEN", help="What init printed; - is standard input.")
    ] = "",
    token_file: Annotated[str, typer.Option("--token-file", metavar="PATH", help="The token is in this file.")] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="This machine's name in the cluster.  [default: the host's]")
    ] = "",
    manager: Annotated[bool, typer.Option("--manager", help="Refuse a token that would make a worker.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make this machine a node of a cluster. Returns when the node is ready, or says what is missing."""
    from miniorch.cli import cluster as command

    command.join(place, token, token_file, node, manager=manager, quiet=quiet, json=json)


@token.command(epilog="Example: miniorch token show --role worker --quiet")
def show(
    role: Annotated[MachineRole | None, typer.Option("--role", help="Only this one.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Print the standing tokens with their join lines, and what is left of the others' lives."""
    from miniorch.cli import cluster as command

    command.show_tokens(role.value if role else "", quiet=quiet, json=json)


@token.command(epilog="Example: miniorch token rotate --role worker")
def rotate(role: OneRole = MachineRole.WORKER, quiet: Quiet = False, json: Json = False) -> None:
    """Replace a standing token. The old one admits nobody any more; who has joined with it stays."""
    from miniorch.cli import cluster as command

    command.rotate_token(role.value, quiet=quiet, json=json)


@token.command(epilog="Example: miniorch token create --role worker --ttl 2h")
def create(
    role: OneRole = MachineRole.WORKER,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="30m, 24h, 7d; 0 is for ever.")] = "24h",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a further token with an end, and print it once."""
    from miniorch.cli import cluster as command

    command.create_token(role.value, ttl, quiet=quiet, json=json)


@token.command(epilog="Example: miniorch token revoke k3m9x2ab")
def revoke(
    name: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as token show prints it.")], json: Json = False
) -> None:
    """End a created token before its time."""
    from miniorch.cli import cluster as command

    command.revoke_token(name, json=json)


context = group(
    "context", "Which cluster commands speak to. For a laptop, and for users with fewer rights.", "miniorch context ls"
)


class UserRole(StrEnum):
    """What a user may do; the table of all routes is in docs/security.md."""

    ADMIN = "admin"
    DEPLOY = "deploy"
    VIEW = "view"


OneContext = Annotated[str, typer.Argument(metavar="NAME", help="A context's name, as context ls shows it.")]


@context.command("ls", epilog="Example: miniorch context ls")
def context_ls(json: Json = False) -> None:
    """List the contexts of this user, and which one is in use."""
    from miniorch.cli import context as command

    command.ls(json=json)


@context.command("use", epilog="Example: miniorch context use laptop")
def context_use(name: OneContext, json: Json = False) -> None:
    """Speak to this cluster from now on. The name local is this machine."""
    from miniorch.cli import context as command

    command.use(name, json=json)


@context.command("create", epilog="Example: miniorch context create laptop --role deploy > laptop.context")
def context_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name in the cluster.")],
    role: Annotated[UserRole, typer.Option("--role", help="What the user may do.")] = UserRole.VIEW,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long: 12h, 90d.")] = "90d",
) -> None:
    """On a manager: make a certificate for a user, and print it as a file for context add."""
    from miniorch.cli import context as command

    command.create(name, role.value, ttl)


@context.command("add", epilog="Example: miniorch context add laptop.context")
def context_add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What context create printed; - is standard input.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Its name here.  [default: the file's]")] = "",
    json: Json = False,
) -> None:
    """Take in a context and use it."""
    from miniorch.cli import context as command

    command.add(file, name, json=json)


@context.command("rm", epilog="Example: miniorch context rm laptop")
def context_rm(name: OneContext, json: Json = False) -> None:
    """Forget a context here."""
    from miniorch.cli import context as command

    command.rm(name, json=json)


@context.command("revoke", epilog="Example: miniorch context revoke laptop")
def context_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name in the cluster.")], json: Json = False
) -> None:
    """On a manager: refuse a user's certificate from now on."""
    from miniorch.cli import context as command

    command.revoke(name, json=json)
