"""From forty faults to the three that matter.

The problem: a run that fails with forty faults in it tells nobody why. The idea, delta debugging: leave out half of the
faults, then quarters, then single ones, and keep whatever still breaks the same promise; then make what is left
shorter, take nodes away, and end the run sooner. Because faults are data, drawn before the run, every attempt is just
another `Case`.

Who does this for real: Zeller's ddmin, Hypothesis, QuickCheck. Where we differ: the time is bounded, and the best case
found until then is the answer. Next file: `story.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from miniorch.simulation.chaos import Case

Breaks = Callable[[Case], bool]
SHORTEST_SECONDS = 0.5  # of a fault; shorter is not simpler
EARLIEST_SECONDS = 20.0  # the app is up by then


def shrink(case: Case, breaks: Breaks, out_of_time: Callable[[], bool]) -> Case:
    """The smallest case found that still `breaks`. `case` itself must; it is the answer if there is no time."""
    smaller = True
    while smaller and not out_of_time():
        smaller = False
        for candidates in (_fewer_faults, _fewer_tasks_and_nodes, _shorter):
            found = _while_it_breaks(case, candidates, breaks, out_of_time)
            smaller = smaller or found != case
            case = found
    return case


def _while_it_breaks(
    case: Case, candidates: Callable[[Case], Iterator[Case]], breaks: Breaks, out_of_time: Callable[[], bool]
) -> Case:
    """Take the first candidate that breaks, and ask for the candidates of that one, until none does."""
    tried: set[Case] = set()
    while True:
        for candidate in candidates(case):
            if out_of_time():
                return case
            if candidate not in tried and breaks(candidate):
                case = candidate
                break
            tried.add(candidate)
        else:
            return case


def _fewer_faults(case: Case) -> Iterator[Case]:
    """Without a part: none at all, halves, quarters, ... single ones."""
    count = len(case.faults)
    size = count
    while size:
        for first in range(0, count, size):
            yield replace(case, faults=case.faults[:first] + case.faults[first + size :])
        size //= 2


def _fewer_tasks_and_nodes(case: Case) -> Iterator[Case]:
    if case.tasks:
        yield replace(case, tasks=case.tasks // 10)
    if case.servers > 1:
        yield _possible(replace(case, servers=1))
    for nodes in (1, case.nodes // 2, case.nodes - 1):
        if 0 < nodes < case.nodes:
            yield _possible(replace(case, nodes=nodes))


def _shorter(case: Case) -> Iterator[Case]:
    """Each fault half as long, and half as late; then the whole run."""
    for number, fault in enumerate(case.faults):
        for changed in (
            replace(fault, seconds=round(fault.seconds / 2, 2)) if fault.seconds >= 2 * SHORTEST_SECONDS else fault,
            replace(fault, at=round(fault.at / 2, 2)) if fault.at >= EARLIEST_SECONDS else fault,
        ):
            if changed != fault:
                yield replace(case, faults=(*case.faults[:number], changed, *case.faults[number + 1 :]))
    last = max((fault.at + fault.seconds for fault in case.faults), default=0.0)
    for seconds in (60.0, case.seconds // 2, case.seconds - 30.0):
        shorter = replace(case, seconds=seconds)
        if 60.0 <= seconds < case.seconds and last < shorter.trouble_seconds:
            yield shorter


def _possible(case: Case) -> Case:
    """Without the faults of machines that are not there."""
    machines = {*case.scene().nodes, *case.scene().servers}
    faults = [
        fault
        for fault in case.faults
        if all(word in machines for word in fault.target.split() if word.startswith(("node", "server")))
    ]
    return replace(case, faults=tuple(faults))
