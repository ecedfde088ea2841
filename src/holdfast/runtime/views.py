"""What people see of runs: status, journal and list entries, folded from what is stored."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.clocks import pending
from holdfast.core.entries import DELETED, Entry, Failure, OperationKind, Paused
from holdfast.core.run import OPEN, Branch, Operation, Run, place_of
from holdfast.core.run import OperationStatus as OperationState
from holdfast.errors import CodecError, FormatError
from holdfast.runtime.inbox import SIGNAL
from holdfast.stores.records import InboxRow, RunRecord

WaitReason = Literal["pause", "signal", "child", "timer", "backoff", "join"]
"""What a branch can wait for, the dominant reason first (semantics row 35)."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an unfinished run waits for.

    Attributes:
        branch, step: Who waits, and where.
        operation: Key of what the body of that step waits for; "" where it is the branch itself that waits.
        reason: `pause`, `signal`, `child`, `timer`, `backoff` or `join`.
        detail: One line for people.
        signal: Name of the signal, for that reason.
        child: Id of the child run, for that reason.
        since: When it began to wait; None for a backoff.
        due_at: When it ends by itself, or None.
    """

    branch: str
    step: str
    reason: WaitReason
    detail: str
    operation: str = ""
    signal: str | None = None
    child: str | None = None
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


class OperationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the body of a step has asked for, while its branch is at that step.

    Attributes:
        key: Names it within the step, after the parallel work that it is part of: `gather#1/0/charge#2`.
        kind: step, record, value, patch, sleep, wait_signal, child or scopes.
        status: sleeping, waiting, backoff, child, completed or failed.
        attempt: From 1.
        output: Of a completed one, as plain data; None where there is none.
        failure: Of a failed one, or of the attempt before the retry that is owed.
        due_at: When its sleep, its time-out or its backoff is over, or None.
        child: Id of the run that it has started, or None.
    """

    key: str
    kind: OperationKind
    status: OperationState
    attempt: int
    output: Any
    failure: Failure | None
    due_at: datetime | None
    child: str | None


class BranchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A branch: active, backoff, suspended, joining, sleeping, waiting, completed, failed or cancelled.

    A suspended one is at a step whose body waits for its operations.

    Attributes:
        step: Where it is, or was last; None for a `main` that forked at the start.
        attempt: From 1.
        parent: The branch that started it.
        failure: What ended it, or failed before the retry it waits for.
        pause: Its own pause, besides that of the run.
        variables: By name, as plain data, with what the body of its step has set since it came there.
        operations: What the body of its step has asked for, in the order in which it was recorded.
        progress: What that body has reported last, as plain data, or None.
    """

    id: str
    status: str
    step: str | None
    attempt: int
    parent: str | None
    failure: Failure | None
    pause: Pause | None
    variables: dict[str, Any]
    operations: list[OperationStatus]
    progress: Any


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run at one moment.

    Attributes:
        status: pending, running, suspended, paused, blocked, completed, failed or cancelled.
        output: Of a completed run, decoded; else None.
        failure: Why it failed or is blocked; else None. The type is `definition_changed` for a run whose code
            asks for something else than is recorded.
        branches: By id, in the order they began.
        waiting: What it waits for: pauses first, then signals, children, and the rest; of one reason the
            earliest due first.
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
    payloads = {**branch.variables, **branch.sets}
    return BranchStatus(
        id=branch.id,
        status=branch.status,
        step=None if branch.at is None else branch.at.step,
        attempt=branch.attempt,
        parent=branch.parent,
        failure=branch.failure,
        pause=_pause(branch.pause),
        variables={name: _decoded(payload) for name, payload in payloads.items() if payload != DELETED},
        operations=[_operation(operation) for operation in branch.operations.values()],
        progress=None if branch.progress is None else _decoded(branch.progress),
    )


def _operation(operation: Operation) -> OperationStatus:
    output = _decoded(operation.output) if operation.output else None
    child = None if operation.child is None else operation.child.id
    if operation.kind == "child" and operation.child is None and isinstance(output, str):
        child = output  # nobody waits for it: its id is all that was asked for
    return OperationStatus(
        key=operation.key,
        kind=operation.kind,
        status=operation.status,
        attempt=operation.attempt,
        output=output,
        failure=operation.failure,
        due_at=_instant(operation.due_at_ms),
        child=child,
    )


def _instant(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else instant(at_ms)


def _pause(pause: Paused | None) -> Pause | None:
    return None if pause is None else Pause(reason=pause.reason, by=pause.by, freezes=pause.freezes)


def _signal(row: InboxRow) -> Signal:
    return Signal(name=row.name, id=row.id, payload=_decoded(row.payload), sent_at=instant(row.at_ms))


_decode_plain = codec.decoder(Any)


def _decoded(payload: bytes) -> Any:  # noqa: ANN401 - JSON-like
    """A payload as plain data: nobody here knows what it is to be.

    One that cannot be read here is `{"encoded": "<base64>"}`: the rest of the run is there to be seen.
    """
    try:
        return _decode_plain(payload)
    except (CodecError, FormatError):
        return {"encoded": base64.b64encode(payload).decode()}


def waiting_of(run: Run) -> list[Waiting]:
    """Everything that an unfinished run waits for, the dominant reason first (semantics row 35).

    A branch whose body lives or is to be called is at work, also while operations of it are not done.
    """
    found = [wait for branch in run.branches.values() for wait in _waits(run, branch)]
    latest = datetime.max.replace(tzinfo=UTC)
    order: tuple[WaitReason, ...] = get_args(WaitReason)
    return sorted(found, key=lambda wait: (order.index(wait.reason), wait.due_at or latest))


def _waits(run: Run, branch: Branch) -> list[Waiting]:
    if branch.at is None or branch.status not in OPEN:
        return []
    pause = branch.pause or run.pause
    if pause is not None:
        since_ms = run.paused_at_ms if branch.pause is None else branch.paused_at_ms
        return [_paused(branch, branch.at.step, pause, since_ms)]
    if branch.status == "active":
        return []
    if branch.status == "suspended":
        return [_wait(run, branch, branch.at.step, operation) for operation in pending(branch)]
    return [_wait(run, branch, branch.at.step, branch)]


def _paused(branch: Branch, step: str, pause: Paused, since_ms: int) -> Waiting:
    by = f" by {pause.by}" if pause.by else ""
    why = f": {pause.reason}" if pause.reason else ""
    return Waiting(
        branch=branch.id,
        step=step,
        reason="pause",
        detail=f"paused{by}{why}",
        since=instant(since_ms),
        due_at=_instant(branch.due_at_ms),
    )


def _wait(run: Run, branch: Branch, step: str, waits: Branch | Operation) -> Waiting:
    """What a branch or an operation of its step waits for."""
    key = waits.key if isinstance(waits, Operation) else ""
    child = waits.child if isinstance(waits, Operation) and waits.status == "child" else None
    reason: WaitReason
    signal = None
    match waits.status:
        case "backoff":
            after = "" if waits.failure is None else f" after {waits.failure.summary()}"
            reason, detail = "backoff", f"for attempt {waits.attempt}{after}"
        case "sleeping":
            reason, detail = "timer", "sleeps"
        case "waiting":
            signal = run.waits.get(place_of(branch.id, key), "")
            reason, detail = "signal", f"for signal {signal!r}"
        case _ if child is not None:
            reason, detail = "child", f"for child run {child.id!r} of workflow {child.workflow!r}"
        case _:
            others = [b.id for b in run.branches.values() if b.status in OPEN and b.status != "joining"]
            reason, detail = "join", f"for the branches it joins; still open: {', '.join(others)}"
    return Waiting(
        branch=branch.id,
        step=step,
        operation=key,
        reason=reason,
        detail=detail,
        signal=signal,
        child=None if child is None else child.id,
        since=None if reason == "backoff" else instant(waits.since_ms),
        due_at=_instant(waits.due_at_ms),
    )
