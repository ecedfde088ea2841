"""What people see of a run: its status, its waits, what was sent to it (rows 28, 32, 33, 35, 49)."""

import base64
import typing
from datetime import UTC, datetime

import msgspec
import pytest

from holdfast.codecs import json as codec
from holdfast.core.entries import (
    DELETED,
    Arrival,
    Child,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    Reported,
    RetryScheduled,
    RunCancelled,
    RunStarted,
    StepCompleted,
    StepSuspended,
    Wait,
)
from holdfast.core.evolve import replay
from holdfast.core.run import Run
from holdfast.runtime.views import (
    BranchStatus,
    OperationStatus,
    Pause,
    RunStatus,
    Signal,
    Waiting,
    run_status,
    run_summary,
)
from holdfast.stores.records import InboxRow, RunRecord

FAILURE = Failure("E", "no", ("E",), step="work")
ARRIVALS = (
    Arrival("x", "nap", 1, "sleep", "main", Wait("", 5_000)),
    Arrival("y", "work", 1, "task", "main"),
)
BEGUN: list[tuple[Entry, int]] = [
    (RunStarted("w", "52c07e784e31bb37", b"json.1:1", ARRIVALS, 60_000), 1_000),
    (RetryScheduled("y", "work", 1, 2, 9_000, "all", FAILURE), 2_000),
]


def at(seconds: int) -> datetime:
    return datetime(1970, 1, 1, 0, 0, seconds, tzinfo=UTC)


def record_of(run: Run, status: str | None = None) -> RunRecord:
    return RunRecord(
        key=1,
        id="r",
        incarnation=1,
        epoch=3,
        position=run.position,
        status=status or run.status,
        workflow=run.workflow,
        fingerprint=run.fingerprint,
        queue="default",
        priority=3,
        tags=(),
        worker="w1",
        due_at_ms=run.due_at_ms,
        messages_sent=0,
        recoveries=2,
        input_digest=b"",
        parent_key=None,
        parent_incarnation=0,
        parent_step=None,
        created_at_ms=run.created_at_ms,
        updated_at_ms=run.updated_at_ms,
    )


def status_of(
    *more: tuple[Entry, int], inbox: tuple[InboxRow, ...] = (), status: str | None = None
) -> RunStatus:
    run = replay("r", [*BEGUN, *more])
    return run_status(record_of(run, status), run, inbox, run.failure, None)


def test_a_status_says_everything_of_an_unfinished_run() -> None:
    """Rows 35 and 49."""
    found = status_of()
    assert (found.status, found.position, found.worker, found.recoveries) == ("suspended", 2, "w1", 2)
    assert (found.created_at, found.updated_at, found.deadline) == (at(1), at(2), at(1).replace(minute=1))
    assert (found.pause, found.cancel_reason, found.cancelled_by) == (None, None, None)
    assert [(wait.reason, wait.due_at) for wait in found.waiting] == [("timer", at(6)), ("backoff", at(11))]
    assert found.branches["y"] == BranchStatus(
        id="y",
        status="backoff",
        step="work",
        attempt=2,
        parent="main",
        failure=FAILURE,
        pause=None,
        variables={},
        operations=[],
        progress=None,
    )
    assert (found.branches["main"].step, found.branches["main"].status) == (None, "completed")


def test_a_status_says_who_paused_it_and_why() -> None:
    """Row 32."""
    found = status_of((Paused("", "look", "ops"), 3_000), (Paused("x", "", "", freezes=False), 4_000))
    assert found.status == "paused"
    assert found.pause == Pause(reason="look", by="ops", freezes=True)
    assert found.branches["x"].pause == Pause(reason="", by="", freezes=False)
    assert found.branches["y"].pause is None
    assert found.deadline is None, "its clock stands still"


def test_a_status_says_who_cancelled_it_and_why() -> None:
    """Row 33."""
    found = status_of((RunCancelled("not wanted", "ops"), 3_000))
    assert (found.status, found.cancel_reason, found.cancelled_by) == ("cancelled", "not wanted", "ops")
    assert (found.waiting, found.deadline) == ([], None)
    assert found.branches["x"].status == "cancelled"


