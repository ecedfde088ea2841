"""Events: what the outside reports to a run, as past participles. A stale event is legal and means nothing."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from holdfast.core.entries import NOTHING_SET, Child, Control, Failure, OperationKind, Wait
from holdfast.definition.policies import Retry


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

    `chance` in [0, 1) is what the jitter of a retry is made of. `operation` is the key of the operation whose
    failure the body let pass, or "".
    """

    branch: str
    step: str
    visit: int
    attempt: int
    failure: Failure
    chance: float
    operation: str = ""


class AttemptSuspended(msgspec.Struct, frozen=True):
    """The body of an attempt was put away: it waits for these operations, or with none it was told to stop."""

    branch: str
    step: str
    visit: int
    attempt: int
    awaited: tuple[str, ...]


class AttemptDiverged(msgspec.Struct, frozen=True):
    """The body of an attempt asked for something else than is recorded."""

    branch: str
    step: str
    visit: int
    attempt: int
    expected: str
    found: str


class OperationRequested(msgspec.Struct, frozen=True):
    """A body asks for what takes time; see `OperationBegun`."""

    branch: str
    step: str
    visit: int
    attempt: int
    key: str
    kind: OperationKind
    wait: Wait | None = None
    child: Child | None = None
    sets: Mapping[str, bytes] = NOTHING_SET


class OperationSucceeded(msgspec.Struct, frozen=True, gc=False):
    """Something that a body asked for is done, with this output."""

    branch: str
    step: str
    visit: int
    attempt: int
    key: str
    kind: OperationKind
    output: bytes
    sets: Mapping[str, bytes] = NOTHING_SET


class OperationRaised(msgspec.Struct, frozen=True):
    """An attempt of a step that a body asked for has failed; `retry` and `chance` say when to try again."""

    branch: str
    step: str
    visit: int
    attempt: int
    key: str
    kind: OperationKind
    failure: Failure
    retry: tuple[Retry, ...]
    chance: float
    sets: Mapping[str, bytes] = NOTHING_SET


class ScopesEnded(msgspec.Struct, frozen=True):
    """Parallel work of a body is over before all of it has ended; see `ScopesClosed`."""

    branch: str
    step: str
    visit: int
    attempt: int
    key: str
    ended: tuple[int, ...]


class BodyReported(msgspec.Struct, frozen=True):
    """A body has something to say; see `Reported`."""

    branch: str
    step: str
    visit: int
    attempt: int
    key: str
    kind: Literal["progress", "heartbeat"]
    payload: bytes


class ChildEnded(msgspec.Struct, frozen=True):
    """A child run is over; its outcome is message `seq` of the inbox. Either `output` or `failure` is given."""

    seq: int
    branch: str
    step: str
    visit: int
    key: str
    child: str
    output: bytes | None
    failure: Failure | None


class SignalArrived(msgspec.Struct, frozen=True):
    """A signal is in the run's inbox since `at_ms`, as number `seq` of its messages."""

    seq: int
    name: str
    payload: bytes
    id: str = ""
    at_ms: int = 0


class ControlRequested(msgspec.Struct, frozen=True):
    """Someone wants the run or a branch to be controlled; `wanted` is recorded as it is, where it makes sense.

    `seq` is its number among the run's messages, 0 for what did not come through the inbox.
    """

    seq: int
    wanted: Control


class TimerFired(msgspec.Struct, frozen=True):
    """The sleep or the time-out of a wait is over: the store's clock has reached `due_at_ms`.

    `key` is that of the operation whose clock it is, "" for the branch's own.
    """

    branch: str
    step: str
    visit: int
    due_at_ms: int
    key: str = ""


class CompletionRefused(msgspec.Struct, frozen=True):
    """The run may not complete: what was to be started with its completion cannot be told."""

    failure: Failure


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The run's own time-out is over: the store's clock has reached `due_at_ms`."""

    due_at_ms: int


AttemptEnded = AttemptSucceeded | AttemptFailed | AttemptSuspended | AttemptDiverged
"""What an attempt reports last."""

Operating = OperationRequested | OperationSucceeded | OperationRaised | ScopesEnded | BodyReported
"""What a body asks for, or reports, while it runs."""

Event = (
    StartRequested
    | AttemptEnded
    | Operating
    | ChildEnded
    | SignalArrived
    | ControlRequested
    | TimerFired
    | DeadlinePassed
    | CompletionRefused
)


def attempted(events: Sequence[Event]) -> list[str]:
    """The branches whose attempts the events are outcomes of."""
    if len(events) == 1 and type(events[0]) is AttemptSucceeded:
        return [events[0].branch]
    return [event.branch for event in events if isinstance(event, AttemptEnded)]
