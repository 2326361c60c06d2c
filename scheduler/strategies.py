"""Strategies: the order in which scorers decide.

    spread   (the default) as even as can be: few tasks of this service per branch and node, then few tasks in all
    binpack  as few nodes as can be: the node of which the least is free, so that others stay empty
    random   any node that fits, by lot

Whatever the strategy, a node on which the service has failed often lately comes last, preferences that are met count
first, and the branches of `spread` preferences are evened out. What is still equal in the end is decided by the node's
name: the same board, seed and request give the same answer, however the board came to be.

Who does this for real: `spread` is Swarm mode's; `binpack` and `random` are classic Swarm's. Where we differ: classic
Swarm's binpack looks at the node as it would be after placing; ours at the node as it is, so that the nodes have one
order for all. Next file: `scheduler/oracle.py`.
"""

from dataclasses import dataclass

from miniorch.spec import Placement
from scheduler.request import Board, NodeView, Request
from scheduler.scorers import AllTasks, Branch, Failures, Lot, MostTasks, Preferred, SameService, Scorer, Unreserved

_ENDS: dict[str, tuple[Scorer, ...]] = {
    "spread": (SameService(), AllTasks()),
    "binpack": (Unreserved(), MostTasks()),
    "random": (Lot(),),
}
STRATEGIES = tuple(_ENDS)


@dataclass(frozen=True, slots=True)
class Strategy:
    """Scorers by importance."""

    name: str
    scorers: tuple[Scorer, ...]

    def rank(self, request: Request, view: NodeView, board: Board) -> tuple[int, ...]:
        return tuple(scorer.score(request, view, board) for scorer in self.scorers)


def spread_of(placement: Placement) -> tuple[str, ...]:
    """The attributes over which tasks are evened out: as preferred, then those within which they must be even."""
    even = [one.within for one in placement.constraints if one.operator == "evenly" and not one.weight]
    return tuple(dict.fromkeys((*placement.spread, *even)))


def strategy_of(request: Request) -> Strategy:
    """What the service has asked for."""
    placement = request.spec.placement
    name = placement.strategy or "spread"
    spread = spread_of(placement)
    branches = [Branch(spread[: depth + 1]) for depth in range(len(spread))]
    return Strategy(name, (Failures(), Preferred(), *branches, *_ENDS[name]))
