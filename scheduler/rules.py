"""Rules that a user writes: on which platform, with which constraints, beside whom, how many per node.

The problem: what fails must be mended, and "unsatisfied constraint" names neither the value seen nor the way out. The
idea: each of these filters knows what would make it pass on this node, and for a label that is a command that can be
typed. A label is changed only so that all rules about it hold afterwards.

Who does this for real: swarmkit's constraint, platform and max-replicas filters, classic Swarm's affinity filter. Where
we differ: all that fails is told, and with it the way out. Next file: `scheduler/company.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from miniorch.model import Node
from miniorch.spec import Constraint
from miniorch.verdicts import Change, Edit, Rule
from scheduler.attributes import on_platform, split, value
from scheduler.company import NAMED, Company, Tally
from scheduler.constraints import CONTAINER_LABEL, holds, is_static, predicate, samples, text_of
from scheduler.request import Board, NodeView, Request

MANY, LONG = 8, 200  # rules in a sentence, letters of a rule


def platform(request: Request, view: NodeView, board: Board) -> bool:
    """The node runs what the service's images are made for."""
    wanted = request.spec.placement.platforms
    return not wanted or any(on_platform(view.node, one) for one in wanted)


def tell_platform(request: Request, view: NodeView, board: Board) -> Rule:
    wanted, seen = _listing(request.spec.placement.platforms, " or "), view.node.platform or "not known"
    if platform(request, view, board):
        return Rule("platform", True, f"wants {wanted}" if wanted else "any will do", seen, wanted)
    return Rule("platform", False, f"wants platform {wanted}, is {seen}", seen, wanted)


def constraints(request: Request, view: NodeView, board: Board) -> bool:
    """The node's attributes are what the service's hard constraints ask for."""
    return all(one.weight or not is_static(one) or holds(one, view.node) for one in request.spec.placement.constraints)


def tell_constraints(request: Request, view: NodeView, board: Board) -> Rule:
    asked = [one for one in request.spec.placement.constraints if is_static(one) and not one.weight]
    failing = [one for one in asked if not holds(one, view.node)]
    about = failing or asked
    seen = _listing(dict.fromkeys(_seen(one.subject, view.node) for one in about), ", ")
    wanted = _listing(map(_text, about))
    if not failing:
        return Rule("constraint", True, f"has {seen}" if asked else "asks for nothing", seen, wanted)
    details = (f"wants {_text(one)}, has {_seen(one.subject, view.node)}" for one in failing)
    labels = {one.subject: one for one in failing}.values()
    changes = [_moved(one.subject, request, view, board) or _mended(one, asked, view.node) for one in labels]
    change = together(changes, view.node.name)
    return Rule("constraint", False, _listing(details), seen, wanted, change)


def max_per_node(request: Request, view: NodeView, board: Board) -> bool:
    """The node has fewer tasks of the service than may be on one node."""
    most = request.spec.placement.max_per_node
    return not most or len(_here(request, view)) < most


def tell_max_per_node(request: Request, view: NodeView, board: Board) -> Rule:
    most, here = request.spec.placement.max_per_node, _here(request, view)
    seen, wanted = f"{len(here)} here", f"at most {most}" if most else ""
    if max_per_node(request, view, board):
        return Rule("max per node", True, f"{seen}, {wanted or 'any number will do'}", seen, wanted)
    change = Change(f"{_listed(here)} were not here", "", (Edit("gone", view.node.name, request.key),))
    return Rule("max per node", False, f"max_replicas_per_node is {most}, has {_listed(here)}", seen, wanted, change)


def _here(request: Request, view: NodeView) -> list[str]:
    return [task.name for task in view.tasks if task.live and task.service_key == request.key]


def affinity(request: Request, view: NodeView, board: Board) -> bool:
    """The node is beside what the service wants beside it, and apart from what one of the two wants apart."""
    return Company.of(request, board).passes(view.node)


