"""App files to an `AppSpec`: which files, laid over each other how, and what is at their top.

The problem: there are ten years of Compose files, and each says a little more or less than the last. The idea: bring
all of them into one shape first (a tree with `services`), then read that shape once. Version 1 had services at the top;
`-f` twice, `include` and `extends` are trees laid over each other (`merge.py`); profiles leave services out. Reading
never stops at the first problem, and nothing is decided here: the result is plain data.

Who does this for real: compose-go. Where we differ: no key is ignored in silence (`keys.py`), and every mistake has a
place. Next file: `miniorch/appfile/yaml.py`.
"""

import gc
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from miniorch.appfile.dependencies import connect, read_needs
from miniorch.appfile.keys import PARTS, Verdict
from miniorch.appfile.merge import merge
from miniorch.appfile.places import Places, refuse_name
from miniorch.appfile.problems import SHOWN_AT_ONCE, Place, Report, refusal
from miniorch.appfile.section import Section
from miniorch.appfile.service import ServiceReader
from miniorch.appfile.values import Values, as_label, label_remedy, name_remedy
from miniorch.appfile.yaml import MAX_BYTES, Entry, Node, Refused, parse, shorten
from miniorch.errors import AppFileError, UsageError
from miniorch.spec import LABEL, NAME, AppSpec

USUAL_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
MAX_FILES = 50
MAX_CHAIN = 32  # of services that extend services
UNSAID = {
    "restart": 'what ends is started again; what runs once needs restart: "no"',
    "init": "true, so that signals arrive and no zombies stay; Compose has false",
}
"""What holds where a service says nothing, and is otherwise in Compose."""


@dataclass(frozen=True, slots=True)
class AppFile:
    """What the files say: the app's name, its spec, what became of each key, and all profiles that services name."""

    name: str
    spec: AppSpec
    report: Report = field(default_factory=Report)
    profiles: tuple[str, ...] = ()


def read_app_files(
    paths: Sequence[str], environment: Mapping[str, str], *, name: str = "", images: Mapping[str, str] | None = None,
    profiles: Sequence[str] = (), strict: bool = False,
) -> AppFile:  # fmt: skip
    """Read app files, each laid over those before it. No path: the usual names in this folder. "-": standard input.

    `images` replaces the images of services by name, `name` the app's name; `strict` refuses a file of which anything
    is ignored. Raises `AppFileError` with all that is wrong with the files, `UsageError` for an option that does not
    fit them.
    """
    if name and not LABEL.fullmatch(name):
        raise UsageError(f"--name {shorten(name)}: is no DNS label", remedy=f"--name {as_label(name)}")
    files = _Files(paths, environment)
    values, collecting = files.values, gc.isenabled()
    gc.disable()  # a tree has no cycles, and to look for them again and again takes a third of the time
    try:
        root = files.root()
        app = _app(root, files, name, dict(images or {}), set(profiles))
        if strict and not values.problems:
            values.problems += values.report.ignored_as_problems()
    except Refused as refused:
        raise refusal([*values.problems, refused.problem], files.first, files.texts) from None
    finally:
        if collecting:
            gc.enable()
    if values.problems:
        raise refusal(values.problems, files.first, files.texts)
    strangers = sorted(set(images or {}) - set(app.spec.services))
    if strangers:
        known = ", ".join(app.spec.services)
        message = f"--image {strangers[0]}=...: {files.first} has no service {strangers[0]}; it has {known}"
        raise UsageError(message, remedy=f"--image {next(iter(app.spec.services))}=...")
    return app


def _usual(values: Values) -> list[str]:
    """The files that COMPOSE_FILE names; else the usual one of this folder and, over it, its usual override."""
    _read_dot_env(values, Path())
    named = values.variables.get("COMPOSE_FILE", "")
    if named:
        files = [one for one in named.split(values.variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep) if one]
        missing = [one for one in files if not Path(one).exists()]
        if missing:
            raise AppFileError(f"COMPOSE_FILE names {missing[0]}, which is not there", remedy="unset COMPOSE_FILE")
        return files
    found = [name for name in USUAL_NAMES if Path(name).is_file()]
    if not found:
        raise AppFileError(f"there is no {' or '.join(USUAL_NAMES[::2])} in this folder", remedy="miniorch run FILE")
    stem = found[0].partition(".")[0]
    over = [f"{stem}.override.{ending}" for ending in ("yaml", "yml") if Path(f"{stem}.override.{ending}").is_file()]
    return [found[0], *over[:1]]


