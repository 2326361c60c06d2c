"""A private etcd for tests: own folder, free ports on loopback, killed and frozen by its pid, gone with the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = "serving client traffic"
READY_SECONDS = 30.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class EtcdProcess:
    """One member. `peers` names all members of a cluster: name -> peer port; alone without."""

    def __init__(
        self, folder: Path, *flags: str, name: str = "m1", peers: dict[str, int] | None = None, scheme: str = "http"
    ) -> None:
        (self.port,) = free_ports(1)
        self.endpoint = f"127.0.0.1:{self.port}"
        members = peers or {name: free_ports(1)[0]}
        own, client = f"http://127.0.0.1:{members[name]}", f"{scheme}://{self.endpoint}"
        self.folder = folder / name
        self.folder.mkdir(mode=0o700, parents=True)
        self._log = self.folder / "log"
        program = shutil.which("etcd")
        assert program is not None, "etcd is missing: scripts/setup.sh --tests installs it"
        # A killed pytest takes its etcd with it.
        self._command: Sequence[str] = [
            *("setpriv", "--pdeathsig", "KILL", program, "--name", name, "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", own, "--initial-advertise-peer-urls", own),
            *("--initial-cluster", ",".join(f"{one}=http://127.0.0.1:{port}" for one, port in members.items())),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap", *flags),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, wait: bool = True) -> None:
        self._log.write_bytes(b"")
        environment = {name: value for name, value in os.environ.items() if not re.match("ETCD|.*_proxy", name, re.I)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it serves."""
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while READY not in self._log.read_text():
            assert self._process.poll() is None, f"etcd ended: {self._log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"etcd does not serve: {self._log.read_text()[-2000:]}"
            time.sleep(0.01)

    def _ask(self, path: str, **body: Any) -> Any:
        """Through etcd's own JSON gateway."""
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"http://{self.endpoint}/v3/{path}", data, timeout=10) as answer:
            return json.load(answer)

    def revision(self) -> int:
        return int(self._ask("kv/range", key="AA==", count_only=True)["header"]["revision"])

    def leads(self) -> bool:
        status = self._ask("maintenance/status")
        return bool(status["leader"] == status["header"]["member_id"])

    def kill(self) -> None:
        """kill -9, as a power cut does it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Returns when each of its threads stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def running(*members: EtcdProcess) -> Iterator[None]:
    try:
        for member in members:
            member.start(wait=False)
        for member in members:
            member.wait()
        yield
    finally:
        for member in members:
            member.kill()
