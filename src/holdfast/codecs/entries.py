"""Entries to bytes and back: msgpack arrays that begin with the entry's name (docs/format.md)."""

import msgspec

from holdfast.core.children import Awaited, ChildOutcome
from holdfast.core.entries import Entry
from holdfast.errors import FormatError

encode_awaited = msgspec.msgpack.Encoder().encode
"""Turn what waits for a child into the bytes that the child's row keeps."""
_awaited = msgspec.msgpack.Decoder(Awaited)
encode_outcome = msgspec.msgpack.Encoder().encode
"""Turn the outcome of a child into the payload of the message that its parent gets."""
_outcome = msgspec.msgpack.Decoder(ChildOutcome)

encode_entry = msgspec.msgpack.Encoder().encode
"""Turn an entry into the bytes a journal keeps."""
_decoder = msgspec.msgpack.Decoder[Entry](Entry)
_FIX = "run the version of Holdfast that wrote it, or restore it from a backup"


def decode_entry(data: bytes, *, run_id: str, position: int) -> Entry:
    """Turn a journal's bytes back into the entry.

    Raises:
        FormatError: Damaged, unknown or of a newer format; only this run is affected.
    """
    try:
        entry: Entry = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(
            subject=f"entry {position} of run {run_id!r}",
            reason=str(error),
            fix=_FIX,
        ) from error
    return entry


def decode_awaited(data: bytes, *, run_id: str) -> Awaited:
    """What waits for a child, from the child's row; raises `FormatError` as below."""
    try:
        return _awaited.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FormatError(subject=f"row of run {run_id!r}", reason=str(error), fix=_FIX) from error


def decode_outcome(data: bytes, *, run_id: str, seq: int) -> ChildOutcome:
    """The outcome of a child, from message `seq` of a run; raises `FormatError` as below."""
    try:
        return _outcome.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(subject=f"message {seq} of run {run_id!r}", reason=str(error), fix=_FIX) from error
