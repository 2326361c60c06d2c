"""A terminal over a byte stream: how `exec` speaks, from the command line to the agent.

The problem: one connection must carry input, output, errors, the size of a window and an exit code, both ways at once,
and neither side may ever have to keep more than it wants to. The idea: frames. Each is one byte for its kind, four for
its length and then its bytes. Whoever sends input may be at most `WINDOW_BYTES` ahead of what the process has `TAKEN`,
so everybody between the two can always go on reading, and notices at once when the other end hangs up. Output needs
no window: a slow reader stops the sockets in between, and they stop the process.

Who does this for real: SSH's channels (RFC 4254) have the same frames and the same window. Docker's own stream has
frames for output only. Next file: `miniorch/exchange.py`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from miniorch.errors import UsageError

HEAD = struct.Struct("!BI")
SIZE = struct.Struct("!HH")  # rows, columns
WINDOW_BYTES = 256 * 1024
CHUNK_BYTES = 32 * 1024
LONGEST = 1024 * 1024


class Kind(IntEnum):
    """What a frame carries."""

    START = 0  # to the agent: a `Command` as JSON; always the first
    STDIN = 1
    STDIN_END = 2
    RESIZE = 3  # `SIZE`
    STARTED = 4  # from the agent: it runs
    STDOUT = 5  # with a terminal: everything
    STDERR = 6
    TAKEN = 7  # the number of bytes of input that have reached the process
    ERROR = 8  # one line for a person; EXIT follows
    EXIT = 9  # the exit code, always the last


Frame = tuple[Kind, bytes]


@dataclass(frozen=True, slots=True)
class Command:
    """What to run inside a container."""

    command: tuple[str, ...]
    tty: bool = False
    stdin: bool = False  # False: its input is empty
    rows: int = 0
    columns: int = 0
    user: str = ""
    workdir: str = ""


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEAD.pack(kind, len(payload)) + payload


class Unpacker:
    """Bytes as they come, in pieces of any size, to frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises `UsageError` for what cannot be frames."""
        self._rest += data
        while len(self._rest) >= HEAD.size:
            kind, length = HEAD.unpack_from(self._rest)
            if kind > max(Kind) or length > LONGEST:
                raise UsageError("what came over the connection is no frame of exec")
            if len(self._rest) < HEAD.size + length:
                return
            payload = bytes(self._rest[HEAD.size : HEAD.size + length])
            del self._rest[: HEAD.size + length]
            yield Kind(kind), payload
