"""Rows 35 and 49: what a status tells of a run that waits, and of one that was controlled."""

import asyncio

import pytest

from holdfast import AsyncHandle, Context, Flow, Retry, Sleep, Step, WaitSignal, workflow
from holdfast.core.entries import StepSuspended
from holdfast.errors import RunBlockedError, RunWaitingError
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    ms,
    row,
    stamps,
    until,
    until_branch,
    until_parked,
    until_status,
)


async def test_everything_that_branches_wait_for_is_told_the_dominant_first(place: Place) -> None:
    """Row 35: pauses, then signals, then timers, retries and joins; of one kind the earliest first."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=9, base_delay="10m")])
    branches = {
        "nap_2": [Step("nap_2", "sleep", sleep=Sleep.of("2h"))],
        "nap_1": [Step("nap_1", "sleep", sleep=Sleep.of("1h"))],
        "nap_3": [Step("nap_3", "sleep", sleep=Sleep.of("3h"))],
        "endless": [Step("endless", "wait_signal", wait_signal=WaitSignal.of("a"))],
        "timed": [Step("timed", "wait_signal", wait_signal=WaitSignal.of("b", timeout="9h"))],
        "flaky": [Step("flaky", task="flaky")],
        "done": [Step("done", task="keep")],
    }
    flow = parallel(branches, flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_branch(handle, "done", "completed")
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        await handle.pause(branch="nap_3")
        status = await handle.status()
        told = [(wait.branch, wait.reason, wait.signal) for wait in status.waiting]
        assert told == [
            ("nap_3", "pause", None),
            ("timed", "signal", "b"),
            ("endless", "signal", "a"),
            ("nap_1", "timer", None),
            ("nap_2", "timer", None),
            ("flaky", "backoff", None),
            ("main-8", "join", None),
        ]
        found = await stamps(handle)
        due = {wait.branch: wait.due_at and ms(wait.due_at) for wait in status.waiting}
        assert due == {
            "nap_3": None,
            "timed": found["RunStarted"] + 9 * HOUR_MS,
            "endless": None,
            "nap_1": found["RunStarted"] + HOUR_MS,
            "nap_2": found["RunStarted"] + 2 * HOUR_MS,
            "flaky": found["RetryScheduled"] + HOUR_MS // 6,
            "main-8": None,
        }
        assert (await row(engine, handle.id)).due_at_ms == found["RetryScheduled"] + HOUR_MS // 6
        since = {wait.branch: wait.since and ms(wait.since) for wait in status.waiting}
        assert since["timed"] == since["nap_1"] == since["main-8"] == found["RunStarted"]
        steps = {wait.branch: wait.step for wait in status.waiting}
        assert (steps["timed"], steps["main-8"]) == ("timed", "join")
        assert all(wait.detail for wait in status.waiting)
        join = status.waiting[-1]
        assert "nap_1" in join.detail
        assert "done" not in join.detail


async def test_a_branch_that_works_waits_for_nothing(place: Place) -> None:
    """Row 35: what is told beside it is told all the same."""
    gate = Gate()
    branches = {"gate": [Step("gate", task="gate")], "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))]}
    flow = parallel(branches, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        status = await handle.status()
        assert status.status == "running"
        assert [(wait.branch, wait.reason) for wait in status.waiting] == [("nap", "timer"), ("main-3", "join")]
        gate.open()
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == {"gate": 1, "nap": 1}
        assert (await handle.status()).waiting == []


async def test_branches_tell_their_statuses_and_clocks(place: Place) -> None:
    """Rows 35 and 49."""
    branches = {
        "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))],
        "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item"))],
    }
    flow = parallel(branches)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        told = {branch.id: branch.status for branch in (await handle.status()).branches.values()}
        assert told == {"main": "completed", "nap": "sleeping", "wait": "waiting", "main-3": "joining"}
        await handle.pause("why", by="ada", branch="nap")
        status = await handle.status()
        assert {branch.id: branch.pause is not None for branch in status.branches.values()} == {
            "main": False,
            "nap": True,
            "wait": False,
            "main-3": False,
        }
        assert all(branch.variables == {} for branch in status.branches.values())


async def test_runs_are_listed_by_all_their_statuses(place: Place) -> None:
    """Row 49."""
    gate, naps = Gate(), Flow("naps").delay("nap", "1h")
    runs, sound = Flow("runs").then(gate.task), Flow("sound").then(keep)
    async with place.engine(runs, naps, sound) as engine:
        running = await engine.start(runs, 1, id="running")
        await gate.until_called()
        for name in ("suspended", "paused", "cancelled"):
            handle = await engine.start(naps, 1, id=name)
            await until_parked(engine, name)
            if name == "paused":
                await handle.pause()
            elif name == "cancelled":
                await handle.cancel()
        await (await engine.start(sound, 1, id="completed")).result(PATIENCE_S)
        for status in ("running", "suspended", "paused", "cancelled", "completed"):
            assert [run.id for run in await engine.list(status=status)] == [status]
        for status in ("pending", "blocked", "failed"):
            assert await engine.list(status=status) == []
        gate.open()
        await running.result(PATIENCE_S)


@workflow
async def ships(ctx: Context, _x: object) -> object:
    return await ctx.wait_signal("truck")


async def test_everything_that_a_body_waits_for_is_told_with_its_key(place: Place) -> None:
    """Row 35: a body that was put away waits for each of its operations, not for other branches."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=9, base_delay="10m")])

    @workflow
    async def order(ctx: Context, x: int) -> object:
        ctx.set("x", x)
        return await ctx.gather(
            ctx.sleep("2h"),
            ctx.sleep("1h"),
            ctx.child(ships, x),
            ctx.step(flaky.task, x),
            ctx.wait_signal("paid"),
            ctx.wait_signal("packed", timeout="9h"),
        )

    async with place.engine(order, ships) as engine:
        handle = await engine.start(order, 1)
        await until_suspended(handle)
        await until_parked(engine, handle.id)
        status = await handle.status()
        assert (status.status, status.branches["main"].status) == ("suspended", "suspended")
        told = [(wait.operation, wait.reason, wait.signal) for wait in status.waiting]
        assert told == [
            ("gather#1/5/packed#1", "signal", "packed"),
            ("gather#1/4/paid#1", "signal", "paid"),
            ("gather#1/2/ships#1", "child", None),
            ("gather#1/1/sleep#1", "timer", None),
            ("gather#1/0/sleep#1", "timer", None),
            ("gather#1/3/flaky#1", "backoff", None),
        ]
        assert {(wait.branch, wait.step) for wait in status.waiting} == {("main", "order")}
        stamps_of = {e.entry.key: ms(e.at) for e in await handle.journal() if hasattr(e.entry, "key")}
        due = {wait.operation: wait.due_at and ms(wait.due_at) for wait in status.waiting}
        assert due["gather#1/5/packed#1"] == stamps_of["gather#1/5/packed#1"] + 9 * HOUR_MS
        assert due["gather#1/1/sleep#1"] == stamps_of["gather#1/1/sleep#1"] + HOUR_MS
        assert due["gather#1/3/flaky#1"] == stamps_of["gather#1/3/flaky#1"] + HOUR_MS // 6
        assert due["gather#1/4/paid#1"] is due["gather#1/2/ships#1"] is None
        (child,) = [wait.child for wait in status.waiting if wait.reason == "child"]
        assert child is not None
        assert (await engine.get(child)).id.startswith(handle.id)
        operations = {each.key: each for each in status.branches["main"].operations}
        assert operations["gather#1/2/ships#1"].child == child
        assert operations["gather#1/3/flaky#1"].attempt == 2
        assert status.branches["main"].variables == {"x": 1}
        await handle.pause()
        (wait,) = (await handle.status()).waiting
        assert (wait.reason, wait.operation) == ("pause", "")


