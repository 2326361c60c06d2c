"""An app file's spec to writes: what `PUT /v1/apps/{app}` does, as pure functions."""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from miniorch.errors import Conflict, UsageError
from miniorch.model import LABEL, MAX_REPLICAS, App, AppSpec, Cluster, Service, ServiceSpec
from miniorch.state.records import Versioned, Write


def check_spec(app: str, spec: AppSpec) -> None:
    """Raise `UsageError` for what no reader of app files should let through: this is the server's own border."""
    if not LABEL.fullmatch(app):
        raise UsageError(f"app name {app!r} wants lower-case letters, digits and '-', at most 40")
    if not spec.services:
        raise UsageError(f"app {app} has no services")
    published: dict[int, str] = {}
    for name, service in spec.services.items():
        if not LABEL.fullmatch(name):
            raise UsageError(f"service name {name!r} wants lower-case letters, digits and '-', at most 40")
        if not 0 <= service.replicas <= MAX_REPLICAS:
            raise UsageError(f"{name}: replicas wants 0 to {MAX_REPLICAS}, got {service.replicas}")
        for port in service.ports:
            if not (0 < port.published < 65536 and 0 < port.target < 65536):
                raise UsageError(f"{name}: a port lies between 1 and 65535, got {port.published}:{port.target}")
            if port.published in published:
                raise UsageError(f"port {port.published} is published by {published[port.published]} and by {name}")
            published[port.published] = name
        for dependency in service.depends_on:
            if dependency not in spec.services:
                raise UsageError(f"{name} depends on {dependency}, which is no service of {app}")
        _check_task(name, spec, service)


def _check_task(name: str, spec: AppSpec, service: ServiceSpec) -> None:
    task = service.task
    if not task.image:
        raise UsageError(f"{name} has no image")
    for mount in task.mounts:
        if mount.volume not in spec.volumes or not LABEL.fullmatch(mount.volume.replace("_", "-").replace(".", "-")):
            raise UsageError(f"{name} mounts volume {mount.volume!r}, which the app does not declare")
        if not mount.target.startswith("/"):
            raise UsageError(f"{name}: {mount.volume} wants an absolute place in the container, got {mount.target!r}")
    for amount in (task.reserved, task.limit):
        if amount.cpus < 0 or amount.memory_bytes < 0:
            raise UsageError(f"{name}: an amount of cpu or memory cannot be negative")


def plan_apply(
    app: str,
    spec: AppSpec,
    current: Versioned[App] | None,
    services: Sequence[Versioned[Service]],
    cluster: Cluster,
    now: float,
) -> list[Write]:
    """The writes that make `app` what `spec` says; none if it is so already. `services` are those of all apps.

    Raises `Conflict` if the app is being removed or another app publishes one of its ports.
    """
    if current is not None and current.item.removing:
        raise Conflict(f"{app} is being removed", remedy=f"miniorch rm {app}   (waits until it is gone)")
    _check_ports(app, spec, services)
    writes: list[Write] = []
    volumes = tuple(sorted({*spec.volumes, *(current.item.volumes if current else ())}))
    wanted = replace(current.item, volumes=volumes) if current else App(app, now, volumes)
    if current is None or wanted != current.item:
        writes.append(Write(wanted, current.modified if current else 0, why="" if current else "created"))
    own = {service.item.name: service for service in services if service.item.app == app}
    taken = {service.item.vip for service in services}
    for name, service_spec in sorted(spec.services.items()):
        old = own.get(name)
        if old is None:
            vip = free_vip(cluster.vip_pool, taken)
            taken.add(vip)
            writes.append(Write(Service(app, name, service_spec, vip), 0, why="created"))
        elif old.item.spec != service_spec or old.item.removing:
            changed = replace(old.item, spec=service_spec, removing=False)
            writes.append(Write(changed, old.modified, why="changed"))
    for name, old in sorted(own.items()):
        if name not in spec.services and not old.item.removing:
            writes.append(Write(replace(old.item, removing=True), old.modified, why="no longer in the app file"))
    return writes


def _check_ports(app: str, spec: AppSpec, services: Sequence[Versioned[Service]]) -> None:
    holders = {port.published: s.item for s in services if s.item.app != app for port in s.item.spec.ports}
    for name, service in sorted(spec.services.items()):
        for port in service.ports:
            holder = holders.get(port.published)
            if holder is not None:
                raise Conflict(
                    f"{app}/{name} wants to publish port {port.published}, which {holder.key} publishes already",
                    remedy=f"miniorch rm {holder.app}, or publish another port",
                )


def free_vip(pool: str, taken: set[str]) -> str:
    """The address after the highest that is taken, else the lowest free: a freed one is not handed on at once."""
    network = ipaddress.ip_network(pool)
    first, last = int(network.network_address) + 1, int(network.broadcast_address) - 1
    used = {int(ipaddress.ip_address(address)) for address in taken}
    start = max(used, default=first - 1) + 1
    for number in (*range(start, last + 1), *range(first, min(start, last + 1))):
        if number not in used:
            return str(ipaddress.ip_address(number))
    raise Conflict(f"the service pool {pool} has no free address left")
