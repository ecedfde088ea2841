"""Row 75: parallel work of a durable function, where it may be asked for, and its keys."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, workflow
from holdfast.core.entries import OperationCompleted, OperationFailed, ScopesClosed
from holdfast.errors import OperationCancelledError, StepError, TaskError, UsageError
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


async def keys(handle: AsyncHandle) -> list[str]:
    """Keys of what is done, in the order of the journal."""
    return [e.key for e in await entries(handle) if isinstance(e, OperationCompleted | OperationFailed)]


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def closed(handle: AsyncHandle) -> list[tuple[str, tuple[int, ...]]]:
    return [(e.key, e.ended) for e in await entries(handle) if isinstance(e, ScopesClosed)]


async def busy(x: object) -> object:
    raise ConnectionError(f"busy {x}")


# gather


async def test_parts_run_side_by_side_and_give_a_list_in_their_order(place: Place) -> None:
    """Row 75."""
    gates = [Gate(f"gate{n}") for n in range(3)]

    @workflow
    async def order(ctx: Context) -> list[int]:
        return await ctx.gather(*(ctx.step(gate.task, n) for n, gate in enumerate(gates)))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for gate in gates:
            await gate.until_called()
        for n, gate in reversed(list(enumerate(gates))):
            gate.open()
            await until(lambda n=n: recorded(handle, f"gather#1/{n}/gate{n}#1"))
        assert await handle.result(PATIENCE_S) == [0, 1, 2]
        assert await keys(handle) == [f"gather#1/{n}/gate{n}#1" for n in (2, 1, 0)]
    assert [gate.calls for gate in gates] == [[0], [1], [2]]


async def recorded(handle: AsyncHandle, key: str) -> bool:
    return key in await keys(handle)


async def test_each_part_has_its_own_place_in_the_journal(place: Place) -> None:
    """Row 75: whoever is faster, in the first life or in the next one."""
    work = Calls()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        lives.append(1)

        async def part(n: int) -> list[Any]:
            for _ in range(3 - n if len(lives) == 1 else n):
                await asyncio.sleep(0)
            drawn = [await ctx.step(work.task, [n, 0]), ctx.random()]
            await ctx.sleep(f"{n + 1}h")
            return [*drawn, await ctx.step(work.task, [n, 1])]

        before = await ctx.gather(*map(part, range(3)))
        await ctx.sleep("1h")
        return before

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for n in range(3):
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS)
            await until(lambda n=n: recorded(handle, f"gather#1/{n}/work#2"))
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        given = await handle.result(PATIENCE_S)
        assert [each[0] for each in given] == [[n, 0] for n in range(3)]
        assert [each[2] for each in given] == [[n, 1] for n in range(3)]
        values = [e for e in await entries(handle) if isinstance(e, OperationCompleted) and e.kind == "value"]
        assert sorted(e.key for e in values) == [f"gather#1/{n}/random#1" for n in range(3)]
    assert sorted(work.calls) == [[n, i] for n in range(3) for i in range(2)]
    assert len(lives) == 5


async def has(handle: AsyncHandle, key: str) -> bool:
    return any(getattr(entry, "key", "") == key for entry in await entries(handle))


async def test_parallel_work_in_parallel_work_has_keys_of_both(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def part(n: int) -> list[Any]:
            first = await ctx.step(keep, n)
            inner = await ctx.gather(ctx.step(keep, "a"), ctx.step(keep, "b"))
            again = await ctx.map(keep, [1])
            return [first, *inner, *again, await ctx.step(keep, n)]

        given = await ctx.gather(part(0), part(1))
        await ctx.sleep("1h")
        return [*given, *await ctx.gather(ctx.step(keep, "last"))]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [[0, "a", "b", 1, 0], [1, "a", "b", 1, 1], "last"]
        inner = [f"gather#1/{n}/gather#1/{i}/keep#1" for n in range(2) for i in range(2)]
        own = [f"gather#1/{n}/keep#{i}" for n in range(2) for i in (1, 2)]
        mapped = [f"gather#1/{n}/map#1/0/keep#1" for n in range(2)]
        assert sorted(await keys(handle)) == sorted([*inner, *own, *mapped, "sleep#1", "gather#2/0/keep#1"])


async def test_no_parts_and_many_parts_are_fine(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> int:
        assert await ctx.gather() == []
        assert await ctx.map(keep, []) == []
        assert await ctx.map(keep, [], min_completed=0, failures_max=3) == []
        await ctx.sleep("1h")
        given = await ctx.gather(*(ctx.step(keep, n) for n in range(100)))
        return sum(given)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 4950


async def test_the_first_error_cancels_the_other_parts_and_is_raised(place: Place) -> None:
    """Row 75: recorded, so that it is the same error in each life, and nothing of them is called again."""
    gate, flaky, caught = Gate(), Calls("flaky", failures=9), list[StepError]()

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.gather(
                ctx.step(gate.task, 1), ctx.step(flaky.task, 2), ctx.sleep("1h"), ctx.wait_signal("go")
            )
        except StepError as error:
            caught.append(error)
        await ctx.sleep("2h")
        return "mended"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        assert await closed(handle) == [("gather#1", (1,))]
        await handle.signal("go")
        place.clock.advance(2 * HOUR_MS)
        assert await handle.result(PATIENCE_S) == "mended"
        assert len((await handle.status()).undelivered) == 1
        assert "gather#1/2/sleep#1" not in await keys(handle)
    assert [(error.operation, error.kind) for error in caught] == [
        ("gather#1/1/flaky#1", "ConnectionError")
    ] * 2
    assert (gate.calls, gate.stops, flaky.calls) == ([1], 1, [2])


async def test_an_error_of_the_functions_own_code_counts_as_any_other(place: Place) -> None:
    """Row 75."""
    gate = Gate()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> str:
        lives.append(1)

        async def part() -> None:
            await ctx.step(keep, 1)
            raise ValueError("own")

        try:
            await ctx.gather(ctx.step(gate.task, 1), part())
        except ValueError:
            await ctx.sleep("1h")
        return "mended"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "mended"
        assert await closed(handle) == [("gather#1", (1,))]
    assert (gate.calls, gate.stops, lives) == ([1], 1, [1, 1])


async def test_errors_may_be_given_in_the_list(place: Place) -> None:
    """Row 75."""
    work, flaky = Calls(), Calls("flaky", failures=9)

    @workflow
    async def order(ctx: Context) -> list[str]:
        async def own() -> None:
            raise ValueError("own")

        given = await ctx.gather(ctx.step(flaky.task, 1), ctx.step(work.task, 2), own(), return_exceptions=True)
        await ctx.sleep("1h")
        return [type(each).__name__ for each in given]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == ["StepError", "int", "ValueError"]
        assert await closed(handle) == []
    assert (work.calls, flaky.calls) == ([2], [1])


async def test_an_error_in_parallel_work_that_the_function_lets_pass_fails_the_run(place: Place) -> None:
    """Rows 20 and 75."""

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.gather(ctx.step(keep, 1), ctx.step(busy, 2), ctx.wait_signal("go"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        failure = (await failed(handle)).failure
        assert (failure.type, failure.message, failure.step) == ("ConnectionError", "busy 2", "order")
        assert (await handle.status()).waiting == []


async def test_parts_that_are_cancelled_see_it_and_ask_for_nothing_more(place: Place) -> None:
    """Row 75."""
    undo, gate = Calls("undo"), Gate()
    seen: list[str] = []

    @workflow
    async def order(ctx: Context) -> str:
        async def part() -> None:
            try:
                await ctx.step(gate.task, 1)
            except asyncio.CancelledError:
                seen.append("cancelled")
                await ctx.step(undo.task, 1)
                seen.append("undone")

        async def fails() -> None:
            await until(lambda: gate.calls)
            raise ValueError("own")

        try:
            await ctx.gather(part(), fails())
        except ValueError:
            return "mended"
        return ""

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == "mended"
    assert (seen, undo.calls) == (["cancelled"], [])


async def test_any_awaitable_may_be_a_part(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        return await ctx.gather(ctx.step(keep, 1), future)

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == [1, "future"]


async def test_a_part_that_cancels_itself_fails(place: Place) -> None:
    """Row 75: nobody wanted that."""

    @workflow
    async def order(ctx: Context) -> list[str]:
        async def part() -> None:
            raise asyncio.CancelledError

        given = await ctx.gather(part(), ctx.step(keep, 1), return_exceptions=True)
        return [type(each).__name__ for each in given]

    async with place.engine(order) as engine:
        kinds_given = await (await engine.start(order)).result(PATIENCE_S)
        assert kinds_given[1] == "int"
        assert kinds_given[0].endswith("Error")


async def test_of_parts_that_fail_together_the_first_is_raised_in_each_life(place: Place) -> None:
    """Row 75."""
    caught: list[str] = []
    calls: list[int] = []

    async def fails(n: int) -> None:
        calls.append(n)
        raise ConnectionError(str(n))

    @workflow
    async def order(ctx: Context) -> None:
        try:
            await ctx.gather(*(ctx.step(fails, n) for n in range(3)))
        except StepError as error:
            caught.append(error.operation)
        await ctx.sleep("1h")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await handle.result(PATIENCE_S)
    assert len(set(caught)) == 1
    assert len(caught) == 2
    assert len(calls) == len(set(calls))


async def test_of_errors_that_are_raised_at_the_same_moment_the_one_of_the_first_part_counts(
    place: Place,
) -> None:
    """Row 75."""
    caught: list[str] = []

    @workflow
    async def order(ctx: Context) -> None:
        async def fails(n: int) -> None:
            raise ValueError(str(n))

        try:
            await ctx.gather(*map(fails, range(3)))
        except ValueError as error:
            caught.append(str(error))
        await ctx.sleep("1h")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await handle.result(PATIENCE_S)
        assert await closed(handle) == [("gather#1", (0, 1, 2))]
    assert caught == ["0", "0"]


async def test_work_may_be_nested_deeply(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> int:
        async def deep(n: int) -> int:
            if not n:
                await ctx.sleep("1h")
                return await ctx.step(keep, 1)
            return sum(await ctx.gather(deep(n - 1)))

        return await deep(20)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
        assert "gather#1/0/" * 20 + "keep#1" in await keys(handle)


async def test_steps_may_be_called_what_parallel_work_is_called(place: Place) -> None:
    """Row 75: keys are told apart all the same."""
    work = Calls()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        said = [await ctx.step(work.task, n, name=name) for n, name in enumerate(("gather", "race", "map"))]
        said += await ctx.gather(ctx.step(work.task, 3, name="gather"), ctx.step(work.task, 4, name="0"))
        said.append(await ctx.race(ctx.step(work.task, 5), ctx.wait_signal("go")))
        said += await ctx.map(work.task, [6])
        await ctx.sleep("1h", name="patched:x")
        return [*said, ctx.patched("x"), await ctx.record("gather", lambda: 7)]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [0, 1, 2, 3, 4, 5, 6, True, 7]
        found = await keys(handle)
        assert len(set(found)) == len(found)
    assert sorted(work.calls) == [0, 1, 2, 3, 4, 5, 6]


async def test_a_part_that_runs_code_of_its_own_keeps_the_function_where_it_is(place: Place) -> None:
    """Rows 75 and 78."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        lives.append(1)

        async def part() -> int:
            begun.set()
            await may_end.wait()
            return 1

        return await ctx.gather(ctx.wait_signal("go"), part())

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await begun.wait()
        await handle.signal("go", 0)
        await until(lambda: recorded(handle, "gather#1/0/go#1"))
        assert "StepSuspended" not in await kinds(handle)
        may_end.set()
        assert await handle.result(PATIENCE_S) == [0, 1]
    assert lives == [1]


