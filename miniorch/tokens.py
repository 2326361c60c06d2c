"""Join tokens: what a new machine must know before it may ask for a certificate, in one word.

    MORCH1-w-k3m9x2ab-<52 characters>-<52 characters>
           |    |             |              secret: 32 bytes
           |    |             SHA-256 of the certificate of the cluster's authority
           |    public id: which token is meant
           the role that it gives: w worker, m manager

The problem: two strangers meet. The machine does not know whether that is the cluster, the cluster not whether it is
that machine. The idea: the token answers both. The digest tells the machine whom to trust before it has said anything,
and the secret tells the cluster that somebody with the right to do so has handed the token over. The store keeps only
the secret's SHA-256; the secret itself is not kept anywhere: it is an HMAC of role and id, with the authority's private
key, so that whoever holds that key can print a token again, and nobody else (`docs/decisions/0010-join-tokens.md`).

Who does this for real: swarmkit (SWMTKN-1-...), kubeadm's bootstrap tokens, which also have an id, a secret and a pin.
Next file: `miniorch/api/joining.py`.
"""

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from miniorch.errors import NotAllowed, UsageError
from miniorch.model import Role, Token

PREFIX = "MORCH1"
LETTERS = {"w": Role.WORKER, "m": Role.MANAGER}
SHAPE = re.compile(r"MORCH1-([wm])-([0-9a-z]{8})-([a-z2-7]{52})-([a-z2-7]{52})")
SHOW = "miniorch token show   (on a manager)"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token that somebody holds, taken apart."""

    role: Role
    id: str
    authority: bytes  # SHA-256 of the authority's certificate
    secret: bytes

    def __str__(self) -> str:
        letter = next(letter for letter, role in LETTERS.items() if role is self.role)
        return "-".join((PREFIX, letter, self.id, _written(self.authority), _written(self.secret)))

    def kept(self, expires_at: float, *, standing: bool) -> Token:
        """What the store keeps of it."""
        return Token(self.id, self.role, hashlib.sha256(self.secret).hexdigest(), expires_at, standing)


def make(authority: bytes, key: str, role: Role, identifier: str) -> JoinToken:
    """The token with this id. `authority` is the digest of the authority's certificate, `key` its private key (PEM)."""
    said = f"miniorch join|{role.value}|{identifier}".encode()
    return JoinToken(role, identifier, authority, hmac.digest(key.encode(), said, "sha256"))


def parse(text: str) -> JoinToken:
    """Raises `UsageError` for what is no token, without repeating it: it may be a secret all the same."""
    found = SHAPE.fullmatch(text.strip()) if text.isascii() and len(text) < 1000 else None
    try:
        if found is None:
            raise ValueError
        return JoinToken(LETTERS[found[1]], found[2], _read(found[3]), _read(found[4]))
    except (ValueError, binascii.Error):
        raise UsageError(
            "that is no join token: it wants the form MORCH1-w-ID-DIGEST-SECRET, whole and unchanged", remedy=SHOW
        ) from None


def check(given: JoinToken, known: Token | None, authority: bytes, now: float) -> Role:
    """The role that a token gives. Raises `NotAllowed`. All comparisons are made, whichever of them fails."""
    digest = hashlib.sha256(given.secret).hexdigest()
    same = hmac.compare_digest(digest, known.digest if known else "0" * 64)
    ours = hmac.compare_digest(given.authority, authority)
    if not ours:
        raise NotAllowed("this join token is another cluster's", remedy=SHOW)
    if known is None or not same or known.role is not given.role:
        raise NotAllowed("the cluster does not know this join token: it was rotated or revoked", remedy=SHOW)
    if 0 < known.expires_at <= now:
        raise NotAllowed("this join token has expired", remedy=f"miniorch token create --role {known.role.value}")
    return known.role


def _written(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _read(text: str) -> bytes:
    data = base64.b32decode(text.upper() + "====")
    if _written(data) != text:  # two spellings of one token: the last letter has bits to spare
        raise ValueError(text)
    return data
