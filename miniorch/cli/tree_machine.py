"""The command tree, continued: this machine, and the cluster as a whole. See `tree.py`."""

from typing import Annotated, Literal

from miniorch.cli.tree import NodeName, NoInput, Pool, StoreUrl, Yes, argument, command, group, option


@command("node:up", "miniorch up", quiet=True)
def up(
    pool: Pool = "",
    node: NodeName = "",
    store: StoreUrl = "",
    systemd: Annotated[bool, option("--systemd", "Hand the processes over to systemd.")] = False,
) -> None:
    """Start miniorch's processes here. These are server, net and agent; only what is missing is started."""


@command("node:down", "miniorch down --all", quiet=True)
def down(
    everything: Annotated[bool, option("--all", "Remove all apps, the network and the state, too.")] = False,
    volumes: Annotated[bool, option("--volumes", "With --all: delete all volumes' data, too.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
) -> None:
    """Stop miniorch's processes. Containers and published ports go on unless --all is given."""


PassphraseFile = Annotated[
    str, option("--passphrase-file PATH", "Its first line. Else MINIORCH_PASSPHRASE, or you are asked.")
]


@command("backup:backup", "miniorch backup cluster.backup", quiet=True)
def backup(
    file: Annotated[str, argument("FILE", "Where to; what stands there is replaced.")],
    passphrase_file: PassphraseFile = "",
    no_input: NoInput = False,
) -> None:
    """Save all that is wished and known in one encrypted file. Without the data in volumes, and without events."""


@command("backup:restore", "miniorch restore cluster.backup")
def restore(
    file: Annotated[str, argument("FILE", "What miniorch backup wrote.")],
    store: Annotated[str, option("--store URL", "Into this store.  [default: the one in the state directory]")] = "",
    passphrase_file: PassphraseFile = "",
    force: Annotated[bool, option("--force", "Also into a store that is not empty: replace all of it.")] = False,
    yes: Yes = False,
    no_input: NoInput = False,
) -> None:
    """Bring back what backup saved, while no server runs. Containers that run are taken over as they are."""


@command("doctor:doctor", "miniorch doctor")
def doctor() -> None:
    """Check whether this machine is fit. Says what was seen, what is wanted, and the command that mends it."""


net = group("net", "The network between nodes.", "miniorch net verify")


@net.callback()
def net_root() -> None:
    """The network between nodes."""


@command("net:verify", "miniorch net verify --repair", of=net)
def verify(
    node: Annotated[str, argument("[NODE]", "Only this node.")] = "",
    repair: Annotated[bool, option("--repair", "Mend what differs, and look again.")] = False,
) -> None:
    """Compare every node's kernel with the state. Routes, neighbours, forwarding entries, addresses, rules."""


@command("simulate:simulate", "miniorch simulate --nodes 20 --seed 7 --faults partition,crash", quiet=True)
def simulate(
    seed: Annotated[int, option("--seed", "Another seed, another history.")] = 1,
    nodes: Annotated[int, option("--nodes", "Machines, each with an agent, an engine and net.", min=1)] = 5,
    servers: Annotated[int, option("--servers", "One of them leads.", min=1)] = 3,
    seconds: Annotated[
        float, option("--seconds", "Virtual ones; the last ones are quiet, so that all can heal.", min=60.0)
    ] = 300.0,
    tasks: Annotated[int, option("--tasks", "Besides those of the example app.", min=0)] = 0,
    faults: Annotated[str, option("--faults KIND,KIND", "What breaks: all, none, or kinds such as crash.")] = "all",
    count: Annotated[int, option("--count", "So many seeds, this one and those after it.", min=1)] = 1,
    case: Annotated[str, option("--case FILE", "A case that was printed instead; - is standard input.")] = "",
) -> None:
    """Run a whole cluster on virtual time and break it. The same seed is the same history; nothing here is touched."""


@command("show:version", "miniorch version")
def version() -> None:
    """Print the version and the cluster's id. Also: miniorch --version."""


@command("complete:completion", "miniorch completion bash", json=False)
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], argument("SHELL", "bash, zsh or fish.")]) -> None:
    """Print what makes a shell complete commands and names. For bash and zsh: eval "$(miniorch completion bash)"."""
