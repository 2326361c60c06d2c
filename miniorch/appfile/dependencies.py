"""What services need of each other: `depends_on`, `links`, `volumes_from`, the aliases that links give, and networks.

The first three name a service that must be there, and together they must not go in a circle: no task of it would ever
start.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from miniorch.appfile.keys import Verdict
from miniorch.appfile.placement import beside
from miniorch.appfile.problems import Place
from miniorch.appfile.section import Section
from miniorch.appfile.values import MANY, Values, label_remedy, name_remedy
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
    for other, place, part in keys.each("depends_on"):
        _add(needs, other, Condition(part["condition"]), place)
        if "condition" in part.entries:
            needs.conditions[other] = part.entries["condition"].place
        if not part["required"]:
            needs.optional.add(other)
    for item in keys["links"]:
        other, alias = _reference(item, keys, "links")
        _add(needs, other, Condition.STARTED, item.place)
        if alias and alias != other:
            needs.aliases.append((alias, other, item.place))
    for item in keys["volumes_from"]:
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
    for network, place, part in keys.each("networks"):
        needs.networks[network] = place
        for item in part["aliases"]:
            needs.aliases.append((values.text(item, part.named("aliases")), name, item.place))
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
    values: Values, specs: Mapping[str, ServiceSpec], needs: Mapping[str, Needs], asleep: Mapping[str, str],
    networks: Mapping[str, bool],
) -> dict[str, ServiceSpec]:  # fmt: skip
    """The services with what they need of each other. `asleep` are those whose profile is not asked for, `networks`
    what the file declares, and whether each is internal.
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
    order, circle = _order({name: own.depends_on for name, own in needs.items()})
    if circle:
        places = [needs[one].places[other] for one, other in pairwise(circle)]
        message = f"services wait for each other: {shorten(' -> '.join(circle), 150)}"
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
            networks=(on := tuple(sorted(needs[name].networks)) or ("default",)),
            internal=all(networks.get(one) for one in on),
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


def _order(needs: Mapping[str, Collection[str]]) -> tuple[list[str], list[str]]:
    """The services, each after those that it needs; else the ring of some that wait for each other."""
    try:
        return list(TopologicalSorter(needs).static_order()), []
    except CycleError as error:
        ring = error.args[1][:0:-1]  # as in "web waits for db"; its last is its first, too
        first = min(map(list(needs).index, ring))
        at = ring.index(list(needs)[first])
        return [], [*ring[at:], *ring[:at], ring[at]]


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
