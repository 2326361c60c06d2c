"""Typed values out of nodes: each reader returns a usable value always, and notes a problem when it had to make one up.

So a file with three mistakes yields three errors and not one. Most readers take a node, the words for where it stands,
and the row of the table (`keys.py`) that says what is allowed there. Units: durations in seconds, sizes in bytes.

Next file: `miniorch/appfile/section.py`.
"""

import difflib
import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from miniorch.appfile.keys import PARTS, Key
from miniorch.appfile.problems import Place, Problem, Report
from miniorch.appfile.variables import BadVariable, read_env_file, substitute
from miniorch.appfile.yaml import Entry, Node, Refused, shorten

PLAIN = Key("")  # what stands behind no key
MAX_VALUES = 200_000  # `extends` and aliases make large files out of small ones
MANY = 20  # problems: no more than ten are shown, so for the others no nearest word is looked for
MOST_SECONDS, MOST_BYTES = 36_000_000.0, 900 << 40
# Parts of a service whose keys are often written into the service itself.
_HOMES = {
    "deploy": "deploy: {%s}", "limits": "deploy: {resources: {limits: {%s}}}", "healthcheck": "healthcheck: {%s}",
    "build": "build: {%s}", "x-miniorch": "x-miniorch: {%s}",
}  # fmt: skip
# Words of one key that stand behind another, and the word for it there.
_SYNONYMS = {
    "always": "any", "unless-stopped": "any", "no": "none", "never": "none", "healthy": "service_healthy",
    "started": "service_started", "completed": "service_completed_successfully",
}  # fmt: skip
_YES, _NO = ("true", "yes", "on", "y"), ("false", "no", "off", "n")  # Compose takes them all
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNIT_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|us|ns|h|m|s)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([bkmgt]?)(?:i?b)?")


