"""`${NAME:-default}`: values from the environment, from `.env` beside the app file, and from `env_file`.

The rules are Compose's: `$NAME`, `${NAME}`, `${NAME:-if unset or empty}`, `${NAME-if unset}`, `${NAME:?message}` and
`${NAME?message}` (refuse), `${NAME:+if set}` and `${NAME+if set}`, `$$` for a dollar; what stands behind the operator
may hold variables again. The environment wins over the file. Where we differ: a variable that nobody has set is an
error and not the empty text, because an empty image or port is only found out later.

A file of variables has lines `NAME=value`, comments, and lines of a NAME alone, whose value is the environment's. Any
other line is an error, too: that a program runs without its password is found out just as late.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miniorch.errors import AppFileError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_ENTRY = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*([=:]?)")
_QUOTED = re.compile(r"""[ \t]*(?:'([^'\\]*(?:\\.[^'\\]*)*)'|"([^"\\]*(?:\\.[^"\\]*)*)")""", re.DOTALL)
_REST = re.compile(r"[ \t]*(?:#.*)?(?:\n|\Z)")
_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\"": '"', r"\\": "\\", r"\$": "$$"}
MAX_DEPTH = 16


@dataclass(eq=False)
class BadVariable(Exception):
    """A `$` that cannot be replaced, or a line (from 1) that sets no variable."""

    message: str
    remedy: str
    line: int = 0


def substitute(text: str, variables: Mapping[str, str], depth: int = 0) -> str:
    """The text with its variables replaced. Raises `BadVariable`."""
    parts, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        name = _NAME.match(text, dollar + 1)
        if text.startswith("$$", dollar):
            value, at = "$", dollar + 2
        elif name:
            value, at = _required(name[0], variables), name.end()
        elif text.startswith("${", dollar) and depth < MAX_DEPTH:
            end = _closing(text, dollar + 2)
            value, at = _braced(text[dollar + 2 : end], variables, depth), end + 1
        else:
            raise _unreadable(text[dollar:])
        parts.append(value)
    return "".join(parts) + text[at:]


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` is closed."""
    depth = 0
    for at in range(start, len(text)):
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            if depth == 0:
                return at
            depth -= 1
    raise _unreadable(text[start - 2 :])


def _braced(inside: str, variables: Mapping[str, str], depth: int) -> str:
    name = _NAME.match(inside)
    operator = _OPERATOR.match(inside, name.end()) if name else None
    if name is None or (operator is None and name.end() < len(inside)):
        raise _unreadable("${" + inside + "}")
    value = variables.get(name[0])
    if operator is None:
        return _required(name[0], variables)
    rest, kind = inside[operator.end() :], operator[0][-1]
    there = value is not None and (value != "" or operator[0] == kind)
    if kind == "+":
        return substitute(rest, variables, depth + 1) if there else ""
    if value is not None and there:
        return value
    if kind == "?":
        why = substitute(rest, variables, depth + 1) or "the file asks for it"
        raise BadVariable(f"the variable {name[0]} is not set: {why}", f"export {name[0]}=...")
    return substitute(rest, variables, depth + 1)


def _required(name: str, variables: Mapping[str, str]) -> str:
    if name not in variables:
        raise BadVariable(f"the variable {name} is not set", f"export {name}=...")
    return variables[name]


def _unreadable(text: str) -> BadVariable:
    return BadVariable(f'"{text[:12]}" is no variable that is read here', f"write ${text[:12]}")


def read_env_file(path: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """What a file sets; its values may name `variables`, and what the lines above set. No file: nothing.

    Raises `BadVariable` with a line, `AppFileError` for a file that may not be read.
    """
    if not os.path.isfile(path):  # some keep a Python environment in .env
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise AppFileError(f"{path} cannot be read: {error.strerror}", remedy=f"chmod a+r {path}") from None
    found: dict[str, str] = {}
    known, at = dict(variables), 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        if line and not line.startswith("#"):
            try:
                name, value, end = _entry(text, at, end, known)
            except BadVariable as error:
                raise BadVariable(error.message, error.remedy, text.count("\n", 0, at) + 1) from None
            if value is not None:
                found[name] = value
                known.setdefault(name, value)
        at = end + 1
    return found


def _entry(text: str, at: int, end: int, known: Mapping[str, str]) -> tuple[str, str | None, int]:
    """The variable that is set at `at`, in a line up to `end`, and where its value ends, which may be lines later.

    Messages show no value: such files hold passwords.
    """
    entry = _ENTRY.match(text, at, end)
    if entry is None:
        raise BadVariable("this line sets no variable", "write NAME=value")
    name, plain = entry[1], text[entry.end() : end]
    if not entry[2]:
        if _REST.match(text, entry.end()):
            return name, known.get(name), end
        raise BadVariable(f"something other than = stands behind {name}", f"write {name}=value")
    if plain.lstrip()[:1] not in ("'", '"'):
        value = re.split(r"\s#", plain, maxsplit=1)[0].strip()
    else:
        quoted = _QUOTED.match(text, entry.end())
        rest = _REST.match(text, quoted.end()) if quoted else None
        if quoted is None or rest is None:
            what = "something stands behind the closing quotation mark" if quoted else "a quotation mark is not closed"
            raise BadVariable(f"{name}: {what}", f"write {name}={plain.strip()[0]}...{plain.strip()[0]}")
        end = rest.end() - rest[0].endswith("\n")
        if quoted[2] is None:
            return name, quoted[1].replace(r"\'", "'"), end
        value = re.sub(r"\\.", lambda one: _ESCAPES.get(one[0], one[0]), quoted[2])
    try:
        return name, substitute(value, known), end
    except BadVariable as error:
        raise BadVariable(f"{name}: {error.message}", f"write {name}='...': single quotes keep a $") from None
