"""What the scheduler is asked, and the words in which it answers.

The problem: "why is my task here, why is it nowhere?" can only be answered completely if looking for a node and
explaining the search are the same act. The idea: the answer always carries one `Verdict` per node with one `Rule` per
rule, fitting or not. Nothing is cut short, so there is nothing to run again when somebody asks.

Who does this for real: Kubernetes keeps a status per node and plugin and shows counts of them in an event; Swarm counts
per filter. Where we differ: every node and every rule is kept, with the value seen. Next file: `scheduler/filters.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from miniorch.model import DesiredState, Node, Task
from miniorch.spec import Resources, ServiceSpec


@dataclass(frozen=True)
class NodeView:
    """A node with all the tasks that are on it, ended ones too. What is counted is counted once."""

    node: Node
    tasks: tuple[Task, ...] = ()
    now: float = 0.0  # seconds since 1970, for answers that a person reads at once; 0: the answer is kept

    @cached_property
    def reserved(self) -> Resources:
        """What live tasks have reserved. One that is being stopped counts until it has ended."""
        live = [task.spec.reserved for task in self.tasks if task.live]
        return Resources(sum(item.cpus for item in live), sum(item.memory_bytes for item in live))

    @cached_property
    def staying(self) -> tuple[Task, ...]:
        """Tasks that are meant to run on: those that are on their way out do not count when work is spread."""
        return tuple(task for task in self.tasks if task.live and task.desired_state is DesiredState.RUNNING)


@dataclass(frozen=True, slots=True)
class Request:
    """A place is wanted for one more task of this service."""

    app: str
    service: str
    spec: ServiceSpec
    volumes: Mapping[str, str] = field(default_factory=dict)  # name of a volume that exists -> the node it lies on


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule says of one node: the value seen, and when it does not fit also the value wanted."""

    rule: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All rules for one node."""

    node: str
    rules: tuple[Rule, ...]

    @property
    def fits(self) -> bool:
        return all(rule.ok for rule in self.rules)

    @property
    def against(self) -> str:
        """Every reason why this node does not fit, in one line; empty if it fits."""
        return ", ".join(rule.detail for rule in self.rules if not rule.ok)
