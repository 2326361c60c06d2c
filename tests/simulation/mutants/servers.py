"""Bugs in the store's client, the election, the loops and the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import miniorch.controllers.endpoints as endpoints
import miniorch.controllers.placement as placement
import miniorch.controllers.services as services
import miniorch.slots as slots
import scheduler.filters as filters
from miniorch.api.handlers import Handlers, StatusReport
from miniorch.api.nodes import Nodes
from miniorch.api.writing import Writing
from miniorch.codec import from_plain
from miniorch.controllers.cache import Cache
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.queue import Key, WorkQueue
from miniorch.model import Cluster, DesiredState, Task, TaskState
from miniorch.simulation.chaos import Case
from miniorch.simulation.store import LEADER, SimStore
from miniorch.state.records import Write, read
from miniorch.state.store import Compare, Operation
from miniorch.state.watchers import Watchers
from mutants import instead, mutant


@mutant("pause,freeze,partition,oneway", at=(SimStore, "txn"))
async def skip_the_epoch(
    right: Any, self: SimStore, compares: Sequence[Compare], operations: Sequence[Operation]
) -> int | None:
    """A loop writes without asking whether its server still leads."""
    own = any(operation.key == LEADER for operation in operations)  # standing for election stays right
    kept = [one for one in compares if own or one.key != LEADER]
    return await right(self, kept, operations)


@mutant("crash,weather,rough", at=(SimStore, "txn"))
async def commit_without_compares(
    right: Any, self: SimStore, compares: Sequence[Compare], operations: Sequence[Operation]
) -> int | None:
    """Whoever writes last wins, whatever stood there when it decided."""
    return await right(self, [one for one in compares if one.key == LEADER], operations)


@mutant("crash,reset,partition,weather", at=(Watchers, "watch"))
def watch_from_one_too_far(right: Any, self: Watchers, prefix: str, after: int) -> Any:
    """A watch that is resumed begins one revision too late."""
    return right(self, prefix, after + 1)


@mutant("none", Case(0, nodes=2, servers=1, seconds=60.0, tasks=4), at=(Writing, "_commit"))
async def vips_without_the_clusters_record(right: Any, self: Writing, writes: list[Write]) -> int:
    """Two apps that are made at once compare only what is their own: both get the same service addresses."""
    return await right(self, [write for write in writes if not isinstance(write.item, Cluster)])


@mutant("none", Case(0, nodes=8, servers=1, seconds=60.0))
def subnets_without_the_clusters_record() -> Iterator[None]:
    """Two nodes that register at once compare only what is their own: both get the same subnet."""
    right = Nodes._join

    async def join(self: Nodes, name: str, registration: Any) -> Any:
        self._joining = asyncio.Lock()  # one for each, which keeps out nobody
        return await right(self, name, registration)

    with instead(Nodes, "_join", join), vips_without_the_clusters_record():
        yield


@mutant("weather")
def status_goes_backwards() -> Iterator[None]:
    """A report that comes late is written although a newer one has come before."""

    async def statuses(self: Handlers, call: Any) -> Any:
        for report in [from_plain(StatusReport, plain) for plain in call.body or ()]:
            task = await read(self._store, Task, report.task)
            if task is not None:
                await self._commit([Write(replace(task.item, status=report.status), task.modified)])
        return {}

    with instead(Handlers, "statuses", statuses):
        yield


@mutant("kill,crash")
def start_before_what_is_needed() -> Iterator[None]:
    """Nobody waits for what a service depends on."""
    with instead(placement, "unmet_dependencies", lambda service, cache: []):
        yield


@mutant("kill,power,crash")
def volume_on_a_second_node() -> Iterator[None]:
    """The place of a volume is forgotten when its task is placed anew."""
    right = placement.request_for
    with instead(placement, "request_for", lambda service, cache: replace(right(service, cache), volumes={})):
        yield


@mutant("kill,crash", at=(services._Look, "_step_slot"))
def next_before_the_last_has_ended(
    right: Any, self: Any, number: int, tasks: list[Task], broken: int, chance: Any
) -> int:
    """A slot gets its next task as soon as the last one has been told to stop."""
    leaving = (DesiredState.SHUTDOWN, DesiredState.REMOVED)
    return right(self, number, [one for one in tasks if one.desired_state not in leaving], broken, chance)


@mutant("none", at=(services._Look, "_retire"))
def stop_without_draining(right: Any, self: Any, task: Task, goal: DesiredState, why: str) -> None:
    """A task is told to stop while it takes traffic."""
    if task.node and task.live and task.desired_state is DesiredState.RUNNING:
        self._desire(task, goal, why)
    else:
        right(self, task, goal, why)


@mutant("none", at=(services._Look, "_drained"))
def nobody_waits_for_proxies(right: Any, self: Any, task: Task) -> bool:
    """A task that leaves traffic is told to stop before the proxies know of it."""
    return True


@mutant("none")
def traffic_before_the_health_check() -> Iterator[None]:
    """A task takes traffic as soon as its container runs."""
    early = (TaskState.STARTING, TaskState.RUNNING)
    with instead(endpoints, "_takes_traffic", lambda task, node: task.status.state in early):
        yield


@mutant("fail,kill,pull")
def failures_are_forgotten() -> Iterator[None]:
    """A slot that fails gets its next task at once, however often it has failed."""
    with (
        instead(services, "next_at", lambda last, service: 0.0),
        instead(services, "failures_in_a_row", lambda last: 1),
    ):
        yield


@mutant("fail")
def jobs_run_again() -> Iterator[None]:
    """What follows an end does not depend on the service's restart policy."""
    with instead(services, "next_at", lambda last, service: last.status.since + 1.0):
        yield


