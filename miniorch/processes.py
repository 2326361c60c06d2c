"""The three background processes of a machine: one table, and everything that is derived from it.

The problem: a pid in a file is a rumour. The process may be gone, and its number may belong to somebody's editor now.
The idea: write the pid together with the moment the process started, which the kernel keeps in /proc/<pid>/stat. Both
must fit, or the process is not ours and is never signalled.

Who does this for real: systemd, by being the parent; where there is systemd, the same table becomes three units
(`unit`), and it does the supervising. Next file: `miniorch/up.py`.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOG_LIMIT_BYTES = 10 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """One of them: how it is started, and what systemd should know of its order."""

    name: str
    what: str
    arguments: tuple[str, ...]  # after the interpreter
    ordering: tuple[str, ...] = ()  # lines of the unit's [Unit] section

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.arguments]

    @property
    def unit_name(self) -> str:
        return f"miniorch-{self.name}.service"


def table(node: str, pool: str = "", store: str = "", *, worker: bool = False) -> tuple[Process, ...]:
    """The processes in the order in which they are started. Net comes before Docker: dockerd waits for its plugin.

    A worker has no server.
    """
    options = [part for name, value in (("--pool", pool), ("--store", store)) if value for part in (name, value)]
    server = Process("server", "state, API and control loops", ("-m", "miniorch.server", *options))
    return (
        *(() if worker else (server,)),
        Process(
            "net", "container network, service addresses, DNS", ("-m", "netplugin.main", "--node", node),
            ("Before=docker.service",),
        ),
        Process(
            "agent", "containers, health, published ports", ("-m", "agent.main", "--node", node),
            ("After=docker.service miniorch-net.service miniorch-server.service", "Wants=docker.service"),
        ),
    )  # fmt: skip


def unit(process: Process, command: Sequence[str]) -> str:
    """The text of a systemd unit. HAProxy is the agent's child and outlives it: only the process itself is ended."""
    text = Path(__file__).with_name("unit.service").read_text()
    line, ordering = shlex.join(command).replace("%", "%%"), "".join(f"{one}\n" for one in process.ordering)
    return text.format(name=process.name, what=process.what, command=line, ordering=ordering)


@dataclass(frozen=True, slots=True)
class PidFile:
    """Which process we started, if it still is that process."""

    path: Path

    def write(self, pid: int) -> None:
        started = started_at(pid)
        if started is not None:
            fresh = self.path.with_suffix(".new")
            fresh.write_text(f"{pid} {started}\n")
            fresh.replace(self.path)

    def pid(self) -> int | None:
        """The pid of the living process; None when it is gone, a zombie, or somebody else's number by now."""
        try:
            pid, started = (int(word) for word in self.path.read_text().split())
        except (OSError, ValueError):
            return None
        return pid if started_at(pid) == started else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none, or only its remains (a zombie)."""
    try:
        # The second field is the program's name in brackets and may itself hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def rotate(log: Path, limit: int = LOG_LIMIT_BYTES) -> None:
    """Move a log that has grown beyond the limit aside; the one before it is dropped."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            log.replace(log.with_suffix(".log.1"))


def last_lines(log: Path, count: int, begin: int = 0) -> list[str]:
    """The end of a log from byte `begin` on, at most 64 kB of it."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, os.fstat(file.fileno()).st_size - 65536))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
