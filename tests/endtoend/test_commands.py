"""The rest of the command line on a real machine: being inside, waiting, looking back, and working without root."""

from __future__ import annotations

import grp
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from machine import MINIORCH, SMALL, Machine
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

JOB = """\
services:
  job:
    image: busybox:1
    command: ["sh", "-c", "echo counted; exit 7"]
    restart: "no"
"""


STUBBORN = """\
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "trap '' TERM; sleep 1000000"]
    stop_grace_period: 6s
"""


@pytest.fixture(scope="module")
def machine(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which the small app runs."""
    machine = Machine(node, tmp_path_factory.mktemp("commands"))
    machine.miniorch("up")
    machine.miniorch("run", machine.file(SMALL))
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def test_outcomes_as_json_and_quiet_ones(machine: Machine) -> None:
    again = machine.json("run", machine.file(SMALL))
    assert (again["outcome"], again["addresses"]) == ("up", {"http://localhost:8100": "web"})
    assert machine.miniorch("run", machine.file(SMALL), "-q").stdout.startswith("small is up")
    assert machine.json("scale", "small/web=2")["outcome"] == "accepted"
    assert machine.miniorch("wait", "small", "-q").stdout == "small is up\n"


def test_exec_passes_on_output_input_and_exit_code(machine: Machine) -> None:
    assert machine.miniorch("exec", "small/web.1", "--", "hostname").stdout == "web-1\n"
    assert "gone" in machine.miniorch("exec", "small/side.1", "sh", "-c", "echo gone >&2; exit 5", code=5).stderr
    done = machine.node.run([MINIORCH, "exec", "-i", "small/side.1", "--", "cat"], input="over\n")
    assert done.stdout == "over\n"


def test_cp_there_and_back_and_top(machine: Machine) -> None:
    (machine.folder / "note").write_text("hello\n")
    machine.miniorch("cp", "note", "small/side.1:/tmp/note")
    machine.miniorch("cp", "small/side.1:/tmp/note", "back")
    assert (machine.folder / "back").read_text() == "hello\n"
    assert "sleep 1000000" in machine.miniorch("top", "small/side").stdout


def test_inspect_nodes_history_and_config_tell_all(machine: Machine) -> None:
    found = json.loads(machine.miniorch("inspect", "small").stdout)
    assert {kind: len(items) for kind, items in found.items() if kind != "tasks"} == {
        "apps": 1, "services": 2, "endpoints": 2,
    }  # fmt: skip
    [node] = machine.json("nodes")
    assert (node["name"], node["ready"], node["tasks"]) == ("node1", True, 3)
    assert machine.json("history", "small")[0]["number"] == 1
    understood = machine.miniorch("config", machine.file(SMALL)).stdout
    assert "keep web" in machine.miniorch("plan", machine.file(understood, "again.yml"), "--name", "small").stdout


def test_restart_makes_new_tasks_of_one_service_and_the_old_output_can_be_read(machine: Machine) -> None:
    before = machine.containers("small")
    machine.miniorch("exec", "small/side.1", "--", "sh", "-c", "echo said before > /proc/1/fd/1")
    machine.miniorch("restart", "small/side")
    after = machine.containers("small")
    changed = [name.split("-")[1] for name in after if name not in before]
    assert changed == ["side.1"]
    assert "said before" not in machine.miniorch("logs", "small/side").stdout
    assert "said before" in machine.miniorch("logs", "small/side", "--previous").stdout


def test_the_exit_code_of_a_job_is_waited_for_and_the_job_stays_in_sight(machine: Machine) -> None:
    machine.miniorch("run", machine.file(JOB, "job.yml"), "-d")
    machine.miniorch("wait", "job", "--for", "ended", code=7)
    assert [task["state"] for task in machine.tasks("job")] == ["failed"]
    assert machine.miniorch("logs", "job/job").stdout == "counted\n"
    machine.miniorch("rm", "job")
    assert machine.miniorch("wait", "job", "--for", "gone", "-q").stdout == "job is not there\n"


def test_events_f_tells_what_happens_after_the_server_came_back(machine: Machine) -> None:
    following = machine.start("events", "-f")
    log = machine.folder / "run.log"
    until(lambda: "joined" in log.read_text(), 10, "what happened is told")
    machine.kill("server")
    machine.miniorch("up")
    machine.miniorch("scale", "small/side=0")
    machine.miniorch("wait", "small")
    machine.miniorch("scale", "small/side=1")
    machine.miniorch("wait", "small")
    until(lambda: "scaled from 0 to 1" in log.read_text(), 20, "what happens now is told, too")
    following.send_signal(signal.SIGINT)
    assert machine.ended(following, 10) == 130
    told = [line for line in log.read_text().splitlines() if "scaled from 1 to 0" in line]
    assert len(told) == 1


def test_ctrl_c_leaves_the_app_to_itself(machine: Machine) -> None:
    running = machine.start("run", machine.file(SMALL.replace("8100:", "8101:"), "later.yml"))
    until(lambda: machine.happened("later/web.1"), 30, "later is under way")
    running.send_signal(signal.SIGINT)
    assert machine.ended(running, 10) == 130
    said = (machine.folder / "run.log").read_text()
    assert "interrupted; later goes on: miniorch wait later" in said
    machine.miniorch("wait", "later")
    machine.miniorch("rm", "later")


def test_the_names_that_a_shell_offers_are_those_that_are_there(machine: Machine) -> None:
    patient = {"MINIORCH_COMPLETION_SECONDS": "20"}  # how soon they come is measured elsewhere
    offered = machine.miniorch("__complete", "exec", "small/", env=patient).stdout
    assert sorted(line.split("\t")[0] for line in offered.splitlines()) == [
        "small/side", "small/side.1", "small/web", "small/web.1", "small/web.2",
    ]  # fmt: skip


def without_root(machine: Machine, group: str, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """As a user who is nobody but may read every file: the Python of this checkout may lie in root's own folder."""
    groups = f"--groups={grp.getgrnam(group).gr_gid}" if group else "--clear-groups"
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = ["setpriv", "--reuid=65534", "--regid=65534", groups, *reading]
    miniorch = [sys.executable, "-m", "miniorch.cli.main"]
    done = machine.node.run([*user, *miniorch, *argv], input=stdin, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_a_member_of_the_group_runs_apps_and_is_told_what_only_root_can_do(machine: Machine) -> None:
    app = f"name: mine\n{SMALL}".replace("8100:", "8102:")
    done = without_root(machine, "docker", "run", "-", stdin=app)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mine is up: side 1/1, web 2/2", done.stdout)
    assert without_root(machine, "docker", "rm", "mine").returncode == 0
    refused = without_root(machine, "docker", "down")
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (6, "help: sudo miniorch down")
    machine.miniorch("down")
    refused = without_root(machine, "docker", "run", "-", stdin=app)
    machine.miniorch("up")
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (6, "help: sudo miniorch up")


def test_a_user_without_rights_is_told_so_and_what_helps(machine: Machine) -> None:
    for argv in (("ps",), ("run", "-")):
        done = without_root(machine, "", *argv, stdin=SMALL)
        assert done.returncode == 6, done.stderr
        assert "may not talk to miniorch's server" in done.stderr
        assert "sudo usermod -aG docker" in done.stderr


def test_ctrl_c_while_processes_start_or_all_is_removed_says_what_does_the_rest(machine: Machine) -> None:
    machine.miniorch("run", machine.file(STUBBORN, "stubborn.yml"))
    machine.miniorch("down")
    log = machine.folder / "run.log"
    for argv, begun, said in (
        (["up"], lambda: "starting server" in log.read_text(), "what was started goes on: miniorch up starts the rest"),
        (["down", "--all"], lambda: any(one["removing"] for one in machine.json("services")),
         "some of it is ended or removed already: miniorch down --all does the rest"),
    ):  # fmt: skip
        running = machine.start(*argv)
        try:
            until(begun, 10, f"{argv[0]} is under way")
            running.send_signal(signal.SIGINT)
            assert machine.ended(running, 10) == 130
        finally:
            running.kill()
            running.wait()
        assert f"interrupted; {said}" in log.read_text()
        machine.miniorch("up")
