"""Bugs in the store's client, the election, the loops and the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import miniorch.controllers.endpoints as endpoints
import miniorch.controllers.placement as placement
import miniorch.controllers.services as services
from miniorch.api.handlers import Handlers, StatusReport
from miniorch.api.nodes import Nodes
from miniorch.api.writing import Writing
from miniorch.codec import from_plain
from miniorch.controllers.liveness import Liveness
from miniorch.model import Availability, Cluster, DesiredState, NodeState, Task, TaskState
from miniorch.simulation.chaos import Case
from miniorch.simulation.store import LEADER, SimStore
from miniorch.state.records import Write, read
from miniorch.state.store import Compare, Operation
from miniorch.state.watchers import Watchers
from mutants import instead, mutant


@mutant("pause,freeze,partition,oneway")
def skip_the_epoch() -> Iterator[None]:
    """A loop writes without asking whether its server still leads."""
    right = SimStore.txn

    async def txn(self: SimStore, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        own = any(operation.key == LEADER for operation in operations)  # standing for election stays right
        kept = [one for one in compares if own or one.key != LEADER]
        return await right(self, kept, operations)

    with instead(SimStore, "txn", txn):
        yield


@mutant("crash,weather,rough")
def commit_without_compares() -> Iterator[None]:
    """Whoever writes last wins, whatever stood there when it decided."""
    right = SimStore.txn

    async def txn(self: SimStore, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        return await right(self, [one for one in compares if one.key == LEADER], operations)

    with instead(SimStore, "txn", txn):
        yield


@mutant("crash,reset,partition,weather")
def watch_from_one_too_far() -> Iterator[None]:
    """A watch that is resumed begins one revision too late."""
    right = Watchers.watch

    def watch(self: Watchers, prefix: str, after: int) -> Any:
        return right(self, prefix, after + 1)

    with instead(Watchers, "watch", watch):
        yield


@mutant("none", Case(0, nodes=2, servers=1, seconds=60.0, tasks=4))
def vips_without_the_clusters_record() -> Iterator[None]:
    """Two apps that are made at once compare only what is their own: both get the same service addresses."""
    right = Writing._commit

    async def commit(self: Writing, writes: list[Write]) -> int:
        return await right(self, [write for write in writes if not isinstance(write.item, Cluster)])

    with instead(Writing, "_commit", commit):
        yield


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
    with instead(placement, "request_for", lambda service, volumes: right(service, {})):
        yield


@mutant("kill,crash")
def next_before_the_last_has_ended() -> Iterator[None]:
    """A slot gets its next task as soon as the last one has been told to stop."""
    right = services._Look._step_slot

    def step(self: Any, number: int, tasks: list[Task], broken: int, chance: Any) -> int:
        leaving = (DesiredState.SHUTDOWN, DesiredState.REMOVED)
        return right(self, number, [one for one in tasks if one.desired_state not in leaving], broken, chance)

    with instead(services._Look, "_step_slot", step):
        yield


@mutant("none")
def stop_without_draining() -> Iterator[None]:
    """A task is told to stop while it takes traffic."""
    right = services._Look._retire

    def retire(self: Any, task: Task, goal: DesiredState, why: str) -> None:
        if task.node and task.live and task.desired_state is DesiredState.RUNNING:
            self._desire(task, goal, why)
        else:
            right(self, task, goal, why)

    with instead(services._Look, "_retire", retire):
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
        instead(endpoints, "_takes_traffic", lambda task: task.status.state.order >= TaskState.RUNNING.order),
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
    right = placement.node_views

    def views(cache: Any, without: str = "", now: float = 0.0) -> Any:
        seen = right(cache, without, now)
        return {
            name: replace(view, node=replace(view.node, ready=True, state=NodeState.READY))
            for name, view in seen.items()
        }

    with instead(placement, "node_views", views):
        yield


@mutant("clock,kill,fail", Case(0, nodes=1, servers=1, seconds=150.0))
def a_wait_outlasts_a_clock_that_is_set_back() -> Iterator[None]:
    """A slot rests until a moment of the wall clock, however far away that seems to be after the clock was set back."""
    with instead(services._Look, "_is_to_come", lambda self, at, wait_seconds: self.now < at):
        yield


@mutant("none")
def drained_nodes_get_tasks() -> Iterator[None]:
    """A node that is to be emptied is as good as any other."""
    right = placement.node_views

    def views(cache: Any, without: str = "", now: float = 0.0) -> Any:
        seen = right(cache, without, now)
        active = Availability.ACTIVE
        return {name: replace(view, node=replace(view.node, availability=active)) for name, view in seen.items()}

    with instead(placement, "node_views", views):
        yield


@mutant("partition,power")
def volumes_are_no_reason_to_wait() -> Iterator[None]:
    """A task with a volume gets a successor like any other when its node is away, although it runs on there."""
    with instead(services, "volumes_of", lambda task: []):
        yield


@mutant("partition,power")
def who_is_back_stays_beside_its_successor() -> Iterator[None]:
    """A task that was replaced while its node was away is not told to stop."""
    right = services._Look._retire

    def retire(self: Any, task: Task, goal: DesiredState, why: str) -> None:
        if not (why.endswith("is down") or " has slot " in why):
            right(self, task, goal, why)

    with instead(services._Look, "_retire", retire):
        yield
