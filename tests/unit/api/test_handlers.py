"""The API without a socket: handlers, control loops and a memory store, called through `dispatch`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest

from miniorch.api.apply import CHANGES_TOLD
from miniorch.api.handlers import Handlers
from miniorch.api.routes import Call, dispatch
from miniorch.clock import SystemClock
from miniorch.codec import from_plain, to_plain
from miniorch.ending import end
from miniorch.errors import Conflict, MiniorchError, NotAllowed, NotFound, NotLeader, Unreachable, UsageError
from miniorch.identity import LOCAL, Caller
from miniorch.model import Node, NodeState
from miniorch.server import Server
from miniorch.spec import (
    AppSpec,
    Condition,
    Constraint,
    Mount,
    Placement,
    Port,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from miniorch.state.memory import MemoryStore
from miniorch.state.records import from_entry, put
from scheduler.spellings import classic, expression, marathon

NOTHING = Resources()
SHOP = AppSpec(
    services={
        "web": ServiceSpec(
            TaskSpec("web:1"), replicas=2, ports=(Port(5000, 80),), depends_on={"db": Condition.HEALTHY}
        ),
        "db": ServiceSpec(TaskSpec("db:1", mounts=(Mount("data", "/data"),))),
    },
    volumes=("data",),
)


def placed(placement: Placement, reserved: Resources = NOTHING) -> AppSpec:
    return AppSpec({"web": ServiceSpec(TaskSpec("x", reserved=reserved), placement=placement)})


def with_image(image: str) -> AppSpec:
    web = SHOP.services["web"]
    return replace(SHOP, services={**SHOP.services, "web": replace(web, task=replace(web.task, image=image))})


class Api:
    """Calls like a client, and acts like the agent of one node."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, method: str, path: str, body: object = None) -> Any:
        return await dispatch(self.server.handlers, method, path, to_plain(body))

    async def items(self, kind: str) -> list[Any]:
        return list((await self("GET", f"/v1/{kind}"))["items"])

    async def register(self, node: str = "n1") -> Any:
        body = {"capacity": {"cpus": 2, "memory_bytes": 2**30}, "engine": "Fake 1"}
        return await self("POST", f"/v1/nodes/{node}/register", body)

    async def report(self, task: str, **status: Any) -> None:
        await self("POST", "/v1/nodes/n1/statuses", [{"task": task, "status": status}])

    async def run_all(self) -> None:
        """Report every assigned task as running, and do as desired of those that are to stop."""
        listed = await self("GET", "/v1/endpoints")
        for component in ("agent", "net"):
            body = {"component": component, "revision": listed["revision"]}
            await self("POST", "/v1/nodes/n1/applied", body)
        for task in await self.items("tasks"):
            if task["node"] and task["status"]["state"] in ("assigned", "draining", "running"):
                wanted = {"running": "running", "draining": "draining"}.get(task["desired_state"], "shutdown")
                await self.report(task["id"], state=wanted, address="10.200.0.9")

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(5):
            while not await condition():
                await self.run_all()
                await asyncio.sleep(0)


@pytest.fixture
@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    store = MemoryStore()
    made = Server(store, SystemClock(), random.Random(1))
    await made.prepare()
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(5):
        while not made.leadership.epoch:
            await asyncio.sleep(0)
    try:
        yield Api(made)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def states(api: Api) -> dict[str, str]:
    tasks = await api.items("tasks")
    return {f"{task['service']}.{task['slot']}": task["status"]["state"] for task in tasks}


async def test_an_app_comes_up_in_the_order_of_its_dependencies(api: Api) -> None:
    node = await api.register()
    assert (node["subnet"], node["pool_address"]) == ("10.200.0.0/24", "10.200.0.1")
    answer = await api("PUT", "/v1/apps/shop", SHOP)
    assert {change["service"]: change["action"] for change in answer["changes"]} == {
        "db": "create",
        "web": "create",
    }

    async def up() -> bool:
        return await states(api) == {"db.1": "running", "web.1": "running", "web.2": "running"}

    await api.until(up)
    tasks = {task["service"]: task for task in await api.items("tasks")}
    assert tasks["db"]["created_at"] <= tasks["web"]["created_at"]
    assert [volume["node"] for volume in await api.items("volumes")] == ["n1"]
    messages = [f"{event['subject']}: {event['message']}" for event in await api.items("events")]
    web_assigned = next(number for number, text in enumerate(messages) if text.startswith("shop/web.1: assigned"))
    assert messages.index("shop/db.1: running") < web_assigned


