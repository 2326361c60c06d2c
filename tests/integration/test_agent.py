"""The agent on a real Docker Engine. Server, net process and agent run; the test speaks to the API and sees Docker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from node import TestNode, until

from miniorch.spec import AppSpec, Build, ContainerOptions, HealthCheck, Mount, Port, Resources, ServiceSpec, TaskSpec
from miniorch.transport import HttpTransport

pytestmark = [pytest.mark.root, pytest.mark.docker]

ROOT = Path(__file__).parent.parent.parent
MODULES = {"server": "miniorch.server", "net": "netplugin.main", "agent": "agent.main"}
SLEEP = TaskSpec("busybox:1", command=("sleep", "100000"), stop_grace_seconds=0.0)
HTTPD = replace(
    SLEEP,
    command=("sh", "-c", "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8000 -h /www"),
    healthcheck=HealthCheck(("wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"), interval_seconds=1.0),
)


class Trio:
    """The three processes of a node, without the command line."""

    def __init__(self, node: TestNode, logs: Path) -> None:
        self.node = node
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.api = HttpTransport(f"/proc/{node.pid}/root/run/miniorch/api.sock")

    def start(self, name: str) -> None:
        argv = [sys.executable, "-m", MODULES[name]]
        with (self.logs / f"{name}.log").open("ab") as log:
            more = [] if name == "server" else ["--node", "node1"]
            self.running[name] = self.node.popen([*argv, *more], stdout=log, stderr=log, cwd=ROOT)

    def stop(self, name: str, how: int = signal.SIGKILL) -> int:
        process = self.running.pop(name)
        process.send_signal(how)
        return process.wait(10)

    def tasks(self) -> list[dict[str, Any]]:
        return list(self.api.request_now("GET", "/v1/tasks")["items"])

    def states(self, app: str) -> list[str]:
        return sorted(task["status"]["state"] for task in self.tasks() if task["app"] == app)

    def wait(self, app: str, *states: str, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Until the app's tasks are in exactly these states."""
        try:
            until(lambda: self.states(app) == sorted(states), seconds, f"{app} is {states}", pause=0.1)
        except AssertionError as error:
            seen = [(task["service"], task["status"]) for task in self.tasks()]
            raise AssertionError(f"{error}: {seen}\n{self.log('agent')}") from None
        return [task for task in self.tasks() if task["app"] == app]

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text()

    def apply(self, app: str, volumes: tuple[str, ...] = (), **services: ServiceSpec) -> None:
        self.api.request_now("PUT", f"/v1/apps/{app}", AppSpec(services, volumes))

    def remove(self, app: str) -> None:
        self.api.request_now("DELETE", f"/v1/apps/{app}?volumes=1")
        until(lambda: app not in [one["name"] for one in self.listed("apps")], 30, f"{app} is gone", pause=0.1)

    def listed(self, kind: str) -> list[Any]:
        return list(self.api.request_now("GET", f"/v1/{kind}")["items"])

    def containers(self) -> dict[str, str]:
        """All containers of miniorch, running or not: name -> id."""
        found = self.node.docker("ps", "-a", "--filter", "label=miniorch.task", "--format", "{{.Names}} {{.ID}}").stdout
        return dict(line.split() for line in found.splitlines())

    def answers(self) -> bool:
        try:
            return bool(self.listed("nodes"))
        except Exception:
            return False


