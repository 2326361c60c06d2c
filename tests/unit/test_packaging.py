"""miniorch is an application in an environment of its own (docs/decisions/0001-packaging.md)."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_claims_one_of_our_names(name: str) -> None:
    # An editable install lists no files, so `packages_distributions` may not name us at all. Nobody else may be named.
    claimed = set(metadata.packages_distributions().get(name, []))
    owners = {
        found.metadata["Name"] for found in metadata.distributions() for file in found.files or [] if _top(file) == name
    }
    assert (claimed | owners) <= {"miniorch"}


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_ours_is_imported_from_this_repository(name: str) -> None:
    assert Path(__import__(name).__path__[0]) == ROOT / name


def test_installed_version_is_that_of_the_project_file() -> None:
    assert metadata.version("miniorch") == PROJECT["project"]["version"]


def test_every_dependency_is_locked_with_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    locked = dict(re.findall(r"^([a-z0-9._-]+)==\S+ \\\n\s+(--hash=sha256:\w+)", lock, re.M))
    assert {re.split(r"[<>=]", name)[0] for name in wanted} <= set(locked)


def _top(file: metadata.PackagePath) -> str:
    return file.parts[0].removesuffix(".py")


def test_every_benchmark_looks_for_packages_in_the_root_before_its_own_folder() -> None:
    """There `scheduler.py` stands, and whoever starts a benchmark by its path would have that for the package."""
    for file in sorted((ROOT / "benchmarks").glob("*.py")):
        if file.stem == "yardstick":
            continue  # a part of one
        assert re.search(r"^sys\.path(\.insert\(0|\[:0\])", file.read_text(), re.M), file.name