async def until_suspended(handle: AsyncHandle) -> None:
    async def has_it() -> bool:
        return any(isinstance(entry, StepSuspended) for entry in await entries(handle))

    await until(has_it)


async def test_a_body_that_works_waits_for_nothing(place: Place) -> None:
    """Row 35: what else it waits for stands with its operations, and is told once nothing of it runs."""
    gate = Gate()

    @workflow
    async def order(ctx: Context, x: int) -> object:
        return await ctx.gather(ctx.sleep("1h"), ctx.wait_signal("paid"), ctx.step(gate.task, x))

    async with place.engine(order) as engine:
        handle = await engine.start(order, 1)
        await gate.until_called()
        await until_position(handle, 3)
        status = await handle.status()
        assert (status.status, status.branches["main"].status, status.waiting) == ("running", "active", [])
        told = [(each.key, each.status) for each in status.branches["main"].operations]
        assert told == [("gather#1/0/sleep#1", "sleeping"), ("gather#1/1/paid#1", "waiting")]
        assert (await handle.explain()).reason == "running"
        gate.open()
        await until_suspended(handle)
        assert [wait.reason for wait in (await handle.status()).waiting] == ["signal", "timer"]
        await handle.signal("paid", "all")
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == [None, "all", 1]
        status = await handle.status()
        assert (status.waiting, status.branches["main"].operations) == ([], [])


