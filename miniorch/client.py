"""The only way to the server: a request, and a stream of JSON lines.

The problem: agents, the net process and the command line must learn of every change without polling, survive a server
that goes away, and run under simulation, where there is no socket. The idea: two verbs (`Transport`): `request`, one
JSON answer, and `stream`, JSON lines for as long as both sides live. Everything else is built on top, above all
`mirror`: list once, watch from that revision, list again whenever anything is in doubt. Its consumer sees complete
snapshots and never an event, so a lost event costs nothing (level-triggered).

Who does this for real: client-go's reflector and informer. Where we differ: the whole snapshot is handed over again
for each batch of changes, which is simple and fast enough for one node's share.

On the server's machine the way is a Unix socket, from others TLS with the machine's certificate. A handshake costs more
than a request, so TLS connections are used again; Unix ones are not, they cost nothing.

The command line uses the blocking methods directly; importing asyncio would cost it 30 ms per command.
"""

import abc
import contextlib
import http.client
import json
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLError, SSLSocket
from typing import Any, Generic, Protocol, TypeVar

from miniorch.codec import from_plain, to_plain
from miniorch.errors import Compacted, MiniorchError, NotAllowed, NotLeader, Temporary, Unreachable, from_wire
from miniorch.identity import client_context, peer, servers_of
from miniorch.model import Role, key_of, kind_of
from miniorch.relay import relayed

T = TypeVar("T")

RUN_DIRECTORY = os.environ.get("MINIORCH_RUN_DIR", "/run/miniorch")
STATE_DIRECTORY = os.environ.get("MINIORCH_STATE_DIR", "/var/lib/miniorch")
API_SOCKET = f"{RUN_DIRECTORY}/api.sock"
PING_SECONDS = 10.0  # the server sends an empty change this often, so silence means that it is gone
READ_TIMEOUT_SECONDS = 30.0
RECONNECT_SECONDS = 0.5
CONNECT_SECONDS = 5.0
DISTRUST = re.compile("CERT|UNKNOWN_CA")  # in OpenSSL's words for why a handshake failed
IDLE_SECONDS = 30.0  # how long a connection is worth keeping; servers wait for twice as long


class Transport(Protocol):
    """How requests reach the server. Errors arrive as `MiniorchError`s; no answer is `Unreachable`."""

    async def request(self, method: str, path: str, body: object = None) -> Any:
        """The decoded JSON answer."""

    def stream(self, path: str) -> AsyncGenerator[Any, None]:
        """One decoded JSON value per line, until the server ends the stream. Closing the generator hangs up."""


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


