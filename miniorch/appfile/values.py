"""Typed values out of nodes: each reader returns a usable value always, and notes a problem when it had to make one up.

So a file with three mistakes yields three errors and not one. Units: durations in seconds, sizes in bytes.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping

from miniorch.appfile.problems import Place, Problem
from miniorch.appfile.variables import BadVariable, substitute
from miniorch.appfile.yaml import Entry, Node, shorten

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNIT_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Values:
    """Reads nodes; collects problems. `variables` are what `${NAME}` may stand for.

    `advice` says what to do about a key that people will have in their files and that is not read.
    """

    def __init__(self, variables: Mapping[str, str], advice: Mapping[str, str]) -> None:
        self.variables = variables
        self.advice = advice
        self.problems: list[Problem] = []

    def refuse(
        self, code: str, message: str, place: Place | None, remedy: str = "", *, hint: str = "", note: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, place, remedy, hint, note))

    def mapping(self, node: Node | None, what: str, known: Collection[str] | None = None) -> dict[str, Entry]:
        """The entries of a mapping; with `known`, those that are in it, and a problem for each other. None is empty."""
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.refuse("E0104", f"{what} wants a mapping, got {node.kind}", node.place)
            return {}
        if known is None:
            return node.value
        entries = {}
        for key, entry in node.value.items():
            if key in known:
                entries[key] = entry
            elif not key.startswith("x-"):
                self.unknown_key(key, entry.place, what, known)
        return entries

    def unknown_key(self, key: str, place: Place, what: str, known: Collection[str]) -> None:
        if key in self.advice:
            self.refuse("E0102", f'{what}: the key "{key}" is not read', place, self.advice[key])
            return
        near = difflib.get_close_matches(key, sorted(known), 1, 0.7)
        hint = f'did you mean "{near[0]}"?' if near else ""
        remedy = "rename it" if near else f"delete it; read here: {', '.join(known)}"
        self.refuse("E0102", f'{what} has no key "{shorten(key)}"', place, remedy, hint=hint)

    def items(self, node: Node | None, what: str) -> list[Node]:
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.refuse("E0104", f"{what} wants a list, got {node.kind}", node.place)
            return []
        return node.value

    def replaced(self, node: Node) -> str | None:
        """The text of a scalar with its variables replaced; None after a problem."""
        try:
            return substitute(node.text, self.variables) if isinstance(node.value, str) else node.text
        except BadVariable as error:
            self.refuse("E0108", error.message, node.place, error.remedy)
            return None

    def text(self, node: Node, what: str, *, empty: bool = False) -> str:
        """A text; numbers and booleans count as the text that they were written as."""
        if node.value is None or isinstance(node.value, list | dict):
            self.refuse("E0104", f"{what} wants a text, got {node.kind}", node.place)
            return ""
        text = self.replaced(node)
        if text == "" and not empty:
            self.refuse("E0104", f"{what} is empty", node.place)
        if text and "\0" in text:
            self.refuse("E0104", f"{what} holds a zero byte", node.place)
        return text or ""

    def whole(self, node: Node, what: str, least: int, most: int, example: int) -> int:
        """A whole number from `least` to `most`; `least` after a problem."""
        number: int | None = None
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            number = node.value
        elif isinstance(node.value, str) and "$" in node.text:
            text = self.replaced(node)
            if text is None:
                return least
            number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        key = re.split(r"[ .]", what)[-1]
        if number is None:
            self.refuse("E0104", f"{what} wants a whole number, got {node.kind}", node.place, f"{key}: {example}")
            return least
        if not least <= number <= most:
            self.refuse(
                "E0104", f"{what} wants {least} to {most}, got {shorten(str(number))}", node.place, f"{key}: {example}"
            )
            return least
        return number

    def yes_or_no(self, node: Node, what: str) -> bool:
        if not isinstance(node.value, bool):
            self.refuse("E0104", f"{what} wants true or false, got {node.kind}", node.place)
            return False
        return node.value

    def texts(self, node: Node, what: str) -> tuple[str, ...]:
        return tuple(self.text(item, what, empty=True) for item in self.items(node, what))

    def seconds(self, node: Node, what: str) -> float:
        """A duration such as `1m30s`."""
        text = self.text(node, what)
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|h|m|s)", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            if text:
                self.refuse(
                    "E0104", f"{what} wants a duration, got {node.kind}", node.place, "write it like 10s or 1m30s"
                )
            return 0.0
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)

    def size(self, node: Node, what: str) -> int:
        """An amount of memory such as `512M`; units are powers of 1024, as Docker's are."""
        text = self.text(node, what)
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([bkmgt]?)(?:i?b)?", text.lower())
        if match is None:
            if text:
                self.refuse(
                    "E0104", f"{what} wants an amount, got {node.kind}", node.place, "write it like 512M or 1.5G"
                )
            return 0
        return int(float(match[1]) * _UNIT_BYTES[match[2]])

    def cpus(self, node: Node, what: str) -> float:
        text = self.text(node, what)
        if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}", text):
            return float(text)
        if text:
            self.refuse("E0104", f"{what} wants a number of CPUs, got {node.kind}", node.place, 'write it like "0.5"')
        return 0.0

    def pairs(self, node: Node | None, what: str) -> dict[str, str]:
        """`NAME: value` or `- NAME=value`. A name without value is taken from the environment, if it is there."""
        found: dict[str, str] = {}
        for name, value, place in self._raw_pairs(node, what) if node else ():
            if not name:
                self.refuse("E0104", f"{what} has a line without a name", place, "write NAME=value")
            elif name in found:
                self.refuse("E0101", f'"{shorten(name)}" is written twice in {what}', place, "delete one")
            elif value is not None:
                found[name] = value
            elif name in self.variables:
                found[name] = self.variables[name]
        return found

    def _raw_pairs(self, node: Node, what: str) -> Iterator[tuple[str, str | None, Place]]:
        if isinstance(node.value, dict):
            for name, entry in node.value.items():
                nothing = entry.node.value is None
                yield name, None if nothing else self.text(entry.node, f"{what} {name}", empty=True), entry.place
        elif isinstance(node.value, list):
            for item in node.value:
                name, equals, value = self.text(item, what).partition("=")
                yield name, value if equals else None, item.place
        else:
            self.refuse("E0104", f"{what} wants NAME: value lines, got {node.kind}", node.place)
