"""`miniorch explain` as a person reads it: the answers are the server's own, from a state that the test has made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_api import Cli, FakeApi

from miniorch.api.explain import explain_service, explain_task, explain_then
from miniorch.cli.explain import _names
from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import request_for
from miniorch.errors import NotFound
from miniorch.model import Availability, Node, Service, Status, Task, TaskState
from miniorch.spec import Condition, Constraint, Placement, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import Placed
from scheduler.explain import record

MIB = 1 << 20
DISK = Constraint("node.labels.disk", "==", ("ssd",), text="node.labels.disk == ssd")


def node(name: str, **more: Any) -> Node:
    return Node(name, "10.200.0.0/24", "", Resources(4.0, 1024 * MIB), **more)


def task(service: str, slot: int, on: str = "", memory: int = 0) -> Task:
    spec = TaskSpec(f"{service}:1", reserved=Resources(0.0, memory * MIB))
    state = TaskState.RUNNING if on else TaskState.PENDING
    return Task(f"{service}{slot}x", "shop", service, slot, spec, 0.0, node=on, status=Status(state, "waits"))


def web(memory: int, *constraints: Constraint) -> Service:
    spec = ServiceSpec(TaskSpec("web:1", reserved=Resources(0.0, memory * MIB)), 3, placement=Placement(constraints))
    return Service("shop", "web", spec, "10.201.0.1")


class Shop:
    """A cluster of which the fake server gives the real server's answers."""

    def __init__(self, api: FakeApi, cli: Cli) -> None:
        self.api, self.cli = api, cli

    def has(self, *items: object) -> Cache:
        self.cache = cache = Cache.holding(*items)
        self.api.lists.update(services=list(cache.services.values()), tasks=list(cache.tasks.values()))
        for key, service in cache.services.items():
            self.api.answers["GET", f"/v1/explain/{key}"] = lambda _, it=service: self.service(it)
        for one in cache.tasks.values():
            self.api.answers["GET", f"/v1/explain/{one.id}"] = lambda _, it=one: self.task(it)
        return cache

    def service(self, service: Service) -> Any:
        path, _, query = self.api.asked[-1][1].partition("?")
        asked = dict(word.split("=") for word in query.split("&") if word)
        if "at" in asked:
            return explain_then(path.removeprefix("/v1/explain/"), int(asked["at"]), self.cache,
                                slot=asked.get("slot", ""))  # fmt: skip
        return explain_service(service, self.cache, 0.0, every_node="all" in asked)

    def task(self, one: Task) -> Any:
        return explain_task(one, self.cache, 0.0, every_node=self.api.asked[-1][1].endswith("?all=1"))

    def explained(self, *words: str) -> list[str]:
        return self.cli("explain", *words).stdout.splitlines()


@pytest.fixture
def shop(api: FakeApi, cli: Cli) -> Shop:
    return Shop(api, cli)


def placed(cache: Cache, *where: Placed) -> None:
    """What placement writes down, as of revision `cache.revision + 1`."""
    request = request_for(cache.services["shop/web"], cache)
    number = len(cache.decisions_of("shop/web")) + 1
    made = record(request, cache.board, where, number=number, at=0.0, revision=cache.revision)
    cache.write(made, cache.revision + 1, lambda item, gone: None)


