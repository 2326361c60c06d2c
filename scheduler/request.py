"""What the scheduler is asked: a request, and the board that it is decided from.

The problem: a decision that reads from here and there can be neither repeated nor explained. The idea: two values hold
all of it. The `Request` is one more task of a service; the `Board` is every node with the tasks on it, and what else
may bind. The same two give the same answer, now or for a question about tomorrow (`what-if`). The words of the answer
are in `miniorch/verdicts.py`.

Who does this for real: the snapshot of kube-scheduler's cache; Nomad's state snapshot of an evaluation. Next file:
`scheduler/filters.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

from miniorch.model import Availability, DesiredState, Node, NodeState, Task
from miniorch.spec import Resources, ServiceSpec

NODE, TASK, VOLUME, SERVICE, PLACED, AROUND = "node", "task", "volume", "service", "placed", "around"
"""Kinds of change that may help: of this node, a task's end on it, a volume, a service's rules; a task has been placed
on it; and anything of these on any node.
"""

T = TypeVar("T")


def is_left(node: Node | None) -> bool:
    """Whether tasks leave a node: it is down, drained or gone."""
    return node is None or node.state is NodeState.DOWN or node.availability is Availability.DRAIN


@dataclass(frozen=True)
class NodeView:
    """A node with all the tasks that are on it, ended ones too. What is counted is counted once."""

    node: Node
    tasks: tuple[Task, ...] = ()
    now: float = 0.0  # seconds since 1970, for answers that a person reads at once; 0: the answer is kept

    @cached_property
    def reserved(self) -> Resources:
        """What live tasks have reserved. One that is being stopped counts until it has ended."""
        cpus = memory = 0  # in thousandths: 0.1 + 0.2 is 0.3
        generic: dict[str, int] = {}
        for task in self.tasks:
            if task.live:
                item = task.spec.reserved
                cpus, memory = cpus + round(item.cpus * 1000), memory + item.memory_bytes
                for name, amount in item.generic.items() if item.generic else ():
                    generic[name] = generic.get(name, 0) + amount
        return Resources(cpus / 1000, memory, generic)

    @cached_property
    def staying(self) -> tuple[Task, ...]:
        """Tasks that are meant to run on where they are: others do not count when work is spread."""
        if is_left(self.node):
            return ()
        return tuple(task for task in self.tasks if task.live and task.desired_state is DesiredState.RUNNING)

    def count(self, service_key: str) -> int:
        """How many tasks of a service are here to stay."""
        return self._counts.get(service_key, 0)

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for task in self.staying:
            counts[task.service_key] = counts.get(task.service_key, 0) + 1
        return counts


@dataclass(frozen=True, slots=True)
class Request:
    """A place is wanted for one more task of this service."""

    app: str
    service: str
    spec: ServiceSpec
    volumes: Mapping[str, str] = field(default_factory=dict)  # name of a volume that exists -> the node it lies on

    @property
    def key(self) -> str:
        return f"{self.app}/{self.service}"


@dataclass(frozen=True)
class Board:
    """The cluster at one moment: all that a decision is made from, besides the request.

    `services` are the specs of all services by `app/name`: what already runs may refuse a newcomer beside it.
    `failures` counts how often tasks of a service's present version have failed on a node lately.
    """

    views: Mapping[str, NodeView]  # by the node's name, in the order of names
    services: Mapping[str, ServiceSpec] = field(default_factory=dict)
    failures: Mapping[tuple[str, str], int] = field(default_factory=dict)  # ("app/service", node) -> how many
    seed: int = 0  # for the strategy `random`: the same board and seed give the same answer

    @classmethod
    def of(cls, views: Iterable[NodeView], services: Mapping[str, ServiceSpec] | None = None, seed: int = 0) -> "Board":
        """A board of some nodes."""
        ordered = sorted(views, key=lambda view: view.node.name)
        return cls({view.node.name: view for view in ordered}, services or {}, {}, seed)

    def once(self, key: object, work: Callable[[], T]) -> T:
        """What `work` gives, done once for this board: a rule that counts over all nodes is asked by each of them."""
        if key not in self._known:
            self._known[key] = work()
        return cast(T, self._known[key])

    @cached_property
    def _known(self) -> dict[object, object]:
        return {}