class HttpTransport(abc.ABC):
    """HTTP with the standard library, blocking. `connect` makes a connection, `place` says where to for a person."""

    reuses = False
    remedy = "miniorch up"  # when nobody answers

    def __init__(self, place: str, timeout_seconds: float | None = READ_TIMEOUT_SECONDS) -> None:
        self.place = place
        self.timeout_seconds = timeout_seconds
        self._idle: deque[_Connection] = deque()

    def __del__(self) -> None:
        for connection in self._idle:
            connection.close()

    @abc.abstractmethod
    def connect(self) -> socket.socket:
        """A connected socket. Raises `OSError`."""

    def _connection(self) -> _Connection:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                connection = self._idle.pop()
                if connection.fresh():
                    connection.sock.settimeout(self.timeout_seconds)
                    return connection
                connection.close()
        return _Connection(self.connect, self.timeout_seconds)

    def _for_two(self) -> _Connection:
        """One that a thread writes to while another reads."""
        return _Connection(self.connect, self.timeout_seconds)

    def open(self, method: str, path: str, body: object = None) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send a request; the connection and the answer with its headers read. Raises what the server answered.

        A `body` that is an iterator of bytes is sent piece by piece, anything else as JSON.
        """
        connection = self._connection()
        with self._explained(connection):
            if isinstance(body, Iterator):
                connection.request(method, path, body, {"transfer-encoding": "chunked"}, encode_chunked=True)
            elif body is None:
                connection.request(method, path)
            else:
                payload = json.dumps(to_plain(body)).encode()
                connection.request(method, path, payload, {"content-type": "application/json"})
            return connection, self._answer(connection)

    def begin(self, path: str) -> tuple[socket.socket, Callable[[], http.client.HTTPResponse]]:
        """A POST whose body and answer go on at once: where to write chunks, and a function that waits for the head."""
        connection = self._for_two()
        with self._explained(connection):
            connection.putrequest("POST", path)
            connection.putheader("transfer-encoding", "chunked")
            connection.endheaders()

        def answer() -> http.client.HTTPResponse:
            with self._explained(connection):
                return self._answer(connection)

        return connection.sock, answer

    def _answer(self, connection: _Connection) -> http.client.HTTPResponse:
        response = connection.getresponse()
        if response.status >= 400:
            raise self._error(response)
        return response

    @contextlib.contextmanager
    def _explained(self, connection: _Connection) -> Iterator[None]:
        """Errors of the connection as ours. After any error it is closed."""
        try:
            yield
        except PermissionError:
            connection.close()
            raise NotAllowed(
                f"may not talk to miniorch's server: {self.place} does not admit this user",
                remedy="put sudo before it; or sudo usermod -aG docker USER and log in again (gives root's power)",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if isinstance(error, SSLError) and DISTRUST.search(error.reason or ""):
                raise NotAllowed(
                    f"{self.place} and this machine do not accept each other's certificates ({error.reason})",
                    remedy="date; then miniorch join with a new token",
                ) from None
            raise Unreachable(
                f"miniorch's server does not answer on {self.place} ({error})", remedy=self.remedy
            ) from None
        except BaseException:
            connection.close()
            raise

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
            if complete and self.reuses and connection.sock is not None:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.close()

    @staticmethod
    def lines(response: http.client.HTTPResponse) -> Iterator[Any]:
        """The JSON lines of a streamed answer. Raises what the server says in it."""
        try:
            for line in response:
                item = json.loads(line)
                if "error" in item:  # what the server found out when the stream had begun
                    raise from_wire(item, 200)
                yield item
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(f"the server's stream broke off ({error})", remedy="miniorch up") from None

    @staticmethod
    def _error(response: http.client.HTTPResponse) -> MiniorchError:
        data = response.read()
        try:
            return from_wire(json.loads(data), response.status)
        except ValueError:
            return from_wire(None, response.status)

    async def request(self, method: str, path: str, body: object = None) -> Any:
        import asyncio

        return await asyncio.to_thread(self.request_now, method, path, body)

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        """Read the stream in a thread of its own. Closing the iterator shuts the socket, which ends the thread."""
        import asyncio
        import threading

        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[Any, MiniorchError | None]] = asyncio.Queue()
        connection, response = await asyncio.to_thread(self.open, "GET", path)
        wire = connection.sock
        end = MiniorchError("end of stream")

        def hand_over(item: Any, error: MiniorchError | None) -> bool:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, (item, error))
            except RuntimeError:  # the loop has been closed: nobody listens any more
                return False
            return True

        def read() -> None:
            try:
                if all(hand_over(item, None) for item in self.lines(response)):
                    hand_over(None, end)
            except MiniorchError as error:
                hand_over(None, error)
            finally:
                connection.close()  # by this thread alone: closing under a reader confuses http.client

        threading.Thread(target=read, name=f"stream {path}", daemon=True).start()
        try:
            while True:
                item, error = await queue.get()
                if error is end:
                    return
                if error is not None:
                    raise error
                yield item
        finally:
            with contextlib.suppress(OSError):  # it may be closed already
                socket.socket.shutdown(wire, socket.SHUT_RDWR)  # below TLS, which belongs to the reading thread


class UnixTransport(HttpTransport):
    """To the server on this machine."""

    def __init__(self, path: str = API_SOCKET, timeout_seconds: float | None = READ_TIMEOUT_SECONDS) -> None:
        super().__init__(path, timeout_seconds)

    def connect(self) -> socket.socket:
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            wire.settimeout(self.timeout_seconds)
            wire.connect(self.place)
        except BaseException:
            wire.close()
            raise
        return wire


class TlsTransport(HttpTransport):
    """To `https://HOST:PORT`, as the machine (or user) whose files are in `folder`."""

    reuses = True
    remedy = "miniorch doctor"

    def __init__(self, url: str, folder: Path, timeout_seconds: float | None = READ_TIMEOUT_SECONDS) -> None:
        super().__init__(url, timeout_seconds)
        self._folder = folder

    def _for_two(self) -> _Connection:
        return _Connection(lambda: relayed(self.connect()), self.timeout_seconds)

    def connect(self) -> SSLSocket:
        host, _, port = self.place.removeprefix("https://").rpartition(":")
        wire = socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = client_context(self._folder).wrap_socket(wire)
        except BaseException:
            wire.close()
            raise
        name, role = peer(secure.getpeercert())
        if role != Role.MANAGER:
            secure.close()
            raise NotAllowed(f"{self.place} is {name}, which is no manager of this cluster", remedy="miniorch doctor")
        return secure


class OneOf:
    """Several servers as one `Transport`: stays with the one that answered, and goes on to the next when that one is
    away, has lost its store, or only follows. For requests that do no harm when they are done twice.
    """

    def __init__(self, servers: Sequence[Transport]) -> None:
        self._servers = tuple(servers)
        self._at = 0

    async def request(self, method: str, path: str, body: object = None) -> Any:
        for _ in self._servers[1:]:
            at = self._at
            try:
                return await self._servers[at].request(method, path, body)
            except (Unreachable, NotLeader):
                self._leave(at)
        return await self._servers[self._at].request(method, path, body)

    async def stream(self, path: str) -> AsyncGenerator[Any, None]:
        at = self._at
        try:
            async with contextlib.aclosing(self._servers[at].stream(path)) as lines:
                async for line in lines:
                    if line.get("store") == "silent" and len(self._servers) > 1:
                        raise Unreachable("this server hears nothing from its store", remedy="miniorch doctor")
                    yield line
        except Unreachable:
            self._leave(at)
            raise

    def _leave(self, at: int) -> None:
        if self._at == at:  # of those who fail together, one moves us on
            self._at = (at + 1) % len(self._servers)


def one_transport(
    url: str, folder: Path = Path(STATE_DIRECTORY), timeout_seconds: float | None = READ_TIMEOUT_SECONDS
) -> HttpTransport:
    """The way to one server: the path of a Unix socket, or https://HOST:PORT."""
    if url.startswith("https://"):
        return TlsTransport(url, folder, timeout_seconds)
    return UnixTransport(url.removeprefix("unix://"), timeout_seconds)


