"""What else a simulated node has besides an engine: a disk, and a proxy in front of its published ports.

Both belong to the machine and survive its agent, and both take a moment, so that an agent can die in the middle. Next
file: `miniorch/simulation/invariants.py`.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from miniorch.clock import Clock
from miniorch.errors import EngineError
from miniorch.model import Endpoints
from miniorch.simulation.engine import FakeEngine


class FakeFiles:
    """`agent/files.py`'s protocol: folders by path."""

    def __init__(self, chance: random.Random, stirred: Callable[[], None] = lambda: None) -> None:
        self._chance = chance
        self._stirred = stirred  # told when something is removed
        self.folders: dict[str, str] = {}  # path -> what is in it

    async def make_volume(self, key: str) -> str:
        await self._pause()
        self.folders.setdefault(f"/volumes/{key}/data", "")
        return f"/volumes/{key}/data"

    async def remove_volume(self, key: str) -> None:
        await self._pause()
        self.folders.pop(f"/volumes/{key}/data", None)
        self._stirred()
        await self._pause()

    async def must_exist(self, path: str) -> None:
        await self._pause()
        if path.startswith("/missing"):
            raise EngineError(f"there is no {path} on this machine")

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.02))


class FakeIngress:
    """`agent/ingress.py`'s protocol: remembers what it was told last. Set `held` to have ports in foreign hands."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.held: dict[int, str] = {}
        self.endpoints: tuple[Endpoints, ...] = ()

    async def apply(self, endpoints: Sequence[Endpoints]) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.1))
        self.endpoints = tuple(endpoints)

    def __iter__(self) -> Iterator[Endpoints]:
        return iter(self.endpoints)

    async def ports_in_use(self) -> Mapping[int, str]:
        return dict(self.held)


class Machine:
    """One node without its processes."""

    def __init__(
        self, clock: Clock, chance: random.Random, engine: type[FakeEngine] = FakeEngine, name: str = ""
    ) -> None:
        self.engine = engine(clock, chance, name)
        self.files = FakeFiles(chance, lambda: self.engine.stirred(name))
        self.ingress = FakeIngress(chance)

    def power_off(self) -> None:
        """Whatever runs has ended; the disk stays."""
        self.engine.power_off()
        self.ingress.endpoints = ()
