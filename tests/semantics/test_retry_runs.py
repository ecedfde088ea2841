"""Row 52: a failed run goes on at the step that failed."""

from typing import Any

import pytest

from holdfast import (
    AsyncHandle,
    Edge,
    Flow,
    Join,
    Retry,
    Sleep,
    Step,
    WaitSignal,
    Workflow,
    get_task_context,
    task,
)
from holdfast.core.entries import RetryScheduled, RunFailed, RunReopened
from holdfast.errors import RunNotFoundError, RunStateError, TaskError
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    ms,
    row,
    stamps,
    until,
    until_branch,
    until_parked,
    until_status,
)


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def test_only_the_failed_step_is_tried_again(place: Place) -> None:
    """Row 52: same run, same journal; what was completed stays so, and the attempt's number goes on."""
    first, flaky = Calls("first"), Calls("flaky", failures=1)
    flow = Flow("order").then(first.task).then(flaky.task).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5, id="order-1")
        await failed(handle)
        again = await engine.retry("order-1", by="ada")
        assert again.id == "order-1"
        assert await again.result(PATIENCE_S) == 5
        assert await handle.result(PATIENCE_S) == 5
        recorded = ["RunStarted", "StepCompleted", "RunFailed", "RunReopened", "StepCompleted", "StepCompleted"]
        assert await kinds(handle) == [*recorded, "RunCompleted"]
        assert (await entries(handle))[3] == RunReopened("ada")
        attempts = [entry.attempt for entry in await entries(handle) if hasattr(entry, "attempt")]
        assert attempts == [1, 1, 2, 1]
        status = await handle.status()
        assert (status.status, status.failure) == ("completed", None)
    assert (first.calls, flaky.calls) == ([5], [5, 5])


