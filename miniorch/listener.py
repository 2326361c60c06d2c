"""What the three processes share: one of each per machine, HTTP over a Unix socket, and the way they end.

Two things about uvicorn do not suit a process that must cost nothing while nothing happens, and must not be open to
everybody: it wakes ten times a second to refresh a header, and it makes a Unix socket that it binds itself writable for
all users (0666). So the socket is bound here, and the loop only waits for its end.
"""

import asyncio
import contextlib
import fcntl
import grp
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.server import Server

from miniorch.errors import Conflict


class QuietServer(Server):
    """A uvicorn server without a clock. It serves until `stop`, and leaves signals to its process."""

    def __init__(self, app: Any, **options: Any) -> None:
        fixed = {"http": "httptools", "ws": "none", "lifespan": "off", "date_header": False, "access_log": False}
        quiet = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": 1}
        super().__init__(Config(app, **{**quiet, **fixed, **options}))
        self._stopped = asyncio.Event()

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
        raise Conflict(f"{what} of miniorch runs on this machine already", remedy="miniorch down") from None
    return descriptor
