"""Row 48: what becomes of a start whose id is taken, above all `restart`."""

import asyncio
import contextlib
from typing import Any

import pytest

from holdfast import AsyncHandle, Flow, get_task_context
from holdfast.errors import RunConflictError, RunExistsError, TaskError
from tests.semantics.flows import DAY_MS, Calls, Gate, keep
from tests.semantics.places import PATIENCE_S, Place, kinds, row, until, until_parked, until_status

WAIT = Flow("order").wait_for_signal("item").then(keep)
NAP = Flow("nap").delay("nap", "1h").then(keep)
OTHER = Flow("other").then(keep)


async def fail(_x: Any) -> None:  # noqa: ANN401 - whatever it is
    raise ValueError("no")


async def test_a_run_that_is_over_is_replaced(place: Place) -> None:
    """Row 48: completed, failed or cancelled; its journal is gone."""
    bad = Flow("bad").then(fail)
    async with place.engine(OTHER, bad, WAIT) as engine:
        for flow, status in ((OTHER, "completed"), (bad, "failed"), (WAIT, "cancelled")):
            old = await engine.start(flow, "old", id=status)
            if status == "cancelled":
                await old.cancel()
            await until_status(old, status)
            new = await engine.start(OTHER, "new", id=status, on_conflict="restart")
            assert await new.result(PATIENCE_S) == "new"
            assert await (await engine.get(status)).result(PATIENCE_S) == "new"
            assert await kinds(old) == ["RunStarted", "StepCompleted", "RunCompleted"]
            found = await row(engine, status)
            assert (found.workflow, found.incarnation, found.recoveries) == ("other", 2, 0)
        assert sorted(run.id for run in await engine.list()) == ["cancelled", "completed", "failed"]


async def test_a_run_that_waits_is_replaced(place: Place) -> None:
    """Row 48: and what it waited for never comes to the new one."""
    async with place.engine(NAP, WAIT) as engine:
        handle = await engine.start(NAP, "old", id="order-1")
        await until_parked(engine, "order-1")
        await handle.pause("wait")
        handle = await engine.start(WAIT, "new", id="order-1", on_conflict="restart")
        await until_parked(engine, "order-1")
        status = await handle.status()
        assert (status.workflow, status.status, status.pause) == ("order", "suspended", None)
        assert (await row(engine, "order-1")).due_at_ms is None
        place.clock.advance(DAY_MS)
        await handle.signal("item", "for the new one")
        assert await handle.result(PATIENCE_S) == "for the new one"
        assert await kinds(handle) == ["RunStarted", "SignalReceived", "StepCompleted", "RunCompleted"]


async def test_a_run_that_is_driven_is_stopped_and_replaced(place: Place) -> None:
    """Row 48: nothing of the old one is recorded any more."""
    gate = Gate()
    flow = Flow("order").then(gate.task).then(keep)
    async with place.engine(flow) as engine:
        old = await engine.start(flow, "old", id="order-1")
        await gate.until_called()
        new = await engine.start(flow, "new", id="order-1", on_conflict="restart")
        await gate.until_called(2)
        await until(lambda: gate.stops == 1)
        gate.open()
        assert await new.result(PATIENCE_S) == "new"
        assert await old.result(PATIENCE_S) == "new"
        assert await kinds(new) == ["RunStarted", "StepCompleted", "StepCompleted", "RunCompleted"]
    assert gate.calls == ["old", "new"]


async def test_the_only_slot_is_free_for_the_new_run(place: Place) -> None:
    """Row 48: a body that never ends does not keep the run that replaces its own from being driven."""
    gate, work = Gate(), Calls()
    hangs, works = Flow("hangs").then(gate.task), Flow("works").then(work.task)
    async with place.engine(hangs, works, concurrency=1) as engine:
        await engine.start(hangs, "old", id="order-1")
        await gate.until_called()
        new = await engine.start(works, "new", id="order-1", on_conflict="restart")
        assert await new.result(PATIENCE_S) == "new"
        await until(lambda: gate.stops == 1)


async def test_its_inbox_is_empty_and_ids_of_signals_are_free_again(place: Place) -> None:
    """Rows 28 and 48."""
    async with place.engine(WAIT) as engine:
        old = await engine.start(WAIT, 1, id="order-1")
        await until_parked(engine, "order-1")
        await old.signal("other", "old", id="m-1")
        new = await engine.start(WAIT, 1, id="order-1", on_conflict="restart")
        assert (await new.status()).undelivered == []
        await new.signal("item", "new", id="m-1")
        assert await new.result(PATIENCE_S) == "new"
        assert (await new.status()).undelivered == []


async def test_the_incarnation_and_the_idempotency_key_are_new(place: Place) -> None:
    """Rows 46 and 48: what it does outside is another thing than what the old one did."""
    told: list[tuple[int, str]] = []

    async def tell() -> None:
        context = get_task_context()
        assert context is not None
        told.append((context.incarnation, context.idempotency_key))

    flow = Flow("order").then(tell)
    async with place.engine(flow) as engine:
        for _ in range(3):
            handle = await engine.start(flow, id="order-1", on_conflict="restart")
            await handle.result(PATIENCE_S)
    assert [incarnation for incarnation, _ in told] == [1, 2, 3]
    assert len({key for _, key in told}) == 3


