"""A backup fits any store: from a file into a real etcd, and from there into another file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from etcd_process import EtcdProcess, running

from miniorch.authority import Authority
from miniorch.codec import decode
from miniorch.errors import Compacted, Conflict
from miniorch.model import Cluster, Event, Leader, Volume
from miniorch.state.backup import Content, restored, take
from miniorch.state.open import open_store
from miniorch.state.records import Write, commit, put
from miniorch.state.shifted import opened
from miniorch.state.store import Compare, Put

NOW = 1_800_000_000.0
AUTHORITY = Authority.make("c1", NOW)


async def filled(url: str) -> Content:
    """A backup of a store with some past."""
    raw = open_store(url)
    try:
        await commit(raw, [Write(Cluster("c1"), 0)], [Event("e1", NOW, "node", "n1", "joined")])
        for number in range(250):  # some of them large: etcd limits a transaction's bytes, too
            node = "x" * (200_000 if number % 25 == 0 else 1)
            await raw.txn([], [put(Volume("shop", f"v{number:03}", node))])
        return await take(raw, AUTHORITY)
    finally:
        await raw.close()


async def seen(url: str) -> tuple[Content, int]:
    """What a server would see in a store, and at which revision; and that it can be written and watched."""
    raw = open_store(url)
    try:
        store = await opened(raw)
        content = await take(store, AUTHORITY)
        with pytest.raises(Compacted):
            await anext(store.watch("/", 7))
        revision = await store.txn([Compare("/leaders/leader", 0)], [Put("/leaders/leader", b"{}", 0)])
        assert revision is not None
        [change] = await anext(store.watch("/", content.revision))
        assert (change.key, change.revision) == ("/leaders/leader", revision)
        return content, revision
    finally:
        await raw.close()


def bare(content: Content) -> dict[str, object]:
    """The objects, without what a restore writes into the cluster's record."""
    items: dict[str, object] = dict(content.entries)
    cluster = decode(Cluster, str(items.pop("/cluster/cluster")))
    return {**items, "cluster": replace(cluster, authority="", base_revision=0)}


def test_state_goes_from_a_file_into_etcd_and_into_a_file_again(tmp_path: Path) -> None:
    member = EtcdProcess(tmp_path)
    first, etcd, last = (
        f"sqlite://{tmp_path}/first.db", f"etcd://{member.endpoint}/shop", f"sqlite://{tmp_path}/last.db",
    )  # fmt: skip

    async def story() -> None:
        old = await filled(first)
        assert len(old.entries) == 251
        await restored(etcd, old, NOW, force=False)
        there, told = await seen(etcd)
        assert bare(there) == bare(old)
        assert there.revision > old.revision
        raw = open_store(etcd)
        try:  # a server that was killed leads until its lease ends
            lease = await raw.grant(2.0)
            await raw.txn([], [put(Leader("server", NOW))])
            await raw.txn([], [Put("/leaders/leader", b"{}", lease)])
        finally:
            await raw.close()
        with pytest.raises(Conflict, match="not empty"):
            await restored(etcd, old, NOW, force=False)
        await restored(etcd, old, NOW + 60, force=True)
        again, later = await seen(etcd)
        assert bare(again) == bare(old)
        assert later > told + 1_000_000
        await restored(last, again, NOW + 120, force=False)
        back, _ = await seen(last)
        assert bare(back) == bare(old)
        assert back.revision > later

    with running(member):
        asyncio.run(story())