@mutant("kill,sick")
def dead_backends_stay() -> Iterator[None]:
    """Endpoints name a task that has ended."""
    visible = (*endpoints.VISIBLE, TaskState.FAILED, TaskState.SHUTDOWN)
    with (
        instead(endpoints, "VISIBLE", visible),
        instead(endpoints, "_takes_traffic", lambda task, node: task.status.state.order >= TaskState.RUNNING.order),
    ):
        yield


@mutant("crash,pause,partition")
def no_grace() -> Iterator[None]:
    """Who begins to lead counts the time in which it did not listen, and gives up every node that it has not heard."""
    with instead(Liveness, "grace", lambda self: None), instead(Liveness, "_late", lambda self: 0.0):
        yield


@mutant("crash,partition")
def unready_nodes_get_tasks() -> Iterator[None]:
    """A node that is silent is as good as any other."""
    with instead(filters.FILTERS[0], "passes", lambda *_: True):  # "ready"
        yield


@mutant("clock,kill,fail", Case(0, nodes=1, servers=1, seconds=150.0))
def a_wait_outlasts_a_clock_that_is_set_back() -> Iterator[None]:
    """A slot rests until a moment of the wall clock, however far away that seems to be after the clock was set back."""
    with instead(services._Look, "_is_to_come", lambda self, at, wait_seconds: self.now < at):
        yield


@mutant("clock,crash", Case(0, nodes=1, servers=3, seconds=150.0))
def how_long_a_task_ran_is_read_from_two_clocks() -> Iterator[None]:
    """A failure counts anew if its report came, by one server's clock, long after the task was made by another's."""

    def failures(ended: Task) -> int:
        ran_well = ended.status.since - ended.created_at >= slots.STEADY_SECONDS
        return 1 if ran_well else ended.attempt + 1

    with instead(slots, "failures_in_a_row", failures), instead(services, "failures_in_a_row", failures):
        yield


@mutant("rough", at=(WorkQueue, "failed"))
def a_key_that_failed_is_never_tried_again(right: Any, self: WorkQueue, key: Key) -> None:
    """What could not be written, because the store was away, waits for the next change of the same thing."""


@mutant("compact,restore,kill")
def a_cache_that_is_listed_anew_keeps_what_is_gone() -> Iterator[None]:
    """Who missed changes reads all that there is, and forgets nothing of what is not there any more."""
    right = Cache._load

    async def load(self: Cache, store: Any, on_change: Any) -> None:
        self._drop = lambda path, on_change: None  # type: ignore[method-assign]
        try:
            await right(self, store, on_change)
        finally:
            del self._drop

    with instead(Cache, "_load", load):
        yield


@mutant("restore,compact", at=(services._Look, "_is_outdated"))
def who_left_traffic_for_a_forgotten_word_stays(right: Any, self: Any, task: Task) -> str:
    """A task stays out of traffic for ever that has left it for a store which was restored since."""
    return "" if task.status.state is TaskState.DRAINING else right(self, task)


@mutant("none")
def drained_nodes_get_tasks() -> Iterator[None]:
    """A node that is to be emptied is as good as any other."""
    with instead(filters.FILTERS[1], "passes", lambda *_: True):  # "drain"
        yield


@mutant("partition,power")
def volumes_are_no_reason_to_wait() -> Iterator[None]:
    """A task with a volume gets a successor like any other when its node is away, although it runs on there."""
    with instead(services, "volumes_of", lambda task: []):
        yield


@mutant("partition,power", at=(services._Look, "_retire"))
def who_is_back_stays_beside_its_successor(right: Any, self: Any, task: Task, goal: DesiredState, why: str) -> None:
    """A task that was replaced while its node was away is not told to stop."""
    if not (why.endswith("is down") or " has slot " in why):
        right(self, task, goal, why)
