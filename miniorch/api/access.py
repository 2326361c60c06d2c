"""Who may ask what: one table of every route and every role.

The problem: an API has forty doors, and the one that somebody forgot to lock is the one that counts. The idea: doors
are locked by default. A route without a row here is refused to everybody, and the test of this table fails; so whoever
adds a route must say whose it is. Who asks is read from the connection (`miniorch/listener.py`), not from the request.

A node may do what its agent and its net process need, for itself: `OWN` means that the node named in the path or query
is the one in the certificate. Anything else of another node does not exist for it (404). A certificate counts only
while the cluster knows its owner as a member, so removing the member closes every door at the next request.

Who does this for real: Kubernetes' RBAC with its node authorizer, in one table instead of objects. Where we differ:
roles are fixed, and there is no right below a role. Next file: `miniorch/api/handlers.py`.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from miniorch.api.routes import ROUTES, Call, Route
from miniorch.errors import NotAllowed, NotFound
from miniorch.identity import Caller
from miniorch.model import KINDS, Member, Role
from miniorch.spec import AppSpec, TaskSpec


class Verdict(StrEnum):
    DENY = "deny"
    OWN = "own"  # only about the node that asks
    ALLOW = "allow"


ROLES = ("nobody", "node", "view", "deploy", "admin")
_WORDS = {"-": Verdict.DENY, "own": Verdict.OWN, "yes": Verdict.ALLOW}

# "nobody" shows no certificate; "node" is a machine of the cluster; whoever may open a machine's own socket is "admin".
# A single word is a kind of object, listed or watched.
TABLE = """
                                                    nobody  node  view  deploy  admin
