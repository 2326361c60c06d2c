"""Which cluster a command speaks to: this machine's, the lab's, or one far away.

A context is a folder with the same files as a machine's state directory (`identity.py`): whom to trust, who we are,
where the servers are. So a laptop is to the code just another machine, with a user's role in its certificate.

    MINIORCH_CONTEXT, else (unless MINIORCH_RUN_DIR says where to ask) what `miniorch context use` has chosen,
    else the lab while it is up, else this machine. The name `local` means this machine.

Who does this for real: `docker context`, kubectl's contexts. Next file: `miniorch/cli/context.py`.
"""

import os
from pathlib import Path

from miniorch.client import (
    API_SOCKET,
    READ_TIMEOUT_SECONDS,
    STATE_DIRECTORY,
    HttpTransport,
    UnixTransport,
    one_transport,
)
from miniorch.errors import NotFound, UsageError
from miniorch.identity import servers_of

LOCAL_NAME = "local"
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


def lab_socket() -> str:
    """Where the cluster of this machine's lab listens while it is up; "" without one, or when told where to ask."""
    name = os.environ.get("MINIORCH_LAB", "lab")
    try:
        own = "MINIORCH_RUN_DIR" in os.environ or "/" in name
        return "" if own else Path(f"/run/miniorch-lab{f'-{name}' * (name != 'lab')}/current").read_text().strip()
    except OSError:
        return ""


def elsewhere() -> bool:
    """Whether commands speak to a cluster whose processes are not this machine's to start."""
    return chosen_folder() is not None or (chosen() != LOCAL_NAME and bool(lab_socket()))


def transport_now(
    folder: Path = Path(STATE_DIRECTORY), timeout_seconds: float | None = READ_TIMEOUT_SECONDS
) -> HttpTransport:
    """For blocking use: to the chosen context's server, the lab's, the first that `folder`'s files name, or our own."""
    if context := chosen_folder():
        return one_transport(servers_of(context)[0], context, timeout_seconds)
    if chosen() != LOCAL_NAME and (lab := lab_socket()):
        transport = UnixTransport(lab, timeout_seconds)
        transport.remedy = "miniorch lab ls"
        return transport
    return one_transport((servers_of(folder) or [API_SOCKET])[0], folder, timeout_seconds)
