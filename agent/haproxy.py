"""HAProxy as a process of this node: started once, found again, replaced without losing a connection.

The problem: traffic must go on while the agent restarts, and while the list of tasks changes. The idea: HAProxy is its
own daemon, in a session of its own. For another configuration a second one is started, which takes the *listening
sockets* out of the first one's hands (`-x`, `expose-fd listeners`) and tells it to finish (`-sf`): there is no moment
without a listener, and the old one ends when its last connection does, ten minutes later at the latest: then it closes
what is left (`hard-stop-after`). One that refuses its configuration never gets that far, and the old one goes on.

Which processes are ours is asked of /proc and not of a pid file: those with our configuration file on their command
line. A second file says what the one that listens has read, so an agent that was killed in the middle notices. Next
file: `agent/listeners.py`.
"""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from agent.ingress import config, frontends
from agent.listeners import Listeners, arguments, holder, processes
from miniorch.errors import EngineError
from miniorch.model import Endpoints

START_SECONDS = 5.0
POLL_SECONDS = 0.02
FRESH_SECONDS = 4.0  # the kernel needs milliseconds for its list of sockets, so heartbeat and `apply` share a look


class HAProxy:
    """The `Ingress` of a real node. `run` is the folder for its files."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._file = run / "haproxy.cfg"
        self._applied = run / "haproxy.applied"
        self._socket = run / "haproxy.sock"
        self._listeners = Listeners()
        self._lock = asyncio.Lock()
        self._known: int | None = None
        self._held: Mapping[int, str] = {}
        self._looked_at = float("-inf")

    async def apply(self, endpoints: Sequence[Endpoints]) -> None:
        async with self._lock:
            if not any(service.ports for service in endpoints) and not self._file.exists():
                return
            wanted = frontends(endpoints, self._look())
            text = config(wanted, str(self._run), _user())
            if not wanted:
                await self.end()
            elif not await self._running() or not self._applied.exists() or self._applied.read_text() != text:
                await self._start(text)

    async def ports_in_use(self) -> Mapping[int, str]:
        now = asyncio.get_running_loop().time()
        return self._held if now - self._looked_at < FRESH_SECONDS else self._look()

    def _look(self) -> Mapping[int, str]:
        held = {}
        for port, pids in self._listeners.by_port().items():
            ours = any(_is_ours(pid, str(self._file)) for pid in pids)
            gone = bool(pids) and not any(arguments(pid) for pid in pids)
            if not ours and not gone:
                held[port] = holder(pids)
        self._held, self._looked_at = held, asyncio.get_running_loop().time()
        return held

    async def end(self) -> None:
        """Stop HAProxy and remove its files."""
        for pid in self._ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

        async def gone() -> bool:
            return not self._ours()

        await _until(gone, "HAProxy has ended")
        for path in (self._file, self._applied, self._socket):
            path.unlink(missing_ok=True)

    async def _start(self, text: str) -> None:
        """haproxy -D -f haproxy.cfg -x haproxy.sock -sf PID...: detached from us, in the place of those that run"""
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise EngineError("published ports need HAProxy, which is not installed", remedy="make setup")
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.replace(self._file)
        before = await self._running()
        inherit = ["-x", str(self._socket)] if before else []
        started = await asyncio.to_thread(
            subprocess.run,
            [program, "-D", "-f", str(self._file), *inherit, "-sf", *map(str, self._ours())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=START_SECONDS,
            check=False,
        )
        if started.returncode != 0:
            raise EngineError(f"HAProxy does not start: {_last_alert(started.stderr)}")

        async def answers() -> bool:
            self._known = None
            return await self._running() not in (None, before)

        await _until(answers, "the new HAProxy answers")
        self._applied.write_text(text)

    def _ours(self) -> list[int]:
        """The one that listens, and those before it that still have connections, oldest first."""
        return [pid for pid in processes() if _is_ours(pid, str(self._file))]

    async def _running(self) -> int | None:
        """The one that listens. It is asked once: as long as there is such a process, it is that one."""
        if self._known is None or not _is_ours(self._known, str(self._file)):
            pid = re.search(r"^Pid: (\d+)", await _ask(self._socket, "show info"), re.MULTILINE)
            self._known = int(pid[1]) if pid else None
        return self._known


async def _ask(path: Path, question: str) -> str:
    """What HAProxy answers on a control socket; "" if nobody does."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(f"{question}\n".encode())
                return (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""


def _is_ours(pid: int, file: str) -> bool:
    """By its command line, and by its network: the nodes of a lab share process ids, and each has such a file."""
    argv = arguments(pid)
    if not argv or os.path.basename(argv[0]) != "haproxy" or file not in argv:
        return False
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def _user() -> str:
    """Whom the workers run as: Debian's package makes a user for it."""
    try:
        return pwd.getpwnam("haproxy").pw_name if os.geteuid() == 0 else ""
    except KeyError:
        return ""


def _last_alert(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if "ALERT" in line]
    return lines[0].partition(":")[2].strip() if lines else "it says nothing"


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll for something true, at most `START_SECONDS`."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            raise EngineError(f"after {START_SECONDS:g} s still not: {what}", temporary=True)
        await asyncio.sleep(POLL_SECONDS)
