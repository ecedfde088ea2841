"""Clocks of what bodies ask for, and who is served first (semantics rows 28, 32, 35)."""

import pytest

from holdfast.core.effects import StartAttempt
from holdfast.core.entries import OperationCompleted, RunReopened
from holdfast.core.owed import owed
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge
from tests.unit.core_plays import (
    STARTED_AT_MS,
    TWICE,
    Body,
    Play,
    a,
    fork,
    kinds,
    one,
    owed_by_operations,
    signal,
    sleep,
    suspended,
    wait,
)

# pauses


def clocked() -> tuple[Play, Body]:
    """An operation of each kind that has a clock."""
    play, body = one()
    play.at_ms = STARTED_AT_MS
    play.tell(
        body.sleeps("nap#1", 20_000),
        body.waits("w#1", 30_000),
        body.raises("s#1", Retry(base_delay="40s")),
        body.sleeps("dawn#1", until_ms=STARTED_AT_MS + 50_000),
    )
    play.tell(body.suspends("nap#1"))
    return play, body


CLOCKS = {"nap#1": 20_000, "w#1": 30_000, "s#1": 40_000, "dawn#1": 50_000}


@pytest.mark.parametrize("branch", ["", "main"])
def test_a_pause_moves_every_clock_of_an_operation_by_its_own_length(branch: str) -> None:
    """Row 32, invariant 27; a moment that was named as such stays where it is (row 30)."""
    play, _ = clocked()
    assert owed_by_operations(play) == CLOCKS
    play.at_ms = STARTED_AT_MS + 10_000
    play.pause(branch)
    assert owed_by_operations(play) == {"dawn#1": 50_000}
    play.at_ms = STARTED_AT_MS + 13_333
    play.unpause(branch)
    assert owed_by_operations(play) == {key: ms + 3_333 for key, ms in CLOCKS.items()} | {"dawn#1": 50_000}


def test_a_pause_that_freezes_nothing_holds_back_attempts_of_operations_only() -> None:
    play, _ = clocked()
    play.pause(freezes=False)
    assert owed_by_operations(play) == {key: ms for key, ms in CLOCKS.items() if key != "s#1"}
    play.unpause()
    assert owed_by_operations(play) == CLOCKS


def test_what_a_body_asks_for_under_a_pause_stands_still_from_the_start() -> None:
    """It runs on to where it waits (row 32)."""
    play, body = one()
    play.pause()
    play.tell(body.sleeps("nap#1", 5_000), body.raises("s#1", TWICE))
    play.tell(body.suspends("nap#1", "s#1"))
    assert (owed_by_operations(play), body.branch.operations["nap#1"].left_ms) == ({}, 5_000)
    play.at_ms = STARTED_AT_MS + 60_000
    play.unpause()
    assert owed_by_operations(play) == {"nap#1": 65_000, "s#1": 63_000}


def test_signals_still_come_to_a_body_under_a_pause() -> None:
    """Rows 32 and 35, invariants 21 and 31: it goes on when that is over."""
    play, body = suspended()
    play.pause()
    assert kinds(play.tell(signal(1))) == [OperationCompleted]
    assert (body.branch.status, play.run.status, owed(play.run)) == ("active", "paused", [])
    play.unpause()
    assert StartAttempt("main", "a", 1, 1) in owed(play.run)


# signals


def test_branches_and_operations_are_served_in_the_order_in_which_they_began_to_wait() -> None:
    """Row 28, invariant 20."""
    play = Play(fork(Edge("a", "x"), Edge("b", "y")), a(), a("b", Edge("w")), wait())
    body = Body(play, "x")
    play.tell(body.waits("w#1"), body.waits("w#2"))
    play.succeed("y")
    play.tell(body.waits("w#3"))
    entries = play.tell(*[signal(seq) for seq in (1, 2, 3, 4)])
    assert [getattr(entry, "key", entry.branch) for entry in entries[:4]] == [  # type: ignore[union-attr]
        *["w#1", "w#2", "y", "w#3"]
    ]


def test_who_waited_longest_still_does_after_a_retry_of_the_run() -> None:
    """Rows 28 and 52: also where its branch has been at its step for longer."""
    play = Play(
        fork(Edge("a", "x"), Edge("nap", "y"), Edge("b", "z")), a(), sleep(1, Edge("w")), wait(), a("b")
    )
    play.fire("y")
    play.tell(Body(play, "x").waits("w#1"))
    assert list(play.run.waits) == ["y", "x\0w#1"]
    play.fail("z")
    play.ask(RunReopened("ops"))
    assert list(play.run.waits) == ["y", "x\0w#1"]
