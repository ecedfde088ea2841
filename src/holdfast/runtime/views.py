"""What people see of runs: status, journal and list entries, folded from what is stored."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from holdfast.core.entries import Entry, Failure
from holdfast.core.run import Branch, Run
from holdfast.stores.records import RunRecord


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an unfinished run waits for.

    Attributes:
        branch, step: Who waits, and where.
        reason: `retry` (until `due_at`) or `join`.
        detail: One line for people.
        due_at: When it ends by itself, or None.
    """

    branch: str
    step: str
    reason: str
    detail: str
    due_at: datetime | None = None


class BranchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A branch: `active`, `backoff`, `joining`, `completed`, `failed` or `cancelled`.

    Attributes:
        step: Where it is, or was last; None for a `main` that forked at the start.
        attempt: From 1.
        parent: The branch that started it.
        failure: What ended it, or failed before the retry it waits for.
    """

    id: str
    status: str
    step: str | None
    attempt: int
    parent: str | None
    failure: Failure | None


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run at one moment.

    Attributes:
        status: pending, running, suspended, paused, blocked, completed, failed or cancelled.
        output: Of a completed run, decoded; else None.
        failure: Why it failed or is blocked; else None.
        branches: By id, in the order they began.
        waiting: What it waits for, the earliest due first.
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


def run_status(record: RunRecord, run: Run, failure: Failure | None, output: object) -> RunStatus:
    """Join a run's row, its fold, why it failed or is blocked, and its decoded output."""
    return RunStatus(
        id=record.id,
        workflow=record.workflow,
        fingerprint=record.fingerprint,
        status=record.status,
        output=output,
        failure=failure,
        branches={branch.id: _branch(branch) for branch in run.branches.values()},
        waiting=_waiting(run),
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
    )


def _waiting(run: Run) -> list[Waiting]:
    waits: list[tuple[float, Waiting]] = []
    for branch in run.branches.values():
        step = "" if branch.at is None else branch.at.step
        if branch.status == "backoff":
            reason = "" if branch.failure is None else branch.failure.summary()
            wait = Waiting(
                branch=branch.id,
                step=step,
                reason="retry",
                detail=f"attempt {branch.attempt} after {reason}",
                due_at=instant(branch.due_at_ms),
            )
            waits.append((branch.due_at_ms, wait))
        elif branch.status == "joining":
            others = ", ".join(b.id for b in run.branches.values() if b.status in {"active", "backoff"})
            detail = f"for the branches it joins; still open: {others}"
            waits.append((float("inf"), Waiting(branch=branch.id, step=step, reason="join", detail=detail)))
    return [wait for _, wait in sorted(waits, key=lambda pair: pair[0])]
