"""What services need of each other: `depends_on`, `links`, `volumes_from`, the aliases that links give, and networks.

The first three name a service that must be there, and together they must not go in a circle: no task of it would ever
start.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from miniorch.appfile.keys import Verdict
from miniorch.appfile.placement import beside
from miniorch.appfile.problems import Place
from miniorch.appfile.values import MANY, Section, Values, label_remedy, name_remedy
from miniorch.appfile.yaml import Node, shorten
from miniorch.spec import LABEL, Condition, Mount, ServiceSpec


@dataclass(slots=True)
class Needs:
    """What one service says about others; `reader` is its name."""

    depends_on: dict[str, Condition] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)  # other service -> where it is named
    conditions: dict[str, Place] = field(default_factory=dict)  # other service -> where a condition stands
    optional: set[str] = field(default_factory=set)
    volumes_from: dict[str, bool] = field(default_factory=dict)  # other service -> read only
    aliases: list[tuple[str, str, Place]] = field(default_factory=list)  # alias, and the service that it stands for
    networks: dict[str, Place] = field(default_factory=dict)

    def to_complete(self) -> set[str]:
        """The services that are expected to end: those waited for to complete, and old data containers."""
        waited = {other for other, condition in self.depends_on.items() if condition is Condition.COMPLETED}
        return waited | set(self.volumes_from)


def read_needs(name: str, keys: Section) -> Needs:
    values, needs = keys.values, Needs()
    node = keys.get("depends_on")
    if node is not None and isinstance(node.value, list):
        for item in keys.items("depends_on"):
            _add(needs, values.text(item, keys.named("depends_on")), Condition.STARTED, item.place)
    else:
        for other, entry in values.mapping(node, keys.named("depends_on")).items():
            path, what = f"{keys.path}.depends_on.{other}", f"{keys.named('depends_on')} {shorten(other)}"
            part = Section(values, entry.node, "dependency", path, what)
            condition = part.choice("condition", tuple(Condition), Condition.STARTED)
            _add(needs, other, Condition(condition), entry.place)
            if "condition" in part.entries:
                needs.conditions[other] = part.entries["condition"].place
            if not part.flag("required", True):
                needs.optional.add(other)
    for item in keys.items("links"):
        other, alias = _reference(item, keys, "links")
        _add(needs, other, Condition.STARTED, item.place)
        if alias and alias != other:
            needs.aliases.append((alias, other, item.place))
    for item in keys.items("volumes_from"):
        other, mode = _reference(item, keys, "volumes_from")
        if other == "container":
            why = "a container of another program has no volumes here"
            keys.note("volumes_from", Verdict.IGNORED, why, item.place)
        elif other:
            _add(needs, other, Condition.STARTED, item.place)
            needs.volumes_from[other] = mode == "ro"
    for key in ("network_mode", "net"):
        node = keys.get(key)
        if node is not None:
            _add(needs, beside(keys, key), Condition.STARTED, node.place)
    networks = keys.get("networks")
    if networks is not None and isinstance(networks.value, dict):
        for network, entry in values.mapping(networks, keys.named("networks")).items():
            needs.networks[network] = entry.place
            part = Section(values, entry.node, "network", f"{keys.path}.networks.{network}", keys.named("networks"))
            for item in part.items("aliases"):
                needs.aliases.append((values.text(item, part.named("aliases")), name, item.place))
    else:
        for item in keys.items("networks"):
            needs.networks[values.text(item, keys.named("networks"))] = item.place
    return needs


def _add(needs: Needs, other: str, condition: Condition, place: Place) -> None:
    if other:
        needs.depends_on.setdefault(other, condition)
        needs.places.setdefault(other, place)


def _reference(item: Node, keys: Section, key: str) -> tuple[str, str]:
    """`service` or `service:more`; two empty texts after a problem."""
    text = keys.values.text(item, keys.named(key))
    other, _, more = text.partition(":")
    if text and not other:
        keys.values.wrong(keys.named(key), "a service before the colon", item, f"write db{text}")
    return (other, more) if other else ("", "")


def connect(
    values: Values,
    specs: Mapping[str, ServiceSpec],
    needs: Mapping[str, Needs],
    asleep: Mapping[str, str],
    networks: Collection[str],
) -> dict[str, ServiceSpec]:
    """The services with what they need of each other. `asleep` are those whose profile is not asked for, `networks`
    what the file declares.
    """
    for name, own in needs.items():
        for network in [one for one in own.networks if one and one not in networks]:
            message = f"service {name} is on network {shorten(network)}, which the file does not declare"
            values.refuse("E0106", message, own.networks[network], name_remedy(network, networks, "default"))
        for other, condition in list(own.depends_on.items()):
            if other in specs:
                if condition is Condition.HEALTHY and specs[other].task.healthcheck is None:
                    why = f"{other} has no healthcheck, so it counts as healthy as soon as it runs"
                    path = f"services.{name}.depends_on.{other}.condition"
                    values.report.note(path, Verdict.APPROXIMATED, why, own.conditions[other])
                continue
            if other not in own.optional:
                _stranger(values, name, other, own.places[other], specs, asleep)
            del own.depends_on[other]
            own.volumes_from.pop(other, None)
            own.aliases = [one for one in own.aliases if one[1] != other]
    order, circle = _order({name: list(own.depends_on) for name, own in needs.items()})
    if circle:
        ring, places = (
            [*circle, circle[0]],
            [needs[one].places[circle[(n + 1) % len(circle)]] for n, one in enumerate(circle)],
        )
        message = f"services wait for each other: {shorten(' -> '.join(ring), 150)}"
        note = f"{places[1]} is the next" if len(places) > 1 else ""
        values.refuse("E0106", message, places[0], "delete this dependency", note=note)
        return dict(specs)
    aliases = _aliases(values, specs, needs)
    mounts: dict[str, tuple[Mount, ...]] = {}
    for name in order:
        own = needs[name]
        for other in own.volumes_from:
            values.count(own.places[other], len(mounts[other]))
        mounts[name] = _all_mounts(specs[name].task.mounts, own.volumes_from, mounts)
    return {
        name: replace(
            spec,
            depends_on=needs[name].depends_on,
            aliases=tuple(aliases.get(name, ())),
            networks=tuple(sorted(needs[name].networks)) or ("default",),
            task=replace(spec.task, mounts=mounts[name]),
        )
        for name, spec in specs.items()
    }


def _stranger(
    values: Values, name: str, other: str, place: Place, specs: Mapping[str, ServiceSpec], asleep: Mapping[str, str]
) -> None:
    if other in asleep:
        message = f"service {name} depends on {other}, which runs only with profile {asleep[other]}"
        values.refuse("E0106", message, place, f"add --profile {asleep[other]}")
        return
    message = f"service {name} depends on {shorten(other)}, which the file does not have"
    remedy = name_remedy(other, specs, name) if len(values.problems) < MANY else "delete it"
    values.refuse("E0106", message, place, remedy)


def _order(needs: Mapping[str, list[str]]) -> tuple[list[str], list[str]]:
    """The services, each after those that it needs; and the ring, if some wait for each other. Without recursion."""
    done: dict[str, None] = {}
    for start in needs:
        stack = [] if start in done else [(start, iter(needs[start]))]
        on_path = dict.fromkeys([start])
        while stack:
            name, others = stack[-1]
            other = next((one for one in others if one not in done), None)
            if other is None:
                stack.pop()
                on_path.pop(name)
                done[name] = None
            elif other in on_path:
                path = list(on_path)
                return list(done), path[path.index(other) :]
            else:
                stack.append((other, iter(needs[other])))
                on_path[other] = None
    return list(done), []


def _aliases(values: Values, specs: Mapping[str, ServiceSpec], needs: Mapping[str, Needs]) -> dict[str, list[str]]:
    """Service -> its further names. A name must mean one thing in the whole app."""
    meaning: dict[str, tuple[str, Place | None]] = {name: (name, None) for name in specs}
    for own in needs.values():
        for alias, service, place in own.aliases:
            held, first = meaning.setdefault(alias, (service, place))
            if alias and not LABEL.fullmatch(alias):
                message = f'the alias "{shorten(alias)}" is no DNS label'
                values.refuse("E0104", message, place, label_remedy(alias))
            elif held != service:
                message = f"the alias {alias} would mean {service}, and means {held} already"
                note = f"{first} gives it to {held}" if first else f"{held} is a service"
                values.refuse("E0107", message, place, f"write {alias}2", note=note)
    found: dict[str, list[str]] = {}
    for alias, (service, _) in sorted(item for item in meaning.items() if item[0] != item[1][0]):
        found.setdefault(service, []).append(alias)
    return found


def _all_mounts(
    own: tuple[Mount, ...], volumes_from: Mapping[str, bool], known: Mapping[str, tuple[Mount, ...]]
) -> tuple[Mount, ...]:
    """A service's own mounts, and those of the services in `volumes_from`. Its own win."""
    found = {mount.target: mount for mount in own}
    for other, read_only in volumes_from.items():
        for mount in known[other]:
            found.setdefault(mount.target, replace(mount, read_only=mount.read_only or read_only))
    return tuple(found.values())
