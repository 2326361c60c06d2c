"""Questions about what has not happened: `plan`, `what-if`, and whether the loss of a node would be survived.

Each question is a change that is put into a copy of the state; the answer is read from what became of that copy
(`miniorch/controllers/rehearsal.py`). So no answer here can disagree with what the cluster would do.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from miniorch.controllers.cache import Cache, by_name
from miniorch.controllers.rehearsal import Rehearsal
from miniorch.errors import NotFound, UsageError
from miniorch.model import Availability, DesiredState, Node, NodeState, Service, Task, TaskState
from miniorch.slots import digest_of, is_done, is_wanted, told, unknown, volumes_of
from miniorch.spec import Resources
from scheduler.attributes import check_labels
from scheduler.strategies import STRATEGIES

ADDED_AT_MOST = 100
REHEARSED_AT_MOST = 50_000  # tasks: they are copied in about a second
NAMES_TOLD = 3
TRIED_AT_MOST = 3_000  # nodes x tasks; a larger cluster is only asked which services stand on one node


@dataclass(frozen=True, slots=True)
class NewNode:
    """A node that does not exist yet."""

    cpus: float
    memory_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """All of it happens at once."""

    kill: tuple[str, ...] = ()  # names of nodes that lose power
    drain: tuple[str, ...] = ()
    lose: tuple[str, ...] = ()  # "zone=a": every node with this label loses power
    add: tuple[NewNode, ...] = ()
    strategy: str = ""  # everything is placed anew, by this one


@dataclass(frozen=True, slots=True)
class Move:
    """Where one slot's task would be, beside where it is; "" is nowhere."""

    task: str  # "shop/web.2"
    before: str
    after: str
    why: str = ""  # why it would be nowhere, or why it would stay as it is


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the loss of one node would be felt by a service."""

    service: str
    why: str


async def what_if(question: Question, cache: Cache, now: float) -> dict[str, Any]:
    """`{"lost", "moves", "waiting", "dark"}`: see docs/api.md. Raises `NotFound`, `UsageError`."""
    lost = _lost(question, cache)
    if not _can_rehearse(cache, ()):
        raise UsageError(
            f"what-if acts on a copy of at most {REHEARSED_AT_MOST} tasks, since the server is busy with it for some "
            f"seconds; this cluster has {len(cache.tasks)}",
            remedy="miniorch simulate",
        )
    rehearsal = Rehearsal(cache, _edits(question, lost, cache, now), now)
    if question.strategy:
        _clear(rehearsal.cache)
    if not await rehearsal.settle():
        raise UsageError(
            "what-if was given up after some seconds: too much would change", remedy="ask for less at once"
        )
    moves = _moves(cache, rehearsal.cache, now)
    return {
        "lost": lost,
        "moves": [move for move in moves if move.after and not move.why],
        "waiting": [move for move in moves if move.why or not move.after],
        "dark": _dark(cache, set(lost)),
    }


async def places(app: str, edits: Sequence[object], cache: Cache, now: float) -> list[Move] | None:
    """Where the tasks of `app` would be that are not there yet, once `edits` are written; None: too much to say."""
    if not _can_rehearse(cache, edits):
        return None
    rehearsal = Rehearsal(cache, edits, now)
    if not await rehearsal.settle():
        return None
    return [move for move in _moves(cache, rehearsal.cache, now, anew=True) if move.task.startswith(f"{app}/")]


def _can_rehearse(cache: Cache, edits: Iterable[object]) -> bool:
    """The server is busy with a copy for as long as that takes, so how much may be asked is bounded."""
    new = sum(one.spec.replicas for one in edits if isinstance(one, Service))
    return len(cache.tasks) + new <= REHEARSED_AT_MOST


def tries(cache: Cache) -> bool:
    """Whether `standing` also finds out if everything would find a place elsewhere: where nobody misses the time."""
    return len(cache.nodes) * len(cache.tasks) <= TRIED_AT_MOST


async def standing(app: str, cache: Cache, now: float) -> list[Reason]:
    """Why the loss of some one node would be felt; empty if it would not.

    `app` keeps the reasons that concern it; "" is every app.
    """
    nodes = by_name(cache.nodes.values())
    several = len(nodes) > 1
    reasons: dict[str, list[str]] = {key: [] for key in sorted(cache.services) if not app or key.startswith(f"{app}/")}
    for node in nodes:
        for key in _dark(cache, {node.name}):
            if key in reasons:
                reasons[key].append(f"runs on {node.name} alone" if several else f"{node.name} is the only node")
    lacking: dict[tuple[str, int], list[str]] = {}  # (service, how many would wait) -> without which node
    for node in nodes if several and tries(cache) else ():
        if not any(task.live and task.service_key in reasons for task in cache.tasks_on(node.name)):
            continue
        answer = await what_if(Question(kill=(node.name,)), cache, now)
        waiting = [move for move in answer["waiting"] if move.before == node.name]
        for key, count in Counter(move.task.rpartition(".")[0] for move in waiting).items():
            if key in reasons:
                lacking.setdefault((key, count), []).append(node.name)
    for (key, count), names in lacking.items():
        told = ", ".join(names[:NAMES_TOLD]) + f" and {len(names) - NAMES_TOLD} more" * (len(names) > NAMES_TOLD)
        lack = f"would lack {count} of {cache.services[key].spec.replicas} without {'any of ' * (len(names) > 1)}{told}"
        reasons[key].append(f"{lack} (miniorch what-if --kill {names[0]})")
    return [Reason(key, why) for key, found in reasons.items() for why in found]


def _lost(question: Question, cache: Cache) -> list[str]:
    """Names of the nodes that lose power, each once."""
    for name in (*question.kill, *question.drain):
        if name not in cache.nodes:
            raise NotFound(f"there is no node {name}", remedy="miniorch nodes")
    lost = dict.fromkeys(question.kill)
    for pair in question.lose:
        key, _, value = pair.partition("=")
        found = [node.name for node in by_name(cache.nodes.values()) if node.labels.get(key) == value]
        if not found:
            known = sorted({f"{key}={value}" for node in cache.nodes.values() for key, value in node.labels.items()})
            remedy = f"labels there: {', '.join(known[:10])}" if known else f"miniorch node label NODE {pair}"
            raise NotFound(f"no node has the label {key}={value}", remedy=remedy)
        lost.update(dict.fromkeys(found))
    if question.strategy and question.strategy not in STRATEGIES:
        raise UsageError(f"no strategy is called {question.strategy!r}", remedy=f"one of {', '.join(STRATEGIES)}")
    if len(question.add) > ADDED_AT_MOST:
        raise UsageError(f"at most {ADDED_AT_MOST} nodes can be added, not {len(question.add)}", remedy="add fewer")
    for new in question.add:
        if new.cpus <= 0 or new.memory_bytes <= 0:
            raise UsageError("a new node has no processor or no memory", remedy="--add cpu=2,memory=4g")
        check_labels("NODE", new.labels)
    return list(lost)


def _edits(question: Question, lost: Iterable[str], cache: Cache, now: float) -> list[object]:
    nodes = {name: cache.nodes[name] for name in (*lost, *question.drain)}
    for name in lost:
        nodes[name] = replace(nodes[name], state=NodeState.DOWN, state_since=now, ready=False)
    for name in question.drain:
        nodes[name] = replace(nodes[name], availability=Availability.DRAIN)
    edits: list[object] = list(nodes.values())
    like = next(iter(by_name(cache.nodes.values())), None)
    fresh = (name for number in range(1, 10_000) if (name := f"new{number}") not in cache.nodes)
    for new, name in zip(question.add, fresh, strict=False):
        capacity = Resources(new.cpus, new.memory_bytes)
        node = Node(name, "", "", capacity, platform=like.platform if like else "", labels=new.labels)
        edits.append(node)
    if question.strategy:
        for service in cache.services.values():
            placement = replace(service.spec.placement, strategy=question.strategy)
            edits.append(replace(service, spec=replace(service.spec, placement=placement)))
    return edits


def _clear(copy: Cache) -> None:
    """Take all tasks away that are not done, so that the controllers make and place them anew."""
    for task in list(copy.tasks.values()):
        service = copy.services.get(task.service_key)
        if service is None or not is_done(task, service):
            copy.write(task, copy.revision + 1, lambda item, gone: None, erase=True)


def _moves(before: Cache, after: Cache, now: float, *, anew: bool = False) -> list[Move]:
    """What differs, by service and slot. With `anew` also tasks that are replaced where they are."""
    old, new = _slots(before), _slots(after)
    moves = []
    for slot in sorted({*old, *new}):
        was, task = old.get(slot), new.get(slot)
        if task is None or (task.desired_state is not DesiredState.RUNNING and task.live):
            continue
        node = task.node if task.live and not unknown(task, after.nodes.get(task.node), now) else ""
        origin = was.node if was else ""
        same = was is not None and was.id == task.id
        service = after.services.get(task.service_key)
        stays = service.held if anew and same and service and not _is_as_asked(task, service) else ""
        if stays or ((node != origin) if not anew else not same):
            why = stays if node else _why(task, service, now)
            still = after.tasks.get(was.id) if was and service else None
            if still and service and not (node or same) and _serves(still, service, after):
                node = origin  # it runs on until its successor does, as on a drained node
            moves.append(Move(f"{slot[0]}.{slot[1]}", origin, node, why))
    return moves


def _is_as_asked(task: Task, service: Service) -> bool:
    return is_wanted(task, service) and task.placed_by == digest_of(service.spec.placement)


def _why(task: Task, service: Service | None, now: float) -> str:
    """Why a task is nowhere. One that has a node is there still, as far as anybody knows."""
    if task.node and volumes_of(task):
        return f"its volume {volumes_of(task)[0]} lies on {task.node}"
    return f"{task.node} does not answer" if task.node else told(task, service, now)


def _slots(cache: Cache) -> dict[tuple[str, int], Task]:
    """The task that counts for each slot: a live one that is wanted, else the newest live one."""
    found: dict[tuple[str, int], Task] = {}
    for task in sorted(cache.tasks.values(), key=lambda one: (one.created_at, one.id)):
        slot = (task.service_key, task.slot)
        if task.live and (slot not in found or task.desired_state is DesiredState.RUNNING):
            found[slot] = task
    return found


def _dark(cache: Cache, lost: set[str]) -> list[str]:
    """Services that serve, and whose serving tasks are all on lost nodes."""
    dark = []
    for key, service in sorted(cache.services.items()):
        serving = [task for task in cache.tasks_of(key) if _serves(task, service, cache)]
        if serving and all(task.node in lost for task in serving):
            dark.append(key)
    return dark


def _serves(task: Task, service: Service, cache: Cache) -> bool:
    node = cache.nodes.get(task.node)
    return (
        task.status.state is TaskState.RUNNING
        and task.desired_state is DesiredState.RUNNING
        and node is not None
        and node.state is NodeState.READY
        and not service.removing
    )
