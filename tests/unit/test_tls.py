"""The listeners that other machines can reach, with real certificates: who is let in, and for how long."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from open_engine import FakeOpenEngine

from agent.admission import Admission
from agent.engine import ContainerSpec
from agent.inside import Inside
from miniorch.api.app import make_app
from miniorch.authority import Authority
from miniorch.certificates import Subject, certificate_for, digest_of_key, key_in, new_key, request_for
from miniorch.client import mirror
from miniorch.clock import SystemClock
from miniorch.codec import encode
from miniorch.ending import end
from miniorch.errors import MiniorchError, NotAllowed, NotFound, Unreachable
from miniorch.exchange import Exchange
from miniorch.frames import Command, Kind, Unpacker, pack
from miniorch.identity import CERTIFICATE_FILE, KEY_FILE, client_context
from miniorch.listener import STRANGERS, Connection, QuietServer, listen, listen_tcp
from miniorch.model import Member, Node, Status, Task, TaskState
from miniorch.server import Server
from miniorch.simulation.engine import Behaviour
from miniorch.spec import Resources, TaskSpec
from miniorch.state.memory import MemoryStore
from miniorch.state.records import Write, commit, read
from miniorch.transport import HttpTransport

CLUSTER = "c1"
OURS, FOREIGN = Authority.make(CLUSTER, time.time()), Authority.make(CLUSTER, time.time())
BEAT = {"ready": True}


def certify(
    folder: Path, name: str, role: str, by: Authority = OURS, *, cluster: str = CLUSTER, seconds: float = 3600.0
) -> str:
    """Write a machine's files; the digest of its key. What it trusts is ours, whoever has signed."""
    folder.mkdir(exist_ok=True)
    key, now = new_key(), time.time()
    public = key_in(request_for(key))
    subject = Subject(name, role, cluster, "127.0.0.1", now + seconds, "", min(now, now + seconds) - 3600)
    signer = serialization.load_pem_private_key(by.key.encode(), None)
    issuer = x509.load_pem_x509_certificate(by.certificate.encode())
    made = certificate_for(subject, public, issuer).sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    (folder / "authority.crt").write_text(OURS.certificate)
    (folder / KEY_FILE).write_text(key)
    (folder / CERTIFICATE_FILE).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return digest_of_key(public)


