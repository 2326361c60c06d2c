"""How a test that is `async def` is run, and the node that all integration tests share.

A missing right or program fails the tests; it never skips them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from node import TestNode, lock_folder

from miniorch.simulation.loop import run

# Started in the background by a shell, a process ignores Ctrl-C and so does all that it starts; the tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Other suites run beside: how long an example takes says nothing of it.
settings.register_profile("beside", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside")

STORY_SECONDS = 60.0
NEEDED = ("dockerd", "docker", "nft", "ip", "iptables", "nsenter", "unshare", "busybox", "haproxy", "dig")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that is `async def` gets an event loop of its own: on virtual time if it is marked `virtual`.

    What its fixtures hand over as asynchronous context managers it gets entered, in that loop.
    """
    story = pyfuncitem.obj
    if not inspect.iscoroutinefunction(story):
        return None

    async def whole() -> None:
        async with contextlib.AsyncExitStack() as stack:
            given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(story).parameters}
            for name, value in given.items():
                if isinstance(value, contextlib.AbstractAsyncContextManager):
                    given[name] = await stack.enter_async_context(value)
            await story(**given)

    if virtual := pyfuncitem.get_closest_marker("virtual"):
        run(whole(), **virtual.kwargs)
    else:
        asyncio.run(asyncio.wait_for(whole(), STORY_SECONDS))
    return True


@pytest.fixture(scope="session")
def rights() -> None:
    """What every integration test needs of this machine."""
    if os.geteuid() != 0:
        pytest.fail("integration tests need root: sudo make test", pytrace=False)
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.fail(f"integration tests need {', '.join(missing)}: make setup", pytrace=False)


@pytest.fixture(scope="session")
def data_root(rights: None) -> Iterator[Path]:
    """Where dockerd keeps its images between test runs; a second run at the same time gets a folder of its own."""
    start = Path(os.environ.get("MINIORCH_TEST_CACHE", "/var/cache/miniorch-tests/docker"))
    start.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10):
        folder = start if number == 1 else start.with_name(f"{start.name}-{number}")
        lock = lock_folder(folder)
        if lock is not None:
            os.close(lock)  # the node takes it again when dockerd starts
            yield folder
            return
    pytest.fail(f"nine test runs use {start} and its neighbours at this moment", pytrace=False)


@pytest.fixture(scope="session")
def node(data_root: Path) -> Iterator[TestNode]:
    """One private machine with a running dockerd and `busybox:1`, for the whole suite."""
    with TestNode(data_root) as node:
        node.start_dockerd()
        node.clear()
        node.load_busybox()
        yield node
    assert node.leftovers() == []
