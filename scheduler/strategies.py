"""Strategies: among the nodes that fit, which is better.

The problem: "better" is a matter of taste, and a weighted sum of tastes cannot be explained to anybody. The idea: a
scorer gives one whole number with a meaning that can be said aloud, the lower the better; a strategy is a list of
scorers that are compared one after the other, like the letters of a word.

    spread   (the default) as even as can be: few tasks of this service per branch and node, then few tasks in all
    binpack  as few nodes as can be: the node of which the least is free, so that others stay empty
    random   any node that fits, by lot

Whatever the strategy, a node on which the service has failed often lately comes last, preferences that are met count
first, and the branches of `spread` preferences are evened out. What is still equal in the end is decided by the node's
name: the same board, seed and request give the same answer, however the board came to be.

Who does this for real: `spread`, and to compare in this way, are Swarm mode's; `binpack` and `random` are classic
Swarm's, whose binpack looks at the node as it would be after placing; ours at the node as it is, so that the nodes have
one order for all. Kubernetes adds up weighted scores between 0 and 100. Next file: `scheduler/oracle.py`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from miniorch.model import Node
from miniorch.spec import Placement
from scheduler.attributes import value
from scheduler.company import Company
from scheduler.constraints import holds, is_static
from scheduler.request import Board, NodeView, Request

MANY_FAILURES = 5  # of a service's present version on one node, lately: from here on the node comes last


@dataclass(frozen=True, slots=True)
class Scorer:
    """One number about one node. `branch`: the attributes of one that counts what lies in the node's branch."""

    name: str
    score: Callable[[Request, NodeView, Board], int]
    branch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Strategy:
    """Scorers by importance."""

    name: str
    scorers: tuple[Scorer, ...]

    def rank(self, request: Request, view: NodeView, board: Board) -> tuple[int, ...]:
        return tuple(scorer.score(request, view, board) for scorer in self.scorers)


def _failures(request: Request, view: NodeView, board: Board) -> int:
    """How often tasks of the service have failed here lately."""
    return counting(board.failures.get((request.key, view.node.name), 0))


def _unmet(request: Request, view: NodeView, board: Board) -> int:
    """The weights of all preferred constraints that do not hold here."""
    asked = [one for one in request.spec.placement.constraints if one.weight]
    unmet = sum(one.weight for one in asked if is_static(one) and not holds(one, view.node))
    return unmet + (Company.of(request, board).unmet(view.node) if asked else 0)


def _branch(attributes: tuple[str, ...]) -> Scorer:
    """How many tasks of this service are in the node's branch: on all nodes, fitting or not, with its values of some
    attributes. Nodes without the attribute are a branch, too.
    """

    def score(request: Request, view: NodeView, board: Board) -> int:
        def count() -> dict[tuple[str, ...], int]:
            counts: dict[tuple[str, ...], int] = {}
            for other in board.views.values():
                if own := other.count(request.key):
                    place = branch(other.node, attributes)
                    counts[place] = counts.get(place, 0) + own
            return counts

        return board.once(("branch", attributes, request.key), count).get(branch(view.node, attributes), 0)

    return Scorer(f"in its {attributes[-1].removeprefix('node.labels.')}", score, attributes)


def _unreserved(request: Request, view: NodeView, board: Board) -> int:
    """How much of the node nobody has reserved: thousandths of its processors and thousandths of its memory."""
    used, capacity = view.reserved, view.node.capacity
    cpus = unreserved(round(used.cpus * 1000), round(capacity.cpus * 1000))
    return cpus + unreserved(used.memory_bytes, capacity.memory_bytes)


def _lot(request: Request, view: NodeView, board: Board) -> int:
    """The number that the node draws. It depends on the seed, the service, how many tasks it has, and the node."""
    own = board.once(("lot", request.key), lambda: sum(other.count(request.key) for other in board.views.values()))
    return lot(board.seed, request.key, own, view.node.name)


_FIRST = (Scorer("failures here", _failures), Scorer("preferences unmet", _unmet))
_LAST = {
    "spread": (  # if a node dies, so many replicas are gone at once
        Scorer("of this service", lambda request, view, _: view.count(request.key)),
        Scorer("in all", lambda _, view, __: len(view.staying)),
    ),
    "binpack": (  # the more tasks a node has, the fuller it is, even if they have reserved nothing
        Scorer("not reserved", _unreserved),
        Scorer("in all, most first", lambda _, view, __: -len(view.staying)),
    ),
    "random": (Scorer("lot", _lot),),
}
STRATEGIES = tuple(_LAST)


def strategy_of(request: Request) -> Strategy:
    """What the service has asked for."""
    placement = request.spec.placement
    name, spread = placement.strategy or "spread", spread_of(placement)
    branches = [_branch(spread[: depth + 1]) for depth in range(len(spread))]
    return Strategy(name, (*_FIRST, *branches, *_LAST[name]))


def spread_of(placement: Placement) -> tuple[str, ...]:
    """The attributes over which tasks are evened out: as preferred, then those within which they must be even."""
    even = [one.within for one in placement.constraints if one.operator == "evenly" and not one.weight]
    return tuple(dict.fromkeys((*placement.spread, *even)))


def counting(failures: int) -> int:
    """Less than five failures may be bad luck, and count as none."""
    return failures if failures >= MANY_FAILURES else 0


def branch(node: Node, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """A node's place in a tree of attributes; "" where it has no value."""
    return tuple(value(node, attribute) or "" for attribute in attributes)


def unreserved(used: int, capacity: int) -> int:
    """Thousandths of a capacity; of none at all, nothing is left."""
    return 1000 - used * 1000 // capacity if capacity > 0 else 0


def lot(seed: int, key: str, own: int, node: str) -> int:
    """A number that looks like chance and is the same for the same arguments, in every process and version."""
    digest = hashlib.blake2b(f"{seed}/{key}/{own}/{node}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
