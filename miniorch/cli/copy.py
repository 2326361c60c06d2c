"""`cp`: files into a container and out of it, as `docker cp` and `cp -r` do it.

The problem: what comes out of a container is a tar archive that somebody else's program has made; unpacked without
care it writes wherever it likes, through `..`, absolute names and links. The idea: nothing is written but below the
target: a name must stay inside, the folder that it goes to must really be there and not behind a link, and a link must
lead to something inside. What does not fit is left out, and said. (Python's own `data` filter does about this, and
comes only with later releases of Python 3.11.)

Where it goes: onto a file that exists, into a folder that exists, else it gets that name. `FOLDER/.` means what is in
it. `-` is a tar archive, which also makes copies from task to task.
"""

import http.client
import os
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from miniorch.cli.ask import Server
from miniorch.cli.output import BROKEN_PIPE, detaching
from miniorch.contexts import transport_now
from miniorch.errors import Conflict, MiniorchError, NotAllowed, NotFound, Unreachable, UsageError

PIECE = 64 * 1024
COPY_SECONDS = 600.0  # without a sign of life


def cp(source: str, target: str) -> None:
    """Copy between this machine and a task; exactly one of the two is NAME:PATH. Raises what went wrong."""
    there, here = _inside(source), _inside(target)
    if there and here:
        message = (
            "both are NAME:PATH; from task to task goes by way of a pipe, and a file here with a colon is ./NAME:PATH"
        )
        piped = f"miniorch cp {source} - | miniorch cp - {target}"
        mend = f"miniorch cp ./{source} {target}" if os.path.lexists(source) else piped
        raise UsageError(f"{message}./NAME:PATH", remedy=mend)
    if not (there or here) or not (source and target):
        message = "one of the two must be in a task (NAME:PATH), the other here; this folder is ."
        raise UsageError(message, remedy="miniorch cp dockchat/web.1:/etc/hosts .")
    part = "the archive" if target == "-" else target
    try:
        with detaching(f"interrupted; {part} may lack a part: the same again copies all of it"):
            if there:
                _fetch(Place(*there), target)
            elif here:
                _bring(source, Place(*here))
    except PermissionError as error:
        raise NotAllowed(f"may not touch {error.filename}", remedy="use sudo, or another folder") from None
    except (tarfile.TarError, http.client.HTTPException, ConnectionError) as error:
        raise Unreachable(f"the copy broke off ({error})", remedy="miniorch up, then the same again") from None
    except OSError as error:
        reason = f"{(error.strerror or str(error)).lower()}{f': {error.filename}' if error.filename else ''}"
        raise MiniorchError(f"the copy broke off: {reason}", remedy="mend that, then the same again") from None


def _inside(text: str) -> tuple[str, str] | None:
    """NAME and PATH; None for something here. `./a:b` is a file here whose name has a colon."""
    name, colon, path = text.partition(":")
    return (name, path or "/") if colon and name and text[0] not in "./-" else None


