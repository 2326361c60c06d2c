"""A certificate is asked for anew between half and four fifths of its life, until it is there."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from agent.renewal import due, keep_certificate
from miniorch.authority import Authority, write_private
from miniorch.certificates import LIFE_SECONDS, Subject, key_in, new_key, read_certificate, request_for
from miniorch.errors import Unreachable
from miniorch.identity import CERTIFICATE_FILE, KEY_FILE
from miniorch.simulation.loop import run

NOW = 1_800_000_000.0
AUTHORITY = Authority.make("c1", NOW)


class LoopClock:
    """The virtual loop's time, as a wall clock."""

    def now(self) -> float:
        return NOW + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Signer:
    """A server that signs, after it was away for the first few questions."""

    def __init__(self, clock: LoopClock, away: int) -> None:
        self.clock, self.away, self.asked = clock, away, list[float]()

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(self.clock.now())
        if len(self.asked) <= self.away:
            raise Unreachable("away")
        return {"certificate": certificate(self.clock.now(), body["request"])}

    def stream(self, path: str) -> Any:
        raise AssertionError(f"nobody follows {path} here")


def certificate(now: float, request: str) -> str:
    subject = Subject("n1", "worker", "c1", "192.0.2.1", now + LIFE_SECONDS, "", now - 3600)
    return AUTHORITY.sign(subject, key_in(request))


def test_it_is_renewed_in_time_again_and_again_and_a_server_that_is_away_is_asked_again(tmp_path: Path) -> None:
    async def story() -> None:
        key, clock = new_key(), LoopClock()
        write_private(tmp_path / KEY_FILE, key.encode())
        write_private(tmp_path / CERTIFICATE_FILE, certificate(clock.now(), request_for(key)).encode())
        first = read_certificate((tmp_path / CERTIFICATE_FILE).read_bytes())
        server = Signer(clock, away=3)
        keeping = asyncio.create_task(keep_certificate(tmp_path, server, clock, random.Random(1)))
        await asyncio.sleep(2 * LIFE_SECONDS)
        own = read_certificate((tmp_path / CERTIFICATE_FILE).read_bytes())
        assert own.until > clock.now() + 0.2 * LIFE_SECONDS - 3600
        assert (own.name, own.key) == (first.name, first.key)
        assert due(first, 0.5) <= server.asked[0] <= due(first, 0.8) + 60
        assert len(server.asked) - server.away in (2, 3, 4)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    run(story(), seed=1, until=3 * LIFE_SECONDS)
