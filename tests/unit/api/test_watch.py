"""The fan-out: each watch hears of what it wants, once and in order, however late it begins and slowly it reads."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from miniorch.api.app import lines
from miniorch.api.watch import BUFFERED_BYTES, Watch, Watches, Wish
from miniorch.client import PING_SECONDS
from miniorch.errors import Compacted
from miniorch.model import Event, Node, Status, Task, TaskState
from miniorch.spec import Resources, TaskSpec
from miniorch.state.memory import MemoryStore
from miniorch.state.records import put
from miniorch.state.store import Delete


class CountingStore(MemoryStore):
    """Knows how many watches there have been, and are."""

    begun = open = 0

    async def watch(self, prefix: str, after: int) -> Any:
        self.begun, self.open = self.begun + 1, self.open + 1
        try:
            async for changes in super().watch(prefix, after):
                yield changes
        finally:
            self.open -= 1


def task(name: str, node: str = "", app: str = "shop", message: str = "") -> Task:
    status = Status(TaskState.NEW, message=message)
    return Task(name, app, "web", 1, TaskSpec("web"), created_at=0.0, node=node, status=status)


async def write(store: MemoryStore, *items: object) -> int:
    revision = await store.txn([], [put(item) for item in items])
    assert revision is not None
    return revision


async def heard(watch: Watch, count: int) -> list[tuple[int, str]]:
    """The next lines about objects: the revision, and +key or -key."""
    found: list[tuple[int, str]] = []
    while len(found) < count:
        for line in map(json.loads, await watch.take()):
            if "put" in line:
                found.append((line["revision"], f"+{line['put'].get('id', line['put'].get('name'))}"))
            elif "delete" in line:
                found.append((line["revision"], f"-{line['delete']}"))
    return found


pytestmark = pytest.mark.virtual


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
@asynccontextmanager
async def watches(store: CountingStore) -> AsyncIterator[Watches]:
    """In the end none of the store's watches is left open."""
    yield Watches(store, lambda: False)
    await asyncio.sleep(0.1)
    assert store.open == 0
    await store.close()


def close(*watches: Watch) -> None:
    for watch in watches:
        watch.close()


async def test_change_reaches_those_who_select_its_app_or_node_and_one_who_leaves_is_told_of_a_deletion(
    store: CountingStore, watches: Watches
) -> None:
    selections = [(None, None), ("shop", None), (None, "n1"), (None, "n2"), ("shop", "n2"), ("bank", None)]
    everything, shop, n1, n2, both, bank = [watches.open("tasks", 0, Wish(one)) for one in selections]
    await write(store, task("a", "n1"))
    await write(store, task("a", "n2"))
    await store.txn([], [Delete("/tasks/a")])
    await write(store, task("b", "n3", "bank"))
    assert await heard(everything, 4) == [(1, "+a"), (2, "+a"), (3, "-a"), (4, "+b")]
    assert await heard(shop, 3) == [(1, "+a"), (2, "+a"), (3, "-a")]
    assert await heard(n1, 2) == [(1, "+a"), (2, "-a")]
    assert await heard(n2, 2) == await heard(both, 2) == [(2, "+a"), (3, "-a")]
    assert await heard(bank, 1) == [(4, "+b")]
    assert store.begun == 1
    close(everything, shop, n1, n2, both, bank)


async def test_event_is_about_the_app_or_the_node_in_its_subject(store: CountingStore, watches: Watches) -> None:
    shop, node = (watches.open("events", 0, Wish(one)) for one in (("shop", None), (None, "n1")))
    await write(store, Event("1", 0.0, "node", "n1", "joined"), Event("2", 0.0, "task", "shop/web.1", "runs"))
    assert ([key for _, key in await heard(shop, 1)], [key for _, key in await heard(node, 1)]) == (["+2"], ["+1"])
    close(shop, node)


async def test_further_wish_is_asked_and_its_watches_can_be_ended_together(
    store: CountingStore, watches: Watches
) -> None:
    def loud(item: object) -> bool:
        return isinstance(item, Task) and item.status.message == "loud"

    wish = Wish(("shop", None), loud)
    one, two, other = (
        watches.open("tasks", 0, wish),
        watches.open("tasks", 0, wish),
        watches.open("tasks", 0, Wish()),
    )
    await write(store, task("a", message="loud"), task("b"))
    await write(store, task("a"))
    assert await heard(one, 2) == await heard(two, 2) == [(1, "+a"), (2, "-a")]
    watches.end("tasks", wish, Compacted("list again"))
    for watch in (one, two):
        with pytest.raises(Compacted, match="list again"):
            await watch.take()
    assert len(await heard(other, 3)) == 3
    close(one, two, other)


