"""Every row of the table of what a body asks for, one test at least for each (semantics section 6, row 56).

Who wins within a turn is told in `test_core_operation_turns`, what the entries mean to a branch in
`test_core_operation_folds`.
"""

from collections.abc import Callable

import pytest

from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import (
    Child,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RunBlocked,
    ScopesClosed,
    StepCompleted,
    StepSuspended,
    Wait,
)
from holdfast.core.events import AttemptSuspended, Event, OperationSucceeded, TimerFired
from holdfast.core.owed import owed
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge
from tests.unit.core_plays import (
    FAILURE,
    OUTPUT,
    STARTED_AT_MS,
    TWICE,
    Body,
    Play,
    a,
    forked,
    kinds,
    one,
    signal,
    takes,
)

MODULE = "operations"

# one row after the other


@takes(MODULE, "attempting --(OperationRequested)--> the operation is pending: OperationBegun")
def test_what_takes_time_is_recorded_when_it_begins() -> None:
    play, body = one()
    at_ms = play.at_ms
    assert play.tell(body.sleeps("nap#1", 5_000)) == [
        OperationBegun("main", "a", 1, "nap#1", "sleep", Wait("", 5_000)),
    ]
    assert kinds(play.tell(body.waits("w#1"), body.starts("c#1"))) == [OperationBegun, OperationBegun]
    assert body.statuses() == {"nap#1": "sleeping", "w#1": "waiting", "c#1": "child"}
    timer = ArmTimer("main", at_ms + 5_000, TimerFired("main", "a", 1, at_ms + 5_000, "nap#1"), "nap#1")
    assert owed(play.run) == [StartAttempt("main", "a", 1, 1), timer]
    assert play.run.waits == {"main\0w#1": "go"}
    assert play.run.children == {"main\0c#1": Child("child", "c")}


def test_what_is_asked_for_again_is_recorded_once() -> None:
    """Invariant 14: a body that runs again from its top asks for the same."""
    play, body = one()
    for event in (body.sleeps("nap#1", 5_000), body.gives("v#1"), body.closes("g#1", 0)):
        assert len(play.tell(event)) == 1
        assert play.tell(event) == []


@takes(MODULE, "attempting --(OperationSucceeded)--> it is done: OperationCompleted")
def test_what_is_done_at_once_is_recorded_in_one_entry() -> None:
    play, body = one()
    assert play.tell(body.gives("v#1", "record", x=b"json.1:1")) == [
        OperationCompleted("main", "a", 1, "v#1", "record", OUTPUT, 0, {"x": b"json.1:1"}),
    ]
    assert (body.statuses(), body.branch.operations["v#1"].output) == ({"v#1": "completed"}, OUTPUT)
    assert owed(play.run) == [StartAttempt("main", "a", 1, 1)]


@takes(
    MODULE, "attempting --(OperationRaised, a policy has budget)--> its next attempt is owed: OperationRetried"
)
def test_a_failed_attempt_of_an_operation_is_tried_again_later() -> None:
    """Row 23, invariant 15: attempt and due time are recorded before its body runs."""
    play, body = one()
    at_ms = play.at_ms
    assert play.tell(body.raises("s#1", TWICE)) == [
        OperationRetried("main", "a", 1, "s#1", 2, 3_000, "all", FAILURE),
    ]
    operation = body.branch.operations["s#1"]
    assert (operation.status, operation.attempt, operation.failure) == ("backoff", 2, FAILURE)
    assert operation.due_at_ms == at_ms + 3_000
    assert owed(play.run) == [StartAttempt("main", "a", 1, 1)], "a body that is there tries again by itself"
    assert kinds(play.tell(body.gives("s#1", "step"))) == [OperationCompleted]


