"""A server that says what a test tells it to say, on a real Unix socket."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from miniorch.changes import changes
from miniorch.codec import from_plain, to_plain
from miniorch.errors import MiniorchError, NotFound, to_wire
from miniorch.model import Status, Task, TaskState
from miniorch.spec import AppSpec, ServiceSpec, TaskSpec

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


class FakeApi:
    """`lists` holds what each kind lists, `answers` what (method, path) answers: value, bytes, error or function."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lists: dict[str, list[Any]] = {
            kind: []
            for kind in ("apps", "services", "tasks", "nodes", "volumes", "events", "endpoints", "releases", "members")
        }
        self.answers: dict[tuple[str, str], Any] = {
            ("GET", "/v1/version"): {"version": "0.1.0", "cluster": "k3m9x2ab", "revision": 412},
            ("GET", "/v1/standing"): {"revision": 412, "reasons": [], "tried": True},
        }
        self.asked: list[tuple[str, str, Any]] = []
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = _Listener(str(self.path), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            assert self._thread is not None
            self._thread.join()
            self._server = None

    def answer(self, method: str, url: str, body: Any) -> Any:
        parts = urlsplit(url)
        self.asked.append((method, url, body))
        if (method, parts.path) in self.answers:
            found = self.answers[method, parts.path]
            return found(body) if callable(found) else found
        kind = parts.path.removeprefix("/v1/")
        if method == "POST" and kind.endswith("/plan"):
            wanted = from_plain(AppSpec, body)
            return {
                "revision": 412,
                "changes": changes(kind.split("/")[1], wanted, self.lists["services"]),
                "places": [],
            }
        if method == "GET" and kind in self.lists:
            apps = parse_qs(parts.query).get("app")
            items = [one for one in self.lists[kind] if not apps or one.app == apps[0]]
            return {"revision": 412, "items": to_plain(items)}
        raise NotFound(f"the fake server has no {method} {url}")


class _Listener(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    api: FakeApi


class _Handler(BaseHTTPRequestHandler):
    def _do(self) -> None:
        size = int(self.headers.get("content-length", "0"))
        body = json.loads(self.rfile.read(size)) if size else None
        status, answer = 200, b""
        try:
            found = self.server.api.answer(self.command, self.path, body)  # type: ignore[attr-defined]
            if isinstance(found, MiniorchError):
                raise found
            answer = found if isinstance(found, bytes) else json.dumps(to_plain(found)).encode()
        except MiniorchError as error:
            status, answer = error.status, json.dumps(to_wire(error)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = _do

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


def shop(replicas: int = 1, **more: Any) -> AppSpec:
    return AppSpec({"web": ServiceSpec(TaskSpec("web:1"), replicas, **more)})


def a_task(slot: int = 1, state: TaskState = TaskState.RUNNING, *, id: str = "", **status: Any) -> Task:
    spec = status.pop("spec", TaskSpec("web:1"))
    attempt = status.pop("attempt", 0)
    return Task(id or f"k3m9x2a{slot}", "shop", "web", slot, spec, 0.0, node="node1", attempt=attempt,
                status=Status(state, **status))  # fmt: skip