def tell_affinity(request: Request, view: NodeView, board: Board) -> Rule:
    company, node = Company.of(request, board), view.node
    failing = [one for one in company.hard if not one.passes(one.place(node))]
    about = failing or company.hard
    seen = _listing((_lies(one, node) for one in about), ", ")
    wanted = _listing(dict.fromkeys(_text(one.constraint) for one in about))
    if not failing:
        return Rule("affinity", True, seen or "asks for nothing", seen, wanted)
    details = [_refusal(one, node) for one in failing]
    changes: list[Change | None] = []
    for within in dict.fromkeys(one.constraint.within for one in failing):
        moved = _moved(within, request, view, board) if split(within)[0] else None
        there = [one for one in failing if one.constraint.within == within]
        changes += [moved] if moved else [_beside(one, company, view, request, board) for one in there]
    change = together(changes, node.name)
    if change is not None and len({edit.kind for edit in change.edits}) > 1:  # one step may undo another
        change = Change(change.what)
    return Rule("affinity", False, _listing(details), seen, wanted, change)


def _listing(parts: Iterable[str], mark: str = " and ") -> str:
    """All of them in one sentence, but of very many the first: it is kept with each task that waits."""
    told = list(parts)
    return mark.join(told if len(told) <= MANY else [*told[:MANY], f"{len(told) - MANY} more"])


def _text(constraint: Constraint) -> str:
    text = text_of(constraint)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def together(changes: Sequence[Change | None], node: str) -> Change | None:
    """All changes as one: labels in one command, and a command at all only if there is one for each part. It has no
    edits if one of them has none. None if one is not to be had.
    """
    found = [one for one in changes if one is not None]
    if len(found) < len(changes):
        return None
    labels = [one for one in found if one.edits and all(edit.kind in ("label", "unlabel") for edit in one.edits)]
    found = [*labels, *(one for one in found if one not in labels)]
    edits = dict.fromkeys(edit for one in found for edit in one.edits)
    told = dict.fromkeys(edit for one in labels for edit in one.edits)
    words = [f"{edit.key}={edit.value}" if edit.kind == "label" else f"{edit.key}-" for edit in told]
    commands = [f"miniorch node label {node} {' '.join(words)}"] * bool(words)
    commands += [one.command for one in found[len(labels) :]]
    return Change(
        " and ".join(dict.fromkeys(one.what for one in found)),
        "; ".join(commands) if all(commands) else "",
        tuple(edits) if all(one.edits for one in found) else (),
        max((one.size for one in found), default=1.0),
    )


# --- labels ----------------------------------------------------------------------------------------------------------


def _seen(attribute: str, node: Node) -> str:
    """`disk=hdd`, `no label disk`, `node.role manager`."""
    prefix, key = split(attribute)
    found = value(node, attribute)
    if not prefix:
        return f"{attribute} {found or 'not known'}"
    return f"no {'engine ' * prefix.startswith('engine')}label {key}" if found is None else f"{key}={found}"


def _mended(failing: Constraint, asked: Sequence[Constraint], node: Node) -> Change | None:
    """The label with which all constraints about it hold; None for an attribute that is no label."""
    prefix, key = split(failing.subject)
    if not prefix:
        return None
    engines = prefix.startswith("engine")
    about = [one for one in asked if _is_about(one.subject, key, engines)]
    without = replace(node, labels={name: text for name, text in node.labels.items() if name != key})
    if not engines and key in node.labels and all(holds(one, without) for one in about):
        return Change(f"it had no label {key}={node.labels[key]}", edits=(Edit("unlabel", node.name, key),))
    for text in dict.fromkeys(text for one in about for text in samples(one)):
        if all(predicate(one)(text) for one in about):
            whose, kind = ("its container engine", "engine-label") if engines else ("it", "label")
            return Change(f"{whose} had label {key}={text}", edits=(Edit(kind, node.name, key, text),))
    return Change(f"{'its container engine' if engines else 'it'} had a label {key} that fits")


# --- company ---------------------------------------------------------------------------------------------------------


def _where(tally: Tally, place: str | None) -> str:
    """`here`, `in zone a`."""
    prefix, key = split(tally.constraint.within)
    if prefix:
        return f"in {key} {place}" if place is not None else f"without label {key}"
    return "here" if tally.constraint.within in ("node.name", "node.id", "node.hostname") else f"on {place}"


