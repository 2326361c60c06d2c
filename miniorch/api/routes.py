"""What can be asked of the server: one table of routes, and one way to call them.

The problem: the same requests must work over a socket in production and without one in simulation. The idea: a handler
is a plain `async` method that takes a `Call` and returns a model object, plain data or a stream; it knows no web
framework. A table (`routes.txt`) says which path leads to which handler, and for whom. `app.py` puts FastAPI around it,
and `miniorch/simulation/network.py` calls `dispatch` directly.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from miniorch.codec import to_plain
from miniorch.errors import NotFound
from miniorch.identity import LOCAL, Caller

if TYPE_CHECKING:
    from miniorch.api.handlers import Handlers


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks, names from the path, the query, the decoded JSON body."""

    caller: Caller
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


class Verdict(StrEnum):
    DENY = "-"
    OWN = "own"  # only about the node that asks
    ALLOW = "yes"
    KIND = "kind"  # as the kind's own row says


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str  # "/v1/apps/{app}"
    handler: str  # the name of a method of Handlers
    by_leader: bool = False  # needs what only the leader's memory holds; any server answers the others
    forwarded: bool = False  # the handler says which node's agent answers (`miniorch/api/forward.py`)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # of each role; without one the door is closed

    def verdict(self, role: str, kind: str) -> Verdict:
        """What a role may do here, with objects of a kind."""
        own = self.verdicts.get(role, Verdict.DENY)
        return KIND_VERDICTS.get(kind, {}).get(role, Verdict.DENY) if own is Verdict.KIND else own

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The names in a path, or None if this is another route's."""
        found = _pattern(self.path).fullmatch(path) if method == self.method else None
        return found.groupdict() if found else None


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


# Tried in this order, so what comes most often stands first. What the columns mean: `access.py`. Behind the handler
# stands who must do it. The word `kind` means: as the row of that kind of object says, at the end.
TABLE = Path(__file__).with_name("routes.txt").read_text()


def _read(table: str) -> tuple[tuple[Route, ...], dict[str, Mapping[str, Verdict]]]:
    """The routes, and what each role may do with each kind of object."""
    roles, *lines = (line.split(None, 7) for line in table.splitlines())
    routes: list[Route] = []
    kinds: dict[str, Mapping[str, Verdict]] = {}
    for words in lines:
        if words[0].isupper():
            method, path, *verdicts, rest = words
            handler, _, by = rest.partition(", by the ")
            allowed = dict(zip(roles, map(Verdict, verdicts), strict=False))
            routes.append(Route(method, path, handler, by == "leader", by == "agent", allowed))
        else:
            kinds[words[0]] = dict(zip(roles, map(Verdict, words[1:]), strict=False))
    return tuple(routes), kinds


ROUTES, KIND_VERDICTS = _read(TABLE)
ROLES = tuple(TABLE.split()[:5])


async def dispatch(
    handlers: Handlers, method: str, path: str, body: Any = None, caller: Caller = LOCAL,
    read: Callable[[Any], Any] = to_plain,
) -> Any:  # fmt: skip
    """Call the handler of a path; the answer as plain data, or as `read` reads it. Errors are `MiniorchError`s."""
    found = _found(method, path)
    if found is None:
        raise NotFound(f"the server knows no {method} {path.partition('?')[0]}")
    route, names, query = found
    return read(await handlers.answer(route, Call(caller, names, query, body)))


@functools.lru_cache(2048)  # agents ask the same few questions again and again
def _found(method: str, path: str) -> tuple[Route, Mapping[str, str], Mapping[str, str]] | None:
    parts = urlsplit(path)
    for route in ROUTES:
        names = route.match(method, parts.path)
        if names is not None:
            return route, names, dict(parse_qsl(parts.query))
    return None
