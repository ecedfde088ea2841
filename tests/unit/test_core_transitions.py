"""Every row of every transition table of the core, one test at least for each (semantics rows 8, 9, 18 to 23).

A module of the core shows its transitions in a table at its head. `takes` says which rows a test takes; a
row that no test takes fails the last tests of this file.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec
import pytest

from holdfast import core
from holdfast.core import decide as deciding
from holdfast.core import steps, turn
from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, StartAttempt
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
from holdfast.core.events import AttemptFailed, AttemptSucceeded, Event, StartRequested
from holdfast.core.invariants import check
from holdfast.core.run import Run, evolve, owed
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Step
from holdfast.definition.task import Task
from holdfast.definition.workflow import Workflow

Test = TypeVar("Test", bound=Callable[..., None])
INPUT = b'json.1:"input"'
OUTPUT = b'json.1:"output"'
STARTED_AT_MS = 1_000_000
taken: set[tuple[str, str]] = set()


def takes(module: str, row: str) -> Callable[[Test], Test]:
    """Say that a test takes this row of the table at the head of `holdfast.core.<module>`."""
    taken.add((module, " ".join(row.split())))
    return lambda test: test


class CardError(Exception): ...


class Play:
    """One run and its workflow; `tell` decides events together and commits, a second after the last."""

    def __init__(self, *steps: Step, retry: Mapping[str, tuple[Retry, ...]] | None = None) -> None:
        names = {step.task for step in steps if step.task is not None}
        tasks = [Task(len, name=name, retry=(retry or {}).get(name, ())) for name in sorted(names)]
        self.workflow = Workflow("w", steps, tasks=tasks)
        self.run = Run("r")
        self.at_ms = STARTED_AT_MS
        self.first = self.tell(StartRequested(INPUT))

    def tell(self, *events: Event) -> list[Entry]:
        entries = decide(self.workflow, self.run, events)
        for entry in entries:
            evolve(self.run, entry, self.at_ms)
        self.at_ms += 1_000
        assert check(self.run) == []
        return entries

    def owed(self) -> dict[str, StartAttempt]:
        effects = [each.then if isinstance(each, ArmTimer) else each for each in owed(self.run)]
        return {effect.branch: effect for effect in effects}

    def success(self, branch: str = "main", output: bytes = OUTPUT, **sets: bytes) -> AttemptSucceeded:
        at = self.owed()[branch]
        return AttemptSucceeded(branch, at.step, at.visit, at.attempt, output, sets)

    def failure(self, branch: str = "main", *types: str, chance: float = 0.5) -> AttemptFailed:
        at = self.owed()[branch]
        types = types or ("ValueError",)
        return AttemptFailed(branch, at.step, at.visit, at.attempt, Failure(types[0], "no", types), chance)

    def succeed(self, *branches: str) -> list[Entry]:
        return self.tell(*[self.success(branch) for branch in branches or ("main",)])

    def fail(self, branch: str = "main", *types: str) -> list[Entry]:
        return self.tell(self.failure(branch, *types))

    def statuses(self) -> dict[str, str]:
        return {branch.id: branch.status for branch in self.run.branches.values()}


def a(name: str = "a", *edges: Edge) -> Step:
    return Step(name, task=name, edges=edges)


def fork(*edges: Edge, name: str = "fork") -> Step:
    return Step(name, "fork", edges=edges)


def join(*branches: str, to: str = "", name: str = "join") -> Step:
    return Step(name, "join", join=Join(branches), edges=(Edge(to),) if to else ())


def kinds(entries: Iterable[Entry]) -> list[type[Entry]]:
    return [type(entry) for entry in entries]


def forked() -> Play:
    """`left` and `right` at work, `main-3` waiting for both."""
    edges = (Edge("l", "left"), Edge("r", "right"), Edge("join"))
    return Play(fork(*edges), a("l"), a("r"), join("left", "right", to="end"), a("end"))


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


@takes("retries", "active --(AttemptFailed, a policy fits and has budget)--> backoff: RetryScheduled")
def test_a_failure_with_budget_is_tried_again_later() -> None:
    """Row 23, invariants 15 and 16: the attempt and its time are recorded before its body runs."""
    play = Play(a(), retry={"a": (Retry(max_retries=2, base_delay="5s"),)})
    at_ms = play.at_ms
    event = play.failure()
    assert play.tell(event) == [RetryScheduled("main", "a", 1, 2, 5_000, "all", event.failure)]
    branch = play.run.branches["main"]
    assert (branch.status, branch.attempt, branch.due_at_ms) == ("backoff", 2, at_ms + 5_000)
    assert branch.failure == event.failure
    assert owed(play.run) == [ArmTimer(at_ms + 5_000, StartAttempt("main", "a", 1, 2))]
    assert (play.run.status, play.run.due_at_ms) == ("suspended", at_ms + 5_000)


def test_a_retry_that_succeeds_goes_on_with_a_clean_slate() -> None:
    policies = (Retry(max_retries=1),)
    play = Play(a("a", Edge("b")), a("b"), retry={"a": policies, "b": policies})
    play.fail()
    assert kinds(play.succeed()) == [StepCompleted]
    branch = play.run.branches["main"]
    assert (branch.attempt, branch.due_at_ms, branch.budgets, branch.failure) == (1, 0, {}, None)
    assert kinds(play.fail()) == [RetryScheduled]


@takes("retries", "active --(AttemptFailed, none does)--> failed, and the run with it: RunFailed")
def test_a_failure_without_policy_fails_the_run() -> None:
    play = Play(a())
    event = play.failure()
    assert play.tell(event) == [RunFailed("main", "a", 1, 1, event.failure)]
    assert (play.run.status, play.run.failure) == ("failed", event.failure)
    assert play.run.branches["main"].failure == event.failure


def test_a_failure_beyond_the_budget_fails_the_run() -> None:
    """Invariant 15."""
    play = Play(a(), retry={"a": (Retry(max_retries=2),)})
    assert kinds(play.fail() + play.fail() + play.fail()) == [RetryScheduled, RetryScheduled, RunFailed]
    entry = RunFailed("main", "a", 1, 3, Failure("ValueError", "no", ("ValueError",)))
    assert play.run.failure == entry.failure


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
    assert play.tell(event) == [RunFailed("right", "r", 1, 1, event.failure)]
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
    assert (play.run.backoffs, owed(play.run), play.run.due_at_ms) == ({}, [], None)


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
    assert {"steps", "retries", "edges", "joins"} <= {module for module, _ in all_rows()}
    planted = "Title.\n\nhere   --(Event)-->  there: Entry\n\nState --(x)--> State: y\none  two\n\ntext"
    assert rows_of(planted) == ["here --(Event)--> there: Entry", "one two"]


def test_every_row_of_every_table_is_taken_by_a_test() -> None:
    assert all_rows() - taken == set()


def test_every_row_that_a_test_takes_is_still_in_its_table() -> None:
    assert taken - all_rows() == set()
