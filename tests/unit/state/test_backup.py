"""Backups: the same state in another store, revisions that never go down, and files refused for what they are."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from miniorch.authority import Authority
from miniorch.clock import SystemClock
from miniorch.codec import decode, encode
from miniorch.errors import Compacted, Conflict, MiniorchError, NotAllowed, Temporary, Unsupported, UsageError
from miniorch.model import Cluster, Event, Volume
from miniorch.server import Server, authority_of
from miniorch.state import backup
from miniorch.state.backup import NOISE_BYTES, Content, head_of, restore, seal, unseal
from miniorch.state.memory import MemoryStore
from miniorch.state.records import Write, commit, put
from miniorch.state.shifted import PER_SECOND, Shifted, base_at, opened
from miniorch.state.sqlite import SqliteStore
from miniorch.state.store import Compare, Delete, Operation, Put, Store

NOW = 1_800_000_000.0
AUTHORITY = Authority.make("c1", NOW)
VOLUMES = [Volume("shop", f"v{number:03}", "node1") for number in range(250)]  # more than one transaction's share


@asynccontextmanager
async def closed(store: Store) -> AsyncIterator[Store]:
    yield store
    await store.close()


@pytest.fixture
def old() -> AbstractAsyncContextManager[Store]:
    return closed(MemoryStore())


store = new = raw = other = later = old  # one each


async def fill(store: Store) -> None:
    """A cluster with some past."""
    await commit(store, [Write(Cluster("c1"), 0)])
    for volume in VOLUMES[:50]:
        await commit(store, [Write(volume, 0)], [Event(f"{volume.name}", NOW, "volume", volume.key, "made")])
    for first in (50, 150):
        await store.txn([], [put(volume) for volume in VOLUMES[first : first + 100]])
    await store.txn([], [Put("/leaders/leader", b'{"name":"a","since":1.0}')])


async def objects(store: Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("/")).entries}


async def taken(store: Store) -> Content:
    return await backup.take(store, AUTHORITY)


# From one store to another


@pytest.mark.parametrize("way", ["memory to sqlite", "sqlite to memory"])
async def test_a_restored_store_holds_all_objects_but_events_and_the_leader(way: str, tmp_path: Path) -> None:
    both: list[Store] = [MemoryStore(), SqliteStore(tmp_path / "state.db")]
    old, new = both if way == "memory to sqlite" else both[::-1]
    await fill(old)
    sealed = seal(await taken(old), "secret", NOW, bytes(NOISE_BYTES))
    await restore(new, unseal(sealed, "secret"), NOW)
    there, expected = await objects(new), await objects(old)
    cluster = decode(Cluster, there.pop("/cluster/cluster"))
    assert cluster == replace(
        Cluster("c1"), authority=AUTHORITY.certificate, base_revision=base_at(NOW, await old.revision())
    )
    assert there == {key: value for key, value in expected.items() if key.startswith("/volumes/")}
    assert len(there) == 250
    for store in both:
        await store.close()


async def test_revisions_go_on_above_all_that_were_ever_told(old: Store, raw: Store, later: Store) -> None:
    await fill(old)
    before, content = await old.list("/volumes/"), await taken(old)
    await restore(raw, content, NOW)
    new = await opened(raw)
    listing = await new.list("/volumes/")
    assert listing.revision == await new.revision() > NOW * PER_SECOND > before.revision
    assert min(entry.created for entry in listing.entries) > before.revision
    with pytest.raises(Compacted, match="before the restore"):
        await anext(new.watch("/", before.revision))
    # What was read before the restore is old for ever; what is read now can be changed.
    key = before.entries[0].key
    assert await new.txn([Compare(key, before.entries[0].modified)], [Delete(key)]) is None
    assert await new.txn([Compare(key, 0)], [Put(key, b"")]) is None
    revision = await new.txn([Compare(key, listing.entries[0].modified)], [Delete(key)])
    assert revision == listing.revision + 1
    [[change]] = [list(await anext(new.watch("/", listing.revision)))]
    assert (change.revision, change.entry, change.previous) == (revision, None, listing.entries[0])
    entry = await new.get(listing.entries[1].key)
    assert entry == listing.entries[1]
    await new.compact(revision)
    await new.compact(before.revision)  # of a time that this store never had
    with pytest.raises(Compacted):
        await anext(new.watch("/", revision - 1))
    # The same old backup once more, a minute later: again above.
    await restore(later, content, NOW + 60)
    assert await (await opened(later)).revision() > revision + 1_000_000


def test_a_clock_that_is_wrong_does_not_bring_revisions_down() -> None:
    told = base_at(NOW, 0) + 12345
    assert base_at(5.0, told) > told
    assert base_at(NOW, told) > told
    assert base_at(NOW + 1, 7) == (int(NOW) + 1) * PER_SECOND


async def test_a_store_that_was_never_restored_is_left_as_it_is(store: Store) -> None:
    assert await opened(store) is store
    await fill(store)
    assert await opened(store) is store


# What a restore refuses


async def test_a_store_that_is_not_empty_is_replaced_only_by_force(old: Store, other: Store) -> None:
    await fill(old)
    await commit(other, [Write(Cluster("c2"), 0), Write(Volume("else", "v", "n"), 0)])
    with pytest.raises(Conflict, match="it holds 2 objects") as refused:
        await restore(other, await taken(old), NOW)
    assert refused.value.remedy == "miniorch restore FILE --force"
    await restore(other, await taken(old), NOW, force=True)
    there = await objects(other)
    assert decode(Cluster, there["/cluster/cluster"]).id == "c1"
    assert "/volumes/else/v" not in there


@pytest.mark.virtual
async def test_a_store_that_somebody_leads_on_is_left_alone_and_one_whose_leader_died_is_waited_for() -> None:
    old, new = MemoryStore(), MemoryStore()
    await fill(old)
    content = await taken(old)
    lease = await new.grant(10.0)
    await new.txn([], [Put("/leaders/leader", b"{}", lease)])
    await restore(new, content, NOW)  # its lease ends
    await new.txn([], [Put("/leaders/leader", b"{}")])
    with pytest.raises(Conflict, match="a server of miniorch runs on this store"):
        await restore(new, content, NOW, force=True)


async def test_backup_of_a_newer_miniorch_with_other_kinds_is_refused_before_anything_is_written(
    old: Store, new: Store
) -> None:
    await fill(old)
    content = await taken(old)
    strange = replace(content, entries=(*content.entries, ("/secrets/x", "{}")))
    with pytest.raises(Unsupported, match="/secrets/x"):
        await restore(new, strange, NOW)
    without = replace(content, entries=tuple(one for one in content.entries if "cluster" not in one[0]))
    with pytest.raises(UsageError, match="lacks the cluster's record"):
        await restore(new, without, NOW)
    assert await new.revision() == 0


class Mortal(MemoryStore):
    """A store whose caller is killed at its n-th transaction, before or after it is done."""

    left = 10**9
    done = False

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        self.left -= 1
        if self.left < 0 and not self.done:
            raise Temporary("killed")
        revision = await super().txn(compares, operations)
        if self.left < 0:
            raise Temporary("killed")
        return revision


@pytest.mark.parametrize("done", [True, False])
async def test_no_server_starts_on_a_store_that_is_half_restored(old: Store, done: bool) -> None:
    """The restore is ended at each of its transactions in turn; the same again with --force completes it."""
    await fill(old)
    content, refused = await taken(old), 0
    for steps in range(20):
        store = Mortal()
        await commit(store, [Write(Cluster("c2"), 0), Write(Volume("else", "v", "n"), 0)])
        store.left, store.done = steps, done
        try:
            await restore(store, content, NOW, force=True)
            break
        except Temporary:
            store.left = 10**9
        server = Server(await opened(store), SystemClock(), random.Random(1))
        if (await store.get("/cluster/cluster")) is None:
            refused += 1
            with pytest.raises(Conflict, match="half restored"):
                await server.prepare()
        else:
            assert (await server.prepare()).id == "c2" if steps == 0 else "c1"
        await restore(store, content, NOW, force=True)
        assert len(await objects(store)) == 251
    assert refused == 2


# The file


@pytest.fixture(scope="module")
def sealed() -> bytes:
    content = Content("c1", 7, AUTHORITY, (("/cluster/cluster", encode(Cluster("c1")).decode()),))
    return seal(content, "correct horse", NOW, bytes(range(NOISE_BYTES)))


def test_the_file_says_what_it_is_and_hides_all_else(sealed: bytes) -> None:
    head = head_of(sealed)
    assert (head["format"], head["version"], head["cluster"], head["revision"]) == ("miniorch backup", 1, "c1", 7)
    assert (head["objects"], head["made_at"]) == (1, NOW)
    assert b"PRIVATE KEY" not in sealed
    assert b"container_pool" not in sealed
    assert unseal(sealed, "correct horse").authority == AUTHORITY


def test_two_backups_of_the_same_state_share_no_byte_that_matters(sealed: bytes) -> None:
    content = unseal(sealed, "correct horse")
    again = seal(content, "correct horse", NOW, bytes(range(1, NOISE_BYTES + 1)))
    assert sealed.split(b"\n", 1)[1][:64] != again.split(b"\n", 1)[1][:64]


def test_wrong_passphrase_is_told_from_a_damaged_file(sealed: bytes) -> None:
    with pytest.raises(NotAllowed, match="the passphrase is not the one"):
        unseal(sealed, "correct hors")
    for length in [*range(0, len(sealed), 37), len(sealed) - 1]:
        with pytest.raises(UsageError, match=r"cut off|not a backup"):
            unseal(sealed[:length], "correct horse")
    for place in range(0, len(sealed), 41):
        flipped = sealed[:place] + bytes([sealed[place] ^ 4]) + sealed[place + 1 :]
        with pytest.raises(MiniorchError, match=r"damaged|not a backup|version"):
            unseal(flipped, "correct horse")


def test_head_cannot_be_changed_even_with_a_right_sum(sealed: bytes) -> None:
    import hashlib

    forged = sealed[: -backup.SUM_BYTES].replace(b'"cluster":"c1"', b'"cluster":"c2"')
    with pytest.raises(NotAllowed):
        unseal(forged + hashlib.sha256(forged).digest(), "correct horse")


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", UsageError, "not a backup"),
        (b"SQLite format 3\0", UsageError, "not a backup"),
        (b"[" * 100_000, UsageError, "not a backup"),
        (b"[1]\nxx", UsageError, "not a backup"),
        (json.dumps({"format": "miniorch backup", "version": 2}).encode() + b"\nxx", Unsupported, "has version 2"),
        (json.dumps({"format": "miniorch backup", "version": 1}).encode() + b"\n", UsageError, "cut off"),
    ],
    ids=["empty", "sqlite", "brackets", "list", "newer", "head only"],
)
def test_foreign_and_newer_files_are_refused(data: bytes, kind: type[MiniorchError], words: str) -> None:
    with pytest.raises(kind, match=words) as refused:
        unseal(data, "x")
    assert refused.value.remedy


# The authority


async def test_first_start_makes_an_authority_and_a_server_without_its_key_cannot_back_up(
    store: Store, tmp_path: Path
) -> None:
    server = Server(store, SystemClock(), random.Random(1))
    cluster = await server.prepare()
    first = await authority_of(store, tmp_path / "a", SystemClock())
    assert first is not None
    assert await authority_of(store, tmp_path / "a", SystemClock()) == first
    assert (await server.prepare()) == replace(cluster, authority=first.certificate)
    assert await authority_of(store, tmp_path / "b", SystemClock()) is None
    assert (tmp_path / "b" / "authority.crt").read_text() == first.certificate  # enough to listen
    with pytest.raises(Conflict, match="does not hold the key"):
        await backup.take(store, None)


async def test_shifted_forwards_leases(raw: Store) -> None:
    store = Shifted(raw, 1000)
    lease = await store.grant(60.0)
    assert await store.txn([], [Put("/a", b"", lease)]) == 1001
    await store.keep_alive(lease)
    await store.revoke(lease)
    assert (await store.list("/")).entries == ()
    assert await store.revision() == 1002
