"""The node's DNS server: service names to addresses.

The problem: containers look for each other by name, and must find what is true now. The idea: `db` is completed by the
container's search domain to `db.<app>.miniorch.internal`, which this server answers from the endpoints that the node
knows anyway; every other name goes to the node's own resolvers. The asking address says which networks the asker is on,
so a name that it could not reach does not exist for it.

    db                A: the service's stable address      tasks.db   A: its ready tasks      1.db   A: one slot
    _5000._tcp.web    SRV: port and name of ready tasks    10.200.0.7 PTR: 1.db.<app>.miniorch.internal

Who does this for real: CoreDNS in Kubernetes, Docker's resolver at 127.0.0.11. Where we differ: no DNS inside each
container, so it outlives dockerd. A name that exists without the asked type gets an empty answer, never NXDOMAIN:
resolvers ask for AAAA first and would believe that the name does not exist.

`Answerer.answer` is pure; a question asked before is answered from ready bytes with only the id replaced. Next file:
`netplugin/resolve.py`, what goes elsewhere, and `netplugin/main.py`.
"""

import struct
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from dnslib import EDNS0, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSHeader, DNSLabel, DNSRecord

from miniorch.model import Backend, Cluster, Endpoints, Node
from netplugin.driver import Endpoint
from netplugin.isolation import Networks, internal, networks_of, plain

ZONE = ("miniorch", "internal")
TTL_SECONDS = 5
UDP_BYTES = 1232  # fits into one packet everywhere (DNS flag day 2020)
PLAIN_UDP_BYTES = 512  # for askers without EDNS
READY_ANSWERS = 1024
HEADER_BYTES = 12
FORWARD = b""  # the answer of `Answerer.answer` for names that are not ours

Found = list[RR] | None
"""Records for a name that exists (perhaps none of the asked type), or None: no such name."""


class Answerer:
    """Answers for one state of the world; a new state gets a new Answerer."""

    def __init__(
        self,
        cluster: Cluster,
        node: Node,
        endpoints: Iterable[Endpoints],
        wired_at: Callable[[str], Endpoint | None] = lambda _: None,
    ) -> None:
        """`wired_at` gives the container at an address that the endpoints do not show yet."""
        self._containers = IPv4Network(cluster.container_pool)
        self._vips = IPv4Network(cluster.vip_pool)
        self._node = node
        self._apps: dict[str, dict[str, Endpoints]] = {}
        self._owners: dict[str, tuple[Endpoints, Backend | None]] = {}
        self._wired_at = wired_at
        self._ready: dict[tuple[Networks | None, bool, bytes], list[bytes]] = {}
        for item in endpoints:
            names = self._apps.setdefault(item.app, {})
            names[item.service] = item
            for alias in item.aliases:
                names.setdefault(alias, item)  # the server lets no alias be a service's name
            self._owners[item.vip] = (item, None)
            self._owners.update({backend.address: (item, backend) for backend in item.backends if backend.address})

    def allows(self, asker: str) -> bool:
        """Only the pools and this machine itself: nobody else can use this server, or abuse it to flood others."""
        address = IPv4Address(asker)
        return address in self._containers or address.is_loopback

    def answer(self, data: bytes, asker: str, *, tcp: bool = False) -> bytes | None:
        """The reply to a packet; `FORWARD` if the question goes to the node's resolvers; None: say nothing."""
        if len(data) < HEADER_BYTES or data[2] & 0x80 or not self.allows(asker):
            return None  # rubbish, or a reply: answering replies makes two servers talk for ever
        networks = self._networks_of(asker)
        variants = self._ready.get((networks, tcp, data[2:]))
        if variants is None:
            try:
                variants = self._build(data, networks, tcp)
            except Exception:  # whatever a parser does with hostile bytes; the asker learns that we understood nothing
                return data[:2] + struct.pack(">HHHHH", 0x8000 | RCODE.FORMERR, 0, 0, 0, 0)
            if len(self._ready) < READY_ANSWERS:
                self._ready[networks, tcp, data[2:]] = variants
        if len(variants) > 1:
            variants.append(variants.pop(0))
        return data[:2] + variants[0] if variants else FORWARD

    def _networks_of(self, asker: str) -> Networks | None:
        """The asker's networks; None for the machine itself, which may ask for every name; none for a stranger."""
        if asker == self._node.pool_address or IPv4Address(asker).is_loopback:
            return None
        item, backend = self._owners.get(asker, (None, None))
        wired = self._wired_at(asker)
        if item is None or backend is None or (wired is not None and wired.task != backend.task):
            return frozenset(wired.networks.split(",")) if wired else frozenset()
        return networks_of(item)

    def _build(self, data: bytes, networks: Networks | None, tcp: bool) -> list[bytes]:
        """Replies without their id, one per rotation; none at all: forward."""
        query = DNSRecord.parse(data)
        if query.header.opcode != 0 or len(query.questions) != 1 or query.q.qclass not in (1, 255):
            header = DNSHeader(id=query.header.id, qr=1, opcode=query.header.opcode, rcode=RCODE.NOTIMP)
            return [DNSRecord(header).pack()[2:]]
        labels = tuple(label.decode("ascii", "replace").lower() for label in query.q.qname.label)
        found, authority = self._find(labels, QTYPE.get(query.q.qtype, ""), networks)
        if authority is None:
            return [refusal(data)[2:]] if networks and internal(networks) else []
        records = found or []
        turns = range(min(len(records), 8)) if len(records) > 1 else range(1)
        size = _room(query, tcp)
        return [_reply(query, records[turn:] + records[:turn], found, authority, size) for turn in turns]

    def _find(self, labels: tuple[str, ...], kind: str, networks: Networks | None) -> tuple[Found, DNSLabel | None]:
        """The records of a name and the zone that answers for it; without a zone the name is not ours."""
        app = min(networks, default="").partition("/")[0] if networks is not None else None
        if labels[-2:] == ZONE:
            if len(labels) == 2:
                return [], _name(*ZONE)
            owner, rest = labels[-3], labels[:-3]
            zone = _name(owner, *ZONE)
            visible = owner in self._apps and app in (None, owner)
            return (self._in_app(owner, rest, kind, networks) if visible else None), zone
        if labels[-2:] == ("in-addr", "arpa"):
            return self._reverse(labels[:-2], kind, networks)
        if app and labels and labels[-1] in self._apps.get(app, {}):  # "db.", without the search domain
            found = self._in_app(app, labels, kind, networks)
            if found is not None:
                return found, _name(app, *ZONE)
        return None, None

    def _in_app(self, app: str, labels: tuple[str, ...], kind: str, networks: Networks | None) -> Found:
        if labels in ((), ("tasks",)):
            return []
        item = self._apps[app].get(labels[-1])
        if item is None or not _shared(item, networks):
            return None
        ready = sorted((one for one in item.backends if one.ready), key=lambda one: one.slot)
        match labels[:-1]:
            case ():
                return [_record("A", A(item.vip))] if kind in ("A", "ANY") else _srv(item, ready, kind, None)
            case ("tasks",):
                found = [_record("A", A(one.address)) for one in ready]
                return found if kind in ("A", "ANY") else _srv(item, ready, kind, None)
            case (slot,) if slot in {str(one.slot) for one in item.backends}:
                ours = [one for one in ready if str(one.slot) == slot]
                return [_record("A", A(one.address)) for one in ours] if kind in ("A", "ANY") else []
            case (port, "_tcp") if port.lstrip("_") in {str(one.target) for one in item.ports}:
                return _srv(item, ready, kind, int(port.lstrip("_")))
        return None

    def _reverse(self, labels: tuple[str, ...], kind: str, networks: Networks | None) -> tuple[Found, DNSLabel | None]:
        """Addresses of the pools; every other one is for the node's resolvers."""
        try:
            address = IPv4Address(".".join(reversed(labels)))
        except AddressValueError:
            return None, None
        if address not in self._containers and address not in self._vips:
            return None, None
        zone, owner = _name(*ZONE), self._owners.get(str(address))
        if str(address) == self._node.pool_address:
            name = _name(self._node.name, *ZONE)
        elif owner is None or not _shared(owner[0], networks):
            return None, zone
        else:
            item, backend = owner
            host = () if backend is None else (str(backend.slot),)
            name = _name(*host, item.service, item.app, *ZONE)
        return [_record("PTR", PTR(name))] if kind in ("PTR", "ANY") else [], zone


