"""Waiting tasks to nodes, or to an honest sentence about why they wait.

The problem: "pending" without a reason is what users of every orchestrator complain about. The idea: a task waits for
exactly one of two things, and its status says which. NEW: for what it depends on. PENDING: for a node that fits, with
what each node lacks. The choice itself is made by the package `scheduler`, which is pure and knows neither store nor
time; this controller feeds it and writes down its answer, with a record of why.

The tasks of a service are looked at together, and again when something has changed that could help them
(`waiting.py`). A change of one node asks of each waiting service only whether it fits *there*. Whom a change anywhere
may help is looked at once for all changes meanwhile, and rests then. What waiting tasks tell of their reasons is
brought up to date at leisure: a bounded number of them in each second.

Who does this for real: swarmkit's scheduler loop; kube-scheduler's "unschedulable" condition. Where we differ: the
whole answer is kept, not a count. Next file: `scheduler/oracle.py`, then `agent/reconcile.py`.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import replace

from miniorch.controllers.cache import Cache
from miniorch.controllers.loop import WRITES_PER_PLAN, Plan
from miniorch.controllers.waiting import Waiting
from miniorch.model import DesiredState, Leader, Node, Service, Status, Task, TaskState, Volume, changed
from miniorch.slots import digest_of, is_done, is_given_up, is_wanted, next_at, recent_failures, volumes_of
from miniorch.spec import Condition
from miniorch.state.records import OPERATIONS_AT_ONCE, Write
from miniorch.verdicts import Placed
from scheduler.company import Company
from scheduler.constraints import is_static
from scheduler.explain import record
from scheduler.filters import FILTERS, Filter
from scheduler.refusal import refusal
from scheduler.request import AROUND, NODE, PLACED, SERVICE, TASK, VOLUME, Board, NodeView, Request

WAITING = (TaskState.NEW, TaskState.PENDING)
WANTED = {Condition.STARTED: "started", Condition.HEALTHY: "healthy", Condition.COMPLETED: "completed"}
BATCH = OPERATIONS_AT_ONCE - 2  # tasks, the record of their decision and its event: one transaction
NEWS = 5  # tasks that are placed at once are each an event; more are one together, and the record names their nodes
TELL = "*"  # the key under which reasons are brought up to date
LOOK = "?"  # before the key of a service that a change on any node may help
BETWEEN_SECONDS, BETWEEN_LOOK_SECONDS = 10.0, 0.5  # how long an ended task's room is its successor's, at most; a look
MOVE_SECONDS = 60.0  # a task that is to stop has stopped then, or something is wrong with it
LOOK_SECONDS = 2e-3  # the rest after such a look, for each service that waits so: about as long as they take together
TELL_SECONDS = 1.0  # the least between two times
TELL_TASKS, TELL_NODES = 100, 2_000  # of a service the first tasks tell all reasons; and nodes that are asked at a time
DEAR = "affinity"
BINDING = ("platform", "constraint", "max per node")  # and `DEAR`: rules that bind where a task runs already


class Placer:
    """The controller of tasks without a node. Keys are services, also after a `LOOK`, names of nodes, and `TELL`.

    It remembers whom to look at when, which may be forgotten without harm, and no part of a decision.
    """

    name = "placement"

    def __init__(self) -> None:
        self._waiting = Waiting()
        self._told_at = 0.0

    def keys(self, item: object, gone: bool) -> Iterable[str]:
        waiting = self._waiting
        match item:
            case Leader():
                self._waiting = Waiting()  # a new term: we may have missed changes, and everything is looked at
                return ()
            case Service():  # of a new one nothing waits yet: its tasks come behind the endpoints of its app
                own = (item.key,) if item.key in waiting else ()
                return (*own, *waiting.on(item.key), *(f"{LOOK}{key}" for key in waiting.on(SERVICE)))
            case Volume():
                return [key for key in waiting.on(VOLUME) if key.startswith(f"{item.app}/")]
            case Node():
                return (item.name, TELL) if waiting.on(NODE, AROUND) else ()
            case Task() if item.node and not waiting:
                return ()
            case Task() if item.node:
                leaves = gone or not item.live or item.desired_state is not DesiredState.RUNNING
                helps = leaves or item.status.state is TaskState.ASSIGNED
                here = (item.node, TELL) if helps and waiting.on(TASK, PLACED, AROUND) else ()
                return (*waiting.on(item.service_key), *here)
            case Task():
                told = item.status.state is TaskState.PENDING and item.service_key in waiting
                return () if told else (item.service_key,)
            case _:
                return ()

    def plan(self, key: str, cache: Cache, now: float) -> Plan:
        cache.index.settle()  # what the last plan has placed is seen by now, or was not written
        if key == TELL:
            return self._tell(cache, now)
        if key.startswith(LOOK):
            return self._plan_look(key.removeprefix(LOOK), cache, now)
        return self._plan_service(key, cache, now) if "/" in key else self._plan_node(key, cache, now)

    def _plan_service(self, key: str, cache: Cache, now: float) -> Plan:
        """Nodes for the next tasks of a service; reasons, if there are none."""
        service = self._service(key, cache)
        if service is None:
            return Plan()
        if unmet := unmet_dependencies(service, cache):
            self._waiting.enter(key, _needed(service))
            brief = f"waits for {', '.join(sorted(service.spec.depends_on))}"
            return _told(service, TaskState.NEW, f"waits for {', '.join(unmet)}", brief, cache, now)
        return place(service, cache, now) or self._refuse(service, cache, now)

    def _plan_node(self, name: str, cache: Cache, now: float) -> Plan:
        """Something has changed on a node, or it is new, or gone: does it help anybody?"""
        board = cache.board
        view = board.views.get(name)
        for key in self._waiting.on(NODE, TASK, PLACED):
            service = None if self._waiting.is_for(key, AROUND) else self._waits(key, cache)
            if service is None:
                continue
            against = [] if view is None else refused_by(request_for(service, cache), view, board, first=True)
            if view is not None and not against and (plan := place(service, cache, now)):
                return plan  # and others get their turn when it is done
            self._waiting.add(key, (kind for one in against for kind in one.helped_by))
            self._waiting.behind[key] = None
        return Plan(others=[f"{LOOK}{key}" for key in self._waiting.on(AROUND)])

    def _plan_look(self, key: str, cache: Cache, now: float) -> Plan:
        """Something has changed somewhere: is there a place for a service now?"""
        service = self._waits(key, cache)
        if service is None:
            return Plan()
        if plan := place(service, cache, now):
            return plan
        self._waiting.behind[key] = None
        return Plan(others=(TELL,), rest_seconds=min(1.0, LOOK_SECONDS * len(self._waiting.on(AROUND))))

    def _waits(self, key: str, cache: Cache) -> Service | None:
        """The service, if its tasks wait for nothing but a node."""
        service = self._service(key, cache)
        if service is not None and unmet_dependencies(service, cache):
            self._waiting.add(key, _needed(service))
            return None
        return service

    def _tell(self, cache: Cache, now: float) -> Plan:
        """Bring up to date what waiting tasks tell of their reasons, not more than so much at a time."""
        behind = self._waiting.behind
        if 0 <= now - self._told_at < TELL_SECONDS:
            return Plan((), self._told_at + TELL_SECONDS - now if behind else None)
        self._told_at = now
        writes: list[Write] = []
        for _ in range(max(1, TELL_NODES // max(1, len(cache.nodes)))):
            if not behind or len(writes) >= TELL_TASKS:
                break
            key = next(iter(behind))
            service = self._service(key, cache)
            behind.pop(key, None)
            if service is not None:
                writes += self._refuse(service, cache, now).writes
        return Plan(writes, TELL_SECONDS if behind else None)

    def _refuse(self, service: Service, cache: Cache, now: float) -> Plan:
        """No node fits: the service waits for what could help it, and its tasks say so."""
        request, board = request_for(service, cache), cache.board
        message, kinds = refusal(request, board)
        self._waiting.enter(service.key, kinds)
        brief = f"no node fits: miniorch explain {service.key}"
        return _told(service, TaskState.PENDING, message, brief, cache, now)

    def _service(self, key: str, cache: Cache) -> Service | None:
        """The service, if it has tasks that wait for a node and should have one."""
        service = cache.services.get(key)
        if service is None or service.removing or key not in cache.waiting:
            self._waiting.forget(key)
            return None
        return service


def place(service: Service, cache: Cache, now: float) -> Plan | None:
    """What to write for the next tasks of a service, so that they have nodes; None when no node fits.

    One transaction. While a volume is new one task goes ahead, and the others follow it in the next look. Who has
    waited for room takes none that another task has just left, before its successor has looked for a place.
    """
    waiting = heapq.nsmallest(BATCH, cache.waiting[service.key].values(), key=_turn)
    fresh = [key for key in dict.fromkeys(volumes_of(waiting[0])) if key not in cache.volumes]
    tasks = waiting[:1] if fresh else waiting
    request, board = request_for(service, cache), cache.board
    failures = recent_failures(service, cache.tasks_of(service.key), now)
    if failures:
        board = replace(board, failures={(service.key, node): often for node, often in failures.items()})
    nodes = cache.index.place(request, [task.id for task in tasks], failures)
    taken = [(task, node) for task, node in zip(tasks, nodes, strict=True) if node is not None]
    if not taken:
        return None
    left = cache.ended.keys() & {node for _, node in taken}
    if left and not _succeed(tasks, cache, now) and any(_is_expected(node, service, cache, now) for node in left):
        return Plan((), BETWEEN_LOOK_SECONDS)
    writes = [
        Write(Volume(service.app, key.partition("/")[2], nodes[0] or ""), 0, why=f"lies on {nodes[0]} from now on")
        for key in fresh
    ]
    known = cache.decisions_of(service.key)
    placed = [Placed(task.id, task.slot, node) for task, node in taken]
    number = known[-1].number + 1 if known else 1
    kept = record(request, board, placed, number=number, at=now, revision=cache.revision)
    many = len(taken) > NEWS
    writes.append(
        Write(kept, 0, why=f"{len(taken)} tasks are assigned: miniorch explain {service.key}" if many else "")
    )
    rules, status = digest_of(service.spec.placement), Status(TaskState.ASSIGNED, "waits for the node's agent", now)
    for task, node in taken:
        assigned = changed(task, node=node, status=status, placed_by=rules)
        writes.append(cache.change(task, assigned, "" if many else f"assigned to {node}"))
    return Plan(writes, 0.0)


def _succeed(tasks: Sequence[Task], cache: Cache, now: float) -> bool:
    """Whether some of a service's tasks come in place of such as have just ended."""
    slots = {task.slot for task in tasks}
    ended = (one for one in cache.tasks_of(tasks[0].service_key) if not one.live and one.slot in slots)
    return any(abs(now - one.status.since) < BETWEEN_SECONDS for one in ended)