async def until_position(handle: AsyncHandle, position: int) -> None:
    async def is_there() -> bool:
        return (await handle.status()).position >= position

    await until(is_there)


async def test_a_join_is_the_reason_of_those_who_join_only(place: Place) -> None:
    """Row 35: a body that is put away in one branch is not taken for one, and is waited for like any other."""

    async def naps(ctx: Context, x: int) -> int:
        await ctx.sleep("1h")
        return x

    flow = Flow("order").fork().branch(naps, name="a").branch(keep, name="b").join(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_suspended(handle)
        await until_parked(engine, handle.id)
        waits = (await handle.status()).waiting
        assert (waits[0].reason, waits[0].branch, waits[0].operation) == ("timer", "a", "sleep#1")
        assert all(wait.reason == "join" and wait.detail.endswith("still open: a") for wait in waits[1:])
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == {"a": 1, "b": 1}


async def test_a_run_that_is_blocked_by_its_code_shows_where_it_is(place: Place) -> None:
    """Rows 35, 56 and 68: its branches and operations, what was expected and what was found."""
    is_new = asyncio.Event()

    @workflow
    async def order(ctx: Context, x: int) -> object:
        if is_new.is_set():
            await ctx.step(keep, x, name="check")
        ctx.set("x", x)
        await ctx.step(keep, x, name="charge")
        return await ctx.wait_signal("paid")

    async with place.engine(order) as engine:
        handle = await engine.start(order, 1)
        await until_suspended(handle)
        await until_parked(engine, handle.id)
        is_new.set()
        await handle.signal("paid", "all")
        await until_status(handle, "blocked")
        status = await handle.status()
        assert status.failure is not None
        assert (status.failure.type, status.failure.step) == ("definition_changed", "order")
        assert "expected step charge#1, and found step check#1" in status.failure.message
        assert [each.key for each in status.branches["main"].operations] == ["charge#1", "paid#1"]
        assert (status.waiting, status.output) == ([], None)
        assert status.branches["main"].variables == {"x": 1}
        found = await handle.explain()
        assert (found.reason, found.branch, found.step) == ("blocked", "main", "order")
        assert found.detail == status.failure.message
        assert "ctx.patched" in found.action
        assert [run.id for run in await engine.list(status="blocked")] == [handle.id]


async def test_a_run_that_nobody_can_reach_tells_what_its_child_waits_for(place: Place) -> None:
    """Rows 35 and 50: instead of waiting for ever."""

    @workflow
    async def order(ctx: Context, x: int) -> object:
        return await ctx.child(ships, x)

    async with place.engine(order, ships) as engine:
        with pytest.raises(RunWaitingError) as caught:
            await engine.alone(order, 1)
        (line,) = caught.value.waiting
        assert line.startswith(f"for child run '{caught.value.run_id}/ships#1-")
        assert line.endswith("of workflow 'ships', which waits for signal 'truck'")


@pytest.mark.parametrize("is_child", [True, False])
async def test_a_run_that_nobody_can_mend_is_given_up(place: Place, is_child: bool) -> None:
    """Rows 50 and 56: its code, or that of its child, asks for something else each time."""
    calls = list[int]()

    @workflow
    async def changes(ctx: Context, x: int) -> None:
        calls.append(x)
        await ctx.sleep("2s", name=f"nap {len(calls)}")

    @workflow
    async def order(ctx: Context, x: int) -> None:
        await ctx.child(changes, x)

    async with place.engine(order, changes) as engine:
        asking = asyncio.create_task(engine.alone(order if is_child else changes, 1))

        async def is_there() -> bool:
            return bool(await engine.list(workflow="changes"))

        await until(is_there)
        (run,) = await engine.list(workflow="changes")
        await until_suspended(await engine.get(run.id))
        await until_parked(engine, run.id)
        place.clock.advance(2_000)
        await until(asking.done)
        found = asking.exception()
        assert isinstance(found, RunWaitingError if is_child else RunBlockedError)
        assert "expected sleep nap 1#1, and found sleep nap 2#1" in str(found)
