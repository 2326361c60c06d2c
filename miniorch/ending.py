"""Ending what runs beside us: cancel it, and wait until it has truly ended.

Not `asyncio.gather`: with tasks that have ended already it returns at once from Python 3.12 on and one turn of the loop
later before, and then one seed is two histories.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for them, whatever they raise."""
    for task in tasks:
        task.cancel()
    await ended(*tasks)


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    """Wait for tasks, whatever they raise."""
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # has been looked at


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run until one of them ends, end the others, and raise what it has raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)
    for task in done:
        task.result()
