"""Waiting until an app, or one service of it, is up: what `run`, `wait` and `restart` have in common.

Nothing is decided here: `progress.py` judges, `screen.py` shows, `knock.py` asks the published ports. Should the
server, net or the agent die meanwhile, they are started again (`run`, `restart`) or waited for (`wait`), and the
waiting goes on: all that matters is in the store.
"""

import math
import re
from collections.abc import Callable, Sequence
from time import sleep
from typing import TypeVar

from miniorch.cli.ask import Server
from miniorch.cli.knock import knock
from miniorch.cli.output import sentence
from miniorch.cli.progress import Failures, Verdict, as_seen, failures, judge, slowest
from miniorch.cli.screen import Screen
from miniorch.clock import Clock
from miniorch.errors import AppFailed, MiniorchError, NotFound, NotPlaced, Temporary, Unreachable
from miniorch.model import Node, NodeState, Service, Task, TaskState
from miniorch.slots import next_at, told
from miniorch.up import Machine

LOOK_SECONDS = 0.1
CARE_SECONDS = 1.0  # how often it is checked that the processes live
PORT_PATIENCE_SECONDS = 2.0  # then it is said that only the port is missing
LOG_LINES = 20
HEARTBEAT_PATIENCE_SECONDS = 7.0  # a port that has just become free is still in the last heartbeat
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
T = TypeVar("T")


def answers(node: Node) -> bool:
    return node.ready and node.state is NodeState.READY


