"""Clocks of branches and of the operations of their steps: which run, which stand still, and what is due."""

from holdfast.core.entries import Arrival
from holdfast.core.run import PENDING, Branch, Operation, Run, is_moment, place_of


def arm(run: Run, branch: Branch) -> None:
    """Count what the branch does by itself: an attempt now, or something when its clock has run out."""
    if branch.status == "active":
        run.active += not run.holds(branch)
    elif branch.due_at_ms is not None and not (branch.status == "backoff" and run.holds(branch)):
        run.timers[branch.id] = branch.due_at_ms


def disarm(run: Run, branch: Branch) -> None:
    """Take back what `arm` has counted."""
    if branch.status == "active":
        run.active -= not run.holds(branch)
    else:
        run.timers.pop(branch.id, None)


def arm_operation(run: Run, branch: Branch, operation: Operation) -> None:
    """The same for an operation that is not done.

    The next attempt of one is made by the body: its time counts only where that is put away until then.
    """
    counts = operation.status != "backoff" or (branch.status == "suspended" and not run.holds(branch))
    if operation.due_at_ms is not None and counts:
        run.timers[place_of(branch.id, operation.key)] = operation.due_at_ms


def disarm_operation(run: Run, branch: Branch, operation: Operation) -> None:
    """Take back what `arm_operation` has counted."""
    run.timers.pop(place_of(branch.id, operation.key), None)


def rearm(run: Run, branch: Branch) -> None:
    """The branch has been put away, or is no more: count its operations anew."""
    for operation in pending(branch):
        disarm_operation(run, branch, operation)
        arm_operation(run, branch, operation)


def pending(branch: Branch) -> list[Operation]:
    """The operations of a branch that are not done."""
    return [each for each in branch.operations.values() if each.status in PENDING]


def is_frozen(run: Run, branch: Branch) -> bool:
    """Whether a pause lets the clocks of the branch stand still."""
    return (run.pause is not None and run.pause.freezes) or (branch.pause is not None and branch.pause.freezes)


def stop_clock(timed: Branch | Operation, at_ms: int) -> None:
    """Keep what is left instead of the due time; a moment that was named as such stays where it is."""
    place: Arrival | Operation | None = timed.at if isinstance(timed, Branch) else timed
    if timed.due_at_ms is not None and not (place is not None and is_moment(place)):
        timed.left_ms, timed.due_at_ms = timed.due_at_ms - at_ms, None


def start_clock(timed: Branch | Operation, at_ms: int) -> None:
    """Let a clock that stands still go on."""
    if timed.left_ms is not None:
        timed.due_at_ms, timed.left_ms = at_ms + timed.left_ms, None
