"""A cluster of three: miniorch beside Docker Swarm, each in a lab of its own, one after the other in every round.

    sudo .venv/bin/python benchmarks/cluster.py [--rounds 3] [--replicas 30]

Both get the same machines (`miniorch/lab`: namespaces, a Docker Engine each, one wire), the same busybox image, already
there, and an overlay network. Measured, in seconds unless said otherwise:

- start: from the command on the manager (`miniorch run --detach`, `docker service create --detach`: neither waits on
  to see whether what runs stays so) until the manager says that all replicas run, which its API is asked ten times a
  second. The *floor* is the same containers, each on a network of Docker's own, by plain calls of its API, eight at
  once per node, in miniorch's lab. All three have Docker's init as their first process. The floor's network and
  Swarm's have Docker's name server in each container, which miniorch's has not (decision 0012): the floor is what
  Docker takes by itself, not the least that is possible.
- down: from pulling a node's cable until the manager calls it down; moved: until all replicas run on the others.
- overlay: MB/s of one TCP connection and microseconds of a ping, between containers on two nodes and on the bare wire.
  For this both labs are up at once and take turns; of each figure the median, and of the ratios within a turn, since
  one alone says more about the moment than about the network. `--rounds 0` measures only this.
- join: three machines with engines until all are ready. Memory (MB) and processor (%) of our processes with the
  replicas running, over ten quiet seconds.

Swarm runs without live-restore, which it does not allow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from docker import DockerClient  # noqa: E402 (found by the line above)

from miniorch.codec import encode  # noqa: E402
from miniorch.lab.lab import Lab  # noqa: E402
from miniorch.lab.machine import Machine  # noqa: E402
from miniorch.lab.plan import Place, free_wire, ordered  # noqa: E402
from miniorch.lab.wire import routes  # noqa: E402
from miniorch.transport import HttpTransport  # noqa: E402

PLACE, OTHER = Place("bench"), Place("bench-swarm")
MEGABYTES = 200
TURNS = 30
PINGS = 50
AT_ONCE = 8
PORT = 5001
TAKE = f"""
import socket, time
listener = socket.create_server(("", {PORT}))
print("listening", flush=True)
wire, _ = listener.accept()
room, got, began = bytearray(1 << 20), 0, time.monotonic()
while size := wire.recv_into(room):
    got += size
print(got / 1e6 / (time.monotonic() - began))
"""
GIVE = f"""
import socket, sys
wire = socket.create_connection((sys.argv[1], {PORT}))
data = bytes(1 << 20)
for _ in range({MEGABYTES}):
    wire.sendall(data)
"""
APP = """
services:
  web:
    image: busybox:1
    command: ["sleep", "1000000"]
    deploy: {replicas: %d}
