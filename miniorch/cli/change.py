"""`scale`, `restart`, `rm` and `wait`, `up` and `down`: changes that need no app file, and waiting as `run` does.

A script that starts a job wants its exit code, one that deploys wants to know when traffic may come. So `wait` knows
three goals (up, ended, gone), says what it waits for, and never starts a process: it may be somebody else's machine.
"""

import contextlib

from miniorch.cli.ask import Named, Server, split_service
from miniorch.cli.output import Answer, confirm, detaching, did_you_mean, done, sentence
from miniorch.cli.screen import Screen, open_screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.contexts import elsewhere
from miniorch.errors import MiniorchError, NotFound, Unreachable, UsageError
from miniorch.model import Task, TaskState
from miniorch.spec import LABEL
from miniorch.up import Machine

REMOVE_SECONDS = 120.0
GRACE_SECONDS = 30.0  # of an app whose machine is taken down


def scale(what: str, *, quiet: bool) -> Answer:
    name, equals, number = what.partition("=")
    if not (equals and number.isascii() and number.isdigit()):
        raise UsageError(f'"{what}" is not of the form APP/SERVICE=N', remedy="miniorch scale dockchat/web=3")
    app, service = split_service(name)
    Server().transport.request_now("PUT", f"/v1/services/{app}/{service}/replicas", {"replicas": int(number)})
    words = f"{name}: {int(number)} wanted" + ("" if quiet else f"; miniorch wait {name} waits until they are up")
    return done(words, name=name, outcome="accepted", replicas=int(number))


def remove(app: str, *, volumes: bool, yes: bool, no_input: bool, quiet: bool) -> Answer:
    """Remove an app and wait until nothing of it is left. Its volumes' data only when told to, and after a question."""
    if not LABEL.fullmatch(app):
        remedy = f"miniorch scale {app}=0" if "/" in app else "miniorch services"
        raise UsageError(f'"{app}" is no name of an app', remedy=remedy)
    if volumes:
        confirm(f"The data in all volumes of {app} will be deleted for good. Go on?", yes=yes, no_input=no_input)
    server = Server()
    server.transport.request_now("DELETE", f"/v1/apps/{app}" + ("?volumes=1" if volumes else ""))
    with detaching(f"interrupted; {app} is being removed all the same: miniorch wait {app} --for gone"):
        until_gone(server, app)
    words = f"{app} is gone" + ("" if volumes or quiet else "; the data in its volumes is kept")
    return done(words, app=app, outcome="gone", volumes_kept=not volumes)


def until_gone(server: Server, app: str, seconds: float = REMOVE_SECONDS) -> None:
    """Raises `Unreachable` with what is left when it takes too long."""

    def late(_: str) -> Unreachable:
        left = ", ".join(f"{task.name} ({task.status.state.value})" for task in server.tasks(app))
        message = f"{app} is not gone after {seconds:.0f} s: {left or 'its volumes are left'}"
        return Unreachable(message, remedy="miniorch up, which starts the agent if it is away; then miniorch rm again")

    Waiting(app, server, Screen(), SystemClock(), seconds).until_gone(late)


def restart(name: str, *, detach: bool, timeout: float, quiet: bool) -> Answer:
    """Begin a new round of a service and wait until its new tasks are up."""
    app, service = split_service(name)
    screen = open_screen(quiet)
    machine = None if elsewhere() else Machine(screen.say)
    waiting = Waiting(app, Server(), screen, SystemClock(), timeout, machine, only=service)
    waiting.server.transport.request_now("POST", f"/v1/services/{app}/{service}/restart")
    if detach:
        return done(f"{name}: accepted; miniorch wait {name} waits until it is up", name=name, outcome="accepted")
    with detaching(f"interrupted; the restart goes on: miniorch wait {name}"), contextlib.closing(screen):
        waiting.until_up()
        waiting.until_ports_answer()
    seconds = waiting.waited()
    words, then = f"{name} is up again after {seconds:.1f} s", f"miniorch logs {name} -f"
    return done(words, then, name=name, outcome="up", seconds=round(seconds, 1))


