"""Every row of every transition table of the core, one test at least for each (rows 8, 9, 18 to 33, 52).

A module of the core shows its transitions in a table at its head. `takes` says which rows a test takes; a
row that no test takes fails the last tests of this file. Those of `operations` are taken in another file.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable

import msgspec
import pytest

from holdfast import core
from holdfast.core import decide as deciding
from holdfast.core import steps, turn
from holdfast.core.control import controlled
from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Control,
    Entry,
    Failure,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    Unpaused,
    Wait,
    WaitTimedOut,
)
from holdfast.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CompletionRefused,
    ControlRequested,
    DeadlinePassed,
    Event,
    StartRequested,
    TimerFired,
)
from holdfast.core.evolve import evolve
from holdfast.core.owed import owed
from holdfast.core.run import Run
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Sleep, Step
from holdfast.definition.task import Task
from holdfast.definition.workflow import Workflow
from tests.unit import test_core_operations
from tests.unit.core_plays import (
    INPUT,
    OUTPUT,
    STARTED_AT_MS,
    Play,
    a,
    at_step,
    fork,
    forked,
    join,
    kinds,
    pause,
    signal,
    sleep,
    taken,
    takes,
    wait,
)


class CardError(Exception): ...


# steps: how a run starts, and how a step completes


@takes("steps", "nothing --(StartRequested)--> at the first step: RunStarted")
def test_a_run_starts_at_the_first_step() -> None:
    play = Play(a())
    assert play.first == [
        RunStarted("w", play.workflow.fingerprint, INPUT, (Arrival("main", "a", 1),)),
    ]
    assert play.owed() == {"main": StartAttempt("main", "a", 1, 1)}
    run = play.run
    assert (run.status, run.input, run.workflow) == ("running", INPUT, "w")
    assert (run.created_at_ms, run.updated_at_ms, run.position) == (STARTED_AT_MS, STARTED_AT_MS, 1)
    assert run.branches["main"].value == INPUT


def test_a_run_that_has_begun_does_not_start_again() -> None:
    play = Play(a("a", Edge("b")), a("b"))
    assert play.tell(StartRequested(b'json.1:"other"')) == []
    play.succeed()
    assert play.tell(StartRequested(INPUT)) == []


@takes("steps", "active --(AttemptSucceeded)--> at the next step, or completed: StepCompleted")
def test_a_completed_step_leads_to_the_next_in_one_entry() -> None:
    play = Play(a("a", Edge("b")), a("b"))
    entries = play.tell(play.success(v=b"json.1:1"))
    assert entries == [
        StepCompleted("main", "a", 1, 1, OUTPUT, (Arrival("main", "b", 1),), {"v": b"json.1:1"}),
    ]
    branch = play.run.branches["main"]
    assert (branch.value, branch.variables, branch.visits) == (OUTPUT, {"v": b"json.1:1"}, {"a": 1, "b": 1})
    assert play.owed() == {"main": StartAttempt("main", "b", 1, 1)}


STALE: list[tuple[str, str, int, int]] = [
    ("ghost", "b", 1, 1),
    ("main", "a", 1, 1),
    ("main", "ghost", 1, 1),
    ("main", "b", 2, 1),
    ("main", "b", 0, 1),
    ("main", "b", 1, 0),
    ("main", "b", 1, 2),
]


@takes("steps", "any other --(AttemptSucceeded)--> unchanged, the event is stale")
@pytest.mark.parametrize("key", STALE, ids=str)
def test_a_success_that_nobody_waits_for_means_nothing(key: tuple[str, str, int, int]) -> None:
    play = Play(a("a", Edge("b")), a("b"))
    play.succeed()
    assert play.tell(AttemptSucceeded(*key, OUTPUT)) == []
    assert play.owed() == {"main": StartAttempt("main", "b", 1, 1)}


@takes("steps", "run --(CompletionRefused)--> failed: RunFailed")
def test_a_run_that_may_not_complete_fails() -> None:
    """Row 57: a retry does the last step again."""
    play = Play(a())
    failure = Failure("ValueError", "what follows cannot be told")
    assert play.tell(CompletionRefused(failure)) == [RunFailed("", "", 0, 0, failure)]
    assert kinds(play.ask(RunReopened("ops")) + play.succeed()) == [RunReopened, StepCompleted, RunCompleted]


@takes("steps", "run over --(CompletionRefused)--> unchanged, the event is stale")
@pytest.mark.parametrize("end", [RunCancelled("", ""), None])
def test_a_run_that_is_over_is_not_refused_its_completion(end: RunCancelled | None) -> None:
    """Invariant 29."""
    play = Play(a())
    play.succeed() if end is None else play.ask(end)
    assert play.run.is_over
    assert play.tell(CompletionRefused(Failure("ValueError", "late"))) == []


def test_a_success_that_is_told_twice_counts_once() -> None:
    """Invariant 14."""
    play = forked()
    once = play.success("left")
    assert kinds(play.tell(once)) == [StepCompleted]
    assert play.tell(once) == []


def test_nothing_is_decided_of_a_run_that_is_over() -> None:
    """Invariant 29."""
    play = forked()
    late: list[Event] = [play.success("left"), play.failure("left"), StartRequested(INPUT)]
    play.fail("right")
    assert play.tell(*late) == []
    assert play.owed() == {}


# retries


@takes("retries", "attempting --(AttemptFailed, a policy fits and has budget)--> backoff: RetryScheduled")
def test_a_failure_with_budget_is_tried_again_later() -> None:
    """Row 23, invariants 15 and 16: the attempt and its time are recorded before its body runs."""
    play = Play(a(), retry={"a": (Retry(max_retries=2, base_delay="5s"),)})
    at_ms = play.at_ms
    event = play.failure()
    assert play.tell(event) == [RetryScheduled("main", "a", 1, 2, 5_000, "all", event.failure)]
    branch = play.run.branches["main"]
    assert (branch.status, branch.attempt, branch.due_at_ms) == ("backoff", 2, at_ms + 5_000)
    assert branch.failure == event.failure
    assert owed(play.run) == [ArmTimer("main", at_ms + 5_000, StartAttempt("main", "a", 1, 2))]
    assert (play.run.status, play.run.due_at_ms) == ("suspended", at_ms + 5_000)


def test_a_retry_that_succeeds_goes_on_with_a_clean_slate() -> None:
    policies = (Retry(max_retries=1),)
    play = Play(a("a", Edge("b")), a("b"), retry={"a": policies, "b": policies})
    play.fail()
    assert kinds(play.succeed()) == [StepCompleted]
    branch = play.run.branches["main"]
    assert (branch.attempt, branch.due_at_ms, branch.budgets, branch.failure) == (1, None, {}, None)
    assert kinds(play.fail()) == [RetryScheduled]


@takes("retries", "attempting --(AttemptFailed, none does)--> failed, and the run with it: RunFailed")
def test_a_failure_without_policy_fails_the_run() -> None:
    play = Play(a())
    event = play.failure()
    failure = at_step("a", event.failure)
    assert play.tell(event) == [RunFailed("main", "a", 1, 1, failure)]
    assert (play.run.status, play.run.failure) == ("failed", failure)
    assert play.run.branches["main"].failure == failure


def test_a_failure_beyond_the_budget_fails_the_run() -> None:
    """Invariant 15."""
    play = Play(a(), retry={"a": (Retry(max_retries=2),)})
    assert kinds(play.fail() + play.fail() + play.fail()) == [RetryScheduled, RetryScheduled, RunFailed]
    assert play.run.failure == Failure("ValueError", "no", ("ValueError",), step="a")


@takes("retries", "any other --(AttemptFailed)--> unchanged, the event is stale")
@pytest.mark.parametrize("key", STALE, ids=str)
def test_a_failure_that_nobody_waits_for_means_nothing(key: tuple[str, str, int, int]) -> None:
    play = Play(a("a", Edge("b")), a("b"))
    play.succeed()
    assert play.tell(AttemptFailed(*key, Failure("ValueError", "late"), 0.0)) == []
    assert play.owed() == {"main": StartAttempt("main", "b", 1, 1)}


def test_a_failure_is_matched_by_its_own_type_where_it_names_no_others() -> None:
    play = Play(a(), retry={"a": (Retry(error_equals=("Odd",)),)})
    assert kinds(play.tell(AttemptFailed("main", "a", 1, 1, Failure("Odd", ""), 0.0))) == [RetryScheduled]


BUDGETS: list[tuple[tuple[Retry, ...], list[tuple[str, ...]], list[str]]] = [
    (
        (Retry(error_equals=("timeout",), max_retries=1), Retry(max_retries=2)),
        [("A",), ("timeout",), ("A",), ("A",)],
        ["all", "timeout", "all", "over"],
    ),
    (
        (Retry(error_equals=("timeout",), max_retries=1), Retry(max_retries=2)),
        [("timeout",), ("timeout",)],
        ["timeout", "over"],
    ),
    ((Retry(error_equals=("task_failed",)),), [("A",), ("timeout",)], ["task_failed", "over"]),
    ((Retry(),), [("timeout",), ("fatal", "WorkflowError")], ["all", "over"]),
    ((Retry(error_equals=("fatal",)),), [("fatal",), ("A",)], ["fatal", "over"]),
    (
        (Retry(error_equals=(CardError,)), Retry(error_equals=("Base",), max_retries=1)),
        [("CardError", "Base"), ("X", "Base"), ("CardError", "Base"), ("X", "Base")],
        ["CardError", "Base", "CardError", "over"],
    ),
    ((Retry(max_retries=0), Retry(max_retries=5)), [("A",)], ["over"]),
]


@pytest.mark.parametrize(("policies", "failures", "counted"), BUDGETS, ids=range(len(BUDGETS)))
def test_each_policy_has_a_budget_of_its_own(
    policies: tuple[Retry, ...], failures: list[tuple[str, ...]], counted: list[str]
) -> None:
    """Row 23: an error is matched to the first fitting policy, also where that one is exhausted."""
    play = Play(a(), retry={"a": policies})
    entries = [entry for types in failures for entry in play.fail("main", *types)]
    found = [entry.pattern if isinstance(entry, RetryScheduled) else "over" for entry in entries]
    assert found == counted


def test_a_budget_is_kept_when_policies_move_in_a_new_deployment() -> None:
    """Row 23, DESIGN: budgets are counted by patterns, not by place."""
    timeouts, others = Retry(error_equals=("timeout",), max_retries=1), Retry(max_retries=1)
    play = Play(a(), retry={"a": (timeouts, others)})
    play.fail("main", "timeout")
    play.workflow = Workflow("w", [a()], tasks=[Task(len, name="a", retry=(others, timeouts))])
    assert kinds(play.fail("main", "timeout")) == [RetryScheduled]
    play.workflow = Workflow("w", [a()], tasks=[Task(len, name="a", retry=(timeouts, others))])
    assert kinds(play.fail("main", "timeout")) == [RunFailed]


def test_chance_makes_the_jitter() -> None:
    play = Play(a(), retry={"a": (Retry(jitter_strategy="FULL", base_delay="1s"),)})
    entry = play.tell(play.failure(chance=0.25))[0]
    assert isinstance(entry, RetryScheduled)
    assert entry.delay_ms == 250


def test_a_failing_branch_fails_the_run_and_cancels_its_siblings() -> None:
    """Row 20."""
    play = forked()
    play.succeed("left")
    event = play.failure("right")
    assert play.tell(event) == [RunFailed("right", "r", 1, 1, at_step("r", event.failure))]
    assert play.statuses() == {
        "main": "completed",
        "left": "completed",
        "right": "failed",
        "main-3": "cancelled",
    }
    assert play.run.branches["main-3"].failure is None


def test_a_suspended_run_is_due_when_its_first_branch_is() -> None:
    """Row 35: the earliest wake time."""
    edges = (Edge("a", "x"), Edge("b", "y"))
    policies: dict[str, tuple[Retry, ...]] = {"a": (Retry(base_delay="9s"),), "b": (Retry(base_delay="2s"),)}
    play = Play(fork(*edges), a(), a("b"), retry=policies)
    at_ms = play.at_ms
    play.tell(play.failure("x"), play.failure("y"))
    assert (play.run.status, play.run.due_at_ms) == ("suspended", at_ms + 2_000)
    play.fail("y")
    assert play.run.due_at_ms == at_ms + 1_000 + 4_000
    play.succeed("y")
    assert play.run.due_at_ms == at_ms + 9_000


def test_siblings_in_backoff_are_cancelled_too() -> None:
    """Row 20, invariant 16."""
    edges = (Edge("a", "x"), Edge("b", "y"))
    play = Play(fork(*edges), a(), a("b"), retry={"a": (Retry(),)})
    play.fail("x")
    play.fail("y")
    assert play.statuses() == {"main": "completed", "x": "cancelled", "y": "failed"}
    assert (play.run.timers, owed(play.run), play.run.due_at_ms) == ({}, [], None)


def test_what_completed_in_the_same_turn_is_recorded_before_the_failure() -> None:
    play = forked()
    entries = play.tell(play.success("left"), play.failure("right"))
    assert kinds(entries) == [StepCompleted, RunFailed]
    assert play.statuses()["left"] == "completed"


def test_nothing_is_recorded_after_the_failure() -> None:
    """Invariant 29."""
    play = forked()
    assert kinds(play.tell(play.failure("right"), play.success("left"))) == [RunFailed]


# edges


@takes("edges", "one unnamed edge, or one naming the branch itself    the branch goes on")
def test_one_edge_continues_the_branch() -> None:
    play = Play(a("a", Edge("fork")), fork(Edge("b", "x")), a("b", Edge("c", "x")), a("c"))
    assert play.succeed() == [StepCompleted("main", "a", 1, 1, OUTPUT, (Arrival("x", "b", 1, "task", "main"),))]
    assert play.succeed("x") == [StepCompleted("x", "b", 1, 1, OUTPUT, (Arrival("x", "c", 1),))]


def test_a_branch_counts_its_visits() -> None:
    """Row 16: without the visit, the keys of a cycle collide."""
    play = Play(a("a", Edge("b")), a("b", Edge("a")))
    arrivals = [entry.arrivals for _ in range(4) for entry in play.succeed()]  # type: ignore[union-attr]
    assert arrivals == [
        *[(Arrival("main", "b", 1),), (Arrival("main", "a", 2),)],
        *[(Arrival("main", "b", 2),), (Arrival("main", "a", 3),)],
    ]


@takes("edges", "several edges, or a named one    the branch completes, each edge starts a branch")
def test_several_edges_start_a_branch_each() -> None:
    """Row 9: one counter per run numbers them, in the order of the edges."""
    play = Play(a("a", Edge("b"), Edge("c", "x"), Edge("b")), a("b", Edge("c"), Edge("c")), a("c"))
    assert play.tell(play.success(v=b"json.1:1")) == [
        StepCompleted(
            "main",
            "a",
            1,
            1,
            OUTPUT,
            (
                Arrival("main-1", "b", 1, "task", "main"),
                Arrival("x", "c", 1, "task", "main"),
                Arrival("main-3", "b", 1, "task", "main"),
            ),
            {"v": b"json.1:1"},
        )
    ]
    assert play.run.branches["x"].parent == "main"
    assert play.run.branches["x"].value == OUTPUT
    assert list(play.owed()) == ["main-1", "x", "main-3"]
    play.succeed("main-1")
    assert list(play.owed()) == ["x", "main-3", "main-1-4", "main-1-5"]


def test_a_new_branch_has_its_own_copy_of_the_variables() -> None:
    """Row 10."""
    play = Play(a("a", Edge("b", "x"), Edge("b", "y")), a("b", Edge("c")), a("c"))
    play.tell(play.success(v=b"json.1:1"))
    play.tell(play.success("x", v=b"json.1:2", w=b"json.1:3"))
    assert play.run.branches["x"].variables == {"v": b"json.1:2", "w": b"json.1:3"}
    assert play.run.branches["y"].variables == {"v": b"json.1:1"}
    assert play.run.branches["main"].variables == {"v": b"json.1:1"}


@takes("edges", "no edge    the branch completes")
def test_a_step_without_edges_completes_its_branch() -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    assert play.succeed("x") == [StepCompleted("x", "a", 1, 1, OUTPUT, ())]
    assert play.statuses() == {"main": "completed", "x": "completed", "y": "active"}


@takes("edges", "a fork step    its edges are followed at once")
def test_a_fork_takes_no_time_of_its_own() -> None:
    play = Play(a("a", Edge("fork")), fork(Edge("b", "x"), Edge("b", "y")), a("b"))
    entries = play.succeed()
    assert kinds(entries) == [StepCompleted]
    assert list(play.owed()) == ["x", "y"]
    assert {play.run.branches[name].value for name in ("x", "y")} == {OUTPUT}


def test_a_fork_at_the_start_hands_on_the_input() -> None:
    """Row 38."""
    play = forked()
    assert kinds(play.first) == [RunStarted]
    assert {branch.value for branch in play.run.branches.values()} == {INPUT}
    assert play.statuses() == {
        "main": "completed",
        "main-3": "joining",
        "left": "active",
        "right": "active",
    }


def test_a_fork_with_one_unnamed_edge_continues_the_branch() -> None:
    play = Play(fork(Edge("a")), a())
    assert play.owed() == {"main": StartAttempt("main", "a", 1, 1)}


def walkers() -> Play:
    """`x` and `y` walk into the join that waits for `z`."""
    edges = (Edge("a", "x"), Edge("b", "y"), Edge("c", "z"))
    steps = (a("a", Edge("join")), a("b", Edge("join")), a("c"), join("z", to="end"), a("end"))
    return Play(fork(*edges), *steps)


@takes("edges", "a join step where another branch waits already    the arriving branch completes there")
def test_the_second_branch_at_a_join_completes_there() -> None:
    """Row 18."""
    play = walkers()
    assert play.succeed("x") == [
        StepCompleted("x", "a", 1, 1, OUTPUT, (Arrival("x", "join", 1, "join"),)),
    ]
    assert play.succeed("y") == [StepCompleted("y", "b", 1, 1, OUTPUT, ())]
    play.succeed("z")
    assert play.owed() == {"x": StartAttempt("x", "end", 1, 1)}


def test_of_two_branches_that_come_to_a_join_together_one_waits() -> None:
    """Row 18."""
    play = walkers()
    play.succeed("y", "x")
    assert play.statuses() == {"main": "completed", "x": "completed", "y": "joining", "z": "active"}


def test_a_named_branch_begins_once() -> None:
    """Row 9."""
    play = Play(fork(Edge("a", "x"), Edge("b")), a("a", Edge("c")), a("b", Edge("c", "x")), a("c"))
    play.succeed("x")
    entries = play.succeed("main-2")
    assert kinds(entries) == [StepCompleted, RunFailed]
    assert (entries[1].branch, entries[1].failure.type) == ("main-2", "duplicate_branch")  # type: ignore[union-attr]
    assert "'x'" in entries[1].failure.message  # type: ignore[union-attr]
    assert play.run.status == "failed"


def test_a_named_branch_begins_once_also_within_a_turn() -> None:
    edges = (Edge("a", "x"), Edge("b", "y"))
    play = Play(fork(*edges), a("a", Edge("c", "z")), a("b", Edge("c", "z")), a("c"))
    entries = play.succeed("x", "y")
    assert kinds(entries) == [StepCompleted, StepCompleted, RunFailed]
    assert play.statuses() == {"main": "completed", "x": "completed", "z": "cancelled", "y": "completed"}


# joins


@takes("joins", "joining --(all of its branches completed)--> at the next step: BranchJoined")
def test_a_join_waits_for_all_of_its_branches() -> None:
    """Row 18."""
    play = forked()
    left = play.tell(play.success("left", b"json.1:1"))
    assert (kinds(left), play.run.status) == ([StepCompleted], "running")
    assert play.tell(play.success("right", b"json.1:2")) == [
        StepCompleted("right", "r", 1, 1, b"json.1:2", ()),
        BranchJoined("main-3", "join", 1, ("left", "right"), (Arrival("main-3", "end", 1),)),
    ]
    branch = play.run.branches["main-3"]
    assert branch.value == {"left": b"json.1:1", "right": b"json.1:2"}
    assert (branch.status, play.run.joining) == ("active", {})


def test_a_join_takes_its_branches_in_the_order_it_names_them() -> None:
    play = forked()
    entries = play.tell(play.success("right", b"json.1:2"), play.success("left", b"json.1:1"))
    assert kinds(entries) == [StepCompleted, StepCompleted, BranchJoined]
    assert list(play.run.branches["main-3"].value) == ["left", "right"]


def test_a_branch_that_comes_to_a_join_last_goes_on_at_once() -> None:
    edges = (Edge("a", "x"), Edge("b", "y"))
    play = Play(fork(*edges), a(), a("b", Edge("join")), join("x", to="end"), a("end"))
    play.succeed("x")
    assert kinds(play.succeed("y")) == [StepCompleted, BranchJoined]
    assert play.owed() == {"y": StartAttempt("y", "end", 1, 1)}


def test_joins_that_follow_from_one_another_are_met_in_one_turn() -> None:
    edges = (Edge("a", "x"), Edge("in", "y"), Edge("out"))
    steps = (join("x", name="in"), join("y", to="end", name="out"), a("end"))
    play = Play(fork(*edges), a(), *steps)
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined, BranchJoined]
    assert play.run.branches["main-3"].value == {"y": {"x": OUTPUT}}
    assert play.owed() == {"main-3": StartAttempt("main-3", "end", 1, 1)}


def test_a_branch_that_forks_has_completed_for_those_who_wait_for_it() -> None:
    """Row 9: it completes there, and each of its edges starts another branch."""
    edges = (Edge("a", "x"), Edge("join"))
    steps = (a("a", Edge("b", "y"), Edge("b", "z")), a("b"), join("x", to="end"), a("end"))
    play = Play(fork(*edges), *steps)
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined]
    assert play.run.branches["main-2"].value == {"x": OUTPUT}
    assert list(play.owed()) == ["main-2", "y", "z"]


def test_a_branch_that_begins_at_a_join_already_met_goes_on_at_once() -> None:
    edges = (Edge("a", "x"), Edge("b"))
    steps = (a(), a("b", Edge("c", "y"), Edge("join")), a("c"), join("x", to="end"), a("end"))
    play = Play(fork(*edges), *steps)
    play.succeed("x")
    entries = play.succeed("main-2")
    assert entries[1:] == [BranchJoined("main-2-4", "join", 1, ("x",), (Arrival("main-2-4", "end", 1),))]
    assert list(play.owed()) == ["y", "main-2-4"]


def test_a_branch_that_begins_and_fails_at_a_join_fails_where_it_is() -> None:
    edges = (Edge("a", "x"), Edge("b"))
    steps = (a(), a("b", Edge("c", "y"), Edge("join")), a("c"), Step("join", "join", join=Join(("x",))))
    again = msgspec.structs.replace(steps[-1], edges=(Edge("c", "x"),))
    play = Play(fork(*edges), *steps[:-1], again)
    play.succeed("x")
    assert kinds(play.succeed("main-2")) == [StepCompleted, BranchJoined, RunFailed]
    assert play.run.failure is not None
    assert play.run.failure.type == "duplicate_branch"
    assert play.run.branches["main-2-4"].at == Arrival("main-2-4", "join", 1, "join", "main-2")


def test_a_join_may_be_the_end() -> None:
    play = Play(fork(Edge("a", "x"), Edge("join")), a(), join("x"))
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined, RunCompleted]
    assert play.run.output == {"x": OUTPUT}


def test_a_join_waits_through_the_retries_of_its_branches() -> None:
    """Row 19: a join waiting for a suspended branch is a suspended run, never a hang."""
    edges = (Edge("a", "x"), Edge("join"))
    play = Play(fork(*edges), a(), join("x"), retry={"a": (Retry(base_delay="1h"),)})
    at_ms = play.at_ms
    play.fail("x")
    assert (play.run.status, play.run.due_at_ms) == ("suspended", at_ms + 3_600_000)
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined, RunCompleted]


@takes("joins", "run --(its last branch completed)--> completed: RunCompleted")
def test_a_run_completes_with_its_last_branch() -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    assert kinds(play.tell(play.success("y", b"json.1:1"))) == [StepCompleted]
    entries = play.tell(play.success("x", b"json.1:2"))
    assert entries == [StepCompleted("x", "a", 1, 1, b"json.1:2", ()), RunCompleted("x")]
    assert (play.run.status, play.run.output, play.run.is_over) == ("completed", b"json.1:2", True)
    assert (play.run.due_at_ms, play.owed()) == (None, {})


def test_of_branches_that_end_in_one_turn_the_last_has_the_output() -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    assert play.succeed("y", "x")[-1] == RunCompleted("x")


@takes("joins", "run --(every open branch waits at a join)--> failed: RunFailed(join_unsatisfiable)")
def test_joins_that_wait_for_each_other_fail_the_run_at_once() -> None:
    """Row 19."""
    edges = (Edge("a", "x"), Edge("b", "y"))
    steps = (join("y", name="j"), join("x", name="k"))
    play = Play(fork(*edges), a("a", Edge("j")), a("b", Edge("k")), *steps)
    play.succeed("x")
    entries = play.succeed("y")
    assert kinds(entries) == [StepCompleted, RunFailed]
    failure = play.run.failure
    assert failure is not None
    assert (failure.type, failure.step) == ("join_unsatisfiable", "j")
    assert "y" in failure.message
    assert play.statuses() == {"main": "completed", "x": "failed", "y": "cancelled"}


def test_a_join_of_a_branch_that_can_no_longer_begin_fails_the_run() -> None:
    """Row 19."""
    edges = (Edge("a", "x"), Edge("join"))
    play = Play(fork(*edges), a(), join("x", "late", to="end"), a("end", Edge("b", "late")), a("b"))
    assert kinds(play.succeed("x")) == [StepCompleted, RunFailed]
    assert play.run.failure is not None
    assert "'join' still waits for: late" in play.run.failure.message


@pytest.mark.parametrize("first", [(), (fork(Edge("join")),)], ids=["start", "fork"])
def test_a_join_that_nobody_can_meet_from_the_start_fails_the_run(first: tuple[Step, ...]) -> None:
    """Row 19."""
    play = Play(*first, join("x", to="a"), a("a", Edge("b", "x")), a("b"))
    assert kinds(play.first) == [RunStarted, RunFailed]


@pytest.mark.xfail(strict=True, reason="a branch that begins at a join always waits there")
def test_of_two_branches_that_begin_at_a_join_one_waits() -> None:
    """Row 18."""
    play = Play(fork(Edge("a", "x"), Edge("join"), Edge("join")), a(), join("x", to="end"), a("end"))
    play.succeed("x")
    assert len(play.owed()) == 1


def test_of_two_branches_that_come_to_a_join_by_one_turn_one_waits() -> None:
    """Row 18: `y` walks into `out`, and so does `w`, whom the end of `x` lets go on."""
    edges = (Edge("a", "x"), Edge("b", "y"), Edge("in", "w"), Edge("c", "z"))
    steps = (a(), a("b", Edge("out")), a("c"), join("x", to="out", name="in"))
    play = Play(fork(*edges), *steps, join("z", to="end", name="out"), a("end"))
    play.succeed("x", "y")
    assert len(play.run.joining) == 1


# pause steps


TO_A, TO_B = Edge("a"), Edge("b")
SEEN = [Paused("main", "look", "")]


@takes("edges", "a pause step    the same, and who follows them is paused there")
@pytest.mark.parametrize("kind", ["task", "sleep", "wait_signal"])
def test_a_pause_step_pauses_the_branch_at_the_next_step(kind: str) -> None:
    """Row 31."""
    after = {"task": a("b"), "sleep": sleep(5_000, name="b"), "wait_signal": wait(name="b")}[kind]
    play = Play(a("a", Edge("pause")), pause(TO_B), after)
    entries = play.succeed()
    assert kinds(entries) == [StepCompleted, Paused]
    assert entries[1:] == SEEN
    assert (play.run.status, owed(play.run), play.run.due_at_ms) == ("paused", [], None)
    assert play.run.branches["main"].left_ms == (5_000 if kind == "sleep" else None)
    assert kinds(play.unpause()) == [Unpaused]
    assert play.run.status == ("running" if kind == "task" else "suspended")


def test_a_pause_step_may_be_the_first() -> None:
    play = Play(pause(TO_A), a())
    assert kinds(play.first) == [RunStarted, Paused]
    assert (play.run.status, play.owed()) == ("paused", {})
    play.unpause("main")
    assert kinds(play.succeed()) == [StepCompleted, RunCompleted]


def test_a_pause_step_with_several_edges_pauses_all_who_follow_them() -> None:
    play = Play(a("a", Edge("pause")), pause(Edge("b", "x"), TO_B), a("b"))
    assert play.succeed()[1:] == [Paused("x", "look", ""), Paused("main-2", "look", "")]
    assert (play.run.paused, play.owed()) == (2, {})
    play.unpause("x")
    assert (list(play.owed()), play.run.status) == (["x"], "running")


def test_a_pause_step_before_a_fork_pauses_its_branches() -> None:
    play = Play(pause(Edge("fork")), fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    assert play.first[1:] == [Paused("x", "look", ""), Paused("y", "look", "")]


def test_a_branch_may_start_at_a_pause_step() -> None:
    play = Play(fork(Edge("pause", "x"), Edge("b", "y")), pause(TO_A), a(), a("b"))
    assert play.first[1:] == [Paused("x", "look", "")]
    assert list(play.owed()) == ["y"]
    assert play.run.branches["x"].at == Arrival("x", "a", 1, "task", "main")


def test_a_branch_may_be_paused_at_a_join() -> None:
    """It waits there like any other, takes the branches, and is held after it."""
    edges = (Edge("a", "x"), Edge("pause"))
    play = Play(fork(*edges), a(), pause(Edge("join")), join("x", to="end"), a("end"))
    assert kinds(play.first) == [RunStarted, Paused]
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined]
    assert (play.run.status, play.owed()) == ("paused", {})
    play.unpause()
    assert list(play.owed()) == ["main-2"]


def test_who_ends_at_a_join_behind_a_pause_step_is_not_paused() -> None:
    edges = (Edge("a", "x"), Edge("join", "y"), Edge("b", "z"))
    play = Play(fork(*edges), a(), a("b", Edge("pause")), pause(Edge("join")), join("x", to="end"), a("end"))
    assert kinds(play.succeed("z")) == [StepCompleted]
    assert play.statuses()["z"] == "completed"


def test_a_join_may_lead_to_a_pause_step() -> None:
    play = Play(fork(Edge("a", "x"), Edge("join")), a(), join("x", to="pause"), pause(TO_B), a("b"))
    assert kinds(play.succeed("x")) == [StepCompleted, BranchJoined, Paused]


def test_pause_steps_in_a_row_pause_once() -> None:
    play = Play(pause(Edge("second")), pause(TO_A, name="second"), a())
    assert play.first[1:] == SEEN
    play.unpause()
    assert list(play.owed()) == ["main"]


def test_a_branch_that_begins_twice_behind_a_pause_step_is_not_paused() -> None:
    """Row 9: nothing of what would have followed is recorded."""
    again = pause(Edge("c", "z"), Edge("c", "x"))
    play = Play(fork(Edge("a", "x"), Edge("b")), a(), a("b", Edge("pause")), again, a("c"))
    entries = play.succeed("main-2")
    assert kinds(entries) == [StepCompleted, RunFailed]


# sleeps, signals and time-outs


@takes("waits", "sleeping --(TimerFired)--> at the next step: SleepEnded")
def test_a_sleep_ends_when_it_is_due() -> None:
    """Row 30, invariant 24: due is the stamp of the commit that began it, and the duration."""
    play = Play(a("a", Edge("nap")), sleep(5_000, TO_B), a("b"))
    at_ms = play.at_ms
    arrivals = (Arrival("main", "nap", 1, "sleep", None, Wait("", 5_000)),)
    assert play.succeed() == [StepCompleted("main", "a", 1, 1, OUTPUT, arrivals)]
    assert (play.run.status, play.run.due_at_ms) == ("suspended", at_ms + 5_000)
    due_at_ms = at_ms + 5_000
    assert owed(play.run) == [ArmTimer("main", due_at_ms, TimerFired("main", "nap", 1, due_at_ms))]
    assert play.fire() == [SleepEnded("main", "nap", 1, (Arrival("main", "b", 1),))]
    assert play.run.branches["main"].value == OUTPUT
    assert play.owed() == {"main": StartAttempt("main", "b", 1, 1)}


@pytest.mark.parametrize("step", [sleep(0), sleep(None, until_ms=5)], ids=["no time", "a moment in the past"])
def test_a_sleep_of_no_time_is_due_at_once(step: Step) -> None:
    """Row 30, invariant 28."""
    play = Play(step)
    assert play.run.due_at_ms == (5 if step.sleep == Sleep(None, 5) else STARTED_AT_MS)
    assert kinds(play.fire()) == [SleepEnded, RunCompleted]


def test_a_sleep_may_end_a_branch_that_a_join_waits_for() -> None:
    play = Play(fork(Edge("nap", "x"), Edge("join")), sleep(1), join("x", to="a"), a())
    assert kinds(play.fire("x")) == [SleepEnded, BranchJoined]


def test_a_join_waits_through_sleeps_and_waits() -> None:
    """Row 19: that is no join which can never be met."""
    play = Play(fork(Edge("nap", "x"), Edge("w", "y"), Edge("join")), sleep(1), wait(), join("x", "y"))
    assert (kinds(play.first), play.run.status) == ([RunStarted], "suspended")
    play.fire("x")
    assert kinds(play.tell(signal(1))) == [SignalReceived, BranchJoined, RunCompleted]


@takes("waits", "waiting --(SignalArrived, the awaited one)--> at the next step: SignalReceived")
def test_a_signal_is_the_value_of_who_waited_for_it() -> None:
    """Row 29."""
    play = Play(wait(TO_A, timeout_ms=9_000), a())
    assert (play.run.status, play.run.waits) == ("suspended", {"main": "go"})
    assert play.tell(signal(3)) == [SignalReceived("main", "w", 1, 3, b"json.1:3", (Arrival("main", "a", 1),))]
    assert play.run.branches["main"].value == b"json.1:3"
    assert (play.run.waits, play.timers()) == ({}, {})
    assert play.tell(signal(4)) == []


def waiters() -> Play:
    """`y` has come to wait before `x`, which began before it; both for `go`. `z` waits for something else."""
    edges = (Edge("a", "x"), Edge("w", "y"), Edge("other", "z"))
    other = wait(name="other", signal="other")
    play = Play(fork(*edges), a("a", Edge("w")), wait(Edge("b")), a("b"), other)
    play.succeed("x")
    return play


def received(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    return [(entry.branch, entry.seq) for entry in entries if isinstance(entry, SignalReceived)]


def test_a_signal_is_for_the_branch_that_has_waited_longest() -> None:
    """Row 28, invariant 20."""
    play = waiters()
    assert received(play.tell(signal(1))) == [("y", 1)]
    assert received(play.tell(signal(2))) == [("x", 2)]


def test_signals_and_waiters_of_one_turn_are_paired_in_their_order() -> None:
    """Row 28, invariant 20: the third finds nobody who waits, and stays where it is."""
    play = waiters()
    entries = play.tell(signal(1), signal(2), signal(3))
    assert received(entries) == [("y", 1), ("x", 2)]
    assert kinds(entries) == [SignalReceived, SignalReceived]


def test_a_branch_that_comes_to_wait_in_this_turn_gets_its_signal_in_the_next() -> None:
    play = Play(a("a", Edge("w")), wait())
    assert kinds(play.tell(play.success(), signal(1))) == [StepCompleted]
    assert received(play.tell(signal(1))) == [("main", 1)]


def test_a_branch_that_waits_again_for_the_same_is_a_later_one() -> None:
    play = Play(fork(Edge("w", "x"), Edge("w", "y")), wait(Edge("w")))
    assert received(play.tell(signal(1))) == [("x", 1)]
    assert received(play.tell(signal(2), signal(3))) == [("y", 2), ("x", 3)]


def test_a_run_waits_for_ever_where_nothing_else_is_said() -> None:
    play = Play(wait())
    assert (owed(play.run), play.run.due_at_ms, play.run.status) == ([], None, "suspended")


@takes("waits", "waiting --(TimerFired)--> where `on_timeout` leads: WaitTimedOut, or failed: RunFailed")
def test_a_time_out_leads_elsewhere_with_the_value_that_was_there() -> None:
    """Row 29."""
    play = Play(wait(TO_A, timeout_ms=5_000, to="b"), a(), a("b"))
    assert play.timers()["main"].due_at_ms == STARTED_AT_MS + 5_000
    assert play.fire() == [WaitTimedOut("main", "w", 1, (Arrival("main", "b", 1),))]
    assert (play.run.branches["main"].value, play.run.waits) == (INPUT, {})


@pytest.mark.parametrize("timeout_ms", [0, 5_000])
def test_a_time_out_that_leads_nowhere_fails_the_run(timeout_ms: int) -> None:
    """Rows 22 and 29."""
    play = Play(wait(TO_A, timeout_ms=timeout_ms), a())
    entries = play.fire()
    assert kinds(entries) == [RunFailed]
    failure = play.run.failure
    assert failure is not None
    assert (failure.type, failure.types, failure.step) == ("timeout", ("timeout", "TimeoutError"), "w")
    assert "'go'" in failure.message
    assert play.statuses() == {"main": "failed"}


LED_TO: dict[str, tuple[Step, list[str]]] = {
    "task": (a("b"), ["v"]),
    "fork": (fork(Edge("a", "x"), Edge("c", "y"), name="b"), ["x", "y"]),
    "pause": (pause(TO_A, name="b"), ["v"]),
    "join": (join("z", name="b"), ["v"]),
    "wait": (wait(timeout_ms=0, name="b"), ["v"]),
    "sleep": (sleep(0, name="b"), ["v"]),
}


@pytest.mark.parametrize("kind", LED_TO)
def test_a_time_out_may_lead_to_any_kind_of_step(kind: str) -> None:
    target, branches = LED_TO[kind]
    start = fork(Edge("w", "v"), Edge("c", "z"), name="start")
    play = Play(start, wait(TO_A, timeout_ms=5, to="b"), a(), target, a("c"))
    entries = play.fire("v")
    assert kinds(entries) == [WaitTimedOut, *([Paused] if kind == "pause" else [])]
    assert [each.branch for each in entries[0].arrivals] == branches  # type: ignore[union-attr]


def test_a_signal_before_the_time_out_of_one_turn_wins() -> None:
    """Row 29, invariant 23: exactly one of them is recorded, the earlier one."""
    play = Play(wait(TO_A, timeout_ms=5_000, to="b"), a(), a("b"))
    fired = play.fired()
    assert kinds(play.tell(signal(1), fired)) == [SignalReceived]
    assert play.tell(fired) == []


@pytest.mark.parametrize(("to", "kind"), [("b", WaitTimedOut), (None, RunFailed)])
def test_a_time_out_before_the_signal_of_one_turn_wins(to: str | None, kind: type[Entry]) -> None:
    play = Play(wait(TO_A, TO_B, timeout_ms=5_000, to=to), a(), a("b"))
    assert kinds(play.tell(play.fired(), signal(1))) == [kind]


def test_of_two_waiters_the_one_whose_time_is_up_leaves_the_signal_to_the_other() -> None:
    play = Play(fork(Edge("w", "x"), Edge("v", "y")), wait(timeout_ms=5, to="a"), a(), wait(name="v"))
    entries = play.tell(play.fired("x"), signal(1))
    assert kinds(entries) == [WaitTimedOut, SignalReceived]
    assert received(entries) == [("y", 1)]


@takes("waits", "run --(DeadlinePassed)--> failed: RunFailed")
def test_a_run_that_is_not_over_in_time_fails() -> None:
    """Row 24."""
    play = Play(fork(Edge("a", "x"), Edge("w", "y"), Edge("nap", "z")), a(), wait(), sleep(99), timeout=30)
    assert play.run.due_at_ms == 0
    due_at_ms = STARTED_AT_MS + 30_000
    assert play.timers()[""] == ArmTimer("", due_at_ms, DeadlinePassed(due_at_ms))
    entries = play.fire("")
    assert kinds(entries) == [RunFailed]
    failure = play.run.failure
    assert failure is not None
    assert (failure.type, failure.step) == ("timeout", "")
    assert failure.message.startswith("the run was not over 30 s after its start")
    assert play.statuses() == {"main": "completed", "x": "cancelled", "y": "cancelled", "z": "cancelled"}
    assert (owed(play.run), play.run.deadline_ms) == ([], None)


def test_a_run_that_is_over_in_time_owes_nothing() -> None:
    play = Play(a(), timeout=30)
    late = play.fired("")
    play.succeed()
    assert (owed(play.run), play.run.deadline_ms, play.tell(late)) == ([], None, [])


@takes("waits", "any other --(any of them)--> unchanged, the event is stale")
@pytest.mark.parametrize(
    "event",
    [
        TimerFired("ghost", "nap", 1, STARTED_AT_MS + 5_000),
        TimerFired("main", "w", 1, STARTED_AT_MS + 5_000),
        TimerFired("main", "nap", 2, STARTED_AT_MS + 5_000),
        TimerFired("main", "nap", 1, STARTED_AT_MS + 4_999),
        DeadlinePassed(STARTED_AT_MS + 29_999),
        signal(1),
    ],
    ids=str,
)
def test_what_the_clock_does_not_say_means_nothing(event: Event) -> None:
    play = Play(sleep(5_000, Edge("w")), wait(), timeout=30)
    assert play.tell(event) == []
    assert play.run.status == "suspended"


def test_a_timer_that_was_set_before_a_pause_means_nothing_after_it() -> None:
    """Invariants 26 and 27."""
    play = Play(sleep(5_000), timeout=30)
    old = [play.timers()[""].then, play.timers()["main"].then]
    play.pause()
    play.at_ms += 60_000
    assert [play.tell(each) for each in old] == [[], []]  # type: ignore[arg-type]
    play.unpause()
    assert [play.tell(each) for each in old] == [[], []]  # type: ignore[arg-type]
    assert kinds(play.fire()) == [SleepEnded, RunCompleted]


# control


@takes("control", "unfinished --(pause)--> the same, but nothing starts: Paused")
def test_nothing_starts_in_a_run_that_is_paused() -> None:
    """Row 32, invariant 31."""
    play = Play(a("a", Edge("b")), a("b"))
    running = play.success()
    assert play.pause() == [Paused("", "wait", "ops")]
    assert (play.run.status, owed(play.run), play.run.due_at_ms) == ("paused", [], None)
    assert kinds(play.tell(running)) == [StepCompleted], "what runs already is completed"
    assert (play.run.status, owed(play.run)) == ("paused", [])


@takes("control", "paused --(unpause)--> as it was: Unpaused")
def test_a_run_that_is_unpaused_goes_on() -> None:
    play = Play(a())
    play.pause()
    assert play.unpause() == [Unpaused("", "ops")]
    assert (play.run.status, list(play.owed())) == ("running", ["main"])


def clocks() -> Play:
    """A branch of each kind that waits, in a run with a time-out: all of them began at one moment."""
    named = sleep(None, until_ms=STARTED_AT_MS + 50_000, name="named")
    edges = (Edge("a", "retry"), Edge("nap", "sleep"), Edge("w", "wait"), Edge("named", "named"))
    steps = (a(), sleep(20_000), wait(timeout_ms=30_000), named)
    policies = {"a": (Retry(base_delay="40s"),)}
    play = Play(fork(*edges), *steps, retry=policies, timeout=100)
    play.at_ms = STARTED_AT_MS
    play.fail("retry")
    return play


CLOCKS = {"retry": 40_000, "sleep": 20_000, "wait": 30_000, "named": 50_000, "": 100_000}


def dues(play: Play) -> dict[str, int]:
    return {branch: timer.due_at_ms - STARTED_AT_MS for branch, timer in play.timers().items()}


def test_a_pause_moves_every_clock_by_its_own_length() -> None:
    """Row 32, invariant 27; a moment that was named as such stays where it is (row 30)."""
    play = clocks()
    assert dues(play) == CLOCKS
    play.at_ms = STARTED_AT_MS + 10_000
    play.pause()
    assert dues(play) == {"named": 50_000}
    play.at_ms = STARTED_AT_MS + 13_333
    play.unpause()
    assert dues(play) == {name: ms + 3_333 for name, ms in CLOCKS.items()} | {"named": 50_000}


def test_a_clock_that_has_run_out_before_the_pause_is_due_when_it_ends() -> None:
    play = clocks()
    play.at_ms = STARTED_AT_MS + 25_000
    play.pause()
    assert play.run.branches["sleep"].left_ms == -5_000
    play.unpause()
    assert dues(play)["sleep"] <= play.at_ms - STARTED_AT_MS


def test_a_pause_that_freezes_nothing_holds_back_attempts_only() -> None:
    """Row 32: `freeze=False` lets the clocks run; a retry that is due still waits for the end of the pause."""
    play = clocks()
    play.pause(freezes=False)
    assert dues(play) == {name: ms for name, ms in CLOCKS.items() if name != "retry"}
    assert kinds(play.fire("sleep")) == [SleepEnded]
    play.unpause()
    assert dues(play)["retry"] == CLOCKS["retry"]
    assert dues(play)[""] == CLOCKS[""]


def statuses_of(run: Run) -> tuple[str, str]:
    return run.status, run.branches["sleep"].status


def test_a_pause_of_a_branch_stops_its_clock_and_no_other() -> None:
    play = clocks()
    play.pause("sleep")
    assert dues(play) == {name: ms for name, ms in CLOCKS.items() if name != "sleep"}
    assert statuses_of(play.run) == ("paused", "sleeping")
    play.unpause("sleep")
    assert statuses_of(play.run) == ("suspended", "sleeping")
    assert dues(play)["sleep"] == CLOCKS["sleep"] + 1_000


def test_a_branch_under_two_pauses_stands_still_until_both_are_over() -> None:
    play = clocks()
    play.pause("sleep")
    play.pause()
    play.unpause("sleep")
    assert "sleep" not in dues(play)
    play.unpause()
    assert dues(play)["sleep"] == CLOCKS["sleep"] + 3_000


def test_a_clock_that_begins_in_a_pause_stands_still_from_the_start() -> None:
    play = Play(a("a", Edge("nap")), sleep(5_000), retry={"a": (Retry(base_delay="3s"),)})
    running = play.success()
    play.pause()
    play.tell(running)
    assert (play.run.branches["main"].left_ms, owed(play.run)) == (5_000, [])
    at_ms = play.at_ms
    play.unpause()
    assert play.run.due_at_ms == at_ms + 5_000


def test_new_branches_of_a_paused_branch_are_paused() -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a("a", TO_B, TO_B), a("b"))
    running = play.success("x")
    play.pause("x")
    play.tell(running)
    assert list(play.owed()) == ["y"]
    assert play.run.paused == 2


def test_unpausing_the_run_ends_the_pauses_of_branches_too() -> None:
    play = Play(fork(Edge("a", "x"), Edge("a", "y")), a())
    play.pause("x")
    play.pause()
    assert play.unpause() == [Unpaused("", "ops")]
    assert (list(play.owed()), play.run.paused, play.run.pause) == (["x", "y"], 0, None)
    play.pause("y")
    assert kinds(play.unpause()) == [Unpaused]


def test_a_paused_run_receives_signals() -> None:
    """Rows 32 and 35, invariants 21 and 31: the branch moves on, and is held at the next step."""
    play = Play(wait(TO_A), a())
    play.pause()
    assert kinds(play.tell(signal(1))) == [SignalReceived]
    assert (play.run.status, owed(play.run)) == ("paused", [])


def test_a_run_may_complete_under_a_pause() -> None:
    play = Play(a(), timeout=30)
    running = play.success()
    play.pause()
    assert kinds(play.tell(running)) == [StepCompleted, RunCompleted]
    assert (play.run.status, play.run.deadline_ms, play.run.deadline_left_ms) == ("completed", None, None)


def deadlines_of(run: Run) -> tuple[int | None, int | None]:
    return run.deadline_ms, run.deadline_left_ms


def test_a_deadline_stands_still_only_in_a_pause_of_the_whole_run() -> None:
    play = Play(a(), timeout=30)
    play.pause("main")
    assert deadlines_of(play.run) == (STARTED_AT_MS + 30_000, None)
    play.pause()
    assert deadlines_of(play.run) == (None, 28_000)


def test_a_time_out_may_fail_a_run_whose_pause_freezes_nothing() -> None:
    play = Play(a(), timeout=30)
    play.pause(freezes=False)
    assert kinds(play.fire("")) == [RunFailed]


@takes("control", "unfinished --(cancel)--> cancelled: RunCancelled")
@pytest.mark.parametrize("is_paused", [False, True])
def test_a_run_is_cancelled_in_any_unfinished_state(is_paused: bool) -> None:
    """Row 33, invariants 29 and 30."""
    play = clocks()
    if is_paused:
        play.pause()
    wanted = RunCancelled("not wanted", "ops")
    assert play.ask(wanted) == [wanted]
    assert (play.run.status, play.run.cancel, owed(play.run)) == ("cancelled", wanted, [])
    assert set(play.statuses().values()) == {"completed", "cancelled"}
    assert play.ask(wanted, Paused("", "", ""), RunReopened("")) == []
    assert play.tell(signal(1)) == []


def test_a_cancel_before_the_last_step_of_one_turn_wins() -> None:
    """Row 33, invariant 30: it wins over a completion that is not committed."""
    play = Play(a())
    assert kinds(play.tell(ControlRequested(1, RunCancelled("", "")), play.success())) == [RunCancelled]


def test_a_cancel_after_the_last_step_of_one_turn_wins_too_and_keeps_its_output() -> None:
    play = Play(a())
    assert kinds(play.tell(play.success(), ControlRequested(1, RunCancelled("", "")))) == [
        StepCompleted,
        RunCancelled,
    ]
    assert (play.run.status, play.run.output, play.run.branches["main"].value) == ("cancelled", None, OUTPUT)


def test_a_failure_before_a_cancel_of_one_turn_wins() -> None:
    play = Play(a())
    assert kinds(play.tell(play.failure(), ControlRequested(1, RunCancelled("", "")))) == [RunFailed]


def test_of_a_pause_and_a_completion_of_one_turn_both_are_recorded() -> None:
    play = Play(a("a", Edge("b")), a("b"))
    entries = play.tell(ControlRequested(1, Paused("", "", "ops")), play.success())
    assert (kinds(entries), play.owed()) == ([Paused, StepCompleted], {})


@takes("control", "any other --(any)--> unchanged: asking twice is harmless")
def test_asking_twice_is_harmless() -> None:
    play = Play(fork(Edge("a", "x"), Edge("a", "y")), a())
    again = Paused("", "another reason", "other")
    assert kinds(play.ask(Paused("", "", ""), again)) == [Paused]
    assert kinds(play.ask(Paused("x", "", ""), Paused("x", "", ""))) == [Paused]
    assert play.ask(again, Paused("x", "", "")) == []
    assert kinds(play.ask(Unpaused("x", ""), Unpaused("x", ""), Unpaused("", ""), Unpaused("", ""))) == [
        *[Unpaused, Unpaused]
    ]
    assert play.ask(Unpaused("", ""), Unpaused("x", ""), RunReopened("")) == []


@pytest.mark.parametrize("branch", ["x", "ghost"])
def test_a_branch_that_is_over_or_unknown_is_not_paused(branch: str) -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    play.succeed("x")
    assert play.pause(branch) == []
    assert play.unpause(branch) == []


def test_a_pause_of_a_branch_that_is_over_is_over_too() -> None:
    """Asking twice is harmless: there is nothing to unpause."""
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    running = play.success("x")
    play.pause("x")
    play.tell(running)
    assert play.run.status == "running"
    assert play.unpause() == []


def test_control_is_the_same_for_who_has_no_definition() -> None:
    """Invariant 30: a run can be controlled that nobody here can drive."""
    paused, unpaused, cancelled = Paused("", "", ""), Unpaused("", ""), RunCancelled("", "")
    wanted: list[Control] = [paused, paused, unpaused, cancelled, paused]
    play = clocks()
    events = [ControlRequested(0, each) for each in wanted]
    assert (
        controlled(play.run, events) == decide(play.workflow, play.run, events) == [paused, unpaused, cancelled]
    )


# retries of failed runs


def failing(*, timeout: float | None = None) -> Play:
    """A branch of each kind, all of which are open when `fails` fails at its second attempt."""
    edges = [Edge(name, name) for name in ("fails", "works", "retries", "nap", "w")]
    steps = (a("fails"), a("works"), a("retries"), sleep(20_000), wait(timeout_ms=30_000))
    policies = {"fails": (Retry(max_retries=1),), "retries": (Retry(base_delay="40s"),)}
    edges += [Edge("named", "named"), Edge("join")]
    named = sleep(None, until_ms=STARTED_AT_MS + 50_000, name="named")
    play = Play(fork(*edges), *steps, named, join("works", to="end"), a("end"), retry=policies, timeout=timeout)
    play.at_ms = STARTED_AT_MS
    play.fail("retries")
    play.fail("fails")
    play.fail("fails")
    assert play.run.status == "failed"
    return play


@takes("control", "failed --(retry)--> at the failed step again: RunReopened")
def test_a_retry_goes_on_at_the_failed_step() -> None:
    """Row 52: with the next attempt number and new budgets."""
    play = failing()
    assert play.ask(RunReopened("ops")) == [RunReopened("ops")]
    assert play.owed()["fails"] == StartAttempt("fails", "fails", 1, 3)
    assert (play.run.status, play.run.failure) == ("running", None)
    assert kinds(play.fail("fails")) == [RetryScheduled]
    assert kinds(play.succeed("fails")) == [StepCompleted]


def test_a_retry_lets_the_siblings_go_on_as_they_were() -> None:
    """Row 52: with what was left of their clocks when the run failed, at 2 s."""
    play = failing()
    assert play.statuses() == {
        "main": "completed",
        "fails": "failed",
        **dict.fromkeys(["works", "retries", "nap", "w", "named", "main-7"], "cancelled"),
    }
    play.at_ms = STARTED_AT_MS + 102_000
    play.ask(RunReopened("ops"))
    assert play.statuses() == {
        "main": "completed",
        "fails": "active",
        "works": "active",
        "retries": "backoff",
        "nap": "sleeping",
        "w": "waiting",
        "named": "sleeping",
        "main-7": "joining",
    }
    assert dues(play) == {"retries": 140_000, "nap": 120_000, "w": 130_000, "named": 50_000}
    assert play.owed()["works"] == StartAttempt("works", "works", 1, 1)
    assert play.owed()["retries"] == StartAttempt("retries", "retries", 1, 2)
    assert play.run.waits == {"w": "go"}
    assert kinds(play.tell(signal(1), play.success("works"))) == [SignalReceived, StepCompleted, BranchJoined]


def test_a_wait_that_timed_out_waits_anew() -> None:
    play = Play(wait(TO_A, timeout_ms=5_000), a())
    play.fire()
    at_ms = play.at_ms
    play.ask(RunReopened("ops"))
    assert play.timers()["main"].due_at_ms == at_ms + 5_000
    assert kinds(play.tell(signal(1))) == [SignalReceived]


def test_a_run_that_was_not_over_in_time_has_its_time_again() -> None:
    play = failing(timeout=100)
    at_ms = play.at_ms
    play.ask(RunReopened("ops"))
    assert play.run.deadline_ms == at_ms + 100_000
    entries = play.fire("")
    assert kinds(entries) == [RunFailed]
    assert kinds(play.ask(RunReopened("ops"))) == [RunReopened]
    assert play.owed()["fails"] == StartAttempt("fails", "fails", 1, 3), "nothing of it failed this time"


def test_a_retry_ends_all_pauses() -> None:
    play = Play(fork(Edge("a", "x"), Edge("nap", "y")), a(), sleep(20_000))
    running = play.failure("x")
    play.pause("y")
    play.pause()
    play.tell(running)
    play.at_ms = STARTED_AT_MS + 60_000
    play.ask(RunReopened("ops"))
    assert (play.run.status, play.run.pause, play.run.paused) == ("running", None, 0)
    assert dues(play)["y"] == 60_000 + 20_000 - 1_000


@pytest.mark.parametrize("status", ["running", "completed", "cancelled"])
def test_only_a_failed_run_is_retried(status: str) -> None:
    play = Play(a())
    if status == "completed":
        play.succeed()
    if status == "cancelled":
        play.ask(RunCancelled("", ""))
    assert play.run.status == status
    assert play.ask(RunReopened("ops")) == []


def test_joins_that_can_never_be_met_are_not_retried() -> None:
    """Rows 19 and 52: it would fail again at once."""
    play = Play(fork(Edge("a", "x"), Edge("join")), a(), join("x", "y", to="b"), a("b", Edge("a", "y")))
    play.succeed("x")
    assert play.run.failure is not None
    assert play.run.failure.type == "join_unsatisfiable"
    assert play.ask(RunReopened("ops")) == []


def test_a_branch_that_cannot_begin_again_is_not_retried() -> None:
    """Rows 9 and 52: the step has completed, and where it leads can be entered once; nothing can mend that."""
    edges = (Edge("a", "x"), Edge("b", "y"), Edge("c"))
    play = Play(fork(*edges), a(), a("b", Edge("c", "x")), a("c"))
    play.succeed("y")
    assert play.run.failure is not None
    assert play.run.failure.type == "duplicate_branch"
    assert play.ask(RunReopened("ops")) == []


def test_a_join_that_was_met_in_the_turn_of_the_failure_goes_on_after_a_retry() -> None:
    """Row 18: no branch waits for nothing."""
    edges = (Edge("l", "left"), Edge("r", "right"), Edge("join"))
    play = Play(fork(*edges), a("l"), a("r"), join("left", to="end"), a("end"))
    play.tell(play.success("left"), play.failure("right"))
    play.ask(RunReopened("ops"))
    play.tell()  # a worker that takes a run over decides what is settled already
    assert set(play.owed()) == {"right", "main-3"}


def test_who_waited_longest_still_does_after_a_retry() -> None:
    """Row 28."""
    edges = (Edge("a", "x"), Edge("w", "y"), Edge("b", "z"))
    play = Play(fork(*edges), a("a", Edge("w")), wait(), a("b"))
    play.succeed("x")
    assert list(play.run.waits) == ["y", "x"]
    play.fail("z")
    play.ask(RunReopened("ops"))
    assert received(play.tell(signal(1))) == [("y", 1)]


def test_a_wait_that_begins_anew_is_the_last_in_the_queue() -> None:
    """Rows 28 and 52."""
    play = Play(fork(Edge("w", "x"), Edge("v", "y")), wait(TO_A, timeout_ms=5_000), wait(name="v"), a())
    play.fire("x")
    play.ask(RunReopened("ops"))
    assert received(play.tell(signal(1))) == [("y", 1)]


# the turn as a whole


def bound_journals(monkeypatch: pytest.MonkeyPatch, entries_max: int) -> None:
    for module in (deciding, steps, turn):
        monkeypatch.setattr(module, "JOURNAL_ENTRIES_MAX", entries_max, raising=False)


def test_a_journal_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits: 50,000 entries, then a typed failure that says the way out."""
    assert turn.JOURNAL_ENTRIES_MAX == 50_000
    bound_journals(monkeypatch, 3)
    play = Play(a("a", Edge("a")))
    assert kinds(play.succeed() + play.succeed()) == [StepCompleted, StepCompleted]
    assert play.run.position == 3
    entries = play.succeed()
    assert kinds(entries) == [StepCompleted, RunFailed]
    assert entries[1].failure.type == "journal_limit"  # type: ignore[union-attr]
    assert "child runs" in entries[1].failure.message  # type: ignore[union-attr]
    assert play.run.is_over


