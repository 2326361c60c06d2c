"""`ps`, `services`, `nodes`, `inspect`, `version`: what the server knows, as tables or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from miniorch import __version__
from miniorch.cli.ask import Server, resolve
from miniorch.cli.output import ago, as_json, table
from miniorch.clock import SystemClock
from miniorch.codec import to_plain
from miniorch.errors import NotFound, Temporary
from miniorch.model import Service, Task, TaskState
from miniorch.slots import is_done, is_given_up


def ps(app: str, *, ended: bool, json: bool) -> None:
    server = Server()
    tasks = server.tasks(app)
    if not ended:
        tasks = current(tasks, server.services(app))
    if app and not tasks and not any(one.name == app for one in server.apps()):
        raise NotFound(f"there is no app {app}", remedy="miniorch services")
    if json:
        as_json([_plain(task) for task in tasks])
        return
    now = SystemClock().now()
    rows = [
        (
            f"{task.app}/{task.name}",
            task.status.state.value,
            ago(now - task.status.since),
            task.node or "-",
            task.status.address or "-",
            task.spec.image,
            " ".join(task.status.message.split()),
        )
        for task in tasks
    ]
    table(("NAME", "STATE", "SINCE", "NODE", "ADDRESS", "IMAGE", "MESSAGE"), rows, _nothing(app, ended))


def current(tasks: Sequence[Task], services: Sequence[Service]) -> list[Task]:
    """The live tasks, and of a slot without one its last, if none will follow: a job that is done or was given up."""
    by_key = {one.key: one for one in services}
    newest = {(task.service_key, task.slot): task for task in sorted(tasks, key=lambda one: (one.live, one.created_at))}

    def final(task: Task) -> bool:
        service = by_key.get(task.service_key)
        last = newest[task.service_key, task.slot] is task
        return service is not None and last and (is_done(task, service) or is_given_up(task, service))

    return [task for task in tasks if task.live or final(task)]


def _nothing(app: str, ended: bool) -> str:
    if ended:
        return "no tasks"
    return f"no task of {app} is live; miniorch ps {app} -a shows ended ones" if app else "nothing runs"


def _plain(task: Task) -> dict[str, Any]:
    status = task.status
    return {
        "id": task.id,
        "app": task.app,
        "service": task.service,
        "slot": task.slot,
        "state": status.state.value,
        "desired_state": task.desired_state.value,
        "node": task.node,
        "address": status.address,
        "image": task.spec.image,
        "health": status.health,
        "exit_code": status.exit_code,
    }


def services(app: str, *, json: bool) -> None:
    server = Server()
    found, tasks = server.services(app), server.tasks(app)
    rows = []
    for one in found:
        own = [task for task in tasks if task.service_key == one.key]
        running = sum(1 for task in own if task.status.state is TaskState.RUNNING)
        done = sum(1 for task in own if is_done(task, one))
        rows.append((one, running, done, [f"{port.published}->{port.target}" for port in one.spec.ports]))
    if json:
        as_json(
            [
                {
                    "app": one.app,
                    "service": one.name,
                    "running": running,
                    "done": done,
                    "replicas": one.spec.replicas,
                    "address": one.vip,
                    "ports": ports,
                    "image": one.spec.task.image,
                    "removing": one.removing,
                }
                for one, running, done, ports in rows
            ]
        )
        return
    cells = [
        (
            one.key,
            "removing" if one.removing else f"{running}/{one.spec.replicas}" + (f", {done} done" if done else ""),
            one.vip,
            ", ".join(ports) or "-",
            one.spec.task.image,
        )
        for one, running, done, ports in rows
    ]
    table(("SERVICE", "RUNNING", "ADDRESS", "PORTS", "IMAGE"), cells, "no services")


def nodes(*, json: bool) -> None:
    server = Server()
    found = server.nodes()
    live = Counter(task.node for task in server.tasks() if task.live)
    if json:
        as_json([{**to_plain(one), "tasks": live[one.name]} for one in found])
        return
    rows = [
        (
            one.name,
            "ready" if one.ready else "not ready",
            one.engine,
            f"{one.capacity.cpus:g}",
            f"{one.capacity.memory_bytes / (1 << 30):.1f} GB",
            str(live[one.name]),
            one.pool_address,
            one.subnet,
            one.message,
        )
        for one in found
    ]
    head = ("NAME", "STATE", "ENGINE", "CPUS", "MEMORY", "TASKS", "ADDRESS", "SUBNET", "MESSAGE")
    table(head, rows, "no node has joined; miniorch up makes this machine one")


def inspect(name: str) -> None:
    """Whole objects by kind, as the server keeps them: an app with all that is of it, a service, tasks, a node."""
    server = Server()
    everything = {kind: server.plain(kind) for kind in ("apps", "services", "tasks", "volumes", "endpoints", "nodes")}
    if "/" not in name and any(one["name"] == name for one in everything["apps"]):
        found = {kind: [one for one in items if one.get("app", one.get("name")) == name]
                 for kind, items in everything.items() if kind != "nodes"}  # fmt: skip
    elif any(one["name"] == name for one in everything["nodes"]):
        found = {"nodes": [one for one in everything["nodes"] if one["name"] == name]}
    else:
        named = resolve(name, server.services(), server.tasks())
        ids = {task.id for task in named.tasks}
        found = {"tasks": [one for one in everything["tasks"] if one["id"] in ids]}
        for kind, key in (("services", "name"), ("endpoints", "service")) if named.whole_service else ():
            found[kind] = [one for one in everything[kind] if (one["app"], one[key]) == (named.app, named.service)]
    as_json({kind: items for kind, items in found.items() if items})


def version(*, json: bool) -> None:
    try:
        server = Server().version()
    except Temporary:
        server = {"version": None, "cluster": None, "revision": None}
    if json:
        as_json({"miniorch": __version__, **server})
        return
    print(f"miniorch {__version__}")
    if server["version"] is None:
        print("server: does not run here (miniorch up)")
    else:
        print(f"server {server['version']}, cluster {server['cluster']}, revision {server['revision']}")
