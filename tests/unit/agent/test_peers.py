"""Images go from node to node by themselves: rules of asking, waiting and falling back, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.images import bases
from agent.inside import Inside
from agent.peers import Peers
from miniorch.errors import EngineError
from miniorch.exchange import Exchange
from miniorch.listener import QuietServer, listen
from miniorch.model import Node, NodeState
from miniorch.spec import Build, Resources


def layers_of(image: str) -> Sequence[str]:
    """`web:1` and `web:2` have two layers in common, and one each."""
    return ("base", image.split(":")[0], image)


class Shelf:
    """The images of one node: name -> id. `breaks` cuts every stream after its first piece; `misses` is an engine that
    takes whole images alone.
    """

    def __init__(self, *images: str) -> None:
        self.images = {image: f"sha256:{image}" for image in images}
        self.breaks = self.misses = False
        self.sent: list[int] = []  # of each image that it gave, how many layers it left out
        self.asked = 0

    async def find(self, image: str) -> tuple[str, Sequence[str]]:
        self.asked += 1
        return (self.images[image], layers_of(image)) if image in self.images else ("", ())

    async def layers(self) -> list[Sequence[str]]:
        return [layers_of(image) for image in self.images]

    async def save(self, image: str, but: int = 0) -> AsyncIterator[bytes]:
        if image not in self.images:
            raise EngineError(f"there is no image {image} on this node")
        self.sent.append(but)
        yield image.encode()
        if self.breaks:
            raise EngineError("Docker hung up in the middle")
        yield f" without {but} layers".encode()

    async def load(self, tar: AsyncIterator[bytes]) -> None:
        image, _, rest = b"".join([piece async for piece in tar]).decode().partition(" without ")
        if self.misses and rest != "0 layers":
            raise EngineError("layer.tar: no such file or directory")
        self.images[image] = f"sha256:{image}"


class Machines:
    """Nodes whose agents listen on Unix sockets in a folder."""

    def __init__(self, folder: Path, shelves: dict[str, Shelf]) -> None:
        self.made: list[str] = []
        self.said: list[str] = []
        self.peers = {
            name: Peers(shelf, name, lambda node: f"unix://{folder / node.name}") for name, shelf in shelves.items()
        }
        self.shelves = shelves
        self._folder = folder
        for peers in self.peers.values():
            peers.nodes = [self.node(name) for name in shelves]
        self._running: list[tuple[QuietServer, asyncio.Task[None]]] = []

    @staticmethod
    def node(name: str) -> Node:
        return Node(name, "10.200.0.0/24", "10.200.0.1", Resources(), address="192.0.2.1", state=NodeState.READY)

    async def __aenter__(self) -> "Machines":
        for name, peers in self.peers.items():
            server = QuietServer(Inside(lambda task: None, NO_ENGINE, peers))
            serving = asyncio.create_task(server.serve(sockets=[listen(self._folder / name, 0o600)]))
            self._running.append((server, serving))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server, serving in self._running:
            server.stop()
            await serving

    def make(self, name: str, image: str, *, until: asyncio.Event | None = None) -> Callable[[], Awaitable[str]]:
        async def make() -> str:
            self.made.append(name)
            if until is not None:
                await until.wait()
            self.shelves[name].images[image] = f"sha256:{image}"
            return f"sha256:{image}"

        return make

    async def obtain(self, name: str, image: str, until: asyncio.Event | None = None) -> str:
        return await self.peers[name].obtain(image, self.make(name, image, until=until), self.said.append)


DOCKERFILE = """\
# which Python
ARG BASE="python:3.12"
FROM --platform=linux/amd64 ${BASE} AS build
from debian:${VERSION:-12}
FROM build
FROM scratch AS empty
FROM web:1
COPY --from=build /a /b
"""
NO_ENGINE = cast(Any, None)  # never asked here


async def test_an_image_that_another_node_has_comes_from_there(tmp_path: Path) -> None:
    async with Machines(tmp_path, {"node1": Shelf(), "node2": Shelf("web:1")}) as machines:
        assert await machines.obtain("node1", "web:1") == "sha256:web:1"
        assert machines.made == []
        assert machines.said == ["gets web:1 from node2"]
        assert machines.shelves["node2"].asked == 1  # for id and layers together


async def test_layers_that_are_here_stay_where_they_are(tmp_path: Path) -> None:
    async with Machines(tmp_path, {"node1": Shelf("web:1"), "node2": Shelf("web:2", "db:1")}) as machines:
        assert await machines.obtain("node1", "web:2") == "sha256:web:2"
        assert await machines.obtain("node1", "db:1") == "sha256:db:1"
        assert machines.shelves["node2"].sent == [2, 1]
        assert machines.said == ["gets web:2 from node2, 1 of 3 layers", "gets db:1 from node2, 2 of 3 layers"]


async def test_an_engine_that_misses_a_layer_after_all_gets_the_whole_image(tmp_path: Path) -> None:
    async with Machines(tmp_path, {"node1": Shelf("web:1"), "node2": Shelf("web:2")}) as machines:
        machines.shelves["node1"].misses = True
        assert await machines.obtain("node1", "web:2") == "sha256:web:2"
        assert machines.shelves["node2"].sent == [2, 0]
        assert machines.made == []


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/v1/images?name=web:1", 200, '"id":"sha256:web:1","layers":["base","web","web:1"]'),
        ("/v1/images?name=web:7", 200, '"id":"","layers":[]'),
        ("/v1/images/archive?name=web:1&but=2", 200, "web:1 without 2 layers"),
        ("/v1/images/archive?name=web:1&but=-%C2%B2", 200, "web:1 without 0 layers"),
        ("/v1/images/archive?name=web:7", 500, "there is no image web:7"),
        ("/v1/images", 422, "which image?"),
        ("/v1/images/archive", 422, "which image?"),
        ("/v1/imagesX?name=web:1", 404, "agent knows no"),
        ("/v1/images/", 404, "agent knows no"),
    ],
)
async def test_what_a_node_may_ask_of_another(tmp_path: Path, target: str, status: int, said: str) -> None:
    async with Machines(tmp_path, {"node1": Shelf("web:1")}):
        with closing(await Exchange.open(f"unix://{tmp_path / 'node1'}", "GET", target)) as exchange:
            await exchange.head()
            assert (exchange.status, said in await exchange.text()) == (status, True)


async def test_an_image_that_nobody_has_is_made_and_then_found_here(tmp_path: Path) -> None:
    async with Machines(tmp_path, {"node1": Shelf(), "node2": Shelf()}) as machines:
        assert await machines.obtain("node1", "web:1") == "sha256:web:1"
        assert await machines.obtain("node1", "web:1") == "sha256:web:1"
        assert machines.made == ["node1"]


async def test_what_a_build_begins_with_comes_from_who_has_it_and_the_build_asks_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    build = Build(str(tmp_path), "digest", args={"BASE": "python:mine"})
    async with Machines(tmp_path, {"node1": Shelf(), "node2": Shelf("python:mine")}) as machines:
        await machines.peers["node1"].bring_bases("web:1", build, machines.said.append)
        assert machines.shelves["node1"].images == {"python:mine": "sha256:python:mine"}
        await machines.peers["node1"].bring_bases("web:1", Build("/nowhere", "digest"), machines.said.append)
        assert machines.said == ["gets python:mine from node2"]


def test_bases_of_a_build_are_its_images_and_not_its_stages() -> None:
    assert bases(DOCKERFILE, {"BASE": "python:mine"}) == ["python:mine", "debian:12", "web:1"]
    assert bases(DOCKERFILE, {}) == ["python:3.12", "debian:12", "web:1"]
    assert bases("", {}) == bases("FROM", {}) == bases("FROM $NOBODY", {}) == []


async def test_three_nodes_that_want_one_image_at_once_make_it_once(tmp_path: Path) -> None:
    names = ("node1", "node2", "node3")
    async with Machines(tmp_path, {name: Shelf() for name in names}) as machines:
        ids = await asyncio.gather(*(machines.obtain(name, "web:1") for name in names))
        assert set(ids) == {"sha256:web:1"}
        assert len(machines.made) == 1


async def test_who_is_making_an_image_is_waited_for_and_after_a_failure_another_makes_it(tmp_path: Path) -> None:
    async with Machines(tmp_path, {"node1": Shelf(), "node2": Shelf()}) as machines:
        never = asyncio.Event()
        maker = asyncio.create_task(machines.obtain("node2", "web:1", never))
        while not machines.made:
            await asyncio.sleep(0)
        waiter = asyncio.create_task(machines.obtain("node1", "web:1"))
        while not machines.said:
            await asyncio.sleep(0.01)
        assert machines.said[0] == "waits for node2, which makes web:1"
        maker.cancel()
        await asyncio.gather(maker, return_exceptions=True)
        assert await waiter == "sha256:web:1"
        assert machines.made == ["node2", "node1"]


@pytest.mark.parametrize("trouble", ["breaks", "gone", "down"])
async def test_a_node_that_cannot_send_is_passed_over(tmp_path: Path, trouble: str) -> None:
    async with Machines(tmp_path, {"node1": Shelf(), "node2": Shelf("web:1"), "node3": Shelf()}) as machines:
        known = list(machines.peers["node1"].nodes)
        if trouble == "breaks":
            machines.shelves["node2"].breaks = True
        elif trouble == "gone":
            (tmp_path / "node2").unlink()
        else:
            known = [replace(node, state=NodeState.DOWN) if node.name == "node2" else node for node in known]
            machines.peers["node1"].nodes = known
        assert await machines.obtain("node1", "web:1") == "sha256:web:1"
        assert machines.made == ["node1"]
