"""The agent's loop against a server of thirty lines and the simulation's engine, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agent.addresses import REST_SECONDS
from agent.agent import Agent
from agent.engine import ContainerSpec
from miniorch.codec import to_plain
from miniorch.errors import Unreachable
from miniorch.model import DesiredState, Endpoints, Node, Status, Task, TaskState
from miniorch.simulation.engine import Behaviour
from miniorch.simulation.loop import VirtualClock
from miniorch.simulation.machine import Machine
from miniorch.spec import HealthCheck, Mount, Port, Resources, TaskSpec

NODE = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())
SPEC = TaskSpec("web:1", stop_grace_seconds=5.0)


class Server:
    """Lists and watches tasks, keeps what is reported. `away` makes it unreachable; it may be slow to list a kind."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.endpoints: list[Endpoints] = []
        self.away = False
        self.unlisted = ""
        self.node = NODE
        self.posts: list[tuple[float, str, Any]] = []
        self.changed = asyncio.Event()
        self.revision = 1

    def put(self, *tasks: Task) -> None:
        self.tasks.update({task.id: task for task in tasks})
        self._tell()

    def tell(self, endpoints: Endpoints) -> None:
        self.endpoints = [endpoints]
        self._tell()

    def _tell(self) -> None:
        self.revision += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        await asyncio.sleep(0.001)
        if self.away:
            raise Unreachable("away")
        action = path.split("?")[0].rpartition("/")[2]
        if method == "GET":
            if action == self.unlisted:
                raise Unreachable("not yet")
            items = {"tasks": [*self.tasks.values()], "endpoints": self.endpoints}.get(action, [])
            return to_plain({"revision": self.revision, "items": items})
        self.posts.append((asyncio.get_running_loop().time(), action, body))
        if action == "statuses":
            for report in body:
                self.tasks[report["task"]] = replace(self.tasks[report["task"]], status=report["status"])
            self._tell()
        return to_plain(self.node) if action == "register" else {}

    async def stream(self, path: str) -> AsyncIterator[Any]:
        while not self.away:
            changed = self.changed
            yield {"revision": self.revision}
            if "/tasks" in path:
                for task in list(self.tasks.values()):
                    yield to_plain({"revision": self.revision, "put": task})
            for one in self.endpoints if "/endpoints" in path else ():
                yield to_plain({"revision": self.revision, "put": one})
            await changed.wait()
        raise Unreachable("away")

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def is_in(self, state: TaskState, task: str = "t1", seconds: float = 60.0) -> Status:
        await self.until(lambda: self.tasks[task].status.state is state, seconds)
        return self.tasks[task].status


def task(name: str = "t1", **changes: Any) -> Task:
    made = Task(name, "chat", "web", 1, SPEC, 0.0, node="node1", status=Status(TaskState.ASSIGNED))
    return replace(made, **changes)


class Stage:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.server = Server()
        self.machine = Machine(self.clock, random.Random(1))
        self.engine = self.machine.engine
        self.agent: asyncio.Task[None] | None = None

    def start(self) -> None:
        made = Agent(
            self.server, self.engine, self.machine.ingress, "node1", self.clock, random.Random(2), self.machine.files
        )
        self.agent = asyncio.get_running_loop().create_task(made.run())

    async def crash(self) -> None:
        assert self.agent is not None
        self.agent.cancel()
        await asyncio.gather(self.agent, return_exceptions=True)


pytestmark = pytest.mark.virtual(seed=1)


@pytest.fixture
@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    stage.start()
    yield stage
    await stage.crash()


async def test_task_goes_through_its_life(stage: Stage) -> None:
    stage.server.put(task())
    status = await stage.server.is_in(TaskState.RUNNING)
    assert (status.address, status.message) == ("10.200.0.2", "")
    stage.server.put(replace(stage.server.tasks["t1"], desired_state=DesiredState.REMOVED))
    await stage.server.is_in(TaskState.SHUTDOWN)
    await stage.server.until(lambda: stage.server.tasks["t1"].status.container_id == "")
    assert stage.engine.boxes == {}


