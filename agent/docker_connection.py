"""The connection to dockerd: threads, streams and errors, so that `agent/docker_engine.py` can be about containers.

The SDK blocks, so every call runs in a thread. There are three pools, so that eight slow image pulls never keep a
probe or a stop waiting. Every error of the SDK becomes an `EngineError` here, which says whether trying again helps.
"""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import requests
from docker.api.client import APIClient
from docker.errors import APIError, DockerException

from miniorch.errors import EngineError

CALL_SECONDS = 60
STREAM_CHUNKS = 64  # how far a log may run ahead of its reader
TEMPORARY = ("connect: ", 'plugin "miniorch" not found', "remote: ", "deadline exceeded", "timeout")
T = TypeVar("T")


class Connection:
    """One dockerd. The client is made at first use, and anew after a failure."""

    def __init__(self, base_url: str | None) -> None:
        self._url = base_url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self._api: APIClient | None = None
        self._connecting = threading.Lock()
        self.making = ThreadPoolExecutor(8, "docker")  # create, start, remove
        self.images = ThreadPoolExecutor(4, "docker-image")
        self.waiting = ThreadPoolExecutor(32, "docker-wait")  # stops, probes, and everything quick

    def client(self) -> Any:  # not APIClient: the types published for it are wrong in places
        """The SDK's client. Blocks; raises what the SDK raises, so call it inside `call`."""
        with self._connecting:
            if self._api is None:
                # Without a version the SDK asks dockerd for its own. Docker 29 refuses old ones.
                self._api = APIClient(self._url, timeout=CALL_SECONDS, max_pool_size=48)
            return self._api

    async def call(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Run blocking work. Raises `EngineError`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except APIError as error:
            raise _engine_error(error) from None
        except (DockerException, requests.RequestException) as error:
            self._drop()
            raise EngineError(
                f"Docker does not answer on {self._url} ({_short(error)})",
                temporary=True,
                remedy="sudo systemctl start docker",
            ) from None

    def close(self) -> None:
        """Let go of threads and connections."""
        for pool in (self.making, self.images, self.waiting):
            pool.shutdown(wait=False, cancel_futures=True)
        self._drop()

    def _drop(self) -> None:
        api, self._api = self._api, None  # dockerd may come back as another version
        if api is not None:
            api.close()


class Reader:
    """A blocking stream as an asynchronous iterator: a daemon thread reads, at most `STREAM_CHUNKS` ahead."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(STREAM_CHUNKS)
        self._closed = False

    async def items(self, only_newest: bool = False) -> AsyncIterator[Any]:
        """`only_newest`: what was not fetched in time is left out."""
        threading.Thread(target=self._read, name="docker-stream", daemon=True).start()
        try:
            while True:
                item = await self._take()
                while only_newest and not self._queue.empty() and item is not None:
                    item = await self._take()
                if item is None:
                    return
                yield item
        finally:
            self._closed = True
            self._room.release()
            with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
                self._stream.close()

    async def _take(self) -> Any:
        item = await self._queue.get()
        self._room.release()
        return item

    def _read(self) -> None:
        try:
            for item in self._items():
                self._hand_over(item)
        except (requests.RequestException, DockerException, OSError, ValueError, AttributeError):
            pass  # hung up, by either side
        self._hand_over(None)

    def _items(self) -> Iterator[Any]:
        for item in self._stream:
            self._room.acquire()
            if self._closed:
                return
            yield item

    def _hand_over(self, item: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._closed = True


def _engine_error(error: APIError) -> EngineError:
    said = said_by(error)
    not_running = error.status_code == 409 and "is not running" in said
    return EngineError(f"Docker: {said}", temporary=not_running or any(sign in said for sign in TEMPORARY))


def said_by(error: APIError) -> str:
    """dockerd's own words."""
    return str(error.explanation or error).strip()


def _short(error: Exception) -> str:
    """The innermost reason: the SDK wraps a refused connection four times."""
    reason = re.search(r"(\w+Error)\((\d+, )?'([^']*)'\)", str(error))
    return reason[3] if reason else str(error)[:200]
