"""HTTP to a server of ours: over a Unix socket on its own machine, over TLS from others.

A handshake costs more than a request, so TLS connections are used again; Unix ones are not, they cost nothing. The
command line uses the blocking methods directly; importing asyncio would cost it 30 ms per command. Every error of a
connection ends as one of ours, with what helps. What is asked over it: `miniorch/client.py`.
"""

import contextlib
import http.client
import json
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from ssl import SSLError
from typing import TYPE_CHECKING, Any, TypeVar

from miniorch.codec import to_plain
from miniorch.errors import MiniorchError, NotAllowed, NotLeader, Unreachable, from_wire
from miniorch.identity import check_certificate, client_context, has_identity, peer
from miniorch.model import Role

if TYPE_CHECKING:
    from miniorch.exchange import Exchange

RUN_DIRECTORY = os.environ.get("MINIORCH_RUN_DIR", "/run/miniorch")
STATE_DIRECTORY = os.environ.get("MINIORCH_STATE_DIR", "/var/lib/miniorch")
API_SOCKET = f"{RUN_DIRECTORY}/api.sock"
READ_TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 5.0
DISTRUST = re.compile("CERT|UNKNOWN_CA")  # in OpenSSL's words for why a handshake failed
IDLE_SECONDS = 30.0  # how long a connection is worth keeping; servers wait for twice as long
T = TypeVar("T")


