"""The cgroups of a node: what it may use, which processes are its, and the power button that stops time.

The problem: a container's processes leave the namespaces of their node for ones of their own, yet belong to it. The
idea: cgroups nest. `<lab>/<node>/system` holds what runs on the node itself, `<lab>/<node>/docker` is given to its
Docker Engine as the parent of all containers, and a limit or a freeze of `<lab>/<node>` holds for both.

Version 1 has one tree per controller, version 2 a single one. Who does this for real: systemd's slices.
"""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniorch.errors import Unreachable, Unsupported

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
CONTROLLERS = ("cpu", "cpuacct", "memory", "freezer", "pids", "blkio")  # those of version 1 that anybody may enter
WEIGHTS = ("cpu.weight", "2000"), ("cpu.shares", "20480")  # as twenty processes that nobody has put into a group
POLL_SECONDS = 0.02
FREEZE_SECONDS = 5.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Group:
    """The cgroups below one path, as in `miniorch-lab/node1`."""

    path: str

    @property
    def docker(self) -> str:
        """For dockerd's `cgroup-parent`."""
        return f"/{self.path}/docker"

    def make(self, cpus: float, memory_bytes: int) -> None:
        """Make it, with limits; 0 is none."""
        trees = _trees()
        for tree in trees:
            folder = tree / self.path
            if _unified(tree):
                _enable(tree, self.path)
            (folder / "system").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Unsupported):  # on a busy host all of a lab would count for one process
            Group(self.path.partition("/")[0])._set(*WEIGHTS)
        period = PERIOD_MICROSECONDS
        if cpus:
            self._set(("cpu.max", f"{int(cpus * period)} {period}"), ("cpu.cfs_quota_us", str(int(cpus * period))))
        if memory_bytes:
            self._set(("memory.max", str(memory_bytes)), ("memory.limit_in_bytes", str(memory_bytes)))

    def _set(self, *files: tuple[str, str]) -> None:
        """Write the first of some files that exists. Raises `Unsupported` when this machine has none of them."""
        for name, value in files:
            for tree in _trees():
                if (tree / self.path / name).exists():
                    (tree / self.path / name).write_text(value)
                    return
        raise Unsupported(f"this machine's cgroups cannot do {files[0][0]}", remedy="miniorch doctor")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` as one of the node's own processes."""
        files = [str(tree / self.path / "system/cgroup.procs") for tree in _trees()]
        join = "; ".join(f"echo 0 > {shlex.quote(file)}" for file in files)
        return ["sh", "-c", f'{join}; exec "$@"', "join", *argv]

    def freeze(self, frozen: bool) -> None:
        """Stop time for all its processes at once, or let it go on. Returns when that is so."""
        self._set(("cgroup.freeze", str(int(frozen))), ("freezer.state", "FROZEN" if frozen else "THAWED"))
        wait_until(lambda: self.frozen() is frozen, FREEZE_SECONDS, f"the cgroup {self.path} follows")

    def frozen(self) -> bool:
        for tree in _trees():
            with contextlib.suppress(OSError):
                if (tree / self.path / "freezer.state").read_text().strip() == "FROZEN":
                    return True
            with contextlib.suppress(OSError):
                if "frozen 1" in (tree / self.path / "cgroup.events").read_text():
                    return True
        return False

    def processes(self) -> set[int]:
        """Everything that runs in it, containers too."""
        found: set[int] = set()
        for folder in self.folders():
            with contextlib.suppress(OSError):  # it went away meanwhile
                found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
        return found

    def folders(self) -> list[Path]:
        """All of its folders in all trees, the deepest first. Docker adds some in trees that we never enter."""
        roots = [tree / self.path for tree in (CGROUPS, *CGROUPS.iterdir()) if tree.is_dir() and not tree.is_symlink()]
        folders = [Path(folder) for root in roots for folder, _, _ in os.walk(root)]
        return sorted(folders, key=lambda folder: -len(folder.parts))

    def kill(self) -> None:
        """End everything in it, whoever started it. Raises `Unreachable` when something stays."""
        if self.folders() and self.frozen():
            self.freeze(False)  # what is frozen cannot even die
        wait_until(self._killed, STOP_SECONDS, f"the processes in the cgroup {self.path} have ended")
        wait_until(self._removed, STOP_SECONDS, f"the cgroup {self.path} is gone")

    def _killed(self) -> bool:
        for pid in sorted(self.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not self.processes()

    def _removed(self) -> bool:
        """Remove what is empty by now. Returns whether nothing is left."""
        for folder in self.folders():
            with contextlib.suppress(OSError):  # its last process is just leaving
                folder.rmdir()
        return not self.folders()


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Raises `Unreachable` that names `what` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unreachable(f"after {seconds:g} s still not: {what}", remedy="miniorch lab ls")
        time.sleep(POLL_SECONDS)


def _unified(tree: Path) -> bool:
    return (tree / "cgroup.controllers").exists()


def _trees() -> list[Path]:
    """Where a process can be put: the one tree of version 2, or those of version 1."""
    if _unified(CGROUPS):
        return [CGROUPS]
    return [CGROUPS / name for name in CONTROLLERS if (CGROUPS / name).is_dir()]


def _enable(tree: Path, path: str) -> None:
    """Version 2: a controller works in a group when all groups above it hand it down."""
    folder = tree
    for part in ("", *Path(path).parts):
        folder = folder / part
        folder.mkdir(exist_ok=True)
        for controller in ("cpu", "memory", "pids", "io", "cpuset"):
            with contextlib.suppress(OSError):  # one that this kernel lacks, or that somebody keeps to himself
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
