"""What every store refuses before it does anything, and how prefixes are compared.

The problem: two backends that disagree about a strange key are two stores. The idea: size limits and the order of
keys are written once, here, and the limits are those that an etcd with its default settings has. Keys sort by Unicode
code point, which is also the order of their UTF-8 bytes, so that Python's `sorted`, SQLite's index and etcd agree.

Who does this for real: etcd refuses requests above 1.5 MiB, because everything is copied to every member, and
transactions of more than 128 operations, because nobody else is served while one is done. Next file:
`miniorch/state/watchers.py`.
"""

from collections.abc import Sequence

from miniorch.errors import UsageError
from miniorch.state.store import Compare, Operation, Put

KEY_BYTES = 512
VALUE_BYTES = 1024 * 1024
TXN_BYTES = 1_400_000  # all keys and values of one transaction
TXN_OPERATIONS = 128  # and as many compares


def check_key(key: str) -> int:
    """The size of `key` in bytes. Raises `UsageError` unless it is one that a store may hold."""
    if not key.startswith("/"):
        raise UsageError(f'the key {key[:40]!r} does not begin with "/"')
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form
        raise UsageError(f"the key {key[:40]!r} is not Unicode text") from None
    if "\0" in key:
        raise UsageError(f"the key {key[:40]!r} holds a NUL character")
    if size > KEY_BYTES:
        raise UsageError(f"the key {key[:40]!r}... has {size} bytes, at most {KEY_BYTES} are allowed")
    return size


def check_txn(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Raises `UsageError` unless every key and value is within the limits and no key is changed twice."""
    if max(len(compares), len(operations)) > TXN_OPERATIONS:
        raise UsageError(
            f"a transaction has at most {TXN_OPERATIONS} compares and {TXN_OPERATIONS} operations, "
            f"not {len(compares)} and {len(operations)}"
        )
    sizes: dict[str, int] = {}
    size = 0
    for operation in operations:
        key, value = operation.key, len(operation.value) if type(operation) is Put else 0
        if key in sizes:
            raise UsageError(f"the key {key!r} occurs twice in one transaction")
        if value > VALUE_BYTES:
            raise UsageError(f"the value of {key!r} has {value} bytes, at most {VALUE_BYTES} are allowed")
        sizes[key] = check_key(key)
        size += sizes[key] + value
    for compare in compares:
        size += sizes.get(compare.key) or check_key(compare.key)
    if size > TXN_BYTES:
        raise UsageError(f"a transaction of {size} bytes, at most {TXN_BYTES} are allowed")


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
