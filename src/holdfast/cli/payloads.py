"""Recorded facts as plain JSON: payloads as they were written, without the types of any code."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import msgspec

from holdfast.cli.output import encoded
from holdfast.codecs.json import flatten
from holdfast.codecs.payload import JSON, split
from holdfast.core.evolve import replay
from holdfast.core.run import Run
from holdfast.errors import FormatError
from holdfast.runtime.views import JournalEntry


def plain(value: object) -> object:
    """A struct as a mapping by field name, all the way down; payloads become the JSON they hold.

    A payload that cannot be read here becomes `{"encoded": "<base64>"}`.
    """
    if isinstance(value, bytes):
        return _payload(value)
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if _is_mapping(value):
        return {str(name): plain(part) for name, part in value.items()}
    if _is_sequence(value):
        return [plain(part) for part in value]
    return value


def fold(run_id: str, journal: Iterable[JournalEntry]) -> Run:
    """The run as its journal tells it, but for the times."""
    return replay(run_id, ((each.entry, 0) for each in journal))


def output_of(run: Run) -> object:
    """The output of a completed run as it was recorded, None for any other."""
    return None if run.output is None else _payload(flatten(run.output))


def text_of(value: object) -> str:
    """A value that `plain` gave, as compact JSON."""
    return encoded(value).decode()


def _payload(payload: bytes) -> object:
    try:
        envelope, data = split(payload)
        # Checked, because a damaged payload would make the whole document unreadable.
        msgspec.json.decode(data) if envelope == JSON else json.loads(data)
    except (FormatError, ValueError, RecursionError):
        return {"encoded": payload}
    return msgspec.Raw(data)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)
