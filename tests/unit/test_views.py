"""What people see of a run: its status, its waits, what was sent to it (rows 28, 32, 33, 35, 49)."""

from datetime import UTC, datetime

import msgspec
import pytest

from holdfast.codecs import json as codec
from holdfast.core.entries import (
    Arrival,
    Entry,
    Failure,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunStarted,
    StepCompleted,
    Wait,
)
from holdfast.core.evolve import replay
from holdfast.core.run import Run
from holdfast.runtime.views import BranchStatus, Pause, RunStatus, Signal, run_status, run_summary
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
