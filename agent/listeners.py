"""Who listens on which TCP port of this machine: `ss -ltnp`, read from /proc.

A published port that another program holds must be named with its holder before anything is placed there. The kernel
lists listening sockets by inode, and each process's open files name the inodes: joining both tells the holder. The
second half is slow (every open file of every process), so its answers are kept for as long as the socket lives.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

LISTEN = "0A"
ANY_V6 = "0" * 32
MAPPED_V6 = "0000000000000000FFFF0000"  # ::ffff:0:0/96, as the kernel prints it
SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening(table: str) -> dict[int, int]:
    """Port -> socket inode of the listeners in a /proc/net/tcp or tcp6 that collide with `bind 0.0.0.0:port`.

    Every IPv4 listener does, one on 127.0.0.1 as well. Of IPv6, the one on [::], which takes IPv4 too, and mapped ones.
    """
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        collides = len(address) == 8 or address == ANY_V6 or address.startswith(MAPPED_V6)
        if fields[3] == LISTEN and collides:
            found[int(port, 16)] = int(fields[9])
    return found


class Listeners:
    """The listeners of this network namespace, with holders."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._owners: dict[int, tuple[int, ...]] = {}  # socket inode -> pids

    def by_port(self) -> dict[int, tuple[int, ...]]:
        """TCP port -> pids that hold it; no pids if they cannot be seen."""
        ports: dict[int, int] = {}
        for table in ("tcp6", "tcp"):
            try:
                ports.update(listening((self._proc / "self/net" / table).read_text()))
            except FileNotFoundError:  # a machine without IPv6
                continue
        inodes = set(ports.values())
        # A socket may pass from one process to another, as from one HAProxy to the next: then its old owner is gone.
        ended = any(not arguments(pid, self._proc) for pids in self._owners.values() for pid in pids)
        if ended or inodes - self._owners.keys():
            self._owners = self._find(inodes)
        return {port: self._owners.get(inode, ()) for port, inode in sorted(ports.items())}

    def _find(self, inodes: set[int]) -> dict[int, tuple[int, ...]]:
        owners: dict[int, tuple[int, ...]] = dict.fromkeys(sorted(inodes), ())
        for pid in processes(self._proc):
            try:
                files = os.scandir(self._proc / str(pid) / "fd")
            except OSError:  # it has ended
                continue
            with files:
                for entry in files:
                    try:
                        match = SOCKET.fullmatch(os.readlink(entry.path))
                    except OSError:
                        continue
                    if match and int(match[1]) in owners and pid not in owners[int(match[1])]:
                        owners[int(match[1])] += (pid,)
        return owners


def processes(proc: Path = Path("/proc")) -> Iterator[int]:
    """All process ids, in order."""
    yield from sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit())


def arguments(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """A process's command line; empty if it has ended, whether or not anybody has asked how."""
    try:
        line = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0")
    except OSError:
        return []
    return line.split("\0") if line else []


def holder(pids: tuple[int, ...], proc: Path = Path("/proc")) -> str:
    """For a person: "nginx (pid 12)"."""
    for pid in pids:
        try:
            return f"{(proc / str(pid) / 'comm').read_text().strip()} (pid {pid})"
        except OSError:
            continue
    return "another program"
