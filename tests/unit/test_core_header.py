"""The header of a run before its entries are stamped (invariant 4)."""

import pytest

from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    Failure,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from holdfast.core.header import Header, header_after
from holdfast.core.run import Run, replay

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


X_IN_BACKOFF: list[Entry] = [retry("x", "a", 5_000)]
BOTH_IN_BACKOFF: list[Entry] = [retry("x", "a", 5_000), retry("y", "b", 9_000)]
END = Arrival("main-3", "end", 1)
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


def test_the_header_of_a_run_that_starts_is_told_before_it_is_there() -> None:
    assert header_after(Run("r"), [BEGUN]) == Header("running", 0)
