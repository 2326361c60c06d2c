"""The smallest change that would help a task that fits nowhere, and a way to try any change.

The problem: "insufficient memory on 3 nodes" tells a person who waits what is wrong, not what to do; and advice that
nobody has tried is a guess. The idea: each failing rule names its smallest `Change` on that node, as words and as
`Edit`s. The nodes at which the fewest rules fail come first; their changes are put together, tried on the board, and
told only if the task is then placed. The same with changes of the service itself: for each failing rule the mildest
loosening that would pass; and where the rule is one of another service that runs, the end of that service's tasks.

Who does this for real: nobody as far as we know; it has been asked of Nomad, Kubernetes and Swarm for years. Next
file: `scheduler/index.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from miniorch.model import Availability, Node, NodeState, Status, Task, TaskState
from miniorch.spec import Placement, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Change, Edit, Remedy
from scheduler.company import Company
from scheduler.constraints import text_of
from scheduler.explain import Look
from scheduler.filters import FILTERS, amounts, words
from scheduler.request import Board, NodeView, Request
from scheduler.rules import together

SHAPES = 4  # so many different remedies are told, of nodes and of the service each
ALIKE = 3  # so many nodes are named for one remedy of nodes
TRIES, ASKED = 24, 200  # changes that are tried; misses that are looked at
T = TypeVar("T")
MIB = 1024 * 1024


def remedies(request: Request, board: Board, looks: Sequence[Look]) -> tuple[Remedy, ...]:
    """Of nodes first, then of the service; none if something fits. `looks` are those of `explain.look`."""
    if not looks or not looks[0].against:
        return ()
    return (*_of_nodes(request, board, looks), *_of_service(request, board, looks))


def fits(request: Request, board: Board, node: str) -> bool:
    """Whether a node passes every rule."""
    return all(rule.passes(request, board.views[node], board) for rule in FILTERS)


def _of_nodes(request: Request, board: Board, looks: Sequence[Look]) -> list[Remedy]:
    found: dict[object, Remedy] = {}
    fewest, tries = len(FILTERS), 0
    for look in looks[:ASKED]:
        if len(look.against) > fewest or tries == TRIES:
            continue
        changes = [rule.change for rule in look.failing]
        change = together(changes, look.name)
        if change is None or not change.edits:
            continue
        if any(edit.kind == "gone" and edit.key == request.key for edit in change.edits):
            continue  # if the service's own tasks had to go, that helps one by what it takes from another
        shape = tuple((edit.kind, edit.key) for edit in change.edits)
        other = found.get(shape)
        if len(other.nodes) == ALIKE or other.change.what != change.what if other else len(found) == SHAPES:
            continue
        tries += 1
        needed = _needed(changes, lambda some: _fits_after(some, request, board, look.name))  # noqa: B023 (at once)
        change = together(needed, look.name)
        if not change or not needed or len({(edit.kind, edit.key) for edit in change.edits}) < len(change.edits):
            continue  # nothing, or two values for one label
        found[shape] = Remedy((*other.nodes, look.name), other.change) if other else Remedy((look.name,), change)
        fewest = min(fewest, len(look.failing))
    return sorted(found.values(), key=lambda remedy: not remedy.change.command)


def _of_service(request: Request, board: Board, looks: Sequence[Look]) -> list[Remedy]:
    """The mildest loosening of each shape, with all the nodes that would fit then."""
    options: dict[object, tuple[list[Edit], Look]] = {}
    for look in looks[:ASKED]:
        edits = [_loosened(rule.name, request, look.view, board) for rule in look.against]
        flat = list(dict.fromkeys(edit for one in edits for edit in one or ()))
        if all(edits):
            options.setdefault(tuple((edit.kind, edit.key) for edit in flat), (flat, look))
    found: list[Remedy] = []
    for flat, first in sorted(options.values(), key=lambda option: len(option[0])):
        if len(found) == SHAPES or (found and len(flat) > len(found[0].change.edits)):
            break
        flat = list(_needed(flat, lambda some: fits(*tried(some, request, board), first.name)))  # noqa: B023 (at once)
        if tuple(flat) in (one.change.edits for one in found):
            continue
        loose, now = tried(flat, request, board)
        alike = [look.name for look in looks if set(look.against) <= set(first.against)]
        nodes = tuple(name for name in alike if flat and fits(loose, now, name))
        if nodes:
            what = " and ".join(_TOLD[edit.kind](edit) for edit in flat)
            own = ", ".join(_WRITTEN[edit.kind](edit) for edit in flat if edit.kind != "stop")
            commands = [f"miniorch run FILE, with {own} in {request.service}"] if own else []
            commands += [f"miniorch scale {edit.key}=0" for edit in flat if edit.kind == "stop"]
            found.append(Remedy(nodes, Change(what, "; ".join(commands), tuple(flat))))
    return found


def _needed(changes: Sequence[T], works: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Those of which none can be left out; none if they do not work. One may spoil what another has done."""
    fewer = [[*changes[:number], *changes[number + 1 :]] for number in range(len(changes) if len(changes) > 1 else 0)]
    less = next(filter(works, fewer), None)
    if less is not None:
        return _needed(less, works)
    return changes if works(changes) else ()