@pytest.fixture(scope="module")
def trio(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    trio = Trio(node, tmp_path_factory.mktemp("logs"))
    for name in MODULES:
        trio.start(name)
    try:
        until(trio.answers, 20, "the agent has registered", pause=0.1)
        yield trio
    finally:
        if "agent" in trio.running:
            trio.stop("agent", signal.SIGTERM)
        node.run([sys.executable, "-m", "agent.main", "--undo"], cwd=ROOT)  # first: Docker asks the net process
        for name in list(trio.running):
            trio.stop(name, signal.SIGTERM)
        node.run([sys.executable, "-m", "netplugin.main", "--undo"], cwd=ROOT)
        node.run(["rm", "-rf", "/var/lib/miniorch", "/run/miniorch"], check=False)
        print(trio.log("agent"))


@pytest.fixture
def clean(trio: Trio) -> Iterator[Trio]:
    yield trio
    for name in MODULES:
        if name not in trio.running:
            trio.start(name)
    until(trio.answers, 20, "the server answers", pause=0.1)
    for app in trio.listed("apps"):
        trio.remove(app["name"])
    assert trio.containers() == {}


def test_service_is_reachable_through_its_published_port(clean: Trio) -> None:
    clean.apply("chat", web=ServiceSpec(HTTPD, replicas=2, ports=(Port(5000, 8000),)))
    tasks = clean.wait("chat", "running", "running")
    assert {task["status"]["health"] for task in tasks} == {"healthy"}

    def page() -> str:
        return clean.node.run(["wget", "-q", "-O", "-", "http://127.0.0.1:5000/"], check=False).stdout.strip()

    until(lambda: {page() for _ in range(8)} == {"web-1", "web-2"}, 5, "both answer behind the port")
    names = sorted(clean.containers())
    assert names == sorted(f"chat-web.{task['slot']}-{task['id']}" for task in tasks)
    clean.remove("chat")
    assert page() == ""


def test_container_is_as_it_should_be(clean: Trio) -> None:
    spec = replace(SLEEP, environment={"A": "b"}, mounts=(Mount("data", "/data"),), limit=Resources(0.5, 64 << 20))
    clean.apply("chat", ("data",), db=ServiceSpec(spec))
    (task,) = clean.wait("chat", "running")
    (name,) = clean.containers()
    found = json.loads(clean.node.docker("inspect", name).stdout)[0]
    assert found["Config"]["Hostname"] == "db-1"
    inside = clean.node.docker("exec", name, "ip", "-4", "-o", "address", "show", "dev", "eth0").stdout
    assert f" {task['status']['address']}/32 " in inside
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert (found["HostConfig"]["Init"], found["HostConfig"]["Memory"]) == (True, 64 << 20)
    inside = clean.node.docker("exec", name, "sh", "-c", "cat /etc/resolv.conf; env; echo kept > /data/file").stdout
    assert {"search chat.miniorch.internal", "nameserver 10.200.0.1", "options ndots:1 timeout:2 attempts:2"} <= set(
        inside.splitlines()
    )
    assert {"A=b", "MINIORCH_SLOT=1", "MINIORCH_NODE=node1", f"MINIORCH_TASK={task['id']}"} <= set(inside.splitlines())
    volume = Path(f"/proc/{clean.node.pid}/root/var/lib/miniorch/volumes/chat/data")
    assert (volume / "data/file").read_text() == "kept\n"
    clean.remove("chat")
    until(lambda: not volume.exists(), 5, "the volume is gone")
    assert clean.listed("volumes") == []


def test_options_reach_docker_and_services_find_each_other_by_environment(clean: Trio, tmp_path: Path) -> None:
    (tmp_path / "app.conf").write_text("mine")
    options = ContainerOptions(
        user="1000:1000", working_dir="/tmp", hostname="me", stop_signal="SIGINT", tty=True, stdin_open=True,
        read_only=True, init=False, cap_add=("NET_ADMIN",), cap_drop=("CHOWN",), security_opt=("no-new-privileges",),
        group_add=("44",), devices=("/dev/null:/dev/mine:r",), extra_hosts=("build:192.0.2.7",),
        tmpfs={"/scratch": "size=1m"}, sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
        ulimits={"nofile": "1000:2000"}, labels={"team": "blue", "miniorch.app": "stolen"},
        shm_size=8 << 20, pids_limit=50,
    )  # fmt: skip
    mounts = (Mount("", "/app.conf", True, host_path=str(tmp_path / "app.conf")),)
    clean.apply(
        "chat",
        web=ServiceSpec(replace(SLEEP, options=options, mounts=mounts)),
        db=ServiceSpec(SLEEP, ports=(Port(5001, 8000, local=True),)),
        bad=ServiceSpec(replace(SLEEP, mounts=(Mount("", "/x", host_path=f"{tmp_path}/missing"),))),
    )
    until(lambda: clean.states("chat").count("running") == 2, 30, "both run", pause=0.1)
    rejected = until(lambda: [one for one in clean.tasks() if one["status"]["state"] == "rejected"], 20, "bad is not")
    assert f"there is no {tmp_path}/missing on this machine" in rejected[0]["status"]["message"]
    assert not (tmp_path / "missing").exists()
    (name,) = [name for name in clean.containers() if name.startswith("chat-web")]
    found = json.loads(clean.node.docker("inspect", name).stdout)[0]
    config, host = found["Config"], found["HostConfig"]
    assert (config["User"], config["WorkingDir"], config["Hostname"]) == ("1000:1000", "/tmp", "me")
    assert (config["StopSignal"], config["Tty"], config["OpenStdin"]) == ("SIGINT", True, True)
    assert (config["Labels"]["team"], config["Labels"]["miniorch.app"]) == ("blue", "chat")
    assert (host["ReadonlyRootfs"], host["Init"], host["Privileged"]) == (True, False, False)
    assert (host["CapAdd"], host["CapDrop"], host["GroupAdd"]) == (["NET_ADMIN"], ["CHOWN"], ["44"])
    assert (host["ShmSize"], host["PidsLimit"], host["Tmpfs"]) == (8 << 20, 50, {"/scratch": "size=1m"})
    assert (host["SecurityOpt"], host["Sysctls"]["net.ipv4.ip_unprivileged_port_start"]) == (["no-new-privileges"], "0")
    look = "id -G; id -u; ulimit -n; ulimit -Hn; grep build /etc/hosts; cat /app.conf; echo; ls /dev/mine; env"
    groups, *inside = clean.node.docker("exec", name, "sh", "-c", look).stdout.splitlines()
    assert "44" in groups.split()
    assert inside[:6] == ["1000", "1000", "2000", "192.0.2.7\tbuild", "mine", "/dev/mine"]
    assert "DB_SERVICE_PORT=8000" in inside
    assert any(line.startswith("WEB_SERVICE_HOST=10.201.") for line in inside)
    config_file = Path(f"/proc/{clean.node.pid}/root/run/miniorch/haproxy.cfg")
    assert "bind 127.0.0.1:5001" in config_file.read_text()


def test_build_stops_at_its_target(clean: Trio, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:1 AS one\nENV STAGE=one\nFROM one\nRUN exit 9\n")
    image, digest = "miniorch/chat-db:aaaaaaaaaaaa", "aaaaaaaaaaaa"
    clean.node.docker("rmi", "-f", image, check=False)  # an earlier run's is still in the cache, and would be taken
    spec = replace(SLEEP, image=image, build=Build(str(tmp_path), digest, target="one"))
    clean.apply("chat", db=ServiceSpec(spec))
    clean.wait("chat", "running")
    (name,) = clean.containers()
    assert "STAGE=one" in clean.node.docker("exec", name, "env").stdout


def test_container_that_exits_is_replaced_and_says_why(clean: Trio) -> None:
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, command=("sh", "-c", "echo oh; echo no; exit 3"))))
    failed = until(
        lambda: [task["status"] for task in clean.tasks() if task["status"]["state"] == "failed"], 20, "it failed"
    )
    assert failed[0]["exit_code"] == 3
    assert failed[0]["log_tail"] == ["oh", "no"]
    assert failed[0]["message"] == "exit code 3"


