"""Entries: the facts a run's journal keeps, in the past tense. The journal is the only truth.

An entry records every outcome of a decision (next arrivals, names of new branches, delays), so that
`evolve` needs no definition. The field order is the stored format (docs/format.md): new fields go to the end
and have defaults, names and order never change, and an entry with more fields than are known is refused.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

ArrivalKind = Literal["task", "join"]
NOTHING_SET: Mapping[str, bytes] = {}


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A branch comes to a step: what the journal decided to happen next.

    Attributes:
        branch: Existing or new branch.
        step: Name of a task or join step.
        visit: Which time this branch comes to this step, from 1. Without it, cycles collide.
        kind: What the step does, so that replay needs no definition.
        parent: For a new branch, the branch that started it; else None.
    """

    branch: str
    step: str
    visit: int
    kind: ArrivalKind = "task"
    parent: str | None = None


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
    """The first entry of every run."""

    workflow: str
    fingerprint: str
    input: bytes
    arrivals: tuple[Arrival, ...]


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


Entry = RunStarted | StepCompleted | RetryScheduled | BranchJoined | RunCompleted | RunFailed
