"""Which images dockchat runs on: the public ones, or stand-ins where no Docker registry answers.

The decision is made once and written to `examples/.env`, which `miniorch run` reads as Compose would. It is taken per
image: already there, or to be had from its registry -> the public one; else the stand-in (`scripts/standins.py`).
Without a file the public images are used; with one, whatever it says. Delete it, and the question is asked anew.

    .venv/bin/python scripts/images.py              decide, and make what is missing
    .venv/bin/python scripts/images.py --archive    print the archive of the stand-ins (needs no Docker)

Any Docker is fine: DOCKER_HOST is heeded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import standins

ENV_FILE = Path(__file__).resolve().parent.parent / "examples" / ".env"
CACHE = Path(os.environ.get("MINIORCH_CACHE", "/var/cache/miniorch"))
MARK = "# Written by make run"
OLD_MONGO = "mongo:4.4"
ASK_SECONDS, LOAD_SECONDS = 30, 300
AVX_NOTE = (
    "This processor has no AVX: MongoDB 5 and newer end at once with exit code 132 here. Using mongo:4.4 instead."
)


@dataclass(frozen=True)
class Wanted:
    variable: str  # the name that examples/dockchat.yml asks for
    public: str
    standin: str


WANTED = (Wanted("PYTHON_IMAGE", "python:3.12-slim", standins.PYTHON), Wanted("MONGO_IMAGE", "mongo:7", standins.MONGO))


def choose(problems: Mapping[str, str], avx: bool) -> dict[str, str]:
    """What goes into the file. `problems` says per public image why it cannot be had; "" means that it can."""
    choice = {wanted.variable: wanted.standin for wanted in WANTED if problems[wanted.public]}
    if not avx and "MONGO_IMAGE" not in choice:
        choice["MONGO_IMAGE"] = OLD_MONGO
    return choice


def render(choice: Mapping[str, str]) -> str:
    lines = [
        f"{MARK}: images for examples/dockchat.yml in place of the public ones.",
        "# To go back, delete this file.",
    ]
    return "\n".join([*lines, *(f"{name}={image}" for name, image in choice.items()), ""])


def parse(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def has_avx(cpuinfo: str, machine: str) -> bool:
    """True as well where the question makes no sense: only x86 has AVX."""
    flags = [line for line in cpuinfo.splitlines() if line.startswith("flags")]
    return machine != "x86_64" or not flags or " avx " in f"{flags[0]} "


class Docker:
    """The few things that are asked of Docker here."""

    def __init__(self) -> None:
        import docker

        self._errors = docker.errors
        self._client = docker.from_env(timeout=ASK_SECONDS)
        self._client.ping()

    def has(self, image: str) -> bool:
        try:
            self._client.images.get(image)
        except self._errors.ImageNotFound:
            return False
        return True

    def has_standin(self, image: str) -> bool:
        """It is there, and made by today's recipe."""
        recipe = standins.recipe()
        return self.has(image) and self._client.images.get(image).labels.get(standins.RECIPE_LABEL) == recipe

    def problem(self, image: str) -> str:
        """Why the registry does not give this image; "" when it does."""
        if self.has(image):
            return ""
        try:
            self._client.images.get_registry_data(image)
        except Exception as error:  # the SDK, requests and urllib3 have each an own tree of time-outs and refusals
            reason = getattr(error, "explanation", None) or str(error)
            return " ".join(str(reason).split())[-200:]
        return ""

    def load(self, archive: Path) -> None:
        self._client.api.timeout = LOAD_SECONDS
        with archive.open("rb") as file:
            self._client.images.load(file)

    def built(self) -> list[str]:
        """What the agent has built: the images of apps with `build:`."""
        tags = [tag for image in self._client.images.list("miniorch/*") for tag in image.tags]
        return [tag for tag in tags if tag.startswith("miniorch/")]

    def remove(self, image: str) -> None:
        if self.has(image):
            self._client.images.remove(image, force=True)


