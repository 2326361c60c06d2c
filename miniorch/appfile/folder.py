"""The digest of a build's folder: another file, another image, and the same files, the same image.

The problem: "has anything changed?" must be answered before a build, or every `run` would build, or none. The idea: a
hash over everything that goes into the image: relative paths, modes, contents, the Dockerfile's name, the arguments.
Times are left out, so that a fresh clone is the same folder. `.git` and what `.dockerignore` names do not count.

Who does this for real: Bazel and Nix name every output by its inputs. Docker's own cache asks the same question, but
only after it was sent all files.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path


def digest(context: Path, dockerfile: str, arguments: Mapping[str, str]) -> str:
    """64 hexadecimal digits. Raises OSError when a file cannot be read."""
    total = hashlib.sha256()
    kept = {".dockerignore", os.path.normpath(dockerfile)}
    for relative, path in sorted(_files(context, _ignored(context), kept)):
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


def _files(context: Path, rules: list[tuple[re.Pattern[str], bool]], kept: set[str]) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(context):
        folders[:] = [name for name in folders if name != ".git"]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            path = Path(folder) / name
            relative = path.relative_to(context).as_posix()
            if relative in kept or not _is_ignored(relative, rules):
                yield relative, path


def _ignored(context: Path) -> list[tuple[re.Pattern[str], bool]]:
    """The rules of `.dockerignore`: (pattern, whether it excludes). The last one that fits decides."""
    try:
        lines = (context / ".dockerignore").read_text(errors="replace").splitlines()
    except OSError:
        return []
    rules = []
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            excludes = not text.startswith("!")
            pattern = os.path.normpath(text.removeprefix("!").strip().lstrip("/"))
            rules.append((re.compile(_expression(pattern)), excludes))
    return rules


def _is_ignored(relative: str, rules: list[tuple[re.Pattern[str], bool]]) -> bool:
    parts = relative.split("/")
    prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    ignored = False
    for pattern, excludes in rules:
        if any(pattern.fullmatch(prefix) for prefix in prefixes):
            ignored = excludes
    return ignored


def _expression(pattern: str) -> str:
    """A `.dockerignore` pattern as a regular expression: `*` stays within a folder, `**` does not."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(meant.get(piece, re.escape(piece)) for piece in pieces)
