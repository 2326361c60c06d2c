"""What must be true at every step, whatever has just died. Read it as the specification.

The problem: a test that looks at the end of a story misses the second in which two databases wrote to one volume. The
idea: each promise is a function from a picture of the whole world (the store *and* what really runs on every engine) to
the sentences that say how it is broken; none is good. `ALWAYS` must hold at every step; `AT_REST` once nothing has
failed for a while. What compares two moments is in `History`.

Who does this for real: TigerBeetle's state checker, etcd's robustness tests (collect everything, check afterwards).
Next file: `miniorch/simulation/world.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from miniorch.model import DesiredState, Endpoints, Node, Restart, Service, Task, TaskState, Volume
from miniorch.simulation.engine import Box
from miniorch.simulation.machine import Machine
from miniorch.state.records import from_entry
from miniorch.state.store import Listing

item_of = functools.lru_cache(4096)(from_entry)  # most of a picture is as it was in the one before


@dataclass(frozen=True, slots=True)
class Picture:
    """The world at one moment: the store's objects by key, and each node's containers."""

    tasks: Mapping[str, Task]
    services: Mapping[str, Service]
    nodes: Mapping[str, Node]
    volumes: Mapping[str, Volume]
    endpoints: Mapping[str, Endpoints]
    boxes: Mapping[str, tuple[Box, ...]]  # by node
    folders: Mapping[str, frozenset[str]]  # by node: the paths on its disk
    traffic: Mapping[str, tuple[Endpoints, ...]]  # by node: what its proxy follows

    @classmethod
    def take(cls, listing: Listing, machines: Mapping[str, Machine]) -> Picture:
        kinds: dict[str, Any] = {kind: {} for kind in ("tasks", "services", "nodes", "volumes", "endpoints")}
        for entry in listing.entries:
            _, kind, key = entry.key.split("/", 2)
            if kind in kinds:
                kinds[kind][key] = item_of(entry)
        return cls(
            **kinds,
            boxes={node: tuple(machine.engine.boxes.values()) for node, machine in machines.items()},
            folders={node: frozenset(machine.files.folders) for node, machine in machines.items()},
            traffic={node: machine.ingress.endpoints for node, machine in machines.items()},
        )

    @property
    def running(self) -> list[tuple[str, Box]]:
        """(node, container) for all that run anywhere."""
        return [(node, box) for node, boxes in self.boxes.items() for box in boxes if box.state == "running"]


Promise = Callable[[Picture], list[str]]


# At every step


def a_slot_has_at_most_one_live_task(world: Picture) -> list[str]:
    slots = Counter((task.service_key, task.slot) for task in world.tasks.values() if task.live)
    return [f"slot {key}.{slot} has {count} live tasks" for (key, slot), count in slots.items() if count > 1]


def a_task_has_at_most_one_container(world: Picture) -> list[str]:
    counts = Counter(box.spec.task for boxes in world.boxes.values() for box in boxes)
    return [f"task {task} has {count} containers" for task, count in counts.items() if count > 1]


def a_slot_has_at_most_one_running_container(world: Picture) -> list[str]:
    """Stronger than one live task: this looks at what runs, not at what the store believes or has forgotten."""
    slots = Counter(box.spec.name.rsplit("-", 1)[0] for _, box in world.running)  # dockchat-db.1-k3m9x2ab
    return [f"slot {name} runs {count} times" for name, count in slots.items() if count > 1]


def an_ended_task_runs_no_container(world: Picture) -> list[str]:
    """What has ended may be replaced, so it must truly have ended (LOST is the exception that says so)."""
    running = {box.spec.task for _, box in world.running}
    ended = [task for task in world.tasks.values() if task.status.state.ended and task.id in running]
    return [
        f"{task.id} is {task.status.state.value} and runs" for task in ended if task.status.state is not TaskState.LOST
    ]


def an_address_is_held_by_one_running_container(world: Picture) -> list[str]:
    counts = Counter(box.spec.address for _, box in world.running)
    return [f"{address} is held by {count} running containers" for address, count in counts.items() if count > 1]


def an_address_lies_in_its_nodes_subnet(world: Picture) -> list[str]:
    wrong = []
    for node, boxes in world.boxes.items():
        prefix = world.nodes[node].subnet.rsplit(".", 1)[0] + "." if node in world.nodes else ""
        wrong += [
            f"{box.spec.task} on {node} has {box.spec.address}" for box in boxes if prefix not in box.spec.address
        ]
    return wrong


def a_subnet_or_service_address_has_one_owner(world: Picture) -> list[str]:
    counts = Counter([node.subnet for node in world.nodes.values()] + [one.vip for one in world.services.values()])
    return [f"{address} was given out {count} times" for address, count in counts.items() if count > 1]


def a_node_is_never_above_its_capacity(world: Picture) -> list[str]:
    wrong = []
    for node in world.nodes.values():
        reserved = [task.spec.reserved for task in world.tasks.values() if task.live and task.node == node.name]
        cpus, memory = sum(item.cpus for item in reserved), sum(item.memory_bytes for item in reserved)
        if round(cpus, 3) > node.capacity.cpus or memory > node.capacity.memory_bytes:
            wrong.append(f"{node.name} has {cpus:g} CPUs and {memory} bytes reserved, more than it has")
    return wrong


def a_task_lies_on_its_volumes_node(world: Picture) -> list[str]:
    wrong = []
    for task in world.tasks.values():
        for mount in (one for one in task.spec.mounts if one.volume):
            volume = world.volumes.get(f"{task.app}/{mount.volume}")
            if task.live and task.node and (volume is None or volume.node != task.node):
                place = volume.node if volume else "no node"
                wrong.append(f"{task.id} is on {task.node}, its volume {mount.volume} on {place}")
    return wrong


def a_container_runs_where_its_task_was_put(world: Picture) -> list[str]:
    wrong = []
    for node, box in world.running:
        task = world.tasks.get(box.spec.task)
        if task is not None and task.node != node:
            wrong.append(f"{task.id} belongs to {task.node} and runs on {node}")
    return wrong


def what_a_container_mounts_is_on_the_disk(world: Picture) -> list[str]:
    """Data that is removed under a running database is lost."""
    return [
        f"{box.spec.task} runs on {node} and its {path} is gone"
        for node, box in world.running
        for path, _ in box.spec.binds.values()
        if path not in world.folders[node]
    ]


ALWAYS: tuple[Promise, ...] = (
    a_slot_has_at_most_one_live_task,
    a_task_has_at_most_one_container,
    a_slot_has_at_most_one_running_container,
    an_ended_task_runs_no_container,
    an_address_is_held_by_one_running_container,
    an_address_lies_in_its_nodes_subnet,
    a_subnet_or_service_address_has_one_owner,
    a_node_is_never_above_its_capacity,
    a_task_lies_on_its_volumes_node,
    a_container_runs_where_its_task_was_put,
    what_a_container_mounts_is_on_the_disk,
)


# When nothing has failed for a while


def is_as_wanted(task: Task, service: Service) -> bool:
    return (task.spec, task.round) == (service.spec.task, service.round) and task.desired_state is DesiredState.RUNNING


def is_over(task: Task, service: Service) -> bool:
    """True for the task of a job that nothing may follow. Written anew here: product code cannot vouch for itself."""
    policy, status = service.spec.restart, task.status
    attempts = 1 if status.since - task.created_at >= 60.0 else task.attempt + 1
    if not is_as_wanted(task, service) or status.state not in (TaskState.COMPLETE, TaskState.FAILED):
        return False
    over = (Restart.ON_FAILURE, Restart.NEVER) if status.state is TaskState.COMPLETE else (Restart.NEVER,)
    return policy.condition in over or 0 < policy.max_attempts < attempts


def every_slot_runs_or_is_over(world: Picture) -> list[str]:
    wrong = []
    good = Counter(
        task.service_key
        for task in world.tasks.values()
        if (service := world.services.get(task.service_key)) is not None
        and is_as_wanted(task, service)
        and (task.status.state is TaskState.RUNNING or is_over(task, service))
    )
    for service in world.services.values():
        if service.removing:
            wrong.append(f"{service.key} is still being removed")
        elif good[service.key] != service.spec.replicas:
            wrong.append(f"{good[service.key]} slots of {service.key} are as they should, not {service.spec.replicas}")
    return wrong


def what_the_store_says_runs_runs(world: Picture) -> list[str]:
    real = {box.spec.task for _, box in world.running}
    said = {task.id for task in world.tasks.values() if task.status.state is TaskState.RUNNING}
    return [f"{task} is said to run and does not" for task in sorted(said - real)]


def no_container_is_an_orphan(world: Picture) -> list[str]:
    known = {task.id for task in world.tasks.values()}
    return [
        f"container of {box.spec.task} on {node} belongs to no task"
        for node, boxes in world.boxes.items()
        for box in boxes
        if box.spec.task not in known
    ]


def endpoints_name_exactly_the_tasks_that_run(world: Picture) -> list[str]:
    """At rest exactly; in between they may lag, which is why a task drains before it stops."""
    wrong = []
    for service in world.services.values():
        endpoints = world.endpoints.get(service.key)
        named = {backend.task for backend in endpoints.backends if backend.ready} if endpoints else set()
        real = {
            task.id
            for task in world.tasks.values()
            if task.service_key == service.key and task.status.state is TaskState.RUNNING
        }
        if named != real:
            wrong.append(f"endpoints of {service.key} name {sorted(named)}, running are {sorted(real)}")
    wrong += [f"endpoints of {key} outlive their service" for key in world.endpoints if key not in world.services]
    return wrong


def published_ports_follow_the_endpoints(world: Picture) -> list[str]:
    wanted = {key: item for key, item in world.endpoints.items() if item.ports}
    return [
        f"the proxy of {node} follows old endpoints"
        for node, endpoints in world.traffic.items()
        if {item.key: item for item in endpoints if item.ports} != wanted
    ]


AT_REST: tuple[Promise, ...] = (
    *ALWAYS,
    every_slot_runs_or_is_over,
    what_the_store_says_runs_runs,
    no_container_is_an_orphan,
    endpoints_name_exactly_the_tasks_that_run,
    published_ports_follow_the_endpoints,
)


def broken(world: Picture, promises: Iterable[Promise] = ALWAYS) -> list[str]:
    """All sentences of all promises that do not hold."""
    return [sentence for promise in promises for sentence in promise(world)]


@dataclass
class History:
    """Promises about two moments: give it every picture, one after the other."""

    last: dict[str, Task] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    over: dict[tuple[str, int], Task] = field(default_factory=dict)  # by slot: what nothing may follow

    def look(self, world: Picture) -> list[str]:
        wrong = [f"{task} has come back from the dead" for task in sorted(self.gone & world.tasks.keys())]
        for key, task in world.tasks.items():
            before = self.last.get(key)
            if before is not None:
                wrong += _changed_wrongly(before, task)
        wrong += self._resurrected(world)
        self.gone |= self.last.keys() - world.tasks.keys()
        self.last = dict(world.tasks)
        return wrong

    def _resurrected(self, world: Picture) -> list[str]:
        """A job that is over never runs again, unless the service has changed, was restarted or scaled meanwhile."""
        for slot, ended in list(self.over.items()):
            if not _stays_over(world.tasks.get(ended.id, ended), world):
                del self.over[slot]
        wrong = []
        for task in world.tasks.values():
            ended = self.over.get((task.service_key, task.slot), task)
            if task.id != ended.id and task.id not in self.last:
                wrong.append(f"{task.id} runs again what was over with {ended.id}")
        self.over |= {(task.service_key, task.slot): task for task in world.tasks.values() if _stays_over(task, world)}
        return wrong


def _stays_over(task: Task, world: Picture) -> bool:
    service = world.services.get(task.service_key)
    if service is None or service.removing or task.slot > service.spec.replicas:
        return False
    return is_over(task, service)


def _changed_wrongly(before: Task, after: Task) -> list[str]:
    """A task's state only moves forward; an end is final; what it was made from and where it was put never change."""
    old, new = before.status.state, after.status.state
    wrong = []
    if new.order < old.order or (old.ended and new is not old):
        wrong.append(f"{after.id} went from {old.value} back to {new.value}")
    if (before.spec, before.slot, before.round) != (after.spec, after.slot, after.round):
        wrong.append(f"the spec of {after.id} has changed")
    if before.node and after.node != before.node:
        wrong.append(f"{after.id} moved from {before.node} to {after.node}")
    if before.status.address and after.status.address not in ("", before.status.address):
        wrong.append(f"{after.id} changed its address from {before.status.address} to {after.status.address}")
    return wrong
