"""Images from the other nodes: no registry is needed, and nothing is built twice.

The problem: an image that was built on one node, or loaded by hand there, must run on every node, also in a classroom
without an uplink. The idea: before a node pulls or builds an image it asks the others. Whoever has it sends it as
`docker save` writes it, over the agents' own mutual TLS; who is just making it is waited for. Of two that ask each
other at the same moment, the one whose name comes first makes it.

Layers that are here do not travel (`agent/layers.py`); if the engine misses one after all, the whole image comes.

An answer is a hint: a node that cannot be reached, or breaks off, is passed over, and at last the image is pulled or
built here as on a cluster of one. Who does this for real: k3s and Spegel, peer to peer. Where we differ: archives
instead of a registry's API, which needs no second name for an image.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlencode

from agent.engine import Progress
from agent.images import bases
from agent.layers import shared
from miniorch.errors import EngineError, MiniorchError
from miniorch.exchange import Exchange
from miniorch.identity import AGENT_PORT
from miniorch.model import Node, NodeState
from miniorch.spec import Build

log = logging.getLogger("agent")

ANSWER_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.5
STALLED_SECONDS = 30.0
PACKING_SECONDS = 300.0  # until the first piece: Docker packs all of an image before it sends any, some 50 MB a second
SENDING_AT_ONCE = 2
ASKING, MAKING = "asking", "making"


class Images(Protocol):
    """The images of this node's engine. Every method may raise `EngineError`."""

    async def find(self, image: str) -> tuple[str, Sequence[str]]:
        """The id of an image and the digests of its layers, from the bottom up; "" and none if it is not here."""

    async def layers(self) -> list[Sequence[str]]:
        """The same digests of each image that is here."""

    def save(self, image: str, but: int = 0) -> AsyncIterator[bytes]:
        """All of it as a tar stream, but for so many of its lowest layers."""

    async def load(self, tar: AsyncIterator[bytes]) -> None:
        """Take in what `save` gave on another node, with its name."""


def url_of(node: Node) -> str:
    """Where a node's agent listens: its name is checked against its certificate."""
    return f"https://{node.name}@{node.address}:{AGENT_PORT}"


def _dockerfile(build: Build) -> str:
    """Its text; nothing if it cannot be read, which the build itself says."""
    try:
        return Path(build.context, build.dockerfile).read_text(errors="replace")
    except OSError:
        return ""


@dataclass(eq=False)
class Peers:
    """What the nodes of a cluster have for each other. `nodes` is set anew whenever it changes."""

    _images: Images
    _name: str
    _url_of: Callable[[Node], str] = url_of
    further: Mapping[str, str] = field(default_factory=dict)  # others that give images and are no nodes: a lab's host

    def __post_init__(self) -> None:
        self.nodes: Iterable[Node] = ()
        self._doing: dict[str, str] = {}  # image -> ASKING or MAKING
        self._locks: dict[str, asyncio.Lock] = {}
        self._sending = asyncio.Semaphore(SENDING_AT_ONCE)

    # ---- for the others ----

    async def state(self, image: str) -> Mapping[str, Any]:
        """What is said of an image here: its `id` and `layers`, or what is being done for it, or nothing."""
        found, layers = await self._images.find(image)
        return {"id": found, "layers": layers, "doing": self._doing.get(image, "")}

    async def archive(self, image: str, but: int = 0) -> AsyncIterator[bytes]:
        """The image as a stream, without so many layers, for a few at a time. Raises `EngineError` without it."""
        async with self._sending, aclosing(cast(Any, self._images.save(image, but))) as pieces:
            async for piece in pieces:
                yield piece

    # ---- from the others ----

    async def obtain(self, image: str, make: Callable[[], Awaitable[str]], progress: Progress) -> str:
        """The id of an image: from here, from another node, or else made. Raises what `make` raises."""
        async with self._locks.setdefault(image, asyncio.Lock()):
            found, _ = await self._images.find(image)
            if found or not self._others():
                return found or await make()
            self._doing[image] = ASKING
            try:
                return await self._from_others(image, progress) or await self._make(image, make)
            finally:
                del self._doing[image]

    async def bring_bases(self, image: str, build: Build, progress: Progress) -> None:
        """What the build of an image begins with, as far as others have it; the rest it pulls itself."""

        async def left() -> str:
            return ""

        for base in bases(_dockerfile(build), build.args):
            if base != image:
                await self.obtain(base, left, progress)

    async def _make(self, image: str, make: Callable[[], Awaitable[str]]) -> str:
        self._doing[image] = MAKING
        return await make()

    async def _from_others(self, image: str, progress: Progress) -> str:
        """The id of the image that another node has sent; "" if it must be made here."""
        failed: set[str] = set()
        while True:
            others = {name: url for name, url in self._others().items() if name not in failed}
            answers = await asyncio.gather(*(self._ask(name, url, image) for name, url in others.items()))
            said = dict(zip(others, answers, strict=True))
            for name, url in others.items():
                if said[name].get("id"):
                    layers = said[name]["layers"]
                    have = shared(layers, await self._images.layers())
                    some = f", {len(layers) - have} of {len(layers)} layers" if have else ""
                    progress(f"gets {image} from {name}{some}")
                    if (have and await self._load(name, url, image, have)) or await self._load(name, url, image):
                        return (await self._images.find(image))[0]
                    failed.add(name)
            makers = [name for name, answer in said.items() if self._goes_before(name, answer.get("doing", ""))]
            if not makers:
                return ""
            progress(f"waits for {makers[0]}, which makes {image}")
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    def _goes_before(self, name: str, doing: str) -> bool:
        return doing == MAKING or (doing == ASKING and name < self._name)

    def _others(self) -> Mapping[str, str]:
        """Who can be asked: name -> URL, in an order that is everybody's."""
        known = [node for node in self.nodes if node.name != self._name and node.address]
        ready = {node.name: self._url_of(node) for node in known if node.state is NodeState.READY}
        return {**self.further, **dict(sorted(ready.items()))}

    async def _ask(self, name: str, url: str, image: str) -> Mapping[str, Any]:
        """What a node says of an image; nothing if it does not answer in time."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with closing(await Exchange.open(url, "GET", f"/v1/images?{urlencode({'name': image})}")) as exchange:
                    await exchange.accepted()
                    return dict(json.loads(await exchange.text()))
        except (OSError, EOFError, ValueError, MiniorchError) as error:
            log.info("node %s says nothing of %s: %s", name, image, error)
            return {}

    async def _load(self, name: str, url: str, image: str, but: int = 0) -> bool:
        """Take an image from a node, without so many of its layers; False if that did not work."""
        try:
            target = f"/v1/images/archive?{urlencode({'name': image, 'but': but})}"
            with closing(await Exchange.open(url, "GET", target)) as exchange:
                await asyncio.wait_for(exchange.accepted(), PACKING_SECONDS)
                await self._images.load(_unstalled(exchange.body()))
        except (OSError, EOFError, MiniorchError) as error:
            log.warning("%s was not to be had from %s: %s", image, name, error)
            return False
        return True


async def _unstalled(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces. Raises `EngineError` when none comes for a while, or no more."""
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), STALLED_SECONDS)
        except StopAsyncIteration:
            return
        except (OSError, EOFError) as error:
            raise EngineError(f"it broke off ({error})") from None
        yield piece
