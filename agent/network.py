"""Asking the net process's program about this node's kernel: is it as the state says, and which way does a packet go?

The program, not the process: it must find out as well when the process has stopped listening or is gone. Agent and net
share no code, so it is started like any other one and says what it has found as JSON.
"""

import asyncio
import sys

from miniorch.errors import Conflict

SECONDS = 20.0


async def look(node: str, *words: str) -> bytes:
    """What `python -m netplugin.main` prints with such options. Raises `Conflict` with its complaint."""
    argv = ["-m", "netplugin.main", "--node", node, *words]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(SECONDS):
            report, complaint = await process.communicate()
    except TimeoutError:
        raise Conflict(f"the look at the network of {node} did not end within {SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Conflict(f"the network of {node} could not be looked at: {complaint.decode(errors='replace').strip()}")
    return report
