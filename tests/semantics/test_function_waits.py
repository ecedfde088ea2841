"""Rows 74 and 78: what a durable function waits for, and how it is put away and woken meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, Engine, Flow, Retry, Step, arun, task, workflow
from holdfast.core.entries import OperationBegun, OperationCompleted, OperationFailed, StepSuspended
from holdfast.errors import (
    CodecError,
    RunStateError,
    RunWaitingError,
    SignalTimeoutError,
    StepError,
    TaskError,
)
from holdfast.stores.records import Member
from holdfast.testing.faults import Fault, FaultyStore
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    ms,
    row,
    stolen_from,
    store_of,
    until,
    until_branch,
    until_parked,
    until_status,
)


@dataclass(frozen=True)
class Approval:
    by: str
    ok: bool


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def stamp(handle: AsyncHandle, kind: type[object]) -> int:
    """When the last entry of a kind was recorded, in ms of the store's clock."""
    return next(ms(e.at) for e in reversed(await handle.journal()) if type(e.entry) is kind)


class Nap:
    """A function that works, sleeps an hour, and works again."""

    def __init__(self) -> None:
        self.lives = 0
        self.before, self.after = Calls("before"), Calls("after")

        @workflow
        async def order(ctx: Context, x: int = 1) -> int:
            self.lives += 1
            await ctx.step(self.before.task, x)
            await ctx.sleep("1h")
            return await ctx.step(self.after.task, x)

        self.function = order

    @property
    def calls(self) -> tuple[int, int, int]:
        return self.lives, len(self.before.calls), len(self.after.calls)


# Sleeping.


async def test_a_function_that_sleeps_for_long_is_put_away_and_woken(place: Place) -> None:
    """Rows 34, 74 and 78."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        handle = await engine.start(nap.function, 1)
        await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        assert (found.status, found.worker) == ("suspended", None)
        assert found.due_at_ms == await stamp(handle, OperationBegun) + HOUR_MS
        assert nap.calls == (1, 1, 0)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
        recorded = ["RunStarted", "OperationCompleted", "OperationBegun", "StepSuspended"]
        assert await kinds(handle) == [
            *recorded,
            *["OperationCompleted"] * 2,
            "StepCompleted",
            "RunCompleted",
        ]
        assert (await row(engine, handle.id)).recoveries == 0
    assert nap.calls == (2, 1, 1)


async def test_a_sleep_that_ended_while_nobody_was_there_is_over(place: Place) -> None:
    """Rows 34 and 74."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        await until_parked(engine, (await engine.start(nap.function, 1, id="order-1")).id)
    place.clock.advance(DAY_MS)
    async with place.engine(nap.function) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1
    assert nap.calls == (2, 1, 1)


