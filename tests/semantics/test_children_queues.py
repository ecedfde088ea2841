"""Row 56: a child in a queue of its own is for workers that serve it."""

from collections.abc import Sequence
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, arun, workflow
from holdfast.errors import RunWaitingError, UsageError
from holdfast.stores.memory import MemoryStore
from holdfast.testing import TestEngine, acrash_everywhere
from holdfast.testing.clock import VirtualClock
from tests.semantics.flows import Calls
from tests.semantics.places import PATIENCE_S, Place, kinds, row, until, until_parked, until_status

BOTH = ["default", "gpu"]


@workflow
async def double(ctx: Context, x: int) -> int:
    return 2 * await ctx.step(abs, x)


@workflow(children=[double])
async def order(ctx: Context, x: int) -> int:
    return await ctx.child(double, x, queue="gpu") + 1


async def child_of(engine: AsyncEngine, handle: AsyncHandle) -> AsyncHandle:
    """Its only child, once that is there."""

    async def is_there() -> bool:
        return any(each.child for each in (await handle.status()).waiting)

    await until(is_there)
    run_id = next(each.child for each in (await handle.status()).waiting)
    assert run_id is not None
    return await engine.get(run_id)


async def test_a_child_is_driven_by_workers_of_its_queue_and_its_parent_by_its_own(place: Place) -> None:
    async with place.engine(order) as engine:
        handle = await engine.start(order, -3, id="order-1")
        child = await child_of(engine, handle)
        await until_parked(engine, handle.id)
        assert ((await row(engine, child.id)).queue, (await row(engine, handle.id)).queue) == ("gpu", "default")
    async with place.engine(order, queues=["gpu"]) as engine:
        await until_status(await engine.get(child.id), "completed")
        assert (await row(engine, handle.id)).status == "suspended"
    async with place.engine(order) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 7


async def test_one_worker_may_serve_several_queues(place: Place) -> None:
    async with place.engine(order, queues=BOTH) as engine:
        assert await (await engine.start(order, 4)).result(PATIENCE_S) == 9


async def test_who_serves_another_queue_leaves_the_run_to_others(place: Place) -> None:
    """Also a run that it starts itself: nobody here holds it."""
    async with place.engine(order, queues=["gpu"]) as engine:
        handle = await engine.start(order, 4, id="order-1")
        await engine.start(double, 1, id="order-2")
        record = await row(engine, handle.id)
        assert (record.status, record.worker, await kinds(handle)) == ("pending", None, ["RunStarted"])
    async with place.engine(order, queues=BOTH) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 9
        assert await (await engine.get("order-2")).result(PATIENCE_S) == 2


async def test_a_child_of_a_child_is_in_the_queue_of_that(place: Place) -> None:
    """Unless it has one of its own."""

    @workflow(children=[order, double])
    async def shop(ctx: Context, x: int) -> list[str]:
        await ctx.child(inner, x, queue="cpu", name="inner")
        return []

    @workflow(children=[double])
    async def inner(ctx: Context, x: int) -> int:
        await ctx.child(double, x, queue="gpu", name="given")
        await ctx.child(double, x, detach=True, name="detached")
        return int(await ctx.child(double, x, name="kept"))

    async with place.engine(shop, inner, queues=[*BOTH, "cpu"]) as engine:
        assert await (await engine.start(shop, 1)).result(PATIENCE_S) == []
        runs = [await row(engine, each.id) for each in await engine.list()]
        found = sorted((record.workflow, record.queue) for record in runs)
        assert found == [
            ("double", "cpu"),
            ("double", "cpu"),
            ("double", "gpu"),
            ("inner", "cpu"),
            ("shop", "default"),
        ]


async def test_a_run_stays_in_its_queue_when_it_begins_anew_and_when_it_is_restarted(place: Place) -> None:
    rounds = Calls()

    @workflow
    async def again(ctx: Context, x: int) -> int:
        await ctx.step(rounds.task, x)
        if x < 2:
            await ctx.continue_as_new(x + 1)
        return x

    @workflow(children=[again])
    async def parent(ctx: Context) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(again, 0, queue="gpu")

    async with place.engine(parent) as engine:
        handle = await engine.start(parent, id="order-1")
        child = await child_of(engine, handle)
    async with place.engine(parent, queues=["gpu"]) as engine:
        await until_status(await engine.get(child.id), "completed")
        record = await row(engine, child.id)
        assert (record.incarnation, record.queue, rounds.calls) == (3, "gpu", [0, 1, 2])
        restarted = await engine.start(again, 2, id=child.id, on_conflict="restart")
        assert await restarted.result(PATIENCE_S) == 2
        assert (await row(engine, child.id)).queue == "gpu"


async def test_a_run_of_a_queue_says_so_while_nobody_takes_it(place: Place) -> None:
    async with place.engine(order) as engine:
        handle = await engine.start(order, 1)
        child = await child_of(engine, handle)
        await until_parked(engine, handle.id)
        found = await child.explain()
        assert found.reason in {"due", "no_worker"}
        assert "queue 'gpu'" in found.detail + found.action
        assert (await handle.explain()).child == child.id


@pytest.mark.parametrize("queue", ["", "x" * 256, "a\nb", 5])
async def test_a_child_cannot_be_in_a_queue_without_a_name(place: Place, queue: Any) -> None:  # noqa: ANN401
    """Nothing is recorded of it."""

    @workflow(children=[double])
    async def wrong(ctx: Context, x: int) -> str:
        try:
            await ctx.child(double, x, queue=queue)
        except UsageError as error:
            return str(error)
        return "started"

    async with place.engine(wrong) as engine:
        handle = await engine.start(wrong, 1)
        assert "queue" in await handle.result(PATIENCE_S)
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]


@pytest.mark.parametrize("queues", [[], "gpu", [""], ["ok", 5]])
def test_an_engine_needs_names_of_queues(queues: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="queue"):
        AsyncEngine("memory://", queues=queues)


async def test_a_test_engine_serves_queues_like_any_other() -> None:
    async with TestEngine(workflows=[order], queues=BOTH) as env:
        assert await env.run(order, 4) == 9
    async with TestEngine(workflows=[order]) as env:
        with pytest.raises(RunWaitingError, match="which is pending"):
            await env.run(order, 4)


async def test_a_run_that_nobody_outside_knows_of_drives_all_its_children() -> None:
    assert await arun(order, 4) == 9


async def test_a_crash_at_any_commit_changes_nothing() -> None:
    report = await acrash_everywhere(order, -4, queues=BOTH)
    report.assert_safe(idempotent={"abs"})


def test_a_blocking_engine_serves_queues(place: Place) -> None:
    with place.blocking(order, queues=BOTH, store=MemoryStore(VirtualClock())) as engine:
        assert engine.start(order, 4).result(PATIENCE_S) == 9
