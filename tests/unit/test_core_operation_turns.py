"""What a body asks for and what comes for it, in one turn: who wins, and what is gone by then.

A turn decides its events on the state before it. So it must know itself what its own entries have ended.
"""

from collections.abc import Callable

import pytest

from holdfast.core.decide import decide
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import (
    Entry,
    OperationCompleted,
    OperationFailed,
    Paused,
    RetryScheduled,
    RunFailed,
    ScopesClosed,
    SignalReceived,
    StepCompleted,
    StepSuspended,
    Unpaused,
)
from holdfast.core.events import ControlRequested, Event
from holdfast.core.operated import given_back
from holdfast.core.owed import owed
from holdfast.core.run import Run
from holdfast.core.turn import Turn
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge
from tests.unit.core_plays import (
    ALWAYS,
    STARTED_AT_MS,
    TWICE,
    Body,
    Play,
    a,
    fork,
    kinds,
    one,
    signal,
    sleep,
    wait,
)

GONE: dict[str, Callable[[Body], Event]] = {
    "with its step": lambda body: body.succeeds(),
    "with its scope": lambda body: body.closes("g#1", 0),
    "with what it follows from": lambda body: body.fails("s#1"),
}
COMES: dict[str, Callable[[Body], Event]] = {
    "a timer": lambda body: body.fired("g#1/1/nap#1"),
    "a time-out": lambda body: body.fired("g#1/1/w#1"),
    "a child's end": lambda body: body.ended("g#1/1/c#1"),
    "a signal": lambda _: signal(1),
}


@pytest.mark.parametrize("comes", COMES.values(), ids=COMES)
@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
@pytest.mark.parametrize("edges", [(), (Edge("b"),)], ids=["the branch ends", "the branch goes on"])
def test_what_comes_for_an_operation_that_is_gone_in_this_turn_means_nothing(
    comes: Callable[[Body], Event], gone: Callable[[Body], Event], edges: tuple[Edge, ...]
) -> None:
    """Invariant 19: above all no signal is swallowed."""
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a("a", *edges), a("b"), retry=ALWAYS)
    body = Body(play, "x")
    play.tell(body.raises("s#1"))
    play.tell(body.sleeps("g#1/1/nap#1", 5_000), body.waits("g#1/1/w#1", 5_000), body.starts("g#1/1/c#1"))
    event = comes(body)
    assert len(play.tell(gone(body), event)) == 1
    assert [key for key in body.statuses() if key.startswith("g#1/1/")] == []


@pytest.mark.parametrize("comes", COMES.values(), ids=COMES)
def test_what_comes_for_an_operation_that_a_retry_keeps_is_recorded(comes: Callable[[Body], Event]) -> None:
    """Its body asks for it again, and it is there."""
    play, body = one()
    play.tell(body.sleeps("g#1/1/nap#1", 5_000), body.waits("g#1/1/w#1", 5_000), body.starts("g#1/1/c#1"))
    play.tell(body.raises("g#1/0/s#1"))
    entries = play.tell(body.fails("g#1/0/s#1"), comes(body))
    assert kinds(entries)[0] is RetryScheduled
    assert kinds(entries)[1:] in ([OperationCompleted], [OperationFailed])
    assert len(body.statuses()) == 3


def test_a_signal_that_finds_its_operation_gone_goes_to_who_waits_next() -> None:
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b", Edge("w")), wait(Edge("c")), a("c"))
    body = Body(play, "x")
    play.tell(body.waits("w#1"))
    play.succeed("y")
    assert list(play.run.waits) == ["x\0w#1", "y"]
    entries = play.tell(body.succeeds(), signal(1))
    assert kinds(entries) == [StepCompleted, SignalReceived]
    assert entries[1].branch == "y"  # type: ignore[union-attr]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_signal_and_a_time_out_of_one_turn_exclude_each_other(is_first: bool) -> None:
    """Row 29, invariant 23: exactly one is recorded, the earlier one."""
    play, body = one()
    play.tell(body.waits("w#1", 5_000))
    fired = body.fired("w#1")
    events: list[Event] = [signal(1), fired] if is_first else [fired, signal(1)]
    assert kinds(play.tell(*events)) == [OperationCompleted if is_first else OperationFailed]