class Cluster:
    """A server (a manager's) and an agent (worker n1's), each on a TLS port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()

    def container_of(self, task: str) -> Any:
        return next((box.view() for box in self.engine.boxes.values() if box.spec.task == task), None)

    def path(self, name: str) -> Path:
        return self.folder / name

    async def admit(self, name: str, role: str, **how: Any) -> Path:
        """A member with a certificate."""
        key = certify(self.path(name), name, role, **how)
        known = await read(self.store, Member, name)
        await commit(self.store, [Write(Member(name, role, key, 0.0, 0.0), known.modified if known else 0)])
        return self.path(name)

    async def expel(self, name: str) -> None:
        known = await read(self.store, Member, name)
        assert known is not None
        await commit(self.store, [Write(known.item, known.modified, erase=True)])

    def connections(self, name: str) -> int:
        """How many the server has with the owner of a certificate."""
        return [one.caller.name for one in self.http.server_state.connections].count(name)

    def to_server(self, name: str) -> HttpTransport:
        return HttpTransport(f"https://127.0.0.1:{self.port}", folder=self.path(name), timeout_seconds=5.0)

    async def to_agent(self, name: str, node: str = "n1", path: str = "/v1/tasks/t1/logs") -> int:
        """The status of the agent's answer to a request of `name`'s."""
        url = f"https://{node}@127.0.0.1:{self.agent_port}"
        exchange = await Exchange.open(url, "GET", path, folder=self.path(name))
        try:
            await exchange.head()
            return exchange.status
        finally:
            exchange.close()


@asynccontextmanager
async def serving(http: QuietServer, *sockets: socket.socket) -> AsyncIterator[None]:
    running = asyncio.create_task(http.serve(list(sockets)))
    async with asyncio.timeout(5):
        while not http.started:
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        http.stop()
        await running


@pytest.fixture
@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    server = Server(cluster.store, SystemClock(), random.Random(1))
    await server.prepare()
    for name, role in (("m1", "manager"), ("n1", "worker"), ("n2", "worker"), ("ann", "admin"), ("vic", "view")):
        await cluster.admit(name, role)
    doors = [listen_tcp("127.0.0.1", 0), listen_tcp("127.0.0.1", 0)]
    cluster.port, cluster.agent_port = (door.getsockname()[1] for door in doors)
    agent_at = f"https://n1@127.0.0.1:{cluster.agent_port}"
    app = make_app(server.handlers, lambda node: agent_at, cluster.path("m1"))
    cluster.http = QuietServer(app, cluster.path("m1"), doors[:1])
    server.hang_up = cluster.http.hang_up
    admission = Admission(lambda name, but: cluster.agent.hang_up(name, but))
    cluster.engine = FakeOpenEngine(SystemClock(), random.Random(1))
    inside = Inside(cluster.container_of, cluster.engine, admit=admission)
    cluster.agent = QuietServer(inside, cluster.path("n1"), doors[1:])
    tasks = [asyncio.create_task(server.run())]
    try:
        async with serving(cluster.http, listen(tmp_path / "api.sock", 0o600)), serving(cluster.agent):
            tasks.append(asyncio.create_task(admission.follow(cluster.to_server("n1"))))
            try:
                async with asyncio.timeout(5):
                    while not server.leadership.epoch or await cluster.to_agent("m1") == Unreachable.status:
                        await asyncio.sleep(0.01)
                yield cluster
            finally:
                await end(*tasks)
    finally:
        await cluster.store.close()


async def refusal(asked: Awaitable[object]) -> MiniorchError:
    with pytest.raises(MiniorchError) as refused:
        await asked
    return refused.value


async def test_both_listeners_refuse_whoever_is_not_known_and_admit_who_is(cluster: Cluster) -> None:
    # Plain text, on both ports: not one byte of HTTP comes back.
    for port in (cluster.port, cluster.agent_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 5)
        assert b"HTTP" not in answer
        writer.close()
    # Older TLS than 1.3.
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in (cluster.port, cluster.agent_port):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)
    # No certificate: whoever joins has none, so the handshake is done, and the table refuses the rest.
    (cluster.path("none")).mkdir()
    (cluster.path("none") / "authority.crt").write_text(OURS.certificate)
    error = await refusal(cluster.to_server("none").request("GET", "/v1/version"))
    assert isinstance(error, NotAllowed)
    assert await cluster.to_agent("none") == NotAllowed.status
    # A certificate of a foreign authority, one that has expired, one that says it is of another cluster.
    certify(cluster.path("foreign"), "ann", "admin", FOREIGN)
    certify(cluster.path("late"), "ann", "admin", seconds=-60.0)
    certify(cluster.path("other"), "ann", "admin", cluster="c2")
    for name in ("foreign", "late", "other"):
        error = await refusal(cluster.to_server(name).request("GET", "/v1/version"))
        # Python's listener hangs up on a certificate that does not verify, without a word.
        assert isinstance(error, Unreachable if name == "foreign" else NotAllowed), (name, error)
    for name in ("foreign", "late"):
        with pytest.raises((OSError, EOFError)):
            await cluster.to_agent(name)
    assert await cluster.to_agent("other") == NotAllowed.status
    # The right authority and name, but not the key that the cluster remembers.
    certify(cluster.path("twin"), "ann", "admin")
    assert "no longer" in (await refusal(cluster.to_server("twin").request("GET", "/v1/version"))).message
    # A node on administrators' routes; a user and another worker at the agent.
    node, admin = cluster.to_server("n1"), cluster.to_server("ann")
    for path in ("/v1/backup", "/v1/apps", "/v1/tokens", "/v1/tasks"):
        assert isinstance(await refusal(node.request("GET", path)), NotAllowed), path
    assert isinstance(await refusal(node.request("GET", "/v1/tasks?node=n2")), NotFound)
    assert isinstance(await refusal(node.request("POST", "/v1/nodes/n2/heartbeat", BEAT)), NotFound)
    assert isinstance(await refusal(cluster.to_server("vic").request("DELETE", "/v1/apps/shop")), NotAllowed)
    assert [await cluster.to_agent(name) for name in ("ann", "vic", "n2")] == [NotAllowed.status] * 3
    # And those who may.
    assert (await admin.request("GET", "/v1/tokens"))["items"] == []
    assert (await node.request("GET", "/v1/tasks?node=n1"))["items"] == []
    assert await cluster.to_agent("m1") == NotFound.status  # it looked, and has no such container
    assert await cluster.to_agent("n2", path="/v1/images?name=x") != NotAllowed.status
    # An agent's URL names the node: another one at its address is not talked to.
    with pytest.raises(ConnectionError, match="is not n3"):
        await cluster.to_agent("m1", node="n3")
    # A worker that answers where a server should is no server.
    false = HttpTransport(f"https://127.0.0.1:{cluster.agent_port}", folder=cluster.path("ann"), timeout_seconds=5.0)
    assert "no manager" in (await refusal(false.request("GET", "/v1/version"))).message


async def test_exec_goes_over_two_tls_connections_with_both_ends_talking_at_once(cluster: Cluster) -> None:
    async def chat(transport: HttpTransport, size: int) -> bytes:
        """`cat`, fed by one task and read by another."""
        exchange = await transport.begin("/v1/tasks/t1/exec")
        taken, said, unpacker = asyncio.Semaphore(4), bytearray(), Unpacker()

        async def feed() -> None:
            for _ in range(size):
                await taken.acquire()
                await exchange.send(pack(Kind.STDIN, b"x" * 10_000))
            await exchange.send(pack(Kind.STDIN_END))

        with closing(exchange):
            await exchange.send(pack(Kind.START, encode(Command(("cat",), stdin=True))))
            await exchange.accepted()
            feeding = asyncio.create_task(feed())
            async for data in exchange.body():
                for kind, payload in unpacker.feed(data):
                    if kind is Kind.TAKEN:
                        taken.release()
                    if kind is Kind.STDOUT:
                        said += payload
                    if kind is Kind.EXIT:
                        await feeding
                        return bytes(said)
            raise EOFError

    cluster.engine.behave("busybox:1", Behaviour(pull_seconds=0.0))
    await cluster.engine.use_network("10.200.7.0/24")
    image = await cluster.engine.pull("busybox:1", lambda line: None)
    spec = ContainerSpec("shop-web.1-t1", "t1", image, "10.200.7.5", "web-1", None, None, {}, {}, Resources(), {})
    await cluster.engine.start(await cluster.engine.create(spec))
    task = Task("t1", "shop", "web", 1, TaskSpec("busybox:1"), 0.0, node="n1", status=Status(TaskState.RUNNING))
    await commit(cluster.store, [Write(task, 0)])
    await cluster.admit("dan", "deploy")
    assert await chat(cluster.to_server("dan"), 100) == b"x" * 1_000_000
    error = await refusal(chat(cluster.to_server("vic"), 0))
    assert isinstance(error, NotAllowed)
    assert (await cluster.to_server("vic").request("GET", "/v1/tasks/t1/top"))["rows"]


async def test_removed_member_loses_what_is_open_and_a_renewed_certificate_does_not(cluster: Cluster) -> None:
    ended = asyncio.Event()
    node = cluster.to_server("n2")

    async def follow() -> None:
        async for _ in node.stream("/v1/watch/nodes?revision=1"):
            pass

    watching = asyncio.create_task(follow())
    watching.add_done_callback(lambda _: ended.set())
    assert (await node.request("GET", "/v1/version"))["version"]
    await asyncio.sleep(0)
    await cluster.expel("n2")
    async with asyncio.timeout(5):
        await ended.wait()
        while not isinstance(await refusal(node.request("GET", "/v1/version")), NotAllowed):
            pass
        while await cluster.to_agent("n2", path="/v1/images?name=x") != NotAllowed.status:
            await asyncio.sleep(0.01)
    await asyncio.gather(watching, return_exceptions=True)
    # n1 and the server get new keys; both go on, and show the new ones.
    before = await asyncio.to_thread(served_certificate, cluster)
    seen: list[int] = []

    async def mirrored() -> None:
        async for snapshot in mirror(cluster.to_server("n1"), Node):
            seen.append(len(snapshot.items))

    mirroring = asyncio.create_task(mirrored())
    await cluster.admit("n1", "worker")
    await cluster.admit("m1", "manager")
    await asyncio.to_thread(served_certificate, cluster)  # the handshake in which the change is noticed
    assert await asyncio.to_thread(served_certificate, cluster) != before
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.01)
    register = {"capacity": {"cpus": 1, "memory_bytes": 1}}
    await cluster.to_server("n1").request("POST", "/v1/nodes/n1/register", register)
    async with asyncio.timeout(5):
        while seen[-1] != 1:
            await asyncio.sleep(0.01)
    mirroring.cancel()
    await asyncio.gather(mirroring, return_exceptions=True)


def served_certificate(cluster: Cluster) -> bytes | None:
    with (
        socket.create_connection(("127.0.0.1", cluster.port), 5) as wire,
        client_context(cluster.path("ann")).wrap_socket(wire) as secure,
    ):
        return secure.getpeercert(binary_form=True)


async def test_connection_is_used_again_and_ends_with_the_certificate(cluster: Cluster) -> None:
    transport = cluster.to_server("ann")
    for _ in range(20):
        await transport.request("GET", "/v1/version")
    assert cluster.connections("ann") == 1
    await cluster.admit("bob", "view", seconds=1.5)
    short = cluster.to_server("bob")
    await short.request("GET", "/v1/version")
    async with asyncio.timeout(5):
        while cluster.connections("bob"):
            await asyncio.sleep(0.05)
    error = await refusal(short.request("GET", "/v1/version"))
    assert isinstance(error, NotAllowed)
    assert "the certificate of bob has ended" in error.message


async def test_strangers_cannot_hold_every_connection(cluster: Cluster) -> None:
    (cluster.path("none")).mkdir()
    (cluster.path("none") / "authority.crt").write_text(OURS.certificate)
    context, held = client_context(cluster.path("none")), []
    for _ in range(STRANGERS + 8):
        held.append(await asyncio.open_connection("127.0.0.1", cluster.port, ssl=context))
    assert sum(not one.caller.role for one in cluster.http.server_state.connections) <= STRANGERS
    assert (await cluster.to_server("ann").request("GET", "/v1/version"))["version"]
    for _, writer in held:
        writer.transport.abort()


async def test_head_that_does_not_come_to_an_end_is_hung_up_on(tmp_path: Path) -> None:
    class Hasty(Connection):
        head_seconds = 0.3

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def hung_up(path: Path, first: bytes, more: bytes) -> bool:
        """Whether the server ends the connection of somebody who goes on to send a little at a time."""
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(first)
            async with asyncio.timeout(1.2):
                while True:
                    writer.write(more)
                    try:
                        async with asyncio.timeout(0.05):
                            if not await reader.read(1000):
                                return True
                    except TimeoutError:
                        continue
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            writer.close()

    path, whole = tmp_path / "x.sock", b"GET / HTTP/1.1\r\n\r\n"
    async with serving(QuietServer(app, http=Hasty), listen(path, 0o600)):
        assert await hung_up(path, b"", b"")
        assert await hung_up(path, b"GET / HTTP/1.1\r\nx: ", b"y")
        assert await hung_up(path, whole, b"\r\n")
        assert await hung_up(path, b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, b"")
        assert not await hung_up(path, whole, whole)
