"""The whole cluster, by seed: whatever breaks, every promise is kept at every step, and all is well in the end.

A failure says how it is shown again: `miniorch simulate --seed N`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from whole_run import simulate

from agent.engine import Container
from miniorch.codec import decode, to_plain
from miniorch.errors import Temporary
from miniorch.model import Leader, NodeState
from miniorch.simulation.chaos import KINDS, Case, Fault
from miniorch.simulation.command import command, failure, live, many
from miniorch.simulation.day import APP, Day, dockchat
from miniorch.simulation.engine import FakeEngine
from miniorch.simulation.world import PromiseBroken, World

SHORT = Case(17, nodes=3, servers=3, seconds=120.0).with_faults(KINDS)


def test_cluster_keeps_every_promise_through_sixty_bad_days() -> None:
    """Five minutes each on five nodes, with one server and with three."""
    cases = [Case(seed, 5, 1 + 2 * (seed % 2), 300.0).with_faults(KINDS) for seed in range(60)]
    for outcome in many(cases, os.cpu_count() or 1, lambda at, story: None):
        assert not outcome.promises, failure(outcome, outcome.case, command(outcome.case))


def test_one_seed_is_one_history() -> None:
    assert live(SHORT).hash == live(SHORT).hash != live(replace(SHORT, seed=18)).hash


def test_one_seed_is_one_history_in_every_python_process() -> None:
    """Sets of text are ordered differently in every process: nothing may depend on it."""
    program = "from test_simulation import SHORT, live; print(live(SHORT).hash)"
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(told[0].strip()) == 64


def containers(world: World) -> dict[str, float]:
    """All that run, and since when."""
    return {box.id: box.started_at for _, box in world.picture().running}


def leader(world: World) -> str:
    entry = world.store.leader()
    return decode(Leader, entry.value).name if entry else ""


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_wall_clock_that_jumps_an_hour_touches_nothing(seconds: float) -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        before, at = containers(world), len(world.log)
        for machine in world.clocks:
            world.clocks[machine].jump(seconds)
            await asyncio.sleep(20)
        assert containers(world) == before
        assert not any("not ready" in line for line in world.log[at:])
        for node in world.nodes:  # and what fails now is still replaced
            for _, box in [place for place in world.picture().running if place[0] == node]:
                world.machines[node].engine.kill(box.spec.task)
        await asyncio.sleep(60)

    simulate(6, story, nodes=2, servers=3)


def test_store_that_is_away_for_ten_minutes_touches_no_container() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        before = containers(world)
        world.store.freeze()
        await asyncio.sleep(600)
        assert containers(world) == before
        world.store.thaw()
        await asyncio.sleep(30)
        assert containers(world) == before

    simulate(7, story, nodes=3, servers=3)


def test_leader_that_stands_still_is_replaced_and_writes_nothing_when_it_goes_on() -> None:
    async def story(world: World) -> None:
        day = Day(world, [], 30.0, 0.0)
        await day.live()
        first = leader(world)
        world.pause(first)
        await asyncio.sleep(60)
        second = leader(world)
        assert second not in ("", first)
        world.go_on(first)
        await world.ask("PUT", f"/v1/services/{APP}/web/replicas", {"replicas": 4})
        await asyncio.sleep(30)
        assert leader(world) == second

    simulate(8, story, nodes=2, servers=3)


def test_node_that_loses_its_power_runs_its_tasks_again_when_it_is_back() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        await world.power_off("node1")
        await asyncio.sleep(20)
        assert not [place for place in world.picture().running if place[0] == "node1"]
        assert world.picture().nodes["node1"].state is NodeState.DOWN
        world.power_on("node1")
        await asyncio.sleep(60)

    simulate(9, story)


def test_store_without_space_refuses_wishes_and_everything_else_goes_on() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        before = containers(world)
        world.store.full = True
        with pytest.raises(Temporary, match="no space"):
            await world.user.request("PUT", f"/v1/services/{APP}/web/replicas", {"replicas": 4})
        assert len((await world.ask("GET", "/v1/tasks"))["items"]) >= 3
        await asyncio.sleep(120)
        assert containers(world) == before
        world.store.full = False
        await world.ask("PUT", f"/v1/services/{APP}/web/replicas", {"replicas": 3})
        await asyncio.sleep(60)

    simulate(10, story, servers=3)


def test_quiet_day_ends_with_the_app_running_and_a_removed_app_leaves_nothing() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        picture = world.picture()
        names = {task.name: task.status.state.value for task in picture.tasks.values()}
        assert {name for name, state in names.items() if state == "running"} == {"db.1", "web.1", "web.2"}
        assert names["setup.1"] == "complete"
        assert len(picture.running) == 3
        await world.ask("DELETE", f"/v1/apps/{APP}?volumes=1")
        await asyncio.sleep(40)
        picture = world.picture()
        assert not picture.tasks
        assert not picture.services
        assert not picture.volumes
        assert not any(picture.boxes.values())
        assert not any(picture.folders.values())

    simulate(1, story)


def test_processes_that_restart_at_rest_touch_no_container() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        before = {box.id: box.started_at for boxes in world.picture().boxes.values() for box in boxes}
        for process in world.processes * 3:
            await world.crash(process)
            await asyncio.sleep(world.chance(process).uniform(0.1, 2.0))  # longer, and its node is given up
            world.restart(process)
            await asyncio.sleep(3)
        await asyncio.sleep(20)
        assert {box.id: box.started_at for boxes in world.picture().boxes.values() for box in boxes} == before

    simulate(2, story, nodes=2)


def test_database_that_dies_comes_back_on_the_same_node_with_its_volume() -> None:
    async def story(world: World) -> None:
        faults = [Fault(25.0, "kill", node) for node in world.nodes]
        await Day(world, faults, 30.0, 30.0).live()
        picture = world.picture()
        (volume,) = picture.volumes.values()
        nodes = {task.node for task in picture.tasks.values() if task.service == "db"}
        assert nodes == {volume.node}

    simulate(3, story, nodes=3)


def test_web_waits_for_its_setup_and_a_restart_runs_the_job_once_more() -> None:
    async def story(world: World) -> None:
        await Day(world, [Fault(0.0, "fail", "setup", 30.0), Fault(60.0, "restart", "setup")], 70.0, 30.0).live()
        setup = [line for line in world.log if "setup.1" in line]
        assert sum("failed" in line and "created" not in line for line in setup) > 1
        complete = [index for index, line in enumerate(world.log) if "setup.1: complete" in line]
        assigned = next(index for index, line in enumerate(world.log) if "web.1: assigned" in line)
        assert len(complete) == 2
        assert complete[0] < assigned < complete[1]

    simulate(5, story, nodes=2)


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_join_and_apps_that_come_at_once_share_no_address(seed: int) -> None:
    async def story(world: World) -> None:
        apps = [
            world.ask("PUT", f"/v1/apps/app{number}", to_plain(dockchat(1, port=5000 + number))) for number in range(5)
        ]
        await asyncio.gather(*apps)
        await asyncio.sleep(60)
        assert len({service.vip for service in world.picture().services.values()}) == 10

    simulate(seed, story, nodes=5)


class LyingEngine(FakeEngine):
    """Says of a container that was told to stop that it has ended, and lets it run."""

    async def stop(self, container: str, grace_seconds: float) -> None:
        self.lies = {*getattr(self, "lies", ()), container}

    async def containers(self) -> list[Container]:
        lies = getattr(self, "lies", ())
        seen = await super().containers()
        return [replace(one, running=False, exit_code=143) if one.id in lies else one for one in seen]


def test_checker_notices_an_engine_that_lies() -> None:
    async def story(world: World) -> None:
        await Day(world, [Fault(25.0, "change", "2")], 30.0, 30.0).live()

    with pytest.raises(PromiseBroken, match="is shutdown and runs"):
        simulate(4, story, engine=LyingEngine)
