"""What the node's DNS answers, packet by packet, without a socket."""

from __future__ import annotations

import random

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord

from miniorch.model import Backend, Cluster, Endpoints, Node
from miniorch.spec import Port, Resources
from netplugin.dns import FORWARD, TTL_SECONDS, Answerer, refusal
from netplugin.driver import Endpoint

NODE = Node("node1", "10.200.0.0/24", "10.200.0.1", Resources())
HOST, WEB_1, WEB_2, WEB_3, DB_1, OTHER = (
    "10.200.0.1", "10.200.0.2", "10.200.0.3", "10.200.0.4", "10.200.0.5", "10.200.0.6"
)  # fmt: skip


def backend(slot: int, address: str, ready: bool = True) -> Backend:
    return Backend(f"t{address}", slot, "node1", address, ready)


ENDPOINTS = (
    Endpoints(
        "chat", "web", "10.201.0.2", (Port(5000, 80),), (backend(1, WEB_1), backend(2, WEB_2), backend(3, WEB_3, False))
    ),
    Endpoints("chat", "db", "10.201.0.3", (), (backend(1, DB_1),), ("mongo", "web")),
    Endpoints("chat", "idle", "10.201.0.4", (), ()),
    Endpoints("other", "secret", "10.201.0.9", (), (backend(1, OTHER),)),
)
ANSWERER = Answerer(Cluster("c1"), NODE, ENDPOINTS)


def ask(name: str, kind: str = "A", asker: str = DB_1, answerer: Answerer = ANSWERER) -> DNSRecord:
    reply = answerer.answer(bytes(DNSRecord.question(name, kind).pack()), asker)
    assert reply, f"{name} was forwarded or ignored"
    return DNSRecord.parse(reply)


def found(name: str, kind: str = "A", asker: str = DB_1) -> list[str]:
    reply = ask(name, kind, asker)
    assert reply.header.rcode == RCODE.NOERROR
    return sorted(str(record.rdata) for record in reply.rr)


def code(name: str, kind: str = "A", asker: str = DB_1) -> str:
    return str(RCODE[ask(name, kind, asker).header.rcode])


def test_service_name_is_its_stable_address() -> None:
    assert found("web.chat.miniorch.internal") == ["10.201.0.2"]
    assert found("WEB.Chat.MiniOrch.Internal") == ["10.201.0.2"]
    assert found("idle.chat.miniorch.internal") == ["10.201.0.4"]


def test_name_without_search_domain_is_found_within_the_askers_app() -> None:
    assert found("web") == ["10.201.0.2"]
    assert found("1.db") == [DB_1]
    assert ANSWERER.answer(bytes(DNSRecord.question("web").pack()), HOST) == FORWARD
    assert ANSWERER.answer(bytes(DNSRecord.question("web").pack()), OTHER) == FORWARD


def test_tasks_are_the_ready_ones() -> None:
    assert found("tasks.web.chat.miniorch.internal") == [WEB_1, WEB_2]
    assert found("tasks.idle.chat.miniorch.internal") == []


def test_alias_is_answered_like_the_services_own_name_and_never_hides_another() -> None:
    assert found("mongo.chat.miniorch.internal") == found("mongo") == ["10.201.0.3"]
    assert found("tasks.mongo") == found("1.mongo") == [DB_1]
    assert found("web") == ["10.201.0.2"]
    assert code("mongo.other.miniorch.internal", asker=OTHER) == "NXDOMAIN"


def test_order_of_tasks_rotates() -> None:
    first = {str(ask("tasks.web.chat.miniorch.internal").rr[0].rdata) for _ in range(4)}
    assert first == {WEB_1, WEB_2}


def test_slot_has_a_name_while_it_exists() -> None:
    assert found("2.web.chat.miniorch.internal") == [WEB_2]
    assert found("3.web.chat.miniorch.internal") == []
    assert code("4.web.chat.miniorch.internal") == "NXDOMAIN"


@pytest.mark.parametrize("name", ["web", "tasks.web", "1.web"])
def test_existing_name_without_the_asked_type_is_empty_not_missing(name: str) -> None:
    reply = ask(f"{name}.chat.miniorch.internal", "AAAA")
    assert reply.header.rcode == RCODE.NOERROR
    assert reply.rr == []
    assert [record.rtype for record in reply.auth] == [QTYPE.SOA]


def test_negative_answer_says_how_long_to_believe_it() -> None:
    (soa,) = ask("nothing.chat.miniorch.internal").auth
    assert (soa.rdata.times[-1], soa.ttl) == (TTL_SECONDS, TTL_SECONDS)


