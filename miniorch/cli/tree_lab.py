"""The command tree, continued: `miniorch lab`, a whole cluster on this one machine. See `tree.py`."""

from typing import Annotated, Literal

import typer

from miniorch.cli.tree import ANOTHERS, Json, OtherCommand, Quiet, command, group

lab = group(
    "lab",
    "A real cluster on this one Linux machine. Each node has its own Docker Engine, address and agent.",
    "miniorch lab up --nodes 3",
)

OneNode = Annotated[str, typer.Argument(metavar="NODE", help="A node of the lab: node2, n2 or 2.")]


@command("lab:up", "miniorch lab up --nodes 3 --label n2:zone=b", of=lab)
def up(
    nodes: Annotated[
        int,
        typer.Option("--nodes", min=0, metavar="N", help="How many.  [default: as before, else 3]", show_default=False),
    ] = 0,
    managers: Annotated[
        int,
        typer.Option(
            "--managers",
            min=0,
            max=7,
            metavar="N",
            help="How many of them have a server.  [default: 1]",
            show_default=False,
        ),
    ] = 0,
    store: Annotated[
        Literal["sqlite", "etcd"] | None,
        typer.Option("--store", help="Where servers keep the state.  [default: sqlite, for several managers etcd]"),
    ] = None,
    labels: Annotated[
        list[str], typer.Option("--label", metavar="NODE:KEY=VALUE", help="For placement. May be repeated.")
    ] = [],
    cpus: Annotated[float, typer.Option("--cpus", min=0.0, metavar="N", help="Processors of each new node.")] = 0.0,
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory of each new node, as in 512m.")] = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make the lab, or what is missing of it. The same again after a reboot brings the same cluster back."""


@command("lab:ls", "miniorch lab ls", of=lab)
def ls(json: Json = False) -> None:
    """List the nodes of the lab and where its published ports answer."""


@command("lab:exec_", "miniorch lab exec node2 -- docker ps", of=lab, context_settings=ANOTHERS)
def exec(name: OneNode, command: OtherCommand) -> None:
    """Run a command on a node, as root. Ends with the command's own exit code."""


@command("lab:shell", "miniorch lab shell node2", of=lab)
def shell(name: OneNode) -> None:
    """Open a shell on a node. Its files are this machine's, but for /etc and /run."""


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


@command("lab:load", "miniorch lab load busybox:1", of=lab)
def load(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image of this machine's Docker Engine.")],
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Copy an image of this machine's Docker Engine to every node that runs."""


@command("lab:down", "miniorch lab down --images", of=lab)
def down(
    images: Annotated[bool, typer.Option("--images", help="Remove the images on the nodes' disks, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove the lab with all its apps and data. Only images stay, so that the next one is quick."""