async def test_a_sleep_is_not_shortened_by_another_life_of_the_function(place: Place) -> None:
    """Row 74, and invariant 24."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        handle = await engine.start(nap.function, 1, id="order-1")
        await until_parked(engine, handle.id)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        place.clock.advance(HOUR_MS // 2)
    async with place.engine(nap.function) as engine:
        assert (await row(engine, "order-1")).due_at_ms == due_at_ms
        handle = await engine.get("order-1")
        place.clock.advance(HOUR_MS // 2)
        await handle.result(PATIENCE_S)
        slept = next(e for e in await handle.journal() if getattr(e.entry, "kind", "") == "sleep")
        ended = [e for e in await handle.journal() if getattr(e.entry, "kind", "") == "sleep"][-1]
        assert ms(ended.at) - ms(slept.at) >= HOUR_MS


async def test_a_short_sleep_is_waited_for_where_the_function_is(place: Place) -> None:
    """Rows 63 and 78: it need not be put away, and takes no slot."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> None:
        lives.append(1)
        await ctx.sleep("1s")
        await ctx.sleep("1ms")

    @workflow
    async def other(ctx: Context) -> int:
        return await ctx.step(keep, 2)

    async with place.engine(order, other, concurrency=1) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#1"))
        assert await (await engine.start(other)).result(PATIENCE_S) == 2
        assert await kinds(handle) == ["RunStarted", "OperationBegun"]
        place.clock.advance(1_000)
        await handle.result(PATIENCE_S)
        recorded = [*["OperationBegun", "OperationCompleted"] * 2, "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == ["RunStarted", *recorded]
        begun, ended = (e for e in await handle.journal() if getattr(e.entry, "key", "") == "sleep#1")
        assert ms(ended.at) - ms(begun.at) >= 1_000
    assert lives == [1]


@pytest.mark.parametrize("duration", [0, "0s", "1ms"])
async def test_a_sleep_of_next_to_nothing_passes(place: Place, duration: Any) -> None:  # noqa: ANN401 - a duration
    """Row 74."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> None:
        lives.append(1)
        for _ in range(3):
            await ctx.sleep(duration)

    async with place.engine(order) as engine:
        await (await engine.start(order)).result(PATIENCE_S)
    assert lives == [1]


async def test_a_function_may_sleep_until_a_moment(place: Place) -> None:
    """Rows 30 and 74: one that has passed does not wait, and a pause moves none."""
    moment = datetime.fromtimestamp((place.clock.wall_ms() + HOUR_MS) // 1_000, tz=UTC)

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.sleep(until=datetime(2020, 1, 1, tzinfo=UTC))
        await ctx.sleep(until=moment, name="dawn")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == ms(moment)
        await handle.pause()
        place.clock.advance(HOUR_MS // 2)
        await handle.unpause()
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == ms(moment)
        place.clock.advance(HOUR_MS // 2 + 1_000)
        await handle.result(PATIENCE_S)


async def test_a_function_may_sleep_for_a_hundred_years(place: Place) -> None:
    """Invariant 28."""

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.sleep("36500d")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        assert due_at_ms == await stamp(handle, OperationBegun) + 36_500 * DAY_MS


async def test_many_sleeps_make_many_lives_and_one_of_each_step(place: Place) -> None:
    """Row 78."""
    work = Calls()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> int:
        lives.append(1)
        for n in range(4):
            await ctx.step(work.task, n)
            await ctx.sleep("1h")
        return await ctx.step(work.task, 4)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        for n in range(4):
            await until(lambda n=n: len(work.calls) == n + 1)
            await until_parked(engine, handle.id)
            place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 4
        assert (await kinds(handle)).count("StepSuspended") == 4
    assert (len(lives), work.calls) == (5, [0, 1, 2, 3, 4])


# Signals.


async def test_a_function_gets_the_signals_of_a_name_in_their_order(place: Place) -> None:
    """Rows 28 and 74: each once, whether it came before or after somebody waits."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        lives.append(1)
        first = [await ctx.wait_signal("item"), await ctx.wait_signal("item")]
        await ctx.sleep("1h")
        return [*first, await ctx.wait_signal("other"), await ctx.wait_signal("item")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await handle.signal("other", "o")
        await handle.signal("item", 1)
        await handle.signal("item", {"n": 2})
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        assert [s.name for s in (await handle.status()).undelivered] == ["other"]
        place.clock.advance(HOUR_MS)
        await until(lambda: has(handle, "item#3"))
        await until_parked(engine, handle.id)
        await handle.signal("item", None)
        await handle.signal("item", "too many")
        assert await handle.result(PATIENCE_S) == [1, {"n": 2}, "o", None]
        assert [s.payload for s in (await handle.status()).undelivered] == ["too many"]
        taken = [e for e in await entries(handle) if isinstance(e, OperationCompleted) and e.seq]
        assert len({e.seq for e in taken}) == 4


async def has(handle: AsyncHandle, key: str) -> bool:
    """Whether an operation is in the journal."""
    return any(getattr(entry, "key", "") == key for entry in await entries(handle))


async def test_a_function_that_waits_for_a_signal_is_put_away_and_woken_by_it(place: Place) -> None:
    """Rows 34, 74 and 78."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        lives.append(1)
        return await ctx.wait_signal("go")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        assert (found.status, found.worker, found.due_at_ms) == ("suspended", None, None)
        await handle.signal("go", [1])
        assert await handle.result(PATIENCE_S) == [1]
        recorded = ["RunStarted", "OperationBegun", "StepSuspended", "OperationCompleted"]
        assert await kinds(handle) == [*recorded, "StepCompleted", "RunCompleted"]
    assert lives == [1, 1]


async def test_a_signal_that_is_there_already_does_not_put_the_function_away(place: Place) -> None:
    """Rows 74 and 78."""
    gate = Gate()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        lives.append(1)
        await ctx.step(gate.task, 1)
        return await ctx.wait_signal("go")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await handle.signal("go", "now")
        gate.open()
        assert await handle.result(PATIENCE_S) == "now"
        assert "StepSuspended" not in await kinds(handle)
    assert (lives, gate.calls) == ([1], [1])


async def test_a_payload_is_decoded_as_the_function_says(place: Place) -> None:
    """Row 74."""
    seen: list[Any] = []

    @workflow
    async def order(ctx: Context) -> None:
        seen.append(await ctx.wait_signal("approval", type=Approval))
        try:
            await ctx.wait_signal("approval", type=Approval)
        except CodecError:
            seen.append("refused")
        await ctx.sleep("1h")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await handle.signal("approval", Approval("ada", ok=True))
        await handle.signal("approval", "yes")
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await handle.result(PATIENCE_S)
    assert seen[-2:] == [Approval("ada", ok=True), "refused"]


async def test_a_wait_without_its_signal_times_out(place: Place) -> None:
    """Rows 29 and 74: recorded, and the same whenever the function runs."""
    caught: list[SignalTimeoutError] = []

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.wait_signal("go", timeout="1h")
        except SignalTimeoutError as error:
            caught.append(error)
        await ctx.sleep("1h")
        return "gone on"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == await stamp(handle, OperationBegun) + HOUR_MS
        place.clock.advance(HOUR_MS)
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        await handle.signal("go", "too late")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "gone on"
        assert [s.payload for s in (await handle.status()).undelivered] == ["too late"]
        timed_out = [e for e in await entries(handle) if isinstance(e, OperationFailed)]
        assert [e.failure.type for e in timed_out] == ["timeout"]
    assert len(caught) == 2
    for error in caught:
        assert isinstance(error, TimeoutError)
        assert error.is_a(TimeoutError)
        assert (error.operation, error.kind) == ("go#1", "timeout")
        assert "go" in str(error)


async def test_a_time_out_that_the_function_lets_pass_is_its_own(place: Place) -> None:
    """Row 74."""

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.wait_signal("go", timeout="10ms")

    async with place.engine(order) as engine:
        error = await failed(await engine.start(order))
        assert (error.failure.type, error.failure.step) == ("timeout", "order")


async def test_a_signal_in_time_ends_the_clock(place: Place) -> None:
    """Row 74, and invariant 23."""

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        said = await ctx.wait_signal("go", timeout="1h")
        await ctx.sleep("2h")
        return said

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        await handle.signal("go", 1)
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(2 * HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
        assert "OperationFailed" not in await kinds(handle)


async def test_a_signal_that_is_there_wins_over_a_deadline_that_has_passed(place: Place) -> None:
    """Rows 29 and 74: while nobody drives the run."""

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        return await ctx.wait_signal("go", timeout="1h")

    async with place.engine(order) as engine:
        await until_parked(engine, (await engine.start(order, id="order-1")).id)
    async with place.engine() as engine:
        await (await engine.get("order-1")).signal("go", "in time")
    place.clock.advance(2 * HOUR_MS)
    async with place.engine(order) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == "in time"


async def test_who_waits_longest_for_a_signal_gets_it(place: Place) -> None:
    """Rows 29 and 74: of the parallel parts of a function."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.wait_signal("item"), ctx.wait_signal("item"), ctx.wait_signal("other"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        for n in range(2):
            await handle.signal("item", n)
        await handle.signal("other", "o")
        assert await handle.result(PATIENCE_S) == [0, 1, "o"]


async def test_a_run_that_only_waits_for_signals_is_given_up_in_memory() -> None:
    """Row 50."""

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.step(keep, 1)
        await ctx.wait_signal("go")

    with pytest.raises(RunWaitingError) as caught:
        await arun(order)
    assert "go" in str(caught.value)


# Being put away: what the function sees of it.


async def test_finally_and_async_with_see_that_the_function_is_put_away(place: Place) -> None:
    """Row 78: in each life; what is asked for there is not done before the function really ends."""
    seen: list[str] = []
    undo = Calls("undo")

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        seen.append("open")
        try:
            yield
        finally:
            seen.append("close")

    @workflow
    async def order(ctx: Context) -> None:
        try:
            async with opened():
                await ctx.sleep("1h")
                seen.append("woken")
        finally:
            await ctx.step(undo.task, 1)
            seen.append("undone")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert (seen, undo.calls) == (["open", "close"], [])
        place.clock.advance(HOUR_MS)
        await handle.result(PATIENCE_S)
    assert seen == ["open", "close", "open", "woken", "close", "undone"]
    assert undo.calls == [1]


async def test_except_exception_does_not_see_that_the_function_is_put_away(place: Place) -> None:
    """Row 78."""
    seen: list[Exception] = []

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.wait_signal("go")
        except Exception as error:  # noqa: BLE001 - that is the point
            seen.append(error)
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        await handle.signal("go")
        assert await handle.result(PATIENCE_S) == "done"
    assert seen == []


async def swallowing(ctx: Context) -> str:
    with contextlib.suppress(BaseException):
        await ctx.wait_signal("go")
    return "ended"


async def raising(ctx: Context) -> str:
    try:
        await ctx.wait_signal("go")
    finally:
        raise KeyError("in finally")


async def asking(ctx: Context) -> str:
    try:
        await ctx.wait_signal("go")
    except BaseException:  # noqa: BLE001 - that is the point
        await ctx.step(keep, 1)
    return "ended"


async def waiting_on(ctx: Context) -> str:
    try:
        await ctx.wait_signal("go")
    finally:
        await asyncio.sleep(0.01)
    return "ended"


@pytest.mark.parametrize("body", [swallowing, raising, asking, waiting_on])
async def test_a_function_that_does_not_let_it_pass_is_put_away_all_the_same(
    place: Place, body: Callable[[Context], Any]
) -> None:
    """Row 78: nothing of what it does then is recorded."""
    order = workflow("order")(body)
    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert await kinds(handle) == ["RunStarted", "OperationBegun", "StepSuspended"]
        assert (await row(engine, handle.id)).status == "suspended"
        await handle.signal("go")
        if body is raising:
            assert (await failed(handle)).failure.type == "KeyError"
        else:
            assert await handle.result(PATIENCE_S) == "ended"


async def test_a_function_that_waits_by_other_means_is_not_put_away(place: Place) -> None:
    """Row 78: its own code runs."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> None:
        lives.append(1)
        await ctx.step(keep, 1)
        begun.set()
        await may_end.wait()
        await ctx.step(keep, 2)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await begun.wait()
        assert (await handle.status()).status == "running"
        may_end.set()
        await handle.result(PATIENCE_S)
    assert lives == [1]


async def test_a_wait_inside_wait_for_is_cut_off_by_it(place: Place) -> None:
    """Row 78: it was asked for all the same, and is recorded."""

    @workflow
    async def order(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.05):
                await ctx.sleep("500ms")
        except TimeoutError:
            return "cut off"
        return "slept"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == "cut off"


async def test_a_step_that_the_function_cuts_off_is_cut_off_again_in_its_next_life(place: Place) -> None:
    """Row 78: it is recorded as one whose time was up, and not called again."""
    gate, fallback = Gate(), Calls("fallback")

    @workflow
    async def order(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.03):
                await ctx.step(gate.task, 1)
        except TimeoutError:
            await ctx.step(fallback.task, 1)
        await ctx.sleep("1h")
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "done"
    assert (gate.calls, gate.stops, fallback.calls) == ([1], 1, [1])


async def test_a_sleep_that_the_function_cuts_off_is_cut_off_in_its_next_life_too(place: Place) -> None:
    """Row 78: also when it would be over by then."""
    fallback = Calls("fallback")

    @workflow
    async def order(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.03):
                await ctx.sleep("500ms")
        except TimeoutError:
            await ctx.step(fallback.task, 1)
        await ctx.sleep("1h")
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#2"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "done"
    assert fallback.calls == [1]


async def test_parallel_work_that_the_function_cuts_off_is_cut_off_in_its_next_life_too(place: Place) -> None:
    """Rows 75 and 78: with all that its parts did and waited for."""
    gate, fallback = Gate(), Calls("fallback")

    @workflow
    async def order(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.03):
                await ctx.gather(ctx.step(keep, 1), ctx.step(gate.task, 1), ctx.wait_signal("go"))
        except TimeoutError:
            await ctx.step(fallback.task, 1)
        await ctx.sleep("1h")
        return str(await ctx.wait_signal("go"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        await handle.signal("go", "is not for what was cut off")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "is not for what was cut off"
    assert (gate.calls, gate.stops, fallback.calls) == ([1], 1, [1])


# Trouble.


def faults(*chosen: Fault) -> Callable[[int, Sequence[Member]], Fault]:
    """One fault after the other, then none."""

    def choose(commit: int, _group: Sequence[Member]) -> Fault:
        return chosen[commit - 1] if commit <= len(chosen) else Fault.NONE

    return choose


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.APPLY_AND_FAIL], ids=lambda fault: fault.name)
@pytest.mark.parametrize("commit", range(1, 8))
async def test_a_store_that_fails_for_a_while_fails_nothing(place: Place, fault: Fault, commit: int) -> None:
    """Row 27: whichever commit of a function it is, each step is made once."""
    work = Calls()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        first = [await ctx.step(work.task, 0), await ctx.record("two", lambda: 2)]
        both = await ctx.gather(ctx.step(work.task, 1), ctx.sleep("1ms"))
        await ctx.race(ctx.sleep("1ms"), ctx.wait_signal("never"))
        return [*first, *both, await ctx.step(work.task, ctx.random() < 2)]

    store = FaultyStore(place.store(), faults(*[Fault.NONE] * (commit - 1), fault, fault))
    async with place.engine(order, store=store) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [0, 2, 1, None, True]
        recorded = [e.key for e in await entries(handle) if isinstance(e, OperationCompleted)]
        assert len(set(recorded)) == len(recorded) == 7
    assert store.hits[fault] >= 1
    assert work.calls == [0, 1, True]


@pytest.mark.embedded
async def test_a_function_whose_run_was_taken_over_is_dropped_without_a_trace(place: Place) -> None:
    """Row 27: whatever it does then begins nothing."""
    begun, may_end, undo = asyncio.Event(), asyncio.Event(), Calls("undo")
    seen: list[str] = []

    async def slow(x: int) -> int:
        begun.set()
        await may_end.wait()
        return x

    @workflow
    async def order(ctx: Context) -> int:
        seen.append("life")
        try:
            return await ctx.step(slow, 1)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await ctx.step(undo.task, 1)
            raise

    async with place.engine(order, concurrency=1) as engine:
        handle = await engine.start(order, id="order-1")
        await begun.wait()
        stolen = await stolen_from(engine, "order-1")
        lives = seen.count("life")
        may_end.set()
        await until(lambda: "order-1" not in engine._node.worker._drivers)
        assert await kinds(handle) == ["RunStarted"]
        await store_of(engine).release([(stolen.key, stolen.epoch)])
        assert await engine.resume("order-1") == 1
        assert await kinds(handle) == ["RunStarted", "OperationCompleted", "StepCompleted", "RunCompleted"]
    assert (seen.count("life"), undo.calls) == (lives + 1, [])


async def test_a_run_that_is_restarted_stops_the_function_and_begins_a_new_one(place: Place) -> None:
    """Row 48: of the old one nothing is recorded any more."""
    gate, undo = Gate(), Calls("undo")

    @workflow
    async def order(ctx: Context, n: int) -> int:
        try:
            return await ctx.step(gate.task, n)
        except asyncio.CancelledError:
            await ctx.step(undo.task, n)
            raise

    async with place.engine(order) as engine:
        await engine.start(order, 1, id="order-1")
        await gate.until_called()
        again = await engine.start(order, 2, id="order-1", on_conflict="restart")
        await until(lambda: gate.stops == 1)
        await gate.until_called(2)
        gate.open()
        assert await again.result(PATIENCE_S) == 2
        assert await kinds(again) == ["RunStarted", "OperationCompleted", "StepCompleted", "RunCompleted"]
    assert (gate.calls, undo.calls) == ([1, 2], [])


# Pauses, cancellation, shutdown, time-outs, in the middle of a function.


async def test_a_pause_lets_the_step_end_and_the_next_one_not_begin(place: Place) -> None:
    """Rows 32 and 78."""
    gate, after = Gate(), Calls("after")
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> int:
        lives.append(1)
        await ctx.step(gate.task, 1)
        return await ctx.step(after.task, 2)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await handle.pause("stock-taking", by="ada")
        await until_status(handle, "paused")
        gate.open()
        await until(lambda: has(handle, "gate#1"))
        await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        assert (found.status, found.worker, found.due_at_ms) == ("paused", None, None)
        assert (gate.stops, after.calls) == (0, [])
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 2
        recorded = ["RunStarted", "Paused", "OperationCompleted", "Unpaused", "OperationCompleted"]
        assert await kinds(handle) == [*recorded, "StepCompleted", "RunCompleted"]
    assert (gate.calls, after.calls, lives) == ([1], [2], [1, 1])


async def test_a_pause_that_ends_before_the_step_does_is_not_noticed(place: Place) -> None:
    """Rows 32 and 78."""
    gate, after = Gate(), Calls("after")
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> int:
        lives.append(1)
        await ctx.step(gate.task, 1)
        return await ctx.step(after.task, 2)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await handle.pause()
        await until_status(handle, "paused")
        await handle.unpause()
        await until_status(handle, "running")
        gate.open()
        assert await handle.result(PATIENCE_S) == 2
    assert (gate.calls, lives) == ([1], [1])


async def test_a_pause_freezes_what_is_left_of_a_functions_sleep(place: Place) -> None:
    """Rows 32 and 74, and invariant 27: to the millisecond."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        handle = await engine.start(nap.function, 1)
        await until_parked(engine, handle.id)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        assert due_at_ms is not None
        place.clock.advance(HOUR_MS // 2)
        await handle.pause()
        assert (await row(engine, handle.id)).due_at_ms is None
        place.clock.advance(DAY_MS)
        assert (await handle.status()).status == "paused"
        await handle.unpause()
        await until_parked(engine, handle.id)
        stamps = {entry.kind: ms(entry.at) for entry in await handle.journal()}
        assert (await row(engine, handle.id)).due_at_ms == due_at_ms + stamps["Unpaused"] - stamps["Paused"]
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
    assert nap.calls == (2, 1, 1)


async def test_a_pause_that_does_not_freeze_lets_the_sleep_end_and_nothing_begin(place: Place) -> None:
    """Rows 32 and 74."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        handle = await engine.start(nap.function, 1)
        await until_parked(engine, handle.id)
        await handle.pause(freeze=False)
        place.clock.advance(HOUR_MS)
        await until(lambda: ended(handle, "sleep#1"))
        await until_parked(engine, handle.id)
        assert (await handle.status()).status == "paused"
        assert nap.calls[2] == 0
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1
    assert nap.calls[1:] == (1, 1)


async def ended(handle: AsyncHandle, key: str) -> bool:
    """Whether an operation is done."""
    done = OperationCompleted | OperationFailed
    return any(isinstance(e, done) and e.key == key for e in await entries(handle))


async def test_a_paused_function_gets_its_signal_and_goes_on_when_it_is_unpaused(place: Place) -> None:
    """Row 32."""
    after = Calls("after")

    @workflow
    async def order(ctx: Context) -> Any:  # noqa: ANN401 - the payload
        return await ctx.step(after.task, await ctx.wait_signal("go"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        await handle.pause()
        await handle.signal("go", "payload")
        await until(lambda: ended(handle, "go#1"))
        await until_parked(engine, handle.id)
        assert ((await handle.status()).status, after.calls) == ("paused", [])
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == "payload"
    assert after.calls == ["payload"]


async def test_cancelling_a_function_that_was_put_away_calls_nothing(place: Place) -> None:
    """Row 33."""
    nap = Nap()
    async with place.engine(nap.function) as engine:
        handle = await engine.start(nap.function, 1)
        await until_parked(engine, handle.id)
        await handle.cancel("no need", by="ada", wait=True)
        status = await handle.status()
        assert (status.status, status.cancel_reason, status.waiting) == ("cancelled", "no need", [])
        place.clock.advance(DAY_MS)
        await handle.cancel()
        assert (await kinds(handle))[-1] == "RunCancelled"
        with pytest.raises(RunStateError):
            await handle.signal("go")
    assert nap.calls == (1, 1, 0)


async def test_cancelling_a_function_that_runs_cancels_its_step_and_the_function(place: Place) -> None:
    """Row 33: it is told as any async body is; nothing it does then is recorded."""
    gate, undo = Gate(), Calls("undo")
    seen: list[str] = []

    @workflow
    async def order(ctx: Context) -> None:
        try:
            await ctx.step(gate.task, 1)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")
            await ctx.step(undo.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await handle.cancel(wait=True)
        await until(lambda: len(seen) == 2)
        assert await kinds(handle) == ["RunStarted", "RunCancelled"]
    assert (gate.stops, seen, undo.calls) == (1, ["cancelled", "finally"], [])


async def until_draining(engine: AsyncEngine) -> None:
    """Wait until who drives has been told to stop."""
    worker = getattr(engine, "beside", engine)._node.worker
    await until(lambda: worker.is_draining)


async def test_a_shutdown_lets_the_step_end_and_the_next_one_to_the_next_engine(place: Place) -> None:
    """Row 53."""
    begun = asyncio.Event()
    calls: list[str] = []
    engines: list[AsyncEngine] = []

    async def first() -> int:
        calls.append("first")
        begun.set()
        await until_draining(engines[0])
        return 1

    async def second() -> int:
        calls.append("second")
        return 2

    @workflow
    async def order(ctx: Context) -> int:
        calls.append("life")
        return await ctx.step(first) + await ctx.step(second)

    async with place.engine(order) as engine:
        engines.append(engine)
        await engine.start(order, id="order-1")
        await begun.wait()
    assert calls == ["life", "first"]
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == 3
        recorded = ["RunStarted", *["OperationCompleted"] * 2, "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
        assert (await row(engine, "order-1")).recoveries == 0
    assert calls == ["life", "first", "life", "second"]


async def test_a_shutdown_cancels_what_does_not_end_in_time_and_charges_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 30)
    before, gate = Calls("before"), Gate()

    @workflow
    async def order(ctx: Context) -> int:
        await ctx.step(before.task, 1)
        return await ctx.step(gate.task, 2)

    async with place.engine(order) as engine:
        await engine.start(order, id="order-1")
        await gate.until_called()
    assert (gate.calls, gate.stops) == ([2], 1)
    gate.open()
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == 2
        recorded = ["RunStarted", *["OperationCompleted"] * 2, "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
        assert (await row(engine, "order-1")).recoveries == 0
    assert (before.calls, gate.calls) == ([1], [2, 2])


async def test_a_shutdown_during_a_short_sleep_gives_the_run_back_at_once(place: Place) -> None:
    """Rows 53 and 78."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> str:
        lives.append(1)
        await ctx.sleep("900ms")
        return "slept"

    async with place.engine(order) as engine:
        handle = await engine.start(order, id="order-1")
        await until(lambda: has(handle, "sleep#1"))
    place.clock.advance(1_000)
    async with place.engine(order) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == "slept"
    assert lives == [1, 1]


@pytest.mark.parametrize("is_live", [True, False])
async def test_the_time_out_of_the_run_ends_a_function_wherever_it_is(place: Place, is_live: bool) -> None:
    """Row 24: put away, or in a step."""
    gate = Gate()

    @workflow(timeout="1h")
    async def order(ctx: Context) -> None:
        await ctx.step(keep, 1)
        if is_live:
            await ctx.step(gate.task, 1)
        await ctx.wait_signal("go")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        if is_live:
            await gate.until_called()
        else:
            await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        error = await failed(handle)
        assert error.failure.type == "timeout"
        assert (await kinds(handle))[-1] == "RunFailed"
    assert gate.stops == is_live


async def test_a_function_may_bound_an_attempt_of_its_own(place: Place) -> None:
    """Row 24: the time-out of the task bounds one life of a function of a graph."""
    gate = Gate()

    @task("order", timeout=0.05)
    async def order(ctx: Context, x: int) -> int:
        return await ctx.step(gate.task, x)

    flow = Flow("order").then(order)
    async with place.engine(flow) as engine:
        error = await failed(await engine.start(flow, 1))
        assert error.failure.type == "timeout"
    assert gate.stops == 1


async def test_the_time_out_of_a_task_does_not_count_while_its_function_is_put_away(place: Place) -> None:
    """Rows 24 and 78: it bounds the code, and not what the code waits for."""
    lives: list[int] = []

    @task("order", timeout="1m")
    async def order(ctx: Context, x: int) -> int:
        lives.append(x)
        await ctx.sleep("1h")
        return await ctx.step(keep, x)

    flow = Flow("order").then(order)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
    assert lives == [1, 1]


async def test_a_pause_during_a_short_sleep_freezes_what_is_left(place: Place) -> None:
    """Rows 32 and 78: the function is put away at once, and goes on later."""
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> str:
        lives.append(1)
        await ctx.sleep("1s")
        return "slept"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until(lambda: has(handle, "sleep#1"))
        await handle.pause()
        await until_status(handle, "paused")
        await until_parked(engine, handle.id)
        place.clock.advance(DAY_MS)
        assert not await ended(handle, "sleep#1")
        await handle.unpause()
        place.clock.advance(1_000)
        assert await handle.result(PATIENCE_S) == "slept"
    assert 1 <= len(lives) <= 3


async def test_a_delay_that_a_pause_froze_runs_on_beside_a_step_that_goes_on(place: Place) -> None:
    """Rows 32 and 78: because of that step the function is not put away, and begins the other one again."""
    gate, calls, lives = Gate(), list[int](), list[int]()
    may_fail = asyncio.Event()

    @task(retry=Retry(max_retries=1, base_delay=0.1))
    async def work(x: int) -> int:
        calls.append(x)
        if len(calls) == 1:
            await may_fail.wait()
            raise LookupError
        return x

    @workflow
    async def order(ctx: Context) -> list[int]:
        lives.append(1)
        return await ctx.gather(ctx.step(gate.task, 1), ctx.step(work, 2))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await until(lambda: len(calls) == 1)
        await handle.pause()
        await until_status(handle, "paused")
        may_fail.set()
        await until(lambda: has_kind(handle, "OperationRetried"))
        await asyncio.sleep(0.01)  # it waits for its next attempt, with a clock that stands still
        await handle.unpause()
        await until_status(handle, "running")
        await until(lambda: len(calls) == 2)
        gate.open()
        assert await handle.result(PATIENCE_S) == [1, 2]
    assert (gate.calls, calls, lives) == ([1], [2, 2], [1])


async def has_kind(handle: AsyncHandle, kind: str) -> bool:
    return kind in await kinds(handle)


async def test_a_pause_of_one_branch_stops_its_function_and_no_other(place: Place) -> None:
    """Rows 32 and 72."""
    gates, after = [Gate(f"gate{n}") for n in range(2)], Calls("after")

    async def work(ctx: Context, n: int) -> int:
        number = 0 if ctx.task.branch == "left" else 1
        await ctx.step(gates[number].task, n)
        return await ctx.step(after.task, number)

    inner = {name: [Step(name, task="work")] for name in ("left", "right")}
    flow = parallel(inner, task("work")(work))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5)
        for gate in gates:
            await gate.until_called()
        await handle.pause(branch="left")
        await until(lambda: is_paused(handle, "left"))
        for gate in gates:
            gate.open()
        await until_branch(handle, "right", "completed")
        await until_parked(engine, handle.id)
        assert after.calls == [1]
        await handle.unpause(branch="left")
        assert await handle.result(PATIENCE_S) == {"left": 0, "right": 1}
    assert [gate.calls for gate in gates] == [[5], [5]]


async def is_paused(handle: AsyncHandle, branch: str) -> bool:
    return (await handle.status()).branches[branch].pause is not None


async def test_a_sync_caller_sees_the_same(place: Place) -> None:
    """Row 72: the blocking engine drives functions too."""
    if "worker" in place.kind or place.kind == "postgres":
        pytest.skip("one blocking engine in this process")
    nap = Nap()

    def blocking() -> int:
        with place.blocking(nap.function) as engine:
            assert isinstance(engine, Engine)
            handle = engine.start(nap.function, 1)
            while (handle.status()).status != "suspended":
                pass
            place.clock.advance(HOUR_MS)
            given: int = handle.result(PATIENCE_S)
            return given

    assert await asyncio.to_thread(blocking) == 1
    assert nap.calls == (2, 1, 1)


async def test_a_retry_of_a_step_and_a_sleep_wait_side_by_side(place: Place) -> None:
    """Rows 63 and 78: the run is due when the first of them is."""
    flaky = Calls("flaky", failures=1, retry=[Retry(base_delay="1h")])

    @workflow
    async def order(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.step(flaky.task, 1), ctx.sleep("2h"), ctx.wait_signal("go", timeout="3h"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        begun_at_ms = await stamp(handle, OperationBegun)
        due_at_ms = (await row(engine, handle.id)).due_at_ms
        assert due_at_ms is not None
        assert due_at_ms < begun_at_ms + HOUR_MS + 1_000
        place.clock.advance(HOUR_MS)
        await until(lambda: ended(handle, "gather#1/0/flaky#1"))
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await until(lambda: ended(handle, "gather#1/1/sleep#1"))
        await until_parked(engine, handle.id)
        await handle.signal("go", 3)
        assert await handle.result(PATIENCE_S) == [1, None, 3]
        suspended = [e for e in await entries(handle) if isinstance(e, StepSuspended)]
        assert len(suspended) == 3
    assert flaky.calls == [1, 1]


async def test_a_step_that_runs_keeps_the_others_where_they_are(place: Place) -> None:
    """Row 78: a function is put away only when nothing of it runs."""
    gate = Gate()
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> list[Any]:
        lives.append(1)
        return await ctx.gather(ctx.step(gate.task, 1), ctx.sleep("1h"), ctx.wait_signal("go"))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await handle.signal("go", "in between")
        await until(lambda: ended(handle, "gather#1/2/go#1"))
        place.clock.advance(HOUR_MS)
        await until(lambda: ended(handle, "gather#1/1/sleep#1"))
        assert (await handle.status()).status == "running"
        gate.open()
        assert await handle.result(PATIENCE_S) == [1, None, "in between"]
        assert "StepSuspended" not in await kinds(handle)
    assert (gate.calls, lives) == ([1], [1])


async def test_a_step_that_fails_for_good_after_a_wait_fails_the_run(place: Place) -> None:
    """Rows 20 and 78."""
    flaky = Calls("flaky", failures=1)

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.sleep("1h")
        try:
            await ctx.step(flaky.task, 1)
        except StepError as error:
            raise ValueError("no way") from error

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        failure = (await failed(handle)).failure
        assert (failure.type, failure.message) == ("ValueError", "no way")
        assert failure.cause is not None
        assert failure.cause.type == "ConnectionError"
