"""What every store refuses before it does anything, and how prefixes are compared.

The problem: two backends that disagree about a strange key are two stores. The idea: size limits and the order of
keys are written once, here. Keys sort by Unicode code point, which is also the order of their UTF-8 bytes, so that
Python's `sorted` and SQLite's index agree.

Who does this for real: etcd refuses requests above 1.5 MiB, because everything is copied to every member. Next file:
`miniorch/state/watchers.py`.
"""

from collections.abc import Sequence

from miniorch.errors import UsageError
from miniorch.state.store import Compare, Operation, Put

KEY_BYTES = 512
VALUE_BYTES = 1024 * 1024


def check_key(key: str) -> None:
    """Raises `UsageError` unless `key` is one that a store may hold."""
    if not key.startswith("/"):
        raise UsageError(f'the key {key[:40]!r} does not begin with "/"')
    try:
        size = len(key.encode())
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form
        raise UsageError(f"the key {key[:40]!r} is not Unicode text") from None
    if "\0" in key:
        raise UsageError(f"the key {key[:40]!r} holds a NUL character")
    if size > KEY_BYTES:
        raise UsageError(f"the key {key[:40]!r}... has {size} bytes, at most {KEY_BYTES} are allowed")


def check_txn(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Raises `UsageError` unless every key and value is within the limits and no key is changed twice."""
    for compare in compares:
        check_key(compare.key)
    seen: set[str] = set()
    for operation in operations:
        check_key(operation.key)
        if operation.key in seen:
            raise UsageError(f"the key {operation.key!r} occurs twice in one transaction")
        seen.add(operation.key)
        if isinstance(operation, Put) and len(operation.value) > VALUE_BYTES:
            raise UsageError(
                f"the value of {operation.key!r} has {len(operation.value)} bytes, at most {VALUE_BYTES} are allowed"
            )


def after_prefix(prefix: str) -> str | None:
    """The smallest text that sorts after every key with this prefix; None if there is none.

    "/a" gives "/b": so a prefix is one range of a sorted index, `prefix <= key < after_prefix(prefix)`.
    """
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1]) + 1
        if code == 0xD800:  # the first surrogate: no character; the next real one comes after the last
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[: length - 1] + chr(code)
    return None
