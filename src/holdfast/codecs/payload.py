"""The envelope of every stored value: `<codec>.<version>:<data>`, so that a reader knows what it holds.

`json.1:` is strict JSON (UTF-8). `text.1:` is ASCII JSON for the rare value with lone surrogates, which UTF-8
cannot carry. Names of a chain (compress, encrypt) will stand before them, separated by `|`.
"""

from holdfast.errors import FormatError

JSON = b"json.1:"
TEXT = b"text.1:"
PAYLOAD_MAX_BYTES = 2 * 1024 * 1024
"""One encoded value; larger ones belong into a file or object store, with their address as the value."""
_PREFIX_SHOWN_BYTES = 40


def split(payload: bytes) -> tuple[bytes, bytes]:
    """Return (envelope with its colon, data).

    Raises:
        FormatError: No envelope of a known codec and version; the payload is untouched.
    """
    head, colon, data = payload.partition(b":")
    envelope = head + colon
    if envelope not in {JSON, TEXT}:
        raise FormatError(
            subject=f"payload that begins with {payload[:_PREFIX_SHOWN_BYTES]!r}",
            reason="it names no codec of this version",
            fix="read it with the version and the codecs that wrote it",
        )
    return envelope, data
