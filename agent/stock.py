"""Which images are on this node, for who places tasks near them (`affinity: image == redis`).

Every node hears of every node, so the news must be small and rare: the names of the newest hundred, in an order that
one more does not upset, with the next heartbeat after they have changed. The engine is asked after each image that we
have fetched, and once a minute, since others fetch and remove some, too.

Who does this for real: a kubelet reports the fifty largest with each status.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from agent.engine import Engine
from miniorch.errors import EngineError

LOOK_SECONDS = 60.0
NAMES_TOLD = 100


class Stock:
    """The images of one engine. `told` is what the server knows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = asyncio.Event()
        self.names: Sequence[str] = []
        self.told: Sequence[str] = []

    async def look(self) -> Sequence[str]:
        """Ask the engine now. May raise `EngineError`."""
        self.names = sorted((await self._engine.image_names())[:NAMES_TOLD])
        return self.names

    def has_changed(self) -> None:
        """An image was fetched."""
        self._changed.set()

    async def run(self) -> None:
        """Look again, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            with contextlib.suppress(EngineError):  # the agent says it
                await self.look()
