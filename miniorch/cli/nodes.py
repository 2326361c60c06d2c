"""`nodes` and `node ...`: the machines of the cluster, and what an administrator wishes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import sleep
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import as_json, detaching, did_you_mean, outcome, sentence, table
from miniorch.clock import SystemClock
from miniorch.codec import to_plain
from miniorch.errors import NotFound, NotPlaced, UsageError
from miniorch.model import Availability, Node, NodeState, Task
from miniorch.slots import unknown, volumes_of
from miniorch.spec import Restart

LOOK_SECONDS = 0.2
GIB = 1 << 30


def nodes(*, json: bool) -> None:
    server, now = Server(last_known=True), SystemClock().now()
    found, tasks, certificates = server.nodes(), server.tasks(), _certificates(server)
    rows = [_row(node, tasks, certificates, now) for node in found]
    if json:
        as_json([{key: value for key, value in row.items() if key != "cells"} for row in rows])
        return
    head = ("NAME", "ROLE", "STATE", "ADDRESS", "SUBNET", "TASKS", "CPUS", "MEMORY", "LABELS", "CERTIFICATE", "ENGINE",
            "MESSAGE")  # fmt: skip
    table(head, [row["cells"] for row in rows], "no node has joined; miniorch up makes this machine one")


def inspect(name: str, *, json: bool) -> None:
    """One node, what is on it, and what it alone has."""
    server, now = Server(last_known=True), SystemClock().now()
    node = _node(server, name)
    tasks = [task for task in server.tasks() if task.node == name and task.live]
    volumes = [f"{one['app']}/{one['name']}" for one in server.plain("volumes") if one["node"] == name]
    row = _row(node, tasks, _certificates(server), now)
    if json:
        as_json({**{key: value for key, value in row.items() if key != "cells"}, "volumes": volumes,
                 "live": [f"{task.app}/{task.name}" for task in tasks]})  # fmt: skip
        return
    facts = [("role", node.role.value), ("state", row["shown"]), ("address", node.address), ("subnet", node.subnet),
             ("engine", f"{node.engine} {node.platform}".strip()), ("cpus", row["cells"][6]),
             ("memory", row["cells"][7]), ("labels", row["cells"][8]), ("message", row["cells"][11]),
             ("volumes", ", ".join(volumes))]  # fmt: skip
    print(name)
    for what, value in facts:
        print(f"  {what:<8} {value or '-'}")
    for task in tasks:
        print(f"  {task.app}/{task.name} {unknown(task, node, now) or task.status.state.value}")


def label(name: str, words: Sequence[str], *, quiet: bool, json: bool) -> None:
    """`zone=b` sets a label, `zone-` takes it away."""
    wrong = [word for word in words if not re.fullmatch(r"[^=]+=.*|[^=]+-", word, re.S)]
    if wrong:
        raise UsageError(f'"{wrong[0]}" is no label', remedy=f"miniorch node label {name} zone=b, or zone-")
    labels = dict(word.split("=", 1) for word in words if "=" in word)
    without = [word[:-1] for word in words if "=" not in word]
    server = Server()
    _change(server, name, {"labels": labels, "without": without})
    node = _node(server, name)
    shown = _labels(node)
    outcome(f"{name}: {shown or 'no labels'}", json=json, node=name, outcome="labelled", labels=dict(node.labels))


def activate(name: str, *, json: bool) -> None:
    _change(Server(), name, {"availability": Availability.ACTIVE})
    outcome(f"{name} takes new tasks; what has moved away stays away", json=json, node=name, outcome="active")


def drain(name: str, *, detach: bool, timeout: float, json: bool) -> None:
    """Ask for it, and wait until nothing is left that can go. Raises `NotPlaced` with what stays, and why."""
    server, clock = Server(), SystemClock()
    _change(server, name, {"availability": Availability.DRAIN})
    again = f"miniorch node drain {name}"
    if detach:
        outcome(f"{name} is draining; {again} waits until it is drained", json=json, node=name, outcome="draining")
        return
    deadline = clock.monotonic() + timeout
    with detaching(f"interrupted; {name} is drained all the same: {again} waits again"):
        while True:
            stays, moves = _left(server, name)
            if not stays and not moves:
                outcome(f"{name} is drained", json=json, node=name, outcome="drained")
                return
            if not moves:
                raise NotPlaced(
                    f"{name} takes no new tasks, but is not empty: {'; '.join(stays)}",
                    remedy=f"miniorch rm of those apps; or miniorch node activate {name}",
                )
            if clock.monotonic() > deadline:
                raise NotPlaced(
                    f"after {timeout:g} s {sentence(moves[:5])} still run{'s' * (len(moves) == 1)} on {name}",
                    remedy=f"miniorch explain {moves[0]}; or {again}",
                )
            sleep(LOOK_SECONDS)


def remove(name: str, *, force: bool, json: bool) -> None:
    server = Server()
    _node(server, name)
    answer = server.transport.request_now("DELETE", f"/v1/nodes/{name}" + ("?force=1" if force else ""))
    lost = f"; {answer['lost']} of its tasks are lost and replaced" if answer["lost"] else ""
    outcome(f"{name} is no longer in the cluster{lost}", json=json, node=name, outcome="removed", lost=answer["lost"])


def _left(server: Server, name: str) -> tuple[list[str], list[str]]:
    """What stays on a node that is drained, with the reason, and what is on its way."""
    services = {one.key: one for one in server.services()}
    everywhere = server.nodes()
    nowhere = not any(
        one.name != name and one.state is NodeState.READY and one.availability is Availability.ACTIVE
        for one in everywhere
    )
    stays, moves = [], []
    for task in (one for one in server.tasks() if one.node == name and one.live):
        service, called = services.get(task.service_key), f"{task.app}/{task.name}"
        if volumes_of(task):
            stays.append(f"{called} stays with its volume {volumes_of(task)[0]}")
        elif service is not None and service.spec.restart.condition is not Restart.ANY:
            stays.append(f"{called} is a job and ends by itself")
        elif nowhere:
            stays.append(f"{called} stays, for no other node takes work")
        else:
            moves.append(called)
    return stays, moves


def _change(server: Server, name: str, wish: dict[str, Any]) -> None:
    _node(server, name)  # its own error names the nearest
    server.transport.request_now("PATCH", f"/v1/nodes/{name}", wish)


def _node(server: Server, name: str) -> Node:
    found = server.nodes()
    node = next((one for one in found if one.name == name), None)
    if node is None:
        hint = did_you_mean(name, [one.name for one in found])
        raise NotFound(f"there is no node {name}{hint}", remedy="miniorch nodes")
    return node


def _certificates(server: Server) -> dict[str, float]:
    """Until when each member's certificate counts."""
    return {one["name"]: one["until"] for one in server.plain("members")}


