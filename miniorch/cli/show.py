"""`ps`, `services`, `events`, `explain`, `version`: what the server knows, as tables or as JSON."""

from __future__ import annotations

import time
from typing import Any

from miniorch import __version__
from miniorch.cli.ask import Server, resolve
from miniorch.cli.output import ago, as_json, table
from miniorch.clock import SystemClock
from miniorch.errors import NotFound, Temporary
from miniorch.model import Task


def ps(app: str, *, ended: bool, json: bool) -> None:
    server = Server()
    tasks = [task for task in server.tasks(app) if ended or task.live]
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
        running = sum(1 for task in tasks if task.service_key == one.key and task.status.state.value == "running")
        rows.append((one, running, [f"{port.published}->{port.target}" for port in one.spec.ports]))
    if json:
        as_json(
            [
                {
                    "app": one.app,
                    "service": one.name,
                    "running": running,
                    "replicas": one.spec.replicas,
                    "address": one.vip,
                    "ports": ports,
                    "image": one.spec.task.image,
                    "removing": one.removing,
                }
                for one, running, ports in rows
            ]
        )
        return
    cells = [
        (
            one.key,
            "removing" if one.removing else f"{running}/{one.spec.replicas}",
            one.vip,
            ", ".join(ports) or "-",
            one.spec.task.image,
        )
        for one, running, ports in rows
    ]
    table(("SERVICE", "RUNNING", "ADDRESS", "PORTS", "IMAGE"), cells, "no services")


def events(app: str, *, count: int, json: bool) -> None:
    found = [one for one in Server().events() if not app or one.subject.split("/")[0] == app]
    found = found[-count:] if count else []
    if json:
        as_json(found)
        return
    for one in found:
        print(f"{time.strftime('%H:%M:%S', time.localtime(one.at))}  {one.subject}  {one.message}")
    if not found:
        print("no events")


def explain(name: str, *, json: bool) -> None:
    """Every task, every node, every rule."""
    server = Server()
    named = resolve(name, server.services(), server.tasks())
    if named.whole_service:
        answer = server.transport.request_now("GET", f"/v1/explain/{named.app}/{named.service}")
    else:
        answer = server.transport.request_now("GET", f"/v1/explain/{named.tasks[-1].id}")
    if json:
        as_json(answer)
        return
    if not answer["tasks"]:
        print(f"{name} has no live task (revision {answer['revision']})")
    for task in answer["tasks"]:
        print(f"{task['name']} ({task['task']}) is {task['state']}" + _on(task) + f", revision {answer['revision']}")
        for line in task["message"].splitlines():
            print(f"  {line}")
        for node in task["nodes"]:
            print(f"  {node['node']}: {'fits' if node['fits'] else 'does not fit'}")
            width = max((len(rule["rule"]) for rule in node["rules"]), default=0)
            for rule in node["rules"]:
                print(f"    {'ok ' if rule['ok'] else 'no '} {rule['rule']:<{width}}  {rule['detail']}".rstrip())


def _on(task: dict[str, Any]) -> str:
    return f" on {task['node']}" if task.get("node") else ""


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
