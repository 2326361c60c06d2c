"""Bad days, drawn from a seed before the day begins.

The problem: a fault that is rolled while the run goes on cannot be taken out of it without changing everything after.
The idea: faults are data. `draw` makes the whole list first, each kind from a generator of its own, so a failing run
can be shortened by leaving faults out (`shrink.py`), and what is left still happens at the same moments. A `Case` is
all that a run is made from; as JSON it can be kept for ever, as the track record in `tests/simulation` does.

Who does this for real: etcd's robustness tests, Jepsen's nemesis, TigerBeetle's VOPR. Where we differ: what users do
is in the same list, so that shrinking leaves out a scaling as readily as a crash. Next file: `day.py`.
"""

import difflib
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from miniorch.errors import UsageError

JOBS = ("setup", "report")
QUIET_SECONDS = 120.0  # the longest rest at the end of a run
TROUBLE_SHARE = 0.6  # of a short one is before it
LIMITS = {"nodes": (1, 4000), "servers": (1, 99), "seconds": (1, 1_000_000), "tasks": (0, 800_000)}
MOST_TASKS_PER_NODE = 200  # as many subnets and addresses as there are
LONGEST_SECONDS = 600.0  # of a fault


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a moment, to something, for some virtual seconds."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0

    def describe(self) -> str:
        """`12.3 s: partition node3 for 8.1 s`."""
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.at:g} s: {self.kind} {self.target}".rstrip() + lasting


@dataclass(frozen=True, slots=True)
class Case:
    """The same case is the same history. `seconds` are virtual ones; the last part of them is quiet."""

    seed: int
    nodes: int = 5
    servers: int = 3
    seconds: float = 300.0
    tasks: int = 0  # besides the example app's
    faults: tuple[Fault, ...] = ()

    @property
    def quiet_seconds(self) -> float:
        return min(QUIET_SECONDS, (1 - TROUBLE_SHARE) * self.seconds)

    @property
    def trouble_seconds(self) -> float:
        return self.seconds - self.quiet_seconds

    def with_faults(self, kinds: Iterable[str]) -> "Case":
        """The same case with faults drawn by its seed."""
        return replace(self, faults=draw(self, kinds))

    @property
    def machines(self) -> set[str]:
        """The names are those of `world.py`."""
        nodes = {f"node{number}" for number in range(1, self.nodes + 1)}
        return nodes | {f"server{number}" for number in range(1, self.servers + 1)}


Target = Callable[[random.Random, Case], str]


def _one_of(*words: str) -> Target:
    return lambda chance, case: chance.choice(words)


_nothing, _the_store = _one_of(""), _one_of("store")


def _node(chance: random.Random, case: Case) -> str:
    return f"node{chance.randint(1, case.nodes)}"


def _server(chance: random.Random, case: Case) -> str:
    return f"server{chance.randint(1, case.servers)}"


def _machine(chance: random.Random, case: Case) -> str:
    return chance.choice([_node, _server])(chance, case)


def _process(chance: random.Random, case: Case) -> str:
    part = chance.choice(["server", "agent", "agent", "net"])
    return _server(chance, case) if part == "server" else f"{part} {_node(chance, case)}"


def _link(chance: random.Random, case: Case) -> str:
    """Two that talk to each other, in the direction of requests or of answers."""
    one, other = chance.choice([_node, _the_store])(chance, case), _server(chance, case)
    return f"{one} {other}" if chance.random() < 0.5 else f"{other} {one}"


