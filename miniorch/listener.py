"""What the three processes share: one of each per machine, HTTP over a Unix socket or TLS, and the way they end.

Two things about uvicorn do not suit a process that must cost nothing while nothing happens, and must not be open to
everybody: it wakes ten times a second to refresh a header, and it makes a Unix socket that it binds itself writable for
all users (0666). So the socket is bound here, and the loop only waits for its end.

Two more do not suit a port that others can reach: an application never learns whose certificate the other side has, and
a request may take for ever to arrive. So each connection knows its `Caller` before it hears a word, puts it into the
scope of its requests, and has seconds for the head of each. A scope without a caller is nobody's.
"""

import asyncio
import contextlib
import fcntl
import grp
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server

from miniorch.certificates import own_certificate, read_certificate
from miniorch.clock import SystemClock
from miniorch.errors import Conflict, UsageError
from miniorch.identity import LOCAL, Caller, has_identity, server_context

EXTENSION = "miniorch.caller"
HEAD_BYTES = 64 * 1024
HANDSHAKE_SECONDS, GOODBYE_SECONDS = 5.0, 1.0
STRANGERS = 32  # connections without a certificate, from one address at one time
IP_FREEBIND = 15  # linux/in.h; Python does not name it
IDLE_SECONDS = 60.0  # a handshake costs more than a connection that waits


class Connection(HttpToolsProtocol):
    """One connection: who is at its other end, asked once, and how long a head may take."""

    head_seconds = 10.0
    caller = Caller()
    cluster = ""  # the one that this machine is in; another's certificates say nothing here
    _deadline: asyncio.TimerHandle | None = None
    _expiry: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _heads = 0  # that have come completely
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        own = transport.get_extra_info("socket")
        if own is not None and own.family == socket.AF_UNIX:
            self.caller = LOCAL
        else:
            self.caller = _shown(transport, self.client[0] if self.client else "", self.cluster)
            if not self.caller.role and self._strangers() > STRANGERS:
                transport.abort()
            left = self.caller.until - SystemClock().now()
            if left < float("inf"):
                self._expiry = self.loop.call_later(left, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_head()
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        heads, body = self._heads, self._in_body
        super().data_received(data)
        if body or self._in_body or self._heads != heads:
            return
        self._head_bytes += len(data)  # all of it is a part of a head
        if self._head_bytes > HEAD_BYTES:
            self.transport.abort()
        if self._deadline is None:
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self.caller}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._end_of_head()
        self._heads += 1
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing() and self.caller is not LOCAL:
            self.transport.abort()  # TLS would wait for the other side's goodbye, which nobody reads

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _end_of_head(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _strangers(self) -> int:
        others = [one.caller for one in self.connections if isinstance(one, Connection)]
        return sum(not one.role and one.address == self.caller.address for one in others)


def _shown(transport: asyncio.Transport, address: str, cluster: str) -> Caller:
    """Who has proved to be at the other end. Nobody, where nothing is encrypted."""
    wire = transport.get_extra_info("ssl_object")
    shown = wire.getpeercert(binary_form=True) if wire is not None else None
    said = read_certificate(shown) if shown is not None else None
    if said is None or said.cluster != cluster:
        return Caller(via="tls" if wire is not None else "plain", address=address)
    return Caller(said.name, said.role, "tls", address, said.key, said.until)


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Who has sent the request of an ASGI scope."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, Caller) else Caller()


class QuietServer(Server):
    """A uvicorn server without a clock. It serves until `stop`, and leaves signals to its process.

    Besides the sockets that `serve` is given it speaks TLS on those in `secure`, as the machine whose files are in
    `folder`.
    """

    def __init__(self, app: Any, folder: Path = Path(), secure: Sequence[socket.socket] = (), **options: Any) -> None:
        fixed = {"http": Connection, "ws": "none", "lifespan": "off", "date_header": False, "access_log": False}
        quiet = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": 1}
        quiet |= {"timeout_keep_alive": int(IDLE_SECONDS), "interface": "asgi3", "proxy_headers": False}
        super().__init__(Config(app, **{**quiet, **fixed, **options}))
        self._stopped = asyncio.Event()
        self._folder = folder
        self._secure = tuple(secure)
        self._cluster = own_certificate(folder).cluster if secure else ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self._secure:
            return
        loop, context = asyncio.get_running_loop(), server_context(self._folder)
        for listener in self._secure:
            self.servers.append(
                await loop.create_server(
                    self._connection,
                    sock=listener,
                    ssl=context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=GOODBYE_SECONDS,
                )
            )

    def _connection(self) -> Connection:
        connection = Connection(self.config, self.server_state, self.lifespan.state)
        connection.cluster = self._cluster
        return connection

    def hang_up(self, name: str, but: str = "") -> None:
        """End everything that is open with the owner of a certificate, at once, but with the key of this digest."""
        for one in list(self.server_state.connections):
            if isinstance(one, Connection) and one.caller.name == name and one.caller.key != but:
                one.transport.abort()

    def stop(self) -> None:
        """Take no more requests; those under way get a second."""
        self.should_exit = True
        self._stopped.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._stopped.wait()


def listen(path: Path, mode: int, group: str = "") -> socket.socket:
    """A listening Unix socket for its owner and, if it exists, `group`. It takes the place of a dead process's.

    The socket gets its name only when it listens, so nobody ever finds one that does not answer.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(fresh))
    finally:
        os.umask(before)
    fresh.chmod(mode)
    if group:
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(fresh, -1, grp.getgrnam(group).gr_gid)
    listener.listen(128)
    listener.setblocking(False)
    fresh.replace(path)
    return listener


def listen_at(folder: Path, port: int, instead: Sequence[str] = ()) -> list[socket.socket]:
    """Listening sockets at the address in this machine's certificate, or `instead` at these ADDRESS:PORTs.

    None if the machine has no certificate. Raises `Conflict` if another program holds the port, `UsageError`.
    """
    if not has_identity(folder):
        return []
    places = [one.rpartition(":")[::2] for one in instead] or [(own_certificate(folder).address, str(port))]
    if not all(host and number.isdigit() for host, number in places):
        raise UsageError("--listen wants ADDRESS:PORT", remedy=f"--listen 192.0.2.1:{port}")
    return [listen_tcp(host.strip("[]"), int(number)) for host, number in places]


def listen_tcp(address: str, port: int) -> socket.socket:
    """The same at an address of one's choice, which this machine need not have yet: networks come late at boot."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without it each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {address}:{port}: {error.strerror}", remedy=f"ss -ltnp sport = :{port}"
        ) from None
    listener.listen(512)
    listener.setblocking(False)
    return listener


def until_told_to_end() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. SIGHUP is ignored: a closed terminal does not concern a daemon."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return ending


def take_lock(path: Path, what: str) -> int:
    """Only one `what` per machine. The kernel frees the lock however this process ends. Raises `Conflict`."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"miniorch has {what} on this machine already", remedy="miniorch down") from None
    return descriptor
