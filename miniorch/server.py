"""The server process: store, API and control loops, put together. Nothing is decided here.

`Server` is the part that the simulation runs, too: it takes the store, the clock and chance. `main` brings the real
ones and the socket.

    python -m miniorch.server --pool 10.200.0.0/15 --store sqlite:///var/lib/miniorch/state.db

Next file, if you follow a request: `miniorch/api/routes.py`; if you follow a task: `miniorch/controllers/loop.py`.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from miniorch import identity
from miniorch.api.handlers import Handlers
from miniorch.api.routes import Call
from miniorch.authority import Authority, own_key, write_private
from miniorch.certificates import own_certificate, request_for
from miniorch.clock import Clock, SystemClock, new_id, unseeded
from miniorch.controllers.endpoints import Reachability
from miniorch.controllers.leadership import TTL_SECONDS, Leadership
from miniorch.controllers.liveness import HEARTBEAT_SECONDS, TICK_SECONDS, Liveness
from miniorch.controllers.loop import Controller, Loop
from miniorch.controllers.placement import Placer
from miniorch.controllers.services import Services
from miniorch.controllers.upkeep import History, Removal, Silence
from miniorch.ending import end
from miniorch.errors import Conflict, MiniorchError, NotFound, NotLeader, Temporary, Unreachable
from miniorch.garbage import sparing
from miniorch.identity import AGENT_PORT, LOCAL, SERVER_PORT, has_identity
from miniorch.model import Cluster, Leader, Member, Node, Task
from miniorch.pool import DEFAULT_POOL, split_pool
from miniorch.state.open import open_store
from miniorch.state.records import Write, commit, read
from miniorch.state.shifted import opened
from miniorch.state.store import Compare, Store
from miniorch.transport import API_SOCKET, RUN_DIRECTORY, STATE_DIRECTORY

log = logging.getLogger("server")

COMPACT_EVERY_SECONDS = 300.0
REVISIONS_KEPT = 5000
STORE_AWAY_SECONDS = 1.0  # between two attempts to begin
RESTORE = "miniorch restore FILE --force"


class Server:
    """The control plane over one store."""

    def __init__(
        self, store: Store, clock: Clock, chance: random.Random, pool: str = DEFAULT_POOL, *, name: str = "server",
        ttl_seconds: float = TTL_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:  # fmt: skip
        self.store = store
        self._chance = chance
        self._pools = split_pool(pool)
        self.liveness = Liveness(clock, heartbeat_seconds)
        controllers: list[Controller] = [
            Removal(),
            Services(self.liveness, chance),
            Placer(),
            Reachability(),
            Silence(self.liveness),
            History(),
        ]
        self.loop = Loop(store, controllers, clock, chance)
        self.leadership = Leadership(store, self.loop.cache, self.liveness, name, clock, chance, ttl_seconds)
        self.hang_up: Callable[[str, str], None] = lambda name, but: None
        self.handlers = Handlers(store, clock, chance, self.loop, self.leadership, self.liveness)

    async def prepare(self) -> Cluster:
        """Make the cluster record if this is the first start. Must be done before the first request."""
        found = await read(self.store, Cluster, "cluster")
        if found is None:
            keys = [entry.key for entry in (await self.store.list("/")).entries]
            if "/cluster/cluster" not in keys and not all(key.startswith("/leaders/") for key in keys):
                raise Conflict("the store is half restored: it lacks the cluster's record", remedy=RESTORE)
            cluster = Cluster(new_id(self._chance, 12), *self._pools)
            await commit(self.store, [Write(cluster, 0)])
            found = await read(self.store, Cluster, "cluster")
        assert found is not None
        return found.item

    async def run(self) -> None:
        """Follow the store, and run the control loops while this server leads, until the store is closed."""
        following = asyncio.create_task(self.loop.cache.follow(self.store, self._changed), name="cache")
        leading = asyncio.create_task(self.leadership.run(self._lead), name="leadership")
        compacting = asyncio.create_task(self._compact(), name="compact")  # in a full etcd nobody can begin to lead
        try:
            done, _ = await asyncio.wait([following, leading], return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()  # raises what ended it
        finally:
            await end(following, leading, compacting)

    def _changed(self, item: object, gone: bool) -> None:
        if isinstance(item, Leader):
            self.leadership.notice()
        if isinstance(item, Task):
            self.handlers.scopes.changed(item, gone)
        if isinstance(item, Member):
            self.hang_up(item.name, "" if gone else item.key)
        self.loop.changed(item, gone)

    async def _lead(self, guard: Compare) -> str:
        """What the leader does."""
        ticking = asyncio.create_task(self._tick(), name="tick")
        try:
            return await self.loop.run(guard)
        finally:
            await end(ticking)

    async def _tick(self) -> None:
        while True:
            self.liveness.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(COMPACT_EVERY_SECONDS)
            try:
                await self.store.compact(max(0, await self.store.revision() - REVISIONS_KEPT))
            except MiniorchError as error:
                log.warning("compaction put off: %s", error.message)


async def authority_of(store: Store, folder: Path, clock: Clock) -> Authority | None:
    """The cluster's authority, made if there is none yet; None if its key lies with another server.

    Whoever first writes its certificate into the cluster's record has made it. The key is on the disk before that.
    """
    cluster = await read(store, Cluster, "cluster")
    assert cluster is not None
    if not cluster.item.authority:
        own = Authority.make(cluster.item.id, clock.now())
        own.save(folder)
        if await commit(store, [Write(replace(cluster.item, authority=own.certificate), cluster.modified)]) is None:
            return await authority_of(store, folder, clock)
        return own
    if not (folder / identity.AUTHORITY_FILE).exists():  # a restore was killed before its end, say
        write_private(folder / identity.AUTHORITY_FILE, cluster.item.authority.encode())
    found = Authority.load(folder)
    if found is None or found.certificate != cluster.item.authority:
        log.warning("%s does not hold the key of the cluster's authority; another server's state does", folder)
        return None
    return found


def agent_at(own: str, nodes: Mapping[str, Node], node: str) -> str:
    """Where the agent of a node listens: ours on this machine's socket, others at their address. Raises `NotFound`.

    `own` is this machine's name in its certificate; without one there is no other machine.
    """
    if own in ("", node):
        return f"unix://{RUN_DIRECTORY}/agent.sock"
    if node not in nodes or not nodes[node].address:
        raise NotFound(f"{node} is no longer a node of this cluster, or has no address", remedy="miniorch nodes")
    return f"https://{node}@{nodes[node].address}:{AGENT_PORT}"


def own_name(state: Path, host: str, chance: random.Random) -> str:
    """This server's name in elections. Its last part lies in the state directory, which it alone has locked."""
    file = state / "server"
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.write_text(new_id(chance, 4) + "\n")
        fresh.replace(file)
    return f"{host}-{file.read_text().strip()}"


