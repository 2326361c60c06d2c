"""Every route, every kind of object, every role: allowed, denied, or for one's own alone."""

from __future__ import annotations

import asyncio
import random

import pytest

from miniorch.api.access import admit, check_power, column_of, powers
from miniorch.api.routes import KIND_VERDICTS, ROLES, ROUTES, Call, Route, Verdict, dispatch
from miniorch.clock import SystemClock
from miniorch.errors import MiniorchError, NotAllowed, NotFound
from miniorch.identity import LOCAL, Caller
from miniorch.model import KINDS, Member
from miniorch.server import Server
from miniorch.spec import AppSpec, Build, ContainerOptions, Mount, ServiceSpec, TaskSpec
from miniorch.state.memory import MemoryStore

NAMES = {"node": "n1", "app": "shop", "service": "web", "task": "t1", "role": "worker", "token": "abc", "member": "ann"}
CERTIFIED = {"nobody": "", "node": "worker", "view": "view", "deploy": "deploy", "admin": "admin"}
PLAIN = AppSpec({"web": ServiceSpec(TaskSpec("web:1"))})


def caller(role: str) -> Caller:
    return Caller("n1" if role else "", role, "tls", "192.0.2.1", "key" if role else "")


def allowed(route: Route, call: Call) -> bool:
    one = call.caller
    try:
        admit(route, call, Member(one.name, one.role, one.key, 0.0, 0.0) if one.name else None)
    except (NotAllowed, NotFound):
        return False
    return True


def test_every_route_and_kind_has_a_word_for_every_role() -> None:
    assert [route.path for route in ROUTES if set(route.verdicts) != set(ROLES)] == []
    assert [kind for kind in KINDS if set(KIND_VERDICTS.get(kind, ())) != set(ROLES)] == []


@pytest.mark.parametrize("column", ROLES)
def test_a_role_is_admitted_exactly_where_the_table_says_so(column: str) -> None:
    for route in ROUTES:
        for kind in KINDS if "{kind}" in route.path else ("",):
            names = {name: value for name, value in NAMES.items() if f"{{{name}}}" in route.path}
            names |= {"kind": kind} if kind else {}
            expected = KIND_VERDICTS[kind][column] if kind else route.verdicts[column]
            who = caller(CERTIFIED[column])
            own = {} if "node" in names else {"node": "n1"}
            foreign = {**names, "node": "n2"} if "node" in names else names
            where = f"{route.method} {route.path} {kind} as {column}"
            assert allowed(route, Call(who, names, own)) is (expected is not Verdict.DENY), where
            other = allowed(route, Call(who, foreign, {"node": "n2"} if own else {}))
            assert other is (expected is Verdict.ALLOW), f"{where}, about another node"
            if expected is Verdict.OWN and own:
                assert not allowed(route, Call(who, names, {})), f"{where}, about all nodes"


def test_route_without_a_row_is_refused_to_everybody() -> None:
    for column in ROLES:
        assert not allowed(Route("GET", "/v1/new", "new"), Call(caller(CERTIFIED[column])))
    with pytest.raises(NotAllowed):
        admit(Route("GET", "/v1/new", "new"), Call(LOCAL), None)


def test_unknown_role_is_nobody() -> None:
    assert {column_of(role) for role in ("", "root", "nobody", "node", "Admin")} - {"nobody"} == {"node"}
    assert column_of("manager") == column_of("worker") == "node"


def test_what_belongs_to_another_node_does_not_exist() -> None:
    route = next(route for route in ROUTES if route.handler == "heartbeat")
    with pytest.raises(NotFound, match="no such node: n2"):
        admit(route, Call(caller("worker"), {"node": "n2"}), Member("n1", "worker", "key", 0.0, 0.0))


