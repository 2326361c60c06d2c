"""The checker is checked: each promise is broken once on purpose and must notice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.engine import ContainerSpec
from miniorch.codec import encode
from miniorch.model import (
    Backend,
    DesiredState,
    Endpoints,
    Leader,
    Node,
    NodeState,
    Service,
    Status,
    Task,
    TaskState,
    Volume,
)
from miniorch.simulation import invariants
from miniorch.simulation.engine import Behaviour, Box
from miniorch.simulation.history import History
from miniorch.simulation.invariants import ALWAYS, AT_REST, PICTURED, Picture
from miniorch.simulation.parts import Parts
from miniorch.simulation.sequence import Step
from miniorch.simulation.store import LEADER, RESTORED, Record
from miniorch.spec import (
    AppSpec,
    Constraint,
    Mount,
    Placement,
    Port,
    Resources,
    Restart,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from miniorch.state.records import put
from miniorch.state.store import Delete, Entry, Operation

SPEC = TaskSpec("db", mounts=(Mount("data", "/data"),), reserved=Resources(1.0, 0))


def task(name: str = "t1", state: TaskState = TaskState.RUNNING, slot: int = 1, node: str = "node1") -> Task:
    return Task(name, "chat", "db", slot, SPEC, 0.0, node=node, status=Status(state, address="10.200.0.2"))


def box(task: str = "t1", address: str = "10.200.0.2", state: str = "running", slot: int = 1) -> Box:
    name, binds = f"chat-db.{slot}-{task}", {"/data": ("/volumes/chat/data/data", False)}
    spec = ContainerSpec(name, task, "sha256:1", address, "", None, None, {}, binds, Resources())
    return Box(f"c-{task}-{address}", spec, Behaviour(), state)


def waiting(message: str) -> Task:
    status = Status(TaskState.PENDING, message)
    return replace(task(node=""), spec=TaskSpec("db"), status=status)


BACKENDS = Endpoints("chat", "db", "10.201.0.1", (Port(5000, 80),), (Backend("t1", 1, "node1", "10.200.0.2", True),))
FOLDERS = frozenset({"/volumes/chat/data/data"})
GOOD = Picture(
    tasks={"t1": task()},
    services={"chat/db": Service("chat", "db", ServiceSpec(SPEC), "10.201.0.1")},
    nodes={
        "node1": Node("node1", "10.200.0.0/24", "10.200.0.1", Resources(2.0, 0)),
        "node2": Node("node2", "10.200.1.0/24", "10.200.1.1", Resources(2.0, 0)),
    },
    volumes={"chat/data": Volume("chat", "data", "node1")},
    endpoints={"chat/db": BACKENDS},
    folders={"node1": FOLDERS, "node2": FOLDERS},
    traffic={"node1": (BACKENDS,), "node2": (BACKENDS,)},
    boxes={"node1": (box(),), "node2": ()},
)

BROKEN = {
    "a_slot_has_at_most_one_live_task": replace(GOOD, tasks={"t1": task(), "t2": task("t2")}),
    "a_task_has_at_most_one_container": replace(GOOD, boxes={"node1": (box(), box(state="created"))}),
    "a_slot_has_at_most_one_running_container": replace(GOOD, boxes={"node1": (box(),), "node2": (box("forgotten"),)}),
    "an_ended_task_runs_no_container": replace(GOOD, tasks={"t1": task(state=TaskState.FAILED)}),
    "an_address_is_held_by_one_running_container": replace(GOOD, boxes={"node1": (box(), box("t2", slot=2))}),
    "an_address_lies_in_its_nodes_subnet": replace(GOOD, boxes={"node1": (box(address="10.200.1.2"),)}),
    "a_subnet_or_service_address_has_one_owner": replace(
        GOOD, nodes={name: replace(GOOD.nodes["node1"], name=name) for name in ("node1", "node2")}
    ),
    "no_service_address_is_a_containers": replace(
        GOOD, services={"chat/db": replace(Service("chat", "db", ServiceSpec(SPEC), "10.200.0.2"))}
    ),
    "a_node_is_never_above_its_capacity": replace(GOOD, tasks={f"t{n}": task(f"t{n}", slot=n) for n in (1, 2, 3)}),
    "a_task_lies_on_its_volumes_node": replace(GOOD, tasks={"t1": task(node="node2")}),
    "a_container_runs_where_its_task_was_put": replace(GOOD, boxes={"node2": (box(address="10.200.1.2"),)}),
    "every_slot_runs_or_is_over": replace(GOOD, tasks={"t1": replace(task(), round=1)}),
    "what_the_store_says_runs_runs": replace(GOOD, boxes={"node1": (box(state="exited"),)}),
    "no_container_is_an_orphan": replace(GOOD, boxes={"node1": (box(), box("gone", "10.200.0.3", "exited"))}),
    "nothing_waits_that_would_fit": replace(GOOD, tasks={"t1": waiting("no node fits (2 looked at): no reason")}),
    "a_node_has_no_more_of_a_service_than_it_may": replace(
        GOOD,
        tasks={"t1": task(), "t2": task("t2", slot=2)},
        services={"chat/db": Service("chat", "db", ServiceSpec(SPEC, placement=Placement(max_per_node=1)), "")},
    ),
    "nothing_is_left_of_what_is_gone": replace(GOOD, folders={"node1": FOLDERS | {"/volumes/chat/gone/data"}}),
    "endpoints_name_exactly_the_tasks_that_run": replace(GOOD, endpoints={}, traffic={}),
    "what_a_container_mounts_is_on_the_disk": replace(GOOD, folders={"node1": frozenset()}),
    "published_ports_follow_the_endpoints": replace(GOOD, traffic={"node1": (BACKENDS,), "node2": ()}),
}


def test_good_world_breaks_no_promise() -> None:
    assert [sentence for promise in AT_REST for sentence in promise(GOOD)] == []


def test_every_promise_has_a_broken_world_here() -> None:
    assert {promise.__name__ for promise in AT_REST} == set(BROKEN)
    assert set(ALWAYS) <= set(AT_REST)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promise_is_noticed(name: str) -> None:
    assert len(getattr(invariants, name)(BROKEN[name])) == 1


ZONE_A = Placement((Constraint("node.labels.zone", "in", ("a",)),))
ZONED = replace(
    GOOD,
    services={"chat/db": Service("chat", "db", ServiceSpec(SPEC, placement=ZONE_A), "")},
    nodes={**GOOD.nodes, "node1": replace(GOOD.nodes["node1"], labels={"zone": "a"})},
)


def test_waiting_for_a_label_is_a_true_reason_and_one_of_the_past_is_none() -> None:
    there = replace(ZONED, tasks={"t1": waiting("no node fits (2 looked at): ...")})
    assert invariants.nothing_waits_that_would_fit(there) == ["t1 waits, and node1 has room for it"]
    nowhere = replace(there, nodes=GOOD.nodes)
    assert invariants.nothing_waits_that_would_fit(nowhere) == []
    past = replace(nowhere, tasks={"t1": waiting("no node fits (1 looked at): ...")})
    assert ["reason of the past" in one for one in invariants.nothing_waits_that_would_fit(past)] == [True]


class Told:
    """A history that is told what happens to a store."""

    def __init__(self) -> None:
        self.history, self._parts = History(), Parts({})

    def wrote(self, record: Record, at: float = 0.0) -> dict[str, list[str]]:
        return self.history.wrote(Step(record, self._parts.follow(record.operations), self._parts.world, at))

    def becomes(self, world: Picture, at: float = 0.0) -> dict[str, list[str]]:
        """In one transaction of nobody's."""
        found: list[Operation] = []
        for kind in PICTURED:
            before, after = self._parts.objects[kind], getattr(world, kind)
            found += [put(item) for key, item in after.items() if before.get(key) != item]
            found += [Delete(f"/{kind}/{key}") for key in before if key not in after]
        return self.wrote(Record(9, "", "", found, None, None), at)