def test_the_outcome_of_a_child_counts_once_also_within_a_turn() -> None:
    """Invariant 36."""
    play, body = one()
    play.tell(body.starts("c#1"))
    assert kinds(play.tell(body.ended("c#1"), body.ended("c#1", fails=True))) == [OperationCompleted]


DONE: dict[str, Callable[[Body], Event]] = {
    "a timer": lambda body: body.fired("nap#1"),
    "a time-out": lambda body: body.fired("w#1"),
    "a signal": lambda _: signal(1),
    "a child's end": lambda body: body.ended("c#1"),
    "a success": lambda body: body.gives("s#1", "step"),
    "a failure": lambda body: body.raises("s#1"),
}
AWAITED = ("nap#1", "w#1", "c#1", "s#1")


@pytest.mark.parametrize("done", DONE.values(), ids=DONE)
def test_a_body_is_not_put_away_if_what_it_waits_for_comes_in_this_turn(done: Callable[[Body], Event]) -> None:
    """It would never be woken."""
    play, body = one()
    play.tell(body.sleeps("nap#1", 1), body.waits("w#1", 1), body.starts("c#1"), body.raises("s#1", TWICE))
    entries = play.tell(done(body), body.suspends(*AWAITED))
    assert len(entries) == 1
    assert not isinstance(entries[0], StepSuspended)
    assert owed(play.run)[0] == StartAttempt("main", "a", 1, 1)


def test_a_body_is_not_put_away_for_what_is_cancelled_in_this_turn() -> None:
    play, body = one()
    play.tell(body.sleeps("g#1/1/nap#1", 5_000))
    assert kinds(play.tell(body.closes("g#1", 0), body.suspends("g#1/1/nap#1"))) == [ScopesClosed]


@pytest.mark.parametrize("freezes", [True, False])
def test_a_timer_behind_a_pause_of_one_turn_counts_if_that_freezes_nothing(freezes: bool) -> None:
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000))
    fired = body.fired("nap#1")
    entries = play.tell(ControlRequested(1, Paused("", "", "ops", freezes)), fired)
    assert kinds(entries) == [Paused] if freezes else [Paused, OperationCompleted]


CONTROLS: dict[str, tuple[tuple[Paused | Unpaused, ...], bool]] = {
    "the run's is left": ((Paused("", "", ""), Paused("main", "", "", False), Unpaused("main", "")), True),
    "the branch's is left, it freezes nothing": ((Paused("main", "", "", False),), False),
    "the branch's": ((Paused("main", "", ""),), True),
    "another branch's": ((Paused("y", "", ""),), False),
    "both, and the branch's is over": (
        (Paused("main", "", ""), Paused("", "", ""), Unpaused("main", "")),
        True,
    ),
    "both are over": ((Paused("main", "", ""), Paused("", "", ""), Unpaused("", "")), False),
    "the run's is over": ((Paused("", "", ""), Unpaused("", "")), False),
    "again": ((Paused("", "", ""), Unpaused("", ""), Paused("main", "", "")), True),
}


@pytest.mark.parametrize(("asked", "is_stopped"), CONTROLS.values(), ids=CONTROLS)
def test_whoever_is_unpaused_beside_a_pause_of_the_run_stands_still(
    asked: tuple[Paused | Unpaused, ...], is_stopped: bool
) -> None:
    """Row 32, invariant 26: a branch and its run have pauses of their own, also within a turn."""
    found = Turn(Play(a()).workflow, Run("r"))
    found.entries += asked
    assert found.has_stopped("main") is is_stopped


@pytest.mark.parametrize("key", ["", "nap#1"], ids=["of a step", "of a body"])
def test_a_timer_behind_the_end_of_a_branchs_pause_does_not_fire_in_a_frozen_run(key: str) -> None:
    """Invariant 26."""
    play = Play(a() if key else sleep(5_000))
    body = Body(play)
    if key:
        play.tell(body.sleeps(key, 5_000))
    fired = body.fired(key) if key else play.fired()
    asked = [Paused("", "", ""), Paused("main", "", "", freezes=False), Unpaused("main", "")]
    assert play.tell(*[ControlRequested(0, each) for each in asked], fired) == asked


