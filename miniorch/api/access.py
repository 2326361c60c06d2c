"""Who may ask what: the columns of the table of routes (`routes.py`).

The problem: an API has forty doors, and the one that somebody forgot to lock is the one that counts. The idea: doors
are locked by default. Where a route's row has no word for a role, that role is refused, and a test fails; so whoever
adds a route must say whose it is. "nobody" shows no certificate, "node" is a machine of the cluster, and whoever may
open a machine's own socket is "admin". Who asks is read from the connection (`miniorch/listener.py`), not from the
request.

A node may do what its agent and its net process need, for itself: `OWN` means that the node named in the path or query
is the one in the certificate. Anything else of another node does not exist for it (404). A certificate counts only
while the cluster knows its owner as a member, so removing the member closes every door at the next request.

Who does this for real: Kubernetes' RBAC with its node authorizer, in one table instead of objects. Where we differ:
roles are fixed, and there is no right below a role. Next file: `miniorch/api/handlers.py`.
"""

from miniorch.api.routes import ROLES, Call, Route, Verdict
from miniorch.errors import NotAllowed, NotFound
from miniorch.identity import Caller
from miniorch.model import KINDS, Member, Role
from miniorch.spec import AppSpec, TaskSpec


def column_of(role: str) -> str:
    """The column for the role in a certificate; machines of both roles are nodes. Unknown ones are nobody."""
    role = "node" if role in (Role.MANAGER, Role.WORKER) else role
    return role if role in ROLES else "nobody"


def admit(route: Route, call: Call, member: Member | None) -> None:
    """Raises `NotAllowed`, or `NotFound` where even that there is such a thing is not for this caller to know.

    `member` is what the cluster knows of the caller's name.
    """
    caller = call.caller
    shown = caller.via == "tls" and bool(caller.role)  # who is without a certificate has a column, too
    if shown and (member is None or (member.role, member.key) != (caller.role, caller.key)):
        raise NotAllowed(
            f"the certificate of {caller.name} is no longer one of this cluster's: it was removed or replaced",
            remedy="on that machine: miniorch down --all, then miniorch join; for a user: miniorch context create",
        )
    column = column_of(caller.role)
    kind = call.names.get("kind", "")
    if "{kind}" in route.path and kind not in KINDS:
        raise NotFound(f"the server has no {kind}; it has {', '.join(KINDS)}")
    verdict = route.verdict(column, kind)
    if verdict is Verdict.OWN:
        asked = call.names.get("node", call.query.get("node", ""))
        if asked == caller.name:
            return
        if asked:
            raise NotFound(f"no such node: {asked}", remedy="miniorch nodes, on a manager")
        raise NotAllowed(f"a node sees only its own {kind}", remedy=f"miniorch, on a manager; or ?node={caller.name}")
    if verdict is Verdict.DENY:
        raise _refused(route, call, column)


def _refused(route: Route, call: Call, column: str) -> NotAllowed:
    kind = call.names.get("kind", "")
    others = [role for role in ROLES[2:] if route.verdict(role, kind) is Verdict.ALLOW]
    this = f"{route.method} {route.path.format_map(call.names)} is for {', '.join(others) or 'the node itself'}"
    if column == "nobody":
        return NotAllowed(f"{this}, and no certificate was shown", remedy="miniorch join, on a new machine")
    remedy = "miniorch, on a manager" if column == "node" else "ask an administrator; roles: docs/security.md"
    return NotAllowed(f"{this}; {call.caller.name or 'this'} has the role {column}", remedy=remedy)


def powers(task: TaskSpec) -> list[str]:
    """What in a task would give whoever deploys it, or is inside it, the power of root on the node."""
    found = [word for word in ("privileged", "cap_add", "devices", "security_opt") if getattr(task.options, word)]
    found += ["a folder of the node"] * any(mount.host_path for mount in task.mounts)
    return found + ["a build from a folder of the node"] * (task.build is not None)


def check_powers(caller: Caller, spec: AppSpec) -> None:
    """Raises `NotAllowed` for what only an administrator may deploy."""
    for name, service in spec.services.items():
        check_power(caller, name, service.task)


def check_power(caller: Caller, name: str, task: TaskSpec) -> None:
    """The same for one task; also asked before somebody enters it."""
    found = [] if caller.role == "admin" else powers(task)
    if found:
        message = f"{name} has {', '.join(found)}: that is root's power on the node, and only an administrator gives it"
        raise NotAllowed(message, remedy=f"ask an administrator to deploy it, or leave out {found[0]}")
