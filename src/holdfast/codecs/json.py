"""Strict typed JSON: what goes in comes out equal under the reader's annotation, or is refused here.

dataclasses, TypedDict, msgspec structs, enums, datetime, UUID, Decimal, bytes, set and the JSON types encode; a
reader without annotation gets plain JSON types. NaN, infinities, keys that collide as text, two surrogates that
would become one character, and payloads over 2 MiB are refused with the path of the value. A set is
written in the order of its items' JSON, so that equal sets are equal payloads. Stored data never causes code
to run.
"""

import copy
import dataclasses
import enum
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from holdfast.codecs.payload import JSON, PAYLOAD_MAX_BYTES, TEXT, split
from holdfast.core.run import Value
from holdfast.errors import CodecError

DEPTH_MAX = 64
"""Nesting of lists and maps in a value."""
_SCALARS = frozenset({int, str, bool, type(None)})
_SETS = (set, frozenset)
_SEQUENCES = (list, tuple, *_SETS)
_SURROGATE_PAIR = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
_encode = msgspec.json.Encoder().encode


def encode(value: object) -> bytes:
    """Turn a value into a payload, envelope included.

    Raises:
        CodecError: It cannot be encoded; `.path` names the part that cannot (`$.items[3].price`).
    """
    has_sets = type(value) not in _SCALARS and _examine(value, "$", 0)
    try:
        if has_sets:
            value = _in_order(value)
        try:
            payload = JSON + _encode(value)
        except UnicodeEncodeError:
            payload = _encode_surrogates(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(path="$", reason=str(error)) from error
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise CodecError(
            path="$",
            reason=f"the value is {len(payload)} bytes encoded, more than {PAYLOAD_MAX_BYTES}",
            fix="keep it in a file or object store and pass its address",
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
    _refuse_pairs(plain, "$")
    return TEXT + _ascii(plain)


def _ascii(plain: object) -> bytes:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_pairs(plain: Any, path: str) -> None:  # noqa: ANN401 - what JSON is made of
    """Raise for text with two surrogates that every reader of JSON would join into one character."""
    if isinstance(plain, str):
        if _SURROGATE_PAIR.search(plain):
            raise CodecError(path=path, reason="JSON makes two surrogates in this text one character")
    elif _is_mapping(plain):
        for key, item in plain.items():
            _refuse_pairs(key, path)
            _refuse_pairs(item, f"{path}.{key}")
    elif _is_sequence(plain):
        for index, item in enumerate(plain):
            _refuse_pairs(item, f"{path}[{index}]")


def _in_order(value: Any) -> Any:  # noqa: ANN401 - any value of a user
    """Make each set a list in the order of its items' JSON.

    The rest has the same JSON, but that a struct may show a field that it would omit as a default.
    """
    if _is_set(value):
        return sorted(map(_in_order, value), key=_sort_key)
    if _is_mapping(value):
        return {key: _in_order(item) for key, item in value.items()}
    if _is_sequence(value):
        return [_in_order(item) for item in value]
    if isinstance(value, enum.Enum):
        return _in_order(value.value)
    return _with_fields_in_order(value) if _has_fields(value) else value


def _with_fields_in_order(value: Any) -> Any:  # noqa: ANN401 - a dataclass instance has no type of its own
    # A shallow copy, set from outside: no constructor or `__post_init__` of the user meets a list for its set.
    twin = copy.copy(value)
    for name in _field_names(value):
        item = getattr(value, name, None)
        ordered = _in_order(item)
        if ordered is item:
            continue
        if isinstance(twin, msgspec.Struct):
            msgspec.structs.force_setattr(twin, name, ordered)
        else:
            object.__setattr__(twin, name, ordered)
    return twin


def _sort_key(item: object) -> bytes:
    try:
        return _encode(item)
    except UnicodeEncodeError:
        return _ascii(msgspec.to_builtins(item, str_keys=True))


def _decode_other(payload: bytes, annotation: object) -> Any:  # noqa: ANN401 - the codec's edge: typed by `annotation`
    envelope, data = split(payload)
    if envelope == TEXT:
        plain = json.loads(data, parse_constant=_no_constant)
        return msgspec.convert(plain, annotation, str_keys=True)
    return msgspec.json.decode(data, type=annotation)


def _no_constant(name: str) -> None:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _examine(value: Any, path: str, depth: int) -> bool:  # noqa: ANN401 - any value of a user
    """Raise for what msgspec would silently change or cannot encode; return whether a set is in the value."""
    if depth > DEPTH_MAX:
        raise CodecError(path=path, reason=f"nested deeper than {DEPTH_MAX}")
    has_sets = False
    if _is_mapping(value):
        has_sets = _examine_mapping(value, path, depth)
    elif _is_sequence(value):
        has_sets = _is_set(value)
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                has_sets |= _examine(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, enum.Enum):
        has_sets = _examine(value.value, path, depth + 1)
    elif _has_fields(value):
        for name in _field_names(value):
            has_sets |= _examine(getattr(value, name, None), f"{path}.{name}", depth + 1)
    elif type(value) not in _SCALARS and value is not msgspec.UNSET:
        _refuse_leaf(value, path)
    return has_sets


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, dict)


def _has_fields(value: object) -> bool:
    is_data = dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct)
    return is_data and not isinstance(value, type)


def _is_sequence(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, _SEQUENCES)


def _is_set(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, _SETS)


def _examine_mapping(value: Mapping[Any, Any], path: str, depth: int) -> bool:
    has_sets = False
    seen: set[str] = set()
    for key, item in value.items():
        text = key if isinstance(key, str) else _key_text(key, path)
        if text in seen:
            raise CodecError(path=f"{path}.{text}", reason="two keys are the same text in JSON")
        seen.add(text)
        if type(item) not in _SCALARS:
            has_sets |= _examine(item, f"{path}.{text}", depth + 1)
    return has_sets


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
