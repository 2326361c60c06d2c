"""From forty faults to the three that matter.

The problem: a run that fails with forty faults in it tells nobody why. The idea, delta debugging: leave out half of the
faults, then quarters, then single ones, and keep whatever still breaks the same promise; then make what is left
shorter, take machines away, and end the run sooner. Because faults are data, drawn before the run, every attempt is
just another `Case`.

A race is lost in one run and won in the next, so who leaves out what is not to blame may see nothing break. That is why
the last few faults, which are the likeliest, are tried first and alone, and large steps with several seeds.

Who does this for real: Zeller's ddmin, Hypothesis, QuickCheck. Where we differ: the time is bounded, and the best case
found until then is the answer. Next file: `story.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from miniorch.simulation.chaos import TROUBLE_SHARE, Case, machines_in

Attempt = Callable[[Case], Case | None]  # what of a case is enough to break the promise, or None
SHORTEST_SECONDS = 0.5  # of a fault; shorter is not simpler
SHORTEST_RUN_SECONDS = 60.0
EARLIEST_SECONDS = 20.0  # the app is up by then
SEEDS = 3  # with which a large step is tried


def shrink(case: Case, attempt: Attempt, out_of_time: Callable[[], bool]) -> Case:
    """The smallest case found that still breaks. `case` itself must; it is the answer if there is no time."""
    best = case

    def breaks(candidate: Case, seeds: int) -> bool:
        nonlocal best
        for more in range(seeds):
            if out_of_time():
                raise _TimeIsUp
            if (found := attempt(replace(candidate, seed=candidate.seed + more))) is not None:
                best = found
                return True
        return False

    def fewer_faults(seeds: int) -> None:
        """Without all, halves, ... single ones; later ones first, for what was before them stays as it was."""
        size = whole = len(best.faults)
        while size:
            end = len(best.faults)
            while end > 0:
                begin = max(0, end - size)
                fewer = replace(best, faults=best.faults[:begin] + best.faults[end:])
                breaks(fewer, SEEDS if size * 4 >= whole else seeds)
                end = min(begin, len(best.faults))
            size //= 2

    with suppress(_TimeIsUp):
        any(breaks(one, SEEDS) for one in _last_faults(best))
        for seeds in (1, SEEDS):
            before = None
            while best != before:
                before = best
                while any(breaks(one, seeds) for one in _fewer_tasks_and_machines(best)):
                    pass
                fewer_faults(seeds)
                while any(breaks(one, seeds) for one in _shorter(best)):
                    pass
    return best


class _TimeIsUp(Exception):
    pass


def _last_faults(case: Case) -> Iterator[Case]:
    """None, the last, the last two, four, eight, ... soon after the beginning."""
    kept = 0
    while kept < len(case.faults):
        last = case.faults[len(case.faults) - kept :]
        sooner = max(0.0, last[0].at - EARLIEST_SECONDS) if last else case.trouble_seconds
        faults = tuple(replace(fault, at=round(fault.at - sooner, 2)) for fault in last)
        seconds = max(SHORTEST_RUN_SECONDS, round((case.trouble_seconds - sooner) / TROUBLE_SHARE) + 1.0)
        yield replace(case, faults=faults, seconds=min(case.seconds, seconds))
        kept = 2 * kept or 1


def _fewer_tasks_and_machines(case: Case) -> Iterator[Case]:
    if case.tasks:
        yield replace(case, tasks=case.tasks // 10)
    if case.servers > 1:
        yield _possible(replace(case, servers=1))
    for nodes in (1, case.nodes // 2, case.nodes - 1):
        if 0 < nodes < case.nodes:
            yield _possible(replace(case, nodes=nodes))


def _shorter(case: Case) -> Iterator[Case]:
    """The whole run; then each fault half as long, and half as late."""
    last = max((fault.at + fault.seconds for fault in case.faults), default=0.0)
    for seconds in (SHORTEST_RUN_SECONDS, case.seconds // 2, case.seconds - 30.0):
        shorter = replace(case, seconds=seconds)
        if SHORTEST_RUN_SECONDS <= seconds < case.seconds and last < shorter.trouble_seconds:
            yield shorter
    for number, fault in enumerate(case.faults):
        for changed in (
            replace(fault, seconds=round(fault.seconds / 2, 2)) if fault.seconds >= 2 * SHORTEST_SECONDS else fault,
            replace(fault, at=round(fault.at / 2, 2)) if fault.at >= EARLIEST_SECONDS else fault,
        ):
            if changed != fault:
                yield replace(case, faults=(*case.faults[:number], changed, *case.faults[number + 1 :]))


def _possible(case: Case) -> Case:
    """Without the faults of machines that are not there."""
    there = case.machines
    return replace(case, faults=tuple(one for one in case.faults if there.issuperset(machines_in(one.target))))
