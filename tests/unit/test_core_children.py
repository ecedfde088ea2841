"""What a run has to do with those it has started (row 56, invariant 36)."""

import pytest

from holdfast.core.children import outcome, passed_down, started
from holdfast.core.decide import decide
from holdfast.core.entries import (
    Arrival,
    Child,
    Control,
    Entry,
    Failure,
    OperationBegun,
    Paused,
    RunCancelled,
    RunCompleted,
    RunFailed,
    StepCompleted,
    Unpaused,
)
from holdfast.core.events import ControlRequested, Event
from holdfast.core.header import run_after
from holdfast.core.run import Value
from holdfast.definition.step import Edge
from tests.unit.core_plays import ALWAYS, FAILURE, OUTPUT, Body, Play, a, fork, join

X, Y = Child("run-x", "c"), Child("run-y", "c")


def parents() -> tuple[Play, Body, Body]:
    """Two branches, each of which has started a child that it waits for."""
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"), retry=ALWAYS)
    x, y = Body(play, "x"), Body(play, "y")
    play.tell(x.starts("c#1", "run-x"), y.starts("g#1/1/c#1", "run-y"))
    assert play.run.children == {"x\0c#1": X, "y\0g#1/1/c#1": Y}
    return play, x, y


def told(play: Play, *events: Event) -> list[tuple[Child, Control]]:
    entries = decide(play.workflow, play.run, events)
    return passed_down(play.run, run_after(play.run, entries), entries)


def left(play: Play, *entries: Entry) -> Value | Failure | None:
    return outcome(run_after(play.run, [*entries]))


def wanted(*controls: Control) -> list[Event]:
    return [ControlRequested(n, each) for n, each in enumerate(controls)]


def test_a_run_without_children_passes_nothing_down() -> None:
    play = Play(a())
    assert told(play, *wanted(RunCancelled("", ""))) == []


def test_a_cancel_goes_down_to_all_children() -> None:
    """Row 33: as it was asked for."""
    play, _, _ = parents()
    cancel = RunCancelled("not wanted", "ops")
    assert told(play, *wanted(cancel)) == [(X, cancel), (Y, cancel)]


def test_a_pause_goes_down_to_the_children_of_who_is_paused() -> None:
    """For a child it is the whole of it that is paused."""
    play, _, _ = parents()
    paused, one = Paused("", "wait", "ops", freezes=False), Paused("y", "wait", "ops")
    assert told(play, *wanted(paused)) == [(X, paused), (Y, paused)]
    whole = Paused("", "wait", "ops")
    assert told(play, *wanted(one)) == [(Y, whole)]
    play.ask(one)
    assert told(play, *wanted(Unpaused("y", "me"))) == [(Y, Unpaused("", "me"))]
    assert told(play, *wanted(Unpaused("", "me"))) == [(X, Unpaused("", "me")), (Y, Unpaused("", "me"))]


def test_what_is_asked_in_one_turn_goes_down_in_its_order() -> None:
    play, _, _ = parents()
    asked: list[Control] = [Paused("", "", ""), Unpaused("", "")]
    assert told(play, *wanted(*asked)) == [(child, each) for child in (X, Y) for each in asked]


@pytest.mark.parametrize("fails", [True, False])
def test_a_child_that_has_ended_is_told_nothing(fails: bool) -> None:
    play, x, _ = parents()
    assert told(play, x.ended("c#1", child="run-x", fails=fails)) == []


def test_a_child_that_its_parent_has_cut_off_is_cancelled() -> None:
    """It has failed there, and nothing has come from it."""
    play, x, _ = parents()
    [(child, control)] = told(play, x.raises("c#1"))
    assert (child, type(control)) == (X, RunCancelled)


def test_a_child_that_has_ended_is_told_nothing_of_a_cancel_either() -> None:
    play, x, _ = parents()
    cancel = RunCancelled("", "")
    assert told(play, x.ended("c#1", child="run-x"), *wanted(cancel)) == [(Y, cancel)]


