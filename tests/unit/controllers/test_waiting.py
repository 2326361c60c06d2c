"""Who waits is looked at when something has changed that could help, and at no other time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from builders import NODE, T0, service, task

import miniorch.controllers.placement as placement
from miniorch.controllers.cache import Cache
from miniorch.controllers.placement import LOOK, LOOK_SECONDS, TELL_SECONDS, TELL_TASKS, Placer
from miniorch.model import Availability, DesiredState, Event, Leader, Node, Service, Task, TaskState, Volume
from miniorch.spec import Condition, Constraint, Mount, Placement, Resources, TaskSpec
from miniorch.state.records import transactions
from miniorch.state.store import Compare
from scheduler.filters import FILTERS

BIG = TaskSpec("web:1", reserved=Resources(8.0))
NEVER_BESIDE_ITSELF = Constraint("service", "!=", ("web",))


class Ring:
    """A placer with its queue, and a store that takes everything. Counts what was asked."""

    def __init__(self, *items: object) -> None:
        self.cache, self.placer = Cache(), Placer()
        self.now = T0
        self.queue: dict[str, None] = {}
        self.later: dict[str, float] = {}
        self.asked: Counter[str] = Counter()
        self.written = 0
        self.put(*items)

    def put(self, *items: object, erase: bool = False) -> Ring:
        for item in items:
            self.cache.write(item, self.cache.revision + 1, self._changed, erase=erase)
        return self

    def _changed(self, item: object, gone: bool) -> None:
        self.queue.update(dict.fromkeys(self.placer.keys(item, gone)))

    def settle(self, seconds: float = 0.0) -> Ring:
        """Everything that is due within so many seconds."""
        until = self.now + seconds
        while True:
            while self.queue:
                key = next(iter(self.queue))
                del self.queue[key]
                plan = self.placer.plan(key, self.cache, self.now)
                self.asked["plans"] += 1
                self.written += sum(isinstance(write.item, Task) for write in plan.writes)
                self.put(*(write.item for write in plan.writes))
                self.queue.update(dict.fromkeys(plan.others))
                if plan.again_in_seconds is not None:
                    self.later[key] = self.now + plan.again_in_seconds
                    if not plan.again_in_seconds:
                        self.queue[key] = None
            due = min(self.later.values(), default=until + 1.0)
            if due > until:
                self.now = until
                return self
            self.now = max(self.now, due)
            for key in [key for key, at in self.later.items() if at <= due]:
                del self.later[key]
                self.queue[key] = None

    def fresh(self) -> Ring:
        """Count from here."""
        self.asked.clear()
        self.written = 0
        return self

    def states(self) -> dict[str, str]:
        return {one.id: one.node or one.status.state.value for one in self.cache.tasks.values() if one.live}

    def message(self, ident: str) -> str:
        return self.cache.tasks[ident].status.message


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ring], None]:
    """Count questions about one node, and searches among all."""

    def count(ring: Ring) -> None:
        for name in ("refused_by", "place", "refusal"):
            right: Callable[..., Any] = getattr(placement, name)

            def counting(*args: Any, name: str = name, right: Callable[..., Any] = right, **more: Any) -> Any:
                ring.asked[name] += 1
                return right(*args, **more)

            monkeypatch.setattr(placement, name, counting)

    return count


def nodes(count: int, cpus: float = 1.0, first: int = 1) -> list[Node]:
    numbers = range(first, first + count)
    return [replace(NODE, name=f"n{number}", capacity=Resources(cpus, 2**30)) for number in numbers]


def waiting(of: Service, count: int = 1) -> Iterable[Task]:
    return [task(n, TaskState.NEW, of=of, node="", ident=f"{of.name}-{n}") for n in range(1, count + 1)]


def big(name: str = "web", **spec: Any) -> Service:
    made = service(name, **spec)
    return replace(made, spec=replace(made.spec, task=BIG))


@pytest.mark.parametrize("tasks", [20, 1000])
def test_a_storm_of_waiting_tasks_costs_the_same_however_many_tasks_there_are(
    tasks: int, counted: Callable[[Ring], None]
) -> None:
    """Five services wait, and nodes that help nobody join one after the other."""
    services = [big(f"s{number}") for number in range(5)]
    ring = Ring(*nodes(10), *services, *(one for each in services for one in waiting(each, tasks))).settle(10.0)
    assert set(ring.states().values()) == {"pending"}
    counted(ring.fresh())
    for node in nodes(20, first=11):
        ring.put(node).settle(0.01)
    assert ring.asked["refused_by"] == 20 * 5, "each service is asked about the new node, once"
    assert ring.asked["place"] == 0, "nobody looks for a place where there is none"
    assert ring.asked["plans"] <= 20 * 4
    assert ring.written <= 2 * TELL_TASKS, "and reasons are told at leisure"
    ring.settle(60.0)
    assert ring.asked["place"] == 0
    assert {one.status.message.partition(":")[0] for one in ring.cache.tasks.values()} <= {
        "no node fits (30 looked at)",
        "no node fits",
    }
    ring.fresh().settle(600.0)
    assert ring.asked == {}, "and then there is silence"


def test_a_node_that_helps_is_seen_at_once_and_only_who_fits_there_looks_for_a_place(
    counted: Callable[[Ring], None],
) -> None:
    small = replace(big("small"), spec=replace(big().spec, task=replace(BIG, reserved=Resources(3.0)), replicas=2))
    ring = Ring(*nodes(3), big("web"), small, *waiting(big("web"), 3), *waiting(small, 2)).settle(5.0)
    counted(ring.fresh())
    ring.put(*nodes(1, cpus=4.0, first=4)).settle()
    assert ring.states() == {
        **{f"web-{n}": "pending" for n in (1, 2, 3)},
        "small-1": "n4",
        "small-2": "pending",
    }
    assert ring.asked["place"] <= 2


def test_an_end_frees_a_place_for_the_next(counted: Callable[[Ring], None]) -> None:
    holder = task(1, of=big("old"), ident="old", node="n1")
    ring = Ring(*nodes(1, cpus=8.0), big("old"), big("web"), holder, *waiting(big("web"), 2)).settle(5.0)
    assert ring.states() == {"old": "n1", "web-1": "pending", "web-2": "pending"}
    counted(ring.fresh())
    ring.put(replace(holder, status=replace(holder.status, health="healthy"))).settle(5.0)
    assert ring.asked == {}, "news that free nothing wake nobody"
    ring.put(replace(holder, status=replace(holder.status, state=TaskState.FAILED))).settle(5.0)
    assert ring.states() == {"web-1": "n1", "web-2": "pending"}


def test_a_rule_that_begins_to_fail_later_is_waited_for_too() -> None:
    """n1 is drained when web comes, full when it is active again, and has room when the other task ends."""
    drained = replace(nodes(1, cpus=8.0)[0], availability=Availability.DRAIN)
    ring = Ring(drained, big("old"), big("web"), *waiting(big("web"))).settle(5.0)
    holder = task(1, of=big("old"), ident="old", node="n1")
    ring.put(holder).settle(5.0)
    ring.put(replace(drained, availability=Availability.ACTIVE)).settle(5.0)
    assert ring.states()["web-1"] == "pending"
    assert "wants 8 CPUs" in ring.message("web-1")
    ring.put(holder, erase=True).settle()
    assert ring.states() == {"web-1": "n1"}


def test_who_waits_for_a_service_is_looked_at_when_that_one_changes(counted: Callable[[Ring], None]) -> None:
    web, db = service(depends_on={"db": Condition.HEALTHY}), service("db")
    starting = task(1, TaskState.STARTING, of=db, ident="d")
    other = task(1, TaskState.STARTING, of=service("other"), ident="o")
    ring = Ring(*nodes(2), web, db, service("other"), starting, other, *waiting(web)).settle(5.0)
    counted(ring.fresh())
    ring.put(replace(other, status=replace(other.status, state=TaskState.RUNNING)), *nodes(1, first=3)).settle(5.0)
    assert ring.asked == {}
    ring.put(replace(starting, status=replace(starting.status, state=TaskState.RUNNING))).settle()
    assert ring.states()["web-1"] in ("n1", "n2", "n3")


def test_a_node_that_would_help_comes_while_a_dependency_is_away() -> None:
    web = big(depends_on={"db": Condition.HEALTHY})
    db = task(1, of=service("db"), ident="d")
    ring = Ring(*nodes(1), web, service("db"), db, *waiting(web)).settle(5.0)
    ring.put(replace(db, status=replace(db.status, state=TaskState.FAILED)))
    ring.put(*nodes(1, cpus=8.0, first=2)).settle(5.0)
    assert ring.states() == {"web-1": "pending"}
    ring.put(replace(db, id="e", created_at=T0)).settle()
    assert ring.states() == {"web-1": "n2", "e": "n1"}


def test_a_volume_that_was_given_up_lets_its_task_go() -> None:
    db = Service("shop", "db", replace(service().spec, task=TaskSpec("db", mounts=(Mount("data", "/data"),))), "v")
    volume = Volume("shop", "data", "n9")
    ring = Ring(*nodes(1), db, volume, *waiting(db)).settle(5.0)
    assert ring.states() == {"db-1": "pending"}
    ring.put(volume, erase=True).settle()
    assert ring.states() == {"db-1": "n1"}


def test_tasks_of_a_new_volume_follow_the_first_one() -> None:
    db = Service("shop", "db", replace(service().spec, task=TaskSpec("db", mounts=(Mount("data", "/data"),))), "v")
    ring = Ring(*nodes(3), db, *waiting(db, 3)).settle()
    assert set(ring.states().values()) == {ring.cache.volumes["shop/data"].node}


def test_anti_affinity_waits_for_a_node_and_for_a_label() -> None:
    web = service(placement=Placement((NEVER_BESIDE_ITSELF,)), replicas=3)
    zone = Placement((replace(NEVER_BESIDE_ITSELF, within="node.labels.zone"),))
    ring = Ring(*nodes(2), web, *waiting(web, 3)).settle(5.0)
    assert Counter(ring.states().values()) == {"n1": 1, "n2": 1, "pending": 1}
    ring.put(*nodes(1, first=3)).settle()
    assert Counter(ring.states().values()) == {"n1": 1, "n2": 1, "n3": 1}
    api = service("api", placement=Placement((replace(zone.constraints[0], values=("api",)),)))
    here, there = (replace(one, labels={"zone": "a"}) for one in nodes(2))
    ring = Ring(here, there, api, *waiting(api, 2)).settle(5.0)
    assert Counter(ring.states().values())["pending"] == 1
    ring.put(replace(there, labels={"zone": "b"})).settle()
    assert Counter(ring.states().values()) == {"n1": 1, "n2": 1}


def test_whom_a_change_anywhere_may_help_is_looked_at_once_for_all_changes_and_rests(
    counted: Callable[[Ring], None],
) -> None:
    lonely = Placement((Constraint("service", "==", ("nobody",)),))
    services = [service(f"s{number}", placement=lonely) for number in range(5)]
    ring = Ring(*nodes(10), *services, *(one for each in services for one in waiting(each))).settle(5.0)
    counted(ring.fresh())
    ring.put(*(replace(one, images=("new:1",)) for one in nodes(10))).settle()
    assert ring.asked["place"] == 5
    assert ring.asked["refused_by"] == 0
    plan = ring.placer.plan(f"{LOOK}shop/s1", ring.cache, ring.now)
    assert plan.rest_seconds == 5 * LOOK_SECONDS
    ring.put(service("nobody"), task(1, of=service("nobody"), node="n7", ident="n")).settle()
    assert ring.states() == {"n": "n7", **{f"s{number}-1": "n7" for number in range(5)}}


def test_what_lies_around_is_not_asked_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    web = big(placement=Placement((NEVER_BESIDE_ITSELF,)))
    ring = Ring(*nodes(1), web, *waiting(web)).settle(5.0)
    asked: list[str] = []
    (affinity,) = (rule for rule in FILTERS if rule.name == "affinity")
    monkeypatch.setattr(affinity, "passes", lambda request, view, board: not asked.append(view.node.name))
    ring.put(*nodes(1, first=2), *nodes(1, cpus=8.0, first=3))
    ring.placer.plan("n2", ring.cache, ring.now)
    assert asked == []
    ring.placer.plan("n3", ring.cache, ring.now)
    assert asked[0] == "n3"


def test_a_service_that_changes_its_rules_is_looked_at() -> None:
    ring = Ring(*nodes(2), big(), *waiting(big())).settle(5.0)
    ring.put(service()).settle()
    assert ring.states() == {"web-1": "n1"}


def test_a_new_term_looks_at_everything_once() -> None:
    ring = Ring(*nodes(1), big(), *waiting(big())).settle(5.0)
    assert list(ring.placer.keys(ring.cache.tasks["web-1"], False)) == []
    assert list(ring.placer.keys(Leader("s2", T0), False)) == []
    assert list(ring.placer.keys(ring.cache.tasks["web-1"], False)) == ["shop/web"]


def test_many_waiting_tasks_do_not_all_repeat_the_reasons() -> None:
    ring = Ring(*nodes(1), big(), *waiting(big(), TELL_TASKS + 20)).settle(5.0)
    said = Counter(one.status.message for one in ring.cache.tasks.values())
    assert said["no node fits: miniorch explain shop/web"] == 20
    assert max(said.values()) == TELL_TASKS
    assert {one.status.state for one in ring.cache.tasks.values()} == {TaskState.PENDING}


def test_reasons_are_brought_up_to_date_within_a_second() -> None:
    ring = Ring(*nodes(1), big(), *waiting(big())).settle(5.0)
    ring.put(replace(nodes(1)[0], availability=Availability.DRAIN)).settle(TELL_SECONDS)
    assert "draining" in ring.message("web-1")
    ring.put(*nodes(1, first=2)).settle(TELL_SECONDS)
    assert "2 looked at" in ring.message("web-1")


def test_who_is_to_stop_waits_for_nothing() -> None:
    ring = Ring(*nodes(1), big(), *waiting(big())).settle(5.0)
    ring.put(replace(ring.cache.tasks["web-1"], desired_state=DesiredState.SHUTDOWN))
    ring.put(*nodes(1, cpus=8.0, first=2)).settle()
    assert ring.states() == {"web-1": "pending"}


def test_every_decision_is_on_record_in_one_transaction_with_its_tasks() -> None:
    ring = Ring(*nodes(3), service(), *waiting(service(), 100)).settle()
    records = ring.cache.decisions_of("shop/web")
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    assert {placed.task: placed.node for record in records for placed in record.placed} == ring.states()
    plan = Placer().plan("shop/web", Cache.holding(*nodes(3), service(), *waiting(service(), 100)), T0)
    event = Event("1", T0, "task", "shop/web.1", "assigned")
    assert len(list(transactions(plan.writes, lambda write: event, Compare("/leaders/leader", 1)))) == 1
