"""What an agent needs of a container engine.

The problem: Docker is slow, asynchronous and fails in a hundred ways, and the agent's logic must be testable without
it. The idea: one small protocol. `agent/docker_engine.py` implements it over Docker's SDK,
`miniorch/simulation/engine.py` implements it in memory with faults on order, and the same contract suite runs against
both (`tests/contract/test_engine.py`). A container is found by the label that carries its task's id, never by memory:
an agent that has just been started knows as much as one that has run for a year.

An error of `pull` and `build` may have several lines: the first is the cause, the others are the last output.

Every method may raise `EngineError`; `temporary` says whether the same call may work later. Next file:
`agent/reconcile.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from miniorch.frames import Command, Frame
from miniorch.spec import Build, ContainerOptions, Resources

TASK_LABEL = "miniorch.task"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself and its machine."""

    name: str  # "Docker 20.10.24"
    capacity: Resources
    platform: str = ""  # "linux/amd64"
    labels: Mapping[str, str] = field(default_factory=dict)  # the engine's own


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours as the engine sees it."""

    id: str
    task: str  # from the label
    running: bool
    started: bool  # False: made and never started
    exit_code: int | None = None  # when it has ended
    address: str = ""  # from the label: what the agent gave it
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that is needed to make a container, decided beforehand."""

    name: str  # "dockchat-web.1-k3m9x2ab"
    task: str
    image_id: str
    address: str
    hostname: str
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    environment: Mapping[str, str]
    binds: Mapping[str, tuple[str, bool]]  # target in the container -> (path on this machine, read only)
    limit: Resources
    dns: str = ""  # the name server's address
    dns_search: str = ""  # the domain in which short names are looked up
    labels: Mapping[str, str] = field(default_factory=dict)
    networks: str = ""  # comma separated: told to the network driver with the address
    options: ContainerOptions = field(default_factory=ContainerOptions)  # all but `hostname` and `labels`: see above


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    output: str  # at most a few kilobytes


@dataclass(frozen=True, slots=True)
class Stat:
    """A file or folder inside a container."""

    name: str
    folder: bool
    link: str = ""  # a symbolic link: the path inside that it leads to


@dataclass(frozen=True, slots=True)
class Processes:
    titles: tuple[str, ...]  # as `ps` has them
    rows: tuple[tuple[str, ...], ...]


Progress = Callable[[str], None]
"""Told one short line whenever an image operation advances: "pulling mongo:7, 34 of 210 MB"."""


class Engine(Protocol):
    """One container engine."""

    async def info(self) -> EngineInfo: ...

    async def use_network(self, subnet: str) -> None:
        """The node's share of the container pool: containers made from now on get their address in it."""

    async def containers(self) -> list[Container]:
        """Every container that carries a task label, running or not."""

    async def image_names(self) -> list[str]:
        """Every name of every image that is here, those of the newest images first."""

    async def pull(self, image: str, progress: Progress) -> str:
        """The id of an image; fetches it when it is not there. The error says what was tried."""

    async def build(self, image: str, build: Build, progress: Progress) -> str:
        """Build an image and name it `image`, unless it is there already. The error ends with the last lines."""

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container and return its id. Making the same task's container again returns the one that exists."""

    async def start(self, container: str) -> None:
        """Start one that was made. May fail for ever, if the engine was killed while it made it."""

    async def stop(self, container: str, grace_seconds: float) -> None:
        """Ask it to end (SIGTERM), and end it after the grace. Fine if it has ended already."""

    async def remove(self, container: str) -> None:
        """Remove it, running or not. Fine if it is gone."""

    async def run_in(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        """Run a command inside; one that takes too long is ended and is an `EngineError` that is not temporary."""

    def logs(self, container: str, *, tail: int, follow: bool) -> AsyncIterator[bytes]:
        """Output as it was written, both streams, at most the last `tail` lines of the past."""

    def changes(self) -> AsyncIterator[None]:
        """An item whenever something about a container of ours may have changed."""


class OpenEngine(Engine, Protocol):
    """One that also lets users look into its containers (`inside.py`)."""

    def exec(self, container: str, what: Command, input: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        """Run a command: STARTED, its output, EXIT. Closing the stream before its end kills the command.

        A frame of input is only asked for when the command has taken what came before it.
        """

    async def stat(self, container: str, path: str) -> Stat:
        """What is at a path inside, running or not. Raises `NotFound`."""

    def archive(self, container: str, path: str) -> AsyncIterator[bytes]:
        """A file or folder inside as a tar stream, named by the last part of the path. Raises `NotFound`."""

    async def unpack(self, container: str, path: str, tar: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream in a folder inside. Raises `NotFound`."""

    async def top(self, container: str) -> Processes:
        """What runs inside."""