# race


async def test_the_first_part_to_end_wins_and_the_others_are_cancelled(place: Place) -> None:
    """Row 75: which one that was is recorded."""
    gate, quick = Gate(), Calls("quick")
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - what won
        lives.append(1)
        won = await ctx.race(ctx.step(gate.task, "slow"), ctx.step(quick.task, "quick"))
        await ctx.sleep("1h")
        return won

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        gate.open()
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "quick"
        assert await closed(handle) == [("race#1", (1,))]
    assert (gate.calls, gate.stops, quick.calls, lives) == (["slow"], 1, ["quick"], [1, 1])


async def test_a_race_with_a_sleep_is_a_time_out(place: Place) -> None:
    """Row 75: the signal that comes later is not taken, nor is the sleep slept."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def in_time(name: str, duration: str) -> Any:  # noqa: ANN401 - the payload
            return await ctx.race(ctx.wait_signal(name), ctx.sleep(duration))

        return [await in_time("first", "1h"), await in_time("second", "1h")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        await handle.signal("first", "in time")
        await until(lambda: has(handle, "race#2/0/second#1"))
        await until_parked(engine, handle.id)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        begun = [e for e in await handle.journal() if getattr(e.entry, "key", "") == "race#2/1/sleep#1"]
        assert due_at_ms == round(begun[0].at.timestamp() * 1_000) + HOUR_MS
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == ["in time", None]
        assert await closed(handle) == [("race#1", (0,)), ("race#2", (1,))]


async def test_a_race_that_an_error_wins_raises_it(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.race(ctx.step(busy, 1), ctx.wait_signal("go"))
        except StepError as error:
            await ctx.sleep("1h")
            return error.operation
        return ""

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms is not None
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "race#1/0/busy#1"


async def test_of_parts_that_end_together_the_first_wins_in_each_life(place: Place) -> None:
    """Row 75: two signals that one wake-up brings."""
    lives: list[Any] = []

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - what won
        won = await ctx.race(ctx.wait_signal("a"), ctx.wait_signal("b"))
        lives.append(won)
        await ctx.sleep("1h")
        return won

    async with place.engine(order) as engine:
        await until_parked(engine, (await engine.start(order, id="order-1")).id)
    async with place.engine() as engine:
        handle = await engine.get("order-1")
        await handle.signal("b", "b")
        await handle.signal("a", "a")
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        won = await handle.result(PATIENCE_S)
        assert lives == [won, won]


async def test_a_part_that_lost_and_does_not_let_it_pass_has_lost_all_the_same(place: Place) -> None:
    """Row 75: what it gives then comes too late, in each life."""
    undo, gate = Calls("undo"), Gate()

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - what won
        async def stubborn() -> str:
            try:
                await ctx.step(gate.task, 1)
            except asyncio.CancelledError:
                with contextlib.suppress(BaseException):
                    await ctx.step(undo.task, 1)
            return "stubborn"

        async def wins() -> str:
            await until(lambda: gate.calls)
            return "won"

        won = await ctx.race(stubborn(), wins())
        await ctx.sleep("1h")
        return won

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "won"
    assert (undo.calls, gate.calls) == ([], [1])


async def test_a_race_in_a_gather_in_a_race(place: Place) -> None:
    """Row 75: who loses outside takes everything inside along."""
    gates = [Gate(f"gate{n}") for n in range(3)]

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - what won
        async def inner() -> Any:  # noqa: ANN401 - what won
            return await ctx.gather(
                ctx.race(ctx.step(gates[0].task, 0), ctx.sleep("3h")), ctx.step(gates[1].task, 1)
            )

        won = await ctx.race(inner(), ctx.step(gates[2].task, 2))
        await ctx.sleep("1h")
        return won

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for gate in gates:
            await gate.until_called()
        gates[2].open()
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 2
        assert await closed(handle) == [("race#1", (1,))]
    assert [(gate.calls, gate.stops) for gate in gates] == [([0], 1), ([1], 1), ([2], 0)]


# map


class Counted:
    """A body that notes how many of it run at once."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.live = 0
        self.most = 0

    async def body(self, x: Any) -> Any:  # noqa: ANN401 - whatever it is
        self.calls.append(x)
        self.live += 1
        self.most = max(self.most, self.live)
        for _ in range(3):
            await asyncio.sleep(0)
        self.live -= 1
        if x == "bad":
            raise ConnectionError("bad")
        return x


