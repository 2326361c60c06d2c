"""Strategies: the order in which scorers decide.

`SPREAD` is Swarm's: first the node with the fewest tasks of this service, then the one with the fewest tasks at all.
What is still equal is decided by the node's name, so that the same input always gives the same answer. Next file:
`scheduler/schedule.py`.
"""

from dataclasses import dataclass

from scheduler.request import NodeView, Request, Rule
from scheduler.scorers import AllTasks, SameService, Scorer


@dataclass(frozen=True, slots=True)
class Strategy:
    """Scorers by importance."""

    name: str
    scorers: tuple[Scorer, ...]

    def rank(self, request: Request, view: NodeView) -> tuple[int, ...]:
        return tuple(scorer.score(request, view) for scorer in self.scorers)

    def rule(self, request: Request, view: NodeView) -> Rule:
        """The node's scores as a row of its verdict. It is always ok: a strategy prefers, it never forbids."""
        seen = ", ".join(f"{scorer.score(request, view)} {scorer.name}" for scorer in self.scorers)
        return Rule(self.name, True, f"tasks here: {seen}")


SPREAD = Strategy("spread", (SameService(), AllTasks()))
