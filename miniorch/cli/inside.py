"""`exec` and `top`: being inside a container. (`cp` is in `copy.py`.)

The problem: a program that runs in a container must feel as if it ran in this terminal. The idea: while it runs, this
terminal is *raw*: it interprets nothing, so every key, Ctrl-C included, is a byte that travels to the terminal inside,
and that one interprets it. What remains to be told is the window's size, at the start and at each SIGWINCH. However
this ends, the terminal is set back. Without a terminal it is a pipe like any other: input until its end, output and
errors apart.

Two threads: this one writes what comes, another one reads the keyboard. Frames: `miniorch/frames.py`.
"""

import http.client
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from miniorch.cli.ask import Named, Server, resolve
from miniorch.cli.output import BROKEN_PIPE, INTERRUPTED, as_json, show_error, table
from miniorch.codec import encode
from miniorch.errors import Conflict, EngineError, Unreachable, UsageError
from miniorch.frames import CHUNK_BYTES, SIZE, WINDOW_BYTES, Command, Kind, Unpacker, pack
from miniorch.model import Task, TaskState

RUNS = (TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING)


def exec_(name: str, command: Sequence[str], *, tty: bool | None, interactive: bool, user: str, workdir: str) -> int:
    """Run a command inside a task, and return its exit code. `tty` None: if this is a terminal."""
    if workdir and not workdir.startswith("/"):
        raise UsageError(f"--workdir wants a path from /, got {workdir}", remedy=f"--workdir /{workdir}")
    server = Server()
    task = running(name, resolve(name, server.services(), server.tasks()))[0]
    keyboard = os.isatty(0)
    terminal = keyboard and os.isatty(1) if tty is None else tty
    rows, columns = _size() if terminal else (0, 0)
    what = Command(tuple(command), terminal, terminal or interactive or not keyboard, rows, columns, user, workdir)
    server.transport.timeout_seconds = None  # a command may be silent for long
    session = Session(*server.transport.begin(f"/v1/tasks/{task.id}/exec"))
    try:
        session.send(Kind.START, encode(what))
        with _watched(session, terminal), _raw(terminal and keyboard):
            code = session.run(reads=what.stdin)
    except KeyboardInterrupt:
        return INTERRUPTED
    except NobodyReads:
        return BROKEN_PIPE
    finally:
        session.close()
    if session.error:
        look = "cat /etc/passwd" if "user" in session.error else f"ls -ld {workdir or command[0]}"
        show_error(EngineError(session.error, remedy=f"miniorch exec {name} -- {'sh' if code == 127 else look}"))
    return code


def cp(source: str, target: str) -> None:
    """Copy files into a task or out of it."""
    from miniorch.cli import copy  # not for every `exec`: it costs as much as all the rest

    copy.cp(source, target)


def top(name: str, *, json: bool) -> None:
    """List the processes inside a task, or inside all tasks of a service."""
    server = Server()
    named = resolve(name, server.services(), server.tasks())
    found = []
    for task in running(name, named):
        processes = server.transport.request_now("GET", f"/v1/tasks/{task.id}/top")
        found.append({"task": task.id, "name": f"{task.app}/{task.name}", **processes})
    if json:
        as_json(found)
        return
    titles = ["TASK", *found[0]["titles"]]
    table(titles, [[one["name"].partition("/")[2], *row] for one in found for row in one["rows"]], "no processes")


def running(name: str, named: Named) -> list[Task]:
    """Those of a name's tasks whose container runs, in the order of their slots. Raises `Conflict`."""
    found = [task for task in named.tasks if task.status.state in RUNS]
    if found:
        return found
    if not named.tasks:
        raise Conflict(f"{name} has no task", remedy=f"miniorch scale {named.app}/{named.service}=1")
    task = named.tasks[-1]
    why = (task.status.message.splitlines() or [""])[0]
    raise Conflict(
        f"{task.app}/{task.name} does not run: it is {task.status.state.value}{f', {why}' if why else ''}",
        remedy=f"miniorch {'explain' if task.live else 'logs'} {task.id}",
    )


class NobodyReads(Exception):
    """Whoever read our output is gone; not to be taken for a connection that broke off."""


class Session:
    """One running `exec`, seen from here."""

    def __init__(self, wire: socket.socket, answer: Callable[[], http.client.HTTPResponse]) -> None:
        self.error = ""
        self._wire = wire
        self._answer = answer
        self._sending = threading.Lock()
        self._room = WINDOW_BYTES
        self._more_room = threading.Condition()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        frame = pack(kind, payload)
        with self._sending:
            self._wire.sendall(b"%x\r\n%b\r\n" % (len(frame), frame))

    def run(self, *, reads: bool) -> int:
        """Until the command has ended: its exit code. Raises what the server answers, and `Unreachable`."""
        response = self._answer()
        if reads:
            threading.Thread(target=self._read_input, name="input", daemon=True).start()
        unpacker = Unpacker()
        try:
            while data := response.read1(CHUNK_BYTES):
                for kind, payload in unpacker.feed(data):
                    match kind:
                        case Kind.STDOUT | Kind.STDERR:
                            _write(1 if kind is Kind.STDOUT else 2, payload)
                        case Kind.TAKEN:
                            with self._more_room:
                                self._room += int(payload)
                                self._more_room.notify()
                        case Kind.ERROR:
                            self.error = payload.decode(errors="replace")
                        case Kind.EXIT:
                            return int(payload) & 0xFF
        except (ConnectionError, http.client.HTTPException):
            pass
        raise Unreachable("the connection broke off before the command had ended", remedy="miniorch doctor")

    def _read_input(self) -> None:
        with suppress(OSError):  # nobody listens any more
            while data := os.read(0, self._wait_for_room()):
                self.send(Kind.STDIN, data)
                with self._more_room:
                    self._room -= len(data)
            self.send(Kind.STDIN_END)

    def _wait_for_room(self) -> int:
        with self._more_room:
            self._more_room.wait_for(lambda: self._room > 0)
            return min(self._room, CHUNK_BYTES)

    def close(self) -> None:
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        raise NobodyReads from None


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return 24, 80
    return size.lines, size.columns


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """This terminal interprets nothing, until the end."""
    import termios
    import tty

    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what has been typed already is for the program inside
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _watched(session: Session, terminal: bool) -> Iterator[None]:
    """Tell of changes of the window's size; let SIGTERM and SIGHUP end us in order, so that all is set back."""

    def resize(*_: Any) -> None:
        with suppress(OSError):
            session.send(Kind.RESIZE, SIZE.pack(*_size()))

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGTERM: end, signal.SIGHUP: end, **({signal.SIGWINCH: resize} if terminal else {})}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.stdout.flush()