async def test_a_map_calls_a_step_for_each_item(place: Place) -> None:
    """Row 75."""
    counted = Counted()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        given = await ctx.map(counted.body, (n for n in range(5)))
        await ctx.sleep("1h")
        return given

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [0, 1, 2, 3, 4]
        assert sorted(await keys(handle)) == [*(f"map#1/{n}/body#1" for n in range(5)), "sleep#1"]
    assert sorted(counted.calls) == [0, 1, 2, 3, 4]
    assert counted.most > 1


@pytest.mark.parametrize("concurrency", [1, 2, 5, 50])
async def test_a_map_runs_no_more_than_so_many_at_once(place: Place, concurrency: int) -> None:
    """Row 75."""
    counted = Counted()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        return await ctx.map(counted.body, range(7), concurrency=concurrency)

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == list(range(7))
    assert counted.most <= concurrency
    assert sorted(counted.calls) == list(range(7))


async def test_a_map_goes_on_where_it_was_whenever_the_function_runs(place: Place) -> None:
    """Row 75: with items that sleep, two at a time."""
    work = Calls()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def part(ctx: Context, n: int) -> Any:  # noqa: ANN401 - the item
            await ctx.sleep("1h")
            return await ctx.step(work.task, n)

        return await ctx.map(part, range(5), concurrency=2)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for count in (2, 4, 5):
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS)
            await until(lambda count=count: len(work.calls) == count)
        assert await handle.result(PATIENCE_S) == [0, 1, 2, 3, 4]
    assert sorted(work.calls) == [0, 1, 2, 3, 4]


