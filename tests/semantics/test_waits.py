"""Row 29: steps that wait for a signal, with and without a time-out."""

import asyncio
from typing import Any

import pytest

from holdfast import Edge, Flow, Step, WaitSignal, Workflow, task
from holdfast.core.entries import WaitTimedOut
from holdfast.errors import TaskError
from tests.semantics.flows import DAY_MS, HOUR_MS, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    stamps,
    until,
    until_branch,
    until_parked,
)

TIMED = Flow("order").wait_for_signal("approval", timeout="1h").then(keep)


async def remind(order: str) -> str:
    return f"{order}: no answer"


INSTEAD = Flow("order").then(keep).wait_for_signal("approval", timeout="1h", on_timeout=remind).then(keep)


async def test_a_wait_without_its_signal_fails_with_timeout(place: Place) -> None:
    """Rows 29 and 34: by itself, while the worker goes on."""
    async with place.engine(TIMED) as engine:
        handle = await engine.start(TIMED, 1)
        await until_parked(engine, handle.id)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        assert due_at_ms == (await stamps(handle))["RunStarted"] + HOUR_MS
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError) as caught:
            await handle.result(PATIENCE_S)
        failure = caught.value.failure
        assert (failure.type, failure.step) == ("timeout", "approval")
        assert "approval" in failure.message
        assert await kinds(handle) == ["RunStarted", "RunFailed"]
        assert (await stamps(handle))["RunFailed"] >= due_at_ms


async def test_a_wait_ends_not_before_its_time(place: Place) -> None:
    """Row 29, and invariant 24."""
    async with place.engine(TIMED) as engine:
        await until_parked(engine, (await engine.start(TIMED, 1, id="order-1")).id)
    place.clock.advance(HOUR_MS - 60_000)
    async with place.engine(TIMED) as engine:
        handle = await engine.get("order-1")
        assert (await handle.status()).status == "suspended"
        await handle.signal("approval", "in time")
        assert await handle.result(PATIENCE_S) == "in time"
    place.clock.advance(DAY_MS)
    async with place.engine(TIMED) as engine:
        assert (await kinds(await engine.get("order-1")))[-1] == "RunCompleted"


async def test_a_wait_without_its_signal_goes_where_on_timeout_leads(place: Place) -> None:
    """Rows 29 and 41: with the output of the step before."""
    async with place.engine(INSTEAD) as engine:
        handle = await engine.start(INSTEAD, "order 42")
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "order 42: no answer"
        (timed_out,) = [entry for entry in await entries(handle) if isinstance(entry, WaitTimedOut)]
        assert (timed_out.step, timed_out.arrivals[0].step) == ("approval", "remind")


async def test_a_signal_in_time_leaves_on_timeout_alone(place: Place) -> None:
    """Row 29, and invariant 23."""
    async with place.engine(INSTEAD) as engine:
        handle = await engine.start(INSTEAD, "order 42")
        await until_parked(engine, handle.id)
        await handle.signal("approval", "fine")
        assert await handle.result(PATIENCE_S) == "fine"
        assert "WaitTimedOut" not in await kinds(handle)


async def test_a_signal_after_the_time_out_stays_undelivered(place: Place) -> None:
    """Rows 28 and 29, and invariant 23: the time-out has been recorded, and the run goes on."""
    gate = Gate("remind")
    flow = Flow("order").wait_for_signal("approval", timeout="1h", on_timeout=gate.task).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await gate.until_called()
        await handle.signal("approval", "late")
        gate.open()
        assert await handle.result(PATIENCE_S) == 1
        assert [signal.payload for signal in (await handle.status()).undelivered] == ["late"]
        assert "SignalReceived" not in await kinds(handle)


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_signal_that_is_there_wins_over_a_deadline_that_has_passed(place: Place, is_late: bool) -> None:
    """Row 29: whoever looks first finds both."""
    async with place.engine(INSTEAD) as engine:
        handle = await engine.start(INSTEAD, "order 42", id="order-1")
        await until_parked(engine, handle.id)
    place.clock.advance(2 * HOUR_MS if is_late else 0)
    async with place.engine() as engine:  # nobody here knows the workflow
        await engine.send_signal("order-1", "approval", "it is there")
    place.clock.advance(2 * HOUR_MS)
    async with place.engine(INSTEAD) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == "it is there"
        assert "WaitTimedOut" not in await kinds(handle)


