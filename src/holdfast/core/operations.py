"""What the body of a step asks for while it runs (semantics section 6, row 56).

attempting          --(OperationRequested)-->                the operation is pending: OperationBegun
attempting          --(OperationSucceeded)-->                it is done: OperationCompleted
attempting          --(OperationRaised, a policy has budget)-->  its next attempt is owed: OperationRetried
attempting          --(OperationRaised, none has)-->         it is done: OperationFailed
attempting          --(ScopesEnded)-->                       what has not ended is cancelled: ScopesClosed
attempting          --(BodyReported)-->                      the same: Reported
attempting          --(AttemptSuspended, all pending)-->     suspended: StepSuspended
attempting          --(AttemptDiverged)-->                   the run is blocked: RunBlocked
operation sleeping  --(TimerFired)-->                        done: OperationCompleted
operation waiting   --(SignalArrived)-->                     done: OperationCompleted
operation waiting   --(TimerFired)-->                        done: OperationFailed
operation child     --(ChildEnded)-->                        done: OperationCompleted, or OperationFailed
any other           --(any of them)-->                       unchanged, the event is stale
"""

from holdfast.core.entries import (
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RunBlocked,
    ScopesClosed,
    StepSuspended,
    Taken,
)
from holdfast.core.events import (
    AttemptDiverged,
    AttemptSuspended,
    BodyReported,
    ChildEnded,
    Operating,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
    ScopesEnded,
    SignalArrived,
    TimerFired,
)
from holdfast.core.operated import is_closed, is_lost, within
from holdfast.core.retries import next_retry
from holdfast.core.run import OPEN, PENDING, SCOPE, Branch, Operation, is_moment, place_of, split_place
from holdfast.core.turn import Turn
from holdfast.definition.policies import TIMEOUT

DEFINITION_CHANGED = "definition_changed"
NOTHING = b""
"""The output of a sleep, which gives nothing."""


def operating(turn: Turn, event: Operating) -> None:
    """Record what a body that runs asks for or reports."""
    branch = turn.current(event)
    if branch is None or _is_gone(turn, branch, event.key):
        return
    at = (event.branch, event.step, event.visit)
    known = branch.operations.get(event.key)
    match event:
        case OperationSucceeded() | OperationRaised():
            # A body may also cut off what it waits for, and then that has failed.
            can_end = {"backoff"} if isinstance(event, OperationSucceeded) else PENDING
            if known is None or known.status in can_end:
                _attempted(turn, event, known)
        case BodyReported():
            if not event.key or known is None or known.status in PENDING:
                turn.entries.append(Reported(*at, event.key, event.kind, event.payload))
        case OperationRequested() if known is None:
            begun = OperationBegun(*at, event.key, event.kind, event.wait, event.child, event.sets)
            turn.entries.append(begun)
        case ScopesEnded() if known is None:
            turn.move(branch, within(branch, event.key, event.ended))
            turn.entries = [each for each in turn.entries if not _is_in_vain(each, event)]
            turn.entries.append(ScopesClosed(*at, event.key, event.ended))
        case _:
            pass


def attempt_suspended(turn: Turn, event: AttemptSuspended) -> None:
    """Record that a body waits; not if what it waits for has come, and not if it was only told to stop."""
    branch = turn.current(event)
    if branch is None or branch.status == "suspended" or not event.awaited:
        return
    for key in event.awaited:
        operation = branch.operations.get(key)
        moved = place_of(branch.id, key) in turn.moved
        if operation is None or operation.status not in PENDING or moved:
            return
    turn.entries.append(StepSuspended(event.branch, event.step, event.visit))


def attempt_diverged(turn: Turn, event: AttemptDiverged) -> None:
    """Block the run: somebody must bring back the code that its journal was made with."""
    if turn.current(event) is None:
        return
    detail = (
        f"step {event.step!r} of branch {event.branch!r} expected {event.expected}, and found {event.found}: "
        "its code has changed since that was recorded"
    )
    turn.entries.append(RunBlocked(event.branch, event.step, event.visit, DEFINITION_CHANGED, detail))
    turn.over = True


