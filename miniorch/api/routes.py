"""What can be asked of the server: one table of routes, and one way to call them.

The problem: the same requests must work over a socket in production and without one in simulation. The idea: a handler
is a plain `async` method that takes a `Call` and returns a model object, plain data or a stream; it knows no web
framework. `ROUTES` says which path leads to which handler. `app.py` puts FastAPI around this table, and
`miniorch/simulation/network.py` calls `dispatch` directly.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from miniorch.codec import to_plain
from miniorch.errors import NotFound
from miniorch.identity import LOCAL, Caller

if TYPE_CHECKING:
    from miniorch.api.handlers import Handlers
    from miniorch.api.watch import Watch


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks, names from the path, the query, the decoded JSON body."""

    caller: Caller
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str  # "/v1/apps/{app}"
    handler: str  # the name of a method of Handlers
    by_leader: bool = False  # needs what only the leader's memory holds; any server answers the others
    forwarded: bool = False  # the handler says which node's agent answers (`miniorch/api/forward.py`)

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The names in a path, or None if this is another route's."""
        found = _pattern(self.path).fullmatch(path) if method == self.method else None
        return found.groupdict() if found else None


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


ROUTES = (
    # Tried in this order, so what comes most often stands first.
    Route("POST", "/v1/nodes/{node}/heartbeat", "heartbeat", by_leader=True),
    Route("POST", "/v1/nodes/{node}/statuses", "statuses"),
    Route("POST", "/v1/nodes/{node}/applied", "applied", by_leader=True),
    Route("POST", "/v1/nodes/{node}/register", "register", by_leader=True),
    Route("POST", "/v1/nodes/{node}/volumes-removed", "volumes_removed"),
    Route("PATCH", "/v1/nodes/{node}", "change_node"),
    Route("DELETE", "/v1/nodes/{node}", "remove_node", by_leader=True),
    Route("GET", "/v1/version", "version"),
    Route("GET", "/v1/watch/{kind}", "watch"),
    Route("GET", "/v1/explain/{app}/{service}", "explain_service"),
    Route("GET", "/v1/explain/{task}", "explain_task"),
    Route("GET", "/v1/tasks/{task}/logs", "node_of", forwarded=True),
    Route("GET", "/v1/tasks/{task}/top", "node_of", forwarded=True),
    Route("GET", "/v1/tasks/{task}/trace", "node_of", forwarded=True),
    Route("GET", "/v1/tasks/{task}/stat", "inside_of", forwarded=True),
    Route("GET", "/v1/tasks/{task}/archive", "inside_of", forwarded=True),
    Route("PUT", "/v1/tasks/{task}/archive", "inside_of", forwarded=True),
    Route("POST", "/v1/tasks/{task}/exec", "inside_of", forwarded=True),
    Route("GET", "/v1/nodes/{node}/network", "node_itself", forwarded=True),
    Route("POST", "/v1/nodes/{node}/network", "node_itself", forwarded=True),
    Route("GET", "/v1/backup", "backup"),
    Route("GET", "/v1/authority", "authority_certificate"),
    Route("POST", "/v1/join", "join"),
    Route("POST", "/v1/renew", "renew"),
    Route("GET", "/v1/join-tokens", "join_tokens"),
    Route("POST", "/v1/join-tokens", "create_token"),
    Route("POST", "/v1/join-tokens/{role}/rotate", "rotate_token"),
    Route("DELETE", "/v1/join-tokens/{token}", "revoke_token"),
    Route("POST", "/v1/certificates", "certify"),
    Route("DELETE", "/v1/certificates/{member}", "revoke_member"),
    Route("GET", "/v1/{kind}", "list_kind"),
    Route("PUT", "/v1/apps/{app}", "apply"),
    Route("DELETE", "/v1/apps/{app}", "remove"),
    Route("PUT", "/v1/services/{app}/{service}/replicas", "scale"),
    Route("POST", "/v1/services/{app}/{service}/restart", "restart"),
)


async def dispatch(handlers: Handlers, method: str, path: str, body: Any = None, caller: Caller = LOCAL) -> Any:
    """Call the handler of a path; the answer as plain data. Errors are `MiniorchError`s."""
    return to_plain(await _handler(handlers, method, path, body, caller))


async def stream(handlers: Handlers, path: str, caller: Caller = LOCAL) -> AsyncGenerator[Any, None]:
    """The lines of a watch, decoded. Closing it ends the watch."""
    watch = await open_watch(handlers, path, caller)
    try:
        while found := await watch.take():
            for line in found:
                yield to_plain(line)
    finally:
        watch.close()


async def open_watch(handlers: Handlers, path: str, caller: Caller = LOCAL) -> Watch:
    """Call the handler of a watch. Whoever takes its lines must close it."""
    watch: Watch = await _handler(handlers, "GET", path, None, caller)
    return watch


async def _handler(handlers: Handlers, method: str, path: str, body: Any, caller: Caller) -> Any:
    found = _found(method, path)
    if found is None:
        raise NotFound(f"the server knows no {method} {path.partition('?')[0]}")
    route, names, query = found
    return await handlers.answer(route, Call(caller, names, query, body))


@functools.lru_cache(2048)  # agents ask the same few questions again and again
def _found(method: str, path: str) -> tuple[Route, Mapping[str, str], Mapping[str, str]] | None:
    parts = urlsplit(path)
    for route in ROUTES:
        names = route.match(method, parts.path)
        if names is not None:
            return route, names, dict(parse_qsl(parts.query))
    return None