def _is_expected(node: str, service: Service, cache: Cache, now: float) -> bool:
    """Whether a task has just ended on a node, and its successor, which does not rest, has not been asked yet: that of
    another service, or one of this service that is not there yet.
    """
    for task in cache.ended[node].values():
        owner = cache.services.get(task.service_key)
        if owner is None or owner.removing or abs(now - task.status.since) >= BETWEEN_SECONDS:
            continue
        at = next_at(task, owner)
        if at is None or at - task.status.since > BETWEEN_LOOK_SECONDS:
            continue
        own = cache.tasks_of(owner.key)
        later = [one for one in own if one.slot == task.slot and one.created_at > task.created_at]
        if not later or (owner is not service and all(one.status.state is TaskState.NEW for one in later)):
            return True
    return False


def _others_move(service: Service, cache: Cache, now: float) -> bool:
    """Whether tasks of other services are on their way, which may take the room that is seen now."""
    news = (task for key, tasks in cache.waiting.items() if key != service.key for task in tasks.values())
    return (
        any(one.service_key != service.key and now - one.desired_since < MOVE_SECONDS for one in cache.leaving.values())
        or any(one.status.state is TaskState.NEW and now - one.created_at < BETWEEN_SECONDS for one in news)
        or any(_is_expected(node, service, cache, now) for node in cache.ended)
    )