def say(text: str) -> None:
    print(f"images: {text}", flush=True)


def prepare(docker: Docker, env_file: Path, cache: Path, cpuinfo: str) -> None:
    """See the module's text. Ends with every image there, or to be had by a pull."""
    if env_file.exists():
        text = env_file.read_text()
        if not text.startswith(MARK):
            return say(f"{env_file.name} is yours; it is left as it is")
        choice = parse(text)
    else:
        choice = _decide(docker, cpuinfo)
    ours = {wanted.standin for wanted in WANTED} & set(choice.values())
    if not all(docker.has_standin(image) for image in ours):
        _timed(f"loading {', '.join(sorted(ours))}", lambda: docker.load(archive(cache)))
    if not env_file.exists() and choice:
        env_file.write_text(render(choice))
        owner = env_file.parent.stat()  # with sudo, the file is still that of the person who cloned the repository
        os.chown(env_file, owner.st_uid, owner.st_gid)
        say(f"wrote examples/{env_file.name}; to go back to the public images, delete it and run this again")
    return say(", ".join(choice.get(wanted.variable, wanted.public) for wanted in WANTED))


def archive(cache: Path) -> Path:
    """The archive of the stand-ins, made if it is not in the cache."""
    path = standins.archive_path(cache)
    if not path.exists():
        if not (shutil.which("mmdebstrap") and standins.static_busybox(cache).exists()):
            subprocess.run([Path(__file__).with_name("setup.sh"), "--standins"], check=True)
        what = "making stand-ins from Debian and Python packages (about a minute)"
        _timed(what, lambda: standins.make_archive(cache))
    return path


def remove(docker: Docker, env_file: Path, cache: Path) -> None:
    """Take the stand-ins, what was built on them, their archive and our file away again."""
    if env_file.exists() and env_file.read_text().startswith(MARK):
        env_file.unlink()
    for image in (*docker.built(), standins.PYTHON, standins.MONGO, standins.OLD_MONGO, standins.BUSYBOX):
        docker.remove(image)
    for path in (*cache.glob("standins*"), cache / "busybox"):
        path.unlink(missing_ok=True)


def _decide(docker: Docker, cpuinfo: str) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:
        public = [wanted.public for wanted in WANTED]
        problems = dict(zip(public, pool.map(docker.problem, public), strict=True))
    for image, problem in problems.items():
        if problem:
            say(f"{image} cannot be had from its registry ({problem})")
    choice = choose(problems, has_avx(cpuinfo, platform.machine()))
    if choice.get("MONGO_IMAGE") == OLD_MONGO:
        say(AVX_NOTE)
    return choice


def _timed(what: str, work: Callable[[], object]) -> None:
    say(f"{what} ...")
    start = time.monotonic()
    work()
    say(f"done in {time.monotonic() - start:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Find or make the images that dockchat runs on.")
    parser.add_argument(
        "--archive", action="store_true", help="print the path of the stand-ins' archive, made if need be"
    )
    parser.add_argument("--remove", action="store_true", help="remove stand-ins and built images, and the cache")
    options = parser.parse_args()
    try:
        if options.archive:
            with contextlib.redirect_stdout(sys.stderr):
                path = archive(CACHE)
            print(path)
            return 0
        docker = Docker()
        if options.remove:
            remove(docker, ENV_FILE, CACHE)
        else:
            prepare(docker, ENV_FILE, CACHE, Path("/proc/cpuinfo").read_text())
    except subprocess.CalledProcessError:
        return 1  # setup.sh has said why
    except standins.CannotMake as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"images: {error}; run it as root (sudo)", file=sys.stderr)
        return 6
    except Exception as error:
        if not type(error).__module__.startswith(("docker", "requests", "urllib3")):
            raise
        print(f"images: Docker does not answer: {error}\nhelp: make setup", file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
