"""The command tree, continued: who belongs to the cluster, its machines and its users. See `tree.py`."""

from typing import Annotated, Literal

from miniorch.cli.tree import Detach, NodeName, Pool, StoreUrl, Timeout, argument, command, group, option

token = group("token", "What admits machines to the cluster. Show, rotate, create, revoke.", "miniorch token show")


MachineRole = Literal["worker", "manager"]
OneRole = Annotated[MachineRole, option("--role", "What a machine becomes that joins with it.")]


@command("cluster:init", "miniorch init --advertise 192.0.2.11", quiet=True)
def init(
    advertise: Annotated[str, option("--advertise ADDRESS", "This machine's, where the others reach it.")] = "",
    pool: Pool = "",
    node: NodeName = "",
    store: StoreUrl = "",
) -> None:
    """Let other machines join this one. What runs here goes on. Prints the line that makes another machine join."""


@command("cluster:join", "miniorch join --token-file token 192.0.2.11", quiet=True)
def join(
    place: Annotated[str, argument("ADDRESS[:PORT]", "A manager's.")],
    token: Annotated[str, option("--token TOKEN", "What init printed; - is standard input.")] = "",
    token_file: Annotated[str, option("--token-file PATH", "The token is in this file.")] = "",
    node: Annotated[str, option("--node NAME", "This machine's name in the cluster.  [default: the host's]")] = "",
    manager: Annotated[bool, option("--manager", "Refuse a token that would make a worker.")] = False,
) -> None:
    """Make this machine a node of a cluster. Returns when the node is ready, or says what is missing."""


@command("cluster:show_tokens", "miniorch token show --role worker --quiet", of=token, quiet=True)
def show(role: Annotated[MachineRole | None, option("--role", "Only this one.")] = None) -> None:
    """Print the standing tokens with their join lines, and what is left of the others' lives."""


@command("cluster:rotate_token", "miniorch token rotate --role worker", of=token, quiet=True)
def rotate(role: OneRole = "worker") -> None:
    """Replace a standing token. The old one admits nobody any more; who has joined with it stays."""


@command("cluster:create_token", "miniorch token create --role worker --ttl 2h", of=token, quiet=True)
def create(
    role: OneRole = "worker", ttl: Annotated[str, option("--ttl TIME", "30m, 24h, 7d; 0 is for ever.")] = "24h"
) -> None:
    """Make a further token with an end, and print it once."""


@command("cluster:revoke_token", "miniorch token revoke k3m9x2ab", of=token)
def revoke(token: Annotated[str, argument("TOKEN", "Its id, as token show prints it.")]) -> None:
    """End a created token before its time."""


context = group(
    "context", "Which cluster commands speak to. For a laptop, and for users with fewer rights.", "miniorch context ls"
)


OneContext = Annotated[str, argument("CONTEXT", "A context's name, as context ls shows it.")]


@command("context:ls", "miniorch context ls", of=context, name="ls")
def context_ls() -> None:
    """List the contexts of this user, and which one is in use."""


@command("context:use", "miniorch context use laptop", of=context, name="use")
def context_use(name: OneContext) -> None:
    """Speak to this cluster from now on. The name local is this machine."""


@command(
    "context:create",
    "miniorch context create laptop --role deploy > laptop.context",
    of=context,
    name="create",
    json=False,
)
def context_create(
    name: Annotated[str, argument("NAME", "The user's name in the cluster.")],
    role: Annotated[Literal["admin", "deploy", "view"], option("--role", "What the user may do.")] = "view",
    ttl: Annotated[str, option("--ttl TIME", "How long: 12h, 90d.")] = "90d",
) -> None:
    """On a manager: make a certificate for a user, and print it as a file for context add."""


@command("context:add", "miniorch context add laptop.context", of=context, name="add")
def context_add(
    file: Annotated[str, argument("FILE", "What context create printed; - is standard input.")],
    name: Annotated[str, option("--name NAME", "Its name here.  [default: the file's]")] = "",
) -> None:
    """Take in a context and use it."""


@command("context:rm", "miniorch context rm laptop", of=context, name="rm")
def context_rm(name: OneContext) -> None:
    """Forget a context here."""


@command("context:revoke", "miniorch context revoke laptop", of=context, name="revoke")
def context_revoke(name: Annotated[str, argument("NAME", "The user's name in the cluster.")]) -> None:
    """On a manager: refuse a user's certificate from now on."""


node = group(
    "node",
    "One machine of the cluster. Empty it, take it back, label it, look at it, remove it.",
    "miniorch node drain node2",
)

OneNode = Annotated[str, argument("NODE", "A node's name, as miniorch nodes shows it.")]


@command("nodes:drain", "miniorch node drain node2", of=node)
def drain(name: OneNode, detach: Detach = False, timeout: Timeout = 120.0) -> None:
    """Move a node's tasks to others, and give it no new ones. What has its volume there stays, and is named."""


@command("nodes:activate", "miniorch node activate node2", of=node)
def activate(name: OneNode) -> None:
    """Let a node that was drained take new tasks again."""


@command("nodes:label", "miniorch node label node2 zone=b disk-", of=node, quiet=True)
def label(
    name: OneNode, words: Annotated[list[str], argument("KEY=VALUE|KEY-...", "To set, or to take away.")]
) -> None:
    """Set a node's labels, or take them away."""


@command("nodes:inspect", "miniorch node inspect node2", of=node)
def inspect(name: OneNode) -> None:
    """Show one node, what runs on it, and which volumes lie there."""


@command("nodes:remove", "miniorch node rm node2", of=node)
def rm(
    name: OneNode,
    force: Annotated[
        bool, option("--force", "Also if it is ready, or has the only copy of a volume: that is given up.")
    ] = False,
) -> None:
    """Remove a node from the cluster. Its certificate is refused from then on, and its tasks are lost and replaced."""
