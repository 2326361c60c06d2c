"""The agent process: the real engine, ingress and files, put together around `agent/agent.py`.

    python -m agent.main --node node1

Ending it, or killing it, touches no container and no published port: both go on without it and are found again. It
listens on a socket for this machine's server, and with a certificate at the machine's address
(`agent/inside.py`, `agent/admission.py`). `--undo` removes all containers of
miniorch from this machine, Docker's network and HAProxy; volumes stay.
"""

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from agent.admission import Admission, only_local
from agent.agent import Agent
from agent.contact import BEAT_TIMEOUT_SECONDS
from agent.docker_engine import DockerEngine
from agent.files import NodeFiles
from agent.haproxy import HAProxy
from agent.inside import Inside
from agent.network import look
from agent.peers import Peers
from agent.renewal import keep_certificate
from agent.servers import keep_servers
from miniorch.certificates import own_certificate
from miniorch.clock import SystemClock, unseeded
from miniorch.errors import MiniorchError
from miniorch.identity import ADVERTISE_FILE, AGENT_PORT, has_identity
from miniorch.listener import QuietServer, listen, listen_at, take_lock, until_told_to_end
from miniorch.servers import transport_to
from miniorch.transport import RUN_DIRECTORY, STATE_DIRECTORY

log = logging.getLogger("agent")

THREADS = 32
LOOK_SECONDS = 0.02


async def serve(node: str, servers: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT."""
    run, state = Path(RUN_DIRECTORY), Path(STATE_DIRECTORY)
    # Requests to a server that has fallen silent hold a thread each; heartbeats to another must still find one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    engine = DockerEngine()
    ingress = HAProxy(run)
    further = os.environ.get("MINIORCH_IMAGES_FROM", "")  # a lab's host gives its nodes the images that it has
    peers = Peers(engine, node, further={"host": further} if further else {}) if has_identity(state) else None
    machine = (node, SystemClock(), unseeded(), NodeFiles(state))
    beats = transport_to(servers, timeout_seconds=BEAT_TIMEOUT_SECONDS)
    agent = Agent(
        transport_to(servers), engine, ingress, *machine,
        avx=has_avx(), beats=beats, peers=peers, address=own_address(state),
    )  # fmt: skip
    admission = Admission(lambda name, but: server.hang_up(name, but)) if has_identity(state) else None
    inside = Inside(agent.container_of, engine, peers, partial(look, node), admission or only_local)
    server = QuietServer(inside, state, listen_at(state, AGENT_PORT))
    log.info("node %s: listening on %s/agent.sock", node, run)
    serving: asyncio.Task[Any] = asyncio.create_task(
        server.serve(sockets=[listen(run / "agent.sock", 0o600)]), name="agent socket"
    )
    acting: asyncio.Task[Any] = asyncio.create_task(agent.run(), name="agent")
    stopping: asyncio.Task[Any] = asyncio.create_task(until_told_to_end().wait(), name="stop")
    tidying: asyncio.Task[Any] = asyncio.create_task(engine.keep_tidy(), name="stuck endpoints")
    tasks = [serving, acting, stopping, tidying]
    if admission is not None:
        tasks.append(asyncio.create_task(admission.follow(transport_to(servers)), name="members"))
        renewing = keep_certificate(state, transport_to(servers), SystemClock(), unseeded())
        tasks.append(asyncio.create_task(renewing, name="certificate"))
        tasks.append(asyncio.create_task(keep_servers(state, node, transport_to(servers)), name="servers"))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    failure = acting.exception() if acting.done() else None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    engine.close()
    if failure is not None:
        raise failure
    log.info("ended; containers and published ports go on")
    leave()


def leave() -> NoReturn:
    """End at once. Threads may wait for Docker or the server for a minute, and Python would wait for them."""
    logging.shutdown()
    os._exit(0)


def own_address(state: Path) -> str:
    """Where other machines reach this one, as its certificate says; "" without one."""
    return own_certificate(state).address if has_identity(state) else ""


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
    parser.add_argument("--server", action="append", default=[], help="a server: socket or https://HOST:PORT; repeat")
    parser.add_argument("--undo", action="store_true", help="remove all containers of miniorch here, and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        lock = take_lock(Path(RUN_DIRECTORY) / "agent.lock", "an agent")
        while not options.undo and (Path(STATE_DIRECTORY) / ADVERTISE_FILE).exists():
            time.sleep(LOOK_SECONDS)  # the server is about to make this machine's certificate
        asyncio.run(undo() if options.undo else serve(options.node, options.server))
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
