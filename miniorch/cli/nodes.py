"""`nodes` and `node ...`: the machines of the cluster, and what an administrator wishes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, detaching, done, sentence, table
from miniorch.cli.screen import Screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.codec import to_plain
from miniorch.errors import NotPlaced, UsageError
from miniorch.model import Availability, Node, NodeState, Task
from miniorch.slots import unknown, volumes_of
from miniorch.spec import Restart

GIB = 1 << 30


def nodes() -> Answer:
    server, now = Server(last_known=True), SystemClock().now()
    found, tasks, certificates = server.nodes(), server.tasks(), _certificates(server)
    rows = [_row(node, tasks, certificates, now) for node in found]
    head = ("NAME", "ROLE", "STATE", "ADDRESS", "SUBNET", "TASKS", "CPUS", "MEMORY", "LABELS", "CERTIFICATE", "ENGINE",
            "MESSAGE")  # fmt: skip
    empty = "no node has joined; miniorch up makes this machine one"
    return Answer([facts for facts, _ in rows], table(head, [cells for _, cells in rows], empty))


def inspect(name: str) -> Answer:
    """One node, what is on it, and what it alone has."""
    server, now = Server(last_known=True), SystemClock().now()
    node = server.node(name)
    tasks = [task for task in server.tasks() if task.node == name and task.live]
    volumes = [f"{one['app']}/{one['name']}" for one in server.plain("volumes") if one["node"] == name]
    facts, cells = _row(node, tasks, _certificates(server), now)
    told = [("role", node.role.value), ("state", facts["shown"]), ("address", node.address), ("subnet", node.subnet),
            ("engine", f"{node.engine} {node.platform}".strip()), ("cpus", cells[6]), ("memory", cells[7]),
            ("labels", cells[8]), ("message", cells[11]), ("volumes", ", ".join(volumes))]  # fmt: skip
    words = [name, *(f"  {what:<8} {value or '-'}" for what, value in told)]
    words += [f"  {task.app}/{task.name} {unknown(task, node, now) or task.status.state.value}" for task in tasks]
    live = [f"{task.app}/{task.name}" for task in tasks]
    return Answer({**facts, "volumes": volumes, "live": live}, "\n".join(words))


def label(name: str, words: Sequence[str]) -> Answer:
    """`zone=b` sets a label, `zone-` takes it away."""
    wrong = [word for word in words if not re.fullmatch(r"[^=]+=.*|[^=]+-", word, re.S)]
    if wrong:
        raise UsageError(f'"{wrong[0]}" is no label', remedy=f"miniorch node label {name} zone=b, or zone-")
    labels = dict(word.split("=", 1) for word in words if "=" in word)
    without = [word[:-1] for word in words if "=" not in word]
    server = Server()
    _change(server, name, {"labels": labels, "without": without})
    node = server.node(name)
    return done(f"{name}: {_labels(node) or 'no labels'}", node=name, outcome="labelled", labels=dict(node.labels))


def activate(name: str) -> Answer:
    _change(Server(), name, {"availability": Availability.ACTIVE})
    return done(f"{name} takes new tasks; what has moved away stays away", node=name, outcome="active")


def drain(name: str, *, detach: bool, timeout: float) -> Answer:
    """Ask for it, and wait until nothing is left that can go. Raises `NotPlaced` with what stays, and why."""
    server, again = Server(), f"miniorch node drain {name}"
    _change(server, name, {"availability": Availability.DRAIN})
    if detach:
        return done(f"{name} is draining; {again} waits until it is drained", node=name, outcome="draining")
    moves: list[str] = []

    def left() -> str:
        stays, moves[:] = _left(server, name)
        if stays and not moves:
            raise NotPlaced(
                f"{name} takes no new tasks, but is not empty: {'; '.join(stays)}",
                remedy=f"miniorch rm of those apps; or miniorch node activate {name}",
            )
        return f"{sentence(moves[:5])} still run{'s' * (len(moves) == 1)} on {name}" if moves else ""

    def late(missing: str) -> NotPlaced:
        return NotPlaced(f"after {timeout:g} s {missing}", remedy=f"miniorch explain {moves[0]}; or {again}")

    with detaching(f"interrupted; {name} is drained all the same: {again} waits again"):
        Waiting("", server, Screen(), SystemClock(), timeout).until(left, late)
    return done(f"{name} is drained", node=name, outcome="drained")


def remove(name: str, *, force: bool) -> Answer:
    server = Server()
    server.node(name)
    answer = server.transport.request_now("DELETE", f"/v1/nodes/{name}" + ("?force=1" if force else ""))
    lost = f"; {answer['lost']} of its tasks are lost and replaced" if answer["lost"] else ""
    return done(f"{name} is no longer in the cluster{lost}", node=name, outcome="removed", lost=answer["lost"])


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
    server.node(name)  # its own error names the nearest
    server.transport.request_now("PATCH", f"/v1/nodes/{name}", wish)


def _certificates(server: Server) -> dict[str, float]:
    """Until when each member's certificate counts."""
    return {one["name"]: one["until"] for one in server.plain("members")}


def _row(
    node: Node, tasks: Sequence[Task], certificates: dict[str, float], now: float
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is known of a node, and the same as cells of a table."""
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
    facts = {"tasks": len(own), "shown": shown, "reserved": reserved, "certificate_days": days}
    return {**to_plain(node), **facts}, cells


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
