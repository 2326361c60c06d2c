"""Constraints: one small language for what seven engines spell in seven ways.

The problem: classic Swarm has globs, Swarm mode has none, Marathon counts, and each has its own word for "is". The
idea: all of them come down to one form, SUBJECT OPERATOR VALUES, and `OPERATORS` below is the whole language. Spellings
(`scheduler/spellings.py`) are thin parsers that end here. An operator answers for one text; a negative one is the
opposite of its positive. What a node lacks is the empty text, so `!=` holds where a label is missing, as in Swarm.

A subject is an attribute of the node (`scheduler/attributes.py`), and then the answer depends on the node alone. Or it
is something that lies on nodes (`NEIGHBOURS`), and then it depends on the tasks of a whole place, `within`, which may
be one node or all nodes of a zone: `scheduler/company.py` counts those.

Who does this for real: Nomad's feasibility operators, Kubernetes' node selectors. Next file: `scheduler/attributes.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from miniorch.model import Node
from miniorch.spec import Constraint
from scheduler import attributes

REPLICAS = "replicas"  # the service's own tasks
CONTAINER_LABEL = "container.labels."
NEIGHBOURS = ("service", "task", "image", CONTAINER_LABEL + "KEY", REPLICAS)
MAX_TEXT, MAX_VALUES, MAX_WEIGHT = 2000, 100, 1_000_000
MAX_PATTERN, MAX_SEEN, MAX_CHOICES = 200, 128, 16  # a pattern is run for every label by a server that others wait for
_TAKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]", re.S)  # one letter of a text: `\.`, `[a-z*]`
_REPEAT = re.compile(r"(?:[*+]|\{[^}]*\})[?+]?")
_GROUP = re.compile(r"\([^()]*\)")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,9})?")


@dataclass(eq=False)
class Misspelt(ValueError):
    """A rule that makes no sense. `remedy` is what would be right."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Operator:
    """`holds(subject, seen, wanted)`: a positive answer about one text. `values`: how many are wanted, "1", "0-1"."""

    holds: Callable[[str, str, Sequence[str]], bool]
    values: range
    example: str
    numbers: bool = False


def _by(test: Callable[[float, float], bool]) -> Callable[[str, str, Sequence[str]], bool]:
    return lambda _, seen, wanted: bool(_NUMBER.fullmatch(seen)) and test(float(seen), float(wanted[0]))


def _equal(subject: str, seen: str, wanted: Sequence[str]) -> bool:
    return any(attributes.equal(subject, seen, one) for one in wanted)


def _matches(_: str, seen: str, wanted: Sequence[str]) -> bool:
    return re.search(wanted[0], seen[:MAX_SEEN]) is not None


def _is(_: str, seen: str, wanted: Sequence[str]) -> bool:
    """Letter by letter; numbers to three decimals, as Marathon has it."""
    if _NUMBER.fullmatch(seen) and _NUMBER.fullmatch(wanted[0]):
        return round(float(seen), 3) == round(float(wanted[0]), 3)
    return seen == wanted[0] != ""


ONE, SOME, NONE, PERHAPS = range(1, 2), range(1, MAX_VALUES), range(1), range(2)
OPERATORS: Mapping[str, Operator] = {
    "==": Operator(_equal, ONE, "node.labels.disk == ssd"),
    "is": Operator(_is, ONE, "node.labels.disk is ssd"),
    "in": Operator(_equal, SOME, "node.labels.zone in a, b"),
    "matches": Operator(_matches, ONE, "node.labels.disk matches /^ssd/"),
    "exists": Operator(lambda _, seen, wanted: True, NONE, "node.labels.gpu exists"),
    "<": Operator(_by(float.__lt__), ONE, "node.labels.cores < 8", numbers=True),
    "<=": Operator(_by(float.__le__), ONE, "node.labels.cores <= 8", numbers=True),
    ">": Operator(_by(float.__gt__), ONE, "node.labels.cores > 8", numbers=True),
    ">=": Operator(_by(float.__ge__), ONE, "node.labels.cores >= 8", numbers=True),
}
NEGATIVE = {"!=": "==", "not in": "in", "not matches": "matches", "not exists": "exists"}
COUNTING = {"<=": ONE, "together": NONE, "evenly": PERHAPS}
"""Operators of `replicas`, and how many values they want."""
_ALSO = {
    "=": "==", "=>": ">=", "=<": "<=", "=~": "matches", "~=": "matches", "!~": "not matches", "<>": "!=",
    "like": "matches", "unlike": "not matches", "contains": "matches", "has": "exists", "equals": "==",
}  # fmt: skip


