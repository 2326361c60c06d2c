"""From a task to the container that runs it. Pure: everything the container will be is decided before it is made.

The name teaches in `docker ps`: `dockchat-web.1-k3m9x2ab` is the app, the service, the slot and the task. It also
makes a second container for one task impossible: Docker refuses a name that is taken.
"""

from collections.abc import Mapping

from agent.engine import TASK_LABEL, ContainerSpec
from miniorch.model import Node, Task, memberships
from miniorch.spec import TEMPLATE

DNS_ZONE = "miniorch.internal"


def container_name(task: Task) -> str:
    return f"{task.app}-{task.service}.{task.slot}-{task.id}"


def container_spec(
    task: Task,
    node: Node,
    image_id: str,
    address: str,
    volumes: Mapping[str, str],
    discovered: Mapping[str, str] = {},
) -> ContainerSpec:
    """`volumes`: name -> folder on this machine, for every mount of the task that names a volume. `discovered`: see
    `agent/discovery.py`.
    """
    words = {
        "Service.Name": task.service, "Service.ID": task.service_key, "Task.Name": container_name(task),
        "Task.ID": task.id, "Task.Slot": str(task.slot), "Node.Hostname": node.name, "Node.ID": node.name,
    }  # fmt: skip

    def filled(text: str) -> str:
        return TEMPLATE.sub(lambda found: words[found[1]], text)

    binds = {one.target: (one.host_path or volumes[one.volume], one.read_only) for one in task.spec.mounts}
    return ContainerSpec(
        name=container_name(task),
        task=task.id,
        image_id=image_id,
        address=address,
        hostname=filled(task.spec.options.hostname) or f"{task.service}-{task.slot}",
        entrypoint=task.spec.entrypoint,
        command=task.spec.command,
        environment={
            **discovered,
            **{name: filled(value) for name, value in task.spec.environment.items()},
            "MINIORCH_TASK": task.id,
            "MINIORCH_SERVICE": task.service,
            "MINIORCH_SLOT": str(task.slot),
            "MINIORCH_NODE": node.name,
        },
        binds=binds,
        dns=node.pool_address,
        dns_search=f"{task.app}.{DNS_ZONE}",
        limit=task.spec.limit,
        labels={
            **task.spec.options.labels,
            TASK_LABEL: task.id,
            "miniorch.address": address,
            "miniorch.app": task.app,
            "miniorch.service": task.service,
            "miniorch.slot": str(task.slot),
        },
        networks=",".join(memberships(task)),
        options=task.spec.options,
    )
