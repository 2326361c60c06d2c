"""`context`: this user's ways to clusters, and certificates for users.

`create` runs where an administrator is, on a manager, and prints one file with everything in it; `add` takes it in on
the laptop. Whoever has that file is that user until it is revoked or its time is over, so it is a secret.
"""

import json as jsonlib
import shutil
import sys
from pathlib import Path
from typing import Any

from miniorch.authority import write_private
from miniorch.certificates import new_key, own_certificate, read_certificate, request_for
from miniorch.cli.cluster import seconds_of
from miniorch.cli.output import Answer, ago, as_json, did_you_mean, done, table
from miniorch.clock import SystemClock
from miniorch.contexts import LOCAL_NAME, chosen, folder_of, home, known, lab_sockets, note_renewal, transport_now
from miniorch.errors import Conflict, NotFound, UsageError
from miniorch.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, SERVERS_FILE, server_url, servers_of

FILES = {"authority": AUTHORITY_FILE, "certificate": CERTIFICATE_FILE, "key": KEY_FILE}
MAX_BYTES = 1 << 20


def create(name: str, role: str, ttl: str) -> None:
    """Print a context as one JSON object."""
    transport, key = transport_now(), new_key()
    nodes = transport.request_now("GET", "/v1/nodes")["items"]
    addresses = [one["address"] for one in nodes if one["role"] == "manager" and one.get("address")]
    if not addresses:
        raise Conflict("this cluster cannot be reached from other machines", remedy="miniorch init")
    said = {"request": request_for(key), "name": name, "role": role, "ttl_seconds": seconds_of(ttl)}
    answer = transport.request_now("POST", "/v1/certificates", said)
    servers = [server_url(one) for one in addresses]
    as_json({"context": name, "role": role, "servers": servers, "key": key,
             "certificate": answer["certificate"], "authority": answer["authority"]})  # fmt: skip
    print(f"this is a key to the cluster: keep it to yourself. On the laptop: miniorch context add FILE. "
          f"To take it back: miniorch context revoke {name}", file=sys.stderr)  # fmt: skip


def add(file: str, name: str) -> Answer:
    """Take in what `create` printed, and use it."""
    try:
        text = sys.stdin.read(MAX_BYTES) if file == "-" else Path(file).read_text()[:MAX_BYTES]
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {error}", remedy=f"ls -l {file}") from None
    try:
        said = jsonlib.loads(text)
        parts = {file: str(said[part]).encode() for part, file in FILES.items()}
        read_certificate(parts[CERTIFICATE_FILE])
        servers = [str(one) for one in said["servers"] if str(one).startswith("https://")]
        name = name or str(said["context"])
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{file} is no context", remedy="miniorch context create NAME > FILE, on a manager") from None
    folder = folder_of(name)
    if name == LOCAL_NAME or folder.exists():
        raise Conflict(f"there is a context {name} already", remedy=f"miniorch context rm {name}, or add --name OTHER")
    folder.mkdir(mode=0o700, parents=True)
    for one, data in parts.items():
        write_private(folder / one, data)
    write_private(folder / SERVERS_FILE, "\n".join([*servers, ""]).encode())
    note_renewal(folder)
    return use(name)


def use(name: str) -> Answer:
    _must_exist(name)
    if name == LOCAL_NAME:
        (home() / "current").unlink(missing_ok=True)
    else:
        write_private(home() / "current", f"{name}\n".encode())
    return done(f"commands now speak to {name}", outcome="used", context=name)


def ls() -> Answer:
    now, current = SystemClock().now(), chosen() or LOCAL_NAME
    rows = [{"name": LOCAL_NAME, "current": current == LOCAL_NAME, "role": "admin", "servers": [], "until": 0.0}]
    for name in known():
        own = own_certificate(folder_of(name))
        rows.append({"name": name, "current": name == current, "role": own.role,
                     "servers": servers_of(folder_of(name)), "until": own.until})  # fmt: skip
    return Answer(rows, table([_cells(row, now) for row in rows]))


def _cells(row: dict[str, Any], now: float) -> dict[str, str]:
    left = ago(row["until"] - now) if row["until"] > now else "ended" if row["until"] else "-"
    here = "this machine's lab" if lab_sockets() and chosen() != LOCAL_NAME else "this machine"
    servers = ", ".join(row["servers"]) or here
    return {"CURRENT": "*" if row["current"] else "-", "NAME": row["name"], "ROLE": row["role"], "SERVERS": servers,
            "CERTIFICATE": left}  # fmt: skip


def rm(name: str) -> Answer:
    """Forget a context here. Its certificate goes on to be good for whoever has a copy."""
    _must_exist(name)
    if name == LOCAL_NAME:
        raise UsageError("this machine cannot be removed from itself", remedy="miniorch context ls")
    if chosen() == name:
        (home() / "current").unlink(missing_ok=True)
    shutil.rmtree(folder_of(name))
    words = f"{name} is forgotten here; miniorch context revoke on a manager makes it worthless"
    return done(words, outcome="removed", context=name)


def revoke(name: str) -> Answer:
    """On a manager: this user's certificate is refused from the next request on."""
    transport_now().request_now("DELETE", f"/v1/certificates/{name}")
    return done(f"the certificate of {name} is refused from now on", outcome="revoked", context=name)


def _must_exist(name: str) -> None:
    if name != LOCAL_NAME and not servers_of(folder_of(name)):
        names = [LOCAL_NAME, *known()]
        raise NotFound(f"there is no context {name}{did_you_mean(name, names)}", remedy="miniorch context ls")
