"""What must happen next: effects that follow from the state alone."""

from collections.abc import Iterable, Sequence

from holdfast.core.clocks import pending
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    BranchJoined,
    Entry,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RetryScheduled,
    ScopesClosed,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    WaitTimedOut,
)
from holdfast.core.events import DeadlinePassed, Event, TimerFired
from holdfast.core.run import ATTEMPTING, OPEN, OWING, PENDING, Branch, Operation, Run, place_of, split_place


def owed(run: Run) -> list[Effect]:
    """Everything that must happen next; nothing once the run is over.

    Recovery is `replay` and then this; `owed_after` is the part of it that a commit has changed.
    """
    if run.is_over:
        return []
    effects = _of_all(run, run.branches.values())
    if run.deadline_ms is not None:
        effects.append(ArmTimer("", run.deadline_ms, DeadlinePassed(run.deadline_ms)))
    return effects


def passed(run: Run, now_ms: int) -> list[Event]:
    """What clocks say that have run out by now, before a worker that takes the run over does anything else.

    Where the run's own has, the others do not count. Where attempts are owed, they begin before the wait of
    another branch can end the run.
    """
    if run.deadline_ms is not None and run.deadline_ms <= now_ms:
        return [DeadlinePassed(run.deadline_ms)]
    if run.active:
        return []
    due = [place for place, due_at_ms in run.timers.items() if due_at_ms <= now_ms]
    timers = [effect for effect in (_owed_at(run, place) for place in due) if isinstance(effect, ArmTimer)]
    return [timer.then for timer in timers if not isinstance(timer.then, StartAttempt)]


def may_begin(run: Run, effect: StartAttempt) -> bool:
    """Whether an attempt that was owed some time ago still is."""
    branch = run.branches[effect.branch]
    at = branch.at
    if at is None or branch.status not in ATTEMPTING or run.holds(branch):
        return False
    return effect == StartAttempt(branch.id, at.step, at.visit, branch.attempt)


def owed_by_operation(run: Run, branch: Branch, operation: Operation) -> ArmTimer | None:
    """What an operation owes when its clock has run out, or None without one."""
    at, due_at_ms, key = branch.at, operation.due_at_ms, operation.key
    if at is None or due_at_ms is None or branch.status not in OPEN or operation.status not in PENDING:
        return None
    if operation.status != "backoff":
        then = TimerFired(branch.id, at.step, at.visit, due_at_ms, key)
        return ArmTimer(branch.id, due_at_ms, then, key)
    if branch.status != "suspended" or run.holds(branch):
        return None
    return ArmTimer(branch.id, due_at_ms, StartAttempt(branch.id, at.step, at.visit, branch.attempt), key)


def _owed_at(run: Run, place: str) -> Effect | None:
    name, key = split_place(place)
    branch = run.branches[name]
    return owed_by_operation(run, branch, branch.operations[key]) if key else owed_by(run, branch)


def _of_all(run: Run, branches: Iterable[Branch]) -> list[Effect]:
    found: list[Effect | None] = []
    for branch in branches:
        found.append(owed_by(run, branch))
        if branch.operations:
            found += [owed_by_operation(run, branch, each) for each in pending(branch)]
    return [effect for effect in found if effect is not None]


def owed_by(run: Run, branch: Branch) -> Effect | None:
    """What one branch owes, or None while it waits for others, is paused, or is over."""
    at, due_at_ms = branch.at, branch.due_at_ms
    if at is None or branch.status not in OPEN or (branch.status in OWING and run.holds(branch)):
        return None
    start = StartAttempt(branch.id, at.step, at.visit, branch.attempt)
    if branch.status == "active":
        return start
    if due_at_ms is None:
        return None
    if branch.status == "backoff":
        return ArmTimer(branch.id, due_at_ms, start)
    return ArmTimer(branch.id, due_at_ms, TimerFired(branch.id, at.step, at.visit, due_at_ms))


def owed_after(run: Run, entries: Sequence[Entry]) -> list[Effect]:
    """What `entries`, applied just now, have made possible; after rare ones, all that is owed."""
    moved: list[str] = []
    timed: list[str] = []
    for entry in entries:
        match entry:
            case StepCompleted() | BranchJoined() | SleepEnded() | SignalReceived() | WaitTimedOut():
                moved += [arrival.branch for arrival in entry.arrivals]
            case OperationBegun() | OperationRetried():
                timed.append(place_of(entry.branch, entry.key))
            case Reported() | ScopesClosed():
                pass
            case RetryScheduled() | OperationCompleted() | OperationFailed():
                moved.append(entry.branch)
            case _:
                return owed(run)
    # A branch may have come to a join and left it in the same commit, and an operation begun and ended.
    effects = [owed_by(run, run.branches[name]) for name in dict.fromkeys(moved)]
    effects += [_owed_at(run, place) for place in timed if place in run.timers]
    return [effect for effect in effects if effect is not None]
