"""Questions to the server, typed; and the names that people use for things.

`dockchat/web` is a service, `dockchat/web.2` one slot of it, and a task's id, or the beginning of one, is that task.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from miniorch.cli.output import did_you_mean
from miniorch.codec import from_plain
from miniorch.contexts import transport_now
from miniorch.errors import NotFound, UsageError
from miniorch.model import App, Event, Node, Release, Service, Task
from miniorch.transport import HttpTransport

T = TypeVar("T")


class Server:
    """The server's answers as model objects. Raises what the server answers, `Unreachable` when it does not.

    `last_known`: while the store is away the server's copy of it will do, and the person is told so, once.
    """

    def __init__(self, transport: HttpTransport | None = None, *, last_known: bool = False) -> None:
        self.transport = transport or transport_now()
        self._last_known = last_known
        self._told = False

    def plain(self, kind: str, app: str = "") -> list[Any]:
        """Objects as the server sends them."""
        query = [f"app={app}"] * bool(app) + ["stale=1"] * self._last_known
        answer = self.transport.request_now("GET", f"/v1/{kind}" + "?" * bool(query) + "&".join(query))
        if answer.get("stale") and not self._told:
            self._told = True
            print("the store does not answer: this is what the server last knew of it", file=sys.stderr)
        items: list[Any] = answer["items"]
        return items

    def _list(self, cls: type[T], kind: str, app: str = "") -> list[T]:
        return [from_plain(cls, plain) for plain in self.plain(kind, app)]

    def version(self) -> Any:
        return self.transport.request_now("GET", "/v1/version")

    def apps(self) -> list[App]:
        return self._list(App, "apps")

    def must_have(self, app: str) -> None:
        """Raises `NotFound` with the nearest name when there is no such app."""
        known = [one.name for one in self.apps()]
        if app not in known:
            raise NotFound(f"there is no app {app}{did_you_mean(app, known)}", remedy="miniorch ps")

    def nodes(self) -> list[Node]:
        return self._list(Node, "nodes")

    def node(self, name: str) -> Node:
        """Raises `NotFound` with the nearest name."""
        found = {one.name: one for one in self.nodes()}
        if name not in found:
            raise NotFound(f"there is no node {name}{did_you_mean(name, found)}", remedy="miniorch nodes")
        return found[name]

    def resolve(self, name: str) -> "Named":
        return resolve(name, self.services(), self.tasks())

    def services(self, app: str = "") -> list[Service]:
        return sorted(self._list(Service, "services", app), key=lambda one: one.key)

    def tasks(self, app: str = "") -> list[Task]:
        """Ordered by service and slot, the older task of a slot first."""
        return sorted(
            self._list(Task, "tasks", app), key=lambda one: (one.service_key, one.slot, one.created_at, one.id)
        )

    def events(self) -> list[Event]:
        return sorted(self._list(Event, "events"), key=lambda one: (one.at, one.id))

    def releases(self, app: str) -> list[Release]:
        return sorted(self._list(Release, "releases", app), key=lambda one: one.number)


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: a service as a whole, or some tasks of it (newest last)."""

    app: str
    service: str
    tasks: tuple[Task, ...]
    whole_service: bool

    @property
    def key(self) -> str:
        return f"{self.app}/{self.service}"


def split_service(name: str) -> tuple[str, str]:
    """`app/service`. Raises `UsageError`."""
    app, slash, service = name.partition("/")
    if not (app and slash and service) or "/" in service:
        raise UsageError(f'"{name}" is not of the form APP/SERVICE', remedy="miniorch services")
    return app, service


def resolve(name: str, services: Sequence[Service], tasks: Sequence[Task]) -> Named:
    """What APP/SERVICE, APP/SERVICE.SLOT, a task's id or its beginning means. Raises `NotFound`, `UsageError`."""
    if "/" in name:
        app, service = split_service(name)
        service, _, slot = service.partition(".")
        own = tuple(task for task in tasks if task.service_key == f"{app}/{service}")
        if not own and not any(one.key == f"{app}/{service}" for one in services):
            hint = did_you_mean(f"{app}/{service}", [one.key for one in services])
            raise NotFound(f"there is no service {app}/{service}{hint}", remedy="miniorch services")
        if slot:
            own = tuple(task for task in own if str(task.slot) == slot)
            if not own:
                raise NotFound(f"{app}/{service} has no slot {slot}", remedy=f"miniorch ps {app}")
        return Named(app, service, own, not slot)
    found = [task for task in tasks if task.id.startswith(name)] if name else []
    exact = [task for task in found if task.id == name]
    found = exact or found
    if not found:
        raise NotFound(f"there is no task {name}", remedy="miniorch ps -a, or name it APP/SERVICE.SLOT")
    if len(found) > 1:
        several = ", ".join(task.id for task in found[:5])
        raise UsageError(f"{name} is the beginning of {len(found)} task ids: {several}", remedy="write more of the id")
    task = found[0]
    return Named(task.app, task.service, (task,), False)
