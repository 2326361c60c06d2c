"""Does a published port truly answer? Asked the way a visitor would: connect, and ask for a page.

HAProxy accepts a connection even when no task is behind it, and closes it at once. So an open port proves nothing; an
answer, or a connection that stays open, does. Any HTTP status below 500 is an answer: a login page is a 401.
"""

from __future__ import annotations

import re
import socket

SILENCE_SECONDS = 2.0


def knock(port: int, host: str = "127.0.0.1") -> str:
    """ "" when the port answers, else what happened, in a few words."""
    try:
        with socket.create_connection((host, port), timeout=SILENCE_SECONDS) as wire:
            request = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: miniorch\r\nConnection: close\r\n\r\n"
            wire.sendall(request.encode())
            try:
                first = _first_bytes(wire)
            except TimeoutError:
                return ""  # open and silent: not HTTP, or slow
    except TimeoutError:
        return "no connection in time"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if not first:
        return "the connection was closed without an answer"
    status = re.match(rb"HTTP/1\.[01] (\d{3})", first)
    if status and int(status[1]) >= 500:
        return f"it answers with HTTP status {int(status[1])}"
    return ""


def _first_bytes(wire: socket.socket) -> bytes:
    found = b""
    while len(found) < 12:
        part = wire.recv(64)
        if not part:
            break
        found += part
    return found