async def test_a_map_of_functions_gives_each_the_context_and_its_item(place: Place) -> None:
    """Row 75: also one that is a workflow."""

    @workflow
    async def part(ctx: Context, n: int) -> int:
        return await ctx.step(keep, n) + await ctx.step(keep, 10)

    @workflow
    async def order(ctx: Context) -> list[int]:
        return await ctx.map(part, [1, 2])

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [11, 12]
        assert sorted(await keys(handle)) == [f"map#1/{n}/keep#{i}" for n in range(2) for i in (1, 2)]


async def test_a_map_that_has_enough_cancels_the_rest(place: Place) -> None:
    """Row 75: which were enough is recorded."""
    gate = Gate()
    quick = Calls("quick")

    @workflow
    async def order(ctx: Context) -> list[str]:
        async def part(ctx: Context, n: int) -> Any:  # noqa: ANN401 - the item
            return await ctx.step(quick.task if n % 2 else gate.task, n)

        given = await ctx.map(part, range(4), min_completed=2)
        await ctx.sleep("1h")
        return [type(each).__name__ if isinstance(each, Exception) else str(each) for each in given]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        gate.open()
        place.clock.advance(HOUR_MS)
        away = OperationCancelledError.__name__
        assert await handle.result(PATIENCE_S) == [away, "1", away, "3"]
        assert await closed(handle) == [("map#1", (1, 3))]
    assert (sorted(gate.calls), gate.stops, sorted(quick.calls)) == ([0, 2], 2, [1, 3])


