"""What an agent can do about a task, each as a value with its sentence.

`agent/reconcile.py` decides on these, `agent/agent.py` executes them, and the log shows `describe()`. One task has at
most one action under way at any time; `key` is what that is counted by.
"""

from dataclasses import dataclass

from agent.engine import Container
from miniorch.model import Status, Task


def full_name(task: Task) -> str:
    return f"{task.app}/{task.name} ({task.id})"


@dataclass(frozen=True, slots=True)
class _OfTask:
    task: Task

    @property
    def key(self) -> str:
        return self.task.id


@dataclass(frozen=True, slots=True)
class Report(_OfTask):
    """Tell the server. Done at once, by itself changes nothing on this machine."""

    status: Status

    def describe(self) -> str:
        if not self.task.live:
            return f"report {full_name(self.task)}: it has no container any more"
        why = f": {self.status.message}" if self.status.message else ""
        return f"report {full_name(self.task)} {self.status.state.value}{why}"


@dataclass(frozen=True, slots=True)
class FetchImage(_OfTask):
    """Pull or build. The only action that may be given up half-way."""

    def describe(self) -> str:
        return f"{'build' if self.task.spec.build else 'get'} {self.task.spec.image} for {full_name(self.task)}"


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up a `FetchImage` under way."""

    key: str

    def describe(self) -> str:
        return f"give up the image for {self.key}: the task is not wanted any more"


@dataclass(frozen=True, slots=True)
class Create(_OfTask):
    """Volume folders, address, container."""

    image_id: str

    def describe(self) -> str:
        return f"make the container of {full_name(self.task)}"


@dataclass(frozen=True, slots=True)
class Start(_OfTask):
    container: Container

    def describe(self) -> str:
        return f"start {full_name(self.task)}"


@dataclass(frozen=True, slots=True)
class Probe(_OfTask):
    """Begin to watch the health of a running container."""

    container: Container

    def describe(self) -> str:
        return f"watch the health of {full_name(self.task)}"


@dataclass(frozen=True, slots=True)
class Stop(_OfTask):
    container: Container
    why: str

    def describe(self) -> str:
        return f"stop {full_name(self.task)} within {self.task.spec.stop_grace_seconds:g} s: {self.why}"


@dataclass(frozen=True, slots=True)
class Conclude(_OfTask):
    """Read a dead container's last lines, then report `status` with them."""

    container: Container
    status: Status

    def describe(self) -> str:
        return f"conclude {full_name(self.task)} {self.status.state.value}: {self.status.message}"


@dataclass(frozen=True, slots=True)
class Remove(_OfTask):
    """Remove the container of a task that has ended, or one that has never started."""

    container: Container

    def describe(self) -> str:
        return f"remove the container of {full_name(self.task)}"


@dataclass(frozen=True, slots=True)
class Discard:
    """Stop and remove a container that belongs to nothing the server knows."""

    container: Container

    @property
    def key(self) -> str:
        return self.container.id

    def describe(self) -> str:
        return f"remove container {self.container.id[:12]}: the server does not know its task {self.container.task}"


Action = Report | FetchImage | Abandon | Create | Start | Probe | Stop | Conclude | Remove | Discard
