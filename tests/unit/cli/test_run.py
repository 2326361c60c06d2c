"""`run` waits, tells and ends as it should, against a server that plays the app's life."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_api import FakeApi, a_task, shop

from miniorch.appfile.read import AppFile
from miniorch.cli.ask import Server
from miniorch.cli.knock import knock
from miniorch.cli.progress import Line, Verdict
from miniorch.cli.run import apply
from miniorch.cli.screen import Plain
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.errors import AppFailed, NotFound, NotPlaced
from miniorch.model import Node, Service, Task, TaskState
from miniorch.spec import HealthCheck, Port, Resources, Restart, RestartPolicy, ServiceSpec, TaskSpec
from miniorch.transport import HttpTransport
from miniorch.up import Machine

CHECKED = TaskSpec("web:1", healthcheck=HealthCheck(("true",)))


class StillMachine(Machine):
    """Processes that come back when they are asked to: `ensure_up` calls what the test gave."""

    def __init__(self, tmp_path: Path, api: FakeApi) -> None:
        super().__init__(print, "node1", run=str(tmp_path), state=str(tmp_path / "s"))
        self.api = api
        self.revived = 0

    def missing(self) -> list[str]:
        return [] if self.api.running else ["server"]

    def ensure_up(self) -> list[str]:
        if self.api.running:
            return []
        self.revived += 1
        self.api.start()
        return ["server"]


def waiting(tmp_path: Path, api: FakeApi, timeout: float = 5.0, ports: Sequence[Port] = ()) -> Waiting:
    spec = shop(ports=tuple(ports))
    spec = replace(spec, services={"web": replace(spec.services["web"], task=CHECKED)})
    api.lists["services"] = [Service("shop", "web", spec.services["web"], "10.201.0.1")]
    api.lists["nodes"] = [Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())]
    api.answers["PUT", "/v1/apps/shop"] = {
        "revision": 1, "changes": [{"service": "web", "action": "create", "detail": "1 x web:1"}],
    }  # fmt: skip
    return waiting_again(tmp_path, api, timeout)


def waiting_again(tmp_path: Path, api: FakeApi, timeout: float = 5.0) -> Waiting:
    """Another wait, for what is there already."""
    server = Server(HttpTransport(str(api.path), timeout_seconds=5.0))
    return Waiting("shop", server, Plain(), SystemClock(), timeout, StillMachine(tmp_path, api))


def life(api: FakeApi, *moments: list[Task]) -> None:
    """What the tasks are at each look; the last stays."""
    left = list(moments)
    api.answers["GET", "/v1/tasks"] = lambda _: {
        "revision": 1, "items": left.pop(0) if len(left) > 1 else left[0],
    }  # fmt: skip


def task(state: TaskState, **more: object) -> Task:
    return a_task(1, state, spec=CHECKED, **more)


def test_each_state_is_told_once_and_up_is_the_end(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    one = waiting(tmp_path, api)
    life(api, [], [task(TaskState.PENDING)], [task(TaskState.PREPARING)], [task(TaskState.PREPARING)],
         [task(TaskState.STARTING)], [task(TaskState.RUNNING)])  # fmt: skip
    assert [change.describe() for change in apply(one, AppFile("shop", shop()))] == ["create web: 1 x web:1"]
    assert one.until_up() is False
    assert capsys.readouterr().out.splitlines() == ["web.1 prepares its image", "web.1 starts"]
    assert waiting(tmp_path, api).until_up() is True


def test_failing_three_times_ends_at_once_with_cause_code_and_last_lines(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api)
    failed = {"message": "ended by SIGSEGV", "exit_code": 139, "log_tail": tuple(f"line {n}" for n in range(30))}
    life(api, [], [task(TaskState.FAILED, attempt=2, **failed)])
    with pytest.raises(AppFailed) as caught:
        one.until_up()
    lines = caught.value.message.splitlines()
    assert lines[:4] == [
        "shop/web.1 failed 3 times in a row: ended by SIGSEGV", "exit code: 139", "last 20 lines:", "  | line 10",
    ]  # fmt: skip
    assert (len(lines), lines[-1]) == (23, "  | line 29")
    assert caught.value.remedy == "miniorch logs shop/web.1"
    assert one.waited() < 2
    once = replace(api.lists["services"][0].spec, restart=RestartPolicy(Restart.NEVER))
    api.lists["services"] = [replace(api.lists["services"][0], spec=once)]
    with pytest.raises(AppFailed) as caught:
        waiting_again(tmp_path, api).until_up()
    assert caught.value.remedy == "miniorch logs shop/web.1; miniorch restart shop/web"


def test_an_image_that_cannot_be_made_ends_with_the_builds_last_lines(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api)
    life(api, [], [task(TaskState.REJECTED, attempt=1, message="the build failed", log_tail=("pip: no such package",))])
    with pytest.raises(AppFailed, match=r"could not be made: the build failed\n(.|\n)*  . pip: no such package"):
        one.until_up()


def test_what_fits_nowhere_is_not_placed_and_explain_is_named(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api, timeout=0.5)
    life(api, [task(TaskState.PENDING, message="no node fits\nnode1: port 5000 is held by nginx")])
    with pytest.raises(NotPlaced) as caught:
        one.until_up()
    assert "pending, no node fits" in caught.value.message
    assert caught.value.remedy == "miniorch explain shop/web.1"


def test_all_services_that_are_held_are_told(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api)
    (web,) = api.lists["services"]
    api.lists["services"] = [replace(web, held="no node fits"), replace(web, name="api", held="no room")]
    old = replace(task(TaskState.RUNNING), spec=TaskSpec("web:0"))
    life(api, [old, replace(old, id="k3m9x2a2", service="api")])
    with pytest.raises(NotPlaced) as caught:
        one.until_up()
    goes_on = "is not changed further, and what runs goes on:"
    assert caught.value.message == f"shop/api {goes_on} no room\nshop/web {goes_on} no node fits"


def test_too_late_names_the_state_and_shows_the_output(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api, timeout=0.5)
    api.answers["GET", "/v1/tasks/k3m9x2a1/logs"] = b"waiting for the database\n"
    life(api, [task(TaskState.STARTING, message="health check fails", container_id="c1")])
    with pytest.raises(AppFailed) as caught:
        one.until_up()
    assert caught.value.message.splitlines() == [
        "shop/web.1 is not up after 0.5 s: starting, health check fails",
        "last 1 lines:",
        "  | waiting for the database",
    ]


def test_a_server_that_dies_meanwhile_is_started_again_and_the_waiting_goes_on(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    one = waiting(tmp_path, api)
    life(api, [task(TaskState.STARTING)], [task(TaskState.RUNNING)])
    api.stop()
    assert one.until_up() is False
    assert isinstance(one.machine, StillMachine)
    assert one.machine.revived == 1
    assert "server died and is started again\n" in capsys.readouterr().out


def test_a_revision_that_the_plan_was_made_on_is_handed_on(tmp_path: Path, api: FakeApi) -> None:
    wait = waiting(tmp_path, api)
    apply(wait, AppFile("shop", shop()), 7)
    assert api.asked[-1][:2] == ("PUT", "/v1/apps/shop?if_revision=7")
    apply(wait, AppFile("shop", shop()))
    assert api.asked[-1][:2] == ("PUT", "/v1/apps/shop")


def test_lines_in_a_pipe_stay_few_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    screen, tasks = Plain(), []
    for number in range(4):
        for state in TaskState:
            tasks = [*tasks[:number], a_task(number, state, message="a\nb")]
            screen.show(Verdict(False, (Line("web", 0, 1),)), tasks)
    assert len(capsys.readouterr().out.splitlines()) <= 3 * 4 * 2 + 5
    for id in ("first", "second"):
        screen.show(Verdict(False, ()), [a_task(9, TaskState.REJECTED, id=id, message="no such image")])
    assert capsys.readouterr().out.splitlines() == [
        "web.9 was rejected: no such image", "web.9 was rejected again: no such image",
    ]  # fmt: skip


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def answering(listener: socket.socket, answer: bytes | None, hangs_up_on: bytes = b"") -> int:
    """Accept in a thread: answer and close, or keep open (None) unless a request begins in some way."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # the test closes the listener under us, or hangs up
            for _ in range(2):
                serve_one(listener.accept()[0])

    def serve_one(wire: socket.socket) -> None:
        with wire:
            if answer is None:
                wire.settimeout(10)
                while data := wire.recv(1000):
                    if hangs_up_on and data.startswith(hangs_up_on):
                        return
            elif answer:
                wire.recv(1000)
                wire.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhi", ""),
        (b"HTTP/1.1 401 No\r\n\r\n", ""),
        (b"HTTP/1.1 503 Away\r\n\r\n", "it answers with HTTP status 503"),
        (b"-ERR unknown command\r\n", ""),
        (None, ""),
    ],
)
def test_a_port_answers_when_somebody_behind_it_does(listener: socket.socket, answer: bytes | None, said: str) -> None:
    assert knock(answering(listener, answer), silence_seconds=0.5) == said


