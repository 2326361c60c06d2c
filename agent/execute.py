"""Doing what was decided: one action, its effect on what we know, and what an error means for the task.

Every branch is safe to repeat. A crash between two lines is mended by the next look: the container carries the task's
id and address in its labels, so whatever was not reported can be read from it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.actions import Action, Conclude, Create, Discard, FetchImage, Remove, Start, Stop
from agent.addresses import choose
from agent.container_spec import container_spec
from agent.discovery import variables
from agent.engine import Container, Engine
from agent.files import Files
from agent.peers import Peers
from agent.reconcile import started
from agent.report import Reporter
from miniorch.clock import Clock
from miniorch.errors import EngineError
from miniorch.model import Endpoints, Node, Task, TaskState, Volume

log = logging.getLogger("agent")

LOG_LINES = 20
LOG_LINE_CHARACTERS = 400
DISCARD_GRACE_SECONDS = 10.0


@dataclass(eq=False)
class Executor:
    """Acts through the engine. `containers` is the agent's picture of them, kept up to date by what is done here."""

    _engine: Engine
    _files: Files
    _reporter: Reporter
    _clock: Clock
    _tasks: Callable[[], list[Task]]
    _endpoints: Callable[[], Iterable[Endpoints]]
    _peers: Peers | None

    def __post_init__(self) -> None:
        self.node: Node | None = None
        self.containers: dict[str, Container] = {}  # by container id
        self.images: dict[str, str] = {}  # task -> image id
        self._reserved: dict[str, str] = {}  # task -> address of a container under way
        self._freed: dict[str, float] = {}
        self._last_address = ""

    async def do(self, action: Action) -> None:
        """Raises `EngineError`; `failed` says what it means."""
        match action:
            case FetchImage(task):
                await self._fetch_image(task)
            case Create(task, image_id):
                await self._create(task, image_id)
            case Start(task, container):
                await self._engine.start(container.id)
                running = replace(container, started=True, running=True)
                self.containers[container.id] = running
                self._reporter.put(task, started(self._reporter.newest(task), running))
            case Stop(task, container):
                await self._engine.stop(container.id, task.spec.stop_grace_seconds)
            case Conclude(task, container, status):
                tail = await self._log_tail(container.id)
                self._reporter.put(task, replace(status, log_tail=tail))
            case Remove(_, container):
                await self._engine.remove(container.id)
                self.forget(container)
            case Discard(container):
                if container.running:
                    await self._engine.stop(container.id, DISCARD_GRACE_SECONDS)
                await self._engine.remove(container.id)
                self.forget(container)

    def failed(self, action: Action, error: EngineError) -> bool:
        """What a failure means for the task. True: it has been concluded; False: try again later."""
        lines = [line for line in error.message.splitlines() if line.strip()] or ["failed for no stated reason"]
        if error.temporary or not isinstance(action, FetchImage | Create | Start):
            if isinstance(action, FetchImage | Create | Start):
                self._reporter.progress(action.task, f"{lines[0]}; trying again")
            return False
        known = self._reporter.newest(action.task).status
        state = TaskState.FAILED if isinstance(action, Start) else TaskState.REJECTED
        tail = tuple(line[:LOG_LINE_CHARACTERS] for line in lines[1:][-LOG_LINES:])
        self._reporter.put(action.task, replace(known, state=state, message=lines[0], log_tail=tail))
        return True

    def forget(self, container: Container) -> None:
        """The container is gone: its address begins to rest."""
        self.containers.pop(container.id, None)
        if container.address:
            self._freed[container.address] = self._clock.monotonic()

    async def remove_volume(self, volume: Volume) -> None:
        log.info("remove volume %s with all that is in it", volume.key)
        await self._files.remove_volume(volume.key)

    async def _fetch_image(self, task: Task) -> None:
        spec = task.spec
        self._report_preparing(task, f"{'builds' if spec.build else 'gets'} {spec.image}")

        def progress(line: str) -> None:
            self._reporter.progress(task, line)

        async def make() -> str:
            if spec.build is not None:
                if self._peers:
                    await self._peers.bring_bases(spec.image, spec.build, progress)
                return await self._engine.build(spec.image, spec.build, progress)
            return await self._engine.pull(spec.image, progress)

        image = await (self._peers.obtain(spec.image, make, progress) if self._peers else make())
        self.images[task.id] = image
        known = self._reporter.newest(task).status
        self._reporter.put(task, replace(known, image_id=image, message="has its image"))

    async def _create(self, task: Task, image_id: str) -> None:
        assert self.node is not None
        self._report_preparing(task, "makes its container")
        address = self._reserve_address(task)
        try:
            volumes = {}
            for mount in task.spec.mounts:
                if mount.volume:
                    volumes[mount.volume] = await self._files.make_volume(f"{task.app}/{mount.volume}")
                else:
                    await self._files.must_exist(mount.host_path)
            others = variables(task.app, self._endpoints())
            container = await self._engine.create(container_spec(task, self.node, image_id, address, volumes, others))
        except EngineError as error:
            if not error.temporary:
                self.images.pop(task.id, None)
            raise
        finally:
            self._reserved.pop(task.id, None)
        self.containers[container] = Container(container, task.id, False, False, address=address)
        known = self._reporter.newest(task).status
        made = replace(known, address=address, container_id=container, image_id=image_id, message="is made")
        self._reporter.put(task, made)

    def _report_preparing(self, task: Task, message: str) -> None:
        known = self._reporter.newest(task).status
        if known.state.order <= TaskState.PREPARING.order:
            self._reporter.put(task, replace(known, state=TaskState.PREPARING, message=message))

    def _reserve_address(self, task: Task) -> str:
        assert self.node is not None
        taken = {container.address for container in self.containers.values()}
        taken |= {other.status.address for other in self._tasks() if other.live}
        taken |= set(self._reserved.values())
        last = self._last_address or max(sorted(taken), key=_number, default="")
        address = choose(self.node.subnet, taken, self._freed, last, self._clock.monotonic())
        self._last_address = self._reserved[task.id] = address
        return address

    async def _log_tail(self, container: str) -> tuple[str, ...]:
        """The last lines; none if they cannot be had: a report must not wait for them for ever."""
        data = b""
        try:
            async for chunk in self._engine.logs(container, tail=LOG_LINES, follow=False):
                data += chunk
        except EngineError as error:
            if error.temporary:
                raise
            return ()
        lines = data.decode(errors="replace").splitlines()
        return tuple(line[:LOG_LINE_CHARACTERS] for line in lines[-LOG_LINES:])


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split(".")) if address else ()
