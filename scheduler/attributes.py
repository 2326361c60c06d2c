"""Attributes: what a placement rule can ask about a node, each by one name.

The problem: `node.labels.dsik == ssd` with a slip in it fits no node, and `node.lables.disk` is not even a question.
The idea: all names stand in one table. What is not in it is refused where it was written, with the nearest name that
is. A label that no node has is a good question all the same: its answer is "no".

Who does this for real: swarmkit's constraint keys (manager/constraint), Nomad's `${attr...}`. Where we differ:
`labels.disk` is the node's label or else its container engine's, which is what classic Swarm and Marathon looked at.
Next file: `scheduler/spellings.py`.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache

from miniorch.errors import UsageError
from miniorch.model import Node

PLATFORM = re.compile(r"[a-z0-9]+(?:/[a-z0-9_-]+(?:/[a-z0-9]+)?)?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
# Names that programs give to one kind of processor; Docker's come last.
_PROCESSORS = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "armv6l": "arm",
    "armv7l": "arm", "i386": "386", "i686": "386",
}  # fmt: skip

_OF_A_NODE: Mapping[str, Callable[[Node], str]] = {
    "node.id": lambda node: node.name,
    "node.name": lambda node: node.name,
    "node.hostname": lambda node: node.name,
    "node.ip": lambda node: node.address,
    "node.role": lambda node: node.role.value,
    "node.platform.os": lambda node: node.platform.partition("/")[0],
    "node.platform.arch": lambda node: _processor(node.platform.partition("/")[2].partition("/")[0]),
}
_LABELS: Mapping[str, Callable[[Node, str], str | None]] = {
    "node.labels.": lambda node, key: node.labels.get(key),
    "engine.labels.": lambda node, key: node.engine_labels.get(key),
    "labels.": lambda node, key: node.labels.get(key, node.engine_labels.get(key)),
}
MAX_LABELS, MAX_LABEL_LENGTH = 64, 128
GENERIC = "resource."  # what the keys of labels begin with that say how much there is of something
NAMES = (*_OF_A_NODE, *(f"{prefix}KEY" for prefix in _LABELS))
"""Every attribute, for people."""


def value(node: Node, attribute: str) -> str | None:
    """The value that a node has; None for a label that it has not, and for what is not known of it."""
    of_a_node = _OF_A_NODE.get(attribute)
    if of_a_node is not None:
        return of_a_node(node) or None
    prefix, key = split(attribute)
    return _LABELS[prefix](node, key)


@lru_cache(4096)
def split(attribute: str) -> tuple[str, str]:
    """`node.labels.disk` as ("node.labels.", "disk"); two empty texts for what is no label."""
    return next(((prefix, attribute[len(prefix) :]) for prefix in _LABELS if attribute.startswith(prefix)), ("", ""))


@lru_cache(4096)
def known(attribute: str) -> bool:
    return attribute in _OF_A_NODE or _LABEL.fullmatch(split(attribute)[1]) is not None


def spelt(attribute: str) -> str:
    """The name as the table has it. Case does not count, as in Swarm mode, but for the key of a label."""
    lower = attribute.lower()
    prefix = next((one for one in _LABELS if lower.startswith(one)), "")
    return prefix + attribute[len(prefix) :] if prefix else lower if lower in _OF_A_NODE else attribute


def nearest(attribute: str) -> str:
    """The name that was probably meant."""
    head, dot, last = attribute.rpartition(".")
    prefix = get_close_matches(head + dot, _LABELS, 1, 0.75)
    if prefix and _LABEL.fullmatch(last):
        return prefix[0] + last
    close = [name for name in _OF_A_NODE if name.endswith(f".{last}")] or get_close_matches(
        attribute, _OF_A_NODE, 1, 0.7
    )
    return close[0] if close else f"node.labels.{last}" if _LABEL.fullmatch(last) else "node.labels.disk"


def equal(attribute: str, seen: str, wanted: str) -> bool:
    """Case does not count, as in Swarm mode; an address is in a network; a processor has several names."""
    if attribute == "node.ip":
        try:
            return ipaddress.ip_address(seen) in ipaddress.ip_network(wanted, strict=False)
        except ValueError:
            return False
    if attribute == "node.platform.arch":
        return seen == _processor(wanted)
    return seen.casefold() == wanted.casefold()


def generic(node: Node) -> dict[str, int]:
    """What can be counted on a node and reserved there, from labels such as `resource.gpu=2`."""
    found = {key.removeprefix(GENERIC): text for key, text in node.labels.items() if key.startswith(GENERIC)}
    return {name: int(text) for name, text in found.items() if text.isdecimal()}


def is_generic(name: str) -> bool:
    """Whether something that is counted may be called so; what is measured has its names already."""
    return name not in ("cpus", "memory") and known(f"node.labels.{GENERIC}{name}")


def check_labels(node: str, labels: Mapping[str, str]) -> None:
    """Raises `UsageError`. Labels are matched by placement rules and shown in tables."""
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or len(value) > MAX_LABEL_LENGTH or not value.isprintable():
            raise UsageError(
                f"{key}={value[:MAX_LABEL_LENGTH]} is no label: the key wants letters, digits and . _ / -, at most 63, "
                f"the value at most {MAX_LABEL_LENGTH} printable characters",
                remedy=f"miniorch node label {node} zone=b",
            )
        if key.startswith(GENERIC) and not (value.isdecimal() and key != GENERIC):
            message = f"{key}={value} is no number of resources: {GENERIC}NAME wants a whole number"
            raise UsageError(message, remedy=f"miniorch node label {node} {GENERIC}gpu=2")
    if len(labels) > MAX_LABELS:
        message = f"{node} would have {len(labels)} labels, at most {MAX_LABELS} are kept"
        raise UsageError(message, remedy=f"miniorch node label {node} {next(iter(labels))}-")


def on_platform(node: Node, wanted: str) -> bool:
    """Whether `linux/arm64/v8` runs on a node: its system and its processor; variants are the engine's business."""
    os, _, arch = wanted.partition("/")
    return equal("node.platform.os", value(node, "node.platform.os") or "", os) and (
        not arch or equal("node.platform.arch", value(node, "node.platform.arch") or "", arch.partition("/")[0])
    )


def _processor(name: str) -> str:
    return _PROCESSORS.get(name.lower(), name.lower())
