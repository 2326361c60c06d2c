"""Virtual time: fast, repeatable, and honest about what it cannot do."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import pytest

from miniorch.simulation.loop import EPOCH, Chance, SimulationError, VirtualClock, VirtualLoop, on_behalf_of, run


def test_hours_pass_in_no_time_and_timers_fire_in_order() -> None:
    async def main() -> list[float]:
        clock, seen = VirtualClock(), []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(clock.monotonic())

        await asyncio.gather(*(sleeper(seconds) for seconds in (3000.0, 0.5, 20.0)))
        assert clock.now() == pytest.approx(EPOCH + 3000.0)
        return seen

    began = time.monotonic()
    assert run(main()) == pytest.approx([0.5, 20.0, 3000.0])
    assert time.monotonic() - began < 2.0


def test_thousands_of_virtual_seconds_take_less_than_a_second_each() -> None:
    async def main() -> float:
        for _ in range(3000):
            await asyncio.sleep(1.0)
        return VirtualClock().monotonic()

    began = time.monotonic()
    assert run(main()) == pytest.approx(3000.0)
    assert time.monotonic() - began < 3.0


def order(seed: int | None) -> list[int]:
    async def main() -> list[int]:
        seen: list[int] = []

        async def step(number: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append(number)

        await asyncio.gather(*(step(number) for number in range(20)))
        return seen

    return run(main(), seed=seed)


def test_a_seed_is_an_order_and_another_seed_another() -> None:
    assert order(None) == list(range(20))
    assert order(7) == order(7)
    assert order(7) != order(8)
    assert sorted(order(7)) == list(range(20))


@pytest.mark.virtual
async def test_chance_depends_on_who_rolls_and_when_and_not_on_earlier_rolls() -> None:
    one, other = Chance(1, "node1"), Chance(1, "node1")
    for _ in range(7):
        one.random()
    await asyncio.sleep(1)
    rolled = [one.random() for _ in range(1000)]
    assert rolled == [other.random() for _ in range(1000)]
    assert rolled[:5] != [Chance(1, "node2").random() for _ in range(5)]
    assert rolled[:5] != [Chance(2, "node1").random() for _ in range(5)]


@pytest.mark.virtual
async def test_chance_is_fair() -> None:
    """Over many rolls at one moment, and over the first rolls of many moments."""
    one = Chance(1, "node1")
    at_once = [one.random() for _ in range(10_000)]
    first = []
    for _ in range(10_000):
        await asyncio.sleep(0.01)
        first.append(one.random())
    for rolled in (at_once, first):
        shares = [sum(int(roll * 10) == tenth for roll in rolled) for tenth in range(10)]
        assert min(shares) > 850, shares
        rising = sum(before < after for before, after in itertools.pairwise(rolled))
        assert 4800 < rising < 5200


def order_of(machine: str, others: int) -> list[int]:
    """In which the three tasks of a machine go on at one moment, when others want to as well."""
    seen: list[int] = []

    async def main() -> None:
        async def step(own: bool, number: int) -> None:
            await asyncio.sleep(1.0)
            if own:
                seen.append(number)

        loop = asyncio.get_running_loop()
        parties = [f"node{number}" for number in range(9, 9 + others)] + [machine] * 8
        tasks = [
            loop.create_task(step(party == machine, number), context=on_behalf_of(party))
            for number, party in enumerate(parties)
        ]
        await asyncio.gather(*tasks)

    run(main(), seed=3)
    return [number - others for number in seen]


def test_order_of_what_a_machine_does_at_a_moment_does_not_depend_on_the_others() -> None:
    assert order_of("node1", 0) == order_of("node1", 5) != sorted(order_of("node1", 0))


@pytest.mark.virtual
async def test_timeouts_follow_virtual_time() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()


def test_deadlock_is_reported_instead_of_waiting_for_ever() -> None:
    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match=r"at 2\.000 s everything waits"):
        run(main())


def test_simulation_that_does_not_end_in_time_is_stopped() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="within 50 virtual seconds"):
        run(main(), until=50)


def test_task_that_fails_unseen_fails_the_run() -> None:
    async def main() -> None:
        async def broken() -> None:
            raise ValueError("a bug")

        asyncio.get_running_loop().create_task(broken())
        await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="a bug"):
        run(main())


@pytest.mark.parametrize(
    "real",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("127.0.0.1", 1),
        lambda: asyncio.open_unix_connection("/nowhere"),
        lambda: asyncio.create_subprocess_exec(sys.executable),
    ],
)
def test_threads_sockets_and_processes_are_refused(real: object) -> None:
    async def main() -> None:
        await real()  # type: ignore[operator]

    with pytest.raises((SimulationError, FileNotFoundError)):
        run(main())


@pytest.mark.virtual
async def test_frozen_machine_stands_still_and_goes_on_with_its_timers_overdue() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    ticks: dict[str, list[float]] = {"node1": [], "node2": []}

    async def tick(machine: str) -> None:
        while True:
            await asyncio.sleep(1)
            ticks[machine].append(round(loop.time(), 3))

    ticking = [loop.create_task(tick(name), context=on_behalf_of(name)) for name in ticks]
    await asyncio.sleep(2.5)
    loop.freeze("node1")
    await asyncio.sleep(3)
    loop.thaw("node1")
    await asyncio.sleep(1.2)
    assert ticks == {"node1": [1.0, 2.0, 5.5, 6.5], "node2": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    for task in ticking:
        task.cancel()


@pytest.mark.virtual
async def test_clock_may_jump_and_drift_and_whoever_waits_for_it_is_woken() -> None:
    clock, right = VirtualClock(), VirtualClock()
    await asyncio.sleep(100)
    clock.drift(-0.01)
    assert clock.monotonic() == right.monotonic()
    await asyncio.sleep(100)
    assert right.monotonic() - clock.monotonic() == pytest.approx(1.0)
    clock.jump(-3600)
    assert right.now() - clock.now() == pytest.approx(3601.0)
    assert right.monotonic() - clock.monotonic() == pytest.approx(1.0)
    due = clock.monotonic() + 10
    while (left := due - clock.monotonic()) > 0:
        await asyncio.sleep(left)
    assert right.monotonic() == pytest.approx(200 + 10 / 0.99)
