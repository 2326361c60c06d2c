"""What people do inside this node's containers, as an ASGI application: logs, exec, cp, top.

The server hands such requests on as they are, so the paths are those of docs/api.md. Everything is a stream, and each
of them ends when its asker hangs up. For that somebody has to listen all the time: the input of a command is received
whether or not the command wants it yet. The window of `miniorch/frames.py` is what keeps that from growing.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from agent.admission import only_local
from agent.engine import Container, OpenEngine
from agent.peers import Peers
from miniorch.codec import decode, encode
from miniorch.ending import first_of
from miniorch.errors import Conflict, EngineError, MiniorchError, NotFound, UsageError, to_wire
from miniorch.frames import WINDOW_BYTES, Command, Frame, Kind, Unpacker, pack
from miniorch.identity import Caller
from miniorch.listener import caller_of

log = logging.getLogger("agent")

PATH = re.compile(r"/v1/tasks/([0-9a-z]+)/(\w+)")
NUMBER = re.compile("[0-9]{1,9}")
NETWORK = re.compile(r"/v1/nodes/[^/]+/network")
IMAGES, ARCHIVE = "/v1/images", "/v1/images/archive"  # what workers may ask of each other
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Query = Mapping[str, str]


class HungUp(Exception):
    """The asker is gone."""


class Asker:
    """Who has sent the request: its body in pieces, and the answer to it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.answered = False

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces of the body, complete at its end. Raises `HungUp`."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise HungUp
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def gone(self) -> None:
        """Returns when nobody listens any more."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def say(self, data: bytes, status: int = 200, *, more: bool = True) -> None:
        """A piece of the answer; returns when there is room for the next. `status` counts the first time."""
        if not self.answered:
            self.answered = True
            await self._send({"type": "http.response.start", "status": status, "headers": []})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


@dataclass(eq=False)
class Inside:
    """The application."""

    _container_of: Callable[[str], Container | None]  # by the id of its task
    _engine: OpenEngine
    peers: Peers | None = None  # gives images to other nodes
    network: Callable[..., Awaitable[bytes]] | None = None  # asks the net process's program (`agent/network.py`)
    admit: Callable[[Caller, str], None] = only_local

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        asker = Asker(receive, send)
        query = dict(parse_qsl(scope["query_string"].decode()))
        try:
            self.admit(caller_of(scope), scope["path"])
            if self.peers is not None and scope["path"] in (IMAGES, ARCHIVE):
                await self._image(self.peers, scope["path"], query, asker)
                return await asker.say(b"", more=False)
            if self.network is not None and NETWORK.fullmatch(scope["path"]):
                words = ["--verify", *(["--repair"] if scope["method"] == "POST" else [])]
                return await asker.say(await self.network(*words), more=False)
            path = PATH.fullmatch(scope["path"])
            if path is None:
                raise NotFound(f"the agent knows no {scope['method']} {scope['path']}")
            if (container := self._container_of(path[1])) is None:
                raise NotFound("this node has no container of that task: it was never made, or is removed already")
            try:
                await self._answer(scope["method"], path[2], container, query, asker)
            except EngineError as error:
                raise (_does_not_run(container) if "is not running" in error.message else error) from None
            await asker.say(b"", more=False)
        except HungUp:
            pass
        except MiniorchError as error:
            if asker.answered:  # too late to say it: what is cut off cannot be taken for complete
                log.warning("%s broke off: %s", scope["path"], error.message)
            else:
                await asker.say(encode(to_wire(error)), error.status, more=False)

    async def _answer(self, method: str, what: str, container: Container, query: Query, asker: Asker) -> None:
        match method, what:
            case "GET", "logs":
                lines = _number(query, "tail", 100)
                output = self._engine.logs(container.id, tail=lines, follow=query.get("follow") == "1")
                await _while_listening(asker, _stream(output, asker))
            case "GET", "top":
                await asker.say(encode(await self._engine.top(self._running(container).id)))
            case "GET", "trace":
                await asker.say(await self._trace(self._running(container), query))
            case "GET", "stat":
                await asker.say(encode(await self._engine.stat(container.id, query.get("path", "/"))))
            case "GET", "archive":
                tar = self._engine.archive(container.id, query.get("path", "/"))
                await _while_listening(asker, _stream(tar, asker))
            case "PUT", "archive":
                await self._engine.unpack(container.id, query.get("path", "/"), asker.body())
            case "POST", "exec":
                await self._exec(self._running(container), asker)
            case _:
                raise NotFound(f"the agent knows no {method} {what}")

    async def _image(self, peers: Peers, path: str, query: Query, asker: Asker) -> None:
        """What other nodes ask: whether an image is here, and all of it but for the layers that they have."""
        if not (name := query.get("name", "")):
            raise UsageError("which image?", remedy=f"{path}?name=busybox:1")
        if path == IMAGES:
            await asker.say(encode(await peers.state(name)))
        else:
            await _while_listening(asker, _stream(peers.archive(name, _number(query, "but", 0)), asker))

    async def _trace(self, container: Container, query: Query) -> bytes:
        """The way of a packet from this container."""
        if self.network is None:
            raise NotFound("this node has no network to look at")
        processes = await self._engine.top(container.id)
        pid = processes.rows[0][processes.titles.index("PID")]
        asked = {name: query[name] for name in ("target", "vip", "chain", "name") if name in query}
        numbers = {"pid": int(pid), "port": _number(query, "port", 0)}
        return await self.network("--trace", encode({**asked, **numbers, "address": container.address}).decode())

    def _running(self, container: Container) -> Container:
        if not container.running:
            raise _does_not_run(container)
        return container

    async def _exec(self, container: Container, asker: Asker) -> None:
        frames = _frames(asker.body())
        kind, payload = await anext(frames, (Kind.EXIT, b""))
        if kind is not Kind.START:
            raise UsageError("exec wants a frame START first")
        what = decode(Command, payload)
        if not what.command:
            raise UsageError("exec wants a command")
        window = Window()
        output = self._engine.exec(container.id, what, window.frames(asker))
        listening, running = window.fill(frames), _stream((pack(*frame) async for frame in output), asker, output)
        await first_of(listening, running)


def _number(query: Query, name: str, otherwise: int) -> int:
    text = query.get(name, "")
    return int(text) if NUMBER.fullmatch(text) else otherwise


def _does_not_run(container: Container) -> Conflict:
    """As last seen, or as the engine says that knows better."""
    return Conflict("its container does not run", remedy=f"miniorch logs {container.task}")


class Window:
    """The input of a command between its asker, who may be `WINDOW_BYTES` ahead, and the command."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Frame] = asyncio.Queue()
        self._ahead = 0

    async def fill(self, frames: AsyncIterator[Frame]) -> None:
        """Receive until the asker hangs up. Raises `UsageError` if it is further ahead than it may be."""
        async for frame in frames:
            self._ahead += len(frame[1]) + 1  # one more, so that empty frames count, too
            if self._ahead > 2 * WINDOW_BYTES:
                raise UsageError("the input of exec came faster than it may")
            self._queue.put_nowait(frame)
        await asyncio.Event().wait()  # the body has ended; the output has not

    async def frames(self, asker: Asker) -> AsyncIterator[Frame]:
        """For the engine. That it asks for the next frame means that the last one has been taken."""
        while True:
            kind, payload = await self._queue.get()
            yield kind, payload
            self._ahead -= len(payload) + 1
            if kind is Kind.STDIN:
                await asker.say(pack(Kind.TAKEN, b"%d" % len(payload)))


async def _frames(body: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    unpacker = Unpacker()
    async for data in body:
        for frame in unpacker.feed(data):
            yield frame


async def _stream(pieces: AsyncIterator[bytes], asker: Asker, *others: AsyncIterator[Any]) -> None:
    """Pass on a stream to its end. Whatever happens, it and the others are closed before this returns."""
    try:
        async for piece in pieces:
            await asker.say(piece)
    finally:
        for one in (pieces, *others):
            async with aclosing(cast(Any, one)):
                pass


async def _while_listening(asker: Asker, work: Coroutine[Any, Any, None]) -> None:
    await first_of(asker.gone(), work)