def test_variables_are_plain_data() -> None:
    payload = codec.encode({"n": [1, None]})
    found = status_of((StepCompleted("y", "work", 1, 2, b"json.1:1", (), {"v": payload}), 3_000))
    assert found.branches["y"].variables == {"v": {"n": [1, None]}}


def test_signals_that_nobody_has_received_are_listed() -> None:
    """Row 28, invariant 19: also of a run that is over; control messages are none of them."""
    rows = (
        InboxRow(1, "signal", "go", "id-1", codec.encode({"ok": True}), 3_000),
        InboxRow(2, "pause", "", "id-2", b"", 3_000),
        InboxRow(3, "signal", "go", "id-3", codec.encode(None), 4_000),
    )
    sent = [
        Signal(name="go", id="id-1", payload={"ok": True}, sent_at=at(3)),
        Signal(name="go", id="id-3", payload=None, sent_at=at(4)),
    ]
    assert status_of(inbox=rows).undelivered == sent
    assert status_of((RunCancelled("", ""), 5_000), inbox=rows).undelivered == sent


def test_a_blocked_run_waits_for_nothing() -> None:
    assert status_of(status="blocked").waiting == []


@pytest.mark.parametrize("status", ["pending", "paused", "cancelled"])
def test_a_line_of_a_list_says_what_the_row_says(status: str) -> None:
    record = msgspec.structs.replace(record_of(replay("r", BEGUN)), status=status)
    summary = run_summary(record)
    assert (summary.id, summary.workflow, summary.status, summary.position) == ("r", "w", status, 2)
    assert (summary.created_at, summary.updated_at) == (at(1), at(2))


# what the body of a step has asked for

MAIN = ("main", "f", 1)
BODY: list[tuple[Entry, int]] = [
    (RunStarted("w", "52c07e784e31bb37", b"json.1:1", (Arrival("main", "f", 1),)), 1_000),
    (OperationCompleted(*MAIN, "pay#1", "step", codec.encode({"ok": 1}), 0, {"v": codec.encode(1)}), 2_000),
    (OperationBegun(*MAIN, "gather#1/0/nap#1", "sleep", Wait("", 90_000)), 3_000),
    (OperationBegun(*MAIN, "gather#1/1/go#1", "wait_signal", Wait("go")), 4_000),
    (OperationBegun(*MAIN, "gather#1/2/w2#1", "child", None, Child("r/w2", "w2")), 5_000),
    (OperationRetried(*MAIN, "gather#1/3/pay#1", 2, 7_000, "all", FAILURE), 6_000),
]
SUSPENDED: tuple[Entry, int] = (StepSuspended(*MAIN), 7_000)


def body_of(*more: tuple[Entry, int], status: str | None = None) -> RunStatus:
    run = replay("r", [*BODY, *more])
    return run_status(record_of(run, status), run, (), None, None)


def test_a_suspended_branch_waits_for_each_of_its_operations() -> None:
    """Row 35: with its key; signals first, then children, timers and retries."""
    facts: dict[str, str] = {"branch": "main", "step": "f"}
    assert body_of(SUSPENDED).waiting == [
        Waiting(
            **facts,
            operation="gather#1/1/go#1",
            reason="signal",
            detail="for signal 'go'",
            signal="go",
            since=at(4),
        ),
        Waiting(
            **facts,
            operation="gather#1/2/w2#1",
            reason="child",
            detail="for child run 'r/w2' of workflow 'w2'",
            child="r/w2",
            since=at(5),
        ),
        Waiting(
            **facts,
            operation="gather#1/0/nap#1",
            reason="timer",
            detail="sleeps",
            since=at(3),
            due_at=at(33).replace(minute=1),
        ),
        Waiting(
            **facts,
            operation="gather#1/3/pay#1",
            reason="backoff",
            detail="for attempt 2 after E in step 'work': no",
            due_at=at(13),
        ),
    ]


