"""One decision: on which node one more task goes.

The problem: a scheduler that raises an exception when nothing fits makes an everyday answer look like an accident.
The idea: `schedule` always returns a value, either a `Decision` or an `Unschedulable`, and both carry the whole
search: every node, every rule. A task that fits nowhere waits, with that answer as its message, until something
changes.

Who does this for real: the filter-and-score cycle of kube-scheduler and swarmkit. Where we differ: it is a pure
function of its arguments. Next file: `scheduler/index.py`, for many tasks at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.company import Company
from scheduler.filters import FILTERS
from scheduler.request import NODE, Board, NodeView, Request, Rule, Score, Verdict
from scheduler.strategies import strategy_of

__all__ = ["Board", "Decision", "NodeView", "Request", "Rule", "Unschedulable", "Verdict", "refusal", "schedule"]

REASONS = 6  # different ones, in a sentence


@dataclass(frozen=True, slots=True)
class Decision:
    """The node that was chosen, and what was thought of each."""

    node: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node fits. `summary` is one line for a person."""

    verdicts: tuple[Verdict, ...]
    summary: str


def schedule(request: Request, board: Board) -> Decision | Unschedulable:
    """The best fitting node for one more task. The same arguments give the same answer."""
    verdicts = tuple(verdict(request, view, board) for view in board.views.values())
    fitting = [one for one in verdicts if one.fits]
    if not fitting:
        return Unschedulable(verdicts, _summary({one.node: one.against for one in verdicts}))
    best = min(fitting, key=lambda one: ([score.value for score in one.scores], one.node))
    return Decision(best.node, verdicts)


def verdict(request: Request, view: NodeView, board: Board) -> Verdict:
    """What all rules and scorers say of one node."""
    rules = tuple(rule.tell(request, view, board) for rule in FILTERS)
    scores = tuple(Score(one.name, one.score(request, view, board)) for one in strategy_of(request).scorers)
    return Verdict(view.node.name, rules, scores)


def refusal(request: Request, board: Board) -> tuple[str, frozenset[str]]:
    """Why no node fits, in one line, and the kinds of change that could help. Only rules that fail are told.

    Whose wishes are the same, and about nodes alone, is told the same: of a hundred services that wait, one is asked.
    """
    return board.once(("refusal", _wishes(request, board)), lambda: _refusal(request, board))


def _wishes(request: Request, board: Board) -> object:
    """All that rules look at, for a request without wishes about what lies on nodes; else who asks."""
    placement, reserved = request.spec.placement, request.spec.task.reserved
    if placement.max_per_node or request.volumes or not Company.of(request, board).empty:
        return request.key
    generic = tuple(sorted(reserved.generic.items()))
    return placement, request.spec.ports, reserved.cpus, reserved.memory_bytes, generic


def _refusal(request: Request, board: Board) -> tuple[str, frozenset[str]]:
    against, kinds = {}, {NODE}  # a new node might
    for name, view in board.views.items():
        failing = [rule for rule in FILTERS if not rule.passes(request, view, board)]
        kinds.update(kind for rule in failing for kind in rule.helped_by)
        against[name] = ", ".join(rule.tell(request, view, board).detail for rule in failing)
    return _summary(against), frozenset(kinds)


def _summary(against: Mapping[str, str]) -> str:
    """Equal reasons are told once, the most frequent first: "no node fits (5 looked at): 3 nodes: ...; node1: ..."."""
    if not against:
        return "no node fits (0 looked at): no node has registered yet"
    nodes: dict[str, list[str]] = {}
    for name, why in against.items():
        nodes.setdefault(why, []).append(name)
    told = sorted(nodes.items(), key=lambda one: -len(one[1]))[:REASONS]
    parts = [f"{', '.join(names) if len(names) < 3 else f'{len(names)} nodes'}: {why}" for why, names in told]
    if left := len(against) - sum(len(names) for _, names in told):
        parts.append(f"{left} nodes more for other reasons")
    return f"no node fits ({len(against)} looked at): {'; '.join(parts)}"
