"""Start and stop this machine's processes, and know whether they truly answer.

The problem: "started" is not "works": a server that cannot open its database has a pid, too, for half a second. The
idea: ask each process for what it is there for. The server must answer `/v1/version`, net must accept on Docker's
plugin socket, the agent's node must be listed and ready. Whatever answers is left alone; only what is missing is
started, in a session of its own, so that it outlives the terminal. Containers, HAProxy and the network notice
nothing of all this.

Who does this for real: systemd; `miniorch up --systemd` hands the same table over to it (`processes.py`).
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from miniorch.errors import Conflict, MiniorchError, NotAllowed, Unreachable, Unsupported, UsageError
from miniorch.identity import NODE_NAME, is_worker
from miniorch.processes import PidFile, Process, last_lines, rotate, table, unit
from miniorch.servers import ways
from miniorch.transport import RUN_DIRECTORY, STATE_DIRECTORY, HttpTransport

START_SECONDS = 30.0
STOP_SECONDS = 10.0
GRACE_SECONDS = 5.0  # dockerd, or the store, may be restarting at this very moment
ASK_SECONDS = 5.0
POLL_SECONDS = 0.05
PLUGIN_SOCKET = "/run/docker/plugins/miniorch.sock"
UNITS = Path("/etc/systemd/system")
SYSTEMD = Path("/run/systemd/system")  # exists exactly while systemd runs this machine
Say = Callable[[str], None]

_children: list[subprocess.Popen[bytes]] = []  # kept, so that those that die are reaped and no longer look alive


class Machine:
    """The processes of this machine. `node` names it; without one, the name given last time or else the host's.

    `store` is the URL of the server's store; without one, that of last time or else a file here.
    """

    def __init__(
        self, say: Say, node: str = "", pool: str = "", store: str = "", *,
        run: str = RUN_DIRECTORY, state: str = STATE_DIRECTORY, plugin_socket: str = PLUGIN_SOCKET,
    ) -> None:  # fmt: skip
        if node and not NODE_NAME.fullmatch(node):
            raise UsageError("--node wants letters, digits, . and -, at most 63", remedy="--node node1")
        if pool:
            from miniorch.pool import check_pool  # what few commands need, the others should not load

            check_pool(pool)
        self.say = say
        self.run, self.state = Path(run), Path(state)
        self.sockets = {"server": f"{run}/api.sock", "net": plugin_socket, "agent": f"{run}/agent.sock"}
        self.node = node or self._remembered("node") or socket.gethostname()
        self.store = _with_whole_paths(store) or self._remembered("store")
        self.worker = is_worker(self.state)
        self.processes = table(self.node, pool, self.store, worker=self.worker)
        self._begins: dict[str, int] = {}  # where the log of what was started here begins

    # --- up ----------------------------------------------------------------------------------------------------------

    def ensure_up(self, names: Collection[str] = ("server", "net", "agent")) -> list[str]:
        """Start what does not answer and wait until everything does. Returns the names of what was started.

        Raises `NotAllowed` for want of root, `Unreachable` with the last log lines when one does not come up, and
        `UsageError` with them, having stopped all that it has started, when one refuses how it was called.
        """
        known = self._remembered("store")
        if self.store != known and (self.answers("server") or self._store_of_server() == known):
            raise Conflict(
                f"the server runs already, with its state in {known or self.state}",
                remedy=f"miniorch down; miniorch up --store {self.store}",
            )
        if all(self.answers(process.name) for process in self._visible()):
            return []
        need_root("start miniorch's processes", "sudo miniorch up")
        started: list[str] = []
        with self._lock():
            if self._store_of_server() not in (None, self.store):
                self._stop(self.processes[0])  # it waits for a store that was mistyped, say, and never answered
            self._remember("node", self.node)
            try:
                self._start_missing(names, started)
            except UsageError:  # nothing of it runs for a server that cannot be
                for process in reversed(self.processes):
                    if process.name in started:
                        self._stop(process)
                raise
            self._remember("store", self.store)
        return started

    def _start_missing(self, names: Collection[str], started: list[str]) -> None:
        awaited = []
        for process in self.processes:
            if process.name not in names or self.answers(process.name):
                continue
            if self._under_systemd():
                _systemctl("start", process.unit_name)
                started.append(process.name)
            elif self._pid_file(process).pid() is None:
                self._start(process, started)
            awaited.append(process)
            if process.name == "net":  # Docker asks it as soon as the agent knows its node
                self._wait_for(process, started)
        for process in awaited:
            self._wait_for(process, started)

    def missing(self) -> list[str]:
        """What has died, by a look that is cheap enough for every second."""
        _reap()
        return [
            process.name
            for process in self._visible()
            if self._pid_file(process).pid() is None and not connects(self.sockets[process.name])
        ]

    def _start(self, process: Process, started: list[str]) -> None:
        self.say(f"starting {process.name} ({process.what})")
        started.append(process.name)
        log = self.log_of(process.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        rotate(log)
        with log.open("ab") as output:
            self._begins[process.name] = output.tell()
            child = subprocess.Popen(
                process.command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _children.append(child)
        self._pid_file(process).write(child.pid)

    def _wait_for(self, process: Process, started: list[str]) -> None:
        """Until it answers. One that was there, and ends only now, is started again."""
        began, said = time.monotonic(), ""
        while not self.answers(process.name):
            _reap()
            waited = time.monotonic() - began
            if process.name == "agent" and waited > GRACE_SECONDS and not connects(docker_socket()):
                raise Unreachable(
                    f"Docker does not answer on {docker_socket()}",
                    remedy="systemctl start docker   (where there is no systemd: dockerd &)",
                )
            if waited > GRACE_SECONDS and not said and (trouble := self.trouble()):
                said = trouble.message
                self.say(f"still waiting: {said}")
            gone = not self._under_systemd() and self._pid_file(process).pid() is None
            if gone and process.name not in started:
                self._start(process, started)
            elif gone or waited > START_SECONDS:
                raise self._did_not_start(process, gone)
            time.sleep(POLL_SECONDS)

    def _did_not_start(self, process: Process, gone: bool) -> MiniorchError:
        if not gone and (trouble := self.trouble()):
            return trouble
        what = "ended at once" if gone else f"does not answer after {START_SECONDS:.0f} s"
        if process.name == "agent":
            message = self.node_message()
            what += f": {message}" if message else ""
        log = self.log_of(process.name)
        lines = [f"  | {line}" for line in last_lines(log, 8, self._begins.get(process.name, 0))]
        _reap()
        refused = gone and UsageError.exit_code in (child.returncode for child in _children)
        return (UsageError if refused else Unreachable)(
            "\n".join([f"miniorch's {process.name} {what}", *lines]),
            remedy=f"miniorch doctor; the whole log: {log}",
        )

    # --- down --------------------------------------------------------------------------------------------------------

    def down(self, names: Collection[str] = ("server", "net", "agent")) -> list[str]:
        """Stop processes, the last started first. Returns the names of those that ran."""
        need_root("stop miniorch's processes", "sudo miniorch down")
        wanted = [process for process in reversed(self.processes) if process.name in names]
        if self._under_systemd():
            _systemctl("stop", *(process.unit_name for process in wanted))
            return [process.name for process in wanted]
        with self._lock():
            return [process.name for process in wanted if self._stop(process)]

    def _stop(self, process: Process) -> bool:
        file = self._pid_file(process)
        if (pid := file.pid()) is None:
            file.remove()
            return False
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while file.pid() == pid and time.monotonic() < deadline:
                _reap()
                time.sleep(POLL_SECONDS)
            if file.pid() != pid:
                break
        _reap()
        file.remove()
        return True

    def undo(self, *, volumes: bool) -> list[str]:
        """Stop all, and remove containers, HAProxy, network and state. The data of volumes only when told to.

        Net goes last: without it, Docker needs 15 seconds to remove its network. Returns the names of what ran.
        """
        stopped = self.down(("server", "agent"))
        _undo("agent.main")
        stopped += self.down(("net",))
        _undo("netplugin.main")
        self._remove_units()
        names = ("state.db*", "server*", "authority.*", "identity.*", "advertise", "net.json", "node", "store")
        files = [self.state.glob(name) for name in names]
        for file in itertools.chain(*files):
            file.unlink(missing_ok=True)
        for name in ("tasks", "logs", *(["volumes"] if volumes else [])):
            shutil.rmtree(self.state / name, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)
        return stopped

    # --- systemd -----------------------------------------------------------------------------------------------------

    def install_units(self) -> None:
        """Write and enable one unit per process. Raises `Unsupported` where systemd does not run the machine."""
        need_root("write systemd units", "sudo miniorch up --systemd")
        if not SYSTEMD.is_dir():
            raise Unsupported("systemd does not run this machine", remedy="miniorch up")
        self.down()  # what runs outside of systemd, or under units that are about to change
        self._remember("node", self.node)
        self._remember("store", self.store)
        for process in self.processes:
            (UNITS / process.unit_name).write_text(unit(process, process.command))
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", *(process.unit_name for process in self.processes))
        for process in self.processes:
            self._wait_for(process, [one.name for one in self.processes])

    def _remove_units(self) -> None:
        if not self._under_systemd():
            return
        _systemctl("disable", "--now", *(process.unit_name for process in self.processes))
        for process in self.processes:
            (UNITS / process.unit_name).unlink(missing_ok=True)
        _systemctl("daemon-reload")

    def _under_systemd(self) -> bool:
        return SYSTEMD.is_dir() and (UNITS / self.processes[0].unit_name).exists()

    # --- whether they answer -----------------------------------------------------------------------------------------

    def _visible(self) -> tuple[Process, ...]:
        """Those whose sockets this user may open. Without root that is the server, and it knows about the others."""
        return self.processes if os.geteuid() == 0 else self.processes[:1]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """A question to this machine's own server, as its administrator."""
        return HttpTransport(self.sockets["server"]).request_now(method, path, body)

    def answers(self, name: str) -> bool:
        """Whether a process does what it is there for."""
        if os.geteuid() != 0:
            return self.node_message() == ""
        if name == "server":
            return self._ask("/v1/version", [self.sockets["server"]]) is not None
        return connects(self.sockets[name]) and (name != "agent" or self.node_message() == "")

    def trouble(self) -> MiniorchError | None:
        """What the server, which is there, says instead of answering: that its store is away, say."""
        if connects(self.sockets["server"]):
            try:
                self.ask("GET", "/v1/version")
            except MiniorchError as error:
                return error
        return None

    def node_message(self) -> str | None:
        """Why this node is not ready; "" when it is, None when the server does not know it or does not answer."""
        listed = self._ask("/v1/nodes", ways(self.state, self.sockets["server"]))
        for item in listed["items"] if listed else []:
            if item["name"] == self.node:
                return "" if item["ready"] else item["message"] or "not ready"
        return None

    def _ask(self, path: str, servers: Sequence[str]) -> Any:
        for url in servers:
            try:
                return HttpTransport(url, folder=self.state, timeout_seconds=ASK_SECONDS).request_now("GET", path)
            except NotAllowed:
                raise
            except MiniorchError:
                pass
        return None

    # --- files -------------------------------------------------------------------------------------------------------

    def log_of(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def _pid_file(self, process: Process) -> PidFile:
        return PidFile(self.run / f"{process.name}.pid")

    def _store_of_server(self) -> str | None:
        """The `--store` of the server that we have started; None if none runs."""
        server = self.processes[0]
        pid = self._pid_file(server).pid() if server.name == "server" else None
        with contextlib.suppress(OSError):
            if line := Path(f"/proc/{pid}/cmdline").read_text():  # nothing at its very beginning and end
                words = line.split("\0")
                return words[words.index("--store") + 1] if "--store" in words else ""
        return None

    def _remembered(self, what: str) -> str:
        with contextlib.suppress(OSError):
            return (self.state / what).read_text().strip()
        return ""

    def _remember(self, what: str, value: str) -> None:
        """For the next `up` or `run`, whose user need not say it again."""
        self.state.mkdir(parents=True, exist_ok=True)
        if value:
            (self.state / what).write_text(value + "\n")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Two `miniorch run` at the same moment start one server, not two. The kernel frees it however we end."""
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "up.lock").open("a") as file:
            deadline = time.monotonic() + 3 * START_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Conflict(
                            "another miniorch starts or stops the processes",
                            remedy=f"wait until it has ended; its pid: fuser {self.run}/up.lock",
                        ) from None
                    time.sleep(POLL_SECONDS)
            yield


def _with_whole_paths(store: str) -> str:
    """The server runs in another folder than whoever names ca, cert and key."""
    return re.sub(r"([?&](?:ca|cert|key)=)([^/&][^&]*)", lambda found: found[1] + os.path.abspath(found[2]), store)


def connects(path: str) -> bool:
    """Whether somebody accepts on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(1.0)
        try:
            wire.connect(path)
        except OSError:
            return False
    return True


def docker_socket() -> str:
    """Where Docker listens."""
    host = os.environ.get("DOCKER_HOST", "")
    return host.removeprefix("unix://") if host.startswith("unix://") else "/var/run/docker.sock"


def need_root(doing: str, remedy: str) -> None:
    if os.geteuid() != 0:
        raise NotAllowed(f"only root may {doing}", remedy=remedy)


def _reap() -> None:
    for child in _children:
        child.poll()


def _undo(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--undo"], cwd="/", capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise MiniorchError(f"{module} --undo failed:\n{said}", remedy="miniorch doctor, then the same again")


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Unreachable(
            f"systemctl {arguments[0]} failed: {done.stderr.strip()}", remedy="journalctl -u 'miniorch-*'"
        )
