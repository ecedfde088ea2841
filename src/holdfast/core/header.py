"""The header of a run after entries that are not committed yet: what its row must say with them.

The row changes in the same transaction as the journal, before the store's stamp is known, so the header is
told from the state and the entries. A property test holds it equal to the fold (invariant 4).
"""

import msgspec

from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from holdfast.core.run import Run, RunStatus


class Header(msgspec.Struct, frozen=True, gc=False):
    """Status and due time of a run.

    Attributes:
        due_at_ms: 0 for now, None for never by itself.
        due_in_ms: Counted from the stamp of the commit; the earlier of the two holds.
        completes: Whether a step completes in the entries.
    """

    status: RunStatus
    due_at_ms: int | None = None
    due_in_ms: int | None = None
    completes: bool = False


_NEXT_STEP = Header("running", 0, None, completes=True)
_COMPLETED = Header("completed", completes=True)


def header_after(run: Run, entries: list[Entry]) -> Header:
    """The header of `run` once `entries` are applied to it."""
    often = _often(entries)
    if often is not None:
        return often
    active = run.active
    completes = False
    left: list[str] = []
    due_in: list[int] = []
    for entry in entries:
        match entry:
            case StepCompleted():
                completes = True
                left.append(entry.branch)
                active += _tasks(entry.arrivals) - (entry.branch not in run.backoffs)
            case BranchJoined() | RunStarted():
                active += _tasks(entry.arrivals)
            case RetryScheduled():
                left.append(entry.branch)
                due_in.append(entry.delay_ms)
                active -= entry.branch not in run.backoffs
            case RunCompleted():
                return Header("completed", completes=completes)
            case RunFailed():
                return Header("failed", completes=completes)
    if active:
        return Header("running", 0, None, completes)
    waiting = [due for branch, due in run.backoffs.items() if branch not in left]
    return Header("suspended", min(waiting, default=None), min(due_in, default=None), completes)


def _often(entries: list[Entry]) -> Header | None:
    """Most commits by far: a branch goes on, or the only one ends."""
    if entries and type(entries[0]) is StepCompleted:
        if len(entries) == 1:
            arrivals = entries[0].arrivals
            return _NEXT_STEP if len(arrivals) == 1 and arrivals[0].kind == "task" else None
        return _COMPLETED if type(entries[1]) is RunCompleted else None
    return None


def _tasks(arrivals: tuple[Arrival, ...]) -> int:
    count = 0
    for arrival in arrivals:
        count += arrival.kind == "task"
    return count