def test_a_run_may_end_with_the_last_entry_of_its_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_journals(monkeypatch, 2)
    play = Play(a())
    assert kinds(play.succeed()) == [StepCompleted, RunCompleted]


def test_the_bound_of_a_journal_is_the_same_for_all_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_journals(monkeypatch, 3)
    play = Play(wait(Edge("w")))
    for seq in (1, 2):
        assert kinds(play.tell(signal(seq))) == [SignalReceived]
    assert kinds(play.pause()) == [Paused, RunFailed]
    assert play.run.failure is not None
    assert play.run.failure.type == "journal_limit"


def test_a_retry_of_a_journal_that_is_full_fails_with_the_next_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_journals(monkeypatch, 3)
    play = Play(a("a", Edge("a")))
    assert kinds(play.succeed() + play.succeed() + play.succeed())[-1] is RunFailed
    # Nobody who has the definition asks for it: it is recorded from outside.
    for entry in controlled(play.run, [ControlRequested(0, RunReopened("ops"))]):
        evolve(play.run, entry, play.at_ms)
    assert play.run.status == "running"
    assert kinds(play.succeed()) == [StepCompleted, RunFailed]


def test_the_stale_means_nothing_to_a_run_whose_journal_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 29: above all not where that has failed it already."""
    bound_journals(monkeypatch, 3)
    play = Play(a("a", Edge("a")))
    once = play.success()
    assert kinds(play.succeed() + play.succeed() + play.succeed())[-1] is RunFailed
    assert (play.tell(once), play.tell()) == ([], [])
    for entry in controlled(play.run, [ControlRequested(0, RunReopened("ops"))]):
        evolve(play.run, entry, play.at_ms)
    assert (play.tell(once), play.tell()) == ([], [])


def test_no_event_decides_nothing() -> None:
    play = forked()
    assert play.tell() == []
    play.succeed("left", "right")
    assert play.tell() == []


# every row is taken

TABLE_HEAD = re.compile(r"^State +--\(.+\)-->")
TABLE_ROW = re.compile(r"^(?!State ).+ --\(.+\)--> .+")


def rows_of(docstring: str) -> list[str]:
    """Rows of the tables in a module's docstring, blanks squeezed; none where there is no table."""
    rows: list[str] = []
    in_table = False
    for line in docstring.splitlines():
        is_head = TABLE_HEAD.match(line) is not None
        if (in_table and line.strip()) or TABLE_ROW.match(line):
            rows.append(" ".join(line.split()))
        in_table = is_head or (in_table and bool(line.strip()))
    return rows


def all_rows() -> set[tuple[str, str]]:
    names = [module.name for module in pkgutil.iter_modules(core.__path__)]
    heads = {name: importlib.import_module(f"holdfast.core.{name}").__doc__ or "" for name in names}
    return {(name, row) for name, head in heads.items() for row in rows_of(head)}


def test_the_tables_are_found() -> None:
    modules = {"steps", "retries", "edges", "joins", "waits", "control", "operations"}
    assert modules <= {module for module, _ in all_rows()}
    planted = "Title.\n\nhere   --(Event)-->  there: Entry\n\nState --(x)--> State: y\none  two\n\ntext"
    assert rows_of(planted) == ["here --(Event)--> there: Entry", "one two"]


def test_every_row_of_every_table_is_taken_by_a_test() -> None:
    assert test_core_operations.MODULE in {module for module, _ in taken}, "its tests are beside these"
    assert all_rows() - taken == set()


def test_every_row_that_a_test_takes_is_still_in_its_table() -> None:
    assert taken - all_rows() == set()
