"""The DNS sockets, on loopback: our names, and the way to the node's resolvers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dnslib import RCODE, RR, A, DNSRecord

from miniorch.model import Cluster, Endpoints, Node
from miniorch.spec import Resources
from netplugin.dns import Answerer
from netplugin.resolve import Service, Upstream, nameservers

OURS = "db.chat.miniorch.internal"
THEIRS = "www.example.com"
ANSWERER = Answerer(
    Cluster("c1"), Node("n", "10.200.0.0/24", "10.200.0.1", Resources()), [Endpoints("chat", "db", "10.201.0.3")]
)


class Resolver(asyncio.DatagramProtocol):
    """Somebody else's DNS server; `silent` ones never answer."""

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.asked = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.asked.set()
        if not self.silent:
            reply = DNSRecord.parse(data).reply()
            reply.add_answer(RR(reply.q.qname, rdata=A("192.0.2.80"), ttl=60))
            self.transport.sendto(bytes(reply.pack()), addr)  # type: ignore[attr-defined]


async def ask(port: int, name: str, *, tcp: bool = False) -> DNSRecord:
    query = bytes(DNSRecord.question(name).pack())
    if tcp:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(len(query).to_bytes(2, "big") + query)
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        writer.close()
        return DNSRecord.parse(data)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, query)
        return DNSRecord.parse(await asyncio.wait_for(loop.sock_recv(sock, 4096), 5))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def with_service(
    folder: Path, test: Callable[[int], Awaitable[None]], resolver: Resolver | None = None, conf: str | None = None
) -> None:
    """Run `test` with the service's port, beside `resolver` on 127.0.0.2."""

    async def run() -> None:
        port, upstream_port = free_port(), free_port()
        path = folder / "resolv.conf"
        path.write_text("nameserver 127.0.0.2\n" if conf is None else conf)
        if resolver is not None:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: resolver, local_addr=("127.0.0.2", upstream_port))
        service = Service("127.0.0.1", ANSWERER, Upstream(path, upstream_port))
        await service.open(port)
        try:
            await test(port)
        finally:
            service.close()
            if resolver is not None:
                resolver.transport.close()
            await asyncio.sleep(0)  # let the transports close

    asyncio.run(run())


def test_own_name_is_answered_over_udp_and_tcp(tmp_path: Path) -> None:
    async def test(port: int) -> None:
        for tcp in (False, True):
            assert str((await ask(port, OURS, tcp=tcp)).rr[0].rdata) == "10.201.0.3"

    with_service(tmp_path, test)


def test_other_name_is_answered_by_the_nodes_resolver(tmp_path: Path) -> None:
    async def test(port: int) -> None:
        assert str((await ask(port, THEIRS)).rr[0].rdata) == "192.0.2.80"

    with_service(tmp_path, test, Resolver())


def test_own_names_are_quick_while_a_resolver_is_silent(tmp_path: Path) -> None:
    silent = Resolver(silent=True)

    async def test(port: int) -> None:
        slow = asyncio.create_task(ask(port, THEIRS))
        await asyncio.wait_for(silent.asked.wait(), 5)
        start = time.monotonic()
        await ask(port, OURS)
        assert time.monotonic() - start < 0.5
        assert (await slow).header.rcode == RCODE.SERVFAIL

    with_service(tmp_path, test, silent)


def test_absent_resolver_is_a_failure_at_once(tmp_path: Path) -> None:
    async def test(port: int) -> None:
        start = time.monotonic()
        for tcp in (False, True):
            assert (await ask(port, THEIRS, tcp=tcp)).header.rcode == RCODE.SERVFAIL
        assert time.monotonic() - start < 0.5

    for conf in (None, "", "search example.com\n", "nameserver 127.0.0.1\n"):  # nobody listens; none; ourselves
        with_service(tmp_path, test, conf=conf)


def test_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    upstream = Upstream(path)
    assert upstream.servers("10.200.0.1") == []
    path.write_text("nameserver 192.0.2.1\nnameserver 10.200.0.1\n")
    assert upstream.servers("10.200.0.1") == ["192.0.2.1"]
    (tmp_path / "new").write_text("nameserver 192.0.2.2\n")
    (tmp_path / "new").replace(path)
    assert upstream.servers("10.200.0.1") == ["192.0.2.2"]


def test_resolv_conf_is_read_as_people_write_it() -> None:
    text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1 # home\n\tnameserver\t2001:db8::1\nnameserver x\nnameserver\n"
    assert nameservers(text) == ["192.0.2.1", "2001:db8::1"]