def _read_dot_env(values: Values, folder: Path) -> None:
    """Know the variables of a `.env`, too. Raises `AppFileError`: all else might follow from a mistake in it."""
    values.variables = {**values.env_file(folder / ".env"), **values.variables}
    if values.problems:
        raise refusal(values.problems, ".env", {})


class _Files:
    """The files of one app: texts, folders, and their trees as one."""

    def __init__(self, paths: Sequence[str], environment: Mapping[str, str]) -> None:
        self.values = Values(environment)
        self.paths = list(paths) or _usual(self.values)
        self.first = self.paths[0]
        self.texts: dict[str, str] = {}
        self.version_1 = False
        self._bases: dict[str, Node] = {}
        self.folder = Path.cwd() if self.first == "-" else Path(self.first).resolve().parent
        _read_dot_env(self.values, self.folder)

    def root(self) -> Node:
        """All `-f` files and what they include, as one tree."""
        root = self._load(self.first, self.folder)
        for path in self.paths[1:]:
            root = merge(root, self._load(path, self.folder), self.values.count)
        return root

    def _load(self, path: str, folder: Path, named: Place | None = None, *, whole: bool = True) -> Node:
        """One file's tree in today's shape, with what it includes below it.

        `named`: where it is named. `whole`: and with what its services extend below them, which comes before other
        files are laid over it.
        """
        self.values.folders[path] = folder
        self.texts[path] = text = _text(path)
        if len(self.texts) > MAX_FILES:
            raise Refused(f"the app comes to more than {MAX_FILES} files", named, "use fewer files")
        root, problems = parse(text, path)
        self.values.problems += problems
        modern = _modern(root)
        if modern is not None:
            root, self.version_1 = modern, True
        include = root.value.get("include") if isinstance(root.value, dict) else None
        for item, name in self._included(include.node) if include else ():
            root = merge(self.other(name, item), root, self.values.count)
        return _with_bases(root, self) if whole else root

    def _included(self, node: Node) -> list[tuple[Node, str]]:
        found = []
        for item in node.value if isinstance(node.value, list) else [node]:
            inner = item.value.get("path") if isinstance(item.value, dict) else None
            item = inner.node if inner else item
            for one in item.value if isinstance(item.value, list) else [item]:
                found.append((one, self.values.text(one, "include")))
        return [(node, name) for node, name in found[: MAX_FILES + 1] if name]

    def other(self, name: str, node: Node, *, whole: bool = True) -> Node:
        """The tree of a file that is named inside another one; an empty one after a problem."""
        path = str(self.values.folders[node.place.file] / name)
        if path in self.texts:
            message = f"{shorten(name)} is included again, so the files go in a circle or name it twice"
            self.values.refuse("E0107", message, node.place, "include each file once")
        elif not os.path.isfile(path):
            message = f"there is no file {shorten(name, 80)}"
            self.values.refuse("E0109", message, node.place, "correct the path; it starts from this file's folder")
        else:
            return self._load(path, Path(path).resolve().parent, node.place, whole=whole)
        return Node({}, node.place)

    def base(self, name: str, node: Node) -> Node:
        """The tree of a file that a service extends; read once, however often it is named."""
        path = str(self.values.folders[node.place.file] / name)
        if path not in self._bases:
            self._bases[path] = self.other(name, node, whole=False)
        return self._bases[path]


