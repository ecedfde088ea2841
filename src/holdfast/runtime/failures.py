"""Exceptions as data: what of an error a journal keeps (semantics rows 22, 26)."""

import traceback
from types import TracebackType

from holdfast.codecs import json as codec
from holdfast.core.entries import Failure
from holdfast.definition.policies import FATAL, TIMEOUT
from holdfast.errors import CodecError, WorkflowError
from holdfast.runtime.limits import CAUSES_MAX, TRACEBACK_CHARACTERS_MAX

_ROOTS = frozenset({"BaseException", "Exception", "object"})


def from_exception(error: BaseException, step: str, depth: int = 0) -> Failure:
    """Type, message, notes, traceback text and causes of an exception raised in `step`."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    bases = tuple(base.__name__ for base in type(error).__mro__ if base.__name__ not in _ROOTS)
    name, details = type(error).__name__, None
    if isinstance(error, WorkflowError):
        name, details = error.type, _details(error)
    frames = traceback.TracebackException(type(error), error, _own_frames(error), compact=True)
    text = "".join(frames.format(chain=False))
    if isinstance(error, CodecError):
        # The same value will not fit the next time either: `all` does not try again.
        bases += (FATAL,)
    return Failure(
        type=name,
        message=_printable(str(error)),
        types=(name, *(base for base in bases if base != name)),
        traceback=_printable(text[-TRACEBACK_CHARACTERS_MAX:]),
        details=details,
        notes=tuple(_printable(str(note)) for note in getattr(error, "__notes__", ())),
        cause=None if cause is None or depth >= CAUSES_MAX else from_exception(cause, "", depth + 1),
        step=step,
    )


def timed_out(step: str, timeout_s: float) -> Failure:
    """An attempt that was not done in time."""
    message = f"the attempt was not done after {timeout_s:g} s"
    return Failure(TIMEOUT, message, (TIMEOUT,), step=step)


def _own_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame that is not the engine's."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__package__") == __package__:
        frame = frame.tb_next
    return frame


def _details(error: WorkflowError) -> bytes | None:
    if error.details is None:
        return None
    try:
        return codec.encode(error.details)
    except CodecError as refused:
        return codec.encode(f"details that cannot be encoded: {refused}")


def _printable(text: str) -> str:
    """The text with lone surrogates replaced: entries are UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
