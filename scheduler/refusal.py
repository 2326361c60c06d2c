"""Why no node fits: what a task that waits tells of itself.

The problem: a scheduler that raises an exception when nothing fits makes an everyday answer look like an accident.
The idea: a task that fits nowhere waits, with the reasons of all nodes as its message, equal ones told once, and with
the kinds of change that could help: it is looked at again after one of those, and at no other time.

Who does this for real: kube-scheduler's "unschedulable" condition and its queueing hints. Where we differ: all failing
rules of a node are told, not only the first, and node names always. Next file: `scheduler/explain.py`.
"""

from collections.abc import Mapping

from scheduler.company import Company
from scheduler.filters import FILTERS
from scheduler.request import NODE, Board, Request

REASONS = 6  # different ones, in a sentence


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
