"""What must happen next: effects that follow from the state alone."""

from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    BranchJoined,
    Entry,
    RetryScheduled,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    WaitTimedOut,
)
from holdfast.core.events import DeadlinePassed, Event, TimerFired
from holdfast.core.run import OPEN, OWING, Branch, Run


def owed(run: Run) -> list[Effect]:
    """Everything that must happen next; nothing once the run is over.

    Recovery is `replay` and then this; `owed_after` is the part of it that a commit has changed.
    """
    if run.is_over:
        return []
    found = [owed_by(run, branch) for branch in run.branches.values()]
    effects = [effect for effect in found if effect is not None]
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
    due = [run.branches[name] for name, due_at_ms in run.timers.items() if due_at_ms <= now_ms]
    timers = [effect for effect in (owed_by(run, branch) for branch in due) if isinstance(effect, ArmTimer)]
    return [timer.then for timer in timers if not isinstance(timer.then, StartAttempt)]


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


def owed_after(run: Run, entries: list[Entry]) -> list[Effect]:
    """What `entries`, applied just now, have made possible; after rare ones, all that is owed."""
    if len(entries) == 1 and run.pause is None and not run.paused:
        entry = entries[0]
        if type(entry) is StepCompleted and len(entry.arrivals) == 1:
            at = entry.arrivals[0]
            if at.kind == "task":
                return [StartAttempt(at.branch, at.step, at.visit, 1)]
    moved: list[str] = []
    for entry in entries:
        match entry:
            case StepCompleted() | BranchJoined() | SleepEnded() | SignalReceived() | WaitTimedOut():
                moved += [arrival.branch for arrival in entry.arrivals]
            case RetryScheduled():
                moved.append(entry.branch)
            case _:
                return owed(run)
    # A branch may have come to a join and left it in the same commit.
    effects = [owed_by(run, run.branches[name]) for name in dict.fromkeys(moved)]
    return [effect for effect in effects if effect is not None]
