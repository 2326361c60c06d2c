"""Objects to JSON and back, once, at the boundary.

The problem: bytes come from outside and must not reach logic as dictionaries that may lack anything. The idea: the
dataclasses of `miniorch/model.py` already say what is expected; `decode` walks the type of each field and refuses
what does not fit, with the path of the offending value. Unknown keys are ignored, so that a newer server can talk to
an older agent; missing keys take the field's default.

Who does this for real: pydantic and msgspec; both cost every command more time to import than it takes to run.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from miniorch.errors import UsageError

T = TypeVar("T")


def to_plain(value: object) -> Any:
    """A model object as JSON-ready lists, dicts and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


def encode(value: object) -> bytes:
    """A model object as compact JSON."""
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
    return typing.cast(T, _convert(cls, plain, cls.__name__))


@functools.cache
def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(cls))


@functools.cache
def _field_types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(wanted: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(wanted)
    if dataclasses.is_dataclass(wanted):
        return _convert_dataclass(typing.cast(type, wanted), value, path)
    if origin in (types.UnionType, typing.Union):
        choices = typing.get_args(wanted)
        if value is None and type(None) in choices:
            return None
        inner = next(choice for choice in choices if choice is not type(None))
        return _convert(inner, value, path)
    if origin is tuple:
        inner = typing.get_args(wanted)[0]
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{path}: wants a list, got {_named(value)}")
        return tuple(_convert(inner, item, f"{path}[{number}]") for number, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        inner = typing.get_args(wanted)[1]
        if not isinstance(value, Mapping):
            raise UsageError(f"{path}: wants an object, got {_named(value)}")
        return {str(key): _convert(inner, item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        try:
            return wanted(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in wanted)
            raise UsageError(f"{path}: {value!r} is none of {known}") from None
    return _convert_scalar(wanted, value, path)


def _convert_dataclass(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: wants an object, got {_named(value)}")
    hints = _field_types(cls)
    given = {name: _convert(hints[name], value[name], f"{path}.{name}") for name in _field_names(cls) if name in value}
    try:
        return cls(**given)
    except TypeError:
        missing = [item.name for item in dataclasses.fields(cls) if item.name not in given and _required(item)]
        raise UsageError(f"{path}: lacks {', '.join(missing)}") from None


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _convert_scalar(wanted: Any, value: Any, path: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (int, float) and isinstance(value, bool):
        raise UsageError(f"{path}: wants a number, got {_named(value)}")
    if not isinstance(value, wanted):
        raise UsageError(f"{path}: wants {wanted.__name__}, got {_named(value)}")
    return value


def _named(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
