"""A backup: everything that is wished and known, at one revision, in one encrypted file.

The problem: a copy of the database file fits one backend, may have been taken in the middle of a write, and has the
key of the cluster's authority for everybody to read, or lacks it. The idea: one listing of the store, which is true at
one revision whatever the backend, together with the authority; packed, encrypted with a passphrase, and written as one
file. A restore writes the same objects into any empty store. Agents find the task of every container that they run
there, and leave it alone.

    {"format":"miniorch backup","version":1,"cluster":...,"revision":...,...}     one line, in the clear
    AES-256-GCM(zlib(JSON of `Content`)), the key made by scrypt from the passphrase; the line above is authenticated
    SHA-256 of all of that: tells a file that was cut off from a passphrase that is wrong

Not in it: events (they are about what happened, not about what shall be), who leads, and the data in volumes.

Who does this for real: `etcdctl snapshot save`; a copy of /var/lib/docker/swarm. Where we differ: objects rather than
pages, so it fits either backend. Next file: `miniorch/cli/backup.py`.
"""

import asyncio
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from miniorch.authority import Authority
from miniorch.codec import decode, encode
from miniorch.errors import Conflict, NotAllowed, Unsupported, UsageError
from miniorch.model import KINDS, Cluster
from miniorch.state.limits import TXN_BYTES, TXN_OPERATIONS
from miniorch.state.records import from_entry, put
from miniorch.state.shifted import base_at
from miniorch.state.store import Delete, Operation, Put, Store

FORMAT, VERSION = "miniorch backup", 1
LEFT_OUT = ("/events/", "/leaders/")
SUM_BYTES = 32
NONCE_BYTES = 12
NOISE_BYTES = 16 + NONCE_BYTES
LEADER_SECONDS = 15.0  # longer than a leader's lease lives after its holder


@dataclass(frozen=True, slots=True)
class Content:
    """What a backup holds: keys with the texts that stood there at `revision`."""

    cluster: str
    revision: int
    authority: Authority
    entries: tuple[tuple[str, ...], ...]


async def take(store: Store, authority: Authority | None) -> Content:
    """Everything at one revision. Raises `Conflict` if this server does not hold the authority's key."""
    if authority is None:
        raise Conflict(
            "this server does not hold the key of the cluster's authority, and a backup without it would be half a one",
            remedy="run miniorch backup on the machine of the cluster's first server",
        )
    listing = await store.list("/")
    kept = [entry for entry in listing.entries if not entry.key.startswith(LEFT_OUT)]
    cluster = next(item for entry in kept if isinstance(item := from_entry(entry), Cluster))
    return Content(cluster.id, listing.revision, authority, tuple((entry.key, entry.value.decode()) for entry in kept))


def seal(content: Content, passphrase: str, now: float, noise: bytes) -> bytes:
    """The file. `noise` is NOISE_BYTES random bytes that have never been used before."""
    salt, nonce = noise[:-NONCE_BYTES], noise[-NONCE_BYTES:]
    head = {
        "format": FORMAT,
        "version": VERSION,
        "cluster": content.cluster,
        "revision": content.revision,
        "objects": len(content.entries),
        "made_at": now,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
    }
    line = encode(head) + b"\n"
    secret = AESGCM(_key(passphrase, salt)).encrypt(nonce, zlib.compress(encode(content)), line)
    return line + secret + hashlib.sha256(line + secret).digest()


def head_of(data: bytes) -> dict[str, Any]:
    """What a file says of itself. Raises `UsageError` or `Unsupported` unless it is a whole backup that we can read."""
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        known = head["format"] == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        known = False
    if not known:
        raise UsageError("this file is not a backup of miniorch", remedy="miniorch backup FILE makes one")
    if head.get("version") != VERSION:
        raise Unsupported(
            f"the backup has version {head.get('version')}, this miniorch reads version {VERSION}",
            remedy="restore it with the miniorch that made it, or a newer one",
        )
    if hashlib.sha256(data[:-SUM_BYTES]).digest() != data[-SUM_BYTES:] or len(rest) < SUM_BYTES:
        raise UsageError("the backup is damaged, or was cut off", remedy="copy it again from where it was made")
    return dict(head)


