"""Which cluster a command speaks to: this machine's, the lab's, or one far away.

A context is a folder with the same files as a machine's state directory (`identity.py`): whom to trust, who we are,
where the servers are. So a laptop is to the code just another machine, with a user's role in its certificate.

    MINIORCH_CONTEXT, else (unless MINIORCH_RUN_DIR says where to ask) what `miniorch context use` has chosen,
    else the lab while it is up, else this machine. The name `local` means this machine.

Who does this for real: `docker context`, kubectl's contexts. Next file: `miniorch/cli/context.py`.
"""

import contextlib
import os
from pathlib import Path

from miniorch.clock import SystemClock
from miniorch.errors import MiniorchError, NotFound, UsageError
from miniorch.identity import CERTIFICATE_FILE, KEY_FILE, is_worker, servers_of
from miniorch.transport import API_SOCKET, READ_TIMEOUT_SECONDS, STATE_DIRECTORY, HttpTransport

LOCAL_NAME = "local"
RENEW_FILE, RENEW_SHARE, RENEW_SECONDS = "renew", 2 / 3, 5.0
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def home() -> Path:
    """Where this user's contexts lie: a folder each, and the name of the current one in `current`."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "miniorch" / "contexts"


def folder_of(name: str) -> Path:
    """The folder of a context, whether or not it exists. Raises `UsageError` for what is no name."""
    if not name or name[0] == "." or len(name) > 60 or not LETTERS.issuperset(name) or name == "current":
        raise UsageError(f'"{name[:60]}" is no name for a context', remedy="miniorch context ls")
    return home() / name


def known() -> list[str]:
    """The names of this user's contexts."""
    return sorted(one.name for one in home().glob("*") if one.is_dir())


def chosen() -> str:
    """The name of the context that commands use now; "" for none: the lab or this machine."""
    if name := os.environ.get("MINIORCH_CONTEXT", ""):
        return name
    try:
        return "" if "MINIORCH_RUN_DIR" in os.environ else (home() / "current").read_text().strip()
    except OSError:
        return ""


def chosen_folder() -> Path | None:
    """The folder of the chosen context; None for this machine. Raises `NotFound` when it is not there any more."""
    name = chosen()
    if name in ("", LOCAL_NAME):
        return None
    folder = folder_of(name)
    if not servers_of(folder):
        raise NotFound(f"there is no context {name}", remedy="miniorch context ls; or unset MINIORCH_CONTEXT")
    return folder


def lab_sockets() -> list[str]:
    """Where the servers of this machine's lab listen while it is up; none without one, or when told where to ask."""
    try:
        return [] if "MINIORCH_RUN_DIR" in os.environ else Path("/run", _lab_tag(), "current").read_text().split()
    except OSError:
        return []


def _lab_tag() -> str:
    name = os.environ.get("MINIORCH_LAB", "lab").replace("/", "")
    return f"miniorch-lab{f'-{name}' * (name != 'lab')}"


def elsewhere() -> bool:
    """Whether commands speak to a cluster whose processes are not this machine's to start."""
    return chosen_folder() is not None or (chosen() != LOCAL_NAME and bool(lab_sockets()))


def transport_now(
    folder: Path = Path(STATE_DIRECTORY), timeout_seconds: float | None = READ_TIMEOUT_SECONDS
) -> HttpTransport:
    """For blocking use: to the chosen context's servers, the lab's, those that `folder`'s files name, or our own."""
    remedy = ""
    if context := chosen_folder():
        renew(context)
        folder, urls = context, servers_of(context)
    elif chosen() != LOCAL_NAME and (urls := lab_sockets()):
        remedy = "miniorch lab ls"
    else:
        urls = servers_of(folder) if is_worker(folder) else [API_SOCKET]
        told = {"MINIORCH_RUN_DIR", "MINIORCH_STATE_DIR"} & os.environ.keys()  # on a node of a lab, say
        if not told and Path("/var/lib", _lab_tag(), "lab.json").exists():
            remedy = "miniorch lab up for the lab, which is off; or miniorch up"
    found = HttpTransport(*urls, folder=folder, timeout_seconds=timeout_seconds)
    found.remedy = remedy or found.remedy
    return found


def renew(folder: Path) -> None:
    """Get a later end for a context's certificate when it is time, which a file says. In vain is no harm: next time.

    An administrator's word stands: what was given for less than a month is not renewed, and revoked is revoked.
    """
    try:
        if float((folder / RENEW_FILE).read_text()) > SystemClock().now():
            return
    except (OSError, ValueError):
        return
    from miniorch.authority import write_private
    from miniorch.certificates import request_for

    request = {"request": request_for((folder / KEY_FILE).read_text())}
    with contextlib.suppress(MiniorchError, OSError):
        transport = HttpTransport(*servers_of(folder), folder=folder, timeout_seconds=RENEW_SECONDS)
        answer = transport.request_now("POST", "/v1/renew", request)
        write_private(folder / CERTIFICATE_FILE, answer["certificate"].encode())
        note_renewal(folder)


def note_renewal(folder: Path) -> None:
    """Write down when a context's certificate is to be renewed, if at all: after two thirds of its life."""
    from miniorch.authority import write_private
    from miniorch.certificates import RENEWED_SECONDS, own_certificate

    own = own_certificate(folder)
    if own.until - own.since >= RENEWED_SECONDS:
        write_private(folder / RENEW_FILE, f"{own.since + (own.until - own.since) * RENEW_SHARE:.0f}\n".encode())