@takes(MODULE, "attempting --(OperationRaised, none has)--> it is done: OperationFailed")
def test_an_operation_beyond_its_budget_has_failed() -> None:
    """Invariant 15. The body may catch it: the run goes on."""
    play, body = one()
    play.tell(body.raises("s#1", TWICE))
    assert play.tell(body.raises("s#1", TWICE)) == [
        OperationFailed("main", "a", 1, "s#1", "step", FAILURE),
    ]
    assert (body.statuses(), play.run.status, play.run.timers) == ({"s#1": "failed"}, "running", {})
    assert kinds(play.tell(body.raises("s#2"))) == [OperationFailed]


@pytest.mark.parametrize("key", ["nap#1", "w#1", "c#1"])
def test_what_a_body_cuts_off_has_failed(key: str) -> None:
    """It waits for nothing any more, whoever comes."""
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000), body.waits("w#1", 5_000), body.starts("c#1"))
    late = [body.fired("nap#1"), body.fired("w#1"), body.ended("c#1")]
    assert kinds(play.tell(body.raises(key))) == [OperationFailed]
    run = play.run
    assert body.statuses()[key] == "failed"
    assert "main\0" + key not in {*run.timers, *run.waits, *run.children}
    assert len(play.tell(*late)) == 2


def test_each_policy_of_an_operation_has_a_budget_of_its_own() -> None:
    """Row 23: an error is matched to the first fitting policy, also where that one is exhausted."""
    play, body = one()
    policies = (Retry(error_equals=("timeout",), max_retries=1), Retry(max_retries=1, base_delay="2s"))
    late = Failure("timeout", "late")
    patterns: list[tuple[str, int]] = []
    for failure in (FAILURE, late, late):
        entry = play.tell(body.raises("s#1", *policies, failure=failure))[0]
        if isinstance(entry, OperationRetried):
            patterns.append((entry.pattern, entry.attempt))
    assert (patterns, body.statuses()) == ([("all", 2), ("timeout", 3)], {"s#1": "failed"})


@takes(MODULE, "attempting --(ScopesEnded)--> what has not ended is cancelled: ScopesClosed")
def test_parallel_work_that_is_closed_loses_what_had_not_ended() -> None:
    play, body = one()
    keys = ["g#1/0/nap#1", "g#1/1/nap#1", "g#1/10/nap#1", "g#1/2/v#1", "g#10/1/nap#1", "nap#1"]
    play.tell(*[body.sleeps(key, 5_000) for key in keys])
    assert play.tell(body.closes("g#1", 0, 10)) == [ScopesClosed("main", "a", 1, "g#1", (0, 10))]
    assert list(body.statuses()) == ["g#1/0/nap#1", "g#1/10/nap#1", "g#10/1/nap#1", "nap#1", "g#1"]
    assert set(play.run.timers) == {"main\0" + key for key in body.statuses()} - {"main\0g#1"}
    assert body.branch.operations["g#1"].ended == (0, 10)


@takes(MODULE, "attempting --(BodyReported)--> the same: Reported")
def test_a_report_of_a_body_changes_nothing_else() -> None:
    play, body = one()
    play.tell(body.raises("s#1", TWICE))
    for key in ("", "s#1"):
        assert play.tell(body.beats(key)) == [Reported("main", "a", 1, key, "heartbeat", b"json.1:1")]
    assert (body.branch.heartbeat, body.branch.operations["s#1"].heartbeat) == (b"json.1:1", b"json.1:1")
    assert body.statuses() == {"s#1": "backoff"}


def test_a_report_of_an_operation_that_is_done_means_nothing() -> None:
    play, body = one()
    play.tell(body.gives("s#1", "step"))
    assert play.tell(body.beats("s#1")) == []


@takes(MODULE, "attempting --(AttemptSuspended, all pending)--> suspended: StepSuspended")
def test_a_body_that_waits_is_put_away() -> None:
    """Row 34: nothing is owed but the clock; a worker is free."""
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000), body.waits("w#1"))
    assert play.tell(body.suspends("nap#1", "w#1")) == [StepSuspended("main", "a", 1)]
    assert (body.branch.status, play.run.status) == ("suspended", "suspended")
    assert [effect for effect in owed(play.run) if isinstance(effect, StartAttempt)] == []
    assert play.run.due_at_ms == play.run.timers["main\0nap#1"]