def wait(name: str, goal: str | None, *, timeout: float, quiet: bool) -> Answer:
    """Wait for a goal. The exit code is that of the tasks that have ended, the first that is not 0."""
    server, screen = Server(), open_screen(quiet)
    named = _named(server, name, goal)
    if named is None:
        return done(f"{name} is not there", name=name, outcome="gone")
    task = "" if named.whole_service else named.tasks[-1].id
    goal = goal or ("ended" if task else "up")
    if goal == "up" and task:
        raise UsageError("a task is waited for until it has ended", remedy=f"miniorch wait {named.key} --for up")
    waiting = Waiting(named.app, server, screen, SystemClock(), timeout, only=named.service)
    screen.say(f"waiting until {name} {'has ended' if goal == 'ended' else f'is {goal}'}, {timeout:g} s at most")
    code = 0
    words = f"interrupted; nothing was changed: miniorch wait {name} --for {goal}"
    with detaching(words), contextlib.closing(screen):
        if goal == "up":
            waiting.until_up()
            waiting.until_ports_answer()
        elif goal == "gone" and not task:
            waiting.until_gone()
        else:
            code = _until_ended(waiting, task)
    code = 0 if goal == "gone" else code
    words = f"{name} has ended with exit code {code}" if goal == "ended" else f"{name} is {goal}"
    facts = {"name": name, "outcome": goal, "exit_code": code, "seconds": round(waiting.waited(), 1)}
    return Answer(facts, words, code=code)


def _named(server: Server, name: str, goal: str | None) -> Named | None:
    """What is to be waited for; None for what is gone already, if that is the goal."""
    if "/" not in name and any(app.name == name for app in server.apps()):
        return Named(name, "", (), True)
    try:
        return server.resolve(name)
    except NotFound as error:
        if goal == "gone":
            return None
        if "/" not in name:
            hint = did_you_mean(name, [app.name for app in server.apps()])
            raise NotFound(f"there is no app or task {name}{hint}", remedy="miniorch ps") from None
        raise error


def _until_ended(waiting: Waiting, task: str) -> int:
    """Wait until no task lives, or until this one does not; the first exit code that is not 0."""
    last: dict[tuple[str, int], Task] = {}

    def missing() -> str:
        tasks = [one for one in waiting.tasks() if task in ("", one.id)]
        last.update({(one.service, one.slot): one for one in tasks})
        living = ", ".join(f"{one.app}/{one.name} is {one.status.state.value}" for one in tasks if one.live)
        return living or ("" if last else f"{waiting.name} has had no task yet")

    waiting.until(missing)
    return next((code for code in map(_exit_code, last.values()) if code), 0)


def _exit_code(task: Task) -> int:
    """An ended task's own, and 1 for one that has none of its own and did not end well."""
    if task.status.exit_code is not None:
        return task.status.exit_code
    return int(task.status.state is not TaskState.COMPLETE)


# --- this machine's processes -----------------------------------------------------------------------------------------


def up(pool: str, node: str, store: str, *, systemd: bool, quiet: bool) -> Answer:
    machine, then = Machine((lambda _: None) if quiet else print, node, pool, store), "miniorch run FILE"
    with detaching("interrupted; what was started goes on: miniorch up starts the rest"):
        if systemd:
            machine.install_units()
            units = [process.unit_name for process in machine.processes]
            return done(f"units {sentence(units)} are enabled and run", then, outcome="up", units=units)
        started = machine.ensure_up()
    words = f"{sentence(started)} started; all answer" if started else "server, net and agent run already"
    return done(words, then, outcome="up", started=started)


def down(*, everything: bool, volumes: bool, yes: bool, no_input: bool, quiet: bool) -> Answer:
    if volumes and not everything:
        raise UsageError("--volumes goes with --all", remedy="miniorch down --all --volumes")
    if volumes:
        confirm("The data in all volumes on this machine will be deleted for good. Go on?", yes=yes, no_input=no_input)
    machine = Machine((lambda _: None) if quiet else print)
    again = f"miniorch down{' --all' * everything}{' --volumes' * volumes}"
    with detaching(f"interrupted; some of it is ended or removed already: {again} does the rest"):
        if everything:
            _remove_apps_politely()
        stopped = machine.undo(volumes=volumes) if everything else machine.down()
    words = [f"{sentence(stopped)} stopped" if stopped else "no process of miniorch ran"]
    if everything:
        words += ["removed: containers, network, HAProxy, state" + (", volumes" if volumes else "; volumes are kept")]
    elif stopped and not quiet:
        words += ["containers and published ports go on; miniorch up takes them over again"]
    return done("\n".join(words), outcome="removed" if everything else "down", stopped=stopped)


def _remove_apps_politely() -> None:
    """While the processes run, containers are asked to end. Whatever is left after that is removed without asking."""
    server = Server()
    try:
        apps = [app.name for app in server.apps()]
        for app in apps:
            server.transport.request_now("DELETE", f"/v1/apps/{app}")
        for app in apps:
            until_gone(server, app, GRACE_SECONDS)
    except MiniorchError:
        pass
