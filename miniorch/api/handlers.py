"""The handlers: check, write one transaction, return. They decide nothing; deciding is the controllers' work.

How a change is written stands in `writing.py`; what concerns machines in `nodes.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from miniorch import __version__
from miniorch.api.access import admit, check_power, check_powers
from miniorch.api.apply import check_spec, plan_apply, plan_release
from miniorch.api.explain import explain_task_now
from miniorch.api.joining import Guesses, Joining
from miniorch.api.nodes import Nodes
from miniorch.api.routes import Call, Route
from miniorch.api.scope import Scopes, Shown
from miniorch.api.watch import Watch, Watches, Wish, selection_of
from miniorch.api.writing import retrying
from miniorch.authority import Authority
from miniorch.changes import changes
from miniorch.codec import Json, from_plain
from miniorch.controllers.leadership import Leadership
from miniorch.controllers.liveness import COMPONENTS, Liveness
from miniorch.controllers.loop import Loop
from miniorch.errors import Compacted, Conflict, NotFound, UsageError
from miniorch.model import (
    App,
    Cluster,
    Member,
    Release,
    Service,
    Status,
    Task,
    Volume,
)
from miniorch.slots import current
from miniorch.spec import MAX_REPLICAS, AppSpec
from miniorch.state.backup import Content, take
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.records import Versioned, Write, from_entry, read, read_all

STATUSES_AT_ONCE = TXN_OPERATIONS // 2  # each with an event
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StatusReport:
    task: str
    status: Status


@dataclass(eq=False)
class Handlers(Nodes, Joining):
    """All routes of `routes.py`."""

    _loop: Loop
    _leadership: Leadership
    _liveness: Liveness
    authority: Authority | None = None  # None: its key is kept by another server
    store_url: str = ""
    guesses: Guesses = field(default_factory=Guesses)
    _joining: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.watches = Watches(self._store, self._leadership.store_is_silent)
        self.scopes = Scopes(
            self._loop.cache, lambda shown, error: self.watches.end("endpoints", _scoped(shown), error)
        )

    async def answer(self, route: Route, call: Call, body: Callable[[], Awaitable[Any]] | None = None) -> Any:
        """What every way to a handler leads through. `body` reads the call's, once it is known that it may be asked.

        Raises `NotAllowed`; `NotLeader` where only the leader knows.
        """
        caller = call.caller
        member = self._loop.cache.members.get(caller.name)
        if member is None and caller.via == "tls" and caller.role:  # it may have joined a moment ago, elsewhere
            found = await read(self._store, Member, caller.name)
            member = found.item if found else None
        admit(route, call, member)
        if route.by_leader:
            self._leadership.require()
        if body is not None:
            call = Call(caller, call.names, call.query, await body())
        return await getattr(self, route.handler)(call)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def version(self, call: Call) -> Any:
        cluster = await self._must(Cluster, "cluster", "the cluster record is missing")
        return {
            "version": __version__,
            "cluster": cluster.item.id,
            "revision": await self._store.revision(),
            "container_pool": cluster.item.container_pool,
            "vip_pool": cluster.item.vip_pool,
        }

    async def list_kind(self, call: Call) -> Any:
        kind = call.names["kind"]
        listing = await self._store.list(f"/{kind}/")
        if kind == "endpoints" and "node" in call.query:
            await self._loop.cache.reached(listing.revision)
        wanted = self._wish(kind, call.query)
        items = [one.value for one in listing.entries if not call.query or wanted(from_entry(one))]
        return Json(b'{"revision":%d,"items":[%s]}' % (listing.revision, b",".join(items)))

    async def watch(self, call: Call) -> Watch:
        kind = call.names["kind"]
        try:
            after = int(call.query.get("revision", ""))
        except ValueError:
            raise UsageError("a watch needs ?revision=N, the revision of the list before it") from None
        if after > await self._store.revision():
            raise Compacted(f"revision {after} was not this store's: list again")
        if kind == "endpoints" and "node" in call.query:
            await self.scopes.check(call.query["node"], after)
        return self.watches.open(kind, after, self._wish(kind, call.query))

    def _wish(self, kind: str, query: Mapping[str, str]) -> Wish:
        if kind == "endpoints" and "node" in query:
            return _scoped(Shown(self.scopes, query["node"]))
        return Wish(selection_of(query))

    async def explain_service(self, call: Call) -> Any:
        service = await self._must(Service, f"{call.names['app']}/{call.names['service']}", "no such service")
        cache, now = self._loop.cache, self._clock.now()
        tasks = current(cache.tasks_of(service.item.key), cache.services, now)
        return {"revision": cache.revision, "tasks": [explain_task_now(task, cache, now) for task in tasks]}

    async def explain_task(self, call: Call) -> Any:
        task = await self._must(Task, call.names["task"], "no such task")
        cache = self._loop.cache
        return {"revision": cache.revision, "tasks": [explain_task_now(task.item, cache, self._clock.now())]}

    async def backup(self, call: Call) -> Content:
        return await take(self._store, self.authority)

    async def inside_of(self, call: Call) -> str:
        """The same for who wants to be inside the container, or to touch its files."""
        task = (await self._must(Task, call.names["task"], "no such task")).item
        check_power(call.caller, f"{task.app}/{task.name}", task.spec)
        return await self.node_of(call)

    async def node_of(self, call: Call) -> str:
        """Whose agent has a task's container."""
        task = (await self._must(Task, call.names["task"], "no such task")).item
        if not task.node:
            raise Conflict(
                f"{task.app}/{task.name} has no node yet: {task.status.message}",
                remedy=f"miniorch explain {task.app}/{task.name}",
            )
        return task.node

    # --- what users write --------------------------------------------------------------------------------------------

    @retrying
    async def apply(self, call: Call) -> Any:
        app, spec = call.names["app"], from_plain(AppSpec, call.body)
        check_spec(app, spec)
        check_powers(call.caller, spec)
        cluster = await self._must(Cluster, "cluster", "the cluster record is missing")
        services = await read_all(self._store, Service)
        current = await read(self._store, App, app)
        writes = plan_apply(app, spec, current, services, cluster.item, self._clock.now())
        if any(isinstance(write.item, Service) for write in writes):
            writes.append(self._alone(cluster))
        differences = changes(app, spec, [service.item for service in services])
        writes += plan_release(app, await read_all(self._store, Release, f"{app}/"), differences, self._clock.now())
        return {"revision": await self._commit(writes), "changes": differences}

    @retrying
    async def remove(self, call: Call) -> Any:
        name, with_volumes = call.names["app"], call.query.get("volumes") == "1"
        app = await read(self._store, App, name)
        if app is None:
            left = await read_all(self._store, Volume, f"{name}/")
            if not (with_volumes and left):
                raise NotFound(f"there is no app {name}", remedy="miniorch ps")
            app = Versioned(App(name, self._clock.now()), 0)
        removing = replace(app.item, removing=True, remove_volumes=with_volumes or app.item.remove_volumes)
        writes = [Write(removing, app.modified, why="to be removed")]
        for service in await read_all(self._store, Service, f"{name}/"):
            writes.append(Write(replace(service.item, removing=True), service.modified))
        return {"revision": await self._commit(writes)}

    @retrying
    async def scale(self, call: Call) -> Any:
        key = f"{call.names['app']}/{call.names['service']}"
        replicas = call.body.get("replicas") if isinstance(call.body, dict) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= MAX_REPLICAS:
            raise UsageError(
                f"replicas wants a whole number from 0 to {MAX_REPLICAS}, got {replicas!r}",
                remedy=f"miniorch scale {key}=3",
            )
        service = await self._wanted_service(key)
        spec = replace(service.item.spec, replicas=replicas)
        why = f"scaled from {service.item.spec.replicas} to {replicas}"
        return {"revision": await self._commit([Write(replace(service.item, spec=spec), service.modified, why=why)])}

    @retrying
    async def restart(self, call: Call) -> Any:
        service = await self._wanted_service(f"{call.names['app']}/{call.names['service']}")
        again = replace(service.item, round=service.item.round + 1)
        return {"revision": await self._commit([Write(again, service.modified, why="is restarted by hand")])}

    # --- what agents write -------------------------------------------------------------------------------------------

    @retrying
    async def statuses(self, call: Call) -> Any:
        node, reports = call.names["node"], [from_plain(StatusReport, plain) for plain in call.body or ()]
        writes = []
        for report in {report.task: report for report in reports}.values():
            task = await read(self._store, Task, report.task)
            if task is None or task.item.node != node:
                continue
            old, new = task.item.status, report.status
            backwards = new.state.order < old.state.order or (old.state.ended and new.state is not old.state)
            if backwards or new == old:
                continue
            if new.state is not old.state:
                new = replace(new, since=self._clock.now())
                why = f"{new.state.value}: {new.message}" if new.message else new.state.value
            else:
                new, why = replace(new, since=old.since), ""
            writes.append(Write(replace(task.item, status=new), task.modified, why=why))
        for start in range(0, len(writes), STATUSES_AT_ONCE):
            await self._commit(writes[start : start + STATUSES_AT_ONCE])
        return {}

    async def applied(self, call: Call) -> Any:
        body = call.body if isinstance(call.body, dict) else {}
        component, revision = body.get("component"), body.get("revision")
        if component not in COMPONENTS or not isinstance(revision, int):
            raise UsageError(f"wants a component of {', '.join(COMPONENTS)} and a revision, got {body!r}")
        self._liveness.applied(call.names["node"], component, revision)
        for task in self._loop.cache.draining.values():
            self._loop.wake("services", task.service_key)
        return {}

    @retrying
    async def volumes_removed(self, call: Call) -> Any:
        node, writes = call.names["node"], []
        for key in call.body or ():
            volume = await read(self._store, Volume, str(key))
            if volume is not None and volume.item.node == node and volume.item.removing:
                writes.append(Write(volume.item, volume.modified, erase=True, why="deleted"))
        if writes:
            await self._commit(writes)
        return {}

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _wanted_service(self, key: str) -> Versioned[Service]:
        service = await self._must(Service, key, "no such service")
        if service.item.removing:
            raise Conflict(f"{key} is being removed", remedy=f"miniorch wait {key} --for gone; then run")
        return service

    @staticmethod
    def _alone(cluster: Versioned[Cluster]) -> Write:
        """Write the cluster's record back as it is: of two requests that both read lists of subnets, service addresses
        or ports after it, one fails and reads again. Comparing only the new object's own key would let both pass.
        """
        return Write(cluster.item, cluster.modified)


def _scoped(shown: Shown) -> Wish:
    """What a node may see of the endpoints, which have no node of their own."""
    return Wish(further=shown)
