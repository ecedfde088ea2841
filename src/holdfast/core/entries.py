"""Entries: the facts a run's journal keeps, in the past tense. The journal is the only truth.

An entry records every outcome of a decision (next arrivals, names of new branches, delays), so that
`evolve` needs no definition. The field order is the stored format (docs/format.md): new fields go to the end
and have defaults, names and order never change, and an entry with more fields than are known is refused.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

ArrivalKind = Literal["task", "join", "sleep", "wait_signal"]
OperationKind = Literal["step", "record", "value", "patch", "sleep", "wait_signal", "child", "scopes"]
NOTHING_SET: Mapping[str, bytes] = {}
DELETED = b""
"""In `sets`: the variable is gone. No encoded value is empty."""


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

    `pattern` names the policy whose budget this retry was counted under. `operation` is the key of the one
    whose failure it was, "" for none: it and what followed from it are asked for anew.
    """

    branch: str
    step: str
    visit: int
    attempt: int
    delay_ms: int
    pattern: str
    failure: Failure
    operation: str = ""


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
    """The run is over; unfinished branches were cancelled. `branch` is "" where no branch failed.

    `operation` is the key of the operation whose failure it was: a retry of the run asks for that anew.
    """

    branch: str
    step: str
    visit: int
    attempt: int
    failure: Failure
    operation: str = ""


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


class RunBlocked(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The run cannot go on as its code is now; whatever is recorded next says that it can.

    `code` is for programs: `definition_changed`. `detail` says what was expected and what was found.
    """

    branch: str
    step: str
    visit: int
    code: str
    detail: str


class Child(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A run that another one has started, and whose outcome it waits for."""

    id: str
    workflow: str


class OperationBegun(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The body of a step asked for what takes time: a sleep, a signal, or a child run.

    Attributes:
        key: Names the operation within this visit of the step: `name#n`, after the keys of the parallel work
            that it is part of: `gather#1/0/charge#2`.
        wait: For kinds `sleep` and `wait_signal`.
        child: For kind `child`: it is started in the same transaction.
        sets: Variables that the body has set since the operation before; `DELETED` for one that is gone.
    """

    branch: str
    step: str
    visit: int
    key: str
    kind: OperationKind
    wait: Wait | None = None
    child: Child | None = None
    sets: Mapping[str, bytes] = NOTHING_SET


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What the inbox had of a signal beside name and payload: enough to give it back as it was."""

    seq: int
    id: str
    at_ms: int


class OperationCompleted(
    msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False, forbid_unknown_fields=True
):
    """An operation has this output, whenever the body asks for it. `seq`: the message it came with, or 0.

    `taken`: the signal that it was, where it may be given back: in a part of parallel work, which may lose.
    """

    branch: str
    step: str
    visit: int
    key: str
    kind: OperationKind
    output: bytes
    seq: int = 0
    sets: Mapping[str, bytes] = NOTHING_SET
    taken: Taken | None = None


class OperationFailed(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """An operation has failed for good, whenever the body asks for it. `seq` as for a completed one."""

    branch: str
    step: str
    visit: int
    key: str
    kind: OperationKind
    failure: Failure
    seq: int = 0
    sets: Mapping[str, bytes] = NOTHING_SET


class OperationRetried(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """An attempt of an operation failed; number `attempt` may start `delay_ms` after this entry's stamp."""

    branch: str
    step: str
    visit: int
    key: str
    attempt: int
    delay_ms: int
    pattern: str
    failure: Failure
    sets: Mapping[str, bytes] = NOTHING_SET


class ScopesClosed(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Parallel work of a body has ended before all of it had: `ended` had by then, the rest is cancelled."""

    branch: str
    step: str
    visit: int
    key: str
    ended: tuple[int, ...]


class StepSuspended(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The body of a step waits for nothing but its operations, and was put away until one of them is done."""

    branch: str
    step: str
    visit: int


class Reported(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The body of a step has something to say: `progress` to people, `heartbeat` to its next attempt."""

    branch: str
    step: str
    visit: int
    key: str
    kind: Literal["progress", "heartbeat"]
    payload: bytes


Control = Paused | Unpaused | RunCancelled | RunReopened
"""Entries that somebody outside asks for."""

Moved = StepCompleted | BranchJoined | SleepEnded | SignalReceived | WaitTimedOut
"""Entries by which a branch leaves a step."""

Operated = (
    OperationBegun
    | OperationCompleted
    | OperationFailed
    | OperationRetried
    | ScopesClosed
    | StepSuspended
    | Reported
)
"""Entries about what the body of a step does, while its branch stays there."""

Entry = RunStarted | Moved | Operated | RetryScheduled | Control | RunCompleted | RunFailed | RunBlocked
