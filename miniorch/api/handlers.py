"""The handlers: check, write one transaction, return. They decide nothing; deciding is the controllers' work.

A handler that changes something reads it with its revision, and tries again from the start when the transaction shows
that somebody else was faster (`retrying`). So two people may scale the same service at once, and both orders of their
requests are the same as if one had waited for the other.
"""

import asyncio
import contextlib
import ipaddress
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from miniorch import __version__
from miniorch.api.apply import check_spec, plan_apply, plan_release
from miniorch.api.explain import explain_task_now
from miniorch.api.routes import Call, Route
from miniorch.api.watch import watch_kind
from miniorch.authority import Authority
from miniorch.changes import changes
from miniorch.clock import Clock
from miniorch.codec import Json, from_plain
from miniorch.controllers.leadership import Leadership
from miniorch.controllers.liveness import COMPONENTS, Liveness
from miniorch.controllers.loop import Loop, event_about
from miniorch.errors import Compacted, Conflict, NotFound, UsageError
from miniorch.model import (
    KINDS,
    App,
    Cluster,
    Event,
    Node,
    Release,
    Service,
    Status,
    Task,
    Volume,
)
from miniorch.slots import current
from miniorch.spec import MAX_REPLICAS, AppSpec, Resources
from miniorch.state.backup import Content, take
from miniorch.state.limits import TXN_OPERATIONS
from miniorch.state.records import Versioned, Write, commit, from_entry, put, read, read_all
from miniorch.state.store import Store

ATTEMPTS = 10
STATUSES_AT_ONCE = TXN_OPERATIONS // 2  # each with an event
T = TypeVar("T")


class Retry(Exception):
    """A transaction lost a race: read again."""


Handler = Callable[["Handlers", Call], Awaitable[Any]]


def retrying(handler: Handler) -> Handler:
    """A handler that starts again from its first read when it has lost a race."""

    async def attempts(self: "Handlers", call: Call) -> Any:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(Retry):
                return await handler(self, call)
        raise Conflict("too many others write the same object at the same time", remedy="run the command again")

    return attempts