def test_task_on_a_node_without_its_labels_is_noticed_unless_they_have_just_gone() -> None:
    bare = replace(ZONED, nodes=GOOD.nodes)
    assert "TasksGoWhereLabelsAllow" in Told().becomes(bare)
    told = Told()
    assert told.becomes(replace(ZONED, tasks={}), 0.0) == {}
    assert told.becomes(bare, 5.0) == {}
    told = Told()
    assert told.becomes(replace(ZONED, tasks={}), 0.0) == told.becomes(replace(bare, tasks={}), 1.0) == {}
    assert "TasksGoWhereLabelsAllow" in told.becomes(bare, 15.0)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"t1": task(state=TaskState.STARTING)}, "t1 went from running back to starting"),
        ({"t1": task(node="node2")}, "t1 moved from node1 to node2"),
        ({"t1": replace(task(), spec=TaskSpec("other"))}, "the spec of t1 has changed"),
        (
            {"t1": replace(task(), status=Status(TaskState.RUNNING, address="10.200.0.9"))},
            "t1 changed its address from 10.200.0.2 to 10.200.0.9",
        ),
    ],
)
def test_task_that_does_not_move_forward_is_noticed(after: dict[str, Task], words: str) -> None:
    told = Told()
    assert told.becomes(GOOD) == {}
    assert told.becomes(replace(GOOD, tasks=after)) == {"TasksOnlyMoveForward": [words]}


