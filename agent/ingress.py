"""Published ports: which HAProxy configuration follows from the endpoints. Pure.

The problem: a task moves, dies, is replaced; the port that the world knows must not. The idea: every node listens on
every published port (Swarm calls it the routing mesh) and hands each connection to a task that is ready, on whatever
node. HAProxy does that better than anything we could write; our part is one text, made anew from the endpoints.

A port that some other program holds is left out: HAProxy would refuse the whole configuration because of it. TCP
means that a frontend without a ready task accepts and closes at once; there is no status code to answer with.

Who does this for real: Docker's mesh uses IPVS in the kernel, Kubernetes' ingress controllers write such a text for
nginx or HAProxy. Next file: `agent/haproxy.py`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from miniorch.model import Endpoints


class Ingress(Protocol):
    """What the agent needs of it."""

    async def apply(self, endpoints: Sequence[Endpoints]) -> None:
        """Make the published ports follow the endpoints; returns when new connections do. Idempotent and cheap.

        Raises `EngineError`.
        """

    async def ports_in_use(self) -> Mapping[int, str]:
        """TCP ports that somebody else listens on, with the holder: {5000: "nginx (pid 12)"}."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """One published port and where its connections go: (name, address, port) of each ready task."""

    port: int
    name: str
    servers: tuple[tuple[str, str, int], ...]
    local: bool = False  # for programs of this machine alone


def frontends(endpoints: Sequence[Endpoints], held: Collection[int]) -> list[Frontend]:
    """One per published port that nobody else holds, by port. A port named twice goes to the first service by name."""
    found: dict[int, Frontend] = {}
    for service in sorted(endpoints, key=lambda one: one.key):
        for port in service.ports:
            if port.published in found or port.published in held:
                continue
            servers = tuple(
                (f"{backend.slot}-{_word(backend.task)}", backend.address, port.target)
                for backend in service.backends
                if backend.ready
            )
            name = f"{_word(service.app)}-{_word(service.service)}"
            found[port.published] = Frontend(port.published, name, servers, port.local)
    return [found[port] for port in sorted(found)]


HEAD = """\
# Made by miniorch's agent. Changes by hand are lost at the next change of the endpoints.
global
    maxconn 4000
    stats socket {run}/haproxy.sock mode 600 level operator expose-fd listeners
    hard-stop-after 10m
{user}
defaults
    mode tcp
    balance roundrobin
    option redispatch 1
    retries 3
    timeout connect 3s
    timeout client 1h
    timeout server 1h
"""


def config(frontends: Sequence[Frontend], run: str, user: str = "") -> str:
    """The whole configuration. `run` is the folder for the control socket, `user` who the workers run as."""
    text = HEAD.format(run=run, user=f"    user {user}\n    group {user}\n" if user else "")
    for frontend in frontends:
        address = "127.0.0.1" if frontend.local else ""
        text += f"\nlisten {frontend.name}:{frontend.port}\n    bind {address}:{frontend.port}\n"
        for name, address, port in frontend.servers:
            text += f"    server {name} {address}:{port}\n"
    return text


def _word(text: str) -> str:
    """Nothing but a plain word ever reaches the configuration."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)
