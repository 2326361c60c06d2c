"""What a user asks for: the nouns of an app file, before anything of it runs.

The problem: seven engines write the same wish in seven ways. The idea: every reader of app files ends in these frozen
values, and everything behind them (API, controllers, agents) knows nothing of files. What is not written in a file has
its default here, once. A spec carries no state: two equal specs are the same wish, and a change of `TaskSpec` is what
replaces containers.

Who does this for real: the `spec` half of a Kubernetes object. Next file: `miniorch/model.py`, what becomes of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# Names of apps and services become DNS names (RFC 1123); 40 leaves room for ".1-k3m9x2ab" in a container's name.
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,38}[a-z0-9])?")  # of a volume or a network
MAX_REPLICAS = 10_000
# What a container's environment and hostname may hold (Swarm's notation) instead of what only its task knows.
TEMPLATE = re.compile(r"\{\{ *\.((?:Service|Task)\.(?:Name|ID)|Task\.Slot|Node\.(?:Hostname|ID)) *\}\}")


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
    generic: Mapping[str, int] = field(default_factory=dict)  # whole things that are counted: "gpu" -> 2


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
    shm_size: int = 0  # bytes
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
    stop_after_seconds: float = 0.0  # so long after its node has lost all servers it is stopped; 0: it runs on
    options: ContainerOptions = ContainerOptions()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What follows a task that has ended by itself. A job is a service whose tasks have no successor."""

    condition: Restart = Restart.ANY
    max_attempts: int = 0  # so many successors after failures in a row, then the slot is given up; 0: no end
    delay_seconds: float = 0.0  # the least rest before a successor; failures in a row make it longer


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on where a task may go, whichever engine's spelling it was written in.

    What it looks at is either an attribute of the node, or what lies on it (`service`, `task`, `image`,
    `container.labels.tier`, `replicas`). Nodes with the same value of `within` count as one place for the latter.
    """

    subject: str  # "node.labels.zone"; all attributes stand in `scheduler/attributes.py`
    operator: str  # one of `scheduler/constraints.py`: "==", "in", "evenly", ...
    values: tuple[str, ...] = ()
    within: str = "node.name"
    weight: int = 0  # 0: it must hold; above: it is preferred, so much
    text: str = ""  # as the user wrote it


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tasks of a service may and should go. A change of it moves only tasks that may not stay where they are."""

    constraints: tuple[Constraint, ...] = ()
    spread: tuple[str, ...] = ()  # attributes over which the tasks are evened out, the outermost first
    max_per_node: int = 0  # 0: any number
    platforms: tuple[str, ...] = ()  # "linux/amd64"; none: any
    strategy: str = ""  # "spread", "binpack" or "random"; "": spread


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a user asks for. Only a change of `task` replaces containers."""

    task: TaskSpec
    replicas: int = 1
    ports: tuple[Port, ...] = ()
    depends_on: Mapping[str, Condition] = field(default_factory=dict)
    restart: RestartPolicy = RestartPolicy()
    aliases: tuple[str, ...] = ()  # further names under which the app's services find this one
    networks: tuple[str, ...] = ("default",)  # of the app; services that share none cannot reach each other
    internal: bool = False  # all of them are: nothing outside of the cluster can be reached
    placement: Placement = Placement()


@dataclass(frozen=True, slots=True)
class AppSpec:
    """A whole app file: service name -> spec, and the names of its volumes."""

    services: Mapping[str, ServiceSpec]
    volumes: tuple[str, ...] = ()