def transport_to(
    servers: Sequence[str], folder: Path = Path(STATE_DIRECTORY), timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> Transport:
    """The way to these servers; without any, to those that the files in `folder` name, or else to this machine's."""
    urls = servers or servers_of(folder) or (API_SOCKET,)
    return OneOf([one_transport(url, folder, timeout_seconds) for url in urls])


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """Everything of one kind at one revision, by key."""

    revision: int
    items: dict[str, T]


async def list_kind(transport: Transport, cls: type[T], query: str = "") -> Snapshot[T]:
    """All objects of a kind, now. `query` narrows it, e.g. `node=node1` for tasks and volumes."""
    answer = await transport.request("GET", f"/v1/{kind_of(cls)}{'?' if query else ''}{query}")
    items = [from_plain(cls, plain) for plain in answer["items"]]
    return Snapshot(answer["revision"], {key_of(item): item for item in items})


async def mirror(transport: Transport, cls: type[T], query: str = "") -> AsyncGenerator[Snapshot[T], None]:
    """A complete snapshot now and after every change, for ever: it reconnects, and lists again when it must.

    Nothing is yielded while the server is away: the consumer keeps acting on what it knows.
    """
    import asyncio

    while True:
        try:
            snapshot = await list_kind(transport, cls, query)
            yield snapshot
            items, revision = dict(snapshot.items), snapshot.revision
            while True:
                path = f"/v1/watch/{kind_of(cls)}?revision={revision}{'&' if query else ''}{query}"
                async with contextlib.aclosing(transport.stream(path)) as changes:
                    async for change in changes:
                        revision = change["revision"]
                        if "put" in change:
                            item = from_plain(cls, change["put"])
                            items[key_of(item)] = item
                        elif "delete" in change:
                            items.pop(change["delete"], None)
                        else:
                            continue
                        yield Snapshot(revision, dict(items))
                await asyncio.sleep(RECONNECT_SECONDS)
        except Compacted:
            continue
        except Temporary:
            await asyncio.sleep(RECONNECT_SECONDS)
