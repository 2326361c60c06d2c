"""One mapping of the file as the table of keys has it: what is in it, what is not known of it, and each key's value.

A part of the table says how a key is read, what stands for a missing one, and which it must have. Where Compose takes
a short form (`build: .` for `build: {context: .}`), the text is read as the key that it stands for.

Next file: `miniorch/appfile/service.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from miniorch.appfile import options
from miniorch.appfile.keys import PARTS, Key, Verdict
from miniorch.appfile.problems import Place
from miniorch.appfile.values import Values
from miniorch.appfile.yaml import Entry, Node, shorten

Reader = Callable[[Values, Node, str, Key], Any]
READERS: Mapping[str, tuple[Reader, Any]] = {  # the table's words, and what holds where neither file nor table say more
    "text": (Values.text, ""), "texts": (Values.texts, ()), "flag": (Values.flag, False), "whole": (Values.whole, 0),
    "choice": (Values.choice, ""), "seconds": (Values.seconds, 0.0), "size": (Values.size, 0),
    "cpus": (Values.cpus, 0.0), "pairs": (Values.pairs, {}), "list": (Values.items, ()),
    "image": (options.image, ""), "memory": (options.memory, 0), "folder": (options.folder, ""),
    "signal": (options.signal_name, ""), "capabilities": (options.capabilities, ()), "hosts": (options.hosts, ()),
    "ulimits": (options.ulimits, {}), "arguments": (options.arguments, None), "platform": (options.platform, ""),
    "attribute": (options.attribute, ""), "resource": (options.resource, ""),
}  # fmt: skip


class Section:
    """One mapping of the file, its keys checked against a part of the table and reported. Missing is empty.

    `path` is for the report ("services.web.build"), `what` for refusals ("service web: build").
    """

    def __init__(self, values: Values, node: Node | None, part: str, path: str, what: str) -> None:
        self.values, self.node, self.path, self.what = values, node, path, what
        self.known = PARTS[part]
        self.entries: dict[str, Entry] = {}
        self.short = ""
        self._problems = len(values.problems)
        if node is None:  # most of what a service may say most services do not say
            return
        if self.known.short and not isinstance(node.value, dict):
            self.short = self.known.short
            self.entries[self.short] = Entry(node.place, node)
            return
        first = next(iter(self.known.values()))
        example = f"{what.rpartition(' ')[2]}: {{{first.name}: {first.example or '...'}}}"
        if not path:
            example = "services: {web: {image: nginx}}"
        for name, entry in values.mapping(node, what, example).items():
            key = self.known.get(name)
            if key is not None:
                self.entries[name] = entry
                if key.verdict is not Verdict.PART:
                    values.report.note(self.path_of(name), key.verdict, key.why, entry.place)
            elif not name.startswith("x-"):
                values.unknown_key(name, entry, what, part)
        for key in self.known.needed if self.sound else ():
            if self.get(key.name) is None:
                values.refuse("E0105", f"{what}: {key.name} is missing", node.place, f"add {key.name}: {key.example}")

    @property
    def sound(self) -> bool:
        """False once something in it was refused: then what is missing, or at odds, is no news."""
        return len(self.values.problems) == self._problems

    def note(self, key: str, verdict: Verdict, why: str, place: Place | None = None) -> None:
        """Another verdict than the table's, because of what stands behind the key."""
        self.values.report.note(self.path_of(key), verdict, why, place or self.entries[key].place)

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def named(self, key: str) -> str:
        return self.what if self.short else f"{self.what}: {key}"

    def get(self, key: str) -> Node | None:
        """A key's node; None for a key that is not there, and for one with nothing behind it, which Compose allows."""
        entry = self.entries.get(key)
        return None if entry is None or (entry.node.value is None and not self.short) else entry.node

    def __getitem__(self, name: str) -> Any:
        """A key's value, read as the table says."""
        key, entry = self.known[name], self.entries.get(name)
        reader, nothing = READERS[key.reader]
        node = entry.node if entry else None
        if node is None or (node.value is None and not self.short):
            if not key.default:
                return nothing
            node = Node(key.default, Place(0, 0), key.default)
        return reader(self.values, node, self.named(name), key)

    def part(self, key: str) -> "Section":
        return self.inner(key, self.get(key))

    def inner(self, key: str, node: Node | None) -> "Section":
        """What is, or stands in a list, behind a key, as a mapping."""
        return Section(self.values, node, self.known[key].takes, self.path_of(key), self.named(key))

    def each(self, key: str) -> Iterator[tuple[str, Place, "Section"]]:
        """The `NAME: {...}` lines behind a key; or, where the table has `names`, of a mere list of them."""
        node, row = self.get(key), self.known[key]
        if row.reader == "names" and node is not None and isinstance(node.value, list):
            for item in self.values.items(node, self.named(key)):
                yield self.values.text(item, self.named(key)), item.place, self.inner(key, None)
            return
        for name, entry in self.values.mapping(node, self.named(key) if self.path else key).items():
            what = f"{self.named(key) if self.path else key[:-1]} {shorten(name)}"
            yield name, entry.place, Section(self.values, entry.node, row.takes, f"{self.path_of(key)}.{name}", what)
