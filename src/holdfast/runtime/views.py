"""What people see of runs: status, journal and list entries, folded from what is stored."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.entries import Entry, Failure, Paused
from holdfast.core.run import OPEN, OVER, Branch, Run
from holdfast.runtime.inbox import SIGNAL
from holdfast.stores.records import InboxRow, RunRecord

WaitReason = Literal["pause", "signal", "timer", "backoff", "join"]
"""What a branch can wait for, the dominant reason first (semantics row 35)."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an unfinished run waits for.

    Attributes:
        branch, step: Who waits, and where.
        reason: `pause`, `signal`, `timer`, `backoff` or `join`.
        detail: One line for people.
        signal: Name of the signal, for that reason.
        since: When it began to wait; None for a backoff.
        due_at: When it ends by itself, or None.
    """

    branch: str
    step: str
    reason: WaitReason
    detail: str
    signal: str | None = None
    since: datetime | None = None
    due_at: datetime | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run or a branch starts nothing.

    Attributes:
        reason, by: As given by whoever paused it; `by` is "" for a pause step.
        freezes: Whether its clocks stand still meanwhile.
    """

    reason: str
    by: str
    freezes: bool


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that was sent and that no branch has received; `id` is what it was sent with."""

    name: str
    id: str
    payload: Any
    sent_at: datetime


class BranchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A branch: active, backoff, joining, sleeping, waiting, completed, failed or cancelled.

    Attributes:
        step: Where it is, or was last; None for a `main` that forked at the start.
        attempt: From 1.
        parent: The branch that started it.
        failure: What ended it, or failed before the retry it waits for.
        pause: Its own pause, besides that of the run.
        variables: Its variables by name, decoded.
    """

    id: str
    status: str
    step: str | None
    attempt: int
    parent: str | None
    failure: Failure | None
    pause: Pause | None
    variables: dict[str, Any]


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run at one moment.

    Attributes:
        status: pending, running, suspended, paused, blocked, completed, failed or cancelled.
        output: Of a completed run, decoded; else None.
        failure: Why it failed or is blocked; else None.
        branches: By id, in the order they began.
        waiting: What it waits for: pauses first, then signals, then the rest; of these the earliest due first.
        undelivered: Signals that were sent and not received, in their order.
        pause: The pause of the run as a whole.
        cancel_reason, cancelled_by: As given by whoever cancelled it; else None.
        deadline: When its time-out fails it, or None.
        position: Entries in its journal.
        worker: Who holds it, or None.
        recoveries: How often a worker died over it since it last completed a step.
    """

    id: str
    workflow: str
    fingerprint: str
    status: str
    output: Any
    failure: Failure | None
    branches: dict[str, BranchStatus]
    waiting: list[Waiting]
    undelivered: list[Signal]
    pause: Pause | None
    cancel_reason: str | None
    cancelled_by: str | None
    deadline: datetime | None
    position: int
    worker: str | None
    recoveries: int
    created_at: datetime
    updated_at: datetime


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a list of runs."""

    id: str
    workflow: str
    status: str
    position: int
    created_at: datetime
    updated_at: datetime


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as people read it.

    Attributes:
        position: From 1, without gaps.
        epoch: Under which it was written; 0 is the start.
        kind: Name of the entry, like `StepCompleted`.
        entry: The entry itself; payloads in it are encoded.
    """

    position: int
    epoch: int
    at: datetime
    kind: str
    entry: Entry


def instant(at_ms: int) -> datetime:
    """Milliseconds since the epoch as an aware datetime."""
    return datetime.fromtimestamp(at_ms / 1_000, tz=UTC)


def run_status(
    record: RunRecord, run: Run, inbox: Iterable[InboxRow], failure: Failure | None, output: object
) -> RunStatus:
    """Join a run's row, its fold, its messages, why it failed or is blocked, and its decoded output."""
    return RunStatus(
        id=record.id,
        workflow=record.workflow,
        fingerprint=record.fingerprint,
        status=record.status,
        output=output,
        failure=failure,
        branches={branch.id: _branch(branch) for branch in run.branches.values()},
        waiting=[] if record.status == "blocked" else waiting_of(run),
        undelivered=[_signal(row) for row in inbox if row.kind == SIGNAL],
        pause=_pause(run.pause),
        cancel_reason=None if run.cancel is None else run.cancel.reason,
        cancelled_by=None if run.cancel is None else run.cancel.by,
        deadline=None if run.deadline_ms is None else instant(run.deadline_ms),
        position=run.position,
        worker=record.worker,
        recoveries=record.recoveries,
        created_at=instant(record.created_at_ms),
        updated_at=instant(record.updated_at_ms),
    )


