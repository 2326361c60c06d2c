"""The vocabulary. Read this file first: everything else in miniorch is a verb over these nouns.

The problem: an orchestrator is several processes that never call each other, so they need one precise language.
The idea: each noun is a frozen value. Three writers share an object without ever fighting over it, because each
owns other fields: a *user* writes `spec`, the *controllers* write `desired_state` (and where a task goes), and the
*agent* of the task's node writes `status`. The whole life of a container is one `Task` whose state only moves forward.

Who does this for real: Docker's swarmkit (design/nomenclature.md, task_model.md). Where we differ: a service carries
its address (`vip`) from the start, and DNS, service addresses and HAProxy are all made from one object, `Endpoints`.
Units stand in the names; times are seconds since 1970. Next file: `miniorch/state/store.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# Names of apps and services become DNS names (RFC 1123); 40 leaves room for ".1-k3m9x2ab" in a container's name.
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
MAX_REPLICAS = 10_000
# What a container's environment and hostname may hold (Swarm's notation) instead of what only its task knows.
TEMPLATE = re.compile(r"\{\{ *\.((?:Service|Task)\.(?:Name|ID)|Task\.Slot|Node\.(?:Hostname|ID)) *\}\}")


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


class DesiredState(StrEnum):
    """What the controllers want of a task."""

    RUNNING = "running"
    DRAINING = "draining"  # keep running, but leave DNS, VIP and HAProxy
    SHUTDOWN = "shutdown"  # stop; keep the ended container for its logs
    REMOVED = "removed"  # stop, and remove every trace


class Condition(StrEnum):
    """When a dependency counts as there (`depends_on`)."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


class Restart(StrEnum):
    """Which ended tasks get a successor. One that was stopped, or whose node was lost, always does."""

    ANY = "any"
    ON_FAILURE = "on-failure"
    NEVER = "none"


@dataclass(frozen=True, slots=True)
class Build:
    """An image that is built from a folder. `digest` is taken over the folder's files: another file, another image."""

    context: str  # absolute path on the machine that builds
    digest: str
    dockerfile: str = "Dockerfile"
    args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""  # the stage of the Dockerfile that is wanted; "" is the last


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A command that ends with 0 in a healthy container. `test` is its argument vector (a shell: "sh", "-c", ...)."""

    test: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    retries: int = 3
    start_period_seconds: float = 0.0  # failures in this time do not count


@dataclass(frozen=True, slots=True)
class Mount:
    """A named volume of the app, or (with `host_path`) a folder or file of the node, at a place in the container."""

    volume: str  # "" with a host path
    target: str
    read_only: bool = False
    host_path: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that every node listens on and HAProxy hands to the service's tasks (TCP)."""

    published: int
    target: int
    local: bool = False  # listens on 127.0.0.1 alone


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of processor and memory. Zero means: no statement."""

    cpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """What is handed to the container engine as it is, under the names and with the meaning of Compose's keys."""

    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    stop_signal: str = ""
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    init: bool = True
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()  # "name:address"
    tmpfs: Mapping[str, str] = field(default_factory=dict)  # place in the container -> mount options
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: Mapping[str, str] = field(default_factory=dict)  # name -> "soft:hard"
    labels: Mapping[str, str] = field(default_factory=dict)
    shm_size_bytes: int = 0
    pids_limit: int = 0


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """All that a container is made from. When it changes, the service's tasks are replaced."""

    image: str
    build: Build | None = None
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    healthcheck: HealthCheck | None = None
    reserved: Resources = Resources()
    limit: Resources = Resources()
    stop_grace_seconds: float = 10.0
    options: ContainerOptions = ContainerOptions()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What follows a task that has ended by itself. A job is a service whose tasks have no successor."""

    condition: Restart = Restart.ANY
    max_attempts: int = 0  # so many successors after failures in a row, then the slot is given up; 0: no end
    delay_seconds: float = 0.0  # the least rest before a successor; failures in a row make it longer


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a user asks for. Only a change of `task` replaces containers."""

    task: TaskSpec
    replicas: int = 1
    ports: tuple[Port, ...] = ()
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    restart: RestartPolicy = RestartPolicy()
    aliases: tuple[str, ...] = ()  # further names under which the app's services find this one


@dataclass(frozen=True, slots=True)
class AppSpec:
    """A whole app file: service name -> spec, and the names of its volumes."""

    services: Mapping[str, ServiceSpec]
    volumes: tuple[str, ...] = ()


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

    @property
    def key(self) -> str:
        return f"{self.app}/{self.service}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in one line for a person."""

    id: str
    at: float
    kind: str  # "task", "service", "app", "node", "volume"
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
    "endpoints": Endpoints,
    "events": Event,
}
_KEYS = {App: "name", Node: "name", Task: "id", Event: "id"}


def key_of(item: object) -> str:
    """The key of an object below its kind: `dockchat/web` for a service, the id for a task."""
    if isinstance(item, Cluster | Leader):  # there is one
        return type(item).__name__.lower()
    return str(getattr(item, _KEYS.get(type(item), "key")))


def kind_of(cls: type) -> str:
    """The plural name under which the API lists objects of a class: `tasks` for Task."""
    return next(kind for kind, known in KINDS.items() if known is cls)
