"""Row 80: a durable function that fails, and runs again."""

from typing import Any

import pytest

from holdfast import AsyncHandle, Context, Flow, Retry, task, workflow
from holdfast.core.entries import OperationCompleted, OperationFailed, RetryScheduled, RunFailed
from holdfast.errors import OperationError, RunStateError, SignalTimeoutError, StepError, TaskError
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    until,
    until_parked,
    until_status,
)

AT_ONCE = Retry(max_retries=3, base_delay=0)
HOURLY = Retry(max_retries=3, base_delay="1h", backoff_rate=1)


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def keys(handle: AsyncHandle) -> list[str]:
    return [e.key for e in await entries(handle) if isinstance(e, OperationCompleted | OperationFailed)]


async def has(handle: AsyncHandle, key: str) -> bool:
    return any(getattr(entry, "key", "") == key for entry in await entries(handle))


async def culprits(handle: AsyncHandle) -> list[str]:
    """Of each failure of the function, the operation whose failure it was."""
    return [e.operation for e in await entries(handle) if isinstance(e, RetryScheduled | RunFailed)]


# Retries of the function.


async def test_a_function_that_fails_by_itself_runs_again_and_keeps_all_that_is_recorded(place: Place) -> None:
    """Row 80."""
    work = Calls()
    attempts: list[int] = []

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context, x: int) -> int:
        attempts.append(ctx.task.attempt)
        given = await ctx.step(work.task, x)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return given

    async with place.engine(order) as engine:
        handle = await engine.start(order, 5)
        assert await handle.result(PATIENCE_S) == 5
        recorded = ["RunStarted", "OperationCompleted", *["RetryScheduled"] * 2]
        assert await kinds(handle) == [*recorded, "StepCompleted", "RunCompleted"]
        assert await culprits(handle) == ["", ""]
    assert (attempts, work.calls) == ([1, 2, 3], [5])


async def test_the_operation_that_failed_is_asked_for_anew_and_those_before_it_are_not(place: Place) -> None:
    """Row 80."""
    before, flaky, after = Calls("before"), Calls("flaky", failures=2), Calls("after")

    @workflow(retries=3)
    async def order(ctx: Context) -> list[Any]:
        return [await ctx.step(each.task, n) for n, each in enumerate((before, flaky, after))]

    order_at_once = workflow("order", retry=AT_ONCE)(order.fn)
    async with place.engine(order_at_once) as engine:
        handle = await engine.start(order_at_once)
        assert await handle.result(PATIENCE_S) == [0, 1, 2]
        assert await keys(handle) == ["before#1", *["flaky#1"] * 3, "after#1"]
        assert await culprits(handle) == ["flaky#1", "flaky#1"]
    assert (before.calls, flaky.calls, after.calls) == ([0], [1, 1, 1], [2])


async def test_what_was_done_because_of_the_failure_is_done_anew_too(place: Place) -> None:
    """Row 80: it followed from it."""
    flaky, undo, work = Calls("flaky", failures=1), Calls("undo"), Calls()

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - what it gives
        try:
            await ctx.step(flaky.task, 1)
        except StepError:
            await ctx.step(undo.task, "undo")
            raise
        return await ctx.step(work.task, "done")

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == "done"
    assert (flaky.calls, undo.calls, work.calls) == ([1, 1], ["undo"], ["done"])


@pytest.mark.parametrize("is_chained", [True, False])
async def test_an_error_that_came_from_a_failed_operation_has_that_culprit(
    place: Place, is_chained: bool
) -> None:
    """Row 80: raised from it, or while it was handled."""
    flaky = Calls("flaky", failures=1)

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> str:
        try:
            await ctx.step(flaky.task, 1)
        except StepError as error:
            if is_chained:
                raise ValueError("wrapped") from error
            raise KeyError("in passing")  # noqa: B904 - that is the point
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == "done"
        assert await culprits(handle) == ["flaky#1"]
    assert flaky.calls == [1, 1]


