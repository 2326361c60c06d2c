"""The real command line, with the sockets of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_api import Cli, FakeApi, Start


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    server = FakeApi(tmp_path / "api.sock")
    server.start()
    yield server
    server.stop()


def surroundings(tmp_path: Path) -> dict[str, str]:
    """The environment of a command: the sockets of the test, and no colours or terminal of whoever runs the tests."""
    asides = ("NO_COLOR", "FORCE_COLOR", "ACCESSIBLE", "MINIORCH_DEBUG", "COMPOSE_PROFILES")
    places = {"MINIORCH_RUN_DIR": str(tmp_path), "MINIORCH_STATE_DIR": str(tmp_path / "state")}
    places["MINIORCH_COMPLETION_SECONDS"] = "20"  # whether names come is asked here, and not how soon
    return {**{name: value for name, value in os.environ.items() if name not in asides}, **places}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `miniorch` in the background, with pipes; what still runs at the end is ended."""
    started = []

    def call(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "miniorch.cli.main", *arguments],
            env=surroundings(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `miniorch` as a user would. `env` is added to the environment; the sockets are those of the test."""

    def call(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "miniorch.cli.main", *arguments],
            env={**surroundings(tmp_path), **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call
