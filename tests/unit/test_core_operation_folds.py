"""What entries about a body's operations mean to its branch (semantics section 6, row 56).

Their clocks, and who is served first, have a file of their own: `test_core_operation_clocks`.
"""

from collections.abc import Callable

import pytest

from holdfast.codecs.snapshots import decode_run, encode_run
from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import (
    DELETED,
    Entry,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunReopened,
    StepCompleted,
)
from holdfast.core.events import Event, TimerFired
from holdfast.core.evolve import evolve
from holdfast.core.header import Header, header_after
from holdfast.core.owed import owed, passed
from holdfast.core.run import Run
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge
from tests.unit.core_plays import (
    ALWAYS,
    OUTPUT,
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
    suspended,
)

# how long operations are there


def test_operations_survive_a_retry_of_their_step() -> None:
    """Its next attempt finds what the one before has done, and what still goes on."""
    play, body = one()
    play.tell(body.gives("v#1", x=b"json.1:1"), body.sleeps("nap#1", 60_000), body.raises("s#1", TWICE))
    before = body.statuses()
    assert kinds(play.tell(body.fails())) == [RetryScheduled]
    assert body.statuses() == before
    assert owed_by_operations(play) == {"nap#1": 60_000 + 1_000}
    assert body.branch.sets == {"x": b"json.1:1"}


def test_operations_are_gone_when_their_step_is_completed() -> None:
    play, body = one()
    play.tell(body.sleeps("nap#1", 60_000), body.waits("w#1"), body.starts("c#1"), body.raises("s#1", TWICE))
    play.tell(body.beats())
    play.tell(body.succeeds())
    run = play.run
    assert (body.statuses(), run.timers, run.waits, run.children) == ({}, {}, {}, {})
    assert (body.branch.heartbeat, body.branch.progress, dict(body.branch.sets)) == (None, None, {})
    assert kinds(play.tell(body.gives("nap#1"))) == [OperationCompleted], "another step, another operation"


def gathered() -> tuple[Play, Body]:
    """Parallel work of a body, one scope of which has failed, with what came before and what came later."""
    play, body = one()
    play.tell(*map(body.gives, ("a#1", "g#1/1/b#1", "g#1/0/c#1", "g#1/1/x#1/0/b#1")))
    play.tell(body.raises("g#1/1/d#1"))
    play.tell(*map(body.gives, ("g#1/0/e#1", "g#1/10/e#1", "g#1/1/f#1", "g#1/1/h#1/0/i#1")))
    play.tell(body.closes("g#1", 0, 1, 10))
    play.tell(body.sleeps("z#1", 5_000), body.waits("w#1"), body.starts("c#1"))
    play.tell(*map(body.gives, ("h#1/0/v#1", "h#1/1/v#1")))
    return play, body


KEPT = ["a#1", "g#1/1/b#1", "g#1/0/c#1", "g#1/1/x#1/0/b#1", "g#1/0/e#1", "g#1/10/e#1"]


def test_a_failed_operation_is_asked_for_anew_with_what_followed_from_it() -> None:
    """Later in its scope, below that, and around it, parallel work too; what ran beside it is kept."""
    play, body = gathered()
    play.tell(body.fails("g#1/1/d#1"))
    assert list(body.statuses()) == KEPT
    assert (owed_by_operations(play), play.run.waits, play.run.children) == ({}, {}, {})


def test_a_run_that_is_reopened_asks_anew_for_what_it_failed_of() -> None:
    """Row 52."""
    play, body = gathered()
    play.workflow = Play(a("a", Edge("b")), a("b")).workflow
    play.tell(body.fails("g#1/1/d#1"))
    assert play.run.status == "failed"
    play.ask(RunReopened("ops"))
    assert list(body.statuses()) == KEPT
    assert (owed_by_operations(play), play.run.waits, play.run.children) == ({}, {}, {})


@pytest.mark.parametrize("culprit", ["", "ghost#1"])
def test_a_failure_of_no_operation_forgets_none(culprit: str) -> None:
    play, body = gathered()
    before = body.statuses()
    play.tell(body.fails(culprit))
    assert body.statuses() == before


def test_an_operation_that_is_forgotten_may_be_asked_for_again() -> None:
    """Its budget is new, and what is told of the run before that changes nothing about it."""
    play, body = one()
    play.tell(body.raises("s#1", TWICE))
    play.tell(body.raises("s#1", TWICE))
    play.tell(body.fails("s#1"))
    assert body.statuses() == {}
    before = encode_run(play.run)
    header_after(play.run, [OperationBegun("main", "a", 1, "nap#1", "sleep")])
    assert encode_run(play.run) == before
    play.tell(body.raises("s#1", TWICE))
    assert body.branch.operations["s#1"].attempt == 2


