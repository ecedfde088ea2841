"""`check`: what it must find, each claim broken once."""

from collections.abc import Callable

import pytest

from holdfast.core.entries import Arrival, Failure, RetryScheduled, RunCompleted, RunStarted, StepCompleted
from holdfast.core.invariants import check
from holdfast.core.run import Run, evolve


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


def over() -> Run:
    run = Run("r")
    evolve(run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", (Arrival("main", "a", 1),)), 1_000)
    evolve(run, StepCompleted("main", "a", 1, 1, b"json.1:2", ()), 2_000)
    evolve(run, RunCompleted("main"), 2_000)
    return run


@pytest.mark.parametrize("make", [lambda: Run("r"), forked, over])
def test_a_run_as_it_should_be_breaks_nothing(make: Callable[[], Run]) -> None:
    assert check(make()) == []


BROKEN: dict[str, tuple[Callable[[], Run], Callable[[Run], object]]] = {
    "active counts the active branches": (forked, lambda run: setattr(run, "active", 2)),
    "backoffs holds the due times": (forked, lambda run: run.backoffs.update(left=1)),
    "joining holds the waiting branches": (forked, lambda run: run.joining.update(right=None)),
    "open counts the open branches": (forked, lambda run: setattr(run, "open", 2)),
    "nothing is open in a run that is over": (forked, lambda run: setattr(run, "status", "cancelled")),
    "only a completed run has an output branch": (over, lambda run: setattr(run, "output_branch", None)),
    "only a failed run has a failure": (over, lambda run: setattr(run, "failure", Failure("E", "no"))),
    "an open branch is somewhere": (forked, lambda run: setattr(run.branches["right"], "at", None)),
    "stamps never fall": (over, lambda run: setattr(run, "updated_at_ms", 999)),
}


@pytest.mark.parametrize("claim", BROKEN)
def test_a_run_that_breaks_a_claim_is_told_by_it(claim: str) -> None:
    make, spoil = BROKEN[claim]
    run = make()
    spoil(run)
    assert check(run) == [claim]