def _needed(service: Service) -> Iterable[str]:
    """The services that it depends on."""
    return (f"{service.app}/{name}" for name in service.spec.depends_on)


def unmet_dependencies(service: Service, cache: Cache) -> list[str]:
    """What a service's new tasks still wait for, as words: "db (healthy; db.1 is starting)"."""
    unmet = []
    for name, condition in sorted(service.spec.depends_on.items()):
        key = f"{service.app}/{name}"
        other = cache.services.get(key)
        if other is None:
            unmet.append(f"{name} ({WANTED[condition]}; there is no such service)")
            continue
        tasks = [task for task in cache.tasks_of(key) if task.desired_state is not DesiredState.REMOVED]
        if len({task.slot for task in tasks if _meets(condition, other, task)}) >= other.spec.replicas:
            continue
        newest = {task.slot: task for task in tasks}  # the later ones win
        given_up = next((task for task in newest.values() if is_given_up(task, other)), None)
        if given_up is not None:
            why = given_up.status.message.partition("\n")[0] or given_up.status.state.value
            remedy = f"miniorch logs {key}; miniorch restart {key}"
            unmet.append(f"{name}, which failed ({why}) and is not tried again: {remedy}")
        else:
            states = ", ".join(f"{task.name} is {task.status.state.value}" for task in newest.values())
            unmet.append(f"{name} ({WANTED[condition]}; {states or 'it has no task yet'})")
    return unmet


def _fails_for_good(service: Service, cache: Cache) -> bool:
    """Whether something that a service depends on has failed and is not tried again."""
    others = [other for key in _needed(service) if (other := cache.services.get(key)) is not None]
    return any(is_given_up(task, other) for other in others for task in cache.tasks_of(other.key))


