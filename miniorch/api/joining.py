"""Handlers about who belongs to the cluster: tokens, joining, certificates.

The problem: the one door that must be open to strangers. The idea: a stranger may do two things, ask for the
authority's certificate, which is public, and show a token together with a request. What its certificate says (name,
role, address) is the server's choice alone. A name belongs to a key: the same key gets the same name again, however
often its request is repeated, and another key never does while a node of that name is known.

The store is read at each join, so a token that was rotated on one server is worth nothing on any other.

Who does this for real: swarmkit's `ca/server.go`. Next file: `miniorch/cli/cluster.py`, the other side.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from miniorch import tokens
from miniorch.api.routes import Call
from miniorch.api.writing import Writing, retrying
from miniorch.authority import Authority
from miniorch.certificates import (
    LIFE_SECONDS,
    RENEWED_SECONDS,
    SKEW_SECONDS,
    USERS,
    Subject,
    digest_of_certificate,
    digest_of_key,
    key_in,
)
from miniorch.clock import new_id
from miniorch.codec import from_plain
from miniorch.errors import Conflict, NotAllowed, NotFound, Temporary, Unsupported, UsageError
from miniorch.identity import NODE_NAME, server_url
from miniorch.model import Member, Node, Role, Token
from miniorch.state.records import Versioned, Write, read, read_all

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

JOIN_SECONDS = 60.0  # after which the name of a machine that never became a node is free again
WRONG_AT_MOST, WRONG_SECONDS, SOURCES = 10, 60.0, 1024


@dataclass(frozen=True, slots=True)
class Stranger:
    """What a machine that wants to join shows."""

    token: str
    request: str
    name: str = ""
    exact: bool = False  # that name or none


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that an administrator asks for (`init`, `context create`), or one that is to be renewed."""

    request: str
    name: str = ""
    role: str = ""
    address: str = ""  # believed on a machine's own socket alone
    ttl_seconds: float = LIFE_SECONDS


@dataclass(frozen=True, slots=True)
class WantedToken:
    role: Role = Role.WORKER
    ttl_seconds: float = 86400.0  # 0: for ever