def test_a_task_that_waits_is_told_every_failing_rule_of_every_node_and_what_would_help(shop: Shop) -> None:
    shop.has(
        web(512, DISK), task("web", 1), task("web", 2), node("n1", labels={"disk": "ssd"}), task("db", 1, "n1", 712),
        node("n2"), node("n3", availability=Availability.DRAIN), task("db", 2, "n3", 800),
    )  # fmt: skip
    assert shop.explained("shop/web") == [
        "shop/web.1 (web1x) is pending, revision 8",
        "  no node fits (3 looked at)",
        "    passed by all: ready, platform, ports, max per node, affinity, volume",
        "    NODES  drain  constraint  capacity",
        "    n1     ok     ok          no",
        "      capacity: wants 512 MiB of memory, 312 MiB of 1 GiB free",
        "    n2     ok     no          ok",
        "      constraint: wants node.labels.disk == ssd, has no label disk",
        "    n3     no     no          no",
        "      drain: the node is draining (miniorch node activate)",
        "      constraint: wants node.labels.disk == ssd, has no label disk",
        "      capacity: wants 512 MiB of memory, 224 MiB of 1 GiB free",
        "  what would help:",
        "    n2, if it had label disk=ssd",
        "      miniorch node label n2 disk=ssd",
        "    n1, if 200 MiB of memory more were free",
        "    n1, if it reserved 312 MiB of memory",
        "      miniorch run FILE, with deploy.resources.reservations.memory: 312M in web",
        "    n2, if it did not want node.labels.disk == ssd",
        "      miniorch run FILE, with no node.labels.disk == ssd in web",
        "shop/web.2: likewise",
    ]


def test_an_update_that_waits_for_a_dependency_says_so_where_it_stands(shop: Shop) -> None:
    old, db = web(100), replace(web(0), name="db", spec=ServiceSpec(TaskSpec("db:1"), 1))
    new = replace(old, spec=replace(old.spec, depends_on={"db": Condition.HEALTHY}, task=TaskSpec("web:2")))
    shop.has(new, db, node("n1"), task("web", 1, "n1"), task("db", 1))
    lines = shop.explained("shop/web.1")
    assert "  is to be replaced when nothing is missing: waits for db (healthy; db.1 is pending)" in lines


def test_a_task_that_runs_is_told_the_decision_then_and_whether_it_holds_now(shop: Shop) -> None:
    cache = shop.has(web(100), task("web", 1), task("web", 2), node("n1"), node("n2"), task("db", 1, "n2"))
    placed(cache, Placed("web1x", 1, "n1"), Placed("web2x", 2, "n2"))
    shop.has(*cache.services.values(), task("web", 1, "n1"), task("web", 2, "n2"), task("db", 1, "n2"),
             *cache.nodes.values(), *cache.decisions.values())  # fmt: skip
    first, *lines = shop.explained("shop/web.2")
    assert first == "shop/web.2 (web2x) is running on n2, revision 7"
    assert lines[1].startswith("  decided at revision 7, ")
    assert lines[1].endswith(", by spread, number 2 of 2, after web.1 on n1; the first one saw:")
    assert lines[2:7] == [
        "    passed by all: ready, drain, platform, constraint, capacity, ports, max per node, affinity, volume",
        "    NODES         in all",
        "    n1 <- chosen  0",
        "    n2            1",
        "  now: it would be placed there again",
    ]
    assert lines[7].startswith("decisions on record, by revision: 7 (")
    both = shop.explained("shop/web")
    assert [line for line in both if line.startswith("  decided") and "above" in line]  # its table is not told twice
    assert len([line for line in both if "NODES" in line]) == 1


def test_the_past_is_asked_by_revision_and_a_revision_too_old_is_told_what_there_is(shop: Shop) -> None:
    cache = shop.has(web(100), node("n1"), node("n2"))
    placed(cache, Placed("gone", 2, "n2"))
    placed(cache, Placed("web2x", 2, "n1"))
    then, table, *_ = shop.explained("shop/web.2", "--at", "4")
    assert then.startswith("shop/web.2 (gone) was placed on n2 at revision 4, ")
    assert "passed by all" in table
    assert shop.explained("shop/web.2", "--at", "99")[0].startswith("shop/web.2 (web2x) was placed on n1 at revision 5")
    with pytest.raises(NotFound) as caught:
        explain_then("shop/web", 3, cache, slot="2")
    shop.api.answers["GET", "/v1/explain/shop/web"] = caught.value
    old = shop.cli("explain", "shop/web.2", "--at", "3")
    assert old.returncode == 2
    assert "at or before revision 3 is on record; on record: 5, 4" in old.stderr
    assert "help: miniorch explain shop/web.2 --at 4" in old.stderr
    assert shop.cli("explain", "shop/web", "--at", "-1").returncode == 2
    assert "on record: 5, 4" in shop.cli("explain", "shop/web", "--at", "0").stderr  # revision 0 is the past, too


