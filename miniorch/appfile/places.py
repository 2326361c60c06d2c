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
from dataclasses import dataclass, field

from miniorch.appfile.keys import Verdict
from miniorch.appfile.problems import Place
from miniorch.appfile.section import Section
from miniorch.appfile.values import Values, from_here
from miniorch.appfile.yaml import Node, shorten
from miniorch.spec import NAME, Mount, Port

RANGE_LIMIT = 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY = ("", "0.0.0.0", "::")
_PORT = re.compile(
    r"(?:(?P<host>[^:]*|\[[^]]*]):)?(?:(?P<published>[0-9-]*):)?(?P<target>[0-9-]+)(?:/(?P<protocol>\w+))?"
)


@dataclass(slots=True)
class Places:
    """Reads ports and mounts of all services; a port or a declared volume is the whole file's business.

    `declared` are the app's volumes so far; `files` the secrets and configs, name -> path, "" for what is no file;
    `implicit` says that a volume needs no declaration (Compose version 1).
    """

    values: Values
    declared: set[str]
    files: Mapping[tuple[str, str], str]
    implicit: bool
    published: dict[int, Place] = field(default_factory=dict)
    targets: dict[str, Place] = field(default_factory=dict)  # of one service's mounts

    # --- ports -------------------------------------------------------------------------------------------------------

    def ports(self, keys: Section) -> tuple[Port, ...]:
        found = []
        for item in keys["ports"]:
            for port in self._long_port(item, keys) if isinstance(item.value, dict) else self._short_port(item, keys):
                first = self.published.get(port.published)
                if first is not None:
                    message = f"{keys.what} publishes port {port.published} a second time"
                    near = range(port.published + 1, port.published + 100)
                    free = next((number for number in near if number not in self.published), 5000)
                    remedy, note = f'"{free}:{port.target}"', f"{first} publishes it, too"
                    if first == item.place:  # by a merge key, or by `extends`
                        remedy = f"write below {keys.what}: ports: !override [{remedy}]"
                        note = f"{first} stands in another service, too"
                    self.values.refuse("E0107", message, item.place, remedy, note=note)
                self.published.setdefault(port.published, item.place)
                found.append(port)
        return tuple(found)

    def _short_port(self, node: Node, keys: Section) -> Iterator[Port]:
        text = self.values.text(node, keys.named("ports"))
        host, published, target, protocol = match.groups("") if (match := _PORT.fullmatch(text)) else ("",) * 4
        if match and match["published"] is None and host:  # "8080:80": what the pattern took for an address is a port
            host, published = "", host
        targets = _range(target)
        numbers = _range(published) if published else targets
        if not targets or not numbers:
            wanted = "published:target, each between 1 and 65535"
            if text:
                self.values.misfit(keys.named("ports"), wanted, text, node.place, '"5000:5000"')
        elif len(numbers) != len(targets):
            most = min(len(numbers), len(targets)) - 1
            both = f'"{numbers[0]}-{numbers[most]}:{targets[0]}-{targets[most]}"'
            self.values.misfit(keys.named("ports"), "two ranges of one length", text, node.place, both)
        elif self._is_ours(node, keys, f"{numbers[0]}:{targets[0]}", host, protocol or "tcp", not published):
            for number, own in zip(numbers, targets, strict=True):
                yield Port(number, own, host.strip("[]") in LOOPBACK)

    def _long_port(self, node: Node, keys: Section) -> Iterator[Port]:
        part = keys.inner("ports", node)
        if part.get("target") is None:
            return
        target, host, protocol = part["target"], part["host_ip"], part["protocol"]
        published, given = part["published"] or str(target), part.get("published")
        numbers = _range(published)
        if len(numbers) != 1:
            what, place = part.named("published"), (given or node).place
            self.values.misfit(what, "a port between 1 and 65535", published, place, "published: 5000")
        if part.sound and self._is_ours(node, keys, f"{published}:{target}", host, protocol, given is None):
            yield Port(numbers[0], target, host.strip("[]") in LOOPBACK)

    def _is_ours(self, node: Node, keys: Section, both: str, host: str, protocol: str, same: bool) -> bool:
        """Whether a port is one that HAProxy can listen on; `both` are its numbers, for remedies."""
        what = keys.named("ports")
        if protocol == "udp":
            why = "only TCP ports are published; within the app every port is"
            keys.note("ports", Verdict.IGNORED, why, node.place)
        elif protocol != "tcp":
            self.values.misfit(what, "tcp or udp", protocol, node.place, f'"{both}/tcp"')
        elif host.strip("[]") not in (*LOOPBACK, *EVERY):
            message = f"{what} wants all addresses or 127.0.0.1, got {shorten(host.strip('[]'))}"
            self.values.refuse("E0104", message, node.place, f'"127.0.0.1:{both}"')
        else:
            if same:
                keys.note("ports", Verdict.APPROXIMATED, "published under its own number", node.place)
            return True
        return False

    # --- mounts ------------------------------------------------------------------------------------------------------

    def mounts(self, keys: Section) -> tuple[tuple[Mount, ...], dict[str, str]]:
        """What is mounted, and the places in memory (`tmpfs`) with their options."""
        mounts: list[Mount] = []
        self.targets = {}
        memory = {place: options for text in keys["tmpfs"] for place, _, options in [text.partition(":")]}
        node = keys.get("tmpfs")
        if node is not None:
            for target in memory:
                self._checked_target(target, node.place, keys.named("tmpfs"), "tmpfs: /tmp")
        for item in keys["volumes"]:
            read = self._long_mount if isinstance(item.value, dict) else self._short_mount
            mount = read(item, keys)
            if isinstance(mount, str):
                self._checked_target(mount, item.place, keys.named("volumes"), "target: /tmp")
                memory[mount] = ""
            elif mount is not None:
                self._add(mounts, mount, item.place, keys)
        for kind, prefix in (("secrets", "/run/secrets/"), ("configs", "/")):
            for item in keys[kind]:
                file = self._file(item, keys, kind, prefix)
                if file is not None:
                    self._add(mounts, file, item.place, keys)
        return tuple(mounts), memory

    def _add(self, mounts: list[Mount], mount: Mount, place: Place, keys: Section) -> None:
        name, first = mount.volume, self.targets.setdefault(mount.target, place)
        example = f"{name or mount.host_path}:/{mount.target.strip('/').replace(':', '-')}"
        if not self._checked_target(mount.target, place, keys.named("volumes"), example):
            pass
        elif "{{" in f"{name}{mount.host_path}":
            message = f'{keys.named("volumes")} are the same for all tasks, got "{shorten(name or mount.host_path)}"'
            self.values.refuse("E0104", message, place, "write it without {{...}}: a program has MINIORCH_SLOT")
        elif ":" in mount.host_path:
            remedy = "give that folder another name"
            self.values.misfit(keys.named("volumes"), "a path without a colon", mount.host_path, place, remedy)
        elif first is not place:
            message, note = f"{keys.what} mounts {shorten(mount.target)} twice", f"{first} came first"
            self.values.refuse("E0107", message, place, "delete one of the two", note=note)
        elif name and not NAME.fullmatch(name):
            if name not in self.declared:
                refuse_name(self.values, "volume", name, place)
        elif name and name not in self.declared:
            if not self.implicit:
                message = f"{keys.what} uses the volume {shorten(name)}, which the file does not declare"
                self.values.refuse("E0106", message, place, f"add at the end: volumes: {{{name}: }}")
            self.declared.add(name)
        mounts.append(mount)

    def _checked_target(self, target: str, place: Place, what: str, example: str) -> bool:
        """Whether a path can be a place in a container. Docker's notation leaves no room for a colon in it."""
        if target.startswith("/") and ":" not in target:
            return True
        kind = "a path without a colon" if target.startswith("/") else "an absolute path in the container"
        self.values.misfit(what, kind, target, place, example)
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
            self.values.misfit(what, "a path of Linux", text, node.place, remedy)
            return None
        if len(rest) > 2 or not source or not rest[0]:
            remedy = f"{source or 'data'}:/{(rest[0] or 'data').lstrip('/')}"
            self.values.misfit(what, "name:/path", text, node.place, remedy)
            return None
        others = [mode for mode in modes if mode not in ("ro", "rw")]
        if others:
            why = f"{', '.join(others)[:40]}: only ro and rw mean something here"
            keys.note("volumes", Verdict.APPROXIMATED, why, node.place)
        return self._mount(source, rest[0], "ro" in modes, node, keys)

    def _mount(self, source: str, target: str, read_only: bool, node: Node, keys: Section) -> Mount:
        if source.startswith(("/", ".", "~")):
            path = os.path.normpath(self.values.path(source, node.place))
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
        part = keys.inner("volumes", node)
        kind, target, source, read_only = part["type"], part["target"], part["source"], part["read_only"]
        if not part.sound:
            return None
        if kind == "tmpfs":
            return str(target)
        if not source and kind == "bind":
            self.values.refuse("E0105", f"{part.what}: source is missing", node.place, "add source: ./folder")
            return None
        if not source:
            return self._anonymous(target, node, keys)
        if kind == "volume" and not NAME.fullmatch(source):
            refuse_name(self.values, "volume", source, node.place)
            return None
        plain = kind == "bind" and not source.startswith(("/", ".", "~"))
        return self._mount(f"./{source}" if plain else source, target, read_only, node, keys)

    def _file(self, node: Node, keys: Section, kind: str, prefix: str) -> Mount | None:
        """A secret or config: a file of this machine, read-only."""
        part = keys.inner(kind, node)
        name, target = part["source"], part["target"]
        path = self.files.get((kind, name))
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
