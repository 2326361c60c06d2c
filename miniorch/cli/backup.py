"""`backup` and `restore`: the whole state as one encrypted file, and back.

A backup is asked of the server, as everything else. A restore is the one command that opens the store itself: there is
no server yet that could be asked.
"""

import asyncio
import getpass
import os
import sys
from pathlib import Path

from miniorch.authority import Authority, write_private
from miniorch.cli.ask import Server
from miniorch.cli.output import Answer, confirm, done
from miniorch.clock import SystemClock
from miniorch.codec import from_plain
from miniorch.errors import Conflict, MiniorchError, NotAllowed, UsageError
from miniorch.state.backup import NOISE_BYTES, Content, head_of, restored, seal, unseal
from miniorch.transport import STATE_DIRECTORY
from miniorch.up import Machine

VARIABLE = "MINIORCH_PASSPHRASE"


def backup(file: str, passphrase_file: str, *, no_input: bool, quiet: bool) -> Answer:
    path = Path(file)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{file} is {'a folder' if path.is_dir() else 'in no folder that exists'}", remedy=AGAIN)
    passphrase = _passphrase("backup", passphrase_file, ask=not no_input, twice=True)
    content = from_plain(Content, Server().transport.request_now("GET", "/v1/backup"))
    sealed = seal(content, passphrase, SystemClock().now(), os.urandom(NOISE_BYTES))
    try:
        write_private(path, sealed)
    except OSError as error:
        raise _unusable("write", file, error) from None
    words = f"{file}: {len(content.entries)} objects at revision {content.revision}, {len(sealed)} bytes, encrypted"
    words += "" if quiet else "\nthe data in volumes is not in it, nor are events"
    return done(words, outcome="saved", file=file, objects=len(content.entries), revision=content.revision)


def restore(file: str, store: str, passphrase_file: str, *, force: bool, yes: bool, no_input: bool) -> Answer:
    folder = Path(STATE_DIRECTORY)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise _unusable("read", file, error) from None
    head = head_of(data)
    url = store or Machine(lambda _: None).store or f"sqlite://{folder.absolute()}/state.db"
    if url.lower().startswith("memory:"):
        elsewhere = f"miniorch restore {file} --store sqlite:///path, or etcd://host:port"
        raise UsageError(f"{url} forgets what is restored into it when this command ends", remedy=elsewhere)
    if os.geteuid() != 0 and not os.access(folder, os.W_OK):
        raise NotAllowed(f"only root may write to {folder}", remedy=f"sudo miniorch restore {file}")
    content = unseal(data, _passphrase("restore", passphrase_file, ask=not no_input, twice=False))
    if force:
        confirm("Everything in the store will be replaced by the backup. Go on?", yes=yes, no_input=no_input)
    elif Authority.load(folder) not in (None, content.authority):
        raise Conflict(f"{folder} holds the authority of another cluster", remedy=f"miniorch restore {file} --force")
    now = SystemClock().now()
    asyncio.run(restored(url, content, now, force=force))
    content.authority.save(folder)
    age = f"{(now - head['made_at']) / 3600:.1f} h old" if isinstance(head.get("made_at"), float) else "of unknown age"
    words = f"{len(content.entries)} objects of cluster {content.cluster} restored; the backup is {age}"
    then = f"miniorch up --store {store}" if store else "miniorch up"
    return done(words, then, outcome="restored", cluster=content.cluster, objects=len(content.entries))


AGAIN = "miniorch backup cluster.backup"


def _passphrase(command: str, file: str, *, ask: bool, twice: bool) -> str:
    """From the file, the environment or a person. Raises `UsageError` where there is none."""
    if file:
        try:
            lines = Path(file).read_text().splitlines()
        except (OSError, ValueError) as error:
            raise _unusable("read", file, error) from None
        given = lines[0] if lines else ""
    elif VARIABLE in os.environ:
        given = os.environ[VARIABLE]
    elif ask and sys.stdin.isatty():
        given = getpass.getpass("passphrase of the backup: ")
        if twice and given != getpass.getpass("the same again: "):
            raise UsageError("the two were not the same; nothing was done", remedy=f"miniorch {command}, again")
    else:
        given = ""
    if not given:
        raise UsageError(
            "a backup holds the key of the cluster's authority, so it is encrypted and needs a passphrase",
            remedy=f"miniorch {command} FILE --passphrase-file PATH, or {VARIABLE}=... in the environment",
        )
    return given


def _unusable(verb: str, file: str, error: Exception) -> MiniorchError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    kind = NotAllowed if isinstance(error, PermissionError) else UsageError
    return kind(f"cannot {verb} {file}: {why}", remedy=f"ls -l {file}" if verb == "read" else AGAIN)
