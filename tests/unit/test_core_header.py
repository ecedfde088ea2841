"""The header of a run before its entries are stamped (invariant 4)."""

import math

import pytest

from holdfast.codecs.snapshots import encode_run
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    StepSuspended,
    Unpaused,
    Wait,
    WaitTimedOut,
)
from holdfast.core.evolve import replay
from holdfast.core.header import Header, header_after
from holdfast.core.run import Run

FAILURE = Failure("E", "no")
BEGUN = RunStarted(
    "w",
    "52c07e784e31bb37",
    b"json.1:1",
    (
        Arrival("x", "a", 1, "task", "main"),
        Arrival("y", "b", 1, "task", "main"),
        Arrival("main-3", "join", 1, "join", "main"),
    ),
)


def retry(branch: str, step: str, delay_ms: int) -> RetryScheduled:
    return RetryScheduled(branch, step, 1, 2, delay_ms, "all", FAILURE)


def done(branch: str, step: str, *arrivals: Arrival) -> StepCompleted:
    return StepCompleted(branch, step, 1, 1, b"json.1:1", arrivals)


def joined(*arrivals: Arrival) -> BranchJoined:
    return BranchJoined("main-3", "join", 1, ("x", "y"), arrivals)


def asked(branch: str, step: str, wait: Wait) -> OperationBegun:
    return OperationBegun(branch, step, 1, "w#1", "wait_signal" if wait.signal else "sleep", wait)


def given(branch: str, step: str) -> OperationCompleted:
    return OperationCompleted(branch, step, 1, "w#1", "sleep", b"")


def put_away(branch: str, step: str) -> StepSuspended:
    return StepSuspended(branch, step, 1)


