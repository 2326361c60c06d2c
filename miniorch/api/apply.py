"""An app file's spec to writes: what `PUT /v1/apps/{app}` does, as pure functions."""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from miniorch.changes import ServiceChange
from miniorch.errors import Conflict, UsageError
from miniorch.model import App, Cluster, Release, Service
from miniorch.spec import LABEL, MAX_REPLICAS, NAME, AppSpec, Constraint, ServiceSpec
from miniorch.state.records import Versioned, Write
from scheduler import attributes
from scheduler.constraints import Misspelt, check, positive, text_of
from scheduler.spellings import reads_as
from scheduler.strategies import STRATEGIES

CHANGES_TOLD = 50  # of one release
MAX_RULES = 100  # of one service and kind; each is asked of every node


LABELS = "wants lower-case letters, digits and '-', at most 40"
Fault = tuple[str, str]  # what is wrong, and the remedy


def check_spec(app: str, spec: AppSpec) -> None:
    """Raise `UsageError` for what no reader of app files should let through: this is the server's own border."""
    for message, remedy in _faults(app, spec):
        raise UsageError(message, remedy=remedy)


def _faults(app: str, spec: AppSpec) -> Iterator[Fault]:
    if not LABEL.fullmatch(app):
        yield f"app name {app!r} {LABELS}", "--name shop"
    if not spec.services:
        yield f"app {app} has no services", "write at least one below services:"
    published: dict[int, str] = {}
    owners = {name: name for name in spec.services}  # of names: within an app, each means one service
    for name, service in spec.services.items():
        if not LABEL.fullmatch(name):
            yield f"service name {name!r} {LABELS}", "rename it: web"
        if not 0 <= service.replicas <= MAX_REPLICAS:
            yield f"{name}: replicas wants 0 to {MAX_REPLICAS}, got {service.replicas}", "deploy: {replicas: 1}"
        for port in service.ports:
            if not (0 < port.published < 65536 and 0 < port.target < 65536):
                wrong = f"{port.published}:{port.target}"
                yield f"{name}: a port lies between 1 and 65535, got {wrong}", 'ports: ["8080:80"]'
            if port.published in published:
                message = f"port {port.published} is published by {published[port.published]} and by {name}"
                yield message, f'publish another port for {name}: "{port.published % 65535 + 1}:{port.target}"'
            published[port.published] = name
        for dependency in service.depends_on:
            if dependency not in spec.services:
                message = f"{name} depends on {dependency}, which is no service of {app}"
                yield message, "delete the dependency, or add that service"
        for message, remedy in chain(_task_faults(spec, service), _placement_faults(spec, service)):
            yield f"{name}{message}", remedy
        if service.restart.max_attempts < 0 or not 0 <= service.restart.delay_seconds < float("inf"):
            yield f"{name}: a restart policy has no negative or endless numbers", "restart: always"
        if not service.networks or not all(NAME.fullmatch(network) for network in service.networks):
            wanted = "names of lower-case letters, digits, '-', '_' and '.', at most 40"
            yield f"{name}: networks wants {wanted}", "networks: [default]"
        for alias in service.aliases:
            if not LABEL.fullmatch(alias):
                yield f"{name}: the alias {alias!r} {LABELS}", "rename it"
            if (owner := owners.setdefault(alias, name)) != name:
                what = f"the name of service {alias}" if owner == alias else f"an alias of {owner}"
                yield f"{name}: the alias {alias} is {what}", "delete one of the two, or rename it"


def _task_faults(spec: AppSpec, service: ServiceSpec) -> Iterator[Fault]:
    task = service.task
    if not task.image:
        yield " has no image", "image: nginx"
    for mount in task.mounts:
        source, target = mount.host_path or mount.volume, mount.target
        if mount.host_path:
            if mount.volume or not mount.host_path.startswith("/"):
                wanted = "which wants to be a volume or an absolute path"
                yield f" mounts {source!r}, {wanted}", f"volumes: [/srv/data:{target}]"
        elif mount.volume not in spec.volumes or not LABEL.fullmatch(mount.volume.replace("_", "-").replace(".", "-")):
            message = f" mounts volume {mount.volume!r}, which the app does not declare"
            yield message, "declare it at the top: volumes: {data: }"
        if not target.startswith("/"):
            message = f": {source} wants an absolute place in the container, got {target!r}"
            yield message, f"volumes: [{source}:/{target}]"
    for amount in (task.reserved, task.limit):
        if amount.cpus < 0 or amount.memory_bytes < 0:
            yield ": an amount of cpu or memory cannot be negative", "delete it: no limit"


