"""The server process: store, API and control loops, put together. Nothing is decided here.

`Server` is the part that the simulation runs, too: it takes the store, the clock and chance. `main` brings the real
ones and the socket.

    python -m miniorch.server --pool 10.200.0.0/15

Next file, if you follow a request: `miniorch/api/routes.py`; if you follow a task: `miniorch/controllers/loop.py`.
"""

import argparse
import asyncio
import ipaddress
import logging
import random
import sys
from pathlib import Path

from miniorch.api.handlers import Handlers
from miniorch.client import API_SOCKET, RUN_DIRECTORY, STATE_DIRECTORY
from miniorch.clock import Clock, SystemClock, new_id
from miniorch.controllers.endpoints import Reachability
from miniorch.controllers.liveness import Liveness
from miniorch.controllers.loop import Controller, Loop
from miniorch.controllers.placement import Placer
from miniorch.controllers.services import Services
from miniorch.controllers.upkeep import History, Removal, Silence
from miniorch.errors import MiniorchError, UsageError
from miniorch.model import Cluster
from miniorch.state.records import Write, commit, read
from miniorch.state.store import Store

log = logging.getLogger("server")

DEFAULT_POOL = "10.200.0.0/15"
COMPACT_EVERY_SECONDS = 300.0
REVISIONS_KEPT = 5000


class Server:
    """The control plane over one store."""

    def __init__(self, store: Store, clock: Clock, chance: random.Random, pool: str = DEFAULT_POOL) -> None:
        self.store = store
        self._chance = chance
        self._pools = split_pool(pool)
        self.liveness = Liveness(clock)
        controllers: list[Controller] = [
            Removal(),
            Services(self.liveness, chance),
            Placer(),
            Reachability(),
            Silence(self.liveness),
            History(),
        ]
        self.loop = Loop(store, controllers, clock, chance)
        self.handlers = Handlers(store, self.loop, self.liveness, clock, chance)

    async def prepare(self) -> Cluster:
        """Make the cluster record if this is the first start. Must be done before the first request."""
        found = await read(self.store, Cluster, "cluster")
        if found is None:
            cluster = Cluster(new_id(self._chance, 12), *self._pools)
            await commit(self.store, [Write(cluster, 0)])
            found = await read(self.store, Cluster, "cluster")
        assert found is not None
        return found.item

    async def run(self) -> None:
        """Run the control loops until the store is closed or this is cancelled."""
        compacting = asyncio.create_task(self._compact(), name="compact")
        try:
            await self.loop.run()
        finally:
            compacting.cancel()
            await asyncio.gather(compacting, return_exceptions=True)

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(COMPACT_EVERY_SECONDS)
            try:
                await self.store.compact(max(0, await self.store.revision() - REVISIONS_KEPT))
            except MiniorchError as error:
                log.warning("compaction put off: %s", error.message)


def split_pool(pool: str) -> tuple[str, str]:
    """The two halves of a pool: containers, services. Raises `UsageError`."""
    try:
        network = ipaddress.ip_network(pool)
    except ValueError as error:
        raise UsageError(
            f"--pool wants a network such as {DEFAULT_POOL}: {error}", remedy=f"miniorch up --pool {DEFAULT_POOL}"
        ) from None
    if network.version != 4 or network.prefixlen > 22:
        raise UsageError(
            f"--pool {pool}: wants an IPv4 network of /22 or larger", remedy=f"miniorch up --pool {DEFAULT_POOL}"
        )
    containers, services = network.subnets(prefixlen_diff=1)
    return str(containers), str(services)


def agent_at(node: str) -> str:
    """Where the agent of a node listens. There is only this machine's."""
    return f"unix://{RUN_DIRECTORY}/agent.sock"


async def serve(pool: str) -> None:
    """Run the server process until SIGTERM or SIGINT."""
    from miniorch.api.app import make_app
    from miniorch.listener import QuietServer, listen, until_told_to_end
    from miniorch.state.sqlite import SqliteStore

    store = SqliteStore(Path(STATE_DIRECTORY) / "state.db")
    try:
        server = Server(store, SystemClock(), random.Random(), pool)
        cluster = await server.prepare()
        http = QuietServer(make_app(server.handlers, agent_at))
        log.info("cluster %s, state in %s, listening on %s", cluster.id, STATE_DIRECTORY, API_SOCKET)
        told = asyncio.create_task(until_told_to_end().wait(), name="signals")
        controlling = asyncio.create_task(server.run(), name="control loops")
        serving = asyncio.create_task(http.serve([listen(Path(API_SOCKET), 0o660, "docker")]), name="api")
        done, _ = await asyncio.wait([told, controlling, serving], return_when=asyncio.FIRST_COMPLETED)
        http.stop()
        await serving
        for task in (told, controlling):
            task.cancel()
        await asyncio.gather(told, controlling, return_exceptions=True)
        for ended in done:
            ended.result()  # raises what ended us
    finally:
        await store.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="miniorch.server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pool", default=DEFAULT_POOL, help="network for containers and services, used at first start")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(options.pool))
    except MiniorchError as error:
        log.error("%s", error.message)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