def test_a_branch_whose_body_lives_or_is_due_waits_for_nothing() -> None:
    """Row 35: what is pending beside what it does is listed with its operations."""
    received = (OperationCompleted(*MAIN, "gather#1/1/go#1", "wait_signal", codec.encode(5), 1), 8_000)
    for found in (body_of(), body_of(SUSPENDED, received)):
        assert found.branches["main"].status == "active"
        assert found.waiting == []
        pending = [each.key for each in found.branches["main"].operations if each.status == "sleeping"]
        assert pending == ["gather#1/0/nap#1"]


def test_a_suspended_branch_that_is_paused_waits_for_the_end_of_the_pause() -> None:
    """Rows 32 and 35."""
    (wait,) = body_of(SUSPENDED, (Paused("", "look", "ops"), 8_000)).waiting
    assert (wait.reason, wait.step, wait.operation, wait.since) == ("pause", "f", "", at(8))


def test_operations_are_told_in_the_order_in_which_they_were_recorded() -> None:
    failed: tuple[Entry, int] = (OperationFailed(*MAIN, "record#1", "record", FAILURE), 8_000)
    found = body_of(failed).branches["main"].operations

    def operation(key: str, kind: str, status: str, **facts: object) -> OperationStatus:
        nothing = {"attempt": 1, "output": None, "failure": None, "due_at": None, "child": None}
        return OperationStatus(**({"key": key, "kind": kind, "status": status} | nothing | facts))  # type: ignore[arg-type]

    due_at = at(33).replace(minute=1)
    assert found == [
        operation("pay#1", "step", "completed", output={"ok": 1}),
        operation("gather#1/0/nap#1", "sleep", "sleeping", due_at=due_at),
        operation("gather#1/1/go#1", "wait_signal", "waiting"),
        operation("gather#1/2/w2#1", "child", "child", child="r/w2"),
        operation("gather#1/3/pay#1", "step", "backoff", attempt=2, failure=FAILURE, due_at=at(13)),
        operation("record#1", "record", "failed", failure=FAILURE),
    ]


def test_a_sleep_that_is_over_gave_nothing() -> None:
    found = body_of((OperationCompleted(*MAIN, "gather#1/0/nap#1", "sleep", b""), 93_000))
    operation = found.branches["main"].operations[1]
    assert (operation.status, operation.output, operation.due_at) == ("completed", None, None)


def test_a_child_that_nobody_waits_for_has_its_id_too() -> None:
    """Row 56: detached, all that is recorded of it is its id."""
    found = body_of((OperationCompleted(*MAIN, "w3#1", "child", codec.encode("r/w3")), 8_000))
    assert found.branches["main"].operations[-1].child == "r/w3"


def test_variables_are_as_the_body_sees_them() -> None:
    more: list[tuple[Entry, int]] = [
        (
            OperationCompleted(
                *MAIN, "a#1", "value", codec.encode(0), 0, {"v": DELETED, "w": codec.encode([2])}
            ),
            8_000,
        ),
    ]
    assert body_of().branches["main"].variables == {"v": 1}
    assert body_of(*more).branches["main"].variables == {"w": [2]}


def test_progress_is_what_was_reported_last() -> None:
    def reported(kind: typing.Literal["progress", "heartbeat"], done: int) -> tuple[Entry, int]:
        return Reported(*MAIN, "", kind, codec.encode({"done": done})), 8_000

    assert body_of().branches["main"].progress is None
    found = body_of(reported("progress", 1), reported("progress", 2), reported("heartbeat", 3))
    assert found.branches["main"].progress == {"done": 2}


def test_a_payload_that_cannot_be_read_hides_nothing_else() -> None:
    found = body_of((OperationCompleted(*MAIN, "a#1", "value", b"json.9:2"), 8_000))
    first, *_, last = found.branches["main"].operations
    assert (first.output, last.output) == ({"ok": 1}, {"encoded": base64.b64encode(b"json.9:2").decode()})


def test_a_blocked_run_shows_where_it_is() -> None:
    """Rows 56 and 68: what could be read of it."""
    found = body_of(SUSPENDED, status="blocked")
    assert found.waiting == []
    assert found.branches["main"].step == "f"
    assert len(found.branches["main"].operations) == 5
