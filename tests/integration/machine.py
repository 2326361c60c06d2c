"""miniorch on the test node, used as a user would: its command line, its published ports, `docker ps` beside it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from node import TestNode, until

MINIORCH = str(Path(sys.executable).with_name("miniorch"))
FETCH = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], data=sys.argv[2].encode() if sys.argv[2:] else None)
with urllib.request.urlopen(request, timeout=5) as answer:
    sys.stdout.write(answer.read().decode())
"""

SMALL = """\
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8000 -h /www"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"]
      interval: 1s
    ports: ["8100:8000"]
    deploy:
      replicas: 2
  side:
    image: busybox:1
    command: ["sleep", "1000000"]
"""


class Machine:
    """One node with miniorch on it."""

    def __init__(self, node: TestNode, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.began = 0.0  # seconds since the epoch: the last `start`

    def miniorch(
        self, *argv: str, code: int | None = 0, timeout: float = 120.0, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; `code` is the exit code that it must end with (None: any). Never a traceback."""
        done = self.node.run([MINIORCH, *argv], env, timeout=timeout, check=False, cwd=self.folder)
        said = f"miniorch {' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, said
        assert code is None or done.returncode == code, said
        return done

    def json(self, *argv: str) -> Any:
        return json.loads(self.miniorch(*argv, "--json").stdout)

    def file(self, text: str, name: str = "small.yml") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def fetch(self, url: str, body: str | None = None) -> str:
        """The page behind an address, asked from the node itself; "" if there is none."""
        argv = [sys.executable, "-c", FETCH, url, *([] if body is None else [body])]
        return self.node.run(argv, check=False).stdout

    def containers(self, app: str = "") -> dict[str, str]:
        """Names of running containers -> ids."""
        listed = self.node.docker("ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}").stdout.split("\n")
        pairs = (line.split() for line in listed if line.startswith(f"{app}-" if app else ""))
        return {pair[0]: pair[1] for pair in pairs if pair}

    def pid(self, process: str) -> int:
        """The pid of the server, agent or net process."""
        return int(self.node.run(["cat", f"/run/miniorch/{process}.pid"]).stdout.split()[0])

    def kill(self, process: str) -> None:
        """kill -9 of one of the three, by its pid; returns when it is gone."""
        pid = self.pid(process)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not _command(pid), 5, f"{process} has ended")

    def tasks(self, app: str) -> list[dict[str, Any]]:
        return [task for task in self.json("ps") if task["app"] == app]

    def settled(self, app: str, wanted: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until exactly `wanted` tasks of an app run and nothing else of it is alive; those tasks."""

        def there() -> list[dict[str, Any]] | None:
            tasks = self.tasks(app)
            running = [task for task in tasks if task["state"] == "running" and task["desired_state"] == "running"]
            return running if len(running) == len(tasks) == wanted else None

        tasks: list[dict[str, Any]] = until(there, seconds, f"{wanted} tasks of {app} run", pause=0.2)
        assert len(self.containers(app)) == wanted, self.containers(app)
        return tasks

    def happened(self, pattern: str) -> bool:
        """Whether the subject and message of an event since `start` fit, as in `web.1 running`."""
        said = self.json("events")
        return any(re.search(pattern, f"{one['subject']} {one['message']}") for one in said if one["at"] >= self.began)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command in the background; its output goes to run.log in the folder."""
        self.began = time.time()
        with (self.folder / "run.log").open("wb") as log:
            return self.node.popen([MINIORCH, *argv], cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """The end of what commands in the background have printed."""
        return (self.folder / "run.log").read_text()[-2000:]

    def ended(self, running: subprocess.Popen[bytes], seconds: float = 120.0) -> int:
        """The exit code of a command in the background. One that takes longer is killed and told of."""
        try:
            return running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            raise AssertionError(
                f"not ended after {seconds:g} s:\n{self.said()}\n{self.miniorch('ps', code=None).stdout}"
            ) from None

    def remove_all(self) -> None:
        for app in sorted({service["app"] for service in self.json("services")}):
            self.miniorch("rm", app, "--volumes", "--yes")


def wish(machine: Machine, chance: random.Random) -> tuple[str, int]:
    """An app file that differs from others in web, in side, in both or in nothing, and its number of replicas."""
    web, side, replicas = chance.randrange(3), chance.randrange(3), chance.randrange(1, 5)
    text = SMALL.replace("exec httpd", f"exec env TRY={web} httpd").replace("1000000", f"100000{side}")
    return machine.file(text.replace("replicas: 2", f"replicas: {replicas}"), f"{web}{side}{replicas}.yml"), replicas


def leftovers(app: str, port: int, group: str) -> list[str]:
    """Shell lines that say what is left on a node of an app and its port; `group`: of its containers' cgroups."""
    return [
        "docker ps -aq --filter label=miniorch.task",
        f'grep -lFe "{group}" /proc/[0-9]*/cgroup',
        "docker network inspect container:miniorch -f '{{range .Containers}}{{.Name}} {{end}}' | grep .",
        "ip -o link | grep -E ': m[oc][0-9a-f]{8}'",
        "ls /run/miniorch/net/endpoints",
        rf"nft list ruleset | grep -E '10\.20[01]\.[0-9]+\.([2-9]|[1-9][0-9]+)\b|mo[0-9a-f]{{8}}|{app}'",
        f"ss -ltnH sport = :{port}",
    ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
