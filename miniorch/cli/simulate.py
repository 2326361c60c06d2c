"""`simulate`: a cluster on virtual time, with everything that can break, and what became of it.

On a terminal one line that is redrawn, in a pipe one line per tenth of the way. Nothing of this machine is touched: no
server, no Docker, no root.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from miniorch.cli.output import INTERRUPTED, Answer, did_you_mean, sentence, terminal
from miniorch.codec import decode, to_plain
from miniorch.errors import MiniorchError, UsageError
from miniorch.simulation import command
from miniorch.simulation.chaos import Case, check, kinds_named
from miniorch.simulation.command import Outcome
from miniorch.simulation.story import Story

SHRINK_SECONDS = 60.0  # real ones
REDRAW_SECONDS = 0.2
BAR = 30
CASE_HELP = "--seed 17, which prints a case if it fails"


def simulate(
    seed: int, nodes: int, servers: int, seconds: float, tasks: int, faults: str, count: int, case: str, *,
    quiet: bool,
) -> Answer:  # fmt: skip
    """Run cases until one breaks a promise. The exit code: 1 if one did, 130 if somebody did not want to wait."""
    drawn = Case(seed, nodes, servers, seconds, tasks)
    cases = [_case_in(case)] if case else _cases(drawn, kinds_named(faults), count)
    logging.disable(logging.CRITICAL)  # what agents log of bad days is no news here
    progress = Progress(cases, shown=not quiet)
    outcomes: list[Outcome] = []
    try:
        for outcome in command.many(cases, os.cpu_count() or 1, progress.look):
            outcomes.append(outcome)
            progress.ran(len(outcomes))
            if outcome.promises or outcome.interrupted:
                break
    except KeyboardInterrupt:  # between the runs of several
        if not outcomes:
            raise
        outcomes[-1] = replace(outcomes[-1], interrupted=True)
    progress.clear()
    last = outcomes[-1]
    if last.promises:
        again = f"miniorch simulate --case {case}" if case else command.command(last.case, faults)
        return Answer(command.result(outcomes), _failure(last, again), code=1)
    words = "\n".join(_success(outcomes, len(cases), quiet=quiet))
    return Answer(command.result(outcomes), words, code=INTERRUPTED if last.interrupted else 0)


def _cases(drawn: Case, kinds: Sequence[str], count: int) -> list[Case]:
    check(drawn)
    return [replace(drawn, seed=number).with_faults(kinds) for number in range(drawn.seed, drawn.seed + count)]


def _case_in(file: str) -> Case:
    """A case that was kept; - is standard input. Raises `UsageError`."""
    where = f"--case {file}: "
    try:
        kept = sys.stdin.read() if file == "-" else Path(file).read_bytes()
        case = decode(Case, kept)
    except OSError as error:
        raise UsageError(f"{where}{(error.strerror or '').lower()}", remedy="--seed 17") from None
    except MiniorchError as error:
        raise UsageError(f"{where}{error.message}", remedy=CASE_HELP) from None
    plain = json.loads(kept)
    _known_keys(f"{where}Case", plain, case)
    for number, (given, fault) in enumerate(zip(plain.get("faults", ()), case.faults, strict=True)):
        _known_keys(f"{where}Case.faults[{number}]", given, fault)
    check(case, where)
    return case


def _known_keys(place: str, given: dict[str, Any], read: object) -> None:
    """A file is written by hand, so what nobody reads is an error."""
    known = list(to_plain(read))
    for key in given:
        if key not in known:
            meant = did_you_mean(key, known) or "."
            raise UsageError(f'{place}: there is no key "{key}"{meant} There are {sentence(known)}', remedy=CASE_HELP)


def _failure(outcome: Outcome, again: str) -> str:
    print(
        f"seed {outcome.case.seed} broke a promise; looking for the faults that matter, a minute or until Ctrl-C",
        file=sys.stderr,
    )
    end = time.monotonic() + SHRINK_SECONDS
    return command.failure(outcome, command.smallest(outcome, lambda: time.monotonic() > end), again)


def _success(outcomes: Sequence[Outcome], wanted: int, *, quiet: bool) -> Iterator[str]:
    first, interrupted = outcomes[0], outcomes[-1].interrupted
    if wanted > 1:
        runs = f"{len(outcomes)} runs of {first.case.seconds:g} virtual seconds"
        so_far = f"interrupted after {len(outcomes)} of {wanted} runs; " if interrupted else ""
        yield f"{so_far}every promise was kept in {runs} on {first.case.nodes} nodes"
        return
    if not quiet:
        yield from first.story
    facts = f"{first.virtual_seconds:.0f} virtual seconds, {first.events} events, history {first.hash[:16]}"
    so_far = f"interrupted at {first.virtual_seconds:.0f} of {first.case.seconds:.0f} s; " if interrupted else ""
    yield f"{so_far}every promise was kept: {facts}"


class Progress:
    """How far a run is, or how many runs are over."""

    def __init__(self, cases: Sequence[Case], *, shown: bool) -> None:
        self._cases = cases
        self._shown = shown
        self._live = shown and terminal()
        self._tenths = 0
        self._drawn_at = 0.0

    def look(self, at: float, story: Story) -> None:
        """Of a single run."""
        words = f"{at:.0f} of {story.case.seconds:.0f} virtual seconds, {story.up} of {story.wanted} tasks run"
        self._show(at / story.case.seconds, words)

    def ran(self, count: int) -> None:
        """Of many."""
        if len(self._cases) > 1:
            self._show(count / len(self._cases), f"{count} of {len(self._cases)} runs")

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", flush=True)

    def _show(self, share: float, words: str) -> None:
        if self._live and time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
            self._drawn_at = time.monotonic()
            done = min(BAR, int(share * BAR))
            print(f"\r\x1b[K[{'#' * done}{'-' * (BAR - done)}] {words}", end="", flush=True)
        elif self._shown and not self._live and int(share * 10) > self._tenths:
            self._tenths = int(share * 10)
            print(words, flush=True)
