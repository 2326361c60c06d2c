"""The whole cluster, by seed: every process is killed, and every promise is kept at every step.

A failure prints its seed, the moment, the broken promise and what happened before. `SEED=17 pytest
tests/simulation/test_simulation.py -k one_seed` shows one run again.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agent.engine import Container
from miniorch.codec import to_plain
from miniorch.simulation.chaos import APP, Day, Fault, dockchat, draw
from miniorch.simulation.engine import FakeEngine
from miniorch.simulation.world import PromiseBroken, World, simulate

TROUBLE_SECONDS, QUIET_SECONDS = 70.0, 50.0


async def bad_day(world: World) -> None:
    faults = draw(world.chance("faults"), world.processes, world.nodes, TROUBLE_SECONDS, count=16)
    await Day(world, faults, TROUBLE_SECONDS, QUIET_SECONDS).live()


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("seed", range(30))
def test_cluster_keeps_every_promise_through_a_bad_day(seed: int, nodes: int) -> None:
    simulate(seed, bad_day, nodes)


def test_one_seed_is_one_history() -> None:
    seed = int(os.environ.get("SEED", "17"))
    assert simulate(seed, bad_day, 3) == simulate(seed, bad_day, 3)
    assert simulate(seed, bad_day, 3) != simulate(seed + 1, bad_day, 3)


def test_one_seed_is_one_history_in_every_python_process() -> None:
    """Sets of text are ordered differently in every process: nothing may depend on it."""
    program = (
        "from tests.simulation.test_simulation import bad_day\n"
        "from miniorch.simulation.world import simulate\n"
        "print(simulate(5, bad_day, 2))\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(told[0].strip()) == 64


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
            await asyncio.sleep(world.chance(process).uniform(0.1, 20.0))
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
        await Day(world, [Fault(0.0, "fail", "setup", 30.0), Fault(60.0, "restart", "setup")], 50.0, 30.0).live()
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
