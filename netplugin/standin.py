"""Saying "the machine is here" while its agent is not.

The problem: an agent that dies is started again within seconds, and its containers notice nothing; but a node that is
silent for five seconds counts as lost, and all its tasks are made anew elsewhere. From far away a dead agent and a
pulled cable look the same. The idea: on the machine itself they do not. The net process keeps a connection to the
agent's socket; when the kernel closes it and nobody accepts a new one, the agent is dead, and for half a minute the net
process sends the heartbeats: not ready, but here. So nothing new is placed there, and nothing is taken away.

A machine that is cut off, off or frozen is silent as before, and so is one whose agent stands still.
"""

import asyncio
import contextlib
from pathlib import Path

from miniorch.client import RECONNECT_SECONDS, Transport
from miniorch.clock import Clock
from miniorch.errors import MiniorchError

SPEAK_SECONDS = 30.0  # an agent that is not back by then will not come by itself
AWAY = {"ready": False, "message": "the agent has ended; on that machine: miniorch up"}


async def stand_in(node: str, agent_socket: Path, transport: Transport, clock: Clock) -> None:
    """Watch the agent, and speak for its node while it is away, for ever. It must have been there once."""
    left = float("-inf")
    while True:
        if await gone(agent_socket):
            pause = RECONNECT_SECONDS
            if clock.monotonic() < left + SPEAK_SECONDS:
                with contextlib.suppress(MiniorchError):
                    answer = await transport.request("POST", f"/v1/nodes/{node}/heartbeat", AWAY)
                    pause = answer["next_in_seconds"]
            await asyncio.sleep(pause)
        else:
            left = clock.monotonic()


async def gone(agent_socket: Path) -> bool:
    """True at once when nobody accepts there; else False as soon as who has accepted hangs up."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(agent_socket))
    except OSError:
        return True
    try:
        with contextlib.suppress(OSError):
            await reader.read()
    finally:
        writer.close()
    return False