def run_summary(record: RunRecord) -> RunSummary:
    """A row as a line of a list."""
    return RunSummary(
        id=record.id,
        workflow=record.workflow,
        status=record.status,
        position=record.position,
        created_at=instant(record.created_at_ms),
        updated_at=instant(record.updated_at_ms),
    )


def _branch(branch: Branch) -> BranchStatus:
    return BranchStatus(
        id=branch.id,
        status=branch.status,
        step=None if branch.at is None else branch.at.step,
        attempt=branch.attempt,
        parent=branch.parent,
        failure=branch.failure,
        pause=_pause(branch.pause),
        variables={name: _decoded(payload) for name, payload in branch.variables.items()},
    )


def _pause(pause: Paused | None) -> Pause | None:
    return None if pause is None else Pause(reason=pause.reason, by=pause.by, freezes=pause.freezes)


def _signal(row: InboxRow) -> Signal:
    return Signal(name=row.name, id=row.id, payload=_decoded(row.payload), sent_at=instant(row.at_ms))


def _decoded(payload: bytes) -> Any:  # noqa: ANN401 - JSON-like
    """A payload as plain data: nobody here knows what it is to be."""
    return codec.decoder(Any)(payload)


def waiting_of(run: Run) -> list[Waiting]:
    """Everything that an unfinished run waits for, the dominant reason first (semantics row 35)."""
    waits = [_paused(run, branch) or _waits(run, branch) for branch in run.branches.values()]
    found = [wait for wait in waits if wait is not None]
    latest = datetime.max.replace(tzinfo=UTC)
    order: tuple[WaitReason, ...] = get_args(WaitReason)
    return sorted(found, key=lambda wait: (order.index(wait.reason), wait.due_at or latest))


def _paused(run: Run, branch: Branch) -> Waiting | None:
    pause = branch.pause or run.pause
    if pause is None or branch.status not in OPEN or branch.at is None:
        return None
    by = f" by {pause.by}" if pause.by else ""
    why = f": {pause.reason}" if pause.reason else ""
    since_ms = run.paused_at_ms if branch.pause is None else branch.paused_at_ms
    return Waiting(
        branch=branch.id,
        step=branch.at.step,
        reason="pause",
        detail=f"paused{by}{why}",
        since=instant(since_ms),
        due_at=None if branch.due_at_ms is None else instant(branch.due_at_ms),
    )


def _waits(run: Run, branch: Branch) -> Waiting | None:
    if branch.at is None or branch.status in {"active", *OVER}:
        return None
    due_at = None if branch.due_at_ms is None else instant(branch.due_at_ms)
    reason: WaitReason
    since, signal = None if branch.status == "backoff" else instant(branch.since_ms), None
    match branch.status:
        case "backoff":
            reason = "backoff"
            failure = "" if branch.failure is None else branch.failure.summary()
            detail = f"for attempt {branch.attempt} after {failure}"
        case "sleeping":
            reason, detail = "timer", "sleeps"
        case "waiting":
            signal = run.waits.get(branch.id, "")
            reason, detail = "signal", f"for signal {signal!r}"
        case _:
            others = [b.id for b in run.branches.values() if b.status in OPEN and b.status != "joining"]
            reason, detail = "join", f"for the branches it joins; still open: {', '.join(others)}"
    return Waiting(
        branch=branch.id,
        step=branch.at.step,
        reason=reason,
        detail=detail,
        signal=signal,
        since=since,
        due_at=due_at,
    )
