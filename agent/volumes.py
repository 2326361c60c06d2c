"""Volumes: folders that outlive the tasks which use them.

The problem: a container's files die with it. The idea: a named volume is a plain folder on its node, handed to the
engine as a bind mount. No volume driver of Docker's is involved: an absent one would delay dockerd's start by 15 s per
volume. A folder is only removed when the server says so *and* no container can still write into it.

A mount of a host path is none of this file's: such a folder is its owner's, never made and never removed.

Next file: `agent/docker_engine.py`.
"""

from collections.abc import Sequence

from agent.engine import Container
from miniorch.model import Task, Volume


def to_remove(volumes: Sequence[Volume], tasks: Sequence[Task], containers: Sequence[Container]) -> list[Volume]:
    """The volumes whose folders can go now.

    A container of a task that the server does not know might use any volume: while there is one, all stay.
    """
    if not volumes:
        return []
    by_id = {task.id: task for task in tasks}
    if any(container.task not in by_id for container in containers):
        return []
    holding = {container.task for container in containers} | {task.id for task in tasks if task.live}
    used = {f"{task.app}/{mount.volume}" for task in tasks if task.id in holding for mount in task.spec.mounts}
    return [volume for volume in volumes if volume.removing and volume.key not in used]
