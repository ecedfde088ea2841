"""Row 58: deleting runs that are over, by hand and after their retention."""

from typing import Any

import pytest

from holdfast import AsyncEngine, Flow
from holdfast.errors import RunNotFoundError, RunStateError, UsageError
from holdfast.runtime.limits import SWEEP_MAX, SWEEP_MS
from tests.semantics.flows import DAY_MS, Gate, keep
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    kinds,
    row,
    store_of,
    until,
    until_parked,
    until_status,
)

SOUND, NAP = Flow("sound").then(keep), Flow("nap").delay("nap", "300d").then(keep)


async def fail(_x: Any) -> None:  # noqa: ANN401 - whatever it is
    raise ValueError("no")


BAD = Flow("bad").then(fail)


async def start_all(engine: AsyncEngine) -> None:
    """One run of each kind of end, and one that sleeps."""
    await until_status(await engine.start(SOUND, 1, id="completed"), "completed")
    await until_status(await engine.start(BAD, 1, id="failed"), "failed")
    await (await engine.start(NAP, 1, id="cancelled")).cancel(wait=True)
    await until_status(await engine.start(NAP, 1, id="suspended"), "suspended")
    await until_parked(engine, "suspended")


async def ids(engine: AsyncEngine) -> set[str]:
    return {run.id for run in await engine.list(limit=1_000)}


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_run_that_is_over_is_deleted_with_all_it_had(place: Place, status: str) -> None:
    """Row 58: its id is free again, and so are the ids of its signals."""
    async with place.engine(SOUND, BAD, NAP) as engine:
        await start_all(engine)
        handle = await engine.get(status)
        key = (await row(engine, status)).key
        await engine.delete(status)
        assert await ids(engine) == {"completed", "failed", "cancelled", "suspended"} - {status}
        for asking in (
            handle.status(),
            handle.journal(),
            handle.explain(),
            handle.result(),
            engine.get(status),
        ):
            with pytest.raises(RunNotFoundError, match=status):
                await asking
        store = store_of(engine)
        assert (await store.read_journal(key), await store.read_inbox(key)) == ([], [])
        with pytest.raises(RunNotFoundError):
            await engine.delete(status)
        again = await engine.start(SOUND, 2, id=status)
        assert await again.result(PATIENCE_S) == 2
        assert (await row(engine, status)).incarnation == 1
        assert await kinds(again) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_a_run_that_is_not_over_is_not_deleted(place: Place) -> None:
    """Row 58."""
    gate = Gate()
    runs = Flow("runs").then(gate.task)
    async with place.engine(runs, NAP) as engine:
        running, sleeping = await engine.start(runs, 1), await engine.start(NAP, 1)
        await gate.until_called()
        await until_parked(engine, sleeping.id)
        for handle, status in ((running, "running"), (sleeping, "suspended")):
            with pytest.raises(RunStateError, match="cannot be deleted") as caught:
                await engine.delete(handle.id)
            assert caught.value.status == status
        await sleeping.pause()
        with pytest.raises(RunStateError, match="cannot be deleted"):
            await engine.delete(sleeping.id)
        gate.open()
        assert await running.result(PATIENCE_S) == 1
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.delete("nobody")


async def test_signals_that_were_not_received_go_with_the_run(place: Place) -> None:
    """Rows 28 and 58."""
    waits = Flow("waits").wait_for_signal("item").then(keep)
    async with place.engine(waits) as engine:
        handle = await engine.start(waits, 1, id="order-1")
        await handle.signal("other", "old", id="m-1")
        await handle.cancel(wait=True)
        await engine.delete("order-1")
        handle = await engine.start(waits, 1, id="order-1")
        assert (await handle.status()).undelivered == []
        await handle.signal("item", "new", id="m-1")
        assert await handle.result(PATIENCE_S) == "new"


async def test_without_a_retention_runs_are_kept_for_ever(place: Place) -> None:
    """Row 58."""
    async with place.engine(SOUND, BAD, NAP) as engine:
        await start_all(engine)
        for _ in range(5):
            place.clock.advance(3 * DAY_MS)
            await until_swept(engine)
            assert len(await ids(engine)) == 4


RETENTIONS: dict[str, tuple[Any, set[str]]] = {
    "a duration": ("2d", {"completed", "cancelled"}),
    "each status": ({"completed": "5d", "failed": "1d"}, {"failed"}),
    "all": (
        {"completed": "1d", "failed": "1d", "cancelled": "1d", "blocked": "1d"},
        {"completed", "failed", "cancelled"},
    ),
}