class Waiting:
    """One wait for `app`, or for its one service `only`. Without a `machine` nothing is ever started."""

    def __init__(
        self, app: str, server: Server, screen: Screen, clock: Clock, timeout: float, machine: Machine | None = None,
        only: str = "",
    ) -> None:  # fmt: skip
        self.app, self.only = app, only
        self.name = f"{app}/{only}" if only else app
        self.server, self.machine = server, machine
        self.screen, self.clock, self.timeout = screen, clock, timeout
        self.services: list[Service] = []  # as of the last look
        self._began = clock.monotonic()
        self._cared = self._began

    def waited(self) -> float:
        return self.clock.monotonic() - self._began

    def tasks(self) -> list[Task]:
        return [task for task in self.server.tasks(self.app) if self.only in ("", task.service)]

    def until_up(self) -> bool:
        """Wait until all is up; True if it was so at the first look. Raises `AppFailed`, `NotPlaced`, `NotFound`."""
        before: Failures | None = None
        began, first = self.clock.now(), True
        while True:
            tasks, ready = self.persist(self._look)
            now = self.clock.now()
            before = failures(self.services, tasks) if before is None else before
            verdict = judge(self.services, tasks, now, began=began, before=before, node_ready=ready)
            if verdict.up:
                return first
            first = False
            self.screen.show(verdict, tasks)
            if verdict.cause is not None:
                raise self._failed(verdict, verdict.cause)
            if self.waited() > self.timeout:
                raise self._too_late(verdict, tasks, now)
            self._pause()

    def until_ports_answer(self) -> None:
        """Each published port must answer, and not by somebody else. Raises `NotPlaced`, `AppFailed`."""
        patience = self.waited() + HEARTBEAT_PATIENCE_SECONDS
        while refused := self._held_port():
            if self.waited() > patience:
                raise refused
            sleep(LOOK_SECONDS)
        for key, port in self._ports():
            patience = self.waited() + PORT_PATIENCE_SECONDS
            while reason := knock(port):
                self.until_up()  # others may have changed the app meanwhile, or removed it
                if (key, port) not in self._ports():
                    break
                if self.waited() > patience:
                    self.screen.say(f"all tasks run; port {port} does not answer yet: {reason}")
                    patience = float("inf")
                if self.waited() > self.timeout:
                    message = f"{key} runs, but port {port} does not answer: {reason}"
                    raise AppFailed(message, remedy=f"miniorch logs {key}")
                self._pause()

    def until(self, done: Callable[[], str], late: Callable[[str], MiniorchError] | None = None) -> None:
        """Wait until `done` has nothing to say any more. What it says is what is missing. Raises `AppFailed`, or what
        `late` makes of it.
        """
        while missing := self.persist(done):
            if self.waited() > self.timeout:
                remedy = f"miniorch ps {self.app}"
                raise late(missing) if late else AppFailed(f"after {self.timeout:g} s: {missing}", remedy=remedy)
            sleep(LOOK_SECONDS)

    def until_gone(self, late: Callable[[str], MiniorchError] | None = None) -> None:
        """Wait for the end of the one that is there now: there may be another one of its name a moment later."""

        def there() -> set[tuple[str, object]]:
            if self.only:
                return {(one.name, one.vip) for one in self.server.services(self.app) if one.name == self.only}
            return {(one.name, one.created_at) for one in self.server.apps() if one.name == self.app}

        first = self.persist(there)
        self.until(lambda: f"{self.name} is still there" if first & there() else "", late)

    def persist(self, ask: Callable[[], T]) -> T:
        """An answer, even if the server has to be started again for it."""
        while True:
            try:
                return ask()
            except Temporary:
                if self.waited() > self.timeout:
                    raise
                self._revive()

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[list[Task], bool]:
        found = [one for one in self.server.services(self.app) if not one.removing]
        self.services = [one for one in found if self.only in ("", one.name)]
        if not self.services:
            raise NotFound(f"there is no {'service' if self.only else 'app'} {self.name}", remedy="miniorch services")
        nodes = self.server.nodes()
        seen = as_seen(self.tasks(), {one.name: one for one in nodes}, self.clock.now())
        return seen, any(map(answers, nodes))

    def _ports(self) -> list[tuple[str, int]]:
        return [(one.key, port.published) for one in self.services if one.spec.replicas for port in one.spec.ports]

    def _held_port(self) -> NotPlaced | None:
        """The error to raise when another program holds one of the ports, as the nodes' last heartbeats say."""
        wanted = [(service.key, str(port.published)) for service in self.services for port in service.spec.ports]
        for node in self.persist(self.server.nodes):
            for key, port in wanted:
                if holder := node.ports_in_use.get(port):
                    message = f"{key}: port {port} is held by {holder} on {node.name}"
                    return NotPlaced(message, remedy="end that program or publish another port, then run this again")
        return None

    def _pause(self) -> None:
        """Until the next look; now and then, see that the processes live."""
        sleep(LOOK_SECONDS)
        if self.machine and self.clock.monotonic() - self._cared >= CARE_SECONDS:
            self._cared = self.clock.monotonic()
            if self.machine.missing():
                self._revive()

    def _revive(self) -> None:
        died = self.machine.missing() if self.machine else []
        if died:
            self.screen.say(f"{sentence(died)} died and is started again")
        if self.machine:
            self.machine.ensure_up()
        if not died:
            sleep(LOOK_SECONDS)

    # --- why not -----------------------------------------------------------------------------------------------------

    def _failed(self, verdict: Verdict, task: Task) -> MiniorchError:
        name = f"{task.app}/{task.name}"
        service = next(one for one in self.services if one.name == task.service)
        first, *more = task.status.message.splitlines() or [task.status.state.value]
        if verdict.kind == "unplaced":
            text = "\n".join([f"{name} waits for a node that fits: {first}", *more])
            return self._no_node() or NotPlaced(text, remedy=f"miniorch explain {name}")
        if verdict.kind == "held":
            held = [service, *(one for one in self.services if one.held and one is not service)]
            text = "\n".join(f"{one.key} is not changed further, and what runs goes on: {one.held}" for one in held)
            return NotPlaced(text, remedy=f"miniorch explain {service.key}")
        rest = (next_at(task, service) or 0.0) - self.clock.now()
        again = f"; next try in {math.ceil(rest)} s" if rest > 0 else ""
        verb, remedy = f"failed {verdict.times} times in a row", f"miniorch logs {name}"
        if verdict.kind == "rejected":
            verb, remedy = "could not be made", f"miniorch events {task.app}"
        elif verdict.kind == "given up":
            verb, remedy = "failed and is not tried again", f"{remedy}; miniorch restart {service.key}"
        return AppFailed("\n".join([f"{name} {verb}: {first}{again}", *more, *self._evidence(task)]), remedy=remedy)

    def _no_node(self) -> Unreachable | None:
        """The error to raise when no node is ready: that is the cause of whatever else can be seen."""
        nodes = self.server.nodes()
        if any(map(answers, nodes)):
            return None
        why = "; ".join(f"{node.name}: {node.message or node.state.value}" for node in nodes) or "no node has joined"
        return Unreachable(f"no node is ready: {why}", remedy="miniorch doctor")

    def _too_late(self, verdict: Verdict, tasks: Sequence[Task], now: float) -> MiniorchError:
        if trouble := self._no_node():
            return trouble
        task = slowest(self.services, tasks, now)
        limit = f"{self.timeout:g} s"
        if task is None:
            why = "".join([f": {line.words}" for line in verdict.lines if line.words][:1])
            return AppFailed(f"{self.name} is not up after {limit}{why}", remedy=f"miniorch ps {self.app}")
        name = f"{task.app}/{task.name}"
        service = next(one for one in self.services if one.name == task.service)
        first = (told(task, service, now).splitlines() or ["no reason given"])[0]
        text = f"{name} is not up after {limit}: {task.status.state.value}, {first}"
        if task.status.state is TaskState.PENDING:
            return NotPlaced(text, remedy=f"miniorch explain {name}")
        return AppFailed("\n".join([text, *self._evidence(task)]), remedy=f"miniorch logs {name}")

    def _evidence(self, task: Task) -> list[str]:
        """Exit code and last output. That the output cannot be had must never hide the error itself."""
        code, lines = task.status.exit_code, list(task.status.log_tail)
        if not lines and task.status.container_id:
            try:
                _, response = self.server.transport.open("GET", f"/v1/tasks/{task.id}/logs?tail={LOG_LINES}")
                lines = response.read().decode(errors="replace").splitlines()
            except (MiniorchError, OSError):
                lines = []
        shown = [] if code is None or str(code) in task.status.message else [f"exit code: {code}"]
        told = [COLOUR.sub("", line) for line in lines[-LOG_LINES:]]  # Docker paints what a build writes on stderr red
        return [*shown, *[f"last {len(told)} lines:"] * bool(told), *(f"  | {line}" for line in told)]
