"""Shrinking, with made-up bugs: which faults are left, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from miniorch.simulation.chaos import KINDS, Case, Fault
from miniorch.simulation.shrink import SEEDS, shrink

CASE = Case(17, nodes=5, seconds=300.0, tasks=100).with_faults(KINDS)


def never() -> bool:
    return False


def breaks_if(condition: Callable[[Case], bool]) -> Callable[[Case], Case | None]:
    return lambda case: case if condition(case) else None


def needs(*faults: Fault) -> Callable[[Case], Case | None]:
    """A bug that shows whenever faults of these kinds hit these targets."""
    return breaks_if(
        lambda case: all(any((one.kind, one.target) == (two.kind, two.target) for two in case.faults) for one in faults)
    )


def test_what_needs_no_fault_is_left_without_any_on_one_node_for_a_minute() -> None:
    assert shrink(CASE, lambda case: case, never) == Case(17, nodes=1, servers=1, seconds=60.0)


@pytest.mark.parametrize("places", [(0,), (3, 4), (5, 20, 40), (1, 2, 30, 50)])
def test_exactly_the_faults_that_matter_are_left(places: tuple[int, ...]) -> None:
    wanted = [CASE.faults[place] for place in places]
    left = shrink(CASE, needs(*wanted), never)
    assert {(one.kind, one.target) for one in left.faults} == {(one.kind, one.target) for one in wanted}
    assert len(left.faults) <= len(wanted)
    assert left.nodes < CASE.nodes or any("node5" in one.target for one in wanted)


def test_faults_of_a_node_that_is_taken_away_go_with_it() -> None:
    case = replace(CASE, faults=(Fault(10.0, "kill", "node1"), Fault(11.0, "crash", "agent node4", 2.0)))
    left = shrink(case, needs(case.faults[0]), never)
    assert left.nodes == left.servers == 1
    assert [one.kind for one in left.faults] == ["kill"]


def test_faults_become_shorter_and_earlier_while_it_still_breaks() -> None:
    case = Case(1, nodes=1, servers=1, faults=(Fault(160.0, "power", "node1", 16.0),))
    (left,) = shrink(case, breaks_if(lambda one: any(fault.seconds > 3 for fault in one.faults)), never).faults
    assert 3 < left.seconds <= 6
    assert left.at < 20


def test_what_is_best_when_time_is_up_is_the_answer() -> None:
    tried: list[Case] = []

    def attempt(case: Case) -> Case | None:
        tried.append(case)
        return case if len(case.faults) >= 3 else None

    assert shrink(CASE, attempt, lambda: True) == CASE
    assert not tried
    left = shrink(CASE, attempt, lambda: len(tried) >= 10)
    assert 3 <= len(left.faults) < len(CASE.faults)
    assert len(tried) == 10


def test_a_race_that_another_seed_loses_is_enough() -> None:
    """Each run rolls its dice anew: what is to blame may break nothing with the first seed, and do so with the next."""
    wanted = needs(CASE.faults[40])
    left = shrink(CASE, lambda case: wanted(case) if case.seed % SEEDS == 0 or case == CASE else None, never)
    assert [fault.kind for fault in left.faults] == [CASE.faults[40].kind]


def test_what_comes_after_the_broken_promise_is_cut_at_once() -> None:
    """`attempt` answers with what of a case was enough."""
    faults = tuple(Fault(20.0 + number, "kill", "node1") for number in range(40))

    def attempt(case: Case) -> Case | None:
        early = [fault for fault in case.faults if fault.at < 30.0]
        return replace(case, faults=tuple(early)) if len(early) == 10 else None

    assert len(shrink(Case(1, faults=faults), attempt, never).faults) == 10
