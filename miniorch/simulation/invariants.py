"""What must be true at every step, whatever has just died. Read it as the specification.

The problem: a test that looks at the end of a story misses the second in which two databases wrote to one volume. The
idea: each promise is a function from a picture of the whole world (the store *and* what really runs on every engine) to
the sentences that say how it is broken; none is good. `ALWAYS` must hold at every step; `AT_REST` once nothing has
failed for a while. What compares two moments is in `history.py`.

Who does this for real: TigerBeetle's state checker, etcd's robustness tests (collect everything, check afterwards).
Next file: `miniorch/simulation/history.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from miniorch.model import (
    Availability,
    DesiredState,
    Endpoints,
    Node,
    NodeState,
    Service,
    Task,
    TaskState,
    Volume,
)
from miniorch.simulation.engine import Box
from miniorch.spec import Resources, Restart

K = TypeVar("K")
PICTURED = ("tasks", "services", "nodes", "volumes", "endpoints")


@dataclass(frozen=True)
class Picture:
    """The world at one moment, or a part of it (`parts.py`): the store's objects by key, and each node's containers."""

    tasks: Mapping[str, Task]
    services: Mapping[str, Service]
    nodes: Mapping[str, Node]
    volumes: Mapping[str, Volume]
    endpoints: Mapping[str, Endpoints]
    boxes: Mapping[str, tuple[Box, ...]]  # by node
    folders: Mapping[str, Set[str]]  # by node: the paths on its disk
    traffic: Mapping[str, Iterable[Endpoints]]  # by node: what its proxy follows
    moved: Set[str] = frozenset()  # tasks that had a node which was down or drained: a successor may run beside them
    whole: Picture | None = None  # of a part that holds all that has changed: what it was cut out of

    @property
    def world(self) -> Picture:
        """For who asks whether something is there at all."""
        return self.whole or self

    @property
    def kept(self) -> Picture:
        """The same, which stays as it is now."""
        tasks, services, nodes, volumes, endpoints = (dict(getattr(self, kind)) for kind in PICTURED)
        folders = {node: frozenset(paths) for node, paths in self.folders.items()}
        traffic = {node: tuple(followed) for node, followed in self.traffic.items()}
        stored = (tasks, services, nodes, volumes, endpoints)
        return Picture(*stored, dict(self.boxes), folders, traffic, frozenset(self.moved))

    @functools.cached_property
    def running(self) -> list[tuple[str, Box]]:
        """(node, container) for all that run anywhere."""
        return [(node, box) for node, boxes in self.boxes.items() for box in boxes if box.state == "running"]


Promise = Callable[[Picture], list[str]]


# At every step


def may_double(task: str, world: Picture) -> bool:
    """Whether a successor may live beside a task: nobody can ask what its node does. Never with a volume."""
    if task not in world.moved:
        return False
    known = world.tasks.get(task)
    return not (known and any(mount.volume for mount in known.spec.mounts))


def repeated(names: Iterable[K]) -> list[tuple[K, int]]:
    """What occurs more than once, and how often."""
    found = list(names)
    return [] if len(set(found)) == len(found) else [one for one in Counter(found).items() if one[1] > 1]


def a_slot_has_at_most_one_live_task(world: Picture) -> list[str]:
    live = [task for task in world.tasks.values() if task.live and not may_double(task.id, world)]
    slots = repeated((task.app, task.service, task.slot) for task in live)
    return [f"slot {app}/{service}.{slot} has {count} live tasks" for (app, service, slot), count in slots]


def a_task_has_at_most_one_container(world: Picture) -> list[str]:
    counts = repeated(box.spec.task for boxes in world.boxes.values() for box in boxes)
    return [f"task {task} has {count} containers" for task, count in counts]


def a_slot_has_at_most_one_running_container(world: Picture) -> list[str]:
    """Stronger than one live task: this looks at what runs, not at what the store believes or has forgotten."""
    running = [box.spec for _, box in world.running if not may_double(box.spec.task, world) or _has_volume(box)]
    slots = repeated(spec.name.rsplit("-", 1)[0] for spec in running)  # dockchat-db.1-k3m9x2ab
    return [f"slot {name} runs {count} times" for name, count in slots]


def _has_volume(box: Box) -> bool:
    return any(path.startswith("/volumes/") for path, _ in box.spec.binds.values())


def an_ended_task_runs_no_container(world: Picture) -> list[str]:
    """What has ended may be replaced, so it must truly have ended (LOST is the exception that says so)."""
    running = {box.spec.task for _, box in world.running}
    ended = [task for task in world.tasks.values() if task.status.state.ended and task.id in running]
    return [
        f"{task.id} is {task.status.state.value} and runs" for task in ended if task.status.state is not TaskState.LOST
    ]


def an_address_is_held_by_one_running_container(world: Picture) -> list[str]:
    counts = repeated(box.spec.address for _, box in world.running)
    return [f"{address} is held by {count} running containers" for address, count in counts]


def an_address_lies_in_its_nodes_subnet(world: Picture) -> list[str]:
    prefixes = {node.name: node.subnet.rsplit(".", 1)[0] + "." for node in world.nodes.values()}
    return [
        f"{box.spec.task} on {node} has {box.spec.address}"
        for node, box in world.running
        if prefixes.get(node, "") not in box.spec.address
    ]


def a_subnet_or_service_address_has_one_owner(world: Picture) -> list[str]:
    counts = repeated([node.subnet for node in world.nodes.values()] + [one.vip for one in world.services.values()])
    return [f"{address} was given out {count} times" for address, count in counts]


def no_service_address_is_a_containers(world: Picture) -> list[str]:
    held = {box.spec.address: box.spec.task for boxes in world.boxes.values() for box in boxes}
    return [f"{one.key} and {held[one.vip]} have {one.vip}" for one in world.services.values() if one.vip in held]


def a_node_is_never_above_its_capacity(world: Picture) -> list[str]:
    on: dict[str, list[Resources]] = {}
    for task in world.tasks.values():
        if task.live and task.node:
            on.setdefault(task.node, []).append(task.spec.reserved)
    wrong = []
    for name, reserved in on.items():
        if (node := world.nodes.get(name)) is None:
            continue
        cpus, memory = sum(item.cpus for item in reserved), sum(item.memory_bytes for item in reserved)
        if round(cpus, 3) > node.capacity.cpus or memory > node.capacity.memory_bytes:
            wrong.append(f"{node.name} has {cpus:g} CPUs and {memory} bytes reserved, more than it has")
    return wrong


def a_node_has_no_more_of_a_service_than_it_may(world: Picture) -> list[str]:
    placed = (task for task in world.tasks.values() if task.live and task.node)
    counts = repeated((task.app, task.service, task.node) for task in placed)
    return [
        f"{node} has {count} tasks of {service.key}, which is more than its rules allow"
        for (app, name, node), count in counts
        if (service := world.services.get(f"{app}/{name}")) is not None and count > _most(service)
    ]


def _most(service: Service) -> float:
    """How many tasks of it one node may have."""
    rules = service.spec.placement
    apart = any(one.subject == "service" and one.operator == "!=" for one in rules.constraints)
    return 1 if apart else rules.max_per_node or float("inf")


def has_labels_for(service: Service, node: Node) -> bool:
    """Written anew here, for the one form of rule that the workload has."""
    rules = (one for one in service.spec.placement.constraints if one.subject.startswith("node.labels."))
    return all(node.labels.get(one.subject.removeprefix("node.labels.")) in one.values for one in rules)


def a_task_lies_on_its_volumes_node(world: Picture) -> list[str]:
    wrong = []
    for task in (one for one in world.tasks.values() if one.spec.mounts):
        for mount in (one for one in task.spec.mounts if one.volume):
            volume = world.volumes.get(f"{task.app}/{mount.volume}")
            if task.live and task.node in world.nodes and (volume is None or volume.node != task.node):
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
    no_service_address_is_a_containers,
    a_node_is_never_above_its_capacity,
    a_node_has_no_more_of_a_service_than_it_may,
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
    attempts = 1 if status.ran_seconds >= 60.0 else task.attempt + 1
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
        and (task.status.state in (TaskState.RUNNING, TaskState.PENDING) or is_over(task, service))
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


def nothing_waits_that_would_fit(world: Picture) -> list[str]:
    """A task waits for a node only while none may have it, and says so."""
    free = {node.name: node.capacity for node in world.nodes.values() if takes_work(node)}
    for task in (task for task in world.tasks.values() if task.live and task.node in free):
        left, needs = free[task.node], task.spec.reserved
        free[task.node] = Resources(left.cpus - needs.cpus, left.memory_bytes - needs.memory_bytes)
    here = Counter((task.service_key, task.node) for task in world.tasks.values() if task.live)
    wrong = []
    for task in (task for task in world.tasks.values() if task.status.state is TaskState.PENDING):
        service, needs = world.services[task.service_key], task.spec.reserved
        if not task.status.message.startswith(f"no node fits ({len(world.nodes)} looked at)"):
            wrong.append(f"{task.id} waits and tells a reason of the past: {task.status.message}")
        wrong += [
            f"{task.id} waits, and {name} has room for it"
            for name, left in free.items()
            if needs.cpus <= left.cpus and needs.memory_bytes <= left.memory_bytes
            if here[service.key, name] < _most(service) and _may_go(task, service, world.nodes[name], world)
        ][:1]
    return wrong


def _may_go(task: Task, service: Service, node: Node, world: Picture) -> bool:
    volumes = [world.volumes.get(f"{task.app}/{mount.volume}") for mount in task.spec.mounts]
    return (
        has_labels_for(service, node)
        and not any(str(port.published) in node.ports_in_use for port in service.spec.ports)
        and all(volume is None or volume.node == node.name for volume in volumes)
    )


def takes_work(node: Node) -> bool:
    return node.ready and node.state is NodeState.READY and node.availability is Availability.ACTIVE


def nothing_is_left_of_what_is_gone(world: Picture) -> list[str]:
    """Containers and endpoints have promises of their own; this is about the disks."""
    return [
        f"{path} on {node} is left of what is gone"
        for node, paths in world.folders.items()
        for path in sorted(paths)
        if "/".join(path.split("/")[2:4]) not in world.volumes
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
    nothing_waits_that_would_fit,
    nothing_is_left_of_what_is_gone,
    endpoints_name_exactly_the_tasks_that_run,
    published_ports_follow_the_endpoints,
)
