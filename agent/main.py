"""The agent process: the real engine, ingress and files, put together around `agent/agent.py`.

    python -m agent.main --node node1

Ending it, or killing it, touches no container and no published port: both go on without it and are found again. It
listens on one socket, for the server alone (`agent/inside.py`). `--undo` removes all containers of
miniorch from this machine, Docker's network and HAProxy; volumes stay.
"""

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import NoReturn

from agent.agent import Agent
from agent.docker_engine import DockerEngine
from agent.files import NodeFiles
from agent.haproxy import HAProxy
from agent.inside import Inside
from miniorch.client import RUN_DIRECTORY, STATE_DIRECTORY, Transport, transport_to
from miniorch.clock import SystemClock, unseeded
from miniorch.errors import MiniorchError
from miniorch.listener import QuietServer, listen, take_lock, until_told_to_end

log = logging.getLogger("agent")


async def serve(node: str, transport: Transport) -> None:
    """Run until SIGTERM or SIGINT."""
    run, state = Path(RUN_DIRECTORY), Path(STATE_DIRECTORY)
    engine = DockerEngine()
    ingress = HAProxy(run)
    agent = Agent(transport, engine, ingress, node, SystemClock(), unseeded(), NodeFiles(state), avx=has_avx())
    server = QuietServer(Inside(agent.container_of, engine))
    log.info("node %s: listening on %s/agent.sock", node, run)
    serving = asyncio.create_task(server.serve(sockets=[listen(run / "agent.sock", 0o600)]), name="agent socket")
    acting = asyncio.create_task(agent.run(), name="agent")
    stopping = asyncio.create_task(until_told_to_end().wait(), name="stop")
    await asyncio.wait([serving, acting, stopping], return_when=asyncio.FIRST_COMPLETED)
    failure = acting.exception() if acting.done() else None
    for task in (serving, acting, stopping):
        task.cancel()
    await asyncio.gather(serving, acting, stopping, return_exceptions=True)
    engine.close()
    if failure is not None:
        raise failure
    log.info("ended; containers and published ports go on")
    leave()


def leave() -> NoReturn:
    """End at once. Threads may wait for Docker or the server for a minute, and Python would wait for them."""
    logging.shutdown()
    os._exit(0)


def has_avx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AVX, or is none that could."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return flags is None or "avx" in flags[1].split()


async def undo() -> None:
    """Remove everything that the agent made on this machine, but for its files."""
    await HAProxy(Path(RUN_DIRECTORY)).end()
    engine = DockerEngine()
    try:
        removed = await engine.undo()
        log.info("removed %d containers, the network and HAProxy", removed)
    finally:
        engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="agent", description="miniorch's agent: runs this node's containers")
    parser.add_argument("--node", default=socket.gethostname(), help="this node's name")
    parser.add_argument("--server", action="append", default=[], help="a server's socket; again for each further one")
    parser.add_argument("--undo", action="store_true", help="remove all containers of miniorch here, and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        lock = take_lock(Path(RUN_DIRECTORY) / "agent.lock", "an agent")
        asyncio.run(undo() if options.undo else serve(options.node, transport_to(options.server)))
        os.close(lock)
    except MiniorchError as error:
        log.error("%s%s", error.message, f" ({error.remedy})" if error.remedy else "")
        return error.exit_code
    except PermissionError as error:
        log.error("the agent needs root: %s", error)
        return 6
    return 0


if __name__ == "__main__":
    sys.exit(main())
