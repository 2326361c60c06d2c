"""Filters: where a task may go. Each is one rule that says yes, or says why not.

The problem: a filter that answers only "no" leaves the user guessing. The idea: a filter has two answers about the same
question. `passes` is the quick one, asked a million times while deciding. `tell` is the whole one: a `Rule` with the
value seen, the value wanted, and the smallest change that would help. Tests hold them together. A filter is a pure
function of the request, the node and the board: no order among filters, no state between calls.

`helped_by` says which changes in the cluster can turn a no into a yes: a waiting task is looked at again when one of
those happened, and at no other time.

Who does this for real: swarmkit (manager/scheduler/filter.go) and Kubernetes' filter plugins, whose queueing hints are
`helped_by`. Where we differ: filters have no "set" step before "check", so none can hold the settings of the task
before. Next file: `scheduler/rules.py`, the filters for what users write.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from miniorch.model import Availability, NodeState
from miniorch.verdicts import Change, Edit, Rule
from scheduler import rules
from scheduler.attributes import generic
from scheduler.request import AROUND, NODE, PLACED, SERVICE, TASK, VOLUME, Board, NodeView, Request


@dataclass(eq=False)
class Filter:
    """One rule about one node. `helped_by`: the kinds of change that may make it pass where it failed."""

    name: str
    helped_by: frozenset[str]
    passes: Callable[[Request, NodeView, Board], bool]
    tell: Callable[[Request, NodeView, Board], Rule]


def ready(request: Request, view: NodeView, board: Board) -> bool:
    """The node's agent is there and its engine works."""
    return view.node.state is NodeState.READY and view.node.ready


def tell_ready(request: Request, view: NodeView, board: Board) -> Rule:
    node = view.node
    edits = (Edit("ready", node.name),)
    if node.state is not NodeState.READY:
        since = f" since {max(0.0, view.now - node.state_since):.0f} s" if view.now else ""
        detail, seen = f"the node is {node.state.value}{since}: no heartbeat", node.state.value
        change = Change("it answered", f"miniorch up, on {node.name}", edits)
        return Rule("ready", False, detail, seen, "ready", change)
    if not node.ready:
        why = node.message or "no reason given"
        change = Change("it were ready", f"miniorch doctor, on {node.name}", edits)
        return Rule("ready", False, f"the node is not ready: {why}", why, "ready", change)
    return Rule("ready", True, "the node is ready", "ready", "ready")


def available(request: Request, view: NodeView, board: Board) -> bool:
    """Nobody has asked for the node to be emptied."""
    return view.node.availability is not Availability.DRAIN


def tell_available(request: Request, view: NodeView, board: Board) -> Rule:
    if available(request, view, board):
        return Rule("drain", True, "the node takes new tasks", "active", "active")
    name = view.node.name
    change = Change("it were not draining", f"miniorch node activate {name}", (Edit("activate", name),))
    return Rule("drain", False, "the node is draining (miniorch node activate)", "drain", "active", change)


def capacity(request: Request, view: NodeView, board: Board) -> bool:
    """The node's live tasks and this one together reserve no more than the node has."""
    wanted, used, capacity = request.spec.task.reserved, view.reserved, view.node.capacity
    # Reserving nothing fits anywhere, even on a node that has lost memory and is over its capacity now.
    if wanted.cpus and _thousandths(used.cpus) + _thousandths(wanted.cpus) > _thousandths(capacity.cpus):
        return False
    if wanted.memory_bytes and used.memory_bytes + wanted.memory_bytes > capacity.memory_bytes:
        return False
    return not wanted.generic or all(asked <= free for _, asked, free, _ in amounts(request, view)[2:])


def tell_capacity(request: Request, view: NodeView, board: Board) -> Rule:
    seen = " and ".join(words(key, max(0, free)) for key, _, free, _ in amounts(request, view))
    lacking = [one for one in amounts(request, view) if one[1] and one[1] > one[2]]
    if not lacking:
        return Rule("capacity", True, f"{seen} not reserved", seen)
    details, edits = [], []
    for key, wanted, free, total in lacking:
        of = f"{words(key, max(0, free), bare=True)} of {words(key, total, bare=True)}"
        details.append(f"wants {words(key, wanted)}, {of} free")
        edits.append(Edit("free", view.node.name, key, str(wanted - free)))
    more = " and ".join(f"{words(key, wanted - free, up=True)} more" for key, wanted, free, _ in lacking)
    labels = [f"resource.{key}={total + wanted - free}" for key, wanted, free, total in lacking if key not in REAL]
    command = f"miniorch node label {view.node.name} {' '.join(labels)}" if len(labels) == len(lacking) else ""
    size = lack(request, view)
    change = Change(f"{more} were free", command, tuple(edits), size)
    asked = " and ".join(words(key, wanted) for key, wanted, _, _ in lacking)
    return Rule("capacity", False, " and ".join(details), seen, asked, None if size == HOPELESS else change)


def ports(request: Request, view: NodeView, board: Board) -> bool:
    """No process that is not ours holds a port that the service publishes. Every node listens on those."""
    held = view.node.ports_in_use
    return not any(str(port.published) in held for port in request.spec.ports)


