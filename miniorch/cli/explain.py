"""`explain`: why a task is where it is, and what the code of an error means."""

from __future__ import annotations

import re
from typing import Any

from miniorch.cli.ask import Server, resolve
from miniorch.cli.complete import LESSONS
from miniorch.cli.output import as_json
from miniorch.errors import NotFound

CODE = re.compile(r"[Ee]\d{4}")


def explain(name: str, *, json: bool) -> None:
    """A lesson for a code; for all else every task, every node, every rule."""
    if CODE.fullmatch(name):
        title, text = lesson(name.upper(), LESSONS.read_text())
        if json:
            as_json({"code": name.upper(), "title": title, "lesson": text})
        else:
            print(f"{name.upper()} {title}\n\n{text}")
        return
    server = Server()
    named = resolve(name, server.services(), server.tasks())
    if named.whole_service:
        answer = server.transport.request_now("GET", f"/v1/explain/{named.key}")
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


def lesson(code: str, text: str) -> tuple[str, str]:
    """Title and text of the section `## E0102 title` of the lessons. Raises `NotFound` with the nearest code."""
    found = {one[1]: one for one in re.finditer(r"^## (E\d{4}) *(.*)\n((?:(?!## ).*\n?)*)", text, re.M)}
    if code not in found:
        nearest = min(found, key=lambda known: abs(int(known[1:]) - int(code[1:])), default="E0001")
        raise NotFound(f"no error has the code {code}; the nearest is {nearest}", remedy=f"miniorch explain {nearest}")
    return found[code][2].strip(), found[code][3].strip()
