"""The real command line, with the sockets of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_api import Cli, FakeApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    server = FakeApi(tmp_path / "api.sock")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `miniorch` as a user would. `env` is added to the environment; the sockets are those of the test."""

    def call(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        places = {"MINIORCH_RUN_DIR": str(tmp_path), "MINIORCH_STATE_DIR": str(tmp_path / "state")}
        return subprocess.run(
            [sys.executable, "-m", "miniorch.cli.main", *arguments],
            env={**os.environ, **places, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call
