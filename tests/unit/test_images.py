"""Which images dockchat runs on (scripts/images.py), and how stand-ins are written (scripts/standins.py)."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import tarfile
from pathlib import Path

import pytest

import images
import standins

ROOT = Path(__file__).resolve().parents[2]
NO_AVX = "flags\t\t: fpu sse4_2 avx2x\n"
AVX = "flags\t\t: fpu avx sse4_2\n"


class FakeDocker(images.Docker):
    """A Docker with these images, whose registry gives nothing, or all."""

    def __init__(self, there: set[str], registry: bool = False) -> None:
        self.there, self.registry = there, registry
        self.loaded: list[Path] = []

    def has(self, image: str) -> bool:
        return image in self.there

    def has_standin(self, image: str) -> bool:
        return image in self.there

    def problem(self, image: str) -> str:
        return "" if self.registry or image in self.there else "no such host"

    def load(self, archive: Path) -> None:
        self.loaded.append(archive)
        self.there |= {standins.PYTHON, standins.MONGO, standins.BUSYBOX}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with an archive in it, so that nothing is made."""
    standins.archive_path(tmp_path).touch()
    return tmp_path


def test_public_images_are_used_where_the_registry_answers(cache: Path) -> None:
    docker, env = FakeDocker(set(), registry=True), cache / ".env"
    images.prepare(docker, env, cache, AVX)
    assert not env.exists()
    assert docker.loaded == []


def test_standins_are_loaded_and_named_in_the_file_where_it_does_not(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker, env = FakeDocker(set()), cache / ".env"
    images.prepare(docker, env, cache, AVX)
    assert images.parse(env.read_text()) == {"PYTHON_IMAGE": standins.PYTHON, "MONGO_IMAGE": standins.MONGO}
    assert docker.loaded == [standins.archive_path(cache)]
    said = capsys.readouterr().out
    assert "mongo:7 cannot be had from its registry (no such host)" in said
    assert "to go back to the public images, delete it" in said


def test_each_image_is_decided_for_itself(cache: Path) -> None:
    env = cache / ".env"
    images.prepare(FakeDocker({"mongo:7"}), env, cache, AVX)
    assert images.parse(env.read_text()) == {"PYTHON_IMAGE": standins.PYTHON}


def test_second_run_changes_nothing(cache: Path) -> None:
    docker, env = FakeDocker(set()), cache / ".env"
    images.prepare(docker, env, cache, AVX)
    before = env.read_text()
    images.prepare(docker, env, cache, AVX)
    assert env.read_text() == before
    assert len(docker.loaded) == 1


def test_standins_that_docker_has_lost_are_loaded_again(cache: Path) -> None:
    docker, env = FakeDocker(set()), cache / ".env"
    images.prepare(docker, env, cache, AVX)
    docker.there.clear()
    images.prepare(docker, env, cache, AVX)
    assert len(docker.loaded) == 2


def test_file_of_the_user_is_left_alone(cache: Path) -> None:
    docker, env = FakeDocker(set()), cache / ".env"
    env.write_text("MONGO_IMAGE=mongo:6\n")
    images.prepare(docker, env, cache, AVX)
    assert env.read_text() == "MONGO_IMAGE=mongo:6\n"
    assert docker.loaded == []


def test_processor_without_avx_gets_an_old_mongo_and_a_reason(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert images.choose({"mongo:7": "", "python:3.12-slim": ""}, avx=False) == {"MONGO_IMAGE": "mongo:4.4"}
    assert images.choose({"mongo:7": "gone", "python:3.12-slim": ""}, avx=False) == {"MONGO_IMAGE": standins.MONGO}
    assert "132" in images.AVX_NOTE


def test_only_x86_can_lack_avx() -> None:
    assert not images.has_avx(NO_AVX, "x86_64")
    assert images.has_avx(AVX, "x86_64")
    assert images.has_avx("Features: fp asimd\n", "aarch64")


def test_standin_has_exactly_the_packages_that_the_dockerfile_asks_for() -> None:
    pin = re.compile(r"^([a-z0-9-]+==[\w.]+)", re.M)
    asked = pin.findall((ROOT / "examples/dockchat/requirements.txt").read_text())
    assert asked == pin.findall((ROOT / "scripts/standins/dockchat.lock").read_text())


def test_archive_has_each_layer_once_and_configurations_that_name_them(tmp_path: Path) -> None:
    base, top = (_layer(tmp_path / f"{name}.tar", name) for name in ("base", "top"))
    one = standins.Image("one:1", "one", [base], ["sh"])
    two = standins.Image("two:1", "two", [base, top], ["serve"], {"Volumes": {"/data": {}}})
    standins.write_archive(tmp_path / "archive.tar", [one, two])
    with tarfile.open(tmp_path / "archive.tar") as tar:
        read = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    manifest = json.loads(read["manifest.json"])
    assert [entry["RepoTags"] for entry in manifest] == [["one:1"], ["two:1"]]
    assert len([name for name in read if name.endswith(".tar")]) == 2
    config = json.loads(read[manifest[1]["Config"]])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, top)]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]
    assert config["config"]["Cmd"] == ["serve"]
    assert config["config"]["Volumes"] == {"/data": {}}
    assert config["config"]["Labels"]["miniorch.standin"] == "two"


def test_scripts_can_be_executed() -> None:
    scripts = [ROOT / ".ci/run", *(ROOT / "scripts").glob("*.sh"), ROOT / "scripts/standins/mongosh"]
    assert [script.name for script in scripts if not script.stat().st_mode & stat.S_IXUSR] == []


def _layer(path: Path, content: str) -> Path:
    with tarfile.open(path, "w") as tar:
        standins._add_bytes(tar, content, content.encode())
    return path
