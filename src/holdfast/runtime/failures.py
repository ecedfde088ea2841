"""Exceptions as data: what of an error a journal keeps (semantics rows 22, 26)."""

import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.entries import Failure
from holdfast.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
)
from holdfast.definition.policies import FATAL, TIMEOUT
from holdfast.errors import CodecError, HoldfastError, OperationError, WorkflowError
from holdfast.runtime.limits import CAUSES_MAX, TRACEBACK_CHARACTERS_MAX

_ROOTS = frozenset({"BaseException", "Exception", "object"})


def from_exception(error: BaseException, step: str, depth: int = 0) -> Failure:
    """Type, message, notes, traceback text and causes of an exception raised in `step`.

    The failure of an operation that a body lets pass is that of its step.
    """
    if isinstance(error, OperationError):
        failure: Failure = error.failure
        return msgspec.structs.replace(failure, step=step, notes=(*failure.notes, f"of {error.operation}"))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    bases = tuple(base.__name__ for base in type(error).__mro__ if base.__name__ not in _ROOTS)
    name, details = type(error).__name__, None
    if isinstance(error, WorkflowError):
        # A subclass may have skipped our constructor, and nothing checks what a caller gives as the type.
        name = _text(getattr(error, "type", name))
        details = _details(getattr(error, "details", None))
    if isinstance(error, CodecError):
        # The same value will not fit the next time either: `all` does not try again.
        bases += (FATAL,)
    return Failure(
        type=name,
        message=_text(error),
        types=(name, *(base for base in bases if base != name)),
        traceback=_traceback(error),
        details=details,
        notes=tuple(_text(note) for note in _notes(error)),
        cause=None if cause is None or depth >= CAUSES_MAX else from_exception(cause, "", depth + 1),
        step=step,
    )


def culprit(error: BaseException) -> str:
    """Key of the operation whose failure an exception is, or came from; "" for none."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        if isinstance(found, OperationError):
            return found.operation
        seen.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return ""


def timed_out(step: str, timeout_s: float) -> Failure:
    """An attempt that was not done in time."""
    message = f"the attempt was not done after {timeout_s:g} s"
    return Failure(TIMEOUT, message, (TIMEOUT, TimeoutError.__name__), step=step)


def all_refused(events: Iterable[Event], error: HoldfastError) -> list[Event]:
    """What becomes of events that the store can never hold; nothing where none of them has what a user gave."""
    refused = [(event, _refused(event, error)) for event in events]
    return [after for _, after in refused] if any(after is not event for event, after in refused) else []


def _refused(event: Event, error: HoldfastError) -> Event:
    """A failure where a user's code gave something; trying again would not help."""
    kind = type(error).__name__
    match event:
        case AttemptSucceeded():
            failure = Failure(kind, str(error), (kind, FATAL), step=event.step)
            return AttemptFailed(event.branch, event.step, event.visit, event.attempt, failure, 0.0)
        case OperationSucceeded() | OperationRequested():
            failure = Failure(kind, str(error), (kind, FATAL), step=event.step)
            at = (event.branch, event.step, event.visit, event.attempt)
            return OperationRaised(*at, event.key, event.kind, failure, (), 0.0)
        case _:
            return event


def _own_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame that is not the engine's."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__package__") == __package__:
        frame = frame.tb_next
    return frame


def _traceback(error: BaseException) -> str:
    frames = traceback.extract_tb(_own_frames(error))
    lines = [*traceback.format_list(frames), f"{type(error).__name__}: {_text(error)}\n"]
    lines += [f"{_text(note)}\n" for note in _notes(error)]
    return _printable("Traceback (most recent call last):\n" + "".join(lines))[-TRACEBACK_CHARACTERS_MAX:]


def _notes(error: BaseException) -> list[object]:
    notes: Any = getattr(error, "__notes__", ())
    return list(notes) if isinstance(notes, list | tuple) else [notes]  # pyright: ignore[reportUnknownArgumentType] - anything


def _details(details: object) -> bytes | None:
    if details is None:
        return None
    try:
        return codec.encode(details)
    except CodecError as refused:
        return codec.encode(f"details that cannot be encoded: {refused}")


def _text(thing: object) -> str:
    """The thing as text, whatever its own `__str__` does."""
    try:
        return _printable(str(thing))
    except Exception as error:  # noqa: BLE001 - an error that cannot even be printed is still a failure
        return f"<{type(thing).__name__} whose text raises {type(error).__name__}>"


def _printable(text: str) -> str:
    """The text with lone surrogates replaced: entries are UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