class _Connection(http.client.HTTPConnection):
    def __init__(self, connect: Callable[[], socket.socket], timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._connect = connect
        self.idle_since = 0.0

    def connect(self) -> None:
        self.sock = self._connect()
        self.sock.settimeout(self.timeout)

    def fresh(self) -> bool:
        """Whether it can be used again: not for long idle, and the other side has not hung up."""
        young = time.monotonic() < self.idle_since + IDLE_SECONDS
        ready = select.poll()  # not `select`, which knows descriptors below 1024 alone
        ready.register(self.sock, select.POLLIN)
        return young and not ready.poll(0)


def refusal(data: bytes, status: int) -> MiniorchError:
    """The error that an answer speaks of."""
    try:
        return from_wire(json.loads(data), status)
    except ValueError:
        return from_wire(None, status)


def _item(line: bytes) -> Any:
    """A line of a stream, in which the server says, too, what it has found out when the stream had begun."""
    item = json.loads(line)
    if "error" in item:
        raise from_wire(item, 200)
    return item


def _broke_off(error: Exception) -> Unreachable:
    return Unreachable(f"the server's stream broke off ({error})", remedy="miniorch up")


class HttpTransport:
    """HTTP with the standard library, blocking, to one server or to the first of several that takes a connection.

    A server is the path of a Unix socket on this machine, or `https://HOST:PORT`, to which we speak as the machine (or
    user) whose files are in `folder`.
    """

    def __init__(
        self,
        *servers: str,
        folder: Path = Path(STATE_DIRECTORY),
        timeout_seconds: float | None = READ_TIMEOUT_SECONDS,
    ) -> None:
        self.place = " or ".join(servers)  # for a person
        self.timeout_seconds = timeout_seconds
        self._servers = deque(servers)
        self._folder = folder
        self._secure = servers[0].startswith("https://")
        self.remedy = "miniorch doctor" if self._secure else "miniorch up"  # when nobody answers
        self._idle: deque[_Connection] = deque()

    def __del__(self) -> None:
        for connection in self._idle:
            connection.close()

    def _in_turn(self, ask: Callable[[], T], failure: type[Exception]) -> T:
        """What the first server answers that does not fail; later questions begin with that one."""
        for _ in range(len(self._servers) - 1):
            with contextlib.suppress(failure):
                return ask()
            self._servers.rotate(-1)
            while self._idle:
                self._idle.pop().close()
        return ask()

    def _connect(self) -> socket.socket:
        return self._in_turn(lambda: connect(self._servers[0], self._folder, self.timeout_seconds), OSError)

    def _connection(self) -> _Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                connection = self._idle.pop()
                if connection.fresh():
                    connection.sock.settimeout(self.timeout_seconds)
                    return connection
                connection.close()
        return _Connection(self._connect, self.timeout_seconds)

    def open(self, method: str, path: str, body: object = None) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send a request; the connection and the answer with its headers read. Raises what the server answered.

        A `body` that is an iterator of bytes is sent piece by piece, anything else as JSON.
        """
        # Some things only the leader knows: who says that it does not lead has done nothing, so the next is asked.
        return self._in_turn(lambda: self._open(method, path, body), NotLeader)

    def _open(self, method: str, path: str, body: object) -> tuple[_Connection, http.client.HTTPResponse]:
        connection = self._connection()
        try:
            with self.explained():
                if isinstance(body, Iterator):
                    connection.request(method, path, body, {"transfer-encoding": "chunked"}, encode_chunked=True)
                elif body is None:
                    connection.request(method, path)
                else:
                    payload = json.dumps(to_plain(body)).encode()
                    connection.request(method, path, payload, {"content-type": "application/json"})
                response = connection.getresponse()
                if response.status >= 400:
                    raise refusal(response.read(), response.status)
                return connection, response
        except BaseException:
            connection.close()
            raise

    async def begin(self, path: str, method: str = "POST") -> "Exchange":
        """A request whose body and answer go on at once, without threads."""
        from miniorch.exchange import Exchange

        left = len(self._servers)
        while True:
            url = self._servers[0] if self._secure else f"unix://{self._servers[0]}"
            try:
                with self.explained():
                    return await Exchange.open(url, method, path, folder=self._folder)
            except Unreachable:
                left -= 1
                if not left:
                    raise
                self._servers.rotate(-1)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of a connection as ours."""
        try:
            yield
        except PermissionError:
            raise NotAllowed(
                f"may not talk to miniorch's server: {self.place} does not admit this user",
                remedy="put sudo before it; or sudo usermod -aG docker USER and log in again (gives root's power)",
            ) from None
        except (OSError, EOFError, http.client.HTTPException) as error:
            if self._secure and has_identity(self._folder):
                check_certificate(self._folder)  # what may be the reason and lies with us
            if isinstance(error, SSLError) and DISTRUST.search(error.reason or ""):
                raise NotAllowed(
                    f"{self.place} and this machine do not accept each other's certificates ({error.reason})",
                    remedy="date; then miniorch join with a new token",
                ) from None
            raise Unreachable(
                f"miniorch's server does not answer on {self.place} ({error})", remedy=self.remedy
            ) from None

    def request_now(self, method: str, path: str, body: object = None) -> Any:
        """The decoded JSON answer (blocking)."""
        connection, response = self.open(method, path, body)
        complete = False
        try:
            data = response.read()
            complete = True
            return json.loads(data) if data else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(f"the server's answer broke off ({error})", remedy=self.remedy) from None
        finally:
            if complete and self._secure and connection.sock is not None:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()

    @staticmethod
    def lines(response: http.client.HTTPResponse) -> Iterator[Any]:
        """The JSON lines of a streamed answer. Raises what the server says in it."""
        try:
            yield from map(_item, response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _broke_off(error) from None

    async def request(self, method: str, path: str, body: object = None) -> Any:
        import asyncio

        return await asyncio.to_thread(self.request_now, method, path, body)

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        """The same lines without a thread. Closing the generator hangs up."""
        with contextlib.closing(await self.begin(path, "GET")) as exchange:
            with self.explained():
                await exchange.accepted()
            try:
                async for line in exchange.lines(self.timeout_seconds):
                    yield _item(line)
            except (OSError, EOFError, ValueError) as error:
                raise _broke_off(error) from None


def connect(server: str, folder: Path, timeout_seconds: float | None) -> socket.socket:
    """A connected socket. Raises `OSError`; `NotAllowed` if whoever answers is no manager."""
    secure = server.startswith("https://")
    host, _, port = server.removeprefix("https://").rpartition(":")
    if secure:
        wire = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
    else:
        wire = socket.socket(socket.AF_UNIX)
    try:
        if secure:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = trusted = client_context(folder).wrap_socket(wire)
            name, role = peer(trusted.getpeercert())
            if role != Role.MANAGER:
                raise NotAllowed(f"{server} is {name}, which is no manager of this cluster", remedy="miniorch doctor")
        else:
            wire.settimeout(timeout_seconds)
            wire.connect(server)
    except BaseException:
        wire.close()
        raise
    return wire
