"""One service of a Compose file to a `ServiceSpec`: what it runs, how often, and what follows when it ends.

A service's name becomes a DNS name, its image a container, its health check the moment from which it gets traffic. What
could go wrong with that is refused here, before anything is started. Next file: `miniorch/appfile/places.py`.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from miniorch import spec
from miniorch.appfile import folder as build_folder
from miniorch.appfile.keys import Verdict
from miniorch.appfile.options import hinted, image, memory, options
from miniorch.appfile.placement import Placements, generic_resources, without_expressions
from miniorch.appfile.places import FolderOf, Places
from miniorch.appfile.problems import Place
from miniorch.appfile.values import Section, Values, label_remedy
from miniorch.appfile.yaml import Entry, Node, shorten
from miniorch.spec import Build, HealthCheck, Resources, Restart, RestartPolicy, ServiceSpec, TaskSpec

DIGEST_SHOWN = 12
MAX_COMMAND = 131_072  # Linux takes no longer argument
POLICIES = {
    "no": Restart.NEVER, "on-failure": Restart.ON_FAILURE, "always": Restart.ANY, "unless-stopped": Restart.ANY,
    "none": Restart.NEVER, "any": Restart.ANY,
}  # fmt: skip


class ServiceReader:
    """Reads the services of one app. `images` are the replacements of `--image`."""

    def __init__(
        self,
        values: Values,
        app: str,
        places: Places,
        placements: Placements,
        folder_of: FolderOf,
        images: Mapping[str, str],
    ) -> None:
        self.values = values
        self.app = app
        self.places = places
        self.placements = placements
        self.folder_of = folder_of
        self.images = images
        self.unsaid: dict[str, list[str]] = {"restart": [], "init": []}  # key -> services that have another default

    def read(self, name: str, entry: Entry, keys: Section, *, job: bool) -> ServiceSpec:
        """`job`: somebody waits for it to complete, so an end with exit code 0 is one."""
        if not spec.LABEL.fullmatch(name):
            message = f'the service name "{shorten(name)}" is no DNS label'
            self.values.refuse("E0104", message, entry.place, label_remedy(name))
        deploy = keys.part("deploy", "deploy")
        reserved, limit, pids = self._resources(keys, deploy.part("resources", "resources"))
        source, build = self._image(name, entry, keys)
        self.unsaid["init"] += [] if keys.get("init") else [shorten(name)]
        mounts, tmpfs = self.places.mounts(keys)
        task = TaskSpec(
            image=source,
            build=build,
            entrypoint=self._arguments(keys, "entrypoint"),
            command=self._arguments(keys, "command"),
            environment=self._environment(keys),
            mounts=mounts,
            healthcheck=self._healthcheck(keys.part("healthcheck", "healthcheck")),
            reserved=reserved,
            limit=limit,
            stop_grace_seconds=keys.seconds("stop_grace_period", 10.0),
            stop_after_seconds=keys.part("x-miniorch", "x-miniorch").seconds("stop_after"),
            options=options(keys, tmpfs, pids),
        )
        for item in keys.items("expose"):
            self.values.text(item, keys.named("expose"))
        ports, placement = self.places.ports(keys), self.placements.read(keys, deploy)
        restart = self._restart(keys, deploy, job)
        return ServiceSpec(task, self._replicas(keys, deploy), ports, restart=restart, placement=placement)

    # --- what it runs ------------------------------------------------------------------------------------------------

    def _image(self, name: str, entry: Entry, keys: Section) -> tuple[str, Build | None]:
        if name in self.images:
            return self.images[name], None
        if keys.get("build") is not None:
            build = self._build(keys)
            if "image" in keys.entries:
                keys.note("image", Verdict.APPROXIMATED, "what is built is named by its contents")
            return f"miniorch/{self.app}-{name}:{build.digest[:DIGEST_SHOWN]}", build
        if "image" not in keys.entries and isinstance(entry.node.value, dict | None):
            if "extends" in keys.entries and self.values.problems:
                return "", None  # what it should extend was refused, and would have had the image
            message = f"service {shorten(name)} has no image"
            self.values.refuse("E0105", message, entry.place, "add image: nginx")
        elif keys.get("image") is None and "image" in keys.entries:
            self.values.text(keys.entries["image"].node, keys.named("image"))
        return image(keys), None

    def _build(self, keys: Section) -> Build:
        node = keys.get("build")
        assert node is not None
        what = keys.named("build")
        if isinstance(node.value, dict):
            part = keys.part("build", "build")
            context, dockerfile = part.text("context", "."), part.text("dockerfile", "Dockerfile")
            arguments, target = part.pairs("args"), part.text("target")
        else:
            keys.note("build", Verdict.HONOURED, "")
            context, dockerfile = self.values.text(node, what), keys.text("dockerfile", "Dockerfile")
            arguments, target = {}, ""
        folder = Path(os.path.realpath(self.folder_of(node.place) / context))
        digest = ""
        shown = shorten(context, 80)
        if not os.path.isdir(folder):  # and not folder.is_dir(), which raises at a name that is too long
            self.values.refuse("E0109", f"{what}: there is no folder {shown}", node.place, f"mkdir -p {shown}")
        elif not os.path.isfile(folder / dockerfile):
            message = f"{what}: there is no {shorten(dockerfile)} in {shown}"
            self.values.refuse("E0109", message, node.place, f"write {shown}/{shorten(dockerfile)}")
        elif not self.values.problems:  # a file that is refused anyway need not be hashed
            try:
                digest = build_folder.digest(folder, dockerfile, arguments)
            except OSError as error:
                message = f"{what}: {error.filename} cannot be read"
                self.values.refuse("E0109", message, node.place, f"chmod a+r {error.filename}")
        return Build(str(folder), digest, dockerfile, arguments, target)

    def _arguments(self, keys: Section, key: str) -> tuple[str, ...] | None:
        """`command` and `entrypoint`: a list is taken as it is, a text is split as a shell would."""
        node = keys.get(key)
        if node is None:
            return None
        if isinstance(node.value, list):
            return keys.texts(key)
        text = self.values.text(node, keys.named(key), empty=True)
        if len(text) > MAX_COMMAND:
            wanted = f"at most {MAX_COMMAND} letters, as Linux does"
            self.values.wrong(keys.named(key), wanted, node, "write it into a file of the image")
            return None
        try:
            return tuple(shlex.split(text))
        except ValueError:
            message = f"{keys.named(key)} has a quotation mark that is not closed"
            words = json.dumps([word.strip("'\"") for word in text.split()])
            self.values.refuse("E0104", message, node.place, f"write it as a list: {key}: {shorten(words, 200)}")
            return None

    def _environment(self, keys: Section) -> dict[str, str]:
        """`env_file`, with `environment` over it. Classic Swarm's expressions are no variables and are taken out."""
        found: dict[str, str] = {}
        node = keys.get("env_file")
        for item in [node] if node is not None and not isinstance(node.value, list) else keys.items("env_file"):
            found.update(self._env_file(item, keys))
        node = keys.get("environment")
        own = self.values.pairs(without_expressions(node), keys.named("environment"))
        places = dict(_places(node))
        for name, text in own.items():
            hinted(keys, "environment", text, places.get(name))
        return {**found, **own}

    def _env_file(self, node: Node, keys: Section) -> dict[str, str]:
        required, what = True, keys.named("env_file")
        if isinstance(node.value, dict):
            part = Section(self.values, node, "env file", f"{keys.path}.env_file", what)
            name, required = part.text("path"), part.flag("required", True)
        else:
            name = self.values.text(node, what)
        path = self.folder_of(node.place) / name
        if name and required and not os.path.isfile(path):
            remedy = f"touch {shorten(name, 80)}"
            self.values.refuse("E0109", f"{what}: there is no file {shorten(name, 80)}", node.place, remedy)
        return self.values.env_file(path, f"{node.place} names it") if name else {}

    def _healthcheck(self, keys: Section) -> HealthCheck | None:
        interval, timeout = keys.seconds("interval", 30.0), keys.seconds("timeout", 30.0)
        retries, start = keys.whole("retries", 3, 1, 1000, 3), keys.seconds("start_period")
        if keys.flag("disable") or not keys.entries:
            return None
        for key, seconds in (("interval", interval), ("timeout", timeout)):
            node = keys.get(key)
            if node is not None and seconds == 0 and keys.sound:
                message = f"{keys.named(key)} wants more than 0 seconds, got {node.kind}"
                self.values.refuse("E0104", message, node.place, f"{key}: 5s")
        node = keys.get("test")
        if node is None:
            assert keys.node is not None
            remedy = 'add test: ["CMD", "program", "argument"]'
            self.values.refuse("E0105", f"{keys.what} has no test", keys.node.place, remedy)
            return None
        test = self._test(node, keys.named("test"))
        return None if test is None else HealthCheck(test, interval, timeout, retries, start)

    def _test(self, node: Node, what: str) -> tuple[str, ...] | None:
        if not isinstance(node.value, list):
            text = self.values.text(node, what)
            return None if text in ("NONE", "") else ("/bin/sh", "-c", text)
        words = self.values.texts(node, what)
        match words:
            case ("NONE",):
                return None
            case ("CMD", _, *_):
                return words[1:]
            case ("CMD-SHELL", text):
                return ("/bin/sh", "-c", text)
        message = f"{what} wants a list that begins with CMD or CMD-SHELL, got {shorten(' '.join(words)) or 'nothing'}"
        right = json.dumps(["CMD", *words] if len(words) > 0 else ["CMD", "program", "argument"])
        self.values.refuse("E0104", message, node.place, f"test: {shorten(right, 200)}")
        return None

    # --- how often, and what follows when it ends --------------------------------------------------------------------

    def _replicas(self, keys: Section, deploy: Section) -> int:
        replicas = keys.whole("scale", 1, 0, spec.MAX_REPLICAS, 3)
        replicas = deploy.whole("replicas", replicas, 0, spec.MAX_REPLICAS, 3)
        mode = deploy.choice("mode", ("replicated", "global", "replicated-job", "global-job"), "replicated")
        if mode.startswith("global"):
            deploy.note("mode", Verdict.APPROXIMATED, "one task in all, and not one on every node")
            return 1
        return replicas

    def _resources(self, keys: Section, part: Section) -> tuple[Resources, Resources, int]:
        reservations = part.part("reservations", "reservations")
        limits = part.part("limits", "limits")
        memory_reserved = reservations.size("memory") or keys.size("mem_reservation")
        reserved = Resources(reservations.cpus("cpus"), memory_reserved, generic_resources(reservations))
        limit = Resources(
            limits.cpus("cpus") or keys.cpus("cpus"), memory(limits, "memory") or memory(keys, "mem_limit")
        )
        return reserved, limit, limits.whole("pids", 0, -1, 1 << 22, 100)

    def _restart(self, keys: Section, deploy: Section, job: bool) -> RestartPolicy:
        """`deploy.restart_policy`, else `restart`, else as Swarm has it: always. A job that ended well stays ended."""
        part = deploy.part("restart_policy", "restart_policy")
        once = deploy.text("mode").endswith("-job")
        ends, words = job or once, ("on-failure", "none", "any")[: 2 if once else 3]
        if part.entries:
            word = part.choice("condition", words, "on-failure" if ends else "any")
            attempts = part.whole("max_attempts", 0, 0, 1 << 16, 3)
            return RestartPolicy(POLICIES[word], attempts, part.seconds("delay"))
        node = keys.get("restart")
        if node is None:
            self.unsaid["restart"] += [] if ends else [keys.what.removeprefix("service ")]
            return RestartPolicy(Restart.ON_FAILURE if ends else Restart.ANY)
        word, _, times = self.values.text(node, keys.named("restart")).partition(":")
        if node.value is False:  # `no` without quotes, where somebody reads YAML 1.1
            word = "no"
        if word not in list(POLICIES)[:4] or (
            times and not (word == "on-failure" and re.fullmatch("[0-9]{1,4}", times))
        ):
            wanted = "no, always, unless-stopped, on-failure or on-failure:3"
            self.values.wrong(keys.named("restart"), wanted, node, "restart: always")
            return RestartPolicy()
        if once and POLICIES[word] is Restart.ANY:
            self.values.wrong(keys.named("restart"), "no or on-failure, as this is a job", node, "restart: on-failure")
        elif word == "unless-stopped":
            keys.note("restart", Verdict.APPROXIMATED, "as always: what is stopped with rm or scale stays so anyway")
        return RestartPolicy(POLICIES[word], int(times or 0))


def _places(node: Node | None) -> list[tuple[str, Place]]:
    """Where each name of `NAME: value` or `- NAME=value` lines stands."""
    if node is not None and isinstance(node.value, dict):
        return [(name, entry.place) for name, entry in node.value.items()]
    items = node.value if node is not None and isinstance(node.value, list) else []
    return [(item.text.partition("=")[0], item.place) for item in items]