class Guesses:
    """How often each address was wrong of late. Bounded: of many addresses the oldest are forgotten."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, source: str, now: float) -> None:
        """Raises `Temporary` for an address that has been wrong too often. `now` is monotonic."""
        late = [at for at in self._wrong.get(source, ()) if at > now - WRONG_SECONDS]
        if len(late) >= WRONG_AT_MOST:
            wait = late[0] + WRONG_SECONDS - now
            raise Temporary(f"too many wrong join tokens from {source}", remedy=f"sleep {wait:.0f}; then once more")

    def wrong(self, source: str, now: float) -> None:
        late = self._wrong.pop(source, [])[1 - WRONG_AT_MOST :]
        self._wrong[source] = [*late, now]
        while len(self._wrong) > SOURCES:
            self._wrong.popitem(last=False)


class Joining(Writing):
    """The part of `Handlers` that is about members."""

    authority: Authority | None
    store_url: str
    guesses: Guesses

    # --- for strangers -----------------------------------------------------------------------------------------------

    async def authority_certificate(self, call: Call) -> Any:
        cluster = await self._cluster()
        return {"cluster": cluster.item.id, "certificate": cluster.item.authority, "now": self._clock.now()}

    @retrying
    async def join(self, call: Call) -> Any:
        said, source, now = from_plain(Stranger, call.body), call.caller.address, self._clock.monotonic()
        self.guesses.check(source, now)
        authority = self._signing()
        given = tokens.parse(said.token)
        known = await read(self._store, Token, given.id)
        try:
            digest = digest_of_certificate(authority.certificate)
            role = tokens.check(given, known.item if known else None, digest, self._clock.now())
        except NotAllowed:
            self.guesses.wrong(source, now)
            raise
        if role is Role.MANAGER:
            self._may_be_shared()
        key = key_in(said.request)
        members = {one.item.name: one for one in await read_all(self._store, Member)}
        nodes = {one.item.name: one.item for one in await read_all(self._store, Node)}
        name = name_for(said, digest_of_key(key), {name: one.item for name, one in members.items()}, nodes,
                        self._clock.now())  # fmt: skip
        before = members.get(name)
        if before and before.item.key == digest_of_key(key) and before.item.role != role.value:
            raise Conflict(f"{name} is a {before.item.role} of this cluster already, no {role.value}",
                           remedy=f"miniorch node rm {name}; then join anew")  # fmt: skip
        answer = await self._certify(before, key, Subject(name, role.value, "", _address(source)))
        others = [one for one in nodes.values() if one.role is Role.MANAGER and one.address and one.name != name]
        answer["servers"] = [server_url(one.address) for one in others]
        if role is Role.MANAGER:
            answer |= {"authority_key": authority.key, "store": self.store_url}
        return answer

    # --- for members -------------------------------------------------------------------------------------------------

    @retrying
    async def renew(self, call: Call) -> Any:
        """A later end for a certificate, with the same key. Its role is the one that the store knows."""
        said, caller = from_plain(Wanted, call.body), call.caller
        key = key_in(said.request)
        digest = digest_of_key(key)
        found = next((one for one in await read_all(self._store, Member) if one.item.key == digest), None)
        by_tls = caller.via == "tls"
        if found is None or (by_tls and (caller.name, caller.key) != (found.item.name, digest)):
            raise NotAllowed("only the certificate that is shown can be renewed, with its own key",
                             remedy="miniorch join with a new token")  # fmt: skip
        name, role, life = found.item.name, found.item.role, LIFE_SECONDS
        address = caller.address if by_tls else said.address
        if role in USERS:  # as long again as an administrator has given it, unless that was meant to be short
            address, life = "", found.item.until - found.item.at
            if life < RENEWED_SECONDS:
                raise NotAllowed(f"the certificate of {name} was given for {life / 3600:.0f} h and ends with them",
                                 remedy=f"on a manager: miniorch context create {name}")  # fmt: skip
        return await self._certify(found, key, Subject(name, role, "", address), life)

    # --- for administrators ------------------------------------------------------------------------------------------

    @retrying
    async def certify(self, call: Call) -> Any:
        """For this machine (`init`: role manager, on its own socket alone), or for a user."""
        said = from_plain(Wanted, call.body)
        key, local = key_in(said.request), call.caller.via == "socket"
        if said.role not in USERS and not (said.role == Role.MANAGER and local):
            remedy = "miniorch context create laptop --role view"
            raise UsageError(f"a role is one of {', '.join(USERS)}", remedy=remedy)
        if not NODE_NAME.fullmatch(said.name) or not 0 < said.ttl_seconds <= 10 * LIFE_SECONDS:
            raise UsageError("a name wants letters, digits and -, at most 63; a life at most 900 days",
                             remedy="miniorch context create laptop --role view --ttl 90d")  # fmt: skip
        known, node = await read(self._store, Member, said.name), await read(self._store, Node, said.name)
        if said.role in USERS and (node or (known and known.item.role not in USERS)):
            raise Conflict(f"{said.name} is a machine of this cluster", remedy="miniorch context create ANOTHER-NAME")
        if said.role in USERS and known:
            raise Conflict(f"{said.name} is a user already", remedy=f"miniorch context revoke {said.name}")
        address = _address(said.address) if said.role == Role.MANAGER else ""
        return await self._certify(known, key, Subject(said.name, said.role, "", address), said.ttl_seconds)

    @retrying
    async def revoke_member(self, call: Call) -> Any:
        """A user's certificate is refused from the next request on. Machines are removed by `node rm`."""
        member = await self._must(Member, call.names["member"])
        if member.item.role not in USERS:
            raise UsageError(f"{member.item.name} is a machine", remedy=f"miniorch node rm {member.item.name}")
        return {"revision": await self._commit([Write(member.item, member.modified, erase=True)])}

    @retrying
    async def join_tokens(self, call: Call) -> Any:
        """All tokens; the two standing ones, which are made when first asked for, with their text."""
        known = await read_all(self._store, Token)
        missing = [role for role in Role if not any(one.item.standing and one.item.role is role for one in known)]
        if missing:
            writes = [Write(self._fresh(role), 0) for role in missing]
            await self._commit([self._alone(await self._cluster()), *writes])  # two at once must not make four
            known = await read_all(self._store, Token)
        return {"items": [self._told(one.item) for one in known]}

    @retrying
    async def create_token(self, call: Call) -> Any:
        said, now = from_plain(WantedToken, call.body or {}), self._clock.now()
        if not 0 <= said.ttl_seconds <= 10 * LIFE_SECONDS:
            raise UsageError("a token lives 0 seconds (for ever) to 900 days", remedy="miniorch token create --ttl 2h")
        token = self._fresh(said.role, now + said.ttl_seconds if said.ttl_seconds else 0.0, standing=False)
        over = [one for one in await read_all(self._store, Token) if 0 < one.item.expires_at < now - 86400.0]
        await self._commit([Write(token, 0), *(Write(one.item, one.modified, erase=True) for one in over[:100])])
        return self._told(token, secret=True)

    @retrying
    async def rotate_token(self, call: Call) -> Any:
        """A new standing token; the one before it admits nobody any more. Who has joined with it stays."""
        role = next((role for role in Role if role.value == call.names["role"]), None)
        if role is None:
            raise NotFound(f"there is no role {call.names['role']}", remedy="miniorch token rotate --role worker")
        old = [one for one in await read_all(self._store, Token) if one.item.standing and one.item.role is role]
        token = self._fresh(role)
        gone = [Write(one.item, one.modified, erase=True) for one in old]
        await self._commit([self._alone(await self._cluster()), Write(token, 0), *gone])
        return self._told(token)

    @retrying
    async def revoke_token(self, call: Call) -> Any:
        token = await self._must(Token, call.names["token"])
        if token.item.standing:
            raise UsageError("a standing token is rotated, not revoked",
                             remedy=f"miniorch token rotate --role {token.item.role.value}")  # fmt: skip
        return {"revision": await self._commit([Write(token.item, token.modified, erase=True)])}

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _certify(
        self, known: Versioned[Member] | None, key: ec.EllipticCurvePublicKey, subject: Subject,
        ttl_seconds: float = LIFE_SECONDS,
    ) -> dict[str, Any]:  # fmt: skip
        authority, now = self._signing(), self._clock.now()
        cluster = (await self._cluster()).item
        subject = replace(subject, cluster=cluster.id, since=now - SKEW_SECONDS, until=now + ttl_seconds)
        member = Member(subject.name, subject.role, digest_of_key(key), subject.until, now)
        await self._commit([Write(member, known.modified if known else 0)])
        signed = authority.sign(subject, key)
        return {"name": subject.name, "role": subject.role, "cluster": cluster.id, "certificate": signed,
                "authority": authority.certificate, "until": subject.until}  # fmt: skip

    def _signing(self) -> Authority:
        if self.authority is None:
            raise Conflict("this server does not hold the key of the cluster's authority", remedy="ask another manager")
        return self.authority

    def _whole(self, role: Role, identifier: str) -> tokens.JoinToken:
        authority = self._signing()
        return tokens.make(digest_of_certificate(authority.certificate), authority.key, role, identifier)

    def _fresh(self, role: Role, expires_at: float = 0.0, *, standing: bool = True) -> Token:
        return self._whole(role, new_id(self._chance, 8)).kept(expires_at, standing=standing)

    def _told(self, token: Token, *, secret: bool = False) -> dict[str, Any]:
        whole = self._whole(token.role, token.id)
        return {"id": token.id, "role": token.role.value, "expires_at": token.expires_at, "standing": token.standing,
                "token": str(whole) if secret or token.standing else ""}  # fmt: skip

    def _may_be_shared(self) -> None:
        """Raises `Unsupported` where a second manager could not reach the state."""
        worker = "miniorch token show --role worker"
        if not self.store_url.startswith("etcd://"):
            raise Unsupported(
                "this cluster's state is a file on its manager, so there can be no second one",
                remedy=f"{worker}; or begin a cluster with miniorch init --store etcd://HOST:PORT",
            )
        if re.search(r"//localhost|,localhost|[/,]127\.|\[::1\]", self.store_url):
            message = f"{self.store_url} is reached from this manager alone, so there can be no second one"
            raise Unsupported(message, remedy=f"{worker}; or miniorch down; miniorch up --store etcd://HOST:PORT")


def name_for(said: Stranger, key: str, members: Mapping[str, Member], nodes: Mapping[str, Node], now: float) -> str:
    """The name of a machine with this key. Raises `Conflict` if it wants just that one and another has it."""
    for member in members.values():
        if member.key == key and member.role not in USERS:
            return member.name
    wanted = re.sub(r"[^A-Za-z0-9.-]+", "-", said.name)[:60].strip(".-") or "node"
    for name in [wanted, *(f"{wanted}-{number}" for number in range(2, 10000))]:
        known = members.get(name)
        if name not in nodes and (known is None or (known.role not in USERS and now - known.at > JOIN_SECONDS)):
            return name
        if said.exact:
            break
    raise Conflict(f"the cluster has a {wanted} already, with another key",
                   remedy=f"miniorch node rm {wanted} if that machine is gone; or join with --node NAME")  # fmt: skip


def _address(text: str) -> str:
    """Raises `UsageError` for what is no address of a machine."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or found.is_unspecified or found.is_multicast:
        raise UsageError(f"{text[:60]!r} is no address of a machine", remedy="ip -brief address")
    return str(found)
