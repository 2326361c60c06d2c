"""Where a service's tasks may and should go: the rules of all engines' spellings, out of their places in a file.

The problem: a rule that is not understood is worse than none, because nobody looks for it until a machine is lost. The
idea: every rule is read by the scheduler's own parsers (`scheduler/spellings.py`), and what they refuse is refused
here, where it stands. Classic Swarm's rules stand in `environment`, Swarm mode's below `deploy`, and what Compose has
no key for below `x-miniorch`.

Who does this for real: Docker's CLI checks nothing of a constraint but its operator; the manager finds the rest when a
task waits. Next file: `miniorch/appfile/dependencies.py`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from miniorch.appfile.keys import Verdict
from miniorch.appfile.values import Section, Values, name_remedy
from miniorch.appfile.yaml import Entry, Node, shorten
from miniorch.spec import MAX_REPLICAS, Constraint, Placement
from scheduler import attributes
from scheduler.constraints import MAX_WEIGHT, Misspelt
from scheduler.spellings import classic, expression, marathon
from scheduler.strategies import STRATEGIES

# Classic Swarm reads these from a container's environment.
EXPRESSIONS = ("constraint:", "affinity:", "whitelist:", "reschedule:")
_IGNORED = {
    "whitelist:": "write a list of nodes as constraint:node==/^(a|b)$/",
    "reschedule:": "tasks of a lost node get successors on others anyway",
}


class Placements:
    """Reads the rules of all services of a file; `services` are those that it has, whatever their profiles."""

    def __init__(self, values: Values, services: Mapping[str, Entry]) -> None:
        self.values = values
        self.services = services
        self._containers: dict[str, str] = {}  # container_name -> service
        for name, entry in services.items():
            own = entry.node.value.get("container_name") if isinstance(entry.node.value, dict) else None
            if own is not None:
                self._containers[own.node.text] = name

    def read(self, keys: Section, deploy: Section) -> Placement:
        part, own = deploy.part("placement", "placement"), keys.part("x-miniorch", "x-miniorch")
        rules = [
            *self._rules(part, "constraints"), *self._rules(own, "constraints"), *self._rules(own, "affinities"),
            *self._beside(keys), *self._classic(keys),
        ]  # fmt: skip
        spread = [*self._preferences(part), *self._attributes(own)]
        return Placement(
            tuple(dict.fromkeys(rules)),
            tuple(dict.fromkeys(spread)),
            part.whole("max_replicas_per_node", 0, 0, MAX_REPLICAS, 2),
            self._platform(keys),
            own.choice("strategy", STRATEGIES, "") if own.get("strategy") else "",
        )

    def _rules(self, part: Section, key: str) -> Iterator[Constraint]:
        """Texts, Marathon's lists, and either of them preferred: `{prefer: ..., weight: 10}`."""
        what = part.named(key)
        for item in part.items(key):
            node, weight = item, 0
            if isinstance(item.value, dict):
                preferred = Section(self.values, item, "preferred", f"{part.path}.{key}", what)
                found, weight = preferred.get("prefer"), preferred.whole("weight", 1, 1, MAX_WEIGHT, 10)
                if found is None:
                    if preferred.sound:
                        remedy = "add prefer: node.labels.disk == ssd"
                        self.values.refuse("E0105", f"{what}: prefer is missing", item.place, remedy)
                    continue
                node = found
            if isinstance(node.value, list):
                made = self._checked(node, what, marathon, self.values.texts(node, what))
            else:
                text = self.values.text(node, what)
                made = self._checked(node, what, expression, text) if text else ()
            yield from (replace(one, weight=weight) for one in made)

    def _classic(self, keys: Section) -> Iterator[Constraint]:
        """`constraint:` and `affinity:` lines of the environment."""
        what = keys.named("environment")
        for text, node in expressions(keys, self.values):
            prefix = next(one for one in EXPRESSIONS if text.startswith(one))
            if prefix in _IGNORED:
                keys.note("environment", Verdict.IGNORED, f"{shorten(text)}: {_IGNORED[prefix]}", node.place)
                continue
            kind, rest = prefix[:-1], text.removeprefix(prefix)
            key, equals, wanted = rest.partition("==" if "==" in rest else "!=")
            if kind == "affinity" and key == "container" and wanted.lstrip("~") in self._containers:
                soft, service = "~" * wanted.startswith("~"), self._containers[wanted.lstrip("~")]
                rest = f"com.docker.compose.service{equals}{soft}{service}"
            made = self._checked(node, what, classic, kind, rest)
            if made and made[0].weight:
                why = f"{shorten(text)}: counts by itself, and is not dropped together with others"
                keys.note("environment", Verdict.APPROXIMATED, why, node.place)
            yield from made

    def _beside(self, keys: Section) -> Iterator[Constraint]:
        """What must be on the node of another service, which `dependencies.py` checks."""
        for item in keys.items("volumes_from"):
            other = self.values.text(item, keys.named("volumes_from")).partition(":")[0]
            if other in self.services:
                yield expression(f"service == {other}")
        for key in ("network_mode", "net"):
            other = beside(keys, key)
            if other in self.services:
                yield expression(f"service == {other}")
            elif not other and keys.get(key) is not None:
                keys.note(key, Verdict.IGNORED, "every task has an address of its own in the app's networks")

    def _preferences(self, part: Section) -> Iterator[str]:
        for item in part.items("preferences"):
            one = Section(self.values, item, "preference", f"{part.path}.preferences", part.named("preferences"))
            node = one.get("spread")
            if node is not None:
                yield from self._attribute(node, one.named("spread"))

    def _attributes(self, own: Section) -> Iterator[str]:
        for item in own.items("spread"):
            yield from self._attribute(item, own.named("spread"))

    def _attribute(self, node: Node, what: str) -> Iterator[str]:
        name = self.values.text(node, what)
        if attributes.known(name):
            yield name
        elif name:
            message = f'{what}: there is no attribute "{shorten(name)}"'
            self.values.refuse("E0104", message, node.place, f"write {attributes.nearest(name)}")

    def _platform(self, keys: Section) -> tuple[str, ...]:
        node, text = keys.get("platform"), keys.text("platform").lower()
        if node is None or not text:
            return ()
        if not attributes.PLATFORM.fullmatch(text):
            self.values.wrong(keys.named("platform"), "a system and a processor", node, "platform: linux/amd64")
            return ()
        return (text,)

    def _checked(
        self, node: Node, what: str, parse: Callable[..., Constraint | tuple[Constraint, ...]], *arguments: object
    ) -> tuple[Constraint, ...]:
        """What a parser gives; nothing, and a problem, where it refuses or names a service that is not there."""
        try:
            found = parse(*arguments)
        except Misspelt as error:
            self.values.refuse("E0104", f"{what}: {error.message}", node.place, error.remedy)
            return ()
        made = found if isinstance(found, tuple) else (found,)
        for name in (name for one in made if one.subject == "service" for name in one.values):
            plain = re.fullmatch(r"\^?([\w-]+)\$?", name)
            if plain and plain[1] not in self.services:
                message = f"{what} names {shorten(plain[1])}, which the file does not have"
                self.values.refuse("E0106", message, node.place, name_remedy(plain[1], self.services, ""))
                return ()
        return made