@pytest.mark.parametrize("enough", [0, 1, 2])
async def test_a_map_whose_items_end_together_is_the_same_when_they_do_not(place: Place, enough: int) -> None:
    """Row 75: that all of them counted is recorded as well, as it was perhaps more than enough."""
    work = Calls()
    lives: list[list[str]] = []
    waits_s = iter([0, 0, 0.05, 0.05])

    @workflow
    async def order(ctx: Context) -> list[str]:
        async def part(_ctx: Context, n: int) -> int:
            wait_s = next(waits_s) if n else 0
            if wait_s:
                await asyncio.sleep(wait_s)
            return n

        given = await ctx.map(part, range(3), min_completed=enough)
        lives.append([str(each) for each in given])
        await ctx.step(work.task, lives[-1])
        await ctx.sleep("1h")
        return lives[-1]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == ["0", "1", "2"]
        assert await closed(handle) == [("map#1", (0, 1, 2))]
    assert lives == [["0", "1", "2"]] * 2


async def test_items_that_were_not_begun_when_it_was_enough_are_not_begun(place: Place) -> None:
    """Row 75."""
    work = Calls()

    @workflow
    async def order(ctx: Context) -> int:
        given = await ctx.map(work.task, range(6), concurrency=1, min_completed=2)
        await ctx.sleep("1h")
        return sum(isinstance(each, OperationCancelledError) for each in given)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 4
    assert work.calls == [0, 1]


