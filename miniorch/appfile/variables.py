"""`${NAME:-default}`: values from the environment, and from a file `.env` beside the app file.

The rules are Compose's, the common part of them: `$NAME`, `${NAME}`, `${NAME:-if unset or empty}`, `${NAME-if unset}`,
`$$` for a dollar. The environment wins over the file. Where we differ: a variable that nobody has set is an error and
not the empty text, because an empty image or port is only found out later.
"""

import re
from collections.abc import Mapping
from pathlib import Path

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DOLLAR = re.compile(
    rf"\$(?:(?P<escaped>\$)|(?P<bare>{_NAME})|\{{(?P<name>{_NAME})(?:(?P<how>:?-)(?P<default>[^{{}}$]*))?\}})?"
)
_LINE = re.compile(rf"\s*(?:export\s+)?({_NAME})\s*=\s*(.*?)\s*")


class BadVariable(Exception):
    """A `$` that cannot be replaced: message and remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """The text with its variables replaced. Raises `BadVariable`."""

    def value(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name = found["bare"] or found["name"]
        if name is None:
            raise BadVariable(
                f'"{text[found.start() : found.start() + 12]}" is no variable that is read here',
                "write $$ for a dollar, ${NAME}, ${NAME:-default} or ${NAME-default} for a variable",
            )
        known = variables.get(name)
        if found["how"] is not None and (known is None or (not known and found["how"] == ":-")):
            return found["default"]
        if known is None:
            raise BadVariable(f"the variable {name} is not set", f"export {name}=..., or write ${{{name}:-default}}")
        return known

    return _DOLLAR.sub(value, text)


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value per line; `#` begins a comment, quotes around a value are taken off. No file: nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match[1]] = _unquote(match[2])
    return found


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()
