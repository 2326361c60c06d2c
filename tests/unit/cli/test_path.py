"""The way of a packet: from two views to verdicts, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from miniorch.cli.ask import Server
from miniorch.cli.trace import REPAIR, Way, find_receiver, lines, walk
from miniorch.codec import to_plain
from miniorch.errors import NotFound
from miniorch.model import Backend, Endpoints, Task

WAY = Way(
    "shop/web.1", "node1", "10.200.0.5", "db", "shop/db", "10.201.0.3", 1, 1, ("shop/back",),
    "shop/db.1", "node2", "10.200.1.7", 5432,
)  # fmt: skip


def step(name: str, what: str, held: str) -> dict[str, Any]:
    return {"name": name, "what": what, "state": [held], "kernel": [held]}


def probe(result: str = "ok", *answers: str) -> dict[str, Any]:
    return {"what": "asked", "result": result, "milliseconds": 0.4, "answers": list(answers)}


def tunnel(subnet: str) -> list[dict[str, Any]]:
    return [step("route", f"route {subnet}", "via"), step("device", "device mo-vxlan", "up"),
            step("neighbour", "neighbour 10.200.1.1", "lladdr"), step("fdb", "fdb 0a:6d", "dst")]  # fmt: skip


def near(**probes: Any) -> dict[str, Any]:
    return {
        "steps": [
            step("cable", "route 10.200.0.5/32", "dev mo1"), step("service", "chain to-shop/db", "dnat to 10.200.1.7"),
            step("networks", "sets in-...", "shop/back"), step("forwarding", "forwarding", "ip_forward 1"),
            *tunnel("10.200.1.0/24"),
        ],
        "listening": [],
        "probes": {"name": probe("ok", WAY.vip), "address": probe(), "service": probe(), **probes},
    }  # fmt: skip


def far(*listening: str) -> dict[str, Any]:
    return {
        "steps": [step("cable", "route 10.200.1.7/32", "dev mo2"), step("networks", "sets in-...", "shop/back"),
                  *tunnel("10.200.0.0/24")],
        "listening": list(listening or ("0.0.0.0:5432",)),
        "probes": {},
    }  # fmt: skip


def first_wrong(way: Way, one: dict[str, Any], other: dict[str, Any] | None) -> tuple[str, str, str]:
    wrong = next(step for step in walk(way, one, other) if not step.ok)
    assert wrong.why
    return wrong.title, wrong.text, wrong.help


def without(view: dict[str, Any], name: str) -> dict[str, Any]:
    """The same with nothing in the kernel at one step."""
    steps = [{**one, "kernel": []} if one["name"] == name else one for one in view["steps"]]
    return {**view, "steps": steps}


def test_a_right_way_goes_through_both_kernels_and_back() -> None:
    steps = walk(WAY, near(), far())
    assert all(step.ok for step in steps)
    assert [step.title for step in steps] == [
        "sender", "name", "service", "networks", "forwarding", "route", "device", "neighbour", "fdb",
        "far node", "networks", "way back", "way back", "way back", "way back", "receiver", "answer", "answer",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["route", "device", "neighbour", "fdb", "networks", "forwarding", "service"])
def test_what_the_kernel_lacks_is_the_wrong_step_and_can_be_repaired(name: str) -> None:
    title, text, help = first_wrong(WAY, without(near(), name), far())
    assert (title, help) == (name, REPAIR)
    assert "node1" in text or name == "service"


@pytest.mark.parametrize(("name", "title"), [("cable", "far node"), ("networks", "networks"), ("fdb", "way back")])
def test_the_far_half_is_looked_at_in_the_same_way(name: str, title: str) -> None:
    found, text, help = first_wrong(WAY, near(), without(far(), name))
    assert (found, help, "node2" in text) == (title, REPAIR, True)


def test_who_shares_no_network_has_no_name_for_it() -> None:
    title, text, help = first_wrong(replace(WAY, shared=()), near(name=probe("NXDOMAIN")), far())
    assert (title, text) == ("name", "db does not exist for shop/web.1")
    assert "networks:" in help
    assert "published" in walk(replace(WAY, service="other/db", shared=()), near(name=probe("NXDOMAIN")), far())[1].why


def test_a_service_without_a_ready_task_is_explained() -> None:
    title, _, help = first_wrong(replace(WAY, ready=0, tasks=0, target=""), near(), None)
    assert (title, help) == ("service", "miniorch explain shop/db")


def test_a_program_that_listens_to_itself_is_found() -> None:
    title, text, _ = first_wrong(WAY, near(address=probe("refused")), far("127.0.0.1:5432"))
    assert (title, text) == ("receiver", "shop/db.1 listens to itself only")


def test_a_far_node_that_is_silent_ends_the_way() -> None:
    wrong = [step for step in walk(WAY, near(), None, "the agent on node2 does not answer") if not step.ok]
    assert [(step.title, step.why) for step in wrong] == [("far node", "the agent on node2 does not answer")]


def test_a_node_that_is_no_peer_any_more_is_named_and_no_repair_is_promised() -> None:
    view = near()
    view["steps"] = [*view["steps"][:3], {"name": "route", "what": "route 10.200.1.7/32", "state": [], "kernel": []}]
    title, text, help = first_wrong(WAY, view, None)
    assert (title, text, help) == ("route", "node1 has no way to node2, so it refuses at once", "miniorch nodes")


def test_on_one_node_there_is_no_far_one() -> None:
    here = near()
    here["steps"] = [*here["steps"][:3], step("route", "route 10.200.0.7/32", "dev mo2")]
    steps = walk(replace(WAY, target_node="node1"), here, far())
    titles = ["sender", "name", "service", "networks", "route", "receiver", "answer", "answer"]
    assert [step.title for step in steps] == titles


def test_a_slot_that_nobody_has_is_no_way_that_works() -> None:
    db = Endpoints("shop", "db", "10.201.0.3", backends=(Backend("t1", 1, "node2", "10.200.1.7", True),))
    server = mock.Mock(spec=Server, plain=lambda kind: [to_plain(db)])
    sender = mock.Mock(spec=Task, app="shop", service_key="shop/db", id="t0")
    assert find_receiver(sender, "db.1", server)[3] == db.backends[0]
    with pytest.raises(NotFound, match="shop/db has no task 7 with an address"):
        find_receiver(sender, "db.7", server)


def test_lines_are_at_most_80_wide_and_end_with_what_helps() -> None:
    view = without(near(), "fdb")
    view["steps"][1]["kernel"] = ["dnat to numgen random mod 30 map { " + "10.200.1.7, " * 30]
    said = lines(WAY, walk(WAY, view, far()), colour=False)
    assert max(map(len, said)) <= 80
    assert said[-3:] == [
        "shop/web.1 does not reach db: 10.201.0.3 does not become the address of a task",
        "why:  the kernel of node1 does not hold what the state says",
        "help: miniorch net verify --repair",
    ]
