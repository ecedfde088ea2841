"""Row 24: the time-out of a whole run."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from holdfast import Flow, Retry, Sleep, Step, WaitSignal, Workflow, arun, get_task_context
from holdfast.errors import TaskError, UsageError
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    kinds,
    ms,
    row,
    stamps,
    until,
    until_parked,
    until_status,
)

NAP = Step("nap", "sleep", sleep=Sleep.of("1d"))
END = Step("end", task="keep")
SLOW = Retry(max_retries=9, base_delay="1d")


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What an abandoned thread waits for; set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def waiting(where: str) -> Workflow:
    """A workflow with an hour for something that takes a day."""
    flaky = Calls("flaky", failures=99, retry=[SLOW])
    first = {
        "sleep": NAP,
        "signal": Step("wait", "wait_signal", wait_signal=WaitSignal.of("item")),
        "wait": Step("wait", "wait_signal", wait_signal=WaitSignal.of("item", timeout="1d")),
        "backoff": Step("flaky", task="flaky"),
    }[where]
    return line(first, END, tasks=[flaky.task], timeout="1h")


WHERE = ("sleep", "signal", "wait", "backoff")


@pytest.mark.parametrize("where", WHERE)
async def test_a_run_that_is_not_over_in_time_fails(place: Place, where: str) -> None:
    """Rows 24 and 34: by itself, and not too early."""
    flow = waiting(where)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        due_at_ms = (await stamps(handle))["RunStarted"] + HOUR_MS
        assert ms((await handle.status()).deadline) == due_at_ms
        assert (await row(engine, handle.id)).due_at_ms == due_at_ms
        place.clock.advance(HOUR_MS - 60_000)
        assert (await handle.status()).status == "suspended"
        place.clock.advance(60_000)
        with pytest.raises(TaskError) as caught:
            await handle.result(PATIENCE_S)
        failure = caught.value.failure
        assert (failure.type, failure.step) == ("timeout", "")
        assert "3600 s" in failure.message
        status = await handle.status()
        assert (status.status, status.deadline, status.waiting) == ("failed", None, [])
        assert status.branches["main"].status == "cancelled"
        assert (await stamps(handle))["RunFailed"] >= due_at_ms


async def test_its_async_body_is_cancelled(place: Place) -> None:
    """Row 24."""
    gate = Gate()
    flow = Flow("order", timeout="1h").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        await until(lambda: gate.stops == 1)
        assert await kinds(handle) == ["RunStarted", "RunFailed"]


async def test_its_sync_body_is_abandoned(place: Place, stuck: threading.Event) -> None:
    """Rows 24 and 46: it may see that, and its late result is refused."""
    begun, seen = threading.Event(), threading.Event()

    def hang() -> str:
        context = get_task_context()
        assert context is not None
        begun.set()
        while not context.cancelled and not stuck.wait(0.001):
            pass
        seen.set()
        return "too late"

    flow = Flow("order", timeout="1h").then(hang)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(begun.is_set)
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        await until(seen.is_set)
        assert not stuck.is_set()
        assert await kinds(handle) == ["RunStarted", "RunFailed"]


async def test_all_its_branches_end_with_it(place: Place) -> None:
    """Rows 20 and 24."""
    gate = Gate()
    branches = {"gate": [Step("gate", task="gate")], "nap": [NAP], "fast": [Step("fast", task="keep")]}
    flow = parallel(branches, gate.task, timeout="1h")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        found = {branch.id: branch.status for branch in (await handle.status()).branches.values()}
        assert (found["gate"], found["nap"], found["fast"]) == ("cancelled", "cancelled", "completed")


async def test_it_is_no_error_that_a_retry_is_for(place: Place) -> None:
    """Rows 23 and 24: it is the run's, not the step's."""
    gate = Gate()
    flow = Flow("order", timeout="1h").then(gate.task)
    work = Calls("work", retry=[Retry(error_equals=("timeout", "all"), max_retries=9)])
    flow.then(work.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        place.clock.advance(2 * HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        assert "RetryScheduled" not in await kinds(handle)


async def test_a_run_that_is_over_in_time_is_left_alone(place: Place) -> None:
    """Row 24."""
    flow = Flow("order", timeout="1h").delay("nap", "30m").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == (await stamps(handle))["RunStarted"] + HOUR_MS // 2
        place.clock.advance(HOUR_MS // 2)
        assert await handle.result(PATIENCE_S) == 1
        recorded = await kinds(handle)
    place.clock.advance(DAY_MS)
    async with place.engine(flow, Flow("other").then(keep)) as engine:
        assert await (await engine.start("other", 1)).result(PATIENCE_S) == 1
        handle = await engine.get(handle.id)
        assert (await kinds(handle), (await handle.status()).deadline) == (recorded, None)


async def test_the_time_without_a_worker_counts(place: Place) -> None:
    """Row 24: from the start on, and a run whose time is up makes no attempt any more."""
    work = Calls()
    flow = Flow("order", timeout="1h").then(work.task)
    async with place.engine(flow):
        pass
    async with place.engine() as engine:
        handle = await engine.start("order", 1, id="order-1")
        assert ms((await handle.status()).deadline) == (await stamps(handle))["RunStarted"] + HOUR_MS
    place.clock.advance(2 * HOUR_MS)
    async with place.engine(flow) as engine:
        with pytest.raises(TaskError, match="timeout"):
            await (await engine.get("order-1")).result(PATIENCE_S)
    assert work.calls == []


@pytest.mark.parametrize("where", WHERE)
async def test_a_pause_freezes_it(place: Place, where: str) -> None:
    """Rows 24 and 32, and invariant 27: to the millisecond."""
    flow = waiting(where)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        deadline_ms = ms((await handle.status()).deadline)
        place.clock.advance(HOUR_MS // 2)
        await handle.pause()
        assert (await handle.status()).deadline is None
        assert (await row(engine, handle.id)).due_at_ms is None
        place.clock.advance(DAY_MS)
    async with place.engine(flow) as engine:
        handle = await engine.get(handle.id)
        await handle.unpause()
        found = await stamps(handle)
        deadline_ms += found["Unpaused"] - found["Paused"]
        assert ms((await handle.status()).deadline) == deadline_ms
        place.clock.advance(HOUR_MS // 2)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        assert (await stamps(handle))["RunFailed"] >= deadline_ms


async def test_a_pause_while_a_body_runs_freezes_it(place: Place) -> None:
    """Rows 24 and 32."""
    gate = Gate()
    flow = Flow("order", timeout="1h").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause()
        await until_status(handle, "paused")
        place.clock.advance(DAY_MS)
        await handle.unpause()
        gate.open()
        assert await handle.result(PATIENCE_S) == 1
        assert gate.stops == 0


async def test_a_pause_that_freezes_nothing_lets_it_run(place: Place) -> None:
    """Rows 24 and 32."""
    flow = waiting("sleep")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause(freeze=False)
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)


async def test_a_pause_of_a_branch_lets_it_run(place: Place) -> None:
    """Rows 24 and 32: it is the run's."""
    flow = waiting("sleep")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause(branch="main")
        place.clock.advance(HOUR_MS)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)


