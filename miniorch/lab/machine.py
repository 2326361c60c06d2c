"""One machine of the lab: namespaces that a process of its own holds, and everything that starts inside of them.

The problem: a node must look like a machine to Docker, to miniorch and to you, must lose its power like one, and must
leave nothing behind. The idea: five lines of `unshare` and `mount`. The first process in a PID namespace is to the
kernel what init is to a machine: when it dies, the kernel kills everything in there, containers included, at once. So
that one pid, kept with its start time, is all that must be remembered, and `kill -9` of it is pulling the plug.

A node shares the host's files (a path means the same on both), but for /run, /etc and the two folders that are its
disk: `docker` (the engine's data) and `state` (miniorch's). Who does this for real: systemd-nspawn, kind.
Next file: `miniorch/lab/wire.py`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miniorch.errors import MiniorchError, NotAllowed, Unreachable, Unsupported
from miniorch.lab.group import Group, wait_until
from miniorch.lab.plan import ETCD_FOLDER, LabNode, Place, Plan
from miniorch.processes import PidFile, last_lines
from miniorch.up import connects

START_SECONDS = 30.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 90.0
SAID = re.compile(r"^error\[E\d+\]: (.*?)(?:\nhelp: (.*))?\s*\Z", re.S | re.M)  # how a command says what is wrong
TIMED_OUT = (124, 137)  # of `timeout`
HOST_DAEMON_FILE = Path("/etc/docker/daemon.json")
KEPT_OF_HOST = ("registry-mirrors", "insecure-registries", "proxies")  # how the host's engine gets its images

# The first process of a node. Ignoring SIGCHLD makes the kernel reap all that end without a parent.
INIT = r"""
set -e
run=$1 name=$2
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
hostname "$name"
mount --rbind /sys/fs/cgroup "$run/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$run/cgroup" /sys/fs/cgroup
umount -l "$run/cgroup"
mount -t overlay -o "lowerdir=/etc,upperdir=$run/etc,workdir=$run/work" overlay /etc
mount --bind "$run/run" /run
echo 0 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
echo "$pid"
exec env --ignore-signal=CHLD sleep infinity > /dev/null 2>&1
"""


# A daemon that was killed leaves a dying containerd, which the next one would take for alive, wait for, and give up.
START_DOCKERD = r"""
read -r old 2> /dev/null < /run/docker/containerd/containerd.pid
for _ in $(seq 100); do
    kill -0 "${old:-x}" 2> /dev/null || { rm -f /run/docker/containerd/containerd.pid; break; }
    sleep 0.1