def _fits_after(changes: Sequence[Change | None], request: Request, board: Board, node: str) -> bool:
    return fits(*tried([edit for change in changes if change for edit in change.edits], request, board), node)


def tried(edits: Sequence[Edit], request: Request, board: Board) -> tuple[Request, Board]:
    """The request and the board after a change."""
    views = dict(board.views)
    for edit in edits:
        if edit.node:
            views[edit.node] = _edited(views[edit.node], edit, board)
        elif edit.kind == "stop":
            views = {name: _without_tasks(view, edit.key) for name, view in views.items()}
        else:
            request = replace(request, spec=_ON_SERVICE[edit.kind](request.spec, edit))
    return request, replace(board, views=views)


# --- changes of a node -----------------------------------------------------------------------------------------------


def _edited(view: NodeView, edit: Edit, board: Board) -> NodeView:
    if edit.kind in _ON_NODE:
        return replace(view, node=_ON_NODE[edit.kind](view.node, edit))
    if edit.kind == "gone":
        return _without_tasks(view, edit.key)
    app, _, service = edit.key.partition("/")
    spec = board.services[edit.key].task if edit.key in board.services else TaskSpec("")
    come = Task(f"come-{service}", app, service, 0, spec, 0.0, node=edit.node, status=Status(TaskState.RUNNING))
    return replace(view, tasks=(*view.tasks, come))


def _without_tasks(view: NodeView, key: str) -> NodeView:
    return replace(view, tasks=tuple(task for task in view.tasks if task.service_key != key))


def _freed(node: Node, edit: Edit) -> Node:
    """So much more is free: as if the node had more."""
    had, more = node.capacity, int(edit.value)
    if edit.key == "cpus":
        return replace(node, capacity=replace(had, cpus=had.cpus + more / 1000))
    if edit.key == "memory":
        return replace(node, capacity=replace(had, memory_bytes=had.memory_bytes + more))
    label = f"resource.{edit.key}"
    return replace(node, labels={**node.labels, label: str(int(node.labels.get(label, "0")) + more)})


def _without(items: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in items.items() if name != key}


_ON_NODE: Mapping[str, Callable[[Node, Edit], Node]] = {
    "ready": lambda node, _: replace(node, state=NodeState.READY, ready=True),
    "activate": lambda node, _: replace(node, availability=Availability.ACTIVE),
    "free": _freed,
    "port": lambda node, edit: replace(node, ports_in_use=_without(node.ports_in_use, edit.key)),
    "label": lambda node, edit: replace(node, labels={**node.labels, edit.key: edit.value}),
    "unlabel": lambda node, edit: replace(node, labels=_without(node.labels, edit.key)),
    "engine-label": lambda node, edit: replace(node, engine_labels={**node.engine_labels, edit.key: edit.value}),
    "image": lambda node, edit: replace(node, images=(*node.images, edit.key)),
}

# --- changes of the service ------------------------------------------------------------------------------------------


