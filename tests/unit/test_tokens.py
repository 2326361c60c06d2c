"""Join tokens: what is written in them, and what admits."""

from __future__ import annotations

import hashlib

import pytest

from miniorch.errors import NotAllowed, UsageError
from miniorch.model import Role, Token
from miniorch.tokens import JoinToken, check, make, parse

AUTHORITY = hashlib.sha256(b"authority").digest()
TOKEN = make(AUTHORITY, "the authority's key", Role.WORKER, "k3m9x2ab")
KEPT = TOKEN.kept(0.0, standing=True)
NOW = 1_800_000_000.0


def test_a_token_comes_back_from_its_text_whatever_stands_around_it() -> None:
    assert parse(str(TOKEN)) == TOKEN
    assert parse(f"\n {TOKEN}\r\n") == TOKEN
    assert str(TOKEN).startswith("MORCH1-w-k3m9x2ab-")
    assert len(TOKEN.secret) == len(TOKEN.authority) == 32


@pytest.mark.parametrize(
    "text",
    [
        "", "MORCH1", str(TOKEN)[:-1], str(TOKEN) + "a", str(TOKEN).upper(), str(TOKEN).replace("-w-", "-x-"),
        str(TOKEN).replace("MORCH1", "MORCH2"), str(TOKEN).replace("-", "_"), str(TOKEN) * 20, str(TOKEN) + "\x00",
        str(TOKEN).replace("k3m9x2ab", "k3m9x2аb"), "SWMTKN-1-" + "a" * 50, "9" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="no join token") as refusal:
        parse(text)
    assert TOKEN.secret.hex() not in refusal.value.message
    assert len(refusal.value.message) < 200


def test_one_token_has_one_spelling() -> None:
    last = str(TOKEN)[-1]
    for other in "abcdefghijklmnopqrstuvwxyz234567".replace(last, ""):
        try:
            assert parse(str(TOKEN)[:-1] + other).secret != TOKEN.secret
        except UsageError:
            continue


def test_the_secret_depends_on_key_role_and_id_and_is_not_in_the_store() -> None:
    others = [make(AUTHORITY, "another key", Role.WORKER, "k3m9x2ab"),
              make(AUTHORITY, "the authority's key", Role.MANAGER, "k3m9x2ab"),
              make(AUTHORITY, "the authority's key", Role.WORKER, "k3m9x2ac")]  # fmt: skip
    assert len({one.secret for one in [TOKEN, *others]}) == 4
    assert make(AUTHORITY, "the authority's key", Role.WORKER, "k3m9x2ab") == TOKEN
    assert KEPT.digest == hashlib.sha256(TOKEN.secret).hexdigest()


def refusal(given: JoinToken, *, known: Token | None = KEPT, authority: bytes = AUTHORITY, now: float = NOW) -> str:
    with pytest.raises(NotAllowed) as caught:
        check(given, known, authority, now)
    assert caught.value.remedy
    return caught.value.message


def test_a_token_admits_with_its_own_role_until_it_ends() -> None:
    assert check(TOKEN, KEPT, AUTHORITY, NOW) is Role.WORKER
    short = TOKEN.kept(NOW + 10, standing=False)
    assert check(TOKEN, short, AUTHORITY, NOW + 9.9) is Role.WORKER
    assert "has expired" in refusal(TOKEN, known=short, now=NOW + 10)


def test_unknown_wrong_and_foreign_tokens_do_not_admit() -> None:
    assert "rotated or revoked" in refusal(TOKEN, known=None)
    wrong = JoinToken(Role.WORKER, TOKEN.id, AUTHORITY, bytes(32))
    assert "rotated or revoked" in refusal(wrong)
    assert refusal(wrong, known=TOKEN.kept(NOW - 1, standing=False)) == refusal(wrong), (
        "expired is told to holders alone"
    )
    promoted = JoinToken(Role.MANAGER, TOKEN.id, AUTHORITY, TOKEN.secret)
    assert "rotated or revoked" in refusal(promoted)
    assert "another cluster's" in refusal(TOKEN, authority=bytes(32))