@pytest.mark.parametrize("keys", [(), ("v#1",), ("ghost#1",), ("nap#1", "v#1")], ids=str)
def test_a_body_is_not_put_away_if_what_it_waits_for_is_there(keys: tuple[str, ...]) -> None:
    """Nor if it was only told to stop: it would be asked for by nobody."""
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000), body.gives("v#1"))
    assert play.tell(body.suspends(*keys)) == []
    assert owed(play.run)[0] == StartAttempt("main", "a", 1, 1)


def test_a_body_is_put_away_once() -> None:
    play, body = one()
    play.tell(body.waits("w#1"))
    assert kinds(play.tell(body.suspends("w#1"))) == [StepSuspended]
    assert play.tell(body.suspends("w#1")) == []


@takes(MODULE, "attempting --(AttemptDiverged)--> the run is blocked: RunBlocked")
def test_a_body_that_asks_for_something_else_blocks_its_run() -> None:
    """Section 6: `blocked(definition_changed)`; nothing else is decided in that turn."""
    play, body = one()
    play.tell(body.gives("a#1", "step"))
    entries = play.tell(body.diverges(), body.fails())
    assert kinds(entries) == [RunBlocked]
    blocked = play.run.blocked
    assert blocked is entries[0]
    assert (play.run.status, blocked and blocked.code) == ("blocked", "definition_changed")
    for word in ("'a'", "'main'", "step a#1", "sleep nap#1"):
        assert blocked is not None
        assert word in blocked.detail


def test_a_blocked_run_goes_on_with_the_next_entry() -> None:
    play, body = one()
    play.tell(body.diverges())
    assert kinds(play.tell(body.gives("a#1"))) == [OperationCompleted]
    assert (play.run.status, play.run.blocked) == ("running", None)
    play.tell(body.diverges())
    assert kinds(play.tell(body.succeeds())) == [StepCompleted]
    assert play.run.blocked is None


def test_what_happened_before_a_divergence_is_recorded() -> None:
    play = forked()
    entries = play.tell(play.success("left"), Body(play, "right").diverges())
    assert kinds(entries) == [StepCompleted, RunBlocked]


@takes(MODULE, "operation sleeping --(TimerFired)--> done: OperationCompleted")
def test_a_sleep_of_a_body_ends_when_its_clock_has_run_out() -> None:
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000))
    assert play.tell(body.fired("nap#1")) == [OperationCompleted("main", "a", 1, "nap#1", "sleep", b"")]
    assert (body.statuses(), play.run.timers) == ({"nap#1": "completed"}, {})


@takes(MODULE, "operation waiting --(SignalArrived)--> done: OperationCompleted")
def test_a_signal_is_for_the_body_that_waits_for_it() -> None:
    """Row 28: whoever records it takes it out of the inbox, by its number."""
    play, body = one()
    play.tell(body.waits("w#1", 5_000))
    assert play.tell(signal(4, "other")) == []
    assert play.tell(signal(5)) == [
        OperationCompleted("main", "a", 1, "w#1", "wait_signal", b"json.1:5", 5),
    ]
    assert (body.statuses(), play.run.waits, play.run.timers) == ({"w#1": "completed"}, {}, {})


@takes(MODULE, "operation waiting --(TimerFired)--> done: OperationFailed")
def test_a_signal_that_has_not_come_in_time_is_a_failure_of_the_operation() -> None:
    """Row 22: the body may catch it."""
    play, body = one()
    play.tell(body.waits("w#1", 5_000))
    entry = play.tell(body.fired("w#1"))[0]
    assert isinstance(entry, OperationFailed)
    assert (entry.failure.type, entry.failure.types) == ("timeout", ("timeout", "TimeoutError"))
    assert "'go'" in entry.failure.message
    assert (body.statuses(), play.run.waits, play.run.timers) == ({"w#1": "failed"}, {}, {})