def test_a_server_that_hangs_up_on_http_answers_if_it_waits_for_its_own_protocol(listener: socket.socket) -> None:
    assert knock(answering(listener, None, hangs_up_on=b"GET"), silence_seconds=0.5) == ""


def test_an_open_port_that_closes_at_once_answers_nothing(listener: socket.socket) -> None:
    assert knock(answering(listener, b"")) == "the connection was closed without an answer"
    port = listener.getsockname()[1]
    listener.close()
    assert knock(port) == "connection refused"


def test_a_published_port_that_never_answers_is_a_failure(
    tmp_path: Path, api: FakeApi, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    listener.close()
    one = waiting(tmp_path, api, timeout=0.5, ports=[Port(port, 80)])
    one.services = api.lists["services"]
    life(api, [task(TaskState.RUNNING)])
    with pytest.raises(AppFailed, match=f"runs, but port {port} does not answer: connection refused"):
        one.until_ports_answer()


@pytest.mark.parametrize("meanwhile", ["removed", "scaled to nothing", "published no more"])
def test_a_port_is_not_waited_for_when_others_take_it_away_meanwhile(
    tmp_path: Path, api: FakeApi, listener: socket.socket, meanwhile: str
) -> None:
    port = listener.getsockname()[1]
    listener.close()
    one = waiting(tmp_path, api, ports=[Port(port, 80)])
    (service,) = one.services = api.lists["services"]
    replicas = 0 if meanwhile == "scaled to nothing" else 1
    others = replace(service, spec=ServiceSpec(CHECKED, replicas, (Port(port, 80),) * (1 - replicas)))
    api.lists["services"] = [] if meanwhile == "removed" else [others]
    life(api, [task(TaskState.RUNNING)] * replicas)
    with pytest.raises(NotFound, match="no app shop") if meanwhile == "removed" else contextlib.nullcontext():
        one.until_ports_answer()


LIVE = """
from miniorch.cli.screen import open_screen, Live
from miniorch.cli.progress import Verdict, Line
screen = open_screen(False)
assert isinstance(screen, Live), screen
screen.show(Verdict(False, (Line("web", 1, 2, "web.2 [starting]"),)), [])
screen.say("db [died]")
screen.close()
"""


def test_on_a_terminal_there_is_one_live_line_per_service() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("ACCESSIBLE", None)
    done = subprocess.run([sys.executable, "-c", LIVE], stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stderr == b""
    assert "1/2 up" in seen
    assert "web.2 [starting]" in seen
    assert "db [died]" in seen


def test_a_service_spec_without_replicas_asks_no_port(tmp_path: Path, api: FakeApi) -> None:
    one = waiting(tmp_path, api, ports=[Port(1, 80)])
    one.services = [Service("shop", "web", ServiceSpec(CHECKED, 0, (Port(1, 80),)), "10.201.0.1")]
    one.until_ports_answer()
