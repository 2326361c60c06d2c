"""Short ways to say "a service with two tasks" in tests of decisions."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from miniorch.clock import Clock
from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.services import Services
from miniorch.model import DesiredState, Node, Service, Status, Task, TaskState
from miniorch.spec import Resources, ServiceSpec, TaskSpec
from miniorch.state.records import Write

T0 = 1_000_000.0
NODE = Node("n1", "10.200.0.0/24", "10.200.0.1", Resources(2.0, 2**30))


class StoppedClock(Clock):
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.time = T0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def service(name: str = "web", *, image: str = "web:1", app: str = "shop", **spec: Any) -> Service:
    return Service(app, name, ServiceSpec(TaskSpec(image), **spec), f"10.201.0.{len(name)}")


def task(
    slot: int = 1,
    state: TaskState = TaskState.RUNNING,
    *,
    of: Service | None = None,
    node: str = "n1",
    desired: DesiredState = DesiredState.RUNNING,
    age: float = 10.0,
    since: float = 1.0,
    ident: str = "",
    **status: Any,
) -> Task:
    of = of or service()
    address = f"10.200.0.{slot + 1}" if node else ""
    return Task(
        id=ident or f"t{slot}",
        app=of.app,
        service=of.name,
        slot=slot,
        spec=of.spec.task,
        created_at=T0 - age,
        desired_state=desired,
        desired_since=T0 - since,
        node=node,
        status=Status(state, since=T0 - since, address=address, **status),
    )


def plan_service(*items: object, now: float = T0, liveness: Liveness | None = None, key: str = "shop/web") -> Any:
    if not any(isinstance(item, Node) for item in items):
        items = (*items, NODE)
    controller = Services(liveness or Liveness(StoppedClock()), random.Random(1))
    return controller.plan(key, Cache.holding(*items), now)


def said(writes: list[Write]) -> list[str]:
    """What the writes do, in words: "new web.2", "erase t1", "t1: desired draining"."""
    words = []
    for write in writes:
        item = write.item
        if write.erase:
            words.append(f"erase {getattr(item, 'id', getattr(item, 'name', ''))}")
        elif isinstance(item, Task) and write.modified == 0:
            words.append(f"new {item.name}")
        elif isinstance(item, Task):
            words.append(f"{item.id}: desired {item.desired_state.value}, {item.status.state.value}")
        else:
            words.append(f"{'new' if write.modified == 0 else 'change'} {type(item).__name__}")
    return words


def outdated(one: Task) -> Task:
    return replace(one, spec=TaskSpec("web:0"))
