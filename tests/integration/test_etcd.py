"""A real etcd that dies, freezes and loses its leader under load: what our store says then is true."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bench import take
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from etcd_process import EtcdProcess, free_ports, running

from miniorch.errors import Temporary, UnknownOutcome, Unreachable, UsageError
from miniorch.state.etcd import EtcdStore
from miniorch.state.open import open_store
from miniorch.state.store import Change, Put, Store

KILLS = int(os.environ.get("MINIORCH_ETCD_KILLS", "6"))
RESUMED_SECONDS = 3.0
NOTICED_SECONDS = 15.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path)
    with running(process):
        yield process


def run(endpoints: list[str], story: Callable[[EtcdStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = EtcdStore(endpoints)
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(whole())


async def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Load:
    """Writers who remember what they were told, and a watcher who remembers what it saw."""

    store: EtcdStore
    confirmed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # surely not done
    unknown: set[str] = field(default_factory=set)
    seen: list[Change] = field(default_factory=list)
    seen_at: float = 0.0
    over: bool = False

    async def write(self, writer: int) -> None:
        number = 0
        while not self.over:
            number += 1
            key = f"/{writer}/{number}"
            try:
                await self.store.txn([], [Put(key, b"v"), Put(f"/last/{writer}", key.encode())])
                self.confirmed.add(key)
            except UnknownOutcome:
                self.unknown.add(key)
            except Unreachable:
                self.refused.add(key)
                await asyncio.sleep(0.02)

    async def watch(self) -> None:
        async for batch in self.store.watch("/", 0):
            self.seen.extend(batch)
            self.seen_at = time.monotonic()

    async def check(self) -> None:
        """Nothing lost, nothing twice, nothing out of order, and nothing of which we said that it was not done."""
        end = await self.store.revision()
        await until(lambda: self.seen[-1].revision >= end, 10.0, f"seeing revision {end}")
        revisions = [change.revision for change in self.seen]
        assert revisions == sorted(revisions)
        assert len({(change.revision, change.key) for change in self.seen}) == len(self.seen)
        written = [change.key for change in self.seen if not change.key.startswith("/last/")]
        assert len(written) == len(set(written))
        assert self.confirmed <= set(written) <= self.confirmed | self.unknown
        assert set(revisions) == set(range(1, end + 1))
        listing = await self.store.list("/")
        latest = {change.key: change.entry for change in self.seen}
        assert {entry.key: entry for entry in listing.entries} == latest


def test_etcd_that_is_killed_again_and_again_loses_no_event(etcd: EtcdProcess) -> None:
    chance = random.Random(7)
    slowest = 0.0

    async def story(store: EtcdStore) -> None:
        nonlocal slowest
        load = Load(store)
        watching = asyncio.create_task(load.watch())
        writing = [asyncio.create_task(load.write(writer)) for writer in range(4)]
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            await asyncio.to_thread(etcd.kill)
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.3)))
            await asyncio.to_thread(etcd.start)
            serves, before = time.monotonic(), load.seen_at
            await until(lambda: load.seen_at > before, RESUMED_SECONDS, "an event after etcd served again")  # noqa: B023
            slowest = max(slowest, load.seen_at - serves)
        load.over = True
        await asyncio.gather(*writing)
        await load.check()
        watching.cancel()
        print(f"{KILLS} kills, {len(load.confirmed)} confirmed, {len(load.unknown)} unknown, slowest {slowest:.2f} s")

    run([etcd.endpoint], story)


def test_frozen_etcd_is_noticed_and_nothing_waits_for_it(etcd: EtcdProcess, caplog: pytest.LogCaptureFixture) -> None:
    async def story(store: EtcdStore) -> None:
        loop = asyncio.get_running_loop()
        watch = store.watch("/", 0)
        await store.txn([], [Put("/before", b"")])
        await anext(watch)
        soon = asyncio.ensure_future(anext(watch))
        gaps: list[float] = []

        async def beat() -> None:
            while True:
                before = loop.time()
                await asyncio.sleep(0.05)
                gaps.append(loop.time() - before)

        beating = asyncio.create_task(beat())
        etcd.freeze()
        frozen = loop.time()
        answers = await asyncio.gather(
            store.txn([], [Put("/during", b"")]),
            store.get("/before"),
            store.keep_alive(1),
            store.grant(5.0),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [UnknownOutcome, Unreachable, UnknownOutcome, UnknownOutcome]
        assert loop.time() - frozen < 6.0
        await until(lambda: "the watch will go on" in caplog.text, frozen + NOTICED_SECONDS - loop.time(), "a warning")
        beating.cancel()
        assert max(gaps) < 0.5  # on the event loop nothing has waited
        assert not soon.done()  # the watch stays open
        etcd.thaw()
        async with asyncio.timeout(10.0):
            while await store.get("/after") is None:
                with contextlib.suppress(Temporary):
                    await store.txn([], [Put("/after", b"")])
        (change, *_) = await soon
        assert change.revision == 2  # whichever came first: what was unknown may have been done

    run([etcd.endpoint], story)


def test_write_that_was_never_sent_is_unreachable_and_one_that_was_is_unknown(etcd: EtcdProcess) -> None:
    async def story(store: EtcdStore) -> None:
        def write(*numbers: int) -> list[asyncio.Future[int | None]]:
            return [asyncio.ensure_future(store.txn([], [Put(f"/{number}", b"")])) for number in numbers]

        await store.revision()
        writing = write(*range(200))
        while not any(one.done() for one in writing):
            await asyncio.sleep(0)
        etcd.freeze()
        sent = write(*range(200, 210))
        assert (await asyncio.wait(sent, timeout=0.2))[0] == set()
        etcd.kill()
        answers = await asyncio.gather(*writing, *sent, return_exceptions=True)
        assert {type(answer) for answer in answers[200:]} == {UnknownOutcome}
        answers += await asyncio.gather(*write(*range(210, 220)), return_exceptions=True)
        assert {type(answer) for answer in answers[210:]} == {Unreachable}
        etcd.start()
        there: set[str] | None = None
        async with asyncio.timeout(10.0):
            while there is None:  # until it has tried to connect again
                with contextlib.suppress(Unreachable):
                    there = {entry.key for entry in (await store.list("/")).entries}
        for number, answer in enumerate(answers):
            assert isinstance(answer, int | UnknownOutcome | Unreachable)
            assert not isinstance(answer, int) or f"/{number}" in there
            assert not isinstance(answer, Unreachable) or f"/{number}" not in there

    run([etcd.endpoint], story)


def test_dead_member_of_a_list_is_passed_over(etcd: EtcdProcess) -> None:
    (nobody,) = free_ports(1)

    async def story(store: EtcdStore) -> None:
        assert await store.txn([], [Put("/a", b"")]) == 1
        watch = store.watch("/", 0)
        assert [change.key for change in await anext(watch)] == ["/a"]

    run([f"127.0.0.1:{nobody}", etcd.endpoint], story)


def test_cluster_that_loses_its_leader_goes_on(tmp_path: Path) -> None:
    peers = dict(zip(("m1", "m2", "m3"), free_ports(3), strict=True))
    members = [EtcdProcess(tmp_path, name=name, peers=peers) for name in peers]

    async def story(store: EtcdStore) -> None:
        load = Load(store)
        watching = asyncio.create_task(load.watch())
        writing = [asyncio.create_task(load.write(writer)) for writer in range(3)]
        await until(lambda: len(load.seen) > 0, 10.0, "the first event")
        await asyncio.to_thread(next(member for member in members if member.leads()).kill)
        before, lost = len(load.confirmed), len(load.seen)
        await until(lambda: len(load.confirmed) > before + 50, 10.0, "confirmed writes")
        await until(lambda: len(load.seen) > lost + 50, 10.0, "events")
        load.over = True
        await asyncio.gather(*writing)
        await load.check()
        watching.cancel()

    with running(*members):
        run([member.endpoint for member in members], story)


def test_member_that_is_cut_off_from_the_others_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peers = dict(zip(("m1", "m2", "m3"), free_ports(3), strict=True))
    members = [EtcdProcess(tmp_path, name=name, peers=peers) for name in peers]

    async def story(store: EtcdStore) -> None:
        watch = store.watch("/", 0)
        assert await store.txn([], [Put("/a", b"")]) == 1
        assert [change.key for change in await anext(watch)] == ["/a"]
        for other in members[1:]:
            other.freeze()  # m1, to which we are connected, lives on and has nobody to agree with
        with pytest.raises(UnknownOutcome):
            await store.txn([], [Put("/b", b"")])
        await until(lambda: "the watch will go on" in caplog.text, NOTICED_SECONDS, "a warning")
        for other in members[1:]:
            other.thaw()
        async with asyncio.timeout(15.0):
            while (await store.list("/c")).entries == ():
                with contextlib.suppress(Temporary):
                    await store.txn([], [Put("/c", b"")])
        assert (await take(watch, await store.revision()))[-1].key == "/c"

    with running(*members):
        run([member.endpoint for member in members], story)


def test_etcd_with_smaller_limits_than_usual_is_named(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path, "--max-txn-ops", "10")

    async def story(store: EtcdStore) -> None:
        with pytest.raises(UsageError, match="too many operations") as refused:
            await store.txn([], [Put(f"/{number}", b"") for number in range(11)])
        assert "--max-txn-ops" in refused.value.remedy
        together = [store.txn([], [Put(f"/{number}", b"")]) for number in range(20)]  # a group of 20 is refused, too
        assert None not in await asyncio.gather(*together)
        assert len((await store.list("/")).entries) == 20

    with running(etcd):
        run([etcd.endpoint], story)


def test_certificates_open_an_etcd_that_asks_for_them(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    etcd = EtcdProcess(
        tmp_path,
        *("--cert-file", files["cert"], "--key-file", files["key"], "--trusted-ca-file", files["ca"]),
        "--client-cert-auth",
        scheme="https",
    )

    async def works(store: Store) -> None:
        assert await store.txn([], [Put("/a", b"")]) == 1
        assert [change.key for change in await anext(store.watch("/", 0))] == ["/a"]
        await store.keep_alive(await store.grant(60.0))

    async def refused(store: Store) -> None:
        with pytest.raises(Unreachable, match="wants other certificates, or TLS, or none"):
            await store.revision()

    async def whole() -> None:
        stranger = certificates(tmp_path / "stranger")
        for options, story in (
            ("?ca={ca}&cert={cert}&key={key}", works),
            ("?ca={ca}", refused),
            ("", refused),
            (f"?ca={stranger['ca']}&cert={{cert}}&key={{key}}", refused),
            (f"?ca={{ca}}&cert={stranger['cert']}&key={stranger['key']}", refused),
        ):
            store = open_store(f"etcd://{etcd.endpoint}{options.format(**files)}")
            try:
                await story(store)
            finally:
                await store.close()

    with running(etcd):
        asyncio.run(whole())


def certificates(folder: Path) -> dict[str, str]:
    """An authority and one certificate for 127.0.0.1, good for servers and clients."""
    folder.mkdir(exist_ok=True)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "cert")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in keys}
    now = datetime.datetime.now(datetime.UTC)
    files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}
    for name, key in keys.items():
        alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = (
            x509.CertificateBuilder(names["ca"], names[name], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(name == "ca", None), critical=True)
            .add_extension(alternatives, critical=False)
            .sign(keys["ca"], hashes.SHA256())
        )
        files[name].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    files["key"].write_bytes(keys["cert"].private_bytes(pem, form, serialization.NoEncryption()))
    return {name: str(file) for name, file in files.items()}