async def test_only_the_last_line_of_a_revision_carries_it(store: CountingStore, watches: Watches) -> None:
    everything, n2 = watches.open("tasks", 0, Wish()), watches.open("tasks", 0, Wish((None, "n2")))
    await write(store, task("x"))
    await write(store, task("a", "n1"), task("b", "n2"), task("c", "n2"), task("d", "n1"))
    assert await heard(everything, 5) == [(1, "+x"), (1, "+a"), (1, "+b"), (1, "+c"), (2, "+d")]
    assert await heard(n2, 2) == [(1, "+b"), (2, "+c")]
    close(everything, n2)


async def test_watch_that_begins_in_the_past_catches_up_and_joins_without_a_gap_or_a_repetition(
    store: CountingStore, watches: Watches
) -> None:
    first = watches.open("tasks", 0, Wish())
    for number in range(1200):
        await write(store, task(f"t{number}"))
    assert len(await heard(first, 1200)) == 1200
    late, ahead = watches.open("tasks", 100, Wish()), watches.open("tasks", 1201, Wish())
    seen = await heard(late, 500)
    for number in range(1200, 1300):
        await write(store, task(f"t{number}"))
    seen += await heard(late, 700)
    assert seen == [(number + 1, f"+t{number}") for number in range(100, 1300)]
    assert await heard(ahead, 99) == seen[-99:]
    assert not late.behind
    begun = store.begun
    await write(store, task("last"))
    assert await heard(late, 1) == await heard(ahead, 1) == [(1301, "+last")]
    assert store.begun == begun
    close(first, late, ahead)


async def test_slow_reader_holds_a_bounded_share_of_the_memory_and_misses_nothing(
    store: CountingStore, watches: Watches
) -> None:
    slow, quick = watches.open("tasks", 0, Wish()), watches.open("tasks", 0, Wish())
    for number in range(100):
        await write(store, task(f"t{number}", message="x" * 10_000))
        assert len(await heard(quick, 1)) == 1
    assert slow.behind
    lines = await slow.take()
    assert sum(map(len, lines)) < BUFFERED_BYTES + 20_000
    seen = len(lines) - 1
    assert [key for _, key in await heard(slow, 100 - seen)] == [f"+t{number}" for number in range(seen, 100)]
    close(slow, quick)


async def test_place_of_a_slow_reader_may_be_compacted_away_and_the_others_do_not_notice(
    store: CountingStore, watches: Watches
) -> None:
    slow, quick = watches.open("tasks", 0, Wish()), watches.open("tasks", 0, Wish())
    for number in range(100):
        await write(store, task(f"t{number}", message="x" * 10_000))
    assert len(await heard(quick, 100)) == 100
    await store.compact(100)
    await slow.take()
    with pytest.raises(Compacted):
        await slow.take()
    await write(store, task("new"))
    assert await heard(quick, 1) == [(101, "+new")]
    close(slow, quick)


async def test_watch_from_a_compacted_revision_is_told_so_and_the_next_one_begins_anew(
    store: CountingStore, watches: Watches
) -> None:
    for number in range(5):
        await write(store, task(f"t{number}"))
    await store.compact(4)
    old = watches.open("tasks", 2, Wish())
    assert [json.loads(line) for line in await old.take()] == [{"revision": 2}]
    with pytest.raises(Compacted):
        await old.take()
    new = watches.open("tasks", 4, Wish())
    close(old)
    assert await heard(new, 1) == [(5, "+t4")]
    close(new)


async def test_quiet_watch_is_pinged_with_the_newest_revision_it_has_been_spared(
    store: CountingStore, watches: Watches
) -> None:
    loop = asyncio.get_running_loop()
    watch, other = watches.open("tasks", 0, Wish((None, "n1"))), watches.open("tasks", 0, Wish())
    assert [json.loads(line) for line in await watch.take()] == [{"revision": 0}]
    await write(store, task("a", "n2"))
    begun = loop.time()
    assert [json.loads(line) for line in await watch.take()] == [{"revision": 1}]
    assert loop.time() - begun == pytest.approx(PING_SECONDS, abs=0.1)
    close(watch, other)


