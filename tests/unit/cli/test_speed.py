"""The command line is quick because of what it does not import. benchmarks/ measures times; imports cannot flake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_api import FakeApi, a_task

HEAVY = ("asyncio", "rich", "fastapi", "pydantic", "docker", "uvicorn", "yaml", "httpx", "miniorch.state")
PROBE = """
import sys
from miniorch.cli.main import main
sys.argv = ["miniorch", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(sys.modules), sep="\\n", file=sys.stderr)
"""


def imported(tmp_path: Path, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env={**os.environ, "MINIORCH_RUN_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["ps"], ["services"], ["events"], ["version"]])
def test_quick_commands_import_nothing_heavy(api: FakeApi, tmp_path: Path, command: list[str]) -> None:
    api.lists["tasks"] = [a_task(number) for number in range(100)]
    assert imported(tmp_path, *command) & set(HEAVY) == set()


def test_help_does_not_even_import_the_client(tmp_path: Path) -> None:
    assert "miniorch.client" not in imported(tmp_path, "--help")