class Place:
    """A path in a task's container."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path if path.startswith("/") else f"/{path}"
        self._transport = transport_now(timeout_seconds=COPY_SECONDS)
        tasks = Server(self._transport, last_known=True).resolve(name).tasks
        kept = [task for task in tasks if task.status.container_id]
        if not kept:
            raise Conflict(f"{name} has no container", remedy=f"miniorch explain {name}")
        self.task = next((task for task in kept if task.live), kept[-1])

    def url(self, what: str, path: str) -> str:
        return f"/v1/tasks/{self.task.id}/{what}?path={quote(path, safe='')}"

    def find(self, path: str) -> Any:
        """Where it is and whether it is a folder; a link is followed. None for what is not there."""
        found = self._seen(path)
        if found and found["link"]:
            path, found = found["link"], self._seen(found["link"])
        return found and {"path": path, **found}

    def _seen(self, path: str) -> Any:
        try:
            return self._transport.request_now("GET", self.url("stat", path))
        except NotFound as error:
            if "in the container" in error.message:
                return None
            raise

    def missing(self, path: str) -> NotFound:
        """The error to raise for what was not found."""
        seen = (self._seen(path) or {}).get("link") or path
        leads = "" if seen == path else f" is a link to {seen}, which"
        if self.in_memory(seen):
            message = f"{path}{leads} is not on {self.name}'s disk, and cp sees nothing else"
            return NotFound(message, remedy=f"miniorch exec {self.name} -- cat {path}")
        message = f"{path}{leads} is not there" if leads else f"there is no {path} in {self.name}"
        folder = os.path.dirname(path.rstrip("/")) or "/"
        return NotFound(message, remedy=f"miniorch exec {self.name} -- ls -la {folder}")

    def in_memory(self, path: str) -> bool:
        """Whether a path belongs to the kernel, or to a tmpfs: Docker copies past them, to and from what lies below."""
        places = ("/proc", "/sys", "/dev", *self.task.spec.options.tmpfs)
        return any(os.path.normpath(f"{path}/").startswith(f"{place.rstrip('/')}/") for place in places)

    def read(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._transport.open("GET", self.url("archive", path))[1])

    def write(self, path: str, tar: Iterator[bytes]) -> None:
        connection, response = self._transport.open("PUT", self.url("archive", path), tar)
        response.read()
        connection.close()


# ---- out of a container ----


def _fetch(place: Place, target: str) -> None:
    contents = place.path.endswith("/.")
    path = place.path.removesuffix(".")
    found = place.find(path)
    if found is None:
        raise place.missing(path)
    archive = place.read(found["path"])
    if target == "-":
        if sys.stdout.isatty():
            remedy = f"miniorch cp {place.name}:{place.path} - | tar -t"
            raise UsageError("a tar archive does not belong on a terminal", remedy=remedy)
        try:
            shutil.copyfileobj(archive, sys.stdout.buffer)
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(BROKEN_PIPE)  # nobody reads on, and the buffer must not be tried again
        return
    base = _base(target, os.path.basename(place.path.rstrip("/")), contents=contents, folder=found["folder"])
    if left_out := extract(archive, base):
        names = f"{', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}"
        message = f"all but {len(left_out)} entries were copied; these lead out of the folder, or are no files: {names}"
        raise MiniorchError(message, remedy=f"miniorch cp {place.name}:{place.path} - > all.tar")


def _base(target: str, name: str, *, contents: bool, folder: bool) -> Path:
    """What the copied file or folder will be called here."""
    path = Path(target)
    if path.is_dir():
        base = path if contents else path / name
    else:
        base = path.resolve() if path.is_symlink() else path  # a link that was named is followed, as cp does
        if target.endswith("/") and not folder:
            raise NotFound(f"there is no folder {target} here", remedy=f"mkdir -p {target}")
        if not base.absolute().parent.is_dir():
            raise NotFound(f"there is no folder {base.parent} here", remedy=f"mkdir -p {base.parent}")
    if _special(base):
        raise UsageError(f"{base} is no file and no folder: it is left alone", remedy="name another target")
    if os.path.lexists(base) and base.is_dir() != folder:
        here, there = ("folder", "file") if base.is_dir() else ("file", "folder")
        raise UsageError(f"{base} is a {here} here, and a {there} there", remedy="name another target")
    return base


def _special(path: Path) -> bool:
    """A device, FIFO or socket: nothing that a copy may take the place of."""
    return path.exists() and not path.is_symlink() and not (path.is_file() or path.is_dir())


def extract(archive: BinaryIO, base: Path) -> list[str]:
    """Unpack a tar stream whose first entry becomes `base`; the names of what was left out."""
    left_out = []
    with tarfile.open(fileobj=archive, mode="r|") as reading:
        for member in reading:
            relative = _below(member.name)
            place = base / relative if relative else base
            if not (_stays_inside(place, base) and _unpack(reading, member, place, base)):
                left_out.append(member.name)
    return left_out


def _below(name: str) -> str:
    """An archived name without that of the first entry, which is / when all of a container is copied."""
    return (name.lstrip("/") if name.startswith("/") else name.partition("/")[2]).rstrip("/")


def _stays_inside(place: Path, base: Path) -> bool:
    """Whether a name and the real folder that it would be written to are within `base`."""
    if place == base:
        return True
    return ".." not in place.relative_to(base).parts and _within(place.parent, base)


def _within(path: Path, base: Path) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(base)
    return real == root or real.startswith(f"{root}/")


def _unpack(reading: tarfile.TarFile, member: tarfile.TarInfo, place: Path, base: Path) -> bool:
    if _special(place):
        return False
    if member.isdir():
        if place.is_symlink() and place != base:
            return False
        place.mkdir(exist_ok=True)
        place.chmod(member.mode & 0o755 | 0o700)
        return True
    place.parent.mkdir(parents=True, exist_ok=True)
    linked = base / _below(member.linkname)
    if member.issym() and not (os.path.isabs(member.linkname) or not _within(place.parent / member.linkname, base)):
        place.unlink(missing_ok=True)
        place.symlink_to(member.linkname)
        return True
    if member.islnk() and _stays_inside(linked, base) and linked.is_file() and not linked.is_symlink():
        place.unlink(missing_ok=True)
        os.link(linked, place)
        return True
    content = reading.extractfile(member) if member.isreg() else None
    if content is None:
        return False
    if place.is_symlink():
        place.unlink()
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, PIECE)
        os.fchmod(descriptor, member.mode & 0o755 | 0o600)
    os.utime(place, (member.mtime, member.mtime))
    return True


# ---- into a container ----


def _bring(source: str, place: Place) -> None:
    if place.in_memory(place.path):
        message = f"{place.path} is not on {place.name}'s disk, and cp writes nowhere else"
        raise UsageError(message, remedy=f"miniorch exec -i {place.name} -- sh -c 'cat > {place.path}' < FILE")
    if source == "-":
        if sys.stdin.isatty():
            remedy = f"tar -c FOLDER | miniorch cp - {place.name}:/tmp"
            raise UsageError("a tar archive does not come from a terminal", remedy=remedy)
        try:
            place.write(_folder(place, place.path), iter(lambda: os.read(0, PIECE), b""))
        except MiniorchError as error:
            error.remedy = error.remedy or "tar -t < ARCHIVE, which says what is wrong with it"
            raise
        return
    if not os.path.lexists(source):
        raise NotFound(f"there is no {source} here", remedy=f"ls {os.path.dirname(source) or '.'}")
    contents = os.path.basename(source) == "."
    folder, name = _destination(place, Path(source).absolute(), contents=contents)
    place.write(folder, archived(Path(source), name, contents=contents))


def _destination(place: Place, source: Path, *, contents: bool) -> tuple[str, str]:
    """The folder inside that is unpacked in, and what the copy is called there."""
    found = place.find(place.path)
    if found and found["folder"]:
        return found["path"], "." if contents else source.name
    if found and source.is_dir():
        message = f"{place.path} is a file in {place.name}, and {source} a folder here"
        raise UsageError(message, remedy="name another target")
    path = (found["path"] if found else place.path).rstrip("/")
    parent, _, name = path.rpartition("/")
    if not found:
        _folder(place, path if place.path.endswith("/") and not source.is_dir() else parent or "/")
    return parent or "/", name


def _folder(place: Place, path: str) -> str:
    """Where a folder inside really is. Raises `NotFound`."""
    found = place.find(path)
    if not (found and found["folder"]):
        remedy = f"miniorch exec {place.name} -- mkdir -p {path}"
        raise NotFound(f"there is no folder {path} in {place.name}", remedy=remedy)
    return str(found["path"])


def archived(source: Path, name: str, *, contents: bool) -> Iterator[bytes]:
    """A file or folder as a tar stream; with `contents` what is in it, below `name`. Everything belongs to root."""
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def belongs_to_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    def write() -> None:
        try:
            with open(writing, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
                for entry in sorted(source.iterdir()) if contents else [source]:
                    tar.add(entry, f"{name}/{entry.name}" if contents else name, filter=belongs_to_root)
        except BrokenPipeError:
            pass  # whoever reads has given up, and says why
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=write, name="tar", daemon=True)
    thread.start()
    with open(reading, "rb") as pipe:
        while piece := pipe.read1(PIECE):
            yield piece
    thread.join()
    if failure:
        raise failure[0]  # before the end is sent: what is cut off is not unpacked as complete