def is_static(constraint: Constraint) -> bool:
    """Whether the answer depends on the node alone, whatever tasks there are."""
    return attributes.known(constraint.subject)


def text_of(constraint: Constraint) -> str:
    """As the user wrote it, or as it could have been written."""
    around = "/" if constraint.operator.endswith("matches") else ""
    values = ", ".join(f"{around}{one}{around}" for one in constraint.values)
    words = [constraint.subject, constraint.operator, values]
    if not is_static(constraint) and constraint.within != "node.name":
        words += ["within", constraint.within]
    return constraint.text or " ".join(filter(None, words))


@lru_cache(4096)
def predicate(constraint: Constraint) -> Callable[[str | None], bool]:
    """The test of one text; None is what is missing."""
    operator = NEGATIVE.get(constraint.operator, constraint.operator)
    wanted = operator == constraint.operator
    holds, subject, values = OPERATORS[operator].holds, constraint.subject, constraint.values
    if operator == "exists":
        return lambda seen: (seen is not None) is wanted
    return lambda seen: holds(subject, seen or "", values) is wanted


def positive(constraint: Constraint) -> Callable[[str | None], bool]:
    """What a negative constraint forbids, and any other asks for."""
    operator = NEGATIVE.get(constraint.operator, constraint.operator)
    return predicate(Constraint(constraint.subject, operator, constraint.values))


def holds(constraint: Constraint, node: Node) -> bool:
    """Whether a node has what a static constraint wants."""
    return predicate(constraint)(attributes.value(node, constraint.subject))


def check(constraint: Constraint) -> None:
    """Raises `Misspelt` for what no node could ever be asked."""
    subject, operator, values = constraint.subject, constraint.operator, constraint.values
    check_subject(subject)
    counts = subject == REPLICAS
    if operator not in (COUNTING if counts else {**OPERATORS, **NEGATIVE}):
        known = tuple(COUNTING) if counts else (*OPERATORS, *NEGATIVE)
        near = _ALSO.get(operator.lower(), "")
        near = near if near in known else next(iter(get_close_matches(operator.lower(), known, 1, 0.5)), "")
        words = f"write {near}" if near else f"write one of: {' '.join(known)}"
        raise Misspelt(f'{subject} has no operator "{operator[:20]}"', words)
    wanted = COUNTING[operator] if counts else OPERATORS[NEGATIVE.get(operator, operator)].values
    if len(values) not in wanted or not all(len(one) <= MAX_PATTERN for one in values):
        example = "replicas <= 2" if counts else OPERATORS[NEGATIVE.get(operator, operator)].example
        many = "no value" if wanted == NONE else "a value" if wanted == ONE else f"at most {wanted[-1]} values"
        got = ", ".join(values)[:40] or "none"
        raise Misspelt(f"{subject} {operator} wants {many}, got {got}", f"as in: {example}")
    if counts and values and not re.fullmatch("[1-9][0-9]{0,5}", values[0]):
        raise Misspelt(f'{subject} {operator} wants a number from 1 on, got "{values[0][:20]}"', f"{subject} <= 2")
    if not counts and operator in OPERATORS and OPERATORS[operator].numbers and not _NUMBER.fullmatch(values[0]):
        raise Misspelt(f'{subject} {operator} wants a number, got "{values[0][:20]}"', f"{subject} {operator} 8")
    if operator.endswith("matches"):
        check_pattern(values[0])
    if subject == "node.ip" and operator in ("==", "!=", "in", "not in"):
        for one in values:
            if not attributes.equal(subject, one.partition("/")[0], one):
                raise Misspelt(f'{subject} wants an address or a network, got "{one[:40]}"', f"{subject} == 10.0.0.0/8")
    if not attributes.known(constraint.within):
        raise _stranger(constraint.within, "within", attributes.nearest(constraint.within))
    if len(constraint.text) > MAX_TEXT:
        raise Misspelt(f"a rule has at most {MAX_TEXT} letters, got {len(constraint.text)}", "write two rules")
    if not all(map(str.isprintable, (constraint.text, *values))):
        raise Misspelt("a rule is one line, without control characters", "as in: node.labels.disk == ssd")
    if not 0 <= constraint.weight <= MAX_WEIGHT:
        raise Misspelt(f"a weight is a whole number from 1 to {MAX_WEIGHT}, got {constraint.weight}", "weight: 1")