async def test_a_restart_of_an_id_that_is_free_just_starts(place: Place) -> None:
    """Row 48."""
    async with place.engine(OTHER) as engine:
        handle = await engine.start(OTHER, 1, id="order-1", on_conflict="restart")
        assert await handle.result(PATIENCE_S) == 1
        assert (await row(engine, "order-1")).incarnation == 1


async def test_a_restart_outlives_its_engine(place: Place) -> None:
    """Row 48: when it returns, the new run is on disk; nobody here drives it."""
    async with place.engine(NAP, OTHER) as engine:
        await engine.start(NAP, "old", id="order-1")
        await until_parked(engine, "order-1")
    async with place.engine() as engine:
        handle = await engine.start("other", "new", id="order-1", on_conflict="restart")
        assert (await handle.status()).status == "pending"
    async with place.engine(NAP, OTHER) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == "new"


async def test_a_blocked_run_is_replaced(place: Place) -> None:
    """Rows 48 and 68."""
    async with place.engine(NAP) as engine:
        await engine.start(NAP, "old", id="order-1")
        await until_parked(engine, "order-1")
    place.clock.advance(DAY_MS)
    place.change_entry("order-1", 1, lambda _entry: b"noise")
    async with place.engine(NAP, OTHER) as engine:

        async def is_blocked() -> bool:
            return (await row(engine, "order-1")).status == "blocked"

        await until(is_blocked)
        handle = await engine.start(OTHER, "new", id="order-1", on_conflict="restart")
        assert await handle.result(PATIENCE_S) == "new"


async def test_many_restarts_at_once_leave_one_run(place: Place) -> None:
    """Row 48."""
    async with place.engine(OTHER) as engine:
        async with asyncio.TaskGroup() as clients:
            for n in range(10):
                clients.create_task(engine.start(OTHER, n, id="order-1", on_conflict="restart"))
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) in range(10)
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
        assert (await row(engine, "order-1")).incarnation == 10


async def test_whoever_waits_for_the_result_gets_that_of_the_new_run(place: Place) -> None:
    """Rows 48 and 59."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    async with place.engine(flow, OTHER) as engine:
        old = await engine.start(flow, "old", id="order-1")
        await gate.until_called()
        async with asyncio.TaskGroup() as clients:
            waiting = clients.create_task(old.result(PATIENCE_S))
            await asyncio.sleep(0)
            await engine.start(OTHER, "new", id="order-1", on_conflict="restart")
            assert await waiting == "new"


async def test_the_other_answers_leave_a_waiting_run_as_it_is(place: Place) -> None:
    """Row 48."""
    async with place.engine(NAP, WAIT) as engine:
        handle = await engine.start(NAP, 1, id="order-1")
        await until_parked(engine, "order-1")
        with pytest.raises(RunExistsError) as caught:
            await engine.start(NAP, 1, id="order-1")
        assert caught.value.status == "suspended"
        same = await engine.start(NAP, 1, id="order-1", on_conflict="use_existing")
        assert same.id == handle.id
        with pytest.raises(RunConflictError, match="another input"):
            await engine.start(NAP, 2, id="order-1", on_conflict="use_existing")
        with pytest.raises(RunConflictError, match="another workflow"):
            await engine.start(WAIT, 1, id="order-1", on_conflict="use_existing")
        assert (await row(engine, "order-1")).incarnation == 1
        assert await kinds(handle) == ["RunStarted"]


async def test_a_run_that_was_replaced_is_the_existing_one_from_then_on(place: Place) -> None:
    """Row 48."""
    async with place.engine(NAP, WAIT) as engine:
        await engine.start(NAP, 1, id="order-1")
        await engine.start(WAIT, 2, id="order-1", on_conflict="restart")
        same = await engine.start(WAIT, 2, id="order-1", on_conflict="use_existing")
        assert (await same.status()).workflow == "order"
        with pytest.raises(RunConflictError, match="another workflow"):
            await engine.start(NAP, 1, id="order-1", on_conflict="use_existing")


async def test_a_restart_and_a_cancel_at_once_leave_a_whole_run(place: Place) -> None:
    """Rows 33 and 48: the cancel is for the run that it met."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    gate.open()
    async with place.engine(flow) as engine:
        for n in range(12):
            old = await engine.start(flow, "old", id=f"order-{n}")
            async with asyncio.TaskGroup() as clients:
                clients.create_task(quietly(old))
                for _ in range(n % 6):
                    await asyncio.sleep(0)
                clients.create_task(engine.start(flow, "new", id=old.id, on_conflict="restart"))
            handle = await engine.get(old.id)
            with contextlib.suppress(TaskError):
                assert await handle.result(PATIENCE_S) == "new"
            recorded = await kinds(handle)
            found = await row(engine, old.id)
            assert (found.status in {"completed", "cancelled"}, found.position) == (True, len(recorded))
            assert recorded[-1] == ("RunCompleted" if found.status == "completed" else "RunCancelled")


async def quietly(handle: AsyncHandle) -> None:
    try:
        await handle.cancel()
    except Exception as error:  # noqa: BLE001 - compared at once
        assert "cannot be cancelled" in str(error)  # noqa: PT017 - over already
