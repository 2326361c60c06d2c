"""`miniorch run` and the commands around it, on a real Docker Engine, on a machine without a default route."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import SMALL, Machine
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]


@pytest.fixture(scope="module")
def up(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(node, tmp_path_factory.mktemp("apps"))
    machine.miniorch("up")
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


@pytest.fixture
def machine(up: Machine) -> Iterator[Machine]:
    yield up
    up.miniorch("up")
    up.remove_all()


@pytest.fixture
def small(machine: Machine) -> Machine:
    machine.miniorch("run", machine.file(SMALL))
    return machine


def test_run_ends_when_the_page_answers_and_says_where(machine: Machine) -> None:
    done = machine.miniorch("run", machine.file(SMALL))
    assert "http://" in done.stdout
    assert "8100" in done.stdout
    names = {machine.fetch("http://127.0.0.1:8100/").strip() for _ in range(8)}
    assert names == {"web-1", "web-2"}
    assert len(done.stdout.splitlines()) <= 3 * 3 + 8


def test_containers_have_names_that_teach(small: Machine) -> None:
    names = sorted(re.sub(r"-[a-z0-9]{8}$", "-ID", name) for name in small.containers("small"))
    assert names == ["small-side.1-ID", "small-web.1-ID", "small-web.2-ID"]


def test_ps_json_has_the_promised_keys(small: Machine) -> None:
    tasks = small.json("ps")
    keys = {"id", "app", "service", "slot", "state", "desired_state", "node", "address", "image", "health", "exit_code"}
    assert all(keys <= set(task) for task in tasks)
    assert sorted((task["service"], task["slot"], task["state"]) for task in tasks) == [
        ("side", 1, "running"),
        ("web", 1, "running"),
        ("web", 2, "running"),
    ]


def test_the_same_file_twice_changes_nothing_and_is_quick(small: Machine) -> None:
    before = small.containers("small")
    started = time.monotonic()
    small.miniorch("run", small.file(SMALL))
    assert time.monotonic() - started < 5
    assert small.containers("small") == before


def test_only_the_change_is_replaced_and_the_page_keeps_answering(small: Machine) -> None:
    before = small.containers("small")
    changed = small.file(SMALL.replace("hostname > /www", "echo new > /www"))
    plan = small.miniorch("plan", changed)
    assert "web" in plan.stdout
    running, pages = small.start("run", changed), []
    while running.poll() is None:
        pages.append(small.fetch("http://127.0.0.1:8100/"))
    assert running.returncode == 0, small.said()
    assert len(pages) > 3
    assert "" not in pages
    assert small.fetch("http://127.0.0.1:8100/").strip() == "new"
    after = small.containers("small")
    kept = {name for name in before if name in after}
    assert [name.split("-")[1] for name in kept] == ["side.1"]
    assert len(after) == 3


def test_a_service_that_is_no_longer_in_the_file_goes(small: Machine) -> None:
    small.miniorch("run", small.file(SMALL[: SMALL.index("  side:")]))
    small.settled("small", 2)


def test_scale_up_and_down(small: Machine) -> None:
    small.miniorch("scale", "small/web=4")
    small.settled("small", 5)
    small.miniorch("scale", "small/web=1")
    small.settled("small", 2)
    assert small.fetch("http://127.0.0.1:8100/").strip() == "web-1"
    assert "no such service" in small.miniorch("scale", "small/nope=1", code=2).stderr


def test_logs_events_explain_services_version(small: Machine) -> None:
    text = SMALL.replace('"sleep", "1000000"', '"sh", "-c", "echo hello from the side; exec sleep 1000000"')
    small.miniorch("run", small.file(text))
    assert "hello from the side" in small.miniorch("logs", "small/side").stdout
    assert "small/side.1  running" in small.miniorch("events").stdout
    explained = small.miniorch("explain", "small/web").stdout
    assert "node1" in explained
    assert {service["service"] for service in small.json("services")} == {"web", "side"}
    version = small.json("version")
    assert re.fullmatch(r"[a-z0-9]{12}", version["cluster"])


def test_rm_leaves_nothing_of_the_app(small: Machine) -> None:
    small.miniorch("rm", "small")
    assert small.containers("small") == {}
    assert small.tasks("small") == []
    assert small.fetch("http://127.0.0.1:8100/") == ""
    assert "no app" in small.miniorch("rm", "small", code=2).stderr


# --- bad days ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no file .*missing.yml"),
        ("services: [", "YAML"),
        ("", "empty"),
        (SMALL.replace("image: busybox:1", "imge: busybox:1", 1), 'did you mean "image"'),
        (SMALL.replace("replicas: 2", "replicas: two"), "replicas"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(machine: Machine, text: str | None, says: str) -> None:
    path = str(machine.folder / "missing.yml") if text is None else machine.file(text, "bad.yml")
    done = machine.miniorch("run", path, code=3)
    assert re.search(says, done.stderr), done.stderr
    if text:
        assert re.search(r"bad\.yml:\d+", done.stderr), done.stderr
    assert machine.json("ps") == []


def one(command: str, extra: str = "") -> str:
    return f"services:\n  web:\n    image: busybox:1\n    command: {command}\n{extra}"


def test_a_container_that_exits_at_once_ends_run_with_its_last_words(machine: Machine) -> None:
    path = machine.file(one('["sh", "-c", "echo cannot find my config; exit 3"]'), "crash.yml")
    done = machine.miniorch("run", path, code=1, timeout=60)
    said = done.stdout + done.stderr
    assert "cannot find my config" in said
    assert "exit code 3" in said
    assert "crash/web" in said


def test_a_container_that_never_gets_healthy_ends_run(machine: Machine) -> None:
    check = '    healthcheck: {test: ["CMD", "sh", "-c", "echo still cold; exit 1"], interval: 1s, retries: 2}\n'
    done = machine.miniorch("run", machine.file(one('["sleep", "1000"]', check), "cold.yml"), code=1, timeout=90)
    assert "healthy" in done.stderr
    assert "still cold" in done.stdout + done.stderr


def test_a_command_that_does_not_exist_is_named(machine: Machine) -> None:
    done = machine.miniorch("run", machine.file(one('["nonsense"]'), "nocmd.yml"), code=1, timeout=60)
    assert "nonsense" in done.stdout + done.stderr


def test_an_image_that_cannot_be_had_ends_run_with_what_was_tried(machine: Machine) -> None:
    path = machine.file("services:\n  web:\n    image: no-such-image-anywhere:9\n", "noimage.yml")
    done = machine.miniorch("run", path, code=1, timeout=120)
    assert "no-such-image-anywhere:9" in done.stderr


def test_a_build_that_fails_ends_run_with_its_last_lines(machine: Machine) -> None:
    context = machine.folder / "broken"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text("FROM busybox:1\nRUN echo compiling && echo it broke here && false\n")
    done = machine.miniorch(
        "run", machine.file("services: {web: {build: ./broken}}\n", "build.yml"), code=1, timeout=90
    )
    assert "it broke here" in done.stdout + done.stderr


def test_a_taken_port_is_named_with_its_holder(machine: Machine) -> None:
    path = machine.file(SMALL)
    holder = machine.node.popen([sys.executable, "-m", "http.server", "8100", "--directory", str(machine.folder)])
    try:
        until(lambda: machine.fetch("http://127.0.0.1:8100/"), 10, "the port is taken")
        done = machine.miniorch("run", path, code=4, timeout=60)
        assert "port 8100 is held by" in done.stderr, done.stderr
        assert f"(pid {holder.pid})" in done.stderr, done.stderr
    finally:
        holder.kill()
        holder.wait()
    machine.miniorch("run", path)  # free again: it goes on by itself


def test_without_docker_run_says_so_and_goes_on_when_it_is_back(machine: Machine) -> None:
    machine.node.stop_dockerd()
    try:
        done = machine.miniorch("run", machine.file(SMALL), "--timeout", "15", code=5, timeout=60)
        assert "Docker" in done.stdout + done.stderr
    finally:
        machine.node.start_dockerd()
    machine.miniorch("run", machine.file(SMALL))


def test_dockerd_restarted_in_the_middle_recreates_nothing(small: Machine) -> None:
    before = small.containers("small")
    small.node.stop_dockerd(kill=True)
    assert small.fetch("http://127.0.0.1:8100/") != ""
    small.node.start_dockerd()
    small.settled("small", 3)
    assert small.containers("small") == before


@pytest.mark.parametrize("moment", ["created", "preparing", "starting"])
def test_dockerd_killed_and_started_in_the_middle_of_run_delays_it_and_no_more(machine: Machine, moment: str) -> None:
    running = machine.start("run", machine.file(SMALL))
    until(lambda: machine.happened(moment), 60, f"the first container is {moment}")
    machine.node.stop_dockerd(kill=True)
    machine.node.start_dockerd()
    assert machine.ended(running) == 0, machine.said()
    machine.settled("small", 3)


@pytest.mark.parametrize("process", ["server", "agent", "net"])
def test_kill_9_at_rest_touches_nothing_and_up_brings_it_back(small: Machine, process: str) -> None:
    before = small.containers("small")
    small.kill(process)
    for _ in range(5):
        assert small.fetch("http://127.0.0.1:8100/") != ""
    small.miniorch("up")
    small.settled("small", 3)
    assert small.containers("small") == before
    assert small.fetch("http://127.0.0.1:8100/") != ""
    small.miniorch("scale", "small/web=3")
    small.settled("small", 4)


@pytest.mark.parametrize("process", ["server", "agent", "net"])
@pytest.mark.parametrize("moment", ["web.1 assigned", "web.1 preparing", "web.1 (starting|running)", "web.2 running"])
def test_kill_9_in_the_middle_of_run_converges_without_doubles(machine: Machine, process: str, moment: str) -> None:
    running = machine.start("run", machine.file(SMALL))
    until(lambda: machine.happened(moment), 60, f"the moment {moment}")
    machine.kill(process)
    assert machine.ended(running) == 0, machine.said()
    machine.settled("small", 3)
    assert machine.fetch("http://127.0.0.1:8100/") != ""


def test_a_killed_container_is_replaced_and_named_in_the_events(small: Machine) -> None:
    victim = next(name for name in small.containers("small") if "web.1" in name)
    small.began = time.time()
    small.node.docker("kill", victim)
    until(lambda: small.happened("web.1 .*137"), 20, "the exit code is in the events")
    small.settled("small", 3)
    assert victim not in small.containers("small")


def test_a_container_removed_behind_our_back_is_replaced(small: Machine) -> None:
    victim = next(name for name in small.containers("small") if "side.1" in name)
    small.node.docker("rm", "-f", victim)
    until(lambda: victim not in small.containers("small") and len(small.containers("small")) == 3, 30, "replaced")
    small.settled("small", 3)


def test_services_find_each_other_by_name(small: Machine) -> None:
    side = next(name for name in small.containers("small") if "side.1" in name)
    answer = small.node.docker("exec", side, "nslookup", "web").stdout
    assert re.search(r"10\.201\.\d+\.\d+", answer), answer
    asked = ["sh", "-c", "echo -e 'GET / HTTP/1.0\\r\\n\\r\\n' | nc web 8000"]
    assert "web-" in small.node.docker("exec", side, *asked).stdout


def test_doctor_finds_nothing_wrong_here(machine: Machine) -> None:
    checks = machine.json("doctor")
    assert len(checks) >= 10
    assert all({"check", "state", "seen", "wanted", "mend"} <= set(check) for check in checks)
    assert [check for check in checks if check["state"] == "bad"] == []


def test_plan_needs_neither_server_nor_docker(node: TestNode, tmp_path: Path) -> None:
    with TestNode(name="empty") as empty:
        machine = Machine(empty, tmp_path)
        done = machine.miniorch("plan", machine.file(SMALL))
        assert "create web" in done.stdout
