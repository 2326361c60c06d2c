"""Images made from Debian and Python packages, for machines that reach no Docker registry.

The problem: dockchat wants a Python image and MongoDB, and a classroom may reach neither. The idea: an image is nothing
but a list of tar files (layers) and a JSON file that says what to start; so it can be written without Docker. One
bootstrap of Debian gives the base, a second tar on top the stand-in for MongoDB: `nx-27017`, a server that speaks
MongoDB's wire protocol and keeps its data in SQLite. It is *not* MongoDB, and its image's name says so.

All of them go into one archive in the format of `docker save`, because there images share their layers; the archive is
kept in the cache and its name carries a digest of the recipe. Who does this for real: debuerreotype makes Docker's
Debian images in much the same way. Next file: `scripts/images.py`, which decides whether stand-ins are needed at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "standins"
PYTHON = "miniorch-standin/python3:bookworm"
MONGO = "miniorch-standin/mongo:nx-27017"
OLD_MONGO = f"{MONGO}-smallfiles"
BUSYBOX = "miniorch-standin/busybox:1"
RECIPE_LABEL = "miniorch.standin.recipe"
SUITE, PYTHON_VERSION = "bookworm", "3.11"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Man pages, translations and documents are half of a small Debian, and nobody reads them in a container.
SLIM = ["man", "info", "locale", "doc"]
PACKAGES = ["python3", "python3-venv"]
# Root of the image is "$1". A virtual environment in /usr/local gives `python` and `pip` where python:slim has them.
HOOKS = [
    'chroot "$1" python3 -m venv /usr/local',
    'rm -rf "$1"/var/cache/apt/*.bin "$1"/var/log/apt "$1"/var/log/*.log "$1"/root/.cache',
]


class CannotMake(Exception):
    """Stand-ins cannot be made here. The message is for a person."""


@dataclass(frozen=True)
class Image:
    name: str
    stands_for: str
    layers: Sequence[Path]  # tars of files, the base first
    command: Sequence[str]
    more: dict[str, Any] = field(default_factory=dict)  # further keys of the image's configuration


def recipe() -> str:
    """A digest of all that decides what is in the stand-ins; every image carries it as a label."""
    digest = hashlib.sha256(platform.machine().encode())
    for file in sorted([Path(__file__), *RECIPE.iterdir()]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def archive_path(cache: Path) -> Path:
    """Where the archive of today's recipe is, or would be. Another recipe has another name."""
    return cache / f"standins-{recipe()}.tar"


def make_archive(cache: Path) -> Path:
    """The archive with all stand-ins, made if it is not there (a minute, root). `CannotMake` says why not."""
    done = archive_path(cache)
    if done.exists():
        return done
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "standins.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second one waits here, and then finds the archive
        if not done.exists():
            _make(done)
    return done


def _make(done: Path) -> None:
    for old in done.parent.glob("standins-*"):  # archives of older recipes, and what an interrupted run has left
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    with tempfile.TemporaryDirectory(prefix="standins-", dir=done.parent) as folder:
        scratch = Path(folder)
        python, mongo = _python_layers(scratch)
        busybox = _busybox_layer(scratch, done.parent)
        unfinished = scratch / done.name
        write_archive(unfinished, _images(python, mongo, busybox))
        unfinished.replace(done)


def write_archive(target: Path, images: Sequence[Image]) -> None:
    """What `docker save` writes: each layer once, a configuration per image, and `manifest.json` that ties them."""
    # A layer's diff id is the digest of its tar: that is how Docker knows that two images share it.
    digests = {path: _digest(path) for image in images for path in image.layers}
    manifest = []
    with tarfile.open(target, "w") as tar:
        for path, digest in digests.items():
            tar.add(path, f"{digest}.tar")
        for image in images:
            config = _config(image, [digests[path] for path in image.layers])
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add_bytes(tar, name, config)
            layers = [f"{digests[path]}.tar" for path in image.layers]
            manifest.append({"Config": name, "RepoTags": [image.name], "Layers": layers})
        _add_bytes(tar, "manifest.json", json.dumps(manifest).encode())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _images(python: Path, mongo: Path, busybox: Path) -> list[Image]:
    data: dict[str, Any] = {"Volumes": {"/data/db": {}}, "ExposedPorts": {"27017/tcp": {}}}
    data["Entrypoint"] = ["mongod-entrypoint"]
    serve = ["nx-27017", "--host", "0.0.0.0", "--data-dir", "/data/db", "--log-file", "/dev/stdout"]
    return [
        Image(PYTHON, "python:slim", [python], ["python3"]),
        Image(MONGO, "mongo", [python, mongo], serve, data),
        Image(OLD_MONGO, "mongo:4.0", [python, mongo], serve, {**data, "Env": [f"PATH={PATH}", "SMALLFILES=1"]}),
        Image(BUSYBOX, "busybox", [busybox], ["sh"]),
    ]