def generic_resources(reservations: Section) -> dict[str, int]:
    """`generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]` as {"gpu": 2}."""
    found: dict[str, int] = {}
    path, what = f"{reservations.path}.generic_resources", reservations.named("generic_resources")
    for item in reservations.items("generic_resources"):
        part = Section(reservations.values, item, "generic resource", path, what)
        spec = part.part("discrete_resource_spec", "discrete resource")
        kind, count = spec.text("kind"), spec.whole("value", 1, 1, MAX_REPLICAS, 2)
        if kind and not attributes.is_generic(kind):
            node = spec.get("kind")
            reservations.values.wrong(
                spec.named("kind"), "a name of letters and digits, not cpus or memory", node or item, "kind: gpu"
            )
        elif kind:
            found[kind] = found.get(kind, 0) + count
        elif spec.sound and part.sound:
            reservations.values.refuse("E0105", f"{spec.what}: kind is missing", item.place, "add kind: gpu")
    return found


def expressions(keys: Section, values: Values) -> Iterator[tuple[str, Node]]:
    """Classic Swarm's expressions in the environment, and where they stand."""
    node, what = keys.get("environment"), keys.named("environment")
    if node is not None and isinstance(node.value, dict):
        for name, entry in node.value.items():
            if name.startswith(EXPRESSIONS):
                whole = Node(name, entry.place, name)
                nothing = entry.node.value is None
                yield values.text(whole, what) if nothing else f"{name}={values.text(entry.node, what)}", whole
    elif node is not None and isinstance(node.value, list):
        for item in node.value:
            if isinstance(item.value, str) and item.text.startswith(EXPRESSIONS):
                yield values.text(item, what), item


def without_expressions(node: Node | None) -> Node | None:
    """An environment of variables alone."""
    if node is not None and isinstance(node.value, dict):
        return replace(node, value={name: one for name, one in node.value.items() if not name.startswith(EXPRESSIONS)})
    if node is not None and isinstance(node.value, list):
        return replace(node, value=[one for one in node.value if not one.text.startswith(EXPRESSIONS)])
    return node


def beside(keys: Section, key: str) -> str:
    """The service whose network namespace `network_mode: service:db` or `net: container:db` asks for; "" for none."""
    kind, _, other = keys.text(key).partition(":")
    return other if kind in ("service", "container")[: 2 if key == "net" else 1] else ""
