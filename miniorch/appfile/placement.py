"""Where a service's tasks may and should go: the rules of all engines' spellings, out of their places in a file.

The problem: a rule that is not understood is worse than none, because nobody looks for it until a machine is lost. The
idea: every rule is read by the scheduler's own parsers (`scheduler/spellings.py`), and what they refuse is refused
here, where it stands. Classic Swarm's rules stand in `environment`, Swarm mode's below `deploy`, and what Compose has
no key for below `x-miniorch`.

Who does this for real: Docker's CLI checks nothing of a constraint but its operator; the manager finds the rest when a
task waits. Next file: `miniorch/appfile/dependencies.py`.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

from miniorch.appfile.keys import Verdict
from miniorch.appfile.options import attribute
from miniorch.appfile.section import Section
from miniorch.appfile.values import name_remedy
from miniorch.appfile.yaml import Entry, Node, shorten
from miniorch.spec import Constraint, Placement
from scheduler.constraints import Misspelt
from scheduler.spellings import classic, expression, marathon

# Classic Swarm reads these from a container's environment.
EXPRESSIONS = ("constraint:", "affinity:", "whitelist:", "reschedule:")
LABELS = ("com.docker.swarm.constraints", "com.docker.swarm.affinities")  # where it keeps them afterwards
MAX_PREFIX = 16
_LINE = re.compile(r"[A-Za-z]+: ?[\w.-]+[=!]=")
_IGNORED = {
    "whitelist:": "write a list of nodes as constraint:node==/^(a|b)$/",
    "reschedule:": "tasks of a lost node get successors on others anyway",
}


def placement(keys: Section, deploy: Section, services: Mapping[str, Entry]) -> Placement:
    """The rules of one service; `services` are those that the file has, whatever their profiles."""
    part, own = deploy.part("placement"), keys.part("x-miniorch")
    rules = [
        *_rules(part, "constraints", services), *_rules(own, "constraints", services),
        *_rules(own, "affinities", services), *_beside(keys, services), *_classic(keys, services),
    ]  # fmt: skip
    spread = [part.inner("preferences", item)["spread"] for item in part["preferences"]]
    spread += [attribute(own.values, one, own.named("spread"), own.known["spread"]) for one in own["spread"]]
    return Placement(
        tuple(dict.fromkeys(rules)),
        tuple(dict.fromkeys(filter(None, spread))),
        part["max_replicas_per_node"],
        tuple(filter(None, [keys["platform"]])),
        own["strategy"],
    )


def _rules(part: Section, key: str, services: Collection[str]) -> Iterator[Constraint]:
    """Texts, Marathon's lists, and either of them preferred: `{prefer: ..., weight: 10}`."""
    what, values = part.named(key), part.values
    for item in part[key]:
        node: Node | None = item
        weight = 0
        if isinstance(item.value, dict):
            preferred = part.inner(key, item)
            node, weight = preferred.get("prefer"), preferred["weight"]
        made: tuple[Constraint, ...] = ()
        if node is not None and isinstance(node.value, list):
            made = _checked(part, node, what, services, marathon, values.texts(node, what))
        elif node is not None and (text := values.text(node, what, part.known[key])):
            made = _checked(part, node, what, services, expression, text)
        yield from (replace(one, weight=weight) for one in made)


def _classic(keys: Section, services: Mapping[str, Entry]) -> Iterator[Constraint]:
    """`constraint:` and `affinity:` lines of the environment."""
    what, environment = keys.named("environment"), keys.get("environment")
    for node in parted(environment)[1] if environment else ():
        text = keys.values.text(node, what)
        prefix = _prefix(text)
        if not text.startswith(prefix):
            message = f"{what}: {shorten(text)} looks like a rule of classic Swarm, which has no such word"
            keys.values.refuse("E0104", message, node.place, f"write {prefix}{text.partition(':')[2].strip()[:60]}")
            continue
        if prefix in _IGNORED:
            keys.note("environment", Verdict.IGNORED, f"{shorten(text)}: {_IGNORED[prefix]}", node.place)
            continue
        kind, rest = prefix[:-1], text.removeprefix(prefix)
        key, equals, wanted = rest.partition("==" if "==" in rest else "!=")
        if kind == "affinity" and key == "container" and (service := _named(wanted.lstrip("~"), services)):
            rest = f"com.docker.compose.service{equals}{'~' * wanted.startswith('~')}{service}"
        made = _checked(keys, node, what, services, classic, kind, rest) if text else ()
        if made and made[0].weight:
            why = f"{shorten(text)}: counts by itself, and is not dropped together with others"
            keys.note("environment", Verdict.APPROXIMATED, why, node.place)
        yield from made
    labels = keys.get("labels")
    for one in labels.value if labels and isinstance(labels.value, list | dict) else ():
        if (name := one if isinstance(one, str) else one.text).startswith(LABELS):
            keys.note("labels", Verdict.IGNORED, f"{shorten(name)}: write rules as lines of environment")


