"""Terms: what a service's spec asks of a node, worked out once.

The problem: a spec is written for people, and a decision reads it a thousand times. The idea: numbers are rounded,
rules are sorted by what they look at, and unusual wishes are found when the spec is new; the search for a node only
reads the result.

Who does this for real: every database, which prepares a statement before it runs it. Next file: `scheduler/rows.py`.
"""

from collections.abc import Iterator
from typing import Any

from miniorch.spec import ServiceSpec
from scheduler.constraints import is_static
from scheduler.strategies import spread_of

IDENTITY = frozenset({"node.id", "node.name", "node.hostname", "node.ip"})  # differ from node to node


class Terms:
    """What a spec asks for, as a search needs it."""

    def __init__(self, spec: ServiceSpec) -> None:
        placement, reserved = spec.placement, spec.task.reserved
        static = [one for one in placement.constraints if is_static(one)]
        self.spec = spec
        self.cpus = round(reserved.cpus * 1000)
        self.memory = reserved.memory_bytes
        self.generic = dict(reserved.generic)
        self.most = placement.max_per_node
        self.strategy = placement.strategy or "spread"
        self.spread = spread_of(placement)
        self.volumes = list(dict.fromkeys(mount.volume for mount in spec.task.mounts if mount.volume))
        self.wishes = [one for one in static if one.weight]
        self.named = [one for one in static if not one.weight and one.subject in IDENTITY]
        self.social = [one for one in placement.constraints if not is_static(one)]  # about what lies on nodes
        # Whether a wish can tell two nodes of a class apart before anything is on them.
        self.singles_out = not IDENTITY.isdisjoint([*self.spread, *(one.subject for one in self.wishes)])
        # What a search has worked out from this: the classes that may be used, as long as there are no others.
        self.version = -1
        self.groups: list[tuple[int, list[Any]]] = []
        self.signature = (placement.constraints, placement.platforms, spec.ports, *self.generic.items())

    def asked(self) -> Iterator[str]:
        """The attributes that make a difference to this service."""
        for one in self.spec.placement.constraints:
            yield one.subject if is_static(one) else one.within
        yield from self.spread
        for name in self.generic:
            yield f"node.labels.resource.{name}"
