"""The four promises of the work queue."""

from __future__ import annotations

import asyncio

from builders import StoppedClock

from miniorch.controllers.queue import RETRY_LIMIT_SECONDS, WorkQueue

A, B = ("services", "a"), ("services", "b")


def drain(queue: WorkQueue) -> list[tuple[str, str]]:
    return list(iter(queue.pop, None))


def test_a_key_added_many_times_is_handled_once() -> None:
    queue = WorkQueue(StoppedClock())
    for key in (A, B, A, A):
        queue.add(key)
    assert drain(queue) == [A, B]


def test_the_earlier_of_two_moments_wins() -> None:
    clock = StoppedClock()
    queue = WorkQueue(clock)
    queue.add(A, clock.time + 50)
    queue.add(B, clock.time + 5)
    queue.add(A, clock.time + 1)
    queue.add(A, clock.time + 99)
    clock.time += 2
    assert drain(queue) == [A]
    clock.time += 200
    assert drain(queue) == [B]


def test_a_key_that_fails_comes_back_later_and_later_up_to_a_limit() -> None:
    clock = StoppedClock()
    queue = WorkQueue(clock)
    waits = []
    for _ in range(12):
        queue.failed(A)
        waits.append(queue._due[A] - clock.time)
        clock.time += 1000
        assert drain(queue) == [A]
    assert waits == sorted(waits)
    assert abs(waits[-1] - RETRY_LIMIT_SECONDS) < 1e-6
    queue.succeeded(A)
    queue.failed(A)
    assert queue._due[A] - clock.time < 0.1


def test_an_addition_wakes_a_worker_that_waits() -> None:
    async def main() -> None:
        queue = WorkQueue(StoppedClock())
        waiting = asyncio.create_task(queue.next())
        await asyncio.sleep(0)
        queue.add(A)
        assert await asyncio.wait_for(waiting, 1) == A

    asyncio.run(main())
