"""`exec` and `top`: being inside a container. (`cp` is in `copy.py`.)

The problem: a program that runs in a container must feel as if it ran in this terminal. The idea: while it runs, this
terminal is *raw*: it interprets nothing, so every key, Ctrl-C included, is a byte that travels to the terminal inside,
and that one interprets it. What remains to be told is the window's size, at the start and at each SIGWINCH. However
this ends, the terminal is set back. Without a terminal it is a pipe like any other: input until its end, output and
errors apart.

Next file: `miniorch/frames.py`, what travels; `miniorch/exchange.py`, how.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from miniorch.cli.ask import Server
from miniorch.cli.output import BROKEN_PIPE, INTERRUPTED, Answer, show_error, table
from miniorch.codec import encode
from miniorch.errors import Conflict, EngineError, Unreachable, UsageError
from miniorch.frames import CHUNK_BYTES, SIZE, WINDOW_BYTES, Command, Kind, Unpacker, pack
from miniorch.model import Task, TaskState
from miniorch.transport import HttpTransport

RUNS = (TaskState.STARTING, TaskState.RUNNING, TaskState.DRAINING)


def exec_(name: str, command: Sequence[str], *, tty: bool | None, interactive: bool, user: str, workdir: str) -> int:
    """Run a command inside a task, and return its exit code. `tty` None: if this is a terminal."""
    if workdir and not workdir.startswith("/"):
        raise UsageError(f"--workdir wants a path from /, got {workdir}", remedy=f"--workdir /{workdir}")
    server = Server(last_known=True)
    task = running(server, name)[0]
    keyboard = os.isatty(0)
    terminal = keyboard and os.isatty(1) if tty is None else tty
    rows, columns = _size() if terminal else (0, 0)
    what = Command(tuple(command), terminal, terminal or interactive or not keyboard, rows, columns, user, workdir)
    session = Session(server.transport, f"/v1/tasks/{task.id}/exec")
    try:
        with _raw(terminal and keyboard):
            code = asyncio.run(session.run(what))
    except KeyboardInterrupt:
        return INTERRUPTED
    except NobodyReads:
        return BROKEN_PIPE
    if session.error:
        look = "cat /etc/passwd" if "user" in session.error else f"ls -ld {workdir or command[0]}"
        show_error(EngineError(session.error, remedy=f"miniorch exec {name} -- {'sh' if code == 127 else look}"))
    return code


def top(name: str) -> Answer:
    """List the processes inside a task, or inside all tasks of a service."""
    server, found = Server(last_known=True), []
    for task in running(server, name):
        processes = server.transport.request_now("GET", f"/v1/tasks/{task.id}/top")
        found.append({"task": task.id, "name": f"{task.app}/{task.name}", **processes})
    rows = [{"TASK": one["name"].partition("/")[2], **dict(zip(one["titles"], row, strict=True))}
            for one in found for row in one["rows"]]  # fmt: skip
    return Answer(found, table(rows, "no processes"))


def running(server: Server, name: str) -> list[Task]:
    """Those of a name's tasks whose container runs, in the order of their slots. Raises `Conflict`."""
    named = server.resolve(name)
    found = [task for task in named.tasks if task.status.state in RUNS]
    if found:
        return found
    if not named.tasks:
        raise Conflict(f"{name} has no task", remedy=f"miniorch scale {named.app}/{named.service}=1")
    task = named.tasks[-1]
    why = (task.status.message.splitlines() or [""])[0]
    message = f"{task.app}/{task.name} does not run: it is {task.status.state.value}{f', {why}' if why else ''}"
    raise Conflict(message, remedy=f"miniorch {'explain' if task.live else 'logs'} {task.id}")


class NobodyReads(Exception):
    """Whoever read our output is gone; not to be taken for a connection that broke off."""


class Session:
    """One running `exec`, seen from here."""

    def __init__(self, transport: HttpTransport, path: str) -> None:
        self.error = ""
        self._transport, self._path = transport, path
        self._room = WINDOW_BYTES
        self._more_room = asyncio.Event()
        self._input: asyncio.Queue[bytes] = asyncio.Queue()  # what was read; b"" is the end
        self._sent = threading.Semaphore(0)  # one piece at a time

    async def run(self, what: Command) -> int:
        """Until the command has ended: its exit code. Raises what the server answers, and `Unreachable`."""
        self._exchange = await self._transport.begin(self._path)
        with closing(self._exchange), suppress(ConnectionError, EOFError):
            _on_signals(self.resize if what.tty else None)
            await self.send(Kind.START, encode(what))
            with self._transport.explained():
                await self._exchange.accepted()
            if what.stdin:
                self._handing = asyncio.create_task(self._hand_over())
                loop = asyncio.get_running_loop()
                threading.Thread(target=self._read_input, args=(loop,), name="input", daemon=True).start()
            unpacker = Unpacker()
            async for data in self._exchange.body():
                for kind, payload in unpacker.feed(data):
                    match kind:
                        case Kind.STDOUT | Kind.STDERR:
                            _write(1 if kind is Kind.STDOUT else 2, payload)
                        case Kind.TAKEN:
                            self._room += int(payload)
                            self._more_room.set()
                        case Kind.ERROR:
                            self.error = payload.decode(errors="replace")
                        case Kind.EXIT:
                            return int(payload) & 0xFF
        raise Unreachable("the connection broke off before the command had ended", remedy="miniorch doctor")

    async def send(self, kind: Kind, payload: bytes = b"") -> None:
        await self._exchange.send(pack(kind, payload))

    async def resize(self) -> None:
        with suppress(OSError):
            await self.send(Kind.RESIZE, SIZE.pack(*_size()))

    def _read_input(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread, because not all that input can come from can be waited for, and reading may never return."""
        with suppress(OSError, RuntimeError):  # RuntimeError: the loop is closed, nobody listens any more
            while True:
                data = os.read(0, CHUNK_BYTES)
                loop.call_soon_threadsafe(self._input.put_nowait, data)
                if not data:
                    return
                self._sent.acquire()

    async def _hand_over(self) -> None:
        """Input goes as fast as there is room inside for it; what cannot be sent is nobody's complaint."""
        with suppress(OSError):
            while data := await self._input.get():
                while self._room < len(data):
                    self._more_room.clear()
                    await self._more_room.wait()
                self._room -= len(data)
                await self.send(Kind.STDIN, data)
                self._sent.release()
            await self.send(Kind.STDIN_END)


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


def _on_signals(resize: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    """Tell of changes of the window's size; let SIGTERM and SIGHUP end us in order, so that all is set back."""

    def end(number: int) -> None:
        raise SystemExit(128 + number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    if resize is not None:
        loop.add_signal_handler(signal.SIGWINCH, lambda: asyncio.ensure_future(resize()))
