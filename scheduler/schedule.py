"""One decision: on which node one more task goes.

The problem: a scheduler that raises an exception when nothing fits makes an everyday answer look like an accident.
The idea: `schedule` always returns a value, either a `Placement` or an `Unschedulable`, and both carry the whole
search: every node, every rule. A task that fits nowhere waits, with that answer as its message, until something
changes.

Who does this for real: the filter-and-score cycle of kube-scheduler and swarmkit. Where we differ: it is a pure
function of its arguments. Next file: `scheduler/places.py`, for many tasks at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.filters import FILTERS
from scheduler.request import NodeView, Request, Rule, Verdict
from scheduler.strategies import SPREAD, Strategy

__all__ = ["NodeView", "Placement", "Request", "Rule", "Unschedulable", "Verdict", "schedule"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The node that was chosen, and what was thought of each."""

    node: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node fits. `summary` is one line for a person."""

    verdicts: tuple[Verdict, ...]
    summary: str


def schedule(request: Request, views: Sequence[NodeView], strategy: Strategy = SPREAD) -> Placement | Unschedulable:
    """The best fitting node for one more task. The same arguments, in any order, give the same answer."""
    ordered = sorted(views, key=lambda view: view.node.name)
    verdicts = tuple(_verdict(request, view, strategy) for view in ordered)
    fitting = [view for view, verdict in zip(ordered, verdicts, strict=True) if verdict.fits]
    if not fitting:
        return Unschedulable(verdicts, _summary(verdicts))
    best = min(fitting, key=lambda view: (strategy.rank(request, view), view.node.name))
    return Placement(best.node.name, verdicts)


def _verdict(request: Request, view: NodeView, strategy: Strategy) -> Verdict:
    rules = []
    for rule in FILTERS:
        reason = rule.check(request, view)
        rules.append(Rule(rule.name, reason is None, rule.seen(request, view) if reason is None else reason))
    return Verdict(view.node.name, (*rules, strategy.rule(request, view)))


def _summary(verdicts: Sequence[Verdict]) -> str:
    """Equal reasons are told once: "no node fits (5 looked at): node1, node2: ...; 3 nodes: ..."."""
    if not verdicts:
        return "no node fits (0 looked at): no node has registered yet"
    nodes: dict[str, list[str]] = {}
    for verdict in verdicts:
        nodes.setdefault(verdict.against, []).append(verdict.node)
    parts = [f"{', '.join(names) if len(names) < 3 else f'{len(names)} nodes'}: {why}" for why, names in nodes.items()]
    return f"no node fits ({len(verdicts)} looked at): {'; '.join(parts)}"
