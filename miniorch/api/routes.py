"""What can be asked of the server: one table of routes, and one way to call them.

The problem: the same requests must work over a socket in production and without one in simulation. The idea: a handler
is a plain `async` method that takes a `Call` and returns a model object, plain data or a stream; it knows no web
framework. `TABLE` says which path leads to which handler, and for whom. `app.py` puts FastAPI around this table, and
`miniorch/simulation/network.py` calls `dispatch` directly.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
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
TABLE = """
                                                    nobody node   view   deploy admin  handler
POST    /v1/nodes/{node}/heartbeat                  -      own    -      -      yes    heartbeat, by the leader
POST    /v1/nodes/{node}/statuses                   -      own    -      -      yes    statuses
POST    /v1/nodes/{node}/applied                    -      own    -      -      yes    applied, by the leader
POST    /v1/nodes/{node}/register                   -      own    -      -      yes    register, by the leader
POST    /v1/nodes/{node}/volumes-removed            -      own    -      -      yes    volumes_removed
PATCH   /v1/nodes/{node}                            -      -      -      -      yes    change_node
DELETE  /v1/nodes/{node}                            -      -      -      -      yes    remove_node, by the leader
GET     /v1/version                                 -      yes    yes    yes    yes    version
GET     /v1/watch/{kind}                            kind   kind   kind   kind   kind   watch
GET     /v1/explain/{app}/{service}                 -      -      yes    yes    yes    explain_service
GET     /v1/explain/{task}                          -      -      yes    yes    yes    explain_task
POST    /v1/what-if                                 -      -      yes    yes    yes    what_if
GET     /v1/standing                                -      -      yes    yes    yes    standing
POST    /v1/apps/{app}/plan                         -      -      yes    yes    yes    plan
GET     /v1/tasks/{task}/logs                       -      -      yes    yes    yes    node_of, by the agent
GET     /v1/tasks/{task}/top                        -      -      yes    yes    yes    node_of, by the agent
GET     /v1/tasks/{task}/trace                      -      -      yes    yes    yes    node_of, by the agent
GET     /v1/tasks/{task}/stat                       -      -      -      yes    yes    inside_of, by the agent
GET     /v1/tasks/{task}/archive                    -      -      -      yes    yes    inside_of, by the agent
PUT     /v1/tasks/{task}/archive                    -      -      -      yes    yes    inside_of, by the agent
POST    /v1/tasks/{task}/exec                       -      -      -      yes    yes    inside_of, by the agent
GET     /v1/nodes/{node}/network                    -      -      yes    yes    yes    node_itself, by the agent
POST    /v1/nodes/{node}/network                    -      -      -      -      yes    node_itself, by the agent
GET     /v1/backup                                  -      -      -      -      yes    backup
GET     /v1/authority                               yes    yes    yes    yes    yes    authority_certificate
POST    /v1/join                                    yes    yes    yes    yes    yes    join
POST    /v1/renew                                   -      yes    yes    yes    yes    renew
GET     /v1/join-tokens                             -      -      -      -      yes    join_tokens
POST    /v1/join-tokens                             -      -      -      -      yes    create_token
POST    /v1/join-tokens/{role}/rotate               -      -      -      -      yes    rotate_token
DELETE  /v1/join-tokens/{token}                     -      -      -      -      yes    revoke_token
POST    /v1/certificates                            -      -      -      -      yes    certify
DELETE  /v1/certificates/{member}                   -      -      -      -      yes    revoke_member
GET     /v1/{kind}                                  kind   kind   kind   kind   kind   list_kind
PUT     /v1/apps/{app}                              -      -      -      yes    yes    apply
DELETE  /v1/apps/{app}                              -      -      -      yes    yes    remove
PUT     /v1/services/{app}/{service}/replicas       -      -      -      yes    yes    scale
POST    /v1/services/{app}/{service}/restart        -      -      -      yes    yes    restart
cluster                                             -      yes    yes    yes    yes
nodes                                               -      yes    yes    yes    yes
tasks                                               -      own    yes    yes    yes
volumes                                             -      own    yes    yes    yes
endpoints                                           -      own    yes    yes    yes
apps                                                -      -      yes    yes    yes
services                                            -      -      yes    yes    yes
releases                                            -      -      yes    yes    yes
decisions                                           -      -      yes    yes    yes
events                                              -      -      yes    yes    yes
leaders                                             -      -      yes    yes    yes
members                                             -      yes    yes    yes    yes
tokens                                              -      -      -      -      yes
"""


def _read(table: str) -> tuple[tuple[Route, ...], dict[str, Mapping[str, Verdict]]]:
    """The routes, and what each role may do with each kind of object."""
    roles, *lines = (line.split(None, 7) for line in table.strip("\n").splitlines())
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