def _cable(chance: random.Random, case: Case) -> str:
    """All of a node's, or one link."""
    return chance.choice([_node, _node, _link])(chance, case)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what is told of it, how often it comes on five nodes, how long it lasts, whom it hits."""

    says: str
    every_seconds: float
    lasts: tuple[float, float] = (0.0, 0.0)
    target: Target = _node


USERS = {  # what users do meanwhile, whatever the faults
    "scale": Kind("web gets another number of replicas", 30.0, target=_one_of("0", "1", "2", "3", "4")),
    "change": Kind("web gets another spec", 40.0, target=_one_of("2", "3", "4", "5")),
    "restart": Kind("a service is restarted by hand", 50.0, target=_one_of("web", *JOBS)),
    "drain": Kind("a node is drained, and takes work again after a while", 90.0, (2.0, 60.0)),
    "label": Kind("a node gets a label", 200.0),
    "remove": Kind("the app is removed, and comes back after a while", 120.0, (0.1, 10.0), _nothing),
}
KINDS = {
    "clock": Kind("a wall clock jumps", 180.0, target=lambda one, _: f"{_machine(one, _)} {one.choice((-3600, 3600))}"),
    "compact": Kind("a server hears nothing of the store, which forgets its history", 100.0, (0.5, 20.0), _server),
    "crash": Kind("a process is killed and starts again", 12.0, (0.1, 8.0), _process),
    "deaf": Kind("an engine's events are lost", 240.0, (2.0, 30.0)),
    "disk": Kind("a node has no space for images and containers", 240.0, (2.0, 30.0)),
    "drift": Kind(
        "a machine's clocks run one per cent faster or slower",
        240.0,
        target=lambda one, _: f"{_machine(one, _)} {one.choice((-0.01, 0.01))}",
    ),
    "elect": Kind("the store changes its own leader: all connections to it break off", 180.0, target=_nothing),
    "engine": Kind("an engine restarts; if it takes more than two seconds its containers live on", 70.0, (0.5, 6.0)),
    "fail": Kind("a job fails for a while", 100.0, (2.0, 30.0), _one_of(*JOBS)),
    "freeze": Kind("the store is silent", 180.0, (0.5, 30.0), _nothing),
    "full": Kind("the store has no space", 240.0, (2.0, 30.0), _nothing),
    "kill": Kind("a container dies", 25.0),
    "loss": Kind("a node loses its power, is removed from the cluster, and joins anew", 240.0, (5.0, 30.0)),
    "oneway": Kind("one direction between two machines is silent", 100.0, (1.0, 30.0), _link),
    "partition": Kind("two machines, or a node and all servers, cannot reach each other", 70.0, (1.0, 40.0), _cable),
    "pause": Kind("a machine stands still and goes on with what it believed before", 100.0, (1.0, 60.0), _machine),
    "power": Kind("a node loses its power", 180.0, (1.0, 40.0)),
    "pull": Kind("an image cannot be had", 240.0, (2.0, 20.0), _one_of("mongo:7", "dockchat-web", *JOBS)),
    "refuse": Kind("an engine answers many requests with an error", 180.0, (2.0, 20.0)),
    "reset": Kind("all connections between two machines break off", 100.0, target=_link),
    "restore": Kind("the store comes back as it was a while ago", 600.0, (1.0, 20.0), _nothing),
    "rough": Kind("the store is slow, and often does not say whether something was done", 100.0, (2.0, 30.0), _nothing),
    "sick": Kind("a container becomes unhealthy", 100.0),
    "slow": Kind("an engine takes ten times as long", 180.0, (2.0, 30.0)),
    "weather": Kind("the network delays, loses and repeats, and is never as good again", 70.0, (2.0, 20.0), _nothing),
}
KNOWN = {**USERS, **KINDS}


def draw(case: Case, kinds: Iterable[str]) -> tuple[Fault, ...]:
    """All faults of a run, by time, and all over when it gets quiet. Ten times the nodes, about three times the faults
    of nodes; the servers, the store and the app are the same few, and have no more of them than in a small cluster.

    Each kind has its own generator and its own gaps: fewer kinds, fewer nodes or fewer seconds shift nothing else.
    """
    often, seconds = max(1.0, (case.nodes / 5) ** 0.5), case.trouble_seconds
    faults = []
    for name in dict.fromkeys((*USERS, *kinds)):
        kind, chance, at = KNOWN[name], random.Random(f"{case.seed} {name}"), 0.0
        while (at := at + chance.uniform(0.0, 2 * kind.every_seconds / often)) < seconds - 0.01:
            lasting = min(chance.uniform(kind.lasts[0], chance.uniform(*kind.lasts)), seconds - at)
            fault = Fault(round(at, 2), name, kind.target(chance, case), round(lasting, 2))
            if often == 1.0 or "node" in fault.target or chance.random() * often < 1.0:
                faults.append(fault)
    return tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind, fault.target)))


def check(case: Case, where: str = "--") -> None:
    """Raises `UsageError`, which begins with `where`, for what no run can be made from."""
    for name, (least, most) in LIMITS.items():
        if not least <= (seen := getattr(case, name)) <= most:  # NaN, too
            remedy = f"--{name} {most}" if seen > most else "miniorch simulate --help"
            raise UsageError(f"{where}{name} wants {least} to {most}, got {seen:g}", remedy=remedy)
    if case.tasks > case.nodes * MOST_TASKS_PER_NODE:
        raise UsageError(
            f"{case.tasks} tasks are too many for {case.nodes} nodes: each takes at most {MOST_TASKS_PER_NODE}",
            remedy=f"--nodes {-(-case.tasks // MOST_TASKS_PER_NODE)}",
        )
    chance = random.Random(0)
    for number, fault in enumerate(case.faults):
        one, kind = f"{where}faults[{number}]", KNOWN.get(fault.kind)
        if kind is None:
            raise UsageError(f'{one}.kind wants one of {", ".join(KNOWN)}; got "{fault.kind}"')
        like = {re.sub(r"[\d.]+", "0", target): target for target in (kind.target(chance, case) for _ in range(99))}
        there = case.machines.issuperset(machines_in(fault.target))
        if not there or re.sub(r"[\d.]+", "0", fault.target) not in like:
            raise UsageError(f'{one}.target wants something like "{like.popitem()[1]}"; got "{fault.target}"')
        if not (0 <= fault.at < case.trouble_seconds and 0 <= fault.seconds <= LONGEST_SECONDS):
            raise UsageError(
                f"{one} wants at from 0 to less than {case.trouble_seconds:g} and seconds from 0 to "
                f"{LONGEST_SECONDS:g}, got {fault.at:g} and {fault.seconds:g}"
            )


def machines_in(target: str) -> list[str]:
    return re.findall(r"(?:node|server)\S+", target)


def kinds_named(words: str) -> tuple[str, ...]:
    """The kinds in `partition,crash`; `all` and `none` are known, too. Raises `UsageError` with the nearest name."""
    if words in ("all", "none"):
        return tuple(KINDS) if words == "all" else ()
    chosen = [word.strip() for word in words.split(",")]
    for word in chosen:
        if word not in KINDS:
            near = difflib.get_close_matches(word, KINDS, 1)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise UsageError(
                f'there is no kind of fault "{word}"{meant} There are {", ".join(KINDS)}, all and none',
                remedy=f"--faults {near[0] if near else 'all'}",
            )
    return tuple(dict.fromkeys(chosen))
