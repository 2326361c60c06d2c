"""What a node's net process knows: what the server said last, also after a restart of either.

The problem: containers need their network while the server is away, and a net process that starts then knows nothing.
The idea: after each change the whole of it goes to disk, and the next process begins with that. Missing is not empty:
a list without this node says nothing about its peers. Next file: `netplugin/main.py`.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miniorch.client import Snapshot
from miniorch.codec import decode, encode
from miniorch.errors import MiniorchError
from miniorch.model import Cluster, Endpoints, Node
from netplugin.overlay import Peer, peers_of


@dataclass(frozen=True, slots=True)
class Known:
    """What the server said last. Incomplete until it has named the cluster and this node."""

    cluster: Cluster | None = None
    node: Node | None = None
    peers: tuple[Peer, ...] = ()  # the other nodes
    endpoints: tuple[Endpoints, ...] = ()
    revision: int = -1  # of the endpoints; -1: not heard since this process started


def learn(known: Known, node: str, kind: type, snapshot: Snapshot[Any]) -> Known:
    """What is known after a snapshot. A node or cluster that is not listed (yet) makes nothing known wrong."""
    if kind is Endpoints:
        endpoints = tuple(snapshot.items[key] for key in sorted(snapshot.items))
        return replace(known, endpoints=endpoints, revision=snapshot.revision)
    for item in snapshot.items.values():
        if isinstance(item, Cluster):
            known = replace(known, cluster=item)
        if isinstance(item, Node) and item.name == node:
            known = replace(known, node=item, peers=peers_of(item, snapshot.items.values()))
    return known


def load(path: Path) -> Known:
    """What was known when the last process ended; nothing if there was none, or if its file is damaged."""
    try:
        return replace(decode(Known, path.read_bytes()), revision=-1)
    except (OSError, MiniorchError):
        return Known()


def save(path: Path, known: Known) -> None:
    """Atomically: a crash leaves the old file or the new one."""
    data = encode(known)
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    fresh.replace(path)
