"""YAML with positions, and without its traps.

The problem: PyYAML forgets where a value stood, lets a second `image:` silently win, reads `22:22` as the number 1342
and `on` as true, and its fast parser kills the whole process on a file of 200,000 brackets. The idea: take only its
parser. First pass: count events, which do not recurse, and refuse what is deep or large. Second pass: compose nodes and
turn them into our own small tree, `Node`, which remembers its place and the text as it was written.

Who does this for real: every serious linter of YAML keeps a tree with marks. Where we differ: scalars follow YAML 1.2
(`yes` and `022` are text), aliases and merge keys (`<<`) are read; of tags only Compose's `!reset` and `!override`.
Next file: `miniorch/appfile/merge.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
RESET, OVERRIDE = "!reset", "!override"  # Compose's: what they stand before takes the place of the file's below

_SYNTAX = [re.split("  +", line) for line in Path(__file__).with_name("syntax.txt").read_text().splitlines()[1:]]


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_first))


class Refused(Exception):
    """The text cannot be read as YAML at all, or comes to too much."""

    def __init__(
        self, message: str, place: Place | None = None, remedy: str = "", *, code: str = "E0103", note: str = ""
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, message, place, remedy, note=note)


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place. `text` is a scalar as it was written: `1.10` is still `1.10`."""

    value: bool | int | float | str | list[Node] | dict[str, Entry] | None
    place: Place
    text: str = ""
    tag: str = ""

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


def parse(text: str, file: str = "") -> tuple[Node, list[Problem]]:
    """The tree of a YAML (or JSON) text, and the keys that are written twice. Raises `Refused`."""
    try:
        _measure(text, file)
        loader = _Loader(text)
        try:
            if not loader.check_node():
                remedy = "services: {web: {image: nginx}}"
                raise Refused("the file is empty", Place(0, 0, 1, file), remedy, code="E0100")
            root = loader.get_node()
            if loader.check_node():
                raise Refused("a second document begins here", _place(loader.get_node(), file), "delete one of the two")
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, file) from None
    except yaml.reader.ReaderError as error:
        before = text.encode()[: error.position].decode(errors="ignore")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"), 1, file)
        raise Refused(f"not YAML: the character U+{error.character:04X} is not allowed", place, "delete it") from None
    except yaml.YAMLError as error:
        raise Refused(f"not YAML: {shorten(str(error), 80)}") from None
    tree = _Tree(file)
    return tree.read(root, ()), tree.problems


