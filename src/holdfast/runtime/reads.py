"""Looking at runs: one folded from what is stored, and waiting for one to end."""

import asyncio

from holdfast.codecs.entries import decode_entry
from holdfast.core.run import OVER, Run
from holdfast.errors import HoldfastError, ResultTimeoutError, RunBlockedError, RunNotFoundError
from holdfast.runtime.folds import UNREADABLE, fold
from holdfast.runtime.limits import RESULT_POLL_FIRST_MS, RESULT_POLL_MAX_MS
from holdfast.runtime.views import JournalEntry, instant
from holdfast.runtime.worker import Worker
from holdfast.stores.base import Store
from holdfast.stores.records import QUARANTINE_AT, InboxRow, RunRecord


async def find(store: Store, run_id: str) -> RunRecord:
    """The row of a run.

    Raises:
        RunNotFoundError: No run has that id.
    """
    record = await store.find_run(run_id)
    if record is None:
        raise RunNotFoundError(run_id=run_id)
    return record


async def fold_over(store: Store, record: RunRecord) -> tuple[Run, list[InboxRow]]:
    """The state of a run that is over; of one without an output, whose journal cannot be read, only its status.

    It is over no more where it was replaced or reopened since `record` was read.

    Raises:
        FormatError: It has an output, which cannot be read.
    """
    try:
        return await fold(store, record)
    except UNREADABLE:
        if record.status == "completed":
            raise
        run = Run(record.id)
        run.status = "failed" if record.status == "failed" else "cancelled"
        return run, []


async def journal(store: Store, run_id: str) -> list[JournalEntry]:
    """The journal as people read it, from position 1."""
    record = await find(store, run_id)
    entries: list[JournalEntry] = []
    for row in await store.read_journal(record.key):
        entry = decode_entry(row.entry, run_id=run_id, position=row.position)
        entries.append(
            JournalEntry(
                position=row.position,
                epoch=row.epoch,
                at=instant(row.at_ms),
                kind=type(entry).__name__,
                entry=entry,
            )
        )
    return entries


async def ended(store: Store, worker: Worker, run_id: str) -> Run:
    """Wait until the run is over, wherever it is driven.

    A run driven here tells by itself; others are looked at with growing pauses.
    """
    pause_ms = RESULT_POLL_FIRST_MS
    while True:
        watching = worker.watch(run_id)
        try:
            if not worker.is_driven(run_id):
                record = await find(store, run_id)
                if record.status in OVER:
                    over, _ = await fold_over(store, record)
                    if over.is_over:
                        return over
                if record.status == "blocked":
                    raise RunBlockedError(run_id=run_id, reason=await why_blocked(store, record))
                await asyncio.wait({watching}, timeout=pause_ms / 1_000)
                pause_ms = min(pause_ms * 2, RESULT_POLL_MAX_MS)
            elif (run := await watching) is not None:
                return run
        finally:
            worker.unwatch(run_id, watching)


async def why_blocked(store: Store, record: RunRecord) -> str:
    """What stands in the way of a blocked run: its recoveries tell, or its journal by failing to be read."""
    if record.recoveries >= QUARANTINE_AT:
        return (
            f"quarantined: its workers died {record.recoveries} times while driving it, and no step completed "
            "in between"
        )
    try:
        run, _ = await fold(store, record)
        if run.blocked is not None:
            return run.blocked.detail
    except (HoldfastError, LookupError, ValueError) as error:
        return str(error)
    return "its journal could not be read when a worker tried; a worker that starts now may"


async def ended_in_time(store: Store, worker: Worker, run_id: str, timeout_ms: int | None) -> Run:
    """`ended`, bounded.

    Raises:
        ResultTimeoutError: It was not over in time.
        RunNotFoundError: No run has that id.
        RunBlockedError: It will not end before someone acts.
    """
    if timeout_ms is None:
        return await ended(store, worker, run_id)
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            return await ended(store, worker, run_id)
    except TimeoutError:
        record = await find(store, run_id)
        if record.status in OVER:
            over, _ = await fold_over(store, record)
            if over.is_over:
                return over
        raise ResultTimeoutError(run_id=run_id, timeout_ms=timeout_ms, status=record.status) from None
