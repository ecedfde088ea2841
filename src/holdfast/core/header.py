"""The header of a run after entries that are not committed yet: what its row must say with them.

The row changes in the same transaction as the journal, before the store's stamp is known. So the entries are
applied to a copy at a stamp that stands for itself: due times at or above it are counted from the real one.
"""

import copy
import math
from collections.abc import Iterable, Sequence

import msgspec

from holdfast.core.clocks import pending
from holdfast.core.entries import (
    Arrival,
    Entry,
    Moved,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RetryScheduled,
    RunCompleted,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    StepSuspended,
    WaitTimedOut,
)
from holdfast.core.evolve import evolve
from holdfast.core.run import NO_OPERATIONS, Branch, Run, RunStatus

_STAMP = 2**60
"""Later than any instant, and so far from all of them that no duration leads from one side to the other."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """Status and due time of a run.

    Attributes:
        due_at_ms: 0 for now, None for never by itself.
        due_in_ms: Counted from the stamp of the commit; the earlier of the two holds.
        completes: Whether a step completes in the entries.
        times_out: Whether they say that a signal did not come in time.
    """

    status: RunStatus
    due_at_ms: int | None = None
    due_in_ms: int | None = None
    completes: bool = False
    times_out: bool = False

    def wait_ms(self, now_ms: int) -> float:
        """How long nothing is due; infinite where nothing ever is by itself."""
        at = math.inf if self.due_at_ms is None else self.due_at_ms - now_ms
        return min(at, math.inf if self.due_in_ms is None else self.due_in_ms)


_MOVES = (StepCompleted, SleepEnded, SignalReceived)
_COMPLETES = (*_MOVES, OperationCompleted, OperationFailed)
_ONGOING = (OperationBegun, OperationCompleted, OperationRetried, Reported)
_OPERATING = frozenset({"active", "suspended"})
_NEXT_STEP = Header("running", 0, None, completes=True)
_FIRST_STEP = Header("running", 0)
_COMPLETED = Header("completed", completes=True)


def header_after(run: Run, entries: Sequence[Entry]) -> Header:
    """The header of `run` once `entries` are applied to it."""
    often = _often(run, entries)
    if often is not None:
        return often
    after = run_after(run, entries)
    times_out = any(_times_out(entry) for entry in entries)
    completes = times_out or any(isinstance(entry, _COMPLETES) for entry in entries)
    if after.blocked is not None:
        return Header("blocked", None, None, completes, times_out)
    if after.is_over or after.active:
        return Header(after.status, 0 if after.active else None, None, completes, times_out)
    dues = after.dues()
    absolute = min((due for due in dues if due < _STAMP // 2), default=None)
    relative = min((due - _STAMP for due in dues if due >= _STAMP // 2), default=None)
    return Header(after.status, absolute, relative, completes, times_out)


def run_after(run: Run, entries: Sequence[Entry]) -> Run:
    """A copy of `run` with `entries` applied at a stamp that stands for itself; itself where there are none."""
    if not entries:
        return run
    after = _copied(run, entries)
    for entry in entries:
        evolve(after, entry, _STAMP)
    return after


def _times_out(entry: Entry) -> bool:
    return isinstance(entry, WaitTimedOut) or (
        isinstance(entry, OperationFailed) and entry.kind == "wait_signal"
    )


def _often(run: Run, entries: Sequence[Entry]) -> Header | None:
    """Most commits by far: a branch goes on, the only one ends, a run starts, or a body operates."""
    if not entries:
        return None
    first = entries[0]
    if isinstance(first, _MOVES):
        if len(entries) == 1 and run.pause is None and not run.paused:
            return _NEXT_STEP if _is_task(first.arrivals) else None
        if len(entries) > 1 and type(entries[1]) is RunCompleted:
            return _COMPLETED
    elif type(first) is RunStarted and len(entries) == 1 and _is_task(first.arrivals):
        return _FIRST_STEP
    elif isinstance(first, _ONGOING) and run.pause is None and not run.paused:
        return _operating(run, entries)
    return None


def _operating(run: Run, entries: Sequence[Entry]) -> Header | None:
    """Whoever makes an attempt goes on with what operations gave, or asks for the next ones."""
    completes = False
    for entry in entries:
        if not isinstance(entry, _ONGOING) or run.branches[entry.branch].status not in _OPERATING:
            return None
        completes |= type(entry) is OperationCompleted
    return _NEXT_STEP if completes else _FIRST_STEP


def _is_task(arrivals: tuple[Arrival, ...]) -> bool:
    return len(arrivals) == 1 and arrivals[0].kind == "task"


def _copied(run: Run, entries: Sequence[Entry]) -> Run:
    """A copy that `entries` can be applied to; branches that none of them concerns are shared."""
    after = copy.copy(run)
    after.branches = dict(run.branches)
    after.joining, after.waits, after.timers = dict(run.joining), dict(run.waits), dict(run.timers)
    after.children = dict(run.children)
    for name in _concerned(run, entries):
        branch = after.branches.get(name)
        if branch is not None:
            branch = after.branches[name] = copy.copy(branch)
            branch.variables, branch.visits = dict(branch.variables), dict(branch.visits)
            branch.budgets = dict(branch.budgets)
            if branch.operations is not NO_OPERATIONS:
                _copy_operations(branch, entries)
    return after


def _copy_operations(branch: Branch, entries: Sequence[Entry]) -> None:
    """Only those that an entry names can change, and by what is more than that those that are not done."""
    branch.operations = dict(branch.operations)
    named = {each.key for each in entries if isinstance(each, Operated) and not isinstance(each, StepSuspended)}
    changing = named & branch.operations.keys()
    if not all(isinstance(each, _ONGOING) for each in entries):
        changing |= {each.key for each in pending(branch)}
    for key in changing:
        operation = branch.operations[key] = copy.copy(branch.operations[key])
        operation.budgets = dict(operation.budgets)


def _concerned(run: Run, entries: Sequence[Entry]) -> Iterable[str]:
    names: set[str] = set()
    for entry in entries:
        if isinstance(entry, RetryScheduled | Operated):
            names.add(entry.branch)
        elif isinstance(entry, Moved):
            names.add(entry.branch)
            names.update(arrival.branch for arrival in entry.arrivals)
        elif not isinstance(entry, RunStarted | RunCompleted):
            return run.branches
    return names
