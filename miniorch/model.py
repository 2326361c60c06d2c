"""The vocabulary. Read this file first: everything else in miniorch is a verb over these nouns.

The problem: an orchestrator is several processes that never call each other, so they need one precise language.
The idea: each noun is a frozen value. Three writers share an object without ever fighting over it, because each
owns other fields: a *user* writes `spec`, the *controllers* write `desired_state` (and where a task goes), and the
*agent* of the task's node writes `status`. The whole life of a container is one `Task` whose state only moves forward.

Who does this for real: Docker's swarmkit (design/nomenclature.md, task_model.md). Where we differ: a service carries
its address (`vip`) from the start, and DNS, service addresses and HAProxy are all made from one object, `Endpoints`.
Units stand in the names; times are seconds since 1970. Next file: `miniorch/state/store.py`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, cast

from miniorch.spec import Port, Resources, ServiceSpec, TaskSpec
from miniorch.verdicts import DecisionRecord


class TaskState(StrEnum):
    """Where a task is in its life. The order of this list is the order of life; no task moves backwards in it."""

    NEW = "new"  # exists; what it depends on is not there yet
    PENDING = "pending"  # waits for a node that fits
    ASSIGNED = "assigned"  # has a node; the agent there has not looked yet
    PREPARING = "preparing"  # image is pulled or built, volume is made
    STARTING = "starting"  # the container runs, its health check has not passed yet
    RUNNING = "running"  # runs and is healthy
    DRAINING = "draining"  # runs, gets no new traffic
    COMPLETE = "complete"  # ended by itself with exit code 0
    FAILED = "failed"  # ended by itself otherwise, or never became healthy
    REJECTED = "rejected"  # could not be made at all: no image, build broke
    SHUTDOWN = "shutdown"  # ended because it was told to
    LOST = "lost"  # its node is gone for good

    order: int
    ended: bool  # one of the five states that nothing follows


for _number, _state in enumerate(TaskState):  # plain attributes: with many tasks nothing is asked more often
    _state.order, _state.ended = _number, _number >= list(TaskState).index(TaskState.COMPLETE)


HAS_RUN = (TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING)
INTERNAL = "INTERNAL"  # no network's name has upper-case letters


class DesiredState(StrEnum):
    """What the controllers want of a task."""

    RUNNING = "running"
    DRAINING = "draining"  # keep running, but leave DNS, VIP and HAProxy
    SHUTDOWN = "shutdown"  # stop; keep the ended container for its logs
    REMOVED = "removed"  # stop, and remove every trace


@dataclass(frozen=True, slots=True)
class App:
    """A named set of services. `removing` is the user's wish that nothing of it be left."""

    name: str
    created_at: float
    volumes: tuple[str, ...] = ()
    removing: bool = False
    remove_volumes: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A spec with an address. `vip` never changes while the service exists."""

    app: str
    name: str
    spec: ServiceSpec
    vip: str
    removing: bool = False
    round: int = 0  # grows with `miniorch restart`: tasks of an earlier round are replaced
    held: str = ""  # why what runs is not replaced by what is wanted now: its successors would find no node

    @property
    def key(self) -> str:
        return f"{self.app}/{self.name}"


@dataclass(frozen=True, slots=True)
class Release:
    """One change of an app by its file: what `miniorch history` lists. The newest ten of an app are kept."""

    app: str
    number: int  # from 1, without gaps
    at: float
    changes: tuple[str, ...]  # "replace web: image nginx:1 -> nginx:2"

    @property
    def key(self) -> str:
        return f"{self.app}/{self.number:06}"


@dataclass(frozen=True, slots=True)
class Status:
    """What is true of a task, as its agent (before assignment: the controllers) saw it last."""

    state: TaskState = TaskState.NEW
    message: str = ""  # one line for a person: why it is where it is
    since: float = 0.0  # when `state` was entered
    address: str = ""  # in the container pool; given while preparing
    container_id: str = ""  # empty again once the container has been removed
    image_id: str = ""
    health: str = ""  # "", "starting", "healthy", "unhealthy"
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()  # the last lines of a failed task
    ran_seconds: float = 0.0  # of a task that has ended: for how long it ran, by one clock, its agent's


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed by itself: on which node, and when."""

    node: str
    at: float


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one slot of a service."""

    id: str
    app: str
    service: str
    slot: int
    spec: TaskSpec
    created_at: float
    desired_state: DesiredState = DesiredState.RUNNING
    desired_since: float = 0.0
    node: str = ""
    status: Status = Status()
    attempt: int = 0  # failures in a row before this run; drives the back-off
    round: int = 0  # the service's when the task was made
    networks: tuple[str, ...] = ("default",)  # the service's when the task was made; `Endpoints` has today's
    internal: bool = False  # likewise
    failures: tuple[Failure, ...] = ()  # recent ones of this slot before this run; a node where many were comes last
    placed_by: str = ""  # digest of the service's placement rules under which the task has, or may keep, its node

    @property
    def name(self) -> str:
        """What people call it: `web.1`."""
        return f"{self.service}.{self.slot}"

    @property
    def service_key(self) -> str:
        return f"{self.app}/{self.service}"

    @property
    def live(self) -> bool:
        """True while a container may exist that must not exist twice."""
        return not self.status.state.ended


class Role(StrEnum):
    """What a machine may do: a manager runs a server and holds the state, a worker runs tasks alone."""

    MANAGER = "manager"
    WORKER = "worker"


class NodeState(StrEnum):
    """Whether a node answers, as the leader sees it."""

    READY = "ready"
    UNREACHABLE = "unreachable"  # heartbeats are missing; nothing new goes there, what runs there is left alone
    DOWN = "down"  # missing for so long that its tasks are replaced elsewhere

    order: int


for _number, _node_state in enumerate(NodeState):
    _node_state.order = _number


class Availability(StrEnum):
    """What the administrator wants of a node."""

    ACTIVE = "active"
    DRAIN = "drain"  # no new tasks, and those there move away


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with an agent. `subnet` is its share of the container pool, `pool_address` its own address there."""

    name: str
    subnet: str  # "10.200.0.0/24"
    pool_address: str  # "10.200.0.1": the node's DNS listens there
    capacity: Resources
    ready: bool = True
    message: str = ""  # why it is not ready
    engine: str = ""  # "Docker 20.10.24"
    avx: bool = True  # whether the processor has AVX, which some images need
    ports_in_use: Mapping[str, str] = field(default_factory=dict)  # TCP port -> foreign holder: "nginx (pid 12)"
    address: str = ""  # where the other machines reach it; "" on a cluster of one
    role: Role = Role.MANAGER
    state: NodeState = NodeState.READY
    availability: Availability = Availability.ACTIVE
    labels: Mapping[str, str] = field(default_factory=dict)  # the administrator's: "zone" -> "b"
    platform: str = ""  # "linux/amd64"
    state_since: float = 0.0  # when `state` was entered
    images: tuple[str, ...] = ()  # names of images that are there: "redis:7"
    engine_labels: Mapping[str, str] = field(default_factory=dict)  # of the container engine, by its own settings

    @property
    def takes_work(self) -> bool:
        """Whether new tasks may go there."""
        return self.state is NodeState.READY and self.availability is Availability.ACTIVE


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume of an app. From the first task on it belongs to one node, and its tasks go there."""

    app: str
    name: str
    node: str
    removing: bool = False

    @property
    def key(self) -> str:
        return f"{self.app}/{self.name}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One task of a service, as traffic sees it."""

    task: str
    slot: int
    node: str
    address: str
    ready: bool  # may get traffic


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a service can be reached: derived from tasks by the server, read by every node."""

    app: str
    service: str
    vip: str
    ports: tuple[Port, ...] = ()
    backends: tuple[Backend, ...] = ()
    aliases: tuple[str, ...] = ()
    networks: tuple[str, ...] = ("default",)  # the app's networks that the service is on
    internal: bool = False  # all of them are
    draining: bool = False  # a backend is to leave: each node that follows this says so when its traffic does

    @property
    def key(self) -> str:
        return f"{self.app}/{self.service}"


def memberships(item: Task | Endpoints) -> list[str]:
    """What a container is on, as the network driver hears it: "shop/back", and "shop/INTERNAL" as a mark."""
    return [f"{item.app}/{name}" for name in (*item.networks, *([INTERNAL] if item.internal else []))]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in one line for a person."""

    id: str
    at: float
    kind: str  # "task", "service", "app", "node", "volume", "decision"
    subject: str  # "dockchat/web.1", "dockchat/web", "node1"
    message: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all nodes share. The pools are networks in CIDR form."""

    id: str
    container_pool: str = "10.200.0.0/16"
    vip_pool: str = "10.201.0.0/16"
    authority: str = ""  # certificate (PEM) of the authority that every machine trusts
    base_revision: int = 0  # above 0: restored from a backup; revisions begin here


@dataclass(frozen=True, slots=True)
class Token:
    """What admits a machine to the cluster. The secret itself is not kept, only its SHA-256."""

    id: str  # public: which token a joining machine means
    role: Role
    digest: str  # hex SHA-256 of the secret
    expires_at: float = 0.0  # 0: lives until it is rotated
    standing: bool = False  # one of the two that `miniorch token show` prints; the others were created on demand


@dataclass(frozen=True, slots=True)
class Member:
    """Whoever has a certificate: a machine or a user. It counts while this stands in the store, with the same key."""

    name: str
    role: str  # of a machine `Role`, of a user "admin", "deploy" or "view"
    key: str  # hex SHA-256 of the public key
    until: float  # when the certificate ends
    at: float  # when it was made


@dataclass(frozen=True, slots=True)
class Leader:
    """The server that runs the loops. The revision at which this was written is its epoch (`leadership.py`)."""

    name: str
    since: float


# Every kind of object that the API lists and watches. `key_of` gives an object's key below "/<kind>/".
KINDS: dict[str, type] = {
    "cluster": Cluster,
    "leaders": Leader,
    "apps": App,
    "services": Service,
    "tasks": Task,
    "nodes": Node,
    "volumes": Volume,
    "releases": Release,
    "decisions": DecisionRecord,
    "tokens": Token,
    "members": Member,
    "endpoints": Endpoints,
    "events": Event,
}
_KEYS = {App: "name", Node: "name", Member: "name", Task: "id", Event: "id", Token: "id"}
_ALONE = {Cluster: "cluster", Leader: "leader"}  # there is one


def key_of(item: object) -> str:
    """The key of an object below its kind: `dockchat/web` for a service, the id for a task."""
    kind = type(item)
    return _ALONE.get(kind) or str(getattr(item, _KEYS.get(kind, "key")))


T = TypeVar("T")


def changed(item: T, **values: object) -> T:
    """`dataclasses.replace` in half of its time: for what a server does a hundred thousand times at once."""
    cls: Any = type(item)
    new = object.__new__(cls)
    for name, put in _members(cls):
        put(new, values[name] if name in values else getattr(item, name))
    return cast(T, new)


@functools.cache
def _members(cls: Any) -> tuple[tuple[str, Callable[[Any, object], None]], ...]:
    return tuple((name, getattr(cls, name).__set__) for name in cls.__slots__)


def kind_of(cls: type) -> str:
    """The plural name under which the API lists objects of a class: `tasks` for Task."""
    return next(kind for kind, known in KINDS.items() if known is cls)
