"""Spellings: how each engine writes a placement rule, read into one `Constraint`.

The problem: an app file of 2015 says `constraint:storage==ssd`, one of 2020 `node.labels.storage == ssd`, one of
Marathon `["storage", "IS", "ssd"]`, and all three mean one thing. The idea: a parser per spelling, a few lines each,
which knows the engine's words and nothing of what they mean. What comes out has been checked (`constraints.check`).

Who does this for real: classicswarm's filter expressions, swarmkit's constraint.Parse, Marathon's Constraints. Where we
differ: in classic Swarm all soft expressions were dropped together when they could not all hold; here each has a
weight. Next file: `scheduler/strategies.py`.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial

from miniorch.spec import Constraint
from scheduler import attributes
from scheduler.constraints import CONTAINER_LABEL, REPLICAS, Misspelt, check

_CLASSIC_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]+")
_CLASSIC_SUBJECTS = {"container": "task", "image": "image", "com.docker.compose.service": "service"}
_MARATHON_FIELDS = {
    "hostname": "node.name", "@hostname": "node.name", "@region": "labels.region", "@zone": "labels.zone",
}  # fmt: skip
_MARATHON = ("UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS")
_EXPRESSION = re.compile(r"\s*([^\s=!<>~]+)(?:\s*([=!<>~]+)|\s+(not\s+\w+|\w+))\s*(.*?)\s*", re.S | re.I)
_WITHIN = re.compile(r"(.*?)(?:\bwithin\s+(\S+))?", re.S)


def expression(text: str, weight: int = 0) -> Constraint:
    """`node.labels.disk == ssd`, `node.labels.zone in a, b`, `service != web within node.labels.zone`.

    Swarm mode's form; it has `==` and `!=` alone.
    """
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        right = "as in: node.labels.disk == ssd"
        raise Misspelt(f'"{text[:60]}" has no operator' if text.strip() else "a rule is empty", right)
    subject, sign, word, rest = match.groups()
    if subject.startswith(("constraint:", "affinity:")):
        raise Misspelt(f'"{text[:60]}" is a line of classic Swarm', "write it below environment")
    subject = attributes.spelt(subject)
    operator = sign or " ".join(word.lower().split())
    rest, within = _WITHIN.fullmatch(rest).groups("")  # type: ignore[union-attr]
    if within and attributes.known(subject):
        raise Misspelt(f"{subject} is one node's, and within no place", f"delete within {within[:30]}")
    values: tuple[str, ...] = tuple(filter(None, [rest.strip()]))
    if operator in ("in", "not in"):
        values = tuple(filter(None, (one.strip() for one in rest.strip("[]() ").split(","))))
    elif operator.endswith("matches") and values:
        values = (_pattern(values[0]),)
    within = attributes.spelt(within or "node.name")
    return _checked(Constraint(subject, operator, values, within, weight, text.strip()))


def classic(kind: str, text: str) -> Constraint:
    """Classic Swarm's `constraint:node==swarm-*` or `affinity:container!=~/^db/`: `text` is what follows the colon."""
    operator = "==" if "==" in text else "!="
    key, found, wanted = text.partition(operator)
    if not found:
        right = re.sub("[<>]*=+", "==", text, count=1) if "=" in text else f"{text}==VALUE, or !="
        raise Misspelt(f'"{kind}:{text[:60]}" has no operator', f"write {kind}:{right[:60]}")
    if not _CLASSIC_KEY.fullmatch(key):
        right = key.strip() if _CLASSIC_KEY.fullmatch(key.strip()) else "storage"
        raise Misspelt(f'"{key[:60]}" is no key of classic Swarm', f"write {kind}:{right}{operator}{wanted[:30]}")
    weight, wanted = (1, wanted[1:]) if wanted.startswith("~") else (0, wanted)
    if kind == "affinity":
        subject = _CLASSIC_SUBJECTS.get(key, CONTAINER_LABEL + key)
    else:
        subject = "node.name" if key == "node" else f"labels.{key}"
    word = "matches" if operator == "==" else "not matches"
    return _checked(Constraint(subject, word, (_pattern(wanted),), weight=weight, text=f"{kind}:{text}"))


def marathon(words: Sequence[str]) -> tuple[Constraint, ...]:
    """Marathon's `[field, OPERATOR, value]`. A field that a node lacks fails there, except for UNLIKE."""
    shown = f"[{', '.join(words)}]"
    if not 2 <= len(words) <= 3 or not words[0]:
        raise Misspelt(f"{shown} is no rule", "write [zone, GROUP_BY, 2]")
    field, operator, value = words[0], words[1].upper(), words[2:]
    if operator not in _MARATHON:
        near = get_close_matches(operator, _MARATHON, 1, 0.5)
        right = f"write {near[0]}" if near else f"write one of: {' '.join(_MARATHON)}"
        raise Misspelt(f'{shown} has an operator "{words[1][:20]}" that is not known', right)
    if operator not in ("UNIQUE", "CLUSTER", "GROUP_BY") and not value:
        raise Misspelt(f"{shown} has no value", f"write [{field}, {operator}, {2 if operator == 'MAX_PER' else 'a'}]")
    if operator == "UNIQUE" and value:
        raise Misspelt(f"{shown} has a value, and UNIQUE wants none", f"write [{field}, UNIQUE]")
    subject = _MARATHON_FIELDS.get(field, f"labels.{field}")
    if not attributes.known(subject):
        raise Misspelt(f'"{field[:60]}" is no name of an attribute', f"write [zone, {', '.join(words[1:])}]"[:80])
    if operator in ("MAX_PER", "GROUP_BY") and value and not re.fullmatch("[1-9][0-9]{0,5}", value[0]):
        raise Misspelt(f"{shown} wants a number from 1 on", f"write [{field}, {operator}, 2]")
    own, node = partial(Constraint, REPLICAS, within=subject, text=shown), partial(Constraint, subject, text=shown)
    match operator:
        case "UNIQUE":
            found = own("<=", ("1",))
        case "MAX_PER":
            found = own("<=", tuple(value))
        case "GROUP_BY":
            found = own("evenly", tuple(value))
        case "CLUSTER" if not value:
            found = own("together")
        case "LIKE" | "UNLIKE":
            found = node("matches" if operator == "LIKE" else "not matches", (f"^(?:{value[0]})$",))
        case _:
            found = node("is", tuple(value))
    check(found)
    lacks = operator == "LIKE" and re.search(found.values[0], "")  # what a node has not matches, too
    return (found, node("exists")) if lacks else (found,)


def reads_as(text: str) -> tuple[Constraint, ...]:
    """What a text means, whichever spelling it is in; nothing if it means nothing."""
    kind, colon, rest = text.partition(":")
    try:
        if colon and kind in ("constraint", "affinity"):
            return (classic(kind, rest),)
        if text.startswith("[") and text.endswith("]"):
            return marathon(text[1:-1].split(", ", 2))
        return (expression(text),)
    except Misspelt:
        return ()


def _checked(constraint: Constraint) -> Constraint:
    check(constraint)
    return constraint


def _pattern(text: str) -> str:
    """`/.../` is a regular expression that may match anywhere; else the whole text counts, and `*` is any text."""
    if len(text) > 1 and text[0] == text[-1] == "/":
        return text[1:-1]
    return f"^{text.replace('*', '.*')}$"
