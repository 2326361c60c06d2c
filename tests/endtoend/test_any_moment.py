"""Wishes and faults at random moments on one node: once the faults have ended, all is as it was wished last.

The problem: "killed at any moment" has more moments than anybody thinks of, and Docker's engine has its own, after
which it has forgotten half of what it was doing. The idea: real processes, chance by seed alone, and no opinion about
what happens meanwhile; only the end is judged, and that nobody waits for ever. Netflix's Chaos Monkey judges so, too.

`make test` takes two seeds, from MINIORCH_SEED on; `make drill PARTS=moments` takes a hundred.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import MINIORCH, Machine, leftovers, wish
from node import TestNode, until

from miniorch.processes import PidFile

pytestmark = [pytest.mark.root, pytest.mark.docker]

SEEDS, FIRST = int(os.environ.get("MINIORCH_ANY_MOMENT", "2")), int(os.environ.get("MINIORCH_SEED", "1"))
SECONDS, SETTLE_SECONDS, SWEPT_SECONDS = 10.0, 60.0, 90.0
PAGE, OURS = "http://127.0.0.1:8100/", "docker ps -a --filter label=miniorch.task"
USER = ["run", "run", "scale", "scale", "rm", "restart", "exec"]
COMMANDS = {  # {n}: one to four, {file}: an app file, {service}: web or side
    "run": f"{MINIORCH} run --name small {{file}}",
    "scale": f"{MINIORCH} scale small/web={{n}}",
    "rm": f"{MINIORCH} rm small --yes",
    "restart": f"{MINIORCH} restart small/{{service}}",
    "exec": f"{MINIORCH} exec small/{{service}} -- sleep {{n}}",
    "up": f"{MINIORCH} up",
    **{how: f"{OURS} -q | sed -n {{n}}p | xargs -r docker {how}" for how in ("kill", "rm -f", "pause")},
    "prune": "docker network prune -f",
    "unmake": "docker network rm container:miniorch",
    "haproxy": "ss -ltnpH sport = :8100 | grep -o 'pid=[0-9]*' | cut -c5- | sort -u | xargs -r kill -9",
}
BACK = {"engine": "start", "SIGKILL": "up", "SIGSTOP": "SIGCONT"}  # what is broken for a while, and what mends it
FAULTS = [*BACK, *BACK, "kill", "rm -f", "pause", "prune", "unmake", "haproxy"]
LEFT = leftovers("small", 8100, "$0/")
RESUME = f"{OURS} -q --filter status=paused | xargs -r docker unpause"
FIT = f"({MINIORCH} net verify && {MINIORCH} doctor) > fit.log && echo yes"
REPORT = f"cat *.log; {MINIORCH} ps -a; {MINIORCH} events --tail 99; {OURS}; tail -n 80 /var/lib/miniorch/logs/*.log"


@pytest.fixture(scope="module")
def machine(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(node, tmp_path_factory.mktemp("apps"))
    machine.miniorch("up")
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def sh(machine: Machine, script: str) -> str:
    return machine.node.run(["sh", "-c", script, machine.node.cgroup], check=False, cwd=machine.folder).stdout


def story(machine: Machine, chance: random.Random) -> list[tuple[float, str, str]]:
    """(seconds, what is done, how or to whom). What is broken is mended before it breaks anew, and all in the end."""
    steps, mended, at = [(0.0, "run", COMMANDS["run"].format(file=wish(machine, chance)[0]))], Counter[str](), 0.0
    while (at := at + chance.uniform(0.1, 1.2)) < SECONDS:
        what = chance.choice(FAULTS if chance.random() < 0.6 else USER)
        n, service, file = chance.randrange(1, 5), chance.choice(["web", "side"]), wish(machine, chance)[0]
        whom = "dockerd" if what == "engine" else chance.choice(["server", "agent", "net"])
        if what in COMMANDS:
            steps.append((at, what, COMMANDS[what].format(n=n, service=service, file=file)))
        elif at >= mended[whom]:
            mended[whom] = at + chance.uniform(0.0, 2.0) + (what == "SIGSTOP")
            steps += [(at, what, whom), (mended[whom], BACK[what], COMMANDS.get(BACK[what], whom))]
    return sorted(steps)


def do(machine: Machine, what: str, how: str, running: list[subprocess.Popen[bytes]]) -> None:
    """One step. Commands run in the background: people do not wait for each other."""
    if what in COMMANDS:
        with (machine.folder / "run.log").open("ab", 0) as log:
            log.write(f"$ {how}\n".encode())
            running.append(machine.node.popen(["sh", "-c", how], cwd=machine.folder, stdout=log, stderr=log))
    elif what == "engine":
        machine.node.stop_dockerd(kill=True)
    elif what == "start":
        machine.node.start_dockerd(wait=False)
    elif pid := PidFile(Path(f"/proc/{machine.node.pid}/root/run/miniorch/{how}.pid")).pid():
        os.kill(pid, getattr(signal, what))


def as_wished(machine: Machine, replicas: int) -> None:
    """Wait until exactly that is there and serves."""
    tasks = machine.settled("small", replicas + 1, SETTLE_SECONDS)
    web = {f"web-{one['slot']}" for one in tasks if one["service"] == "web"}
    ended = {one["id"] for one in machine.json("ps", "-a")} - {one["id"] for one in tasks}
    listed = sh(machine, OURS + """ --format '{{.Label "miniorch.task"}} {{.State}}'""").split()
    kept = {task: state for task, state in zip(listed[::2], listed[1::2], strict=True) if task in ended}
    assert len(listed) // 2 == len(tasks) + len(kept), "a task has two containers, or a container no task"
    assert (len(web), set(kept.values()) - {"exited", "created"}) == (replicas, set())
    until(lambda: {machine.fetch(PAGE).strip() for _ in web for _ in "123"} == web, SETTLE_SECONDS, f"{web} answer")
    until(lambda: sh(machine, FIT), SWEPT_SECONDS, "net verify and doctor find all as it should be", pause=0.5)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_what_was_wished_last_is_what_there_is(machine: Machine, seed: int) -> None:
    chance, running = random.Random(seed), list[subprocess.Popen[bytes]]()
    steps, (file, replicas) = story(machine, chance), wish(machine, chance)
    began, log = time.monotonic(), machine.folder / "run.log"
    log.unlink(missing_ok=True)
    try:
        for at, what, how in steps:
            time.sleep(max(0.0, began + at - time.monotonic()))
            print(f"{time.monotonic() - began:6.2f} ({at:5.2f}) {what} {how}")
            do(machine, what, how, running)
        machine.node.wait_for_dockerd()
        machine.miniorch("up")
        for one in running:
            until(lambda one=one: not sh(machine, RESUME) and one.poll() is not None, SETTLE_SECONDS, str(one.args))
        assert "Traceback" not in log.read_text()
        machine.miniorch("run", "--name", "small", file, timeout=SETTLE_SECONDS)
        as_wished(machine, replicas)
        assert all(sh(machine, look) for look in LEFT), "what looks for leftovers sees something while there is an app"
        machine.miniorch("rm", "small", "--yes", timeout=SETTLE_SECONDS)
        until(lambda: not any(sh(machine, look) for look in LEFT), SWEPT_SECONDS, "nothing is left", pause=0.5)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"seed {seed}: {error}", sh(machine, "; ".join([*LEFT, REPORT])), machine.node.dockerd_tail(80))
        raise
    finally:
        for process in running:
            process.kill()
            process.wait()
