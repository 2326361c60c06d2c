"""Addresses, health, volumes, containers, HAProxy's text, engine output, listeners: pure pieces as plain data."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from docker.errors import APIError

from agent.addresses import REST_SECONDS, choose
from agent.container_spec import container_spec
from agent.discovery import variables
from agent.docker_connection import Connection, making_at_once
from agent.docker_engine import end_left
from agent.docker_inside import apart
from agent.engine import Container
from agent.health import Health
from agent.images import BuildProgress, PullProgress, pull_error, start_error
from agent.ingress import Frontend, config, frontends
from agent.listeners import listening
from agent.volumes import to_remove
from miniorch.errors import EngineError
from miniorch.frames import Kind
from miniorch.model import Backend, Endpoints, Node, Status, Task, TaskState, Volume
from miniorch.spec import ContainerOptions, HealthCheck, Mount, Port, Resources, TaskSpec

SUBNET = "10.200.3.0/24"
TASK = Task(
    "k3m9x2ab",
    "dockchat",
    "web",
    1,
    TaskSpec("web:1", environment={"A": "b"}, mounts=(Mount("data", "/data", True),)),
    0.0,
)


# ---- addresses ----


def test_network_gateway_and_broadcast_are_never_given() -> None:
    given: set[str] = set()
    while len(given) < 253:
        given.add(choose(SUBNET, given, {}, "", 0.0))
    assert given == {f"10.200.3.{number}" for number in range(2, 255)}
    with pytest.raises(EngineError, match="all 253 addresses"):
        choose(SUBNET, given, {}, "", 0.0)


def test_search_goes_round() -> None:
    assert choose(SUBNET, [], {}, "10.200.3.7", 0.0) == "10.200.3.8"
    assert choose(SUBNET, [], {}, "10.200.3.254", 0.0) == "10.200.3.2"
    assert choose(SUBNET, ["10.200.3.2"], {}, "10.9.9.9", 0.0) == "10.200.3.3"


def test_freed_address_rests() -> None:
    freed = {"10.200.3.8": 100.0}
    assert choose(SUBNET, [], freed, "10.200.3.7", 100.0 + REST_SECONDS - 0.1) == "10.200.3.9"
    assert choose(SUBNET, [], freed, "10.200.3.7", 100.0 + REST_SECONDS) == "10.200.3.8"


def test_longest_rested_address_is_given_when_no_other_is_left() -> None:
    freed = {f"10.200.3.{number}": 100.0 - number / 1000 for number in range(2, 255)}
    assert choose(SUBNET, [], freed, "", 100.0) == "10.200.3.254"


# ---- health ----

CHECK = HealthCheck(("true",), interval_seconds=10.0, retries=2, start_period_seconds=30.0)


def test_failures_in_the_start_period_do_not_count_and_probing_is_quick() -> None:
    health = Health(CHECK, since=0.0)
    assert [health.pause_seconds(age) for age in (0.1, 1.0, 2.0, 20.0)] == [0.1, 0.25, 0.5, 1.0]
    for second in range(29):
        health = health.after(False, "no", float(second))
    assert (health.failures, health.verdict) == (0, "")
    assert health.pause_seconds(31.0) == 10.0


def test_first_success_ends_the_start_period() -> None:
    health = Health(CHECK, since=0.0).after(True, "", 1.0)
    assert health.healthy
    assert health.pause_seconds(1.0) == 10.0
    assert health.after(False, "", 2.0).failures == 1


def test_retries_in_a_row_are_the_verdict() -> None:
    health = Health(CHECK, since=0.0).after(False, "a", 31.0)
    assert health.verdict == ""
    assert health.after(False, "x\nrefused\n\n", 41.0).verdict == "never became healthy: refused"
    assert health.after(True, "", 41.0).after(False, "", 51.0).verdict == ""
    well = Health(CHECK, since=0.0, healthy=True)
    assert well.after(False, "", 40.0).after(False, "", 50.0).verdict == "became unhealthy: the check said nothing"


# ---- volumes ----


def test_volume_goes_only_when_nothing_can_write_into_it() -> None:
    going, staying = Volume("dockchat", "data", "node1", removing=True), Volume("dockchat", "other", "node1")
    ended = replace(TASK, status=Status(TaskState.SHUTDOWN))
    own, foreign = Container("c", TASK.id, False, True), Container("c", "unknown", False, True)
    assert to_remove([going, staying], [], []) == [going]
    assert to_remove([going], [ended], []) == [going]
    assert to_remove([going], [ended], [own]) == []
    assert to_remove([going], [TASK], []) == []
    assert to_remove([going], [], [foreign]) == []


# ---- container ----


def test_container_carries_names_that_teach() -> None:
    node = Node("node1", SUBNET, "10.200.3.1", Resources())
    spec = container_spec(TASK, node, "sha256:1", "10.200.3.2", {"data": "/v/data"})
    assert (spec.name, spec.hostname) == ("dockchat-web.1-k3m9x2ab", "web-1")
    assert spec.environment == {
        "A": "b", "MINIORCH_TASK": "k3m9x2ab", "MINIORCH_SERVICE": "web", "MINIORCH_SLOT": "1",
        "MINIORCH_NODE": "node1",
    }  # fmt: skip
    assert spec.binds == {"/data": ("/v/data", True)}
    assert (spec.dns, spec.dns_search) == ("10.200.3.1", "dockchat.miniorch.internal"), "the resolver is the node's own"
    assert spec.labels["miniorch.task"] == "k3m9x2ab"
    assert spec.labels["miniorch.address"] == "10.200.3.2"
    assert spec.networks == "dockchat/default"


def test_container_takes_the_options_of_the_app_file_but_its_labels_are_ours() -> None:
    node = Node("node1", SUBNET, "10.200.3.1", Resources())
    options = ContainerOptions(hostname="me-{{.Task.Slot}}", labels={"a": "b", "miniorch.task": "stolen"}, user="1000")
    mounts = (Mount("", "/etc/app.conf", True, host_path="/srv/app.conf"),)
    environment = {"A": "b", "B": "{{ .Service.Name }}@{{.Node.Hostname}} {{.Task.Name}} {{.Other}}"}
    task = replace(TASK, spec=replace(TASK.spec, options=options, mounts=mounts, environment=environment))
    found = {"A": "hidden", "DB_SERVICE_HOST": "10.201.0.2"}
    spec = container_spec(task, node, "sha256:1", "10.200.3.2", {}, found)
    assert (spec.hostname, spec.options) == ("me-1", options)
    assert (spec.labels["a"], spec.labels["miniorch.task"]) == ("b", "k3m9x2ab")
    assert spec.binds["/etc/app.conf"] == ("/srv/app.conf", True)
    assert spec.environment["B"] == "web@node1 dockchat-web.1-k3m9x2ab {{.Other}}"
    assert (spec.environment["A"], spec.environment["DB_SERVICE_HOST"]) == ("b", "10.201.0.2")


# ---- HAProxy ----


def endpoints(name: str, published: int, *ready: bool) -> Endpoints:
    backends = tuple(
        Backend(f"t{number}", number, "node1", f"10.200.3.{number + 1}", is_ready)
        for number, is_ready in enumerate(ready, 1)
    )
    return Endpoints("dockchat", name, "10.201.0.1", (Port(published, 80),), backends)


def test_only_ready_tasks_get_traffic() -> None:
    assert frontends([endpoints("web", 5000, True, False, True)], ()) == [
        Frontend(5000, "dockchat-web", (("1-t1", "10.200.3.2", 80), ("3-t3", "10.200.3.4", 80)))
    ]


def test_held_port_is_left_out_and_the_others_go_on() -> None:
    found = frontends([endpoints("web", 5000, True), endpoints("api", 5001, True)], {5000: "nginx (pid 12)"})
    assert [frontend.port for frontend in found] == [5001]


def test_port_named_twice_goes_to_the_first_service() -> None:
    found = frontends([endpoints("web", 5000, True), endpoints("api", 5000, True)], ())
    assert [frontend.name for frontend in found] == ["dockchat-api"]


def test_service_without_ready_task_keeps_its_port() -> None:
    text = config(frontends([endpoints("web", 5000, False)], ()), "/run/miniorch")
    assert text.endswith("\nlisten dockchat-web:5000\n    bind :5000\n")


def test_local_port_is_only_bound_on_this_machine() -> None:
    text = config(frontends([replace(endpoints("web", 5000, True), ports=(Port(5000, 80, local=True),))], ()), "/run")
    assert "\n    bind 127.0.0.1:5000\n" in text


def test_nothing_but_plain_words_reach_the_configuration() -> None:
    evil = replace(endpoints("web", 5000, True), app="a\nglobal", service="b c")
    assert "listen a_global-b_c:5000\n" in config(frontends([evil], ()), "/run/miniorch")


# ---- finding others by environment ----


def test_services_of_the_app_are_found_by_environment() -> None:
    silent = replace(endpoints("my-db", 5001, True), ports=(), vip="10.201.0.2")
    stranger = replace(endpoints("api", 5002, True), app="other")
    assert variables("dockchat", [endpoints("web", 5000, False), silent, stranger]) == {
        "MY_DB_SERVICE_HOST": "10.201.0.2",
        "WEB_SERVICE_HOST": "10.201.0.1",
        "WEB_SERVICE_PORT": "80",
    }


# ---- what Docker says ----


async def test_start_that_a_killed_docker_has_begun_is_tried_again_and_does_not_end_the_task() -> None:
    connection = Connection()
    connection._api = Mock(**{"start.side_effect": APIError("", explanation="task 3a4b: already exists")})
    with pytest.raises(EngineError, match="task 3a4b: already exists") as caught:
        await connection.call(lambda api: api.start("3a4b"))
    assert caught.value.temporary
    connection.close()


def test_what_runs_on_of_a_removed_container_is_ended_and_nothing_else(tmp_path: Path) -> None:
    running = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    for process, container in zip(running, ("3a4b" * 16, "5c6d" * 16), strict=True):
        (tmp_path / str(process.pid)).mkdir()
        (tmp_path / str(process.pid) / "cgroup").write_text(f"0::/system.slice/docker-{container}.scope\n")
    end_left("3a4b" * 16, tmp_path)
    assert (running[0].wait(5), running[1].poll()) == (-signal.SIGKILL, None)
    running[1].kill()
    running[1].wait()


def test_pull_is_summed_over_layers() -> None:
    reading = PullProgress("mongo:7")
    assert reading.feed({"status": "Pulling fs layer", "id": "a"}) == "pulling mongo:7"
    downloading = {"status": "Downloading", "id": "a", "progressDetail": {"current": 4_000_000, "total": 10_000_000}}
    assert reading.feed(downloading) == "pulling mongo:7, 4 of 10 MB"
    assert reading.feed({**downloading, "id": "b"}) == "pulling mongo:7, 8 of 20 MB"
    assert reading.feed({"status": "Pull complete", "id": "b", "progressDetail": {}}) == "pulling mongo:7, 14 of 20 MB"


def test_failed_pull_says_whether_a_registry_answers() -> None:
    nobody = pull_error("mongo:7", "Get https://registry.example/v2/: dial tcp: lookup x: no such host")
    assert "Docker Hub does not answer" in nobody.message
    assert not nobody.temporary
    unknown = pull_error("r.example:5000/x:1", "manifest for r.example:5000/x:1 not found: manifest unknown")
    assert "the registry r.example:5000 answers, and has no such image" in unknown.message


def test_build_names_its_step_and_fails_with_its_last_lines() -> None:
    reading = BuildProgress("dockchat-web:1")
    assert reading.feed({"stream": "Step 2/3 : RUN make\n"}) == "building dockchat-web:1, step 2/3: RUN make"
    reading.feed({"stream": "cc: no such file\n"})
    reading.feed({"error": "The command returned a non-zero code: 2"})
    assert reading.failure().message.splitlines() == [
        "the build of dockchat-web:1 failed in step 2/3: RUN make: The command returned a non-zero code: 2",
        "Step 2/3 : RUN make",
        "cc: no such file",
    ]


def test_output_is_told_apart_wherever_it_was_cut() -> None:
    data = b"\1\0\0\0\0\0\0\5hello" + b"\2\0\0\0\0\0\0\0" + b"\2\0\0\0\0\0\1\0" + b"e" * 256

    async def read(size: int, tty: bool) -> list[tuple[Kind, bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), size):
                yield data[at : at + size]

        return [frame async for frame in apart(pieces(), tty)]

    for size in (1, 3, 8, 13, 4096):
        frames = asyncio.run(read(size, False))
        assert b"".join(payload for kind, payload in frames if kind is Kind.STDOUT) == b"hello"
        assert b"".join(payload for kind, payload in frames if kind is Kind.STDERR) == b"e" * 256
        assert b"".join(payload for _, payload in asyncio.run(read(size, True))) == data


def test_start_that_fails_for_its_command_says_so() -> None:
    missing = start_error('OCI runtime create failed: exec: "nope": executable file not found in $PATH: unknown')
    assert missing is not None
    assert missing.message == "exit code 127: command not found in the image: nope"
    denied = start_error('OCI runtime create failed: exec: "/etc/passwd": permission denied: unknown')
    assert denied is not None
    assert "126" in denied.message
    assert start_error("Address already in use") is None


# ---- who listens ----

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 112 1 0 100 0 0 10 0
   2: 0100007F:138A 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 113 1 0 100 0 0 10 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st ...
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 211 1
   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 212 1
   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 213 1
"""


def test_listeners_that_collide_with_a_published_port() -> None:
    assert listening(TABLE) == {5000: 111, 5001: 112}
    assert listening(TABLE6) == {80: 211, 82: 213}


@pytest.mark.parametrize(("processors", "at_once"), [(1, 4), (2, 4), (6, 6), (64, 8)])
def test_as_many_containers_start_at_once_as_there_are_processors_within_limits(processors: int, at_once: int) -> None:
    assert making_at_once(processors) == at_once
