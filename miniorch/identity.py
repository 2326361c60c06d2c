"""Who this machine is: its key, its certificate, and how it speaks TLS.

The problem: between machines, an address proves nothing. The idea: every machine keeps a private key that never leaves
it, and a certificate in which the cluster's authority says whose key it is: the node's name (CN), its role (OU) and the
cluster's id (O). Whoever opens a connection checks the other side's certificate and reads these three from it; no
request may claim a name in its path or body that its certificate does not have. Host names and addresses are not
compared, the role is: a manager may be reached under any address, and no worker can pose as one.

The files lie in the state directory of a machine. A user's context (`miniorch context`) is a folder with the same.

    authority.crt   what is trusted      identity.key, identity.crt   who we are
    servers         https://ADDRESS:7440, one a line: on a worker all managers, on a manager the others

A machine that was never told `init` or `join` has none of the last three, and nothing of ours listens on TCP there.

Who does this for real: swarmkit's `ca/` (names and roles in the same three fields). Next file: `certificates.py`, where
keys, requests and certificates are made and read; this one is imported by every command and must cost nothing.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniorch.errors import NotAllowed

if TYPE_CHECKING:
    import ssl

SERVER_PORT, AGENT_PORT = 7440, 7441
NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
AUTHORITY_KEY_FILE = "authority.key"  # on managers
AUTHORITY_FILE, KEY_FILE, CERTIFICATE_FILE, SERVERS_FILE = "authority.crt", "identity.key", "identity.crt", "servers"
ADVERTISE_FILE = "advertise"  # of `init`: name and address of a manager to be, until its server has read them


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the connection proves it. What the request itself says of this is never believed."""

    name: str = ""
    role: str = ""  # the certificate's; "admin" on a machine's own socket; "" for whoever has shown nothing
    via: str = ""  # "socket", "tls"
    address: str = ""  # where the connection comes from
    key: str = ""  # digest of the public key
    until: float = float("inf")  # when the certificate ends


LOCAL = Caller(role="admin", via="socket")


def has_identity(folder: Path) -> bool:
    """Whether a machine (or a context) has a certificate: it was told `init` or `join`."""
    return (folder / CERTIFICATE_FILE).exists() and (folder / KEY_FILE).exists()


def check_certificate(folder: Path) -> None:
    """Raises `NotAllowed` when the certificate in a folder has ended, with what renews it."""
    from miniorch.certificates import USERS, own_certificate
    from miniorch.clock import SystemClock

    own = own_certificate(folder)
    if own.until < (now := SystemClock().now()):
        renew = "miniorch join with a token: miniorch token show, on a manager"
        if own.role in USERS:
            renew = f"on a manager: miniorch context revoke {own.name}; miniorch context create {own.name}"
        elif not is_worker(folder):
            renew = "miniorch up: a manager renews its own"
        raise NotAllowed(
            f"the certificate of {own.name} has ended {(now - own.until) / 86400:.1f} days ago", remedy=renew
        )


def is_worker(folder: Path) -> bool:
    """Whether this machine has no server of its own."""
    return bool(servers_of(folder)) and not (folder / AUTHORITY_KEY_FILE).exists()


def server_url(address: str) -> str:
    """Where the server of a manager listens."""
    return f"https://{f'[{address}]' if ':' in address else address}:{SERVER_PORT}"


def servers_of(folder: Path) -> list[str]:
    """Where servers on other machines are: the lines of `servers`. Agents keep them up to date."""
    try:
        return (folder / SERVERS_FILE).read_text().split()
    except FileNotFoundError:
        return []


def server_context(folder: Path) -> ssl.SSLContext:
    """For a listener: TLS 1.3; whoever shows a certificate must have it from our authority. That there is one, whose it
    is and what it may do is asked at each request (`api/access.py`), because a machine that joins has none yet.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # every connection shows its certificate anew
    written = [_written(folder)]

    def renewed(*_: object) -> None:
        if _written(folder) != written[0]:
            written[0] = _written(folder)
            reload_certificate(context, folder)

    context.sni_callback = renewed  # at each handshake; the one after this shows what was renewed
    return _prepared(context, folder)


def client_context(folder: Path) -> ssl.SSLContext:
    """For a connection: TLS 1.3, the other side has a certificate of our authority, and we show ours if we have one.

    Who the other side is, is for the caller to check (`peer`). One context serves until the certificate is renewed.
    """
    return _client_context(folder, _written(folder))


@functools.lru_cache(4)
def _client_context(folder: Path, written: int) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return _prepared(context, folder)


def _prepared(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(str(folder / AUTHORITY_FILE))
    if has_identity(folder):
        reload_certificate(context, folder)
    return context


def reload_certificate(context: ssl.SSLContext, folder: Path) -> None:
    """Show the certificate that now lies in the folder, from the next handshake on. Connections go on."""
    context.load_cert_chain(str(folder / CERTIFICATE_FILE), str(folder / KEY_FILE))


def _written(folder: Path) -> int:
    """When the certificate was put there; 0 if there is none. (An `mtime` in nanoseconds: only compared.)"""
    try:
        return (folder / CERTIFICATE_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def peer(certificate: Any) -> tuple[str, str]:
    """Name and role in the other side's certificate, as the standard library reads it (`getpeercert`); "" without."""
    parts = dict(part for name in (certificate or {}).get("subject", ()) for part in name)
    return str(parts.get("commonName", "")), str(parts.get("organizationalUnitName", ""))
