"""Tasks to endpoints: where a service can be reached, as one object per service.

The problem: DNS, service addresses and HAProxy must never disagree about who serves. The idea: none of them looks at
tasks. The server derives one `Endpoints` object per service, and all three are made from it on each node. A backend is
listed as soon as it has an address, since it may speak to its database from its first instruction on, and is `ready`
only while it is RUNNING and wanted, on a node that is not down: so a task that is to stop leaves all traffic by one
write, before anybody tells it to stop, and nobody is sent to a machine that does not answer.

Who does this for real: Kubernetes' EndpointSlice controller. Next files: `netplugin/topology.py`, `agent/ingress.py`.
"""

from collections.abc import Iterable, Mapping

from miniorch.controllers.cache import Cache
from miniorch.controllers.loop import Plan
from miniorch.model import (
    Backend,
    DesiredState,
    Endpoints,
    Node,
    NodeState,
    Service,
    Task,
    TaskState,
)
from miniorch.state.records import Write

HEARD_SECONDS = 4e-6  # of rest for each backend and node: a whole list goes to all who follow it
REST_LIMIT_SECONDS = 2.0
VISIBLE = (TaskState.PREPARING, TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING)


class Reachability:
    """The controller of endpoints. Keys are `app/service`, and a node's name for all that is on it."""

    name = "endpoints"

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        match item:
            case Service() | Endpoints():  # what is left of a service whose server died in the middle of its removal
                return (item.key,)
            case Task():
                return (item.service_key,)
            case Node():
                return (item.name,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        if "/" not in key:
            return Plan(others=sorted({task.service_key for task in cache.tasks_on(key)}))
        current = cache.endpoints.get(key)
        service = cache.services.get(key)
        if service is None:
            return Plan([cache.erase(current)] if current is not None else [])
        wanted = derive(service, cache.tasks_of(key), cache.nodes)
        writes = [] if current == wanted else [cache.change(current, wanted) if current else Write(wanted, 0)]
        rest = min(len(wanted.backends) * len(cache.nodes) * HEARD_SECONDS, REST_LIMIT_SECONDS)
        return Plan(writes, rest_seconds=rest)


def derive(service: Service, tasks: Iterable[Task], nodes: Mapping[str, Node]) -> Endpoints:
    """The endpoints of a service, by slot."""
    tasks = list(tasks)
    backends = [
        Backend(task.id, task.slot, task.node, task.status.address, _takes_traffic(task, nodes.get(task.node)))
        for task in tasks
        if task.status.state in VISIBLE and task.status.address
    ]
    backends.sort(key=lambda backend: (backend.slot, backend.task))
    spec = service.spec
    ports, aliases = ((), ()) if service.removing else (spec.ports, spec.aliases)
    draining = any(task.live and task.desired_state is DesiredState.DRAINING for task in tasks)
    return Endpoints(
        service.app, service.name, service.vip, ports, tuple(backends), aliases, spec.networks, spec.internal, draining
    )


def _takes_traffic(task: Task, node: Node | None) -> bool:
    there = node is None or node.state is not NodeState.DOWN
    return there and task.status.state is TaskState.RUNNING and task.desired_state is DesiredState.RUNNING
