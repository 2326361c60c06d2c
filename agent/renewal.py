"""A certificate that never runs out: asked for anew long before its end.

The problem: ninety days after everything was set up, all machines would stop to trust each other in one minute. The
idea: each asks for a later end at a moment of its own between half and four fifths of its certificate's life, again and
again until it gets one; there are weeks left for that. The key stays, so the new certificate takes the old one's place
in one step, and no connection ends. Listeners and clients read it from the disk at their next handshake.

Who does this for real: swarmkit (50 to 80 % of the life), the kubelet. Where we differ: they make a new key each time.
"""

import asyncio
import logging
import random
from pathlib import Path

from miniorch.authority import write_private
from miniorch.certificates import Subject, own_certificate, request_for
from miniorch.client import Transport
from miniorch.clock import Clock
from miniorch.errors import MiniorchError
from miniorch.identity import CERTIFICATE_FILE, KEY_FILE

log = logging.getLogger("agent")

EARLIEST, LATEST = 0.5, 0.8  # of a certificate's life
LOOK_SECONDS = 6 * 3600.0
AGAIN_SECONDS = 60.0


def due(certificate: Subject, share: float) -> float:
    """When to ask (seconds since 1970): after this share of its life."""
    return certificate.since + share * (certificate.until - certificate.since)


async def keep_certificate(folder: Path, transport: Transport, clock: Clock, chance: random.Random) -> None:
    """Renew the certificate in a state directory whenever it is time, for ever."""
    share = chance.uniform(EARLIEST, LATEST)
    while True:
        try:
            own = own_certificate(folder)
            wait = due(own, share) - clock.now()
            if wait <= 0:
                await renew(folder, own, transport)
                share = chance.uniform(EARLIEST, LATEST)
        except (MiniorchError, OSError, ValueError) as error:
            log.warning("the certificate is not renewed: %s", error)
            wait = AGAIN_SECONDS
        await asyncio.sleep(min(max(wait, 0.0), LOOK_SECONDS))


async def renew(folder: Path, own: Subject, transport: Transport) -> None:
    """Ask once. Raises what the server answers."""
    request = request_for((folder / KEY_FILE).read_text())
    answer = await transport.request("POST", "/v1/renew", {"request": request, "address": own.address})
    write_private(folder / CERTIFICATE_FILE, answer["certificate"].encode())
    log.info("the certificate of %s is renewed", own.name)
