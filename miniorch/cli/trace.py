"""`trace`: the way of a packet from a task to a service, each step as the state has it, the kernel has it, and live.

    miniorch trace web.1 db        the first thing to run when something does not connect

The agent of each end looks at its half and says what it holds (`netplugin/trace.py`). A step is right when the kernel
holds what the state says and the live probe agrees. Of several wrong steps the first one counts: what follows it is
usually its consequence. `walk` and all below it are pure.
"""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from miniorch.cli.ask import Server, resolve
from miniorch.cli.output import Answer, coloured, did_you_mean
from miniorch.codec import from_plain
from miniorch.errors import Conflict, MiniorchError, NotFound, UsageError
from miniorch.model import Backend, Endpoints, Task

View = Mapping[str, Any]
REPAIR = "miniorch net verify --repair"
TITLE_WIDTH, VIEW_WIDTH, WIDTH = 11, 8, 80
LEGEND = "(state: what shall be; kernel: what the node holds; both: these agree; live: tried just now, from inside)"


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


def trace(source: str, target: str) -> Answer:
    """The way; the exit code is 0 if all of it is right, 1 if not."""
    server = Server()
    sender = find_sender(source, target, server)
    way, near, far, silence = look(server, sender, *find_receiver(sender, target, server))
    steps = walk(way, near, far, silence)
    facts = {"way": way, "steps": steps, "views": {"near": near, "far": far}}
    code = 0 if all(step.ok for step in steps) else 1
    return Answer(facts, "\n".join(lines(way, steps, colour=coloured())), code=code)


def find_sender(source: str, target: str, server: Server) -> Task:
    """`web.1` will do where one app has it. Raises `NotFound`, `UsageError`, `Conflict`."""
    services = server.services()
    if "/" not in source and "." in source:
        apps = [one.app for one in services if one.name == source.partition(".")[0]]
        if len(apps) > 1:
            raise UsageError(f"{source} is in several apps", remedy=f"miniorch trace {apps[0]}/{source} {target}")
        source = f"{apps[0]}/{source}" if apps else source
    named = resolve(source, services, server.tasks())
    running = [task for task in named.tasks if task.live and task.status.address]
    if not running:
        raise Conflict(f"{source} does not run, so it sends nothing", remedy=f"miniorch explain {source}")
    return running[0 if named.whole_service else -1]


def find_receiver(sender: Task, target: str, server: Server) -> tuple[str, Endpoints, Endpoints, Backend | None]:
    """The name that is asked for, both services, and the task that is looked at, if one has an address."""
    known = [from_plain(Endpoints, plain) for plain in server.plain("endpoints")]
    app, _, name = target.rpartition("/")
    name, _, slot = name.partition(".")
    of_app = [one for one in known if one.app == (app or sender.app)]
    service = next((one for one in of_app if name == one.service or name in one.aliases), None)
    if service is None:
        hint = did_you_mean(name, [one.service for one in of_app])
        raise NotFound(f"there is no service {app or sender.app}/{name}{hint}", remedy="miniorch services")
    own = next(one for one in known if one.key == sender.service_key)
    there = [one for one in service.backends if one.address and slot in ("", str(one.slot))]
    if slot and not there:
        raise NotFound(f"{service.key} has no task {slot} with an address", remedy=f"miniorch ps {service.app}")
    there.sort(key=lambda one: (not one.ready, one.task == sender.id, one.slot))
    return name, own, service, next(iter(there), None)


def look(
    server: Server, sender: Task, name: str, own: Endpoints, service: Endpoints, backend: Backend | None
) -> tuple[Way, View, View | None, str]:
    """Ask both ends; the far one first, since it knows the port at which the near one then knocks.

    The text says why there is no far view.
    """
    far: View | None = None
    silence = ""
    if backend is not None:
        try:
            far = _ask(server, backend.task, target=sender.status.address)
        except MiniorchError as error:
            silence = error.message
    ports = [one.rpartition(":") for one in far["listening"]] if far else []
    known = [port.target for port in service.ports] + [int(port) for host, _, port in ports if host != "127.0.0.1"]
    port = next(iter(known), 0)
    full = f"{name}.{service.app}.miniorch.internal"
    words = {"vip": service.vip, "chain": f"to-{service.key}", "name": full, "port": str(port)}
    near = _ask(server, sender.id, target=backend.address if backend else "", **words)
    shared = set(own.networks) & set(service.networks) if own.app == service.app else set[str]()
    way = Way(
        source=f"{sender.app}/{sender.name}", source_node=sender.node, source_address=sender.status.address,
        name=name, service=service.key, vip=service.vip, tasks=len(service.backends),
        ready=sum(one.ready for one in service.backends),
        shared=tuple(f"{service.app}/{network}" for network in sorted(shared)), port=port,
    )  # fmt: skip
    if backend:
        way = replace(way, target=f"{service.key}.{backend.slot}", target_node=backend.node,
                      target_address=backend.address)  # fmt: skip
    return way, near, far, silence


