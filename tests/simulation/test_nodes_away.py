"""Nodes that are cut off, lost, drained and removed, on virtual time."""

from __future__ import annotations

import asyncio

import pytest
from whole_run import simulate

from miniorch.codec import to_plain
from miniorch.errors import Conflict
from miniorch.model import NodeState, Task, TaskState
from miniorch.simulation.day import APP, Day
from miniorch.simulation.world import World
from miniorch.spec import AppSpec, Mount, ServiceSpec, TaskSpec

DOWN_SECONDS, REPLACED_SECONDS = 5.0, 8.0
PLAIN = AppSpec({"web": ServiceSpec(TaskSpec("fleet"), replicas=6)})


async def until(holds: object, seconds: float) -> float:
    """Virtual seconds until a condition holds. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.05)
    return loop.time() - began


async def run(world: World, app: AppSpec = PLAIN) -> None:
    await until(lambda: len(world.picture().nodes) == len(world.nodes), 10.0)  # or the first ones get everything
    await world.ask("PUT", "/v1/apps/shop", to_plain(app))
    wanted = sum(one.replicas for one in app.services.values())
    await until(lambda: sum(one.app == "shop" for one in running(world)) == wanted, 60.0)


def running(world: World, node: str = "") -> list[Task]:
    tasks = world.picture().tasks.values()
    return [one for one in tasks if one.status.state is TaskState.RUNNING and node in ("", one.node)]


def boxes(world: World, node: str) -> set[str]:
    return {box.id for on, box in world.picture().running if on == node}


def state(world: World, node: str) -> NodeState:
    return world.picture().nodes[node].state


@pytest.mark.parametrize("seed", range(3))
def test_cut_node_is_down_and_its_tasks_run_elsewhere_within_seconds(seed: int) -> None:
    async def story(world: World) -> None:
        await run(world)
        await asyncio.sleep(10 + seed * 0.3)
        kept = boxes(world, "node2")
        assert kept
        world.cut("node2", True)
        down = await until(lambda: state(world, "node2") is NodeState.DOWN, 10.0)
        elsewhere = lambda: len(running(world, "node1")) + len(running(world, "node3"))  # noqa: E731
        replaced = down + await until(lambda: elsewhere() == 6, 10.0)
        assert down <= DOWN_SECONDS
        assert replaced <= REPLACED_SECONDS
        await asyncio.sleep(60)
        assert boxes(world, "node2") == kept  # it serves on, whoever can reach it
        world.cut("node2", False)
        await until(lambda: not boxes(world, "node2"), 15.0)
        await asyncio.sleep(20)
        assert state(world, "node2") is NodeState.READY
        assert len(running(world)) == 6

    simulate(20 + seed, story, nodes=3)


def test_node_that_is_slow_for_a_moment_is_not_called_down() -> None:
    async def story(world: World) -> None:
        await run(world)
        for node in world.nodes:
            world.cut(node, True)
            await asyncio.sleep(3.2)
            world.cut(node, False)
            await asyncio.sleep(3)
        assert not [line for line in world.log if ": down" in line]

    simulate(24, story, nodes=3)


def test_leader_that_stands_still_and_goes_on_calls_nobody_down() -> None:
    async def story(world: World) -> None:
        await run(world)
        world.pause("server1")
        await asyncio.sleep(6.0)
        world.go_on("server1")
        await asyncio.sleep(30)
        assert not [line for line in world.log if ": down" in line or ": unreachable" in line]

    simulate(25, story, nodes=3)


def test_task_with_a_volume_waits_for_its_node_and_goes_on_in_the_same_container() -> None:
    async def story(world: World) -> None:
        app = AppSpec({"db": ServiceSpec(TaskSpec("fleet", mounts=(Mount("data", "/data"),)))}, ("data",))
        await run(world, app)
        node = running(world)[0].node
        kept = boxes(world, node)
        world.cut(node, True)
        await asyncio.sleep(60)
        assert state(world, node) is NodeState.DOWN
        assert len(world.picture().tasks) == 1
        world.cut(node, False)
        await asyncio.sleep(30)
        assert boxes(world, node) == kept

    simulate(26, story, nodes=3)


def test_task_that_must_be_the_only_one_has_ended_before_its_successor_starts() -> None:
    async def story(world: World) -> None:
        solo = TaskSpec("fleet", stop_after_seconds=20.0, stop_grace_seconds=1.0)
        await run(world, AppSpec({"solo": ServiceSpec(solo)}))
        node = running(world)[0].node
        world.cut(node, True)
        stopped = await until(lambda: not boxes(world, node), 40.0)
        assert abs(stopped - 20.0) <= 2.0
        started = stopped + await until(lambda: len(world.picture().running) == 1, 40.0)
        assert started > stopped + 2.0
        world.cut(node, False)
        await asyncio.sleep(30)
        assert [task.node for task in running(world)] != [node]
        assert len(world.picture().running) == 1

    simulate(27, story, nodes=3)


def test_drained_node_is_empty_and_no_moment_had_a_task_too_few() -> None:
    async def story(world: World) -> None:
        await run(world)
        await world.ask("PATCH", "/v1/nodes/node2", {"availability": "drain"})
        least = 6

        def empty() -> bool:
            nonlocal least
            least = min(least, len(running(world)))
            return not boxes(world, "node2")

        await until(empty, 60.0)
        assert least == 6
        await world.ask("PUT", "/v1/services/shop/web/replicas", {"replicas": 12})
        await until(lambda: len(running(world)) == 12, 60.0)
        assert not boxes(world, "node2")
        await world.ask("PATCH", "/v1/nodes/node2", {"availability": "active", "labels": {"zone": "b"}})
        assert world.picture().nodes["node2"].labels == {"zone": "b"}
        await asyncio.sleep(30)

    simulate(28, story, nodes=3)


def test_removed_node_loses_its_tasks_and_may_join_anew() -> None:
    async def story(world: World) -> None:
        await run(world)
        with pytest.raises(Conflict, match="node2 is ready and has"):
            await world.ask("DELETE", "/v1/nodes/node2")
        await world.power_off("node2")
        await until(lambda: state(world, "node2") is NodeState.DOWN, 10.0)
        await world.ask("DELETE", "/v1/nodes/node2")
        await until(lambda: len(running(world)) == 6 and not running(world, "node2"), 20.0)
        assert "node2" not in world.picture().nodes
        world.power_on("node2")
        await asyncio.sleep(40)
        assert state(world, "node2") is NodeState.READY

    simulate(29, story, nodes=3)


def test_app_that_is_removed_while_a_node_is_away_leaves_nothing_there() -> None:
    async def story(world: World) -> None:
        await Day(world, [], 30.0, 0.0).live()
        await run(world)
        world.cut("node2", True)
        await asyncio.sleep(10)
        await world.ask("DELETE", "/v1/apps/shop")
        await until(lambda: "shop/web" not in world.picture().services, 30.0)
        world.cut("node2", False)
        await asyncio.sleep(40)
        assert not [box for _, box in world.picture().running if APP not in box.spec.name]

    simulate(30, story, nodes=3)
