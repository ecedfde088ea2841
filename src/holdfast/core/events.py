"""Events: what the outside reports to a run, as past participles. A stale event is legal and means nothing."""

from collections.abc import Mapping

import msgspec

from holdfast.core.entries import NOTHING_SET, Failure


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


Event = StartRequested | AttemptSucceeded | AttemptFailed
