"""What a run has to do with other runs: those it has started, and the one that waits for it (semantics row 56).

All of it goes into the transaction of the entries that it follows from.
"""

from collections.abc import Sequence

import msgspec

from holdfast.core.entries import (
    Child,
    Control,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    Paused,
    RunCancelled,
    Unpaused,
)
from holdfast.core.run import Run, Value, place_of, split_place

CANCELLED = "cancelled"
"""Type of the failure that a cancelled child is to the run that waits for it."""
_NOBODY_WAITS = RunCancelled("the run that started it does not wait for it any more", "")


class Awaited(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The operation that waits for a child: what the child's row keeps of it."""

    branch: str
    step: str
    visit: int
    key: str


class ChildOutcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a child has ended, for the operation that waits for it: an encoded output, or a failure."""

    awaited: Awaited
    child: str
    output: bytes | None
    failure: Failure | None


def passed_down(run: Run, after: Run, entries: Sequence[Entry]) -> list[tuple[Child, Control]]:
    """What `entries` mean to children: they are paused with what waits for them, or cancelled with it.

    Args:
        run: The state before.
        after: The state with them.
        entries: What leads from one to the other.
    """
    answered = {
        place_of(entry.branch, entry.key)
        for entry in entries
        if isinstance(entry, OperationCompleted | OperationFailed) and entry.seq
    }
    cancelled = next((entry for entry in entries if isinstance(entry, RunCancelled)), _NOBODY_WAITS)
    pauses = [entry for entry in entries if isinstance(entry, Paused | Unpaused)]
    asked: list[tuple[Child, Control]] = []
    for place, child in run.children.items():
        if place in after.children:
            concerning = {"", split_place(place)[0]}
            meant = [msgspec.structs.replace(each, branch="") for each in pauses if each.branch in concerning]
            asked += [(child, control) for control in meant]
        elif place not in answered:
            asked.append((child, cancelled))
    return asked


def started(after: Run, entries: Sequence[Entry]) -> list[str]:
    """Places of the children that start with `entries`: asked for in them, and still wanted after them."""
    begun = [entry for entry in entries if isinstance(entry, OperationBegun) and entry.child is not None]
    places = [place_of(entry.branch, entry.key) for entry in begun]
    return [place for place in places if place in after.children]


def outcome(after: Run) -> Value | Failure | None:
    """What a run that is over leaves to the one that waits for it: its output, or a failure."""
    if after.status == "failed":
        return after.failure
    if after.cancel is not None:
        why = f": {after.cancel.reason}" if after.cancel.reason else ""
        return Failure(CANCELLED, f"run {after.id!r} was cancelled{why}", (CANCELLED,))
    return after.output
