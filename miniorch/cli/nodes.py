"""`nodes`, `node ...`, `net verify` and `what-if`: the cluster's machines, what is wished of them, what their kernels
hold, and what would be without them.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, detaching, done, nearest, sentence, table
from miniorch.cli.screen import Screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.codec import to_plain
from miniorch.errors import MiniorchError, NotPlaced, Unreachable, UsageError, to_wire
from miniorch.model import Availability, Node, NodeState, Task
from miniorch.slots import unknown, volumes_of
from miniorch.spec import Restart

GIB = 1 << 30
EXAMPLE = "--add cpu=2,memory=4g,label=zone:b"
AT_ONCE = 8  # nodes that are asked


def nodes() -> Answer:
    server, now = Server(last_known=True), SystemClock().now()
    found, tasks, certificates = server.nodes(), server.tasks(), _certificates(server)
    rows = [_row(node, tasks, certificates, now) for node in found]
    empty = "no node has joined; miniorch up makes this machine one"
    return Answer([facts for facts, _ in rows], table([cells for _, cells in rows], empty))


def inspect(name: str) -> Answer:
    """One node, what is on it, and what it alone has."""
    server, now = Server(last_known=True), SystemClock().now()
    node = server.node(name)
    tasks = [task for task in server.tasks() if task.node == name and task.live]
    volumes = [f"{one['app']}/{one['name']}" for one in server.plain("volumes") if one["node"] == name]
    facts, cells = _row(node, tasks, _certificates(server), now)
    told = [("role", cells["ROLE"]), ("state", cells["STATE"]), ("address", cells["ADDRESS"]),
            ("subnet", cells["SUBNET"]), ("engine", f"{node.engine} {node.platform}".strip()), ("cpus", cells["CPUS"]),
            ("memory", cells["MEMORY"]), ("labels", cells["LABELS"]), ("message", cells["MESSAGE"]),
            ("volumes", ", ".join(volumes))]  # fmt: skip
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
            message = f"{name} takes no new tasks, but is not empty: {'; '.join(stays)}"
            raise NotPlaced(message, remedy=f"miniorch rm of those apps; or miniorch node activate {name}")
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
    others = [one for one in server.nodes() if one.name != name and one.state is NodeState.READY]
    nowhere = not any(one.availability is Availability.ACTIVE for one in others)
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
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is known of a node, and the same as cells of a table."""
    own = [task.spec.reserved for task in tasks if task.node == node.name and task.live]
    cpus, memory = sum(one.cpus for one in own), sum(one.memory_bytes for one in own)
    days = int((certificates[node.name] - now) // 86_400) if node.name in certificates else None
    shown = shown_state(node, len(own))
    cells = {
        "NAME": node.name, "ROLE": node.role.value, "STATE": shown, "ADDRESS": node.address or "-",
        "SUBNET": node.subnet, "TASKS": str(len(own)), "CPUS": f"{cpus:.3g}/{node.capacity.cpus:g}",
        "MEMORY": f"{memory / GIB:.1f}/{node.capacity.memory_bytes / GIB:.1f} GB", "LABELS": _labels(node) or "-",
        "CERTIFICATE": "-" if days is None else f"{days} days", "ENGINE": node.engine,
        "MESSAGE": shown_message(node, now),
    }  # fmt: skip
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


def verify(node: str, *, repair: bool) -> Answer:
    """Print what differs; 0 if nothing does (any more), 1 if something does, 5 if a node could not be asked."""
    server = Server()
    nodes = {one.name: one for one in ([server.node(node)] if node else server.nodes())}
    method = "POST" if repair else "GET"

    def ask(name: str) -> Any:
        if nodes[name].state is NodeState.DOWN:
            return {"node": name, **to_wire(Unreachable("it is down", remedy="miniorch nodes"))}
        try:
            return server.transport.request_now(method, f"/v1/nodes/{name}/network")
        except MiniorchError as error:
            return {"node": name, **to_wire(error)}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = list(pool.map(ask, sorted(nodes)))
    words = [f"{report['node']}: {line}" for report in reports for line in _differences(report)]
    code = 5 if any("differences" not in report for report in reports) else 0
    code = 1 if any(report.get("differences") for report in reports) else code
    return Answer(reports, "\n".join(words), code=code)


def _differences(report: dict[str, Any]) -> list[str]:
    """What is said of one node."""
    if "differences" not in report:
        return [f"not looked at: {report['message']}"]
    said = [report["note"]] if report["note"] else []
    said += [f"repaired: {line}" for line in report["repaired"]] + list(report["differences"])
    if not report["differences"]:
        said.append("as it should be" if not report["repaired"] else "now as it should be")
    return said


def what_if(
    *, kill: Sequence[str], drain: Sequence[str], lose: Sequence[str], add: Sequence[str], strategy: str
) -> Answer:
    if not (kill or drain or lose or add or strategy):
        raise UsageError("what if what?", remedy="miniorch what-if --kill node2")
    body = {"kill": kill, "drain": drain, "lose": lose, "add": [_size(word) for word in add], "strategy": strategy}
    answer = Server().transport.request_now("POST", "/v1/what-if", body)
    words = [f"lost: {', '.join(answer['lost'])}"] * bool(answer["lost"])
    words += [f"{service} would lose all replicas that serve at the same moment" for service in answer["dark"]]
    there = [(move, move["after"]) for move in answer["moves"]] + [(move, _waits(move)) for move in answer["waiting"]]
    rows = [{"TASK": move["task"], "IS ON": move["before"] or "-", "WOULD BE ON": place} for move, place in there]
    words.append(table(rows, "every task would stay where it is"))
    return Answer(answer, "\n".join([*words, f"asked at revision {answer['revision']}; nothing was changed"]))


def _waits(move: dict[str, str]) -> str:
    """A task of a drained node runs on where it is until it has a place."""
    return f"{move['after']}, until it has a place: {move['why']}" if move["after"] else f"nowhere: {move['why']}"


def _size(words: str) -> dict[str, Any]:
    """`cpu=2,memory=4g,label=zone:b`. Raises `UsageError`."""
    from miniorch.lab.plan import read_memory

    node: dict[str, Any] = {"cpus": 0.0, "memory_bytes": 0, "labels": {}}
    for word in words.split(","):
        key, equals, value = word.partition("=")
        label, colon, text = value.partition(":")
        try:
            if key == "cpu" and 0 < float(value) < 1e6:
                node["cpus"] = float(value)
            elif key == "memory" and value:
                node["memory_bytes"] = read_memory(value)
            elif key == "label" and label and colon:
                node["labels"][label] = text
            else:
                raise ValueError
        except (ValueError, UsageError):
            near = nearest(key, ("cpu", "memory", "label"))
            hint = f", did you mean {near}?" if equals and near and near != key else ""
            wants = "--add wants cpu=, memory= and label=KEY:VALUE"
            raise UsageError(f'{wants}, got "{word}"{hint}', remedy=EXAMPLE) from None
    for key, option in (("cpus", "cpu=2"), ("memory_bytes", "memory=4g")):
        if not node[key]:
            raise UsageError(f'--add {words} lacks "{option.partition("=")[0]}"', remedy=EXAMPLE)
    return node
