"""HAProxy's stories, run inside a private network by `test_ingress.py`. Prints one JSON object: what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

from agent.haproxy import HAProxy
from miniorch.errors import EngineError
from miniorch.model import Backend, Endpoints
from miniorch.spec import Port

WEB = Endpoints(
    "dockchat",
    "web",
    "10.201.0.1",
    (Port(5000, 8000),),
    (Backend("t1", 1, "node1", "127.0.0.2", True), Backend("t2", 2, "node1", "127.0.0.3", True)),
)
API = replace(WEB, service="api", ports=(Port(5001, 8000),))


def serve(address: str) -> ThreadingHTTPServer:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = address.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *parts: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 8000), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def failure(port: int) -> str:
    try:
        return get(port)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def only(*ready: bool) -> Endpoints:
    return replace(WEB, backends=tuple(replace(one, ready=is_) for one, is_ in zip(WEB.backends, ready, strict=True)))


async def reload(run: Path) -> dict[str, Any]:
    """500 requests from four threads while the configuration changes five times."""
    ingress = HAProxy(run)
    await ingress.apply([WEB])
    errors: list[str] = []
    answers: dict[str, int] = {}

    def ask() -> None:
        for _ in range(125):
            try:
                answer = get(5000)
                answers[answer] = answers.get(answer, 0) + 1
            except (OSError, http.client.HTTPException) as error:
                errors.append(repr(error))

    asking = [asyncio.create_task(asyncio.to_thread(ask)) for _ in range(4)]
    for number in range(5):
        await asyncio.sleep(0.1)
        await ingress.apply([only(number % 2 == 0, True)])
    await asyncio.gather(*asking)
    await ingress.apply([only(True, False)])
    after = {get(5000) for _ in range(20)}
    await ingress.end()
    return {"errors": errors, "asked": sum(answers.values()), "answered": sorted(answers), "after": sorted(after)}


async def held(run: Path) -> dict[str, Any]:
    """A foreign program has one of two ports, and lets go of it later."""
    ingress = HAProxy(run)
    holder = socket.create_server(("127.0.0.1", 5000))
    in_use = await ingress.ports_in_use()
    await ingress.apply([WEB, API])
    seen = {"holder": in_use[5000], "pid": os.getpid(), "api": get(5001), "ours": 5001 in await ingress.ports_in_use()}
    holder.close()
    await ingress.apply([WEB, API])
    seen["web"] = get(5000)
    await ingress.end()
    return seen


async def life(run: Path) -> dict[str, Any]:
    """Found again, left alone, reloaded after a crash in the middle, started again, stopped."""
    await HAProxy(run).apply([WEB])
    first = await HAProxy(run)._running()
    await HAProxy(run).apply([WEB])
    seen: dict[str, Any] = {"found again": first is not None and await HAProxy(run)._running() == first}
    (run / "haproxy.applied").write_text("an agent was killed before it could signal")
    await HAProxy(run).apply([WEB])
    second = await HAProxy(run)._running()
    seen["replaced"] = second not in (None, first)
    seen["mode"] = oct((run / "haproxy.sock").stat().st_mode & 0o777)
    seen["no backend"] = await empty(run)
    broken = HAProxy(run)
    with mock.patch("agent.haproxy.config", return_value="no such word\n"), contextlib.suppress(EngineError):
        await broken.apply([WEB])
        seen["refused"] = "never"
    seen["goes on"] = await HAProxy(run)._running() is not None and await asyncio.to_thread(failure, 5000)
    for pid in HAProxy(run)._ours():
        os.kill(pid, signal.SIGKILL)
    while HAProxy(run)._ours():
        await asyncio.sleep(0.05)
    await HAProxy(run).apply([WEB])
    seen["after kill"] = get(5000)
    await HAProxy(run).apply([replace(WEB, ports=())])
    seen["no port"] = (failure(5000), await HAProxy(run)._running())
    return seen


async def empty(run: Path) -> str:
    await HAProxy(run).apply([only(False, False)])
    return await asyncio.to_thread(failure, 5000)


def main() -> None:
    servers = [serve("127.0.0.2"), serve("127.0.0.3")]
    story = {"reload": reload, "held": held, "life": life}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(json.dumps(asyncio.run(story(Path(folder)))))
        finally:
            asyncio.run(HAProxy(Path(folder)).end())
    for server in servers:
        server.shutdown()


if __name__ == "__main__":
    main()
