"""`logs`, `events` and `history`: what containers wrote, what happened, and what was changed by whom asked for it.

Several tasks at once get their names in front of what they wrote, as Compose does it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import chain

from miniorch.cli.ask import Named, Server
from miniorch.cli.output import BROKEN_PIPE, Answer, detaching, json_text, table
from miniorch.client import RECONNECT_SECONDS
from miniorch.codec import from_plain
from miniorch.contexts import transport_now
from miniorch.errors import Compacted, MiniorchError, NotFound, Temporary, Unreachable, UsageError
from miniorch.model import Event, Task

FOLLOW_SECONDS = 7 * 86400.0  # a container may be silent for long; the connection breaks when the server ends
LOOK_SECONDS = 1.0


def events(app: str, *, follow: bool, tail: int, json: bool) -> Answer | None:
    """The newest events. With `follow` also those to come, one JSON object per line, over any restart of the server."""
    server = Server()
    # The revision first: what happens between the two questions is told twice rather than never, and then once.
    revision = server.version()["revision"] if follow else 0
    found = [one for one in server.events() if _about(one, app)]
    if app and not found:
        server.must_have(app)
    shown = found[-tail:] if tail else []
    if not follow:
        return Answer(shown, "\n".join(map(_line, shown)) or "no events")
    known = {one.id for one in found[: len(found) - len(shown)]}
    with detaching("ended; all events: miniorch events -n 1000"):
        for event in chain(shown, _coming(server, revision)):
            if event.id not in known and _about(event, app):
                print(json_text(event, line=True) if json else _line(event), flush=True)
            known.add(event.id)
    return None


def _about(event: Event, app: str) -> bool:
    return not app or event.subject.split("/")[0] == app


def _line(event: Event) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {event.subject}  {event.message}"


def _coming(server: Server, revision: int) -> Iterator[Event]:
    """Events after a revision, for ever. A gap in the history (-1) is filled from the list; some may come twice."""
    while True:
        try:
            if revision < 0:
                revision = server.version()["revision"]
                yield from server.events()
            connection, response = server.transport.open("GET", f"/v1/watch/events?revision={revision}")
            with contextlib.closing(connection):
                for change in server.transport.lines(response):
                    revision = change.get("revision", revision)
                    if "put" in change:
                        yield from_plain(Event, change["put"])
        except Compacted:
            revision = -1
        except Temporary:
            pass  # the server is away; it is asked again
        time.sleep(RECONNECT_SECONDS)


def history(app: str) -> Answer:
    """The releases of an app. Raises `NotFound`."""
    server = Server()
    found = server.releases(app)
    if not found:
        server.must_have(app)
    rows = [{"NUMBER": str(one.number), "WHEN": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at)),
             "CHANGES": "; ".join(one.changes)} for one in found]  # fmt: skip
    return Answer(found, table(rows, f"{app} has no history yet"))


def logs(name: str, *, follow: bool, previous: bool, tail: int) -> None:
    """Print the output of a task, or of a service's tasks: the live ones, or else the last that ended.

    Raises `Unreachable` for those whose node does not answer, when all others have been printed; without a previous one
    `NotFound`.
    """
    if follow and previous:
        raise UsageError("a task that has ended writes nothing more", remedy=f"miniorch logs {name} --previous")
    server = Server(last_known=True)
    named = server.resolve(name)
    if follow:
        with detaching(f"ended; {name} goes on: miniorch logs {name} -f"):
            _follow(server, name, tail, prefix=named.whole_service)
        return
    tasks = ended_last(named.tasks) if previous else _worth_reading(named)
    if previous and not tasks:
        raise NotFound(f"{name} has no task that has ended", remedy=f"miniorch logs {name}")
    if not tasks:
        print(f"{name} has no task yet", file=sys.stderr)
    printed = [(task.name, _print_all(task, tail, follow=False, prefix=len(tasks) > 1)) for task in tasks]
    for error in [error for _, error in printed if error][:1]:
        missing = ", ".join(name for name, why in printed if why)
        raise Unreachable(f"no logs of {missing}: {error.message}", remedy=error.remedy)


def _worth_reading(named: Named) -> list[Task]:
    live = [task for task in named.tasks if task.live and task.node]
    ended = [task for task in named.tasks if not task.live]
    return live or ended[-1:]


def ended_last(tasks: Sequence[Task]) -> list[Task]:
    """Of each slot the task that ended last; `tasks` are the oldest first."""
    return list({task.slot: task for task in tasks if not task.live}.values())


def _follow(server: Server, name: str, tail: int, *, prefix: bool) -> None:
    """One thread per task; tasks that replace others are followed, too. Ends when a single task has ended.

    A task whose node does not answer is tried again. Raises `Unreachable` if it is the only one.
    """
    threads: dict[str, threading.Thread] = {}
    lost: dict[str, MiniorchError] = {}

    def follow(task: Task) -> None:
        if error := _print_all(task, tail, follow=True, prefix=prefix):
            if task.id not in lost and prefix:
                print(f"{task.name} | no logs yet: {error.message}", file=sys.stderr)
            lost[task.id] = error

    while True:
        try:
            named = server.resolve(name)
        except Temporary:  # the server is being started again; the tasks go on
            time.sleep(LOOK_SECONDS)
            continue
        for task in _worth_reading(named):
            again = named.whole_service and task.id in lost and not threads[task.id].is_alive()
            if again or task.id not in threads:
                threads[task.id] = threading.Thread(target=follow, args=(task,), daemon=True)
                threads[task.id].start()
        if not named.whole_service and not any(thread.is_alive() for thread in threads.values()):
            for error in lost.values():
                raise error
            return
        time.sleep(LOOK_SECONDS)


def _print_all(task: Task, tail: int, *, follow: bool, prefix: bool) -> MiniorchError | None:
    """What a task has written. Returns why there is nothing, if its node does not answer."""
    before = f"{task.name} | " if prefix else ""
    try:
        transport = transport_now(timeout_seconds=FOLLOW_SECONDS if follow else 30.0)
        _, response = transport.open("GET", f"/v1/tasks/{task.id}/logs?tail={tail}&follow={int(follow)}")
        wrote = False
        for line in response:
            wrote = True
            _write(before + line.decode(errors="replace"))
        if not wrote:
            said = (task.status.message.splitlines() or [task.status.state.value])[0]
            print(f"{task.name} has written nothing; it is {task.status.state.value}: {said}", file=sys.stderr)
    except MiniorchError as error:
        # The container is gone; what the agent kept of a failed task is not.
        for kept in task.status.log_tail[-tail:]:
            _write(f"{before}{kept}\n")
        if not task.status.log_tail:
            if isinstance(error, Unreachable):
                return error
            print(f"{before}no logs: {error.message}", file=sys.stderr)
    except (OSError, http.client.HTTPException) as error:
        print(f"{before}the logs broke off ({error})", file=sys.stderr)
    return None


def _write(line: str) -> None:
    """One call per line, so that threads do not mix within a line."""
    try:
        sys.stdout.write(line if line.endswith("\n") else line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on: end the whole command, whichever thread this is
        os._exit(BROKEN_PIPE)
