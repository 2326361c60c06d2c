"""Two real servers over one real etcd: one dies, one stands still, the store is away. Needs no root and no Docker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_process import EtcdProcess, running

from miniorch.cli.ask import Server
from miniorch.errors import MiniorchError, NotLeader, Temporary
from miniorch.spec import AppSpec, ServiceSpec, TaskSpec
from miniorch.transport import HttpTransport

LEASE = 3.0
SHOP = AppSpec({"web": ServiceSpec(TaskSpec("web:1"), replicas=2)})
NODE = {"capacity": {"cpus": 4, "memory_bytes": 2**30}, "engine": "Fake"}


class ServerProcess:
    """One `miniorch.server` with a socket and a state directory of its own."""

    def __init__(self, folder: Path, name: str, store: str) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.api = HttpTransport(str(folder / f"{name}.sock"), timeout_seconds=20.0)
        self._command = [
            *(sys.executable, "-m", "miniorch.server", "--name", name, "--socket", self.api.place),
            *("--state-directory", str(folder / name), "--lease-seconds", str(LEASE), "--store", store),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.folder / self.name).mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self.answers, 20, f"{self.name} answers")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            if number != signal.SIGKILL:
                self.process.send_signal(signal.SIGCONT)
            self.process.wait(20)
            self.process = None

    def answers(self) -> bool:
        with contextlib.suppress(MiniorchError):
            return bool(self.api.request_now("GET", "/v1/version"))
        return False

    def leads(self) -> bool:
        """The leader alone takes what needs its memory."""
        with contextlib.suppress(MiniorchError):
            return self.api.request_now("POST", "/v1/nodes/n1/register", NODE) is not None
        return False

    def items(self, kind: str) -> list[Any]:
        return list(self.api.request_now("GET", f"/v1/{kind}")["items"])

    def cpu_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path)
    with running(process):
        yield process


@pytest.fixture
def servers(tmp_path: Path, etcd: EtcdProcess) -> Iterator[dict[str, ServerProcess]]:
    made = {name: ServerProcess(tmp_path, name, f"etcd://{etcd.endpoint}") for name in ("a", "b")}
    try:
        for server in made.values():
            server.start()
        yield made
    finally:
        for server in made.values():
            server.end()


def test_leader_dies_or_stands_still_and_another_leads(servers: dict[str, ServerProcess]) -> None:
    a, b = servers.values()
    until(lambda: a.leads() or b.leads(), 10, "one leads")
    leader, follower = (a, b) if a.leads() else (b, a)
    with pytest.raises(NotLeader, match=f"server {follower.name}-.* does not lead, {leader.name}-.* does"):
        follower.api.request_now("POST", "/v1/nodes/n1/heartbeat", {})
    # A user may ask any server.
    follower.api.request_now("PUT", "/v1/apps/shop", SHOP)
    until(lambda: len(leader.items("tasks")) == 2, 5, "the leader acts on what the follower took")

    leader.end(signal.SIGKILL)
    assert until(follower.leads, LEASE + 5, "the follower leads") < LEASE + 3
    leader.start()
    leader, follower = follower, leader

    leader.send(signal.SIGSTOP)
    assert until(follower.leads, LEASE + 5, "the other leads") < LEASE + 3
    follower.api.request_now("PUT", "/v1/services/shop/web/replicas", {"replicas": 3})
    until(lambda: len(follower.items("tasks")) == 3, 5, "the new leader acts")
    before = follower.api.request_now("GET", "/v1/version")["revision"]
    said = leader.log.read_text()
    leader.send(signal.SIGCONT)
    until(lambda: "no longer leads" in leader.log.read_text()[len(said) :], 5, "the old leader says why it stops")
    time.sleep(1.0)
    assert follower.api.request_now("GET", "/v1/version")["revision"] == before  # nobody has written anything
    assert follower.leads()
    assert not leader.leads()
    assert len(leader.items("tasks")) == 3

    follower.end(signal.SIGTERM)  # on purpose: nobody needs to wait
    assert until(leader.leads, LEASE + 5, "the other leads at once") < 2


def test_servers_outlive_a_store_that_is_away_and_their_streams_stay_open(
    servers: dict[str, ServerProcess], etcd: EtcdProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = servers.values()
    until(lambda: a.leads() or b.leads(), 10, "one leads")
    until(lambda: len(a.items("nodes")) == 1, 5, "it has told of its node")
    lines: list[Any] = []
    revision = a.api.request_now("GET", "/v1/apps")["revision"]
    connection, response = a.api.open("GET", f"/v1/watch/apps?revision={revision}")

    def read() -> None:
        with contextlib.suppress(MiniorchError):
            for line in a.api.lines(response):
                lines.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for stop, go_on in ((etcd.freeze, etcd.thaw), (etcd.kill, etcd.start)):
        stop()
        until(lambda: not a.leads() and not b.leads(), LEASE + 15, "nobody leads without the store")
        with pytest.raises(Temporary):
            a.api.request_now("GET", "/v1/apps")
        assert [node.name for node in Server(a.api, last_known=True).nodes()] == ["n1"]  # as `miniorch nodes` asks
        assert "what the server last knew" in capsys.readouterr().err
        spent, began = a.cpu_seconds() + b.cpu_seconds(), time.monotonic()
        time.sleep(3.0)
        assert (a.cpu_seconds() + b.cpu_seconds() - spent) / (time.monotonic() - began) < 0.2
        assert reader.is_alive()
        go_on()
        until(lambda: a.leads() or b.leads(), 15, "one leads again")
    until(lambda: a.answers() and b.answers(), 10, "both answer")
    b.api.request_now("PUT", "/v1/apps/shop", SHOP)
    until(lambda: any("put" in line for line in lines), 10, "the stream tells what happened")
    until(lambda: len(a.items("tasks")) == 2, 10, "the loops act")
    connection.sock.shutdown(2)
    reader.join(5)
    connection.close()
