"""Reading what an engine is told to build, and what it says while it pulls and builds. Pure: lines in, a sentence out.

Docker streams JSON objects: for a pull several per layer, for a build its whole output. People want one short line
("pulling mongo:7, 34 of 210 MB"), and when it fails the reason and whether a registry answers at all, for that decides
what to do next.
"""

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from miniorch.errors import EngineError

OUTPUT_LINES = 20
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)")
STEP = re.compile(r"Step (\d+/\d+) : (.*)")
NO_ANSWER = (
    "no such host", "connection refused", "network is unreachable", "i/o timeout", "no route to host", "timeout",
    "server misbehaving", "temporary failure in name resolution", "cannot assign requested address", "tls:", "x509:",
)  # fmt: skip
NO_SUCH_IMAGE = ("not found", "manifest unknown", "access denied", "does not exist", "unauthorized")


def bases(dockerfile: str, args: Mapping[str, str]) -> list[str]:
    """The images that a build begins with: each FROM that is no stage of its own, with the values of its ARGs."""
    values: dict[str, str] = {}
    stages, found = {"scratch", ""}, []
    for line in dockerfile.splitlines():
        instruction, *words = line.split() or [""]
        words = [word for word in words if not word.startswith("--")]
        if instruction.upper() == "ARG" and words:
            name, _, default = words[0].partition("=")
            values[name] = args.get(name, default.strip("\"'"))
        elif instruction.upper() == "FROM" and words:
            found.append(VARIABLE.sub(lambda one: values.get(one[1] or one[3], "") or one[2] or "", words[0]))
            found = [image for image in found if image not in stages]
            stages.update(words[2:3])
    return list(dict.fromkeys(found))


class PullProgress:
    """The sum over all layers of an image. `error` is the engine's, as soon as there is one."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, tuple[int, int]] = {}
        self.error = ""

    def feed(self, event: Mapping[str, Any]) -> str:
        """The line to show after this event."""
        self.error = str(event.get("error", self.error))
        detail = event.get("progressDetail") or {}
        layer, status = str(event.get("id", "")), event.get("status")
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete") and layer in self._layers:
            total = self._layers[layer][1]
            self._layers[layer] = (total, total)
        done, total = (sum(amounts) for amounts in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        if not total:
            return f"pulling {self._image}"
        return f"pulling {self._image}, {done // 1_000_000} of {total // 1_000_000} MB"

    def failure(self) -> EngineError:
        return pull_error(self._image, self.error or "the pull ended without an image")


class BuildProgress:
    """The step that a build is at, and its last lines."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._step = ""
        self._tail: deque[str] = deque(maxlen=OUTPUT_LINES)
        self.error = ""

    def feed(self, event: Mapping[str, Any]) -> str:
        """The line to show after this event."""
        self.error = str(event.get("error", self.error)).strip()
        for line in str(event.get("stream", "")).splitlines():
            if not line.strip():
                continue
            step = STEP.match(line)
            if step:
                self._step = f"step {step[1]}: {step[2]}"
            self._tail.append(line.rstrip())
        return f"building {self._image}" + (f", {self._step[:100]}" if self._step else "")

    def failure(self) -> EngineError:
        """The cause in one line, then the last output."""
        where = f" in {self._step}" if self._step else ""
        return EngineError("\n".join([f"the build of {self._image} failed{where}: {self.error}", *self._tail]))


def pull_error(image: str, said: str) -> EngineError:
    """Why an image is not to be had, from the engine's own words."""
    registry = registry_of(image)
    text = said.lower()
    if any(sign in text for sign in NO_SUCH_IMAGE) and "no such host" not in text:
        return EngineError(f"the image {image} is not to be had: {registry} answers, and has no such image ({said})")
    if any(sign in text for sign in NO_ANSWER):
        return EngineError(
            f"the image {image} is not to be had: it is not on this machine, and {registry} does not answer ({said})"
        )
    return EngineError(f"the image {image} is not to be had: {registry} said: {said}")


def registry_of(image: str) -> str:
    """The host that an image name points to."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return f"the registry {first}"
    return "Docker Hub"


def start_error(said: str) -> EngineError | None:
    """A start that failed because of the command itself; None if it was something else."""
    text = said.lower()
    if "executable file not found" in text or ("exec" in text and "no such file or directory" in text):
        named = re.search(r'exec: \\?"([^"\\]+)', said)
        return EngineError(f"exit code 127: command not found in the image{f': {named[1]}' if named else ''}")
    if "exec" in text and "permission denied" in text:
        return EngineError("exit code 126: the command is there but cannot be executed")
    return None
