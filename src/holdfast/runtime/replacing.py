"""Putting a new run in the place of another one, whatever the store answers (semantics row 48)."""

import asyncio

from holdfast.errors import StoreUnavailableError
from holdfast.runtime.limits import UNAVAILABLE_WAIT_MS
from holdfast.stores.base import Store
from holdfast.stores.records import Applied, NewRun, Outcome, RunRecord


async def replace(store: Store, new: NewRun, old: RunRecord, *, keep_inbox: bool = False) -> Outcome:
    """Replace `old` by `new`, if it still has its epoch; asks again until the store answers."""
    is_repeated = False
    while True:
        try:
            outcome = await store.replace(new, key=old.key, epoch=old.epoch, keep_inbox=keep_inbox)
            if is_repeated and not isinstance(outcome, Applied):
                outcome = await _recall(store, new, old) or outcome
        except StoreUnavailableError:
            is_repeated = True
            await asyncio.sleep(UNAVAILABLE_WAIT_MS / 1_000)
        else:
            return outcome


async def _recall(store: Store, new: NewRun, old: RunRecord) -> Applied | None:
    """Whether a replacement whose answer was lost had been applied."""
    row = await store.find_run(new.id)
    if row is None or (row.incarnation, row.input_digest) != (old.incarnation + 1, new.input_digest):
        return None
    is_held = row.worker == new.worker and row.epoch == old.epoch + 1
    return Applied(row.created_at_ms, row.key, row.messages_sent, is_held=is_held)
