"""Row 81: a durable function that begins anew, with an empty journal."""

import asyncio
from typing import Any

import pytest

from holdfast import (
    AsyncEngine,
    AsyncHandle,
    Context,
    Edge,
    Flow,
    Retry,
    Step,
    Workflow,
    get_task_context,
    task,
    workflow,
)
from holdfast.errors import InputError, RunConflictError, TaskError, UsageError
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, parallel
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


async def incarnation(engine: AsyncEngine, run_id: str) -> int:
    return (await row(engine, run_id)).incarnation


async def until_incarnation(engine: AsyncEngine, run_id: str, number: int) -> None:
    async def is_there() -> bool:
        return await incarnation(engine, run_id) == number

    await until(is_there)


async def test_a_function_may_begin_anew_with_another_input(place: Place) -> None:
    """Row 81: the same id, and the journal is that of the last round."""
    work = Calls()

    @workflow
    async def order(ctx: Context, n: int) -> str:
        await ctx.step(work.task, n)
        if n < 3:
            await ctx.continue_as_new(n + 1)
        return f"done at {n}"

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0, id="order-1")
        assert await handle.result(PATIENCE_S) == "done at 3"
        recorded = ["RunStarted", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
        assert await incarnation(engine, "order-1") == 4
        assert (await handle.status()).status == "completed"
        assert [each.id for each in await engine.list()] == ["order-1"]
    assert work.calls == [0, 1, 2, 3]


async def test_nothing_after_it_runs_and_finally_sees_it(place: Place) -> None:
    """Rows 78 and 81."""
    seen: list[str] = []

    @workflow
    async def order(ctx: Context, n: int) -> int:
        try:
            if n < 1:
                await ctx.continue_as_new(n + 1)
            seen.append(f"after {n}")
        except Exception:  # noqa: BLE001 - that is the point
            seen.append("caught")
        finally:
            seen.append(f"finally {n}")
        return n

    async with place.engine(order) as engine:
        assert await (await engine.start(order, 0)).result(PATIENCE_S) == 1
    assert seen == ["finally 0", "after 1", "finally 1"]


async def test_a_function_that_does_not_let_it_pass_begins_anew_all_the_same(place: Place) -> None:
    """Rows 78 and 81."""
    undo = Calls("undo")

    @workflow
    async def order(ctx: Context, n: int) -> int:
        if n < 1:
            try:
                await ctx.continue_as_new(n + 1)
            except BaseException:  # noqa: BLE001 - that is the point
                await ctx.step(undo.task, n)
        return n

    async with place.engine(order) as engine:
        assert await (await engine.start(order, 0)).result(PATIENCE_S) == 1
    assert undo.calls == []


async def test_signals_that_nobody_had_received_are_there_for_the_next_round(place: Place) -> None:
    """Rows 28 and 81: each is received once, in order."""

    @workflow
    async def order(ctx: Context, got: list[Any]) -> list[Any]:
        got = [*got, await ctx.wait_signal("item")]
        if len(got) < 4:
            await ctx.continue_as_new(got)
        return got

    async with place.engine(order) as engine:
        handle = await engine.start(order, [])
        for n in range(3):
            await handle.signal("item", n, id=f"item-{n}")
        await until_incarnation(engine, handle.id, 4)
        await until_parked(engine, handle.id)
        await handle.signal("item", "late", id="late")
        assert await handle.result(PATIENCE_S) == [0, 1, 2, "late"]
        assert (await handle.status()).undelivered == []


async def test_a_function_may_go_on_for_ever_between_its_sleeps(place: Place) -> None:
    """Rows 74 and 81."""
    work = Calls()

    @workflow
    async def order(ctx: Context, n: int) -> None:
        await ctx.step(work.task, n)
        await ctx.sleep("1h")
        await ctx.continue_as_new(n + 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        for n in range(5):
            await until(lambda n=n: len(work.calls) == n + 1)
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS)
        await until(lambda: len(work.calls) == 6)
        await until_parked(engine, handle.id)
        assert await kinds(handle) == [
            "RunStarted",
            "OperationCompleted",
            "OperationBegun",
            "StepSuspended",
        ]
        await handle.cancel(wait=True)
    assert work.calls == [0, 1, 2, 3, 4, 5]


async def test_many_rounds_leave_nothing_behind(place: Place) -> None:
    """Row 81."""

    @workflow
    async def order(ctx: Context, n: int) -> int:
        if n:
            await ctx.continue_as_new(n - 1)
        return n

    async with place.engine(order) as engine:
        handle = await engine.start(order, 25)
        assert await handle.result(PATIENCE_S) == 0
        assert await incarnation(engine, handle.id) == 26
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_an_input_that_does_not_fit_is_refused_where_it_is_given(place: Place) -> None:
    """Rows 65 and 81: nothing has happened, and the function may go on."""
    work = Calls()

    @workflow
    async def order(ctx: Context, _n: int) -> str:
        await ctx.step(work.task, 1)
        with pytest.raises(InputError):
            await ctx.continue_as_new("one")
        with pytest.raises(InputError):
            await ctx.continue_as_new(object())
        return str(await ctx.step(work.task, 2))

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        assert await handle.result(PATIENCE_S) == "2"
        assert await incarnation(engine, handle.id) == 1
    assert work.calls == [1, 2]


async def test_no_part_of_a_function_may_begin_it_anew(place: Place) -> None:
    """Row 81: other parts would be lost."""

    @workflow
    async def order(ctx: Context, n: int) -> str:
        async def part() -> None:
            await ctx.continue_as_new(n + 1)

        with pytest.raises(UsageError):
            await ctx.gather(part(), ctx.step(keep, 1))
        with pytest.raises(UsageError):
            await ctx.race(part())
        await ctx.sleep("1h")
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "done"
        assert await incarnation(engine, handle.id) == 1


async def test_a_branch_may_not_begin_a_run_anew_while_others_are_open(place: Place) -> None:
    """Row 81."""
    refused: list[UsageError] = []

    @task("again")
    async def again(ctx: Context, x: int) -> int:
        try:
            await ctx.continue_as_new(x)
        except UsageError as error:
            refused.append(error)
        return x

    branches = {"left": [Step("left", task="again")], "right": [Step("right", task="again")]}
    flow = parallel(branches, again)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == {"left": 1, "right": 1}
    assert len(refused) == 2


async def test_a_task_of_a_flow_begins_the_whole_run_anew(place: Place) -> None:
    """Rows 72 and 81."""
    first = Calls("first")

    async def again(ctx: Context, n: int) -> int:
        if n < 2:
            await ctx.continue_as_new(n + 1)
        return n

    flow = Flow("order").then(first.task).then(again).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 0)
        assert await handle.result(PATIENCE_S) == 2
    assert first.calls == [0, 1, 2]


