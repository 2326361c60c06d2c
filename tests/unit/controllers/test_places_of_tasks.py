"""Where tasks run matters after they were placed, too: failures there, changed rules, which replicas go."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from builders import NODE, T0, StoppedClock, outdated, plan_service, said, service, task

from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.placement import BETWEEN_LOOK_SECONDS, BETWEEN_SECONDS, Placer
from miniorch.controllers.rehearsal import Rehearsal
from miniorch.controllers.services import HELD_REST_SECONDS, HELD_SECONDS, SOON_SECONDS, Services
from miniorch.model import Availability, DesiredState, Failure, Node, Service, Task, TaskState, Volume
from miniorch.slots import FAILURES_KEPT, FAILURES_SECONDS, digest_of, failures_until, recent_failures, slots_of
from miniorch.spec import (
    Condition,
    Constraint,
    ContainerOptions,
    Mount,
    Placement,
    Resources,
    Restart,
    RestartPolicy,
    TaskSpec,
)

ON_SSD = Placement((Constraint("node.labels.disk", "==", ("ssd",)),))
ONE_PER_NODE = Placement(max_per_node=1)


def nodes(count: int, **fields: Any) -> list[Node]:
    return [replace(NODE, name=f"n{number}", **fields) for number in range(1, count + 1)]


def settled(cache: Cache, *edits: object) -> list[Task]:
    """What runs in the end, when the controllers act and all agents oblige."""
    rehearsal = Rehearsal(cache, edits, T0)
    asyncio.run(rehearsal.settle())
    return sorted((one for one in rehearsal.cache.tasks.values() if one.live), key=lambda one: one.slot)


# Failures


def failed(slot: int, node: str = "n1", ago: float = 1.0, **fields: Any) -> Task:
    return replace(task(slot, TaskState.FAILED, node=node, since=ago), **fields)


def test_a_successor_knows_where_its_slot_has_failed_lately() -> None:
    earlier = tuple(Failure(f"n{number}", T0 - 100.0) for number in range(FAILURES_KEPT))
    writes = plan_service(service(), failed(1, "n9", failures=earlier)).writes
    assert [write.item.failures for write in writes] == [(*earlier[1:], Failure("n9", T0 - 1.0))]


def test_what_was_told_to_stop_or_had_another_spec_counts_for_nothing() -> None:
    assert failures_until(replace(failed(1), desired_state=DesiredState.SHUTDOWN)) == ()
    old = failed(1, failures=(Failure("n1", T0),), spec=TaskSpec("web:0"))
    assert [write.item.failures for write in plan_service(service(), old).writes if write.modified == 0] == [()]
    assert recent_failures(service(), [old], T0) == {}


def test_failures_of_all_slots_are_counted_by_node_until_they_are_old() -> None:
    tasks = [
        failed(1, "n1", failures=(Failure("n2", T0 - 10.0), Failure("n1", T0 - FAILURES_SECONDS))),
        replace(task(1, ident="successor", age=0.5), failures=(Failure("n2", T0 - 10.0), Failure("n1", T0 - 1.0))),
        failed(2, "n1"),
    ]
    assert recent_failures(service(), tasks, T0) == {"n1": 2, "n2": 1}


def test_a_node_where_a_service_has_failed_five_times_comes_last() -> None:
    waiting = replace(task(1, TaskState.NEW, node=""), failures=tuple(Failure("n1", T0 - n) for n in range(1, 6)))
    busy = [task(n, of=service("other"), node="n2", ident=f"o{n}") for n in range(3)]
    cache = Cache.holding(service(), service("other"), *nodes(2), *busy, waiting)
    assert [write.item.node for write in Placer().plan("shop/web", cache, T0).writes[1:]] == ["n2"]
    later = Placer().plan("shop/web", cache, T0 + FAILURES_SECONDS)
    assert [write.item.node for write in later.writes[1:]] == ["n1"]
    alone = Cache.holding(service(), nodes(1)[0], waiting)
    assert [write.item.node for write in Placer().plan("shop/web", alone, T0).writes[1:]] == ["n1"], "last is not never"


# Changed rules


def ruled(rules: Placement, replicas: int = 2) -> Service:
    return service(placement=rules, replicas=replicas)


def test_rules_that_have_changed_move_what_may_not_stay_one_after_the_other() -> None:
    here, there = nodes(2)
    there = replace(there, labels={"disk": "ssd"})
    first, second, good = task(1), task(2), task(3, node="n2")
    writes = plan_service(ruled(ON_SSD, 3), here, there, first, second, good).writes
    assert said(writes) == ["t1: desired draining, running", "t3: desired running, running"]
    assert writes[1].item.placed_by == digest_of(ON_SSD), "what may stay is asked once"
    cache = Cache.holding(ruled(ON_SSD, 3), here, there, first, second, good)
    assert [one.node for one in settled(cache)] == ["n2", "n2", "n2"]
    assert settled(cache)[2].id == "t3"


def test_labels_that_have_changed_move_nothing() -> None:
    allowed = [replace(task(n), placed_by=digest_of(ON_SSD)) for n in (1, 2)]
    assert plan_service(ruled(ON_SSD), *nodes(2), *allowed).writes == []


def test_a_rule_about_the_service_itself_is_asked_without_the_task() -> None:
    cache = Cache.holding(ruled(ONE_PER_NODE), *nodes(2), task(1), task(2))
    after = settled(cache)
    assert sorted(one.node for one in after) == ["n1", "n2"]
    assert len({one.id for one in after} & {"t1", "t2"}) == 1, "one had to go, the other might stay"


def test_wishes_and_strategies_move_nobody() -> None:
    wished = Placement((replace(ON_SSD.constraints[0], weight=5),), spread=("node.labels.zone",), strategy="binpack")
    assert digest_of(wished) == ""
    assert plan_service(ruled(wished), *nodes(2), task(1), task(2)).writes == []


def made_from(spec: TaskSpec, **fields: Any) -> Service:
    return replace(service(), spec=replace(service(**fields).spec, task=spec))


def test_data_and_jobs_stay_where_they_are() -> None:
    data = made_from(TaskSpec("d", mounts=(Mount("v", "/v"),)), placement=ON_SSD)
    ssd = [replace(one, labels={"disk": "ssd"} if one.name == "n2" else {}) for one in nodes(2)]
    (write,) = plan_service(data, *ssd, Volume("shop", "v", "n1"), task(1, of=data)).writes
    assert "n1: wants node.labels.disk == ssd, has no label disk; n2: volume shop/v lies on n1" in write.item.held
    job = service(placement=ON_SSD, restart=RestartPolicy(Restart.NEVER))
    assert said(plan_service(job, NODE, task(1)).writes) == ["t1: desired running, running"]


# An update whose tasks would find no place

MISTYPED = Placement((Constraint("node.labels.dsik", "==", ("ssd",)),))
NOWHERE = "no node fits (2 looked at): n1, n2: wants node.labels.dsik == ssd, has no label dsik"


def held(one: Service, why: str = NOWHERE) -> Service:
    return replace(one, held=why)


def test_an_update_whose_tasks_fit_nowhere_stops_nothing_and_says_why() -> None:
    for changed in (ruled(MISTYPED, 3), service(image="web:2", placement=MISTYPED, replicas=3)):
        (write,) = plan_service(changed, *nodes(2), task(1), task(2), task(3)).writes
        assert write.item == held(changed)
        assert write.why == f"is not changed further, and what runs goes on: {NOWHERE}"
        again = plan_service(held(changed), *nodes(2), task(1), task(2), task(3))
        assert (again.writes, again.again_in_seconds) == ([], HELD_SECONDS)


def test_the_reason_stays_true_while_another_replica_is_down() -> None:
    lost = task(1, TaskState.SHUTDOWN, desired=DesiredState.SHUTDOWN, ident="lost", age=20.0)
    waits = task(1, TaskState.PENDING, node="", of=ruled(MISTYPED))
    writes = plan_service(held(ruled(MISTYPED, 2), "old"), *nodes(2), lost, waits, task(2)).writes
    assert [write.item.held for write in writes if isinstance(write.item, Service)] == [NOWHERE]


def test_scaling_down_does_not_repeat_what_was_refused() -> None:
    writes = plan_service(held(ruled(MISTYPED, 2)), *nodes(2), task(1), task(2), task(3)).writes
    assert said(writes) == ["t3: desired draining, running"]


def test_what_is_mended_goes_on_or_ends() -> None:
    first, second = nodes(2)
    labelled = replace(second, labels={"dsik": "ssd"})
    after = settled(Cache.holding(held(ruled(MISTYPED)), first, second, task(1), task(2)), labelled)
    assert [one.node for one in after] == ["n2", "n2"]
    writes = plan_service(held(ruled(Placement())), first, second, task(1), task(2)).writes
    assert [(write.item, write.why) for write in writes] == [(ruled(Placement()), "")]


def test_a_node_that_changes_has_updates_looked_at_that_found_no_place() -> None:
    cache = Cache.holding(held(ruled(MISTYPED)), *nodes(2), task(1))
    plan = Services(Liveness(StoppedClock()), random.Random(1)).plan("n2", cache, T0)
    assert plan.others == ["shop/web"]


def test_who_asks_all_nodes_rests_the_longer_the_more_there_are() -> None:
    plan = plan_service(held(ruled(MISTYPED)), *nodes(1000), task(1), task(2))
    assert plan.rest_seconds == 1000 * HELD_REST_SECONDS
    assert plan_service(ruled(Placement()), *nodes(1000), task(1), task(2)).rest_seconds < 0.01


def test_a_place_that_the_old_task_leaves_is_a_place() -> None:
    whole = TaskSpec("web:1", reserved=Resources(2.0))
    old = replace(task(1), spec=replace(whole, image="web:0"))
    assert said(plan_service(made_from(whole), NODE, old).writes) == ["t1: desired draining, running"]
    data = TaskSpec("d:1", mounts=(Mount("v", "/v"),), reserved=Resources(2.0))
    lies = Volume("shop", "v", "n1")
    old = replace(task(1), spec=replace(data, image="d:0"))
    assert said(plan_service(made_from(data), *nodes(2), lies, old).writes) == ["t1: desired draining, running"]
    zones = [replace(one, labels={"zone": "a", **({"new": "1"} if one.name == "n2" else {})}) for one in nodes(2)]
    apart = Constraint("service", "!=", ("web",), "node.labels.zone")
    moved = ruled(Placement((apart, Constraint("node.labels.new", "exists"))), 1)
    assert said(plan_service(moved, *zones, task(1)).writes) == ["t1: desired draining, running"]


def test_where_one_slot_cannot_go_on_another_may() -> None:
    big = TaskSpec("web:1", reserved=Resources(1.5))
    tasks = [replace(task(n, node=f"n{n}"), spec=TaskSpec("web:0", reserved=Resources(1.0))) for n in (1, 2)]
    full = replace(task(1, of=service("db"), ident="db"), spec=TaskSpec("db", reserved=Resources(1.0)))
    writes = plan_service(made_from(big, replicas=2), *nodes(2), full, *tasks).writes
    assert said(writes) == ["t2: desired draining, running"]


def test_what_its_successor_depends_on_must_be_there_before_a_task_is_stopped() -> None:
    job, old = service("setup", restart=RestartPolicy(Restart.NEVER)), outdated(task(1))
    web = service(depends_on={"setup": Condition.COMPLETED})
    works = task(1, of=job, ident="s")
    plan = plan_service(web, job, old, works)
    assert (plan.writes, plan.again_in_seconds) == ([], SOON_SECONDS)
    done = replace(works, status=replace(works.status, state=TaskState.COMPLETE))
    assert said(plan_service(web, job, old, done).writes) == ["t1: desired draining, running"]
    broken = replace(works, status=replace(works.status, state=TaskState.FAILED, message="exit code 3"))
    (write,) = plan_service(web, job, old, broken).writes
    assert write.item.held.startswith("waits for setup, which failed (exit code 3) and is not tried again: miniorch")
    assert [one.id for one in settled(Cache.holding(web, job, NODE, old, broken)) if one.service == "web"] == ["t1"]


def sized(name: str, cpus: float, **spec: Any) -> Service:
    return replace(
        service(name), spec=replace(service(name, **spec).spec, task=TaskSpec(name, reserved=Resources(cpus)))
    )


def test_room_that_an_update_has_left_is_its_successors_and_not_of_those_who_wait_for_room() -> None:
    web, other = sized("web", 1.5), sized("other", 1.5)
    ended = outdated(task(1, TaskState.SHUTDOWN, desired=DesiredState.SHUTDOWN))
    waits = task(1, TaskState.PENDING, of=other, node="", ident="o1")
    cache = Cache.holding(web, other, NODE, ended, waits)
    plan = Placer().plan("shop/other", cache, T0)
    assert (plan.writes, plan.again_in_seconds) == ((), BETWEEN_LOOK_SECONDS)
    assert Placer().plan("shop/other", cache, T0 + BETWEEN_SECONDS).writes, "and not for ever"
    refused = replace(task(1, TaskState.PENDING, of=web, node="", ident="t2"), created_at=T0)
    cache = Cache.holding(web, other, NODE, ended, waits, refused)
    assert Placer().plan("shop/other", cache, T0).writes, "whose successor was asked and does not fit has no claim"
    left = task(1, TaskState.SHUTDOWN, of=other, desired=DesiredState.SHUTDOWN, ident="o0")
    both = Placer().plan("shop/other", Cache.holding(web, other, NODE, ended, waits, left), T0)
    assert both.writes, "two that are replaced do not wait for each other"
    old = replace(task(1), spec=TaskSpec("web:0", reserved=Resources(1.5)))
    after = settled(Cache.holding(web, other, NODE, old, waits))
    assert sorted((one.service, one.node) for one in after) == [("other", ""), ("web", "n1")]


def test_of_two_updates_that_see_the_same_room_one_is_held() -> None:
    one, two = sized("one", 1.4), sized("two", 1.4)
    small = TaskSpec("x:0", reserved=Resources(0.9))
    tasks = [
        replace(task(1, of=of, node=f"n{n}", ident=of.name), spec=small) for n, of in enumerate((one, two), start=1)
    ]
    full = [sized(f"full{n}", cpus) for n, cpus in enumerate((1.0, 1.0, 0.5), start=1)]
    there = [task(1, of=of, node=f"n{n}", ident=of.name) for n, of in enumerate(full, start=1)]
    after = settled(Cache.holding(one, two, *full, *nodes(3), *tasks, *there))
    assert sorted((one.service, one.node) for one in after if one not in there) == [("one", "n3"), ("two", "n2")]


def test_new_replicas_that_wait_for_room_do_not_keep_an_update_from_making_it() -> None:
    web = sized("web", 0.9, replicas=6)
    old = [replace(task(n, node=f"n{n}"), spec=TaskSpec("web:0", reserved=Resources(1.8))) for n in (1, 2, 3)]
    after = settled(Cache.holding(web, *nodes(3), *old))
    assert Counter(one.node for one in after) == {"n1": 2, "n2": 2, "n3": 2}
    assert all(one.spec == web.spec.task for one in after)


# Which replicas go


def test_scaling_down_evens_the_spread() -> None:
    five = [task(n, node=f"n{1 + n % 2}") for n in (1, 2, 3, 4)] + [task(5, node="n1")]
    left = settled(Cache.holding(service(replicas=2), *nodes(2), *five))
    assert Counter(one.node for one in left) == {"n1": 1, "n2": 1}
    assert {one.id for one in left} <= {one.id for one in five}, "and starts nothing"


def test_who_does_not_run_goes_first_and_a_free_number_is_given_again() -> None:
    tasks = [task(1, TaskState.STARTING), task(2), task(3)]
    assert slots_of(service(replicas=2), tasks) == [2, 3]
    assert slots_of(service(replicas=3), tasks[1:]) == [1, 2, 3]
    leaving = task(4, desired=DesiredState.REMOVED)
    assert slots_of(service(replicas=3), [*tasks, leaving]) == [1, 2, 3]
    assert slots_of(service(replicas=4), [*tasks, leaving]) == [1, 2, 3, 4], "a number is free when its task has ended"


def test_a_number_that_means_something_stays() -> None:
    told = made_from(TaskSpec("w", environment={"ID": "{{.Task.Slot}}"}))
    named = made_from(TaskSpec("w", options=ContainerOptions(hostname="n{{.Task.Slot}}")))
    job = service(restart=RestartPolicy(Restart.ON_FAILURE))
    for one in (told, named, job):
        assert slots_of(one, [task(1, TaskState.STARTING, of=one), task(2, of=one)]) == [1]


def test_what_is_on_a_node_to_be_emptied_goes_first() -> None:
    first, second = nodes(2)
    drained = replace(first, availability=Availability.DRAIN)
    cache = Cache.holding(service(replicas=1), drained, second, task(1), task(2, node="n2"))
    assert [one.id for one in settled(cache)] == ["t2"]