def test_app_sees_only_its_own_names() -> None:
    assert code("secret.other.miniorch.internal") == "NXDOMAIN"
    assert code("6.0.200.10.in-addr.arpa", "PTR") == "NXDOMAIN"
    assert found("secret.other.miniorch.internal", asker=OTHER) == ["10.201.0.9"]


def test_only_names_on_a_shared_network_exist() -> None:
    apart = (
        Endpoints("chat", "web", "10.201.0.2", (), (backend(1, WEB_1),), (), ("front", "back")),
        Endpoints("chat", "db", "10.201.0.3", (), (backend(1, DB_1),), ("mongo",), ("back",)),
        Endpoints("chat", "log", "10.201.0.4", (), (backend(1, OTHER),), (), ("front",)),
    )
    answerer = Answerer(Cluster("c1"), NODE, apart)

    def exists(name: str, asker: str, kind: str = "A") -> bool:
        return bool(ask(name, kind, asker, answerer).rr)

    for asker, seen in ((WEB_1, {"web", "db", "log"}), (DB_1, {"web", "db"}), (OTHER, {"web", "log"})):
        assert {name for name in ("web", "db", "log") if exists(f"{name}.chat.miniorch.internal", asker)} == seen
    assert not exists("mongo.chat.miniorch.internal", OTHER)
    assert not exists("tasks.db.chat.miniorch.internal", OTHER)
    assert not exists("5.0.200.10.in-addr.arpa", OTHER, "PTR")
    assert answerer.answer(bytes(DNSRecord.question("db").pack()), OTHER) == FORWARD


def test_node_itself_may_ask_for_every_full_name() -> None:
    assert found("secret.other.miniorch.internal", asker=HOST) == ["10.201.0.9"]
    assert found("web.chat.miniorch.internal", asker="127.0.0.1") == ["10.201.0.2"]


def test_unknown_container_finds_nothing_until_its_networks_are_known() -> None:
    assert code("web.chat.miniorch.internal", asker="10.200.0.77") == "NXDOMAIN"
    wired = Endpoint("e1", "10.200.0.77", "t-new", "chat/default")
    fresh = Answerer(Cluster("c1"), NODE, ENDPOINTS, {"10.200.0.77": wired}.get)
    assert ask("web", asker="10.200.0.77", answerer=fresh).rr[0].rdata.data == (10, 201, 0, 2)


def test_stranger_gets_no_answer() -> None:
    assert ANSWERER.answer(bytes(DNSRecord.question("web.chat.miniorch.internal").pack()), "192.0.2.7") is None


def test_reply_gets_no_reply() -> None:
    assert ANSWERER.answer(bytes(DNSRecord.question("web").reply().pack()), DB_1) is None


def test_address_has_a_name() -> None:
    assert found("2.0.200.10.in-addr.arpa", "PTR") == ["1.web.chat.miniorch.internal."]
    assert found("2.0.201.10.in-addr.arpa", "PTR") == ["web.chat.miniorch.internal."]
    assert found("1.0.200.10.in-addr.arpa", "PTR") == ["node1.miniorch.internal."]
    assert code("200.0.200.10.in-addr.arpa", "PTR") == "NXDOMAIN"


def test_port_is_found_by_srv() -> None:
    expected = [f"10 10 80 {slot}.web.chat.miniorch.internal." for slot in (1, 2)]
    assert found("web.chat.miniorch.internal", "SRV") == expected
    assert found("_80._tcp.web.chat.miniorch.internal", "SRV") == expected
    assert found("_80._tcp.web.chat.miniorch.internal", "A") == []
    assert code("_81._tcp.web.chat.miniorch.internal", "SRV") == "NXDOMAIN"


@pytest.mark.parametrize("name", ["www.example.com", "7.2.0.192.in-addr.arpa", "internal", "unknown"])
def test_other_names_go_elsewhere(name: str) -> None:
    assert ANSWERER.answer(bytes(DNSRecord.question(name).pack()), DB_1) == FORWARD