def test_a_hundred_nodes_are_some_twenty_rows_and_every_name_is_there(shop: Shop) -> None:
    nodes = [node(f"n{i}", labels={"disk": "ssd"} if i % 3 else {}) for i in range(100)]
    busy = [task("db", i, f"n{i}", 500 + 3 * i) for i in range(100)]
    shop.has(web(600, DISK), task("web", 1), *nodes, *busy)
    lines = shop.explained("shop/web.1")
    assert len(lines) < 40
    rows = [line for line in lines if line.endswith((" ok", " no"))]
    assert len(rows) <= 12
    assert {f"n{i}" for i in range(100)} <= set(_unfolded(" ".join(lines)))
    every = shop.explained("shop/web.1", "--all")
    assert len([line for line in every if line.endswith((" ok", " no"))]) == 100
    assert "platform" in every[2]  # a column for each rule
    assert all(len(line) <= 120 for line in lines)


def _unfolded(text: str) -> list[str]:
    words = [word.strip(",") for word in text.split()]
    found = [word for word in words if ".." not in word]
    for word in words:
        first, _, last = word.partition("..")
        if last:
            found += [f"n{number}" for number in range(int(first[1:]), int(last[1:]) + 1)]
    return found


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["n10", "n9", "n11", "n2"], "n2, n9..n11"),
        (["n09", "n10"], "n09, n10"),
        (["a", "b"], "a, b"),
        (["rack1-n3", "rack1-n4", "rack1-n5", "rack2-n6"], "rack1-n3..rack1-n5, rack2-n6"),
        ([], ""),
    ],
)
def test_names_that_count_up_stand_as_a_range(names: Sequence[str], told: str) -> None:
    assert _names(names) == told


def test_a_cluster_without_nodes_and_a_change_that_does_not_exist_are_said(shop: Shop) -> None:
    shop.has(web(100), task("web", 1))
    assert shop.explained("shop/web.1")[1] == "  no node fits: no node has registered yet"
    shop.has(web(100), task("web", 1), node("n1"), replace(node("n2"), capacity=Resources(1.0, 50 * MIB)))
    assert shop.explained("shop/web.1")[1] == "  1 of 2 nodes fit"


def test_an_update_that_stops_nothing_is_said_first(shop: Shop) -> None:
    shop.has(replace(web(100, DISK), held="no node fits (1 looked at): n1: why"), task("web", 1, "n1"), node("n1"))
    lines = shop.explained("shop/web")
    assert lines[0] == "shop/web is not changed further, and what runs goes on: no node fits (1 looked at): n1: why"
    assert "    n1, if it had label disk=ssd" in lines


def test_json_has_the_whole_answer(shop: Shop) -> None:
    cache = shop.has(web(100), task("web", 1, "n1"), node("n1"))
    placed(cache, Placed("web1x", 1, "n1"))
    answer = json.loads(shop.cli("explain", "shop/web", "--json").stdout)
    assert list(answer) == ["revision", "service", "held", "tasks", "decisions", "on_record"]
    (one,) = answer["tasks"]
    assert list(one) == ["task", "name", "state", "desired_state", "message", "next_at", "node", "waits_for", "now",
                         "like", "then"]  # fmt: skip
    assert list(one["now"]) == ["trace", "remedies", "verdict", "why"]
    (then,) = answer["decisions"]
    assert list(then) == ["revision", "decided_from", "at", "trace", "placed", "in_all"]
    assert one["then"] == then["revision"]
    assert then["trace"]["rows"][0]["rules"][0].keys() == one["now"]["trace"]["rows"][0]["rules"][0].keys()
    assert list(one["now"]["trace"]) == ["strategy", "rules", "nodes", "looked_at", "fitting", "chosen", "rows"]
    assert one["now"]["verdict"] == "again"
