"""The five promises of the work queue."""

from __future__ import annotations

import asyncio
import random

from builders import StoppedClock

from miniorch.controllers.queue import JITTER, RETRY_LIMIT_SECONDS, WorkQueue

A, B = ("services", "a"), ("services", "b")


def drain(queue: WorkQueue) -> list[tuple[str, str]]:
    return list(iter(queue.pop, None))


def test_a_key_added_many_times_is_handled_once() -> None:
    queue = WorkQueue(StoppedClock(), random.Random(1))
    for key in (A, B, A, A):
        queue.add(key)
    assert drain(queue) == [A, B]


def test_the_earlier_of_two_moments_wins() -> None:
    clock = StoppedClock()
    queue = WorkQueue(clock, random.Random(1))
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
    queue = WorkQueue(clock, random.Random(1))
    waits = []
    for _ in range(12):
        queue.failed(A)
        waits.append(queue._due[A] - clock.time)
        clock.time += 1000
        assert drain(queue) == [A]
    assert waits[:6] == sorted(waits[:6])
    assert all(RETRY_LIMIT_SECONDS * (1 - JITTER) <= wait <= RETRY_LIMIT_SECONDS for wait in waits[-3:])
    queue.succeeded(A)
    queue.failed(A)
    assert queue._due[A] - clock.time < 0.1


async def test_an_addition_wakes_a_worker_that_waits() -> None:
    queue = WorkQueue(StoppedClock(), random.Random(1))
    waiting = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    queue.add(A)
    assert await asyncio.wait_for(waiting, 1) == A


def test_two_keys_that_fail_together_do_not_come_back_together() -> None:
    queue = WorkQueue(StoppedClock(), random.Random(1))
    queue.failed(A)
    queue.failed(B)
    assert queue._due[A] != queue._due[B]


def test_a_queue_stays_as_small_as_the_number_of_its_keys() -> None:
    clock = StoppedClock()
    queue = WorkQueue(clock, random.Random(1))
    for number in range(10_000):
        queue.add((("a", "b", "c")[number % 3], ""), clock.time + 10_000 - number)
    assert len(queue._heap) < 100
    clock.time += 20_000
    assert len(drain(queue)) == 3


def test_a_key_that_rests_is_not_handled_before_the_end_of_its_rest() -> None:
    clock = StoppedClock()
    queue = WorkQueue(clock, random.Random(1))
    queue.add(A)
    queue.rest(A, clock.time + 2)  # it was added while it was handled
    queue.add(A)
    queue.failed(A)
    queue.add(B)
    assert drain(queue) == [B]
    clock.time += 2.5
    assert drain(queue) == [A]
    queue.rest(A, clock.time)
    queue.add(A)
    assert drain(queue) == [A]
    queue.rest(A, clock.time + 2)
    queue.add(A, clock.time + 50)
    clock.time += 3
    assert drain(queue) == []
