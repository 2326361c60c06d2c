"""A TLS connection for two threads: one reads while the other writes.

The problem: `exec` writes what is typed while it reads what is printed, in two threads, and one TLS connection must not
be touched by two threads at once: reading may have to write, and OpenSSL has no lock. The idea: a third thread has the
TLS connection for itself, and hands on the bytes of both directions between it and a plain pair of sockets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

PIECE = 64 * 1024


def relayed(secure: ssl.SSLSocket) -> socket.socket:
    """The plain end of a connection whose other end speaks TLS. Closing it closes both."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_relay, args=(theirs, secure), name="relay", daemon=True).start()
    return ours


def _relay(plain: socket.socket, secure: ssl.SSLSocket) -> None:
    """Until one side ends."""
    ready = select.poll()
    for wire in (plain, secure):
        ready.register(wire, select.POLLIN)
    with plain, secure, contextlib.suppress(OSError):
        while True:
            for descriptor, _ in ready.poll():
                if descriptor == plain.fileno():
                    if not (data := plain.recv(PIECE)):
                        return
                    secure.settimeout(None)
                    secure.sendall(data)
                elif not _received(plain, secure):
                    return


def _received(plain: socket.socket, secure: ssl.SSLSocket) -> bool:
    """Hand on all that has come over TLS; False at its end. What has come may be nothing but a part of a record."""
    import ssl

    secure.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):
        while data := secure.recv(PIECE):
            plain.sendall(data)
        return False
    return True