BLOCKED = RunBlocked("x", "a", 1, "definition_changed", "")
X_IN_BACKOFF: list[Entry] = [retry("x", "a", 5_000)]
BOTH_IN_BACKOFF: list[Entry] = [retry("x", "a", 5_000), retry("y", "b", 9_000)]
END = Arrival("main-3", "end", 1)
PAUSED, UNPAUSED = Paused("", "", ""), Unpaused("", "")
NAP = Arrival("y", "nap", 1, "sleep", None, Wait("", 3_000))
DAWN = Arrival("y", "dawn", 1, "sleep", None, Wait("", None, 50_000))
WAIT = Arrival("y", "w", 1, "wait_signal", None, Wait("s", 4_000))
FOR_EVER = Arrival("y", "w", 1, "wait_signal", None, Wait("s"))
AWAY: list[Entry] = [*X_IN_BACKOFF, asked("y", "b", Wait("s", 9_000)), put_away("y", "b")]
ASLEEP: list[Entry] = [*X_IN_BACKOFF, done("y", "b", NAP)]
WAITING: list[Entry] = [*X_IN_BACKOFF, done("y", "b", WAIT)]
HEADERS: dict[str, tuple[list[Entry], list[Entry], Header]] = {
    "nothing new": ([], [], Header("running", 0)),
    "nothing new, all in backoff": (BOTH_IN_BACKOFF, [], Header("suspended", 15_000)),
    "a step leads to the next": (
        [],
        [done("x", "a", Arrival("x", "c", 1))],
        Header("running", 0, completes=True),
    ),
    "a step ends its branch": ([], [done("x", "a")], Header("running", 0, completes=True)),
    "the last at work waits": (
        X_IN_BACKOFF,
        [done("y", "b", Arrival("y", "join", 1, "join"))],
        Header("suspended", 15_000, completes=True),
    ),
    "a first retry": (X_IN_BACKOFF, [retry("y", "b", 3_000)], Header("suspended", 15_000, 3_000)),
    "a retry beside one at work": ([], [retry("x", "a", 3_000)], Header("running", 0)),
    "two retries": ([], BOTH_IN_BACKOFF, Header("suspended", None, 5_000)),
    "a retry again": (BOTH_IN_BACKOFF, [retry("x", "a", 7_000)], Header("suspended", 19_000, 7_000)),
    "the end of a backoff": (BOTH_IN_BACKOFF, [done("x", "a")], Header("suspended", 19_000, completes=True)),
    "a backoff leads to the next": (
        BOTH_IN_BACKOFF,
        [done("x", "a", Arrival("x", "c", 1))],
        Header("running", 0, completes=True),
    ),
    "a join goes on": (
        X_IN_BACKOFF,
        [done("y", "b"), done("x", "a"), joined(END)],
        Header("running", 0, completes=True),
    ),
    "completed": (
        [],
        [done("y", "b"), done("x", "a"), joined(), RunCompleted("main-3")],
        Header("completed", completes=True),
    ),
    "a step leads to a sleep": (
        X_IN_BACKOFF,
        [done("y", "b", NAP)],
        Header("suspended", 15_000, 3_000, completes=True),
    ),
    "a step leads to a sleep until a moment": (
        X_IN_BACKOFF,
        [done("y", "b", DAWN)],
        Header("suspended", 15_000, completes=True),
    ),
    "a step leads to a wait for ever": (
        X_IN_BACKOFF,
        [done("y", "b", FOR_EVER)],
        Header("suspended", 15_000, completes=True),
    ),
    "a sleep ends": (ASLEEP, [SleepEnded("y", "nap", 1, ())], Header("suspended", 15_000, completes=True)),
    "a signal leads to a sleep": (
        WAITING,
        [SignalReceived("y", "w", 1, 1, b"json.1:1", (NAP,))],
        Header("suspended", 15_000, 3_000, completes=True),
    ),
    "a time-out leads to a task": (
        WAITING,
        [WaitTimedOut("y", "w", 1, (Arrival("y", "c", 1),))],
        Header("running", 0, completes=True, times_out=True),
    ),
    "paused at work": ([], [PAUSED], Header("paused")),
    "paused asleep": (ASLEEP, [PAUSED], Header("paused")),
    "paused asleep, with the clocks running": (
        ASLEEP,
        [Paused("", "", "", freezes=False)],
        Header("paused", 13_000),
    ),
    "a branch is paused": (ASLEEP, [Paused("y", "", "")], Header("paused", 15_000)),
    "a step is completed under a pause": (
        [PAUSED],
        [done("y", "b", Arrival("y", "c", 1))],
        Header("paused", completes=True),
    ),
    "a step leads to a pause": (
        X_IN_BACKOFF,
        [done("y", "b", Arrival("y", "c", 1)), Paused("y", "", "")],
        Header("paused", 15_000, completes=True),
    ),
    "unpaused with what is left": ([*ASLEEP, PAUSED], [UNPAUSED], Header("suspended", None, 3_000)),
    "unpaused at work": ([PAUSED], [UNPAUSED], Header("running", 0)),
    "paused and unpaused": (ASLEEP, [PAUSED, UNPAUSED], Header("suspended", 13_000)),
    "cancelled": (ASLEEP, [RunCancelled("", "")], Header("cancelled")),
    "cancelled beside a step": (
        [],
        [done("y", "b"), RunCancelled("", "")],
        Header("cancelled", completes=True),
    ),
    "reopened": (
        [*ASLEEP, RunFailed("", "", 0, 0, FAILURE)],
        [RunReopened("")],
        Header("suspended", None, 3_000),
    ),
    "reopened at work": ([RunFailed("x", "a", 1, 1, FAILURE)], [RunReopened("")], Header("running", 0)),
    "an operation is done": ([], [given("y", "b")], Header("running", 0, completes=True)),
    "a sleep of a body": ([], [asked("y", "b", Wait("", 3_000))], Header("running", 0)),
    "a body is put away": (
        X_IN_BACKOFF,
        [asked("y", "b", Wait("", 3_000)), put_away("y", "b")],
        Header("suspended", 15_000, 3_000),
    ),
    "a body is put away until a moment": (
        X_IN_BACKOFF,
        [asked("y", "b", Wait("", None, 14_000)), put_away("y", "b")],
        Header("suspended", 14_000),
    ),
    "a body is put away until its next attempt at something": (
        X_IN_BACKOFF,
        [OperationRetried("y", "b", 1, "s#1", 2, 4_000, "all", FAILURE), put_away("y", "b")],
        Header("suspended", 15_000, 4_000),
    ),
    "a body is woken": (AWAY, [given("y", "b")], Header("running", 0, completes=True)),
    "a body is woken too late": (
        AWAY,
        [OperationFailed("y", "b", 1, "w#1", "wait_signal", FAILURE)],
        Header("running", 0, completes=True, times_out=True),
    ),
    "a body is woken under a pause": ([*AWAY, PAUSED], [given("y", "b")], Header("paused", completes=True)),
    "an operation of a step in backoff is done": (
        [asked("x", "a", Wait("", 1)), *BOTH_IN_BACKOFF],
        [given("x", "a")],
        Header("suspended", 15_000, completes=True),
    ),
    "a body reports": ([], [Reported("y", "b", 1, "", "progress", b"json.1:1")], Header("running", 0)),
    "blocked": ([], [BLOCKED], Header("blocked")),
    "blocked beside a time-out": (
        WAITING,
        [WaitTimedOut("y", "w", 1, (Arrival("y", "c", 1),)), BLOCKED],
        Header("blocked", completes=True, times_out=True),
    ),
    "blocked before": ([BLOCKED], [], Header("blocked")),
    "unblocked": ([BLOCKED], [given("y", "b")], Header("running", 0, completes=True)),
    "failed": ([], [RunFailed("x", "a", 1, 1, FAILURE)], Header("failed")),
    "failed beside a step": (
        [],
        [done("y", "b"), RunFailed("x", "a", 1, 1, FAILURE)],
        Header("failed", completes=True),
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_says_what_the_row_must_say(name: str) -> None:
    before, entries, header = HEADERS[name]
    journal: list[tuple[Entry, int]] = [(BEGUN, 1_000), *[(entry, 10_000) for entry in before]]
    assert header_after(replay("r", journal), entries) == header


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_changes_nothing_about_the_run(name: str) -> None:
    """It applies the entries to a copy, which shares what they do not concern."""
    before, entries, _ = HEADERS[name]
    journal: list[tuple[Entry, int]] = [(BEGUN, 1_000), *[(entry, 10_000) for entry in before]]
    run = replay("r", journal)
    header_after(run, entries)
    assert encode_run(run) == encode_run(replay("r", journal))


def test_a_run_with_a_time_out_is_due_when_that_is_over() -> None:
    """Row 24: counted from the start; a pause puts it off."""
    asleep = Arrival("main", "nap", 1, "sleep", None, Wait("", 9_000))
    begun = RunStarted("w", "52c07e784e31bb37", b"json.1:1", (asleep,), 5_000)
    assert header_after(Run("r"), [begun]) == Header("suspended", None, 5_000)
    run = replay("r", [(begun, 1_000)])
    assert header_after(run, []) == Header("suspended", 6_000)
    assert header_after(run, [PAUSED]) == Header("paused")
    assert header_after(replay("r", [(begun, 1_000), (PAUSED, 2_000)]), [UNPAUSED]) == Header(
        "suspended", None, 4_000
    )


def test_what_was_due_before_a_pause_is_due_when_it_ends() -> None:
    """Counted from the stamp, it is earlier than that."""
    run = replay("r", [(BEGUN, 1_000), *[(entry, 10_000) for entry in ASLEEP], (PAUSED, 20_000)])
    assert header_after(run, [UNPAUSED]) == Header("suspended", None, -7_000)


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        (Header("suspended", 15_000, 3_000), 3_000),
        (Header("suspended", 12_000, 3_000), 2_000),
        (Header("suspended", 9_000), -1_000),
        (Header("suspended"), math.inf),
    ],
)
def test_a_header_says_how_long_nothing_is_due(header: Header, wait_ms: float) -> None:
    assert header.wait_ms(10_000) == wait_ms


def test_the_header_of_a_run_that_starts_is_told_before_it_is_there() -> None:
    assert header_after(Run("r"), [BEGUN]) == Header("running", 0)
