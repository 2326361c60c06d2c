"""A store whose revisions begin higher: what makes a restored store one that nobody has seen before.

The problem: a restored store counts its revisions from the beginning again. Everybody who followed the old one knows a
higher number, would wait there for changes that come under lower ones, and would believe that "my traffic follows
revision 900" says something about today's revision 40. The idea: a revision must never go down, whoever looks. So a
restore writes a `base` into the cluster's record, above every revision that can have been told, and from then on the
base is added to every revision that comes out of the store and taken from every one that goes in. Whoever asks for
changes after an older revision hears that they are history (`Compacted`), and lists again.

The base is the second of the restore times `PER_SECOND`: no store writes a million revisions a second, so the base of
every later restore, whatever the backup's age, is above all that any earlier store reached.

Who does this for real: etcd's own restore, with `--bump-revision` and `--mark-compacted`. Where we differ: nothing in
the store is touched, so it works with any. Next file: `miniorch/state/backup.py`.
"""

from collections.abc import AsyncGenerator, Sequence

from msgspec.structs import replace

from miniorch.errors import Compacted
from miniorch.model import Cluster
from miniorch.state.records import read
from miniorch.state.store import Change, Compare, Entry, Listing, Operation, Store

PER_SECOND = 1 << 20


def base_at(now: float, told: int) -> int:
    """The base for a restore at `now`, when revisions up to `told` are known to have been told."""
    return max(int(now) * PER_SECOND, (told // PER_SECOND + 1) * PER_SECOND)


async def opened(store: Store) -> Store:
    """The store as everybody shall see it: shifted if it has been restored."""
    cluster = await read(store, Cluster, "cluster")
    return Shifted(store, cluster.item.base_revision) if cluster and cluster.item.base_revision else store


class Shifted:
    """A `Store` that adds `base` to the revisions of another."""

    def __init__(self, store: Store, base: int) -> None:
        self._store = store
        self._base = base
        self.grant, self.keep_alive, self.revoke = store.grant, store.keep_alive, store.revoke
        self.close = store.close

    def _up(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        return replace(entry, created=entry.created + self._base, modified=entry.modified + self._base)

    async def get(self, key: str) -> Entry | None:
        return self._up(await self._store.get(key))

    async def list(self, prefix: str) -> Listing:
        listing = await self._store.list(prefix)
        raised = tuple(entry for one in listing.entries if (entry := self._up(one)))
        return Listing(listing.revision + self._base, raised)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        if any(0 < compare.modified <= self._base for compare in compares):
            return None  # read before the restore
        lowered = [replace(one, modified=one.modified - self._base) if one.modified else one for one in compares]
        revision = await self._store.txn(lowered, operations)
        return None if revision is None else revision + self._base

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        if after < self._base:
            raise Compacted(f"revision {after} is of the time before the restore")
        changes = self._store.watch(prefix, after - self._base)
        try:
            async for batch in changes:
                yield [
                    Change(one.revision + self._base, one.key, self._up(one.entry), self._up(one.previous))
                    for one in batch
                ]
        finally:
            await changes.aclose()

    async def compact(self, revision: int) -> None:
        await self._store.compact(max(0, revision - self._base))

    async def revision(self) -> int:
        return await self._store.revision() + self._base
