"""`decide`: what events mean to a run, as entries. Only dispatches; each concern has a module of its own.

A turn decides the events at hand together. Each is decided on the state before the turn, and on what the turn
knows of branches that have moved in it; what depends on several branches at once (joins, the end of the run) is
settled at the end of the turn, over the state *and* the turn's own entries.
"""

from collections.abc import Sequence
from typing import assert_never

from holdfast.core import control, joins, operations, retries, steps, waits
from holdfast.core.entries import Entry, Failure
from holdfast.core.events import (
    AttemptDiverged,
    AttemptEnded,
    AttemptFailed,
    AttemptSucceeded,
    AttemptSuspended,
    ChildEnded,
    CompletionRefused,
    ControlRequested,
    DeadlinePassed,
    Event,
    SignalArrived,
    StartRequested,
    TimerFired,
)
from holdfast.core.run import Run
from holdfast.core.turn import JOURNAL_ENTRIES_MAX, Turn
from holdfast.definition.workflow import Workflow

JOURNAL_LIMIT = "journal_limit"


def decide(workflow: Workflow, run: Run, events: Sequence[Event]) -> list[Entry]:
    """Return the entries that `events` mean to `run`; none where all of them are stale.

    Pure and total: nothing is changed, and the same arguments give the same entries.

    Args:
        workflow: The structure the run is pinned to, with the policies that are deployed.
        run: The fold of everything committed so far.
        events: In the order in which they count: what is earlier wins where two exclude each other. At most one
            attempt's outcome per branch.

    Returns:
        Entries to append together, in order.
    """
    if len(events) == 1 and type(event := events[0]) is AttemptSucceeded:
        # Most runs end so. A property test holds the shortcut equal to the long way.
        entries = steps.last_step(workflow, run, event)
        if entries is not None:
            return entries
    turn = Turn(workflow, run)
    for event in events:
        _decide(turn, event)
        if turn.over:
            return turn.entries
    if turn.ended or turn.joining or run.joining:
        joins.settle(turn)
    if turn.entries and run.position + len(turn.entries) > JOURNAL_ENTRIES_MAX and not turn.over:
        message = f"the journal would have more than {JOURNAL_ENTRIES_MAX} entries; use child runs"
        turn.fail("", None, 0, Failure(JOURNAL_LIMIT, message, (JOURNAL_LIMIT,)))
    return turn.entries


def _decide(turn: Turn, event: Event) -> None:
    match event:
        case AttemptSucceeded() | AttemptFailed() | AttemptSuspended() | AttemptDiverged():
            _attempt_ended(turn, event)
        case SignalArrived():
            waits.signal_arrived(turn, event)
        case TimerFired():
            (operations if event.key else waits).timer_fired(turn, event)
        case ChildEnded():
            operations.child_ended(turn, event)
        case ControlRequested():
            control.control_requested(turn, event)
        case DeadlinePassed():
            waits.deadline_passed(turn, event)
        case CompletionRefused():
            steps.completion_refused(turn, event)
        case StartRequested():
            steps.start_requested(turn, event)
        case _:
            operations.operating(turn, event)


def _attempt_ended(turn: Turn, event: AttemptEnded) -> None:
    match event:
        case AttemptSucceeded():
            steps.attempt_succeeded(turn, event)
        case AttemptFailed():
            retries.attempt_failed(turn, event)
        case AttemptSuspended():
            operations.attempt_suspended(turn, event)
        case AttemptDiverged():
            operations.attempt_diverged(turn, event)
        case _:
            assert_never(event)