@pytest.mark.parametrize("which", RETENTIONS)
async def test_runs_go_after_their_retention(place: Place, which: str) -> None:
    """Row 58: by status and age; one that is not over stays, however old it is."""
    retention, removed = RETENTIONS[which]
    known = {"completed", "failed", "cancelled", "suspended"}
    async with place.engine(SOUND, BAD, NAP, retention=retention) as engine:
        await start_all(engine)
        place.clock.advance(DAY_MS - 60_000)
        await until_swept(engine)
        assert await ids(engine) - {"marker"} == known
        place.clock.advance(2 * DAY_MS)

        await until_gone(place, engine, removed)
        assert await ids(engine) - {"marker"} == known - removed
        assert (await (await engine.get("suspended")).status()).status == "suspended"


async def until_swept(engine: AsyncEngine) -> None:
    """Let the worker look once more: nothing else shows that it has looked and found nothing."""
    driving = getattr(engine, "beside", engine)
    assert await driving._node._sweeper.sweep() == 0


async def until_gone(place: Place, engine: AsyncEngine, removed: set[str]) -> None:
    """Wait until the runs are removed; the worker looks once a minute, so minutes pass meanwhile."""

    async def is_gone() -> bool:
        place.clock.advance(SWEEP_MS)
        return not await ids(engine) & removed

    await until(is_gone)


async def test_a_workflows_own_retention_counts_first(place: Place) -> None:
    """Row 58."""
    short = Flow("short", retention="1d").then(keep)
    long = Flow("long", retention={"completed": "300d"}).then(keep)
    async with place.engine(short, long, SOUND, retention="3d") as engine:
        for flow in (short, long, SOUND):
            await (await engine.start(flow, 1, id=flow.name)).result(PATIENCE_S)
        for removed in ("short", "sound"):
            place.clock.advance(2 * DAY_MS)
            await until_gone(place, engine, {removed})
        assert await ids(engine) == {"long"}


async def test_the_age_is_counted_from_the_last_change(place: Place) -> None:
    """Row 58: a run that took long is kept as long as any other after its end."""
    flow = Flow("order", retention="2d").delay("nap", "5d").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1")
        await until_parked(engine, "order-1")
        place.clock.advance(5 * DAY_MS)
        assert await handle.result(PATIENCE_S) == 1
        place.clock.advance(DAY_MS)
        await until_swept(engine)
        assert await ids(engine) == {"order-1"}
        place.clock.advance(2 * DAY_MS)
        await until_gone(place, engine, {"order-1"})


async def test_more_runs_than_one_transaction_removes_go_too(place: Place) -> None:
    """Row 58: in small batches."""
    count = SWEEP_MAX + 5
    async with place.engine(SOUND, retention="1d") as engine:
        handles = [await engine.start(SOUND, n) for n in range(count)]
        for handle in handles:
            await handle.result(PATIENCE_S)
        place.clock.advance(2 * DAY_MS)
        await until_gone(place, engine, {handle.id for handle in handles})


async def test_runs_of_a_workflow_that_is_not_here_stay(place: Place) -> None:
    """Row 58: whoever has the workflow says how long its runs are kept."""
    async with place.engine(SOUND, NAP) as engine:
        await (await engine.start(SOUND, 1, id="order-1")).result(PATIENCE_S)
    place.clock.advance(2 * DAY_MS)
    async with place.engine(NAP, retention="1d") as engine:
        await until_swept(engine)
        assert await ids(engine) == {"order-1"}


@pytest.mark.parametrize(
    "retention", ["soon", -1, 0, "10ms", {"running": "1d"}, {"completed": "soon"}], ids=repr
)
def test_a_retention_that_is_none_is_refused(retention: Any) -> None:  # noqa: ANN401 - what goes wrong
    """Row 58."""
    with pytest.raises(UsageError, match="retention"):
        AsyncEngine("memory://", workflows=[SOUND], retention=retention)
    with pytest.raises(UsageError, match="retention"):
        Flow("order", retention=retention).then(keep).build()


def test_the_blocking_engine_deletes_too(place: Place) -> None:
    """Row 58."""
    with place.blocking(SOUND, retention="1d") as engine:
        assert engine.start(SOUND, 1, id="order-1").result(PATIENCE_S) == 1
        engine.delete("order-1")
        with pytest.raises(RunNotFoundError):
            engine.get("order-1")
