"""One service of a Compose file to a `ServiceSpec`: what it runs, how often, and what follows when it ends.

A service's name becomes a DNS name, its image a container, its health check the moment from which it gets traffic. What
could go wrong with that is refused here, before anything is started. Next file: `miniorch/appfile/places.py`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from miniorch import spec
from miniorch.appfile import folder as build_folder
from miniorch.appfile.keys import Key, Verdict
from miniorch.appfile.placement import generic_resources, parted, placement
from miniorch.appfile.places import Places
from miniorch.appfile.problems import Place
from miniorch.appfile.section import Section
from miniorch.appfile.values import Values, label_remedy
from miniorch.appfile.yaml import Entry, Node, shorten
from miniorch.spec import Build, HealthCheck, Resources, Restart, RestartPolicy

DIGEST_SHOWN = 12
OPTIONS = tuple(one.name for one in fields(spec.ContainerOptions))
POLICIES = {
    "no": Restart.NEVER, "on-failure": Restart.ON_FAILURE, "always": Restart.ANY, "unless-stopped": Restart.ANY,
    "none": Restart.NEVER, "any": Restart.ANY,
}  # fmt: skip


@dataclass(slots=True)
class ServiceReader:
    """Reads the services of one app. `services` are all of the file, `images` the replacements of `--image`."""

    values: Values
    app: str
    places: Places
    services: Mapping[str, Entry]
    images: Mapping[str, str]
    unsaid: dict[str, list[str]] = field(default_factory=lambda: {"restart": [], "init": []})  # who has our default

    def read(self, name: str, entry: Entry, keys: Section, *, job: bool) -> spec.ServiceSpec:
        """`job`: somebody waits for it to complete, so an end with exit code 0 is one."""
        if not spec.LABEL.fullmatch(name):
            message = f'the service name "{shorten(name)}" is no DNS label'
            self.values.refuse("E0104", message, entry.place, label_remedy(name))
        deploy = keys.part("deploy")
        reserved, limit, pids = self._resources(keys, deploy.part("resources"))
        source, build = self._image(name, entry, keys)
        self.unsaid["init"] += [] if keys.get("init") else [shorten(name)]
        mounts, tmpfs = self.places.mounts(keys)
        own = {key: keys[key] for key in OPTIONS if keys.get(key) is not None}
        task = spec.TaskSpec(
            image=source,
            build=build,
            entrypoint=keys["entrypoint"],
            command=keys["command"],
            environment=self._environment(keys),
            mounts=mounts,
            healthcheck=self._healthcheck(keys.part("healthcheck")),
            reserved=reserved,
            limit=limit,
            stop_grace_seconds=keys["stop_grace_period"],
            stop_after_seconds=keys.part("x-miniorch")["stop_after"],
            options=spec.ContainerOptions(**{**own, "tmpfs": tmpfs, "pids_limit": own.get("pids_limit") or pids}),
        )
        _hint(keys, "hostname", keys["hostname"])
        for item in keys["expose"]:
            self.values.text(item, keys.named("expose"))
        return spec.ServiceSpec(
            task,
            self._replicas(keys, deploy),
            self.places.ports(keys),
            restart=self._restart(keys, deploy, job),
            placement=placement(keys, deploy, self.services),
        )

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
            self.values.text(keys.entries["image"].node, keys.named("image"), keys.known["image"])
        return keys["image"], None

    def _build(self, keys: Section) -> Build:
        part, what = keys.part("build"), keys.named("build")
        if part.short:
            keys.note("build", Verdict.HONOURED, "")
        place = part.node.place if part.node else Place(0, 0)
        context, dockerfile = part["context"], part["dockerfile"] or keys["dockerfile"] or "Dockerfile"
        folder, arguments = Path(os.path.realpath(self.values.path(context, place))), part["args"]
        digest = ""
        shown = shorten(context, 80)
        if not os.path.isdir(folder):  # and not folder.is_dir(), which raises at a name that is too long
            self.values.refuse("E0109", f"{what}: there is no folder {shown}", place, f"mkdir -p {shown}")
        elif not os.path.isfile(folder / dockerfile):
            message = f"{what}: there is no {shorten(dockerfile)} in {shown}"
            self.values.refuse("E0109", message, place, f"write {shown}/{shorten(dockerfile)}")
        elif not self.values.problems:  # a file that is refused anyway need not be hashed
            try:
                digest = build_folder.digest(folder, dockerfile, arguments)
            except OSError as error:
                message = f"{what}: {error.filename} cannot be read"
                self.values.refuse("E0109", message, place, f"chmod a+r {error.filename}")
        return Build(str(folder), digest, dockerfile, arguments, part["target"])

    def _environment(self, keys: Section) -> dict[str, str]:
        """`env_file`, with `environment` over it. Classic Swarm's expressions are no variables and are taken out."""
        found: dict[str, str] = {}
        node = keys.get("env_file")
        for item in [node] if node is not None and not isinstance(node.value, list) else keys["env_file"]:
            found.update(self._env_file(keys.inner("env_file", item), item.place))
        node = keys.get("environment")
        if node is None:
            return found
        own = self.values.placed_pairs(parted(node)[0], keys.named("environment"))
        for text, place in own.values():
            _hint(keys, "environment", text, place)
        return found | {name: text for name, (text, _) in own.items()}

    def _env_file(self, part: Section, place: Place) -> dict[str, str]:
        name = part["path"]
        path = self.values.path(name, place)
        if name and part["required"] and not os.path.isfile(path):
            message, remedy = f"{part.what}: there is no file {shorten(name, 80)}", f"touch {shorten(name, 80)}"
            self.values.refuse("E0109", message, place, remedy)
        return self.values.env_file(path, f"{place} names it") if name else {}

    def _healthcheck(self, keys: Section) -> HealthCheck | None:
        if not keys.entries:
            return None
        times = keys["interval"], keys["timeout"], keys["retries"], keys["start_period"]
        if keys["disable"]:
            return None
        node = keys.get("test")
        if node is None:
            assert keys.node is not None
            remedy = 'add test: ["CMD", "program", "argument"]'
            self.values.refuse("E0105", f"{keys.what} has no test", keys.node.place, remedy)
            return None
        test = self._test(node, keys.named("test"))
        return None if test is None else HealthCheck(test, *times)

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
        replicas: int = keys["scale"] if deploy.get("replicas") is None else deploy["replicas"]
        if deploy["mode"].startswith("global"):
            deploy.note("mode", Verdict.APPROXIMATED, "one task in all, and not one on every node")
            return 1
        return replicas

    def _resources(self, keys: Section, part: Section) -> tuple[Resources, Resources, int]:
        reservations, limits = part.part("reservations"), part.part("limits")
        memory = reservations["memory"] or keys["mem_reservation"]
        reserved = Resources(reservations["cpus"], memory, generic_resources(reservations))
        limit = Resources(limits["cpus"] or keys["cpus"], limits["memory"] or keys["mem_limit"])
        return reserved, limit, limits["pids"]

    def _restart(self, keys: Section, deploy: Section, job: bool) -> RestartPolicy:
        """`deploy.restart_policy`, else `restart`, else as Swarm has it: always. A job that ended well stays ended."""
        part = deploy.part("restart_policy")
        once = deploy["mode"].endswith("-job")
        usual = Restart.ON_FAILURE if job or once else Restart.ANY
        if part.entries:
            node = part.get("condition")
            takes = "on-failure none" if once else "on-failure none any"
            words = Key("condition", takes=takes, default=usual, example=usual)
            word = usual if node is None else self.values.choice(node, part.named("condition"), words)
            return RestartPolicy(POLICIES[word], part["max_attempts"], part["delay"])
        node = keys.get("restart")
        if node is None:
            self.unsaid["restart"] += [] if job or once else [keys.what.removeprefix("service ")]
            return RestartPolicy(usual)
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


def _hint(keys: Section, key: str, text: str, place: Place | None = None) -> None:
    """Report those of Swarm's templates in a text that the agent does not know."""
    if "{{" in text and (
        unknown := re.search(r"\{\{[^{}]*\.(?:Node|Service|Task)\b[^{}]*}}", spec.TEMPLATE.sub("", text))
    ):
        keys.note(key, Verdict.IGNORED, f"{shorten(unknown[0])} is not known here, and stays as it is", place)
