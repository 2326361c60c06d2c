"""The lab's verbs: up, down, cut, heal, kill, start, pause, resume, load.

The problem: half of a lab may be there, after Ctrl-C, a crash, a reboot of the host or another `lab up`. The idea: no
verb trusts what it did before. `up` looks at each piece (wire, power, engine, cluster, ports) and makes what is
missing, so the same command builds a lab, mends it, lets it grow and brings it back after a reboot; the nodes' disks
keep names, certificates and apps. `down` works from the other end and removes whatever it finds.

Nodes are made side by side; node1 is the first manager and the others join it, with the same commands as real machines.
With several managers each has a member of the etcd, so any one of three may be lost.
Next file: `miniorch/lab/forward.py`.
"""

import contextlib
import difflib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from miniorch.clock import SystemClock
from miniorch.codec import decode, encode
from miniorch.errors import Conflict, MiniorchError, NotAllowed, NotFound, Unreachable, Unsupported
from miniorch.identity import AUTHORITY_FILE, CERTIFICATE_FILE, has_identity
from miniorch.lab.group import Group
from miniorch.lab.machine import Machine
from miniorch.lab.plan import Place, Plan, free_wire, ordered
from miniorch.lab.wire import Wire, routes
from miniorch.processes import PidFile
from miniorch.up import Say, need_root

PROGRAMS = ("dockerd", "docker", "ip", "nft", "nsenter", "unshare", "haproxy")
NODE_BYTES = 256 << 20  # memory that a node without containers takes
DISK_BYTES = 512 << 20
ETCD_SECONDS = 20.0
# With its data on the manager's disk. It is there when the kernel lists a listener (0A) on port 2379 (094B).
START_ETCD = """
pgrep -x etcd > /dev/null || etcd --data-dir "$0/etcd" "$@" >> "$0/logs/etcd.log" 2>&1 < /dev/null &
until grep -q ':094B .* 0A ' /proc/net/tcp; do sleep 0.05; done
"""


