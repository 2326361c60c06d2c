"""The command tree, continued: `miniorch nodes` and `miniorch node`, the machines of the cluster. See `tree.py`."""

from typing import Annotated

import typer

from miniorch.cli.tree import Detach, Json, Quiet, Timeout, group

node = group(
    "node",
    "One machine of the cluster. Empty it, take it back, label it, look at it, remove it.",
    "miniorch node drain node2",
)

OneNode = Annotated[str, typer.Argument(metavar="NODE", help="A node's name, as miniorch nodes shows it.")]


@node.command(epilog="Example: miniorch node drain node2")
def drain(name: OneNode, detach: Detach = False, timeout: Timeout = 120.0, json: Json = False) -> None:
    """Move a node's tasks to others, and give it no new ones. What has its volume there stays, and is named."""
    from miniorch.cli import nodes as command

    command.drain(name, detach=detach, timeout=timeout, json=json)


@node.command(epilog="Example: miniorch node activate node2")
def activate(name: OneNode, json: Json = False) -> None:
    """Let a node that was drained take new tasks again."""
    from miniorch.cli import nodes as command

    command.activate(name, json=json)


@node.command(epilog="Example: miniorch node label node2 zone=b disk-")
def label(
    name: OneNode,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="To set, or to take away.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Set a node's labels, or take them away."""
    from miniorch.cli import nodes as command

    command.label(name, labels, quiet=quiet, json=json)


@node.command(epilog="Example: miniorch node inspect node2")
def inspect(name: OneNode, json: Json = False) -> None:
    """Show one node, what runs on it, and which volumes lie there."""
    from miniorch.cli import nodes as command

    command.inspect(name, json=json)


@node.command(epilog="Example: miniorch node rm node2")
def rm(
    name: OneNode,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it is ready, or has the only copy of a volume: that is given up.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove a node from the cluster. Its certificate is refused from then on, and its tasks are lost and replaced."""
    from miniorch.cli import nodes as command

    command.remove(name, force=force, json=json)
