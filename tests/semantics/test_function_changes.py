"""Row 79: code that is not what a journal was made with, and code that says how it has changed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, Flow, Function, workflow
from holdfast.core.entries import OperationCompleted, RunBlocked
from holdfast.errors import RunBlockedError, StepError, TaskError
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep
from tests.semantics.places import PATIENCE_S, Place, entries, kinds, row, until, until_parked, until_status

Part = Callable[[Context], Awaitable[Any]]


def deployed(body: Part) -> Function[..., Any]:
    """The function `order` as it is written today."""

    async def order(ctx: Context) -> Any:  # noqa: ANN401 - whatever it gives
        return await body(ctx)

    return workflow(order)


def driving(engine: AsyncEngine) -> AsyncEngine:
    """Who drives: the engine, or the worker beside it."""
    return getattr(engine, "beside", engine)


async def parked(place: Place, body: Part) -> None:
    """Start `order-1` with this code, and close when it waits."""
    function = deployed(body)
    async with place.engine(function) as engine:
        await engine.start(function, id="order-1")
        await until_parked(engine, "order-1")


async def keys(handle: AsyncHandle) -> list[str]:
    return [e.key for e in await entries(handle) if isinstance(e, OperationCompleted)]


async def is_blocked(place: Place, body: Part, *, expected: str, found: str) -> None:
    """`order-1` is woken with other code, which blocks it, and says so everywhere."""
    function = deployed(body)
    async with place.engine(function) as engine:
        handle = await engine.get("order-1")
        await until_status(handle, "blocked")
        blocked = (await entries(handle))[-1]
        assert isinstance(blocked, RunBlocked)
        assert (blocked.code, blocked.branch, blocked.step) == ("definition_changed", "main", "order")
        assert f"expected {expected}" in blocked.detail
        assert f"found {found}" in blocked.detail
        status = await handle.status()
        assert status.failure is not None
        assert status.failure.type == "definition_changed"
        assert f"expected {expected}" in status.failure.message
        explanation = await handle.explain()
        assert explanation.reason == "blocked"
        assert f"found {found}" in explanation.detail
        assert explanation.action
        with pytest.raises(RunBlockedError) as caught:
            await handle.result(PATIENCE_S)
        assert f"expected {expected}" in str(caught.value)
        found_row = await row(engine, "order-1")
        assert (found_row.worker, found_row.due_at_ms, found_row.recoveries) == (None, None, 0)


async def goes_on(place: Place, body: Part, output: object) -> AsyncHandle:
    """`order-1` is resumed with code that fits, and completes."""
    function = deployed(body)
    async with place.engine(function) as engine:
        assert await driving(engine).resume("order-1") == output
        handle = await engine.get("order-1")
        assert (await handle.status()).status == "completed"
        assert (await handle.status()).failure is None
        return handle


class Shop:
    """The code that runs are started with, in parts that other code may take over."""

    def __init__(self) -> None:
        self.first, self.last, self.other = Calls("first"), Calls("last"), Calls("other")

    async def written(self, ctx: Context) -> list[int]:
        one = await ctx.step(self.first.task, 1)
        two = await ctx.step(self.first.task, 2)
        await ctx.sleep("1h")
        return [one, two, await ctx.step(self.last.task, 3)]

    async def renamed(self, ctx: Context) -> None:
        await ctx.step(self.other.task, 1)

    async def of_another_kind(self, ctx: Context) -> None:
        await ctx.record("first", lambda: self.other.calls.append(1))

    async def of_another_kind_later(self, ctx: Context) -> None:
        await ctx.step(self.first.task, 1)
        await ctx.step(self.first.task, 2)
        await ctx.wait_signal("sleep")

    async def with_less(self, ctx: Context) -> None:
        await ctx.step(self.first.task, 1)
        await ctx.sleep("1h")

    async def with_more(self, ctx: Context) -> None:
        for n in range(3):
            await ctx.step(self.first.task, n)

    async def swapped(self, ctx: Context) -> None:
        await ctx.sleep("1h")

    async def with_a_value(self, ctx: Context) -> None:
        ctx.random()
        await self.written(ctx)

    async def with_parallel_work(self, ctx: Context) -> None:
        await ctx.gather(ctx.step(self.first.task, 1))

    async def that_ends(self, ctx: Context) -> int:
        return await ctx.step(self.first.task, 1)

    async def that_raises(self, ctx: Context) -> None:
        await ctx.step(self.first.task, 1)
        raise ValueError("no")

    async def that_does_not_let_it_pass(self, ctx: Context) -> None:
        try:
            await ctx.step(self.other.task, 1)
        except BaseException:  # noqa: BLE001 - that is the point
            await ctx.step(self.other.task, 2)

    async def that_begins_anew(self, ctx: Context) -> None:
        await ctx.continue_as_new()


CHANGES = [
    ("renamed", "step first#1", "step other#1"),
    ("of_another_kind", "step first#1", "record first#1"),
    ("of_another_kind_later", "sleep sleep#1", "wait_signal sleep#1"),
    ("with_less", "step first#2", "sleep sleep#1"),
    ("with_more", "sleep sleep#1", "step first#3"),
    ("swapped", "step first#1", "sleep sleep#1"),
    ("with_a_value", "step first#1", "value random#1"),
    ("with_parallel_work", "step first#1", "step gather#1/0/first#1"),
    ("that_ends", "step first#2", "its end"),
    ("that_raises", "step first#2", "ValueError"),
    ("that_does_not_let_it_pass", "step first#1", "step other#1"),
    ("that_begins_anew", "step first#1", "continue_as_new"),
]


@pytest.mark.parametrize(("change", "expected", "found"), CHANGES, ids=lambda each: each.replace("#", ""))
async def test_code_that_asks_for_something_else_blocks_its_run_until_it_is_mended(
    place: Place, change: str, expected: str, found: str
) -> None:
    """Row 79: nothing of the other code takes effect, and the code of before goes on."""
    shop = Shop()
    await parked(place, shop.written)
    place.clock.advance(HOUR_MS)
    await is_blocked(place, getattr(shop, change), expected=expected, found=found)
    handle = await goes_on(place, shop.written, [1, 2, 3])
    assert handle.id == "order-1"
    assert (shop.first.calls, shop.last.calls, shop.other.calls) == ([1, 2], [3], [])


async def test_a_blocked_run_stays_so_until_somebody_acts(place: Place) -> None:
    """Row 79: also with code that fits; it is not claimed again and again."""
    shop = Shop()
    await parked(place, shop.written)
    place.clock.advance(HOUR_MS)
    await is_blocked(place, shop.renamed, expected="step first#1", found="step other#1")
    function = deployed(shop.written)
    async with place.engine(function) as engine:
        await (await engine.start(function, id="order-2")).status()
        await until_parked(engine, "order-2")
        assert (await row(engine, "order-1")).status == "blocked"
        await driving(engine).resume("order-1")
    assert shop.last.calls == [3]


async def test_resuming_with_code_that_still_does_not_fit_blocks_again(place: Place) -> None:
    """Rows 51 and 79."""
    shop = Shop()
    await parked(place, shop.written)
    place.clock.advance(HOUR_MS)
    await is_blocked(place, shop.renamed, expected="step first#1", found="step other#1")
    function = deployed(shop.swapped)
    async with place.engine(function) as engine:
        with pytest.raises(RunBlockedError) as caught:
            await driving(engine).resume("order-1")
        assert "found sleep sleep#1" in str(caught.value)
    await goes_on(place, shop.written, [1, 2, 3])
    assert (shop.first.calls, shop.last.calls, shop.other.calls) == ([1, 2], [3], [])


async def test_a_blocked_run_may_be_cancelled(place: Place) -> None:
    """Rows 33 and 79."""
    shop = Shop()
    await parked(place, shop.written)
    place.clock.advance(HOUR_MS)
    await is_blocked(place, shop.renamed, expected="step first#1", found="step other#1")
    async with place.engine(deployed(shop.written)) as engine:
        handle = await engine.get("order-1")
        await handle.cancel(wait=True)
        assert (await handle.status()).status == "cancelled"
        assert (await kinds(handle))[-1] == "RunCancelled"


async def test_a_blocked_run_takes_signals_for_when_it_is_mended(place: Place) -> None:
    """Rows 28 and 79."""

    async def written(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        await ctx.sleep("1h")
        return await ctx.wait_signal("go")

    async def renamed(ctx: Context) -> None:
        await ctx.sleep("1h", name="nap")

    await parked(place, written)
    place.clock.advance(HOUR_MS)
    await is_blocked(place, renamed, expected="sleep sleep#1", found="sleep nap#1")
    async with place.engine() as engine:
        await (await engine.get("order-1")).signal("go", "payload")
    await goes_on(place, written, "payload")


async def test_code_that_is_changed_after_what_is_recorded_fits(place: Place) -> None:
    """Row 79: and so does another function of the same name."""
    shop = Shop()
    await parked(place, shop.written)
    place.clock.advance(HOUR_MS)
    other = Calls("first")

    async def longer(ctx: Context) -> list[Any]:
        given = [await ctx.step(other.task, 1), await ctx.step(other.task, 2)]
        await ctx.sleep("7d")
        return [*given, ctx.now().year > 2000, *await ctx.gather(ctx.step(other.task, 3))]

    function = deployed(longer)
    async with place.engine(function) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == [1, 2, True, 3]
    assert (shop.first.calls, other.calls) == ([1, 2], [3])


# Changes in parallel work.


class Parallel:
    """Code with parallel work, and code that has other parallel work."""

    def __init__(self) -> None:
        self.work, self.other = Calls("work"), Calls("other")

    async def written(self, ctx: Context) -> list[Any]:
        async def part(n: int) -> Any:  # noqa: ANN401 - the item
            await ctx.step(self.work.task, n)
            await ctx.sleep("1h")
            return await ctx.step(self.work.task, -n)

        return await ctx.gather(*map(part, range(3)))

    async def in_one_part(self, ctx: Context) -> None:
        async def part(n: int) -> None:
            await ctx.step(self.other.task if n == 1 else self.work.task, n)
            await ctx.sleep("1h")

        await ctx.gather(*map(part, range(3)))

    async def with_less_parts(self, ctx: Context) -> None:
        await ctx.gather(*[self.as_written(ctx, n) for n in range(2)])

    async def as_written(self, ctx: Context, n: int) -> Any:  # noqa: ANN401 - the item
        await ctx.step(self.work.task, n)
        await ctx.sleep("1h")
        return await ctx.step(self.work.task, -n)

    async def with_none(self, ctx: Context) -> None:
        await ctx.step(self.other.task, 1)

    async def that_ends(self, _ctx: Context) -> None:
        return

    async def of_another_kind(self, ctx: Context) -> None:
        await ctx.map(self.other.task, range(3))

    async def raced(self, ctx: Context) -> None:
        await ctx.race(*[self.as_written(ctx, n) for n in range(3)])


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ("in_one_part", "step gather#1/1/work#1", "step gather#1/1/other#1"),
        ("with_less_parts", "step gather#1/2/work#1", ""),
        ("with_none", "step gather#1/0/work#1", "step other#1"),
        ("that_ends", "step gather#1/0/work#1", "its end"),
        ("of_another_kind", "step gather#1/0/work#1", ""),
        ("raced", "step gather#1/0/work#1", ""),
    ],
    ids=lambda each: each.replace("#", "").replace("/", ""),
)
async def test_parallel_work_that_is_not_what_is_recorded_blocks_its_run(
    place: Place, change: str, expected: str, found: str
) -> None:
    """Row 79."""
    code = Parallel()
    await parked(place, code.written)
    await is_blocked_when_woken(place, getattr(code, change), expected=expected, found=found)
    await goes_on(place, code.written, [0, -1, -2])
    assert (sorted(code.work.calls), code.other.calls) == ([-2, -1, 0, 0, 1, 2], [])


async def is_blocked_when_woken(place: Place, body: Part, *, expected: str, found: str) -> None:
    place.clock.advance(HOUR_MS)
    await is_blocked(place, body, expected=expected, found=found)


async def test_a_race_that_was_won_by_a_part_that_is_gone_blocks_its_run(place: Place) -> None:
    """Row 79."""
    quick = Calls("quick")

    async def racing(ctx: Context, parts: int) -> Any:  # noqa: ANN401 - what won
        last = parts - 1
        waits = [ctx.wait_signal(f"go{n}") for n in range(last)]
        won = await ctx.race(*waits, ctx.step(quick.task, last) if last == 2 else ctx.wait_signal("no"))
        await ctx.sleep("1h")
        return won

    await parked(place, lambda ctx: racing(ctx, 3))
    assert quick.calls == [2]
    await is_blocked_when_woken(place, lambda ctx: racing(ctx, 2), expected="step race#1/2/quick#1", found="")
    await goes_on(place, lambda ctx: racing(ctx, 3), 2)
    assert quick.calls == [2]


async def test_a_part_more_than_is_recorded_fits(place: Place) -> None:
    """Row 79: it has its own keys."""
    code = Parallel()
    await parked(place, code.written)
    place.clock.advance(HOUR_MS)

    async def with_more(ctx: Context) -> list[Any]:
        return await ctx.gather(*[code.as_written(ctx, n) for n in range(3)], ctx.step(code.other.task, 9))

    function = deployed(with_more)
    async with place.engine(function) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == [0, -1, -2, 9]
    assert code.other.calls == [9]


async def test_a_change_that_one_part_meets_stops_what_runs_in_the_others(place: Place) -> None:
    """Row 79: that runs again when the code is mended, as after any crash."""
    code, gate = Parallel(), Gate()

    async def written(ctx: Context) -> list[Any]:
        async def other_part() -> Any:  # noqa: ANN401 - what it gives
            await ctx.wait_signal("go")
            return await ctx.step(gate.task, 1)

        return await ctx.gather(other_part(), code.as_written(ctx, 1))

    async def changed(ctx: Context) -> list[Any]:
        async def other_part() -> Any:  # noqa: ANN401 - what it gives
            await ctx.wait_signal("go")
            return await ctx.step(gate.task, 1)

        async def late() -> None:
            await until(lambda: gate.calls)
            await ctx.step(code.other.task, 1)

        return await ctx.gather(other_part(), late())

    await parked(place, written)
    async with place.engine() as engine:
        await (await engine.get("order-1")).signal("go")
    await is_blocked(place, changed, expected="step gather#1/1/work#1", found="step gather#1/1/other#1")
    assert (gate.calls, gate.stops, code.other.calls) == ([1], 1, [])
    gate.open()
    place.clock.advance(HOUR_MS)
    await goes_on(place, written, [1, -1])
    assert gate.calls == [1, 1]


async def test_a_change_in_one_branch_of_a_graph_blocks_the_run_and_keeps_the_other(place: Place) -> None:
    """Row 79."""
    gate, names = Gate(), ["first", "renamed"]

    def flow(name: str) -> Flow:
        async def left(ctx: Context, x: int) -> int:
            await ctx.step(keep, x, name=name)
            await ctx.sleep("1h")
            return x

        async def right(ctx: Context, x: int) -> int:
            await ctx.sleep("1h")
            return await ctx.step(gate.task, x)

        return Flow("order").fork().branch(left).branch(right).join(keep)

    async with place.engine(flow(names[0])) as engine:
        await engine.start("order", 1, id="order-1")
        await until_parked(engine, "order-1")
    place.clock.advance(HOUR_MS)
    gate.open()
    async with place.engine(flow(names[1])) as engine:
        await until_status(await engine.get("order-1"), "blocked")
        assert "expected step first#1" in (await blocked_entry(engine)).detail
    async with place.engine(flow(names[0])) as engine:
        assert await driving(engine).resume("order-1") == {"left": 1, "right": 1}


async def blocked_entry(engine: AsyncEngine) -> RunBlocked:
    found = (await entries(await engine.get("order-1")))[-1]
    assert isinstance(found, RunBlocked)
    return found


async def test_a_step_that_failed_is_as_recorded_as_one_that_did_not(place: Place) -> None:
    """Row 79."""
    flaky = Calls("flaky", failures=9)

    async def written(ctx: Context) -> str:
        try:
            await ctx.step(flaky.task, 1)
        except StepError:
            await ctx.sleep("1h")
        return "mended"

    async def without(ctx: Context) -> None:
        await ctx.sleep("1h")

    await parked(place, written)
    await is_blocked_when_woken(place, without, expected="step flaky#1", found="sleep sleep#1")
    await goes_on(place, written, "mended")
    assert flaky.calls == [1]


# Code that says how it has changed.


class Patched:
    """A function with one step more than it had, before or after a sleep."""

    def __init__(self) -> None:
        self.calls = Calls("work")

    async def old(self, ctx: Context) -> list[str]:
        said = [await ctx.step(self.calls.task, "first")]
        await ctx.sleep("1h")
        return [*said, await ctx.step(self.calls.task, "last")]

    async def new(self, ctx: Context) -> list[str]:
        said = [await ctx.step(self.calls.task, "first")]
        if ctx.patched("check"):
            said.append(await ctx.step(self.calls.task, "before", name="check"))
        await ctx.sleep("1h")
        if ctx.patched("check"):
            said.append("checked")
        return [*said, await ctx.step(self.calls.task, "last")]

    async def patched_later(self, ctx: Context) -> list[str]:
        said = [await ctx.step(self.calls.task, "first")]
        await ctx.sleep("1h")
        if ctx.patched("check"):
            said.append(await ctx.step(self.calls.task, "after", name="check"))
            await ctx.sleep("1h")
        if ctx.patched("check"):
            said.append("checked")
        return [*said, await ctx.step(self.calls.task, "last")]

    async def finished(self, ctx: Context) -> list[str]:
        said = [await ctx.step(self.calls.task, "first")]
        said.append(await ctx.step(self.calls.task, "before", name="check"))
        await ctx.sleep("1h")
        return [*said, "checked", await ctx.step(self.calls.task, "last")]


async def woken(place: Place, body: Part) -> Any:  # noqa: ANN401 - the output
    place.clock.advance(HOUR_MS)
    function = deployed(body)
    async with place.engine(function) as engine:
        return await (await engine.get("order-1")).result(PATIENCE_S)


async def test_a_run_that_had_gone_past_a_patch_takes_the_old_way_all_along(place: Place) -> None:
    """Row 79: also where the patch is asked about later."""
    code = Patched()
    await parked(place, code.old)
    assert await woken(place, code.new) == ["first", "last"]


async def test_a_run_that_begins_with_a_patch_takes_the_new_way_in_each_life(place: Place) -> None:
    """Row 79."""
    code = Patched()
    await parked(place, code.new)
    assert await woken(place, code.new) == ["first", "before", "checked", "last"]
    async with place.engine() as engine:
        handle = await engine.get("order-1")
        patches = [e.key for e in await entries(handle) if getattr(e, "kind", "") == "patch"]
        assert patches == ["patched:check"]


async def test_a_run_that_comes_to_a_patch_takes_the_new_way(place: Place) -> None:
    """Row 79: it had not gone past it."""
    code = Patched()
    await parked(place, code.old)
    place.clock.advance(HOUR_MS)
    function = deployed(code.patched_later)
    async with place.engine(function) as engine:
        handle = await engine.get("order-1")
        await until(lambda: len(code.calls.calls) == 2)
        await until_parked(engine, "order-1")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == ["first", "after", "checked", "last"]


async def test_a_patch_that_is_asked_about_no_more_does_not_disturb(place: Place) -> None:
    """Row 79: when no run takes the old way any more, the code may forget it."""
    code = Patched()
    await parked(place, code.new)
    assert await woken(place, code.finished) == ["first", "before", "checked", "last"]


async def test_a_patch_at_the_very_beginning_tells_old_runs_from_new_ones(place: Place) -> None:
    """Row 79."""

    async def old(ctx: Context) -> str:
        await ctx.sleep("1h")
        return "old"

    async def new(ctx: Context) -> str:
        way = "new" if ctx.patched("way") else "old"
        await ctx.sleep("1h")
        assert ctx.patched("way") is (way == "new")
        return way

    await parked(place, old)
    assert await woken(place, new) == "old"
    function = deployed(new)
    async with place.engine(function) as engine:
        handle = await engine.start(function, id="order-2")
        await until_parked(engine, "order-2")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "new"


async def test_patches_are_told_apart_by_name(place: Place) -> None:
    """Row 79."""

    async def old(ctx: Context) -> list[bool]:
        first = ctx.patched("first")
        await ctx.sleep("1h")
        return [first]

    async def new(ctx: Context) -> list[bool]:
        said = [ctx.patched("first"), ctx.patched("second")]
        await ctx.sleep("1h")
        return [*said, ctx.patched("third")]

    await parked(place, old)
    assert await woken(place, new) == [True, False, True]


async def test_a_patch_in_parallel_work_has_one_answer(place: Place) -> None:
    """Row 79."""

    async def old(ctx: Context) -> list[Any]:
        async def part(n: int) -> Any:  # noqa: ANN401 - the item
            await ctx.sleep(f"{n + 1}h")
            return await ctx.step(keep, n)

        return await ctx.gather(part(0), part(1))

    async def new(ctx: Context) -> list[Any]:
        async def part(n: int) -> list[Any]:
            before = ctx.patched("parts")
            await ctx.sleep(f"{n + 1}h")
            return [before, ctx.patched("parts"), await ctx.step(keep, n)]

        return await ctx.gather(part(0), part(1))

    await parked(place, old)
    function = deployed(new)
    async with place.engine(function) as engine:
        handle = await engine.get("order-1")
        await engine.start(function, id="order-2")
        await until_parked(engine, "order-2")
        for n in range(2):
            place.clock.advance(HOUR_MS)
            await until(lambda n=n: has(handle, f"gather#1/{n}/keep#1"))
        assert await handle.result(PATIENCE_S) == [[False, False, 0], [False, False, 1]]
        new_one = await engine.get("order-2")
        assert await new_one.result(PATIENCE_S) == [[True, True, 0], [True, True, 1]]


async def has(handle: AsyncHandle, key: str) -> bool:
    return key in await keys(handle)


async def test_a_function_that_fails_with_a_patch_keeps_its_answer(place: Place) -> None:
    """Rows 79 and 80: a retry of the run does not make it another way."""
    answers: list[bool] = []
    flaky = Calls("flaky", failures=1)

    async def body(ctx: Context) -> str:
        answers.append(ctx.patched("way"))
        await ctx.step(flaky.task, 1)
        return "done"

    function = deployed(body)
    async with place.engine(function) as engine:
        handle = await engine.start(function)
        with pytest.raises(TaskError):
            await handle.result(PATIENCE_S)
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == "done"
    assert answers == [True, True]