def test_end_is_final_and_what_is_gone_stays_gone() -> None:
    told = Told()
    told.becomes(replace(GOOD, tasks={"t1": task(state=TaskState.FAILED)}))
    lost = told.becomes(replace(GOOD, tasks={"t1": task(state=TaskState.LOST)}))
    assert lost == {"TasksOnlyMoveForward": ["t1 went from failed back to lost"]}
    assert told.becomes(replace(GOOD, tasks={})) == {}
    assert told.becomes(GOOD) == {"TasksOnlyMoveForward": ["t1 has come back from the dead"]}


def job(condition: Restart, state: TaskState, *more: Task, max_attempts: int = 0) -> Picture:
    """The world with `db` as a job whose first task is in `state`."""
    spec = ServiceSpec(SPEC, restart=RestartPolicy(condition, max_attempts))
    first = replace(task(state=state), attempt=max_attempts)  # as many successors as there may be
    tasks = {one.id: one for one in (first, *more)}
    return replace(GOOD, services={"chat/db": replace(GOOD.services["chat/db"], spec=spec)}, tasks=tasks)


NEXT = task("t2", TaskState.NEW)


@pytest.mark.parametrize(
    "over",
    [
        (Restart.NEVER, TaskState.COMPLETE, 0),
        (Restart.NEVER, TaskState.FAILED, 0),
        (Restart.ON_FAILURE, TaskState.COMPLETE, 0),
        (Restart.ON_FAILURE, TaskState.FAILED, 1),
    ],
)
def test_job_that_is_over_and_runs_again_is_noticed(over: tuple[Restart, TaskState, int]) -> None:
    condition, state, limit = over
    assert invariants.every_slot_runs_or_is_over(job(condition, state, max_attempts=limit)) == []
    told = Told()
    assert told.becomes(job(condition, state, max_attempts=limit)) == {}
    again = told.becomes(job(condition, state, NEXT, max_attempts=limit))
    assert again == {"JobsThatAreOverStayOver": ["t2 runs again what was over with t1"]}


def test_job_may_run_again_after_a_failure_that_counts_a_restart_or_a_change() -> None:
    def after(first: Picture, second: Picture) -> dict[str, list[str]]:
        told = Told()
        return told.becomes(first) | told.becomes(second)

    failed = job(Restart.ON_FAILURE, TaskState.FAILED)
    assert after(failed, job(Restart.ON_FAILURE, TaskState.FAILED, NEXT)) == {}
    assert invariants.every_slot_runs_or_is_over(failed) != []
    done, again = job(Restart.NEVER, TaskState.COMPLETE), job(Restart.NEVER, TaskState.COMPLETE, NEXT)
    service = again.services["chat/db"]
    assert after(done, replace(again, services={"chat/db": replace(service, round=1)})) == {}
    scaled = replace(service, spec=replace(service.spec, replicas=0))
    told = Told()
    told.becomes(done)
    assert told.becomes(replace(done, services={"chat/db": scaled})) == told.becomes(again) == {}


