"""The three kinds of store, and one etcd for all tests that want one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from bench import ROOM_BYTES, Bench, EtcdBench, MemoryBench, SqliteBench
from etcd_process import EtcdProcess, running

from miniorch.state.store import Store


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    with running(process):
        yield process


@pytest.fixture(scope="session")
def small_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"), "--quota-backend-bytes", str(ROOM_BYTES))
    with running(process):
        yield process


def bench_of(kind: str, request: pytest.FixtureRequest, folder: Path, etcd: str = "etcd") -> Iterator[Bench]:
    made: Bench = MemoryBench(folder) if kind == "memory" else SqliteBench(folder)
    if kind == "etcd":
        made = EtcdBench(folder, request.getfixturevalue(etcd))
    yield made
    made.end()


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from bench_of(request.param, request, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AbstractAsyncContextManager[Store]]:
    """A store that is full after a few megabytes."""
    for bench in bench_of(request.param, request, tmp_path, "small_etcd"):
        yield bench.limited()


@pytest.fixture
def store(bench: Bench) -> AbstractAsyncContextManager[Store]:
    return bench.opened()


@pytest.fixture(params=["sqlite", "etcd"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A store that outlives the process which opened it."""
    yield from bench_of(request.param, request, tmp_path)
