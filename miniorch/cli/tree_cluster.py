"""The command tree, continued: who belongs to the cluster, its machines and its users. See `tree.py`."""

from typing import Annotated, Literal

import typer

from miniorch.cli.tree import Detach, Json, NodeName, Pool, Quiet, StoreUrl, Timeout, command, group

token = group("token", "What admits machines to the cluster. Show, rotate, create, revoke.", "miniorch token show")


MachineRole = Literal["worker", "manager"]
OneRole = Annotated[MachineRole, typer.Option("--role", help="What a machine becomes that joins with it.")]


@command("cluster:init", "miniorch init --advertise 192.0.2.11")
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


@command("cluster:join", "miniorch join --token-file token 192.0.2.11")
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


@command("cluster:show_tokens", "miniorch token show --role worker --quiet", of=token)
def show(
    role: Annotated[MachineRole | None, typer.Option("--role", help="Only this one.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Print the standing tokens with their join lines, and what is left of the others' lives."""


@command("cluster:rotate_token", "miniorch token rotate --role worker", of=token)
def rotate(role: OneRole = "worker", quiet: Quiet = False, json: Json = False) -> None:
    """Replace a standing token. The old one admits nobody any more; who has joined with it stays."""


@command("cluster:create_token", "miniorch token create --role worker --ttl 2h", of=token)
def create(
    role: OneRole = "worker",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="30m, 24h, 7d; 0 is for ever.")] = "24h",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a further token with an end, and print it once."""


@command("cluster:revoke_token", "miniorch token revoke k3m9x2ab", of=token)
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as token show prints it.")], json: Json = False
) -> None:
    """End a created token before its time."""


context = group(
    "context", "Which cluster commands speak to. For a laptop, and for users with fewer rights.", "miniorch context ls"
)


OneContext = Annotated[str, typer.Argument(metavar="CONTEXT", help="A context's name, as context ls shows it.")]


@command("context:ls", "miniorch context ls", of=context, name="ls")
def context_ls(json: Json = False) -> None:
    """List the contexts of this user, and which one is in use."""


@command("context:use", "miniorch context use laptop", of=context, name="use")
def context_use(name: OneContext, json: Json = False) -> None:
    """Speak to this cluster from now on. The name local is this machine."""


@command("context:create", "miniorch context create laptop --role deploy > laptop.context", of=context, name="create")
def context_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name in the cluster.")],
    role: Annotated[Literal["admin", "deploy", "view"], typer.Option("--role", help="What the user may do.")] = "view",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long: 12h, 90d.")] = "90d",
) -> None:
    """On a manager: make a certificate for a user, and print it as a file for context add."""


@command("context:add", "miniorch context add laptop.context", of=context, name="add")
def context_add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What context create printed; - is standard input.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Its name here.  [default: the file's]")] = "",
    json: Json = False,
) -> None:
    """Take in a context and use it."""


@command("context:rm", "miniorch context rm laptop", of=context, name="rm")
def context_rm(name: OneContext, json: Json = False) -> None:
    """Forget a context here."""


@command("context:revoke", "miniorch context revoke laptop", of=context, name="revoke")
def context_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name in the cluster.")], json: Json = False
) -> None:
    """On a manager: refuse a user's certificate from now on."""


node = group(
    "node",
    "One machine of the cluster. Empty it, take it back, label it, look at it, remove it.",
    "miniorch node drain node2",
)

OneNode = Annotated[str, typer.Argument(metavar="NODE", help="A node's name, as miniorch nodes shows it.")]


@command("nodes:drain", "miniorch node drain node2", of=node)
def drain(name: OneNode, detach: Detach = False, timeout: Timeout = 120.0, json: Json = False) -> None:
    """Move a node's tasks to others, and give it no new ones. What has its volume there stays, and is named."""


@command("nodes:activate", "miniorch node activate node2", of=node)
def activate(name: OneNode, json: Json = False) -> None:
    """Let a node that was drained take new tasks again."""


@command("nodes:label", "miniorch node label node2 zone=b disk-", of=node)
def label(
    name: OneNode,
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="To set, or to take away.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Set a node's labels, or take them away."""


@command("nodes:inspect", "miniorch node inspect node2", of=node)
def inspect(name: OneNode, json: Json = False) -> None:
    """Show one node, what runs on it, and which volumes lie there."""


@command("nodes:remove", "miniorch node rm node2", of=node)
def rm(
    name: OneNode,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it is ready, or has the only copy of a volume: that is given up.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove a node from the cluster. Its certificate is refused from then on, and its tasks are lost and replaced."""