def wrote(*operations: Operation, part: str = "loops", led: str = "server1", epoch: int = 5, sent: int = 5) -> Record:
    """What server1 wrote while `led` led, when it had decided in the term that began at revision `sent`."""
    now = Entry(LEADER, encode(Leader(led, 0.0)), epoch, epoch)
    return Record(9, "server1", part, operations, Entry(LEADER, now.value, epoch, sent), now)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (wrote(put(task()), led="server2"), "server1 wrote /tasks/t1 at revision 9 while server2 led"),
        (replace(wrote(put(task())), leader=None), "server1 wrote /tasks/t1 at revision 9 while nobody led"),
        (
            wrote(put(task()), sent=3),
            "server1 wrote /tasks/t1 at revision 9 as it had decided in the term before (epoch 3, now 5)",
        ),
    ],
)
def test_deposed_leader_that_writes_is_noticed(record: Record, words: str) -> None:
    assert Told().wrote(record) == {"OnlyTheLeaderWrites": [words]}


@pytest.mark.parametrize("elected", ["server1", "server2"])
def test_only_a_new_leader_owes_a_period_of_grace_also_over_a_store_that_has_come_back(elected: str) -> None:
    told, before = Told(), [put(item) for item in (Leader("server1", 1.0), *GOOD.nodes.values())]
    told.wrote(Record(9, "", RESTORED, before, None, None), 100.0)  # of the terms before nothing is known
    told.wrote(wrote(put(Leader(elected, 9.0)), led="server1"), 101.0)
    found = told.wrote(wrote(put(replace(GOOD.nodes["node1"], state=NodeState.UNREACHABLE)), led=elected), 102.0)
    words = "server2 called node1 unreachable when it had led for 1.0 s"
    assert found.get("ANewLeaderGrantsGrace", []) == ([words] if elected == "server2" else [])


def test_task_that_takes_traffic_before_it_was_well_is_noticed_and_one_that_has_just_ended_is_not() -> None:
    for state, promises in ((TaskState.STARTING, ["TasksRunBeforeTheyTakeTraffic"]), (TaskState.FAILED, [])):
        told = Told()
        told.becomes(replace(GOOD, tasks={"t1": task(state=state)}, endpoints={}))
        assert list(told.wrote(wrote(put(BACKENDS)))) == promises


@pytest.mark.parametrize(
    ("seconds", "traffic", "proxies"),
    [(1.0, GOOD.traffic, 2), (5.0, GOOD.traffic, 0), (1.0, {"node1": (), "node2": ()}, 0)],
)
def test_task_that_is_told_to_stop_while_a_proxy_sends_to_it_is_noticed_unless_it_has_drained_for_long(
    seconds: float, traffic: dict[str, tuple[Endpoints, ...]], proxies: int
) -> None:
    told, leaving = Told(), replace(task(), desired_state=DesiredState.DRAINING, desired_since=10.0)
    told.becomes(replace(GOOD, tasks={"t1": leaving}))
    told._parts.world = replace(told._parts.world, traffic=traffic)
    stopped = replace(leaving, desired_state=DesiredState.SHUTDOWN, desired_since=10.0 + seconds)
    found = told.becomes(replace(GOOD, tasks={"t1": stopped}), 10.0 + seconds)
    assert len(found.get("NobodySendsToWhatStops", [])) == proxies


def test_leader_and_whoever_serves_a_user_may_write() -> None:
    told = Told()
    assert told.wrote(wrote(put(task()))) == told.wrote(wrote(put(task()), part="api", led="server2")) == {}


@pytest.mark.parametrize(
    ("part", "before", "after", "words"),
    [
        ("loops", (), GOOD.services["chat/db"], "a loop of server1 wrote the wish /services/chat/db"),
        (
            "api",
            (task(),),
            replace(task(), desired_state=DesiredState.SHUTDOWN),
            "a report to server1 changed more than the status of t1",
        ),
        (
            "loops",
            (task(),),
            task(state=TaskState.FAILED),
            "a loop of server1 changed the status of t1, which has a node",
        ),
    ],
)
def test_writer_who_writes_another_ones_field_is_noticed(
    part: str, before: tuple[Task, ...], after: object, words: str
) -> None:
    told = Told()
    told.wrote(wrote(*map(put, before)))
    assert told.wrote(wrote(put(after), part=part))["EachWritesItsOwnFields"] == [words]


