"""Networks of an app, as a user has them: who shares none does not exist for the other; and `trace` says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from machine import Machine
from node import ADDRESS, TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

SERVER = """image: busybox:1
    command: ["sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"]"""
SHOP = f"""\
services:
  web:
    {SERVER}
    networks: [front, back]
  db:
    {SERVER}
    networks: [back]
  log:
    {SERVER}
    networks: [front]
networks: {{front: , back: }}
"""
INNER = f"""\
services:
  db:
    {SERVER}
    ports: ["80:80"]
    networks: [back]
networks: {{back: {{internal: %s}}}}
"""
EARLY = f"""  early:
    image: busybox:1
    command: ["sh", "-c", "printf 'GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n' | nc -w 5 {ADDRESS} 80; echo tried; sleep 999"]
    networks: [back]
networks:"""
OTHER = f"services:\n  thief:\n    {SERVER}\n"


@pytest.fixture(scope="module")
def machine(node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(node, tmp_path_factory.mktemp("networks"))
    machine.miniorch("run", machine.file(SHOP, "shop.yml"))
    machine.miniorch("run", machine.file(OTHER, "other.yml"))
    yield machine
    machine.miniorch("down", "--all", "--volumes", "--yes")


def knock(machine: Machine, task: str, address: str) -> subprocess.CompletedProcess[str]:
    """Fetch a page from inside a task; the last line of stderr is how many seconds that took."""
    script = f"time -f %e sh -c \"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | tail -n 1\""
    (name,) = (name for name in machine.containers() if name.startswith(task.replace("/", "-") + "-"))
    return machine.node.docker("exec", name, "sh", "-c", script, check=False)


def reaches(machine: Machine, task: str, address: str) -> bool:
    done = knock(machine, task, address)
    if "hello" not in done.stdout:
        assert float(done.stderr.split()[-1]) < 1, f"not refused at once: {done.stderr}"
        return False
    return True


def test_services_reach_each_other_on_a_common_network_and_nowhere_else(machine: Machine) -> None:
    services = {one["service"]: one for one in machine.json("services")}
    tasks = {one["service"]: one["address"] for one in machine.json("ps")}
    for source, target, shared in (
        ("shop/web.1", "db", True), ("shop/web.1", "log", True), ("shop/db.1", "web", True),
        ("shop/db.1", "log", False), ("shop/log.1", "db", False),
        ("other/thief.1", "db", False), ("shop/db.1", "thief", False),
    ):  # fmt: skip
        assert reaches(machine, source, tasks[target]) is shared, (source, target)
        assert reaches(machine, source, services[target]["address"]) is shared, (source, target)
        assert reaches(machine, source, target) is shared, (source, target)


def test_a_network_given_and_taken_restarts_nothing(machine: Machine) -> None:
    before = machine.containers("shop")
    joined = machine.file(SHOP.replace("networks: [front]", "networks: [front, back]"), "shop.yml")
    assert "update log: networks" in machine.miniorch("plan", joined).stdout
    machine.miniorch("run", joined)
    until(lambda: reaches(machine, "shop/log.1", "db"), 10, "log reaches db")
    machine.miniorch("run", machine.file(SHOP, "shop.yml"))
    until(lambda: not reaches(machine, "shop/log.1", "db"), 10, "log reaches db no more")
    assert machine.containers("shop") == before


def test_a_service_on_internal_networks_alone_does_not_get_out_and_is_served_all_the_same(machine: Machine) -> None:
    machine.miniorch("run", machine.file(INNER % "no", "inner.yml"))
    until(lambda: reaches(machine, "inner/db.1", ADDRESS), 10, "db reaches the machine by its published port")
    before = machine.containers("inner")
    wrong = machine.miniorch("run", machine.file(INNER % "maybe", "inner.yml"), code=3)
    assert "network back: internal wants true or false" in wrong.stderr
    within = machine.file(INNER % "true", "inner.yml")
    assert "update db: internal" in machine.miniorch("plan", within).stdout
    machine.miniorch("run", within)
    until(lambda: not reaches(machine, "inner/db.1", ADDRESS), 10, "db is refused")
    assert machine.containers("inner") == before, "nothing restarts"
    assert "hello" in machine.fetch(f"http://{ADDRESS}/"), "its published port serves"
    assert reaches(machine, "inner/db.1", "db"), "its own service address, by name"
    machine.miniorch("run", machine.file((INNER % "true").replace("networks: {", EARLY + " {"), "inner.yml"))
    until(lambda: "tried" in machine.miniorch("logs", "inner/early").stdout, 10, "early has tried")
    assert "refused" in machine.miniorch("logs", "inner/early").stdout, "from its first instruction on"
    machine.miniorch("run", machine.file((INNER % "no").replace("networks: {", EARLY + " {"), "inner.yml"))
    until(lambda: reaches(machine, "inner/early.1", ADDRESS), 10, "early gets out")
    machine.miniorch("rm", "inner", "--yes")


def test_trace_of_a_good_way_has_every_step(machine: Machine) -> None:
    done = machine.miniorch("trace", "web.1", "db")
    marks = [line.split()[:2] for line in done.stdout.splitlines() if line[:1] in "✓✗" and line]
    assert [title for mark, title in marks if mark == "✓"] == [
        "sender", "door", "name", "service", "networks", "fast", "forwarding", "route", "receiver", "answer", "answer",
    ]  # fmt: skip
    assert done.stdout.rstrip().endswith("shop/web.1 reaches db")
    assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout


def first_wrong(machine: Machine, *argv: str) -> dict[str, Any]:
    answer = json.loads(machine.miniorch("trace", *argv, "--json", code=1).stdout)
    wrong: dict[str, Any] = next(step for step in answer["steps"] if not step["ok"])
    return wrong


def test_trace_names_the_first_wrong_step_and_what_helps(machine: Machine) -> None:
    step = first_wrong(machine, "shop/log.1", "db")
    assert (step["title"], "share no network" in step["why"]) == ("name", True)
    address = next(task["address"] for task in machine.json("ps") if task["service"] == "db")
    machine.node.run(["ip", "route", "del", address])
    step = first_wrong(machine, "web.1", "db")
    assert (step["title"], step["help"]) == ("route", "miniorch net verify --repair")
    machine.miniorch("net", "verify", "--repair")
    assert reaches(machine, "shop/web.1", address)


def test_trace_of_what_does_not_exist_says_what_does(machine: Machine) -> None:
    assert "did you mean db" in machine.miniorch("trace", "web.1", "dbb", code=2).stderr
    assert "shop/web has no slot 7\nhelp: miniorch ps shop" in machine.miniorch("trace", "web.7", "db", code=2).stderr