async def test_variables_and_values_begin_anew(place: Place) -> None:
    """Rows 76, 77 and 81."""
    drawn: list[float] = []

    @workflow
    async def order(ctx: Context, n: int) -> Any:  # noqa: ANN401 - a variable
        drawn.append(ctx.random())
        if n:
            return [ctx.get("n"), ctx.task.incarnation, ctx.task.attempt]
        ctx.set("n", 5)
        await ctx.step(keep, n)
        await ctx.continue_as_new(1)
        return None

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        assert await handle.result(PATIENCE_S) == [None, 2, 1]
        assert (await handle.status()).branches["main"].variables == {}
    assert len(set(drawn)) == 2


async def test_steps_of_another_round_have_other_idempotency_keys(place: Place) -> None:
    """Rows 46 and 81."""
    marks: list[str] = []

    async def note() -> None:
        context = get_task_context()
        assert context is not None
        marks.append(context.idempotency_key)

    @workflow
    async def order(ctx: Context, n: int) -> None:
        await ctx.step(note)
        if n:
            await ctx.continue_as_new(n - 1)

    async with place.engine(order) as engine:
        await (await engine.start(order, 2)).result(PATIENCE_S)
    assert len(set(marks)) == 3


async def test_retries_begin_anew_and_a_failed_round_is_retried_by_itself(place: Place) -> None:
    """Rows 52, 80 and 81."""
    flaky = Calls("flaky", failures=2)

    @workflow(retry=Retry(max_retries=1, base_delay=0))
    async def order(ctx: Context, n: int) -> int:
        if not n:
            await ctx.continue_as_new(1)
        return await ctx.step(flaky.task, n)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        with pytest.raises(TaskError):
            await handle.result(PATIENCE_S)
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 1
        assert await incarnation(engine, handle.id) == 2
    assert flaky.calls == [1, 1, 1]


