"""Rows 32 and 33: control from outside at the moment in which a worker takes a run or gives it back."""

import asyncio
import contextlib

import pytest

from holdfast import AsyncHandle, Flow
from holdfast.codecs import json as codec
from holdfast.codecs.entries import encode_entry
from holdfast.core.entries import RunCancelled
from holdfast.errors import RunStateError
from holdfast.runtime.starts import Start
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import Append, Applied
from tests.semantics.flows import keep
from tests.semantics.places import PATIENCE_S, Place, kinds, row

WAIT = Flow("order").wait_for_signal("approval").then(keep)
CANCELLED = encode_entry(RunCancelled("", "ada"))


@pytest.mark.embedded
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("is_control_first", [True, False])
async def test_control_at_once_with_giving_a_run_back_is_whole_or_absent(
    place: Place, is_control_first: bool, turns: int
) -> None:
    """Invariants 3, 4 and 9: a worker and a client of one process commit together, some turns apart."""
    store = place.store()
    await store.open()
    group = GroupCommit(store)
    committing = asyncio.ensure_future(group.run())
    try:
        await store.register("worker-1", ("order",))
        await store.commit([Start("order-1", WAIT.build(), codec.encode(1)).new_run(None)])
        held = await store.claim_one("worker-1", "order-1")
        assert held is not None
        from_outside = Append(held.key, held.epoch, 1, [CANCELLED], "cancelled", None, None, is_held=False)
        gives_back = Append(held.key, held.epoch, 1, [], "suspended", None, None)
        order = [from_outside, gives_back] if is_control_first else [gives_back, from_outside]
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(group.commit(order[0]))
            for _ in range(turns):
                await asyncio.sleep(0)
            second = tasks.create_task(group.commit(order[1]))
        outcomes = [first.result(), second.result()]
        found, journal = await store.find_run("order-1"), await store.read_journal(held.key)
        assert found is not None
        assert isinstance(outcomes[order.index(gives_back)], Applied)
        is_applied = isinstance(outcomes[order.index(from_outside)], Applied)
        assert is_applied is not is_control_first
        assert (len(journal), found.position) == (1 + is_applied, 1 + is_applied)
        assert (found.status, found.worker) == ("cancelled" if is_applied else "suspended", None)
    finally:
        committing.cancel()
        await store.close()


@pytest.mark.parametrize("what", ["cancel", "pause"])
async def test_control_of_runs_that_are_being_given_back_and_taken_is_never_lost(
    place: Place, what: str
) -> None:
    """Rows 32 and 33: each signal makes the run be claimed, read and given back."""
    async with place.engine(WAIT) as engine:
        for n in range(20):
            handle = await engine.start(WAIT, 1, id=f"order-{n}")
            async with asyncio.TaskGroup() as clients:
                for number in range(3):
                    clients.create_task(send(handle, number))
                for _ in range(n % 7):
                    await asyncio.sleep(0)
                clients.create_task(handle.cancel() if what == "cancel" else handle.pause())
            if what == "pause":
                await handle.cancel()
            async with asyncio.timeout(PATIENCE_S):
                await handle.cancel(wait=True)
            found = await row(engine, handle.id)
            recorded = await kinds(handle)
            assert (found.status, found.position) == ("cancelled", len(recorded))
            assert recorded == ["RunStarted", *(["Paused"] if what == "pause" else []), "RunCancelled"]


async def send(handle: AsyncHandle, number: int) -> None:
    with contextlib.suppress(RunStateError):  # it is cancelled by now
        await handle.signal("note", number)
