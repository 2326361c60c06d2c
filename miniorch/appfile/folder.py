"""The digest of a build's folder: another file, another image, and the same files, the same image.

The problem: "has anything changed?" must be answered before a build, or every `run` would build, or none. The idea: a
hash over everything that goes into the image: relative paths, modes, contents, the Dockerfile's name, the arguments.
Times are left out, so that a fresh clone is the same folder. `.git` and what `.dockerignore` names do not count; which
files that leaves is asked of the very function of Docker's SDK by which the agent chooses what it sends to Docker.

Who does this for real: Bazel and Nix name every output by its inputs. Docker's own cache asks the same question, but
only after it was sent all files.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def digest(context: Path, dockerfile: str, arguments: Mapping[str, str]) -> str:
    """64 hexadecimal digits. Raises OSError when a file cannot be read."""
    total = hashlib.sha256()
    for relative, path in _files(context, dockerfile):
        status = path.lstat()
        total.update(f"{relative}\0{status.st_mode:o}\0".encode(errors="surrogateescape"))
        if path.is_symlink():
            total.update(os.readlink(path).encode(errors="surrogateescape"))
        elif path.is_file():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        total.update(b"\0")
    total.update(f"{dockerfile}\0{sorted(arguments.items())}".encode())
    return total.hexdigest()


def _files(context: Path, dockerfile: str) -> Iterator[tuple[str, Path]]:
    if not (context / ".dockerignore").is_file():
        found = {str(path.relative_to(context)) for path in context.rglob("*")}
    else:
        from docker.utils.build import exclude_paths  # needs a tenth of a second, and only these builds need it

        lines = (line.strip() for line in (context / ".dockerignore").read_text(errors="replace").splitlines())
        rules = [line for line in lines if line and not line.startswith("#")]
        found = exclude_paths(str(context), rules, os.path.normpath(dockerfile))
    for relative in sorted(found):
        path = context / relative
        if ".git" not in path.relative_to(context).parts and (path.is_symlink() or not path.is_dir()):
            yield relative, path
