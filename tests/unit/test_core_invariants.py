"""`check`: what it must find, each claim broken once."""

from collections.abc import Callable

import pytest

from holdfast.core.entries import (
    Arrival,
    Child,
    Failure,
    OperationBegun,
    Paused,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunStarted,
    StepCompleted,
    StepSuspended,
    Wait,
)
from holdfast.core.evolve import evolve
from holdfast.core.invariants import check
from holdfast.core.run import Operation, Run


def forked() -> Run:
    """One branch at work, one in backoff, one at a join."""
    run = Run("r")
    arrivals = (
        Arrival("left", "l", 1, "task", "main"),
        Arrival("right", "r", 1, "task", "main"),
        Arrival("main-3", "join", 1, "join", "main"),
    )
    evolve(run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", arrivals), 1_000)
    evolve(run, RetryScheduled("left", "l", 1, 2, 500, "all", Failure("E", "no")), 2_000)
    return run


def waiting() -> Run:
    """One branch asleep, one that waits for a signal, in a run with a time-out; the second branch is paused."""
    run = Run("r")
    arrivals = (
        Arrival("x", "nap", 1, "sleep", "main", Wait("", 5_000)),
        Arrival("y", "w", 1, "wait_signal", "main", Wait("s", 9_000)),
    )
    evolve(run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", arrivals, 60_000), 1_000)
    evolve(run, Paused("y", "", "", freezes=True), 2_000)
    return run


def asking() -> Run:
    """A body that was put away, and waits for a sleep and for a child."""
    run = Run("r")
    evolve(
        run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", (Arrival("x", "a", 1, "task", "main"),)), 1_000
    )
    evolve(run, OperationBegun("x", "a", 1, "nap#1", "sleep", Wait("", 5_000)), 2_000)
    evolve(run, OperationBegun("x", "a", 1, "c#1", "child", None, Child("run-c", "c")), 2_000)
    evolve(run, StepSuspended("x", "a", 1), 2_000)
    return run


def cancelled() -> Run:
    run = waiting()
    evolve(run, RunCancelled("", ""), 3_000)
    return run


def over() -> Run:
    run = Run("r")
    evolve(run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", (Arrival("main", "a", 1),)), 1_000)
    evolve(run, StepCompleted("main", "a", 1, 1, b"json.1:2", ()), 2_000)
    evolve(run, RunCompleted("main"), 2_000)
    return run


@pytest.mark.parametrize("make", [lambda: Run("r"), forked, waiting, asking, cancelled, over])
def test_a_run_as_it_should_be_breaks_nothing(make: Callable[[], Run]) -> None:
    assert check(make()) == []


ALSO = {"nothing is open in a run that is over": ["the status says what the open branches do"]}


def reopen_one(run: Run) -> None:
    branch = run.branches["x"]
    branch.status, branch.due_at_ms, branch.left_ms = "sleeping", None, None
    run.open = 1


def start_clock(run: Run) -> None:
    run.branches["y"].due_at_ms = run.timers["y"] = 1


def stop_clock(run: Run) -> None:
    branch = run.branches["x"]
    branch.left_ms, branch.due_at_ms = 1, None
    run.timers.clear()


def leave_operations_behind(run: Run) -> None:
    run.branches["x"].operations = {"v#1": Operation("v#1", "value", 2)}


def forget_operations(run: Run) -> None:
    run.branches["x"].operations.clear()
    run.timers.clear()
    run.children.clear()


def block(run: Run) -> None:
    run.blocked = RunBlocked("x", "a", 1, "definition_changed", "")


BROKEN: dict[str, tuple[Callable[[], Run], Callable[[Run], object]]] = {
    "active counts the branches that owe an attempt now": (forked, lambda run: setattr(run, "active", 2)),
    "timers holds the clocks that run": (forked, lambda run: run.timers.update(left=1)),
    "children holds those that are waited for": (asking, lambda run: run.children.clear()),
    "only attempts have operations": (waiting, leave_operations_behind),
    "who is suspended waits for an operation": (asking, forget_operations),
    "only an unfinished run is blocked": (over, block),
    "joining holds the branches at joins": (forked, lambda run: run.joining.update(right=None)),
    "waits holds the awaited signals": (waiting, lambda run: run.waits.clear()),
    "paused counts the pauses of branches": (waiting, lambda run: setattr(run, "paused", 2)),
    "open counts the open branches": (forked, lambda run: setattr(run, "open", 2)),
    "nothing is open in a run that is over": (cancelled, reopen_one),
    "the status says what the open branches do": (waiting, lambda run: setattr(run, "status", "running")),
    "only a completed run has an output branch": (over, lambda run: setattr(run, "output_branch", None)),
    "only a cancelled run was cancelled": (cancelled, lambda run: setattr(run, "cancel", None)),
    "a clock runs or stands still": (waiting, start_clock),
    "clocks stand still only in a pause": (waiting, stop_clock),
    "a deadline runs or stands still": (waiting, lambda run: setattr(run, "deadline_left_ms", 1)),
    "only an unfinished run has a deadline": (over, lambda run: setattr(run, "deadline_ms", 1)),
    "only a failed run has a failure": (over, lambda run: setattr(run, "failure", Failure("E", "no"))),
    "an open branch is somewhere": (forked, lambda run: setattr(run.branches["right"], "at", None)),
    "stamps never fall": (over, lambda run: setattr(run, "updated_at_ms", 999)),
}


@pytest.mark.parametrize("claim", BROKEN)
def test_a_run_that_breaks_a_claim_is_told_by_it(claim: str) -> None:
    make, spoil = BROKEN[claim]
    run = make()
    spoil(run)
    assert check(run) == [claim, *ALSO.get(claim, [])]