class Values:
    """Reads nodes; collects problems and the import report. `variables` are what `${NAME}` may stand for."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        # A shell may hand over bytes that are no text; nothing after this could write them anywhere.
        self.variables = {name: value.encode(errors="replace").decode() for name, value in variables.items()}
        self.problems: list[Problem] = []
        self.folders: dict[str, Path] = {}  # file -> where its relative paths start from
        self.report = Report()
        self._values = 0

    def refuse(
        self, code: str, message: str, place: Place | None, remedy: str = "", *, hint: str = "", note: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, place, remedy, hint, note))

    def wrong(self, what: str, wanted: str, node: Node, remedy: str) -> None:
        """The usual refusal: what was wanted, and what is there."""
        self.refuse("E0104", f"{what} wants {wanted}, got {node.kind}", node.place, remedy)

    def misfit(self, what: str, wanted: str, text: str, place: Place, remedy: str) -> None:
        """The same of a text, or of a piece of one."""
        self.refuse("E0104", f'{what} wants {wanted}, got "{shorten(text)}"', place, remedy)

    def count(self, place: Place, values: int) -> None:
        """Raises `Refused` when the file has become too large."""
        self._values += values
        if self._values > MAX_VALUES:
            raise Refused(f"the file comes to more than {MAX_VALUES} values", place, "split it into several apps")

    def env_file(self, path: Path, note: str = "") -> dict[str, str]:
        """What a file of variables sets. Its lines are not shown, as they may hold passwords."""
        try:
            return read_env_file(path, self.variables)
        except BadVariable as error:
            self.refuse("E0108", error.message, Place(error.line, 1, 1, from_here(path)), error.remedy, note=note)
            return {}

    def path(self, name: str, place: Place) -> Path:
        """What a name in a file means. Files of one `-f` list share the first one's folder."""
        return self.folders[place.file] / os.path.expanduser(name)

    def mapping(self, node: Node | None, what: str, remedy: str = "NAME: {}") -> dict[str, Entry]:
        """The entries of a mapping. None, or nothing behind the key, is empty."""
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            if isinstance(node.value, str) and (stuck := re.fullmatch(r"([a-z_]+):([^\s/]+)", node.text)):
                remedy = f"write a space behind the colon: {stuck[1]}: {stuck[2]}"
            self.wrong(what, "a mapping", node, remedy)
            return {}
        self.count(node.place, len(node.value))
        return node.value

    def unknown_key(self, key: str, entry: Entry, what: str, part: str) -> None:
        known = PARTS[part]
        spelt = [] if len(self.problems) > MANY else _near(key.lower().replace("-", "_"), known, 0.7)
        shown = f"{key}: {shorten(entry.node.text) or '...'}"
        if part == "service" and (home := next((home for home in _HOMES if key in PARTS[home]), "")):
            hint, remedy = f'it belongs below "{home}"', _HOMES[home] % shown
        elif part == "service" and key in PARTS["file"]:
            hint, remedy = "it belongs beside services", f"delete it here, write {key}: at the left edge"
        elif part == "file" and key in PARTS["service"] and key not in PARTS["file"]:
            hint, remedy = "it belongs below a service", f"delete it here, write it below one: web: {{{shown}}}"
        elif spelt:
            hint, remedy = f'did you mean "{spelt[0]}"?', f'write "{spelt[0]}:" instead'
        else:
            some = ", ".join(list(known)[:12]) + (" ..." if len(known) > 12 else "")
            hint, remedy = "", f"delete it; known here: {some}"
        self.refuse("E0102", f'{what} has no key "{shorten(key)}"', entry.place, remedy, hint=hint)

    def replaced(self, node: Node) -> str | None:
        """The text of a scalar with its variables replaced; None after a problem."""
        if not isinstance(node.value, str) or "$" not in node.text:
            return node.text
        try:
            return substitute(node.text, self.variables)
        except BadVariable as error:
            self.refuse("E0108", error.message, node.place, error.remedy, hint="a dollar itself is written $$")
            return None

    def text(self, node: Node, what: str, key: Key = PLAIN, *, empty: bool = False) -> str:
        """A text; numbers and booleans count as the text that they were written as."""
        remedy = f"{_last_word(what)}: {key.example or 'some text'}"
        if node.value is None or isinstance(node.value, list | dict):
            self.wrong(what, "a text", node, remedy)
            return ""
        text = self.replaced(node)
        if text == "" and not empty:
            self.refuse("E0104", f"{what} is empty and wants a text", node.place, remedy)
        if text and "\0" in text:
            self.refuse("E0104", f"{what} holds a zero byte", node.place, "delete the zero byte")
            return ""
        return text or ""

    def whole(self, node: Node, what: str, key: Key) -> int:
        """A whole number in a range; the least one after a problem."""
        least, most = map(int, key.takes.split(".."))
        text = None if isinstance(node.value, bool | float | list | dict | None) else self.replaced(node)
        remedy = f"{_last_word(what)}: {key.example}"
        if text is None or not re.fullmatch(r"[-+]?[0-9]{1,18}", text):
            if not self.problems or self.problems[-1].place != node.place:  # else its variable was refused
                self.wrong(what, "a whole number", node, remedy)
            return least
        if not least <= int(text) <= most:
            self.refuse("E0104", f"{what} wants {least} to {most}, got {text}", node.place, remedy)
            return least
        return int(text)

    def flag(self, node: Node, what: str, key: Key = PLAIN) -> bool:
        text = None if isinstance(node.value, list | dict | None) else self.replaced(node)
        if text is None or text.lower() not in (*_YES, *_NO):
            self.wrong(what, "true or false", node, f"{_last_word(what)}: {'true' if text == '1' else 'false'}")
            return False
        return text.lower() in _YES

    def choice(self, node: Node, what: str, key: Key) -> str:
        """One of a few words."""
        text, choices = self.text(node, what, key), key.takes.split()
        if text and text not in choices:
            near = [word] if (word := _SYNONYMS.get(text.lower())) in choices else _near(text, choices, 0.5)
            self.misfit(what, " or ".join(choices), text, node.place, f"{key.name}: {(near or choices)[0]}")
        return text if text in choices else key.default

    def items(self, node: Node, what: str, key: Key = PLAIN) -> list[Node]:
        if not isinstance(node.value, list):
            self.wrong(what, "a list", node, _as_list(what, node))
            return []
        self.count(node.place, len(node.value))
        return node.value

    def texts(self, node: Node, what: str, key: Key = PLAIN) -> tuple[str, ...]:
        """A list of texts; a single text counts as a list of one."""
        if isinstance(node.value, str):
            return (self.text(node, what),)
        return tuple(self.text(item, what, empty=True) for item in self.items(node, what))

    def seconds(self, node: Node, what: str, key: Key = PLAIN) -> float:
        """A duration such as `1m30s`."""
        text = self.text(node, what, key)
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            if text:
                right = f"{text}s" if re.fullmatch("[0-9]{1,6}", text) else "1m30s"
                self.wrong(what, "a duration", node, f"{_last_word(what)}: {right}")
            return 0.0
        total = round(sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts), 9)
        if total > MOST_SECONDS:
            self.wrong(what, "a duration of at most 10000h", node, f"{_last_word(what)}: 1m30s")
        if total == 0 and key.takes == "> 0":
            self.wrong(what, "more than 0 seconds", node, f"{key.name}: 5s")
        return min(total, MOST_SECONDS)

    def size(self, node: Node, what: str, key: Key = PLAIN) -> int:
        """An amount of memory such as `512M`; units are powers of 1024, as Docker's are."""
        text = self.text(node, what, key)
        match = _SIZE.fullmatch(text.lower())
        if match is None:
            if text:
                self.wrong(what, "an amount of memory", node, f"{_last_word(what)}: 512M")
            return 0
        total = int(float(match[1]) * _UNIT_BYTES[match[2]])
        if total > MOST_BYTES:
            self.wrong(what, "an amount of at most 900t", node, f"{_last_word(what)}: 512M")
        return min(total, MOST_BYTES)

    def cpus(self, node: Node, what: str, key: Key = PLAIN) -> float:
        text = self.text(node, what, key)
        if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}", text):
            return float(text)
        if text:
            self.wrong(what, "a number of CPUs", node, f'{_last_word(what)}: "0.5"')
        return 0.0

    def pairs(self, node: Node, what: str, key: Key = PLAIN) -> dict[str, str]:
        """`NAME: value` or `- NAME=value`. A name without value is taken from the environment, if it is there."""
        return {name: value for name, (value, _) in self.placed_pairs(node, what).items()}

    def placed_pairs(self, node: Node, what: str) -> dict[str, tuple[str, Place]]:
        """The same, and where each stands."""
        found: dict[str, tuple[str, Place]] = {}
        places: dict[str, Place] = {}
        for name, value, place in self.raw_pairs(node, what):
            value = self.variables.get(name) if value is None else value
            if not name:
                self.refuse("E0104", f"{what} has a line without a name", place, "write NAME=value")
            elif (first := places.setdefault(name, place)) is not place:
                message, note = f'"{shorten(name)}" is written twice in {what}', f"{first} came first"
                self.refuse("E0101", message, place, "delete one of the two", note=note)
            elif value is not None:
                found[name] = value, place
        return found

    def raw_pairs(self, node: Node, what: str) -> Iterator[tuple[str, str | None, Place]]:
        if isinstance(node.value, list):
            for item in self.items(node, what):
                if isinstance(item.value, dict):
                    name, entry = next(iter(item.value.items()), ("NAME", None))
                    value = entry.node.text if entry else ""
                    self.wrong(what, "NAME=value", item, f"write {shorten(name)}={shorten(value) or 'value'}")
                    continue
                name, equals, value = self.text(item, what).partition("=")
                if equals and name != name.rstrip():
                    right = f"write {shorten(name)}={shorten(value)}"
                    self.wrong(what, "NAME=value without a blank before the =", item, right)
                yield name, value if equals else None, item.place
        elif isinstance(node.value, dict):
            for name, entry in self.mapping(node, what).items():
                nothing = entry.node.value is None
                yield name, None if nothing else self.text(entry.node, f"{what} {name}", empty=True), entry.place
        else:
            self.wrong(what, "NAME: value lines", node, _as_list(what, node))


def _as_list(what: str, node: Node) -> str:
    """The remedy for a value that should be a list."""
    one = "{...}" if isinstance(node.value, dict) else node.text if ":" not in node.text else f'"{node.text}"'
    return f"{_last_word(what)}: [{shorten(one)}]"


def from_here(path: str | Path) -> str:
    """A path as one would type it in this folder."""
    return min(str(path), os.path.relpath(path), key=len)


def as_label(text: str) -> str:
    """A name that is made of another text: `My App` is `my-app`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "app"


def label_remedy(text: str) -> str:
    return f"write {as_label(text)}: names have lower-case letters, digits and -, at most 40"


def name_remedy(name: str, known: Collection[str], without: str) -> str:
    """The remedy for a name that nothing has; `without` is the one that would name itself."""
    first = [one for one in itertools.islice(known, 300) if one != without]
    near = first if len(first) == 1 else _near(name, first, 0.5)
    return f"write {near[0]}" if near else f"write one of: {shorten(', '.join(first), 200)}" if first else "delete it"


def _near(word: str, known: Collection[str], likeness: float) -> list[str]:
    return difflib.get_close_matches(word[:100], known, 1, likeness)


def _last_word(what: str) -> str:
    return what.replace(".", " ").rpartition(" ")[2]
