"""What a shell offers: the hidden command's lines, and the scripts in the shells that are there."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import surroundings
from fake_api import Cli, FakeApi, a_task, shop

from miniorch.cli.complete import FILES, named
from miniorch.cli.tree import app
from miniorch.model import App, Node, Service
from miniorch.spec import Resources

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def there(api: FakeApi) -> FakeApi:
    api.lists["apps"] = [App("shop", 0.0), App("blog", 0.0)]
    api.lists["services"] = [Service("shop", "web", shop().services["web"], "10.201.0.1")]
    api.lists["tasks"] = [a_task(1), a_task(1, id="older"), a_task(2)]
    api.lists["nodes"] = [Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())]
    return api


def offered(cli: Cli, *words: str) -> list[str]:
    done = cli("__complete", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t")[0] for line in done.stdout.splitlines() if line]


def test_commands_options_and_choices_come_from_the_tree(cli: Cli) -> None:
    assert offered(cli, "sca") == ["scale"]
    assert {"run", "wait", "completion"} <= set(offered(cli, ""))
    assert offered(cli, "wait", "--t") == ["--timeout"]
    assert offered(cli, "wait", "--for", "") == ["up", "ended", "gone"]
    assert offered(cli, "completion", "") == list(SHELLS)
    assert "restart\tReplace a service's tasks by new ones, one after the other\n" in cli("__complete", "re").stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("ps", ""), ["shop", "blog"]),
        (("ps", "b"), ["blog"]),
        (("logs", "shop/"), ["shop/web", "shop/web.1", "shop/web.2"]),
        (("logs", "-n", "5", "shop/web."), ["shop/web.1", "shop/web.2"]),
        (("scale", "sh"), ["shop/web="]),
        (("inspect", "n"), ["node1"]),
        (("cp", "shop"), ["shop/web.1:", "shop/web.2:", FILES]),
        (("run", ""), [FILES]),
        (("run", "-f", ""), [FILES]),
        (("ps", "shop", ""), []),
        (("exec", "shop/web.1", "--", ""), []),
        (("nonsense", ""), []),
    ],
)
def test_live_names_stand_where_the_help_says_so(
    there: FakeApi, cli: Cli, words: tuple[str, ...], names: list[str]
) -> None:
    assert offered(cli, *words) == names


def test_the_codes_that_explain_teaches_are_offered(cli: Cli) -> None:
    assert "E0102" in offered(cli, "explain", "E01")


def test_without_a_server_there_are_no_names_and_no_words(cli: Cli, tmp_path: Path) -> None:
    assert offered(cli, "ps", "") == []
    (tmp_path / "api.sock").write_text("no socket")
    assert offered(cli, "ps", "") == []


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """A server that accepts and never answers."""
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        yield path


def test_a_server_that_does_not_answer_costs_the_limit_and_no_more(silent: str) -> None:
    began = time.monotonic()
    assert list(named("APP|TASK", silent, limit_seconds=0.2)) == []
    assert time.monotonic() - began < 5.0


def test_every_kind_of_name_in_the_help_is_known() -> None:
    words = {
        word
        for command in app.commands.values()
        for param in command.params
        if param.param_type_name == "argument"
        for word in (param.metavar or "").strip("[]").split("|")
    }
    assert words == {
        "APP", "APP/SERVICE", "APP/SERVICE=N", "TASK", "TASK:PATH", "PATH", "NODE", "CODE", "FILE", "SHELL",
        "COMMAND...", "NAME", "ADDRESS[:PORT",
    }  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_printed_and_where_the_shell_is_there_it_can_read_them(cli: Cli, shell: str) -> None:
    script = cli("completion", shell).stdout
    assert "__complete" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


ASK = """
eval "$(miniorch completion bash)"
COMP_LINE=$1 COMP_POINT=${#1}
_miniorch miniorch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `miniorch` is this checkout's."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/miniorch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m miniorch.cli.main "$@"\n')
    program.chmod(0o755)
    return {**surroundings(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("miniorch sca", ["scale"]),
        ("miniorch logs shop/web.", ["shop/web.1", "shop/web.2"]),
        ("miniorch ps ", ["shop", "blog"]),
        ("miniorch run app", ["app one.yml", "apps.yml"]),
    ],
)
def test_bash_gets_its_replies(
    there: FakeApi, path: dict[str, str], tmp_path: Path, line: str, replies: list[str]
) -> None:
    for name in ("app one.yml", "apps.yml"):
        (tmp_path / name).touch()
    ask = ["bash", "--norc", "-c", ASK, "ask", line]
    done = subprocess.run(ask, env=path, cwd=tmp_path, capture_output=True, text=True)
    assert (sorted(done.stdout.splitlines()), done.stderr) == (sorted(replies), "")


def test_the_tab_key_in_an_interactive_bash_completes_a_live_name(there: FakeApi, path: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**path, "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""},
    )  # fmt: skip
    os.close(theirs)
    try:
        os.write(ours, b'eval "$(miniorch completion bash)"; echo is ready | tr a-z A-Z\n')
        seen = read_until(ours, "IS READY")
        os.write(ours, b"echo miniorch; miniorch scale sh\t3")
        seen = read_until(ours, "miniorch scale shop/web=3")
        assert seen.endswith("miniorch scale shop/web=3")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(terminal: int, words: str, seconds: float = 10.0) -> str:
    seen, deadline = "", time.monotonic() + seconds
    while words not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096).decode()
    return seen