def _config(image: Image, digests: Sequence[str]) -> bytes:
    labels = {
        "miniorch.standin": image.stands_for,
        RECIPE_LABEL: recipe(),
        "org.opencontainers.image.description": f"A stand-in for {image.stands_for}, made by scripts/standins.py",
    }
    run = {"Env": [f"PATH={PATH}"], "Cmd": list(image.command), "Labels": labels, **image.more}
    layers = {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}
    created = datetime.now(UTC).isoformat()
    whole = {
        "created": created,
        "os": "linux",
        "architecture": MACHINES[platform.machine()],
        "config": run,
        "rootfs": layers,
    }
    return json.dumps(whole, sort_keys=True).encode()


def _python_layers(scratch: Path) -> tuple[Path, Path]:
    """Debian with Python and dockchat's packages; on top of it what the stand-in for MongoDB needs."""
    if platform.machine() not in MACHINES:
        raise CannotMake(f"stand-ins are made for {' and '.join(MACHINES)}, and this is {platform.machine()}")
    wheels, mongo, base = scratch / "wheels", scratch / "mongo.tar", scratch / "base.tar"
    for lock in ("dockchat", "mongo"):
        _fetch_wheels(RECIPE / f"{lock}.lock", wheels)
    install = "/usr/local/bin/pip install -q --no-index --find-links /wheels --require-hashes --no-cache-dir"
    site = f"/layer/usr/local/lib/python{PYTHON_VERSION}/site-packages"
    hooks = [
        *HOOKS[:1],
        f'mkdir "$1"/wheels "$1"/layer && cp {wheels}/* {RECIPE}/*.lock "$1"/wheels',
        f'chroot "$1" {install} -r /wheels/dockchat.lock',
        # Packages of the second layer go to a folder of their own, so that the base does not have them.
        f'chroot "$1" {install} --target {site} -r /wheels/mongo.lock',
        f'mkdir -p "$1"/layer/data/db "$1"/layer/usr/local/bin && mv "$1"{site}/bin/* "$1"/layer/usr/local/bin/',
        f'cp {RECIPE}/mongosh {RECIPE}/mongod-entrypoint "$1"/layer/usr/local/bin/',
        f'tar -C "$1"/layer -cf {mongo} data usr',
        'rm -r "$1"/wheels "$1"/layer',
        *HOOKS[1:],
    ]
    options = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in SLIM]
    options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io"]
    options += ['--aptopt=Acquire::Languages "none"', f"--include={','.join(PACKAGES)}"]
    options += [f"--customize-hook={hook}" for hook in hooks]
    mirror = [os.environ["MINIORCH_DEBIAN_MIRROR"]] if "MINIORCH_DEBIAN_MIRROR" in os.environ else []
    _run(["mmdebstrap", "--variant=apt", *options, SUITE, str(base), *mirror])
    return base, mongo


def _fetch_wheels(lock: Path, target: Path) -> None:
    """On this machine and not in the image: there pip would not know this machine's proxies and certificates."""
    wanted = ["--python-version", PYTHON_VERSION, "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    wanted += [
        "--platform",
        f"manylinux2014_{platform.machine()}",
        "--platform",
        f"manylinux_2_28_{platform.machine()}",
    ]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes"]
    _run([*pip, *wanted, "-d", str(target), "-r", str(lock)])


def _busybox_layer(scratch: Path, cache: Path) -> Path:
    """One static program and a symbolic link per command."""
    busybox = static_busybox(cache)
    if not busybox.exists():
        raise CannotMake("busybox is missing: scripts/setup.sh --standins gets it (package busybox-static)")
    layer = scratch / "busybox.tar"
    with tarfile.open(layer, "w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        _add_bytes(tar, "bin/busybox", busybox.resolve().read_bytes(), mode=0o755)
        for command in _run([str(busybox), "--list"]).split():
            if command != "busybox":
                entry = tarfile.TarInfo(f"bin/{command}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return layer


def static_busybox(cache: Path) -> Path:
    """Where it should be. Beside Debian's other, dynamic busybox, setup.sh puts a static one into the cache."""
    kept = cache / "busybox"
    return kept if kept.exists() else Path("/bin/busybox")


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _run(argv: Sequence[str]) -> str:
    """Its output; `CannotMake` with the last lines when it fails."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotMake(f"{argv[0]} is missing: scripts/setup.sh --standins installs it") from None
    if done.returncode != 0:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise CannotMake(f"{argv[0]} ended with {done.returncode}; its last lines:\n  {last}")
    return done.stdout
