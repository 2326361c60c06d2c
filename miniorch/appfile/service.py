"""The services of a Compose file: one reader per key, and the checks that need two of them.

A service's name becomes a DNS name, its port a listener on every node, its volume a folder that stays on one machine.
What could go wrong with that is refused here, before anything is started. Next file: `miniorch/changes.py`.
"""

import re
import shlex
from pathlib import Path

from miniorch import model
from miniorch.appfile import folder as build_folder
from miniorch.appfile.problems import Place
from miniorch.appfile.values import Values
from miniorch.appfile.yaml import Entry, Node, shorten
from miniorch.model import Build, Condition, HealthCheck, Mount, Port, Resources, ServiceSpec, TaskSpec

SERVICE_KEYS = (
    "image", "build", "command", "entrypoint", "environment", "ports", "volumes", "healthcheck", "depends_on",
    "deploy", "stop_grace_period",
)  # fmt: skip
LABEL_REMEDY = "use lower-case letters, digits and -, at most 40"
BIND_REMEDY = "use a named volume: data:/data"
DIGEST_SHOWN = 12
Entries = dict[str, Entry]


class Services:
    """Reads all services of one file. `volumes` are the declared ones, `images` the replacements of `--image`."""

    def __init__(
        self, values: Values, folder: Path, app: str, volumes: dict[str, Place], images: dict[str, str]
    ) -> None:
        self.values = values
        self.folder = folder
        self.app = app
        self.volumes = volumes
        self.images = images
        self._published: dict[int, Place] = {}
        self._depends: list[tuple[str, str, Place]] = []

    def read(self, services: Entry) -> dict[str, ServiceSpec]:
        entries = self.values.mapping(services.node, "services")
        if not entries and isinstance(services.node.value, dict):
            self.values.refuse("E0105", "services is empty", services.place, "write at least one service below it")
        found = {name: self._service(name, entry) for name, entry in entries.items() if not name.startswith("x-")}
        self._check_dependencies(set(found))
        return found

    def _service(self, name: str, entry: Entry) -> ServiceSpec:
        if not model.LABEL.fullmatch(name):
            message = f'the service name "{shorten(name)}" is no DNS label'
            self.values.refuse("E0104", message, entry.place, LABEL_REMEDY)
        what = f"service {shorten(name)}"
        keys = self.values.mapping(entry.node, what, SERVICE_KEYS)
        replicas, reserved, limit = self._deploy(keys, what)
        image, build = self._image(name, entry, keys)
        grace = keys.get("stop_grace_period")
        task = TaskSpec(
            image=image,
            build=build,
            entrypoint=self._arguments(keys, "entrypoint", what),
            command=self._arguments(keys, "command", what),
            environment=self.values.pairs(_given(keys, "environment"), f"{what}: environment"),
            mounts=self._mounts(keys, what),
            healthcheck=self._healthcheck(keys, what),
            reserved=reserved,
            limit=limit,
            stop_grace_seconds=self.values.seconds(grace.node, f"{what}: stop_grace_period") if grace else 10.0,
        )
        return ServiceSpec(task, replicas, self._ports(keys, what), self._depends_on(name, keys, what))

    # --- what it runs ------------------------------------------------------------------------------------------------

    def _image(self, name: str, entry: Entry, keys: Entries) -> tuple[str, Build | None]:
        if name in self.images:
            return self.images[name], None
        if "image" in keys and "build" in keys:
            message = f"service {name} has both image and build"
            self.values.refuse("E0107", message, keys["build"].place, "delete one: a build gets its image's name here")
        if "build" in keys:
            build = self._build(keys["build"].node, f"service {name}: build")
            return f"miniorch/{self.app}-{name}:{build.digest[:DIGEST_SHOWN]}", build
        if "image" in keys:
            return self.values.text(keys["image"].node, f"service {name}: image"), None
        if isinstance(entry.node.value, dict):
            self.values.refuse("E0105", f"service {shorten(name)} has no image", entry.place, "write image: or build:")
        return "", None

    def _build(self, node: Node, what: str) -> Build:
        place, context, dockerfile, arguments = node, ".", "Dockerfile", {}
        if isinstance(node.value, dict):
            keys = self.values.mapping(node, what, ("context", "dockerfile", "args"))
            if "context" in keys:
                place = keys["context"].node
                context = self.values.text(place, f"{what}.context")
            if "dockerfile" in keys:
                dockerfile = self.values.text(keys["dockerfile"].node, f"{what}.dockerfile")
            arguments = self.values.pairs(_given(keys, "args"), f"{what}.args")
        else:
            context = self.values.text(node, what)
        folder = (self.folder / context).resolve()
        digest = ""
        if not folder.is_dir():
            self.values.refuse("E0109", f"{what}: there is no folder {shorten(context, 80)}", place.place)
        elif not (folder / dockerfile).is_file():
            self.values.refuse("E0109", f"{what}: there is no {dockerfile} in {shorten(context, 80)}", place.place)
        elif not self.values.problems:  # a file that is refused anyway need not be hashed
            try:
                digest = build_folder.digest(folder, dockerfile, arguments)
            except OSError as error:
                self.values.refuse("E0109", f"{what}: {error.filename} cannot be read", place.place)
        return Build(str(folder), digest, dockerfile, arguments)

    def _arguments(self, keys: Entries, key: str, what: str) -> tuple[str, ...] | None:
        """`command` and `entrypoint`: a list is taken as it is, a text is split as a shell would."""
        node = _given(keys, key)
        if node is None:
            return None
        if isinstance(node.value, list):
            return self.values.texts(node, f"{what}: {key}")
        text = self.values.text(node, f"{what}: {key}", empty=True)
        try:
            return tuple(shlex.split(text))
        except ValueError:
            self.values.refuse("E0104", f"{what}: {key} has an open quotation mark", node.place, "write it as a list")
            return None

    def _healthcheck(self, keys: Entries, what: str) -> HealthCheck | None:
        node = _given(keys, "healthcheck")
        if node is None:
            return None
        what = f"{what}: healthcheck"
        inner = self.values.mapping(node, what, ("test", "interval", "timeout", "retries", "start_period", "disable"))
        seconds = {
            key: self.values.seconds(inner[key].node, f"{what}.{key}")
            for key in ("interval", "timeout", "start_period")
            if key in inner
        }
        retries = self.values.whole(inner["retries"].node, f"{what}.retries", 1, 1000, 3) if "retries" in inner else 3
        if "disable" in inner and self.values.yes_or_no(inner["disable"].node, f"{what}.disable"):
            return None
        for key in ("interval", "timeout"):
            if key in inner and seconds[key] == 0 and not self.values.problems:
                self.values.refuse("E0104", f"{what}.{key} wants more than 0 seconds", inner[key].node.place)
        if "test" not in inner:
            if isinstance(node.value, dict):
                remedy = 'test: ["CMD", "program", "argument"]'
                self.values.refuse("E0105", f"{what} has no test", keys["healthcheck"].place, remedy)
            return None
        test = self._test(inner["test"].node, f"{what}.test")
        if test is None:
            return None
        return HealthCheck(
            test, seconds.get("interval", 30.0), seconds.get("timeout", 30.0), retries, seconds.get("start_period", 0.0)
        )

    def _test(self, node: Node, what: str) -> tuple[str, ...] | None:
        if isinstance(node.value, str):
            text = self.values.text(node, what)
            return None if text == "NONE" else ("/bin/sh", "-c", text)
        words = self.values.texts(node, what)
        match words:
            case ("NONE",):
                return None
            case ("CMD", _, *_):
                return words[1:]
            case ("CMD-SHELL", text):
                return ("/bin/sh", "-c", text)
        if isinstance(node.value, list):
            remedy = '["CMD", "program", "argument"] or ["CMD-SHELL", "command line"]'
            self.values.refuse("E0104", f"{what} wants a list that begins with CMD or CMD-SHELL", node.place, remedy)
        return None

    # --- where it can be reached, what it keeps ----------------------------------------------------------------------

    def _ports(self, keys: Entries, what: str) -> tuple[Port, ...]:
        ports = []
        for item in self.values.items(_given(keys, "ports"), f"{what}: ports"):
            port = self._long_port(item, what) if isinstance(item.value, dict) else self._short_port(item, what)
            if port is None:
                continue
            first = self._published.setdefault(port.published, item.place)
            if first is not item.place:
                note = f"{first.line}:{first.column} was first"
                message = f"{what} publishes port {port.published} a second time"
                self.values.refuse("E0107", message, item.place, "publish another port", note=note)
            ports.append(port)
        return tuple(ports)

    def _short_port(self, node: Node, what: str) -> Port | None:
        text = self.values.text(node, f"{what}: ports")
        if not text:
            return None
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})(?:/tcp)?", text)
        if match and all(0 < int(number) < 65536 for number in match.groups()):
            return Port(int(match[1]), int(match[2]))
        if text.endswith("/udp"):
            why, remedy = "only TCP ports can be published", 'delete it, or publish TCP: "5000:5000"'
        elif text.count(":") > 1:
            why, remedy = "a port is published on every address of the node", 'leave the address out: "5000:5000"'
        elif "-" in text:
            why, remedy = "ranges are not read", 'write one line per port: "5000:5000"'
        elif match:
            why, remedy = "a port lies between 1 and 65535", 'ports: ["5000:5000"]'
        elif text.isdigit():
            why, remedy = "a port wants published:target", f'ports: ["{text}:{text}"]'
        else:
            why, remedy = "a port wants published:target", 'ports: ["5000:5000"]'
        self.values.refuse("E0104", f'{what}: {why}, got "{shorten(text)}"', node.place, remedy)
        return None

    def _long_port(self, node: Node, what: str) -> Port | None:
        keys = self.values.mapping(node, f"{what}: ports", ("target", "published", "protocol"))
        if "protocol" in keys and self.values.text(keys["protocol"].node, f"{what}: protocol") not in ("tcp", ""):
            self.values.refuse("E0104", f"{what}: only TCP ports can be published", keys["protocol"].node.place)
        for key in ("published", "target"):
            if key not in keys:
                self.values.refuse("E0105", f"{what}: a port lacks {key}", node.place, f"{key}: 5000")
                return None
        numbers = []
        for key in ("published", "target"):
            inner = keys[key].node
            if isinstance(inner.value, str) and inner.text.isdigit():  # Compose's own examples quote `published`
                inner = Node(int(inner.text), inner.place, inner.text)
            numbers.append(self.values.whole(inner, f"{what}: port {key}", 1, 65535, 5000))
        return Port(*numbers)

    def _mounts(self, keys: Entries, what: str) -> tuple[Mount, ...]:
        mounts: list[Mount] = []
        for item in self.values.items(_given(keys, "volumes"), f"{what}: volumes"):
            mount = self._long_mount(item, what) if isinstance(item.value, dict) else self._short_mount(item, what)
            if mount is None:
                continue
            if mount.volume not in self.volumes:
                message = f"{what} uses the volume {shorten(mount.volume)}, which the file does not declare"
                self.values.refuse("E0106", message, item.place, f"add at the end: volumes: {{{mount.volume}: }}")
            elif not mount.target.startswith("/"):
                message = f'{what}: a volume wants an absolute path in the container, got "{shorten(mount.target)}"'
                self.values.refuse("E0104", message, item.place, f"{mount.volume}:/data")
            elif any(other.target == mount.target for other in mounts):
                self.values.refuse("E0107", f"{what} mounts {mount.target} twice", item.place, "delete one")
            mounts.append(mount)
        return tuple(mounts)

    def _short_mount(self, node: Node, what: str) -> Mount | None:
        text = self.values.text(node, f"{what}: volumes")
        if not text:
            return None
        source, *rest = text.split(":")
        if source.startswith(("/", ".", "~")) and rest:
            self.values.refuse("E0104", f"{what}: bind mounts come later", node.place, BIND_REMEDY)
            return None
        if not rest:
            self.values.refuse("E0104", f"{what}: a volume wants name:/path", node.place, "volumes: [data:/data]")
            return None
        if len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("ro", "rw")):
            message = f'{what}: a volume ends with :ro, :rw or nothing, got "{shorten(text)}"'
            self.values.refuse("E0104", message, node.place, f"{source}:{rest[0]}:ro")
            return None
        return Mount(source, rest[0], rest[1:] == ["ro"])

    def _long_mount(self, node: Node, what: str) -> Mount | None:
        keys = self.values.mapping(node, f"{what}: volumes", ("type", "source", "target", "read_only"))
        kind = self.values.text(keys["type"].node, f"{what}: volumes type") if "type" in keys else "volume"
        if kind == "bind":
            self.values.refuse("E0104", f"{what}: bind mounts come later", node.place, BIND_REMEDY)
            return None
        if kind != "volume":
            self.values.refuse("E0104", f'{what}: type "{shorten(kind)}" is not read', node.place, "type: volume")
            return None
        for key in ("source", "target"):
            if key not in keys:
                self.values.refuse("E0105", f"{what}: a volume lacks {key}", node.place, f"add {key}:")
                return None
        read_only = "read_only" in keys and self.values.yes_or_no(keys["read_only"].node, f"{what}: read_only")
        source, target = (self.values.text(keys[key].node, f"{what}: volumes {key}") for key in ("source", "target"))
        return Mount(source, target, read_only) if source and target else None

    # --- what it needs -----------------------------------------------------------------------------------------------

    def _deploy(self, keys: Entries, what: str) -> tuple[int, Resources, Resources]:
        deploy = self.values.mapping(_given(keys, "deploy"), f"{what}: deploy", ("replicas", "resources"))
        replicas = 1
        if "replicas" in deploy:
            replicas = self.values.whole(deploy["replicas"].node, f"{what}: replicas", 0, model.MAX_REPLICAS, 3)
        amounts = {"reservations": Resources(), "limits": Resources()}
        resources = self.values.mapping(_given(deploy, "resources"), f"{what}: resources", tuple(amounts))
        for key, entry in resources.items():
            inner = self.values.mapping(entry.node, f"{what}: {key}", ("cpus", "memory"))
            amounts[key] = Resources(
                self.values.cpus(inner["cpus"].node, f"{what}: {key}.cpus") if "cpus" in inner else 0.0,
                self.values.size(inner["memory"].node, f"{what}: {key}.memory") if "memory" in inner else 0,
            )
        return replicas, amounts["reservations"], amounts["limits"]

    def _depends_on(self, name: str, keys: Entries, what: str) -> dict[str, Condition]:
        node = _given(keys, "depends_on")
        found: dict[str, Condition] = {}
        if node is not None and isinstance(node.value, list):
            for item in node.value:
                other = self.values.text(item, f"{what}: depends_on")
                self._depends.append((name, other, item.place))
                found[other] = Condition.STARTED
            return found
        for other, entry in self.values.mapping(node, f"{what}: depends_on").items():
            self._depends.append((name, other, entry.place))
            inner = self.values.mapping(entry.node, f"{what}: depends_on {other}", ("condition",))
            found[other] = self._condition(inner.get("condition"), f"{what}: depends_on {other}")
        return found

    def _condition(self, entry: Entry | None, what: str) -> Condition:
        if entry is None:
            return Condition.STARTED
        text = self.values.text(entry.node, f"{what}: condition")
        try:
            return Condition(text)
        except ValueError:
            if text:
                message = f'{what}: the condition "{shorten(text)}" is not read'
                remedy = f"use {' or '.join(Condition)}"
                self.values.refuse("E0104", message, entry.node.place, remedy)
            return Condition.STARTED

    def _check_dependencies(self, services: set[str]) -> None:
        """Every dependency is a service, and none waits for itself."""
        needs: dict[str, list[str]] = {}
        for name, other, place in self._depends:
            if other not in services and other:
                known = ", ".join(sorted(services - {name})) or "no other"
                message = f"service {name} depends on {shorten(other)}, which the file does not have"
                self.values.refuse("E0106", message, place, f"services here: {known}")
            needs.setdefault(name, []).append(other)
        reported: set[str] = set()
        for name, other, place in self._depends:
            circle = _path(other, name, needs)
            if circle and not reported & set(circle):
                reported |= set(circle)
                ring = " -> ".join([name, *circle])
                self.values.refuse("E0106", f"services wait for each other: {ring}", place, "delete one dependency")


def _given(keys: Entries, key: str) -> Node | None:
    """A key's value; None for a key that is not there, and for one with nothing behind it, which Compose allows."""
    return keys[key].node if key in keys and keys[key].node.value is not None else None


def _path(start: str, goal: str, needs: dict[str, list[str]]) -> list[str]:
    """The shortest chain of dependencies from `start` to `goal`, both included; empty if there is none."""
    chains, seen = [[start]], {start}
    while chains:
        chain = chains.pop(0)
        if chain[-1] == goal:
            return chain
        for other in needs.get(chain[-1], ()):
            if other not in seen:
                seen.add(other)
                chains.append([*chain, other])
    return []
