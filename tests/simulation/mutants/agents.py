"""Bugs in the agent, and in how it speaks with the server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import agent.agent as agent_module
import agent.execute as execute
import agent.reconcile as reconcile
from agent.actions import Create
from agent.agent import Agent
from agent.engine import Container, ContainerSpec
from agent.execute import Executor
from agent.reconcile import Known
from agent.report import Reporter
from miniorch.errors import EngineError
from miniorch.model import DesiredState, Task, Volume
from miniorch.simulation.chaos import Case
from miniorch.simulation.engine import Box, FakeEngine
from mutants import instead, mutant


def own(containers: Sequence[Container], known: Known) -> list[Container]:
    """Those for which this very agent has fetched the image."""
    return [one for one in containers if one.task in known.images]


@mutant("crash")
def containers_are_not_adopted() -> Iterator[None]:
    """An agent that starts takes what runs for gone."""
    right = reconcile.plan

    def plan(tasks: Sequence[Task], containers: Sequence[Container], known: Known, now: float) -> Any:
        return right(tasks, own(containers, known), known, now)

    with instead(agent_module, "plan", plan):
        yield


@mutant("crash")
def started_twice_after_adoption() -> Iterator[None]:
    """An agent that starts makes a second container for a task that has one, and under another name."""
    right, step = FakeEngine.create, reconcile._next_step

    async def create(self: FakeEngine, spec: ContainerSpec) -> str:
        there = {box.id for box in self.boxes.values()}
        container = await right(self, spec)
        if container in there:  # the engine has said that the name is taken
            twin = Box(f"{container}2", spec, self._behaviour("fleet"))
            self.boxes[twin.id] = twin
            self._tell()
            return twin.id
        return container

    def next_step(task: Task, container: Container | None, known: Known) -> Any:
        fresh = container is not None and container.running and task.id not in known.images
        wanted = task.live and task.desired_state is DesiredState.RUNNING and task.status.image_id
        return Create(task, task.status.image_id) if fresh and wanted else step(task, container, known)

    with instead(reconcile, "_next_step", next_step), instead(FakeEngine, "create", create):
        yield


@mutant("crash", at=(Agent, "__init__"))
def empty_is_taken_for_none(right: Any, self: Agent, *args: Any, **kwargs: Any) -> None:
    """An agent that has not heard of its tasks yet removes all containers, for they seem to be nobody's."""
    right(self, *args, **kwargs)
    self._tasks = {}
    self._endpoints = self._endpoints or agent_module.Snapshot(0, {})


@mutant("kill,crash")
def address_freed_too_early() -> Iterator[None]:
    """An address is free as soon as its task has been told to stop, and the lowest free one is given."""
    right, choose = Executor._reserve_address, execute.choose

    def reserve(self: Executor, task: Task) -> str:
        staying = {one.id for one in self._tasks() if one.desired_state is DesiredState.RUNNING}
        containers, tasks = self.containers, self._tasks
        self.containers = {key: one for key, one in containers.items() if one.task in staying}
        self._tasks = lambda: [one for one in tasks() if one.id in staying]
        self._freed.clear()
        try:
            return right(self, task)
        finally:
            self.containers, self._tasks = containers, tasks

    def lowest(subnet: str, taken: Collection[str], freed: Mapping[str, float], last: str, now: float) -> str:
        return choose(subnet, taken, freed, "", now)

    with instead(Executor, "_reserve_address", reserve), instead(execute, "choose", lowest):
        yield


@mutant("kill,crash", at=(execute, "choose"))
def addresses_do_not_rest(
    choose: Any, subnet: str, taken: Collection[str], freed: Mapping[str, float], last: str, now: float
) -> str:
    """The lowest free address is given, whoever had it a moment ago."""
    return choose(subnet, taken, {}, "", now)


@mutant("weather,partition", Case(0, nodes=2, servers=1, seconds=120.0))
def sent_is_taken_for_heard() -> Iterator[None]:
    """A report whose answer was lost is never said again."""
    right = Reporter.run

    async def run(self: Reporter) -> None:
        request = self._transport.request

        class Once:
            async def request(inner, *args: Any) -> Any:
                try:
                    return await request(*args)
                except Exception:
                    return None

        self._transport = Once()  # type: ignore[assignment]
        await right(self)

    with instead(Reporter, "run", run), instead(Reporter, "compare", lambda self, tasks: None):
        yield


@mutant("none")
def volume_removed_under_its_container() -> Iterator[None]:
    """The data of an app that is removed goes at once, whether or not a container still writes."""

    def to_remove(volumes: Sequence[Volume], tasks: Sequence[Task], containers: Sequence[Container]) -> list[Volume]:
        return list(volumes)

    with instead(agent_module, "to_remove", to_remove):
        yield


@mutant("engine,slow,kill", at=(reconcile, "_towards_shutdown"))
def told_to_stop_is_taken_for_stopped(right: Any, task: Task, container: Container | None) -> Any:
    """SHUTDOWN is reported when the container has been told to stop, and not when it has ended."""
    return right(task, container and replace(container, running=False, exit_code=0))


@mutant("engine,deaf,refuse", Case(0, nodes=1, servers=1, seconds=150.0), at=(Executor, "failed"))
def an_engine_that_is_away_means_failed(right: Any, self: Executor, action: Any, error: EngineError) -> bool:
    """An error of the engine that trying again would cure ends the task."""
    return right(self, action, EngineError(error.message))


@mutant("kill", at=(reconcile, "_conclude"))
def probes_stay_healthy(right: Any, task: Task, container: Container, avx: bool) -> Any:
    """A status that was seen once is reported for ever, also of a container that has died."""
    return None if task.status.health == "healthy" else right(task, container, avx)