def tell_ports(request: Request, view: NodeView, board: Board) -> Rule:
    wanted = ", ".join(str(port.published) for port in request.spec.ports)
    held = view.node.ports_in_use
    taken = [port.published for port in request.spec.ports if str(port.published) in held]
    if not taken:
        return Rule("ports", True, f"free: {wanted}" if wanted else "publishes no port", "", wanted)
    detail = " and ".join(f"port {port} is held by {held[str(port)]}" for port in taken)
    ports = " and ".join(map(str, taken))
    edits = tuple(Edit("port", view.node.name, str(port)) for port in taken)
    return Rule("ports", False, detail, detail, wanted, Change(f"nothing else held port {ports}", "", edits))


def volume(request: Request, view: NodeView, board: Board) -> bool:
    """A named volume stays on the node where it was made, and its tasks go there."""
    return not request.volumes or not _away(request, view)


def tell_volume(request: Request, view: NodeView, board: Board) -> Rule:
    away = _away(request, view)
    here = [f"{name} {'lies here' if name in request.volumes else 'is new'}" for name in _volumes(request)]
    if not away:
        return Rule("volume", True, ", ".join(here) or "uses no volume")
    detail = " and ".join(f"volume {request.app}/{name} lies on {where}" for name, where in away.items())
    return Rule("volume", False, detail, ", ".join(away.values()), view.node.name)


def _away(request: Request, view: NodeView) -> dict[str, str]:
    found = {name: request.volumes.get(name, view.node.name) for name in _volumes(request)}
    return {name: where for name, where in found.items() if where != view.node.name}


FILTERS = (
    Filter("ready", frozenset({NODE}), ready, tell_ready),
    Filter("drain", frozenset({NODE}), available, tell_available),
    Filter("platform", frozenset({NODE}), rules.platform, rules.tell_platform),
    Filter("constraint", frozenset({NODE}), rules.constraints, rules.tell_constraints),
    Filter("capacity", frozenset({NODE, TASK}), capacity, tell_capacity),
    Filter("ports", frozenset({NODE}), ports, tell_ports),
    Filter("max per node", frozenset({TASK}), rules.max_per_node, rules.tell_max_per_node),
    Filter("affinity", frozenset({NODE, TASK, PLACED, AROUND, SERVICE}), rules.affinity, rules.tell_affinity),
    Filter("volume", frozenset({VOLUME}), volume, tell_volume),
)
REAL = ("cpus", "memory")  # what can be reserved and is measured; all else is counted by labels
HOPELESS = 100.0  # the size of a change that does not exist


def _volumes(request: Request) -> list[str]:
    """Names of the volumes that the service mounts, each once, in the file's order."""
    return list(dict.fromkeys(mount.volume for mount in request.spec.task.mounts if mount.volume))


def _thousandths(cpus: float) -> int:
    """CPUs as a whole number: 0.1 + 0.2 is not above 0.3."""
    return round(cpus * 1000)


def amounts(request: Request, view: NodeView) -> list[tuple[str, int, int, int]]:
    """(name, wanted, free, total) of what can be reserved, in whole units: thousandths of a CPU, bytes, pieces.

    Free may be below zero.
    """
    wanted, used, capacity = request.spec.task.reserved, view.reserved, view.node.capacity
    cpus, total = _thousandths(wanted.cpus), _thousandths(capacity.cpus)
    memory, there = capacity.memory_bytes, generic(view.node) if wanted.generic else {}
    return [
        ("cpus", cpus, total - _thousandths(used.cpus), total),
        ("memory", wanted.memory_bytes, memory - used.memory_bytes, memory),
        *((name, count, there.get(name, 0) - used.generic.get(name, 0), there.get(name, 0))
          for name, count in wanted.generic.items()),
    ]  # fmt: skip


def lack(request: Request, view: NodeView) -> float:
    """What lacks for capacity, as a share of what is wanted. What is real cannot grow: a node that is too small, even
    empty, is hopeless.
    """
    lacking = [one for one in amounts(request, view) if one[1] and one[1] > one[2]]
    if any(wanted > total for key, wanted, _, total in lacking if key in REAL):
        return HOPELESS
    return max(((wanted - free) / wanted for _, wanted, free, _ in lacking), default=0.0)


def words(key: str, count: int, *, bare: bool = False, up: bool = False) -> str:
    """So many units of something: `1.5 CPUs`, `200 MiB of memory`; `bare` without the name, `up` never less."""
    if key == "cpus":
        return number(count / 1000) + ("" if bare else f" CPU{'s' * (count != 1000)}")
    if key == "memory":
        return amount(count, up=up) + ("" if bare else " of memory")
    return f"{count}" + ("" if bare else f" {key}")


def number(value: float) -> str:
    """At most three decimals and no empty ones: `0.25`, `2`."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def amount(count: int, *, up: bool = False) -> str:
    """An amount of memory in the largest unit that keeps it readable: `512 MiB`, `1.5 GiB`. `up`: rounded up."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    if up:
        size = math.ceil(size * 10) / 10
    return f"{size:.1f}".removesuffix(".0") + f" {units[0]}"
