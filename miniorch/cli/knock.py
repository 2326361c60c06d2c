"""Does a published port truly answer? Asked the way a visitor would: connect, and ask for a page.

HAProxy accepts a connection even when nobody is behind it, tries for three seconds, and closes it. So an open port
proves nothing; an answer, or a connection that stays open for longer than that, does. Any HTTP status below 500 is an
answer: a login page is a 401. Some servers hang up on what they do not understand, as PostgreSQL does; so a connection
that was closed without a word gets a second chance, in which we say nothing.
"""

import re
import socket

SILENCE_SECONDS = 5.0  # HAProxy gives up on a task that refuses after its three retries, one second each


def knock(port: int, host: str = "127.0.0.1", silence_seconds: float = SILENCE_SECONDS) -> str:
    """ "" when the port answers, else what happened, in a few words."""
    request = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: miniorch\r\nConnection: close\r\n\r\n"
    said = _exchange(port, host, silence_seconds, request.encode())
    if said == CLOSED:
        return _exchange(port, host, silence_seconds, b"")
    return said


CLOSED = "the connection was closed without an answer"


def _exchange(port: int, host: str, silence_seconds: float, request: bytes) -> str:
    try:
        with socket.create_connection((host, port), timeout=silence_seconds) as wire:
            try:
                wire.sendall(request)
                first = wire.makefile("rb").read(12)
            except TimeoutError:
                return ""  # open and silent
            except (ConnectionResetError, BrokenPipeError):
                return CLOSED
    except TimeoutError:
        return "no connection in time"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    status = re.match(rb"HTTP/1\.[01] (\d{3})", first)
    if status and int(status[1]) >= 500:
        return f"it answers with HTTP status {int(status[1])}"
    return "" if first else CLOSED
