"""A lab inside the test node: three machines, each with a Docker Engine, all gone when the tests are over.

The engines' disks stay in the tests' cache, so that `busybox:1` need not be loaded again.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import Machine
from node import TestNode, until

NAME = f"t{os.getpid()}"
TAG = f"miniorch-lab-{NAME}"
# What a node's kernel and engine hold. Indexes, hardware addresses and ages differ between two equal states.
DUMPS = {
    "devices": "ip -o link | sed -E 's/^[0-9]+: //; s/@if[0-9]+//; s/ link.*//'",
    "addresses": "ip -o -4 address | sed -E 's/^[0-9]+: //'",
    "routes": "ip -4 route show table all",
    "neighbours": "ip neighbour show nud permanent",
    "forwarding": "bridge fdb show | grep -v 33:33:",
    "nftables": "nft -s list ruleset | grep -v '^#'",
    "iptables": "iptables-save | sed -E '/^#/d; s/\\[[0-9:]+\\]//'",
    "containers": "docker ps -aq --no-trunc",
    "docker's networks": "docker network ls --format '{{.Name}}' | xargs -n1 docker network inspect -f "
    "'{{.Name}} {{range .Containers}}{{.Name}} {{end}}'",
    "namespaces": "ls /run/docker/netns 2> /dev/null; ip netns",
    "notes": "ls /run/miniorch/net/endpoints",
}


ASK = """
import json, sys
from miniorch.transport import HttpTransport
print(json.dumps(HttpTransport(sys.argv[1], timeout_seconds=2.0).request_now("GET", sys.argv[2])))
"""


class LabMachine(Machine):
    """The machine that the lab is on. Every command of miniorch there speaks of the lab."""

    def miniorch(self, *argv: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        return super().miniorch(*argv, env={"MINIORCH_LAB": NAME, **(env or {})}, **more)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        self.began = time.time()
        with (self.folder / "run.log").open("ab") as log:
            command = [sys.executable, "-m", "miniorch.cli.main", *argv]
            lab = {"MINIORCH_LAB": NAME}
            return self.node.popen(command, lab, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    # --- the lab ---

    run_folder = f"/run/{TAG}"

    def docker_socket(self, name: str) -> str:
        return f"unix://{self.run_folder}/{name}/run/docker.sock"

    def state_file(self, name: str, file: str) -> str:
        """What a file in a node's state directory holds; "" without one."""
        return self.node.run(["cat", f"/var/lib/{TAG}/{name}/state/{file}"], check=False).stdout

    def log(self, name: str, process: str) -> str:
        return self.state_file(name, f"logs/{process}.log")

    def listed(self, kind: str) -> list[Any]:
        """All objects of a kind, from the first server that answers."""
        for socket in self.json("lab", "ls")["sockets"]:
            done = self.node.run([sys.executable, "-c", ASK, socket, f"/v1/{kind}"], check=False)
            if done.returncode == 0:
                return list(json.loads(done.stdout)["items"])
        return []

    def power(self) -> dict[str, str]:
        return {node["name"]: node["power"] for node in self.json("lab", "ls")["nodes"]}

    def states(self) -> dict[str, str]:
        return {node["name"]: node["cluster"] for node in self.json("lab", "ls")["nodes"]}

    @property
    def names(self) -> list[str]:
        return sorted(self.node.run(["sh", "-c", f"cd /run/{TAG}; ls -d node*"]).stdout.split())

    def inside(self, name: str, *argv: str) -> str:
        """What a command on a node prints."""
        out: str = self.miniorch("lab", "exec", name, "--", *argv).stdout
        return out

    def shell(self, name: str, script: str, *, check: bool = True, seconds: float = 90) -> str:
        """A shell's lines on a node, without a detour over miniorch: quick, and it works when all is broken."""
        pid = self.node.run(["cat", f"/run/{TAG}/{name}/init.pid"]).stdout.split()[0]
        enter = ["nsenter", "-t", pid, "-m", "-u", "-n", "-p", "--", "sh", "-c", script]
        return self.node.run(enter, check=check, timeout=seconds).stdout

    def kill_on(self, name: str, file: str, signal: str = "KILL") -> None:
        """End a process of a node by its pid file, as in `miniorch/agent.pid`; returns when it is gone."""
        gone = 'while kill -0 "$pid" 2> /dev/null; do sleep 0.02; done'
        self.shell(name, f'read -r pid rest < /run/{file}; kill -{signal} "$pid"; {gone}')

    def mend(self, name: str) -> None:
        """Start what is missing on a node: Docker's engine, or processes of miniorch."""
        self.miniorch("lab", "start", name)

    # --- apps ---

    def places(self, app: str = "web") -> list[str]:
        """Where tasks of an app run that are wanted."""
        wanted = [task for task in self.tasks(app) if task["desired_state"] == "running"]
        return sorted(task["node"] for task in wanted if task["state"] == "running")

    def running(self, name: str = "") -> dict[str, str]:
        """Containers that run on one node or on all: id -> when it was started."""
        found = {}
        for one in [name] if name else self.names:
            ids = "docker ps -q --no-trunc | xargs -r docker inspect -f '{{.Id}} {{.State.StartedAt}}'"
            listed = self.shell(one, ids, check=False).splitlines()  # one may go between the two commands
            found.update(line.split() for line in listed)
        return found

    def dump(self, name: str) -> list[str]:
        """What the kernel and the engine of a node hold, one line each."""
        lines = []
        for what, command in DUMPS.items():
            lines += [f"{what}: {line.strip()}" for line in sorted(self.shell(name, command, check=False).splitlines())]
        return lines

    def dumps(self) -> list[str]:
        return [f"{name}: {line}" for name in self.names for line in self.dump(name)]

    def rested(self) -> list[str]:
        """What all nodes hold, when nothing changes any more."""
        dumps = [self.dumps()]

        def same() -> bool:
            dumps.append(self.dumps())
            return dumps[-1] == dumps[-2]

        until(same, 60, "nothing changes any more", pause=2.0)
        assert {line.split(": ")[1] for line in dumps[-1]} == set(DUMPS), "each command says something"
        return dumps[-1]

    def leaves_nothing(self, before: Sequence[str], seconds: float = 90) -> None:
        """Wait until all nodes hold what they held before; `AssertionError` says what is more or less."""
        difference: list[str] = []

        def same() -> bool:
            lines = [line for line in difflib.ndiff(list(before), self.dumps()) if line[0] in "+-"]
            # Docker takes a minute to remove the file of a namespace that is gone: of these there may be fewer.
            difference[:] = [line for line in lines if line[0] == "+" or " namespaces: " not in line]
            return not difference

        with contextlib.suppress(AssertionError):
            until(same, seconds, "nothing is left over", pause=1.0)
        assert difference == [], "\n".join(difference)


