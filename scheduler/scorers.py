"""Scorers: among the nodes that fit, which is better. Lower is better.

The problem: "better" is a matter of taste, and a weighted sum of tastes cannot be explained to anybody. The idea: a
scorer gives one whole number with a meaning that can be said aloud; a strategy (`scheduler/strategies.py`) is a list of
scorers that are compared one after the other, like the letters of a word.

Who does this for real: swarmkit compares in this way; Kubernetes adds up weighted scores between 0 and 100.
"""

from typing import Protocol

from scheduler.request import NodeView, Request


class Scorer(Protocol):
    """One number about one node; the node with the lowest is preferred."""

    @property
    def name(self) -> str: ...

    def score(self, request: Request, view: NodeView) -> int: ...


class SameService:
    """How many tasks of this service the node has: if it dies, so many replicas are gone at once."""

    name = "of this service"

    def score(self, request: Request, view: NodeView) -> int:
        return sum(task.app == request.app and task.service == request.service for task in view.staying)


class AllTasks:
    """How many tasks the node has at all."""

    name = "in all"

    def score(self, request: Request, view: NodeView) -> int:
        return len(view.staying)
