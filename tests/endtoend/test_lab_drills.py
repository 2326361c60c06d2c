"""What a lab of three nodes must bear: each process killed at each bad moment, and nothing left behind.

The measure is hard and simple: containers keep their ids and start times, each task gets one container and no second
one, and when all is removed the kernels and engines of all nodes hold what they held before.

`make test` takes each drill once and small; `make drill PARTS=lab` takes the sizes below.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import LabMachine, running_lab
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

LONG = bool(os.environ.get("MINIORCH_LONG_DRILLS"))
AGENT_KILLS = int(os.environ.get("MINIORCH_AGENT_KILLS", "100" if LONG else "5"))
SEED = int(os.environ.get("MINIORCH_SEED", "1"))
CONTAINERS = 100 if LONG else 12
BUSY_SECONDS = float(os.environ.get("MINIORCH_BUSY_SECONDS", "3600" if LONG else "15"))
BUSY_SHARE = 0.9

STEADY = """\
name: steady
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8000 -h /www"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"]
      interval: 1s
      timeout: 5s
    ports: ["8101:8000"]
    deploy:
      replicas: 3
"""
PAGE = "http://127.0.0.1:8101/"
MOVING = """\
name: moving
services:
  web:
    image: busybox:1
    command: ["sleep", "1000000"]
    stop_grace_period: 0s
    environment: ["ROUND={round}"]
{check}    deploy:
      replicas: {replicas}
{placement}"""
SLOW = """\
    healthcheck:
      test: ["CMD", "sleep", "1"]
      interval: 1s
      timeout: 20s
"""
ON_NODE2 = """\
      placement:
        constraints: ["node.labels.zone == b"]
"""


def moving(replicas: int, round: int = 0, placement: str = "", check: str = "") -> str:
    return MOVING.format(replicas=replicas, round=round, placement=placement, check=check)


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabMachine]:
    with running_lab(node, data_root, tmp_path_factory.mktemp("lab"), "--label", "n2:zone=b") as machine:
        yield machine


@pytest.fixture(scope="module")
def steady(lab: LabMachine) -> dict[str, str]:
    """Three containers that nothing here may touch: id -> when it was started."""
    lab.miniorch("run", lab.file(STEADY, "steady.yml"))
    running = lab.running()
    assert len(running) == 3
    return running


@pytest.fixture
def undisturbed(lab: LabMachine, steady: dict[str, str]) -> Iterator[dict[str, str]]:
    """A drill of which the steady app notices nothing."""
    yield steady
    assert lab.running().items() >= steady.items(), lab.miniorch("events").stdout
    assert lab.fetch(PAGE)
    lab.miniorch("rm", "moving", "--yes", code=None)


@contextlib.contextmanager
def creations(lab: LabMachine) -> Iterator[Callable[[], list[str]]]:
    """The tasks for which the nodes' engines make containers meanwhile, one entry per container."""
    template = '{{index .Actor.Attributes "miniorch.task"}}'
    events = ["events", "--filter", "type=container", "--filter", "event=create", "--format", template]
    files = [lab.folder / f"created.{name}" for name in lab.names]
    with contextlib.ExitStack() as stack:
        for name, path in zip(lab.names, files, strict=True):
            output = stack.enter_context(path.open("wb"))
            listening = lab.node.popen(["docker", "-H", lab.docker_socket(name), *events], stdout=output)
            stack.callback(listening.wait)
            stack.callback(listening.kill)
        time.sleep(0.5)  # `docker events` says nothing when it begins to listen
        yield lambda: [task for path in files for task in path.read_text().split()]


# --- the agent -------------------------------------------------------------------------------------------------------


