"""`holdfast show`: everything about one run."""

import asyncio
from datetime import datetime

from holdfast.cli.entries import what
from holdfast.cli.options import AsJson, Db, RunId, existing_url, given_id
from holdfast.cli.output import (
    LONG_CHARACTERS_MAX,
    moment,
    print_document,
    print_line,
    print_table,
    printed_line,
    shortened,
)
from holdfast.cli.payloads import fold, output_of, plain, text_of
from holdfast.core.entries import Failure
from holdfast.core.run import OVER
from holdfast.engine import AsyncEngine
from holdfast.errors import FormatError
from holdfast.runtime.views import BranchStatus, JournalEntry, OperationStatus, Pause, RunStatus

BRANCH_COLUMNS = ("branch", "status", "step", "attempt", "parent", "what")
PROGRESS_COLUMNS = ("branch", "progress")
VARIABLE_COLUMNS = ("branch", "variable", "value")
WAITING_COLUMNS = ("branch", "step", "operation", "reason", "detail", "since", "until")
SIGNAL_COLUMNS = ("signal", "id", "sent", "payload")
JOURNAL_COLUMNS = ("position", "time", "epoch", "kind", "branch", "step", "attempt", "what")


def show(
    id: RunId,
    *,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its status, what it waits for, its output or failure, and its journal.

    Below a branch stands what the body of its step has asked for.

    With --json, an object: {"id", "workflow", "fingerprint", "status",
    "output", "failure", "branches": {name: {..., "pause", "variables",
    "operations": [{"key", "kind", "status", "attempt", "output", "failure",
    "due_at", "child"}, ...], "progress"}}, "waiting": [{"branch", "step",
    "operation", "reason", "detail", "signal", "child", "since", "due_at"},
    ...], "undelivered": [{"name", "id", "payload", "sent_at"}, ...],
    "pause": {"reason", "by", "freezes"} or null, "cancel_reason",
    "cancelled_by", "deadline", "position", "worker", "recoveries",
    "created_at", "updated_at", "journal": [{"position", "epoch", "at",
    "kind", "entry": {...}}, ...]}.
    All values are as they were recorded.
    """
    run_id = given_id(id)
    status, journal = asyncio.run(_read(existing_url(db), run_id))
    output = output_of(fold(run_id, journal)) if status.status in OVER else None
    if as_json:
        facts = {name: plain(getattr(status, name)) for name in status.__struct_fields__}
        print_document({**facts, "output": output, "journal": plain(journal)})
        return
    _print_head(status, output)
    print_line("\nbranches")
    print_table(BRANCH_COLUMNS, [row for branch in status.branches.values() for row in _branch_rows(branch)])
    _print_variables(status)
    _print_progress(status)
    if status.status not in OVER:
        _print_waiting(status)
    _print_undelivered(status)
    print_line("journal")
    print_table(JOURNAL_COLUMNS, [_journal_row(each) for each in journal])


async def _read(url: str, run_id: str) -> tuple[RunStatus, list[JournalEntry]]:
    async with AsyncEngine(url, worker=False) as engine:
        handle = await engine.get(run_id)
        status = await handle.status()
        try:
            journal = await handle.journal()
        except FormatError:
            if status.status != "blocked":
                raise
            return status, []  # that it cannot be read is why it is blocked
        # The run may have gone on between the two: what is shown is one moment.
        return status, [each for each in journal if each.position <= status.position]


def _print_head(status: RunStatus, output: object) -> None:
    print_line(f"run       {status.id}")
    print_line(f"workflow  {status.workflow} ({status.fingerprint})")
    print_line(f"status    {status.status}")
    print_line(f"created   {moment(status.created_at)}")
    print_line(f"updated   {moment(status.updated_at)}")
    if status.deadline is not None and status.status not in OVER:
        print_line(f"deadline  {moment(status.deadline)}")
    if status.pause is not None and status.status not in OVER:
        print_line(f"paused    {_pause(status.pause)}")
    if status.status == "cancelled":
        print_line(f"cancelled {_said(status.cancelled_by or '', status.cancel_reason or '')}")
    if status.status == "completed":
        print_line(f"output    {shortened(text_of(output), LONG_CHARACTERS_MAX)}")
    if status.failure is not None:
        _print_failure(status.failure)


def _print_failure(failure: Failure) -> None:
    print_line(f"failure   {failure.summary()}")
    for line in failure.traceback.splitlines():
        print_line(f"          {line}")


def _print_variables(status: RunStatus) -> None:
    rows = [
        (branch.id, name, shortened(text_of(value)))
        for branch in status.branches.values()
        for name, value in branch.variables.items()
    ]
    if rows:
        print_line("variables")
        print_table(VARIABLE_COLUMNS, rows)


def _print_progress(status: RunStatus) -> None:
    reported = [branch for branch in status.branches.values() if branch.progress is not None]
    if reported:
        print_line("progress")
        print_table(PROGRESS_COLUMNS, [(each.id, shortened(text_of(each.progress))) for each in reported])


def _print_waiting(status: RunStatus) -> None:
    if status.waiting:
        print_line("waiting for")
        rows = [
            (w.branch, w.step, w.operation, w.reason, printed_line(w.detail), _when(w.since), _when(w.due_at))
            for w in status.waiting
        ]
        print_table(WAITING_COLUMNS, rows)
    if status.worker is not None:
        print_line(f"worker {status.worker} drives it\n")
    elif status.status == "blocked":
        print_line("blocked: it cannot go on before that is mended; its journal is kept as it is\n")
    elif status.status == "paused":
        print_line("paused: what is held goes on when it is unpaused\n")
    else:
        print_line(f"no worker holds it; one that knows {status.workflow!r} goes on with it\n")


def _print_undelivered(status: RunStatus) -> None:
    if status.undelivered:
        print_line("signals that no branch has received")
        rows = [
            (each.name, each.id, moment(each.sent_at), shortened(text_of(each.payload)))
            for each in status.undelivered
        ]
        print_table(SIGNAL_COLUMNS, rows)


def _pause(pause: Pause) -> str:
    clocks = "clocks stand still" if pause.freezes else "clocks run"
    return f"{_said(pause.by, pause.reason)} ({clocks})"


def _said(by: str, reason: str) -> str:
    return printed_line(": ".join(part for part in (by and f"by {by}", reason) if part)) or "-"


def _when(at: datetime | None) -> str:
    return "-" if at is None else moment(at)


def _branch_rows(branch: BranchStatus) -> list[tuple[str, ...]]:
    failure = "" if branch.failure is None else shortened(branch.failure.summary())
    attempt, parent = str(branch.attempt), branch.parent or "-"
    own = (branch.id, branch.status, branch.step or "-", attempt, parent, failure)
    return [own, *(_operation_row(operation) for operation in branch.operations)]


def _operation_row(operation: OperationStatus) -> tuple[str, ...]:
    said: list[str] = [operation.kind]
    if operation.child is not None:
        said.append(f"run {operation.child}")
    if operation.due_at is not None:
        said.append(f"until {moment(operation.due_at)}")
    if operation.failure is not None:
        said.append(shortened(operation.failure.summary()))
    elif operation.output is not None and operation.output != operation.child:
        said.append(shortened(text_of(operation.output)))
    return (f"  {operation.key}", operation.status, "", str(operation.attempt), "", ", ".join(said))


def _journal_row(each: JournalEntry) -> tuple[str, ...]:
    entry = each.entry
    return (
        str(each.position),
        moment(each.at),
        str(each.epoch),
        each.kind,
        str(getattr(entry, "branch", "")),
        str(getattr(entry, "step", "")),
        str(getattr(entry, "attempt", "")),
        what(entry),
    )