def _measure(text: str, file: str) -> None:
    """Refuse a text whose nodes would be too deep or too many, before anything recurses over them."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or number > MAX_EVENTS:
            what = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_EVENTS} values"
            raise Refused(f"the file is {what}", _mark(event.start_mark, file), "split it into several apps")


def _syntax(error: yaml.MarkedYAMLError, text: str, file: str) -> Refused:
    lines = text.splitlines() or [""]
    place, note = _mark(error.problem_mark or error.context_mark, file), ""
    began = _mark(error.context_mark, file) if error.context and error.context_mark else place
    if error.context and began != place:
        thing = re.sub("^while [a-z]+ an? ", "", error.context)
        note = f"{began} came first" if thing == error.context else f"{began} is where the {thing} begins"
    if place.line > len(lines):  # found at the end, where nothing is to be seen: shown behind the last letter
        line = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), 1)
        place = Place(line, len(lines[line - 1].rstrip()) + 1, 1, file)
    words, before, at = f"{error.context}: {error.problem}", lines[place.line - 1][: place.column - 1], place.column - 1
    if "values are not allowed" in words and ":" not in before:
        words = "expected key"  # said of a line that is indented too far, too
    near = words.startswith(("expected key", "while scanning a simple key"))
    for number in (place.line, place.line - 1) if near else ():
        if stuck := re.match(r"( *(?:- )?)([a-z_]+):([^\s/:]+)$", lines[number - 1] if number else ""):
            right = f"write {stuck[2]}: {shorten(stuck[3])}"
            colon = Place(number, stuck.end(2) + 1, 1, file)
            return Refused("not YAML: a blank is missing behind a colon", colon, right)
    unknown = str(error.problem), "put texts with special characters in quotes"
    what, remedy = next((one[1:] for one in _SYNTAX if one[0] in words), unknown)
    if "tab character" in words or lines[place.line - 1][at : at + 1] == "\t":
        what, remedy = "a line is indented with a tab", "indent it with spaces"
    return Refused(f"not YAML: {what}", place, remedy, note=note)


def _mark(mark: Any, file: str, width: int = 1) -> Place:
    return Place(mark.line + 1, mark.column + 1, width, file)


def _place(node: Any, file: str) -> Place:
    """A collection is marked at its first character, a scalar in full."""
    start, end = node.start_mark, node.end_mark
    one_line = isinstance(node, yaml.ScalarNode) and end.line == start.line
    return _mark(start, file, max(1, end.column - start.column) if one_line else 1)


class _Tree:
    """PyYAML's nodes to ours."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._visits = 0

    def read(self, node: Any, above: tuple[int, ...]) -> Node:
        """`above` holds the ids of the nodes that contain this one: an alias to one of them would never end."""
        self._visits += 1
        if self._visits > MAX_VISITS:
            raise self._refused(node, f"aliases make more than {MAX_VISITS} values of this file", "use fewer aliases")
        if len(above) > MAX_DEPTH:
            raise self._refused(node, f"aliases make the file more than {MAX_DEPTH} deep", "use fewer aliases")
        if id(node) in above:
            raise self._refused(node, "an alias contains itself", "write the value out: {image: x}")
        place = _place(node, self._file)
        tag = node.tag if node.tag in (RESET, OVERRIDE) else ""
        if tag == RESET:  # nothing, whatever it stands before, and also where nothing is below it
            return Node(None, place, "", tag)
        if isinstance(node, yaml.ScalarNode):
            return Node(node.value or None if tag else self._scalar(node), place, node.value, tag)
        if not tag and not node.tag.startswith(_TAG):
            self._own_tag(node)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.read(item, (*above, id(node))) for item in node.value], place, "", tag)
        return Node(self._mapping(node, (*above, id(node))), place, "", tag)

    def _mapping(self, node: Any, above: tuple[int, ...]) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._note(key, "a key is a list or a mapping", "delete it, keys are texts")
                continue
            if key.tag == _TAG + "merge":
                for name, entry in self._merge(self.read(value, above)):
                    merged.setdefault(name, entry)
                continue
            if "\0" in key.value:
                self._note(key, "a key holds a zero byte", "delete the zero byte")
                continue
            place = _place(key, self._file)
            if key.value in own:
                note = f"{own[key.value].place} came first"
                what = f'"{shorten(key.value)}" is written twice'
                self.problems.append(Problem("E0101", what, place, "delete one of the two", note=note))
                continue
            own[key.value] = Entry(place, self.read(value, above))
        return {**merged, **own}

    def _merge(self, node: Node) -> Iterator[tuple[str, Entry]]:
        for source in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(source.value, dict):
                message = f"<< wants a mapping, got {source.kind}"
                self.problems.append(Problem("E0103", message, source.place, "delete the line with <<"))
            else:
                yield from source.value.items()

    def _scalar(self, node: Any) -> bool | int | float | str | None:
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
                    raise self._refused(node, f'"{shorten(text)}" is no number', "put it in quotes") from None
            case "str" | "merge":
                return text
            case _:
                self._own_tag(node)
                return text

    def _own_tag(self, node: Any) -> None:
        self._note(node, f"the tag {shorten(node.tag)} is not read", "delete the tag")

    def _note(self, node: Any, message: str, remedy: str) -> None:
        self.problems.append(self._refused(node, message, remedy).problem)

    def _refused(self, node: Any, message: str, remedy: str) -> Refused:
        return Refused(message, _place(node, self._file), remedy)