def _loosened(rule: str, request: Request, view: NodeView, board: Board) -> list[Edit] | None:
    """The mildest changes of the service, and ends of others, after which a rule passes here; None: there are none."""
    placement = request.spec.placement
    if rule == "capacity":
        room = {key: max(0, free) for key, wanted, free, _ in amounts(request, view) if wanted and wanted > free}
        # No more than is free; memory in whole MiB, as people write it.
        return [
            Edit("reserve", "", key, str(free // MIB * MIB if key == "memory" else free)) for key, free in room.items()
        ]
    if rule == "ports":
        ports = [str(port.published) for port in request.spec.ports]
        return [Edit("unpublish", "", port) for port in ports if port in view.node.ports_in_use]
    if rule == "max per node":
        there = sum(task.service_key == request.key and task.live for task in view.tasks)
        return [Edit("max-per-node", "", "", str(there + 1))]
    if rule == "platform":
        return [Edit("any-platform")]
    (asked,) = (one for one in FILTERS if one.name == rule)
    theirs = Company.of(request, board).others if rule == "affinity" else ()
    owners = dict.fromkeys(one.owner for one in theirs if not one.passes(one.place(view.node)))
    stops = [Edit("stop", "", owner) for owner in owners]
    _, now = tried(stops, request, board)
    hard = [one for one in placement.constraints if not one.weight]
    alone = [(one, _with(request, replace(placement, constraints=(one,)))) for one in hard]
    failing = [one for one, by_itself in alone if not asked.passes(by_itself, now.views[view.node.name], now)]
    kept = tuple(one for one in placement.constraints if one not in failing)
    if asked.passes(_with(request, replace(placement, constraints=kept)), now.views[view.node.name], now):
        return [*(Edit("drop", "", text_of(one)) for one in failing), *stops]
    return None


def _with(request: Request, placement: Placement) -> Request:
    return replace(request, spec=replace(request.spec, placement=placement))


def _reserving(spec: ServiceSpec, edit: Edit) -> ServiceSpec:
    had, amount = spec.task.reserved, int(edit.value)
    if edit.key == "cpus":
        wanted = replace(had, cpus=amount / 1000)
    elif edit.key == "memory":
        wanted = replace(had, memory_bytes=amount)
    else:
        wanted = Resources(had.cpus, had.memory_bytes, {**had.generic, edit.key: amount})
    return replace(spec, task=replace(spec.task, reserved=wanted))


def _dropped(spec: ServiceSpec, edit: Edit) -> ServiceSpec:
    kept = tuple(one for one in spec.placement.constraints if one.weight or text_of(one) != edit.key)
    return replace(spec, placement=replace(spec.placement, constraints=kept))


_ON_SERVICE: Mapping[str, Callable[[ServiceSpec, Edit], ServiceSpec]] = {
    "reserve": _reserving,
    "unpublish": lambda spec, edit: replace(
        spec, ports=tuple(port for port in spec.ports if str(port.published) != edit.key)
    ),
    "max-per-node": lambda spec, edit: replace(spec, placement=replace(spec.placement, max_per_node=int(edit.value))),
    "any-platform": lambda spec, _: replace(spec, placement=replace(spec.placement, platforms=())),
    "drop": _dropped,
}
_TOLD: Mapping[str, Callable[[Edit], str]] = {
    "reserve": lambda edit: f"it reserved {words(edit.key, int(edit.value)) if int(edit.value) else f'no {edit.key}'}",
    "unpublish": lambda edit: f"it did not publish port {edit.key}",
    "max-per-node": lambda edit: f"max_replicas_per_node were {edit.value}",
    "any-platform": lambda _: "it named no platform",
    "drop": lambda edit: f"it did not want {edit.key}",
    "stop": lambda edit: f"{edit.key} were not running",
}
_WRITTEN: Mapping[str, Callable[[Edit], str]] = {
    "reserve": lambda edit: _reservation(edit) if int(edit.value) else f"no reservation of {edit.key}",
    "unpublish": lambda edit: f"another port than {edit.key}",
    "max-per-node": lambda edit: f"deploy.placement.max_replicas_per_node: {edit.value}",
    "any-platform": lambda _: "no platform",
    "drop": lambda edit: f"no {edit.key}",
}
KINDS = (*_ON_NODE, "gone", "come", "stop", *_ON_SERVICE)


def _reservation(edit: Edit) -> str:
    wanted = {"cpus": f"cpus: {int(edit.value) / 1000:g}", "memory": f"memory: {int(edit.value) // MIB}M"}
    kind = f"generic_resources: [{{discrete_resource_spec: {{kind: {edit.key}, value: {edit.value}}}}}]"
    return f"deploy.resources.reservations.{wanted.get(edit.key, kind)}"