def test_a_pause_of_one_turn_does_not_hold_back_a_named_moment() -> None:
    play, body = one()
    play.tell(body.sleeps("dawn#1", until_ms=STARTED_AT_MS + 9_000))
    fired = body.fired("dawn#1")
    assert kinds(play.tell(ControlRequested(1, Paused("", "", "ops")), fired)) == [Paused, OperationCompleted]


def test_what_a_closed_scope_says_in_the_same_turn_means_nothing() -> None:
    play, body = one()
    keys = ("g#1/1/v#1", "g#1/1/h#1/0/v#1")
    entries = play.tell(body.closes("g#1", 0), *map(body.gives, keys), body.gives("g#1/0/v#1"))
    assert kinds(entries) == [ScopesClosed, OperationCompleted]
    assert list(body.statuses()) == ["g#1", "g#1/0/v#1"]


def test_scopes_of_another_branch_stay_open() -> None:
    play = Play(fork(Edge("a", "x"), Edge("a", "y")), a())
    x, y = Body(play, "x"), Body(play, "y")
    assert kinds(play.tell(x.closes("g#1", 0), y.gives("g#1/1/v#1"))) == [ScopesClosed, OperationCompleted]
    assert y.statuses() == {"g#1/1/v#1": "completed"}


@pytest.mark.parametrize(
    ("retry", "kind"), [(ALWAYS, RetryScheduled), ({}, RunFailed)], ids=["retried", "failed"]
)
def test_a_failure_names_the_operation_that_it_came_from(
    retry: dict[str, tuple[Retry, ...]], kind: type[Entry]
) -> None:
    play = Play(a(), retry=retry)
    body = Body(play)
    play.tell(body.raises("s#1"))
    entry = play.tell(body.fails("s#1"))[0]
    assert isinstance(entry, kind)
    assert entry.operation == "s#1"  # type: ignore[attr-defined]


GOES_ON: dict[str, Callable[[Body], Event]] = {
    "to a sleep": lambda body: body.sleeps("race#1/0/nap#1", 5_000),
    "to a wait in parts of its own": lambda body: body.waits("race#1/0/g#1/0/v#1"),
    "to a step that is done": lambda body: body.gives("race#1/0/s#1", "step"),
    "to a step that failed": lambda body: body.raises("race#1/0/s#1"),
    "to a step that is tried again": lambda body: body.raises("race#1/0/s#1", TWICE),
    "to a step that tells of itself": lambda body: body.beats("race#1/0/s#1"),
}
STAYS: dict[str, Callable[[Body], Event]] = {
    "but another part does": lambda body: body.sleeps("race#1/1/nap#1", 5_000),
    "but work within it is closed": lambda body: body.closes("race#1/0/g#1", 0),
    "but asks for a patch": lambda body: body.gives("race#1/0/p#1", "patch"),
}


def given(body: Body, *events: Event) -> list[str]:
    """Keys of the waits whose signals the turn gives back."""
    play = body.play
    return [each.key for each in given_back(play.run, decide(play.workflow, play.run, events))]


@pytest.mark.parametrize("event", GOES_ON.values(), ids=GOES_ON)
def test_a_part_that_goes_on_in_the_turn_in_which_it_loses_has_used_its_signal_up(
    event: Callable[[Body], Event],
) -> None:
    """Row 75, invariant 19: it was received once, and is not received again."""
    _, body = received()
    assert given(body, event(body), body.closes("race#1", 2)) == []


@pytest.mark.parametrize("event", STAYS.values(), ids=STAYS)
def test_a_part_that_does_not_go_on_gives_its_signal_back(event: Callable[[Body], Event]) -> None:
    _, body = received()
    assert given(body, event(body), body.closes("race#1", 2)) == ["race#1/0/w#1"]


def test_a_signal_is_given_back_once_where_work_in_work_is_closed() -> None:
    """Who has it twice receives it twice."""
    _, body = received("race#1/0/g#1/0/w#1")
    assert given(body, body.closes("race#1/0/g#1", 1), body.closes("race#1", 2)) == ["race#1/0/g#1/0/w#1"]


def received(key: str = "race#1/0/w#1") -> tuple[Play, Body]:
    """A part of parallel work has received a signal."""
    play, body = one()
    play.tell(body.waits(key))
    play.tell(signal(1))
    return play, body
