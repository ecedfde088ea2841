"""Entries to bytes and back: msgpack arrays that begin with the entry's name (docs/format.md)."""

import msgspec

from holdfast.core.entries import Entry
from holdfast.errors import FormatError

encode_entry = msgspec.msgpack.Encoder().encode
"""Turn an entry into the bytes a journal keeps."""
_decoder = msgspec.msgpack.Decoder[Entry](Entry)


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
            fix="run the version of Holdfast that wrote it, or restore the journal from a backup",
        ) from error
    return entry