def test_command_that_is_not_in_the_image_is_named(clean: Trio) -> None:
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, command=("nope",))))
    (task, *_) = until(lambda: [task for task in clean.tasks() if task["status"]["state"] == "failed"], 20, "it failed")
    assert "command not found in the image" in task["status"]["message"], task["status"]


def test_image_that_cannot_be_had_is_rejected_with_the_reason(clean: Trio) -> None:
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, image="nowhere.invalid/db:1")))
    (task, *_) = until(
        lambda: [task for task in clean.tasks() if task["status"]["state"] == "rejected"], 30, "it is rejected"
    )
    assert "the registry nowhere.invalid does not answer" in task["status"]["message"]


def test_build_that_breaks_is_rejected_with_its_last_lines(clean: Trio, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:1\nRUN echo sorry; exit 9\n")
    spec = replace(SLEEP, image="miniorch/chat-db:123456789abc", build=Build(str(tmp_path), "123456789abc"))
    clean.apply("chat", db=ServiceSpec(spec))
    (task, *_) = until(
        lambda: [task for task in clean.tasks() if task["status"]["state"] == "rejected"], 30, "it is rejected"
    )
    assert "failed in step 2/2: RUN echo sorry; exit 9" in task["status"]["message"]
    assert "sorry" in task["status"]["log_tail"]


def test_task_that_never_gets_healthy_is_stopped(clean: Trio) -> None:
    check = HealthCheck(("sh", "-c", "echo no luck; exit 1"), interval_seconds=0.2, retries=2)
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, healthcheck=check)))
    (task, *_) = until(lambda: [task for task in clean.tasks() if task["status"]["state"] == "failed"], 20, "it failed")
    assert task["status"]["message"] == "never became healthy: no luck"


