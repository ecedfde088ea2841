"""Rows 28 and 75: a part that loses gives back the signal that it had just received, so that none is lost."""

import contextlib
from typing import Any

import pytest

from holdfast import AsyncHandle, Context, workflow
from holdfast.core.entries import OperationBegun, OperationCompleted, ScopesClosed
from holdfast.errors import StepError
from holdfast.testing import acrash_everywhere
from tests.semantics.flows import HOUR_MS, Calls, Gate
from tests.semantics.places import PATIENCE_S, Place, entries, until, until_parked


async def send(handle: AsyncHandle, *names: str) -> None:
    for number, name in enumerate(names):
        await handle.signal(name, f"{name}{number}", id=f"id-{number}")


async def taken_at_once(handle: AsyncHandle) -> list[str]:
    """Keys of waits that are received before any parallel work was closed."""
    recorded = await entries(handle)
    closed = next(n for n, entry in enumerate(recorded) if isinstance(entry, ScopesClosed))
    return [e.key for e in recorded[:closed] if isinstance(e, OperationCompleted) and e.kind == "wait_signal"]


@pytest.mark.parametrize(
    ("raced", "after", "sent", "given"),
    [
        ("ab", "b", "ba", ["a1", "b0"]),
        ("aa", "aa", "aaa", ["a0", "a1", "a2"]),  # row 28: first in first out
    ],
)
async def test_of_the_signals_that_are_there_a_race_takes_one(
    place: Place, raced: str, after: str, sent: str, given: list[str]
) -> None:
    """The others are there for whoever waits for them next, in their order, as if nobody had received them."""
    gate = Gate()

    @workflow
    async def order(ctx: Context) -> list[str]:
        await ctx.step(gate.task, 1)
        first = await ctx.race(*[ctx.wait_signal(name) for name in raced])
        return [first, *[await ctx.wait_signal(name, timeout="10s") for name in after]]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await send(handle, *sent)
        gate.open()
        assert await handle.result(PATIENCE_S) == given
        assert (await handle.status()).undelivered == []


async def test_a_signal_that_nobody_waits_for_any_more_is_undelivered(place: Place) -> None:
    """With the id and the time that it was sent with, also after the end of the run."""
    gate = Gate()

    @workflow
    async def order(ctx: Context) -> str:
        await ctx.step(gate.task, 1)
        return str(await ctx.race(ctx.wait_signal("a"), ctx.wait_signal("b")))

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await send(handle, "a", "b")
        before = (await handle.status()).undelivered
        gate.open()
        assert await handle.result(PATIENCE_S) == "a0"
        assert (await handle.status()).undelivered == before[1:]
        assert [(each.name, each.id, each.payload) for each in before[1:]] == [("b", "id-1", "b1")]


@pytest.mark.embedded
async def test_a_sleep_that_wins_leaves_the_signal(place: Place) -> None:
    """Both are there when the run is taken up again; which one wins does not matter to the signal."""

    @workflow
    async def order(ctx: Context) -> list[Any]:
        first = await ctx.race(ctx.sleep("1h"), ctx.wait_signal("a"))
        return [first, await ctx.wait_signal("a", timeout="10s")]

    async with place.engine(order) as engine:
        handle = await engine.start(order, id="order-1")
        await until_parked(engine, handle.id)
    async with place.engine(order, worker=False) as client:
        handle = await client.get("order-1")
        place.clock.advance(HOUR_MS + 1)
        await send(handle, "a")
    async with place.engine(order) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == [None, "a0"]
        assert await taken_at_once(handle) == ["race#1/1/a#1"]


async def test_a_part_that_had_gone_on_has_used_its_signal_up(place: Place) -> None:
    """Row 75: what it did with it is dropped with the part."""
    gate, work = Gate(), Calls()

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def answer() -> str:
            said = await ctx.wait_signal("a")
            await ctx.step(work.task, said)
            return str(await ctx.wait_signal("never"))

        first = await ctx.race(answer(), ctx.step(gate.task, 1))
        return [first, await ctx.wait_signal("b", timeout="10s")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await send(handle, "a", "b")
        await until(lambda: waits_for(handle, "race#1/0/never#1"))
        gate.open()
        assert await handle.result(PATIENCE_S) == [1, "b1"]
        assert (await handle.status()).undelivered == []
    assert work.calls == ["a0"]


async def waits_for(handle: AsyncHandle, key: str) -> bool:
    return any(isinstance(entry, OperationBegun) and entry.key == key for entry in await entries(handle))


async def test_parts_of_parts_and_of_a_gather_that_fails_give_back_too(place: Place) -> None:
    gate = Gate()

    async def refuse(_: int) -> None:
        await gate.task.fn(1)
        raise ValueError("no")

    @workflow
    async def order(ctx: Context) -> list[Any]:
        async def both() -> list[Any]:
            return await ctx.gather(ctx.wait_signal("a"), ctx.wait_signal("b"), ctx.wait_signal("c"))

        with contextlib.suppress(StepError):
            await ctx.gather(both(), ctx.step(refuse, 1))
        return [await ctx.wait_signal(name, timeout="10s") for name in ("b", "a")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await gate.until_called()
        await send(handle, "b", "a")
        await until(lambda: received(handle, 2))
        gate.open()
        assert await handle.result(PATIENCE_S) == ["b0", "a1"]


async def received(handle: AsyncHandle, count: int) -> bool:
    done = [e for e in await entries(handle) if isinstance(e, OperationCompleted) and e.kind == "wait_signal"]
    return len(done) == count


async def test_a_run_that_begins_anew_has_it(place: Place) -> None:
    """Row 81."""
    gate = Gate()

    @workflow
    async def order(ctx: Context, got: list[str]) -> list[str]:
        await ctx.step(gate.task, len(got))
        if len(got) == 4:
            return got
        first = await ctx.race(ctx.wait_signal("a"), ctx.wait_signal("a"), ctx.wait_signal("b"))
        await ctx.continue_as_new([*got, first])
        return got

    async with place.engine(order) as engine:
        handle = await engine.start(order, [])
        await gate.until_called()
        await send(handle, "b", "a", "a", "a")
        gate.open()
        assert await handle.result(PATIENCE_S) == ["a1", "a2", "a3", "b0"]


@pytest.mark.embedded
async def test_a_crash_at_any_commit_loses_none_either(place: Place) -> None:
    del place

    @workflow
    async def order(ctx: Context) -> list[Any]:
        first = await ctx.race(ctx.sleep("1h"), ctx.wait_signal("a"), ctx.wait_signal("b"))
        return [first, *[await ctx.wait_signal(name) for name in ("a", "b", "a")]]

    report = await acrash_everywhere(order, signals=[("b", 0, "1h"), ("a", 1, "1h"), ("a", 2, "1h")])
    report.assert_safe(idempotent={"order"})
