"""Handing a request on to the agent whose node has the container, and its answer back, as they are.

The problem: only an agent can reach into a container, and users only reach the server. The idea: for what happens
inside a container (logs, exec, cp, top) the server says *where*, and then is a pipe: it knows no Docker, keeps at most
what fits into a few buffers, and passes on a hang-up of either side to the other.

Who does this for real: kube-apiserver, which proxies `kubectl exec` to the kubelet. Next file: `agent/inside.py`.
"""

import contextlib
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from miniorch.api.routes import Call
from miniorch.ending import first_of
from miniorch.errors import Unreachable
from miniorch.exchange import Exchange
from miniorch.listener import caller_of


def forwarding(
    node_of: Callable[[Call], Awaitable[str]], agent_at: Callable[[str], str], folder: Path
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of every path that an agent answers. `node_of` says where a task is, or raises.

    In `folder` lies what proves to other machines' agents that this is a manager.
    """

    async def endpoint(request: Request) -> Response:
        node = await node_of(Call(caller_of(request.scope), request.path_params))
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        try:
            return Forwarded(node, await Exchange.open(agent_at(node), request.method, target, folder=folder))
        except OSError as error:
            raise _away(node, error) from None

    return endpoint


class Forwarded(Response):
    """The agent's answer to the request that is being answered."""

    def __init__(self, node: str, exchange: Exchange) -> None:
        self.background = None
        self._node = node
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.closing(self._exchange):
            await first_of(self._up(receive), self._down(send))

    async def _up(self, receive: Receive) -> None:
        """Returns when the asker hangs up. An agent that has answered already may have stopped to listen."""
        while (message := await receive())["type"] != "http.disconnect":
            with contextlib.suppress(OSError):
                await self._exchange.send(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._exchange.end()

    async def _down(self, send: Send) -> None:
        answer = self._exchange
        try:
            await answer.head()
        except (OSError, EOFError) as error:
            raise _away(self._node, error) from None
        kept = [
            (b"content-type", answer.headers[name].encode()) for name in ("content-type",) if name in answer.headers
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": kept})
        with contextlib.suppress(OSError, EOFError):  # then the answer ends without an end, which says it all
            async for piece in answer.body():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _away(node: str, error: Exception) -> Unreachable:
    """Where an agent is dead, its machine refuses the connection at once. Silence is that of the machine."""
    if isinstance(error, TimeoutError) or getattr(error, "errno", 0) in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return Unreachable(f"{node} does not answer: it is off or cut off", remedy="miniorch nodes")
    why = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return Unreachable(f"the agent on {node} does not answer ({why})", remedy=f"miniorch up   (on {node})")
