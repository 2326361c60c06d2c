"""The trace: what can be read, sent and kept of a decision.

The problem: a hundred nodes times ten rules is a thousand answers, and nobody reads them; a count of them ("97 nodes:
insufficient memory") is what nobody can act on. The idea: nodes of which the same is to be told share one row, with
their names. Fitting nodes stand first, the best in front, then the nearest misses; when there are too many rows, those
at the end are told together, with the values of one of them. `trace` does that for an answer of now, `record` for one
that is kept.

Who does this for real: Nomad's placement metrics, which keep counts and the five best. Next file:
`scheduler/remedies.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from operator import attrgetter

from miniorch.verdicts import DecisionRecord, Placed, Row, Rule, Score, Trace
from scheduler.filters import FILTERS, HOPELESS, lack
from scheduler.request import Board, NodeView, Request
from scheduler.strategies import Strategy, strategy_of

ROWS = 12  # of a trace that is to be read
ASKED, NAMES, TASKS = 64, 20, 128  # in a record: nodes, names in a row, tasks
FEW, BRIEFLY = 4, 8  # so many tasks placed at once are few; of more, so many nodes are asked
TOLD = 100  # so many misses with the same failing rules are asked for details
CAPACITY = next(one for one in FILTERS if one.name == "capacity")
RANK, AGAINST, DETAILS = map(attrgetter, ("rank", "against", "details"))


class Look:
    """One node, asked quickly: which rules fail, and if none its rank. What they say is asked when it is wanted."""

    def __init__(self, request: Request, view: NodeView, board: Board, strategy: Strategy) -> None:
        self._request, self._board, self.view = request, board, view
        self.against = tuple(one for one in FILTERS if not one.passes(request, view, board))
        self.rank = () if self.against else strategy.rank(request, view, board)

    @property
    def name(self) -> str:
        return self.view.node.name

    @cached_property
    def failing(self) -> tuple[Rule, ...]:
        return tuple(one.tell(self._request, self.view, self._board) for one in self.against)

    @cached_property
    def details(self) -> tuple[tuple[str, str], ...]:
        return tuple((rule.rule, rule.detail) for rule in self.failing)

    @property
    def roughly(self) -> tuple[int, float, str]:
        """How near a miss it is, without telling: how many rules fail, then how much lacks."""
        return len(self.against), lack(self._request, self.view) if CAPACITY in self.against else 0.0, self.name

    @property
    def distance(self) -> tuple[int, float, str]:
        """The same with all that would have to change."""
        sizes = [rule.change.size if rule.change else HOPELESS for rule in self.failing]
        return len(self.failing), sum(sizes), self.name


def look(request: Request, views: Iterable[NodeView], board: Board, told: int = TOLD) -> list[Look]:
    """All that fit, the best first, then all that do not, the nearest first; the first few of those tell how near."""
    strategy = strategy_of(request)
    looks = [Look(request, view, board, strategy) for view in views]
    fitting = sorted((one for one in looks if not one.against), key=lambda one: (one.rank, one.name))
    misses = sorted((one for one in looks if one.against), key=lambda one: one.roughly)
    return fitting + sorted(misses[:told], key=lambda one: one.distance) + misses[told:]


def trace(request: Request, board: Board, looks: Sequence[Look], *, chosen: str = "", most: int = ROWS) -> Trace:
    """What `look` found, in at most so many rows. With `most` 0: one row for each node."""

    def row(group: Sequence[Look]) -> Row:
        first, names = group[0], tuple(one.name for one in group)
        rules = tuple(one.tell(request, first.view, board) for one in FILTERS)
        scores = tuple(Score(one.name, one.score(request, first.view, board)) for one in strategy_of(request).scorers)
        return Row(names, len(group), _same(group), not first.against, rules, scores)

    groups = _groups(looks, chosen, most, _told) if most else [[one] for one in looks]
    return _trace(request, board, looks, chosen, tuple(map(row, groups)))


def record(
    request: Request, board: Board, placed: Sequence[Placed], *, number: int, at: float, revision: int
) -> DecisionRecord:
    """What is kept of the placement of some tasks of one service. `board` is that before the first of them.

    Its size and cost have a bound, and the more tasks there are the less is asked for each: nodes that were taken, and
    some of the others.
    """
    few = len(placed) <= FEW
    most = ASKED if few else BRIEFLY
    asked = [*dict.fromkeys(one.node for one in placed)][: most // 2]
    step = 1 if len(board.views) <= most else -(-len(board.views) // (most - len(asked)))
    asked += islice(board.views, 0, None, step)
    chosen = placed[0].node if placed else ""
    looks = look(request, [board.views[name] for name in dict.fromkeys(asked)], board, TOLD if few else 0)
    scorers = [one.name for one in strategy_of(request).scorers]

    def row(group: Sequence[Look]) -> Row:
        failing = tuple(replace(rule, change=None) for rule in group[0].failing)
        scores = tuple(map(Score, scorers, group[0].rank))
        names = tuple(one.name for one in group[:NAMES])
        return Row(names, len(group), few and _same(group), not failing, failing, scores)

    groups = _groups(looks, chosen, ROWS, _told if few else partial(_grouped, key=AGAINST))
    kept = _trace(request, board, looks, chosen, tuple(map(row, groups)))
    told = map(attrgetter("task", "slot", "node"), placed[:TASKS])
    tasks, slots, nodes = zip(*told, strict=True) if placed else ((), (), ())
    app, service = request.app, request.service
    return DecisionRecord(app, service, number, at, revision, kept, tasks, slots, nodes, len(placed))


def again(request: Request, node: str, looks: Sequence[Look]) -> tuple[str, str]:
    """Whether a task would be placed on its node once more, as a word and as a sentence; `looks` are without it."""
    best = looks[0] if looks and not looks[0].against else None
    own = next((one for one in looks if one.name == node), None)
    instead = f"{best.name} would be taken" if best else "no node fits"
    if own is None:
        return "refused", f"{node} is no longer there; {instead}"
    if best is None or own.against:
        return "refused", f"{node} would not be taken now ({', '.join(one.detail for one in own.failing)}); {instead}"
    if best is own:
        return "again", "it would be placed there again"
    if best.rank == own.rank:
        return "equal", f"{best.name} is as good, and among equals the first name is taken"
    scorers = zip(strategy_of(request).scorers, best.rank, own.rank, strict=True)
    name, there, here = next((one.name, there, here) for one, there, here in scorers if there != here)
    return "elsewhere", f"{instead} now: {name} {there} there, {here} on {node}"


def whole(kept: Trace) -> Trace:
    """The trace of a record in the form of every other: rules that are not told of were passed."""
    rows = []
    for row in kept.rows:
        told = {rule.rule: rule for rule in row.rules}
        rows.append(replace(row, rules=tuple(told.get(name) or Rule(name, True) for name in kept.rules)))
    return replace(kept, rows=tuple(rows))


def _trace(request: Request, board: Board, looks: Sequence[Look], chosen: str, rows: tuple[Row, ...]) -> Trace:
    names = tuple(one.name for one in FILTERS)
    fitting = sum(not one.against for one in looks)
    return Trace(strategy_of(request).name, names, len(board.views), len(looks), fitting, chosen, rows)


def _groups(
    looks: Sequence[Look], chosen: str, most: int, finely: Callable[[Sequence[Look]], list[list[Look]]]
) -> list[list[Look]]:
    """What shares a row: fitting nodes with equal scores, the chosen one alone; misses by what is told of them."""
    misses = [one for one in looks if one.against]
    groups = [[one] for one in looks if one.name == chosen and not one.against]
    others = [one for one in looks if one.name != chosen and not one.against]
    groups += _fold(_grouped(others, RANK), max(1, (most // 2 if misses else most) - len(groups)), RANK)
    return groups + _fold(finely(misses), most - len(groups), AGAINST)


def _same(group: Sequence[Look]) -> bool:
    return len(group) <= TOLD and len({(one.rank, one.details) for one in group}) == 1


def _told(misses: Sequence[Look]) -> list[list[Look]]:
    """Misses by what is to be told of them. Of very many with the same failing rules only the nearest are asked for
    details; the others join the last of those.
    """
    groups = []
    for alike in _grouped(misses, AGAINST):
        fine = _grouped(alike[:TOLD], DETAILS)
        fine[-1] += alike[TOLD:]
        groups += fine
    return sorted(groups, key=lambda group: group[0].distance)


def _grouped(looks: Iterable[Look], key: Callable[[Look], object]) -> list[list[Look]]:
    groups: dict[object, list[Look]] = {}
    for one in looks:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _fold(groups: list[list[Look]], most: int, coarser: Callable[[Look], object]) -> list[list[Look]]:
    """At most so many groups: those at the end are put together, by a coarser key if that is enough."""
    if len(groups) <= most:
        return groups
    near, rest = groups[: most // 2], [one for group in groups[most // 2 :] for one in group]
    folded = _grouped(rest, coarser)
    last = most - len(near) - 1
    if len(folded) > last + 1:
        folded[last:] = [[one for group in folded[last:] for one in group]]
    return near + folded
