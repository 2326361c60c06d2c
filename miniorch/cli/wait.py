"""`wait` and `restart`: the same waiting as `run`, for what is there already.

A script that starts a job wants its exit code, one that deploys wants to know when traffic may come. So `wait` knows
three goals (up, ended, gone), says what it waits for, and never starts a process: it may be somebody else's machine.
"""

from __future__ import annotations

import contextlib

from miniorch.cli.ask import Named, Server, split_service
from miniorch.cli.output import Answer, detaching, did_you_mean, done
from miniorch.cli.screen import open_screen
from miniorch.cli.waiting import Waiting
from miniorch.clock import SystemClock
from miniorch.contexts import elsewhere
from miniorch.errors import NotFound, UsageError
from miniorch.model import Task, TaskState
from miniorch.up import Machine


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
            _until_gone(waiting)
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
    return next((code for code in map(exit_code, last.values()) if code), 0)


def _until_gone(waiting: Waiting) -> None:
    def missing() -> str:
        listed = waiting.server.services(waiting.app) if waiting.only else waiting.server.apps()
        return f"{waiting.name} is still there" if (waiting.only or waiting.app) in {one.name for one in listed} else ""

    waiting.until(missing)


def exit_code(task: Task) -> int:
    """An ended task's own, and 1 for one that has none of its own and did not end well."""
    if task.status.exit_code is not None:
        return task.status.exit_code
    return int(task.status.state is not TaskState.COMPLETE)


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
