"""Waiting tasks to nodes, tasks to endpoints, and the small loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import NODE, T0, said, service, task

from miniorch.controllers.cache import Cache
from miniorch.controllers.endpoints import Reachability, derive
from miniorch.controllers.placement import WANTED, Placer
from miniorch.controllers.upkeep import (
    DECISIONS_KEPT,
    EVENTS_KEPT,
    EVENTS_SLACK,
    RELEASES_KEPT,
    History,
    Removal,
)
from miniorch.model import (
    App,
    DesiredState,
    Endpoints,
    Event,
    Node,
    NodeState,
    Release,
    Service,
    Task,
    TaskState,
    Volume,
)
from miniorch.spec import Condition, Mount, Resources, Restart, RestartPolicy, ServiceSpec, TaskSpec
from miniorch.verdicts import DecisionRecord, Trace


def placed(*items: object) -> list[Any]:
    """What one look at each service writes, but for the records of decisions."""
    placer, cache = Placer(), Cache.holding(*items)
    writes = [write for key in cache.services for write in placer.plan(key, cache, T0).writes]
    return [write for write in writes if not isinstance(write.item, DecisionRecord)]


def place(*items: object) -> list[str]:
    return said(placed(*items))


def test_a_waiting_task_goes_to_a_node_that_fits() -> None:
    assert place(service(), NODE, task(1, TaskState.NEW, node="")) == ["t1: desired running, assigned"]


def test_two_waiting_tasks_see_each_other() -> None:
    two = [NODE, replace(NODE, name="n2")]
    plan = placed(service(replicas=2), *two, *(task(n, TaskState.NEW, node="") for n in (1, 2)))
    assert [write.item.node for write in plan] == ["n1", "n2"]


def test_without_a_node_a_task_says_that_there_is_none() -> None:
    plan = placed(service(), task(1, TaskState.NEW, node=""))
    assert plan[0].item.status.state is TaskState.PENDING
    assert "no node" in plan[0].item.status.message


def test_a_reason_that_stays_the_same_is_written_once() -> None:
    first = placed(service(), task(1, TaskState.NEW, node=""))[0].item
    assert place(service(), first) == []


def test_a_task_waits_for_its_dependency_to_be_healthy_and_says_so() -> None:
    web = service("web", depends_on={"db": Condition.HEALTHY})
    db = service("db")
    waiting = task(1, TaskState.NEW, of=web, node="", ident="w")
    starting = task(1, TaskState.STARTING, of=db, ident="d")
    plan = placed(web, db, NODE, waiting, starting)
    status = plan[0].item.status
    assert (status.state, status.message) == (TaskState.NEW, "waits for db (healthy; db.1 is starting)")
    running = task(1, TaskState.RUNNING, of=db, ident="d")
    assert place(web, db, NODE, waiting, running) == ["w: desired running, assigned"]


def test_started_is_enough_for_a_dependency_on_started() -> None:
    web = service("web", depends_on={"db": Condition.STARTED})
    db = service("db")
    starting = task(1, TaskState.STARTING, of=db, ident="d")
    waiting = task(1, TaskState.NEW, of=web, node="", ident="w")
    assert place(web, db, NODE, waiting, starting) == ["w: desired running, assigned"]


NEVER = RestartPolicy(Restart.NEVER)


def waits(condition: Condition, *tasks: Task, policy: RestartPolicy = NEVER, replicas: int = 1, round: int = 0) -> str:
    """What web says while it waits for the job `setup`; "" when it goes on."""
    web = service("web", depends_on={"setup": condition})
    setup = replace(service("setup", restart=policy, replicas=replicas), round=round)
    waiting = task(1, TaskState.NEW, of=web, node="", ident="w")
    writes = placed(web, setup, NODE, waiting, *tasks)
    status = writes[0].item.status
    return "" if status.state is TaskState.ASSIGNED else str(status.message)


def setup_task(state: TaskState, slot: int = 1, **fields: Any) -> Task:
    return task(slot, state, of=service("setup"), ident=f"s{slot}", **fields)


def test_dependency_on_a_job_waits_until_every_slot_of_it_is_complete() -> None:
    completed, one = Condition.COMPLETED, setup_task(TaskState.COMPLETE)
    assert waits(completed) == "waits for setup (completed; it has no task yet)"
    assert waits(completed, setup_task(TaskState.RUNNING)) == "waits for setup (completed; setup.1 is running)"
    assert waits(completed, one) == ""
    assert waits(completed, one, setup_task(TaskState.RUNNING, 2), replicas=2).endswith("setup.2 is running)")
    assert waits(completed, one, setup_task(TaskState.COMPLETE, 2), replicas=2) == ""


def test_job_of_an_earlier_round_does_not_count() -> None:
    again = "waits for setup (completed; setup.1 is complete)"
    assert waits(Condition.COMPLETED, setup_task(TaskState.COMPLETE), round=1) == again


@pytest.mark.parametrize("condition", [Condition.COMPLETED, Condition.HEALTHY])
def test_who_waits_for_a_job_that_is_given_up_says_so_with_the_commands_that_help(condition: Condition) -> None:
    failed = setup_task(TaskState.FAILED, message="exit code 1\nand more")
    assert waits(condition, failed) == (
        "waits for setup, which failed (exit code 1) and is not tried again: "
        "miniorch logs shop/setup; miniorch restart shop/setup"
    )
    again = RestartPolicy(Restart.ON_FAILURE)
    assert waits(condition, failed, policy=again) == f"waits for setup ({WANTED[condition]}; setup.1 is failed)"


def test_job_that_has_ended_was_started() -> None:
    assert waits(Condition.STARTED, setup_task(TaskState.COMPLETE)) == ""
    assert waits(Condition.STARTED, setup_task(TaskState.FAILED)) == ""
    assert waits(Condition.STARTED, setup_task(TaskState.REJECTED)) != ""


def test_a_folder_of_the_node_is_no_volume() -> None:
    web = Service(
        "shop", "web", ServiceSpec(TaskSpec("web:1", mounts=(Mount("", "/src", host_path="/home/ann"),))), "v"
    )
    assert place(web, NODE, task(1, TaskState.NEW, of=web, node="")) == ["t1: desired running, assigned"]


def _db(node: str = "") -> Service:
    return Service("shop", "db", ServiceSpec(TaskSpec("db:1", mounts=(Mount("data", "/data"),))), "10.201.0.9")


def test_the_first_placement_ties_a_volume_to_its_node() -> None:
    db = _db()
    assert place(db, NODE, task(1, TaskState.NEW, of=db, node="")) == ["new Volume", "t1: desired running, assigned"]


def test_a_volumes_tasks_follow_it() -> None:
    db = _db()
    second = Node("n2", "10.200.1.0/24", "10.200.1.1", Resources(2.0, 2**30))
    volume = Volume("shop", "data", "n2")
    plan = placed(db, NODE, second, volume, task(1, TaskState.NEW, of=db, node=""))
    assert plan[0].item.node == "n2"


def test_a_volumes_task_waits_while_its_node_is_away() -> None:
    db = _db()
    away = replace(NODE, name="n2", state=NodeState.DOWN)
    plan = placed(db, NODE, away, Volume("shop", "data", "n2"), task(1, TaskState.NEW, of=db, node=""))
    status = plan[0].item.status
    assert status.state is TaskState.PENDING
    assert status.message == (
        "no node fits (2 looked at): n1: volume shop/data lies on n2; n2: the node is down: no heartbeat"
    )


def test_endpoints_name_tasks_with_an_address_and_only_running_ones_are_ready() -> None:
    tasks = [
        task(1, TaskState.RUNNING),
        task(2, TaskState.STARTING),
        task(3, TaskState.FAILED),
        task(4, TaskState.RUNNING, desired=DesiredState.DRAINING),
        task(5, TaskState.PENDING, node=""),
    ]
    backends = derive(service(), tasks, {}).backends
    assert [(backend.slot, backend.ready) for backend in backends] == [(1, True), (2, False), (4, False)]


def test_nobody_is_sent_to_a_node_that_is_down_until_it_is_back() -> None:
    away = replace(NODE, name="n2", state=NodeState.DOWN)
    held = (service(replicas=2), task(1), replace(task(2), node="n2"))
    assert Reachability().plan("n2", Cache.holding(*held, away), T0).others == ["shop/web"]

    def ready(node: Node) -> list[bool]:
        written = Reachability().plan("shop/web", Cache.holding(*held, NODE, node), T0).writes[0].item
        assert isinstance(written, Endpoints)
        return [backend.ready for backend in written.backends]

    assert ready(away) == [True, False]
    assert (
        ready(replace(away, state=NodeState.UNREACHABLE)) == ready(replace(away, state=NodeState.READY)) == [True, True]
    )


def test_endpoints_carry_aliases_until_the_service_is_removed() -> None:
    web = service(aliases=("www",))
    assert derive(web, [], {}).aliases == ("www",)
    assert derive(replace(web, removing=True), [], {}).aliases == ()


def test_endpoints_are_written_only_when_they_change() -> None:
    web, one = service(), task(1)
    cache = Cache.holding(web, one)
    written = Reachability().plan("shop/web", cache, T0).writes
    assert said(list(written)) == ["new Endpoints"]
    cache = Cache.holding(web, one, written[0].item)
    assert Reachability().plan("shop/web", cache, T0).writes == []
    assert said(list(Reachability().plan("shop/web", Cache.holding(written[0].item), T0).writes)) == ["erase "]


def test_endpoints_say_that_a_backend_drains_until_it_has_stopped() -> None:
    leaving = task(1, TaskState.RUNNING, desired=DesiredState.DRAINING)
    assert derive(service(), [leaving, task(2)], {}).draining
    assert not derive(service(), [task(1), task(2)], {}).draining
    assert not derive(service(), [task(1, TaskState.SHUTDOWN, desired=DesiredState.DRAINING)], {}).draining


def test_endpoints_that_many_nodes_hear_of_rest_longer() -> None:
    nodes = [replace(NODE, name=f"n{number}") for number in range(1000)]
    tasks = [task(number) for number in range(1, 501)]
    assert Reachability().plan("shop/web", Cache.holding(service(replicas=500), *tasks, *nodes), T0).rest_seconds == 2.0
    assert Reachability().plan("shop/web", Cache.holding(service(), task(1), NODE), T0).rest_seconds < 0.001


def test_an_app_goes_last_and_takes_volumes_only_when_told() -> None:
    app = App("shop", T0, removing=True)
    assert Removal().plan("shop", Cache.holding(app, service()), T0).writes == ()
    volume = Volume("shop", "data", "n1")
    assert said(list(Removal().plan("shop", Cache.holding(app, volume), T0).writes)) == ["erase shop"]
    wiped = replace(app, remove_volumes=True)
    assert said(list(Removal().plan("shop", Cache.holding(wiped, volume), T0).writes)) == ["change Volume"]
    going = replace(volume, removing=True)
    assert Removal().plan("shop", Cache.holding(wiped, going), T0).writes == []


def test_history_is_bounded() -> None:
    events = [Event(f"{number:013d}", T0, "task", "x", "y") for number in range(EVENTS_KEPT + EVENTS_SLACK + 1)]
    writes = History().plan("*", Cache.holding(*events), T0).writes
    assert len(events) - len(writes) == EVENTS_KEPT
    assert writes[0].item.id == events[0].id


def test_ten_releases_of_each_app_are_kept_and_none_of_a_removed_one() -> None:
    releases = [Release("shop", number, T0, ("create web",)) for number in range(1, RELEASES_KEPT + 3)]
    other = Release("other", 1, T0, ("create web",))
    writes = History().plan("shop", Cache.holding(*releases, other), T0).writes
    assert [write.item.key for write in writes] == ["shop/000001", "shop/000002"]
    removed = Removal().plan("shop", Cache.holding(App("shop", T0, removing=True), releases[0], other), T0).writes
    assert [type(write.item) for write in removed] == [App, Release]
    assert all(write.erase for write in removed)


def decision(number: int, *tasks: str, name: str = "web") -> DecisionRecord:
    nothing = Trace("spread", (), 1, 1, 1, "n1", ())
    places = ("n1",) * len(tasks)
    return DecisionRecord("shop", name, number, T0, 1, nothing, tasks, tuple(range(len(tasks))), places, len(tasks))


def test_the_newest_decisions_of_a_service_are_kept_and_those_of_tasks_that_run_longest() -> None:
    records = [decision(number, f"t{number}") for number in range(1, DECISIONS_KEPT + 4)]
    other = decision(1, "x", name="db")
    runs = task(1, TaskState.RUNNING, ident="t2")
    cache = Cache.holding(service(), service("db"), runs, other, *records)
    writes = History().plan("shop/web", cache, T0).writes
    assert [(write.item.number, write.erase) for write in writes] == [(1, True), (3, True), (4, True)]
    assert History().plan("shop/db", cache, T0).writes == []
    assert list(History().keys(records[0], False)) == ["shop/web"]


def test_with_a_service_its_decisions_go() -> None:
    gone = service()
    cache = Cache.holding(decision(1, "t1"), decision(2, "t2"))
    assert list(History().keys(gone, True)) == [gone.key]
    assert [(write.item.number, write.erase) for write in History().plan("shop/web", cache, T0).writes] == [
        (1, True), (2, True)]  # fmt: skip