def traces(node: TestNode) -> list[str]:
    """What is there of the lab on the test node, one line each."""
    found = node.run(["sh", "-c", f"ls -d /run/{TAG} /sys/fs/cgroup/{TAG} /sys/fs/cgroup/*/{TAG}"], check=False)
    lines = found.stdout.split()
    lines += [line for line in node.run(["ip", "-br", "link"]).stdout.splitlines() if line.startswith(f"mo-{NAME}")]
    lines += [line for line in node.run(["nft", "list", "tables"]).stdout.splitlines() if NAME in line]
    lines += [line for line in node.run(["iptables", "-S"]).stdout.splitlines() if f"mo-{NAME}" in line]
    lines += [line for line in node.run(["cat", "/proc/mounts"]).stdout.splitlines() if f"{TAG}/" in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (command := _command(entry)) and (TAG in command or f"forward {NAME}" in command):
            lines.append(f"process {entry.name}: {command}")
    return lines


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def running_lab(node: TestNode, data_root: Path, folder: Path, *options: str) -> Iterator[LabMachine]:
    """Three nodes that are ready, with `busybox:1`; at the end nothing of them may be left."""
    disks = data_root.with_name(f"{data_root.name}-lab")
    disks.mkdir(exist_ok=True)
    node.run(["mkdir", "-p", f"/var/lib/{TAG}"])
    node.run(["mount", "--bind", str(disks), f"/var/lib/{TAG}"])
    node.run(["ip", "route", "add", "default", "via", "198.51.100.1"])  # so that the lab wants a way out
    machine = LabMachine(node, folder)
    try:
        began = time.monotonic()
        machine.miniorch("lab", "up", "--nodes", "3", *options)
        print(f"\nlab up: {time.monotonic() - began:.1f} s")
        machine.miniorch("lab", "load", "busybox:1")
        yield machine
    finally:
        machine.miniorch("lab", "down")
        left = [name for name in os.listdir(disks) if set(os.listdir(disks / name)) != {"docker"}]
        found = traces(node)
        node.run(["ip", "route", "delete", "default"])
        node.run(["umount", f"/var/lib/{TAG}"])
    assert (found, left) == ([], [])
