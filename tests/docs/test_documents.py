"""README and walkthroughs, run as a reader would: every command, in order, on a machine of its own."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from node import TestNode
from pages import Step, steps

from miniorch.lab.plan import Place

NOTHING: Mapping[str, str] = MappingProxyType({})
ROOT = Path(__file__).parents[2]
OTHERS = [ROOT / "README.md", ROOT / "docs/simulation.md", ROOT / "docs/state.md"]
WALKTHROUGHS = sorted((ROOT / "docs/walkthroughs").glob("*.md"))
LAB_PAGES = [page for page in WALKTHROUGHS if "miniorch lab up" in page.read_text()]
PAGES = [*OTHERS, *(page for page in WALKTHROUGHS if page not in LAB_PAGES)]


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_prints_what_the_page_says(node: TestNode, page: Path) -> None:
    choice = ROOT / "examples/.env"  # make run chooses images for the node, not for whoever runs the tests
    there = choice.exists()
    try:
        for step in steps(page):
            run(node, step)
    finally:
        run(node, Step("afterwards", "make clean YES=1", ""))
        if not there:
            choice.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path) -> Iterator[str]:
    """The name for a lab on the test node. Its engines' disks stay in the cache."""
    name = f"d{os.getpid()}"
    disks = data_root.with_name(f"{data_root.name}-lab")
    disks.mkdir(exist_ok=True)
    state = f"/var/lib/{Place(name).tag}"
    node.run(["mkdir", state])
    node.run(["mount", "--bind", str(disks), state])
    yield name
    node.run(["umount", state])


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.parametrize("page", LAB_PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_about_a_cluster_prints_what_the_page_says(
    node: TestNode, lab: str, page: Path
) -> None:
    try:
        for step in steps(page):
            run(node, step, {"MINIORCH_LAB": lab})
    finally:
        run(node, Step("afterwards", "rm -f examples/mine.*; miniorch lab down", ""), {"MINIORCH_LAB": lab})


@pytest.mark.root
def test_network_made_by_hand_is_as_its_page_says(rights: None) -> None:
    with TestNode(name="hand") as node:
        for step in steps(ROOT / "docs/network.md"):
            run(node, step)
        assert node.run(["ip", "netns", "list"]).stdout == ""


def run(node: TestNode, step: Step, environment: Mapping[str, str] = NOTHING) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    deadline = time.monotonic() + step.until_seconds
    while True:
        # Not as a part of the `make test` that may be running: make says more when it was started by make.
        alone = ["env", "-u", "MAKELEVEL", "-u", "MAKEFLAGS", "sh", "-c", step.command]
        done = node.run(alone, {"PATH": path, **environment}, timeout=300, check=False, cwd=ROOT)
        if done.returncode == step.exit_code and step.matches(done.stdout):
            return
        if time.monotonic() > deadline:
            said = f"ended with {done.returncode} and printed:\n{done.stdout}{done.stderr}"
            pytest.fail(f"{step.place}: $ {step.command}\n{said}\nthe page says:\n{step.expected}", pytrace=False)
        time.sleep(0.2)


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [
        ROOT / "ARCHITECTURE.md",
        ROOT / "CHANGELOG.md",
        *PAGES,
        *LAB_PAGES,
        *sorted((ROOT / "docs").rglob("*.md")),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [
        path.parent
        for package in ("miniorch", "agent", "scheduler", "netplugin")
        for path in (ROOT / package).rglob("__init__.py")
    ]
    assert [str(room.relative_to(ROOT)) for room in rooms if f"`{room.relative_to(ROOT)}/`" not in text] in (
        [],
        ["miniorch"],
    )
