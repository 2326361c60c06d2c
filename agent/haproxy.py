"""HAProxy as a process of this node: started once, found again, reloaded without losing a connection.

The problem: traffic must go on while the agent restarts, and while the list of tasks changes. The idea: HAProxy is its
own daemon, in a session of its own; the agent only writes its configuration and sends its master process SIGUSR2. The
master then starts a new worker that *inherits* the listening sockets (`expose-fd listeners`), so there is no moment
without a listener, and the old worker ends when its last connection does.

Which process is ours is asked of /proc and not of a pid file: ours are those with our configuration file on their
command line. A second file, written after each successful reload, says what the running worker has read, so an agent
that was killed between writing and signalling notices. Next file: `agent/listeners.py`.
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
        self._master_socket = run / "haproxy-master.sock"
        self._listeners = Listeners()
        self._lock = asyncio.Lock()
        self._known_master: int | None = None
        self._held: Mapping[int, str] = {}
        self._looked_at = float("-inf")

    async def apply(self, endpoints: Sequence[Endpoints]) -> None:
        async with self._lock:
            if not any(service.ports for service in endpoints) and not self._file.exists():
                return
            wanted = frontends(endpoints, self._look())
            text = config(wanted, str(self._run), _user())
            master = self._master()
            if not wanted:
                await self.end()
            elif not master:
                await self._start(text)
            elif not self._applied.exists() or self._applied.read_text() != text:
                await self._reload(master, text)

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
        master = self._master()
        if master:
            await self._end(master)
        for path in (self._file, self._applied, self._socket, self._master_socket):
            path.unlink(missing_ok=True)

    async def _start(self, text: str) -> None:
        """haproxy -W -D -S haproxy-master.sock -f haproxy.cfg: master and worker, detached from us"""
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise EngineError("published ports need HAProxy, which is not installed", remedy="make setup")
        self._write(text)
        started = await asyncio.to_thread(
            subprocess.run,
            [program, "-W", "-D", "-S", f"{self._master_socket},mode,600", "-f", str(self._file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=START_SECONDS,
            check=False,
        )
        if started.returncode != 0:
            raise EngineError(f"HAProxy does not start: {_last_alert(started.stderr)}")
        await _until(self._worker, "HAProxy's worker answers")
        await self._settled(text)

    async def _reload(self, master: int, text: str) -> None:
        before = await self._worker()
        self._write(text)
        os.kill(master, signal.SIGUSR2)

        async def replaced() -> str:
            now = await self._worker()
            return now if now != before else ""

        try:
            await _until(replaced, "HAProxy has taken the new configuration")
        except EngineError as error:
            # A master whose new configuration failed keeps its old workers: find out why, in words.
            raise EngineError(f"{error.message}: {await self._check()}", temporary=True) from None
        await self._settled(text)

    async def _settled(self, text: str) -> None:
        """The master has a moment, after its start and after each reload, in which it forgets a signal. Wait."""
        await _until(lambda: _ask(self._master_socket, "show proc"), "HAProxy's master answers")
        self._applied.write_text(text)

    async def _end(self, master: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(master, signal.SIGTERM)

        async def gone() -> str:
            return "" if self._ours() else "gone"

        await _until(gone, "HAProxy has ended")

    def _write(self, text: str) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.replace(self._file)

    async def _check(self) -> str:
        """haproxy -c -f haproxy.cfg"""
        check = await asyncio.to_thread(
            subprocess.run, ["haproxy", "-c", "-f", str(self._file)], capture_output=True, check=False
        )
        return _last_alert(check.stderr) if check.returncode else "its log says no more"

    def _ours(self) -> list[int]:
        """Master and workers, oldest first."""
        return [pid for pid in processes() if _is_ours(pid, str(self._file))]

    def _master(self) -> int | None:
        """The leader of our processes' session. Looking at every process is dear, so it is remembered.

        Asked of any of them: the master's own command line cannot be read while it executes itself anew.
        """
        if self._known_master is None or not _is_ours(self._known_master, str(self._file)):
            self._known_master = next(filter(None, map(_leader, self._ours())), None)
        return self._known_master

    async def _worker(self) -> str:
        """The pid that answers on the control socket; "" if nobody does."""
        answer = await _ask(self._socket, "show info")
        stopping = re.search(r"^Stopping: 1", answer, re.MULTILINE)
        pid = re.search(r"^Pid: (\d+)", answer, re.MULTILINE)
        return pid[1] if pid and not stopping else ""


async def _ask(path: Path, question: str) -> str:
    """What HAProxy answers on a control socket; "" if nobody does."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(f"{question}\n".encode())
                writer.write_eof()  # or the master waits for the next question
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


def _leader(pid: int) -> int | None:
    try:
        leader = os.getsid(pid)
    except ProcessLookupError:
        return None
    return leader if Path(f"/proc/{leader}").exists() else None


def _user() -> str:
    """Whom the workers run as: Debian's package makes a user for it."""
    try:
        return pwd.getpwnam("haproxy").pw_name if os.geteuid() == 0 else ""
    except KeyError:
        return ""


def _last_alert(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if "ALERT" in line]
    return lines[0].partition(":")[2].strip() if lines else "it says nothing"


async def _until(condition: Callable[[], Awaitable[str]], what: str) -> str:
    """Poll for something true, at most `START_SECONDS`."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        value = await condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise EngineError(f"after {START_SECONDS:g} s still not: {what}", temporary=True)
        await asyncio.sleep(POLL_SECONDS)
