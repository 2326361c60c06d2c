"""Transactions for an etcd: the bytes, who may share a request, and what becomes of the others when one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from miniorch.errors import MiniorchError, NotFound, UnknownOutcome, UsageError
from miniorch.state.etcd_member import rpc
from miniorch.state.etcd_txn import Group, GroupCommit, Waiting, encoded, grouped
from miniorch.state.limits import TXN_BYTES
from miniorch.state.store import Compare, Delete, Put


class Etcd:
    """Answers requests as etcd does whose compares all hold; the first may take its time, or each may fail."""

    def __init__(self, failure: Callable[[int], MiniorchError | None] = lambda members: None) -> None:
        self.sizes: list[int] = []
        self.go_on = asyncio.Event()
        self._failure = failure

    async def ask(self, request: bytes) -> bytes:
        members = sum(one.HasField("request_txn") for one in rpc.TxnRequest.FromString(request).success) or 1
        self.sizes.append(members)
        if len(self.sizes) == 1:
            await self.go_on.wait()
        if error := self._failure(members):
            raise error
        return response(300, *[True] * members)


def response(revision: int, *succeeded: bool) -> bytes:
    whole = rpc.TxnResponse(succeeded=succeeded[0] if len(succeeded) == 1 else True)
    whole.header.revision, whole.header.cluster_id, whole.header.member_id = revision, 2**64 - 1, 2**63
    for one in succeeded if len(succeeded) > 1 else ():
        inner = whole.responses.add().response_txn
        inner.header.SetInParent()
        inner.succeeded = one
        inner.responses.add().response_put.header.SetInParent()
    return bytes(whole.SerializeToString())


def waiting(number: int, *, reads: Sequence[str] = (), size: int = 1, value: int = 1) -> Waiting:
    keys = [f"/{number}/{one}" for one in range(size)]
    request = encoded(b"", 1, [], [Put(key, b"x" * value) for key in keys])
    return Waiting(request, size, frozenset(reads), frozenset(keys), asyncio.get_running_loop().create_future())


def test_request_is_the_one_that_etcd_reads() -> None:
    expected = rpc.TxnRequest()
    expected.compare.add(target=rpc.Compare.MOD, key=b"/root/absent", mod_revision=0)
    expected.compare.add(target=rpc.Compare.MOD, key=b"/root/there", mod_revision=1_000_007)
    for key, value, lease in ((b"/root/a", b"", 0), (b"/root/b", b"x" * 127, 2**62), (b"/root/c", b"x" * 20_000, 1)):
        put = expected.success.add().request_put
        put.key, put.value, put.lease = key, value, lease
    expected.success.add().request_delete_range.key = "/root/\u00e4".encode()
    request = encoded(
        *(b"/root", 7, [Compare("/absent", 0), Compare("/there", 1_000_000)]),
        [Put("/a", b""), Put("/b", b"x" * 127, 2**62), Put("/c", b"x" * 20_000, 1), Delete("/\u00e4")],
    )
    assert rpc.TxnRequest.FromString(request) == expected


async def test_each_member_of_a_group_has_an_answer_of_its_own() -> None:
    group = Group([waiting(1)])
    assert group.answers(response(300, True)) == [300]
    assert group.answers(response(300, False)) == [None]
    group.members += [waiting(2), waiting(3)]
    assert group.answers(response(70_000, True, False, True)) == [70_000, None, 70_000]
    inner = [one.request_txn.SerializeToString() for one in rpc.TxnRequest.FromString(group.request()).success]
    assert inner == [one.request for one in group.members]


async def test_groups_stay_within_what_an_etcd_takes() -> None:
    wishes = [waiting(number, size=1 + number % 90, value=1 + number * 50) for number in range(200)]
    for group in grouped([*wishes, waiting(200, size=128)]):
        assert len(group.members) == 1 or len(group.members) + max(one.size for one in group.members) <= 128
        assert len(group.members) == 1 or len(group.request()) <= TXN_BYTES + 128 * 12
    assert len(grouped([waiting(number) for number in range(127)])) == 1


async def test_who_reads_or_writes_what_another_writes_goes_in_another_group() -> None:
    same = [waiting(1), waiting(1), waiting(2, reads=["/1/0"]), waiting(3, reads=["/epoch"])]
    also = [waiting(4, reads=["/epoch"]), waiting(5, reads=["/6/0"]), waiting(6)]
    sizes = [len(group.members) for group in grouped([*same, *also])]
    assert sum(sizes) == 7
    assert len(sizes) == 3  # the first key is wanted by three
    assert [len(group.members) for group in grouped([waiting(1)] * 20)] == [1] * 20


async def test_transactions_gather_while_one_is_under_way() -> None:
    etcd = Etcd()
    commits = GroupCommit(b"", 1, etcd.ask)
    first = asyncio.ensure_future(commits.txn([], [Put("/first", b"")]))
    while not etcd.sizes:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(commits.txn([], [Put(f"/{number}", b"")])) for number in range(10)]
    await asyncio.sleep(0)
    others[3].cancel()  # nothing is undone, and nobody else is disturbed
    etcd.go_on.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [answer for answer in answers if answer != 299] == [answers[4]]
    assert etcd.sizes == [1, 10]


async def test_request_that_gets_no_answer_keeps_nobody_else_back() -> None:
    etcd = Etcd()
    commits = GroupCommit(b"", 1, etcd.ask)
    stuck = asyncio.ensure_future(commits.txn([], [Put("/stuck", b"")]))
    while not etcd.sizes:
        await asyncio.sleep(0)
    assert await commits.txn([], [Put("/other", b"")]) == 299
    assert not stuck.done()
    etcd.go_on.set()
    assert await stuck == 299


@pytest.mark.parametrize("kind", [UsageError, NotFound])
async def test_group_that_is_refused_is_sent_again_one_by_one(kind: type[MiniorchError]) -> None:
    etcd = Etcd(lambda members: kind("no") if members > 1 else None)
    etcd.go_on.set()
    commits = GroupCommit(b"", 1, etcd.ask)
    assert await asyncio.gather(*(commits.txn([], [Put(f"/{one}", b"")]) for one in range(5))) == [299] * 5
    assert etcd.sizes == [5, 1, 1, 1, 1, 1]


async def test_unknown_outcome_is_that_of_all_and_nothing_is_sent_again() -> None:
    etcd = Etcd(lambda members: UnknownOutcome("no answer"))
    etcd.go_on.set()
    commits = GroupCommit(b"", 1, etcd.ask)
    wishes = (commits.txn([], [Put(f"/{one}", b"")]) for one in range(5))
    answers = await asyncio.gather(*wishes, return_exceptions=True)
    assert [type(answer) for answer in answers] == [UnknownOutcome] * 5
    assert etcd.sizes == [5]