def unseal(data: bytes, passphrase: str) -> Content:
    """The content of a file. Raises `NotAllowed` for a wrong passphrase and what `head_of` raises."""
    head = head_of(data)
    line, _, rest = data.partition(b"\n")
    try:
        salt, nonce = bytes.fromhex(head["salt"]), bytes.fromhex(head["nonce"])
        packed = AESGCM(_key(passphrase, salt)).decrypt(nonce, rest[:-SUM_BYTES], line + b"\n")
    except InvalidTag:
        raise NotAllowed("the passphrase is not the one of this backup", remedy="miniorch restore, again") from None
    except (KeyError, ValueError, TypeError):
        raise UsageError("the backup is damaged", remedy="copy it again from where it was made") from None
    content = decode(Content, zlib.decompress(packed))
    content.authority.check()
    return content


def _key(passphrase: str, salt: bytes) -> bytes:
    """32 MiB and a tenth of a second for each guess."""
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32)


async def restore(store: Store, content: Content, now: float, *, force: bool = False) -> None:
    """Write a backup's objects into an empty store; with `force`, in place of all that a store holds.

    The cluster's record goes first and comes last: a store without one, which holds anything else, is half restored,
    and no server starts on it. Were the store empty for a moment, a server that started then would make a new cluster
    of it, and agents would remove what runs. Raises `Conflict` if somebody leads on this store, or if it is not empty.
    """
    puts, cluster = [], None
    for key, value in content.entries:
        if key.split("/")[1] not in KINDS:
            raise Unsupported(
                f"the backup holds {key}, which this miniorch does not know", remedy="use the miniorch that made it"
            )
        if key == "/cluster/cluster":
            cluster = decode(Cluster, value)
        else:
            puts.append(Put(key, value.encode()))
    if cluster is None:
        raise UsageError("the backup lacks the cluster's record", remedy="miniorch backup FILE makes another")
    await _nobody_leads(store)
    there = [entry.key for entry in (await store.list("/")).entries]
    if there and not force:
        raise Conflict(f"the store is not empty: it holds {len(there)} objects", remedy="miniorch restore FILE --force")
    base = base_at(now, content.revision)
    last = put(replace(cluster, authority=content.authority.certificate, base_revision=base))
    kept = {operation.key for operation in puts} | {last.key}
    gone = [Delete(key) for key in there if key not in kept]
    await _do(store, [Delete(last.key), *puts, *gone])
    await _do(store, [last])


async def _do(store: Store, operations: Sequence[Operation]) -> None:
    """In order, in as many transactions as a store wants it to be."""
    batch: list[Operation] = []
    size = 0
    for operation in operations:
        grown = len(operation.key.encode()) + (len(operation.value) if isinstance(operation, Put) else 0)
        if len(batch) == TXN_OPERATIONS or size + grown > TXN_BYTES:
            await store.txn([], batch)
            batch, size = [], 0
        batch.append(operation)
        size += grown
    await store.txn([], batch)


async def _nobody_leads(store: Store) -> None:
    """A server that was stopped has left; one that was killed leads until its lease ends, so that is waited for."""
    deadline = asyncio.get_running_loop().time() + LEADER_SECONDS
    while (await store.list("/leaders/")).entries:
        if asyncio.get_running_loop().time() > deadline:
            raise Conflict("a server of miniorch runs on this store", remedy="miniorch down, on every server's machine")
        await asyncio.sleep(0.5)


async def restored(url: str, content: Content, now: float, *, force: bool) -> None:
    """`restore` into the store at a URL (`sqlite:///path`, `etcd://host:port`)."""
    from miniorch.state.open import open_store

    store = open_store(url)
    try:
        await restore(store, content, now, force=force)
    finally:
        await store.close()
