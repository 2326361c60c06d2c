"""A world of a seed, from its begin to its end, for tests that tell their own story."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from miniorch.simulation.engine import FakeEngine
from miniorch.simulation.loop import run
from miniorch.simulation.world import World


def simulate(
    seed: int,
    story: Callable[[World], Awaitable[None]],
    nodes: int = 1,
    engine: type[FakeEngine] = FakeEngine,
    servers: int = 1,
) -> str:
    """Run a story; the digest of its history. Raises `PromiseBroken`."""

    async def whole() -> str:
        world = World(seed, nodes, engine, servers)
        await world.begin()
        await story(world)
        return await world.end()

    return run(whole(), seed=seed, until=100_000)