def _ask(server: Server, task: str, **words: str) -> Any:
    query = urlencode({name: word for name, word in words.items() if word})
    return server.transport.request_now("GET", f"/v1/tasks/{task}/trace?{query}")


# --- the verdicts ---------------------------------------------------------------------------------------------------

# What an entry of the kernel is for, if it is right and if it is not. {0} is its name, {1} the node, {2} the receiver.
_WORDS = {
    "sender": ("{2} runs on {1} with {0}", "{2} has lost its cable to {1}"),
    "cable": ("{1} hands it to {2} at {0}", "{1} has lost its cable to {2}"),
    "cable here": ("{1} has a cable to {0}, where {2} is", "{1} has lost its cable to {2}"),
    "door": ("its door is open to what has its own address", "its door is not as it should be"),
    "fast path": ("{1} hands on at once what needs no tracking", "{1} hands nothing on at once, or to the wrong one"),
    "forwarding": ("{1} forwards what containers send", "{1} does not forward what containers send"),
    "route": ("{1} sends what is for {0} into the tunnel", "{1} does not know that {0} is behind the tunnel"),
    "device": ("the tunnel's end on {1} is up", "the tunnel's end on {1} is not as it should be"),
    "neighbour": ("{1} knows a hardware address for {0}", "{1} knows no right hardware address for {0}"),
    "fdb": ("{1} knows behind which machine {0} is", "{1} does not know behind which machine {0} is"),
}
_ENTRIES = ("fast path", "forwarding", "route", "device", "neighbour", "fdb")


def walk(way: Way, near: View, far: View | None, silence: str = "") -> list[Step]:
    """All steps, in the order in which a packet takes them. `silence`: why there is no far view."""
    steps = [
        *_entries(near, way.source_node, {"cable": "sender", "door": "door"}, way.source),
        _name(way, near),
        _service(way, near),
    ]
    if not way.target:
        return steps
    steps.append(_networks(way, near, way.source_node))
    steps += _entries(near, way.source_node, {name: name for name in _ENTRIES}, way.target, way.target_node)
    if far is None:
        return [*steps, Step("far node", False, f"{way.target_node} says nothing", (), silence, "miniorch nodes")]
    if way.source_node != way.target_node:
        steps += _entries(far, way.target_node, {"cable": "far node", "door": "far node"}, way.target)
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


# --- what a person sees ----------------------------------------------------------------------------------------------


def lines(way: Way, steps: Sequence[Step], *, colour: bool) -> list[str]:
    """What a person sees: a line per step, its views below it, and at the end what is wrong and what helps."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    shown = [f"a packet from {way.source} to {way.name}", *_wrap(LEGEND, width), ""]
    for step in steps:
        mark = "✓" if step.ok else "✗"
        first, *rest = _wrap(step.text, width, f"{mark} {step.title:<{TITLE_WIDTH}}")
        shown += [f"\x1b[{32 if step.ok else 31}m{mark}\x1b[0m{first[1:]}" if colour else first, *rest]
        for view, text in _merged(step.views):
            shown += _wrap(text, width, f"{'':<{TITLE_WIDTH + 2}}{view + ':':<{VIEW_WIDTH}}")
    wrong = next((step for step in steps if not step.ok), None)
    if wrong is None:
        return [*shown, "", f"{way.source} reaches {way.name}"]
    said = _wrap(f"{way.source} does not reach {way.name}: {wrong.text}", width)
    return [*shown, "", *said, *_wrap(wrong.why, width, "why:  "), f"help: {wrong.help}"]


def _merged(views: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """State and kernel as one where they say the same."""
    held = dict(views)
    if "kernel" in held and held.get("state") == held["kernel"]:
        return [("both", held["kernel"])]
    return views


def _wrap(text: str, width: int, before: str = "") -> list[str]:
    """The text's lines, `before` in front of the first, the others below its end."""
    first, *rest = textwrap.wrap(text, width - len(before), break_on_hyphens=False) or [""]
    return [before + first, *(" " * len(before) + line for line in rest)]
