"""The handlers: check, write one transaction, return. They decide nothing; deciding is the controllers' work.

How a change is written stands in `writing.py`; what concerns machines in `nodes.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from miniorch import __version__
from miniorch.api.access import admit, check_power, check_powers
from miniorch.api.apply import check_spec, plan_apply, plan_release
from miniorch.api.explain import explain_service, explain_task, explain_then, service_of_task
from miniorch.api.joining import Guesses, Joining
from miniorch.api.nodes import Nodes
from miniorch.api.routes import Call, Route
from miniorch.api.scope import Scopes, Shown, same_outside
from miniorch.api.watch import Watch, Watches, Wish, selection_of
from miniorch.api.whatif import Question, places, standing, tries, what_if
from miniorch.api.writing import retrying
from miniorch.authority import Authority
from miniorch.changes import ServiceChange, changes
from miniorch.codec import Json, from_plain
from miniorch.controllers.leadership import Leadership
from miniorch.controllers.liveness import COMPONENTS, Liveness
from miniorch.controllers.loop import Loop
from miniorch.controllers.upkeep import EVENTS_KEPT
from miniorch.errors import Compacted, Conflict, NotFound, Temporary, Unreachable, UsageError
from miniorch.model import App, Cluster, DesiredState, Event, Member, Release, Service, Status, Task, Volume
from miniorch.spec import MAX_REPLICAS, AppSpec
from miniorch.state.backup import Content, take
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.records import Versioned, Write, read, read_all

STATUSES_AT_ONCE = TXN_OPERATIONS // 2  # each with an event
STALE_SECONDS, COPY_SECONDS = 1.0, 5.0  # how long a list waits for the store, for who takes an old one and who does not


@dataclass(frozen=True, slots=True)
class StatusReport:
    task: str
    status: Status


class Listed(Json):
    """The answer to a list, as it goes over a socket, and beside it the objects, for who needs no socket."""

    revision: int
    items: list[Any]

    @classmethod
    def of(cls, revision: int, items: list[Any], written: Iterable[bytes], *, stale: bool) -> Listed:
        old = b'"stale":true,' if stale else b""
        made = cls(b'{"revision":%d,%b"items":[%b]}' % (revision, old, b",".join(written)))
        made.revision, made.items = revision, items
        return made


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
        self.scopes = Scopes(self._loop.cache, self._end_of_scope)

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
        cluster = await self._cluster()
        pools = {"container_pool": cluster.item.container_pool, "vip_pool": cluster.item.vip_pool}
        revision = await self._store.revision()
        return {"version": __version__, "cluster": cluster.item.id, "revision": revision, **pools}

    async def list_kind(self, call: Call) -> Any:
        """From the server's copy, once that has all that was written before now. Who asks with `?stale=1` takes it as
        it is when the store is away, and is told.
        """
        kind, cache = call.names["kind"], self._loop.cache
        may_be_old = "stale" in call.query and cache.revision > 0
        try:
            async with asyncio.timeout(STALE_SECONDS if may_be_old else COPY_SECONDS):
                await cache.reached(await self._store.revision())
            stale = False
        except (Temporary, TimeoutError) as error:
            if not may_be_old:
                raise _late(error) from None
            stale = True
        wanted = self._wish(kind, call.query)
        items = [one for one in cache.some(kind, call.query.get("node")) if wanted(one)]
        return Listed.of(cache.revision, items, map(cache.written, items), stale=stale)

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
            shown = Shown(self.scopes, query["node"])  # endpoints have no node of their own
            return Wish(further=shown, alike=same_outside if "outside" in query else None)
        return Wish(selection_of(query))

    def _end_of_scope(self, shown: Shown, error: Compacted) -> None:
        for alike in (None, same_outside):
            self.watches.end("endpoints", Wish(further=shown, alike=alike), error)

    async def explain_service(self, call: Call) -> Any:
        key, cache, every_node = f"{call.names['app']}/{call.names['service']}", self._loop.cache, "all" in call.query
        service = await self._must(Service, key)
        if (at := _number(call.query.get("at", ""))) is not None:
            return explain_then(key, at, cache, slot=call.query.get("slot", ""))
        await cache.reached(service.modified)
        return explain_service(service.item, cache, self._clock.now(), every_node=every_node)

    async def explain_task(self, call: Call) -> Any:
        cache, task = self._loop.cache, call.names["task"]
        if (at := _number(call.query.get("at", ""))) is not None:
            key, task = service_of_task(task, cache)
            return explain_then(key, at, cache, task=task)
        found = await self._must(Task, task)
        await cache.reached(found.modified)
        return explain_task(found.item, cache, self._clock.now(), every_node="all" in call.query)

    async def backup(self, call: Call) -> Content:
        return await take(self._store, self.authority)

    async def inside_of(self, call: Call) -> str:
        """The same for who wants to be inside the container, or to touch its files."""
        task = await self._task(call.names["task"])
        check_power(call.caller, f"{task.app}/{task.name}", task.spec)
        return _place(task)

    async def node_of(self, call: Call) -> str:
        """Whose agent has a task's container."""
        return _place(await self._task(call.names["task"]))

    async def _task(self, key: str) -> Task:
        """While the store is away, as it was last known here: what never changes of it says where its container is."""
        known = self._loop.cache.tasks.get(key)
        try:
            async with asyncio.timeout(STALE_SECONDS if known else COPY_SECONDS):
                return (await self._must(Task, key)).item
        except (Temporary, TimeoutError) as error:
            if known is None:
                raise _late(error) from None
            return known

    # --- what users write --------------------------------------------------------------------------------------------

    @retrying
    async def apply(self, call: Call) -> Any:
        app, spec = call.names["app"], from_plain(AppSpec, call.body)
        check_powers(call.caller, spec)
        writes, differences, cluster = await self._wanted(app, spec, _number(call.query.get("if_revision", "")))
        if any(isinstance(write.item, Service) for write in writes):
            writes.append(self._alone(cluster))
        writes += plan_release(app, await read_all(self._store, Release, f"{app}/"), differences, self._clock.now())
        return {"revision": await self._commit(writes), "changes": differences}

    async def plan(self, call: Call) -> Any:
        app, spec = call.names["app"], from_plain(AppSpec, call.body)
        revision = await self._store.revision()
        writes, differences, _ = await self._wanted(app, spec)
        await self._loop.cache.reached(revision)
        found = await places(app, [write.item for write in writes], self._loop.cache, self._clock.now())
        return {"revision": revision, "changes": differences, "places": found}

    async def _wanted(
        self, app: str, spec: AppSpec, if_revision: int | None = None
    ) -> tuple[list[Write], list[ServiceChange], Versioned[Cluster]]:
        """What an app file would write, and in words. Raises `Conflict` if the app has changed after `if_revision`."""
        check_spec(app, spec)
        cluster = await self._cluster()
        services = await read_all(self._store, Service)
        current = await read(self._store, App, app)
        writes = plan_apply(app, spec, current, services, cluster.item, self._clock.now())
        if if_revision is not None:
            own = [one.modified for one in services if one.item.app == app] + [current.modified if current else 0]
            await self._check_unchanged(app, if_revision, max(own) if writes else 0, gone=current is None)
        return writes, changes(app, spec, [service.item for service in services]), cluster

    async def _check_unchanged(self, app: str, since: int, changed: int, *, gone: bool) -> None:
        """Raises `Conflict` if an app has changed after a revision. Of one that was removed only events tell."""
        why = f"{app} has changed at revision {changed}, after revision {since}" if changed > since else ""
        if not why and since > (newest := await self._store.revision()):
            why = f"revision {since} is still to come, the newest is {newest}"
        if not why and gone:
            events = await read_all(self._store, Event)
            ends = [one.modified for one in events
                    if (one.item.kind, one.item.subject, one.item.message) == ("app", app, "removed")]  # fmt: skip
            removed = max(ends, default=0)
            told = min(one.modified for one in events) if len(events) >= EVENTS_KEPT else 0
            if removed > since:
                why = f"{app} was removed at revision {removed}, after revision {since}"
            elif told > since:
                why = f"events tell of revision {told} on alone: {app} may have been removed after revision {since}"
        if why:
            raise Conflict(why, remedy="miniorch plan, and look again")

    async def what_if(self, call: Call) -> Any:
        answer = await what_if(from_plain(Question, call.body), self._loop.cache, self._clock.now())
        return {"revision": self._loop.cache.revision, **answer}

    async def standing(self, call: Call) -> Any:
        cache = self._loop.cache
        reasons = await standing(call.query.get("app", ""), cache, self._clock.now())
        return {"revision": cache.revision, "reasons": reasons, "tried": tries(cache)}

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
            message = f"replicas wants a whole number from 0 to {MAX_REPLICAS}, got {replicas!r}"
            raise UsageError(message, remedy=f"miniorch scale {key}=3")
        service = await self._wanted_service(key)
        spec = replace(service.item.spec, replicas=replicas)
        why = f"scaled from {service.item.spec.replicas} to {replicas}"
        return {"revision": await self._commit([Write(replace(service.item, spec=spec), service.modified, why=why)])}

    @retrying
    async def restart(self, call: Call) -> Any:
        service = await self._wanted_service(f"{call.names['app']}/{call.names['service']}")
        again = replace(service.item, round=service.item.round + 1, held="")
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
        for task in self._loop.cache.leaving.values():
            if task.desired_state is DesiredState.DRAINING:
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
        service = await self._must(Service, key)
        if service.item.removing:
            raise Conflict(f"{key} is being removed", remedy=f"miniorch wait {key} --for gone; then run")
        return service


def _place(task: Task) -> str:
    if not task.node:
        name = f"{task.app}/{task.name}"
        raise Conflict(f"{name} has no node yet: {task.status.message}", remedy=f"miniorch explain {name}")
    return task.node


def _late(error: Temporary | TimeoutError) -> Temporary:
    late = Unreachable("the store is slow, or this server is far behind it", remedy="miniorch doctor")
    return error if isinstance(error, Temporary) else late


def _number(text: str) -> int | None:
    """A revision in a query; None for "". Raises `UsageError`."""
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UsageError(f"a revision is a whole number, got {text[:40]!r}", remedy="miniorch version")
    return int(text) if text else None
