"""FastAPI around the table of routes: turns HTTP into `Call`s and answers into HTTP, and does nothing else."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from miniorch import __version__
from miniorch.api.forward import forwarding
from miniorch.api.handlers import Handlers
from miniorch.api.routes import ROUTES, Call
from miniorch.codec import encode
from miniorch.errors import MiniorchError, UsageError, to_wire

MAX_BODY_BYTES = 4 * 1024 * 1024


def make_app(handlers: Handlers, agent_at: Callable[[str], str]) -> FastAPI:
    """The ASGI application of the server. `agent_at` says where the agent of a node listens."""
    app = FastAPI(title="miniorch", version=__version__, docs_url=None, redoc_url=None)
    for route in ROUTES:
        answer = partial(handlers.answer, route)
        endpoint = forwarding(answer, agent_at) if route.forwarded else _endpoint(answer)
        app.add_route(route.path, endpoint, methods=[route.method], name=f"{route.method} {route.path}")
    app.add_exception_handler(MiniorchError, _refuse)
    return app


def _endpoint(handler: Callable[[Call], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        call = Call(request.path_params, dict(request.query_params), await _body(request))
        answer = await handler(call)
        if isinstance(answer, AsyncIterator):
            return StreamingResponse(_lines(answer), media_type="application/x-ndjson")
        return Response(encode(answer), media_type="application/json")

    return endpoint


async def _body(request: Request) -> Any:
    received, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:  # the rest is read and dropped: a client that is still sending hears no answer
            received += chunk
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


async def _lines(items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """One JSON line per item."""
    try:
        async for item in items:
            yield encode(item) + b"\n"
    except MiniorchError as error:  # the status line is long gone: say it in the stream
        yield encode(to_wire(error)) + b"\n"


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MiniorchError)
    return JSONResponse(to_wire(error), status_code=error.status)