def _placement_faults(spec: AppSpec, service: ServiceSpec) -> Iterator[Fault]:
    placement, generic = service.placement, service.task.reserved.generic
    platforms = placement.platforms
    if max(map(len, (placement.constraints, placement.spread, generic, platforms))) > MAX_RULES:
        yield f" has more than {MAX_RULES} placement rules of one kind", "use fewer"
    for constraint in placement.constraints:
        try:
            check(constraint)
        except Misspelt as error:
            yield f": {error.message}", error.remedy
            continue
        if not _means_its_text(constraint):
            meaning = text_of(replace(constraint, text=""))
            message = f': the text of a rule means something else, "{constraint.text[:60]}" is not {meaning[:60]}'
            yield message, "leave the text out"
        if _waits_for_nobody(constraint, spec):
            message = f" wants {text_of(constraint)} beside it, and the app has no such service"
            yield message, "add it, or delete the rule"
    for attribute in placement.spread:
        if not attributes.known(attribute):
            message = f': there is no attribute "{attribute[:60]}" to spread over'
            yield message, f"write {attributes.nearest(attribute)}"
    if placement.strategy not in ("", *STRATEGIES):
        yield f": there is no strategy {placement.strategy[:30]!r}", f"write {' or '.join(STRATEGIES)}"
    for platform in platforms:
        if not attributes.PLATFORM.fullmatch(platform):
            yield f": a platform is a system and a processor, got {platform[:30]!r}", "platform: linux/amd64"
    if not 0 <= placement.max_per_node <= MAX_REPLICAS:
        message = f": max_replicas_per_node wants 0 to {MAX_REPLICAS}, got {placement.max_per_node}"
        yield message, "max_replicas_per_node: 1"
    for kind, count in generic.items():
        if count < 1 or not attributes.is_generic(kind):
            yield f": reserves {count} of {kind[:30]!r}", "{kind: gpu, value: 1}"


def _means_its_text(constraint: Constraint) -> bool:
    """Whether what is told of a rule is what it does. A weight may stand beside a text, not against it."""
    meant = [replace(one, weight=one.weight or constraint.weight) for one in reads_as(constraint.text)]
    return not constraint.text or constraint in meant


def _waits_for_nobody(constraint: Constraint, spec: AppSpec) -> bool:
    """Whether a rule wants beside it what is to be found in the app alone, and is not there."""
    own = all(re.fullmatch(r"\^[\w-]+\$|[\w-]+", one) for one in constraint.values)
    hard = constraint.operator in ("==", "is", "in", "matches") and not constraint.weight
    return constraint.subject == "service" and hard and own and not any(map(positive(constraint), spec.services))


def plan_apply(
    app: str, spec: AppSpec, current: Versioned[App] | None, services: Sequence[Versioned[Service]], cluster: Cluster,
    now: float,
) -> list[Write]:  # fmt: skip
    """The writes that make `app` what `spec` says; none if it is so already. `services` are those of all apps.

    Raises `Conflict` if the app is being removed or another app publishes one of its ports.
    """
    if current is not None and current.item.removing:
        raise Conflict(f"{app} is being removed", remedy=f"miniorch rm {app}   (waits until it is gone)")
    _check_ports(app, spec, services)
    writes: list[Write] = []
    volumes = tuple(sorted({*spec.volumes, *(current.item.volumes if current else ())}))
    wanted = replace(current.item, volumes=volumes) if current else App(app, now, volumes)
    own = {service.item.name: service for service in services if service.item.app == app}
    vips = free_vips(cluster.vip_pool, {service.item.vip for service in services})
    for name, service_spec in sorted(spec.services.items()):
        old = own.get(name)
        if old is None:
            writes.append(Write(Service(app, name, service_spec, next(vips)), 0, why="created"))
        elif old.item.spec != service_spec or old.item.removing:
            changed = replace(old.item, spec=service_spec, removing=False, held="")
            writes.append(Write(changed, old.modified, why="changed"))
    for name, old in sorted(own.items()):
        if name not in spec.services and not old.item.removing:
            writes.append(Write(replace(old.item, removing=True), old.modified, why="no longer in the app file"))
    if current is None:
        writes.insert(0, Write(wanted, 0, why="created"))
    elif writes or wanted != current.item:  # compared in any case, so that no service joins an app that is removed
        writes.insert(0, Write(wanted, current.modified))
    return writes


def plan_release(
    app: str, known: Sequence[Versioned[Release]], differences: Sequence[ServiceChange], now: float
) -> list[Write]:
    """The record of a change of `app`, if anything changes. `known` are the app's releases so far."""
    told = [change.describe() for change in differences if change.action != "keep"]
    if not told:
        return []
    if len(told) > CHANGES_TOLD:
        told[CHANGES_TOLD:] = [f"and {len(told) - CHANGES_TOLD} more"]
    number = max((one.item.number for one in known), default=0) + 1
    return [Write(Release(app, number, now, tuple(told)), 0)]


def _check_ports(app: str, spec: AppSpec, services: Sequence[Versioned[Service]]) -> None:
    holders = {port.published: s.item for s in services if s.item.app != app for port in s.item.spec.ports}
    for name, service in sorted(spec.services.items()):
        for port in service.ports:
            holder = holders.get(port.published)
            if holder is not None:
                message = f"{app}/{name} wants to publish port {port.published}, which {holder.key} publishes already"
                raise Conflict(message, remedy=f"miniorch rm {holder.app}, or publish another port")


def free_vips(pool: str, taken: set[str]) -> Iterator[str]:
    """The addresses after the highest that is taken, then the lower ones: a freed one is not handed on at once.

    Raises `Conflict` when none is left.
    """
    network = ipaddress.ip_network(pool)
    first, last = int(network.network_address) + 1, int(network.broadcast_address) - 1
    used = {int(ipaddress.ip_address(address)) for address in taken}
    start = max(used, default=first - 1) + 1
    for number in chain(range(start, last + 1), range(first, min(start, last + 1))):
        if number not in used:
            yield str(ipaddress.ip_address(number))
    raise Conflict(f"the service pool {pool} has no free address left", remedy="miniorch rm APP, of one not needed")