def test_an_agent_killed_in_the_middle_of_deployments_makes_nothing_twice(
    lab: LabMachine, undisturbed: dict[str, str]
) -> None:
    chance = random.Random(SEED)
    with creations(lab) as created:
        for number in range(AGENT_KILLS):
            text = moving(chance.randrange(1, 7), number // 2)
            deploying = lab.start("run", lab.file(text, "moving.yml"), "--quiet")
            victim = chance.choice(lab.names)
            time.sleep(chance.uniform(0.0, 2.0))
            lab.kill_on(victim, "miniorch/agent.pid")
            lab.mend(victim)
            assert lab.ended(deploying, 120) == 0, f"kill {number} (seed {SEED}): {lab.said()}"
        tasks = created()
    assert {task["id"] for task in lab.tasks("moving")} <= set(tasks), "the engines have told of them"
    assert len(tasks) == len(set(tasks)), "a task got a second container"
    assert not [task for task in lab.json("ps", "-a") if task["state"] in ("failed", "rejected", "lost")]


# --- the server ------------------------------------------------------------------------------------------------------

# The server of a node, but for one thing: it dies of the first write of a phase, when that is on the disk and nobody
# has heard of it.
DYING = """
import os, signal, sys
from miniorch import server
from miniorch.state import sqlite

prefix, word = sys.argv.pop(1).split(" ")

class Dying(sqlite.SqliteStore):
    async def txn(self, compares, operations):
        done = await super().txn(compares, operations)
        if done is not None and any(
            one.key.startswith(prefix) and word.encode() in getattr(one, "value", b"") and b"moving" in one.value
            for one in operations
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

sqlite.SqliteStore = Dying
sys.exit(server.main())
"""
# phase -> what is done meanwhile, and the write that the server dies of
PHASES = {
    "accepting": ("run", '/apps/ "moving"'),
    "expanding": ("run", '/tasks/ "state":"new"'),
    "placing": ("run", '/tasks/ "state":"assigned"'),
    "starting": ("run", '/tasks/ "state":"starting"'),
    "converged": ("run", '/tasks/ "state":"running"'),
    "scaling": ("scale", '/services/ "replicas":5'),
    "removing": ("rm", '/apps/ "removing":true'),
    "removed": ("rm", '/tasks/ "state":"shutdown"'),
}
COMMANDS = {
    "run": ("run", "moving.yml", "--quiet"),
    "scale": ("scale", "moving/web=5"),
    "rm": ("rm", "moving", "--yes"),
}


@pytest.mark.parametrize("phase", PHASES if LONG else ["placing", "removing"])
def test_a_server_killed_in_the_middle_leads_to_the_same_end(
    lab: LabMachine, undisturbed: dict[str, str], phase: str
) -> None:
    verb, write = PHASES[phase]
    lab.file(moving(3, check=SLOW), "moving.yml")  # or a busy agent's first word of a task is that it runs
    if verb != "run":
        lab.miniorch(*COMMANDS["run"])
    lab.kill_on("node1", "miniorch/server.pid")
    arguments = ["lab", "exec", "node1", "--", sys.executable, "-c", DYING, write]
    dying = lab.start(*arguments)
    until(lambda: lab.miniorch("ps", code=None).returncode == 0, 30, "the server answers")
    doing = lab.start(*COMMANDS[verb])
    try:
        died = dying.wait(60)
    except subprocess.TimeoutExpired:
        lab.shell("node1", "pkill -9 -f 'class Dying'")
        pytest.fail(f"the server has not died of {write}: {lab.said()}")
    finally:
        lab.mend("node1")
    assert died in (-9, 137), f"the server has ended in another way: {lab.said()}"
    if lab.ended(doing, 60):  # whoever did not hear that it was taken asks again
        again = lab.miniorch(*COMMANDS[verb], code=None)
        assert not again.returncode or "there is no app" in again.stderr, again.stderr
    wanted = {"run": 3, "scale": 5, "rm": 0}[verb]
    until(lambda: len(lab.places("moving")) == wanted == len(lab.tasks("moving")), 30, f"{wanted} tasks run")
    until(lambda: len(lab.running()) == 3 + wanted, 30, "there is one container for each")


# --- Docker's engine and the net process -----------------------------------------------------------------------------


def stop_engine(lab: LabMachine, signal: str) -> None:
    lab.kill_on("node2", "docker.pid", signal)


def without_live_restore(lab: LabMachine, on: bool = False) -> None:
    """Set node2's engine to let containers end with it; restart it to that effect."""
    before, after = ("false", "true") if on else ("true", "false")
    file = "/etc/docker/daemon.json"
    lab.shell("node2", f'sed -i \'s/"live-restore": {before}/"live-restore": {after}/\' {file}')
    stop_engine(lab, "TERM")
    lab.mend("node2")


def kill_net(lab: LabMachine) -> None:
    lab.kill_on("node2", "miniorch/net.pid")


def stuck(lab: LabMachine) -> list[str]:
    """Endpoints on node2 without a container that runs."""
    format = "{{range .Containers}}{{.Name}} {{end}}"
    names = lab.shell("node2", f"docker network inspect container:miniorch -f '{format}'").split()
    return sorted(set(names) - set(lab.shell("node2", "docker ps --format '{{.Names}}'").split()))


def on_node2(lab: LabMachine, replicas: int, round: int = 0) -> list[str]:
    """An app on node2 alone."""
    return ["run", lab.file(moving(replicas, round, ON_NODE2), "moving.yml"), "--quiet"]


def replaced_once(lab: LabMachine, before: dict[str, str], tasks: int) -> None:
    """Each container of node2 has one successor, at an address of its own."""

    def replaced() -> bool:  # what the server has heard may be of before
        return len(lab.running()) == 3 + tasks and not lab.running("node2").keys() & before.keys()

    until(replaced, 60, "each container has a successor", pause=0.2)
    until(lambda: len(lab.places("moving")) == tasks, 60, "all tasks run again", pause=0.2)
    until(lambda: len(lab.places("steady")) == 3, 60, "the steady app runs", pause=0.2)
    assert not lab.running("node2").keys() & before.keys()
    assert len(lab.running()) == 3 + tasks
    addresses = [task["address"] for task in lab.json("ps")]
    assert len(addresses) == len(set(addresses)) == 3 + tasks
    assert stuck(lab) == []


def engine_ends(signal: str) -> Callable[[LabMachine], None]:
    """1.1: containers end with an engine that has no live-restore, or with its successor; each is replaced once."""

    def drill(lab: LabMachine) -> None:
        lab.miniorch(*on_node2(lab, 3))
        earlier = lab.running("node2")
        without_live_restore(lab)
        try:
            replaced_once(lab, earlier, 3)  # an engine that starts without it ends what it finds
            before = lab.running("node2")
            stop_engine(lab, signal)
            if signal == "KILL":
                assert lab.shell("node2", "pgrep -xf 'sleep 1000000'").split(), "containers outlive the engine"
            lab.mend("node2")
            replaced_once(lab, before, 3)
        finally:
            without_live_restore(lab, on=True)

    return drill


ASK = """
import sys, time, urllib.request
for _ in range(40):
    urllib.request.urlopen(sys.argv[1], timeout=5).read()
    time.sleep(0.1)
"""


def engine_restarts(signal: str) -> Callable[[LabMachine], None]:
    """1.1: with live-restore nothing is touched, and traffic flows throughout. The start follows at once."""

    def drill(lab: LabMachine) -> None:
        before = lab.running("node2")
        address = next(task["address"] for task in lab.tasks("steady") if task["node"] == "node2")
        pid = lab.node.run(["cat", f"{lab.run_folder}/node2/init.pid"]).stdout.split()[0]
        enter = ["nsenter", "-t", pid, "-m", "-u", "-n", "-p", "--"]
        asking = lab.node.popen([*enter, sys.executable, "-c", ASK, f"http://{address}:8000/"])
        stop_engine(lab, signal)
        lab.mend("node2")
        assert asking.wait(60) == 0, "a request failed"
        assert lab.running("node2") == before
        lab.miniorch(*on_node2(lab, 2))

    return drill


def start_without_net(lab: LabMachine) -> None:
    """1.2, start: it fails after 15 s, the task waits, and runs when net is back."""
    kill_net(lab)
    known = len(lab.log("node2", "agent"))
    running = lab.start(*on_node2(lab, 2))
    until(lambda: "CreateEndpoint" in lab.log("node2", "agent")[known:], 60, "the engine has given up once")
    assert {task["state"] for task in lab.tasks("moving")} == {"preparing"}
    lab.mend("node2")
    assert lab.ended(running, 60) == 0


def stop_without_net(lab: LabMachine) -> None:
    """1.2, stop: the process dies, the engine tries for 45 s, and what it leaves of the network is swept.

    Meanwhile inspect hangs, and nothing else does: the list, exec, the node's heartbeats.
    """
    lab.miniorch(*on_node2(lab, 2))
    before = lab.dump("node2")
    lab.miniorch(*on_node2(lab, 4))
    kill_net(lab)
    began = time.monotonic()
    scaling = lab.start("scale", "moving/web=2")
    # Out of traffic they wait for net to follow, five seconds at most; then they are stopped.
    until(lambda: len(lab.shell("node2", "pgrep -xf 'sleep 1000000'").split()) == 2, 60, "the processes have ended")
    beside = next(task for task in lab.tasks("steady") if task["node"] == "node2")
    for _ in range(3):
        asked = time.monotonic()
        lab.shell("node2", "docker ps")
        lab.miniorch("exec", f"steady/web.{beside['slot']}", "--", "true")
        assert time.monotonic() - asked < 14, "it waited for a call of net's, which takes 15 s"
        assert lab.states()["node2"] == "ready"
    until(lambda: len(lab.tasks("moving")) == 2, 90, "the engine says that they have ended", pause=0.5)
    assert time.monotonic() - began > 14, "net was not missed"
    lab.mend("node2")
    assert lab.ended(scaling, 60) == 0
    same_network(lab, before)


def stop_without_net_and_engine(lab: LabMachine) -> None:
    """1.2, the same with the engine restarted meanwhile: the endpoint stays in its books, and is freed."""
    lab.miniorch(*on_node2(lab, 2))
    before = lab.dump("node2")
    lab.miniorch(*on_node2(lab, 4))
    kill_net(lab)
    stop_engine(lab, "KILL")
    start_engine(lab)
    scaling = lab.start("scale", "moving/web=2")
    until(lambda: len(lab.tasks("moving")) == 2, 120, "the engine says that they have ended", pause=0.5)
    lab.mend("node2")
    assert lab.ended(scaling, 60) == 0
    lab.miniorch(*on_node2(lab, 4))
    lab.miniorch(*on_node2(lab, 2))
    until(lambda: not stuck(lab), 90, "no endpoint is left", pause=1.0)
    same_network(lab, before)


def start_engine(lab: LabMachine) -> float:
    """Only that, without what else may be missing; the seconds until it answers."""
    lab.shell("node2", "while pgrep -x containerd > /dev/null; do sleep 0.05; done; rm -f /run/docker/containerd/*.pid")
    began = time.monotonic()
    lab.shell(
        "node2", "dockerd > /dev/null 2>&1 < /dev/null & until docker version > /dev/null 2>&1; do sleep 0.1; done"
    )
    return time.monotonic() - began


def same_network(lab: LabMachine, before: list[str]) -> None:
    """Nothing of node2's network is more than before, but for what changes with each container."""
    kinds = ("devices", "routes", "docker's networks", "namespaces", "notes")

    def counts(lines: list[str]) -> dict[str, int]:
        return {kind: sum(line.startswith(f"{kind}:") for line in lines) for kind in kinds}

    def same(lines: list[str]) -> bool:  # files of namespaces that were gone before take Docker a minute
        now, was = counts(lines), counts(before)
        return now["namespaces"] <= was["namespaces"] and now | {"namespaces": 0} == was | {"namespaces": 0}

    with contextlib.suppress(AssertionError):
        until(lambda: same(lab.dump("node2")), 120, "what the engine left is swept", pause=1.0)
    after = lab.dump("node2")
    assert same(after), "\n".join(sorted(set(after) ^ set(before)))
    assert not [line for line in lab.dump("node2") if "linkdown" in line and "docker0" not in line]


def network_removed_without_net(lab: LabMachine) -> None:
    """1.2, network rm: it succeeds after 15 s. The network is made again when it is needed and net is back."""
    lab.miniorch("rm", "moving", "--yes", code=None)
    lab.miniorch(*on_node2(lab, 1))  # an engine that was just started learns what net is when it first needs it
    lab.miniorch("rm", "moving", "--yes")
    lab.miniorch("scale", "steady/web=0")
    until(lambda: not stuck(lab), 90, "no endpoint is left", pause=1.0)
    kill_net(lab)
    lab.shell("node2", "docker network rm container:miniorch")
    lab.mend("node2")
    lab.miniorch("scale", "steady/web=3")
    lab.miniorch(*on_node2(lab, 2))


def engine_starts_without_net(lab: LabMachine) -> None:
    """1.2, dockerd start with live-restore: nobody waits for net, all goes on."""
    lab.miniorch(*on_node2(lab, 2))
    before = lab.running("node2")
    kill_net(lab)
    stop_engine(lab, "TERM")
    assert start_engine(lab) < 10
    assert lab.running("node2") == before
    lab.mend("node2")
    lab.miniorch(*on_node2(lab, 4))
    assert lab.running("node2").items() > before.items()


def engine_without_live_restore_starts_without_net(lab: LabMachine) -> None:
    """1.2, dockerd ends and starts without live-restore and without net: with a restart policy it would be 15 s for
    each of the five containers until the engine answers. Ours have none.
    """
    lab.miniorch(*on_node2(lab, 4))
    without_live_restore(lab)
    try:
        until(lambda: len(lab.places("moving")) == 4, 60, "all tasks run", pause=0.2)
        before = lab.running("node2")
        kill_net(lab)
        stop_engine(lab, "TERM")
        assert start_engine(lab) < 2 * 15
        lab.mend("node2")
        replaced_once(lab, before, 4)
        until(lambda: len(devices(lab)) == len(lab.running("node2")), 90, "devices are swept", pause=1.0)
    finally:
        without_live_restore(lab, on=True)


def devices(lab: LabMachine) -> list[str]:
    """The containers' devices on node2."""
    return lab.shell("node2", "ip -o link show type veth | grep -v eth0").splitlines()


def net_is_away_for_two_seconds(lab: LabMachine) -> None:
    """1.2, plugin back after 2 s: as if nothing had happened."""
    kill_net(lab)
    running = lab.start(*on_node2(lab, 2))
    time.sleep(2.0)
    lab.mend("node2")
    assert lab.ended(running, 30) == 0
    lab.miniorch("rm", "moving", "--yes")
    assert stuck(lab) == []


# The rows of tables on what Docker does when it or its network plugin goes away; those of `make test` are short.
SHORT: dict[str, Callable[[LabMachine], None]] = {
    "SIGTERM and start, live-restore": engine_restarts("TERM"),
    "kill -9 and start at once, live-restore": engine_restarts("KILL"),
    "net back after 2 s": net_is_away_for_two_seconds,
}
ROWS = {
    **SHORT,
    "start without net": start_without_net,
    "stop and inspect without net": stop_without_net,
    "stop without net, engine restarted": stop_without_net_and_engine,
    "engine starts without net, live-restore": engine_starts_without_net,
}
TOUCHING = {  # in which the steady app's containers on node2 cannot stay
    "SIGTERM and start, no live-restore": engine_ends("TERM"),
    "kill -9 and start, no live-restore": engine_ends("KILL"),
    "engine ends and starts without net, no live-restore": engine_without_live_restore_starts_without_net,
    "network rm without net": network_removed_without_net,
}


@pytest.mark.parametrize("row", ROWS if LONG else SHORT)
def test_engine_or_net_goes_away_and_comes_back(lab: LabMachine, undisturbed: dict[str, str], row: str) -> None:
    try:
        ROWS[row](lab)
    finally:
        lab.mend("node2")


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_many_containers_up_and_down_leave_nothing(lab: LabMachine, undisturbed: dict[str, str]) -> None:
    lab.miniorch("run", lab.file(moving(3), "moving.yml"), "--quiet")  # what is made once per node is made
    lab.miniorch("rm", "moving", "--yes")
    before = lab.rested()
    began = time.monotonic()
    lab.miniorch("run", lab.file(moving(CONTAINERS), "moving.yml"), "--quiet", timeout=300)
    up = time.monotonic() - began
    assert len(lab.running()) == 3 + CONTAINERS
    lab.miniorch("rm", "moving", "--yes", timeout=300)
    print(f"\n{CONTAINERS} containers up in {up:.1f} s, down in {time.monotonic() - began - up:.1f} s")
    lab.leaves_nothing(before)


# --- false alarms ----------------------------------------------------------------------------------------------------

BURN = """
import os, sys, time
os.nice(19)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(10000):
        pass
"""


def processor() -> tuple[int, int]:
    """All of the machine's processor time so far, and the idle part of it."""
    spent = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(spent), spent[3] + spent[4]


def test_a_busy_machine_is_no_dead_one(lab: LabMachine, undisturbed: dict[str, str]) -> None:
    known = {event["id"] for event in lab.json("events")}
    burning = [
        subprocess.Popen([sys.executable, "-c", BURN, str(BUSY_SECONDS + 30)]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        all_before, idle_before = processor()
        deadline, seen = time.monotonic() + BUSY_SECONDS, []
        while time.monotonic() < deadline:
            time.sleep(min(30.0, BUSY_SECONDS))
            seen += [event for event in lab.json("events") if event["id"] not in known]
            known |= {event["id"] for event in seen}
        all_after, idle_after = processor()
    finally:
        for process in burning:
            process.kill()
            process.wait()
    busy = 1 - (idle_after - idle_before) / (all_after - all_before)
    print(f"\n{BUSY_SECONDS:.0f} s at {busy:.0%} of all processors: {len(seen)} alarms")
    assert busy >= BUSY_SHARE
    assert seen == []


# --- last, because it does not leave the steady app alone ------------------------------------------------------------


@pytest.mark.parametrize("row", TOUCHING if LONG else ["kill -9 and start, no live-restore"])
def test_engine_goes_away_with_its_containers(lab: LabMachine, steady: dict[str, str], row: str) -> None:
    try:
        TOUCHING[row](lab)
    finally:
        lab.mend("node2")
    until(lambda: len(lab.places("steady")) == 3, 60, "the steady app runs", pause=0.2)
    assert lab.fetch(PAGE)
    lab.miniorch("rm", "moving", "--yes", code=None)
