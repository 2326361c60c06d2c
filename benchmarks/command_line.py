"""How long a command takes, beside `docker ps` and a Python that does nothing; and what the processes cost at rest.

    sudo .venv/bin/python benchmarks/command_line.py [--rounds 15] [--idle 60]

`ps` and the completion of a live name are measured with 100 tasks. At rest: memory (resident, summed) and processor
time of server, agent and net over `--idle` seconds with three containers that have no health check. Everything runs on
a private test node.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from machine import Machine  # noqa: E402 (found by the line above)
from node import TestNode, until  # noqa: E402

DATA = Path(os.environ.get("MINIORCH_TEST_CACHE", "/var/cache/miniorch-tests/docker"))
HUNDRED = """\
services:
  many:
    image: busybox:1
    command: ["sleep", "1000000"]
    deploy: {replicas: 100}
"""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--idle", type=float, default=60.0)
    options = parser.parse_args()
    miniorch = str(ROOT / ".venv/bin/miniorch")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "miniorch --help": [miniorch, "--help"],
        "completion": [miniorch, "__complete", "logs", ""],
        "miniorch ps": [miniorch, "ps"],
        "docker ps": ["docker", "ps"],
    }
    with TestNode(DATA) as node:
        node.start_dockerd()
        node.load_busybox()
        machine = Machine(node, node.scratch)
        machine.miniorch("run", machine.file(HUNDRED, "hundred.yml"), timeout=300)
        enter = node.argv([])[:-1]
        nothing = enter[: enter.index("sh")]
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, argv in commands.items():
                started = time.monotonic()
                node_run = [*nothing, *argv]
                os.waitpid(os.posix_spawn("/usr/bin/nsenter", node_run, os.environ, file_actions=quiet()), 0)
                times[name].append(time.monotonic() - started)
        base = statistics.median(times["python -c pass"])
        for name, values in times.items():
            middle = statistics.median(values)
            print(f"{name:18} median {middle * 1000:6.1f} ms   {middle / base:5.2f} x python -c pass")
        machine.miniorch("scale", "hundred/many=3")
        until(lambda: len(machine.containers("hundred")) == 3, 120, "three are left")
        pids = {name: machine.pid(name) for name in ("server", "agent", "net")}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(options.idle)
        for name, pid in pids.items():
            share = (cpu_seconds(pid) - before[name]) / options.idle
            print(f"{name:18} {resident_mb(pid):6.1f} MB   {share * 100:5.2f} % of a core at rest")
        print(f"together           {sum(map(resident_mb, pids.values())):6.1f} MB")
        machine.miniorch("down", "--all", "--volumes", "--yes")


def quiet() -> list[tuple[int, int, str, int, int]]:
    return [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


if __name__ == "__main__":
    main()
