"""exec, cp and top as a user has them: a real terminal, real containers, pipes of ten megabytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import MINIORCH, Machine
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

FILE = """\
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "echo served > /page; exec sleep 1000000"]
    deploy: {replicas: 2}
  job:
    image: busybox:1
    command: ["sh", "-c", "echo sorry; exit 3"]
    restart: "no"
"""


@pytest.fixture(scope="module")
def machine(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(node, tmp_path_factory.mktemp("inside"))
    machine.miniorch("run", machine.file(FILE, "shop.yml"), "--detach")
    until(lambda: sum(task["state"] == "running" for task in machine.tasks("shop")) == 2, 60, "web runs", pause=0.2)
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


class Terminal:
    """A command of miniorch on a terminal of its own, 24 rows of 80 columns."""

    def __init__(self, machine: Machine, *argv: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.slave)
        self.said = ""
        self.process = subprocess.Popen(
            machine.node.argv([MINIORCH, *argv], machine.folder),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that the kernel sends it SIGWINCH
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def shows(self, pattern: str, seconds: float = 15.0) -> None:
        """Until what has been written since the last call matches."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.said):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.said!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.said += os.read(self.master, 4096).decode(errors="replace")
        self.said = ""

    def is_as_it_was(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def on_a_terminal(machine: Machine, *argv: str) -> Iterator[Terminal]:
    terminal = Terminal(machine, *argv)
    try:
        yield terminal
    finally:
        terminal.close()


def piped(machine: Machine, *argv: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        machine.node.argv([MINIORCH, *argv], machine.folder), input=data, capture_output=True, timeout=60
    )


def runs_inside(machine: Machine, word: str) -> bool:
    return word in machine.miniorch("top", "shop/web").stdout


def test_a_shell_inside_feels_like_one_here(machine: Machine) -> None:
    with on_a_terminal(machine, "exec", "shop/web.2", "--", "sh") as terminal:
        terminal.shows("/ # ")
        terminal.type("stty size; hostname\n")
        terminal.shows(r"24 80\r\nweb-2\r\n")
        terminal.resize(50, 132)
        terminal.type("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo re-sized\n")
        terminal.shows(r"\nre-sized\r\n/ # ")
        terminal.type("sleep 1000\n")
        until(lambda: runs_inside(machine, "sleep 1000\n"), 10, "it sleeps")
        terminal.type("\x03")
        terminal.type("echo code $?\n")
        terminal.shows("code 130")
        assert not terminal.is_as_it_was(), "while it runs the terminal is raw"
        terminal.type("exit 7\n")
        assert terminal.process.wait(10) == 7
        assert terminal.is_as_it_was()


def test_the_terminal_is_set_back_when_exec_is_ended(machine: Machine) -> None:
    with on_a_terminal(machine, "exec", "shop/web.1", "--", "sleep", "4710") as terminal:
        until(lambda: runs_inside(machine, "sleep 4710"), 10, "it runs")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(10) == 128 + signal.SIGTERM
        assert terminal.is_as_it_was()
    until(lambda: not runs_inside(machine, "sleep 4710"), 10, "it has ended inside")


def test_a_pipe_is_a_pipe(machine: Machine) -> None:
    data = random.Random(1).randbytes(10 << 20)
    done = piped(machine, "exec", "shop/web", "cat", data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    done = piped(machine, "exec", "shop/web.1", "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    done = piped(machine, "exec", "--user", "1000:1000", "--workdir", "/tmp", "shop/web.1", "sh", "-c", "id -u; pwd")
    assert (done.returncode, done.stdout) == (0, b"1000\n/tmp\n")


def test_what_cannot_be_run_is_one_line_and_a_code(machine: Machine) -> None:
    done = piped(machine, "exec", "shop/web.1", "--", "nope", "-x")
    assert done.returncode == 127
    assert done.stdout == b""
    assert re.fullmatch(rb"error\[E0501\]: .*not found.*: nope\nhelp: .*\n", done.stderr), done.stderr
    done = piped(machine, "exec", "shop/web.1", "--", "/etc")
    assert done.returncode == 126
    for argv, why in (
        (["--workdir", "/nowhere"], b"there is no folder /nowhere in the container to run it in"),
        (["--user", "nobodyx"], b"the container knows no user nobodyx"),
    ):
        done = piped(machine, "exec", *argv, "shop/web.1", "--", "true")
        assert done.returncode not in (0, 1)
        assert re.fullmatch(rb"error\[E0501\]: %s\nhelp: miniorch exec .*\n" % why, done.stderr), done.stderr
    done = piped(machine, "exec", "shop/web.1", "--", "sh", "-c", "echo unable to find user x; exit 126")
    assert (done.returncode, done.stdout) == (126, b"unable to find user x\n")
    until(lambda: any(task["state"] == "failed" for task in machine.tasks("shop")), 30, "the job has ended", pause=0.2)
    done = piped(machine, "exec", "shop/job", "--", "true")
    assert done.returncode == 7
    assert b"shop/job.1 does not run" in done.stderr
    assert re.search(rb"help: miniorch (logs|explain) [0-9a-z]+\n", done.stderr)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_ends_takes_its_command_with_it(machine: Machine, how: int) -> None:
    argv = machine.node.argv([MINIORCH, "exec", "shop/web.1", "--", "sh", "-c", "sleep 4711 & sleep 4711"])
    client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        until(lambda: runs_inside(machine, "sleep 4711"), 10, "it runs")
        client.send_signal(how)
        assert client.wait(10) == (130 if how == signal.SIGINT else -how)
        until(lambda: not runs_inside(machine, "sleep 4711"), 10, "it has ended inside, children too")
    finally:
        client.kill()
        client.communicate()


def test_cp_puts_files_where_cp_would(machine: Machine) -> None:
    here = machine.folder / "copies"
    (here / "site/deep").mkdir(parents=True)
    (here / "site/page").write_text("hello")
    (here / "site/deep/run").write_text("#!/bin/sh\n")
    (here / "site/deep/run").chmod(0o755)
    (here / "site/deep/link").symlink_to("../page")

    def cp(source: str, target: str, code: int = 0) -> str:
        return machine.miniorch("cp", source, target, code=code).stderr

    def inside(script: str) -> str:
        return machine.miniorch("exec", "shop/web.1", "--", "sh", "-c", script).stdout

    cp(f"{here}/site", "shop/web.1:/tmp")  # into a folder
    cp(f"{here}/site", "shop/web.1:/tmp/other")  # under a new name
    cp(f"{here}/site/.", "shop/web.1:/tmp")  # what is in it
    cp(f"{here}/site/page", "shop/web.1:/page")  # onto a file
    assert inside("cat /tmp/site/page /tmp/other/page /tmp/page /page") == "hello" * 4
    assert inside("stat -c '%a %u' /tmp/site/deep/run; readlink /tmp/deep/link; ls -ld /tmp").startswith(
        "755 0\n../page\n"
    )

    cp("shop/web.1:/tmp/site", f"{here}/back")
    cp("shop/web.1:/tmp/site/page", str(here))
    cp("shop/web.1:/tmp/site/.", str(here / "back/deep"))
    assert (here / "back/page").read_text() == (here / "page").read_text() == "hello"
    assert (here / "back/deep/link").read_text() == "hello"
    assert (here / "back/deep/run").stat().st_mode & 0o777 == 0o755
    assert (here / "back/deep/page").read_text() == "hello"

    tar = piped(machine, "cp", "shop/web.1:/tmp/site", "-")
    done = piped(machine, "cp", "-", "shop/web.2:/tmp", data=tar.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert machine.miniorch("exec", "shop/web.2", "cat", "/tmp/site/deep/link").stdout == "hello"

    (here / "a:b").write_text("colon")
    (machine.folder / "c:d").touch()
    cp(f"{here}/a:b", "shop/web.1:/tmp")
    assert "miniorch cp ./c:d shop/web.1:/tmp" in cp("c:d", "shop/web.1:/tmp", 2)
    assert "miniorch cp a:b - | miniorch cp - shop/web.1:/tmp" in cp("a:b", "shop/web.1:/tmp", 2)
    inside("ln -s ../.. /tmp/up; ln -s /nowhere /tmp/dead; ln -s dead2 /tmp/dead1; ln -s dead1 /tmp/dead2")
    cp("shop/web.1:/tmp/up", f"{here}/all", 1)  # the whole container, without the links that lead out of it
    assert (here / "all/page").read_text() == "hello"

    big = random.Random(2).randbytes(20 << 20)
    (here / "big").write_bytes(big)
    cp(f"{here}/big", "shop/web.1:/tmp/big")
    cp("shop/web.1:/tmp/big", f"{here}/big2")
    assert (here / "big2").read_bytes() == big

    assert "there is no /nope in shop/web.1" in cp("shop/web.1:/nope", str(here), 2)
    assert "there is no folder /no/where in shop/web.1" in cp(f"{here}/page", "shop/web.1:/no/where/page", 2)
    assert "mkdir -p /no/where" in cp(f"{here}/page", "shop/web.1:/no/where/", 2)
    assert "mkdir -p /no/where" in piped(machine, "cp", "-", "shop/web.1:/no/where", data=tar.stdout).stderr.decode()
    assert "help: tar -t" in piped(machine, "cp", "-", "shop/web.1:/tmp", data=b"no archive").stderr.decode()
    assert "/tmp/dead is a link to /nowhere, which is not there" in cp("shop/web.1:/tmp/dead", str(here), 2)
    assert "in a circle" in cp("shop/web.1:/tmp/dead1", str(here), 1)
    assert "exec shop/web.1 -- cat /proc/self/status" in cp("shop/web.1:/proc/self/status", str(here), 2)
    assert "cp writes nowhere else" in cp(f"{here}/page", "shop/web.1:/dev/shm/page", 2)
    assert "this folder is ." in cp("shop/web.1:/page", "", 2)
    assert "there is no folder" in cp("shop/web.1:/page", f"{here}/missing/page", 2)
    assert f"there is no {here}/missing here" in cp(f"{here}/missing", "shop/web.1:/tmp", 2)
    assert "is a file here" in cp("shop/web.1:/tmp/site", f"{here}/page", 2)
    assert "by way of a pipe" in cp("shop/web.1:/page", "shop/web.2:/page", 2)
    assert "NAME:PATH" in cp(str(here), str(here), 2)


def test_ctrl_c_says_what_a_copy_leaves_behind(machine: Machine) -> None:
    machine.miniorch("exec", "shop/web.1", "--", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=300")
    with on_a_terminal(machine, "cp", "shop/web.1:/big", "part") as terminal:
        until((machine.folder / "part").exists, 10, "it has begun")
        terminal.type("\x03")
        terminal.shows("interrupted; part may lack a part: the same again copies all of it")
        assert terminal.process.wait(10) == 130


def test_cp_never_writes_outside_its_target(machine: Machine) -> None:
    target = machine.folder / "safe"
    outside = machine.folder / "outside"
    outside.mkdir()
    script = f"mkdir -p /tmp/evil/d; cd /tmp/evil; ln -s {outside} out; ln -s ../../outside up; echo fine > d/fine"
    machine.miniorch("exec", "shop/web.1", "--", "sh", "-c", script)
    done = machine.miniorch("cp", "shop/web.1:/tmp/evil", str(target), code=1)
    assert "all but 2 entries were copied" in done.stderr
    assert (target / "d/fine").read_text() == "fine\n"
    assert sorted(path.name for path in target.iterdir()) == ["d"]
    assert list(Path(outside).iterdir()) == []


def test_top_lists_the_processes_of_each_task(machine: Machine) -> None:
    rows = machine.miniorch("top", "shop/web").stdout.splitlines()
    assert rows[0].split()[:3] == ["TASK", "UID", "PID"]
    assert {row.split()[0] for row in rows[1:]} == {"web.1", "web.2"}
    assert any("sleep 1000000" in row for row in rows)
    found = machine.json("top", "shop/web.2")
    assert [one["name"] for one in found] == ["shop/web.2"]
    assert found[0]["titles"][-1] == "CMD"
