"""A container engine without containers, with every bad day on order.

The problem: what an agent does when Docker dies in the middle of a `create` cannot be tried a thousand times with
Docker. The idea: the engine's protocol (`agent/engine.py`) over plain objects. It keeps Docker's habits that matter:
operations take time; an operation goes on when the caller has died in the middle; containers outlive the agent; one
task has one container, whoever asks how often. What an image does when it runs is a `Behaviour`; faults are methods
(`fail_pull`, `kill`, `restart`) and, if they last, attributes (`slowness`, `refused`, `full`).

Who does this for real: Kubernetes' kubemark ("hollow nodes") and Swarm's test executors. Where we differ: the same
contract suite runs against this and Docker, so that the fake cannot drift away. Next file:
`network.py`.
"""

import asyncio
import ipaddress
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent.engine import Container, ContainerSpec, EngineInfo, ExecResult, Progress
from miniorch.clock import Clock, new_id
from miniorch.errors import EngineError
from miniorch.simulation.loop import begin, on_behalf_of, over
from miniorch.spec import Build, Resources

P = ParamSpec("P")
T = TypeVar("T")
TERMINATED, KILLED = 143, 137  # exit codes: 128 + SIGTERM, 128 + SIGKILL
LOG_LINES = 1000
REFUSALS = (
    "500: the engine has failed, see its log",
    "404: the plugin of the network was not found",
    "409: another operation is under way",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What containers of one image do. Times are virtual seconds."""

    pull_seconds: float = 2.0
    stop_seconds: float = 0.2  # from SIGTERM to the end
    exits_after_seconds: float | None = None  # None: runs until it is told to stop
    exit_code: int = 1
    healthy_after_seconds: float | None = 0.0  # None: every probe fails
    probe_seconds: float = 0.05
    ignores_term: bool = False
    output: tuple[str, ...] = ("started",)  # lines written at the start


@dataclass(eq=False, slots=True)
class Box:
    """One container and what it was made from."""

    id: str
    spec: ContainerSpec
    behaviour: Behaviour
    state: str = "created"  # "created", "running", "exited"
    whole: bool = False  # the engine was not killed while it was made
    exit_code: int | None = None
    told: bool = False  # somebody asked that it end
    started_at: float = 0.0
    lines: list[bytes] = field(default_factory=list)

    def view(self) -> Container:
        started = self.state != "created"
        return Container(self.id, self.spec.task, self.state == "running", started, self.exit_code, self.spec.address)


def goes_on(
    work: Callable[Concatenate["FakeEngine", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["FakeEngine", P], Coroutine[Any, Any, T]]:
    """Work that the engine finishes even if whoever asked for it is gone, unless the engine itself goes down."""

    async def detached(engine: "FakeEngine", /, *args: P.args, **kwargs: P.kwargs) -> T:
        task = begin(work(engine, *args, **kwargs), on_behalf_of(engine.machine), engine._going_on)
        engine._going_on[task] = None
        await over(task)
        if task.cancelled():
            raise EngineError("the engine went away in the middle", temporary=True)
        return task.result()

    return detached


class FakeEngine:
    """One machine's engine. It belongs to the machine: agents come and go, it stays."""

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        machine: str = "",
        capacity: Resources = Resources(4.0, 4 << 30),  # noqa: B008
    ) -> None:
        self.machine = machine
        self._clock = clock
        self._chance = chance
        self._capacity = capacity
        self._behaviours: dict[str, Behaviour] = {}
        self._images: dict[str, str] = {}  # name -> id
        self._broken_images: dict[str, str] = {}
        self._subnet: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
        self._down_until = 0.0
        self._listeners: list[asyncio.Event] = []
        self._going_on: dict[asyncio.Task[Any], None] = {}  # work that does not depend on its caller
        self.boxes: dict[str, Box] = {}  # by container id; read by invariants
        self.stirred: Callable[[str], None] = lambda machine: None  # told of every change
        self.mend()

    # Orders for bad days

    def behave(self, image: str, behaviour: Behaviour) -> None:
        """What containers of an image do from now on; running ones keep their old ways."""
        self._behaviours[image] = behaviour

    def fail_pull(self, image: str, message: str = "no such image") -> None:
        """Pulls and builds of an image fail, until it is told again without a message."""
        self._broken_images[image] = message

    def kill(self, task: str) -> bool:
        """The container of a task dies by itself. False if none runs."""
        running = [box for box in self.boxes.values() if box.spec.task == task and box.state == "running"]
        for box in running:
            self._end(box, KILLED)
        return bool(running)

    def sicken(self, task: str) -> None:
        """From now on every probe of a task's container fails."""
        for box in self.boxes.values():
            if box.spec.task == task:
                box.behaviour = replace(box.behaviour, healthy_after_seconds=None)

    def restart(self, down_seconds: float, *, live_restore: bool = True) -> None:
        """The engine is away for a while. With live restore its containers keep running, otherwise they end."""
        self._down_until = self._clock.monotonic() + down_seconds
        for work in self._going_on:
            work.cancel()
        if not live_restore:
            for box in self.boxes.values():
                self._end(box, KILLED)
        self._tell()

    def power_off(self) -> None:
        """The machine is dead: so is every container, and nothing answers until `power_on`."""
        self.restart(float("inf"), live_restore=False)

    def power_on(self) -> None:
        self._down_until = 0.0

    def mend(self) -> None:
        """All faults that last are over."""
        self.slowness = 1.0  # everything takes so many times as long
        self.refused = 0.0  # this share of requests is answered with a 500, 404 or 409 that trying again may cure
        self.deaf = False  # the stream of events stays open and says nothing; what happens meanwhile is never told
        self.full = False  # there is no space for images and new containers
        self._broken_images.clear()

    # The protocol of agent/engine.py

    async def info(self) -> EngineInfo:
        await self._reach(0.01)
        return EngineInfo("Fake 1.0", self._capacity)

    async def image_names(self) -> list[str]:
        await self._reach(0.02)
        return list(reversed(self._images))

    async def use_network(self, subnet: str) -> None:
        await self._reach(0.05)
        self._subnet = ipaddress.ip_network(subnet)

    async def containers(self) -> list[Container]:
        await self._reach(0.02)
        return [box.view() for box in self.boxes.values()]

    async def pull(self, image: str, progress: Progress) -> str:
        return await self._fetch(image, f"pulling {image}", progress)

    async def build(self, image: str, build: Build, progress: Progress) -> str:
        return await self._fetch(image, f"building {image}", progress)

    @goes_on
    async def _fetch(self, image: str, what: str, progress: Progress) -> str:
        await self._reach(0.02)
        if image not in self._images:
            for percent in (0, 50):
                progress(f"{what}, {percent} of 100 %")
                await self._reach(self._behaviour(image).pull_seconds / 2)
            self._need_space(what)
            if trouble := self._broken_images.get(image):
                raise EngineError(f"{what} failed: {trouble}")
            self._images.setdefault(image, f"sha256:{new_id(self._chance, 12)}")
        return self._images[image]

    @goes_on
    async def create(self, spec: ContainerSpec) -> str:
        await self._reach(0.1)
        name = next((name for name, known in self._images.items() if known == spec.image_id), None)
        if name is None:
            raise EngineError(f"no such image: {spec.image_id}")
        if self._subnet is None or ipaddress.ip_address(spec.address) not in self._subnet:
            raise EngineError(f"no network with the address {spec.address}")
        for box in self.boxes.values():  # looked at when the work is done, as Docker looks at names
            if box.spec.task == spec.task:
                return box.id
        self._need_space(f"the container of {spec.task}")
        box = Box(new_id(self._chance, 12), spec, self._behaviour(name))
        self.boxes[box.id] = box
        self._tell()
        await self._reach(0.02)  # whoever dies now has made an orphan, the engine itself only half of one
        box.whole = True
        return box.id

    @goes_on
    async def start(self, container: str) -> None:
        await self._reach(0.3)
        box = self._box(container)
        if box.state != "created":  # Docker would run it again; nothing of ours may want that
            return
        if not box.whole:
            raise EngineError("500: the container has no network", temporary=True)
        box.state, box.started_at = "running", self._clock.monotonic()
        self._write(box, box.behaviour.output)
        if box.behaviour.exits_after_seconds is not None:
            delay = box.behaviour.exits_after_seconds
            asyncio.get_running_loop().call_later(delay, self._end, box, box.behaviour.exit_code)
        self._tell()

    @goes_on
    async def stop(self, container: str, grace_seconds: float) -> None:
        await self._reach(0.05)
        box = self._box(container)
        if box.state == "running":
            box.told = True
            stubborn = box.behaviour.ignores_term or box.behaviour.stop_seconds > grace_seconds
            await self._reach(grace_seconds if stubborn else box.behaviour.stop_seconds)
            self._end(box, KILLED if stubborn else TERMINATED)

    @goes_on
    async def remove(self, container: str) -> None:
        await self._reach(0.1)
        box = self.boxes.pop(container, None)
        if box is not None:
            self._end(box, KILLED)
            self._tell()

    async def run_in(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        box = self._box(container)
        took = min(box.behaviour.probe_seconds, timeout_seconds)
        await self._reach(took)
        if box.state != "running":
            raise EngineError(f"container {container} is not running")
        if took < box.behaviour.probe_seconds:
            raise EngineError(f"the command did not end within {timeout_seconds:g} s")
        after = box.behaviour.healthy_after_seconds
        healthy = after is not None and self._clock.monotonic() - box.started_at >= after
        return ExecResult(0, "ok") if healthy else ExecResult(1, "not healthy")

    async def logs(self, container: str, *, tail: int, follow: bool) -> AsyncIterator[bytes]:
        await self._reach(0.02)
        for line in self._box(container).lines[-tail:]:
            yield line

    async def changes(self) -> AsyncIterator[None]:
        await self._reach(0.0)
        bell = asyncio.Event()
        self._listeners.append(bell)
        try:
            while True:
                await bell.wait()
                bell.clear()
                if self.deaf:
                    continue
                await self._reach(0.01)
                yield None
        finally:
            self._listeners.remove(bell)

    # How

    def _behaviour(self, image: str) -> Behaviour:
        return self._behaviours.get(image, Behaviour())

    async def _reach(self, seconds: float) -> None:
        """Let an operation take its time, give or take a third. Raises when the engine is away at its end."""
        await asyncio.sleep(seconds * self.slowness * self._chance.uniform(0.67, 1.33))
        if self._clock.monotonic() < self._down_until:
            raise EngineError("the engine does not answer", temporary=True)
        if self.refused and self._chance.random() < self.refused:
            raise EngineError(self._chance.choice(REFUSALS), temporary=True)

    def _need_space(self, what: str) -> None:
        if self.full:
            raise EngineError(f"{what}: no space left on device", temporary=True)

    def _box(self, container: str) -> Box:
        if container not in self.boxes:
            raise EngineError(f"no such container: {container}")
        return self.boxes[container]

    def _end(self, box: Box, exit_code: int) -> None:
        if box.state == "running":
            box.state, box.exit_code = "exited", exit_code
            self._write(box, (f"ended with code {exit_code}",))
            self._tell()

    def _write(self, box: Box, lines: tuple[str, ...]) -> None:
        box.lines.extend(f"{line}\n".encode() for line in lines)
        del box.lines[:-LOG_LINES]

    def _tell(self) -> None:
        self.stirred(self.machine)
        for bell in self._listeners:
            bell.set()