def test_probe_that_hangs_is_ended_and_counts_as_failed(clean: Trio) -> None:
    check = HealthCheck(("sleep", "4242"), interval_seconds=0.2, timeout_seconds=0.5, retries=1)
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, healthcheck=check)))
    (task, *_) = until(lambda: [task for task in clean.tasks() if task["status"]["state"] == "failed"], 20, "it failed")
    assert task["status"]["message"] == "never became healthy: `sleep 4242` did not end within 0.5 s"


def test_killed_container_is_replaced_with_its_volume(clean: Trio) -> None:
    spec = replace(SLEEP, mounts=(Mount("data", "/data"),))
    clean.apply("chat", ("data",), db=ServiceSpec(spec))
    clean.wait("chat", "running")
    (name,) = clean.containers()
    clean.node.docker("exec", name, "sh", "-c", "echo kept > /data/file")
    clean.node.docker("kill", name)
    clean.wait("chat", "failed", "running")
    new = next(other for other in clean.containers() if other != name)
    assert clean.node.docker("exec", new, "cat", "/data/file").stdout == "kept\n"


def test_container_removed_behind_our_back_is_replaced(clean: Trio) -> None:
    clean.apply("chat", db=ServiceSpec(SLEEP))
    clean.wait("chat", "running")
    (name,) = clean.containers()
    clean.node.docker("rm", "-f", name)
    tasks = clean.wait("chat", "failed", "running")
    assert "its container is gone" in [task["status"]["message"] for task in tasks]


def test_agent_killed_at_rest_adopts_what_runs(clean: Trio) -> None:
    clean.apply("chat", web=ServiceSpec(HTTPD, replicas=3))
    clean.wait("chat", "running", "running", "running")
    before = clean.containers()
    clean.stop("agent")
    known = len(clean.log("agent"))
    clean.start("agent")
    until(lambda: "registered" in clean.log("agent")[known:], 20, "the agent is back")
    clean.api.request_now("PUT", "/v1/services/chat/web/replicas", {"replicas": 4})
    clean.wait("chat", *["running"] * 4)
    assert before.items() <= clean.containers().items()


@pytest.mark.parametrize("pause", [0.2, 0.5, 0.8, 1.2])
def test_agent_killed_in_the_middle_doubles_and_loses_nothing(clean: Trio, pause: float) -> None:
    clean.apply("chat", web=ServiceSpec(HTTPD, replicas=4))
    until(lambda: clean.states("chat") != [], 5, "there are tasks")
    with pytest.raises(subprocess.TimeoutExpired):  # the pause is the test's subject, not a wait for something
        clean.running["agent"].wait(pause)
    clean.stop("agent")
    clean.start("agent")
    tasks = clean.wait("chat", *["running"] * 4)
    assert sorted(clean.containers()) == sorted(f"chat-web.{task['slot']}-{task['id']}" for task in tasks)


