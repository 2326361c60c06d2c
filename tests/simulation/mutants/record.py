"""Find, for each mutant, the first seed that catches it; shrink that run and keep it.

.venv/bin/python tests/simulation/mutants/record.py skip_the_epoch     of one; without a name, of all
.venv/bin/python tests/simulation/mutants/record.py --look             only say which seed it is (make drill)
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
from miniorch.codec import to_plain  # noqa: E402
from miniorch.simulation.chaos import kinds_named  # noqa: E402
from miniorch.simulation.command import Outcome, live, smallest  # noqa: E402
from mutants import MUTANTS, Mutant  # noqa: E402 (found along the path above)

SEEDS = 500
SHRINK_SECONDS = 90.0


def caught(one: Mutant) -> Outcome | None:
    """The first run that breaks a promise."""
    for seed in range(1, SEEDS + 1):
        outcome = live(replace(one.shape, seed=seed).with_faults(kinds_named(one.faults)))
        if outcome.promises:
            return outcome
    return None


def keep(one: Mutant, outcome: Outcome) -> None:
    """Shrink the run and write it down; say so if it breaks a promise even without the bug."""
    end = time.monotonic() + SHRINK_SECONDS
    with one.make():
        case = smallest(outcome, lambda: time.monotonic() > end)
        last = live(case)
    story = f"{len(case.faults)} faults, {case.nodes} nodes, {last.virtual_seconds:.0f} s"
    print(f"  {story}: {last.promises[0]}: {last.violations[0]}", flush=True)
    if violations := live(case).violations:
        print(f"  NOT kept, for it fails without the bug, too: {violations[0]}", flush=True)
        return
    one.path.write_text(json.dumps({"promise": last.promises[0], "case": to_plain(case)}, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    logging.disable(logging.CRITICAL)
    missed = 0
    for name in [word for word in arguments if word != "--look"] or list(MUTANTS):
        with MUTANTS[name].make():
            outcome = caught(MUTANTS[name])
        if outcome is None:
            print(f"{name}: NOT caught within {SEEDS} seeds", flush=True)
            missed += 1
            continue
        print(f"{name}: seed {outcome.case.seed}, {', '.join(outcome.promises)}", flush=True)
        if "--look" not in arguments:
            keep(MUTANTS[name], outcome)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