def test_loop_may_say_why_it_does_not_follow_a_wish_and_no_more() -> None:
    wish = GOOD.services["chat/db"]
    for after, wrong in (
        (replace(wish, held="no node fits"), set()),
        (replace(wish, round=1), {"EachWritesItsOwnFields"}),
    ):
        told = Told()
        assert told.wrote(wrote(put(wish), part="api")) == {}
        assert set(told.wrote(wrote(put(after)))) == wrong


def test_answer_that_tells_of_what_was_not_written_is_noticed() -> None:
    told, app = Told(), AppSpec({"db": ServiceSpec(SPEC)})
    history = told.history
    assert len(history.wishes.acknowledged("chat", app, since=0, revision=9)) == 1
    told.wrote(wrote(put(GOOD.services["chat/db"]), part="api"))
    assert history.wishes.acknowledged("chat", app, since=0, revision=9) == []
    assert len(history.wishes.acknowledged("chat", app, since=0, revision=8)) == 1
    told.wrote(replace(wrote(Delete("/services/chat/db"), part="api"), revision=12))
    assert history.wishes.acknowledged("chat", app, since=3, revision=12) == []
    assert len(history.wishes.acknowledged("chat", app, since=12, revision=14)) == 1


def test_revision_that_goes_back_is_noticed() -> None:
    revisions = History().revisions
    assert revisions.heard("net node1", 7) == revisions.heard("net node2", 3) == revisions.heard("net node1", 7) == []
    assert revisions.heard("net node1", 6) == ["net node1 heard of revision 6 after 7"]


def test_task_that_is_put_on_a_node_that_has_been_silent_is_noticed() -> None:
    silent = replace(GOOD, nodes={"node1": replace(GOOD.nodes["node1"], ready=False)}, tasks={})
    placed = replace(silent, tasks=GOOD.tasks)
    for seconds, wrong in ((5.0, {}), (15.0, {"OnlyReadyNodesGetTasks"})):
        told = Told()
        told.becomes(silent, 100.0)
        assert set(told.becomes(placed, 100.0 + seconds)) == set(wrong)


def test_address_that_is_given_again_too_soon_is_noticed_unless_the_agent_began_anew() -> None:
    without, again = replace(GOOD, boxes={"node1": ()}), replace(GOOD, boxes={"node1": (box("t2"),)})
    for seconds, anew, wrong in ((3.0, False, {"AddressesRest"}), (3.0, True, set()), (12.0, False, set())):
        history = History()
        history.look(GOOD, 0.0)
        history.look(without, 1.0)
        if anew:
            history.agent_started("node1")
        assert set(history.look(again, 1.0 + seconds)) == wrong


def test_slot_that_is_filled_again_and_again_is_noticed() -> None:
    for seconds, wrong in ((2.0, set()), (0.5, {"FailingSlotsAreNotHammered"})):
        told, tasks, seen = Told(), {}, set()
        for number in range(10):
            tasks[f"t{number}"] = replace(task(f"t{number}", TaskState.FAILED), attempt=number)
            seen |= set(told.becomes(replace(GOOD, tasks=dict(tasks)), number * seconds))
        assert seen == wrong


def test_container_that_is_stopped_for_no_reason_is_noticed_at_rest() -> None:
    stopped = replace(GOOD, boxes={"node1": (replace(box(state="exited"), told=True),)})
    assert History().look(stopped) == {}
    history = History()
    assert history.look(stopped, at_rest=True) == {
        "WhatShouldRunIsLeftAlone": ["t1 on node1 was stopped for no reason"]
    }
    unhealthy = replace(task(), status=replace(task().status, health="unhealthy"))
    assert history.look(replace(stopped, tasks={"t1": unhealthy}), at_rest=True) == {}
    assert history.look(stopped, at_rest=True) == {}


def test_container_that_was_stopped_for_a_store_that_has_been_restored_since_is_excused() -> None:
    stopped = replace(GOOD, boxes={"node1": (replace(box(state="exited"), told=True),)})
    history = History()
    history.left_alone.excuse(stopped)
    assert history.look(stopped, at_rest=True) == {}
    later = replace(box(state="exited"), id="c2", told=True)
    both = replace(stopped, boxes={"node1": (*stopped.boxes["node1"], later)})
    assert history.look(both, at_rest=True) == {"WhatShouldRunIsLeftAlone": ["t1 on node1 was stopped for no reason"]}