def _text(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise AppFileError(f"there is no file {path}", remedy="ls *.yml *.yaml") from None
    except IsADirectoryError:
        inside = next((name for name in USUAL_NAMES if Path(path, name).is_file()), "app.yml")
        raise AppFileError(f"{path} is a folder", remedy=f"name the file in it: {Path(path, inside)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AppFileError(f"{path} cannot be read: {reason.lower()}", remedy=f"ls -l {path}") from None
    if len(data) > MAX_BYTES:
        raise AppFileError(f"{path} has more than {MAX_BYTES} bytes", remedy="split it into several apps")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{path} is not a text in UTF-8\n  --> {path}:{line}:1"
        kind = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise AppFileError(message, remedy=f"iconv -f {kind} -t utf-8 {path} > new.yml") from None


def _modern(root: Node) -> Node | None:
    """A file of version 1, with its services at the top, in today's shape; None if it is not of version 1."""
    if not isinstance(root.value, dict) or set(root.value) & (PARTS["file"].keys() - {"version"}):
        return None
    if not any(
        isinstance(one.node.value, dict) and {"image", "build"} & set(one.node.value) for one in root.value.values()
    ):
        return None
    others = {name: entry for name, entry in root.value.items() if name == "version" or name.startswith("x-")}
    services = {name: entry for name, entry in root.value.items() if name not in others}
    return Node({**others, "services": Entry(root.place, Node(services, root.place))}, root.place)


def _app(root: Node, files: _Files, name: str, images: Mapping[str, str], profiles: set[str]) -> AppFile:
    values = files.values
    top = Section(values, root, "file", "", "the file")
    app = name or values.variables.get("COMPOSE_PROJECT_NAME") or top["name"]
    if not LABEL.fullmatch(app or "app"):
        if app == values.variables.get("COMPOSE_PROJECT_NAME"):
            message = f"COMPOSE_PROJECT_NAME={shorten(app)}: is no DNS label"
            raise UsageError(message, remedy=f"export COMPOSE_PROJECT_NAME={as_label(app)}")
        place = top.entries["name"].node.place
        values.refuse("E0104", f'the app name "{shorten(app)}" is no DNS label', place, label_remedy(app))
    stem = "app" if files.first == "-" else Path(files.first).stem
    app = app or as_label(files.folder.name if re.fullmatch(r"(docker-)?compose(\..+)?", stem) else stem)
    services = _services(top, files)
    places = Places(values, set(_declared(top, "volume")), _file_sources(top), implicit=files.version_1)
    reader = ServiceReader(values, app, places, services, images)
    awake, asleep, known = _by_profile(services, values, profiles)
    keys = {}
    for one, entry in awake.items():
        keys[one] = Section(values, entry.node, "service", f"services.{one}", f"service {shorten(one)}")
    needs = {one: read_needs(one, section) for one, section in keys.items()}
    jobs = {other for own in needs.values() for other in own.to_complete()}
    specs = {one: reader.read(one, entry, keys[one], job=one in jobs) for one, entry in awake.items()}
    networks = {name: part["internal"] for name, part in _declared(top, "network").items()}
    specs = connect(values, specs, needs, asleep, {"default": False, **networks})
    for key, names in reader.unsaid.items() if "services" in top.entries else ():
        why = f"{shorten(', '.join(names))}: {UNSAID[key]}"
        if names:
            values.report.note(f"services.*.{key}", Verdict.DEFAULT, why, top.entries["services"].place)
    return AppFile(app, AppSpec(specs, tuple(sorted(places.declared))), values.report, known)


def _services(top: Section, files: _Files) -> dict[str, Entry]:
    """The services of the app."""
    values, place = files.values, top.node.place if top.node else None
    given, remedy = top.entries.get("services"), "services: {web: {image: nginx}}"
    entries = values.mapping(top.get("services"), "services", "web: {image: nginx}")
    entries = {name: entry for name, entry in entries.items() if not name.startswith("x-")}
    typo = any('"services"' in problem.hint for problem in values.problems)
    if given is None and top.node is not None and isinstance(top.node.value, dict | None) and not typo:
        values.refuse("E0105", "the file has no services", place, remedy)
    elif given is not None and not given.node.value:
        values.refuse("E0105", "services is empty", given.place, remedy)
    return entries


def _with_bases(root: Node, files: _Files) -> Node:
    """A file's tree with each of its services over the one that it extends."""
    services = root.value.get("services") if isinstance(root.value, dict) else None
    if services is None or not isinstance(root.value, dict) or not isinstance(services.node.value, dict):
        return root
    entries = {name: entry for name, entry in services.node.value.items() if not name.startswith("x-")}
    whole = {
        name: Entry(entry.place, _extended(name, entry.node, entries, files, ())) for name, entry in entries.items()
    }
    return replace(root, value={**root.value, "services": Entry(services.place, replace(services.node, value=whole))})


def _extended(name: str, node: Node, services: Mapping[str, Entry], files: _Files, chain: tuple[Place, ...]) -> Node:
    """A service over the one that it extends, which may extend another."""
    wish = node.value.get("extends") if isinstance(node.value, dict) else None
    if wish is None or len(files.values.problems) > SHOWN_AT_ONCE:  # what is refused anyway need not cost more
        return node
    values, what = files.values, f"service {shorten(name)}: extends"
    part = Section(values, wish.node, "extends", f"services.{name}.extends", what)
    other, file, named = part["service"], part["file"], part.get("service")
    if wish.place in chain:
        ring = sorted(chain[chain.index(wish.place) :], key=lambda place: (place.file, place.line))
        note = f"{ring[1]} is the next" if len(ring) > 1 else ""
        values.refuse("E0106", "services extend each other in a circle", ring[0], "delete this line", note=note)
        return node
    if len(chain) >= MAX_CHAIN:
        message = f"{what} leads through more than {MAX_CHAIN} services"
        values.refuse("E0103", message, wish.place, "write the keys of the last one here")
        return node
    if file:
        tree = files.base(file, wish.node).value
        below = tree.get("services") if isinstance(tree, dict) else None
        services = values.mapping(below.node, "services") if below else {}
        other = other if tree else ""
    base = services.get(other)
    if base is None:
        if other:
            message = f"{what} names {shorten(other)}, which is no service of {file or 'this file'}"
            remedy = name_remedy(other, services, name)
            values.refuse("E0106", message, (named or wish.node).place, remedy)
        return node
    values.report.note(f"services.{name}.extends", Verdict.HONOURED, "", wish.place)
    merged = merge(_extended(other, base.node, services, files, (*chain, wish.place)), node, values.count)
    if values.problems or not isinstance(merged.value, dict):
        return merged
    return replace(merged, value={key: entry for key, entry in merged.value.items() if key != "extends"})


def _by_profile(
    services: Mapping[str, Entry], values: Values, profiles: set[str]
) -> tuple[dict[str, Entry], dict[str, str], tuple[str, ...]]:
    """The services that run, those that do not with the profile that they want, and the names of all profiles."""
    wanted = profiles or set(filter(None, values.variables.get("COMPOSE_PROFILES", "").split(",")))
    awake, asleep, known = {}, {}, dict[str, None]()
    for name, entry in services.items():
        inner = entry.node.value.get("profiles") if isinstance(entry.node.value, dict) else None
        given = inner is not None and inner.node.value is not None
        own = values.texts(inner.node, f"service {shorten(name)}: profiles") if inner and given else ()
        if inner is None or not own or wanted & {*own, "*"} or "*" in wanted:
            awake[name] = entry
        else:
            why = f"left out; it runs with --profile {own[0]}"
            values.report.note(f"services.{name}.profiles", Verdict.HONOURED, why, inner.place)
            asleep[name] = own[0]
        known.update(dict.fromkeys(own))
    if asleep and not awake:
        name, profile = next(iter(asleep.items()))
        message = f"no service is left: all of them wait for a profile, {shorten(name)} for {shorten(profile)}"
        values.refuse("E0105", message, services[name].place, f"add --profile {shorten(profile)}")
    return awake, asleep, tuple(known)


def _declared(top: Section, kind: str) -> dict[str, Section]:
    """The declared volumes or networks."""
    found = {}
    for name, place, part in top.each(f"{kind}s"):
        found[name] = part
        if not NAME.fullmatch(name):
            refuse_name(top.values, kind, name, place)
    return found


def _file_sources(top: Section) -> dict[tuple[str, str], str]:
    """Secrets and configs: (kind, name) -> path; "" for one that is no file."""
    values, found = top.values, {}
    for kind in ("secrets", "configs"):
        for name, _, part in top.each(kind):
            node, file = part.get("file"), part["file"]
            path = os.path.realpath(values.path(file, node.place)) if node is not None and file else ""
            if node is not None and path and not os.path.isfile(path):
                message = f"{part.what}: there is no file {shorten(file, 80)}"
                values.refuse("E0109", message, node.place, f"write {shorten(file, 80)}")
            found[kind, name] = path
    return found
