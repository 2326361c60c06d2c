"""The command tree, continued: this machine, and the cluster as a whole. See `tree.py`."""

from typing import Annotated, Literal

import typer

from miniorch.cli.tree import Json, NodeName, NoInput, Pool, Quiet, StoreUrl, Yes, command, group


@command("node:up", "miniorch up")
def up(
    pool: Pool = "",
    node: NodeName = "",
    store: StoreUrl = "",
    systemd: Annotated[bool, typer.Option("--systemd", help="Hand the processes over to systemd.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Start miniorch's processes here. These are server, net and agent; only what is missing is started."""


@command("node:down", "miniorch down --all")
def down(
    everything: Annotated[bool, typer.Option("--all", help="Remove all apps, the network and the state, too.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="With --all: delete all volumes' data, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Stop miniorch's processes. Containers and published ports go on unless --all is given."""


PassphraseFile = Annotated[
    str,
    typer.Option(
        "--passphrase-file", metavar="PATH", help="Its first line. Else MINIORCH_PASSPHRASE, or you are asked."
    ),
]


@command("backup:backup", "miniorch backup cluster.backup")
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; what stands there is replaced.")],
    passphrase_file: PassphraseFile = "",
    no_input: NoInput = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Save all that is wished and known in one encrypted file. Without the data in volumes, and without events."""


@command("backup:restore", "miniorch restore cluster.backup")
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What miniorch backup wrote.")],
    store: Annotated[
        str, typer.Option("--store", metavar="URL", help="Into this store.  [default: the one in the state directory]")
    ] = "",
    passphrase_file: PassphraseFile = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also into a store that is not empty: replace all of it.")
    ] = False,
    yes: Yes = False,
    no_input: NoInput = False,
    json: Json = False,
) -> None:
    """Bring back what backup saved, while no server runs. Containers that run are taken over as they are."""


@command("doctor:doctor", "miniorch doctor")
def doctor(json: Json = False) -> None:
    """Check whether this machine is fit. Says what was seen, what is wanted, and the command that mends it."""


net = group("net", "The network between nodes.", "miniorch net verify")


@net.callback()
def net_root() -> None:
    """The network between nodes."""


@command("net:verify", "miniorch net verify --repair", of=net)
def verify(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only this node.")] = "",
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs, and look again.")] = False,
    json: Json = False,
) -> None:
    """Compare every node's kernel with the state. Routes, neighbours, forwarding entries, addresses, rules."""


@command("simulate:simulate", "miniorch simulate --nodes 20 --seed 7 --faults partition,crash")
def simulate(
    seed: Annotated[int, typer.Option("--seed", help="Another seed, another history.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines, each with an agent, an engine and net.")] = 5,
    servers: Annotated[int, typer.Option("--servers", min=1, help="One of them leads.")] = 3,
    seconds: Annotated[
        float, typer.Option("--seconds", min=60.0, help="Virtual ones; the last ones are quiet, so that all can heal.")
    ] = 300.0,
    tasks: Annotated[int, typer.Option("--tasks", min=0, help="Besides those of the example app.")] = 0,
    faults: Annotated[
        str, typer.Option("--faults", metavar="KIND,KIND", help="What breaks: all, none, or kinds such as crash.")
    ] = "all",
    count: Annotated[int, typer.Option("--count", min=1, help="So many seeds, this one and those after it.")] = 1,
    case: Annotated[
        str, typer.Option("--case", metavar="FILE", help="A case that was printed instead; - is standard input.")
    ] = "",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a whole cluster on virtual time and break it. The same seed is the same history; nothing here is touched."""


@command("show:version", "miniorch version")
def version(json: Json = False) -> None:
    """Print the version and the cluster's id. Also: miniorch --version."""


@command("complete:completion", "miniorch completion bash")
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete commands and names. For bash and zsh: eval "$(miniorch completion bash)"."""
