"""Small clusters for tests: nodes with labels, tasks on them, and a service that wants one more place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from miniorch.model import DesiredState, Node, Status, Task, TaskState
from miniorch.spec import Constraint, ContainerOptions, Placement, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Rule
from scheduler.filters import FILTERS
from scheduler.request import Board, NodeView, Request
from scheduler.spellings import classic, expression, marathon

MIB = 1024 * 1024


def node(name: str, **labels: str) -> Node:
    return Node(name, "10.200.0.0/24", "10.200.0.1", Resources(4.0, 8192 * MIB), labels=labels, platform="linux/amd64")


def task(name: str, state: TaskState = TaskState.RUNNING, **fields: Any) -> Task:
    """`web.1` of app shop, `other/web.1` of another one."""
    app, _, own = name.rpartition("/")
    service, _, slot = own.partition(".")
    image, labels = fields.pop("image", "nginx:1"), fields.pop("labels", {})
    spec = TaskSpec(image, options=ContainerOptions(labels=labels))
    made = Task(f"id-{own}", app or "shop", service, int(slot or 1), spec, 0.0, status=Status(state))
    return replace(made, **fields)


def leaving(name: str) -> Task:
    return task(name, desired_state=DesiredState.SHUTDOWN)


def board(*places: tuple[Node, Sequence[Task | str]], services: Mapping[str, Sequence[Constraint]] = {}) -> Board:
    """Nodes with what is on them; `services` are rules of services that run, by key."""
    views = [
        NodeView(where, tuple(replace(task(one) if isinstance(one, str) else one, node=where.name) for one in tasks))
        for where, tasks in places
    ]
    specs = {
        key: ServiceSpec(TaskSpec("x"), placement=Placement(constraints=tuple(rules)))
        for key, rules in services.items()
    }
    return Board.of(views, specs)


def wants(*rules: Constraint | str | Sequence[str], service: str = "web", replicas: int = 1, **fields: Any) -> Request:
    """One more task of shop/web; a text is an expression or classic Swarm's, a list is Marathon's."""
    found: list[Constraint] = []
    for rule in rules:
        if isinstance(rule, Constraint):
            found.append(rule)
        elif not isinstance(rule, str):
            found += marathon(rule)
        elif rule.startswith(("constraint:", "affinity:")):
            found.append(classic(*rule.split(":", 1)))
        else:
            found.append(expression(rule))
    image, labels = fields.pop("image", "nginx:1"), fields.pop("labels", {})
    spec = TaskSpec(image, options=ContainerOptions(labels=labels), reserved=fields.pop("reserved", Resources()))
    placement = Placement(constraints=tuple(found), **fields)
    return Request("shop", service, ServiceSpec(spec, replicas=replicas, placement=placement))


def fitting(request: Request, where: Board) -> str:
    """The names of the nodes that pass every filter, in one text: "n1 n3". `passes` and `tell` must agree."""
    found = []
    for name, view in where.views.items():
        told = [rule.tell(request, view, where) for rule in FILTERS]
        assert [one.ok for one in told] == [rule.passes(request, view, where) for rule in FILTERS], (name, told)
        assert all(one.detail for one in told), told
        if all(one.ok for one in told):
            found.append(name)
    return " ".join(found)


def refusal(request: Request, where: Board, name: str) -> Rule:
    """The one rule that fails on a node."""
    told = [rule.tell(request, where.views[name], where) for rule in FILTERS]
    failing = [one for one in told if not one.ok]
    assert len(failing) == 1, failing
    return failing[0]
