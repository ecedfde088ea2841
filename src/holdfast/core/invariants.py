"""What is true of every run, whatever was recorded: for tests, the simulator and crash checks."""

from holdfast.core.clocks import pending
from holdfast.core.run import ATTEMPTING, OPEN, Branch, Operation, Run, place_of, split_place


def check(run: Run) -> list[str]:
    """List what is wrong with the state; an empty list is the only right answer."""
    branches = list(run.branches.values())
    still_open = [b for b in branches if b.status in OPEN]
    active = [b for b in still_open if b.status == "active" and not run.holds(b)]
    joining = [b.id for b in still_open if b.status == "joining"]
    waits = {b.id: b.at.wait.signal for b in still_open if b.status == "waiting" and b.at and b.at.wait}
    asked = {place_of(b.id, each.key): each for b in still_open for each in pending(b)}
    waits |= {
        place: each.wait.signal for place, each in asked.items() if each.status == "waiting" and each.wait
    }
    timers = {b.id: b.due_at_ms for b in _clocks(run)} | _timers(run, asked)
    claims = {
        "active counts the branches that owe an attempt now": run.active == len(active),
        "timers holds the clocks that run": run.timers == timers,
        "children holds those that are waited for": run.children
        == {place: each.child for place, each in asked.items() if each.child is not None},
        "only attempts have operations": all(
            not b.operations or b.status in {*ATTEMPTING, "failed", "cancelled"} for b in branches
        ),
        "who is suspended waits for an operation": all(
            pending(b) for b in still_open if b.status == "suspended"
        ),
        "joining holds the branches at joins": sorted(run.joining) == sorted(joining),
        "waits holds the awaited signals": run.waits == waits,
        "paused counts the pauses of branches": run.paused == sum(b.pause is not None for b in still_open),
        "open counts the open branches": run.open == len(still_open),
        "nothing is open in a run that is over": not (run.is_over and still_open),
        "the status says what the open branches do": not run.open or run.status == _status(run),
        "only an unfinished run is blocked": not (run.is_over and run.blocked is not None),
        "only a completed run has an output branch": (run.status == "completed")
        == (run.output_branch is not None),
        "only a failed run has a failure": (run.status == "failed") == (run.failure is not None),
        "only a cancelled run was cancelled": (run.status == "cancelled") == (run.cancel is not None),
        "an open branch is somewhere": all(b.at is not None for b in still_open),
        "a clock runs or stands still": all(b.due_at_ms is None or b.left_ms is None for b in still_open),
        "clocks stand still only in a pause": all(b.left_ms is None or run.holds(b) for b in still_open),
        "a deadline runs or stands still": run.deadline_ms is None or run.deadline_left_ms is None,
        "only an unfinished run has a deadline": not (run.is_over and run.deadline_ms is not None),
        "stamps never fall": run.created_at_ms <= run.updated_at_ms,
    }
    return [claim for claim, holds in claims.items() if not holds]


def _clocks(run: Run) -> list[Branch]:
    timed = [b for b in run.branches.values() if b.status in {"sleeping", "waiting"}]
    timed += [b for b in run.branches.values() if b.status == "backoff" and not run.holds(b)]
    return [b for b in timed if b.due_at_ms is not None]


def _timers(run: Run, asked: dict[str, Operation]) -> dict[str, int]:
    away = {b.id for b in run.branches.values() if b.status == "suspended" and not run.holds(b)}
    return {
        place: each.due_at_ms
        for place, each in asked.items()
        if each.due_at_ms is not None and (each.status != "backoff" or split_place(place)[0] in away)
    }


def _status(run: Run) -> str:
    if run.blocked is not None:
        return "blocked"
    if run.active:
        return "running"
    return "paused" if run.pause is not None or run.paused else "suspended"
