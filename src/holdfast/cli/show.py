"""`holdfast show`: everything about one run."""

import asyncio
from typing import Annotated

import typer

from holdfast.cli.options import AsJson, Db, existing_url
from holdfast.cli.output import (
    LONG_CHARACTERS_MAX,
    moment,
    print_document,
    print_line,
    print_table,
    shortened,
)
from holdfast.cli.payloads import fold, output_of, plain, text_of
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    Failure,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from holdfast.core.run import OVER
from holdfast.engine import AsyncEngine
from holdfast.runtime.views import JournalEntry, RunStatus

BRANCH_COLUMNS = ("branch", "status", "step", "attempt", "parent", "failure")
WAITING_COLUMNS = ("branch", "step", "reason", "detail", "due")
JOURNAL_COLUMNS = ("position", "time", "epoch", "kind", "branch", "step", "attempt", "what")


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the run.")],
    *,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its status, what it waits for, its output or failure, and its journal.

    With --json, an object: {"id", "workflow", "fingerprint", "status",
    "output", "failure", "branches": {name: {...}}, "waiting": [...],
    "position", "worker", "recoveries", "created_at", "updated_at",
    "journal": [{"position", "epoch", "at", "kind", "entry": {...}}, ...]}.
    All values are as they were recorded.
    """
    status, journal = asyncio.run(_read(existing_url(db), id))
    output = output_of(fold(id, journal))
    if as_json:
        facts = {name: plain(getattr(status, name)) for name in status.__struct_fields__}
        print_document({**facts, "output": output, "journal": plain(journal)})
        return
    _print_head(status, output)
    print_line("\nbranches")
    print_table(BRANCH_COLUMNS, [_branch_row(status, name) for name in status.branches])
    if status.status not in OVER:
        _print_waiting(status)
    print_line("journal")
    print_table(JOURNAL_COLUMNS, [_journal_row(each) for each in journal])


async def _read(url: str, run_id: str) -> tuple[RunStatus, list[JournalEntry]]:
    async with AsyncEngine(url, worker=False) as engine:
        handle = await engine.get(run_id)
        status = await handle.status()
        if status.status == "blocked":
            return status, []
        # The run may have gone on between the two: what is shown is one moment.
        journal = [each for each in await handle.journal() if each.position <= status.position]
        return status, journal


def _print_head(status: RunStatus, output: object) -> None:
    print_line(f"run       {status.id}")
    print_line(f"workflow  {status.workflow} ({status.fingerprint})")
    print_line(f"status    {status.status}")
    print_line(f"created   {moment(status.created_at)}")
    print_line(f"updated   {moment(status.updated_at)}")
    if status.status == "completed":
        print_line(f"output    {shortened(text_of(output), LONG_CHARACTERS_MAX)}")
    if status.failure is not None:
        _print_failure(status.failure)


def _print_failure(failure: Failure) -> None:
    print_line(f"failure   {failure.summary()}")
    for line in failure.traceback.splitlines():
        print_line(f"          {line}")


def _print_waiting(status: RunStatus) -> None:
    if status.waiting:
        print_line("waiting for")
        rows = [
            (w.branch, w.step, w.reason, w.detail, "-" if w.due_at is None else moment(w.due_at))
            for w in status.waiting
        ]
        print_table(WAITING_COLUMNS, rows)
    if status.worker is not None:
        print_line(f"worker {status.worker} drives it\n")
    elif status.status == "blocked":
        print_line("blocked: it cannot go on before that is mended; its journal is kept as it is\n")
    else:
        print_line(f"no worker holds it; one that knows {status.workflow!r} goes on with it\n")


def _branch_row(status: RunStatus, name: str) -> tuple[str, ...]:
    branch = status.branches[name]
    failure = "" if branch.failure is None else shortened(branch.failure.summary())
    return (
        branch.id,
        branch.status,
        branch.step or "-",
        str(branch.attempt),
        branch.parent or "-",
        failure,
    )


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
        _what(entry),
    )


def _what(entry: Entry) -> str:
    """What an entry says beyond its columns: a value, and where the run went from there."""
    match entry:
        case RunStarted():
            what = _value(entry.input) + _onwards("", entry.arrivals)
        case StepCompleted():
            what = _value(entry.output) + _onwards(entry.branch, entry.arrivals)
        case BranchJoined():
            what = ", ".join(entry.joined) + _onwards(entry.branch, entry.arrivals)
        case RetryScheduled():
            what = f"in {entry.delay_ms} ms, after {shortened(entry.failure.summary())}"
        case RunFailed():
            what = shortened(entry.failure.summary())
        case RunCompleted():
            what = f"the output is that of branch {entry.branch}"
        case _:
            what = shortened(text_of(plain(entry)))
    return what


def _value(payload: bytes) -> str:
    return shortened(text_of(plain(payload)))


def _onwards(branch: str, arrivals: tuple[Arrival, ...]) -> str:
    if not arrivals:
        return ""
    steps = (a.step if a.branch == branch else f"{a.step} (branch {a.branch})" for a in arrivals)
    return " -> " + ", ".join(steps)
