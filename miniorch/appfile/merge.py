"""Several files, one app: what is laid over what, as trees with places.

The problem: `-f base.yml -f production.yml`, `extends` and `include` all mean "this, but with that", and each value
must still know the line it came from. The idea: merge the trees before anything is read, by Compose's rules: mappings
are merged key by key, lists are joined, a command is replaced; names in lists (`A=1`, `data:/data`) are keys, too.
`!reset` takes a value away and `!override` replaces instead of merging.

Who does this for real: compose-go's `override` package. Next file: `miniorch/appfile/values.py`.
"""

from collections.abc import Callable
from dataclasses import replace

from miniorch.appfile.placement import EXPRESSIONS
from miniorch.appfile.problems import Place
from miniorch.appfile.yaml import OVERRIDE, RESET, Entry, Node

REPLACED = ("command", "entrypoint", "test")  # lists that are one value
PAIRS = {"environment": "=", "labels": "=", "args": "=", "sysctls": "=", "extra_hosts": "=:", "depends_on": ""}


Count = Callable[[Place, int], None]


def merge(below: Node, above: Node, count: Count, key: str = "") -> Node:
    """`above` laid over `below`; `key` is the one that both stand behind. `count` is told how much is copied."""
    if above.tag in (RESET, OVERRIDE):
        return replace(above, tag="")
    if key in PAIRS:
        below, above = _as_mapping(below, PAIRS[key]), _as_mapping(above, PAIRS[key])
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        count(above.place, len(below.value))
        merged = dict(below.value)
        for name, entry in above.value.items():
            old = merged.get(name)
            if entry.node.tag == RESET:
                merged.pop(name, None)
            elif old is None:
                merged[name] = entry
            else:
                merged[name] = Entry(entry.place, merge(old.node, entry.node, count, name))
        return replace(above, value=merged)
    if isinstance(below.value, list) and isinstance(above.value, list) and key not in REPLACED:
        count(above.place, len(below.value) + len(above.value))
        new = {_identity(item, key) for item in above.value}  # of two that are one thing, the upper one counts
        return replace(above, value=[item for item in below.value if _identity(item, key) not in new] + above.value)
    return above


def _identity(item: Node, key: str) -> str | int:
    """Equal for what is at the same place in the container, or is the same text."""
    if key in ("volumes", "devices", "secrets", "configs"):
        if isinstance(item.value, dict):
            target = item.value.get("target") or item.value.get("source")
            return target.node.text if target else id(item)
        parts = item.text.split(":")
        return parts[1] if len(parts) > 1 else parts[0]
    return item.text if isinstance(item.value, str | int) else id(item)


def _as_mapping(node: Node, separators: str) -> Node:
    """`- NAME=value` lines as the mapping that they stand for."""
    if not isinstance(node.value, list) or any(isinstance(item.value, list | dict | None) for item in node.value):
        return node
    entries = {}
    for item in node.value:
        if item.text.startswith(EXPRESSIONS):  # of classic Swarm: two may begin alike, and are no variables
            entries[item.text] = Entry(item.place, Node(None, item.place))
            continue
        cut = min((at for mark in separators if (at := item.text.find(mark)) > 0), default=len(item.text))
        name, value = item.text[:cut], item.text[cut + 1 :]
        there = cut < len(item.text)
        entries[name] = Entry(item.place, Node(value if there else None, item.place, value))
    return replace(node, value=entries)