def test_scopes_that_are_closed_keep_nothing_of_what_was_pending_in_them() -> None:
    play, body = one()
    play.tell(body.sleeps("g#1/1/nap#1", 5_000), body.waits("g#1/1/w#1"), body.starts("g#1/1/c#1"))
    play.tell(body.raises("g#1/1/s#1", TWICE), body.gives("g#1/0/v#1"), body.beats("g#1/1/t#1"))
    late: list[Event] = [body.fired("g#1/1/nap#1"), body.ended("g#1/1/c#1"), signal(1)]
    late += [body.gives("g#1/1/s#1", "step"), body.waits("g#1/1/w#2"), body.beats("g#1/1/t#1")]
    play.tell(body.closes("g#1", 0))
    run = play.run
    assert list(body.statuses()) == ["g#1/0/v#1", "g#1"]
    assert (run.timers, run.waits, run.children) == ({}, {}, {})
    assert play.tell(*late) == []


# suspension


WAKES: dict[str, tuple[Callable[[Body], Event], type[Entry]]] = {
    "the end of a sleep": (lambda body: body.fired("nap#1"), OperationCompleted),
    "a time-out": (lambda body: body.fired("w#1"), OperationFailed),
    "a signal": (lambda _: signal(1), OperationCompleted),
    "a child's output": (lambda body: body.ended("c#1"), OperationCompleted),
    "a child's failure": (lambda body: body.ended("c#1", fails=True), OperationFailed),
}


@pytest.mark.parametrize("wake", WAKES)
def test_a_suspended_body_is_woken_by_what_its_operations_give(wake: str) -> None:
    """Row 34: it owes the same attempt again."""
    play, body = suspended()
    event, kind = WAKES[wake]
    entry = play.tell(event(body))
    assert kinds(entry) == [kind]
    assert (body.branch.status, play.run.status) == ("active", "running")
    assert owed(play.run)[0] == StartAttempt("main", "a", 1, 1)


def test_a_suspended_body_is_not_woken_by_a_pause() -> None:
    play, body = suspended()
    play.pause()
    play.unpause()
    assert (body.branch.status, play.run.status) == ("suspended", "suspended")


def test_a_suspended_body_begins_again_when_an_attempt_of_an_operation_is_due() -> None:
    """Row 23: a run in backoff holds no worker."""
    play, body = one()
    play.tell(body.raises("s#1", TWICE))
    at_ms = play.at_ms - 1_000 + 3_000
    play.tell(body.suspends("s#1"))
    start = StartAttempt("main", "a", 1, 1)
    assert owed(play.run) == [ArmTimer("main", at_ms, start, "s#1")]
    assert (play.run.due_at_ms, passed(play.run, at_ms)) == (at_ms, [])
    assert kinds(play.tell(body.gives("s#1", "step"))) == [OperationCompleted]
    assert body.branch.status == "active"


def test_clocks_that_have_run_out_are_told_to_who_takes_a_suspended_run_over() -> None:
    play, _ = suspended()
    due_at_ms = play.run.timers["main\0nap#1"]
    assert passed(play.run, due_at_ms - 1) == []
    assert passed(play.run, due_at_ms) == [TimerFired("main", "a", 1, due_at_ms, "nap#1")]


def test_a_suspended_body_may_still_fail_or_succeed() -> None:
    """Another worker may have begun it before it was put away."""
    play, body = suspended(ALWAYS)
    assert kinds(play.tell(body.fails())) == [RetryScheduled]
    play, body = suspended()
    assert kinds(play.tell(body.succeeds())) == [StepCompleted]


def test_a_body_that_is_put_away_in_a_backoff_under_a_pause_has_no_clock_left() -> None:
    """Invariant 27."""
    play, body = one()
    play.tell(body.fails())
    play.at_ms += 10_000
    play.pause()
    play.tell(body.waits("w#1"))
    play.tell(body.suspends("w#1"))
    play.unpause()
    assert (owed(play.run), play.run.due_at_ms) == ([], None)


def test_an_operation_in_backoff_does_not_hurry_the_retry_of_its_step() -> None:
    """Invariant 16: no attempt begins before its due time."""
    play = Play(a(), retry={"a": (Retry(base_delay="60s"),)})
    body = Body(play)
    play.tell(body.raises("s#1", TWICE))
    due_at_ms = play.at_ms + 60_000
    play.tell(body.fails())
    starts = [each for each in owed(play.run) if isinstance(each, ArmTimer)]
    assert {each.due_at_ms for each in starts if isinstance(each.then, StartAttempt)} == {due_at_ms}
    assert play.run.due_at_ms == due_at_ms


# variables


def test_what_a_body_sets_is_seen_by_the_next_step_and_not_before() -> None:
    """Row 12."""
    play, body = one()
    play.tell(body.gives("v#1", x=b"json.1:1", y=b"json.1:2"), body.raises("s#1", TWICE, x=b"json.1:3"))
    assert body.branch.variables == {}
    play.tell(body.succeeds(z=b"json.1:4"))
    assert body.branch.variables == {"x": b"json.1:3", "y": b"json.1:2", "z": b"json.1:4"}