@pytest.mark.parametrize(
    "member", [None, Member("n1", "worker", "another key", 0.0, 0.0), Member("n1", "manager", "key", 0.0, 0.0)]
)
def test_certificate_counts_only_while_its_owner_is_a_member_with_this_key_and_role(member: Member | None) -> None:
    route = next(route for route in ROUTES if route.handler == "version")
    with pytest.raises(NotAllowed, match="no longer one of this cluster's"):
        admit(route, Call(caller("worker")), member)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (TaskSpec("a", options=ContainerOptions(privileged=True)), "privileged"),
        (TaskSpec("a", options=ContainerOptions(cap_add=("SYS_ADMIN",))), "cap_add"),
        (TaskSpec("a", options=ContainerOptions(devices=("/dev/kvm",))), "devices"),
        (TaskSpec("a", options=ContainerOptions(security_opt=("seccomp=unconfined",))), "security_opt"),
        (TaskSpec("a", mounts=(Mount("", "/x", host_path="/srv"),)), "a folder of the node"),
        (TaskSpec("a", build=Build("/srv/web", "d")), "a build from a folder of the node"),
    ],
)
def test_only_an_administrator_deploys_or_enters_what_has_the_power_of_root(task: TaskSpec, what: str) -> None:
    assert powers(task) == [what]
    with pytest.raises(NotAllowed, match=what):
        check_power(caller("deploy"), "shop/web", task)
    check_power(LOCAL, "shop/web", task)
    check_power(caller("deploy"), "shop/web", TaskSpec("a", mounts=(Mount("data", "/data"),)))


async def test_stolen_node_can_neither_read_nor_change_what_is_another_nodes() -> None:
    server = Server(MemoryStore(), SystemClock(), random.Random(1))
    await server.prepare()
    running = asyncio.create_task(server.run())
    node = Caller("n1", "worker", "wire")

    async def ask(method: str, path: str, body: object = None, who: Caller = node) -> object:
        return await dispatch(server.handlers, method, path, body, who)

    try:
        async with asyncio.timeout(5):
            while not server.leadership.epoch:
                await asyncio.sleep(0.01)
        capacity = {"capacity": {"cpus": 2, "memory_bytes": 2**30}}
        await ask("POST", "/v1/nodes/n2/register", capacity, LOCAL)
        await ask("PUT", "/v1/apps/shop", {"services": {"web": {"task": {"image": "web:1"}}}}, LOCAL)
        async with asyncio.timeout(5):
            while not [task for task in server.loop.cache.tasks.values() if task.node == "n2"]:
                await asyncio.sleep(0.01)
        task = next(iter(server.loop.cache.tasks))
        await ask("POST", "/v1/nodes/n1/register", capacity)
        await ask("POST", "/v1/nodes/n1/statuses", [{"task": task, "status": {"state": "failed"}}])
        assert server.loop.cache.tasks[task].status.state != "failed"
        listed = await ask("GET", "/v1/endpoints?node=n1")
        assert isinstance(listed, dict)
        assert listed["items"] == []
        for method, path in (
            ("GET", "/v1/tasks?node=n2"),
            ("GET", "/v1/tasks"),
            ("GET", "/v1/endpoints?node=n2"),
            ("GET", "/v1/watch/tasks?revision=1&node=n2"),
            ("GET", "/v1/watch/events?revision=1"),
            ("GET", "/v1/backup"),
            ("GET", "/v1/apps"),
            ("POST", "/v1/nodes/n2/heartbeat"),
            ("POST", "/v1/nodes/n2/statuses"),
            ("POST", f"/v1/tasks/{task}/exec"),
            ("DELETE", "/v1/apps/shop"),
        ):
            with pytest.raises(MiniorchError) as refused:
                await ask(method, path, {})
            assert isinstance(refused.value, NotAllowed | NotFound), (method, path)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.store.close()


async def test_who_is_refused_is_told_who_may_with_the_names_that_were_asked_for() -> None:
    route = next(one for one in ROUTES if one.handler == "scale")
    call = Call(Caller("ann", "view", "tls", "", "k"), {"app": "shop", "service": "web"})
    with pytest.raises(NotAllowed) as refusal:
        admit(route, call, Member("ann", "view", "k", 0.0, 0.0))
    assert refusal.value.message == ("PUT /v1/services/shop/web/replicas is for deploy, admin; ann has the role view")
    nobody = Call(Caller(via="tls"), {"kind": "apps"})
    listing = next(one for one in ROUTES if one.handler == "list_kind")
    with pytest.raises(NotAllowed, match="/v1/apps is for view, deploy, admin, and no certificate was shown"):
        admit(listing, nobody, None)