async def test_its_budget_is_new(place: Place) -> None:
    """Rows 23 and 52."""
    flaky = Calls("flaky", failures=99, retry=[Retry(max_retries=2, base_delay=0)])
    flow = Flow("order").then(flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        for rounds in range(1, 4):
            assert "busy" in (await failed(handle)).failure.message
            assert len(flaky.calls) == 3 * rounds
            await engine.retry(handle.id)
        await failed(handle)
        numbers = [e.attempt for e in await entries(handle) if isinstance(e, RetryScheduled | RunFailed)]
        assert numbers == [2, 3, 3, 5, 6, 6, 8, 9, 9, 11, 12, 12]


async def test_the_body_is_told_the_number_of_its_attempt_and_the_same_key(place: Place) -> None:
    """Rows 46 and 52."""
    told: list[tuple[int, str]] = []

    @task
    async def work() -> None:
        context = get_task_context()
        assert context is not None
        told.append((context.attempt, context.idempotency_key))
        if len(told) < 3:
            raise ConnectionError("busy")

    flow = Flow("order").then(work)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        for _ in range(2):
            await failed(handle)
            await engine.retry(handle.id)
        await handle.result(PATIENCE_S)
    assert [attempt for attempt, _ in told] == [1, 2, 3]
    assert len({key for _, key in told}) == 1


async def test_branches_that_were_stopped_go_on_as_they_were(place: Place) -> None:
    """Row 52: one that worked works again, one that waited has the rest of its time."""
    gate, bad = Gate("gate"), Gate("bad")
    tries = 0

    @task
    async def fails_once(x: Any) -> Any:  # noqa: ANN401 - whatever it is
        nonlocal tries
        tries += 1
        if tries == 1:
            await bad.task.fn(x)
            raise ValueError("no")
        return x

    nap = [Step("nap", "sleep", sleep=Sleep.of("1h"))]
    wait = [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item", timeout="2h"))]
    branches = {
        "bad": [Step("bad", task="fails_once")],
        "gate": [Step("gate", task="gate")],
        "nap": nap,
        "wait": wait,
        "done": [Step("done", task="keep")],
    }
    flow = parallel(branches, gate.task, fails_once)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await bad.until_called()
        await until_branch(handle, "done", "completed")
        before = {wait.branch: wait.due_at for wait in (await handle.status()).waiting}
        place.clock.advance(HOUR_MS // 2)
        bad.open()
        await failed(handle)
        await until(lambda: gate.stops == 1)
        place.clock.advance(DAY_MS)
        await engine.retry(handle.id)
        await gate.until_called(2)
        await until_branch(handle, "bad", "completed")
        found = await stamps(handle)
        stood_ms = found["RunReopened"] - found["RunFailed"]
        after = {wait.branch: wait.due_at for wait in (await handle.status()).waiting}
        for name in ("nap", "wait"):
            assert ms(after[name]) == ms(before[name]) + stood_ms
        assert (await handle.status()).branches["done"].status == "completed"
        gate.open()
        await handle.signal("item", "sent")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == {"bad": 1, "gate": 1, "nap": 1, "wait": "sent", "done": 1}
        assert (await kinds(handle)).count("StepCompleted") == 4  # with the one after the join
    assert len(gate.calls) == 2


async def test_signals_that_came_before_the_failure_are_still_there(place: Place) -> None:
    """Rows 28 and 52, and invariant 19."""
    flaky = Calls("flaky", failures=1)
    gate = Gate()
    flow = Flow("order").then(gate.task).then(flaky.task).wait_for_signal("item").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.signal("item", "early", id="m-1")
        gate.open()
        await failed(handle)
        assert [signal.id for signal in (await handle.status()).undelivered] == ["m-1"]
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == "early"
        assert (await handle.status()).undelivered == []


async def test_a_wait_that_timed_out_waits_anew(place: Place) -> None:
    """Rows 29 and 52."""
    flow = Flow("order").wait_for_signal("item", timeout="1h").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert (await failed(handle)).failure.type == "timeout"
        await engine.retry(handle.id)
        due_at_ms = (await stamps(handle))["RunReopened"] + HOUR_MS

        async def waits() -> bool:  # a worker looks at it once before
            return (await row(engine, handle.id)).due_at_ms == due_at_ms

        await until(waits)
        await handle.signal("item", "this time")
        assert await handle.result(PATIENCE_S) == "this time"


async def test_pauses_are_gone(place: Place) -> None:
    """Rows 32 and 52."""
    gate = Gate()
    tries = 0

    @task
    async def fails_once(x: Any) -> Any:  # noqa: ANN401 - whatever it is
        nonlocal tries
        tries += 1
        if tries == 1:
            await gate.task.fn(x)
            raise ValueError("no")
        return x

    flow = Flow("order").then(fails_once)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause("run")
        await handle.pause("branch", branch="main")
        gate.open()
        await failed(handle)
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 1


async def test_it_needs_no_worker_and_outlives_the_engine(place: Place) -> None:
    """Row 52: nobody here knows the workflow; the next worker that does goes on with it."""
    flaky = Calls("flaky", failures=1)
    flow = Flow("order").then(flaky.task)
    async with place.engine(flow) as engine:
        await failed(await engine.start(flow, 1, id="order-1"))
    async with place.engine() as engine:
        handle = await engine.retry("order-1")
        assert (await handle.status()).status == "running"
        assert (await handle.explain()).reason == "no_worker"
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1


async def test_a_run_that_fails_again_can_be_retried_again(place: Place) -> None:
    """Row 52, and invariant 29."""
    flaky = Calls("flaky", failures=4)
    flow = Flow("order").then(flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        for _ in range(4):
            await failed(handle)
            await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 1
        assert await kinds(handle) == [
            "RunStarted",
            *["RunFailed", "RunReopened"] * 4,
            "StepCompleted",
            "RunCompleted",
        ]


@pytest.mark.parametrize("status", ["completed", "cancelled", "suspended", "running", "paused"])
async def test_only_a_failed_run_is_retried(place: Place, status: str) -> None:
    """Row 52."""
    gate = Gate()
    flow = line(
        Step("gate", task="gate"), Step("wait", "wait_signal", wait_signal=WaitSignal("go")), tasks=[gate.task]
    )
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        if status != "running":
            gate.open()
            await until_status(handle, "suspended")
        if status == "completed":
            await handle.signal("go")
        elif status == "cancelled":
            await handle.cancel()
        elif status == "paused":
            await handle.pause()
        await until_status(handle, status)
        before = await kinds(handle)
        with pytest.raises(RunStateError, match="cannot be retried") as caught:
            await engine.retry(handle.id)
        assert caught.value.status == status
        assert await kinds(handle) == before
        gate.open()


async def test_an_unknown_run_is_not_retried(place: Place) -> None:
    """Row 52."""
    async with place.engine() as engine:
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.retry("nobody")


async def test_a_run_of_which_no_step_failed_is_not_retried(place: Place) -> None:
    """Rows 19 and 52: its joins could not be met a second time either."""
    steps = [
        Step("fork", "fork", edges=(Edge("join_a", "a"), Edge("join_b", "b"))),
        Step("join_a", "join", join=Join(("b",))),
        Step("join_b", "join", join=Join(("a",))),
    ]
    flow = Workflow("order", steps)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert (await failed(handle)).failure.type == "join_unsatisfiable"
        with pytest.raises(RunStateError, match="no step of it failed"):
            await engine.retry(handle.id)
        assert (await handle.status()).status == "failed"
