"""README and walkthroughs, run as a reader would: every command, in order, on a machine of its own."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest
from node import TestNode
from pages import Step, steps

ROOT = Path(__file__).parents[2]
OTHERS = [ROOT / "README.md", ROOT / "docs/simulation.md", ROOT / "docs/state.md"]
PAGES = [*OTHERS, *sorted((ROOT / "docs/walkthroughs").glob("*.md"))]


@pytest.mark.root
@pytest.mark.docker
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_prints_what_the_page_says(node: TestNode, page: Path) -> None:
    found = steps(page)
    assert found, f"{page.name} has no console block"
    choice = ROOT / "examples/.env"  # make run chooses images for the node, not for whoever runs the tests
    there = choice.exists()
    try:
        for step in found:
            run(node, step)
    finally:
        run(node, Step("afterwards", "make clean YES=1", ""))
        if not there:
            choice.unlink(missing_ok=True)


def run(node: TestNode, step: Step) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    deadline = time.monotonic() + step.until_seconds
    while True:
        # Not as a part of the `make test` that may be running: make says more when it was started by make.
        alone = ["env", "-u", "MAKELEVEL", "-u", "MAKEFLAGS", "sh", "-c", step.command]
        done = node.run(alone, {"PATH": path}, timeout=300, check=False, cwd=ROOT)
        if done.returncode == step.exit_code and step.matches(done.stdout):
            return
        if time.monotonic() > deadline:
            said = f"ended with {done.returncode} and printed:\n{done.stdout}{done.stderr}"
            pytest.fail(f"{step.place}: $ {step.command}\n{said}\nthe page says:\n{step.expected}", pytrace=False)
        time.sleep(0.2)


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *PAGES, *sorted((ROOT / "docs").rglob("*.md"))]:
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
