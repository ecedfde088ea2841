"""Events: what the outside reports to a run, as past participles. A stale event is legal and means nothing."""

from collections.abc import Mapping, Sequence

import msgspec

from holdfast.core.entries import NOTHING_SET, Control, Failure


class StartRequested(msgspec.Struct, frozen=True):
    """Someone wants the run to exist, with this encoded input."""

    input: bytes


class AttemptSucceeded(msgspec.Struct, frozen=True, gc=False):
    """The body of an attempt returned; `sets` are the variables it set."""

    branch: str
    step: str
    visit: int
    attempt: int
    output: bytes
    sets: Mapping[str, bytes] = NOTHING_SET


class AttemptFailed(msgspec.Struct, frozen=True):
    """The body of an attempt raised, timed out or returned what cannot be encoded.

    `chance` in [0, 1) is what the jitter of a retry is made of.
    """

    branch: str
    step: str
    visit: int
    attempt: int
    failure: Failure
    chance: float


class SignalArrived(msgspec.Struct, frozen=True):
    """A signal is in the run's inbox, as number `seq` of its messages."""

    seq: int
    name: str
    payload: bytes


class ControlRequested(msgspec.Struct, frozen=True):
    """Someone wants the run or a branch to be controlled; `wanted` is recorded as it is, where it makes sense.

    `seq` is its number among the run's messages, 0 for what did not come through the inbox.
    """

    seq: int
    wanted: Control


class TimerFired(msgspec.Struct, frozen=True):
    """The sleep or the time-out of a wait is over: the store's clock has reached `due_at_ms`."""

    branch: str
    step: str
    visit: int
    due_at_ms: int


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The run's own time-out is over: the store's clock has reached `due_at_ms`."""

    due_at_ms: int


Event = (
    StartRequested
    | AttemptSucceeded
    | AttemptFailed
    | SignalArrived
    | ControlRequested
    | TimerFired
    | DeadlinePassed
)


def attempted(events: Sequence[Event]) -> list[str]:
    """The branches whose attempts the events are outcomes of."""
    if len(events) == 1 and type(events[0]) is AttemptSucceeded:
        return [events[0].branch]
    return [event.branch for event in events if type(event) is AttemptSucceeded or type(event) is AttemptFailed]