def signal_arrived(turn: Turn, place: str, event: SignalArrived) -> None:
    """Give the signal to the operation that has waited longest for it."""
    branch = turn.run.branches[split_place(place)[0]]
    if branch.at is not None:
        at = (branch.id, branch.at.step, branch.at.visit)
        key = split_place(place)[1]
        taken = Taken(event.seq, event.id, event.at_ms) if SCOPE in key else None
        turn.entries.append(OperationCompleted(*at, key, "wait_signal", event.payload, event.seq, taken=taken))


def timer_fired(turn: Turn, event: TimerFired) -> None:
    """End a sleep, or a wait without its signal; not if its clock says something else by now."""
    branch = turn.run.branches.get(event.branch)
    operation = None if branch is None else branch.operations.get(event.key)
    place = place_of(event.branch, event.key)
    if branch is None or operation is None or operation.due_at_ms != event.due_at_ms or place in turn.moved:
        return
    at = (event.branch, event.step, event.visit)
    if not _is_there(branch, event) or (turn.has_stopped(branch.id) and not is_moment(operation)):
        return
    if operation.status == "sleeping":
        turn.move(branch, [operation])
        turn.entries.append(OperationCompleted(*at, event.key, "sleep", NOTHING))
    elif operation.status == "waiting":
        turn.move(branch, [operation])
        signal = turn.run.waits[place]
        failure = Failure(TIMEOUT, f"no signal {signal!r} came in time", (TIMEOUT, TimeoutError.__name__))
        turn.entries.append(OperationFailed(*at, event.key, "wait_signal", failure))


def child_ended(turn: Turn, event: ChildEnded) -> None:
    """Give the outcome of a child run to the operation that has started it; nobody else may have it."""
    branch = turn.run.branches.get(event.branch)
    operation = None if branch is None else branch.operations.get(event.key)
    if branch is None or operation is None or operation.child is None or not _is_there(branch, event):
        return
    is_awaited = operation.status == "child" and place_of(branch.id, event.key) not in turn.moved
    if not is_awaited or operation.child.id != event.child:
        return
    at = (event.branch, event.step, event.visit)
    turn.move(branch, [operation])
    if event.failure is None:
        output = NOTHING if event.output is None else event.output
        turn.entries.append(OperationCompleted(*at, event.key, "child", output, event.seq))
    else:
        turn.entries.append(OperationFailed(*at, event.key, "child", event.failure, event.seq))


def _attempted(turn: Turn, event: OperationSucceeded | OperationRaised, known: Operation | None) -> None:
    at = (event.branch, event.step, event.visit, event.key)
    if known is not None:
        turn.moved += (place_of(event.branch, event.key),)
    if isinstance(event, OperationSucceeded):
        turn.entries.append(OperationCompleted(*at, event.kind, event.output, 0, event.sets))
        return
    failure, attempt = event.failure, 1 if known is None else known.attempt
    # What a body cuts off is tried again by nobody.
    policies = event.retry if known is None or known.status == "backoff" else ()
    retry = next_retry(policies, failure, {} if known is None else known.budgets, event.chance)
    if retry is None:
        turn.entries.append(OperationFailed(*at, event.kind, failure, 0, event.sets))
        return
    turn.entries.append(OperationRetried(*at, attempt + 1, retry.delay_ms, retry.pattern, failure, event.sets))


def _is_there(branch: Branch, event: TimerFired | ChildEnded) -> bool:
    at = branch.at
    is_open = at is not None and branch.status in OPEN
    return is_open and at is not None and (at.step, at.visit) == (event.step, event.visit)


def _is_in_vain(entry: Entry, event: ScopesEnded) -> bool:
    """Whether a signal was received in this very turn by a part that has lost: it stays where it is."""
    if not isinstance(entry, OperationCompleted) or entry.taken is None:
        return False
    return entry.branch == event.branch and is_lost(entry.key, event.key, event.ended)


def _is_gone(turn: Turn, branch: Branch, key: str) -> bool:
    """Whether the operation is done, or of parallel work that was cancelled, before or in this turn."""
    if place_of(branch.id, key) in turn.moved:
        return True
    if SCOPE not in key:
        return False
    mine = [each for each in turn.entries if isinstance(each, ScopesClosed) and each.branch == branch.id]
    return is_closed(branch, key, {entry.key: entry.ended for entry in mine})