async def test_images_are_told_when_they_are_others_and_only_then(stage: Stage) -> None:
    told: list[Any] = []

    def listen() -> None:
        told[:] = [
            body["images"] for _, action, body in stage.server.posts if "images" in body and action != "statuses"
        ]

    stage.server.put(task())
    await stage.server.is_in(TaskState.RUNNING)
    await stage.server.until(lambda: listen() or len(told) == 2, seconds=3.0)
    assert told == [[], ["web:1"]]
    await asyncio.sleep(200.0)
    listen()
    assert told == [[], ["web:1"]]
    stage.server.away = True
    await stage.engine.pull("redis:7", lambda line: None)
    await asyncio.sleep(200.0)
    stage.server.away = False
    await stage.server.until(lambda: listen() or ["redis:7", "web:1"] in told, seconds=10.0)


async def test_address_rests_before_it_is_given_again(stage: Stage) -> None:
    stage.server.node = replace(NODE, subnet="10.200.0.0/29")  # room for five

    async def begins(name: str) -> str:
        stage.server.put(task(name))
        return (await stage.server.is_in(TaskState.RUNNING, name)).address

    async def ends(name: str) -> None:
        stage.server.put(replace(stage.server.tasks[name], desired_state=DesiredState.REMOVED))
        await stage.server.until(lambda: stage.server.tasks[name].status.container_id == "")

    assert [await begins("t1"), await begins("t2")] == ["10.200.0.2", "10.200.0.3"]
    await ends("t2")
    assert [await begins(name) for name in ("t3", "t4", "t5")] == ["10.200.0.4", "10.200.0.5", "10.200.0.6"]
    await asyncio.sleep(REST_SECONDS)
    await ends("t1")
    assert await begins("t6") == "10.200.0.3", "the other one was given up a moment ago"


async def test_nothing_is_removed_before_the_server_has_listed_tasks(stage: Stage) -> None:
    stage.server.put(task())
    await stage.server.is_in(TaskState.RUNNING)
    await stage.crash()
    stage.server.away = True
    stage.start()
    await asyncio.sleep(60)
    assert len(stage.engine.boxes) == 1
    stage.server.away, stage.server.unlisted = False, "tasks"
    await asyncio.sleep(60)
    assert len(stage.engine.boxes) == 1
    stage.server.unlisted = ""
    await asyncio.sleep(20)
    assert [box.state for box in stage.engine.boxes.values()] == ["running"]


async def test_nothing_is_made_before_it_is_known_what_its_environment_says_of_others(stage: Stage) -> None:
    stage.server.endpoints = [Endpoints("chat", "db", "10.201.0.4")]
    stage.server.unlisted = "endpoints"
    stage.server.put(task())
    await asyncio.sleep(60)
    assert stage.engine.boxes == {}
    stage.server.unlisted = ""
    await stage.server.is_in(TaskState.RUNNING)
    (box,) = stage.engine.boxes.values()
    assert box.spec.environment["DB_SERVICE_HOST"] == "10.201.0.4"


async def test_container_of_a_task_that_nobody_knows_is_removed(stage: Stage) -> None:
    image = await stage.engine.pull("web:1", lambda line: None)
    await stage.server.until(lambda: any(action == "heartbeat" for _, action, _ in stage.server.posts))
    spec = ContainerSpec("x", "ghost", image, "10.200.0.9", "x", None, None, {}, {}, Resources())
    await stage.engine.create(spec)
    await stage.server.until(lambda: not stage.engine.boxes)


async def test_reports_wait_for_a_server_that_is_away(stage: Stage) -> None:
    stage.server.put(task())
    await stage.server.is_in(TaskState.PREPARING)
    stage.server.away = True
    stage.server._tell()
    await asyncio.sleep(30)
    assert stage.server.tasks["t1"].status.state is TaskState.PREPARING
    assert [box.state for box in stage.engine.boxes.values()] == ["running"]
    stage.server.away = False
    await stage.server.is_in(TaskState.RUNNING, seconds=5)


