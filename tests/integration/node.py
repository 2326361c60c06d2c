"""A private machine inside this machine, for tests: its own network, mounts, host name and Docker Engine.

The problem: tests need real dockerd, nftables and routes, and must never touch those of the machine they run on. The
idea: one *holder* process keeps a network, a mount and a UTS namespace alive; every command of a test enters them with
nsenter. `/run` is an empty tmpfs there, `/etc` and `/var/lib` are overlays that forget, so dockerd's socket, the plugin
sockets, miniorch's own sockets and state all have their usual names and belong to this node alone.

No default route by default: what works here works in a classroom without an uplink. `ip_forward` is 0 before dockerd
starts, as on a fresh machine, so that Docker sets the policy of FORWARD to DROP here, too.

    with TestNode(data_root="/var/cache/miniorch-tests/docker") as node:
        node.start_dockerd(); node.load_busybox()
        print(node.docker("run", "--rm", "busybox:1", "hostname").stdout)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
ADDRESS = "198.51.100.10"  # the node's address on its unplugged wire

HOLD = r"""
set -e
scratch=$1 name=$2 route=$3
hostname "$name"
# A fresh sysfs shows this namespace's devices; the cgroup file systems are kept by taking them aside.
mount --rbind /sys/fs/cgroup "$scratch/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$scratch/cgroup" /sys/fs/cgroup
umount -l "$scratch/cgroup"
for place in etc var/lib opt; do
    mkdir -p "$scratch/upper/$place" "$scratch/work/$place"
    mount -t overlay -o "lowerdir=/$place,upperdir=$scratch/upper/$place,workdir=$scratch/work/$place" overlay "/$place"
done
mkdir -p /var/lib/miniorch
mount --bind "$scratch/state" /var/lib/miniorch
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/docker/plugins /run/lock
rm -f /etc/resolv.conf
: > /etc/resolv.conf
printf '127.0.0.1 localhost\n' > /etc/hosts
echo '{}' > /run/daemon.json
echo 0 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add eth0 type veth peer name wire0
ip address add 198.51.100.10/24 dev eth0
ip link set wire0 up
ip link set eth0 up
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.01; done
if [ "$route" = yes ]; then ip route add default via 198.51.100.1 dev eth0; fi
echo ready
exec sleep infinity
"""


def until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.05) -> Any:
    """Poll until `condition` gives something true and return that; `AssertionError` names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(pause)


