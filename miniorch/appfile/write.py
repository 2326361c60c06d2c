"""An `AppSpec` as a Compose file again: what `miniorch config` prints, and what was understood.

Everything is written out in one form, without variables, anchors or short notations, so two files that mean the same
are written the same. Reading the result gives the same spec: a test tries it with thousands of files.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from miniorch.appfile.placement import EXPRESSIONS
from miniorch.appfile.read import AppFile
from miniorch.spec import ContainerOptions, Mount, Placement, Resources, RestartPolicy, ServiceSpec


def config_text(app: AppFile) -> str:
    """The app as YAML."""
    import yaml

    top: dict[str, Any] = {"name": app.name, "services": {}}
    for name, spec in app.spec.services.items():
        top["services"][name] = _service(spec)
    used = sorted({(name, spec.internal) for spec in app.spec.services.values() for name in spec.networks})
    networks = {name: {"internal": True} if internal else None for name, internal in used}
    if not networks.get("default"):
        networks.pop("default", None)
    top.update(_given({"volumes": dict.fromkeys(app.spec.volumes), "networks": networks}))
    return yaml.dump(_escaped(top), Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=110)


def _service(spec: ServiceSpec) -> dict[str, Any]:
    task, build, check = spec.task, spec.task.build, spec.task.healthcheck
    words = {"entrypoint": task.entrypoint, "command": task.command}  # an empty one says something, too
    resources = _given({"limits": _amounts(task.limit), "reservations": _amounts(task.reserved)})
    classic, own = _rules(spec.placement)
    return {
        **_given({
            "image": "" if build else task.image,
            "build": build and _given({
                "context": build.context, "dockerfile": build.dockerfile, "args": build.args, "target": build.target,
            }),
        }),
        **{key: list(value) for key, value in words.items() if value is not None},
        **_given({
            "platform": next(iter(spec.placement.platforms), ""),
            "environment": {**task.environment, **dict.fromkeys(classic)},
            "ports": [f"{'127.0.0.1:' * port.local}{port.published}:{port.target}" for port in spec.ports],
            "volumes": [_mount(mount) for mount in task.mounts],
            "healthcheck": check and {
                "test": ["CMD", *check.test],
                "interval": _seconds(check.interval_seconds),
                "timeout": _seconds(check.timeout_seconds),
                "retries": check.retries,
                "start_period": _seconds(check.start_period_seconds),
            },
            "depends_on": {name: {"condition": condition.value} for name, condition in spec.depends_on.items()},
            "networks": _networks(spec),
            "deploy": {
                "replicas": spec.replicas,
                **_given({
                    "resources": resources, "restart_policy": _policy(spec.restart),
                    "placement": _given({
                        "preferences": [{"spread": one} for one in spec.placement.spread],
                        "max_replicas_per_node": spec.placement.max_per_node,
                    }),
                }),
            },
        }),
        "stop_grace_period": _seconds(task.stop_grace_seconds),
        **_given({
            "x-miniorch": _given({
                "stop_after": task.stop_after_seconds and _seconds(task.stop_after_seconds),
                "constraints": own, "strategy": spec.placement.strategy,
            }),
        }),
        **_options(task.options),
    }  # fmt: skip


def _given(items: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: no text, no list, no amount."""
    return {key: value for key, value in items.items() if value}


def _rules(placement: Placement) -> tuple[list[str], list[Any]]:
    """Classic Swarm's, which stand in the environment; and all others, each as it was written."""
    classic, own = [], dict[tuple[str, int], Any]()
    for rule in placement.constraints:
        if rule.text.startswith(EXPRESSIONS):
            classic.append(rule.text.replace("$", "$$"))  # a key, and keys are not escaped below
            continue
        words: Any = rule.text[1:-1].split(", ", 2) if rule.text.startswith("[") else rule.text
        own[rule.text, rule.weight] = {"prefer": words, "weight": rule.weight} if rule.weight else words
    return classic, list(own.values())


def _amounts(amount: Resources) -> dict[str, Any]:
    pieces = [{"discrete_resource_spec": {"kind": kind, "value": count}} for kind, count in amount.generic.items()]
    cpus = amount.cpus and _decimal(amount.cpus)
    return _given({"cpus": cpus, "memory": amount.memory_bytes, "generic_resources": pieces})


def _mount(mount: Mount) -> dict[str, Any]:
    kind, source = ("bind", mount.host_path) if mount.host_path else ("volume", mount.volume)
    return _given({"type": kind, "source": source, "target": mount.target, "read_only": mount.read_only})


def _networks(spec: ServiceSpec) -> dict[str, Any] | list[str]:
    """A service's aliases are known on each of its networks: the first one tells them."""
    if spec.aliases:
        return {**dict.fromkeys(spec.networks), spec.networks[0]: {"aliases": list(spec.aliases)}}
    return [] if spec.networks == ("default",) else list(spec.networks)


def _policy(policy: RestartPolicy) -> dict[str, Any]:
    delay = policy.delay_seconds and _seconds(policy.delay_seconds)
    return _given({"condition": policy.condition.value, "max_attempts": policy.max_attempts, "delay": delay})


def _options(options: ContainerOptions) -> dict[str, Any]:
    """Those that are not as they are anyway, and `init`, which is otherwise in Compose; their names are Compose's."""
    plain = ContainerOptions()
    found = {one.name: getattr(options, one.name) for one in fields(options)}
    found = {name: value for name, value in found.items() if value != getattr(plain, name) or name == "init"}
    if "tmpfs" in found:
        found["tmpfs"] = [f"{place}:{how}" if how else place for place, how in options.tmpfs.items()]
    if "ulimits" in found:
        both = {name: text.split(":") for name, text in options.ulimits.items()}
        found["ulimits"] = {name: {"soft": int(soft), "hard": int(hard)} for name, (soft, hard) in both.items()}
    return found


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _seconds(seconds: float) -> str:
    return f"{_decimal(seconds)}s"


def _escaped(value: Any) -> Any:
    """A dollar in a value is two, or it would be a variable."""
    if isinstance(value, Mapping):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(inner) for inner in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