class Lab:
    """The lab at a place, as its file says; `plan` is None when there is none."""

    def __init__(self, place: Place, say: Say) -> None:
        self.place, self.say = place, say
        self.plan = decode(Plan, place.file.read_text()) if place.file.exists() else None
        self.seconds: dict[str, float] = {}  # what took how long in `up`

    # --- looking ---

    @property
    def machines(self) -> list[Machine]:
        return [Machine(self.place, self.plan, node) for node in self.plan.nodes] if self.plan else []

    @property
    def wire(self) -> Wire:
        return Wire(self.place, self._there())

    def _there(self) -> Plan:
        if self.plan is None:
            raise NotFound("there is no lab", remedy="miniorch lab up")
        return self.plan

    def machine(self, name: str) -> Machine:
        """A node by its name; `n2` and `2` mean node2, too. Raises `NotFound` with the nearest name."""
        node = self._there().node(name)
        if node is None:
            names = [one.name for one in self._there().nodes]
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f": it has {', '.join(names)}"
            raise NotFound(f"the lab has no node {name[:40]}{hint}", remedy="miniorch lab ls")
        return Machine(self.place, self._there(), node)

    @property
    def sockets(self) -> list[str]:
        """Where the managers' servers listen."""
        return [str(self.place.api_socket(one.name)) for one in self.machines if one.role == "manager"]

    def ports(self) -> dict[str, str]:
        """Published port -> service, or why it does not answer on this machine."""
        file = self.place.run / "ports.json"
        ports: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return ports

    # --- up ---

    def up(
        self, count: int, store: str, labels: Mapping[str, Mapping[str, str]], cpus: float, memory_bytes: int,
        managers: int = 0,
    ) -> list[str]:  # fmt: skip
        """Make what is missing of the lab. Returns the nodes, when each is ready; those that somebody has cut or paused
        are left so. Raises what went wrong, in one message.
        """
        need_root("make a lab", "sudo miniorch lab up")
        wire = "" if self.plan else free_wire(routes())
        plan = ordered(self.plan, count, store, labels, cpus, memory_bytes, wire, managers)
        check_machine(plan, sum(machine.state != "off" for machine in self.machines))
        with self._lock():
            self.plan = plan
            self.place.state.mkdir(parents=True, exist_ok=True)
            self.place.file.write_bytes(encode(plan))
            with self._took("wire"):
                self.wire.ensure()
            unplugged = [name for name, plugged in self.wire.ports().items() if not plugged]
            machines = [one for one in self.machines if one.name not in unplugged and one.state != "paused"]
            if not any(one.role == "manager" for one in machines):
                heal = f"miniorch lab {'heal' if 'node1' in unplugged else 'resume'} node1"
                raise Unreachable("every manager of the lab is cut or paused, so nothing becomes ready", remedy=heal)
            if plan.store == "etcd":
                certify([one for one in self.machines if plan.manages(one.node)])
            self.bring_up(machines)
            with self._took("ports"):
                self._forward()
            self.place.current.write_text("".join(f"{one}\n" for one in self.sockets))
            return [machine.name for machine in machines]

    def bring_up(self, machines: Sequence[Machine]) -> None:
        """Power, engine and miniorch on these nodes, side by side; the manager's first."""
        with ThreadPoolExecutor(max(1, len(machines))) as pool:
            began = time.monotonic()
            engines = [pool.submit(self._engine, machine) for machine in machines]
            if machines and machines[0].name == "node1":
                engines.pop(0).result()
                with self._took("manager"):
                    first = machines[0].joined or self._manager() is None
                    self._join(machines[0], "" if first else self._token(machines[0].role))
                machines = machines[1:]
            for engine in engines:
                engine.result()
            self.seconds["engines"] = time.monotonic() - began - self.seconds.get("manager", 0.0)
            with self._took("workers"):
                tokens = {role: self._token(role) for role in sorted({one.role for one in machines if not one.joined})}
                for joining in [pool.submit(self._join, one, tokens.get(one.role, "")) for one in machines]:
                    joining.result()

    def _engine(self, machine: Machine) -> None:
        wire = self.wire
        if machine.state == "off":
            machine.start(wire.resolvers())
        wire.plug(machine)
        plan = self._there()
        if plan.store == "etcd" and plan.manages(machine.node):
            start = ["sh", "-c", START_ETCD, str(machine.disk / "state"), *plan.etcd(machine.node)]
            machine.run(start, seconds=ETCD_SECONDS)
        machine.start_dockerd()

    def _manager(self) -> Machine | None:
        """One that can be asked."""
        found = (one for one in self.machines if one.role == "manager" and one.joined and one.state == "on")
        return next(found, None)

    def _token(self, role: str) -> str:
        if (manager := self._manager()) is None:
            raise Unreachable("no manager of the lab is on", remedy="miniorch lab start node1")
        return manager.miniorch("token", "show", "--role", role, "--quiet").strip()

    def _join(self, machine: Machine, token: str) -> None:
        """miniorch on a node: as it was, or as a new member; without a token as the first one."""
        plan = self._there()
        if machine.joined:
            try:
                machine.miniorch("up", "--quiet")
            except NotAllowed as error:  # the cluster knows it no more
                again = f"miniorch lab exec {machine.name} -- miniorch down --all; miniorch lab start {machine.name}"
                raise NotAllowed(error.message, remedy=again) from None
            self.say(f"{machine.name} is ready")
            return
        machine.forget_containers()
        manager = self._manager() or machine
        if token:
            machine.miniorch("join", "--token", token, plan.address(manager.node))
        else:
            store = ["--store", plan.store_url()] if plan.store_url() else []
            machine.miniorch("init", "--advertise", plan.address(machine.node), *store)
        for key, value in machine.node.labels.items():
            manager.miniorch("node", "label", machine.name, f"{key}={value}")
        self.say(f"{machine.name} has joined and is ready")

    def _forward(self) -> None:
        """The process that makes published ports answer on the host's localhost."""
        file = PidFile(self.place.run / "forward.pid")
        if file.pid() is None:
            group = Group(f"{self.place.tag}/forward")
            group.make(0, 0)
            argv = group.argv([sys.executable, "-m", "miniorch.lab.forward", self.place.name])
            with (self.place.run / "forward.log").open("ab") as log:
                process = subprocess.Popen(
                    argv, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            file.write(process.pid)

    @contextlib.contextmanager
    def _took(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Two `lab up` at the same moment make one lab. The kernel frees the lock however we end."""
        self.place.run.mkdir(parents=True, exist_ok=True)
        with (self.place.run / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another miniorch works at the lab", remedy="wait until it has ended") from None
            yield

    # --- trouble ---

    def cut(self, name: str, *, healed: bool = False) -> str:
        """Pull a node's cable, or plug it in again. Returns the node's name."""
        machine = self.machine(name)
        if machine.state == "off":
            raise Conflict(f"{machine.name} is off", remedy=f"miniorch lab start {machine.name}")
        self.wire.set_port(machine.name, up=healed)
        return machine.name

    def pause(self, name: str, *, on: bool) -> str:
        """Stop time on a node for every process at once, containers too, or let it go on."""
        machine = self.machine(name)
        if machine.state == "off":
            raise Conflict(f"{machine.name} is off", remedy=f"miniorch lab start {machine.name}")
        machine.group.freeze(on)
        return machine.name

    def kill(self, name: str) -> str:
        """Pull a node's plug: everything on it ends at once, its disk stays."""
        machine = self.machine(name)
        machine.kill()
        return machine.name

    def start(self, name: str) -> str:
        """Power for a node that has none, with the disk that it had; on one that runs, start what is missing."""
        machine = self.machine(name)
        with self._lock():
            self.bring_up([machine])
        return machine.name

    def load(self, image: str) -> list[str]:
        """Copy an image of the host's engine to every node that runs. Returns their names."""
        self._there()
        running = [machine for machine in self.machines if machine.state == "on"]

        def copy(machine: Machine) -> None:
            saving = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            with saving:
                loading = machine.run(["docker", "load"], stdin=saving.stdout, check=False)
                said = saving.communicate()[1].decode().strip()
            if saving.returncode:
                raise NotFound(f"the image {image} is not on this machine: {said}", remedy="docker image ls")
            if loading.returncode:
                raise MiniorchError(f"{machine.name}: {loading.stderr.strip()}", remedy="miniorch lab ls")

        with ThreadPoolExecutor(max(1, len(running))) as pool:
            for copying in [pool.submit(copy, machine) for machine in running]:
                copying.result()
        return [machine.name for machine in running]

    # --- down ---

    def down(self, *, images: bool) -> None:
        """Remove all of it. The engines' disks stay, without containers, so that images need not come again."""
        need_root("remove a lab", "sudo miniorch lab down")
        with self._lock():
            self.place.current.unlink(missing_ok=True)
            machines = self.machines
            with ThreadPoolExecutor(max(1, len(machines))) as pool:
                for removing in [pool.submit(remove, machine, images=images) for machine in machines]:
                    removing.result()
            Group(self.place.tag).kill()
            Wire(self.place, self.plan or Plan()).remove()
            for file in (self.place.file, self.place.images_socket):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.place.run, ignore_errors=True)
            if images:
                remove_disks(self.place.state)
        self.plan = None


def certify(managers: Sequence[Machine]) -> None:
    """Give each member of the etcd its certificate. What signs them is forgotten: there will be no further member."""
    from miniorch.authority import LIFE_SECONDS, Authority, own_key, write_private
    from miniorch.certificates import SKEW_SECONDS, Subject, private_key

    if all(has_identity(machine.etcd_folder) for machine in managers):
        return
    now = SystemClock().now()
    authority = Authority.make("lab", now)
    for machine in managers:
        folder, address = machine.etcd_folder, machine.plan.address(machine.node)
        subject = Subject(machine.name, "", "lab", address, now + LIFE_SECONDS, since=now - SKEW_SECONDS)
        signed = authority.sign(subject, private_key(own_key(folder)).public_key())
        write_private(folder / AUTHORITY_FILE, authority.certificate.encode())
        write_private(folder / CERTIFICATE_FILE, signed.encode())


def remove(machine: Machine, *, images: bool) -> None:
    """A node for good; of its disk only the engine's images stay, if they are not to go, too."""
    if machine.state == "paused":
        machine.group.freeze(False)
    if not images:
        machine.forget_containers()
    machine.kill()
    shutil.rmtree(machine.disk / "state", ignore_errors=True)


def remove_disks(folder: Path) -> None:
    """Those of all nodes that ever were, side by side: for each of ten thousand files one waits for the real disk."""
    disks = [*folder.iterdir()] if folder.exists() else []
    with ThreadPoolExecutor(max(1, len(disks))) as pool:
        for removing in [pool.submit(shutil.rmtree, disk, ignore_errors=True) for disk in disks]:
            removing.result()
    shutil.rmtree(folder, ignore_errors=True)


def check_machine(plan: Plan, running: int) -> None:
    """Raises `Unsupported` when this machine cannot carry such a lab."""
    programs = [*PROGRAMS, *(["etcd"] if plan.store == "etcd" else [])]
    if missing := [name for name in programs if shutil.which(name) is None]:
        packages = "docker.io iproute2 nftables util-linux haproxy" + " etcd-server" * ("etcd" in missing)
        raise Unsupported(f"a lab needs {', '.join(missing)}", remedy=f"apt-get install {packages}")
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {line.split()[0]: int(line.split()[1]) << 10 for line in lines}
    new, free, total = len(plan.nodes) - running, memory["MemAvailable:"], memory["MemTotal:"]
    cpus = os.cpu_count() or 1
    if any(node.cpus > cpus for node in plan.nodes):
        raise Unsupported(f"this machine has {cpus} processors, and no node can have more", remedy=f"--cpus {cpus}")
    if any(node.memory_bytes > total for node in plan.nodes):
        message = f"this machine has {total >> 20} MB of memory, and no node can have more"
        raise Unsupported(message, remedy=f"--memory {total >> 20}m")
    if new * NODE_BYTES > free:
        fit = running + free // NODE_BYTES
        raise Unsupported(
            f"{new} more nodes need {new * NODE_BYTES >> 20} MB of memory, {free >> 20} MB are free",
            remedy=f"miniorch lab up --nodes {fit}" if fit else "end other programs, then the same again",
        )
    disk = shutil.disk_usage("/var/lib").free
    if disk < DISK_BYTES:
        raise Unsupported(f"only {disk >> 20} MB are free below /var/lib", remedy="docker system prune")
