"""Scorers: among the nodes that fit, which is better. Lower is better.

The problem: "better" is a matter of taste, and a weighted sum of tastes cannot be explained to anybody. The idea: a
scorer gives one whole number with a meaning that can be said aloud; a strategy (`scheduler/strategies.py`) is a list of
scorers that are compared one after the other, like the letters of a word.

Who does this for real: swarmkit compares in this way; Kubernetes adds up weighted scores between 0 and 100. Next file:
`scheduler/strategies.py`.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from miniorch.model import Node
from scheduler.attributes import value
from scheduler.company import Company
from scheduler.constraints import holds, is_static
from scheduler.request import Board, NodeView, Request

MANY_FAILURES = 5  # of a service's present version on one node, lately: from here on the node comes last


class Scorer(Protocol):
    """One number about one node; the node with the lowest is preferred."""

    @property
    def name(self) -> str: ...

    def score(self, request: Request, view: NodeView, board: Board) -> int: ...


class Failures:
    """How often tasks of the service have failed here lately. Less than five times may be bad luck, and counts as 0."""

    name = "failures here"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        return counting(board.failures.get((request.key, view.node.name), 0))


class Preferred:
    """The weights of all preferred constraints that do not hold here."""

    name = "preferences unmet"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        asked = [one for one in request.spec.placement.constraints if one.weight]
        unmet = sum(one.weight for one in asked if is_static(one) and not holds(one, view.node))
        return unmet + (Company.of(request, board).unmet(view.node) if asked else 0)


@dataclass(frozen=True, slots=True)
class Branch:
    """How many tasks of this service are in the node's branch: on all nodes, fitting or not, with its values of some
    attributes. Nodes without the attribute are a branch, too.
    """

    attributes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"in its {self.attributes[-1].removeprefix('node.labels.')}"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        def count() -> dict[tuple[str, ...], int]:
            counts: dict[tuple[str, ...], int] = {}
            for other in board.views.values():
                if own := other.count(request.key):
                    place = branch(other.node, self.attributes)
                    counts[place] = counts.get(place, 0) + own
            return counts

        counts = board.once((self, request.key), count)
        return counts.get(branch(view.node, self.attributes), 0)


class SameService:
    """How many tasks of this service the node has: if it dies, so many replicas are gone at once."""

    name = "of this service"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        return view.count(request.key)


class AllTasks:
    """How many tasks the node has at all."""

    name = "in all"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        return len(view.staying)


class Unreserved:
    """How much of the node nobody has reserved: thousandths of its processors and thousandths of its memory."""

    name = "not reserved"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        used, capacity = view.reserved, view.node.capacity
        cpus = unreserved(round(used.cpus * 1000), round(capacity.cpus * 1000))
        return cpus + unreserved(used.memory_bytes, capacity.memory_bytes)


class MostTasks:
    """The more tasks a node has, the fuller it is, even if they have reserved nothing."""

    name = "in all, most first"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        return -len(view.staying)


class Lot:
    """The number that the node draws. It depends on the seed, the service, how many tasks it has, and the node."""

    name = "lot"

    def score(self, request: Request, view: NodeView, board: Board) -> int:
        own = board.once((Lot, request.key), lambda: sum(other.count(request.key) for other in board.views.values()))
        return lot(board.seed, request.key, own, view.node.name)


def counting(failures: int) -> int:
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