async def test_the_same_file_twice_changes_nothing(api: Api) -> None:
    await api("PUT", "/v1/apps/shop", SHOP)
    before = await api.items("services")
    answer = await api("PUT", "/v1/apps/shop", SHOP)
    assert [change["action"] for change in answer["changes"]] == ["keep", "keep"]
    assert await api.items("services") == before


async def test_a_file_is_applied_only_if_nothing_has_changed_since_its_plan(api: Api) -> None:
    await api.register()
    plan = await api("POST", "/v1/apps/shop/plan", SHOP)
    assert [change["action"] for change in plan["changes"]] == ["create", "create"]
    assert {place["task"]: place["after"] for place in plan["places"]} == {
        "shop/db.1": "n1",
        "shop/web.1": "n1",
        "shop/web.2": "n1",
    }
    assert await api.items("services") == []
    applied = await api("PUT", f"/v1/apps/shop?if_revision={plan['revision']}", SHOP)
    # The same once more is no change, so it is not refused: a client asks again when the answer was lost.
    assert (await api("PUT", f"/v1/apps/shop?if_revision={plan['revision']}", SHOP))["changes"][0]["action"] == "keep"
    await api("PUT", "/v1/services/shop/web/replicas", {"replicas": 3})
    with pytest.raises(Conflict, match=r"shop has changed at revision \d+, after revision"):
        await api("PUT", f"/v1/apps/shop?if_revision={applied['revision']}", SHOP)
    with pytest.raises(Conflict, match=r"revision 99999999 is still to come, the newest is \d+"):
        await api("PUT", "/v1/apps/shop?if_revision=99999999", SHOP)
    with pytest.raises(UsageError, match="a revision is a whole number, got 'x'"):
        await api("PUT", "/v1/apps/shop?if_revision=x", SHOP)


async def test_a_rule_may_have_the_text_that_it_was_read_from_and_name_services_that_are_there_or_elsewhere(
    api: Api,
) -> None:
    rules = [
        replace(expression("node.labels.disk==ssd"), weight=5), expression("service not matches log-*"),
        classic("constraint", "storage==~ssd"), *marathon(["rack", "LIKE", "r[1, 2]*"]),
        Constraint("service", "==", ("web",)), Constraint("service", "!=", ("asleep",)),
        Constraint("service", "==", ("elsewhere/db",)), Constraint("service", "in", ("web", "asleep")),
        Constraint("service", "==", ("wished",), weight=1), Constraint("task", "matches", ("^web-.$",)),
    ]  # fmt: skip
    await api("PUT", "/v1/apps/shop", placed(Placement(tuple(rules))))
    (kept,) = await api.items("services")
    assert kept["spec"]["placement"]["constraints"] == to_plain(rules)


async def test_a_plan_of_an_app_that_was_removed_since_is_refused(api: Api) -> None:
    await api("PUT", "/v1/apps/shop", with_image("web:1"))
    plan = await api("POST", "/v1/apps/shop/plan", SHOP)
    await api("DELETE", "/v1/apps/shop")

    async def gone() -> bool:
        return await api.items("apps") == []

    await api.until(gone)
    with pytest.raises(Conflict, match=r"shop was removed at revision \d+, after revision"):
        await api("PUT", f"/v1/apps/shop?if_revision={plan['revision']}", SHOP)
    await api("PUT", f"/v1/apps/other?if_revision={plan['revision']}", placed(Placement()))
    fresh = await api("POST", "/v1/apps/shop/plan", SHOP)
    await api("PUT", f"/v1/apps/shop?if_revision={fresh['revision']}", SHOP)


