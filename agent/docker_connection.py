"""The connection to dockerd: threads, streams and errors, so that the other `docker_` files can be about containers.

The SDK blocks, so every call runs in a thread. There are three pools, so that eight slow image pulls never keep a
probe or a stop waiting. What streams does without the SDK (`open`). Every error becomes an `EngineError` here, which
says whether trying again helps.
"""

import asyncio
import contextlib
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import requests
from docker.api.client import APIClient
from docker.errors import APIError, DockerException

from miniorch.errors import EngineError, MiniorchError
from miniorch.exchange import Exchange

CALL_SECONDS = 60
# What already exists is left of a dockerd that was killed in the middle of the same.
TEMPORARY = ("connect: ", 'plugin "miniorch" not found', "remote: ", "deadline exceeded", "timeout", "already exists")
T = TypeVar("T")


def making_at_once(processors: int) -> int:
    """How many containers are made or started at the same time. Each start waits for one lock of the kernel (RTNL), and
    a program of Docker's waits by trying again and again: more starts than processors take time from each other.
    """
    return min(max(processors, 4), 8)


class Connection:
    """One dockerd. The client is made at first use, and anew after a failure."""

    def __init__(self, base_url: str | None = None) -> None:
        self._url = base_url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self._api: APIClient | None = None
        self._connecting = threading.Lock()
        self._making = ThreadPoolExecutor(making_at_once(os.cpu_count() or 1), "docker")  # create, start, remove
        self._fetching = ThreadPoolExecutor(4, "docker-image")
        self._waiting = ThreadPoolExecutor(32, "docker-wait")  # stops, probes, and everything quick

    async def call(self, work: Callable[[Any], T], pool: ThreadPoolExecutor | None = None) -> T:
        """Run work that blocks, with the SDK's client. Raises `EngineError`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._waiting, lambda: work(self._client()))
        except APIError as error:
            said = said_by(error)
            not_running = error.status_code == 409 and "is not running" in said
            temporary = not_running or any(sign in said for sign in TEMPORARY)
            raise EngineError(f"Docker: {said}", temporary=temporary) from None
        except (DockerException, requests.RequestException) as error:
            self._drop()
            raise EngineError(
                f"Docker does not answer on {self._url} ({_short(error)})",
                temporary=True,
                remedy="sudo systemctl start docker",
            ) from None

    def _client(self) -> Any:  # not APIClient: the types published for it are wrong in places
        with self._connecting:
            if self._api is None:
                # Without a version the SDK asks dockerd for its own. Docker 29 refuses old ones.
                self._api = APIClient(self._url, timeout=CALL_SECONDS, max_pool_size=48)
            return self._api

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> AsyncIterator[Exchange]:
        """A request whose body or answer is a stream, which the SDK can only have in threads. Hangs up at its end.

        What happens to the connection in between becomes an `EngineError`, too.
        """
        version = await self.call(lambda api: api.api_version)
        try:
            wire = await Exchange.open(self._url, method, f"/v{version}{path}", headers, body)
        except OSError as error:
            raise EngineError(f"Docker does not answer on {self._url} ({error})", temporary=True) from None
        try:
            yield wire
        except (OSError, EOFError):
            raise EngineError("Docker hung up in the middle", temporary=True) from None
        finally:
            wire.close()

    def close(self) -> None:
        """Let go of threads and connections."""
        for pool in (self._making, self._fetching, self._waiting):
            pool.shutdown(wait=False, cancel_futures=True)
        self._drop()

    def _drop(self) -> None:
        api, self._api = self._api, None  # dockerd may come back as another version
        if api is not None:
            api.close()


async def accepted(wire: Exchange, missing: MiniorchError | None = None) -> None:
    """Read the head of an answer. Raises what Docker says, if it is an error; `missing` if it has no such thing."""
    await wire.head()
    if wire.status < 400:
        return
    if missing and wire.status == 404:
        raise missing
    text = await wire.text()
    with contextlib.suppress(ValueError):
        text = json.loads(text)["message"]
    raise EngineError(f"Docker: {text.strip()}", temporary=wire.status == 409)


def said_by(error: APIError) -> str:
    """dockerd's own words."""
    return str(error.explanation or error).strip()


def _short(error: Exception) -> str:
    """The innermost reason: the SDK wraps a refused connection four times."""
    reason = re.search(r"(\w+Error)\((\d+, )?'([^']*)'\)", str(error))
    return reason[3] if reason else str(error)[:200]
