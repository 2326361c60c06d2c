"""YAML with positions, and without its traps.

The problem: PyYAML forgets where a value stood, lets a second `image:` silently win, reads `22:22` as the number 1342
and `on` as true, and its fast parser kills the whole process on a file of 200,000 brackets. The idea: take only its
parser. First pass: count events, which do not recurse, and refuse what is deep or large. Second pass: compose nodes and
turn them into our own small tree, `Node`, which remembers its place and the text as it was written.

Who does this for real: every serious linter of YAML keeps a tree with marks. Where we differ: scalars follow YAML 1.2
(`yes` and `022` are text), aliases and merge keys (`<<`) are read, tags of one's own are refused.
Next file: `miniorch/appfile/compose.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from miniorch.appfile.problems import Place, Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_EVENTS = 100_000
MAX_VISITS = 100_000  # a file of aliases to aliases stays small in events and explodes here

# The core schema of YAML 1.2, with two differences that protect people: 022 is text, and so is 0o22.
_CORE = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_first))


class Refused(Exception):
    """The text cannot be read as YAML at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place. `text` is a scalar as it was written: `1.10` is still `1.10`."""

    value: bool | int | float | str | list[Node] | dict[str, Entry] | None
    place: Place
    text: str = ""

    @property
    def kind(self) -> str:
        """What it is, in words for a person."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return f"{self.text}"
            case int() | float():
                return f"the number {self.text}"
            case str():
                return f'the text "{shorten(self.text)}"'
            case list():
                return "a list"
            case _:
                return "a mapping"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a mapping: where the key stands, and its value."""

    place: Place
    node: Node


def shorten(text: str, limit: int = 40) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def parse(text: str) -> tuple[Node, list[Problem]]:
    """The tree of a YAML (or JSON) text, and the keys that are written twice. Raises `Refused`."""
    try:
        _measure(text)
        loader = _Loader(text)
        try:
            if not loader.check_node():
                raise Refused(Problem("E0100", "the file is empty", remedy="begin with: services:"))
            root = loader.get_node()
            if loader.check_node():
                raise Refused(
                    Problem("E0103", "a second document begins here", _place(loader.get_node()), "keep one per file")
                )
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise Refused(_syntax(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Refused(
            Problem("E0103", f"not YAML: character {error.character!r} is not allowed", Place(line, 1))
        ) from None
    except yaml.YAMLError as error:
        raise Refused(Problem("E0103", f"not YAML: {shorten(str(error), 80)}")) from None
    tree = _Tree()
    return tree.read(root, ()), tree.problems


def _measure(text: str) -> None:
    """Refuse a text whose nodes would be too deep or too many, before anything recurses over them."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or number > MAX_EVENTS:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_EVENTS} values"
            raise Refused(Problem("E0103", f"the file is {what}", _mark(event.start_mark)))


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    note = ""
    if error.context and error.context_mark and error.context_mark != mark:
        note = f"{error.context} from {error.context_mark.line + 1}:{error.context_mark.column + 1}"
    remedy = ""
    if "character that cannot start any token" in (error.problem or ""):
        remedy = "indent with spaces, not tabs, and put quotes around a text that begins with a special character"
    return Problem("E0103", f"not YAML: {error.problem}", _mark(mark) if mark else None, remedy, note=note)


def _mark(mark: Any, width: int = 1) -> Place:
    return Place(mark.line + 1, mark.column + 1, width)


def _place(node: Any) -> Place:
    """A collection is marked at its first character, a scalar in full."""
    start, end = node.start_mark, node.end_mark
    one_line = isinstance(node, yaml.ScalarNode) and end.line == start.line
    return _mark(start, max(1, end.column - start.column) if one_line else 1)


class _Tree:
    """PyYAML's nodes to ours."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._visits = 0

    def read(self, node: Any, above: tuple[int, ...]) -> Node:
        """`above` holds the ids of the nodes that contain this one: an alias to one of them would never end."""
        self._visits += 1
        if self._visits > MAX_VISITS:
            raise Refused(Problem("E0103", f"aliases make more than {MAX_VISITS} values of this file", _place(node)))
        if len(above) > MAX_DEPTH:
            raise Refused(Problem("E0103", f"aliases make the file more than {MAX_DEPTH} deep", _place(node)))
        if id(node) in above:
            raise Refused(Problem("E0103", "an alias contains itself", _place(node)))
        if isinstance(node, yaml.ScalarNode):
            return Node(_scalar(node), _place(node), node.value)
        if not node.tag.startswith(_TAG):
            raise Refused(_own_tag(node))
        if isinstance(node, yaml.SequenceNode):
            return Node([self.read(item, (*above, id(node))) for item in node.value], _place(node))
        return Node(self._mapping(node, (*above, id(node))), _place(node))

    def _mapping(self, node: Any, above: tuple[int, ...]) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Refused(Problem("E0103", "a key is a list or a mapping", _place(key), "keys are plain text"))
            if key.tag == _TAG + "merge":
                for name, entry in self._merge(self.read(value, above)):
                    merged.setdefault(name, entry)
                continue
            place = _place(key)
            if key.value in own:
                first = own[key.value].place
                note = f"{first.line}:{first.column} came first"
                self.problems.append(Problem("E0101", f'"{shorten(key.value)}" is written twice', place, note=note,
                                             remedy="delete one"))  # fmt: skip
                continue
            own[key.value] = Entry(place, self.read(value, above))
        return {**merged, **own}

    def _merge(self, node: Node) -> Iterator[tuple[str, Entry]]:
        for source in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(source.value, dict):
                raise Refused(Problem("E0103", f"<< wants a mapping, got {source.kind}", source.place))
            yield from source.value.items()


def _scalar(node: Any) -> bool | int | float | str | None:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" | "float" as kind:
            try:
                if kind == "float":
                    return float(text)
                return int(text, 16 if text.startswith("0x") else 10)
            except ValueError:  # an explicit !!int before something else, or thousands of digits
                raise Refused(Problem("E0103", f'"{shorten(text)}" is no number', _place(node))) from None
        case "str" | "merge":
            return text
        case _:
            raise Refused(_own_tag(node))


def _own_tag(node: Any) -> Problem:
    return Problem("E0103", f"the tag {shorten(node.tag)} is not read", _place(node), "delete it")
