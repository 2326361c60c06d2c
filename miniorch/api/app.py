"""FastAPI around the table of routes: turns HTTP into `Call`s and answers into HTTP, and does nothing else.

Whoever may not ask is refused before the first byte of a body is read.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import starlette.routing
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from miniorch import __version__
from miniorch.api.forward import forwarding
from miniorch.api.handlers import Handlers
from miniorch.api.routes import ROUTES, Call
from miniorch.api.watch import Watch
from miniorch.codec import encode
from miniorch.errors import MiniorchError, NotFound, UsageError, to_wire
from miniorch.listener import caller_of
from miniorch.transport import STATE_DIRECTORY

MAX_BODY_BYTES = 4 * 1024 * 1024
WATCH = next(route for route in ROUTES if route.handler == "watch")
LINES = [(b"content-type", b"application/x-ndjson")]
BODY_SECONDS = 60.0  # for the whole of it: who sends slower holds a place that others want


def make_app(handlers: Handlers, agent_at: Callable[[str], str], folder: Path = Path(STATE_DIRECTORY)) -> FastAPI:
    """The ASGI application of the server. `agent_at` says where the agent of a node listens.

    `folder` has this machine's certificate.
    """
    app = Application(title="miniorch", version=__version__, openapi_url=None)
    for route in ROUTES:
        answer = partial(handlers.answer, route)
        endpoint = forwarding(answer, agent_at, folder) if route.forwarded else Endpoint(answer)
        if route is WATCH:
            app.watching = Endpoint(answer)
        name = f"{route.method} {route.path}"
        app.router.routes.append(starlette.routing.Route(route.path, endpoint, methods=[route.method], name=name))
    app.add_exception_handler(MiniorchError, _refuse)
    for status in (404, 405):
        app.add_exception_handler(status, _no_such_route)
    return app


class Application(FastAPI):
    """Streams go around all middleware: each layer's frame would stay as long as they do, and there are thousands."""

    watching: "Endpoint"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        names = WATCH.match(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if names is None:
            return super().__call__(scope, receive, send)
        scope["path_params"] = names
        return self.watching(scope, receive, send)


class Endpoint:
    """One route. It reads ASGI itself: Starlette's `Request` and `Response` cost more than most answers do."""

    def __init__(self, handler: Callable[..., Awaitable[Any]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            answer = await self._handler(Call(caller_of(scope), scope["path_params"], query), partial(_body, receive))
        except MiniorchError as error:
            status, body = error.status, encode(to_wire(error))
        else:
            if isinstance(answer, Watch):
                await lines(answer, receive, send)
                return
            status, body = 200, encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> Any:
    received, size, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                if size <= MAX_BODY_BYTES:  # the rest is read and dropped: who is still sending hears no answer
                    received += chunk
    except TimeoutError:
        raise UsageError(
            f"the request's body was not there after {BODY_SECONDS:g} s", remedy="the same again, over a better network"
        ) from None
    if size > MAX_BODY_BYTES:
        raise UsageError(
            f"the request is larger than {MAX_BODY_BYTES // 1024 // 1024} MiB", remedy="split the app file into several"
        )
    if not received:
        return None
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request's body is not JSON: {error}") from None


async def lines(watch: Watch, receive: Receive, send: Send) -> None:
    """A watch: as many lines at a time as there are, until either side hangs up.

    Starlette's own `StreamingResponse` needs a group of tasks and a generator for each, which is dear for thousands.
    """
    gone = asyncio.ensure_future(_hung_up(receive, watch))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": LINES})
        try:
            while found := await watch.take():
                await send({"type": "http.response.body", "body": b"".join(found), "more_body": True})
            last = b""
        except MiniorchError as error:  # the status line is long gone: say it in the stream
            last = encode(to_wire(error)) + b"\n"
        await send({"type": "http.response.body", "body": last})
    finally:
        gone.cancel()
        watch.close()


async def _hung_up(receive: Receive, watch: Watch) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    watch.close()


async def _no_such_route(request: Request, error: Exception) -> Response:
    return await _refuse(request, NotFound(f"the server has no {request.method} {request.url.path}",
                                           remedy="docs/api.md lists what it has"))  # fmt: skip


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MiniorchError)
    return JSONResponse(to_wire(error), status_code=error.status)