async def test_a_failure_that_is_hidden_stays_recorded(place: Place) -> None:
    """Row 80: `from None` says that it has nothing to do with it."""
    flaky = Calls("flaky", failures=1)
    lives: list[int] = []

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> str:
        lives.append(1)
        try:
            await ctx.step(flaky.task, 1)
        except StepError:
            if len(lives) == 1:
                raise ValueError("hidden") from None
            return "mended"
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == "mended"
        assert await culprits(handle) == [""]
    assert flaky.calls == [1]


async def test_the_step_that_is_asked_for_anew_has_new_retries_and_the_same_key(place: Place) -> None:
    """Rows 46, 73 and 80."""
    flaky = Calls("flaky", failures=3, retry=[Retry(max_retries=1, base_delay=0)])

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> int:
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 1
        recorded = ["OperationRetried", "OperationFailed", "RetryScheduled", "OperationRetried"]
        assert (await kinds(handle))[1:-3] == recorded
    assert len(flaky.calls) == 4


async def test_a_function_is_tried_again_only_for_what_its_policy_names(place: Place) -> None:
    """Rows 22, 23 and 80: the failure of a step is matched by the type that the step's error had."""
    flaky, other = Calls("flaky", failures=1), Calls("other")

    async def wrong(_x: object) -> None:
        other.calls.append(1)
        raise KeyError("wrong")

    @workflow(retry=Retry(error_equals=[OSError], max_retries=3, base_delay=0))
    async def order(ctx: Context) -> None:
        await ctx.step(flaky.task, 1)
        await ctx.step(wrong, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert (await failed(handle)).failure.type == "KeyError"
        assert await culprits(handle) == ["flaky#1", "wrong#1"]
    assert (flaky.calls, other.calls) == ([1, 1], [1])


async def test_between_its_attempts_a_function_is_put_away(place: Place) -> None:
    """Rows 63 and 80: the delay is not shortened by another engine."""
    flaky, before = Calls("flaky", failures=1), Calls("before")

    @workflow(retry=HOURLY)
    async def order(ctx: Context) -> int:
        await ctx.step(before.task, 0)
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order, id="order-1")
        await until_parked(engine, "order-1")
        scheduled = next(e for e in await handle.journal() if e.kind == "RetryScheduled")
        assert (await row(engine, "order-1")).due_at_ms == round(scheduled.at.timestamp() * 1_000) + HOUR_MS
        (wait,) = (await handle.status()).waiting
        assert wait.reason == "backoff"
    place.clock.advance(HOUR_MS)
    async with place.engine(order) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1
    assert (before.calls, flaky.calls) == ([0], [1, 1])


async def test_a_function_that_never_succeeds_fails_when_its_retries_are_used_up(place: Place) -> None:
    """Rows 23 and 80."""
    flaky = Calls("flaky", failures=99)

    @workflow(retry=Retry(max_retries=2, base_delay=0))
    async def order(ctx: Context) -> int:
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert (await failed(handle)).failure.message == "busy 3"
        assert await culprits(handle) == ["flaky#1"] * 3
    assert len(flaky.calls) == 3


async def test_a_sleep_is_not_slept_again(place: Place) -> None:
    """Row 80."""
    flaky = Calls("flaky", failures=1)

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        said = await ctx.wait_signal("go")
        await ctx.sleep("1h")
        await ctx.step(flaky.task, 1)
        return said

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await handle.signal("go", "once")
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "once"
    assert flaky.calls == [1, 1]


async def test_a_wait_whose_time_out_was_the_failure_waits_anew(place: Place) -> None:
    """Row 80."""

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        return await ctx.wait_signal("go", timeout="1h")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await until(lambda: is_waiting_anew(handle))
        await until_parked(engine, handle.id)
        await handle.signal("go", "at last")
        assert await handle.result(PATIENCE_S) == "at last"
        assert await culprits(handle) == ["go#1"]


