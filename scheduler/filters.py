"""Filters: where a task may go. Each is one rule that says yes, or says why not.

The problem: a filter that answers only "no" leaves the user guessing. The idea: `check` returns None if the node fits
and otherwise the reason as a sentence that holds the value seen and the value wanted; `seen` is what it looked at when
it fits. A filter is a pure function of the request and the node: no order among filters, no state between calls.

Who does this for real: swarmkit (manager/scheduler/filter.go) and Kubernetes' filter plugins. Where we differ: filters
have no "set" step before "check", so none can hold the settings of the task before. Next file: `scheduler/scorers.py`.
"""

from typing import Protocol

from miniorch.model import Availability, NodeState
from scheduler.request import NodeView, Request


class Filter(Protocol):
    """One rule about one node."""

    @property
    def name(self) -> str: ...

    def check(self, request: Request, view: NodeView) -> str | None:
        """None if the node fits, otherwise the reason."""

    def seen(self, request: Request, view: NodeView) -> str:
        """What a fitting node offers, in a few words."""


class Ready:
    """The node's agent is there and its engine works."""

    name = "ready"

    def check(self, request: Request, view: NodeView) -> str | None:
        node = view.node
        if node.state is not NodeState.READY:
            since = f" since {max(0.0, view.now - node.state_since):.0f} s" if view.now else ""
            return f"the node is {node.state.value}{since}: no heartbeat"
        return None if node.ready else f"the node is not ready: {node.message or 'no reason given'}"

    def seen(self, request: Request, view: NodeView) -> str:
        return "the node is ready"


class Available:
    """Nobody has asked for the node to be emptied."""

    name = "drain"

    def check(self, request: Request, view: NodeView) -> str | None:
        if view.node.availability is Availability.DRAIN:
            return "the node is draining (miniorch node activate)"
        return None

    def seen(self, request: Request, view: NodeView) -> str:
        return "the node takes new tasks"


class Capacity:
    """The node's live tasks and this one together reserve no more than the node has."""

    name = "capacity"

    def check(self, request: Request, view: NodeView) -> str | None:
        wanted, used, capacity = request.spec.task.reserved, view.reserved, view.node.capacity
        short = []
        # Reserving nothing fits anywhere, even on a node that has lost memory and is over its capacity now.
        if wanted.cpus and _thousandths(used.cpus + wanted.cpus) > _thousandths(capacity.cpus):
            free = f"{number(max(0.0, capacity.cpus - used.cpus))} of {number(capacity.cpus)}"
            short.append(f"wants {number(wanted.cpus)} CPU{'s' * (wanted.cpus != 1)}, {free} free")
        if wanted.memory_bytes and used.memory_bytes + wanted.memory_bytes > capacity.memory_bytes:
            free = f"{amount(max(0, capacity.memory_bytes - used.memory_bytes))} of {amount(capacity.memory_bytes)}"
            short.append(f"wants {amount(wanted.memory_bytes)} of memory, {free} free")
        return " and ".join(short) or None

    def seen(self, request: Request, view: NodeView) -> str:
        used, capacity = view.reserved, view.node.capacity
        cpus, memory = capacity.cpus - used.cpus, capacity.memory_bytes - used.memory_bytes
        return f"{number(max(0.0, cpus))} CPUs and {amount(max(0, memory))} of memory not reserved"


class Ports:
    """No process that is not ours holds a port that the service publishes. Every node listens on those."""

    name = "ports"

    def check(self, request: Request, view: NodeView) -> str | None:
        held = view.node.ports_in_use
        taken = [
            f"port {port.published} is held by {held[str(port.published)]}"
            for port in request.spec.ports
            if str(port.published) in held
        ]
        return " and ".join(taken) or None

    def seen(self, request: Request, view: NodeView) -> str:
        if not request.spec.ports:
            return "publishes no port"
        return f"free: {', '.join(str(port.published) for port in request.spec.ports)}"


class VolumeNode:
    """A named volume stays on the node where it was made, and its tasks go there."""

    name = "volume"

    def check(self, request: Request, view: NodeView) -> str | None:
        away = [
            f"volume {request.app}/{name} lies on {request.volumes[name]}"
            for name in _volumes(request)
            if request.volumes.get(name, view.node.name) != view.node.name
        ]
        return " and ".join(away) or None

    def seen(self, request: Request, view: NodeView) -> str:
        here = [f"{name} {'lies here' if name in request.volumes else 'is new'}" for name in _volumes(request)]
        return ", ".join(here) or "uses no volume"


FILTERS: tuple[Filter, ...] = (Ready(), Available(), Capacity(), Ports(), VolumeNode())


def _volumes(request: Request) -> list[str]:
    """Names of the volumes that the service mounts, each once, in the file's order."""
    return list(dict.fromkeys(mount.volume for mount in request.spec.task.mounts if mount.volume))


def _thousandths(cpus: float) -> int:
    """CPUs as a whole number: 0.1 + 0.2 is not above 0.3."""
    return round(cpus * 1000)


def number(value: float) -> str:
    """At most three decimals and no empty ones: `0.25`, `2`."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def amount(count: int) -> str:
    """An amount of memory in the largest unit that keeps it readable: `512 MiB`, `1.5 GiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.1f}".removesuffix(".0") + f" {units[0]}"
