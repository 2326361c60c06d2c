"""What would change: an app file beside what runs, as plain data.

The server answers a `run` with this list, and the command line computes the same list for `plan`, so the two cannot
differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from miniorch.model import Service
from miniorch.spec import AppSpec, ServiceSpec, TaskSpec


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """What happens to one service.

    `action`: create; replace (its containers are replaced); scale (only their number changes); update (what is around
    the containers changes: ports, dependencies, restart policy, aliases, networks, `internal`); remove; keep.
    """

    service: str
    action: str
    detail: str = ""

    def describe(self) -> str:
        return f"{self.action} {self.service}" + (f": {self.detail}" if self.detail else "")


def changes(app: str, wanted: AppSpec, services: Sequence[Service]) -> list[ServiceChange]:
    """One change per service that is wanted or there, sorted by name. Services of other apps are left out."""
    there = {service.name: service for service in services if service.app == app and not service.removing}
    result = []
    for name in sorted({*wanted.services, *there}):
        if name not in wanted.services:
            result.append(ServiceChange(name, "remove", "no longer in the app file"))
        elif name not in there:
            spec = wanted.services[name]
            result.append(ServiceChange(name, "create", f"{spec.replicas} x {spec.task.image}"))
        else:
            result.append(_change(name, there[name].spec, wanted.services[name]))
    return result


def _change(name: str, old: ServiceSpec, new: ServiceSpec) -> ServiceChange:
    details = [*_task_details(old.task, new.task)]
    action = "replace" if details else "keep"
    keys = ("ports", "depends_on", "restart", "aliases", "networks", "internal", "placement")
    around = [key for key in keys if getattr(old, key) != getattr(new, key)]
    if around:
        action = "update" if action == "keep" else action
        details += around
    if old.replicas != new.replicas:
        action = "scale" if action == "keep" else action
        details.append(f"replicas {old.replicas} -> {new.replicas}")
    return ServiceChange(name, action, ", ".join(details))


def _task_details(old: TaskSpec, new: TaskSpec) -> list[str]:
    details = []
    for field in fields(TaskSpec):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or (field.name == "image" and old.build and new.build):
            continue
        if field.name == "image":
            details.append(f"image {before} -> {after}")
        elif field.name == "build" and before and after:
            details.append("the build's files or arguments" if before.digest != after.digest else "where it is built")
        elif field.name == "environment":
            names = sorted({*before, *after})
            details.append("environment " + ", ".join(key for key in names if before.get(key) != after.get(key)))
        elif field.name == "options":
            details += [one.name for one in fields(before) if getattr(before, one.name) != getattr(after, one.name)]
        else:
            details.append(field.name)
    return details