def test_who_is_on_internal_networks_alone_finds_his_own_apps_names_and_no_name_goes_elsewhere() -> None:
    services = [
        Endpoints("chat", "web", "10.201.0.2", (), (backend(1, WEB_1),), (), ("front", "back")),
        Endpoints("chat", "db", "10.201.0.3", (), (backend(1, DB_1),), (), ("back",), internal=True),
        Endpoints("chat", "log", "10.201.0.4", (), (backend(1, OTHER),), (), ("apart",), internal=True),
    ]
    fresh = Endpoint("e1", WEB_2, "t-new", "chat/back,chat/INTERNAL")
    answerer = Answerer(Cluster("c1"), NODE, services, {WEB_2: fresh}.get)
    for asker in (DB_1, WEB_2):
        assert str(ask("web.chat.miniorch.internal", asker=asker, answerer=answerer).rr[0].rdata) == "10.201.0.2"
        assert ask("log.chat.miniorch.internal", asker=asker, answerer=answerer).header.rcode == RCODE.NXDOMAIN
        for name in ("www.example.com", "7.2.0.192.in-addr.arpa"):
            reply = ask(name, asker=asker, answerer=answerer)
            assert (reply.header.rcode, str(reply.q.qname), reply.rr) == (RCODE.SERVFAIL, f"{name}.", [])
    for asker in (WEB_1, HOST):
        assert answerer.answer(bytes(DNSRecord.question("www.example.com").pack()), asker) == FORWARD


def test_search_domain_after_a_foreign_name_does_not_exist() -> None:
    assert code("www.example.com.chat.miniorch.internal") == "NXDOMAIN"


def test_question_asked_before_is_answered_alike_but_for_its_id() -> None:
    answerer = Answerer(Cluster("c1"), NODE, ENDPOINTS)
    query = bytes(DNSRecord.question("db.chat.miniorch.internal").pack())
    first, second = (answerer.answer(id + query[2:], DB_1) for id in (b"\x01\x02", b"\xfe\xff"))
    assert first is not None
    assert second == b"\xfe\xff" + first[2:]


def test_same_question_of_another_app_is_another_question() -> None:
    answerer = Answerer(Cluster("c1"), NODE, ENDPOINTS)
    assert ask("db.chat.miniorch.internal", answerer=answerer).header.rcode == RCODE.NOERROR
    assert ask("db.chat.miniorch.internal", asker=OTHER, answerer=answerer).header.rcode == RCODE.NXDOMAIN


def many(edns: int = 0, tcp: bool = False) -> tuple[int, DNSRecord]:
    tasks = tuple(backend(slot, f"10.200.1.{slot}") for slot in range(1, 101))
    answerer = Answerer(Cluster("c1"), NODE, [Endpoints("chat", "web", "10.201.0.2", (), tasks)])
    query = DNSRecord.question("tasks.web.chat.miniorch.internal")
    if edns:
        query.add_ar(EDNS0(udp_len=edns))
    reply = answerer.answer(bytes(query.pack()), HOST, tcp=tcp)
    assert reply
    return len(reply), DNSRecord.parse(reply)


def test_answer_too_long_for_udp_sends_the_asker_to_tcp() -> None:
    size, reply = many()
    assert (reply.header.tc, reply.rr, len(reply.questions)) == (1, [], 1)
    assert size <= 512
    size, reply = many(edns=4096)
    assert reply.header.tc == 1
    assert [extra.rtype for extra in reply.ar] == [QTYPE.OPT]
    size, reply = many(tcp=True)
    assert (reply.header.tc, len(reply.rr)) == (0, 100)


def test_refusal_is_a_quick_servfail_with_the_question() -> None:
    reply = DNSRecord.parse(refusal(bytes(DNSRecord.question("www.example.com").pack())))
    assert (reply.header.qr, reply.header.rcode, str(reply.q.qname)) == (1, RCODE.SERVFAIL, "www.example.com.")


def test_no_packet_whatsoever_breaks_the_server() -> None:
    chance = random.Random(53)
    seeds = [bytes(DNSRecord.question(name, kind).pack()) for name, kind in (
        ("web.chat.miniorch.internal", "A"), ("tasks.web.chat.miniorch.internal", "SRV"),
        ("2.0.200.10.in-addr.arpa", "PTR"), ("www.example.com", "ANY"))]  # fmt: skip
    with_edns = DNSRecord.question("db")
    with_edns.add_ar(EDNS0(udp_len=4096))
    seeds.append(bytes(with_edns.pack()))
    for _ in range(5000):
        packet = bytearray(chance.choice(seeds) if chance.random() < 0.8 else chance.randbytes(chance.randrange(80)))
        for _ in range(chance.randrange(6)):
            if packet:
                packet[chance.randrange(len(packet))] = chance.randrange(256)
        if chance.random() < 0.2:
            del packet[chance.randrange(len(packet) + 1) :]
        reply = ANSWERER.answer(bytes(packet), chance.choice([DB_1, HOST, OTHER]), tcp=chance.random() < 0.5)
        if reply == FORWARD:
            refusal(bytes(packet))
        elif reply is not None:
            assert reply[:2] == packet[:2]
            assert reply[2] & 0x80