@dataclass(frozen=True, slots=True)
class Registration:
    """What an agent says of its machine when it starts."""

    capacity: Resources
    engine: str = ""
    avx: bool = True


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What an agent says every few seconds."""

    ready: bool = True
    message: str = ""
    ports_in_use: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusReport:
    task: str
    status: Status


@dataclass(eq=False)
class Handlers:
    """All routes of `routes.py`."""

    _store: Store
    _loop: Loop
    _leadership: Leadership
    _liveness: Liveness
    _clock: Clock
    _chance: random.Random
    authority: Authority | None = None  # None: its key is kept by another server
    _joining: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, route: Route, call: Call) -> Any:
        """What every way to a handler leads through. Raises `NotLeader` where only the leader knows."""
        if route.by_leader:
            self._leadership.require()
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
        kind = self._kind(call)
        listing = await self._store.list(f"/{kind}/")
        items = [one.value for one in listing.entries if not call.query or selected(from_entry(one), call.query)]
        return Json(b'{"revision":%d,"items":[%s]}' % (listing.revision, b",".join(items)))

    async def watch(self, call: Call) -> Any:
        kind = self._kind(call)
        try:
            after = int(call.query.get("revision", ""))
        except ValueError:
            raise UsageError("a watch needs ?revision=N, the revision of the list before it") from None
        if after > await self._store.revision():
            raise Compacted(f"revision {after} was not this store's: list again")
        wanted = partial(selected, query=call.query)
        return watch_kind(self._store, kind, after, wanted, self._leadership.store_is_silent)

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
    async def register(self, call: Call) -> Node:
        name, registration = call.names["node"], from_plain(Registration, call.body)
        self._liveness.beat(name)
        known = await read(self._store, Node, name)
        if known is None:
            return await self._join(name, registration)
        node = replace(known.item, capacity=registration.capacity, engine=registration.engine, avx=registration.avx)
        node = replace(node, ready=True, message="")
        if node != known.item:
            why = "" if known.item.ready else "ready again"
            await self._commit([Write(node, known.modified, why=why)])
        return node

    async def _join(self, name: str, registration: Registration) -> Node:
        """A new node gets a subnet of its own. One at a time: a thousand that start together do not race."""
        async with self._joining:
            cluster = await self._must(Cluster, "cluster", "the cluster record is missing")
            # Whoever joined before us has written the cluster's record in the same transaction.
            await self._loop.cache.reached(cluster.modified)
            taken = {node.subnet for node in self._loop.cache.nodes.values()}
            subnet = free_subnet(cluster.item.container_pool, taken)
            own = str(ipaddress.ip_network(subnet)[1])
            node = Node(name, subnet, own, registration.capacity, True, "", registration.engine, registration.avx)
            why = f"joined with {registration.engine}, subnet {subnet}"
            await self._commit([self._alone(cluster), Write(node, 0, why=why)])
            return node

    @retrying
    async def heartbeat(self, call: Call) -> Any:
        name, beat = call.names["node"], from_plain(Heartbeat, call.body)
        self._liveness.beat(name)

        def heard(node: Node) -> Node:
            return replace(node, ready=beat.ready, message=beat.message, ports_in_use=beat.ports_in_use)

        known = self._loop.cache.nodes.get(name)
        if known is not None and heard(known) == known:  # the usual case: ten thousand nodes, nothing new
            return {}
        node = await self._must(Node, name, "no such node: register first")
        changed = heard(node.item)
        if changed != node.item:
            why = ""
            if changed.ready is not node.item.ready:
                why = "ready again" if changed.ready else f"not ready: {changed.message}"
            await self._commit([Write(changed, node.modified, why=why)])
        return {}

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

    def _kind(self, call: Call) -> str:
        kind = call.names["kind"]
        if kind not in KINDS:
            raise NotFound(f"the server has no {kind}; it has {', '.join(KINDS)}")
        return kind

    async def _must(self, cls: type[T], key: str, otherwise: str) -> Versioned[T]:
        found = await read(self._store, cls, key)
        if found is None:
            raise NotFound(
                f"{otherwise}: {key}", remedy={Task: "miniorch ps -a", Service: "miniorch services"}.get(cls, "")
            )
        return found

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

    async def _commit(self, writes: list[Write]) -> int:
        now = self._clock.now()
        events = [event_about(write.item, write.why, now, self._chance) for write in writes if write.why]
        if len(writes) > TXN_OPERATIONS:
            raise UsageError(
                f"this would change {len(writes)} objects at once, at most {TXN_OPERATIONS} can be",
                remedy="split the app file into several apps",
            )
        fits = len(writes) + len(events) <= TXN_OPERATIONS
        revision = await commit(self._store, writes, events if fits else ())
        if revision is None:
            raise Retry
        for start in range(0, 0 if fits else len(events), TXN_OPERATIONS):  # what is told may come a moment later
            await self._store.txn([], [put(event) for event in events[start : start + TXN_OPERATIONS]])
        return revision


def selected(item: object, query: Any) -> bool:
    """Whether an object passes the filters of a list or watch (`app`, `node`). An event's are in its subject."""
    if isinstance(item, Event):
        first = item.subject.partition("/")[0]
        owner = {"node" if item.kind == "node" else "app": first}
        return all(owner.get(name) == query[name] for name in ("app", "node") if name in query)
    return all(getattr(item, name, None) == query[name] for name in ("app", "node") if name in query)


def free_subnet(pool: str, taken: set[str]) -> str:
    """The first /24 of the pool that no node has. Raises `Conflict` when the pool is used up."""
    network = ipaddress.ip_network(pool)
    for subnet in network.subnets(new_prefix=24):
        if str(subnet) not in taken:
            return str(subnet)
    raise Conflict(
        f"the container pool {pool} has no free subnet left for another node",
        remedy="miniorch down --all; then miniorch up --pool with a larger network",
    )