POST    /v1/nodes/{node}/heartbeat                  -       own   -     -       yes
POST    /v1/nodes/{node}/statuses                   -       own   -     -       yes
POST    /v1/nodes/{node}/applied                    -       own   -     -       yes
POST    /v1/nodes/{node}/register                   -       own   -     -       yes
POST    /v1/nodes/{node}/volumes-removed            -       own   -     -       yes
PATCH   /v1/nodes/{node}                            -       -     -     -       yes
DELETE  /v1/nodes/{node}                            -       -     -     -       yes
GET     /v1/nodes/{node}/network                    -       -     yes   yes     yes
POST    /v1/nodes/{node}/network                    -       -     -     -       yes
GET     /v1/version                                 -       yes   yes   yes     yes
GET     /v1/explain/{app}/{service}                 -       -     yes   yes     yes
GET     /v1/explain/{task}                          -       -     yes   yes     yes
GET     /v1/tasks/{task}/logs                       -       -     yes   yes     yes
GET     /v1/tasks/{task}/top                        -       -     yes   yes     yes
GET     /v1/tasks/{task}/trace                      -       -     yes   yes     yes
GET     /v1/tasks/{task}/stat                       -       -     -     yes     yes
GET     /v1/tasks/{task}/archive                    -       -     -     yes     yes
PUT     /v1/tasks/{task}/archive                    -       -     -     yes     yes
POST    /v1/tasks/{task}/exec                       -       -     -     yes     yes
PUT     /v1/apps/{app}                              -       -     -     yes     yes
DELETE  /v1/apps/{app}                              -       -     -     yes     yes
PUT     /v1/services/{app}/{service}/replicas       -       -     -     yes     yes
POST    /v1/services/{app}/{service}/restart        -       -     -     yes     yes
GET     /v1/backup                                  -       -     -     -       yes
GET     /v1/authority                               yes     yes   yes   yes     yes
POST    /v1/join                                    yes     yes   yes   yes     yes
POST    /v1/renew                                   -       yes   yes   yes     yes
GET     /v1/join-tokens                             -       -     -     -       yes
POST    /v1/join-tokens                             -       -     -     -       yes
POST    /v1/join-tokens/{role}/rotate               -       -     -     -       yes
DELETE  /v1/join-tokens/{token}                     -       -     -     -       yes
POST    /v1/certificates                            -       -     -     -       yes
DELETE  /v1/certificates/{member}                   -       -     -     -       yes
cluster                                             -       yes   yes   yes     yes
nodes                                               -       yes   yes   yes     yes
tasks                                               -       own   yes   yes     yes
volumes                                             -       own   yes   yes     yes
endpoints                                           -       own   yes   yes     yes
apps                                                -       -     yes   yes     yes
services                                            -       -     yes   yes     yes
releases                                            -       -     yes   yes     yes
events                                              -       -     yes   yes     yes
leaders                                             -       -     yes   yes     yes
members                                             -       yes   yes   yes     yes
tokens                                              -       -     -     -       yes
"""


def _read(table: str) -> dict[str, dict[str, Verdict]]:
    rows = {}
    for line in table.strip("\n").splitlines()[1:]:
        *row, nobody, node, view, deploy, admin = line.split()
        rows[" ".join(row)] = {
            role: _WORDS[word] for role, word in zip(ROLES, (nobody, node, view, deploy, admin), strict=True)
        }
    return rows


VERDICTS: Mapping[str, Mapping[str, Verdict]] = _read(TABLE)


def row_of(route: Route, kind: str = "") -> str:
    """Which row of the table speaks about a request."""
    return kind if "{kind}" in route.path else f"{route.method} {route.path}"


def rows() -> Iterator[tuple[str, str]]:
    """(what people call it, row) for everything that can be asked, from the routes themselves."""
    for route in ROUTES:
        for kind in KINDS if "{kind}" in route.path else ("",):
            yield f"{route.method} {route.path.replace('{kind}', kind)}", row_of(route, kind)


def column_of(role: str) -> str:
    """The column for the role in a certificate; machines of both roles are nodes. Unknown ones are nobody."""
    role = "node" if role in (Role.MANAGER, Role.WORKER) else role
    return role if role in ROLES else "nobody"


def admit(route: Route, call: Call, member: Member | None) -> None:
    """Raises `NotAllowed`, or `NotFound` where even that there is such a thing is not for this caller to know.

    `member` is what the cluster knows of the caller's name.
    """
    caller = call.caller
    if caller.via == "tls" and caller.role:  # noqa: SIM102 (who is without a certificate has a column, too)
        if member is None or (member.role, member.key) != (caller.role, caller.key):
            raise NotAllowed(
                f"the certificate of {caller.name} is no longer one of this cluster's: it was removed or replaced",
                remedy="on that machine: miniorch down --all, then miniorch join; for a user: miniorch context create",
            )
    column = column_of(caller.role)
    kind = call.names.get("kind", "")
    if "{kind}" in route.path and kind not in KINDS:
        raise NotFound(f"the server has no {kind}; it has {', '.join(KINDS)}")
    verdict = VERDICTS.get(row_of(route, kind), {}).get(column, Verdict.DENY)
    if verdict is Verdict.OWN:
        asked = call.names.get("node", call.query.get("node", ""))
        if asked == caller.name:
            return
        if asked:
            raise NotFound(f"no such node: {asked}", remedy="miniorch nodes, on a manager")
        raise NotAllowed(f"a node sees only its own {kind}", remedy=f"miniorch, on a manager; or ?node={caller.name}")
    if verdict is Verdict.DENY:
        who = "nobody without a certificate" if column == "nobody" else f"not {caller.name or 'you'} as {column}"
        raise NotAllowed(f"{route.method} {route.path} is for others, {who}", remedy=_remedy(column))


def _remedy(column: str) -> str:
    return "miniorch join, on a new machine" if column == "nobody" else "ask an administrator; roles: docs/security.md"


def powers(task: TaskSpec) -> list[str]:
    """What in a task would give whoever deploys it, or is inside it, the power of root on the node."""
    options = task.options
    found = {
        "privileged": options.privileged,
        "cap_add": options.cap_add,
        "devices": options.devices,
        "security_opt": options.security_opt,
        "a folder of the node": any(mount.host_path for mount in task.mounts),
        "a build from a folder of the node": task.build is not None,
    }
    return [what for what, asked in found.items() if asked]


def check_powers(caller: Caller, spec: AppSpec) -> None:
    """Raises `NotAllowed` for what only an administrator may deploy."""
    for name, service in spec.services.items():
        check_power(caller, name, service.task)


def check_power(caller: Caller, name: str, task: TaskSpec) -> None:
    """The same for one task; also asked before somebody enters it."""
    found = [] if caller.role == "admin" else powers(task)
    if found:
        raise NotAllowed(
            f"{name} has {', '.join(found)}: that is root's power on the node, and only an administrator gives it",
            remedy=f"ask an administrator to deploy it, or leave out {found[0]}",
        )
