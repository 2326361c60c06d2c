"""One run from beginning to end: `miniorch simulate`, and the tests, which call the same functions.

The problem: a simulation that only its authors can start, and whose failure is a page of log, convinces nobody. The
idea: `live` turns a `Case` into an `Outcome`, and `report` an outcome into what a person needs: what was broken, the
last events, the one command that shows it again, and the few faults that are left when all others are taken away.

Next file: `tests/simulation/track_record/`.
"""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from miniorch.codec import to_plain
from miniorch.simulation.chaos import TROUBLE_SHARE, Case
from miniorch.simulation.day import Day
from miniorch.simulation.invariants import Picture
from miniorch.simulation.loop import SimulationError, run
from miniorch.simulation.shrink import SHORTEST_RUN_SECONDS, shrink
from miniorch.simulation.story import Story
from miniorch.simulation.world import PromiseBroken, World

UNTIL_SECONDS = 100_000.0  # virtual ones, after which a run that does not end is ended
TWICE_EVERY = 100

Watch = Callable[[float, Story], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `promises` are the names of those that were broken, `violations` the sentences about it.

    `interrupted`: somebody did not want to wait for the end (Ctrl-C).
    """

    case: Case
    hash: str
    virtual_seconds: float
    events: int
    promises: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    story: tuple[str, ...] = ()
    interrupted: bool = False


def live(case: Case, watch: Watch = lambda at, story: None) -> Outcome:
    """Run a case. `watch` sees the story grow and cannot change it."""
    story = Story(case)
    worlds: list[World] = []

    async def whole() -> None:
        world = World(case.seed, case.nodes, servers=case.servers)
        worlds.append(world)

        def look(at: float, picture: Picture) -> None:
            story.look(at, picture)
            watch(at, story)

        world.looking_on = look
        await world.begin()
        await Day(world, case.faults, case.trouble_seconds, case.quiet_seconds, case.tasks).live()
        await world.end()

    promises: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()
    at: float | None = None
    interrupted = False
    try:
        run(whole(), seed=case.seed, until=UNTIL_SECONDS)
    except PromiseBroken as error:
        promises, violations, at = error.promises, error.sentences, error.at
    except (SimulationError, TimeoutError) as error:  # a deadlock, an exception that nobody received, no end
        promises, violations = (type(error).__name__,), (str(error) or "it did not end in time",)
    except KeyboardInterrupt:
        if not worlds:
            raise
        at, interrupted = story.at, True
    world = worlds[0]
    return Outcome(
        case,
        world.digest,
        world.clock.monotonic() if at is None else at,
        world.events,
        promises,
        violations,
        tuple(world.log[-50:]),
        tuple(story.tell()),
        interrupted,
    )


def smallest(outcome: Outcome, out_of_time: Callable[[], bool]) -> Case:
    """The smallest case found that breaks one of the promises that `outcome` broke."""

    over = False
    at_rest = outcome.virtual_seconds >= outcome.case.trouble_seconds

    def attempt(case: Case) -> Case | None:
        nonlocal over
        vain = False

        def hurry(at: float, story: Story) -> None:
            nonlocal vain
            vain = not at_rest and at > case.trouble_seconds  # what broke in the storm need not be waited for in a calm
            if vain or out_of_time():
                raise KeyboardInterrupt

        tried = live(case, hurry)
        over = over or (tried.interrupted and not vain)  # by Ctrl-C, or for want of time: what was found is the answer
        return until_it_broke(tried) if {*tried.promises} & {*outcome.promises} else None

    return shrink(until_it_broke(outcome), attempt, lambda: over or out_of_time())


def until_it_broke(outcome: Outcome) -> Case:
    """The same history up to its end: what had not happened yet is not to blame."""
    case, at = outcome.case, outcome.virtual_seconds
    if at >= case.trouble_seconds:
        return case
    early = tuple(fault for fault in case.faults if fault.at <= at)
    return replace(case, faults=early, seconds=min(case.seconds, max(SHORTEST_RUN_SECONDS, at // TROUBLE_SHARE + 2)))


def command(case: Case, faults: str = "all") -> str:
    """What shows a drawn case again."""
    words = f"miniorch simulate --seed {case.seed} --nodes {case.nodes} --servers {case.servers}"
    words += f" --seconds {case.seconds:g}" + (f" --tasks {case.tasks}" if case.tasks else "")
    return words if faults == "all" else f"{words} --faults {faults}"


def failure(outcome: Outcome, small: Case, again: str) -> str:
    """All that is to be said of a run that broke a promise."""
    case = outcome.case
    return "\n".join(
        [
            "the last events before:",
            *(f"  {line}" for line in outcome.log),
            f"broken at {outcome.virtual_seconds:.3f} s of seed {case.seed}: {'; '.join(outcome.violations)}",
            f"promise: {', '.join(outcome.promises)}",
            f"again: {again}",
            f"of {len(case.faults)} faults on {case.nodes} nodes, {len(small.faults)} on {small.nodes} are enough:",
            *(f"  {fault.describe()}" for fault in small.faults),
            f"as a case: {json.dumps(to_plain(small))}",
        ]
    )


def result(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The same for a program: one run, or many runs together."""
    last = outcomes[-1]
    hashes = [one.hash for one in outcomes]
    return {
        "seed": last.case.seed,
        "runs": len(outcomes),
        "nodes": last.case.nodes,
        "hash": last.hash if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "promises": list(last.promises),
        "violations": list(last.violations),
        "virtual_seconds": round(sum(one.virtual_seconds for one in outcomes), 3),
        "events": sum(one.events for one in outcomes),
        "story": list(last.story),
        "interrupted": last.interrupted,
    }


def many(cases: Sequence[Case], jobs: int, watch: Watch) -> Iterator[Outcome]:
    """The outcomes of cases in their order, `jobs` at a time. `watch` sees a single one."""
    if len(cases) == 1:
        yield live(cases[0], watch)
    elif jobs == 1:
        yield from map(live_well, cases)
    else:
        with multiprocessing.Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:  # Ctrl-C is for us
            yield from pool.imap(live_well, cases)


def live_well(case: Case) -> Outcome:
    """Run a case, and one in a hundred twice: it must be the same both times."""
    outcome = live(case)
    if case.seed % TWICE_EVERY == 0 and not outcome.promises and live(case).hash != outcome.hash:
        return replace(outcome, promises=("one_seed_is_one_history",), violations=("the same case was two histories",))
    return outcome