class TestNode:
    """One private machine. Needs root. Use it as a context manager, or call `close`."""

    __test__ = False  # not a test class, whatever its name looks like to pytest

    def __init__(
        self, data_root: str | Path | None = None, *, name: str = "node1", default_route: bool = False
    ) -> None:
        """`data_root` is where dockerd keeps images; it outlives the node. Without one it is private and temporary."""
        self.name = name
        self.address = ADDRESS
        self.scratch = Path(tempfile.mkdtemp(prefix="miniorch-node-"))
        self.data_root = Path(data_root) if data_root else self.scratch / "docker"
        self.cgroup = self.scratch.name
        self.dockerd_log = self.scratch / "dockerd.log"
        self._default_route = default_route
        self._holder: subprocess.Popen[str] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._namespaces: set[str] = set()

    # ---- life ----

    def __enter__(self) -> TestNode:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> TestNode:
        """Make the namespaces. dockerd does not run yet."""
        for folder in ("cgroup", "state"):
            (self.scratch / folder).mkdir()
        route = "yes" if self._default_route else "no"
        unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-c", HOLD, "hold", str(self.scratch), self.name, route],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            reason = self._holder.stderr.read()
            self.close()
            raise AssertionError(f"the test node could not be made (root? unshare? overlay?): {reason}")
        self._namespaces = {_namespace(self.pid, kind) for kind in ("net", "mnt", "uts")}
        return self

    @property
    def pid(self) -> int:
        """The holder's pid: `nsenter -t <pid> -m -u -n sh` gives you a shell in there."""
        assert self._holder is not None, "the node is not open"
        return self._holder.pid

    def close(self) -> None:
        """End every process of the node, remove its cgroups and files. Images in a given `data_root` stay."""
        if self._dockerd is not None and self._dockerd.poll() is None:
            self.clear()
            self.stop_dockerd()
        until(self._kill_all, STOP_SECONDS, f"the node's processes have ended: {self._processes()}")
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            for pipe in (self._holder.stdout, self._holder.stderr):
                if pipe:
                    pipe.close()
            self._holder = None
        until(self._remove_cgroups, STOP_SECONDS, f"the cgroups {self.cgroup} are gone")
        # What was on its way from one namespace or cgroup to another was in neither when it was looked for.
        until(self._kill_all, STOP_SECONDS, f"the node's last processes have ended: {self._processes()}")
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def leftovers(self) -> list[str]:
        """What is still there of a closed node, one line each; empty is right."""
        found = [f"process {pid}: {_command(pid)}" for pid in self._processes()]
        found += [f"cgroup {path}" for path in self._cgroup_folders()]
        found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if self.cgroup in line]
        if self.scratch.exists():
            found.append(f"folder {self.scratch}")
        return found

    # ---- commands ----

    def argv(self, argv: Sequence[str], cwd: str | Path | None = None) -> list[str]:
        """A command line that runs `argv` inside. It execs throughout: the pid you start is the pid of `argv`."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-n", "--"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(cwd or os.getcwd()), *argv]

    def run(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        timeout: float = 60.0,
        check: bool = True,
        *,
        cwd: str | Path | None = None,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, with text output captured. `env` is added to this process's environment."""
        done = subprocess.run(
            self.argv(argv, cwd),
            env={**os.environ, **(env or {})},
            timeout=timeout,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        *,
        cwd: str | Path | None = None,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        pass_fds: Iterable[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start in the background; `.pid` is the process itself. `close` ends it at the latest."""
        return subprocess.Popen(
            self.argv(argv, cwd),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
        )

    # ---- Docker ----

    def start_dockerd(self, *more: str, wait: bool = True) -> None:
        """Start (again) the node's dockerd and wait until it answers. Needs `data_root` for itself alone."""
        self.data_root.mkdir(parents=True, exist_ok=True)
        first = self._lock is None
        if self._lock is None:
            self._lock = lock_folder(self.data_root)
            assert self._lock is not None, f"another test node uses {self.data_root} at this moment"
        argv = ["dockerd", "--config-file", "/run/daemon.json", "--data-root", str(self.data_root)]
        argv += ["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "-H", "unix:///run/docker.sock"]
        argv += ["--cgroup-parent", f"/{self.cgroup}", "--exec-opt", "native.cgroupdriver=cgroupfs", "--live-restore"]
        argv += ["--bip", "172.31.255.1/24", "--default-address-pool", "base=172.30.0.0/16,size=24", *more]
        with self.dockerd_log.open("ab") as log:
            # dockerd inherits the lock: even if the tests are killed, nobody else takes this data root while it runs.
            self._dockerd = self.popen(argv, stdout=log, stderr=log, pass_fds=[self._lock])
        if wait:
            self.wait_for_dockerd()
            if first:
                self.clear()  # an earlier run that was killed may have left containers in the data root

    def wait_for_dockerd(self, seconds: float = START_SECONDS) -> None:
        def answers() -> bool:
            assert self._dockerd is not None, "dockerd has not been started"
            assert self._dockerd.poll() is None, f"dockerd ended:\n{self.dockerd_tail()}"
            return self.docker("version", "--format", "{{.Server.Version}}", check=False).returncode == 0

        try:
            until(answers, seconds, "dockerd answers", pause=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.dockerd_tail()}") from None

    def dockerd_tail(self, lines: int = 20) -> str:
        return "\n".join(self.dockerd_log.read_text(errors="replace").splitlines()[-lines:])

    def stop_dockerd(self, kill: bool = False) -> None:
        """End dockerd, containers live on. Returns when its containerd is gone, too: a restart may follow at once."""
        if self._dockerd is None:
            return
        containerds = [pid for pid in self._processes() if _command(pid).startswith("containerd --config")]
        self._dockerd.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._dockerd.wait(timeout=STOP_SECONDS)
        self._dockerd = None
        until(lambda: not any(map(_alive, containerds)), STOP_SECONDS, f"containerd {containerds} has ended")
        # A zombie that waits for its new parent would pass for a living containerd, and dockerd would wait 15 s for it.
        self.run(["rm", "-f", "/run/docker/containerd/containerd.pid"])

    def docker(self, *argv: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Docker's command line inside the node."""
        return self.run(["docker", *argv], {"DOCKER_HOST": "unix:///run/docker.sock"}, timeout, check)

    def load_busybox(self, image: str = "busybox:1") -> str:
        """Import a busybox image made from this machine's static busybox, unless it is there. Returns its name."""
        if self.docker("image", "inspect", image, check=False).returncode == 0:
            return image
        folder = self.scratch / "busybox"
        for place in ("bin", "etc", "tmp", "root", "var", "proc", "sys", "dev"):
            (folder / place).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox, "busybox is missing: apt-get install busybox-static"
        shutil.copy(busybox, folder / "bin/busybox")
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                (folder / "bin" / applet).symlink_to("busybox")
        tar = self.scratch / "busybox.tar"
        subprocess.run(["tar", "-C", str(folder), "-cf", str(tar), "."], check=True)
        self.docker("import", "--change", 'CMD ["sh"]', "--change", "ENV PATH=/bin", str(tar), image)
        shutil.rmtree(folder)
        tar.unlink()
        return image

    def clear(self) -> None:
        """Remove all containers, user networks and volumes; images stay."""
        containers = self.docker("ps", "-aq", check=False).stdout.split()
        if containers:
            self.docker("rm", "-f", "-v", *containers, check=False, timeout=120)
        networks = self.docker("network", "ls", "-q", "--filter", "type=custom", check=False).stdout.split()
        if networks:
            self.docker("network", "rm", *networks, check=False, timeout=120)
        volumes = self.docker("volume", "ls", "-q", check=False).stdout.split()
        if volumes:
            self.docker("volume", "rm", *volumes, check=False)

    # ---- finding what belongs to the node ----

    def _processes(self) -> list[int]:
        """Everything that lives in one of its namespaces or cgroups: containers have their own namespaces."""
        inside = set()
        for folder in self._cgroup_folders():
            try:
                inside.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
            except OSError:  # the cgroup went away meanwhile
                continue
        for entry in Path("/proc").iterdir():
            if (
                entry.name.isdigit()
                and {_namespace(int(entry.name), kind) for kind in ("net", "mnt")} & self._namespaces
            ):
                inside.add(int(entry.name))
        if self._holder is not None:
            inside.discard(self._holder.pid)
        return sorted(pid for pid in inside if _alive(pid))

    def _kill_all(self) -> bool:
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not self._processes()

    def _cgroup_folders(self) -> list[Path]:
        """Deepest first. cgroup v1 has one tree per controller, v2 a single one."""
        roots = [CGROUPS / self.cgroup, *(tree / self.cgroup for tree in CGROUPS.iterdir())]
        folders = [Path(folder) for root in roots for folder, _, _ in os.walk(root)]
        return sorted(set(folders), key=lambda folder: -len(folder.parts))

    def _remove_cgroups(self) -> bool:
        for folder in self._cgroup_folders():
            try:
                folder.rmdir()
            except OSError:  # busy for a moment after its last process, or gone
                continue
        return not self._cgroup_folders()


def lock_folder(folder: Path) -> int | None:
    """An exclusive lock next to `folder`, held as long as the descriptor is open; None if somebody has it."""
    descriptor = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _namespace(pid: int, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    """False for a zombie, too: it only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
