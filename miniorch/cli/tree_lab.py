"""The command tree, continued: `miniorch lab`, a whole cluster on this one machine. See `tree.py`."""

from typing import Annotated, Literal

from miniorch.cli.tree import ANOTHERS, OtherCommand, argument, command, group, option

lab = group(
    "lab",
    "A real cluster on this one Linux machine. Each node has its own Docker Engine, address and agent.",
    "miniorch lab up --nodes 3",
)

OneNode = Annotated[str, argument("NODE", "A node of the lab: node2, n2 or 2.")]


@command("lab:up", "miniorch lab up --nodes 3 --label n2:zone=b", of=lab, quiet=True)
def up(
    nodes: Annotated[
        int, option("--nodes N", "How many.  [default: as before, else 3]", min=0, show_default=False)
    ] = 0,
    managers: Annotated[
        int, option("--managers N", "How many of them have a server.  [default: 1]", min=0, max=7, show_default=False)
    ] = 0,
    store: Annotated[
        Literal["sqlite", "etcd"] | None,
        option("--store", "Where servers keep the state.  [default: sqlite, for several managers etcd]"),
    ] = None,
    labels: Annotated[list[str], option("--label NODE:KEY=VALUE", "For placement. May be repeated.")] = [],
    cpus: Annotated[float, option("--cpus N", "Processors of each new node.", min=0.0)] = 0.0,
    memory: Annotated[str, option("--memory SIZE", "Memory of each new node, as in 512m.")] = "",
) -> None:
    """Make the lab, or what is missing of it. The same again after a reboot brings the same cluster back."""


@command("lab:ls", "miniorch lab ls", of=lab)
def ls() -> None:
    """List the nodes of the lab and where its published ports answer."""


@command("lab:exec_", "miniorch lab exec node2 -- docker ps", of=lab, context_settings=ANOTHERS, json=False)
def exec(name: OneNode, command: OtherCommand) -> None:
    """Run a command on a node, as root. Ends with the command's own exit code."""


@command("lab:shell", "miniorch lab shell node2", of=lab, json=False)
def shell(name: OneNode) -> None:
    """Open a shell on a node. Its files are this machine's, but for /etc and /run."""


def _trouble(verb: str, help: str) -> None:
    def words(name: OneNode) -> None: ...

    words.__doc__ = help
    command(f"lab:{verb}", f"miniorch lab {verb} node2", of=lab, name=verb, quiet=True)(words)


_trouble("cut", "Pull a node's network cable. Everything on it goes on, unheard.")
_trouble("heal", "Plug a node's network cable in again.")
_trouble("kill", "Pull a node's power plug. All that runs on it ends at once; its disk stays.")
_trouble("start", "Give a node power again and wait until it is ready. On one that runs, start what is missing.")
_trouble("pause", "Stop time on a node. Its processes stand still in the middle of whatever they do, containers too.")
_trouble("resume", "Let time go on on a paused node.")


@command("lab:load", "miniorch lab load busybox:1", of=lab, quiet=True)
def load(image: Annotated[str, argument("IMAGE", "An image of this machine's Docker Engine.")]) -> None:
    """Copy an image of this machine's Docker Engine to every node that runs."""


@command("lab:down", "miniorch lab down --images", of=lab, quiet=True)
def down(images: Annotated[bool, option("--images", "Remove the images on the nodes' disks, too.")] = False) -> None:
    """Remove the lab with all its apps and data. Only images stay, so that the next one is quick."""
