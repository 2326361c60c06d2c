"""Why is it here, and why is it not: the answer to `miniorch explain`, computed afresh from the state as it is now."""

from typing import Any

from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import WAITING, node_views, request_for, unmet_dependencies
from miniorch.model import Task
from miniorch.slots import next_at, told, unknown
from scheduler.explain import rows
from scheduler.schedule import schedule


def explain_task_now(task: Task, cache: Cache, now: float) -> dict[str, Any]:
    """One task with every node and every rule. For a placed task: as it would be decided now, were it not there."""
    service = cache.services.get(task.service_key)
    row: dict[str, Any] = {
        "task": task.id,
        "name": f"{task.app}/{task.name}",
        "state": task.status.state.value,
        "desired_state": task.desired_state.value,
        "message": unknown(task, cache.nodes.get(task.node), now) or told(task, service, now),
        "next_at": next_at(task, service) if service and not task.live else None,
        "node": task.node,
        "waits_for": [],
        "nodes": [],
    }
    if service is None:
        return row
    if task.status.state in WAITING:
        row["waits_for"] = unmet_dependencies(service, cache)
    volumes = {volume.key: volume.node for volume in cache.volumes.values()}
    answer = schedule(request_for(service, volumes), list(node_views(cache, task.id, now).values()))
    row["nodes"] = rows(answer.verdicts)
    return row
