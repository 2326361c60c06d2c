"""What every container engine promises: Docker in a private node, and the simulation's engine on virtual time.

A `Bench` knows how to make three kinds of container: one that sleeps until it is told to stop, one that ends by itself
with code 3, and one that ignores SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from docker.api.client import APIClient
from docker.errors import APIError
from open_engine import FakeOpenEngine

from agent.docker_engine import DockerEngine
from agent.docker_network import DRIVER, NETWORK
from agent.engine import TASK_LABEL, Container, ContainerSpec, OpenEngine, Stat
from miniorch.codec import encode
from miniorch.errors import EngineError, NotFound
from miniorch.frames import Command, Frame, Kind
from miniorch.model import Cluster, Node
from miniorch.simulation.engine import Behaviour
from miniorch.simulation.loop import VirtualClock
from miniorch.spec import Build, Resources
from netplugin.known import Known

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from node import TestNode, until

SUBNET, GATEWAY = "10.200.7.0/24", "10.200.7.1"
REPOSITORY = Path(__file__).parents[2]
SLEEPS, EXITS, STUBBORN = "sleeps", "exits", "stubborn"
quiet: Callable[[str], None] = lambda line: None  # noqa: E731


@dataclass
class Bench:
    engine: OpenEngine
    images: dict[str, str]  # kind -> image
    commands: dict[str, tuple[str, ...] | None]

    async def spec(self, kind: str, task: str = "t1", address: str = "10.200.7.5") -> ContainerSpec:
        return ContainerSpec(
            name=f"chat-web.1-{task}",
            task=task,
            image_id=await self.engine.pull(self.images[kind], quiet),
            address=address,
            hostname="web-1",
            entrypoint=None,
            command=self.commands[kind],
            environment={"GREETING": "hello"},
            binds={},
            limit=Resources(),
            labels={TASK_LABEL: task},
        )

    async def started(self, kind: str, task: str = "t1", address: str = "10.200.7.5") -> str:
        container = await self.engine.create(await self.spec(kind, task, address))
        await self.engine.start(container)
        return container

    async def only(self) -> Container:
        (container,) = await self.engine.containers()
        return container

    async def until(self, condition: Callable[[Container], bool]) -> Container:
        for _ in range(200):
            container = await self.only()
            if condition(container):
                return container
            await asyncio.sleep(0.05)
        raise AssertionError(f"still {container}")

    async def has_begun(self, container: str) -> None:
        """Until it has said so. Before, its shell has no trap, and a first process without one hears no SIGTERM."""
        said = b""
        async with asyncio.timeout(10.0), contextlib.aclosing(self.engine.logs(container, tail=10, follow=True)) as log:
            while b"started\n" not in said:
                said += await anext(log)

    async def run(self, container: str, what: Command, *input: Frame) -> list[Frame]:
        """A command to its end: all frames of its output, what was cut apart put together."""

        async def given() -> AsyncIterator[Frame]:
            for frame in input:
                yield frame

        frames: list[Frame] = []
        async for kind, payload in self.engine.exec(container, what, given()):
            if frames and frames[-1][0] is kind:
                frames[-1] = (kind, frames[-1][1] + payload)
            else:
                frames.append((kind, payload))
        return frames

    async def log(self, container: str, tail: int = 100) -> bytes:
        return b"".join([chunk async for chunk in self.engine.logs(container, tail=tail, follow=False)])


@asynccontextmanager
async def fake_bench() -> AsyncIterator[Bench]:
    engine = FakeOpenEngine(VirtualClock(), random.Random(1))
    engine.behave(EXITS, Behaviour(exits_after_seconds=0.1, exit_code=3, output=("one", "bye")))
    engine.behave(STUBBORN, Behaviour(ignores_term=True))
    engine.fail_pull("nowhere:1")
    engine.fail_pull("broken:1")
    kinds = (SLEEPS, EXITS, STUBBORN)
    await engine.use_network(SUBNET)
    yield Bench(engine, {kind: kind for kind in kinds}, dict.fromkeys(kinds))


@pytest.fixture(scope="module")
def docker_node() -> Iterator[TestNode]:
    known = Known(Cluster("c1"), Node("node1", SUBNET, GATEWAY, Resources()))
    with TestNode() as node:
        node.run(["sh", "-c", "cat > /var/lib/miniorch/net.json"], input=encode(known).decode())
        with node.popen([sys.executable, "-m", "netplugin.main", "--node", "node1"], cwd=REPOSITORY) as net:
            until(
                lambda: GATEWAY in node.run(["ip", "address"]).stdout, 10, "the net process has made the node's network"
            )
            node.start_dockerd()
            node.load_busybox()
            yield node
            node.clear()
            net.terminate()
    assert node.leftovers() == []


@asynccontextmanager
async def docker_bench(node: TestNode) -> AsyncIterator[Bench]:
    engine = DockerEngine(f"unix:///proc/{node.pid}/root/run/docker.sock")
    commands: dict[str, tuple[str, ...] | None] = {
        SLEEPS: ("sh", "-c", "trap 'exit 143' TERM; echo started; while :; do sleep 0.1; done"),
        EXITS: ("sh", "-c", "echo one; echo bye; exit 3"),
        STUBBORN: ("sh", "-c", "trap '' TERM; echo started; while :; do sleep 0.1; done"),
    }
    try:
        await engine.use_network(SUBNET)
        yield Bench(engine, dict.fromkeys(commands, "busybox:1"), commands)
    finally:
        await engine.undo()
        engine.close()


@pytest.fixture(
    params=[
        pytest.param("fake", marks=pytest.mark.virtual(seed=1)),
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.root]),
    ]
)
def bench(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Bench]:
    return fake_bench() if request.param == "fake" else docker_bench(request.getfixturevalue("docker_node"))


async def test_info_names_the_engine_and_its_machine(bench: Bench) -> None:
    info = await bench.engine.info()
    assert info.name
    assert info.capacity.cpus > 0
    assert info.capacity.memory_bytes > 0
    assert isinstance(info.labels, dict)


async def test_images_have_names(bench: Bench) -> None:
    await bench.engine.pull(bench.images[SLEEPS], quiet)
    assert bench.images[SLEEPS] in await bench.engine.image_names()


async def test_container_is_made_then_started_then_stopped_then_removed(bench: Bench) -> None:
    container = await bench.engine.create(await bench.spec(SLEEPS))
    made = Container(container, "t1", running=False, started=False, address="10.200.7.5")
    assert await bench.only() == made
    await bench.engine.start(container)
    assert await bench.only() == replace(made, running=True, started=True)
    await bench.has_begun(container)
    await bench.engine.stop(container, 5.0)
    assert await bench.only() == replace(made, started=True, exit_code=143)
    await bench.engine.remove(container)
    assert await bench.engine.containers() == []


async def test_one_task_never_gets_two_containers(bench: Bench) -> None:
    spec = await bench.spec(SLEEPS)
    first, second = await asyncio.gather(bench.engine.create(spec), bench.engine.create(spec))
    assert first == second == await bench.engine.create(spec)
    assert (await bench.only()).id == first


async def test_container_that_ends_by_itself_shows_its_code_and_its_last_lines(bench: Bench) -> None:
    container = await bench.started(EXITS)
    ended = await bench.until(lambda one: not one.running)
    assert (ended.exit_code, ended.started, ended.oom_killed) == (3, True, False)
    assert b"bye\n" in await bench.log(container)
    assert len((await bench.log(container, tail=1)).splitlines()) == 1


@pytest.mark.root
@pytest.mark.docker
async def test_image_without_the_layers_of_another_is_taken_only_where_that_one_is(
    docker_node: TestNode, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:1\nCOPY Dockerfile /\n")
    engine = DockerEngine(f"unix:///proc/{docker_node.pid}/root/run/docker.sock")

    async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    try:
        made = await engine.build("rebuilt:1", Build(str(tmp_path), "digest"), quiet)
        (_, base), (_, layers) = await engine.find("busybox:1"), await engine.find("rebuilt:1")
        assert (layers[:1], len(layers), await engine.find("absent:1")) == (base, 2, ("", ()))
        assert layers in await engine.layers()
        whole, rest = [b"".join([piece async for piece in engine.save("rebuilt:1", but)]) for but in (0, 1)]
        assert len(rest) < 30_000 < len(whole)
        docker_node.docker("rmi", "rebuilt:1")
        await engine.load(in_pieces(rest))
        assert await engine.find("rebuilt:1") == (made, layers)
        docker_node.docker("rmi", "-f", "rebuilt:1", "busybox:1")
        with pytest.raises(EngineError, match="no such file"):
            await engine.load(in_pieces(rest))
        assert await engine.find("rebuilt:1") == ("", ())
        await engine.load(in_pieces(whole))
        assert await engine.find("rebuilt:1") == (made, layers)
    finally:
        docker_node.docker("rmi", "-f", "rebuilt:1", check=False)
        docker_node.load_busybox()
        engine.close()


@pytest.mark.root
@pytest.mark.docker
async def test_network_that_was_pruned_is_made_again(docker_node: TestNode) -> None:
    async with docker_bench(docker_node) as bench:
        docker_node.docker("network", "rm", NETWORK)
        spec = await bench.spec(SLEEPS)
        container = await bench.engine.create(spec)
        await bench.engine.start(container)
        assert (await bench.only()).running
        await bench.engine.stop(container, 1.0)
        docker_node.docker("network", "rm", NETWORK)  # between create and start
        await bench.engine.remove(container)
        container = await bench.engine.create(spec)
        docker_node.docker("network", "rm", NETWORK, check=False)
        await bench.engine.start(container)
        assert (await bench.only()).running


@pytest.mark.root
@pytest.mark.docker
async def test_network_that_was_made_twice_becomes_one_again(docker_node: TestNode) -> None:
    async with docker_bench(docker_node) as bench:
        made = [await bench.engine.create(await bench.spec(SLEEPS, f"t{n}", f"10.200.7.{n}")) for n in range(5, 9)]
        docker_node.docker("network", "rm", NETWORK)
        await asyncio.gather(*map(bench.engine.start, made))  # each finds it missing
        assert all(one.running for one in await bench.engine.containers())
        api = APIClient(f"unix:///proc/{docker_node.pid}/root/run/docker.sock")
        with contextlib.closing(api), contextlib.suppress(APIError):  # a Docker of today refuses a second one itself
            api.create_network(NETWORK, driver=DRIVER)
        await bench.engine.remove(made[0])
        await bench.started(SLEEPS)
        assert all(one.running for one in await bench.engine.containers())
        listed = docker_node.docker("network", "ls", "--filter", f"name={NETWORK}", "--format", "{{.ID}}").stdout
        assert len(listed.split()) == 1


@pytest.mark.root
@pytest.mark.docker
async def test_container_made_by_half_does_not_start_and_can_be_made_again(docker_node: TestNode) -> None:
    async with docker_bench(docker_node) as bench:
        spec = await bench.spec(SLEEPS)
        network = docker_node.docker("network", "inspect", NETWORK, "--format", "{{.Id}}").stdout.strip()
        # What a dockerd leaves that was killed in the middle: all but the options of its network.
        label = f"{TASK_LABEL}={spec.task}"
        docker_node.docker("create", "--name", spec.name, "--label", label, "--network", network, spec.image_id)
        half = await bench.engine.create(spec)
        assert half == (await bench.only()).id
        for _ in range(2):
            with pytest.raises(EngineError) as error:
                await bench.engine.start(half)
            assert error.value.temporary
        assert not (await bench.only()).started
        await bench.engine.remove(half)
        await bench.started(SLEEPS)
        assert (await bench.only()).running


async def test_stop_ends_what_ignores_it_after_the_grace(bench: Bench) -> None:
    container = await bench.started(STUBBORN)
    before = asyncio.get_running_loop().time()
    await bench.engine.stop(container, 1.0)
    assert 0.6 <= asyncio.get_running_loop().time() - before < 5.0
    assert (await bench.only()).exit_code == 137


async def test_stop_and_remove_may_be_repeated(bench: Bench) -> None:
    container = await bench.started(EXITS)
    await bench.until(lambda one: not one.running)
    await bench.engine.stop(container, 1.0)
    await bench.engine.stop(container, 1.0)
    await bench.engine.remove(container)
    await bench.engine.remove(container)


async def test_running_container_is_removed_at_once(bench: Bench) -> None:
    container = await bench.started(STUBBORN)
    await bench.engine.remove(container)
    assert await bench.engine.containers() == []


async def test_command_inside_has_an_exit_code(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    assert (await bench.engine.run_in(container, ("true",), 5.0)).exit_code == 0


async def test_command_in_a_dead_container_is_an_error(bench: Bench) -> None:
    container = await bench.started(EXITS)
    await bench.until(lambda one: not one.running)
    with pytest.raises(EngineError):
        await bench.engine.run_in(container, ("true",), 5.0)


async def test_exec_hands_input_in_and_output_out(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    many = bytes(range(256)) * 4096
    pieces = [(Kind.STDIN, many[at : at + 30000]) for at in range(0, len(many), 30000)]
    for tty in (False, True):  # a terminal changes what it hands on, so it gets one line
        what = Command(("cat",), tty=tty, stdin=True, rows=24, columns=80)
        sent = [(Kind.STDIN, b"hello\n")] if tty else pieces
        started, (kind, output), ended = await bench.run(container, what, *sent, (Kind.STDIN_END, b""))
        assert started == (Kind.STARTED, b"")
        assert kind is Kind.STDOUT
        assert (b"hello" in output) if tty else (len(output), output == many) == (len(many), True)
        assert ended == (Kind.EXIT, b"0")


async def test_exec_ends_with_the_commands_own_code(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    frames = await bench.run(container, Command(("sh", "-c", "exit 3")))
    assert frames == [(Kind.STARTED, b""), (Kind.EXIT, b"3")]


async def test_exec_of_a_program_that_is_not_there_says_so(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    for tty in (False, True):
        frames = await bench.run(container, Command(("nope",), tty=tty))
        assert frames[1:] == [
            (Kind.ERROR, b"exit code 127: command not found in the image: nope"),
            (Kind.EXIT, b"127"),
        ]


async def test_exec_in_a_dead_container_is_an_error(bench: Bench) -> None:
    container = await bench.started(EXITS)
    await bench.until(lambda one: not one.running)
    with pytest.raises(EngineError, match="is not running"):
        await bench.run(container, Command(("true",)))


async def test_exec_that_is_given_up_takes_its_command_with_it(bench: Bench) -> None:
    container = await bench.started(SLEEPS)

    async def nothing() -> AsyncIterator[Frame]:
        await asyncio.Event().wait()
        yield Kind.STDIN_END, b""

    for tty in (False, True):
        what = Command(("sleep", "4711"), tty=tty, stdin=True)
        async with contextlib.aclosing(bench.engine.exec(container, what, nothing())) as frames:
            assert await anext(frames) == (Kind.STARTED, b"")
        for _ in range(100):
            if not any("4711" in word for row in (await bench.engine.top(container)).rows for word in row):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the command runs on")


async def test_files_go_in_and_come_out(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    content = bytes(range(256)) * 1000
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo("data")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(made.getvalue()), 10000):
            yield made.getvalue()[at : at + 10000]

    await bench.engine.unpack(container, "/tmp", pieces())
    assert await bench.engine.stat(container, "/tmp") == Stat("tmp", True)
    assert await bench.engine.stat(container, "/tmp/data") == Stat("data", False)
    await bench.engine.stop(container, 0.0)  # an ended container still has its files
    data = b"".join([piece async for piece in bench.engine.archive(container, "/tmp/data")])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile("data")
        assert file is not None
        assert file.read() == content


async def test_files_that_are_not_there_are_not_found(bench: Bench) -> None:
    container = await bench.started(SLEEPS)

    async def nothing() -> AsyncIterator[bytes]:
        yield bytes(10240)

    with pytest.raises(NotFound, match="no /nope"):
        await bench.engine.stat(container, "/nope")
    with pytest.raises(NotFound, match="no /nope"):
        async for _ in bench.engine.archive(container, "/nope"):
            pass
    with pytest.raises(NotFound, match="no /nope"):
        await bench.engine.unpack(container, "/nope", nothing())


async def test_processes_are_listed(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    processes = await bench.engine.top(container)
    assert {"PID", "CMD"} <= set(processes.titles)
    assert all(len(row) == len(processes.titles) for row in processes.rows)
    assert processes.rows


async def test_changes_are_told(bench: Bench) -> None:
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in bench.engine.changes():
            heard.set()

    async def hears_within(seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await heard.wait()
        return heard.is_set()

    async def hears(change: Callable[[int], Awaitable[object]]) -> None:
        """Change something until it is heard: nobody can see from outside when the listener has connected."""
        while await hears_within(1.0):  # of an earlier change, which is told more than once
            heard.clear()
        for number in range(20):
            await change(number)
            if await hears_within(0.5):
                return
        raise AssertionError("20 changes were not heard")

    listening = asyncio.ensure_future(listen())
    await hears(lambda number: bench.started(SLEEPS, f"t{number}", f"10.200.7.{number + 5}"))
    running = [container.id for container in await bench.engine.containers()]
    await hears(lambda number: bench.engine.stop(running[0], 5.0))
    await hears(lambda number: bench.engine.remove(running[0]))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_followed_log_ends_with_its_container(bench: Bench) -> None:
    container = await bench.started(SLEEPS)
    chunks: list[bytes] = []
    speaks = asyncio.Event()

    async def follow() -> None:
        async for chunk in bench.engine.logs(container, tail=10, follow=True):
            chunks.append(chunk)
            speaks.set()

    following = asyncio.ensure_future(follow())
    async with asyncio.timeout(5.0):
        await speaks.wait()
    await bench.engine.stop(container, 5.0)
    await asyncio.wait_for(following, 5.0)
    assert b"started\n" in b"".join(chunks)


async def test_image_that_is_not_to_be_had_is_an_error_that_names_it(bench: Bench) -> None:
    with pytest.raises(EngineError, match="nowhere:1") as caught:
        await bench.engine.pull("nowhere:1", quiet)
    assert not caught.value.temporary


async def test_build_that_breaks_is_an_error_that_names_the_image(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:1\nRUN echo sorry; exit 9\n")
    with pytest.raises(EngineError, match="broken:1") as caught:
        await bench.engine.build("broken:1", Build(str(tmp_path), "d"), quiet)
    assert not caught.value.temporary


async def test_build_makes_an_image_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox:1\nENV X=1\n")
    lines: list[str] = []
    made = await bench.engine.build("good:1", Build(str(tmp_path), "d"), lines.append)
    await asyncio.sleep(0)
    assert any("building good:1" in line for line in lines)
    assert await bench.engine.build("good:1", Build(str(tmp_path), "d"), quiet) == made
    assert await bench.engine.pull("good:1", quiet) == made
