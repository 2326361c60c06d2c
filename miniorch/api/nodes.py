"""Handlers about machines: what an agent says of its own, and what an administrator wishes of it.

The problem: two write one object. The idea: each has fields of its own, as everywhere. The agent's are capacity,
engine, ports and whether it is ready; the administrator's are availability and labels; the leader's is `state`, which a
heartbeat sets back to ready at once, because who speaks is there.

Who does this for real: swarmkit's dispatcher (sessions, heartbeats) and node controller. Next file:
`miniorch/controllers/upkeep.py`, which notices silence.
"""

import asyncio
import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from miniorch.api.routes import Call
from miniorch.api.writing import Writing, retrying
from miniorch.codec import Json, encode, from_plain
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.loop import Loop
from miniorch.errors import Conflict
from miniorch.model import Availability, Member, Node, NodeState, Role, Volume
from miniorch.spec import Resources
from miniorch.state.records import Write, read, read_all
from scheduler.attributes import check_labels

MAX_SAID = 100  # images, or labels of its engine, of a node: everybody who follows the nodes hears of them
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Registration:
    """What an agent says of its machine when it starts."""

    capacity: Resources
    engine: str = ""
    avx: bool = True
    platform: str = ""
    address: str = ""  # believed on a machine's own socket alone
    labels: Mapping[str, str] = field(default_factory=dict)  # of the engine
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What an agent says every few seconds; while it is away, the net process does, who knows of no ports."""

    ready: bool = True
    message: str = ""
    ports_in_use: Mapping[str, str] | None = None
    images: tuple[str, ...] | None = None  # None: the same as before


@dataclass(frozen=True, slots=True)
class Wish:
    """What an administrator changes of a node: labels to set, labels to take away, where work may go."""

    availability: Availability | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


class Nodes(Writing):
    """The part of `Handlers` that is about nodes."""

    _loop: Loop
    _liveness: Liveness
    _joining: asyncio.Lock

    async def node_itself(self, call: Call) -> str:
        """Which agent answers what is asked of a whole node."""
        return (await self._must(Node, call.names["node"])).item.name

    @retrying
    async def register(self, call: Call) -> Node:
        name, said = call.names["node"], from_plain(Registration, call.body)
        self._liveness.beat(name)
        by_tls = call.caller.via == "tls"
        address, role = (call.caller.address, Role(call.caller.role)) if by_tls else (said.address, Role.MANAGER)

        def registered(node: Node) -> Node:
            node = replace(node, capacity=said.capacity, engine=said.engine, avx=said.avx, platform=said.platform)
            node = replace(node, images=_bounded(said.images), engine_labels=dict(_bounded(said.labels.items())))
            return self._heard(replace(node, ready=True, message="", address=address, role=role))

        known = await read(self._store, Node, name)
        if known is None:
            return await self._join(name, registered)
        node = registered(known.item)
        if node != known.item:
            await self._commit([Write(node, known.modified, why=_back(known.item, node))])
        return node

    async def _join(self, name: str, registered: Callable[[Node], Node]) -> Node:
        """A new node gets a subnet of its own. One at a time: a thousand that start together do not race."""
        async with self._joining:
            cluster = await self._cluster()
            # Whoever joined before us has written the cluster's record in the same transaction.
            await self._loop.cache.reached(cluster.modified)
            subnet = free_subnet(cluster.item.container_pool, {one.subnet for one in self._loop.cache.nodes.values()})
            own = str(ipaddress.ip_network(subnet)[1])
            node = registered(Node(name, subnet, own, Resources(), state_since=self._clock.now()))
            why = f"joined with {node.engine}, subnet {subnet}"
            await self._commit([self._alone(cluster), Write(node, 0, why=why)])
            return node

    @retrying
    async def heartbeat(self, call: Call) -> Any:
        """The answer says when the next one is expected."""
        name, beat = call.names["node"], from_plain(Heartbeat, call.body)
        self._liveness.beat(name)
        nodes = self._loop.cache.nodes
        answer, known = _next_beat(self._liveness.every(len(nodes))), nodes.get(name)
        ports = (known.ports_in_use if known else {}) if beat.ports_in_use is None else beat.ports_in_use
        said = beat.ready, beat.message, ports, NodeState.READY
        if known and (known.ready, known.message, known.ports_in_use, known.state) == said and beat.images is None:
            return answer  # the usual case: ten thousand nodes, nothing new
        node = await self._must(Node, name, ": register first")
        images = node.item.images if beat.images is None else _bounded(beat.images)
        beaten = replace(node.item, ready=beat.ready, message=beat.message, ports_in_use=ports, images=images)
        changed = self._heard(beaten)
        if changed != node.item:
            await self._commit([Write(changed, node.modified, why=_back(node.item, changed))])
        return answer

    def _heard(self, node: Node) -> Node:
        """A node that has just spoken."""
        if node.state is NodeState.READY:
            return node
        return replace(node, state=NodeState.READY, state_since=self._clock.now())

    @retrying
    async def change_node(self, call: Call) -> Any:
        name, wish = call.names["node"], from_plain(Wish, call.body)
        node = await self._must(Node, name)
        labels = {**node.item.labels, **wish.labels}
        labels = {key: labels[key] for key in sorted(labels) if key not in wish.without}
        check_labels(name, labels)
        changed = replace(node.item, labels=labels, availability=wish.availability or node.item.availability)
        why = []
        if changed.availability is not node.item.availability:
            why.append("drained by hand" if changed.availability is Availability.DRAIN else "takes new tasks again")
        if labels != node.item.labels:
            why.append("labels: " + (" ".join(f"{key}={value}" for key, value in labels.items()) or "none"))
        if why:
            await self._commit([Write(changed, node.modified, why="; ".join(why))])
        return {"revision": await self._store.revision()}

    @retrying
    async def remove_node(self, call: Call) -> Any:
        """Its tasks become LOST. What is named on its disk is given up, and only if that is wished (`?force=1`)."""
        name = call.names["node"]
        node = await self._must(Node, name)
        volumes = [one for one in await read_all(self._store, Volume) if one.item.node == name]
        await self._loop.cache.reached(node.modified)
        tasks = [task for task in self._loop.cache.tasks_on(name) if task.live]
        if call.query.get("force") != "1":
            _may_go(node.item, [one.item.key for one in volumes], len(tasks))
        writes = [Write(node.item, node.modified, erase=True, why="removed from the cluster")]
        member = await read(self._store, Member, name)
        if member:  # its certificate is worth nothing from now on
            writes.append(Write(member.item, member.modified, erase=True))
        why = f"given up with {name}, its data stays on that machine"
        writes += [Write(one.item, one.modified, erase=True, why=why) for one in volumes]
        return {"revision": await self._commit(writes), "lost": len(tasks)}


@functools.lru_cache
def _next_beat(seconds: float) -> Json:
    return Json(encode({"next_in_seconds": seconds}))


def _may_go(node: Node, volumes: list[str], tasks: int) -> None:
    """Raises `Conflict` where removing a node would lose something."""
    force = f"miniorch node rm {node.name} --force"
    if volumes:
        several = ", ".join(volumes[:3]) + ("" if len(volumes) <= 3 else f" and {len(volumes) - 3} more")
        raise Conflict(f"{node.name} has the only copy of {several}", remedy=f"{force} gives that up")
    if node.state is not NodeState.DOWN and (tasks or node.availability is not Availability.DRAIN):
        left = f"and has {tasks} task{'s' * (tasks != 1)}" if tasks else "and may get tasks"
        raise Conflict(
            f"{node.name} is {node.state.value} {left}", remedy=f"miniorch node drain {node.name}; or {force}"
        )


def _back(before: Node, after: Node) -> str:
    """What is told of a change that a node itself has brought about."""
    if before.state is not after.state:
        return f"ready again after {max(0.0, after.state_since - before.state_since):.0f} s"
    if before.ready is not after.ready:
        return "ready again" if after.ready else f"not ready: {after.message}"
    return ""


def _bounded(said: Iterable[T]) -> tuple[T, ...]:
    """What an agent says without end is cut."""
    return tuple(islice(said, MAX_SAID))


def free_subnet(pool: str, taken: set[str]) -> str:
    """The first /24 of the pool that no node has. Raises `Conflict` when the pool is used up."""
    network = ipaddress.ip_network(pool)
    first = int(network.network_address)
    for number in range(first, first + network.num_addresses, 256):
        subnet = f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.0/24"
        if subnet not in taken:
            return subnet
    raise Conflict(
        f"the container pool {pool} has no free subnet left for another node",
        remedy="miniorch node rm of a machine that is gone; or a larger miniorch up --pool for a new cluster",
    )
