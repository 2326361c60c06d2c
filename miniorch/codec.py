"""Objects to JSON and back, once, at the boundary.

The problem: bytes come from outside and must not reach logic as dictionaries that may lack anything. The idea: the
dataclasses of `miniorch/model.py` already say what is expected. Each type becomes, once, a reader that refuses what
does not fit; the path of the offending value is put together on the way out. Unknown keys are ignored, so that a newer
server can talk to an older agent; missing keys take the field's default.

Who does this for real: pydantic and msgspec; both cost every command more time to import than it takes to run.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from typing import Any, TypeVar

from miniorch.errors import UsageError

T = TypeVar("T")
_SCALARS = (str, int, float, bool, type(None))
LARGEST = 2**63


class Json(bytes):
    """An answer that is JSON already, put together from what the store holds: nothing is read to be written again."""


def to_plain(value: object) -> Any:
    """A model object as JSON-ready lists, dicts and scalars."""
    if type(value) in _SCALARS:  # most are; asking further questions first doubles the time
        return value
    if names := _field_names(typing.cast(Hashable, type(value))):
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return json.loads(value) if isinstance(value, Json) else value


def encode(value: object) -> bytes:
    """A model object as compact JSON."""
    if isinstance(value, Json):
        return value
    return json.dumps(to_plain(value), separators=(",", ":"), ensure_ascii=False).encode()


def decode(cls: type[T], data: bytes | str) -> T:
    """The model object in some JSON. Raises `UsageError` that names the value's path."""
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from None
    return from_plain(cls, plain)


def from_plain(cls: type[T], plain: Any) -> T:
    """The model object in JSON-ready data. Raises `UsageError` that names the value's path."""
    try:
        return typing.cast(T, _reader(typing.cast(Hashable, cls))(plain))
    except _Misfit as error:
        message = f"{cls.__name__}{error.path}: {error.what}"
        raise UsageError(message.encode(errors="backslashreplace").decode()) from None


Reader = Callable[[Any], Any]


class _Misfit(Exception):
    """A value that is not what its type says. Each level that it leaves puts its step before the path."""

    def __init__(self, what: str) -> None:
        self.what, self.path = what, ""

    def inside(self, step: str) -> "_Misfit":
        self.path = step + self.path
        return self


@functools.cache
def _field_names(cls: type) -> tuple[str, ...]:
    """Empty for what is no dataclass."""
    return tuple(item.name for item in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else ()


@functools.cache
def _field_readers(cls: type) -> tuple[tuple[str, Reader], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((name, _reader(hints[name])) for name in _field_names(cls))


@functools.cache
def _reader(wanted: Any) -> Reader:
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if dataclasses.is_dataclass(wanted):
        return functools.partial(_read_object, typing.cast(type, wanted))
    if origin in (types.UnionType, typing.Union):  # in the model: something or None
        inner = _reader(next(part for part in parts if part is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return functools.partial(_read_list, _reader(parts[0]))
    if origin is not None and issubclass(origin, Mapping):
        return functools.partial(_read_mapping, _reader(parts[1]))
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return functools.partial(_read_member, {member.value: member for member in wanted})
    if wanted in (int, float):
        return functools.partial(_read_number, wanted)
    return _read_text if wanted is str else functools.partial(_read_scalar, wanted)


def _read_object(cls: type, value: Any) -> Any:
    if type(value) is cls:  # the simulation's network has read it already
        return value
    if not isinstance(value, dict):
        raise _Misfit(f"wants an object, got {_named(value)}")
    given = {}
    for name, read in _field_readers(cls):
        if name in value:
            try:
                given[name] = read(value[name])
            except _Misfit as error:
                raise error.inside(f".{name}") from None
    try:
        return cls(**given)
    except TypeError:
        required = [one for one in dataclasses.fields(cls) if one.default is one.default_factory is dataclasses.MISSING]
        raise _Misfit(f"lacks {', '.join(one.name for one in required if one.name not in given)}") from None


def _read_list(read: Reader, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _Misfit(f"wants a list, got {_named(value)}")
    items: list[Any] = []
    try:
        for item in value:
            items.append(read(item))
    except _Misfit as error:
        raise error.inside(f"[{len(items)}]") from None
    return tuple(items)


def _read_mapping(read: Reader, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _Misfit(f"wants an object, got {_named(value)}")
    items = {}
    for key, item in value.items():
        try:
            items[_read_text(str(key))] = read(item)
        except _Misfit as error:
            raise error.inside(f".{key}") from None
    return items


def _read_member(members: Mapping[Any, Enum], value: Any) -> Any:
    try:
        return members[value]
    except (KeyError, TypeError):
        raise _Misfit(f"{value!r} is none of {', '.join(map(str, members))}") from None


def _read_number(wanted: Any, value: Any) -> Any:
    """No bool, and nothing that the store would lose: JSON has no NaN, and what reads it elsewhere has 64 bits."""
    if isinstance(value, bool):
        raise _Misfit(f"wants a number, got {_named(value)}")
    if not isinstance(value, (int, wanted)):
        raise _Misfit(f"wants {wanted.__name__}, got {_named(value)}")
    if not -LARGEST < value < LARGEST:
        raise _Misfit(f"wants a number of at most 64 bits, got {_named(value)}")
    return float(value) if wanted is float else value


def _read_text(value: Any) -> Any:
    """Text that can be written down: half a character (JSON's `\\ud800` alone) cannot."""
    _read_scalar(str, value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Misfit(f"wants text, got half a character in {_named(value)}") from None
    return value


def _read_scalar(wanted: type, value: Any) -> Any:
    if not isinstance(value, wanted):
        raise _Misfit(f"wants {wanted.__name__}, got {_named(value)}")
    return value


def _named(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