def test_a_variable_that_a_body_deletes_is_gone_with_its_step() -> None:
    play = Play(a("a", Edge("b")), a("b", Edge("c")), a("c"))
    body = Body(play)
    play.tell(body.succeeds(x=b"json.1:1", y=b"json.1:2"))
    play.tell(body.gives("v#1", x=DELETED, never=DELETED))
    assert body.branch.variables == {"x": b"json.1:1", "y": b"json.1:2"}
    play.tell(body.succeeds(y=DELETED))
    assert body.branch.variables == {}


def test_what_one_step_has_set_is_not_set_again_by_the_next() -> None:
    """Also where the operation that it came with was forgotten."""
    play = Play(a("a", Edge("b")), a("b", Edge("c")), a("c", Edge("d")), a("d"), retry=ALWAYS)
    body = Body(play)
    play.tell(body.raises("s#1", x=b"json.1:1"))
    play.tell(body.fails("s#1"))
    play.tell(body.succeeds())
    play.tell(body.succeeds(x=b"json.1:2"))
    play.tell(body.succeeds())
    assert body.branch.variables == {"x": b"json.1:2"}


# reports


def test_a_report_of_a_step_that_has_not_ended_shows_that_it_has_begun() -> None:
    """If its attempt is lost, the next one is owed, and has what was reported."""
    play, body = one()
    at_ms = play.at_ms
    play.tell(body.beats("s#1"))
    operation = body.branch.operations["s#1"]
    assert (operation.status, operation.attempt, operation.heartbeat) == ("backoff", 1, b"json.1:1")
    play.tell(body.suspends("s#1"))
    assert owed(play.run) == [ArmTimer("main", at_ms, StartAttempt("main", "a", 1, 1), "s#1")]
    play.tell(body.raises("s#1", TWICE))
    assert (operation.attempt, operation.heartbeat) == (2, b"json.1:1")
    play.tell(body.gives("s#1", "step"))
    assert operation.heartbeat is None


# runs that are over


def test_a_reopened_run_awaits_anew_what_its_body_awaited() -> None:
    """Row 52: with what was left on the clocks when the run failed, at 2 s; its children were cancelled."""
    play = Play(fork(Edge("a", "x"), Edge("b", "z")), a(), a("b"))
    body = Body(play, "x")
    play.at_ms = STARTED_AT_MS
    play.tell(body.sleeps("nap#1", 20_000), body.waits("w#1", 30_000), body.starts("c#1"), body.gives("v#1"))
    play.tell(body.suspends("nap#1", "w#1", "c#1"))
    play.fail("z")
    assert (owed(play.run), play.run.waits, play.run.children) == ([], {}, {})
    play.at_ms = STARTED_AT_MS + 102_000
    play.ask(RunReopened("ops"))
    assert body.statuses() == {"nap#1": "sleeping", "w#1": "waiting", "v#1": "completed"}
    assert owed_by_operations(play) == {"nap#1": 120_000, "w#1": 130_000}
    assert (play.run.waits, play.run.children) == ({"x\0w#1": "go"}, {})
    assert StartAttempt("x", "a", 1, 1) in owed(play.run), "it is to look what has gone"


@pytest.mark.parametrize("wanted", [RunCancelled("", ""), None])
def test_a_run_that_is_over_awaits_nothing(wanted: RunCancelled | None) -> None:
    """Invariant 29."""
    play, body = suspended()
    play.tell(body.fails()) if wanted is None else play.ask(wanted)
    run = play.run
    assert run.is_over
    assert (owed(run), run.timers, run.waits, run.children, run.due_at_ms) == ([], {}, {}, {}, None)


# the header, before the stamp is known


def header_of(run: Run, entry: Entry) -> Header:
    """What its row must say after an entry, the long way."""
    after = decode_run("r", encode_run(run))
    assert after is not None
    evolve(after, entry, STARTED_AT_MS)
    return Header(after.status, after.due_at_ms, None, completes=True)


BEFORE: dict[str, Callable[[Play, Body], object]] = {
    "active": lambda _play, _body: None,
    "suspended": lambda play, body: play.tell(body.suspends("nap#1")),
    "in backoff": lambda play, body: play.tell(body.fails()),
    "paused": lambda play, _: play.pause(),
    "paused alone": lambda play, _: play.pause("main"),
    "blocked": lambda play, body: play.tell(body.diverges()),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_the_short_way_to_the_header_of_a_completed_operation_says_what_the_long_way_says(
    before: Callable[[Play, Body], object],
) -> None:
    """Invariant 4."""
    play, body = one()
    play.tell(body.sleeps("dawn#1", until_ms=STARTED_AT_MS + 9_000), body.sleeps("nap#1", until_ms=1))
    before(play, body)
    entry = OperationCompleted("main", "a", 1, "nap#1", "sleep", OUTPUT)
    assert header_after(play.run, [entry]) == header_of(play.run, entry)


def test_a_paused_run_is_unpaused_by_nothing_that_its_body_asks_for() -> None:
    play, body = one()
    play.pause()
    assert header_after(play.run, [Paused("main", "", "")]).status == "paused"
    play.tell(body.gives("v#1"))
    assert play.run.status == "paused"
