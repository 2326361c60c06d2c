"""The example of the README, end to end: a message is posted, its database dies, and the message is still there.

On stand-in images, so that it needs no Docker registry. They are made once (a minute) and kept in the cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine
from node import TestNode, until

import images
import standins

pytestmark = [pytest.mark.root, pytest.mark.docker]

ROOT = Path(__file__).resolve().parents[2]
STANDINS = {"PYTHON_IMAGE": standins.PYTHON, "MONGO_IMAGE": standins.MONGO}
APP = str(ROOT / "examples/dockchat.yml")
PAGE = "http://127.0.0.1:5000/"


@pytest.fixture(scope="module")
def loaded(node: TestNode) -> TestNode:
    """The node, with today's stand-ins."""
    label = f'{{{{index .Config.Labels "{standins.RECIPE_LABEL}"}}}}'
    for image in (standins.PYTHON, standins.MONGO, standins.BUSYBOX):
        if node.docker("image", "inspect", "-f", label, image, check=False).stdout.strip() != standins.recipe():
            node.docker("load", "-i", str(images.archive(images.CACHE)), timeout=120)
    return node


@pytest.fixture(scope="module")
def dockchat(loaded: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(loaded, tmp_path_factory.mktemp("dockchat"))
    machine.miniorch("run", APP, env=STANDINS)
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def messages(machine: Machine) -> list[dict[str, str]] | None:
    """What GET /messages says; None while there is no answer."""
    answer = machine.fetch(f"{PAGE}messages")
    return json.loads(answer) if answer else None


def test_page_answers_through_the_published_port_by_either_replica(dockchat: Machine) -> None:
    hosts = {re.search(r"Answered by <code>([^<]+)", dockchat.fetch(PAGE))[1] for _ in range(8)}  # type: ignore[index]
    assert len(hosts) == 2


def test_message_is_there_after_its_database_was_killed(dockchat: Machine) -> None:
    page = dockchat.fetch(f"{PAGE}messages", "name=ann&text=%3Cb%3Ehello%3C%2Fb%3E")
    assert "&lt;b&gt;hello&lt;/b&gt;" in page
    [old] = [name for name in dockchat.containers("dockchat") if "-db.1-" in name]
    dockchat.node.docker("kill", old)
    found = until(lambda: messages(dockchat), 30, "the messages are shown again", pause=0.3)
    assert [message["text"] for message in found] == ["<b>hello</b>"]
    [new] = [name for name in dockchat.containers("dockchat") if "-db.1-" in name]
    assert new != old


def test_second_run_changes_nothing(dockchat: Machine) -> None:
    before = dockchat.containers("dockchat")
    assert "nothing has changed" in dockchat.miniorch("run", APP, env=STANDINS).stdout
    assert dockchat.containers("dockchat") == before


def test_standin_for_mongosh_knows_the_ping_and_says_what_it_is(dockchat: Machine) -> None:
    [db] = [name for name in dockchat.containers("dockchat") if "-db.1-" in name]
    ping = ["exec", db, "mongosh", "--quiet", "--eval", "quit(db.adminCommand({ping: 1}).ok ? 0 : 1)"]
    dockchat.node.docker(*ping)
    refused = dockchat.node.docker("exec", db, "mongosh", "--eval", "db.messages.find()", check=False)
    assert refused.returncode == 1
    assert "stand-in" in refused.stderr


def test_standin_busybox_runs(loaded: TestNode) -> None:
    assert loaded.docker("run", "--rm", standins.BUSYBOX, "echo", "hello").stdout == "hello\n"
