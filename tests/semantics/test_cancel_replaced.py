"""Row 33: who waits for the end of a run that is replaced waits for what was cancelled and no other run."""

import asyncio
import contextlib

import pytest

from holdfast import Flow
from holdfast.codecs import json as codec
from holdfast.errors import RunStateError
from holdfast.runtime.starts import Start
from holdfast.stores.records import Applied
from tests.semantics.flows import keep
from tests.semantics.places import PATIENCE_S, Place, row, stolen_from, store_of, until, until_parked

WAIT = Flow("order").wait_for_signal("approval").then(keep)
TURNS = 20


@pytest.mark.embedded
@pytest.mark.parametrize("begins_anew", [False, True])
async def test_who_cancels_waits_for_no_other_run_than_that(place: Place, *, begins_anew: bool) -> None:
    """Who holds the run has not heard of the cancel: a run that begins anew does, and another one does not."""
    async with place.engine(WAIT) as engine:
        store = store_of(engine)
        handle = await engine.start(WAIT, 1, id="order-1")
        await until_parked(engine, handle.id)
        held = await stolen_from(engine, handle.id)

        async def is_asked() -> bool:
            return bool(await store.read_inbox(held.key))

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as clients:
            cancelling = clients.create_task(handle.cancel(wait=True))
            await until(is_asked)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert not cancelling.done()
            if begins_anew:
                new = Start(handle.id, WAIT.build(), codec.encode(2)).new_run(None)
                replaced = await store.replace(new, key=held.key, epoch=held.epoch, keep_inbox=True)
                assert isinstance(replaced, Applied)
                with contextlib.suppress(RunStateError):  # it is cancelled by now
                    await handle.signal("note", 1)
            else:
                await engine.start(WAIT, 2, id=handle.id, on_conflict="restart")
        if not begins_anew:
            await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        status = "cancelled" if begins_anew else "suspended"
        assert (found.status, found.incarnation) == (status, held.incarnation + 1)
