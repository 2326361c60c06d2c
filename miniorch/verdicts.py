"""The trace: what was thought of each node when a task wanted a place.

The problem: an answer to "why here, why not there" that is made for one screen cannot be used for the next question.
The idea: one structure for all of them. A `Trace` says of each node what every rule and every scorer said; nothing is
cut short at the first reason. It has a size that can be read and kept: nodes of which the same is to be told share one
`Row`, the best first. A failing `Rule` carries the smallest `Change` under which it would pass, in words and as
`Edit`s, which a program can try. `explain`, the records of past decisions, and whatever draws, replays or compares
decisions read this (docs/scheduling.md, "The trace").

Who does this for real: Nomad keeps a score table per placement, Kubernetes counts of nodes per reason. Where we differ:
all failing rules of all nodes, with the value seen, before and after the decision. Next file: `scheduler/request.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """One step of a change, as data: what to do to a board or a request to try it (`scheduler/remedies.py`)."""

    kind: str  # "free", "label", ...: one of `remedies.KINDS`
    node: str = ""  # "": the service itself is changed
    key: str = ""  # "memory", the label's key, ...
    value: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """The least that would have to be otherwise for a rule to pass on a node.

    `what` completes "this node, if ...": "200 MiB of memory were free". `command` does it, where one command can.
    """

    what: str
    command: str = ""
    edits: tuple[Edit, ...] = ()
    size: float = 1.0  # to compare changes of one kind: what lacks as a share of what is wanted


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule says of one node. `detail` is the sentence that holds the value seen and the value wanted."""

    rule: str
    ok: bool
    detail: str = ""
    seen: str = ""
    wanted: str = ""
    change: Change | None = None  # of a rule that fails; None: nothing on this node could help


@dataclass(frozen=True, slots=True)
class Score:
    """What one scorer says of one node; the lowest is best. Scores are compared in their order, like letters."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Row:
    """Nodes of which the same is to be told: the same scores if they fit, the same failing rules if not."""

    nodes: tuple[str, ...]  # in a record the first few
    in_all: int
    same: bool  # False: they differ in values, and those here are the first one's
    fits: bool
    rules: tuple[Rule, ...]  # in a record only the failing ones
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """One decision, or the search for one: fitting nodes first, the best in front; then the nearest misses."""

    strategy: str
    rules: tuple[str, ...]  # all that were asked, in their order
    nodes: int  # in the cluster
    looked_at: int  # of them; fewer only in the record of a large cluster
    fitting: int  # of those
    chosen: str  # "": nowhere
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change after which a task that fits nowhere is placed on one of these nodes. Each of them, if several."""

    nodes: tuple[str, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one task went."""

    task: str
    slot: int
    node: str


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Why some tasks of a service that were placed together went where they went. The newest of a service are kept.

    The trace is the first task's; each of the others met the same nodes with those before it on them.
    """

    app: str
    service: str
    number: int  # from 1
    at: float
    revision: int  # of the state that was looked at
    trace: Trace
    tasks: tuple[str, ...]  # ids of the first few, in the order in which they were placed
    slots: tuple[int, ...]
    nodes: tuple[str, ...]
    in_all: int

    @property
    def service_key(self) -> str:
        return f"{self.app}/{self.service}"

    @property
    def key(self) -> str:
        return f"{self.service_key}/{self.number:09}"

    @property
    def placed(self) -> tuple[Placed, ...]:
        return tuple(map(Placed, self.tasks, self.slots, self.nodes))
