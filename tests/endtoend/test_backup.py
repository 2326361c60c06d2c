"""All that is known is lost and comes back from a backup, and no container notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import SMALL, Machine
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

APP = SMALL.replace(
    '    command: ["sleep", "1000000"]',
    '    command: ["sh", "-c", "date > /data/born; exec sleep 1000000"]\n    volumes: ["data:/data"]',
)
WITH_VOLUME = APP + "volumes: {data: }\n"
SECRET = {"MINIORCH_PASSPHRASE": "correct horse"}
LOSE = "cd /var/lib/miniorch && rm -r state.db* authority.* net.json node"  # not the data in volumes


@pytest.fixture(scope="module")
def machine(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(node, tmp_path_factory.mktemp("backup"))
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def lives(machine: Machine) -> dict[str, str]:
    """Container -> id and the moment it was started."""
    names = sorted(machine.containers("small"))
    shape = "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}"
    return {name: machine.node.docker("inspect", "-f", shape, name).stdout for name in names}


def end_server(machine: Machine) -> None:
    pid = machine.pid("server")
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in _state(pid), 20, "the server has ended")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_lost_state_comes_back_and_no_container_is_touched(machine: Machine) -> None:
    machine.miniorch("run", machine.file(WITH_VOLUME))
    machine.miniorch("scale", "small/web=3")
    machine.settled("small", 4)
    before, version = lives(machine), machine.json("version")
    others = [machine.pid("net"), machine.pid("agent")]
    file = machine.folder / "cluster.backup"

    assert "needs a passphrase" in machine.miniorch("backup", str(file), code=2).stderr
    assert not file.exists()
    said = machine.miniorch("backup", str(file), env=SECRET).stdout
    assert "encrypted" in said
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"wget" not in file.read_bytes()
    refused = machine.miniorch("restore", str(file), env=SECRET, code=7)  # a server runs
    assert str(machine.pid("server")) in refused.stderr

    end_server(machine)
    machine.node.run(["sh", "-c", LOSE])
    wrong = machine.miniorch("restore", str(file), env={"MINIORCH_PASSPHRASE": "wrong"}, code=6)
    assert "passphrase is not the one" in wrong.stderr
    assert "restored" in machine.miniorch("restore", str(file), env=SECRET).stdout
    machine.miniorch("up")
    assert [machine.pid("net"), machine.pid("agent")] == others
    after = machine.json("version")
    assert after["cluster"] == version["cluster"]
    assert after["revision"] > version["revision"]

    machine.settled("small", 4)
    assert lives(machine) == before
    until(lambda: machine.fetch("http://127.0.0.1:8100/"), 20, "the published port answers")
    # Everybody follows the new store: a death, a wish.
    [dead] = [name for name in before if "-web.2-" in name]
    machine.node.docker("kill", dead)
    until(lambda: dead not in machine.containers("small") and len(machine.containers("small")) == 4, 30, "web.2 is new")
    machine.settled("small", 4)
    machine.miniorch("scale", "small/web=1")
    machine.settled("small", 2)
    [side] = [name for name in before if "-side.1-" in name]
    assert lives(machine)[side] == before[side]