LEFT = {
    "its step": lambda y: y.succeeds(),
    "its scope": lambda y: y.closes("g#1", 0),
    "what it follows from": lambda y: y.fails("s#1"),
}


@pytest.mark.parametrize("gone", LEFT)
def test_a_child_that_nobody_waits_for_any_more_is_cancelled(gone: str) -> None:
    play = Play(fork(Edge("a", "x"), Edge("a", "y")), a(), retry=ALWAYS)
    x, y = Body(play, "x"), Body(play, "y")
    play.tell(x.starts("c#1", "run-x"), y.raises("s#1"))
    play.tell(y.starts("g#1/1/c#1", "run-y"))
    [(child, control)] = told(play, LEFT[gone](y))
    assert child == Y
    assert isinstance(control, RunCancelled)
    assert "does not wait" in control.reason


def test_a_retry_that_forgets_nothing_keeps_its_children() -> None:
    play, x, _ = parents()
    assert told(play, x.fails()) == []


def test_the_failure_of_a_run_cancels_its_children() -> None:
    """Row 20."""
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b"))
    play.tell(Body(play, "x").starts("c#1", "run-x"))
    [(child, control)] = told(play, Body(play, "y").fails())
    assert (child, type(control)) == (X, RunCancelled)


def test_a_child_starts_with_the_entries_that_ask_for_it() -> None:
    play = Play(a("a", Edge("b")), a("b"))
    body = Body(play)
    for asked, expected in (
        ([body.gives("v#1")], []),
        ([body.starts("c#1")], ["main\0c#1"]),
        (
            [body.starts("g#1/0/c#1", "one"), body.starts("g#1/1/c#1", "two")],
            ["main\0g#1/0/c#1", "main\0g#1/1/c#1"],
        ),
        (
            [body.starts("g#1/0/c#1", "one"), body.starts("g#1/1/c#1", "two"), body.closes("g#1", 0)],
            ["main\0g#1/0/c#1"],
        ),
        ([body.starts("c#1"), body.succeeds()], []),
        ([body.starts("c#1"), *wanted(RunCancelled("", ""))], []),
    ):
        entries = decide(play.workflow, play.run, asked)
        assert started(run_after(play.run, entries), entries) == expected


def test_a_child_that_never_starts_is_told_nothing() -> None:
    play = Play(a())
    body = Body(play)
    assert told(play, body.starts("c#1"), *wanted(RunCancelled("", ""))) == []


def test_only_an_operation_with_a_child_starts_one() -> None:
    play = Play(a())
    begun: list[Entry] = [OperationBegun("main", "a", 1, "w#1", "wait_signal")]
    assert started(run_after(play.run, begun), begun) == []


def test_the_output_of_a_run_is_what_its_parent_gets() -> None:
    play = Play(a())
    assert left(play, StepCompleted("main", "a", 1, 1, OUTPUT, ()), RunCompleted("main")) == OUTPUT
    joined = Play(fork(Edge("a", "x"), Edge("join")), a(), join("x"))
    entries = decide(joined.workflow, joined.run, [joined.success("x")])
    assert left(joined, *entries) == {"x": OUTPUT}


def test_the_failure_of_a_run_is_what_its_parent_gets() -> None:
    play = Play(a())
    assert left(play, RunFailed("main", "a", 1, 1, FAILURE)) == FAILURE


@pytest.mark.parametrize(("reason", "end"), [("not wanted", ": not wanted"), ("", "")])
def test_a_run_that_was_cancelled_is_a_failure_to_its_parent(reason: str, end: str) -> None:
    """Row 33: which it may catch."""
    play = Play(a())
    message = f"run 'r' was cancelled{end}"
    assert left(play, RunCancelled(reason, "ops")) == Failure("cancelled", message, ("cancelled",))


@pytest.mark.parametrize(
    "entries", [[], [StepCompleted("main", "a", 1, 1, OUTPUT, (Arrival("main", "a", 2),))]], ids=["none", "one"]
)
def test_a_run_that_goes_on_has_no_outcome(entries: list[Entry]) -> None:
    assert left(Play(a()), *entries) is None