async def test_the_run_is_known_by_the_input_it_was_started_with(place: Place) -> None:
    """Rows 48 and 81."""

    @workflow
    async def order(ctx: Context, n: int) -> int:
        if n < 3:
            await ctx.continue_as_new(n + 1)
        return n

    async with place.engine(order) as engine:
        await (await engine.start(order, 0, id="order-1")).result(PATIENCE_S)
        again = await engine.start(order, 0, id="order-1", on_conflict="use_existing")
        assert await again.result(PATIENCE_S) == 3
        with pytest.raises(RunConflictError):
            await engine.start(order, 3, id="order-1", on_conflict="use_existing")


async def test_the_time_out_of_the_run_begins_anew(place: Place) -> None:
    """Rows 24 and 81."""

    @workflow(timeout="90m")
    async def order(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        if n:
            await ctx.continue_as_new(n - 1)
        return n

    async with place.engine(order) as engine:
        handle = await engine.start(order, 2)
        for number in (1, 2, 3):
            await until_incarnation(engine, handle.id, number)
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 0


async def test_a_run_that_is_paused_meanwhile_is_paused_in_its_next_round(place: Place) -> None:
    """Rows 32 and 81: nothing of it begins before it is unpaused."""
    gate, work = Gate(), Calls()

    @workflow
    async def order(ctx: Context, n: int) -> int:
        if n:
            return await ctx.step(work.task, n)
        await ctx.step(gate.task, n)
        await ctx.continue_as_new(1)
        return 0

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        await gate.until_called()
        await handle.pause("stock-taking", by="ada")
        await until_status(handle, "paused")
        gate.open()

        async def is_unheld() -> bool:
            return (await row(engine, handle.id)).worker is None

        await until_incarnation(engine, handle.id, 2)
        await until_status(handle, "paused")
        await until(is_unheld)
        status = await handle.status()
        assert status.pause is not None
        assert (status.pause.reason, status.pause.by) == ("stock-taking", "ada")
        assert work.calls == []
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1
    assert (gate.calls, work.calls) == ([0], [1])


async def test_a_cancel_is_for_all_rounds(place: Place) -> None:
    """Rows 33 and 81: an acknowledged one ends the run, in whatever round it is then."""
    rounds: list[int] = []

    @workflow
    async def order(ctx: Context, n: int) -> None:
        rounds.append(n)
        await ctx.continue_as_new(n + 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        await until(lambda: len(rounds) > 3)
        await handle.cancel("enough", by="ada")
        await until_status(handle, "cancelled")
        count = len(rounds)
        status = await handle.status()
        assert (status.cancel_reason, status.cancelled_by) == ("enough", "ada")
        await (await engine.start(order, 10**6, id="other")).cancel(wait=True)
        assert [n for n in rounds if n < 10**6] == list(range(count))


async def test_a_pause_is_for_all_rounds(place: Place) -> None:
    """Rows 32 and 81."""
    rounds: list[int] = []

    @workflow
    async def order(ctx: Context, n: int) -> None:
        await ctx.step(keep, n)
        rounds.append(n)
        await ctx.continue_as_new(n + 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        await until(lambda: len(rounds) > 3)
        await handle.pause()
        await until_status(handle, "paused")

        async def is_unheld() -> bool:
            return (await row(engine, handle.id)).worker is None

        await until(is_unheld)
        count = len(rounds)
        await handle.unpause()
        await until(lambda: len(rounds) > count + 3)
        await handle.cancel(wait=True)
    assert rounds == list(range(len(rounds)))


async def test_a_signal_to_a_run_that_begins_anew_is_never_lost(place: Place) -> None:
    """Rows 28 and 81, and invariant 19: whichever round it meets."""

    @workflow
    async def order(ctx: Context, got: list[int]) -> list[int]:
        await ctx.step(keep, len(got))
        item = await ctx.race(ctx.wait_signal("item"), ctx.sleep("1ms"))
        if item == "stop":
            return got
        await ctx.continue_as_new(got if item is None else [*got, item])
        return got

    async with place.engine(order) as engine:
        handle = await engine.start(order, [])
        for n in range(10):
            await handle.signal("item", n)
        await handle.signal("item", "stop")
        assert await handle.result(PATIENCE_S) == list(range(10))


async def until_draining(engine: AsyncEngine) -> None:
    """Wait until who drives has been told to stop."""
    worker = getattr(engine, "beside", engine)._node.worker
    await until(lambda: worker.is_draining)


async def test_a_shutdown_between_two_rounds_leaves_the_run_due(place: Place) -> None:
    """Rows 53 and 81."""
    begun = asyncio.Event()
    rounds: list[int] = []
    engines: list[AsyncEngine] = []

    async def slow() -> None:
        begun.set()
        await until_draining(engines[0])

    @workflow
    async def order(ctx: Context, n: int) -> int:
        rounds.append(n)
        if n:
            return n
        await ctx.step(slow)
        await ctx.continue_as_new(1)
        return 0

    async with place.engine(order) as engine:
        engines.append(engine)
        await engine.start(order, 0, id="order-1")
        await begun.wait()
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == 1
        assert (await row(engine, "order-1")).recoveries == 0
    assert sorted(set(rounds)) == [0, 1]
    assert rounds.count(1) == 1


async def test_a_handle_of_before_gives_the_output_of_the_last_round(place: Place) -> None:
    """Rows 59 and 81: whoever waits for the result waits on."""
    gate = Gate()

    @workflow
    async def order(ctx: Context, n: int) -> str:
        await ctx.step(gate.task, n)
        if n < 2:
            await ctx.continue_as_new(n + 1)
        return f"done at {n}"

    async with place.engine(order) as engine, asyncio.TaskGroup() as clients:
        handle = await engine.start(order, 0)
        await gate.until_called()
        other: AsyncHandle = await engine.get(handle.id)
        waiting = [clients.create_task(each.result(PATIENCE_S)) for each in (handle, other)]
        await asyncio.sleep(0)
        gate.open()
        assert [await each for each in waiting] == ["done at 2"] * 2


async def test_a_graph_in_which_it_is_the_only_open_branch_begins_anew(place: Place) -> None:
    """Rows 72 and 81."""
    marks: list[Any] = []

    @task("again")
    async def again(ctx: Context, n: int) -> int:
        marks.append((ctx.task.visit, n))
        if n < 1:
            await ctx.continue_as_new(n + 1)
        return n

    order = Workflow(
        "order",
        [Step("one", task="again", edges=(Edge("two"),)), Step("two", task="keep")],
        tasks=[again, keep],
    )
    async with place.engine(order) as engine:
        handle = await engine.start(order, 0)
        assert await handle.result(PATIENCE_S) == 1
        assert len(await entries(handle)) == 4
        place.clock.advance(DAY_MS)
    assert marks == [(1, 0), (1, 1)]