async def is_waiting_anew(handle: AsyncHandle) -> bool:
    return (await kinds(handle)).count("StepSuspended") == 2


async def test_a_task_of_a_flow_with_a_context_is_tried_again_in_the_same_way(place: Place) -> None:
    """Rows 72 and 80."""
    before, flaky = Calls("before"), Calls("flaky", failures=1)

    @task(retry=AT_ONCE)
    async def work(ctx: Context, x: int) -> int:
        await ctx.step(before.task, x)
        return await ctx.step(flaky.task, x)

    flow = Flow("order").then(keep).then(work).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 3)
        assert await handle.result(PATIENCE_S) == 3
        assert await culprits(handle) == ["flaky#1"]
    assert (before.calls, flaky.calls) == ([3], [3, 3])


# Retries of the run.


async def test_a_failed_run_goes_on_at_the_operation_that_failed(place: Place) -> None:
    """Rows 52 and 80: same run, same journal."""
    before, flaky, after = Calls("before"), Calls("flaky", failures=1), Calls("after")
    attempts: list[int] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        attempts.append(ctx.task.attempt)
        return [await ctx.step(each.task, n) for n, each in enumerate((before, flaky, after))]

    async with place.engine(order) as engine:
        handle = await engine.start(order, id="order-1")
        assert (await failed(handle)).failure.type == "ConnectionError"
        assert await culprits(handle) == ["flaky#1"]
        await engine.retry("order-1", by="ada")
        assert await handle.result(PATIENCE_S) == [0, 1, 2]
        recorded = ["OperationCompleted", "OperationFailed", "RunFailed", "RunReopened"]
        rest = [*["OperationCompleted"] * 2, "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == ["RunStarted", *recorded, *rest]
        with pytest.raises(RunStateError):
            await engine.retry("order-1")
    assert (before.calls, flaky.calls, after.calls, attempts) == ([0], [1, 1], [2], [1, 2])


async def test_a_failed_run_is_retried_by_another_engine(place: Place) -> None:
    """Rows 52 and 80: all that counts is recorded."""
    before, flaky = Calls("before"), Calls("flaky", failures=1)

    @workflow
    async def order(ctx: Context) -> int:
        await ctx.step(before.task, 0)
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        await failed(await engine.start(order, id="order-1"))
    async with place.engine(order) as engine:
        handle = await engine.retry("order-1")
        assert await handle.result(PATIENCE_S) == 1
    assert (before.calls, flaky.calls) == ([0], [1, 1])


async def test_a_run_may_be_retried_until_it_succeeds(place: Place) -> None:
    """Rows 52 and 80: with new retries each time."""
    flaky = Calls("flaky", failures=5)

    @workflow(retry=Retry(max_retries=1, base_delay=0))
    async def order(ctx: Context) -> int:
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for rounds in (1, 2):
            await failed(handle)
            assert len(flaky.calls) == 2 * rounds
            await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 1
    assert len(flaky.calls) == 6


async def test_parts_beside_the_one_that_failed_are_kept(place: Place) -> None:
    """Row 80: they knew nothing of it."""
    done, flaky, cut = Calls("done"), Calls("flaky", failures=1), Gate("cut")

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def part() -> Any:  # noqa: ANN401 - what it gives
            first = await ctx.step(done.task, "own")
            await until(lambda: len(done.calls) >= 2 and cut.calls)
            return [first, await ctx.step(flaky.task, "flaky")]

        return await ctx.gather(ctx.step(done.task, "beside"), part(), ctx.step(cut.task, "cut"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert (await failed(handle)).failure.type == "ConnectionError"
        assert await culprits(handle) == ["gather#1/1/flaky#1"]
        cut.open()
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == ["beside", ["own", "flaky"], "cut"]
    assert (sorted(done.calls), flaky.calls) == (["beside", "own"], ["flaky", "flaky"])
    assert (cut.calls, cut.stops) == (["cut", "cut"], 1)


async def test_what_came_after_parallel_work_that_failed_is_asked_for_anew(place: Place) -> None:
    """Row 80: and what came before is not."""
    before, flaky, undo = Calls("before"), Calls("flaky", failures=1), Calls("undo")

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> list[Any]:
        await ctx.step(before.task, 1)
        await ctx.gather(ctx.step(before.task, 2), ctx.step(before.task, 3))
        try:
            return await ctx.gather(ctx.step(before.task, 4), ctx.step(flaky.task, 5))
        except StepError:
            await ctx.gather(ctx.step(undo.task, 1), ctx.step(undo.task, 2))
            raise

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [4, 5]
    assert sorted(before.calls)[:3] == [1, 2, 3]
    assert before.calls.count(4) in {1, 2}  # it may have been cancelled
    assert (flaky.calls, sorted(undo.calls)) == ([5, 5], [1, 2])


async def test_a_map_of_which_several_failed_asks_for_them_anew_one_after_the_other(place: Place) -> None:
    """Row 80: each failure that is let pass is one culprit."""
    flaky = {n: Calls(f"flaky{n}", failures=1) for n in range(3)}

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context) -> list[Any]:
        async def part(ctx: Context, n: int) -> Any:  # noqa: ANN401 - the item
            return await ctx.step(flaky[n].task, n)

        return await ctx.map(part, range(3))

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == [0, 1, 2]
    assert all(2 <= len(each.calls) <= 4 for each in flaky.values())  # a part may be cut off


async def test_a_sleep_beside_a_failure_keeps_what_was_left_of_it(place: Place) -> None:
    """Rows 52 and 80: in a part that the failure did not cancel."""
    flaky = Calls("flaky", failures=1)

    @workflow
    async def order(ctx: Context) -> list[Any]:
        given = await ctx.gather(ctx.step(flaky.task, 1), ctx.sleep("2h"), return_exceptions=True)
        for each in given:
            if isinstance(each, OperationError):
                raise each
        return given

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(2 * HOUR_MS)
        assert (await failed(handle)).failure.type == "ConnectionError"
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == [1, None]
        assert (await keys(handle)).count("gather#1/1/sleep#1") == 1
    assert flaky.calls == [1, 1]


async def test_a_run_that_timed_out_goes_on_where_it_was(place: Place) -> None:
    """Rows 24, 52 and 80: with what was left of its clocks."""
    before = Calls("before")

    @workflow(timeout="1h")
    async def order(ctx: Context) -> str:
        await ctx.step(before.task, 1)
        await ctx.sleep("90m")
        return "slept"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert (await failed(handle)).failure.type == "timeout"
        place.clock.advance(DAY_MS)
        try:
            await engine.retry(handle.id)
        except RunStateError:
            pytest.fail("a function that was stopped by the run's time-out can go on")
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS // 2)
        assert await handle.result(PATIENCE_S) == "slept"
    assert before.calls == [1]


async def test_the_failure_of_a_wait_is_a_culprit_too(place: Place) -> None:
    """Rows 52 and 80."""
    before = Calls("before")

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        await ctx.step(before.task, 1)
        try:
            return await ctx.wait_signal("go", timeout="1h")
        except SignalTimeoutError as error:
            raise ValueError("nobody came") from error

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert (await failed(handle)).failure.type == "ValueError"
        assert await culprits(handle) == ["go#1"]
        await engine.retry(handle.id)
        await until_parked(engine, handle.id)
        await handle.signal("go", 5)
        assert await handle.result(PATIENCE_S) == 5
    assert before.calls == [1]


async def test_what_cannot_be_tried_again_is_not(place: Place) -> None:
    """Rows 22 and 80: an output that cannot be encoded."""
    lives: list[int] = []

    @workflow(retry=AT_ONCE)
    async def order(_ctx: Context) -> object:
        lives.append(1)
        return object()

    async with place.engine(order) as engine:
        assert (await failed(await engine.start(order))).failure.type == "CodecError"
    assert lives == [1]