async def test_a_map_fails_with_its_first_failure_unless_failures_are_allowed(place: Place) -> None:
    """Row 75."""
    counted = Counted()

    @workflow
    async def order(ctx: Context) -> list[str]:
        said: list[str] = []
        for allowed in (None, 0, 1, 2, 3):
            try:
                given = await ctx.map(counted.body, [1, "bad", 2, "bad"], failures_max=allowed)
            except StepError as error:
                said.append(error.operation)
            else:
                said.append(" ".join(type(each).__name__ for each in given))
        return said

    async with place.engine(order) as engine:
        said = await (await engine.start(order)).result(PATIENCE_S)
        assert [each[:6] for each in said[:3]] == ["map#1/", "map#2/", "map#3/"]
        assert said[3:] == ["int StepError int StepError"] * 2


async def test_a_map_that_can_no_longer_complete_enough_fails(place: Place) -> None:
    """Row 75: as many failures are allowed as `min_completed` leaves over."""

    @workflow
    async def order(ctx: Context) -> list[str]:
        items = ["bad", 1, "bad", 2]
        counted = Counted()
        said: list[str] = []
        for enough in (2, 3):
            try:
                given = await ctx.map(counted.body, items, min_completed=enough, concurrency=1)
            except StepError as error:
                said.append(error.operation)
            else:
                said.append(" ".join(type(each).__name__ for each in given))
        return said

    async with place.engine(order) as engine:
        said = await (await engine.start(order)).result(PATIENCE_S)
        assert said == ["StepError int StepError int", "map#2/0/body#1"]


