"""Entries: the facts a run's journal keeps, in the past tense. The journal is the only truth.

An entry records every outcome of a decision (next arrivals, names of new branches, delays), so that
`evolve` needs no definition. The field order is the stored format (docs/format.md): new fields go to the end
and have defaults, names and order never change, and an entry with more fields than are known is refused.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

ArrivalKind = Literal["task", "join", "sleep", "wait_signal"]
NOTHING_SET: Mapping[str, bytes] = {}


class Wait(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a branch waits for at a step, decided when it came there.

    Attributes:
        signal: Name of the signal; "" for a sleep.
        for_ms: A sleep's duration, or a wait's time-out, counted from the stamp of the arrival; None for ever.
        until_ms: Instead of it a moment in store time.
    """

    signal: str = ""
    for_ms: int | None = None
    until_ms: int | None = None


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A branch comes to a step: what the journal decided to happen next.

    Attributes:
        branch: Existing or new branch.
        step: Name of a step.
        visit: Which time this branch comes to this step, from 1. Without it, cycles collide.
        kind: What the step does, so that replay needs no definition.
        parent: For a new branch, the branch that started it; else None.
        wait: For kinds `sleep` and `wait_signal`.
    """

    branch: str
    step: str
    visit: int
    kind: ArrivalKind = "task"
    parent: str | None = None
    wait: Wait | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A failure as data (semantics rows 22, 26).

    Attributes:
        type: Class name, or what `WorkflowError(type=...)` said, or `timeout`, `fatal`, ...
        message: Text of the error.
        types: `type` and the names of its base classes: what retry patterns are matched with.
        traceback: Text, "" where there is none.
        details: Encoded payload of `WorkflowError.details`, or None.
        notes: Of the exception.
        cause: The failure it came from, to a depth of 8.
        step: Name of the step, "" where the run itself failed.
    """

    type: str
    message: str
    types: tuple[str, ...] = ()
    traceback: str = ""
    details: bytes | None = None
    notes: tuple[str, ...] = ()
    cause: "Failure | None" = None
    step: str = ""

    def summary(self) -> str:
        """Type, message and step in one line."""
        place = f" in step {self.step!r}" if self.step else ""
        return f"{self.type}{place}: {self.message}"


class RunStarted(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True):
    """The first entry of every run. It is to be over `timeout_ms` after its stamp, pauses left out."""

    workflow: str
    fingerprint: str
    input: bytes
    arrivals: tuple[Arrival, ...]
    timeout_ms: int | None = None


class StepCompleted(
    msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True
):
    """A step is done, in one entry: its output, the variables it set, and what comes next.

    No arrivals: the branch completed here.
    """

    branch: str
    step: str
    visit: int
    attempt: int
    output: bytes
    arrivals: tuple[Arrival, ...]
    sets: Mapping[str, bytes] = NOTHING_SET


class RetryScheduled(
    msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True
):
    """An attempt failed; attempt number `attempt` may start `delay_ms` after this entry's stamp.

    `pattern` names the policy whose budget this retry was counted under.
    """

    branch: str
    step: str
    visit: int
    attempt: int
    delay_ms: int
    pattern: str
    failure: Failure


class BranchJoined(
    msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True
):
    """A waiting branch took the outputs of `joined`, in that order, and goes on."""

    branch: str
    step: str
    visit: int
    joined: tuple[str, ...]
    arrivals: tuple[Arrival, ...]


class RunCompleted(
    msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True
):
    """The run is over; its output is the value of `branch`."""

    branch: str


class RunFailed(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True):
    """The run is over; unfinished branches were cancelled. `branch` is "" where no branch failed."""

    branch: str
    step: str
    visit: int
    attempt: int
    failure: Failure


class SleepEnded(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """A branch has slept; its value is what it was."""

    branch: str
    step: str
    visit: int
    arrivals: tuple[Arrival, ...]


class SignalReceived(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """A waiting branch took message number `seq` out of the inbox, in this very transaction."""

    branch: str
    step: str
    visit: int
    seq: int
    payload: bytes
    arrivals: tuple[Arrival, ...]


class WaitTimedOut(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """No signal came in time, and the branch goes where the workflow says; its value is what it was."""

    branch: str
    step: str
    visit: int
    arrivals: tuple[Arrival, ...]


class Paused(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """No attempt of `branch`, or with "" of any branch, starts until it is unpaused.

    `freezes`: the clocks of its sleeps, waits and retries stand still.
    """

    branch: str
    reason: str
    by: str
    freezes: bool = True


class Unpaused(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The pause of `branch` is over; with "" those of the run and of all its branches."""

    branch: str
    by: str


class RunCancelled(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The run is over because someone wanted it so; unfinished branches were cancelled."""

    reason: str
    by: str


class RunReopened(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """A failed run goes on where it failed: the failed step with new budgets, the others as they were."""

    by: str


Control = Paused | Unpaused | RunCancelled | RunReopened
"""Entries that somebody outside asks for."""

Moved = StepCompleted | BranchJoined | SleepEnded | SignalReceived | WaitTimedOut
"""Entries by which a branch leaves a step."""

Entry = RunStarted | Moved | RetryScheduled | Control | RunCompleted | RunFailed