def test_orphan_is_removed_after_the_first_snapshot(clean: Trio) -> None:
    clean.stop("server")
    clean.stop("agent")
    made = clean.node.docker(
        "run", "-d", "--init", "--network", "none", "--label", "miniorch.task=zombie", "busybox:1", "sleep", "1000"
    )
    known = len(clean.log("agent"))
    clean.start("agent")
    until(lambda: "cannot register" in clean.log("agent")[known:], 20, "the agent looks for a server")
    with pytest.raises(subprocess.TimeoutExpired):  # no server: the agent does not know what is wanted
        clean.running["agent"].wait(2.0)
    assert made.stdout.strip().startswith(next(iter(clean.containers().values())))
    clean.start("server")
    until(lambda: clean.containers() == {}, 20, "the orphan is gone")


def test_dockerd_restart_leaves_live_restored_containers_alone(clean: Trio) -> None:
    clean.apply("chat", web=ServiceSpec(HTTPD, replicas=2))
    clean.wait("chat", "running", "running")
    before = clean.containers()
    clean.node.stop_dockerd()
    until(lambda: not clean.listed("nodes")[0]["ready"], 15, "the server hears that Docker is away")
    clean.node.start_dockerd()
    until(lambda: clean.listed("nodes")[0]["ready"], 20, "the node is ready again")
    clean.api.request_now("PUT", "/v1/services/chat/web/replicas", {"replicas": 3})
    clean.wait("chat", *["running"] * 3)
    assert before.items() <= clean.containers().items()


def test_dockerd_restart_without_live_restore_replaces_each_container_once(clean: Trio) -> None:
    clean.node.stop_dockerd()
    clean.node.start_dockerd("--live-restore=false")
    clean.apply("chat", web=ServiceSpec(HTTPD, replicas=2))
    clean.wait("chat", "running", "running", seconds=60)
    before = clean.containers()
    clean.node.stop_dockerd()
    clean.node.start_dockerd()
    clean.wait("chat", "failed", "failed", "running", "running", seconds=60)
    assert len(clean.containers().keys() - before.keys()) == 2


def test_net_process_that_is_away_delays_a_start_and_fails_nothing(clean: Trio) -> None:
    clean.apply("chat", one=ServiceSpec(SLEEP))
    clean.wait("chat", "running")
    clean.stop("net")
    known = len(clean.log("agent"))
    clean.apply("chat", one=ServiceSpec(SLEEP), two=ServiceSpec(SLEEP))
    until(lambda: "NetworkDriver.CreateEndpoint" in clean.log("agent")[known:], 40, "the agent has tried")
    assert clean.states("chat") == ["preparing", "running"]
    clean.start("net")
    clean.wait("chat", "running", "running", seconds=60)


def test_logs_come_from_the_agents_socket(clean: Trio) -> None:
    clean.apply("chat", db=ServiceSpec(replace(SLEEP, command=("sh", "-c", "echo one; echo two; sleep 100000"))))
    (task,) = clean.wait("chat", "running")
    connection, answer = clean.api.open("GET", f"/v1/tasks/{task['id']}/logs?tail=1")
    with answer:
        assert answer.read() == b"two\n"
    connection.close()
    connection, answer = clean.api.open("GET", f"/v1/tasks/{task['id']}/logs?tail=10&follow=1")
    with answer:
        assert answer.readline() + answer.readline() == b"one\ntwo\n"
    connection.close()


def test_agent_is_idle_when_nothing_happens_and_small(clean: Trio) -> None:
    clean.apply("chat", web=ServiceSpec(replace(SLEEP), replicas=3, ports=(Port(5000, 8000),)))
    clean.wait("chat", *["running"] * 3)
    pid = clean.running["agent"].pid

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    with pytest.raises(subprocess.TimeoutExpired):
        clean.running["agent"].wait(10.0)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 10.0
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    print(f"agent: {share:.2%} of a core, {memory:.0f} MB")
    assert share < 0.02
    assert memory < 70