async def prepared(options: argparse.Namespace, store: Store, chance: random.Random) -> Server:
    """The server over its store, as soon as that answers."""
    state, why = Path(options.state_directory), list[MiniorchError]()
    name = own_name(state, options.name or os.uname().nodename, chance)
    async with contextlib.AsyncExitStack() as meanwhile:
        while True:
            try:
                shifted = await opened(store)
                server = Server(
                    shifted, SystemClock(), chance, options.pool, name=name, ttl_seconds=options.lease_seconds,
                    heartbeat_seconds=options.heartbeat_seconds,
                )  # fmt: skip
                cluster = await server.prepare()
                server.handlers.store_url = options.store
                server.handlers.authority = await authority_of(server.store, state, SystemClock())
                log.info("cluster %s, server %s, store %s, socket %s", cluster.id, name, options.store, options.socket)
                return server
            except Temporary as error:
                if not why:
                    await meanwhile.enter_async_context(excused(options.socket, why))
                if not why or error.message != why[0].message:
                    log.warning("waits for its store: %s", error.message)
                why[:] = [error]
                await asyncio.sleep(STORE_AWAY_SECONDS)


@contextlib.asynccontextmanager
async def excused(socket: str, why: Sequence[MiniorchError]) -> AsyncIterator[None]:
    """Whoever asks on the socket meanwhile is told why this server does not serve yet: `why` has it."""
    from miniorch.api.app import Endpoint
    from miniorch.listener import QuietServer, listen

    async def refuse(*_: object) -> None:
        what = f"the server waits for its store: {why[0].message}"
        raise NotLeader(what, remedy=why[0].remedy, code=Unreachable.code)  # who knows another server asks that one

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Endpoint(refuse)({**scope, "path_params": {}}, receive, send)

    http = QuietServer(app)
    serving = asyncio.create_task(http.serve([listen(Path(socket), 0o660, "docker")]), name="excuse")
    try:
        yield
    finally:
        http.stop()
        await serving