async def test_ping_says_when_the_store_is_silent() -> None:
    watch = Watches(MemoryStore(), lambda: True).open("tasks", 0, Wish())
    await watch.take()
    assert [json.loads(line) for line in await watch.take()] == [{"revision": 0, "store": "silent"}]
    watch.close()


async def test_store_that_is_closed_ends_every_watch_and_a_closed_watch_ends_itself(
    store: CountingStore, watches: Watches
) -> None:
    one, two = watches.open("tasks", 0, Wish()), watches.open("nodes", 0, Wish())
    await one.take()
    reading = asyncio.ensure_future(one.take())
    await asyncio.sleep(0.1)
    one.close()
    assert await reading == ()
    await two.take()
    await store.close()
    assert await two.take() == ()
    two.close()


@pytest.mark.parametrize("seed", range(5))
async def test_every_reader_ends_with_what_the_store_holds(store: CountingStore, watches: Watches, seed: int) -> None:
    """Random writes, readers that come, go, pause and go on from the revision that they have: none ends with less."""
    chance = random.Random(seed)

    async def read(store: CountingStore, watches: Watches, node: str | None, until: int) -> None:
        mine: dict[str, int] = {}
        revision = 0
        while revision < until:
            watch = watches.open("tasks", revision, Wish((None, node)))
            for _ in range(chance.randint(1, 6)):
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.uniform(0, 12))
                lines = await watch.take()
                broken = chance.random() < 0.3  # off, somewhere in the midst of them
                for line in map(json.loads, lines[: chance.randint(1, len(lines))] if broken else lines):
                    assert line["revision"] >= revision
                    revision = line["revision"]
                    if "put" in line:
                        mine[line["put"]["id"]] = line["put"]["slot"]
                    elif "delete" in line:
                        mine.pop(line["delete"], None)
                if broken:
                    break
            watch.close()
        entries = [json.loads(entry.value) for entry in store.snapshot("/tasks/").entries]
        assert mine == {one["id"]: one["slot"] for one in entries if node in (None, one["node"])}

    readers = [asyncio.ensure_future(read(store, watches, node, 121)) for node in (None, "n0", "n1", "n2", None)]
    for number in range(120):
        names = chance.sample(range(12), chance.randint(1, 4))
        await store.txn([], [_operation(f"t{name}", number, chance) for name in names] + [put(_node(number))])
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0, 2))
    await write(store, *(task(f"end{node}", f"n{node}") for node in range(3)))
    await asyncio.gather(*readers)


def _operation(name: str, number: int, chance: random.Random) -> Any:
    if chance.random() < 0.3:
        return Delete(f"/tasks/{name}")
    return put(Task(name, "shop", "web", number, TaskSpec("web"), created_at=0.0, node=f"n{chance.randrange(3)}"))


def _node(number: int) -> Node:
    return Node(f"other{number}", "10.0.0.0/24", "10.0.0.1", Resources(1.0, 1))


async def test_equal_lines_are_one_object_for_all_who_hear_them(store: CountingStore, watches: Watches) -> None:
    readers = [watches.open("tasks", 0, Wish(one)) for one in [(None, None), (None, "n1"), ("shop", None)] * 2]
    for reader in readers:
        await reader.take()
    await write(store, task("a", "n1"))
    assert len({id((await reader.take())[0]) for reader in readers}) == 1
    close(*readers)


async def test_reader_who_hangs_up_ends_its_watch_and_an_error_is_the_last_line_of_a_stream(
    store: CountingStore, watches: Watches
) -> None:
    sent: list[Any] = []
    hung_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    first, second = watches.open("tasks", 0, Wish()), watches.open("nodes", 0, Wish())
    streams = [asyncio.ensure_future(lines(one, receive, send)) for one in (first, second)]
    await write(store, task("a"), task("b"))
    await asyncio.sleep(0.1)
    assert b"".join(message.get("body", b"") for message in sent).count(b"\n") == 4
    watches.end("nodes", Wish(), Compacted("list again"))
    await streams[1]
    assert json.loads(sent[-1]["body"])["message"] == "list again"
    assert "more_body" not in sent[-1]
    hung_up.set()
    await streams[0]
    assert await first.take() == ()