@takes(MODULE, "operation child --(ChildEnded)--> done: OperationCompleted, or OperationFailed")
@pytest.mark.parametrize("fails", [False, True])
def test_the_outcome_of_a_child_is_for_the_operation_that_started_it(fails: bool) -> None:
    """Row 56, invariant 36."""
    play, body = one()
    play.tell(body.starts("c#1"))
    at = ("main", "a", 1, "c#1", "child")
    expected = OperationFailed(*at, FAILURE, 7) if fails else OperationCompleted(*at, OUTPUT, 7)
    once = body.ended("c#1", fails=fails)
    assert play.tell(once) == [expected]
    assert play.run.children == {}
    assert play.tell(once) == []


def test_a_child_without_an_output_gives_nothing() -> None:
    play, body = one()
    play.tell(body.starts("c#1"))
    ended = body.ended("c#1")
    event = type(ended)(ended.seq, *body.at, "c#1", "child", None, None)
    assert play.tell(event) == [OperationCompleted("main", "a", 1, "c#1", "child", b"", 7)]


def stale_events(play: Play, body: Body) -> list[Event]:
    due_at_ms = play.run.timers["main\0nap#1"]
    gone = ("main", "a", 1, 2)
    return [
        body.gives("w#1"),
        body.raises("v#1"),
        body.gives("v#1"),
        body.ended("c#1", child="other"),
        body.ended("nap#1"),
        body.ended("ghost#1"),
        TimerFired("main", "a", 1, due_at_ms + 1, "nap#1"),
        TimerFired("main", "a", 2, due_at_ms, "nap#1"),
        TimerFired("main", "b", 1, due_at_ms, "nap#1"),
        TimerFired("ghost", "a", 1, due_at_ms, "nap#1"),
        TimerFired("main", "a", 1, due_at_ms, "ghost#1"),
        TimerFired("main", "a", 1, due_at_ms, "v#1"),
        signal(1, "other"),
        OperationSucceeded(*gone, "x#1", "value", OUTPUT),
        OperationSucceeded("main", "b", 1, 1, "x#1", "value", OUTPUT),
        OperationSucceeded("ghost", "a", 1, 1, "x#1", "value", OUTPUT),
        AttemptSuspended(*gone, ("nap#1",)),
    ]


@takes(MODULE, "any other --(any of them)--> unchanged, the event is stale")
@pytest.mark.parametrize("n", range(17))
def test_what_nobody_asked_for_means_nothing(n: int) -> None:
    play, body = one()
    play.tell(body.sleeps("nap#1", 5_000), body.waits("w#1", 5_000), body.starts("c#1"), body.gives("v#1"))
    before = body.statuses()
    events = stale_events(play, body)
    assert len(events) == 17
    assert play.tell(events[n]) == []
    assert body.statuses() == before


LATE: dict[str, Callable[[Body], Event]] = {
    "a request": lambda body: body.waits("w#2"),
    "a success": lambda body: body.gives("v#1"),
    "a failure": lambda body: body.raises("s#1"),
    "a report": lambda body: body.beats(),
    "the end of scopes": lambda body: body.closes("g#1"),
    "a suspension": lambda body: body.suspends("nap#1"),
    "a divergence": lambda body: body.diverges(),
    "a timer": lambda body: body.fired("nap#1"),
    "a timer of a named moment": lambda body: body.fired("dawn#1"),
    "a child's end": lambda body: body.ended("c#1"),
    "a signal": lambda _: signal(1),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("end", ["completed", "failed", "over"])
def test_nothing_is_decided_of_a_step_that_is_over(late: Callable[[Body], Event], end: str) -> None:
    """Invariants 16 and 29."""
    play = Play(a("a", Edge("b")), a("b"))
    body = Body(play)
    play.tell(body.sleeps("nap#1", 5_000), body.waits("w#1"), body.starts("c#1"))
    play.tell(body.sleeps("dawn#1", until_ms=STARTED_AT_MS + 9_000))
    event = late(body)
    play.tell(body.fails() if end == "failed" else body.succeeds())
    if end == "over":
        play.succeed()
    assert play.tell(event) == []