def _prefix(text: str) -> str:
    """With which of `EXPRESSIONS` a line of the environment begins, or was meant to; "" for a variable."""
    if ":" not in text[:MAX_PREFIX]:  # as in nearly all
        return ""
    head = f"{text.partition(':')[0]}:"
    near = get_close_matches(head.lower(), EXPRESSIONS, 1, 0.75) if _LINE.match(text) else ()
    return head if head in EXPRESSIONS else next(iter(near), "")


def _named(container: str, services: Mapping[str, Entry]) -> str:
    """The service with that `container_name`; "" for none."""
    for name, entry in services.items():
        own = entry.node.value.get("container_name") if isinstance(entry.node.value, dict) else None
        if own is not None and own.node.text == container:
            return name
    return ""


def _beside(keys: Section, services: Collection[str]) -> Iterator[Constraint]:
    """What must be on the node of another service, which `dependencies.py` checks."""
    named = [keys.values.text(item, keys.named("volumes_from")).partition(":")[0] for item in keys["volumes_from"]]
    for key in ("network_mode", "net"):
        named.append(beside(keys, key))
        if not named[-1] and keys.get(key) is not None:
            keys.note(key, Verdict.IGNORED, "every task has an address of its own in the app's networks")
    yield from (expression(f"service == {one}") for one in named if one and one in services)


def _checked(
    keys: Section, node: Node, what: str, services: Collection[str],
    parse: Callable[..., Constraint | tuple[Constraint, ...]], *arguments: object,
) -> tuple[Constraint, ...]:  # fmt: skip
    """What a parser gives; nothing, and a problem, where it refuses or names a service that is not there."""
    try:
        found = parse(*arguments)
    except Misspelt as error:
        keys.values.refuse("E0104", f"{what}: {error.message}", node.place, error.remedy)
        return ()
    made = found if isinstance(found, tuple) else (found,)
    for name in (name for one in made if one.subject == "service" for name in one.values):
        plain = re.fullmatch(r"\^?([\w-]+)\$?", name)
        if plain and plain[1] not in services:
            message = f"{what} names {shorten(plain[1])}, which the file does not have"
            keys.values.refuse("E0106", message, node.place, name_remedy(plain[1], services, ""))
            return ()
    return made


def generic_resources(reservations: Section) -> dict[str, int]:
    """`generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]` as {"gpu": 2}."""
    found: dict[str, int] = {}
    for item in reservations["generic_resources"]:
        spec = reservations.inner("generic_resources", item).part("discrete_resource_spec")
        kind, count = spec["kind"], spec["value"]
        if kind:
            found[kind] = found.get(kind, 0) + count
    return found


def parted(environment: Node) -> tuple[Node, list[Node]]:
    """An environment of variables alone, and classic Swarm's expressions that stood in it."""
    found: list[Node] = []
    if isinstance(environment.value, dict):
        own = {}
        for name, entry in environment.value.items():
            text = name if entry.node.value is None else f"{name}={entry.node.text}"
            if ":" in name and _prefix(text):
                found.append(Node(text, entry.place, text))
            else:
                own[name] = entry
        return replace(environment, value=own), found
    if isinstance(environment.value, list):
        found = [one for one in environment.value if _prefix(one.text)]
        rest = [one for one in environment.value if not _prefix(one.text)]
        return replace(environment, value=rest), found
    return environment, found


def beside(keys: Section, key: str) -> str:
    """The service whose network namespace `network_mode: service:db` or `net: container:db` asks for; "" for none."""
    node = keys.get(key)
    kind, _, other = keys.values.text(node, keys.named(key)).partition(":") if node else ("", "", "")
    return other if kind in ("service", "container")[: 2 if key == "net" else 1] else ""
