"""The way of a packet, step by step, with a verdict for each: the pure half of `miniorch trace`.

Both ends have said what they hold (`netplugin/trace.py`). A step is right when the kernel holds what the state says and
the live probe agrees. Of several wrong steps the first one counts: what follows it is usually its consequence.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

View = Mapping[str, Any]
REPAIR = "miniorch net verify --repair"


@dataclass(frozen=True, slots=True)
class Way:
    """Who sends to whom, as the server knows it."""

    source: str  # "shop/web.1"
    source_node: str
    source_address: str
    name: str  # as asked for: "db"
    service: str  # "shop/db"
    vip: str
    tasks: int
    ready: int
    shared: tuple[str, ...]  # networks that both services are on
    target: str = ""  # "shop/db.1"; "" without a task that has an address
    target_node: str = ""
    target_address: str = ""
    port: int = 0  # 0: nothing listens, so the probe is a ping


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way. `why` and `help` are for a wrong one: what it means, and the command to go on with."""

    title: str
    ok: bool
    text: str
    views: tuple[tuple[str, str], ...] = ()  # ("state", ...), ("kernel", ...), ("live", ...)
    why: str = ""
    help: str = ""


# What an entry of the kernel is for, if it is right and if it is not. {0} is its name, {1} the node, {2} the receiver.
_WORDS = {
    "sender": ("{2} runs on {1} with {0}", "{2} has lost its cable to {1}"),
    "cable": ("{1} hands it to {2} at {0}", "{1} has lost its cable to {2}"),
    "cable here": ("{1} has a cable to {0}, where {2} is", "{1} has lost its cable to {2}"),
    "forwarding": ("{1} forwards what containers send", "{1} does not forward what containers send"),
    "route": ("{1} sends what is for {0} into the tunnel", "{1} does not know that {0} is behind the tunnel"),
    "device": ("the tunnel's end on {1} is up", "the tunnel's end on {1} is not as it should be"),
    "neighbour": ("{1} knows a hardware address for {0}", "{1} knows no right hardware address for {0}"),
    "fdb": ("{1} knows behind which machine {0} is", "{1} does not know behind which machine {0} is"),
}
_ENTRIES = ("forwarding", "route", "device", "neighbour", "fdb")


def walk(way: Way, near: View, far: View | None, silence: str = "") -> list[Step]:
    """All steps, in the order in which a packet takes them. `silence`: why there is no far view."""
    steps = [*_entries(near, way.source_node, {"cable": "sender"}, way.source), _name(way, near), _service(way, near)]
    if not way.target:
        return steps
    steps.append(_networks(way, near, way.source_node))
    steps += _entries(near, way.source_node, {name: name for name in _ENTRIES}, way.target, way.target_node)
    if far is None:
        return [*steps, Step("far node", False, f"{way.target_node} says nothing", (), silence, "miniorch nodes")]
    if way.source_node != way.target_node:
        steps += _entries(far, way.target_node, {"cable": "far node"}, way.target)
        steps.append(_networks(way, far, way.target_node))
        steps += _entries(far, way.target_node, dict.fromkeys(_ENTRIES, "way back"), way.source)
    return [*steps, _receiver(way, far), *_answers(way, near)]


def _entries(view: View, node: str, titles: Mapping[str, str], receiver: str, other: str = "") -> Iterator[Step]:
    """Steps that are nothing but an entry in the kernel: name of the entry -> title of the step. `other` is where the
    receiver is.
    """
    for step in view["steps"]:
        if step["name"] in titles:
            ok, what = _held(step), step["what"].partition(" ")[2].removesuffix("/32")
            here = step["name"] == "route" and step["what"].endswith("/32")
            words = "cable here" if here else "sender" if titles[step["name"]] == "sender" else step["name"]
            text, help = _WORDS[words][0 if ok else 1].format(what, node, receiver), _repair(ok, node)
            if here and not step["state"] and other not in ("", node):
                text = f"{node} has no way to {other}, so it refuses at once"
                help = (f"{other} is down, or has just come or gone", "miniorch nodes")
            yield Step(titles[step["name"]], ok, text, _both(step), *help)


