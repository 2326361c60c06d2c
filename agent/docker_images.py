"""Images in Docker: found, pulled, built, and given to another node as a stream.

Work of the SDK blocks, so it runs in threads, and its progress comes back to the loop line by line. One image is made
once, however many tasks want it at the same moment.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from agent.docker_connection import Connection, accepted, said_by
from agent.engine import Progress
from agent.images import BuildProgress, PullProgress
from agent.layers import without
from miniorch.errors import EngineError
from miniorch.spec import Build


class DockerImages(Connection):
    """The images of one dockerd."""

    def __init__(self, base_url: str | None = None) -> None:
        super().__init__(base_url)
        self._locks: dict[str, asyncio.Lock] = {}

    async def image_names(self) -> list[str]:
        newest = sorted(await self.call(lambda api: api.images()), key=lambda image: -image["Created"])
        return [name for image in newest for name in image["RepoTags"] or () if "<none>" not in name]

    async def pull(self, image: str, progress: Progress) -> str:
        repository, tag = parse_repository_tag(image)

        def begin(api: Any) -> Iterable[Any]:
            return api.pull(repository, tag or "latest", stream=True, decode=True)  # type: ignore[no-any-return]

        return await self._made(image, PullProgress(image), begin, progress)

    async def build(self, image: str, build: Build, progress: Progress) -> str:
        def begin(api: Any) -> Iterable[Any]:
            if not os.path.isdir(build.context):
                raise EngineError(f"the build of {image} failed: there is no folder {build.context} on this machine")
            return api.build(  # type: ignore[no-any-return]
                path=build.context, dockerfile=build.dockerfile, tag=image, buildargs=dict(build.args),
                target=build.target or None, rm=True, forcerm=True, decode=True,
            )  # fmt: skip

        return await self._made(image, BuildProgress(image), begin, progress)

    async def _made(
        self,
        image: str,
        reading: PullProgress | BuildProgress,
        begin: Callable[[Any], Iterable[Any]],
        progress: Progress,
    ) -> str:
        """The id of an image, which `begin` makes if it is not there. Giving up ends that at its next line."""
        loop, given_up, last = asyncio.get_running_loop(), threading.Event(), ""

        def tell(line: str) -> None:
            nonlocal last
            if given_up.is_set():
                raise EngineError("given up")
            if line != last:
                last = line
                loop.call_soon_threadsafe(progress, line)

        def make(api: Any) -> str:
            if found := _look(api, image)[0]:
                return found
            tell(reading.feed({}))
            try:
                for event in begin(api):
                    tell(reading.feed(event))
            except APIError as error:
                reading.error = said_by(error)
            if reading.error or not (found := _look(api, image)[0]):
                raise reading.failure()
            return found

        async with self._locks.setdefault(image, asyncio.Lock()):
            try:
                return await self.call(make, self._fetching)
            except asyncio.CancelledError:
                given_up.set()
                raise

    # ---- for other nodes: `agent/peers.py` ----

    async def find(self, image: str) -> tuple[str, Sequence[str]]:
        return await self.call(lambda api: _look(api, image))

    async def layers(self) -> list[Sequence[str]]:
        return await self.call(lambda api: [_look(api, one["Id"])[1] for one in api.images()])

    async def save(self, image: str, but: int = 0) -> AsyncIterator[bytes]:
        """What `docker save` writes, without so many of the lowest layers.

        Raises `EngineError` before the first piece if there is no such image.
        """
        async with aclosing(self._saved(image)) as whole, aclosing(without(whole, but) if but else whole) as pieces:
            async for piece in pieces:
                yield piece

    async def _saved(self, image: str) -> AsyncGenerator[bytes]:
        async with self.open("GET", f"/images/{quote(image, safe='')}/get") as wire:
            await accepted(wire, EngineError(f"there is no image {image} on this node"))
            async for piece in wire.body():
                yield piece

    async def load(self, tar: AsyncIterator[bytes]) -> None:
        """What `docker load` reads. Raises `EngineError` with Docker's own words."""
        async with self.open("POST", "/images/load?quiet=1", {"content-type": "application/x-tar"}) as wire:
            await wire.send_all(tar)
            await accepted(wire)
            lines = [json.loads(line) for line in (await wire.text()).splitlines() if line.strip()]
            if wrong := [line["error"] for line in lines if "error" in line]:
                raise EngineError(f"Docker did not take the image: {wrong[0]}")


def _look(api: Any, image: str) -> tuple[str, Sequence[str]]:
    """Its id and its layers, from the bottom up; "" and none if it is not here."""
    try:
        found = api.inspect_image(image)
    except NotFound:
        return "", ()
    return str(found["Id"]), (found.get("RootFS") or {}).get("Layers") or ()