def _meets(condition: Condition, other: Service, task: Task) -> bool:
    """Whether a task is what a dependency on its slot waits for. A job that has ended by itself was started, too."""
    state = task.status.state
    if condition is Condition.COMPLETED:
        return state is TaskState.COMPLETE and is_wanted(task, other)
    if condition is Condition.HEALTHY:
        return state is TaskState.RUNNING
    if task.live:
        return state.order >= TaskState.STARTING.order
    return is_done(task, other) or (state is TaskState.FAILED and is_given_up(task, other))


def refused_by(request: Request, view: NodeView, board: Board, *, first: bool = False) -> list[Filter]:
    """The rules by which one node does not fit. `first`: the one about what lies around only if all others pass."""
    against = [rule for rule in FILTERS if rule.name != DEAR and not rule.passes(request, view, board)]
    if not (first and against):
        against += [rule for rule in FILTERS if rule.name == DEAR and not rule.passes(request, view, board)]
    return against


def may_stay(task: Task, service: Service, cache: Cache) -> bool:
    """Whether a task that runs would be let onto its node today, by the rules for places alone."""
    request, board = request_for(service, cache), cache.board
    here = _without(task, board.views[task.node])
    company = board.once(("stay", service.key), lambda: Company(request, board))  # counted once for all of its tasks
    company.add(here.node, -1)
    beside = company.passes(here.node)
    company.add(here.node)
    return beside and all(rule.passes(request, here, board) for rule in FILTERS if rule.name in BINDING)


def why_not_stay(task: Task, service: Service, cache: Cache) -> str:
    request, board = request_for(service, cache), _board_without(task, cache)
    here = board.views[task.node]
    against = [rule for rule in refused_by(request, here, board) if rule.name in (*BINDING, DEAR)]
    return f"its placement has changed: {', '.join(rule.tell(request, here, board).detail for rule in against)}"


def would_follow(task: Task, service: Service, cache: Cache, now: float) -> tuple[bool, str]:
    """Whether a successor would start if this task were gone; if not, and that lasts until something is done: why."""
    if unmet := unmet_dependencies(service, cache):
        return False, f"waits for {', '.join(unmet)}" if _fails_for_good(service, cache) else ""
    request, board = request_for(service, cache), _board_without(task, cache)
    views, rules = (board.views[task.node], *board.views.values()), sorted(FILTERS, key=lambda rule: rule.name == DEAR)
    found = next((view for view in views if all(rule.passes(request, view, board) for rule in rules)), None)
    if found is None:
        return False, refusal(request, board)[0]
    return found.node.name == task.node or not _others_move(service, cache, now), ""


def stands_in_the_way(task: Task, successor: Task, service: Service, cache: Cache) -> bool:
    """Whether a successor finds a place only when this task is gone: there may be one of them in a zone."""
    if all(map(is_static, service.spec.placement.constraints)) or successor.status.state is not TaskState.PENDING:
        return False
    request, boards = request_for(service, cache), (cache.board, _board_without(task, cache))
    now, then = (any(not refused_by(request, view, board) for view in board.views.values()) for board in boards)
    return then and not now


def _board_without(task: Task, cache: Cache) -> Board:
    views = cache.board.views
    return replace(cache.board, views={**views, task.node: _without(task, views[task.node])})


def _without(task: Task, view: NodeView) -> NodeView:
    return replace(view, tasks=tuple(one for one in view.tasks if one.id != task.id))


def request_for(service: Service, cache: Cache) -> Request:
    """What the scheduler is asked for a task of this service."""
    mounted = (mount.volume for mount in service.spec.task.mounts if mount.volume)
    known = {name: cache.volumes.get(f"{service.app}/{name}") for name in mounted}
    lie = {name: volume.node for name, volume in known.items() if volume is not None}
    return Request(service.app, service.name, service.spec, lie)


def _told(service: Service, state: TaskState, message: str, brief: str, cache: Cache, now: float) -> Plan:
    """The first waiting tasks of a service tell all reasons, the others only where those are told: they never age.

    A task never goes back from PENDING to NEW.
    """
    tasks = cache.waiting[service.key].values()
    first = {task.id for task in heapq.nsmallest(TELL_TASKS, tasks, key=_turn)}
    writes: list[Write] = []
    for task in tasks:
        after = max(state, task.status.state, key=lambda one: one.order)
        words = message if task.id in first else brief
        if (after, words) != (task.status.state, task.status.message):
            since = now if after is not task.status.state else task.status.since
            told = changed(task, status=replace(task.status, state=after, message=words, since=since))
            is_news = after is TaskState.PENDING is not task.status.state and task.id in first
            writes.append(cache.change(task, told, words if is_news else ""))
            if len(writes) >= WRITES_PER_PLAN:
                return Plan(writes, 0.0)
    return Plan(writes)


def _turn(task: Task) -> tuple[int, float, str]:
    """Replicas that were there come before those that are new: who is replaced is not to lose its room to them."""
    return task.slot, task.created_at, task.id
