"""What a slot's task means for its service: is it what is wanted now, and does anything follow its end?

The problem: the controllers, what depends on a job, and the person who waits for it must never disagree about whether
it is done. The idea: a few questions about one task and its service, asked here and nowhere else. What users expect of
each end:

    ended as    because                    any     on-failure   none
    --------    -------                    ---     ----------   ----
    COMPLETE    exit code 0                again   done         done
    FAILED      any other exit code        again   again        given up
    REJECTED    no image: it never ran     again   again        again
    SHUTDOWN    it was told to stop        again   again        again
    LOST        its node is gone           again   again        again

Only what ended by itself counts against `max_attempts`, and only failures in a row: a task that lived for a minute had
recovered. Who does this for real: swarmkit's restart supervisor, which cannot tell a job from a service. Next files:
`miniorch/controllers/services.py`, `miniorch/cli/progress.py`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import count, islice

from miniorch.codec import encode
from miniorch.model import DesiredState, Failure, Node, NodeState, Service, Task, TaskState
from miniorch.spec import Placement, Restart, TaskSpec

STEADY_SECONDS = 60.0
BACKOFF_LIMIT_SECONDS = 60.0
FAILED = (TaskState.FAILED, TaskState.REJECTED)
FAILURES_KEPT, FAILURES_SECONDS = 5, 300.0  # of a slot: so many on one node in so long, and the node comes last


def backoff_seconds(attempt: int) -> float:
    """How long a slot rests before its next task, after `attempt` failures in a row: 0, 0, 1, 2, 4 ... 60 seconds."""
    return 0.0 if attempt < 2 else min(2.0 ** (attempt - 2), BACKOFF_LIMIT_SECONDS)


def is_wanted(task: Task, service: Service) -> bool:
    """True for a task that is made as the service says now: of its spec, and not from before a restart by hand."""
    spec = service.spec.task
    return task.round == service.round and (task.spec is spec or task.spec == spec)


def failures_in_a_row(ended: Task) -> int:
    """How many tasks of a slot, this ended one the last, have failed one after the other."""
    if ended.status.state in (TaskState.SHUTDOWN, TaskState.LOST):
        return 0
    return 1 if ended.status.ran_seconds >= STEADY_SECONDS else ended.attempt + 1


def failures_until(ended: Task) -> tuple[Failure, ...]:
    """What the successor of an ended task is told of its slot: where it has failed, and when. The newest ones do."""
    own: tuple[Failure, ...] = ()
    if ended.status.state in FAILED and ended.desired_state is DesiredState.RUNNING:
        own = (Failure(ended.node, ended.status.since),)
    return (*ended.failures, *own)[-FAILURES_KEPT:]


def recent_failures(service: Service, tasks: Iterable[Task], now: float) -> Counter[str]:
    """How often tasks of a service's present version have failed lately, by node. `tasks`: the service's, oldest first.

    The newest task of each slot knows it all, so nothing has to be kept for this, and a new leader knows it, too.
    """
    failed = [task for task in tasks if task.failures or task.status.state in FAILED]  # most have not
    newest = {task.slot: task for task in failed if is_wanted(task, service)}
    known = [failure for task in newest.values() for failure in failures_until(task)]
    return Counter(failure.node for failure in known if now - failure.at < FAILURES_SECONDS)


def slots_of(service: Service, tasks: Collection[Task], last: Collection[int] = ()) -> list[int]:
    """The numbers of the slots that count: as many as there are replicas. `tasks` are all of the service's.

    Slots that have tasks stay while there are not too many; those that run stay longest, but for `last`. What lacks
    gets the lowest free numbers. The tasks of a job, and those that are told their number, are 1, 2, 3, ... always.
    """
    wanted = service.spec.replicas
    if service.spec.restart.condition is not Restart.ANY or _is_told_its_number(service.spec.task):
        return list(range(1, wanted + 1))
    numbers = {task.slot for task in tasks}
    if len(numbers) == wanted:
        return sorted(numbers)
    newest = {task.slot: task for task in sorted(tasks, key=lambda one: (_is_meant_to_run(one), one.created_at))}
    kept = sorted(newest, key=lambda slot: (_worth(newest[slot]), slot in last, slot))[:wanted]
    free = (number for number in count(1) if number not in newest)
    return sorted([*kept, *islice(free, wanted - len(kept))])


def _worth(task: Task) -> int:
    """What would be lost with a slot whose newest task this is, when replicas are to go; the lowest is worth most."""
    if not _is_meant_to_run(task):
        return 4 if task.desired_state is DesiredState.REMOVED else 3
    return 0 if task.status.state is TaskState.RUNNING else 1 if task.node else 2


def _is_meant_to_run(task: Task) -> bool:
    return task.live and task.desired_state is DesiredState.RUNNING


def _is_told_its_number(spec: TaskSpec) -> bool:
    return any("Task.Slot" in text for text in (spec.options.hostname, *spec.environment.values()))


def is_done(task: Task, service: Service) -> bool:
    """True for the task of a job that ended as it should."""
    return task.status.state is TaskState.COMPLETE and not _has_successor(task, service)


def is_given_up(task: Task, service: Service) -> bool:
    """True for a failed task that is not tried again, until the service changes or is restarted."""
    return task.status.state in FAILED and not _has_successor(task, service)


def next_at(ended: Task, service: Service) -> float | None:
    """When the task that follows an ended one is made (seconds since 1970; the past: now); None if none follows."""
    if is_done(ended, service) or is_given_up(ended, service):
        return None
    failures = failures_in_a_row(ended) if is_wanted(ended, service) else 0
    least = service.spec.restart.delay_seconds if failures else 0.0
    return ended.status.since + max(least, backoff_seconds(failures))


def current(tasks: Iterable[Task], services: Mapping[str, Service], now: float) -> list[Task]:
    """The live tasks, and of a slot without one its last: a job that is done or given up, or a task that rests."""
    tasks = list(tasks)
    newest = {(task.service_key, task.slot): task for task in sorted(tasks, key=lambda one: (one.live, one.created_at))}

    def stands(task: Task) -> bool:
        service = services.get(task.service_key)
        if service is None or newest[task.service_key, task.slot] is not task:
            return False
        at = next_at(task, service)
        return at is None or at > now

    return [task for task in tasks if task.live or stands(task)]


def told(task: Task, service: Service | None, now: float) -> str:
    """A task's message, and what follows if it has ended: `exit code 3; 4 times in a row, next try in 4 s`."""
    if task.live or service is None:
        return task.status.message
    at, more = next_at(task, service), ""
    if is_given_up(task, service):
        more = f"not tried again: miniorch restart {service.key}"
    elif at is not None and at > now:
        times = failures_in_a_row(task)
        more = f"{f'{times} times in a row, ' if times > 1 else ''}next try in {math.ceil(at - now)} s"
    return "; ".join(filter(None, (task.status.message, more)))