async def test_older_report_that_comes_after_a_newer_one_is_put_right(stage: Stage) -> None:
    stage.server.put(task())
    older = await stage.server.is_in(TaskState.RUNNING)
    stage.server.put(replace(stage.server.tasks["t1"], desired_state=DesiredState.REMOVED))
    await stage.server.until(lambda: stage.server.tasks["t1"].status.state is TaskState.SHUTDOWN)
    await stage.server.until(lambda: not stage.server.tasks["t1"].status.container_id)
    ended = stage.server.tasks["t1"]
    for seconds in (0.0, 5.0):  # the network has kept it for so long
        await asyncio.sleep(seconds)
        late = replace(ended.status, container_id=older.container_id)
        stage.server.put(replace(ended, status=late))
        await stage.server.until(lambda: not stage.server.tasks["t1"].status.container_id)


async def test_how_long_a_task_ran_is_measured_here_whatever_the_wall_clock_does_and_whoever_is_away(
    stage: Stage,
) -> None:
    stage.server.put(task())
    await stage.server.is_in(TaskState.PREPARING)
    stage.server.away = True
    stage.server._tell()
    await asyncio.sleep(30)
    stage.server.away = False
    await stage.server.is_in(TaskState.RUNNING)
    stage.clock.jump(-3600.0)
    await asyncio.sleep(60)
    assert stage.server.tasks["t1"].status.ran_seconds == 0.0
    stage.engine.kill("t1")
    status = await stage.server.is_in(TaskState.FAILED)
    (box,) = stage.engine.boxes.values()
    assert status.ran_seconds == pytest.approx(stage.clock.monotonic() - box.started_at, abs=1.0)
    assert status.ran_seconds > 80


async def test_many_reports_are_few_requests(stage: Stage) -> None:
    names = [f"t{number}" for number in range(40)]
    stage.server.put(*(task(name, slot=number) for number, name in enumerate(names)))
    for name in names:
        await stage.server.is_in(TaskState.RUNNING, name)
    posts = [at for at, action, _ in stage.server.posts if action == "statuses"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(posts)]
    assert min(gaps) > 0.1 - 1e-6  # moments are floats
    assert len({status.address for status in (one.status for one in stage.server.tasks.values())}) == 40


async def test_image_is_given_up_when_its_task_is_not_wanted_any_more(stage: Stage) -> None:
    stage.engine.behave("web:1", Behaviour(pull_seconds=1000.0))
    stage.server.put(task())
    await stage.server.is_in(TaskState.PREPARING)
    stage.server.put(replace(stage.server.tasks["t1"], desired_state=DesiredState.SHUTDOWN))
    await stage.server.is_in(TaskState.SHUTDOWN, seconds=5)
    assert stage.engine.boxes == {}


async def test_unhealthy_task_fails_with_its_last_probe_and_leaves_no_process(stage: Stage) -> None:
    stage.engine.behave("web:1", Behaviour(healthy_after_seconds=None))
    check = HealthCheck(("true",), interval_seconds=1.0, retries=2, start_period_seconds=5.0)
    stage.server.put(task(spec=replace(SPEC, healthcheck=check)))
    assert (await stage.server.is_in(TaskState.STARTING)).health == "starting"
    status = await stage.server.is_in(TaskState.FAILED)
    assert status.message == "never became healthy: not healthy"
    assert [box.state for box in stage.engine.boxes.values()] == ["exited"]


async def test_while_no_server_answers_an_unhealthy_task_serves_on_and_is_dealt_with_afterwards(stage: Stage) -> None:
    check = HealthCheck(("true",), interval_seconds=1.0, retries=2)
    stage.server.put(task(spec=replace(SPEC, healthcheck=check)))
    await stage.server.is_in(TaskState.RUNNING)
    stage.server.away = True
    stage.server._tell()
    await asyncio.sleep(5)
    stage.engine.sicken("t1")
    await asyncio.sleep(300)
    assert [box.state for box in stage.engine.boxes.values()] == ["running"]
    stage.server.away = False
    status = await stage.server.is_in(TaskState.FAILED, seconds=15)
    assert status.message == "became unhealthy: not healthy"
    told = [body[0]["status"] for _, action, body in stage.server.posts if action == "statuses"]
    ends = [(one.state, one.health) for one in told][-2:]
    assert ends == [(TaskState.RUNNING, "unhealthy"), (TaskState.FAILED, "unhealthy")]
    assert [box.state for box in stage.engine.boxes.values()] == ["exited"]


