"""Folding a stored run: its snapshot if there is one, and the journal after that."""

from holdfast.codecs.entries import decode_entry
from holdfast.codecs.snapshots import decode_run
from holdfast.core.run import Run, evolve
from holdfast.stores.base import Store
from holdfast.stores.records import RunRecord


async def fold(store: Store, record: RunRecord) -> Run:
    """The state of a run as of now, at least as of `record`.

    Raises:
        FormatError: An entry cannot be read.
        StoreUnavailableError: Nothing was read; asking again may work.
    """
    snapshot = await store.find_snapshot(record.key)
    run = None if snapshot is None else decode_run(record.id, snapshot.state)
    if run is None:
        run = Run(record.id)
    for row in await store.read_journal(record.key, after=run.position):
        evolve(run, decode_entry(row.entry, run_id=record.id, position=row.position), row.at_ms)
    return run
