"""`trace`: the way of a packet from a task to a service, each step as the state has it, the kernel has it, and live.

    miniorch trace web.1 db        the first thing to run when something does not connect

The agent of each end looks at its half. Next file: `path.py`, the verdicts.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from miniorch.cli.ask import Server, resolve
from miniorch.cli.output import Answer, coloured, did_you_mean
from miniorch.cli.path import Step, View, Way, walk
from miniorch.codec import from_plain
from miniorch.errors import Conflict, MiniorchError, NotFound, UsageError
from miniorch.model import Backend, Endpoints, Task

TITLE_WIDTH, VIEW_WIDTH, WIDTH = 11, 8, 80
LEGEND = "(state: what shall be; kernel: what the node holds; both: these agree; live: tried just now, from inside)"


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
