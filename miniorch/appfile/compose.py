"""A Compose file to an `AppSpec`, and no key dropped in silence.

The problem: an orchestrator that ignores `depends_on` without a word (Swarm did for years) costs its users days. The
idea: every key is either read here or refused with its place. Reading never stops at the first problem, and nothing is
decided here: the result is plain data, the same as any other reader would make.

Read: `name`, `services`, `volumes`, `x-...`; of a service what `SERVICE_KEYS` in `service.py` lists. Who does this for
real: compose-go. Where we differ: one file, and what miniorch cannot do yet is an error and not a warning.
Next file: `miniorch/appfile/service.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miniorch.appfile.problems import Place, refusal
from miniorch.appfile.service import LABEL_REMEDY, Services
from miniorch.appfile.values import Values
from miniorch.appfile.variables import read_env_file
from miniorch.appfile.yaml import MAX_BYTES, Node, Refused, parse, shorten
from miniorch.errors import AppFileError, UsageError
from miniorch.model import LABEL, AppSpec

TOP_KEYS = ("name", "services", "volumes")
# Keys of Compose that people will have in their files, and what to do about them here.
ADVICE = {
    "version": "delete it; Compose has not needed it since 2020",
    "restart": "delete it; miniorch always restarts what ends",
    "container_name": "delete it; every task has a name of its own: miniorch ps",
    "networks": "delete it; the services of an app reach each other by name",
    "links": "delete it; the services of an app reach each other by name",
    "expose": "delete it; the services of an app reach each other on every port",
    "env_file": "write the values below environment",
    "scale": "write it as deploy.replicas",
    "secrets": "delete it; secrets come later",
    "configs": "delete it; configs come later",
}
VOLUME_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,38}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class AppFile:
    """What a file says: the app's name and its spec."""

    name: str
    spec: AppSpec


def read_app_file(
    path: str, environment: Mapping[str, str], *, name: str = "", images: Mapping[str, str] | None = None
) -> AppFile:
    """Read an app file. `images` replaces the images of services by name, `name` the app's name.

    Raises `AppFileError` with all that is wrong with the file, `UsageError` for an option that does not fit it.
    """
    if name and not LABEL.fullmatch(name):
        raise UsageError(f"--name {shorten(name)}: {LABEL_REMEDY}")
    text = _read(path)
    folder = Path(path).resolve().parent
    values = Values({**read_env_file(folder / ".env"), **environment}, ADVICE)
    try:
        root, problems = parse(text)
        app = _file(root, values, folder, name or "", Path(path).stem, dict(images or {}))
        problems += values.problems
    except Refused as refused:
        raise refusal([refused.problem], path, text) from None
    if problems:
        raise refusal(problems, path, text)
    strangers = sorted(set(images or {}) - set(app.spec.services))
    if strangers:
        known = ", ".join(app.spec.services)
        raise UsageError(f"--image {strangers[0]}=...: {path} has no service {strangers[0]}; it has {known}")
    return app


def _read(path: str) -> str:
    try:
        data = Path(path).read_bytes() if Path(path).stat().st_size <= MAX_BYTES else None
    except FileNotFoundError:
        raise AppFileError(f"there is no file {path}", remedy="ls *.yml") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AppFileError(f"{path} cannot be read: {reason.lower()}") from None
    if data is None:
        raise AppFileError(f"{path} has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AppFileError(f"{path} is not a text in UTF-8\n  --> {path}:{line}:1") from None


def _file(root: Node, values: Values, folder: Path, name: str, stem: str, images: dict[str, str]) -> AppFile:
    top = values.mapping(root, "the file", TOP_KEYS)
    app = name
    if not app and "name" in top:
        node = top["name"].node
        app = values.text(node, "name")
        if app and not LABEL.fullmatch(app):
            values.refuse("E0104", f'the app name "{shorten(app)}" is no DNS label', node.place, LABEL_REMEDY)
    app = app or as_label(stem)
    volumes = _volumes(top["volumes"].node, values) if "volumes" in top else {}
    reader = Services(values, folder, app, volumes, images)
    if "services" in top:
        services = reader.read(top["services"])
    else:
        services = {}
        if isinstance(root.value, dict) and not values.problems:  # else a typo says it better
            values.refuse("E0105", "the file has no services", root.place, "begin with: services:")
    return AppFile(app, AppSpec(services, tuple(sorted(volumes))))


def _volumes(node: Node, values: Values) -> dict[str, Place]:
    """The declared volumes: each a name with an empty body."""
    if node.value is None:
        return {}
    found = {}
    for name, entry in values.mapping(node, "volumes").items():
        if not VOLUME_NAME.fullmatch(name):
            values.refuse("E0104", f'the volume name "{shorten(name)}" cannot be used', entry.place, LABEL_REMEDY)
        if entry.node.value is not None:
            for key, inner in values.mapping(entry.node, f"volume {name}").items():
                if not key.startswith("x-"):
                    values.refuse(
                        "E0102", f'volume {name}: the key "{shorten(key)}" is not read', inner.place, f"write {name}:"
                    )
        found[name] = entry.place
    return found


def as_label(text: str) -> str:
    """A file's stem as an app name: `My App` is `my-app`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "app"
