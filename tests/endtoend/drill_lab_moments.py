"""Wishes and faults at random moments on three managers: once the faults have ended, all is as it was wished last.

What `test_any_moment.py` does to one machine, and what only several can suffer: a cable is pulled, power is lost, time
stands still, another server leads. Again only the end is judged, and that nobody waits for ever.

`make drill PARTS=moments` takes twenty seeds, from MINIORCH_SEED on; `make test` has those of `test_lab_drills.py`.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from lab import NAME, TAG, LabMachine, running_lab
from machine import MINIORCH, leftovers, wish
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

SEEDS = int(os.environ.get("MINIORCH_LAB_MOMENTS", "20"))
FIRST = int(os.environ.get("MINIORCH_SEED", "1"))
SECONDS, SETTLE_SECONDS, SWEPT_SECONDS = 12.0, 90.0, 90.0
OURS = "docker ps -a --filter label=miniorch.task"
PROCESSES = ["server", "agent", "net"]
USER = f"env MINIORCH_LAB={NAME} {MINIORCH}"
INSIDE = f"read -r pid rest < /run/{TAG}/{{node}}/init.pid && exec nsenter -t $pid -m -u -n -p -- sh -c"
COMMANDS = {  # {n}: one to six, {node}: a node, {file}: an app file, {service}: web or side
    "run": f"{USER} run --name small {{file}}",
    "scale": f"{USER} scale small/web={{n}}",
    "rm": f"{USER} rm small --yes",
    "restart": f"{USER} restart small/{{service}}",
    **{how: f"{USER} node {how} {{node}}" for how in ("drain", "activate")},
    **{how: f"{USER} lab {how} {{node}}" for how in ("cut", "heal", "pause", "resume", "kill", "start")},
    **{how: f"{INSIDE} 'read -r pid rest < /run/miniorch/{how}.pid; kill -9 $pid'" for how in PROCESSES},
    "engine": f"{INSIDE} 'kill -9 $(cat /run/docker.pid)'",
    "rules": f"{INSIDE} 'nft delete table ip miniorch; nft delete table netdev miniorch; ip route flush proto 109'",
    "remove": f"{INSIDE} '{OURS} -q | sed -n {{n}}p | xargs -r docker rm -f'",
}
WISHES = ["run", "run", "scale", "scale", "rm", "restart"]
BACK = {"drain": "activate", "cut": "heal", "pause": "resume", **dict.fromkeys(["kill", "engine", *PROCESSES], "start")}
FAULTS = [*BACK, *BACK, "rules", "remove"]
LEFT = leftovers("small", 8100, "/docker/")
HELD = f"""{OURS} --format '{{{{.Label "miniorch.task"}}}} {{{{.State}}}}'"""
TRAFFIC = """
for one in $(seq 30); do echo port $(busybox wget -qO- http://127.0.0.1:8100/); done
for id in $(docker ps -q); do echo name $(docker exec $id timeout 9 wget -qO- http://web:8000/); done
"""
FIT = ["net verify", *(f"lab exec node{number} -- {MINIORCH} doctor" for number in (1, 2, 3))]
REPORT = f"{OURS}; ip -o link; ip route; nft list ruleset; tail -n 60 /var/lib/{TAG}/$(hostname)/state/logs/*.log"


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabMachine]:
    with running_lab(node, data_root, tmp_path_factory.mktemp("lab"), "--managers", "3") as machine:
        yield machine


def story(lab: LabMachine, chance: random.Random) -> list[tuple[float, str]]:
    """(seconds, command). A node that is broken is mended before it breaks anew, and all are in the end."""
    steps, whole, at = [(0.0, COMMANDS["run"].format(file=wish(lab, chance)[0]))], dict.fromkeys(lab.names, 0.0), 0.0
    while (at := at + chance.uniform(0.2, 2.0)) < SECONDS:
        what, node = chance.choice(FAULTS if chance.random() < 0.6 else WISHES), chance.choice(lab.names)
        n, service, file = chance.randrange(1, 7), chance.choice(["web", "side"]), wish(lab, chance)[0]
        if what not in BACK or at >= whole[node]:
            steps.append((at, COMMANDS[what].format(n=n, node=node, service=service, file=file)))
            if what in BACK:
                whole[node] = at + chance.uniform(0.0, 8.0)
                steps.append((whole[node], COMMANDS[BACK[what]].format(node=node)))
    return sorted(steps)


def succeed(lab: LabMachine, commands: Iterable[str]) -> bool:
    return not any(lab.miniorch(*command.split(), code=None).returncode for command in commands)


def mended(lab: LabMachine) -> bool:
    """Whether all that was broken is in order; what is not is mended meanwhile."""
    for name in lab.names:
        lab.miniorch("lab", "resume", name, code=None)
        lab.miniorch("lab", "heal", name, code=None)
    return succeed(lab, ["lab up", *(f"node activate {name}" for name in lab.names)])


def left(lab: LabMachine, look: str) -> str:
    return "".join(lab.shell(name, look, check=False) for name in lab.names)


def as_wished(lab: LabMachine, replicas: int) -> None:
    """Wait until exactly that is there, and serves on each node and for each container."""

    def there() -> list[str]:
        tasks, known = lab.tasks("small"), {one["id"] for one in lab.json("ps", "-a")}
        held = [line.split() for name in lab.names for line in lab.shell(name, HELD).splitlines()]
        web = [f"web-{one['slot']}" for one in tasks if one["service"] == "web"]
        right = (
            (len(set(web)), len(tasks), {one["state"] for one in tasks}) == (replicas, replicas + 1, {"running"})
            and sorted(one["id"] for one in tasks) == sorted(task for task, state in held if state == "running")
            and len({task for task, _ in held} & known) == len(held)
            and set(lab.states().values()) == {"ready"}
        )
        return web if right else []

    def served() -> bool:
        said = [set(lab.shell(name, TRAFFIC).splitlines()) for name in lab.names]
        by_port, by_name = ({f"{how} {one}" for one in web} for how in ("port", "name"))
        return all(by_port <= lines <= by_port | by_name for lines in said)

    web = until(there, SETTLE_SECONDS, f"{replicas} of web and side-1 run, and there is no other container", pause=0.5)
    until(served, SETTLE_SECONDS, f"{web} are reached by port and by name", pause=0.5)
    until(lambda: succeed(lab, FIT), SWEPT_SECONDS, "net verify and doctor find all as it should be", pause=0.5)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_what_was_wished_last_is_what_there_is(lab: LabMachine, seed: int) -> None:
    chance, running = random.Random(seed), list[subprocess.Popen[bytes]]()
    steps, (file, replicas) = story(lab, chance), wish(lab, chance)
    began, log = time.monotonic(), lab.folder / "run.log"
    log.unlink(missing_ok=True)
    try:
        for at, how in steps:
            time.sleep(max(0.0, began + at - time.monotonic()))
            print(f"{time.monotonic() - began:6.2f} ({at:5.2f}) {how}")
            with log.open("ab", 0) as out:
                out.write(f"$ {how}\n".encode())
                running.append(lab.node.popen(["sh", "-c", how], cwd=lab.folder, stdout=out, stderr=out))
        until(lambda: mended(lab), SETTLE_SECONDS, "all is mended")
        for one in running:
            until(lambda one=one: one.poll() is not None, SETTLE_SECONDS, str(one.args))
        assert "Traceback" not in log.read_text()
        until(lambda: mended(lab), SETTLE_SECONDS, "what ended late has broken nothing")
        lab.miniorch("run", "--name", "small", file, timeout=SETTLE_SECONDS)
        as_wished(lab, replicas)
        assert all(left(lab, look) for look in LEFT), "what looks for leftovers sees something while there is an app"
        lab.miniorch("rm", "small", "--yes", timeout=SETTLE_SECONDS)
        until(lambda: not left(lab, "; ".join(LEFT)), SWEPT_SECONDS, "nothing is left", pause=0.5)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"seed {seed}: {error}\n{log.read_text()}")
        print(*(lab.miniorch(*look.split(), code=None).stdout for look in ("lab ls", "ps -a", "events --tail 99")))
        print(*(f"{name}:\n{lab.shell(name, '; '.join([*LEFT, REPORT]), check=False)}" for name in lab.names))
        raise
    finally:
        for process in running:
            process.kill()
            process.wait()