async def test_a_mount_of_what_is_not_there_is_rejected_by_name(stage: Stage) -> None:
    stage.server.put(task(spec=replace(SPEC, mounts=(Mount("", "/data", host_path="/missing/data"),))))
    status = await stage.server.is_in(TaskState.REJECTED)
    assert "there is no /missing/data on this machine" in status.message
    assert stage.engine.boxes == {}


async def test_engine_that_is_away_fails_no_task(stage: Stage) -> None:
    check = HealthCheck(("true",), interval_seconds=1.0, retries=1)
    stage.server.put(task(spec=replace(SPEC, healthcheck=check)))
    await stage.server.is_in(TaskState.RUNNING)
    stage.engine.restart(20.0)
    await stage.server.until(lambda: any(b.get("ready") is False for _, a, b in stage.server.posts if a == "heartbeat"))
    stage.server.put(task("t2"))
    await stage.server.is_in(TaskState.RUNNING, "t2")
    assert stage.server.tasks["t1"].status.state is TaskState.RUNNING


async def test_container_that_a_killed_engine_made_by_half_is_made_again(stage: Stage) -> None:
    stage.server.put(task())
    await stage.server.until(lambda: stage.engine.boxes)
    (half,) = stage.engine.boxes
    stage.engine.restart(1.0)
    await stage.server.is_in(TaskState.RUNNING)
    ((made, box),) = stage.engine.boxes.items()
    assert (box.state, made == half) == ("running", False)
    told = {one["status"].state for _, action, body in stage.server.posts if action == "statuses" for one in body}
    assert told <= {TaskState.PREPARING, TaskState.STARTING, TaskState.RUNNING}, "nobody hears of a failure"


async def test_heartbeat_names_ports_in_foreign_hands(stage: Stage) -> None:
    stage.machine.ingress.held = {5000: "nginx (pid 12)"}
    await asyncio.sleep(3)
    beats = [body for _, action, body in stage.server.posts if action == "heartbeat"]
    assert beats[-1] == {"ready": True, "message": "", "ports_in_use": {"5000": "nginx (pid 12)"}}
    assert 2 <= len(beats) <= 4


async def test_the_revision_that_traffic_follows_is_told_while_a_backend_drains_and_somebody_waits_for_it(
    stage: Stage,
) -> None:
    def told() -> list[Any]:
        return [body for _, action, body in stage.server.posts if action == "applied"]

    db = Endpoints("chat", "db", "10.201.0.4", draining=True)
    web = Endpoints("chat", "web", "10.201.0.3", (Port(5000, 80),))
    stage.server.tell(db)
    stage.server.tell(web)
    await asyncio.sleep(30)
    assert told() == [], "no proxy sends anything to what has no published ports"
    stage.server.tell(replace(web, draining=True))
    revision = stage.server.revision
    await stage.server.until(lambda: {"component": "agent", "revision": revision} in told(), 1.0)
    stage.server.tell(web)
    await asyncio.sleep(1)
    count = len(told())
    await asyncio.sleep(30)
    assert len(told()) == count


@pytest.mark.parametrize("milliseconds", range(0, 3000, 150))
async def test_agent_that_is_killed_at_any_moment_doubles_nothing(stage: Stage, milliseconds: int) -> None:
    stage.server.put(task("t1"), task("t2", slot=2))
    await asyncio.sleep(milliseconds / 1000)
    await stage.crash()
    stage.start()
    await stage.server.is_in(TaskState.RUNNING, "t1")
    await stage.server.is_in(TaskState.RUNNING, "t2")
    assert sorted(box.spec.task for box in stage.engine.boxes.values()) == ["t1", "t2"]
    assert all(box.state == "running" and not box.told for box in stage.engine.boxes.values())