def _shared(item: Endpoints, networks: Networks | None) -> bool:
    return networks is None or not networks.isdisjoint(plain(networks_of(item)))


def refusal(query: bytes) -> bytes:
    """A quick "cannot find out" (SERVFAIL) to a well-formed query: better than a time-out."""
    reply = DNSRecord.parse(query).reply(ra=1, aa=0)
    reply.header.rcode = RCODE.SERVFAIL
    return bytes(reply.pack())


def _name(*labels: str) -> DNSLabel:
    return DNSLabel(tuple(label.encode("ascii", "replace") for label in labels))


def _record(kind: str, data: object, name: DNSLabel | None = None) -> RR:
    return RR(rname=name, rtype=getattr(QTYPE, kind), rdata=data, ttl=TTL_SECONDS)


def _srv(item: Endpoints, ready: list[Backend], kind: str, port: int | None) -> list[RR]:
    """Priority and weight are the same for all: tasks of a service are equals."""
    if kind not in ("SRV", "ANY"):
        return []
    ports = sorted({one.target for one in item.ports}) if port is None else [port]
    target = (item.service, item.app, *ZONE)
    return [_record("SRV", SRV(10, 10, one, _name(str(backend.slot), *target))) for one in ports for backend in ready]


def _room(query: DNSRecord, tcp: bool) -> int:
    if tcp:
        return 65535
    offered = [extra.edns_len for extra in query.ar if extra.rtype == QTYPE.OPT]
    return max(PLAIN_UDP_BYTES, min(offered[0], UDP_BYTES)) if offered else PLAIN_UDP_BYTES


def _reply(query: DNSRecord, records: list[RR], found: Found, zone: DNSLabel, size: int) -> bytes:
    reply = query.reply(ra=1, aa=1)
    reply.header.rcode = RCODE.NXDOMAIN if found is None else RCODE.NOERROR
    for record in records:
        record.rname = query.q.qname
        reply.add_answer(record)
    if not records:  # how long to believe that there is nothing (RFC 2308): `minimum` of the SOA
        times = (1, 3600, 600, 86400, TTL_SECONDS)
        reply.add_auth(_record("SOA", SOA(_name(*ZONE), _name("admin", *ZONE), times), zone))
    if any(extra.rtype == QTYPE.OPT for extra in query.ar):
        reply.add_ar(EDNS0(udp_len=UDP_BYTES))
    packed = bytes(reply.pack())
    if len(packed) > size:  # the asker comes back over TCP; some ignore a reply that lacks the question
        reply.rr, reply.auth, reply.header.tc = [], [], 1
        packed = bytes(reply.pack())
    return packed[2:]