def _name(way: Way, near: View) -> Step:
    probe = near["probes"]["name"]
    views = (("state", f"service {way.service} has {way.vip}"), _live(probe))
    if probe["result"] == "ok" and probe["answers"] == [way.vip]:
        return Step("name", True, f"{way.name} is {way.vip}", views)
    if not way.shared:
        return Step("name", False, f"{way.name} does not exist for {way.source}", views, *_apart(way))
    text = f"{way.name} has another answer" if probe["answers"] else f"{way.name} has no answer: {probe['result']}"
    return Step("name", False, text, views, f"the name server of {way.source_node} is behind", "miniorch doctor")


def _service(way: Way, near: View) -> Step:
    step = next(one for one in near["steps"] if one["name"] == "service")
    if not way.ready:
        text = f"no task of {way.service} is ready, so it is refused at once"
        why = f"{way.tasks} are there" if way.tasks else "it has none"
        return Step("service", False, text, _both(step), why, f"miniorch explain {way.service}")
    ok = _held(step)
    many = f"one of {way.ready} ready tasks" if way.ready > 1 else "its one ready task"
    text = f"{way.vip} becomes the address of {many}" if ok else f"{way.vip} does not become the address of a task"
    return Step("service", ok, text, _both(step), *_repair(ok, way.source_node))


def _networks(way: Way, view: View, node: str) -> Step:
    step = next(one for one in view["steps"] if one["name"] == "networks")
    ok = _held(step) and bool(way.shared)
    text = f"{node} lets it pass: both are on {', '.join(way.shared)}" if ok else f"{node} refuses it"
    return Step("networks", ok, text, _both(step), *(_repair(ok, node) if way.shared else _apart(way)))


def _receiver(way: Way, far: View) -> Step:
    ports = [one.partition(":")[2] for one in far["listening"] if not one.startswith("127.")]
    live = (("live", f"in the container: {', '.join(far['listening']) or 'nobody listens on TCP'}"),)
    if ports or not far["listening"]:  # a service may have no port at all
        text = f"{way.target} listens on {', '.join(ports)}" if ports else f"{way.target} runs; it has no TCP port"
        return Step("receiver", True, text, live)
    why = "127.0.0.1 is the container itself: let the program listen on 0.0.0.0"
    return Step("receiver", False, f"{way.target} listens to itself only", live, why, f"miniorch logs {way.target}")


def _answers(way: Way, near: View) -> Iterator[Step]:
    for name, who in (("address", way.target), ("service", way.service)):
        probe = near["probes"].get(name)
        if probe is not None:
            ok = probe["result"] == "ok"
            text = f"{who} {'answers' if ok else 'does not answer'}"
            why = ("", "") if ok else ("all before it is right, as far as it shows", f"miniorch logs {way.target}")
            yield Step("answer", ok, text, (_live(probe),), *why)


def _live(probe: Mapping[str, Any]) -> tuple[str, str]:
    said = ", ".join(probe["answers"]) or probe["result"]
    return "live", f"{probe['what']}: {said} ({probe['milliseconds']:g} ms)"


def _held(step: Mapping[str, Any]) -> bool:
    return bool(step["kernel"]) and bool(step["state"] == step["kernel"])


def _both(step: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The two views, side by side."""
    return tuple((view, " | ".join(step[view]) or "nothing") for view in ("state", "kernel"))


def _repair(ok: bool, node: str) -> tuple[str, str]:
    return ("", "") if ok else (f"the kernel of {node} does not hold what the state says", REPAIR)


def _apart(way: Way) -> tuple[str, str]:
    why = f"{way.source} and {way.service} share no network, so for each other they do not exist"
    if way.source.partition("/")[0] != way.service.partition("/")[0]:
        return f"{why}: other apps are reached by published ports alone", "miniorch services"
    return why, "name one network in both services of the app file (networks: [...]) and run it again"