def check_subject(subject: str) -> None:
    head, dot, key = subject.rpartition(".")
    if attributes.known(subject) or subject in NEIGHBOURS:
        return
    if subject.startswith(CONTAINER_LABEL) and attributes.known("labels." + subject.removeprefix(CONTAINER_LABEL)):
        return
    if get_close_matches(head + dot, [CONTAINER_LABEL], 1, 0.8):
        raise _stranger(subject, "attribute", CONTAINER_LABEL + key)
    near = get_close_matches(subject.replace("container", "task"), NEIGHBOURS, 1, 0.8) or [attributes.nearest(subject)]
    raise _stranger(subject, "attribute", near[0])


def _stranger(name: str, what: str, near: str) -> Misspelt:
    return Misspelt(f'there is no attribute "{name[:60]}"' + " to be within" * (what == "within"), f"write {near}")


def check_pattern(pattern: str) -> None:
    """Raises `Misspelt` for a pattern that is none, or that could keep the server busy for minutes."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise Misspelt(f'"{pattern[:40]}" is no pattern: {error}', "as in: /^web-[0-9]+$/") from None
    plain = _TAKEN.sub("x", pattern).replace("(?:", "(")
    if "(?" in plain or re.search(r"\)[*+{]", plain):
        message = f'"{pattern[:40]}" repeats a group in brackets, or has one with (? that is not (?:'
        raise Misspelt(message, "as in: /^web-[0-9]+$/")
    if _choices(plain) > MAX_CHOICES:
        message = f'"{pattern[:40]}" may repeat only twice (once without ^ at its beginning), with few of ? and |'
        raise Misspelt(message, "use fewer of * + { ? |, or write in a, b, c")


def _choices(plain: str) -> int:
    """How much there is to try, as a power of two: each repeat, and the place where it begins, in MAX_SEEN letters."""
    outside, inner = plain, ""
    while outside != inner:
        inner, outside = outside, _GROUP.sub("", outside)
    rest = _REPEAT.sub("", plain)
    anywhere = not plain.startswith("^") or "|" in outside
    return 7 * (len(_REPEAT.findall(plain)) + anywhere) + rest.count("?") + rest.count("|")


@lru_cache(4096)
def samples(constraint: Constraint) -> tuple[str, ...]:
    """Texts for which a constraint holds, as far as some are easily found."""
    test, found = predicate(constraint), []
    for value in constraint.values:
        plain = re.sub(r"^\^|\$$|\(\?:|\)|\\(?=\W)", "", value).replace(".*", "")
        beside = [f"{float(value) + step:g}" for step in (-1, 1)] if _NUMBER.fullmatch(value) else []
        found += [value, plain, *beside]
    known = dict.fromkeys((*found, "yes", "none"))
    return tuple(text for text in known if re.fullmatch(r"[\w./:-]{1,128}", text) and test(text))