def _row(node: Node, tasks: Sequence[Task], certificates: dict[str, float], now: float) -> dict[str, Any]:
    own = [task.spec.reserved for task in tasks if task.node == node.name and task.live]
    cpus, memory = sum(one.cpus for one in own), sum(one.memory_bytes for one in own)
    days = int((certificates[node.name] - now) // 86_400) if node.name in certificates else None
    shown = shown_state(node, len(own))
    cells = (
        node.name,
        node.role.value,
        shown,
        node.address or "-",
        node.subnet,
        str(len(own)),
        f"{cpus:.3g}/{node.capacity.cpus:g}",
        f"{memory / GIB:.1f}/{node.capacity.memory_bytes / GIB:.1f} GB",
        _labels(node) or "-",
        "-" if days is None else f"{days} days",
        node.engine,
        shown_message(node, now),
    )
    reserved = {"cpus": cpus, "memory_bytes": memory}
    return {**to_plain(node), "tasks": len(own), "shown": shown, "reserved": reserved, "certificate_days": days,
            "cells": cells}  # fmt: skip


def shown_state(node: Node, tasks: int) -> str:
    """One word: ready, not ready, unreachable, down, draining or drained."""
    if node.state is not NodeState.READY:
        return node.state.value
    if node.availability is Availability.DRAIN:
        return "draining" if tasks else "drained"
    return "ready" if node.ready else "not ready"


def shown_message(node: Node, now: float) -> str:
    if node.state is NodeState.READY:
        return node.message
    since = f"{node.state.value} since {max(0.0, now - node.state_since):.0f} s"
    return f"no heartbeat, {since}: miniorch node inspect {node.name}"


def _labels(node: Node) -> str:
    return " ".join(f"{key}={value}" for key, value in node.labels.items())
