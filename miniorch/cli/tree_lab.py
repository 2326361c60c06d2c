"""The command tree, continued: `miniorch lab`, a whole cluster on this one machine. See `tree.py`."""

from enum import StrEnum
from typing import Annotated

import typer

from miniorch.cli.tree import Json, Quiet, group


class Store(StrEnum):
    """Where the lab's server keeps its state."""

    SQLITE = "sqlite"
    ETCD = "etcd"


lab = group(
    "lab",
    "A real cluster on this one Linux machine. Each node has its own Docker Engine, address and agent.",
    "miniorch lab up --nodes 3",
)

OneNode = Annotated[str, typer.Argument(metavar="NODE", help="A node of the lab: node2, n2 or 2.")]


@lab.command(epilog="Example: miniorch lab up --nodes 3 --label n2:zone=b")
def up(
    nodes: Annotated[
        int, typer.Option("--nodes", min=0, metavar="N", help="How many.  [default: as before, else 3]")
    ] = 0,
    store: Annotated[
        Store | None, typer.Option("--store", help="Where the server keeps its state.  [default: sqlite]")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NODE:KEY=VALUE", help="For placement. May be repeated.")
    ] = None,
    cpus: Annotated[float, typer.Option("--cpus", min=0.0, metavar="N", help="Processors of each new node.")] = 0.0,
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory of each new node, as in 512m.")] = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make the lab, or what is missing of it. The same again after a reboot brings the same cluster back."""
    from miniorch.cli import lab as command

    command.up(nodes, store.value if store else "", label or [], cpus, memory, quiet=quiet, json=json)


@lab.command(epilog="Example: miniorch lab ls")
def ls(json: Json = False) -> None:
    """List the nodes of the lab and where its published ports answer."""
    from miniorch.cli import lab as command

    command.ls(json=json)


@lab.command(
    epilog="Example: miniorch lab exec node2 -- docker ps",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def exec(
    node: OneNode,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run there.")],
) -> None:
    """Run a command on a node, as root. Ends with the command's own exit code."""
    from miniorch.cli import lab as verbs

    verbs.exec_(node, command[1:] if command[0] == "--" else command)


@lab.command(epilog="Example: miniorch lab shell node2")
def shell(node: OneNode) -> None:
    """Open a shell on a node. Its files are this machine's, but for /etc and /run."""
    from miniorch.cli import lab as command

    command.shell(node)


def _trouble(verb: str, words: str) -> None:
    def command(node: OneNode, quiet: Quiet = False, json: Json = False) -> None:
        from miniorch.cli.lab import trouble

        trouble(verb, node, quiet=quiet, json=json)

    lab.command(verb, help=words, epilog=f"Example: miniorch lab {verb} node2")(command)


_trouble("cut", "Pull a node's network cable. Everything on it goes on, unheard.")
_trouble("heal", "Plug a node's network cable in again.")
_trouble("kill", "Pull a node's power plug. All that runs on it ends at once; its disk stays.")
_trouble("start", "Give a node power again and wait until it is ready. On one that runs, start what is missing.")
_trouble("pause", "Stop time on a node. Its processes stand still in the middle of whatever they do, containers too.")
_trouble("resume", "Let time go on on a paused node.")


@lab.command(epilog="Example: miniorch lab load busybox:1")
def load(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image of this machine's Docker Engine.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Copy an image of this machine's Docker Engine to every node that runs."""
    from miniorch.cli import lab as command

    command.load(image, quiet=quiet, json=json)


@lab.command(epilog="Example: miniorch lab down --images")
def down(
    images: Annotated[bool, typer.Option("--images", help="Remove the images on the nodes' disks, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove the lab with all its apps and data. Only images stay, so that the next one is quick."""
    from miniorch.cli import lab as command

    command.down(images=images, quiet=quiet, json=json)