done
dockerd >> "$0" 2>&1 < /dev/null &
"""

FORGET = r"""
read -r agent rest 2> /dev/null < /run/miniorch/agent.pid && kill -9 "$agent"
docker ps -aq | xargs -r docker rm -f -v
docker network prune -f && docker volume prune -f
"""


class Machine:
    """A node of the lab. Needs root."""

    def __init__(self, place: Place, plan: Plan, node: LabNode) -> None:
        self.place, self.plan, self.node = place, plan, node
        self.name = node.name
        self.folder = place.run / node.name
        self.disk = place.state / node.name
        self.role = "manager" if plan.manages(node) else "worker"
        self.group = Group(f"{place.tag}/{node.name}")
        self.pid_file = PidFile(self.folder / "init.pid")
        self.docker_socket = self.folder / "run/docker.sock"
        self.etcd_folder = self.disk / "state/etcd-files"  # of a manager: what it shows to other members and servers

    @property
    def state(self) -> str:
        """`off`, `paused` or `on`."""
        if self.pid_file.pid() is None:
            return "off"
        return "paused" if self.group.frozen() else "on"

    @property
    def joined(self) -> bool:
        """Whether it belongs to the cluster already, perhaps since before a reboot."""
        return (self.disk / "state/identity.crt").exists()

    # --- power ---

    def start(self, resolvers: Sequence[str]) -> int:
        """Make the namespaces. Returns the host's pid of the node's first process."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in ("cgroup", "work", "etc/docker", "run/docker/plugins", "run/lock"):
            (self.folder / folder).mkdir(parents=True)
        for folder in ("docker", "state/logs"):
            (self.disk / folder).mkdir(parents=True, exist_ok=True)
        for name, text in self._files(resolvers).items():
            (self.folder / "etc" / name).write_text(text)
        (self.folder / ETCD_FOLDER.relative_to("/")).symlink_to(self.etcd_folder)
        self.group.make(self.node.cpus, self.node.memory_bytes)
        unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--propagation", "private"]
        pid = spawn_holder(self.group.argv([*unshare, "sh", "-c", INIT, "init", str(self.folder), self.name]))
        self.pid_file.write(pid)
        return pid

    def _files(self, resolvers: Sequence[str]) -> dict[str, str]:
        """What differs in the node's /etc. Without a resolver, names are refused at once and not after seconds."""
        hosts = [f"{self.plan.address(node)} {node.name}" for node in self.plan.nodes]
        daemon = {
            **_host_daemon(),
            "data-root": str(self.disk / "docker"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": self.group.docker,
            "live-restore": True,
        }
        return {
            "hostname": f"{self.name}\n",
            "hosts": "\n".join(["127.0.0.1 localhost", "::1 localhost", *hosts, ""]),
            "resolv.conf": "".join(f"nameserver {one}\n" for one in resolvers),
            "docker/daemon.json": json.dumps(daemon, indent=2),
        }

    def kill(self) -> None:
        """Pull the plug. Returns when nothing of it runs; its disk stays."""
        if (pid := self.pid_file.pid()) is not None:
            os.kill(pid, signal.SIGKILL)
        self.group.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside ---

    def argv(self, argv: Sequence[str], cwd: str = "/") -> list[str]:
        """A command line that runs `argv` inside. Raises `Unreachable` when the node is off or paused."""
        pid = self.pid_file.pid()
        if pid is None or self.group.frozen():
            remedy = f"miniorch lab {'start' if pid is None else 'resume'} {self.name}"
            raise Unreachable(f"{self.name} is {self.state}", remedy=remedy)
        enter = ["nsenter", "-t", str(pid), "-m", "-u", "-n", "-p", "--"]
        return self.group.argv([*enter, "sh", "-c", 'cd "$1" && shift && exec "$@"', self.name, cwd, *argv])

    def environment(self) -> dict[str, str]:
        """What commands inside see: yours, without what points at the host's miniorch or Docker."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINIORCH_", "DOCKER_"))}
        limits = {"MINIORCH_CPUS": self.node.cpus, "MINIORCH_MEMORY_BYTES": self.node.memory_bytes}
        own = {
            name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in limits.items() if value
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {
            **kept,
            **own,
            "PATH": path,
            "MINIORCH_STATE_DIR": str(self.disk / "state"),
            "MINIORCH_IMAGES_FROM": f"unix://{self.place.images_socket}",
        }

    def run(
        self,
        argv: Sequence[str],
        *,
        seconds: float = COMMAND_SECONDS,
        check: bool = True,
        stdin: Any = subprocess.DEVNULL,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end. Raises `MiniorchError` with what it said when it fails or takes too long."""
        # The limit is kept inside: killing `nsenter` out here would leave what it started, with its end of our pipes.
        limited = ["timeout", "-k", "1", f"{seconds:g}", *argv]
        done = subprocess.run(self.argv(limited), env=self.environment(), stdin=stdin, capture_output=True, text=True)
        if done.returncode in TIMED_OUT:
            said = f"{self.name}: {' '.join(argv)[:200]} has not ended after {seconds:g} s"
            raise Unreachable(said, remedy=f"miniorch lab shell {self.name}")
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise MiniorchError(f"{self.name}: {argv[0]} failed:\n{said}", remedy=f"miniorch lab shell {self.name}")
        return done

    def miniorch(self, *argv: str) -> str:
        """A command of miniorch inside; what it printed. Raises what it said was wrong."""
        done = self.run([sys.executable, "-m", "miniorch.cli.main", *argv], check=False)
        if done.returncode:
            said = SAID.search(done.stderr)
            message, remedy = said.groups() if said else (done.stderr.strip()[-2000:], None)
            kind = NotAllowed if done.returncode == NotAllowed.exit_code else MiniorchError
            raise kind(f"{self.name}: {message}", remedy=remedy or f"miniorch lab shell {self.name}")
        return done.stdout

    def start_dockerd(self) -> None:
        """Start the node's Docker Engine unless it answers, and wait until it does."""
        if connects(str(self.docker_socket)):
            return
        log = self.disk / "state/logs/dockerd.log"
        # The shell ends at once, and the daemon becomes a child of the node's first process.
        self.run(["sh", "-c", START_DOCKERD, str(log)])
        try:
            wait_until(lambda: connects(str(self.docker_socket)), START_SECONDS, f"dockerd of {self.name} answers")
        except Unreachable as error:
            lines = "\n".join(f"  | {line}" for line in last_lines(log, 8))
            raise Unreachable(f"{error.message}\n{lines}", remedy=f"the whole log: {log}") from None

    def forget_containers(self) -> None:
        """Remove what a cluster left on this disk: containers, networks, volumes. Images stay.

        First its agent, who would make them anew; but not net, without which Docker takes a minute per container.
        """
        if self.state == "on" and connects(str(self.docker_socket)):
            with contextlib.suppress(MiniorchError):
                self.run(["sh", "-c", FORGET], seconds=STOP_SECONDS)


def spawn_holder(argv: Sequence[str]) -> int:
    """Start a process that keeps namespaces, and return its pid as it names it itself."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said = process.stdout.readline().strip()
        if not said:
            process.wait()
            reason = process.stderr.read().strip()
            raise Unsupported(f"this machine cannot make a node's namespaces: {reason}", remedy="miniorch doctor")
    if int(said) != process.pid:  # `unshare --fork` only waits for its child, which does without it
        process.kill()
        process.wait()
    return int(said)


def _host_daemon() -> Mapping[str, Any]:
    try:
        settings = json.loads(HOST_DAEMON_FILE.read_text())
        return {key: settings[key] for key in KEPT_OF_HOST if key in settings}
    except (OSError, ValueError, TypeError):
        return {}