async def become_manager(server: Server, state: Path) -> None:
    """A certificate for this machine, if `init` has left its name and the address at which others shall reach it."""
    file = state / identity.ADVERTISE_FILE
    if file.exists():
        name, address = file.read_text().split()
        said = {"request": request_for(own_key(state)), "name": name, "role": "manager", "address": address}
        try:
            signed = await server.handlers.certify(Call(LOCAL, body=said))
            write_private(state / identity.CERTIFICATE_FILE, signed["certificate"].encode())
        finally:
            file.unlink()  # the agent waits for this; and what is refused now would be refused at each start


async def serve(options: argparse.Namespace) -> None:
    """Run the server process until SIGTERM or SIGINT."""
    from miniorch.listener import QuietServer, listen, listen_at, take_lock, until_told_to_end

    store = open_store(options.store)
    try:
        lock = take_lock(Path(options.state_directory) / "server.lock", f"a server in {options.state_directory}")
        server = await prepared(options, store, unseeded())
        state, nodes = Path(options.state_directory), server.loop.cache.nodes
        await become_manager(server, state)
        from miniorch.api.app import make_app  # takes as long as all before: the agent need not wait for that

        own = own_certificate(state).name if has_identity(state) else ""
        app = make_app(server.handlers, partial(agent_at, own, nodes), state)
        http = QuietServer(app, state, listen_at(state, SERVER_PORT, options.listen))
        server.hang_up = http.hang_up
        told = asyncio.create_task(until_told_to_end().wait(), name="signals")
        controlling = asyncio.create_task(server.run(), name="control loops")
        serving = asyncio.create_task(http.serve([listen(Path(options.socket), 0o660, "docker")]), name="api")
        with sparing():
            done, _ = await asyncio.wait([told, controlling, serving], return_when=asyncio.FIRST_COMPLETED)
        http.stop()
        await serving
        await end(told, controlling)
        await server.leadership.resign()
        for one in done:
            one.result()  # raises what ended us
        os.close(lock)
    finally:
        await store.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="miniorch.server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", default=DEFAULT_POOL, help="network for containers and services, used at first start")
    parser.add_argument("--store", default="", help="URL of the store: sqlite:///PATH, etcd://HOST:PORT,HOST:PORT")
    parser.add_argument("--socket", default=API_SOCKET, help="where to listen")
    parser.add_argument("--listen", action="append", default=[], help="ADDRESS:PORT for other machines, not its own")
    parser.add_argument("--state-directory", default=STATE_DIRECTORY, help="what is this server's own")
    parser.add_argument("--name", default="", help="this server's name in elections, instead of the host's")
    parser.add_argument("--lease-seconds", type=float, default=TTL_SECONDS, help="until another leads when this dies")
    parser.add_argument(
        "--heartbeat-seconds", type=float, default=HEARTBEAT_SECONDS, help="between two of a node; a slow network: 3"
    )
    options = parser.parse_args()
    options.store = options.store or f"sqlite://{os.path.abspath(options.state_directory)}/state.db"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(options))
    except MiniorchError as error:
        log.error("%s%s", error.message, error.remedy and f"; {error.remedy}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