"""
Figures = dict[str, float]


def until(condition: Callable[[], Any], what: str, seconds: float = 180.0) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"after {seconds:g} s still not: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


def busybox(folder: Path) -> Path:
    """An image of one static file, as a tar for `docker import`."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    found = subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True).stdout.strip()
    (root / "bin/busybox").write_bytes(Path(found).read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    subprocess.run(["tar", "-C", str(root), "-cf", str(folder / "busybox.tar"), "."], check=True)
    return folder / "busybox.tar"


def load(machines: list[Machine], tar: Path) -> None:
    change = ["--change", 'CMD ["sh"]', "--change", "ENV PATH=/bin"]
    for machine in machines:
        machine.run(["docker", "import", *change, str(tar), "busybox:1"])


def flow(giver: Machine, taker: Machine, address: str, inside: tuple[str, str] = ("", "")) -> tuple[float, float]:
    """MB/s of one connection, and microseconds of a ping, between two machines; `inside`: between containers on them.

    Only the network is theirs: both ends are the same Python, so no container needs a tool.
    """

    def argv(machine: Machine, container: str, *command: str) -> list[str]:
        if not container:
            return machine.argv(command)
        pid = machine.run(["docker", "inspect", "-f", "{{.State.Pid}}", container]).stdout.strip()
        return machine.argv(["nsenter", "-t", pid, "-n", "--", *command])

    take = argv(taker, inside[1], sys.executable, "-c", TAKE)
    with subprocess.Popen(take, stdout=subprocess.PIPE, text=True) as taking:
        assert taking.stdout is not None
        taking.stdout.readline()
        subprocess.run(argv(giver, inside[0], sys.executable, "-c", GIVE, address), check=True, timeout=120)
        rate = float(taking.stdout.readline())
    ping = argv(giver, inside[0], "busybox", "ping", "-c", str(PINGS), "-i", "0.01", address)
    said = subprocess.run(ping, capture_output=True, text=True, check=True).stdout
    return rate, 1000 * statistics.median(float(one) for one in re.findall(r"time=([\d.]+) ms", said))


def floor(machines: list[Machine], replicas: int) -> float:
    """The same containers by plain calls, on a network of Docker's own."""
    clients = [DockerClient(base_url=f"unix://{one.docker_socket}") for one in machines]
    for client in clients:
        client.networks.create("floor")

    def start(number: int) -> Any:
        client = clients[number % len(clients)]
        return client.containers.run("busybox:1", ["sleep", "1000000"], detach=True, network="floor", init=True)

    pools = [ThreadPoolExecutor(AT_ONCE) for _ in clients]
    began = time.monotonic()
    jobs = [pools[number % len(pools)].submit(start, number) for number in range(replicas)]
    containers = [job.result() for job in jobs]
    seconds = time.monotonic() - began
    ends = [pools[number % len(pools)].submit(one.remove, force=True) for number, one in enumerate(containers)]
    for end in ends:
        end.result()
    for client in clients:
        client.networks.get("floor").remove()
        client.close()
    return seconds


def ours(replicas: int, tar: Path, folder: Path) -> Figures:
    """One round of miniorch."""
    figures: Figures = {}
    lab = Lab(PLACE, lambda line: None)
    try:
        lab.up(3, "", {}, 0.0, 0)
        figures["join"] = lab.seconds["manager"] + lab.seconds["workers"]
        machines = lab.machines
        load(machines, tar)
        assert lab.plan is not None
        figures["floor"] = floor(machines, replicas)
        api = HttpTransport(str(PLACE.api_socket(machines[0].name)))
        file = folder / "bench.yml"
        file.write_text(APP % replicas)

        def tasks(service: str) -> list[Any]:
            listed = api.request_now("GET", "/v1/tasks")["items"]
            return [one for one in listed if one["service"] == service and one["status"]["state"] == "running"]

        def node(name: str) -> Any:
            return next(one for one in api.request_now("GET", "/v1/nodes")["items"] if one["name"] == name)

        began = time.monotonic()
        machines[0].miniorch("run", str(file), "--name", "bench", "-q", "-d")
        until(lambda: len(tasks("web")) == replicas, "all replicas run")
        figures["start"] = time.monotonic() - began
        figures |= costs(machines)
        began = time.monotonic()
        lab.cut("node3")
        until(lambda: node("node3")["state"] == "down", "node3 is down")
        figures["down"] = time.monotonic() - began
        until(lambda: sum(one["node"] != "node3" for one in tasks("web")) == replicas, "all run elsewhere")
        figures["moved"] = time.monotonic() - began
    finally:
        lab.down(images=True)
    return figures


def costs(machines: list[Machine]) -> Figures:
    """Memory and processor time of the manager's server and of each agent, over ten quiet seconds."""
    look = "for p in server agent net; do read -r pid rest < /run/miniorch/$p.pid; cat /proc/$pid/stat; done"

    def ticks() -> list[list[str]]:
        return [line.rpartition(")")[2].split() for line in machines[0].run(["sh", "-c", look]).stdout.splitlines()]

    before = ticks()
    time.sleep(10.0)
    after = ticks()
    figures: Figures = {}
    for name, old, new in zip(("server", "agent", "net"), before, after, strict=True):
        figures[f"{name} %"] = (int(new[11]) + int(new[12]) - int(old[11]) - int(old[12])) / 10.0
        figures[f"{name} MB"] = int(new[21]) * 4096 / 1e6
    return figures


def swarm_up(lab: Lab, tar: Path) -> float:
    """A swarm of three with an overlay network; seconds from engines to three ready nodes."""
    lab.plan = ordered(None, 3, "", {}, 0.0, 0, free_wire(routes()))
    lab.place.state.mkdir(parents=True, exist_ok=True)
    lab.place.file.write_bytes(encode(lab.plan))
    lab.wire.ensure()
    machines = lab.machines
    for machine in machines:
        machine.start([])
        lab.wire.plug(machine)
        settings = machine.folder / "etc/docker/daemon.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "live-restore": False}))
        machine.start_dockerd()
    load(machines, tar)

    def docker(*argv: str) -> str:
        return machines[0].run(["docker", *argv]).stdout

    began = time.monotonic()
    docker("swarm", "init", "--advertise-addr", lab.plan.address(machines[0].node))
    token = docker("swarm", "join-token", "-q", "worker").strip()
    for machine in machines[1:]:
        machine.run(["docker", "swarm", "join", "--token", token, f"{lab.plan.address(machines[0].node)}:2377"])
    until(lambda: docker("node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * 3, "three nodes are ready")
    seconds = time.monotonic() - began
    docker("network", "create", "-d", "overlay", "--attachable", "over")
    return seconds


def swarm(replicas: int, tar: Path) -> Figures:
    """One round of Docker Swarm."""
    figures: Figures = {}
    lab = Lab(OTHER, lambda line: None)
    try:
        figures["join"] = swarm_up(lab, tar)
        first = lab.machines[0]

        def docker(*argv: str) -> str:
            return first.run(["docker", *argv]).stdout

        began = time.monotonic()
        docker(
            "service", "create", "-q", "--detach", "--init", "--name", "web", "--network", "over",
            "--replicas", str(replicas), "--no-resolve-image", "busybox:1", "sleep", "1000000",
        )  # fmt: skip
        with contextlib.closing(DockerClient(base_url=f"unix://{first.docker_socket}")) as client:
            states = lambda: [one["Status"]["State"] for one in client.api.tasks(filters={"service": "web"})]  # noqa: E731
            until(lambda: states().count("running") == replicas, "all replicas run")
        figures["start"] = time.monotonic() - began
        began = time.monotonic()
        lab.cut("node3")
        status = ("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        until(lambda: "node3 Down" in docker(*status), "node3 is down")
        figures["down"] = time.monotonic() - began
        where = ("service", "ps", "web", "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")

        def elsewhere() -> bool:
            rows = [line.split() for line in docker(*where).splitlines()]
            return sum(row[0] != "node3" and row[1] == "Running" for row in rows) == replicas

        until(elsewhere, "all run elsewhere")
        figures["moved"] = time.monotonic() - began
    finally:
        lab.down(images=True)
    return figures


def overlays(tar: Path, folder: Path) -> list[dict[str, Figures]]:
    """Turns of miniorch's overlay, Swarm's and the bare wire, each between the first two nodes of its lab."""
    labs = [Lab(place, lambda line: None) for place in (PLACE, OTHER)]
    turns: list[dict[str, Figures]] = []
    try:
        labs[0].up(3, "", {}, 0.0, 0)
        (file := folder / "pair.yml").write_text(APP % 3)
        load(labs[0].machines, tar)
        labs[0].machines[0].miniorch("run", str(file), "--name", "bench", "-q")
        swarm_up(labs[1], tar)
        ways: dict[str, tuple[list[Machine], str, tuple[str, str]]] = {}
        listed = HttpTransport(str(PLACE.api_socket("node1"))).request_now("GET", "/v1/tasks")["items"]
        at = {one["node"]: one["status"] for one in listed}
        pair = (at["node1"]["container_id"], at["node2"]["container_id"])
        ways["miniorch"] = (labs[0].machines, at["node2"]["address"], pair)
        for machine in labs[1].machines[:2]:
            machine.run(["docker", "run", "-d", "--name", "far", "--network", "over", "busybox:1", "sleep", "1000000"])
        inspect = ["docker", "inspect", "-f", "{{.NetworkSettings.Networks.over.IPAddress}}", "far"]
        ways["swarm"] = (labs[1].machines, labs[1].machines[1].run(inspect).stdout.strip(), ("far", "far"))
        assert labs[0].plan is not None
        ways["wire"] = (labs[0].machines, labs[0].plan.address(labs[0].machines[1].node), ("", ""))
        for turn in range(TURNS):
            order = list(ways)[:: 1 if turn % 2 else -1]
            seen = {name: flow(ways[name][0][0], ways[name][0][1], *ways[name][1:]) for name in order}
            turns.append({name: {"overlay MB/s": rate, "overlay us": ping} for name, (rate, ping) in seen.items()})
    finally:
        for lab in labs:
            lab.down(images=True)
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=30)
    options = parser.parse_args()
    mine: list[Figures] = []
    theirs: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        tar = busybox(Path(folder))
        for number in range(options.rounds):
            print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
            mine.append(ours(options.replicas, tar, Path(folder)))
            print("  miniorch", {name: round(value, 2) for name, value in mine[-1].items()}, flush=True)
            theirs.append(swarm(options.replicas, tar))
            print("  swarm   ", {name: round(value, 2) for name, value in theirs[-1].items()}, flush=True)
        turns = overlays(tar, Path(folder))
    print(f"\n{'':14}{'miniorch':>10}{'swarm':>10}{'ratio':>8}   (medians)")
    for name in mine[0] if mine else ():
        value = statistics.median(one[name] for one in mine)
        other = statistics.median(one.get(name, float("nan")) for one in theirs)
        print(f"{name:14}{value:10.2f}{other:10.2f}{value / other:8.2f}")
    for name in turns[0]["wire"]:
        medians = {who: statistics.median(one[who][name] for one in turns) for who in turns[0]}
        ratio = statistics.median(one["miniorch"][name] / one["swarm"][name] for one in turns)
        print(f"{name:14}{medians['miniorch']:10.2f}{medians['swarm']:10.2f}{ratio:8.2f}   wire {medians['wire']:.2f}")
    if mine:
        start, least = (statistics.median(one[name] for one in mine) for name in ("start", "floor"))
        print(f"start / floor {start / least:.2f}")


if __name__ == "__main__":
    main()
