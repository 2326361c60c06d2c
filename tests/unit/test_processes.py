"""Processes of a machine: units, pid files, starting and stopping. What is started here are small stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from miniorch.errors import Conflict, Unreachable, UsageError
from miniorch.lab.group import wait_until
from miniorch.pool import check_pool
from miniorch.processes import PidFile, Process, last_lines, rotate, started_at, table, unit
from miniorch.up import Machine, connects

LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(60)"


def test_a_unit_restarts_its_process_and_leaves_haproxy_alone() -> None:
    agent = table("node1", "")[2]
    assert unit(agent, ["/opt/my env/python", *agent.arguments]).splitlines() == [
        "# Written by miniorch up --systemd.",
        "[Unit]",
        "Description=miniorch agent: containers, health, published ports",
        "After=docker.service miniorch-net.service miniorch-server.service",
        "Wants=docker.service",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "ExecStart='/opt/my env/python' -m agent.main --node node1",
        "Restart=always",
        "RestartSec=1",
        "KillMode=process",
        "TimeoutStopSec=10",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def test_net_is_started_before_docker_and_the_server_first() -> None:
    server, net, agent = table("n", "10.64.0.0/15")
    assert [one.name for one in (server, net, agent)] == ["server", "net", "agent"]
    assert "Before=docker.service" in unit(net, net.command)
    assert server.arguments[-2:] == ("--pool", "10.64.0.0/15")


def test_systemd_itself_accepts_the_units(tmp_path: Path) -> None:
    paths = []
    for process in table("node1", "10.200.0.0/15"):
        paths.append(tmp_path / process.unit_name)
        paths[-1].write_text(unit(process, process.command))
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
        assert [line for line in done.stderr.splitlines() if "miniorch" in line] == []


def test_a_pid_file_knows_its_process_and_nobody_elses(tmp_path: Path) -> None:
    file = PidFile(tmp_path / "server.pid")
    assert file.pid() is None
    child = subprocess.Popen(["sleep", "60"])
    try:
        file.write(child.pid)
        assert file.pid() == child.pid
        started = started_at(child.pid)
        assert started is not None
        file.path.write_text(f"{child.pid} {started - 1}\n")  # as if the number had been given to another process
        assert file.pid() is None
        file.write(child.pid)
    finally:
        child.kill()
        deadline = time.monotonic() + 5
        while started_at(child.pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.pid() is None  # a zombie is no process
        child.wait()
    for nonsense in ("", "x y\n", "1\n"):
        file.path.write_text(nonsense)
        assert file.pid() is None


def test_a_large_log_is_moved_aside_and_its_end_can_be_read(tmp_path: Path) -> None:
    log = tmp_path / "net.log"
    log.write_text("1\n2\n3\n")
    rotate(log)
    assert last_lines(log, 2) == ["2", "3"]
    rotate(log, limit=3)
    assert not log.exists()
    assert (tmp_path / "net.log.1").read_text() == "1\n2\n3\n"
    assert last_lines(log, 2) == []


def machine(tmp_path: Path, said: list[str], code: str, *arguments: str) -> Machine:
    """A machine whose only process is a stand-in for net."""
    made = Machine(
        said.append, "n1", run=str(tmp_path / "r"), state=str(tmp_path / "s"), plugin_socket=str(tmp_path / "p")
    )
    made.processes = (Process("net", "a stand-in", ("-c", code, *arguments)),)
    return made


def test_only_what_is_missing_is_started_and_it_outlives_us_in_a_session_of_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    one = machine(tmp_path, said, LISTEN, str(tmp_path / "p"))
    try:
        assert one.ensure_up() == ["net"]
        pid = PidFile(tmp_path / "r" / "net.pid").pid()
        assert pid is not None
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert (one.ensure_up(), one.missing(), said) == ([], [], ["starting net (a stand-in)"])
        os.kill(pid, 9)
        deadline = time.monotonic() + 5
        while not one.missing():
            assert time.monotonic() < deadline
        (tmp_path / "p").unlink()
        assert one.ensure_up() == ["net"]
    finally:
        assert one.down() == ["net"]
    assert one.down() == []
    assert one.missing() == ["net"]


def test_all_start_together_but_the_agent_waits_for_net(tmp_path: Path) -> None:
    done: list[str] = []

    class Slow(Machine):
        def answers(self, name: str) -> bool:
            return False

        def _start(self, process: Process, started: list[str]) -> None:
            started.append(process.name)
            done.append(f"start {process.name}")

        def _wait_for(self, process: Process, started: list[str]) -> None:
            if f"{process.name} answers" not in done:
                done.append(f"{process.name} answers")

    assert Slow(lambda _: None, "n1", run=str(tmp_path / "r"), state=str(tmp_path / "s")).ensure_up() == [
        "server", "net", "agent"
    ]  # fmt: skip
    assert done == ["start server", "start net", "net answers", "start agent", "server answers", "agent answers"]


def test_a_process_that_was_there_and_ends_only_now_is_started_again(tmp_path: Path) -> None:
    done: list[str] = []

    class Ending(Machine):
        def answers(self, name: str) -> bool:
            return bool(done)

        def _start(self, process: Process, started: list[str]) -> None:
            started.append(process.name)
            done.append(f"start {process.name}")

    one = Ending(lambda _: None, "n1", run=str(tmp_path / "r"), state=str(tmp_path / "s"))
    started: list[str] = []
    one._wait_for(one.processes[0], started)
    assert (done, started) == (["start server"], ["server"])


def test_another_store_is_refused_while_the_server_runs(tmp_path: Path) -> None:
    class Answering(Machine):
        def answers(self, name: str) -> bool:
            return True

    one = Answering(print, store="etcd://10.0.0.1", run=str(tmp_path / "r"), state=str(tmp_path / "s"))
    with pytest.raises(Conflict, match="the server runs already") as refused:
        one.ensure_up()
    assert refused.value.remedy == "miniorch down; miniorch up --store etcd://10.0.0.1"
    assert Answering(print, run=str(tmp_path / "r"), state=str(tmp_path / "s")).ensure_up() == []


def test_server_that_waits_for_a_store_which_never_answered_gives_way_to_one_with_another(tmp_path: Path) -> None:
    """The stand-in serves only the store that is right."""
    code = f"import sys, time\nif sys.argv[3] != 'right': time.sleep(60)\n{LISTEN}"

    class Connecting(Machine):
        def answers(self, name: str) -> bool:
            return connects(self.sockets[name])

    def with_store(store: str) -> Machine:
        made = Connecting(print, store=store, run=str(tmp_path / "r"), state=str(tmp_path / "s"))
        arguments = ("-c", code, made.sockets["server"], *(("--store", store) if store else ("", "")))
        made.processes = (Process("server", "a stand-in", arguments),)
        return made

    (tmp_path / "r").mkdir()
    wrong, right = with_store("wrong"), with_store("right")
    wrong._start(wrong.processes[0], [])
    wait_until(lambda: wrong._store_of_server() == "wrong", 5.0, "it runs")
    try:
        assert right.ensure_up() == ["server"]
        assert right._store_of_server() == "right"
        (tmp_path / "r" / "api.sock").unlink()  # as if its store were away now
        with pytest.raises(Conflict, match="the server runs already, with its state in right"):
            wrong.ensure_up()
    finally:
        assert right.down() == ["server"]
    assert right._store_of_server() is None


def test_files_in_a_stores_url_are_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = Machine(print, store="etcd://h:1,h:2/shop?ca=ca.pem&cert=/etc/me.pem&key=../me.key", state=str(tmp_path))
    assert one.store == f"etcd://h:1,h:2/shop?ca={tmp_path}/ca.pem&cert=/etc/me.pem&key={tmp_path.parent}/me.key"


def test_a_process_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    one = machine(tmp_path, [], "import sys; sys.exit('no such database')")
    with pytest.raises(Unreachable) as caught:
        one.ensure_up()
    assert caught.value.message == "miniorch's net ended at once\n  | no such database"
    assert str(tmp_path / "s" / "logs" / "net.log") in caught.value.remedy


def test_when_a_process_refuses_how_it_was_called_nothing_that_was_started_stays(tmp_path: Path) -> None:
    one = machine(tmp_path, [], LISTEN, str(tmp_path / "p"))
    refusing = Process("server", "another", ("-c", "import sys; print('no such store'); sys.exit(2)"))
    one.processes = (refusing, *one.processes)
    with pytest.raises(UsageError) as caught:
        one.ensure_up()
    assert caught.value.message == "miniorch's server ended at once\n  | no such store"
    assert one.missing() == ["server", "net"]
    assert not (tmp_path / "s" / "store").exists()


@pytest.mark.parametrize("pool", ["here", "10.64.0.0/24", "10.64.0.1/15", "fd00::/64"])
def test_what_is_no_pool_is_refused_before_anything_is_started(tmp_path: Path, pool: str) -> None:
    with pytest.raises(UsageError, match="--pool"):
        Machine(print, pool=pool, run=str(tmp_path / "r"), state=str(tmp_path / "s"))


def test_a_pool_of_which_a_part_is_in_use_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown:
        stdout = b'[{"dst": "default", "dev": "eth0"}, {"dst": "10.65.3.0/24", "dev": "wg0"}]'

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Shown)
    with pytest.raises(Conflict, match=r"^--pool 10\.64\.0\.0/15 clashes with 10\.65\.3\.0/24 on wg0$"):
        check_pool("10.64.0.0/15")
    check_pool("10.66.0.0/15")


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniorch.up.STOP_SECONDS", 0.3)
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {LISTEN}"
    one = machine(tmp_path, [], code, str(tmp_path / "p"))
    one.ensure_up()
    assert one.down() == ["net"]
    assert PidFile(tmp_path / "r" / "net.pid").pid() is None


def test_the_nodes_name_and_the_store_are_remembered(tmp_path: Path) -> None:
    one = machine(tmp_path, [], LISTEN, str(tmp_path / "p"))
    one.store = "etcd://10.0.0.1"
    one.ensure_up()
    one.down()
    again = Machine(print, run=str(tmp_path / "r"), state=str(tmp_path / "s"))
    assert (again.node, again.store) == ("n1", "etcd://10.0.0.1")
    assert again.processes[0].arguments[-2:] == ("--store", "etcd://10.0.0.1")
    assert replace(one.processes[0]).command[0] == sys.executable
