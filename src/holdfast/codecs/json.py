"""Strict typed JSON: what goes in comes out equal under the reader's annotation, or is refused here.

dataclasses, TypedDict, msgspec structs, enums, datetime, UUID, Decimal, bytes, set and the JSON types encode; a
reader without annotation gets plain JSON types. NaN, infinities, keys that collide as text, and payloads
over 2 MiB are refused with the path of the value. Stored data never causes code to run.
"""

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from holdfast.codecs.payload import JSON, PAYLOAD_MAX_BYTES, TEXT, split
from holdfast.core.run import Value
from holdfast.errors import CodecError

DEPTH_MAX = 64
"""Nesting of lists and maps in a value."""
_SCALARS = frozenset({int, str, bool, type(None)})
_encode = msgspec.json.Encoder().encode


def encode(value: object) -> bytes:
    """Turn a value into a payload, envelope included.

    Raises:
        CodecError: It cannot be encoded; `.path` names the part that cannot (`$.items[3].price`).
    """
    if type(value) not in _SCALARS:
        _refuse(value, "$", 0)
    try:
        payload = JSON + _encode(value)
    except UnicodeEncodeError:
        payload = _encode_surrogates(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(path="$", reason=str(error)) from error
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise CodecError(
            path="$",
            reason=f"the value is {len(payload)} bytes encoded, more than {PAYLOAD_MAX_BYTES}; "
            "keep it in a file or object store and pass its address",
        )
    return payload


def decoder(annotation: object) -> Callable[[bytes], Any]:
    """Make a function that turns payloads into values of `annotation`.

    The function raises `CodecError` with the path where the payload does not fit, and `FormatError` for
    an envelope it does not know.

    Raises:
        CodecError: The annotation is of no type that JSON can be decoded into.
    """
    try:
        typed = msgspec.json.Decoder[Any](annotation)
    except (TypeError, RuntimeError, NameError) as error:
        raise CodecError(path="$", reason=f"annotation {annotation!r}: {error}") from error
    decode_json = typed.decode
    skip = len(JSON)

    def decode(payload: bytes) -> Any:  # noqa: ANN401 - the codec's edge: typed by `annotation`
        try:
            if payload.startswith(JSON):
                return decode_json(payload[skip:])
            return _decode_other(payload, annotation)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reason, _, path = str(error).partition(" - at `")
            raise CodecError(path=path.rstrip("`") or "$", reason=reason) from error

    return decode


def schema(annotations: list[object]) -> bytes:
    """JSON Schema that a value fits if it fits each annotation; `{}` where a type has none."""
    try:
        schemas, components = msgspec.json.schema_components(annotations, ref_template="#/$defs/{name}")
    except (TypeError, RuntimeError):
        return b"{}"
    whole: dict[str, Any] = dict(schemas[0]) if len(schemas) == 1 else {"allOf": list(schemas)}
    if components:
        whole["$defs"] = components
    return _encode(whole)


def flatten(value: Value) -> bytes:
    """One payload of a value that may be a join's map of payloads; nothing is decoded for it."""
    if isinstance(value, bytes):
        return value
    parts = {name: split(flatten(part)) for name, part in value.items()}
    envelope = TEXT if any(head == TEXT for head, _ in parts.values()) else JSON
    fields = (json.dumps(name).encode("ascii") + b":" + data for name, (_, data) in parts.items())
    return envelope + b"{" + b",".join(fields) + b"}"


def _encode_surrogates(value: object) -> bytes:
    plain = msgspec.to_builtins(value, str_keys=True)
    return TEXT + json.dumps(plain, separators=(",", ":"), allow_nan=False).encode("ascii")


def _decode_other(payload: bytes, annotation: object) -> Any:  # noqa: ANN401 - the codec's edge: typed by `annotation`
    envelope, data = split(payload)
    if envelope == TEXT:
        plain = json.loads(data, parse_constant=_no_constant)
        return msgspec.convert(plain, annotation, str_keys=True)
    return msgspec.json.decode(data, type=annotation)


def _no_constant(name: str) -> None:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _refuse(value: Any, path: str, depth: int) -> None:  # noqa: ANN401 - any value of a user
    """Walk a value and raise for what msgspec would silently change, or for what it cannot encode."""
    if depth > DEPTH_MAX:
        raise CodecError(path=path, reason=f"nested deeper than {DEPTH_MAX}")
    if _is_mapping(value):
        _refuse_mapping(value, path, depth)
    elif _is_sequence(value):
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                _refuse(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, enum.Enum):
        _refuse(value.value, path, depth + 1)
    elif _has_fields(value):
        for name in _field_names(value):
            _refuse(getattr(value, name, None), f"{path}.{name}", depth + 1)
    elif type(value) not in _SCALARS and value is not msgspec.UNSET:
        _refuse_leaf(value, path)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, dict)


def _has_fields(value: object) -> bool:
    is_data = dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct)
    return is_data and not isinstance(value, type)


def _is_sequence(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, list | tuple | set | frozenset)


def _refuse_mapping(value: Mapping[Any, Any], path: str, depth: int) -> None:
    seen: set[str] = set()
    for key, item in value.items():
        text = key if isinstance(key, str) else _key_text(key, path)
        if text in seen:
            raise CodecError(path=f"{path}.{text}", reason="two keys are the same text in JSON")
        seen.add(text)
        if type(item) not in _SCALARS:
            _refuse(item, f"{path}.{text}", depth + 1)


def _key_text(key: object, path: str) -> str:
    try:
        return str(next(iter(msgspec.json.decode(_encode({key: None})))))
    except (TypeError, ValueError) as error:
        raise CodecError(path=path, reason=f"key {key!r}: {error}") from error


def _field_names(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - a dataclass instance has no type of its own
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return tuple(field.name for field in dataclasses.fields(value))


def _refuse_leaf(value: object, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise CodecError(path=path, reason=f"{value!r} has no JSON form")
    try:
        _encode(value)
    except UnicodeEncodeError:
        return
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(path=path, reason=str(error)) from error
