"""The store on an etcd: the same promises on three machines.

The problem: with the store on one disk, the cluster is that disk. The idea: etcd keeps it on several machines, and its
model is ours: one revision, transactions that compare, watches. What is left to do here is to stay honest about a
network: a write whose answer is lost is `UnknownOutcome`; a watch that breaks off goes on where it was.

A server has hundreds of watchers and etcd is watched once: one stream of everything below our root feeds a bounded
history in memory, and every watcher reads from that (`watchers.py`). The stream is supervised: when it breaks, or falls
silent and gives no sign of life, a new client takes it up at the next member, after the last revision that came.

Who does this for real: Kubernetes' API server, whose watch cache stands between its clients and etcd. Where we differ:
its cache answers lists, too; here every read asks etcd, so every read is of now. Next file: `miniorch/state/open.py`.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from miniorch.errors import Compacted, MiniorchError, NotFound, Temporary, UnknownOutcome, Unreachable, UsageError
from miniorch.state.etcd_member import answer, connect, failure, grpc, responses, rpc
from miniorch.state.etcd_txn import GroupCommit
from miniorch.state.leases import check_seconds, ended
from miniorch.state.limits import check_key, check_txn
from miniorch.state.store import Change, Compare, Entry, Listing, Operation
from miniorch.state.watchers import Batch, History, Watchers

log = logging.getLogger("store")

ROOT = "/miniorch"
CALL_SECONDS = 4.0
TIDY_SECONDS = 60.0  # for what etcd does to its files
PAGE_KEYS = 1000
PAST_REVISIONS = 1000  # so many before the first one asked for are watched, too: others come back from a bit earlier
BACKOFF_SECONDS = (0.1, 1.0)
FIRST_REVISION = 1  # of an etcd that nobody has written to; a store of ours is then at 0


class EtcdStore:
    """A `Store` below `root` in an etcd that has members at `endpoints` (host:port). `tls` names files: ca, cert, key.

    `origin` is the etcd's revision that counts as 0 here. What others write below another root makes revisions pass.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        root: str = "",
        tls: Mapping[str, str] | None = None,
        *,
        origin: int = FIRST_REVISION,
        chance: random.Random | None = None,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._root = (root or ROOT).encode()
        self._tls = tls or {}
        self._origin = origin
        self._chance = chance or random.Random()
        self._clients = [connect(endpoint, self._tls) for endpoint in self._endpoints]
        self._current = 0  # the member that is asked first
        self._closed = False
        self._commits = GroupCommit(self._root, origin, functools.partial(self._ask, "kvstub.Txn", writes=True))
        self._history = History()
        self._compacted = 0  # we have been asked to forget up to here
        self._watchers = Watchers(self._read)
        self._following: asyncio.Task[None] | None = None

    # Requests

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        found = await self._ask("kvstub.Range", rpc.RangeRequest(key=self._path(key)))
        return self._entry(found.kvs[0]) if found.kvs else None

    async def list(self, prefix: str) -> Listing:
        prefix = prefix or "/"
        if not prefix.startswith("/"):
            return Listing(await self.revision(), ())
        while True:
            with contextlib.suppress(Compacted):  # between two pages; then again from the first
                return await self._list(self._path(prefix))

    async def _list(self, path: bytes) -> Listing:
        """All pages, as of the first one's revision."""
        request = rpc.RangeRequest(key=path, range_end=_after(path), limit=PAGE_KEYS)
        entries: list[Entry] = []
        while True:
            page = await self._ask("kvstub.Range", request)
            entries.extend(map(self._entry, page.kvs))
            request.revision = request.revision or page.header.revision
            if not page.more:
                return Listing(request.revision - self._origin, tuple(entries))
            request.key = page.kvs[-1].key + b"\0"

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        check_txn(compares, operations)
        return await self._commits.txn(compares, operations)

    async def grant(self, seconds: float) -> int:
        check_seconds(seconds)
        granted = await self._ask("leasestub.LeaseGrant", rpc.LeaseGrantRequest(TTL=math.ceil(seconds)), writes=True)
        return int(granted.ID)

    async def keep_alive(self, lease: int) -> None:
        request = rpc.LeaseKeepAliveRequest(ID=lease)

        def renew(client: Any, seconds: float) -> Awaitable[int]:
            def stream() -> int:  # etcd has this as a stream only, and a stream blocks its thread
                return sum(one.TTL for one in client.leasestub.LeaseKeepAlive(iter([request]), seconds))

            return asyncio.to_thread(stream)

        if await self._try(renew, writes=True) <= 0:
            raise ended(lease)

    async def revoke(self, lease: int) -> None:
        with contextlib.suppress(NotFound):
            await self._ask("leasestub.LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease), writes=True)

    async def compact(self, revision: int) -> None:
        """And if etcd was full, open it for writers again."""
        try:
            if revision > 0:
                with contextlib.suppress(Compacted):  # further already
                    request = rpc.CompactionRequest(revision=revision + self._origin, physical=True)
                    await self._ask("kvstub.Compact", request, writes=True, seconds=TIDY_SECONDS)
                self._compacted = max(self._compacted, revision)
                self._history.forget(min(self._compacted, self._history.head))
        except UsageError:
            newest = await self.revision()
            raise UsageError(f"cannot compact up to revision {revision}: the newest is {newest}") from None
        alarms = (await self._ask("maintenancestub.Alarm", rpc.AlarmRequest(alarm=rpc.NOSPACE))).alarms
        if alarms:
            await self._reopen(alarms)

    async def _reopen(self, alarms: Sequence[Any]) -> None:
        """A full etcd gives nothing back to its disk and lets nobody write, until it is told to."""
        for endpoint, client in zip(self._endpoints, self._clients, strict=True):
            try:
                await answer(client.maintenancestub.Defragment.future(rpc.DefragmentRequest(), TIDY_SECONDS))
            except grpc.RpcError as error:
                log.warning("%s", self._problem(endpoint, error, writes=False).message)
        for one in alarms:
            off = rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, memberID=one.memberID, alarm=one.alarm)
            await self._ask("maintenancestub.Alarm", off, writes=True)
        log.warning("etcd was full: its members have given back what was compacted, and it may be written to again")

    async def revision(self) -> int:
        found = await self._ask("kvstub.Range", rpc.RangeRequest(key=self._path("/"), count_only=True))
        return int(found.header.revision) - self._origin

    async def close(self) -> None:
        self._closed = True
        self._watchers.close()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        for client in self._clients:
            client.close()

    async def _ask(self, method: str, request: Any, *, writes: bool = False, seconds: float = CALL_SECONDS) -> Any:
        """The answer to one request. Writes that may have been done are never repeated."""
        stub, _, name = method.partition(".")

        def ask(client: Any, left: float) -> Awaitable[Any]:
            return answer(getattr(getattr(client, stub), name).future(request, left))

        return await self._try(ask, writes=writes, seconds=seconds)

    async def _try(
        self, ask: Callable[[Any, float], Awaitable[Any]], *, writes: bool, seconds: float = CALL_SECONDS
    ) -> Any:
        """One member after the other, as long as it does no harm and the time lasts."""
        loop = asyncio.get_running_loop()
        deadline, problem = loop.time() + seconds, MiniorchError("")
        for _ in self._endpoints:
            if self._closed:
                raise Temporary("the store is closed")
            asked = self._current
            try:
                return await ask(self._clients[asked], max(deadline - loop.time(), 0.1))
            except grpc.RpcError as error:
                problem = self._problem(self._endpoints[asked], error, writes)
            if isinstance(problem, UnknownOutcome | Unreachable) and asked == self._current:
                self._current = (asked + 1) % len(self._endpoints)
            if not isinstance(problem, Unreachable):
                break
        raise Temporary("the store is closed") if self._closed else problem

    def _problem(self, endpoint: str, error: Any, writes: bool) -> MiniorchError:
        details = str(error.details())
        if "lease not found" in details:
            return NotFound("the lease has ended")
        if "has been compacted" in details:
            return Compacted("this revision has been compacted")
        if "future revision" in details:
            return UsageError(details)
        return failure(endpoint, error, writes)

    def _path(self, key: str) -> bytes:
        return self._root + key.encode()

    def _entry(self, kv: Any) -> Entry:
        key = kv.key[len(self._root) :].decode(errors="backslashreplace")
        return Entry(key, kv.value, kv.create_revision - self._origin, kv.mod_revision - self._origin)

    # Watching

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        if self._following is None and not self._closed:
            self._history = History(max(0, after - PAST_REVISIONS))
            self._following = asyncio.create_task(self._follow(), name="etcd watch")
        return self._watchers.watch(prefix, after)

    async def _read(self, prefix: str, after: int) -> Batch:
        await asyncio.sleep(0)  # a slow watcher reads again and again: others come between
        return self._history.read(prefix, after)

    async def _follow(self) -> None:
        """Keep the history fed, whatever happens to the members."""
        first, longest = BACKOFF_SECONDS
        backoff, away = first, False
        for attempt in itertools.count():
            endpoint = self._endpoints[attempt % len(self._endpoints)]
            client = connect(endpoint, self._tls)
            try:
                async with contextlib.aclosing(self._responses(endpoint, client)) as told:
                    async for response in told:
                        if away:
                            log.info("etcd %s: watching again after revision %d", endpoint, self._history.head)
                        backoff, away = first, False
                        if response.header.revision - self._origin < self._history.head:
                            await self._look_back()
                        self._take(response)
            except Compacted:
                continue  # the history begins later now: watch from there
            except MiniorchError as error:
                if not away:
                    log.warning("%s; the watch will go on after revision %d", error.message, self._history.head)
                away = True
            finally:
                client.close()
            await asyncio.sleep(self._chance.uniform(backoff / 2, backoff))
            backoff = min(backoff * 2, longest)

    async def _look_back(self) -> None:
        """A member may be behind what others have told. An etcd that is behind has been emptied, or restored."""
        now, head = await self.revision(), self._history.head
        if now < head:
            log.error("etcd is at revision %d and was at %d before: it has been emptied or restored", now, head)
            self._history, self._compacted = History(now), 0
            self._watchers.fail(Compacted("the store has been restored: what was seen before may never have happened"))
            raise Compacted(f"revision {head} is not the past of revision {now}")

    def _responses(self, endpoint: str, client: Any) -> AsyncGenerator[Any, None]:
        # From the last revision that came, which comes again: etcd lets a watch begin at the revision up to which it
        # has been compacted, although the deletions of that one are gone. From the one before, it refuses.
        key = self._path("/")
        watch = rpc.WatchCreateRequest(
            key=key, range_end=_after(key), start_revision=self._history.head + self._origin, prev_kv=True
        )
        return responses(endpoint, client, watch)

    def _take(self, response: Any) -> None:
        """Enter whole revisions into the history and ring the watchers. Raises `Compacted` if some are missing."""
        history, origin = self._history, self._origin
        if isinstance(response, rpc.RangeResponse):  # a sign of life
            return
        if response.compact_revision:
            self._skip(response.compact_revision - origin)
        if response.canceled:
            raise Unreachable(f"etcd ended the watch: {response.cancel_reason}")
        new = (event for event in response.events if event.kv.mod_revision - origin > history.head)
        for revision, events in itertools.groupby(new, lambda event: event.kv.mod_revision - origin):
            changes = sorted(map(self._change, events), key=lambda change: change.key)
            if any(
                change.previous is None and (change.entry is None or change.entry.created < revision)
                for change in changes
            ):
                self._skip(revision)  # compacted between the change and its being told
            history.append(revision, changes)
            self._watchers.publish(revision, [change.key for change in changes])
        history.forget(min(self._compacted, history.head))
        history.shrink()

    def _change(self, event: Any) -> Change:
        previous = self._entry(event.prev_kv) if event.HasField("prev_kv") else None
        entry = self._entry(event.kv)
        return Change(entry.modified, entry.key, None if event.type == event.DELETE else entry, previous)

    def _skip(self, upto: int) -> None:
        """What led up to a revision is not to be had any more: every watcher that has not seen it must list again."""
        self._history.forget(upto)
        self._watchers.ring()
        raise Compacted(f"everything up to revision {upto} has been compacted")


def _after(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix. UTF-8 has no byte 255, so the last byte can grow."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
