"""Who may join, and what a certificate says: the server's words, whatever the request says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from miniorch.api.joining import WRONG_AT_MOST, WRONG_SECONDS
from miniorch.api.routes import dispatch
from miniorch.authority import Authority
from miniorch.certificates import (
    LIFE_SECONDS,
    Subject,
    digest_of_key,
    key_in,
    new_key,
    own_certificate,
    read_certificate,
    request_for,
)
from miniorch.ending import end
from miniorch.errors import Conflict, NotAllowed, Temporary, Unsupported, UsageError
from miniorch.identity import ADVERTISE_FILE, LOCAL, Caller, has_identity
from miniorch.model import Cluster, Role
from miniorch.server import Server, become_manager
from miniorch.state.memory import MemoryStore
from miniorch.state.records import Write, commit, read

NOW = 1_800_000_000.0
STRANGER = Caller(via="tls", address="192.0.2.7")
KEY = new_key()


class SetClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Door:
    """A server with an authority, and what people say to it."""

    def __init__(self, server: Server, clock: SetClock) -> None:
        self.server, self.clock = server, clock

    async def ask(self, method: str, path: str, body: object = None, who: Caller = LOCAL) -> Any:
        return await dispatch(self.server.handlers, method, path, body, who)

    async def token(self, role: str = "worker") -> str:
        items = (await self.ask("GET", "/v1/join-tokens"))["items"]
        return str(next(one["token"] for one in items if one["role"] == role and one["standing"]))

    async def join(self, token: str, request: str = "", name: str = "box", who: Caller = STRANGER, **more: Any) -> Any:
        body = {"token": token, "request": request or request_for(KEY), "name": name, **more}
        return await self.ask("POST", "/v1/join", body, who)


@pytest.fixture
@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    store, clock = MemoryStore(), SetClock()
    server = Server(store, clock, random.Random(1))
    await server.prepare()
    found = await read(store, Cluster, "cluster")
    assert found is not None
    authority = Authority.make(found.item.id, NOW)
    made = Cluster(found.item.id, authority=authority.certificate)
    await commit(store, [Write(made, found.modified)])
    server.handlers.authority = authority
    following = asyncio.create_task(server.loop.cache.follow(store, lambda item, gone: None))
    yield Door(server, clock)
    await end(following)


def pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def greedy() -> str:
    """A request that asks for everything."""
    name = x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, "node1"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "another"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "manager"),
    ])  # fmt: skip
    own = serialization.load_pem_private_key(KEY.encode(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    return pem(
        x509.CertificateSigningRequestBuilder(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node1"), x509.DNSName("*")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(own, hashes.SHA256())
    )


async def test_everything_in_a_certificate_is_the_servers_choice_but_the_key(door: Door) -> None:
    answer = await door.join(await door.token(), greedy())
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    said = read_certificate(answer["certificate"].encode())
    cluster = (await door.ask("GET", "/v1/version"))["cluster"]
    key = digest_of_key(key_in(greedy()))
    assert said == Subject("box", "worker", cluster, "192.0.2.7", NOW + LIFE_SECONDS, key, NOW - 3600)
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    uses = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["box"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer["authority"].encode()))
    again = await door.join(await door.token(), greedy())
    assert x509.load_pem_x509_certificate(again["certificate"].encode()).serial_number != certificate.serial_number


def weak_requests() -> dict[str, str]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "any")])
    builder = x509.CertificateSigningRequestBuilder(name)
    rsa_key = rsa.generate_private_key(65537, 1024)
    other = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    good = request_for(KEY)
    body = x509.load_pem_x509_csr(good.encode()).public_bytes(serialization.Encoding.DER)
    broken = x509.load_der_x509_csr(body[:-1] + bytes([body[-1] ^ 1]))
    return {
        "RSA of 1024 bits": pem(builder.sign(rsa_key, hashes.SHA256())),
        "Ed25519": pem(other),
        "a small curve": pem(builder.sign(ec.generate_private_key(ec.SECP192R1()), hashes.SHA256())),
        "a broken signature": pem(broken),
        "1 MB": good + "x" * 1_000_000,
        "empty": "",
        "cut off": good[:200],
        "a private key": KEY,
        "letters beyond ASCII": "ü" * 300,
    }


async def test_bad_requests_are_refused_with_a_good_token_and_leave_no_member(door: Door) -> None:
    for what, request in weak_requests().items():
        with pytest.raises(UsageError, match="request for a certificate"):
            await door.join(await door.token(), request or "-")
        assert (await door.ask("GET", "/v1/members"))["items"] == [], what


async def test_a_replayed_request_gives_the_same_name_again_and_never_a_second_member(door: Door) -> None:
    token = await door.token()
    names = {(await door.join(token, name=name))["name"] for name in ("box", "other", "box")}
    assert names == {"box"}
    assert len((await door.ask("GET", "/v1/members"))["items"]) == 1


async def test_a_managers_request_replayed_with_a_workers_token_takes_no_role_away(door: Door) -> None:
    said = {"request": request_for(KEY), "name": "node1", "role": "manager", "address": "192.0.2.1"}
    await door.ask("POST", "/v1/certificates", said)
    with pytest.raises(Conflict, match="node1 is a manager of this cluster already"):
        await door.join(await door.token())
    assert [one["role"] for one in (await door.ask("GET", "/v1/members"))["items"]] == ["manager"]


async def test_another_key_never_gets_a_name_that_is_taken(door: Door) -> None:
    token = await door.token()
    await door.join(token)
    assert (await door.join(token, request_for(new_key())))["name"] == "box-2"
    with pytest.raises(Conflict, match="has a box already"):
        await door.join(token, request_for(new_key()), exact=True)
    door.clock.at += 61  # the first never became a node
    assert (await door.join(token, request_for(new_key()), exact=True))["name"] == "box"
    for strange in ("", "../..", "a/b", "x" * 300, "ünïcode", "-.-"):
        name = (await door.join(token, request_for(new_key()), name=strange))["name"]
        assert name.isascii()
        assert "/" not in name
        assert 0 < len(name) < 64


async def test_a_rotated_revoked_or_expired_token_admits_nobody_and_the_new_one_does(door: Door) -> None:
    old = await door.token()
    assert (await door.ask("POST", "/v1/join-tokens/worker/rotate"))["token"] != old
    with pytest.raises(NotAllowed, match="rotated or revoked"):
        await door.join(old)
    await door.join(await door.token())
    short = await door.ask("POST", "/v1/join-tokens", {"role": "worker", "ttl_seconds": 60})
    door.clock.at += 59
    await door.join(short["token"])
    door.clock.at += 1
    with pytest.raises(NotAllowed, match="has expired"):
        await door.join(short["token"])
    more = await door.ask("POST", "/v1/join-tokens", {})
    await door.ask("DELETE", f"/v1/join-tokens/{more['id']}")
    with pytest.raises(NotAllowed, match="rotated or revoked"):
        await door.join(more["token"])
    shown = (await door.ask("GET", "/v1/join-tokens"))["items"]
    assert [one["token"] for one in shown if not one["standing"]] == [""], "a created token is shown once"


async def test_a_manager_cannot_join_where_the_state_is_a_file(door: Door) -> None:
    for url in ("sqlite:///x", "etcd://127.0.0.1:2379", "etcd://192.0.2.1:1,localhost:2"):
        door.server.handlers.store_url = url
        with pytest.raises(Unsupported, match="no second one"):
            await door.join(await door.token("manager"))
    door.server.handlers.store_url = "etcd://192.0.2.1:2379"
    answer = await door.join(await door.token("manager"))
    assert (answer["role"], answer["store"]) == ("manager", "etcd://192.0.2.1:2379")
    assert Authority(answer["authority"], answer["authority_key"]).check() is None
    assert "authority_key" not in await door.join(await door.token(), request_for(new_key()))


async def test_whoever_guesses_waits_and_others_do_not(door: Door) -> None:
    good = await door.token()
    head, last = good[:-2], good[-2:]
    wrong = head + ("aa" if last != "aa" else "ba")
    for _ in range(WRONG_AT_MOST):
        with pytest.raises(NotAllowed):
            await door.join(wrong)
    with pytest.raises(Temporary, match="too many wrong join tokens from"):
        await door.join(good)
    await door.join(good, request_for(new_key()), who=Caller(via="tls", address="192.0.2.8"))
    door.clock.at += WRONG_SECONDS
    await door.join(good)


async def test_a_certificate_is_renewed_with_its_own_key_by_its_owner_alone_and_with_the_role_in_the_store(
    door: Door,
) -> None:
    await door.join(await door.token())
    key = digest_of_key(key_in(request_for(KEY)))
    own = Caller("box", "worker", "tls", "192.0.2.7", key)
    door.clock.at += 50 * 86400
    answer = await door.ask("POST", "/v1/renew", {"request": greedy(), "role": "manager", "name": "x"}, own)
    said = read_certificate(answer["certificate"].encode())
    assert (said.name, said.role, said.until) == ("box", Role.WORKER, NOW + 50 * 86400 + LIFE_SECONDS)
    with pytest.raises(NotAllowed, match="with its own key"):
        await door.ask("POST", "/v1/renew", {"request": request_for(new_key())}, own)
    await door.join(await door.token(), request_for(new_key()), name="other")
    other = (await door.ask("GET", "/v1/members"))["items"][1]
    thief = Caller("other", "worker", "tls", "192.0.2.9", other["key"])
    with pytest.raises(NotAllowed, match="with its own key"):
        await door.ask("POST", "/v1/renew", {"request": request_for(KEY)}, thief)


async def test_a_user_gets_as_long_again_and_what_was_meant_to_be_short_ends(door: Door) -> None:
    for name, days, until in (("ann", 40, 60), ("guest", 1, 0)):
        asked = {"request": request_for(KEY), "role": "view", "name": name, "ttl_seconds": days * 86400.0}
        door.clock.at = NOW
        signed = await door.ask("POST", "/v1/certificates", asked)
        key = digest_of_key(key_in(request_for(KEY)))
        door.clock.at = NOW + days / 2 * 86400
        renewing = door.ask("POST", "/v1/renew", {"request": request_for(KEY)}, Caller(name, "view", "tls", "", key))
        if until:
            said = read_certificate((await renewing)["certificate"].encode())
            assert (said.name, said.role, said.until) == (name, "view", NOW + until * 86400)
        else:
            with pytest.raises(NotAllowed, match="was given for 24 h"):
                await renewing
        await door.ask("DELETE", f"/v1/certificates/{signed['name']}")


async def test_a_user_gets_a_role_of_users_a_name_of_its_own_and_loses_it_when_revoked(door: Door) -> None:
    await door.join(await door.token())
    for said, error in (
        ({"role": "manager", "name": "box"}, NotAllowed), ({"role": "root", "name": "ann"}, UsageError),
        ({"role": "view", "name": "a/b"}, UsageError), ({"role": "view", "name": "box"}, Conflict),
        ({"role": "view", "name": "ann", "ttl_seconds": -1}, UsageError),
    ):  # fmt: skip
        who = Caller("chief", "admin", "socket") if error is not NotAllowed else STRANGER
        with pytest.raises(error):
            await door.ask("POST", "/v1/certificates", {"request": request_for(new_key()), **said}, who)
    key = new_key()
    body = {"request": request_for(key), "role": "view", "name": "ann", "ttl_seconds": 3600}
    made = read_certificate((await door.ask("POST", "/v1/certificates", body))["certificate"].encode())
    assert (made.role, made.address, made.until) == ("view", "", NOW + 3600)
    ann = Caller("ann", "view", "tls", "192.0.2.9", made.key)
    await door.ask("GET", "/v1/nodes", None, ann)
    await door.ask("DELETE", "/v1/certificates/ann")
    with pytest.raises(NotAllowed, match="no longer"):
        await door.ask("GET", "/v1/nodes", None, ann)
    with pytest.raises(UsageError, match="is a machine"):
        await door.ask("DELETE", "/v1/certificates/box")


async def test_only_the_own_socket_makes_a_manager_of_a_machine(door: Door) -> None:
    body = {"request": request_for(KEY), "role": "manager", "name": "m1", "address": "192.0.2.1"}
    made = await door.ask("POST", "/v1/certificates", {**body, "role": "admin", "name": "chief"})
    far = Caller("chief", "admin", "tls", "192.0.2.9", read_certificate(made["certificate"].encode()).key)
    with pytest.raises(UsageError, match="a role is one of"):
        await door.ask("POST", "/v1/certificates", body, far)
    made = await door.ask("POST", "/v1/certificates", {**body, "request": request_for(new_key())})
    assert made["role"] == "manager"


async def test_what_init_leaves_makes_a_manager_of_the_machine_once_and_keeps_its_key(
    door: Door, tmp_path: Path
) -> None:
    await become_manager(door.server, tmp_path)
    assert not has_identity(tmp_path), "nobody has said init"
    keys = set()
    for address in ("192.0.2.1", "192.0.2.9"):
        (tmp_path / ADVERTISE_FILE).write_text(f"m1 {address}")
        await become_manager(door.server, tmp_path)
        own = own_certificate(tmp_path)
        assert (own.name, own.role, own.address) == ("m1", "manager", address)
        keys.add(own.key)
    assert len(keys) == 1
    (tmp_path / ADVERTISE_FILE).write_text("m/1 192.0.2.1")
    with pytest.raises(UsageError, match="a name wants letters"):
        await become_manager(door.server, tmp_path)
    await become_manager(door.server, tmp_path)  # the next start is not kept from by it
    assert own_certificate(tmp_path).address == "192.0.2.9"
