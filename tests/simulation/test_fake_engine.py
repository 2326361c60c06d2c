"""Faults on order: the fake engine's own rules, beyond the contract that it shares with Docker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.engine import ContainerSpec
from miniorch.errors import EngineError
from miniorch.simulation.engine import Behaviour, FakeEngine
from miniorch.simulation.loop import VirtualClock
from miniorch.spec import Resources

pytestmark = pytest.mark.virtual(seed=1)


@pytest.fixture
@asynccontextmanager
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(VirtualClock(), random.Random(1))
    await engine.use_network("10.200.0.0/24")
    yield engine  # noqa: PT022 (made in the test's own loop)


def spec(image_id: str, task: str = "t1") -> ContainerSpec:
    return ContainerSpec(f"chat-web.1-{task}", task, image_id, "10.200.0.2", "web", None, None, {}, {}, Resources())


async def started(engine: FakeEngine, task: str = "t1") -> str:
    container = await engine.create(spec(await engine.pull("web", lambda line: None), task))
    await engine.start(container)
    return container


async def test_image_that_cannot_be_had_is_an_error_and_comes_back(engine: FakeEngine) -> None:
    engine.fail_pull("web", "no such host")
    with pytest.raises(EngineError, match="no such host") as caught:
        await engine.pull("web", lambda line: None)
    assert not caught.value.temporary
    engine.fail_pull("web", "")
    assert (await engine.pull("web", lambda line: None)).startswith("sha256:")


async def test_operation_goes_on_when_its_caller_dies(engine: FakeEngine) -> None:
    image = await engine.pull("web", lambda line: None)
    agent = asyncio.ensure_future(engine.create(spec(image)))
    await asyncio.sleep(0.01)
    agent.cancel()
    assert await engine.containers() == []
    await asyncio.sleep(1)
    assert [container.task for container in await engine.containers()] == ["t1"]
    assert await engine.create(spec(image)) == (await engine.containers())[0].id


async def test_address_outside_the_nodes_subnet_is_refused(engine: FakeEngine) -> None:
    await engine.use_network("10.200.7.0/24")
    image = await engine.pull("web", lambda line: None)
    with pytest.raises(EngineError, match=r"10\.200\.0\.2"):
        await engine.create(spec(image))


async def test_two_creates_of_one_task_at_once_make_one_container(engine: FakeEngine) -> None:
    image = await engine.pull("web", lambda line: None)
    first, second = await asyncio.gather(engine.create(spec(image)), engine.create(spec(image)))
    assert first == second
    assert len(await engine.containers()) == 1


async def test_container_exits_when_its_image_says_so(engine: FakeEngine) -> None:
    engine.behave("web", Behaviour(exits_after_seconds=5.0, exit_code=3, output=("one", "two")))
    container = await started(engine)
    await asyncio.sleep(6)
    lines = [line async for line in engine.logs(container, tail=10, follow=False)]
    (seen,) = await engine.containers()
    assert (seen.running, seen.started, seen.exit_code) == (False, True, 3)
    assert lines == [b"one\n", b"two\n", b"ended with code 3\n"]


async def test_probe_fails_until_the_container_is_healthy_and_after_it_sickened(engine: FakeEngine) -> None:
    engine.behave("web", Behaviour(healthy_after_seconds=5.0))
    container = await started(engine)
    assert (await engine.run_in(container, ("true",), 1.0)).exit_code == 1
    await asyncio.sleep(6)
    assert (await engine.run_in(container, ("true",), 1.0)).exit_code == 0
    engine.sicken("t1")
    assert (await engine.run_in(container, ("true",), 1.0)).exit_code == 1


async def test_container_that_ignores_sigterm_is_killed_after_the_grace(engine: FakeEngine) -> None:
    engine.behave("web", Behaviour(ignores_term=True))
    container, clock = await started(engine), VirtualClock()
    began = clock.monotonic()
    await engine.stop(container, 10.0)
    assert clock.monotonic() - began > 6.0
    assert (await engine.containers())[0].exit_code == 137
    await engine.stop(container, 10.0)


@pytest.mark.parametrize("live_restore", [True, False])
async def test_engine_that_restarts_breaks_what_it_was_doing_and_keeps_containers_with_live_restore(
    engine: FakeEngine, live_restore: bool
) -> None:
    await started(engine)
    image = await engine.pull("web", lambda line: None)
    creating = asyncio.ensure_future(engine.create(spec(image, "t2")))
    await asyncio.sleep(0.01)
    engine.restart(3.0, live_restore=live_restore)
    with pytest.raises(EngineError) as caught:
        await creating
    assert caught.value.temporary
    with pytest.raises(EngineError) as caught:
        await engine.containers()
    assert caught.value.temporary
    await asyncio.sleep(4)
    assert [(item.task, item.running) for item in await engine.containers()] == [("t1", live_restore)]


async def test_change_is_told_to_who_listens(engine: FakeEngine) -> None:
    await started(engine)
    changes = engine.changes()
    soon = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(1)
    assert not soon.done()
    assert engine.kill("t1")
    await soon
    assert not engine.kill("t1")
    await changes.aclose()  # type: ignore[attr-defined]


async def test_slow_engine_takes_so_many_times_as_long(engine: FakeEngine) -> None:
    await started(engine)
    clock = VirtualClock()
    engine.slowness = 100.0
    began = clock.monotonic()
    await engine.containers()
    assert clock.monotonic() - began > 1.0
    engine.mend()
    began = clock.monotonic()
    await engine.containers()
    assert clock.monotonic() - began < 0.1


async def test_refused_requests_may_be_repeated_and_have_done_nothing(engine: FakeEngine) -> None:
    image = await engine.pull("web", lambda line: None)
    engine.refused = 1.0
    with pytest.raises(EngineError, match=r"500|404|409") as caught:
        await engine.create(spec(image))
    assert caught.value.temporary
    engine.refused = 0.0
    assert await engine.containers() == []


async def test_full_disk_refuses_new_images_and_containers_and_keeps_what_runs(engine: FakeEngine) -> None:
    await started(engine)
    image = await engine.pull("web", lambda line: None)
    engine.full = True
    with pytest.raises(EngineError, match="no space left"):
        await engine.pull("other", lambda line: None)
    with pytest.raises(EngineError, match="no space left"):
        await engine.create(spec(image, "t2"))
    assert [one.running for one in await engine.containers()] == [True]
    engine.full = False
    await engine.create(spec(image, "t2"))


async def test_engine_that_goes_down_at_the_end_of_a_create_leaves_an_orphan(engine: FakeEngine) -> None:
    image = await engine.pull("web", lambda line: None)
    creating = asyncio.ensure_future(engine.create(spec(image)))
    while not engine.boxes:
        await asyncio.sleep(0.001)
    engine.restart(1.0)
    with pytest.raises(EngineError, match="in the middle"):
        await creating
    await asyncio.sleep(2)
    assert [(one.task, one.started) for one in await engine.containers()] == [("t1", False)]


async def test_events_of_a_deaf_engine_are_lost_for_ever(engine: FakeEngine) -> None:
    changes = engine.changes()
    soon = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(1)
    engine.deaf = True
    await started(engine)
    await asyncio.sleep(1)
    engine.deaf = False
    await asyncio.sleep(10)
    assert not soon.done()
    engine.kill("t1")
    await soon
    await changes.aclose()  # type: ignore[attr-defined]


async def test_machine_without_power_answers_nothing_and_has_ended_containers_afterwards(engine: FakeEngine) -> None:
    await started(engine)
    engine.power_off()
    await asyncio.sleep(1000)
    with pytest.raises(EngineError, match="does not answer"):
        await engine.containers()
    engine.power_on()
    assert [(one.running, one.exit_code) for one in await engine.containers()] == [(False, 137)]
