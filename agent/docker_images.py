"""Images in Docker: found, pulled, built, and given to another node as a stream.

Work of the SDK blocks, so it runs in threads, and its progress comes back to the loop line by line. One image is made
once, however many tasks want it at the same moment.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from urllib.parse import quote

from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from agent.docker_connection import Connection, said_by, unless_it_breaks
from agent.engine import Progress
from agent.images import BuildProgress, PullProgress, pull_error
from miniorch.errors import EngineError
from miniorch.spec import Build


class DockerImages:
    """The images of one dockerd."""

    def __init__(self, docker: Connection) -> None:
        self._docker = docker
        self._locks: dict[str, asyncio.Lock] = {}

    async def find(self, image: str) -> str:
        return await self._docker.call(self._docker.waiting, lambda: self._id_of(image))

    async def names(self) -> list[str]:
        def ask() -> list[str]:
            newest = sorted(self._docker.client().images(), key=lambda image: -image["Created"])
            named = (name for image in newest for name in image["RepoTags"] or ())
            return [name for name in named if "<none>" not in name]

        return await self._docker.call(self._docker.waiting, ask)

    async def pull(self, image: str, progress: Progress) -> str:
        async with self._lock(image):
            return await self._with_progress(progress, lambda tell: self._pull(image, tell))

    async def build(self, image: str, build: Build, progress: Progress) -> str:
        async with self._lock(image):
            return await self._with_progress(progress, lambda tell: self._build(image, build, tell))

    async def save(self, image: str) -> AsyncGenerator[bytes, None]:
        """What `docker save` writes. Raises `EngineError` before the first piece if there is no such image."""
        exchange = await self._docker.open("GET", f"/images/{quote(image, safe='')}/get")
        try:
            with unless_it_breaks():
                await exchange.head()
                if exchange.status != 200:
                    raise EngineError(f"there is no image {image} on this node")
                async for piece in exchange.body():
                    yield piece
        finally:
            exchange.close()

    async def load(self, tar: AsyncIterator[bytes]) -> None:
        """What `docker load` reads. Raises `EngineError` with Docker's own words."""
        exchange = await self._docker.open("POST", "/images/load?quiet=1", {"content-type": "application/x-tar"})
        try:
            async for piece in tar:
                with unless_it_breaks():
                    await exchange.send(piece)
            with unless_it_breaks():
                await exchange.end()
                await exchange.head()
                said = b"".join([piece async for piece in exchange.body()])
        finally:
            exchange.close()
        lines = [json.loads(line) for line in said.splitlines() if line.strip()]
        wrong = next((str(line["error"]) for line in lines if "error" in line), "")
        if exchange.status != 200 or wrong:
            raise EngineError(f"Docker did not take the image: {wrong or said.decode(errors='replace')[:200]}")

    def _pull(self, image: str, tell: Callable[[str], None]) -> str:
        found = self._id_of(image)
        if found:
            return found
        reading = PullProgress(image)
        repository, tag = parse_repository_tag(image)
        tell(f"pulling {image}")
        try:
            for event in self._docker.client().pull(repository, tag or "latest", stream=True, decode=True):
                tell(reading.feed(event))
        except APIError as error:
            raise pull_error(image, said_by(error)) from None
        if reading.error:
            raise pull_error(image, reading.error)
        found = self._id_of(image)
        if not found:
            raise pull_error(image, "the pull ended without an image")
        return found

    def _build(self, image: str, build: Build, tell: Callable[[str], None]) -> str:
        found = self._id_of(image)
        if found:
            return found
        if not os.path.isdir(build.context):
            raise EngineError(f"the build of {image} failed: there is no folder {build.context} on this machine")
        reading = BuildProgress(image)
        tell(f"building {image}")
        try:
            for event in self._docker.client().build(
                path=build.context, dockerfile=build.dockerfile, tag=image, buildargs=dict(build.args),
                target=build.target or None, rm=True, forcerm=True, decode=True,
            ):  # fmt: skip
                tell(reading.feed(event))
        except APIError as error:
            reading.error = said_by(error)
        if reading.error:
            raise reading.failure()
        found = self._id_of(image)
        if not found:
            raise reading.failure()
        return found

    def _id_of(self, image: str) -> str:
        try:
            return str(self._docker.client().inspect_image(image)["Id"])
        except NotFound:
            return ""

    def _lock(self, image: str) -> asyncio.Lock:
        return self._locks.setdefault(image, asyncio.Lock())

    async def _with_progress(self, progress: Progress, work: Callable[[Callable[[str], None]], str]) -> str:
        """Run image work in a thread; its lines come back to the loop. Giving up ends it at its next line."""
        loop = asyncio.get_running_loop()
        given_up = threading.Event()
        last = ""

        def tell(line: str) -> None:
            nonlocal last
            if given_up.is_set():
                raise EngineError("given up")
            if line != last:
                last = line
                loop.call_soon_threadsafe(progress, line)

        try:
            return await self._docker.call(self._docker.images, lambda: work(tell))
        except asyncio.CancelledError:
            given_up.set()
            raise
