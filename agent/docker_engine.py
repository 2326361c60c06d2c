"""Docker behind the `Engine` protocol.

The problem: a container's life is a few calls, and each of them has its own way to fail half-way. The idea: every
method may be called again after any failure and after any crash. The name of a container carries its task's id, so it
cannot be made twice, and all that must be remembered of it stands in its labels.

What experience with the real dockerd put in here: only list calls are trusted to answer quickly, since `inspect` waits
while a plugin call hangs; a stop may take 45 s while the network plugin is away; an endpoint that a restart left behind
keeps its address taken and must be disconnected by force *after* its container is removed.

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
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from docker.errors import APIError, NotFound
from docker.types import LogConfig

from agent import docker_inside
from agent.docker_connection import Connection, said_by, unless_it_breaks
from agent.docker_images import DockerImages
from agent.docker_network import NETWORK, DockerNetwork
from agent.engine import TASK_LABEL, Container, ContainerSpec, EngineInfo, ExecResult, Processes, Progress, Stat
from agent.images import start_error
from miniorch.errors import EngineError
from miniorch.frames import Command, Frame, Kind
from miniorch.spec import Build, ContainerOptions, Resources

DRIVER = "miniorch"
ADDRESS_LABEL = "miniorch.address"
TIDY_SECONDS = 60.0
INSPECT_SECONDS = 5.0
NAME_TRIES = 20
UNDO_TRIES, UNDO_PAUSE_SECONDS = 40, 0.25
SETTLE_SECONDS = (0.1, 0.5)
OUTPUT_BYTES = 4096
WATCHED_EVENTS = ["start", "die", "destroy", "oom"]  # not exec_*: each probe would make us look at everything


class DockerEngine:
    """One dockerd. `driver` is the network driver of the node's network."""

    def __init__(self, base_url: str | None = None, driver: str = DRIVER) -> None:
        self._docker = Connection(base_url)
        self._network = DockerNetwork(self._docker, driver)
        self.images = DockerImages(self._docker)
        self._oom: dict[str, bool] = {}  # ended container -> whether memory was the reason

    def close(self) -> None:
        """Let go of threads and connections."""
        self._docker.close()

    # ---- asking ----

    async def info(self) -> EngineInfo:
        def ask() -> EngineInfo:
            info, version = self._docker.client().info(), self._docker.client().version()
            # A node of a lab has a share of its machine, which Docker's count does not know.
            cpus = float(os.environ.get("MINIORCH_CPUS") or info["NCPU"])
            memory_bytes = int(os.environ.get("MINIORCH_MEMORY_BYTES") or info["MemTotal"])
            capacity = Resources(cpus, memory_bytes)
            labels = dict(label.partition("=")[::2] for label in info.get("Labels") or ())
            return EngineInfo(f"Docker {info['ServerVersion']}", capacity, f"{version['Os']}/{version['Arch']}", labels)

        return await self._docker.call(self._docker.waiting, ask)

    async def containers(self) -> list[Container]:
        listed = await self._docker.call(
            self._docker.waiting, lambda: self._docker.client().containers(all=True, filters={"label": TASK_LABEL})
        )
        # One that is being removed has no exit code any more, and the next look does not show it.
        containers = [_container(entry) for entry in listed if entry["State"] != "removing"]
        self._oom = {one.id: self._oom[one.id] for one in containers if one.id in self._oom}
        for number, one in enumerate(containers):
            if one.started and not one.running and one.exit_code in (None, 128 + signal.SIGKILL):
                containers[number] = await self._with_cause(one)
        return containers

    async def _with_cause(self, container: Container) -> Container:
        """What the list does not say: whether SIGKILL came from the memory limit."""

        def inspect() -> tuple[int, bool]:
            state = self._docker.client().inspect_container(container.id)["State"]
            return int(state["ExitCode"]), bool(state["OOMKilled"])

        code = container.exit_code
        if container.id not in self._oom or code is None:
            try:
                async with asyncio.timeout(INSPECT_SECONDS):
                    code, self._oom[container.id] = await self._docker.call(self._docker.waiting, inspect)
            except (EngineError, TimeoutError):  # it hangs or is gone; the next list will tell
                return container
        return replace(container, exit_code=code, oom_killed=self._oom[container.id])

    # ---- images ----

    async def image_names(self) -> list[str]:
        return await self.images.names()

    async def pull(self, image: str, progress: Progress) -> str:
        return await self.images.pull(image, progress)

    async def build(self, image: str, build: Build, progress: Progress) -> str:
        return await self.images.build(image, build, progress)

    # ---- the life of a container ----

    async def create(self, spec: ContainerSpec) -> str:
        return await self._docker.call(self._docker.making, lambda: self._network.given(lambda: self._create(spec)))

    def _create(self, spec: ContainerSpec) -> str:
        api = self._docker.client()
        wanted = spec.options
        host = api.create_host_config(
            **_host_options(wanted),
            binds=[f"{path}:{target}:{'ro' if only else 'rw'}" for target, (path, only) in spec.binds.items()],
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
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
                return self._made_before(spec)
            raise

    def _made_before(self, spec: ContainerSpec) -> str:
        for _ in range(NAME_TRIES):  # a call just before ours has taken the name and not made the container yet
            try:
                found = self._docker.client().inspect_container(spec.name)
                break
            except NotFound:
                time.sleep(0.1)
        else:
            raise EngineError(f"the name {spec.name} is taken by a container that cannot be seen", temporary=True)
        if found["Config"]["Labels"].get(TASK_LABEL) != spec.task:
            raise EngineError(f"the name {spec.name} is taken by a container that is not miniorch's")
        return str(found["Id"])

    async def start(self, container: str) -> None:
        await self._docker.call(self._docker.making, lambda: self._network.given(lambda: self._start(container)))

    def _start(self, container: str, again: bool = True) -> None:
        try:
            self._docker.client().start(container)
        except APIError as error:
            said = said_by(error)
            if again and "already exists in network" in said:
                self._network.free_stuck_endpoints()
                return self._start(container, again=False)
            raise (start_error(said) or error) from None

    async def keep_tidy(self) -> None:
        """Free what got stuck, for ever. Docker keeps the endpoint of a container that is removed while net is away and
        dockerd has not spoken to it since its own start.
        """
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            with contextlib.suppress(EngineError):
                await self._docker.call(self._docker.waiting, self._network.free_stuck_endpoints)

    async def stop(self, container: str, grace_seconds: float) -> None:
        def stop() -> None:
            with contextlib.suppress(NotFound):
                self._docker.client().stop(container, timeout=math.ceil(grace_seconds))

        await self._docker.call(self._docker.waiting, stop)

    async def remove(self, container: str) -> None:
        def remove() -> None:
            try:
                self._docker.client().remove_container(container, v=True, force=True)
            except NotFound:
                return
            except APIError as error:
                if "already in progress" not in said_by(error):
                    raise

        await self._docker.call(self._docker.making, remove)

    async def run_in(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        output, code = b"", -1
        async with contextlib.aclosing(
            docker_inside.run(self._docker, container, Command(command), _no_input())
        ) as run:
            await anext(run)  # until here Docker's time, from here the command's
            try:
                async with asyncio.timeout(timeout_seconds):
                    async for kind, payload in run:
                        if kind is Kind.EXIT:
                            code = int(payload)
                        else:
                            output = (output + payload)[-OUTPUT_BYTES:]
            except TimeoutError:
                raise EngineError(f"`{' '.join(command)}` did not end within {timeout_seconds:g} s") from None
        return ExecResult(code, output.decode(errors="replace"))

    # ---- streams ----

    def exec(self, container: str, what: Command, input: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        return docker_inside.run(self._docker, container, what, input)

    async def stat(self, container: str, path: str) -> Stat:
        return await docker_inside.stat(self._docker, container, path)

    def archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        return docker_inside.archive(self._docker, container, path)

    async def unpack(self, container: str, path: str, tar: AsyncIterator[bytes]) -> None:
        await docker_inside.unpack(self._docker, container, path, tar)

    async def top(self, container: str) -> Processes:
        found = await self._docker.call(self._docker.waiting, lambda: self._docker.client().top(container))
        return Processes(tuple(found["Titles"]), tuple(map(tuple, found["Processes"])))

    def logs(self, container: str, *, tail: int, follow: bool) -> AsyncIterator[bytes]:
        return docker_inside.logs(self._docker, container, tail, follow)

    async def changes(self) -> AsyncIterator[None]:
        filters = json.dumps({"type": ["container"], "label": [TASK_LABEL], "event": WATCHED_EVENTS})
        wire = await self._docker.open("GET", f"/events?filters={quote(filters)}")
        heard = asyncio.Event()  # any number of events that come together are one

        async def listen() -> None:
            try:
                with unless_it_breaks():
                    await wire.head()
                    await docker_inside.refuse(wire, "")
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
            wire.close()

    # ---- the node's network ----

    async def use_network(self, subnet: str) -> None:
        self._network.subnet = subnet
        await self._docker.call(self._docker.making, self._network.make)

    async def undo(self) -> int:
        """Remove every container of ours, and the network. Returns how many containers there were."""
        removed = 0
        for left in reversed(range(UNDO_TRIES)):
            containers = await self.containers()
            for one in containers:
                await self.remove(one.id)
            removed += len(containers)
            try:
                await self._docker.call(self._docker.making, self._network.remove)
                break
            except EngineError as error:  # dockerd is still making what a killed agent had asked for
                if "active endpoints" not in error.message:
                    raise
                if not left:  # by then it is dockerd's count that is wrong, and only a new dockerd counts again
                    raise EngineError(error.message, remedy="sudo systemctl restart docker") from None
            await asyncio.sleep(UNDO_PAUSE_SECONDS)
        return removed


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
        "sysctls": dict(wanted.sysctls) or None,
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


async def _no_input() -> AsyncIterator[Frame]:
    return
    yield
