"""A real server over a real SQLite file is killed with -9 after each of its first writes, and the app still comes up.

`tests/simulation/test_crash_points.py` tries every write alone; here the disk is real. The test plays user and agent.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from miniorch.codec import to_plain
from miniorch.errors import MiniorchError, Temporary
from miniorch.spec import AppSpec, Condition, ServiceSpec, TaskSpec
from miniorch.transport import HttpTransport

DEATHS = 12
SHOP = AppSpec(
    {
        "db": ServiceSpec(TaskSpec("db:1")),
        "web": ServiceSpec(TaskSpec("web:1"), 2, depends_on={"db": Condition.HEALTHY}),
    }
)
NODE = {"capacity": {"cpus": 4, "memory_bytes": 2**30}, "engine": "Fake"}
# A server that dies of its first write, when that is on the disk and nobody has heard of it. To lead is not counted.
PROGRAM = """
import os, signal, sys
from miniorch import server
from miniorch.state import sqlite

class Dying(sqlite.SqliteStore):
    async def txn(self, compares, operations):
        done = await super().txn(compares, operations)
        if done is not None and not any(one.key.startswith("/leaders/") for one in operations):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

if os.environ["DIES"] == "1":
    sqlite.SqliteStore = Dying
sys.exit(server.main())
"""


class Mortal:
    """Starts the server again whenever it has died."""

    def __init__(self, folder: Path) -> None:
        self.api = HttpTransport(str(folder / "api.sock"), timeout_seconds=10.0)
        self.deaths = 0
        self._log = folder / "log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def live(self) -> None:
        """See to it that it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            assert self._process.returncode == -9, self._log.read_text()[-2000:]
            self.deaths += 1
        command = [sys.executable, "-c", PROGRAM, "--socket", self.api.place, "--state-directory", str(self._folder)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, "DIES": str(int(self.deaths < DEATHS))}, stdout=log, stderr=log
            )

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def items(api: HttpTransport, kind: str) -> list[Any]:
    return list(api.request_now("GET", f"/v1/{kind}")["items"])


def step(api: HttpTransport) -> bool:
    """What user and agent do again and again: ask for the app, and run what is assigned. True when all runs."""
    api.request_now("PUT", "/v1/apps/shop", to_plain(SHOP))
    api.request_now("POST", "/v1/nodes/n1/register", NODE)
    tasks = items(api, "tasks")
    for task in tasks:
        if task["node"] and task["status"]["state"] == "assigned":
            status = {"state": "running", "address": f"10.200.0.{10 + task['slot']}"}
            api.request_now("POST", "/v1/nodes/n1/statuses", [{"task": task["id"], "status": status}])
    backends = [backend["ready"] for one in items(api, "endpoints") for backend in one["backends"]]
    return len(backends) == 3 and all(backends)


def test_server_that_is_killed_after_each_of_its_writes_brings_the_app_up(tmp_path: Path) -> None:
    server, deadline = Mortal(tmp_path), time.monotonic() + 120
    try:
        done = False
        while not done or server.deaths < DEATHS:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            server.live()
            with contextlib.suppress(Temporary):
                done = step(server.api)
            time.sleep(0.02)
        tasks = [(task["service"], task["slot"], task["status"]["state"]) for task in items(server.api, "tasks")]
        assert sorted(tasks) == [("db", 1, "running"), ("web", 1, "running"), ("web", 2, "running")]
        created = [event for event in items(server.api, "events") if event["message"] == "created"]
        assert sorted(event["subject"] for event in created) == [
            "shop", "shop/db", "shop/db.1", "shop/web", "shop/web.1", "shop/web.2",
        ]  # fmt: skip
        assert len(items(server.api, "releases")) == 1
    except MiniorchError:
        print((tmp_path / "log").read_text()[-4000:])
        raise
    finally:
        server.end()