async def test_what_events_no_longer_tell_is_taken_for_a_removal(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    early = await api("POST", "/v1/apps/shop/plan", SHOP)
    await api("PUT", "/v1/apps/other", placed(Placement()))
    monkeypatch.setattr("miniorch.api.handlers.EVENTS_KEPT", len(await api.items("events")))
    with pytest.raises(Conflict, match=r"shop may have been removed after revision"):
        await api("PUT", f"/v1/apps/shop?if_revision={early['revision']}", SHOP)
    late = await api("POST", "/v1/apps/shop/plan", SHOP)
    await api("PUT", f"/v1/apps/shop?if_revision={late['revision']}", SHOP)


async def test_a_port_of_another_app_is_refused_with_its_holder(api: Api) -> None:
    await api("PUT", "/v1/apps/shop", SHOP)
    with pytest.raises(Conflict, match="port 5000, which shop/web publishes already"):
        await api("PUT", "/v1/apps/other", SHOP)
    assert [app["name"] for app in await api.items("apps")] == ["shop"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AppSpec({}), "no services"),
        (AppSpec({"Web": ServiceSpec(TaskSpec("x"))}), "service name"),
        (
            placed(Placement((Constraint("service", "==", ("dbb",)),))),
            "web wants service == dbb beside it, and the app has no such service",
        ),
        (
            placed(Placement((Constraint("service", "in", ("dbb", "mq"), "node.labels.zone"),))),
            "wants service in dbb, mq",
        ),
        (placed(Placement((Constraint("service", "matches", ("^dbb$",)),))), "and the app has no such service"),
        (
            placed(Placement((Constraint("node.labels.disk", "==", ("hdd",), text="node.labels.disk == ssd"),))),
            r'web: the text of a rule means something else, "node.labels.disk == ssd" is not node.labels.disk == hdd',
        ),
        (
            placed(Placement((Constraint("service", "!=", ("web",), text="affinity:container!=~web"),))),
            "means something",
        ),
        (placed(Placement((Constraint("replicas", "<=", ("2",), text="[hostname, UNIQUE]"),))), "means something else"),
        (placed(Placement((Constraint("node.role", "==", ("manager",), text="nonsense"),))), "means something else"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), replicas=-1)}), "replicas"),
        (AppSpec({"web": ServiceSpec(TaskSpec(""))}), "no image"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), ports=(Port(0, 80),))}), "between 1 and 65535"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), depends_on={"db": Condition.STARTED})}), "depends on db"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x", mounts=(Mount("data", "/d"),)))}), "does not declare"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x", mounts=(Mount("../up", "/d"),)))}, ("../up",)), "does not declare"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x", mounts=(Mount("", "/d", host_path="src"),)))}), "absolute path"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x", mounts=(Mount("v", "/d", host_path="/s"),)))}, ("v",)), "volume or"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x", mounts=(Mount("", "d", host_path="/s"),)))}), "absolute place"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), restart=RestartPolicy(max_attempts=-1))}), "negative"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), restart=RestartPolicy(delay_seconds=-1.0))}), "negative"),
        (AppSpec({"web": ServiceSpec(TaskSpec("x"), aliases=("Up_",))}), "lower-case"),
        (
            AppSpec({"web": ServiceSpec(TaskSpec("x"), aliases=("db",)), "db": ServiceSpec(TaskSpec("x"))}),
            "the name of service db",
        ),
        (
            AppSpec({name: ServiceSpec(TaskSpec("x"), aliases=("sql",)) for name in ("a", "b")}),
            "b: the alias sql is an alias of a",
        ),
        (placed(Placement((Constraint("node.lables.disk", "==", ("ssd",)),))), 'no attribute "node.lables.disk"'),
        (placed(Placement((Constraint("node.role", "like", ("x",)),))), 'no operator "like"'),
        (placed(Placement((Constraint("node.role", "matches", ("(",)),))), "is no pattern"),
        (placed(Placement((Constraint("node.role", "==", ("a",)),) * 101)), "more than 100 placement rules"),
        (placed(Placement(spread=("zone",))), 'no attribute "zone" to spread over'),
        (placed(Placement(strategy="spraed")), "no strategy 'spraed'"),
        (placed(Placement(max_per_node=-1)), "max_replicas_per_node wants 0 to 10000, got -1"),
        (placed(Placement(), Resources(generic={"gpu": 0})), "reserves 0 of 'gpu'"),
        (placed(Placement(), Resources(generic={"a b": 1})), "reserves 1 of 'a b'"),
        (placed(Placement(), Resources(generic={"memory": 1})), "reserves 1 of 'memory'"),
        (placed(Placement(platforms=("linux/amd64",) * 101)), "more than 100 placement rules"),
        (placed(Placement(platforms=("linux\n",))), "a platform is a system and a processor"),
    ],
)
async def test_a_spec_that_makes_no_sense_is_refused_and_nothing_is_written(
    api: Api, spec: AppSpec, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await api("PUT", "/v1/apps/shop", spec)
    assert await api.items("apps") == []


async def test_scaling_changes_only_the_number(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)
    await api("PUT", "/v1/services/shop/web/replicas", {"replicas": 4})

    async def four() -> bool:
        return len(await states(api)) == 5

    await api.until(four)
    with pytest.raises(UsageError, match="whole number"):
        await api("PUT", "/v1/services/shop/web/replicas", {"replicas": "4"})
    with pytest.raises(NotFound, match="no such service"):
        await api("PUT", "/v1/services/shop/nope/replicas", {"replicas": 1})


async def test_restart_begins_a_round_that_no_apply_takes_back(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)

    async def round_runs() -> set[tuple[str, int]]:
        tasks = [task for task in await api.items("tasks") if task["status"]["state"] == "running"]
        return {(f"{task['service']}.{task['slot']}", task["round"]) for task in tasks}

    async def first() -> bool:
        return await round_runs() == {("db.1", 0), ("web.1", 0), ("web.2", 0)}

    async def second() -> bool:
        return await round_runs() == {("db.1", 0), ("web.1", 1), ("web.2", 1)}

    await api.until(first)
    await api("POST", "/v1/services/shop/web/restart")
    await api.until(second)
    changed = replace(SHOP, services={**SHOP.services, "web": replace(SHOP.services["web"], aliases=("www",))})
    await api("PUT", "/v1/apps/shop", changed)
    assert [service["round"] for service in await api.items("services")] == [0, 1]
    assert await second()
    with pytest.raises(NotFound, match="no such service"):
        await api("POST", "/v1/services/shop/nope/restart")


async def test_every_change_by_a_file_is_a_release_that_goes_with_the_app(api: Api) -> None:
    await api("PUT", "/v1/apps/shop", SHOP)
    await api("PUT", "/v1/apps/shop", SHOP)
    await api("PUT", "/v1/services/shop/web/replicas", {"replicas": 4})
    await api("PUT", "/v1/apps/shop", SHOP)
    await api("PUT", "/v1/apps/other", AppSpec({"web": ServiceSpec(TaskSpec("x"))}))
    listed = (await api("GET", "/v1/releases?app=shop"))["items"]
    assert [(one["number"], one["changes"]) for one in listed] == [
        (1, ["create db: 1 x db:1", "create web: 2 x web:1"]),
        (2, ["scale web: replicas 4 -> 2"]),
    ]
    await api("DELETE", "/v1/apps/shop")

    async def gone() -> bool:
        return [one["app"] for one in await api.items("releases")] == ["other"]

    await api.until(gone)


async def test_release_with_many_changes_tells_the_first_ones(api: Api) -> None:
    await api("PUT", "/v1/apps/big", AppSpec({f"s{n}": ServiceSpec(TaskSpec("x")) for n in range(CHANGES_TOLD + 7)}))
    (release,) = await api.items("releases")
    assert (len(release["changes"]), release["changes"][-1]) == (CHANGES_TOLD + 1, "and 7 more")


async def test_events_of_one_app_are_those_that_name_it(api: Api) -> None:
    await api.register("shop")  # a node of the same name
    for name in ("shop", "shop2"):
        await api("PUT", f"/v1/apps/{name}", AppSpec({"web": ServiceSpec(TaskSpec("x"))}))
    subjects = {event["subject"] for event in (await api("GET", "/v1/events?app=shop"))["items"]}
    assert subjects >= {"shop", "shop/web"}
    assert not [subject for subject in subjects if subject.partition("/")[0] != "shop"]
    of_node = (await api("GET", "/v1/events?node=shop"))["items"]
    assert {event["kind"] for event in of_node} == {"node"}


async def test_a_task_never_moves_backwards_and_never_comes_back(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)

    async def db_runs() -> bool:
        return (await states(api)).get("db.1") == "running"

    await api.until(db_runs)
    db = next(task for task in await api.items("tasks") if task["service"] == "db")
    await api.report(db["id"], state="starting")
    assert (await states(api))["db.1"] == "running"
    await api.report(db["id"], state="failed", exit_code=1)
    await api.report(db["id"], state="shutdown")
    after = next(task for task in await api.items("tasks") if task["id"] == db["id"])
    assert (after["status"]["state"], after["status"]["exit_code"]) == ("failed", 1)


async def test_a_removed_app_is_gone_with_all_its_tasks_and_keeps_its_volume_unless_told(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)

    async def up() -> bool:
        return list((await states(api)).values()) == ["running"] * 3

    async def gone() -> bool:
        return await api.items("apps") == []

    await api.until(up)
    await api("DELETE", "/v1/apps/shop")
    with pytest.raises(Conflict, match="being removed"):
        await api("PUT", "/v1/apps/shop", SHOP)
    await api.until(gone)
    assert [await api.items(kind) for kind in ("tasks", "services", "endpoints")] == [[], [], []]
    assert len(await api.items("volumes")) == 1
    await api("DELETE", "/v1/apps/shop?volumes=1")

    async def wiped() -> bool:
        await api("POST", "/v1/nodes/n1/volumes-removed", ["shop/data"])
        return await api.items("volumes") == [] and await gone()

    await api.until(wiped)
    with pytest.raises(NotFound, match="no app shop"):
        await api("DELETE", "/v1/apps/shop")


async def stream(handlers: Handlers, path: str) -> AsyncGenerator[Any, None]:
    """The lines of a watch, decoded."""
    watch = await dispatch(handlers, "GET", path, read=lambda watch: watch)
    with closing(watch):
        while found := await watch.take():
            for line in found:
                yield to_plain(line)


async def test_a_watch_goes_on_from_a_list_and_filters(api: Api) -> None:
    revision = (await api("GET", "/v1/services"))["revision"]
    await api("PUT", "/v1/apps/shop", SHOP)
    lines = stream(api.server.handlers, f"/v1/watch/services?revision={revision}&app=shop")
    assert await anext(lines) == {"revision": revision}
    first, second = await anext(lines), await anext(lines)
    assert [line["put"]["name"] for line in (first, second)] == ["db", "web"]
    await lines.aclose()
    assert first["revision"] == revision < second["revision"]  # a break between the two must not lose the second
    lines = stream(api.server.handlers, f"/v1/watch/services?revision={first['revision']}&app=shop")
    assert [await anext(lines), await anext(lines), await anext(lines)][1:] == [first, second]
    await lines.aclose()
    with pytest.raises(UsageError, match="revision"):
        await anext(stream(api.server.handlers, "/v1/watch/services"))
    with pytest.raises(NotFound, match="the server has no cats"):
        await api("GET", "/v1/cats")


async def test_explain_names_every_node_and_rule(api: Api) -> None:
    await api.register()
    await api("POST", "/v1/nodes/n1/heartbeat", {"ports_in_use": {"5000": "nginx (pid 12)"}})
    await api("PUT", "/v1/apps/shop", SHOP)

    async def refused() -> bool:
        explained = (await api("GET", "/v1/explain/shop/web"))["tasks"]
        return len(explained) == 2 and "nginx" in explained[0]["message"]

    await api.until(refused)
    first, second = (await api("GET", "/v1/explain/shop/web"))["tasks"]
    assert (second["now"], second["like"]) == (None, first["task"])
    trace, (remedy, of_service) = first["now"]["trace"], first["now"]["remedies"]
    assert (trace["looked_at"], trace["fitting"], trace["chosen"]) == (1, 0, "")
    (row,) = trace["rows"]
    assert (row["nodes"], row["fits"]) == (["n1"], False)
    assert [rule["rule"] for rule in row["rules"]] == trace["rules"]
    failing = [rule for rule in row["rules"] if not rule["ok"]]
    assert [rule["detail"] for rule in failing] == ["port 5000 is held by nginx (pid 12)"]
    assert (remedy["nodes"], remedy["change"]["what"]) == (["n1"], "nothing else held port 5000")
    assert of_service["change"]["edits"] == [{"kind": "unpublish", "node": "", "key": "5000", "value": ""}]


async def test_a_heartbeat_of_an_unknown_node_asks_it_to_register(api: Api) -> None:
    with pytest.raises(NotFound, match="register"):
        await api("POST", "/v1/nodes/n9/heartbeat", {})
    first, second = await api.register("n1"), await api.register("n2")
    assert (first["subnet"], second["subnet"]) == ("10.200.0.0/24", "10.200.1.0/24")
    assert (await api.register("n1"))["subnet"] == first["subnet"]


@pytest.mark.parametrize("body", [None, [], "x", {"services": 3}, {"services": {"web": {"task": {"image": 1}}}}])
async def test_a_body_of_the_wrong_shape_is_one_readable_refusal(api: Api, body: Any) -> None:
    with pytest.raises(MiniorchError, match=r"wants|lacks"):
        await api("PUT", "/v1/apps/shop", body)


async def test_an_app_with_more_events_than_a_transaction_holds_is_still_one_change(api: Api) -> None:
    many = AppSpec({f"s{number}": ServiceSpec(TaskSpec("x")) for number in range(100)})
    answer = await api("PUT", "/v1/apps/many", many)
    assert len({entry.modified for entry in (await api.server.store.list("/services/")).entries}) == 1
    assert len(answer["changes"]) == 100
    created = [event for event in await api.items("events") if event["message"] == "created"]
    assert len([event for event in created if event["kind"] == "service"]) == 100
    with pytest.raises(UsageError, match="at most 128 can be") as refused:
        await api("PUT", "/v1/apps/more", AppSpec({f"s{n}": ServiceSpec(TaskSpec("x")) for n in range(200)}))
    assert refused.value.remedy == "split the app file into several apps"


async def test_any_number_of_statuses_is_taken_at_once(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/many", AppSpec({"s": ServiceSpec(TaskSpec("x"), 150)}))

    async def placed() -> bool:
        return sum(bool(task["node"]) for task in await api.items("tasks")) == 150

    async with asyncio.timeout(20):
        while not await placed():
            await asyncio.sleep(0.01)
    reports = [{"task": one["id"], "status": {"state": "preparing"}} for one in await api.items("tasks")]
    await api("POST", "/v1/nodes/n1/statuses", reports)
    assert {task["status"]["state"] for task in await api.items("tasks")} == {"preparing"}


async def test_only_the_leader_takes_what_needs_its_memory(api: Api) -> None:
    follower = Api(Server(api.server.store, SystemClock(), random.Random(2), name="other"))
    for path in ("/v1/nodes/n1/register", "/v1/nodes/n1/heartbeat", "/v1/nodes/n1/applied"):
        with pytest.raises(NotLeader):
            await follower("POST", path, {})
    await follower("PUT", "/v1/apps/shop", SHOP)
    following = asyncio.create_task(follower.server.run())
    assert [service["name"] for service in await follower.items("services")] == ["db", "web"]
    await end(following)


async def test_lists_are_refused_while_the_store_is_away_unless_an_old_one_will_do(api: Api) -> None:
    await api("PUT", "/v1/apps/shop", SHOP)
    fresh = await api("GET", "/v1/services?app=shop&stale=1")
    assert "stale" not in fresh
    assert len(fresh["items"]) == 2

    async def away() -> int:
        raise Unreachable("no etcd answers at h:1")

    api.server.store.revision = away  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="no etcd answers at h:1"):
        await api("GET", "/v1/services")
    old = await api("GET", "/v1/services?app=shop&stale=1")
    assert (old["stale"], old["items"]) == (True, fresh["items"])
    assert old["revision"] >= fresh["revision"]
    assert (await api("GET", "/v1/services?app=other&stale=1"))["items"] == []


async def test_where_a_container_is_needs_no_store(api: Api) -> None:
    """So logs, exec and cp, which its agent answers, work while the store is away. Whoever lacks a right still does."""
    spec = TaskSpec("x", mounts=(Mount("", "/a", host_path="/b"),))
    await api.register()
    await api("PUT", "/v1/apps/shop", AppSpec({"web": ServiceSpec(spec)}))

    async def with_a_node() -> list[Any]:
        return [task for task in await api.items("tasks") if task["node"]]

    await api.until(with_a_node)
    handlers, (task,) = api.server.handlers, await with_a_node()

    async def away(*_: object) -> Any:
        raise Unreachable("no etcd answers at h:1")

    api.server.store.get = away  # type: ignore[method-assign]
    call = Call(LOCAL, {"task": task["id"]})
    assert await handlers.node_of(call) == await handlers.inside_of(call) == "n1"
    with pytest.raises(NotAllowed, match="a folder of the node"):
        await handlers.inside_of(replace(call, caller=Caller("ann", "deploy")))
    with pytest.raises(Unreachable, match="no etcd answers at h:1"):
        await handlers.node_of(Call(LOCAL, {"task": "unknown"}))


async def test_a_list_has_everything_that_was_written_before_it(api: Api) -> None:
    for number in range(20):
        await api("PUT", "/v1/apps/shop", with_image(f"web:{number}"))
        (web,) = [one for one in await api.items("services") if one["name"] == "web"]
        assert web["spec"]["task"]["image"] == f"web:{number}"


async def test_heartbeats_say_when_the_next_is_due_and_bring_a_node_back(api: Api) -> None:
    await api.register()
    beat = {"ready": True, "message": "", "ports_in_use": {}}
    assert await api("POST", "/v1/nodes/n1/heartbeat", beat) == {"next_in_seconds": 1.0}
    node = (await api.items("nodes"))[0]
    store = api.server.store
    down = replace(from_plain(Node, node), state=NodeState.DOWN, state_since=1.0)
    await store.txn([], [put(down)])
    await api("POST", "/v1/nodes/n1/heartbeat", beat)
    assert (await api.items("nodes"))[0]["state"] == "ready"
    assert "ready again after" in (await api.items("events"))[-1]["message"]


async def test_labels_and_availability_are_an_administrators_and_survive_the_agent(api: Api) -> None:
    await api.register()
    await api("PATCH", "/v1/nodes/n1", {"labels": {"zone": "b", "disk": "ssd"}, "availability": "drain"})
    await api("PATCH", "/v1/nodes/n1", {"without": ["disk"]})
    await api.register()
    node = (await api.items("nodes"))[0]
    assert (node["labels"], node["availability"]) == ({"zone": "b"}, "drain")
    with pytest.raises(UsageError, match="is no label"):
        await api("PATCH", "/v1/nodes/n1", {"labels": {"a b": "c"}})
    with pytest.raises(UsageError, match="at most 64"):
        await api("PATCH", "/v1/nodes/n1", {"labels": {f"k{n}": "" for n in range(65)}})
    for wrong in ({"resource.gpu": "two"}, {"resource.gpu": "-1"}, {"resource.": "1"}):
        with pytest.raises(UsageError, match="wants a whole number"):
            await api("PATCH", "/v1/nodes/n1", {"labels": wrong})
    await api("PATCH", "/v1/nodes/n1", {"labels": {"resource.gpu": "2"}})


async def test_images_and_labels_of_the_engine_are_the_agents_and_bounded(api: Api) -> None:
    many = [f"image:{n}" for n in range(200)]
    body = {"capacity": {"cpus": 2, "memory_bytes": 2**30}, "images": many, "labels": {"storage": "ssd"}}
    node = await api("POST", "/v1/nodes/n1/register", body)
    assert (len(node["images"]), node["engine_labels"]) == (100, {"storage": "ssd"})
    await api("POST", "/v1/nodes/n1/heartbeat", {})
    assert len((await api.items("nodes"))[0]["images"]) == 100, "who does not speak of images says nothing of them"
    before = (await api("GET", "/v1/nodes"))["revision"]
    for _ in range(2):
        await api("POST", "/v1/nodes/n1/heartbeat", {"images": ["redis:7"]})
    listed = await api("GET", "/v1/nodes")
    assert (listed["items"][0]["images"], listed["revision"]) == (["redis:7"], before + 1)
    with pytest.raises(NotFound):
        await api("PATCH", "/v1/nodes/n7", {})


async def test_node_goes_only_when_nothing_is_lost_or_by_force(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)

    async def up() -> bool:
        return set((await states(api)).values()) == {"running"} and len(await states(api)) == 3

    await api.until(up)
    with pytest.raises(Conflict, match="n1 has the only copy of shop/data"):
        await api("DELETE", "/v1/nodes/n1")
    answer = await api("DELETE", "/v1/nodes/n1?force=1")
    assert answer["lost"] == 3
    assert (await api.items("nodes"), await api.items("volumes")) == ([], [])

    async def replaced() -> bool:
        return "lost" in (await states(api)).values()

    await api.until(replaced)
    await api.register("n2")
    await api("PATCH", "/v1/nodes/n2", {"availability": "drain"})


async def test_empty_node_must_be_drained_before_it_goes(api: Api) -> None:
    await api.register()
    with pytest.raises(Conflict, match="n1 is ready and may get tasks"):
        await api("DELETE", "/v1/nodes/n1")
    await api("PATCH", "/v1/nodes/n1", {"availability": "drain"})
    assert (await api("DELETE", "/v1/nodes/n1"))["lost"] == 0
    with pytest.raises(NotFound, match="register first"):
        await api("POST", "/v1/nodes/n1/heartbeat", {"ready": True, "message": "", "ports_in_use": {}})


async def test_a_decision_is_on_record_with_its_placement_and_goes_with_its_service(api: Api) -> None:
    await api.register()
    await api("PUT", "/v1/apps/shop", SHOP)

    async def up() -> bool:
        return list((await states(api)).values()) == ["running"] * 3

    async def gone() -> bool:
        return await api.items("decisions") == []

    await api.until(up)
    tasks = {task["id"]: f"shop/{task['service']}.{task['slot']}" for task in await api.items("tasks")}
    kept = await api.items("decisions")
    assert {(one["app"], one["service"]) for one in kept} == {("shop", "web"), ("shop", "db")}
    assert sorted(name for one in kept for name in one["tasks"]) == sorted(tasks)
    events = [(one, from_entry(one)) for one in (await api.server.handlers._store.list("/events/")).entries]
    assigned = {event.subject: entry.modified for entry, event in events if event.message == "assigned to n1"}
    for task, name in tasks.items():
        explained = await api("GET", f"/v1/explain/{task}")
        at = explained["tasks"][0]["then"]
        assert at == assigned[name]  # one transaction
        assert [(await api("GET", f"/v1/explain/{task}?at={at}"))["then"]] == explained["decisions"]
        with pytest.raises(NotFound, match=f"before revision {at - 1} is on record; on record: {at}"):
            await api("GET", f"/v1/explain/{task}?at={at - 1}")
    for wrong in ("x", "-1", "9" * 5000):
        with pytest.raises(UsageError, match="a revision is a whole number"):
            await api("GET", f"/v1/explain/shop/web?at={wrong}")
    for path in ("shop/web", next(iter(tasks))):
        with pytest.raises(NotFound, match="at or before revision 0 is on record"):
            await api("GET", f"/v1/explain/{path}?at=0")
    await api("DELETE", "/v1/apps/shop")
    await api.until(gone)
