"""`run` and `plan`: from an app file to an app that answers, or to the one reason why it does not.

Nothing here decides what happens to containers: the file becomes a spec, the spec goes to the server, and the rest is
looking and telling (`progress.py` judges, `screen.py` shows, `knock.py` asks the published ports). Should the server,
net or the agent die meanwhile, they are started again and the waiting goes on: all that matters is in the store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from time import sleep
from typing import TypeVar

from miniorch.appfile.compose import AppFile, read_app_file
from miniorch.changes import ServiceChange, changes
from miniorch.cli.ask import Server
from miniorch.cli.knock import knock
from miniorch.cli.output import sentence
from miniorch.cli.progress import Failures, Verdict, failures, judge, slowest
from miniorch.cli.screen import Screen, open_screen
from miniorch.clock import Clock, SystemClock
from miniorch.codec import from_plain
from miniorch.errors import AppFailed, MiniorchError, NotPlaced, Temporary, Unreachable, UsageError
from miniorch.model import Service, Task, TaskState
from miniorch.up import Machine

LOOK_SECONDS = 0.1
CARE_SECONDS = 1.0  # how often it is checked that the processes live
PORT_PATIENCE_SECONDS = 2.0  # then it is said that only the port is missing
LOG_LINES = 20
HEARTBEAT_PATIENCE_SECONDS = 7.0  # a port that has just become free is still in the last heartbeat
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
T = TypeVar("T")


def read_file(file: str, name: str, images: Sequence[str]) -> AppFile:
    """The app file with the options that change it. Raises `AppFileError`, `UsageError`."""
    replaced = {}
    for pair in images:
        service, equals, image = pair.partition("=")
        if not (service and equals and image):
            raise UsageError(f'--image wants SERVICE=IMAGE, got "{pair}"', remedy="--image db=mongo:7")
        replaced[service] = image
    return read_app_file(file, os.environ, name=name, images=replaced)


def plan(file: str, name: str, images: Sequence[str]) -> None:
    """Print what `run` would change."""
    app = read_file(file, name, images)
    server = Server()
    try:
        services, revision = server.services(app.name), server.version()["revision"]
        print(f"{app.name}, compared with revision {revision}:")
    except Temporary:
        services = []
        print(f"{app.name}: miniorch does not run here, so everything would be new:")
    for change in changes(app.name, app.spec, services):
        print(f"  {change.describe()}")


def run(file: str, name: str, images: Sequence[str], *, detach: bool, timeout: float, quiet: bool) -> None:
    """Apply the file and wait until the app is up. Raises what table 5.4 of exit codes speaks of."""
    app = read_file(file, name, images)
    screen = open_screen(quiet)
    machine = Machine(screen.say)
    machine.ensure_up()
    waiting = Waiting(app, machine, Server(), screen, SystemClock(), timeout)
    try:
        changed = waiting.apply()
        differs = [change for change in changed if change.action != "keep"]
        for change in differs:
            screen.say(change.describe())
        if detach:
            print(f"{app.name}: accepted; miniorch ps {app.name} shows how it goes")
            return
        at_once = waiting.until_up()
        waiting.until_ports_answer()
    finally:
        screen.close()
    _conclude(waiting, unchanged=at_once and not differs, quiet=quiet)


def _conclude(waiting: Waiting, *, unchanged: bool, quiet: bool) -> None:
    app = waiting.app
    ports = [(port.published, name) for name, one in sorted(app.spec.services.items()) for port in one.ports]
    places = ", ".join(f"http://localhost:{port} ({name})" for port, name in sorted(ports))
    if unchanged:
        print(f"{app.name} is up and nothing has changed" + (f": {places}" if places else ""))
        return
    counts = ", ".join(f"{name} {one.replicas}/{one.replicas}" for name, one in sorted(app.spec.services.items()))
    print(f"{app.name} is up: {counts} after {waiting.waited():.1f} s")
    if quiet:
        return
    if places:
        print(f"open {places}")
    some = ports[0][1] if ports else min(app.spec.services)
    print(f"next: miniorch ps {app.name}; miniorch logs {app.name}/{some} -f; miniorch scale {app.name}/{some}=3")


class Waiting:
    """One `run` after its file has been read."""

    def __init__(
        self, app: AppFile, machine: Machine, server: Server, screen: Screen, clock: Clock, timeout: float
    ) -> None:
        self.app = app
        self.machine = machine
        self.server = server
        self.screen = screen
        self.clock = clock
        self.timeout = timeout
        self._began = clock.monotonic()
        self._cared = self._began

    def waited(self) -> float:
        return self.clock.monotonic() - self._began

    def apply(self) -> list[ServiceChange]:
        """Hand the spec over. Asking twice is harmless, so it is asked again when the server dies meanwhile."""
        answer = self._persist(
            lambda: self.server.transport.request_now("PUT", f"/v1/apps/{self.app.name}", self.app.spec)
        )
        return [from_plain(ServiceChange, plain) for plain in answer["changes"]]

    def until_up(self) -> bool:
        """Wait until all is up; True if it was so at the first look. Raises `AppFailed` or `NotPlaced`."""
        before: Failures | None = None
        began = self.clock.now()
        first = True
        while True:
            services, tasks, ready = self._persist(self._look)
            now = self.clock.now()
            if before is None:
                before = failures(services, tasks)
            verdict = judge(services, tasks, now, began=began, before=before, node_ready=ready)
            if verdict.up:
                return first
            first = False
            self.screen.show(verdict, tasks)
            if verdict.cause is not None:
                raise self._failed(verdict, verdict.cause)
            if self.waited() > self.timeout:
                raise self._too_late(services, tasks, now)
            sleep(LOOK_SECONDS)
            self._care()

    def until_ports_answer(self) -> None:
        """Each published port must answer, and not by somebody else. Raises `NotPlaced`, `AppFailed`."""
        patience = self.waited() + HEARTBEAT_PATIENCE_SECONDS
        while refused := self._held_port():
            if self.waited() > patience:
                raise refused
            sleep(LOOK_SECONDS)
        for name, service in sorted(self.app.spec.services.items()):
            for port in service.ports if service.replicas else ():
                patience = self.waited() + PORT_PATIENCE_SECONDS
                while reason := knock(port.published):
                    if self.waited() > patience:
                        self.screen.say(f"all tasks run; port {port.published} does not answer yet: {reason}")
                        patience = float("inf")
                    if self.waited() > self.timeout:
                        raise AppFailed(
                            f"{self.app.name}/{name} runs, but port {port.published} does not answer: {reason}",
                            remedy=f"miniorch logs {self.app.name}/{name}",
                        )
                    sleep(LOOK_SECONDS)
                    self._care()

    def _held_port(self) -> NotPlaced | None:
        """The error to raise when another program holds one of the ports, as the nodes' last heartbeats say."""
        for node in self._persist(self.server.nodes):
            for name, service in sorted(self.app.spec.services.items()):
                for port in service.ports:
                    if holder := node.ports_in_use.get(str(port.published)):
                        return NotPlaced(
                            f"{self.app.name}/{name}: port {port.published} is held by {holder} on {node.name}",
                            remedy="end that program or publish another port, then run this again",
                        )
        return None

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[list[Service], list[Task], bool]:
        services = [one for one in self.server.services(self.app.name) if not one.removing]
        tasks = self.server.tasks(self.app.name)
        return services, tasks, any(node.ready for node in self.server.nodes())

    def _persist(self, ask: Callable[[], T]) -> T:
        """An answer, even if the server has to be started again for it."""
        while True:
            try:
                return ask()
            except Temporary:
                if self.waited() > self.timeout:
                    raise
                self._revive()

    def _care(self) -> None:
        if self.clock.monotonic() - self._cared >= CARE_SECONDS:
            self._cared = self.clock.monotonic()
            if self.machine.missing():
                self._revive()

    def _revive(self) -> None:
        died = self.machine.missing()
        if died:
            self.screen.say(f"{sentence(died)} died and is started again")
        self.machine.ensure_up()
        if not died:
            sleep(LOOK_SECONDS)

    # --- why not -----------------------------------------------------------------------------------------------------

    def _failed(self, verdict: Verdict, task: Task) -> MiniorchError:
        name = f"{task.app}/{task.name}"
        first, *more = task.status.message.splitlines() or [task.status.state.value]
        if verdict.kind == "unplaced":
            if trouble := self._no_node():
                return trouble
            text = "\n".join([f"{name} waits for a node that fits: {first}", *more])
            return NotPlaced(text, remedy=f"miniorch explain {name}")
        verb = "could not be made" if verdict.kind == "rejected" else f"failed {verdict.times} times in a row"
        lines = [f"{name} {verb}: {first}", *more, *self._evidence(task)]
        remedy = f"miniorch events {task.app}" if verdict.kind == "rejected" else f"miniorch logs {name}"
        return AppFailed("\n".join(lines), remedy=remedy)

    def _no_node(self) -> Unreachable | None:
        """The error to raise when no node is ready: that is the cause of whatever else can be seen."""
        nodes = self.server.nodes()
        if any(node.ready for node in nodes):
            return None
        why = "; ".join(f"{node.name}: {node.message}" for node in nodes) or "no node has joined"
        return Unreachable(f"no node is ready: {why}", remedy="miniorch doctor")

    def _too_late(self, services: Sequence[Service], tasks: Sequence[Task], now: float) -> MiniorchError:
        if trouble := self._no_node():
            return trouble
        task = slowest(services, tasks, now)
        limit = f"{self.timeout:g} s"
        if task is None:
            return AppFailed(f"{self.app.name} is not up after {limit}", remedy=f"miniorch ps {self.app.name}")
        name = f"{task.app}/{task.name}"
        first = (task.status.message.splitlines() or ["no reason given"])[0]
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
        return [*shown, *([f"last {len(lines[-LOG_LINES:])} lines:"] if lines else []), *_indented(lines)]


def _indented(lines: Sequence[str]) -> list[str]:
    """As they are, but for colours: Docker paints what a build writes on stderr red."""
    return [f"  | {COLOUR.sub('', line)}" for line in lines[-LOG_LINES:]]
