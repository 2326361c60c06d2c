"""Places on a lab with labels: rules put tasks where they should be, say why when they cannot, and listen for a remedy.

One lab for all stories; each removes its app.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import LabMachine, running_lab
from node import TestNode, until

pytestmark = [pytest.mark.root, pytest.mark.docker]

SLEEPS = ("image: busybox:1", "command: [sleep, '100000']", "stop_grace_period: 0s")
LABELS = ("n1:zone=a", "n2:zone=b", "n3:zone=c", "n2:disk=ssd", "n3:disk=ssd", "n3:resource.gpu=1")


@pytest.fixture(scope="module")
def lab(node: TestNode, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabMachine]:
    options = [word for label in LABELS for word in ("--label", label)]
    with running_lab(node, data_root, tmp_path_factory.mktemp("lab"), *options) as machine:
        yield machine


@pytest.fixture
def run(lab: LabMachine) -> Iterator[Any]:
    """Run an app whose services are given as lines below their names; it is gone afterwards."""

    def run(*options: str, code: int = 0, **services: str) -> LabMachine:
        lab.miniorch("run", *options, lab.file(app(**services), "places.yml"), code=code)
        return lab

    yield run
    lab.miniorch("rm", "places", "--yes")


def app(**services: str) -> str:
    lines = ["services:"]
    for name, rules in services.items():
        image = SLEEPS[:1] * (not rules.startswith("image:"))
        lines += [f"  {name}:", *(f"    {line}" for line in (*image, *SLEEPS[1:], *rules.splitlines()))]
    return "\n".join(lines)


def deploy(replicas: int, *constraints: str) -> str:
    listed = ", ".join(f'"{one}"' for one in constraints)
    return f"deploy: {{replicas: {replicas}, placement: {{constraints: [{listed}]}}}}"


def where(lab: LabMachine, service: str = "web") -> dict[str, str]:
    """Tasks of a service that run, or are to: id -> node."""
    listed = [one for one in lab.tasks("places") if one["service"] == service and one["desired_state"] == "running"]
    return {one["id"]: one["node"] for one in listed if one["state"] in ("pending", "running")}


def waiting(lab: LabMachine) -> list[dict[str, Any]]:
    """What is told of the tasks of web that wait for a node."""
    return [one for one in lab.json("explain", "places/web")["tasks"] if one["state"] == "pending"]


def test_constraint_brings_all_tasks_to_one_node_and_changed_labels_move_nothing(lab: LabMachine, run: Any) -> None:
    run(web=deploy(3, "node.labels.zone == b"))
    before = where(lab)
    assert set(before.values()) == {"node2"}
    lab.miniorch("node", "label", "node2", "zone=z")
    explained = lab.miniorch("explain", "places/web").stdout
    assert explained.count("node2 would not be taken now (wants node.labels.zone == b, has zone=z)") == 3, explained
    assert where(lab) == before
    run(web=deploy(3, "node.labels.disk == ssd"))  # they may stay
    assert where(lab) == before
    run(web=deploy(3, "node.labels.zone == c"))  # they may not
    assert set(where(lab).values()) == {"node3"}
    lab.miniorch("node", "label", "node2", "zone=b")


def test_six_tasks_over_three_zones_are_two_in_each_and_a_seventh_says_why_it_waits(lab: LabMachine, run: Any) -> None:
    spread = "deploy: {replicas: %d, placement: {preferences: [{spread: node.labels.zone}]}}\n"
    rules = "x-miniorch: {constraints: [[zone, MAX_PER, 2]]}"
    run(web=spread % 6 + rules)
    assert Counter(where(lab).values()) == {"node1": 2, "node2": 2, "node3": 2}
    done = run("--detach", web=spread % 7 + rules).miniorch("wait", "places/web", "--timeout", "20", code=None)
    assert done.returncode == 4, done.stdout + done.stderr
    (seventh,) = waiting(lab)
    assert "3 looked at" in seventh["message"]
    assert "zone" in seventh["message"]
    lab.miniorch("scale", "places/web=3")
    until(lambda: Counter(where(lab).values()) == {"node1": 1, "node2": 1, "node3": 1}, 30, "one is left in each zone")


def test_an_update_that_fits_nowhere_stops_nothing_says_so_at_once_and_goes_on_when_a_label_helps(
    lab: LabMachine, run: Any
) -> None:
    run(web=deploy(3))
    before = where(lab)
    began = time.monotonic()
    mistyped = deploy(3, "node.labels.dsik == ssd")
    done = lab.miniorch("run", lab.file(app(web=mistyped), "places.yml"), code=4)
    assert time.monotonic() - began < 10.0
    assert "places/web is not changed further, and what runs goes on: no node fits (3 looked at)" in done.stderr
    assert where(lab) == before
    lab.miniorch("scale", "places/web=2", code=None)
    until(lambda: len(where(lab)) == 2, 20, "one is gone, as was wished, and no more")
    assert where(lab).items() <= before.items()
    plan = lab.miniorch("plan", lab.file(app(web=deploy(2, "node.labels.disk == hdd")), "places.yml")).stdout
    assert plan.count("stays as it is, no node fits") == 2, plan
    lab.miniorch("node", "label", "node1", "dsik=ssd")
    until(lambda: set(where(lab).values()) == {"node1"} and len(where(lab)) == 2, 30, "both run where the label is")
    lab.miniorch("node", "label", "node1", "dsik-")


def test_chain_of_affinities_ends_on_one_node(lab: LabMachine, run: Any) -> None:
    """web waits for api, api for db, and only db says where. web is asked first, and gets its node last."""
    beside = "x-miniorch: {affinities: [service == %s]}"
    run(web=beside % "api", api=beside % "db", db=deploy(1, "node.labels.zone == b"))
    assert [set(where(lab, name).values()) for name in ("web", "api", "db")] == [{"node2"}] * 3


def test_counted_resources_are_not_given_twice(lab: LabMachine, run: Any) -> None:
    gpu = "{discrete_resource_spec: {kind: gpu, value: 1}}"
    wants = "deploy: {replicas: %d, resources: {reservations: {generic_resources: [" + gpu + "]}}}"
    run(web=wants % 1)
    assert list(where(lab).values()) == ["node3"]
    run("--detach", web=wants % 2)
    until(lambda: any("gpu" in one["message"] for one in waiting(lab)), 10, "the second says what lacks")
    assert sorted(where(lab).values()) == ["", "node3"]
    lab.miniorch("node", "label", "node1", "resource.gpu=1")
    until(lambda: sorted(where(lab).values()) == ["node1", "node3"], 10, "the second has one of its own")
    lab.miniorch("node", "label", "node1", "resource.gpu-")


def test_anti_affinity_with_too_few_nodes_waits_with_reasons_until_a_label_helps(lab: LabMachine, run: Any) -> None:
    apart = deploy(3, "node.labels.disk == ssd") + "\nx-miniorch: {affinities: [service != web]}"
    done = run("--detach", web=apart).miniorch("wait", "places/web", "--timeout", "20", code=None)
    assert done.returncode == 4, done.stdout + done.stderr
    (third,) = waiting(lab)
    assert "node1: wants node.labels.disk == ssd" in third["message"]
    assert "web.1" in third["message"] or "web.2" in third["message"]
    commands = [remedy["change"]["command"] for remedy in third["now"]["remedies"]]
    assert "miniorch node label node1 disk=ssd" in commands
    lab.miniorch("node", "label", "node1", "disk=ssd")
    until(lambda: sorted(where(lab).values()) == ["node1", "node2", "node3"], 30, "the third runs on node1")
    events = lab.json("events")
    labelled = max(one["at"] for one in events if one["subject"] == "node1" and "labels:" in one["message"])
    placed = max(one["at"] for one in events if one["message"] == "assigned to node1")
    seconds = placed - labelled
    print(f"\nlabelled, and placed {seconds * 1000:.0f} ms later")
    assert 0 <= seconds < 1.0


def test_of_an_image_that_was_built_on_one_node_only_new_layers_reach_another(lab: LabMachine, run: Any) -> None:
    """Its base has 2 MB and is on all nodes."""
    image = f"rebuilt:{time.time_ns()}"  # the lab's engines may know those of earlier times
    (lab.folder / "Dockerfile").write_text(f"FROM busybox:1\nLABEL made={time.time()}\nCOPY Dockerfile /\n")
    made = lab.inside("n1", "env", "DOCKER_BUILDKIT=0", "docker", "build", "-q", "-t", image, str(lab.folder))
    received = "cat /sys/class/net/eth0/statistics/rx_bytes"
    before = int(lab.shell("node2", received))
    run(web=f"image: {image}\n{deploy(1, 'node.hostname == node2')}")
    assert set(where(lab).values()) == {"node2"}
    assert int(lab.shell("node2", received)) - before < 1_000_000
    assert lab.inside("n2", "docker", "images", "-q", "--no-trunc", image) == made
