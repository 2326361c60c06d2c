"""`${NAME:-default}`: values from the environment, and from a file `.env` beside the app file.

The rules are Compose's: `$NAME`, `${NAME}`, `${NAME:-if unset or empty}`, `${NAME-if unset}`, `${NAME:?message}` and
`${NAME?message}` (refuse), `${NAME:+if set}` and `${NAME+if set}`, `$$` for a dollar; what stands behind the operator
may hold variables again. The environment wins over the file. Where we differ: a variable that nobody has set is an
error and not the empty text, because an empty image or port is only found out later.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from miniorch.errors import AppFileError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_LINE = re.compile(rf"\s*(?:export\s+)?({_NAME.pattern})\s*=\s*(.*?)\s*")
MAX_DEPTH = 16


class BadVariable(Exception):
    """A `$` that cannot be replaced: message and remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


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


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value per line; `#` begins a comment, quotes around a value are taken off. No file: nothing.

    Raises `AppFileError` for a file that may not be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise AppFileError(f"{path} cannot be read: {error.strerror}", remedy=f"chmod a+r {path}") from None
    return {match[1]: _unquote(match[2]) for line in text.splitlines() if (match := _LINE.fullmatch(line))}


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()