async def test_a_map_with_too_few_that_completed_fails_although_failures_were_allowed(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.map(Counted().body, ["bad", 1], min_completed=2, failures_max=2)
        except StepError as error:
            return error.operation
        return ""

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == "map#1/0/body#1"


# Variables of parts.


async def test_what_a_part_sets_is_seen_there_at_once_and_by_the_others_when_all_are_done(place: Place) -> None:
    """Rows 75 and 77: in the order of the parts."""
    seen: list[Any] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        ctx.set("n", "before")
        ctx.set("gone", 1)

        async def part(number: int) -> None:
            assert ctx.get("n") == "before"
            ctx.set("n", number)
            ctx.set(f"own{number}", number)
            ctx.delete("gone")
            for _ in range(3 - number):
                await ctx.step(keep, number)
            seen.append((number, ctx.get("n"), ctx.get("gone"), ctx.get("own0")))

        await ctx.gather(part(0), part(1), part(2))
        await ctx.sleep("1h")
        return [ctx.get("n"), ctx.get("gone"), ctx.get("own0"), ctx.get("own1")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert sorted(seen) == [(0, 0, None, 0), (1, 1, None, None), (2, 2, None, None)]
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [2, None, 0, 1]
        variables = (await handle.status()).branches["main"].variables
        assert variables == {"n": 2, "own0": 0, "own1": 1, "own2": 2}
    assert sorted(seen) == sorted([(0, 0, None, 0), (1, 1, None, None), (2, 2, None, None)] * 2)


async def test_what_a_part_that_failed_or_lost_had_set_is_gone(place: Place) -> None:
    """Rows 75 and 77."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def fails() -> None:
            ctx.set("failed", 1)
            await ctx.step(keep, 1)
            raise ValueError

        async def loses() -> None:
            ctx.set("lost", 1)
            await ctx.wait_signal("never")

        async def wins() -> None:
            ctx.set("won", 1)
            await ctx.step(keep, 1)

        await ctx.gather(fails(), return_exceptions=True)
        await ctx.race(loses(), wins())
        await ctx.sleep("1h")
        return [ctx.get(name) for name in ("failed", "lost", "won")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [None, None, 1]
        assert (await handle.status()).branches["main"].variables == {"won": 1}


# Where nothing may be asked for.


async def in_a_task(_ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    async def asking() -> Any:  # noqa: ANN401 - whatever it is
        return await ask()

    await asyncio.create_task(asking())


async def in_a_gather_of_asyncio(_ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.gather(ask(), asyncio.sleep(0))


async def in_a_task_group(_ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    async def asking() -> None:
        with pytest.raises(UsageError) as caught:
            await ask()
        errors.append(caught.value)

    errors: list[UsageError] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asking())
    raise errors[0]


async def in_a_thread(_ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    await asyncio.to_thread(lambda: asyncio.run(awaited(ask)))


async def awaited(ask: Callable[[], Awaitable[Any]]) -> None:
    await ask()


async def in_a_record(ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    await ctx.record("asked", ask)


async def in_a_step(ctx: Context, ask: Callable[[], Awaitable[Any]]) -> None:
    async def asking() -> None:
        await ask()

    with pytest.raises(StepError) as caught:
        await ctx.step(asking)
    assert caught.value.kind == UsageError.__name__
    raise UsageError(what=caught.value.failure.message, fix="")


WRONG_PLACES = [in_a_task, in_a_gather_of_asyncio, in_a_task_group, in_a_thread, in_a_record, in_a_step]


async def of_now(ctx: Context) -> None:
    ctx.now()


async def of_set(ctx: Context) -> None:
    ctx.set("n", 1)


ASKING: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "step": lambda ctx: ctx.step(keep, 1),
    "sleep": lambda ctx: ctx.sleep("1h"),
    "wait_signal": lambda ctx: ctx.wait_signal("go"),
    "record": lambda ctx: ctx.record("key", int),
    "gather": lambda ctx: ctx.gather(),
    "race": lambda ctx: ctx.race(),
    "map": lambda ctx: ctx.map(keep, [1]),
    "child": lambda ctx: ctx.child("order"),
    "continue_as_new": lambda ctx: ctx.continue_as_new(),
    "now": of_now,
    "set": of_set,
}


@pytest.mark.parametrize("wrong", WRONG_PLACES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("what", ["step", "now"])
async def test_asking_where_the_function_does_not_run_is_an_error_that_says_so(
    place: Place, wrong: Callable[..., Awaitable[Any]], what: str
) -> None:
    """Row 75: nothing is recorded of it, and the function may go on."""

    @workflow
    async def order(ctx: Context) -> str:
        with pytest.raises(UsageError) as caught:
            await wrong(ctx, lambda: ASKING[what](ctx))
        await ctx.sleep("1h")
        return str(caught.value)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        said = await handle.result(PATIENCE_S)
        assert f"ctx.{what}" in said
        assert "ctx.gather" in said
        assert [key for key in await keys(handle) if "asking" not in key] == ["sleep#1"]


@pytest.mark.parametrize("what", ASKING)
async def test_everything_that_a_context_gives_says_where_it_may_not_be_asked_for(what: str) -> None:
    """Row 75."""
    place = Place("memory", None)  # type: ignore[arg-type] - memory needs no directory

    @workflow
    async def order(ctx: Context) -> None:
        with pytest.raises(UsageError) as caught:
            await in_a_task(ctx, lambda: ASKING[what](ctx))
        assert f"ctx.{what}" in str(caught.value)

    assert await place.run(order) is None


async def test_a_context_is_of_no_use_outside_of_its_function(place: Place) -> None:
    """Row 75: not after it, and not in another one."""
    kept: list[Context] = []

    @workflow
    async def order(ctx: Context) -> None:
        kept.append(ctx)
        await ctx.step(keep, 1)

    @workflow
    async def other(_ctx: Context) -> str:
        with pytest.raises(UsageError):
            await kept[0].step(keep, 1)
        return "refused"

    async with place.engine(order, other) as engine:
        handle = await engine.start(order)
        await handle.result(PATIENCE_S)
        with pytest.raises(UsageError):
            await kept[0].step(keep, 1)
        with pytest.raises(UsageError):
            kept[0].now()
        assert await (await engine.start(other)).result(PATIENCE_S) == "refused"
        assert await keys(handle) == ["keep#1"]


async def test_what_was_made_and_not_awaited_is_not_asked_for(place: Place) -> None:
    """Row 75: a coroutine gets its key where it is awaited."""

    @workflow
    async def order(ctx: Context) -> list[int]:
        second, first = ctx.step(keep, 2), ctx.step(keep, 1)
        unused = ctx.step(keep, 3)
        unused.close()
        return [await first, await second]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [1, 2]
        assert await keys(handle) == ["keep#1", "keep#2"]


# Control in the middle of parallel work.


async def test_a_pause_lets_parts_that_run_end_and_starts_no_others(place: Place) -> None:
    """Rows 32 and 75."""
    gates, after = [Gate(f"gate{n}") for n in range(2)], Calls("after")

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def part(n: int) -> Any:  # noqa: ANN401 - the item
            await ctx.step(gates[n].task, n)
            return await ctx.step(after.task, n)

        return await ctx.gather(part(0), part(1))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for gate in gates:
            await gate.until_called()
        await handle.pause()
        await until_status(handle, "paused")
        gates[0].open()
        await until(lambda: recorded(handle, "gather#1/0/gate0#1"))
        gates[1].open()
        await until_parked(engine, handle.id)
        assert after.calls == []
        assert [gate.stops for gate in gates] == [0, 0]
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == [0, 1]
    assert sorted(after.calls) == [0, 1]
    assert [gate.calls for gate in gates] == [[0], [1]]


async def test_cancelling_a_run_cancels_all_parts(place: Place) -> None:
    """Rows 33 and 75."""
    gates = [Gate(f"gate{n}") for n in range(3)]

    @workflow
    async def order(ctx: Context) -> list[Any]:
        return await ctx.gather(*(ctx.step(gate.task, 1) for gate in gates), ctx.sleep("1h"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for gate in gates:
            await gate.until_called()
        await handle.cancel(wait=True)
        await until(lambda: all(gate.stops for gate in gates))
        assert (await kinds(handle))[-1] == "RunCancelled"
        place.clock.advance(DAY_MS)
        assert (await handle.status()).waiting == []
    assert [gate.stops for gate in gates] == [1, 1, 1]


async def until_draining(engine: AsyncEngine) -> None:
    """Wait until who drives has been told to stop."""
    worker = getattr(engine, "beside", engine)._node.worker
    await until(lambda: worker.is_draining)


async def test_a_shutdown_in_parallel_work_keeps_what_was_done(place: Place) -> None:
    """Rows 53 and 75."""
    done, begun = Calls("done"), asyncio.Event()
    calls: list[str] = []
    engines: list[AsyncEngine] = []

    async def slow() -> str:
        calls.append("slow")
        begun.set()
        await until_draining(engines[0])
        return "slow"

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def part() -> Any:  # noqa: ANN401 - what it gives
            await ctx.step(slow)
            return await ctx.step(done.task, "after")

        return await ctx.gather(ctx.step(done.task, "beside"), part(), ctx.wait_signal("go"))

    async with place.engine(order) as engine:
        engines.append(engine)
        await engine.start(order, id="order-1")
        await begun.wait()
    assert (calls, done.calls) == (["slow"], ["beside"])
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        await handle.signal("go", "go")
        assert await handle.result(PATIENCE_S) == ["beside", "after", "go"]
        assert (await row(engine, "order-1")).recoveries == 0
    assert (calls, done.calls) == (["slow"], ["beside", "after"])
