"""Where a service can be reached, and what it keeps: `ports`, `volumes`, `tmpfs`, `secrets` and `configs`.

All of them are written short ("5000:5000", "data:/data") or long (a mapping). A published port is one listener on every
node; a named volume is a folder that stays on one node; a path is mounted from the node where the task happens to run.
Next file: `miniorch/appfile/options.py`.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from miniorch.appfile.keys import Verdict
from miniorch.appfile.problems import Place
from miniorch.appfile.values import Section, Values, from_here
from miniorch.appfile.yaml import Node, shorten
from miniorch.spec import NAME, Mount, Port

RANGE_LIMIT = 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY = ("", "0.0.0.0", "::")
_PORT = re.compile(
    r"(?:(?P<host>[^:]*|\[[^]]*]):)?(?:(?P<published>[0-9-]*):)?(?P<target>[0-9-]+)(?:/(?P<protocol>\w+))?"
)


class Places:
    """Reads ports and mounts of all services; a port or a declared volume is the whole file's business.

    `declared` are the app's volumes so far; `files` the secrets and configs, name -> path, "" for what is no file;
    `implicit` says that a volume needs no declaration (Compose version 1).
    """

    def __init__(
        self,
        values: Values,
        declared: set[str],
        files: Mapping[tuple[str, str], str],
        folder_of: "FolderOf",
        *,
        implicit: bool,
    ) -> None:
        self.values = values
        self.declared = declared
        self._implicit = implicit
        self._files = files
        self._folder_of = folder_of
        self._published: dict[int, Place] = {}

    # --- ports -------------------------------------------------------------------------------------------------------

    def ports(self, keys: Section) -> tuple[Port, ...]:
        found = []
        for item in keys.items("ports"):
            for port in self._long_port(item, keys) if isinstance(item.value, dict) else self._short_port(item, keys):
                first = self._published.get(port.published)
                if first is not None:
                    message = f"{keys.what} publishes port {port.published} a second time"
                    near = range(port.published + 1, port.published + 100)
                    free = next((number for number in near if number not in self._published), 5000)
                    remedy, note = f'"{free}:{port.target}"', f"{first} publishes it, too"
                    if first == item.place:  # by a merge key, or by `extends`
                        remedy = f"write below {keys.what}: ports: !override [{remedy}]"
                        note = f"{first} stands in another service, too"
                    self.values.refuse("E0107", message, item.place, remedy, note=note)
                self._published.setdefault(port.published, item.place)
                found.append(port)
        return tuple(found)

    def _short_port(self, node: Node, keys: Section) -> Iterator[Port]:
        what = keys.named("ports")
        text = self.values.text(node, what)
        match = _PORT.fullmatch(text)
        if not text:
            return
        if match is None:
            host, published, targets, numbers = "", "", [], []
        else:
            host, published, targets = match["host"] or "", match["published"] or "", _range(match["target"])
            if match["published"] is None and host:  # "8080:80": what the pattern took for an address is a port
                host, published = "", host
            numbers = _range(published) if published else targets
        if match is None or not targets or not numbers:
            wanted = "published:target, each between 1 and 65535"
            self.values.refuse("E0104", f'{what} wants {wanted}, got "{shorten(text)}"', node.place, '"5000:5000"')
            return
        if len(numbers) != len(targets):
            most = min(len(numbers), len(targets)) - 1
            both = f'"{numbers[0]}-{numbers[most]}:{targets[0]}-{targets[most]}"'
            message = f'{what} wants two ranges of one length, got "{shorten(text)}"'
            self.values.refuse("E0104", message, node.place, both)
            return
        yield from self._checked(node, keys, numbers, targets, host, match["protocol"] or "tcp", not published)

    def _long_port(self, node: Node, keys: Section) -> Iterator[Port]:
        part = Section(self.values, node, "port", f"{keys.path}.ports", keys.named("ports"))
        if part.get("target") is None:
            if part.sound:
                self.values.refuse("E0105", f"{part.what}: target is missing", node.place, "add target: 5000")
            return
        target = part.whole("target", 1, 1, 65535, 5000)
        published, given = part.text("published") or str(target), part.get("published")
        numbers = _range(published)
        if len(numbers) != 1:
            message = f'{part.named("published")} wants a port between 1 and 65535, got "{shorten(published)}"'
            self.values.refuse("E0104", message, (given or node).place, "published: 5000")
        host, protocol = part.text("host_ip"), part.choice("protocol", ("tcp", "udp"), "tcp")
        if part.sound:
            yield from self._checked(node, keys, numbers, [target], host, protocol, given is None)

    def _checked(
        self, node: Node, keys: Section, published: list[int], targets: list[int], host: str, protocol: str, same: bool
    ) -> Iterator[Port]:
        what = keys.named("ports")
        host = host.strip("[]")
        if protocol == "udp":
            keys.note(
                "ports", Verdict.IGNORED, "only TCP ports are published; within the app every port is", node.place
            )
            return
        if protocol != "tcp":
            remedy = f'"{published[0]}:{targets[0]}/tcp"'
            self.values.refuse("E0104", f'{what} wants tcp or udp, got "{shorten(protocol)}"', node.place, remedy)
            return
        if host not in (*LOOPBACK, *EVERY):
            message = f"{what} wants all addresses or 127.0.0.1, got {shorten(host)}"
            remedy = f'"127.0.0.1:{published[0]}:{targets[0]}"'
            self.values.refuse("E0104", message, node.place, remedy)
            return
        if same:
            keys.note("ports", Verdict.APPROXIMATED, "published under its own number", node.place)
        for number, target in zip(published, targets, strict=True):
            yield Port(number, target, host in LOOPBACK)

    # --- mounts ------------------------------------------------------------------------------------------------------

    def mounts(self, keys: Section) -> tuple[tuple[Mount, ...], dict[str, str]]:
        """What is mounted, and the places in memory (`tmpfs`) with their options."""
        mounts: list[Mount] = []
        self._targets: dict[str, Place] = {}
        memory = {place: options for text in keys.texts("tmpfs") for place, _, options in [text.partition(":")]}
        node = keys.get("tmpfs")
        if node is not None:
            for target in memory:
                self._checked_target(target, node.place, keys.named("tmpfs"), "tmpfs: /tmp")
        for item in keys.items("volumes"):
            read = self._long_mount if isinstance(item.value, dict) else self._short_mount
            mount = read(item, keys)
            if isinstance(mount, str):
                self._checked_target(mount, item.place, keys.named("volumes"), "target: /tmp")
                memory[mount] = ""
            elif mount is not None:
                self._add(mounts, mount, item.place, keys)
        for kind, prefix in (("secrets", "/run/secrets/"), ("configs", "/")):
            for item in keys.items(kind):
                file = self._file(item, keys, kind, prefix)
                if file is not None:
                    self._add(mounts, file, item.place, keys)
        return tuple(mounts), memory

    def _add(self, mounts: list[Mount], mount: Mount, place: Place, keys: Section) -> None:
        name, first = mount.volume, self._targets.setdefault(mount.target, place)
        example = f"{name or mount.host_path}:/{mount.target.strip('/').replace(':', '-')}"
        if not self._checked_target(mount.target, place, keys.named("volumes"), example):
            pass
        elif "{{" in f"{name}{mount.host_path}":
            message = f'{keys.named("volumes")} are the same for all tasks, got "{shorten(name or mount.host_path)}"'
            self.values.refuse("E0104", message, place, "write it without {{...}}: a program has MINIORCH_SLOT")
        elif ":" in mount.host_path:
            message = f'{keys.named("volumes")} wants a path without a colon, got "{shorten(mount.host_path)}"'
            self.values.refuse("E0104", message, place, "give that folder another name")
        elif first is not place:
            message, note = f"{keys.what} mounts {shorten(mount.target)} twice", f"{first} came first"
            self.values.refuse("E0107", message, place, "delete one of the two", note=note)
        elif name and not NAME.fullmatch(name):
            if name not in self.declared:
                refuse_name(self.values, "volume", name, place)
        elif name and name not in self.declared:
            if not self._implicit:
                message = f"{keys.what} uses the volume {shorten(name)}, which the file does not declare"
                self.values.refuse("E0106", message, place, f"add at the end: volumes: {{{name}: }}")
            self.declared.add(name)
        mounts.append(mount)

    def _checked_target(self, target: str, place: Place, what: str, example: str) -> bool:
        """Whether a path can be a place in a container. Docker's notation leaves no room for a colon in it."""
        if target.startswith("/") and ":" not in target:
            return True
        kind = "a path without a colon" if target.startswith("/") else "an absolute path in the container"
        self.values.refuse("E0104", f'{what} wants {kind}, got "{shorten(target)}"', place, example)
        return False

    def _short_mount(self, node: Node, keys: Section) -> Mount | None:
        what = keys.named("volumes")
        text = self.values.text(node, what)
        source, *rest = text.split(":")
        if not text:
            return None
        if not rest:
            return self._anonymous(source, node, keys)
        modes = rest[1].split(",") if len(rest) > 1 else []
        if re.match(r"[A-Za-z]:(\\|/[^:]*:/)", text):
            last = rest[0].replace("\\", "/").rpartition("/")[2]
            remedy = f"./{last or 'data'}:{(rest[1:] or ['/data'])[0]}"
            self.values.refuse("E0104", f'{what} wants a path of Linux, got "{shorten(text)}"', node.place, remedy)
            return None
        if len(rest) > 2 or not source or not rest[0]:
            remedy = f"{source or 'data'}:/{(rest[0] or 'data').lstrip('/')}"
            self.values.refuse("E0104", f'{what} wants name:/path, got "{shorten(text)}"', node.place, remedy)
            return None
        others = [mode for mode in modes if mode not in ("ro", "rw")]
        if others:
            why = f"{', '.join(others)[:40]}: only ro and rw mean something here"
            keys.note("volumes", Verdict.APPROXIMATED, why, node.place)
        return self._mount(source, rest[0], "ro" in modes, node, keys)

    def _mount(self, source: str, target: str, read_only: bool, node: Node, keys: Section) -> Mount:
        if source.startswith(("/", ".", "~")):
            path = os.path.normpath(self._folder_of(node.place) / os.path.expanduser(source))
            why, there = "mounted from the machine where the task runs", os.path.exists(path)
            if not there and source.startswith("/"):  # a node other than this one may have it
                why += ", and not there on this one"
            elif not there and ":" not in path:
                words = "write" if os.path.splitext(path)[1] else "mkdir -p"  # Docker would make a folder nginx.conf
                message = f"{keys.what} mounts {shorten(source, 80)}, which is not there"
                self.values.refuse("E0109", message, node.place, f"{words} {shlex.quote(from_here(path))}")
            keys.note("volumes", Verdict.APPROXIMATED, why, node.place)
            return Mount("", target, read_only, path)
        return Mount(source, target, read_only)

    def _anonymous(self, target: str, node: Node, keys: Section) -> Mount:
        service = keys.path.rsplit(".", 1)[-1]
        name = re.sub(r"[^a-z0-9]+", "-", f"{service}{target}".lower()).strip("-")
        if len(name) > 40 or name in self.declared:
            name = f"{name[:31].rstrip('-')}-{hashlib.sha256(target.encode()).hexdigest()[:8]}"
        if target.startswith("/"):
            keys.note("volumes", Verdict.APPROXIMATED, f"kept as the named volume {name}", node.place)
            self.declared.add(name)
        return Mount(name, target)

    def _long_mount(self, node: Node, keys: Section) -> Mount | str | None:
        """A mount; the place in the container for a tmpfs."""
        part = Section(self.values, node, "mount", f"{keys.path}.volumes", keys.named("volumes"))
        kind = part.choice("type", ("volume", "bind", "tmpfs"), "volume")
        target, source = part.text("target"), part.text("source")
        if not part.sound:
            return None
        if not target:
            self.values.refuse("E0105", f"{part.what}: target is missing", node.place, "add target: /data")
        elif kind == "tmpfs":
            return target
        elif not source and kind == "bind":
            self.values.refuse("E0105", f"{part.what}: source is missing", node.place, "add source: ./folder")
        elif not source:
            return self._anonymous(target, node, keys)
        elif kind == "bind" and not source.startswith(("/", ".", "~")):
            return self._mount(f"./{source}", target, part.flag("read_only"), node, keys)
        elif kind == "volume" and not NAME.fullmatch(source):
            refuse_name(self.values, "volume", source, node.place)
        else:
            return self._mount(source, target, part.flag("read_only"), node, keys)
        return None

    def _file(self, node: Node, keys: Section, kind: str, prefix: str) -> Mount | None:
        """A secret or config: a file of this machine, read-only."""
        if isinstance(node.value, dict):
            part = Section(self.values, node, "file reference", f"{keys.path}.{kind}", keys.named(kind))
            name, target = part.text("source"), part.text("target")
        else:
            name, target = self.values.text(node, keys.named(kind)), ""
        path = self._files.get((kind, name))
        if path is None:
            if name:
                message = f"{keys.what} uses the {kind[:-1]} {shorten(name)}, which the file does not declare"
                remedy = f"add at the end: {kind}: {{{name}: {{file: ./{name}.txt}}}}"
                self.values.refuse("E0106", message, node.place, remedy)
            return None
        if not path:
            keys.note(kind, Verdict.IGNORED, f"{name} is no file of this machine", node.place)
            return None
        target = target or name
        return Mount("", target if target.startswith("/") else prefix + target, True, path)


class FolderOf:
    """The folder that relative paths in a file start from. Files of one `-f` list share the first one's folder."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def __call__(self, place: Place) -> Path:
        return self._folders[place.file]


def refuse_name(values: Values, kind: str, name: str, place: Place) -> None:
    better = re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-_.")[:40].strip("-_.") or "data"
    remedy = f"write {better}: names have lower-case letters, digits, -, _ and ., at most 40"
    values.refuse("E0104", f'the {kind} name "{shorten(name)}" cannot be used', place, remedy)


def _range(text: str) -> list[int]:
    """`80` and `8000-8005` as numbers; empty for anything else, and for ports that do not exist."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        return []
    first, last = int(match[1]), int(match[2] or match[1])
    return list(range(first, last + 1)) if 0 < first <= last < 65536 and last - first < RANGE_LIMIT else []
