"""`ps`, `services`, `inspect`, `version`: what the server knows, as tables or as JSON."""

from miniorch import __version__
from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, ago, json_text, table
from miniorch.clock import SystemClock
from miniorch.contexts import elsewhere
from miniorch.errors import MiniorchError
from miniorch.model import TaskState
from miniorch.slots import current, is_done, next_at, told, unknown

REASONS_TOLD = 3


def ps(app: str, *, ended: bool) -> Answer:
    server = Server(last_known=True)
    tasks, services, now = server.tasks(app), {one.key: one for one in server.services(app)}, SystemClock().now()
    nodes = {one.name: one for one in server.nodes()}
    if not ended:
        tasks = current(tasks, services, now)
    if app and not tasks:
        server.must_have(app)
    facts, rows = [], []
    for task in tasks:
        service, status, away = services.get(task.service_key), task.status, unknown(task, nodes.get(task.node), now)
        facts.append({
            "id": task.id, "app": task.app, "service": task.service, "slot": task.slot, "state": status.state.value,
            "unknown": bool(away), "desired_state": task.desired_state.value, "node": task.node,
            "address": status.address, "image": task.spec.image, "health": status.health,
            "exit_code": status.exit_code, "next_at": next_at(task, service) if service and not task.live else None,
        })  # fmt: skip
        rows.append({
            "NAME": f"{task.app}/{task.name}", "STATE": "unknown" if away else status.state.value,
            "SINCE": ago(now - status.since), "NODE": task.node or "-", "ADDRESS": status.address or "-",
            "IMAGE": task.spec.image, "MESSAGE": " ".join((away or told(task, service, now)).split()),
        })  # fmt: skip
    return Answer(facts, table(rows, _nothing(app, ended)))


def _nothing(app: str, ended: bool) -> str:
    if ended:
        return "no tasks"
    return f"no task of {app} is live; miniorch ps {app} -a shows ended ones" if app else "nothing runs"


def services(app: str) -> Answer:
    server = Server(last_known=True)
    found, tasks = server.services(app), server.tasks(app)
    if app and not found:
        server.must_have(app)
    nodes, now = {node.name: node for node in server.nodes()}, SystemClock().now()
    standing = server.transport.request_now("GET", "/v1/standing" + (f"?app={app}" if app else ""))
    weak: dict[str, list[str]] = {}
    for reason in standing["reasons"]:
        weak.setdefault(reason["service"], []).append(reason["why"])
    facts, rows = [], []
    for one in found:
        own = [task for task in tasks if task.service_key == one.key and not unknown(task, nodes.get(task.node), now)]
        running = sum(1 for task in own if task.status.state is TaskState.RUNNING)
        done = sum(1 for task in own if is_done(task, one))
        ports = [f"{port.published}->{port.target}" for port in one.spec.ports]
        facts.append({
            "app": one.app, "service": one.name, "running": running, "done": done, "replicas": one.spec.replicas,
            "address": one.vip, "ports": ports, "image": one.spec.task.image, "removing": one.removing,
            "held": one.held, "survives_loss_of_a_node": one.key not in weak, "because": weak.get(one.key, []),
        })  # fmt: skip
        many = "removing" if one.removing else f"{running}/{one.spec.replicas}" + (f", {done} done" if done else "")
        rows.append({"SERVICE": one.key, "RUNNING": many, "ADDRESS": one.vip, "PORTS": ", ".join(ports) or "-",
                     "IMAGE": one.spec.task.image})  # fmt: skip
    words = [table(rows, "no services")]
    words += [f"{one.key} is not changed further, and what runs goes on: {one.held}" for one in found if one.held]
    if found:
        alike: dict[str, list[str]] = {}  # services for which the same is told
        for key, why in weak.items():
            alike.setdefault(", ".join(why), []).append(key)
        told = [f"{', '.join(keys)}: {why}" for why, keys in alike.items()]
        more = f"; and {len(told) - REASONS_TOLD} more reasons: --json" if len(told) > REASONS_TOLD else ""
        yes = "yes" if standing["tried"] else "yes, if all fit elsewhere: miniorch what-if --kill NODE"
        because = f"no, because {'; '.join(told[:REASONS_TOLD])}{more}" if told else yes
        words.append(f"survives the loss of any one node: {because}")
    return Answer(facts, "\n".join(words))


def inspect(name: str) -> Answer:
    """Whole objects by kind, as the server keeps them: an app with all that is of it, a service, tasks, a node."""
    server = Server(last_known=True)
    everything = {kind: server.plain(kind) for kind in ("apps", "services", "tasks", "volumes", "endpoints", "nodes")}
    if "/" not in name and any(one["name"] == name for one in everything["apps"]):
        found = {kind: [one for one in items if one.get("app", one.get("name")) == name]
                 for kind, items in everything.items() if kind != "nodes"}  # fmt: skip
    elif any(one["name"] == name for one in everything["nodes"]):
        found = {"nodes": [one for one in everything["nodes"] if one["name"] == name]}
    else:
        named = server.resolve(name)
        ids = {task.id for task in named.tasks}
        found = {"tasks": [one for one in everything["tasks"] if one["id"] in ids]}
        for kind, key in (("services", "name"), ("endpoints", "service")) if named.whole_service else ():
            found[kind] = [one for one in everything[kind] if (one["app"], one[key]) == (named.app, named.service)]
    facts = {kind: items for kind, items in found.items() if items}
    return Answer(facts, json_text(facts))


def version() -> Answer:
    try:
        server, why = Server().version(), ""
    except MiniorchError as error:  # without the right to ask, too
        server, why = dict.fromkeys(("version", "cluster", "revision")), f"{error.message} ({error.remedy})"
    place = f" at {Server().transport.place}" if elsewhere() and not why else ""  # not this machine's
    known = f"server {server['version']}{place}, cluster {server['cluster']}, revision {server['revision']}"
    return Answer({"miniorch": __version__, **server}, f"miniorch {__version__}\n{f'server: {why}' if why else known}")