async def test_a_retry_of_the_run_gives_it_its_time_anew(place: Place) -> None:
    """Rows 24 and 52."""
    flow = waiting("signal")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(2 * HOUR_MS)
        await until_status(handle, "failed")
        await engine.retry(handle.id)
        found = await stamps(handle)
        assert ms((await handle.status()).deadline) == found["RunReopened"] + HOUR_MS
        await handle.signal("item", "in time now")
        assert await handle.result(PATIENCE_S) == "in time now"


async def test_a_short_time_really_passes() -> None:
    """Rows 24 and 50."""

    async def hang(_x: Any) -> None:  # noqa: ANN401 - whatever it is
        await asyncio.Event().wait()

    with pytest.raises(TaskError, match="timeout"):
        await arun(Flow("order", timeout="30ms").then(hang), 1)
    with pytest.raises(TaskError, match="timeout"):
        await arun(Flow("order", timeout=timedelta(milliseconds=30)).delay("nap", "1h"), 1)


async def test_a_time_out_of_zero_fails_the_run(place: Place) -> None:
    """Row 24."""
    flow = Flow("order", timeout=0).delay("nap", "1h").then(keep)
    async with place.engine(flow) as engine:
        with pytest.raises(TaskError, match="timeout"):
            await (await engine.start(flow, 1)).result(PATIENCE_S)


@pytest.mark.parametrize("timeout", [-1, "soon", float("inf")])
def test_a_time_out_that_is_no_duration_is_refused(timeout: Any) -> None:  # noqa: ANN401 - what goes wrong
    """Rows 2 and 24."""
    with pytest.raises(UsageError, match="timeout"):
        Workflow("order", [END], tasks=[keep], timeout=timeout)
