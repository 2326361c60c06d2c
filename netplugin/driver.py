"""Docker's network driver: how a container gets its network before its first instruction.

The problem: a container wired after its start may already have failed for want of a network, and one that Docker
restarts must be wired again. The idea: let Docker ask. dockerd finds a Unix socket in its plugin directory and posts
JSON to it: CreateEndpoint and Join when a container starts, Leave and DeleteEndpoint when it ends (libnetwork's remote
driver protocol). We answer with the name of a device, which Docker moves inside and configures.

Who does this for real: Weave Net and Calico did, for Docker; CNI plugins do, for Kubernetes. Where we differ: no
gateway bridge and no calls back to Docker, which would wait for us while we wait for it.

What Docker does in trouble shaped this file. It waits without any limit, so each call limits itself. It repeats a call
up to five times, so each is idempotent. CreateEndpoint calls queue up behind each other, so that one only notes the
address, in a file which survives a restart of this process; devices are made in Join. After a failed Join no Leave
follows, so DeleteEndpoint removes the device as well. Next file: `netplugin/dns.py`.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, Protocol

from miniorch.codec import decode, encode
from miniorch.errors import MiniorchError
from netplugin.topology import GATEWAY

CALL_SECONDS = 5.0
BODY_BYTES = 1 << 20
ENDPOINT_ID = re.compile(r"[0-9a-f]{8,64}")
PORTS = "com.docker.network.portmap"

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Wiring(Protocol):
    """What the driver needs of the kernel. Both calls block for some milliseconds and may be repeated."""

    def wire(self, endpoint: str, address: str) -> str:
        """Make the device pair; the name of the end that goes into the container."""

    def unwire(self, endpoint: str) -> None:
        """Remove it, if it is there."""

    def holds(self, endpoint: str) -> bool:
        """Whether a container has the pair's other end now. Does not block."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What Docker said when it created an endpoint."""

    id: str
    address: str
    task: str = ""  # endpoint driver option miniorch.task
    networks: str = ""  # endpoint driver option miniorch.networks, comma separated: "shop/back,shop/front"