def volumes_of(task: Task) -> list[str]:
    """The named volumes that a task mounts, as `app/name`; it can run only where they lie."""
    return [f"{task.app}/{mount.volume}" for mount in task.spec.mounts if mount.volume]


@lru_cache(1024)
def digest_of(placement: Placement) -> str:
    """Names the rules that bind a place; preferences and the strategy move nobody. Empty if there are none."""
    hard = tuple(one for one in placement.constraints if not one.weight)
    rules = replace(Placement(), constraints=hard, max_per_node=placement.max_per_node, platforms=placement.platforms)
    return "" if rules == Placement() else hashlib.blake2s(encode(rules), digest_size=6).hexdigest()


def unknown(task: Task, node: Node | None, now: float) -> str:
    """Why nobody knows what a live task does at this moment: its node does not answer. Empty if that is not so."""
    if node is None or node.state is NodeState.READY or not task.live:
        return ""
    since = max(0.0, now - node.state_since)
    words = f"was {task.status.state.value}; {node.name} is {node.state.value} since {since:.0f} s"
    if node.state is NodeState.DOWN and volumes_of(task):
        words += f" and has its volume {volumes_of(task)[0]}, so it waits: miniorch node inspect {node.name}"
    return words


def _has_successor(ended: Task, service: Service) -> bool:
    if not is_wanted(ended, service) or ended.desired_state is not DesiredState.RUNNING:
        return True  # what was told to go has not ended by itself, whatever it said last
    policy, state = service.spec.restart, ended.status.state
    if state is TaskState.COMPLETE and policy.condition is not Restart.ANY:
        return False
    if state is TaskState.FAILED and policy.condition is Restart.NEVER:
        return False
    return policy.max_attempts == 0 or failures_in_a_row(ended) <= policy.max_attempts