async def test_a_signal_and_a_time_out_at_once_give_one_of_the_two(place: Place) -> None:
    """Row 29, and invariant 23: whatever comes first is recorded, once, and nothing is lost."""
    flow = Flow("order").wait_for_signal("approval", timeout="1h", on_timeout=remind).then(keep)
    async with place.engine(flow) as engine:
        handles = [await engine.start(flow, "order") for _ in range(20)]
        for handle in handles:
            await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        async with asyncio.TaskGroup() as senders:
            for n, handle in enumerate(handles):
                senders.create_task(attempt(handle.signal("approval", n)))
        for n, handle in enumerate(handles):
            output = await handle.result(PATIENCE_S)
            recorded = await kinds(handle)
            assert recorded.count("SignalReceived") + recorded.count("WaitTimedOut") == 1
            assert output == (n if "SignalReceived" in recorded else "order: no answer")


async def attempt(sending: Any) -> None:  # noqa: ANN401 - a coroutine
    """Send; that the run is over by now is as good an answer."""
    try:
        await sending
    except Exception as error:  # noqa: BLE001 - compared at once
        assert "takes no signal any more" in str(error)  # noqa: PT017 - as good an answer


async def test_a_time_out_of_zero_takes_only_what_is_there(place: Place) -> None:
    """Rows 28 and 29."""
    gate = Gate()
    flow = Flow("order").then(gate.task).wait_for_signal("item", timeout=0, on_timeout=remind).then(keep)
    async with place.engine(flow) as engine:
        early, never = await engine.start(flow, "a"), await engine.start(flow, "b")
        await gate.until_called(2)
        await early.signal("item", "there")
        gate.open()
        assert await early.result(PATIENCE_S) == "there"
        assert await never.result(PATIENCE_S) == "b: no answer"


async def test_a_short_time_out_really_passes(place: Place) -> None:
    """Rows 29 and 63: the run stays in memory meanwhile."""
    flow = Flow("order").wait_for_signal("item", timeout="20ms", on_timeout=remind).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a")
        assert await handle.result(PATIENCE_S) == "a: no answer"
        found = await stamps(handle)
        assert found["WaitTimedOut"] - found["RunStarted"] >= 20


async def test_each_wait_has_a_time_out_of_its_own(place: Place) -> None:
    """Row 29."""
    flow = parallel(
        {
            "short": [
                Step("short", "wait_signal", wait_signal=WaitSignal.of("a", timeout="1h", on_timeout="late")),
                Step("late", task="keep"),
            ],
            "long": [Step("long", "wait_signal", wait_signal=WaitSignal.of("b", timeout="2h"))],
        }
    )
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await until_branch(handle, "short", "completed")
        assert (await handle.status()).branches["long"].status == "waiting"
        await handle.signal("b", "in time")
        assert await handle.result(PATIENCE_S) == {"short": 1, "long": "in time"}


async def test_a_wait_that_times_out_fails_the_run_and_its_other_branches(place: Place) -> None:
    """Rows 20 and 29."""
    gate = Gate()
    wait = [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item", timeout="20ms"))]
    flow = parallel({"wait": wait, "gate": [Step("gate", task="gate")]}, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        status = await handle.status()
        assert (status.branches["wait"].status, status.branches["gate"].status) == ("failed", "cancelled")
    assert gate.stops == 1


async def test_a_wait_in_a_circle_waits_anew_each_time(place: Place) -> None:
    """Rows 16 and 29: the time-out of each visit is its own."""
    got: list[Any] = []

    async def collect(x: Any) -> Any:  # noqa: ANN401 - whatever was sent
        got.append(x)
        return x

    wait = WaitSignal.of("item", timeout="1h", on_timeout="end")
    steps = [
        Step("wait", "wait_signal", wait_signal=wait, edges=(Edge("collect"),)),
        Step("collect", task="collect", edges=(Edge("wait"),)),
        Step("end", task="keep"),
    ]
    flow = Workflow("order", steps, tasks=[task(collect), keep])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 0)
        for n in range(1, 4):
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS - 60_000)
            await handle.signal("item", n)
            await until(lambda n=n: len(got) == n)
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == (await stamps(handle))["StepCompleted"] + HOUR_MS
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 3
    assert got == [1, 2, 3]
