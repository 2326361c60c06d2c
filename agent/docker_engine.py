"""Docker behind the `Engine` protocol.

The problem: a container's life is a few calls, and each of them has its own way to fail half-way. The idea: every
method may be called again after any failure and after any crash. The name of a container carries its task's id, so it
cannot be made twice, and all that must be remembered of it stands in its labels.

What experience with the real dockerd put in here: only list calls are trusted to answer quickly, since `inspect` waits
while a plugin call hangs; a stop may take 45 s while the network plugin is away; an endpoint that a restart left behind
keeps its address taken and must be disconnected by force *after* its container is removed; a dockerd that is killed
while it makes a container keeps what it had written of it, which never starts: its network would have come last.

Next file: `agent/docker_inside.py`.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docker.errors import APIError, NotFound
from docker.types import LogConfig

from agent.docker_connection import accepted, said_by
from agent.docker_images import DockerImages
from agent.docker_inside import DockerInside
from agent.docker_network import NETWORK, DockerNetwork
from agent.engine import TASK_LABEL, Container, ContainerSpec, EngineInfo
from agent.images import start_error
from agent.listeners import processes
from miniorch.errors import EngineError
from miniorch.spec import ContainerOptions, Resources

ADDRESS_LABEL = "miniorch.address"
TIDY_SECONDS = 60.0
INSPECT_SECONDS = 5.0
NAME_TRIES = 20
UNDO_TRIES, UNDO_PAUSE_SECONDS = 40, 0.25
SETTLE_SECONDS = (0.1, 0.5)
DNS_OPTIONS = ["ndots:1", "timeout:2", "attempts:2"]
# Linux chooses a program's own end of a connection from 32768 to 60999, but for these: what begins above 49151 would
# miss the node's fast path (netplugin/fastpath.py). The fewer can be used again a second after their connection ended.
SYSCTLS = {"net.ipv4.ip_local_reserved_ports": "47104-65535", "net.ipv4.tcp_tw_reuse": "1"}
WATCHED_EVENTS = ["start", "die", "destroy", "oom"]  # not exec_*: each probe would make us look at everything


class DockerEngine(DockerImages, DockerInside):
    """One dockerd as an `Engine`, and as the `Images` of `agent/peers.py`."""

    def __init__(self, base_url: str | None = None) -> None:
        super().__init__(base_url)
        self._network = DockerNetwork()
        self._oom: dict[str, bool] = {}  # ended container -> whether memory was the reason
        self._started: set[str] = set()  # as Docker said at the last look

    # ---- asking ----

    async def info(self) -> EngineInfo:
        info, version = await self.call(lambda api: (api.info(), api.version()))
        # A node of a lab has a share of its machine, which Docker's count does not know.
        cpus = float(os.environ.get("MINIORCH_CPUS") or info["NCPU"])
        memory_bytes = int(os.environ.get("MINIORCH_MEMORY_BYTES") or info["MemTotal"])
        labels = dict(label.partition("=")[::2] for label in info.get("Labels") or ())
        platform = f"{version['Os']}/{version['Arch']}"
        return EngineInfo(f"Docker {info['ServerVersion']}", Resources(cpus, memory_bytes), platform, labels)

    async def containers(self) -> list[Container]:
        listed = await self.call(lambda api: api.containers(all=True, filters={"label": TASK_LABEL}))
        # One that is being removed has no exit code any more, and the next look does not show it.
        containers = [_container(entry) for entry in listed if entry["State"] != "removing"]
        self._oom = {one.id: self._oom[one.id] for one in containers if one.id in self._oom}
        self._started = {one.id for one in containers if one.started}
        for number, one in enumerate(containers):
            if one.started and not one.running and one.exit_code in (None, 128 + signal.SIGKILL):
                containers[number] = await self._with_cause(one)
        return containers

    async def _with_cause(self, container: Container) -> Container:
        """What the list does not say: whether SIGKILL came from the memory limit."""
        code = container.exit_code
        if container.id not in self._oom or code is None:
            try:
                async with asyncio.timeout(INSPECT_SECONDS):
                    found = await self.call(lambda api: api.inspect_container(container.id)["State"])
            except (EngineError, TimeoutError):  # it hangs or is gone; the next list will tell
                return container
            code, self._oom[container.id] = int(found["ExitCode"]), bool(found["OOMKilled"])
        return replace(container, exit_code=code, oom_killed=self._oom[container.id])

    async def changes(self) -> AsyncIterator[None]:
        filters = json.dumps({"type": ["container"], "label": [TASK_LABEL], "event": WATCHED_EVENTS})
        heard = asyncio.Event()  # any number of events that come together are one
        async with self.open("GET", f"/events?filters={quote(filters)}") as wire:

            async def listen() -> None:
                try:
                    await accepted(wire)
                    async for _ in wire.body():
                        heard.set()
                finally:
                    heard.set()

            listening = asyncio.create_task(listen(), name="docker events")
            try:
                while not listening.done():
                    await heard.wait()
                    heard.clear()
                    # dockerd says "die" before its list shows it; how long before depends on the network driver.
                    for pause in SETTLE_SECONDS:
                        await asyncio.sleep(pause)
                        yield None
                listening.result()
            finally:
                listening.cancel()

    # ---- the life of a container ----

    async def create(self, spec: ContainerSpec) -> str:
        return await self.call(lambda api: self._network.given(api, lambda: self._create(api, spec)), self._making)

    def _create(self, api: Any, spec: ContainerSpec) -> str:
        wanted = spec.options
        host = api.create_host_config(
            **_host_options(wanted),
            binds=[f"{path}:{target}:{'ro' if only else 'rw'}" for target, (path, only) in spec.binds.items()],
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
            dns=[spec.dns] if spec.dns else None,
            dns_search=[spec.dns_search] if spec.dns_search else None,
            dns_opt=DNS_OPTIONS,
            mem_limit=spec.limit.memory_bytes or None,
            nano_cpus=int(spec.limit.cpus * 1e9) or None,
            network_mode=self._network.id,
            restart_policy={"Name": "no"},  # the orchestrator restarts, with back-off
        )
        options = {ADDRESS_LABEL: spec.address, "miniorch.task": spec.task, "miniorch.networks": spec.networks}
        endpoint = api.create_endpoint_config(driver_opt=options)
        try:
            return str(
                api.create_container(
                    spec.image_id,
                    command=None if spec.command is None else list(spec.command),
                    entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
                    environment=dict(spec.environment),
                    healthcheck={"test": ["NONE"]},  # the image's own; the agent probes
                    host_config=host,
                    hostname=spec.hostname,
                    labels={**spec.labels, TASK_LABEL: spec.task, ADDRESS_LABEL: spec.address},
                    name=spec.name,
                    networking_config=api.create_networking_config({NETWORK: endpoint}),
                    user=wanted.user or None,
                    working_dir=wanted.working_dir or None,
                    stop_signal=wanted.stop_signal or None,
                    tty=wanted.tty,
                    stdin_open=wanted.stdin_open,
                )["Id"]
            )
        except APIError as error:
            if error.status_code == 409:
                return _made_before(api, spec)
            raise

    async def start(self, container: str) -> None:
        await self.call(lambda api: self._network.given(api, lambda: self._start(api, container)), self._making)

    def _start(self, api: Any, container: str, again: bool = True) -> None:
        try:
            api.start(container)
        except APIError as error:
            said = said_by(error)
            if again and "already exists in network" in said:
                self._network.free_stuck_endpoints(api)
                return self._start(api, container, again=False)
            raise (start_error(said) or error) from None

    async def keep_tidy(self) -> None:
        """Free what got stuck, for ever. Docker keeps the endpoint of a container that is removed while net is away and
        dockerd has not spoken to it since its own start.
        """
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            with contextlib.suppress(EngineError):
                await self.call(self._network.free_stuck_endpoints)

    async def stop(self, container: str, grace_seconds: float) -> None:
        def stop(api: Any) -> None:
            with contextlib.suppress(NotFound):
                api.stop(container, timeout=math.ceil(grace_seconds))

        await self.call(stop)

    async def remove(self, container: str) -> None:
        def remove(api: Any) -> None:
            try:
                api.remove_container(container, v=True, force=True)
            except APIError as error:
                if error.status_code != 404 and "already in progress" not in said_by(error):
                    raise
            if container not in self._started:
                end_left(container)

        await self.call(remove, self._making)

    # ---- the node's network ----

    async def use_network(self, subnet: str) -> None:
        self._network.subnet = subnet
        await self.call(self._network.make, self._making)

    async def undo(self) -> int:
        """Remove every container of ours, and the network. Returns how many containers there were."""
        removed = 0
        for left in reversed(range(UNDO_TRIES)):
            containers = await self.containers()
            for one in containers:
                await self.remove(one.id)
            removed += len(containers)
            try:
                await self.call(self._network.remove, self._making)
                break
            except EngineError as error:  # dockerd is still making what a killed agent had asked for
                if "active endpoints" not in error.message:
                    raise
                if not left:  # by then it is dockerd's count that is wrong, and only a new dockerd counts again
                    raise EngineError(error.message, remedy="sudo systemctl restart docker") from None
            await asyncio.sleep(UNDO_PAUSE_SECONDS)
        return removed


def end_left(container: str, proc: Path = Path("/proc")) -> None:
    """Kill what runs on of a removed container. A dockerd that was killed in the middle of a start, and its containerd
    with it, takes what has begun for never started: it removes it without ending it, and lists it no more.
    """
    for pid in processes(proc):
        with contextlib.suppress(OSError):  # it has ended
            if container in (proc / str(pid) / "cgroup").read_text():
                os.kill(pid, signal.SIGKILL)


def _made_before(api: Any, spec: ContainerSpec) -> str:
    """The container that has the name of the one which was to be made."""
    for _ in range(NAME_TRIES):  # a call just before ours has taken the name and not made the container yet
        try:
            found = api.inspect_container(spec.name)
            break
        except NotFound:
            time.sleep(0.1)
    else:
        raise EngineError(f"the name {spec.name} is taken by a container that cannot be seen", temporary=True)
    if found["Config"]["Labels"].get(TASK_LABEL) != spec.task:
        raise EngineError(f"the name {spec.name} is taken by a container that is not miniorch's")
    return str(found["Id"])


def _host_options(wanted: ContainerOptions) -> dict[str, Any]:
    """The options that Docker keeps with the host's side of a container. None is: as the engine has it."""
    lists = ("cap_add", "cap_drop", "security_opt", "group_add", "devices", "extra_hosts")
    limits = [(name, *value.split(":")) for name, value in wanted.ulimits.items()]
    return {
        **{name: list(getattr(wanted, name)) or None for name in lists},
        "init": wanted.init,  # PID 1 that reaps zombies and passes signals on
        "pids_limit": wanted.pids_limit or None,
        "privileged": wanted.privileged,
        "read_only": wanted.read_only,
        "shm_size": wanted.shm_size or None,
        "sysctls": {**SYSCTLS, **wanted.sysctls},
        "tmpfs": dict(wanted.tmpfs) or None,
        "ulimits": [{"Name": name, "Soft": int(soft), "Hard": int(hard)} for name, soft, hard in limits] or None,
    }


def _container(entry: Any) -> Container:
    """From one entry of the list call. Its "Exited (137) 3 seconds ago" saves an inspect per container."""
    ended = re.match(r"Exited \((-?\d+)\)", entry.get("Status", ""))
    state = entry["State"]
    return Container(
        id=entry["Id"],
        task=entry["Labels"][TASK_LABEL],
        running=state in ("running", "paused", "restarting"),
        started=state != "created",
        exit_code=int(ended[1]) if ended else None,
        address=entry["Labels"].get(ADDRESS_LABEL, ""),
    )
