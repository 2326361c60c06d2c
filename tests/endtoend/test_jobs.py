"""A set-up job, the service that waits for it, and an alias, on a real Docker Engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

APP = """\
name: jobs
services:
  setup:
    image: busybox:1
    command: ["sh", "-c", "date +%s%N >> /data/runs; exit CODE"]
    restart: "no"
    volumes: ["data:/data"]
  web:
    image: busybox:1
    command: ["httpd", "-f", "-p", "8000", "-h", "/data"]
    volumes: ["data:/data"]
    networks:
      default:
        aliases: [files]
    depends_on:
      setup:
        condition: service_completed_successfully
volumes:
  data:
"""


@pytest.fixture
def machine(node: TestNode, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(node, tmp_path)
    machine.miniorch("up")
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def runs(machine: Machine) -> int:
    """How often the job has run, as the page behind the alias says."""
    return len(machine.miniorch("exec", "jobs/web", "--", "wget", "-qO-", "http://files:8000/runs").stdout.split())


def test_a_job_runs_once_for_each_change_or_restart_and_who_waits_for_it_says_so(machine: Machine) -> None:
    failed = machine.miniorch("run", machine.file(APP.replace("CODE", "3")), code=1)
    assert "jobs/setup.1 failed and is not tried again" in failed.stderr
    assert "is not tried again: miniorch logs jobs/setup; miniorch restart jobs/setup" in machine.miniorch("ps").stdout

    machine.miniorch("run", machine.file(APP.replace("CODE", "0")))
    assert runs(machine) == 2
    machine.kill("agent")
    machine.kill("server")
    machine.miniorch("up")
    machine.miniorch("run", machine.file(APP.replace("CODE", "0")))
    assert runs(machine) == 2
    assert {f"{task['service']}.{task['slot']}": task["state"] for task in machine.json("ps")} == {
        "setup.1": "complete",
        "web.1": "running",
    }

    machine.miniorch("restart", "jobs/setup")
    until(lambda: runs(machine) == 3, 30, "the job has run once more")
    assert len(machine.json("history", "jobs")) == 2
