"""Folding stored runs: the snapshot if there is one, and the journal after that."""

from holdfast.codecs.entries import decode_entry
from holdfast.codecs.snapshots import decode_run
from holdfast.core.evolve import evolve
from holdfast.core.run import Run
from holdfast.errors import FormatError, RunNotFoundError
from holdfast.stores.base import Store
from holdfast.stores.records import InboxRow, JournalRow, RunRecord, Stored

UNREADABLE = (FormatError, LookupError, ValueError)
"""What decoding and folding raise for a journal or an inbox that this version cannot read."""


async def fold(store: Store, record: RunRecord) -> tuple[Run, list[InboxRow]]:
    """The state of a run and its pending messages as of now, at least as of `record`.

    Raises:
        RunNotFoundError: It has gone since.
        FormatError: An entry cannot be read.
        StoreUnavailableError: Nothing was read; asking again may work.
    """
    (stored,) = await store.load([record.key])
    run = await folded(store, record, stored)
    if not run.position:
        raise RunNotFoundError(run_id=record.id)
    return run, list(stored.inbox)


async def folded(store: Store, record: RunRecord, stored: Stored) -> Run:
    """The state of a run from what was loaded of it; see `fold`."""
    run, rows = Run(record.id), list[JournalRow](stored.journal)
    if stored.snapshot is not None:
        cached = decode_run(record.id, stored.snapshot.state)
        if cached is None:
            # A cache that another version wrote: the journal is the truth.
            rows = await store.read_journal(record.key)
        else:
            run = cached
    for row in rows:
        evolve(run, decode_entry(row.entry, run_id=record.id, position=row.position), row.at_ms)
    return run