class EndpointNotes:
    """One small file per endpoint: the only thing about containers that the kernel does not remember for us."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._by_id = {note.id: note for note in self.all()}
        self._by_address = {note.address: note for note in self._by_id.values()}

    def wired(self) -> list[Endpoint]:
        """All that this process knows of: what `all` would read, unless another process has written."""
        return list(self._by_id.values())

    def at(self, address: str) -> Endpoint | None:
        """The container of this node with an address."""
        return self._by_address.get(address)

    def write(self, endpoint: Endpoint) -> None:
        self._by_id[endpoint.id] = self._by_address[endpoint.address] = endpoint
        path = self._folder / endpoint.id
        fresh = path.with_suffix(".new")
        fresh.write_bytes(encode(endpoint))
        fresh.replace(path)

    def read(self, endpoint: str) -> Endpoint | None:
        try:
            return decode(Endpoint, (self._folder / endpoint).read_bytes())
        except (OSError, MiniorchError):
            return None

    def remove(self, endpoint: str) -> None:
        note = self._by_id.pop(endpoint, None)
        if note is not None and self._by_address.get(note.address) is note:
            del self._by_address[note.address]
        (self._folder / endpoint).unlink(missing_ok=True)

    def all(self) -> list[Endpoint]:
        notes = (self.read(name) for name in sorted(os.listdir(self._folder)) if ENDPOINT_ID.fullmatch(name))
        return [note for note in notes if note is not None]


class Driver:
    """The plugin as an ASGI application."""

    def __init__(
        self,
        wiring: Wiring,
        notes: EndpointNotes,
        log: Callable[[str], None],
        admit: Callable[[Endpoint], Awaitable[None]],
    ) -> None:
        """`admit` lets a container into its networks."""
        self._wiring = wiring
        self._admit = admit
        self._notes = notes
        self._log = log
        self._calls: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "NetworkDriver.CreateEndpoint": self.create_endpoint,
            "NetworkDriver.Join": self.join,
            "NetworkDriver.Leave": self.leave,
            "NetworkDriver.DeleteEndpoint": self.delete_endpoint,
            "NetworkDriver.ProgramExternalConnectivity": self.program_external_connectivity,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        call = scope["path"].strip("/")
        answer = await self.answer(call, await _body(receive))
        if "Err" in answer:
            self._log(f"{call} refused: {answer['Err']}")
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/vnd.docker.plugins.v1.1+json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def answer(self, call: str, body: bytes) -> dict[str, Any]:
        """What Docker gets for a call: always JSON, always in time. `Err` is shown to the user as it stands."""
        if call in _CONSTANT:
            return _CONSTANT[call]
        if call not in self._calls:
            return {"Err": f"miniorch's network driver does not know the call {call}"}
        try:
            request = json.loads(body)
            async with asyncio.timeout(CALL_SECONDS):
                return await self._calls[call](request) or {}
        except MiniorchError as error:
            return {"Err": f"{error.message} ({error.remedy})" if error.remedy else error.message}
        except TimeoutError:
            return {"Err": f"miniorch's network driver did not finish {call} within {CALL_SECONDS:g} s; try again"}
        except Exception as error:  # Docker must never wait for an answer that does not come
            return {"Err": f"miniorch's network driver failed in {call}: {type(error).__name__}: {error}"}

    async def create_endpoint(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Note the address. Nothing else: Docker makes the next container wait for the end of this call."""
        endpoint, options = _endpoint_id(request), request.get("Options") or {}
        _refuse_ports(options)
        given = (request.get("Interface") or {}).get("Address")  # by Docker: a network that somebody made by hand
        wanted = given or options.get("miniorch.address")
        if not wanted:
            raise MiniorchError(
                "a container by hand needs a network with an IPv4 subnet",
                remedy="docker network create --driver miniorch --subnet ...",
            )
        address = str(IPv4Interface(wanted).ip)
        task, networks = str(options.get("miniorch.task", "")), str(options.get("miniorch.networks", ""))
        holder = self._notes.at(address)
        if holder is not None and holder.id != endpoint:
            if task and task == holder.task:  # one container: a Docker that was killed has forgotten its first start
                await asyncio.to_thread(self._wiring.unwire, holder.id)
            elif self._wiring.holds(holder.id):
                raise MiniorchError(f"the address {address} is in use by {holder.task or f'endpoint {holder.id[:8]}'}")
            self._notes.remove(holder.id)  # its end was not told us; its networks are not those of the new one
        self._notes.write(Endpoint(endpoint, address, task, networks))
        return {"Interface": {} if given else {"Address": f"{address}/32"}}  # the kernel chooses a MAC

    async def join(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make the device and tell Docker how to set it up inside."""
        _refuse_ports(request.get("Options") or {})
        endpoint = self._notes.read(_endpoint_id(request))
        if endpoint is None:
            raise MiniorchError(f"the endpoint {request['EndpointID'][:8]} was never created: start the container anew")
        inner = await asyncio.to_thread(self._wiring.wire, endpoint.id, endpoint.address)
        await self._admit(endpoint)
        return {
            "InterfaceName": {"SrcName": inner, "DstPrefix": "eth"},
            "Gateway": GATEWAY,
            "StaticRoutes": [{"Destination": f"{GATEWAY}/32", "RouteType": 1}],  # 1: on the device, no next hop
            "DisableGatewayService": True,  # no second interface on docker_gwbridge
        }

    async def leave(self, request: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._wiring.unwire, _endpoint_id(request))

    async def delete_endpoint(self, request: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._wiring.unwire, _endpoint_id(request))
        self._notes.remove(request["EndpointID"])

    async def program_external_connectivity(self, request: Mapping[str, Any]) -> None:
        _refuse_ports(request.get("Options") or {})


_CONSTANT: dict[str, dict[str, Any]] = {
    "Plugin.Activate": {"Implements": ["NetworkDriver"]},
    "NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "local"},
    "NetworkDriver.EndpointOperInfo": {"Value": {}},
    **{
        f"NetworkDriver.{call}": {}
        for call in (
            "CreateNetwork", "DeleteNetwork", "AllocateNetwork", "FreeNetwork", "RevokeExternalConnectivity",
            "DiscoverNew", "DiscoverDelete",
        )
    },
}  # fmt: skip


def _endpoint_id(request: Mapping[str, Any]) -> str:
    """The checked id: it becomes a file's and a device's name."""
    endpoint = request.get("EndpointID")
    if not isinstance(endpoint, str) or not ENDPOINT_ID.fullmatch(endpoint):
        raise MiniorchError(f"not an endpoint id: {endpoint!r}")
    return endpoint


def _refuse_ports(options: Mapping[str, Any]) -> None:
    """Docker would accept `-p` on a network like this and silently do nothing."""
    if options.get(PORTS):
        raise MiniorchError("publish through miniorch: ports: in the app file")


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body") or len(body) > BODY_BYTES:
            return body