def _lies(tally: Tally, node: Node) -> str:
    """What has been counted where the node is: `web.1 and web.2 in zone a`."""
    place = tally.place(node)
    here = tally.counts.get(place, 0) if place is not None else 0
    return f"{_counted(tally, place) if here else 'none'} {_where(tally, place)}"


def _counted(tally: Tally, place: str | None) -> str:
    return _listed(tally.named.get(place or "", ()), tally.counts.get(place or "", 0))


def _listed(names: Sequence[str], count: int = 0) -> str:
    """`web.1, web.2 and 4 more`."""
    count = max(count, len(names))
    shown = list(names[:NAMED])
    if count > len(shown):
        shown.append(f"{count - len(shown)} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _refusal(tally: Tally, node: Node) -> str:
    text, place = _text(tally.constraint), tally.place(node)
    if place is None:
        return f"wants {text}, has {_seen(tally.constraint.within, node)}"
    if tally.owner:
        return f"{_lies(tally, node)}, which wants {text}"
    if tally.kind == "beside" and tally.counts:
        found = ", ".join(f"{_counted(tally, one)} {_away(tally, one)}" for one in tally.first)
        return f"wants {text}, and there is {found}"
    if tally.kind == "beside":
        return f"wants {text}, which is nowhere"
    return f"wants {text}, and there is {_lies(tally, node)}"


def _away(tally: Tally, place: str) -> str:
    return f"on {place}" if _where(tally, place) == "here" else _where(tally, place)


def _beside(tally: Tally, company: Company, view: NodeView, request: Request, board: Board) -> Change | None:
    """What would have to come to this one node, or to leave it."""
    node, constraint = view.node.name, tally.constraint
    far = _where(tally, node) != "here" and (tally.kind != "beside" or tally.mine or tally.place(view.node) is None)
    if tally.kind == "evenly" or far:
        return None
    if tally.kind != "beside":
        image = constraint.subject == "image" and tally.counts.get(node, 0) > len(tally.on(view))
        keys = () if image else dict.fromkeys(task.service_key for task in tally.on(view))
        return Change(f"{_counted(tally, node)} were not here", edits=tuple(Edit("gone", node, key) for key in keys))
    first = next(iter(constraint.values), request.service)
    if constraint.subject == "image":
        wanted = next(iter(samples(constraint)), first)
        return Change(f"it had image {wanted}", edits=(Edit("image", node, wanted),))
    plain = next(iter(samples(constraint)), first) if constraint.subject in ("service", "task") else first
    key = next((one for one in (plain, f"{request.app}/{plain}") if one in board.services), "")
    if not key or constraint.subject.startswith(CONTAINER_LABEL):
        return Change(f"a task with {text_of(constraint)} were here")
    if any(one.owner == key for one in company.others):  # who would rather be apart
        return None
    return Change(f"{plain} were here", edits=(Edit("come", node, key),))


def _moved(attribute: str, request: Request, view: NodeView, board: Board) -> Change | None:
    """A label with which the node lies at a place where all rules about such places hold, and its own constraints about
    that label. Its tasks move with it.
    """
    key, engines = split(attribute)[1], attribute.startswith("engine")
    company, old, name = Company.of(request, board), value(view.node, attribute), view.node.name
    about = [(one, len(one.on(view))) for one in company.hard if _is_about(one.constraint.within, key, engines)]
    if not about:  # before all nodes are asked for their places
        return None
    rules = request.spec.placement.constraints
    asked = [one for one in rules if is_static(one) and not one.weight and _is_about(one.subject, key, engines)]
    fresh = (name, f"{name}-{key}"[:63], *(text for one in asked for text in samples(one)))
    for place in (*company.promising(attribute, board), *fresh):
        fits = place != old and all(predicate(one)(place) for one in asked)
        if fits and all(one.passes_with(moving, old, place) for one, moving in about):
            kind = "engine-label" if engines else "label"
            return Change(f"it had label {key}={place}", edits=(Edit(kind, name, key, place),))
    return None


def _is_about(attribute: str, key: str, engines: bool) -> bool:
    """Whether an attribute is the label of that key: the node's, or its container engine's."""
    return split(attribute)[1] == key != "" and attribute.startswith("engine") == engines
