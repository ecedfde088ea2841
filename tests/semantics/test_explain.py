"""Row 55: every run has one reason why it does not go on, or that it does."""

from typing import Any

import pytest

from holdfast import (
    AsyncEngine,
    AsyncHandle,
    Context,
    Explanation,
    Flow,
    Retry,
    Sleep,
    Step,
    WaitSignal,
    workflow,
)
from holdfast.codecs import json as codec
from holdfast.errors import RunNotFoundError
from holdfast.runtime.starts import Start
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    LEASE,
    PATIENCE_S,
    Place,
    client_of,
    ms,
    row,
    stamps,
    until,
    until_parked,
    until_status,
)

SOUND = Flow("sound").then(keep)


async def reason(handle: AsyncHandle) -> tuple[str, str, str]:
    """Reason, branch and step."""
    found = await handle.explain()
    assert (found.run_id, found.status) == (handle.id, (await handle.status()).status)
    assert found.detail
    return found.reason, found.branch, found.step


async def fail(_x: Any) -> None:  # noqa: ANN401 - whatever it is
    raise ValueError("no")


async def test_a_run_that_is_over_says_how(place: Place) -> None:
    """Row 55."""
    bad, waits = Flow("bad").then(fail), Flow("waits").wait_for_signal("item")
    async with place.engine(SOUND, bad, waits) as engine:
        for flow, status in ((SOUND, "completed"), (bad, "failed"), (waits, "cancelled")):
            handle = await engine.start(flow, 1)
            if status == "cancelled":
                await handle.cancel()
            await until_status(handle, status)
            found = await handle.explain()
            assert (found.reason, found.status, found.due_at) == ("over", status, None)
            assert ("retry" in found.action) is (status == "failed")
            assert status in found.detail


async def test_a_body_that_runs_is_named_with_its_worker(place: Place) -> None:
    """Row 55."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        assert await reason(handle) == ("running", "main", "gate")
        found = await handle.explain()
        worker = (await row(engine, handle.id)).worker
        assert worker is not None
        assert worker in found.detail
        assert "attempt 1" in found.detail
        assert (found.action, found.due_at) == ("", None)
        gate.open()


async def test_a_wait_for_a_signal_is_told_with_since_and_until(place: Place) -> None:
    """Row 55."""
    timed = Flow("timed").wait_for_signal("approval", "gate", timeout="1h")
    endless = Flow("endless").wait_for_signal("approval", "gate")
    async with place.engine(timed, endless) as engine:
        for flow in (timed, endless):
            handle = await engine.start(flow, 1)
            await until_parked(engine, handle.id)
            found = await handle.explain()
            assert await reason(handle) == ("signal", "main", "gate")
            assert "'approval'" in found.detail
            assert "since" in found.detail
            assert "send signal 'approval'" in found.action
            assert ("for ever" in found.action) is (flow is endless)
            due_at_ms = (await stamps(handle))["RunStarted"] + HOUR_MS
            assert (found.due_at and ms(found.due_at)) == (due_at_ms if flow is timed else None)


async def test_a_sleep_is_told_with_its_end(place: Place) -> None:
    """Row 55."""
    flow = Flow("order").delay("nap", "1h")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        found = await handle.explain()
        assert (found.reason, found.step, found.action) == ("timer", "nap", "")
        assert ms(found.due_at) == (await stamps(handle))["RunStarted"] + HOUR_MS
        assert "until" in found.detail


async def test_a_backoff_is_told_with_attempt_failure_and_time(place: Place) -> None:
    """Row 55."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=5, base_delay="1h")])
    flow = Flow("order").then(flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        found = await handle.explain()
        assert await reason(handle) == ("backoff", "main", "flaky")
        assert "attempt 2" in found.detail
        assert "busy 1" in found.detail
        assert ms(found.due_at) == (await stamps(handle))["RetryScheduled"] + HOUR_MS


async def test_a_short_backoff_of_a_run_that_is_held_is_told_too(place: Place) -> None:
    """Rows 55 and 63."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=9, base_delay="900ms", backoff_rate=1)])
    flow = Flow("order").then(flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "suspended")
        assert (await handle.explain()).reason in {"backoff", "running"}  # its attempt may have begun
        await handle.cancel()


@pytest.mark.parametrize("what", ["run", "branch"])
async def test_a_pause_is_told_with_who_and_why(place: Place, what: str) -> None:
    """Row 55."""
    nap = Step("nap", "sleep", sleep=Sleep.of("1h"))
    flow = line(nap, Step("end", task="keep"))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause("stock-taking", by="ada", branch="main" if what == "branch" else None)
        found = await handle.explain()
        assert (found.reason, found.branch, found.step, found.due_at) == ("pause", "main", "nap", None)
        assert "ada" in found.detail
        assert "stock-taking" in found.detail
        assert "unpause" in found.action


@pytest.mark.parametrize("branch", [None, "main"])
async def test_a_pause_is_told_with_its_beginning(place: Place, branch: str | None) -> None:
    """Rows 35 and 55: not with that of what it has interrupted."""
    flow = Flow("order").delay("nap", "10h")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        await handle.pause(branch=branch)
        (wait,) = (await handle.status()).waiting
        assert wait.reason == "pause"
        assert ms(wait.since) == (await stamps(handle))["Paused"]


async def test_the_dominant_reason_is_the_one_that_is_told(place: Place) -> None:
    """Rows 35 and 55: pause, then signal, then timer."""
    branches = {
        "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))],
        "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item"))],
    }
    flow = parallel(branches)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        assert await reason(handle) == ("signal", "wait", "wait")
        await handle.pause(branch="nap")
        assert await reason(handle) == ("pause", "nap", "nap")
        await handle.unpause(branch="nap")
        await handle.signal("item", 1)

        async def sleeps_only() -> bool:
            return (await handle.explain()).reason == "timer"

        await until(sleeps_only)
        assert await reason(handle) == ("timer", "nap", "nap")


async def test_a_run_that_is_due_says_that_the_workers_are_busy(place: Place) -> None:
    """Row 55."""
    gate = Gate()
    hold = Flow("hold").then(gate.task)
    async with place.engine(hold, SOUND, concurrency=1) as engine:
        await engine.start(hold, 1)
        await gate.until_called()
        waiting = await engine.start(SOUND, 1)
        assert await reason(waiting) == ("due", "", "")
        assert (await waiting.explain()).action == ""
        gate.open()
        assert await waiting.result(PATIENCE_S) == 1


async def test_a_workflow_that_no_worker_knows_is_named(place: Place) -> None:
    """Row 55: of a run that is due, and of one that waits."""
    flow = Flow("order").then(keep)
    waits = Flow("waits").wait_for_signal("item")
    naps = Flow("naps").delay("nap", "1h")
    async with place.engine(flow, waits, naps) as engine:
        for each in (waits, naps):
            await until_parked(engine, (await engine.start(each, 1, id=each.name)).id)
    async with place.engine(SOUND) as engine:
        due = await engine.start("order", 1)
        found = await due.explain()
        assert found.reason == "no_worker"
        assert "'order'" in found.detail
        assert "start a worker" in found.action
        for name, expected in (("waits", "signal"), ("naps", "timer")):
            found = await (await engine.get(name)).explain()
            assert found.reason == expected
            assert "start a worker" in found.action
        place.clock.advance(HOUR_MS)
        assert (await (await engine.get("naps")).explain()).reason == "no_worker"


async def test_a_task_that_is_gone_is_named(place: Place) -> None:
    """Rows 55 and 67."""
    gone = Calls("gone")
    flow = Flow("order").delay("nap", "1h").then(gone.task)
    async with place.engine(flow) as engine:
        await until_parked(engine, (await engine.start(flow, 1, id="order-1")).id)
    place.clock.advance(HOUR_MS)
    async with place.engine(Flow("order").then(keep)) as engine:
        handle, told = await engine.get("order-1"), list[Explanation]()

        async def is_named() -> bool:
            told.append(await handle.explain())
            return told[-1].reason == "missing_task"

        await until(is_named)
        assert "gone" in told[-1].detail
        assert "gone" in told[-1].action


async def test_a_blocked_run_says_what_cannot_be_read(place: Place) -> None:
    """Rows 55 and 68."""
    flow = Flow("order").delay("nap", "1h")
    async with place.engine(flow) as engine:
        await until_parked(engine, (await engine.start(flow, 1, id="order-1")).id)
    place.change_entry("order-1", 1, lambda _entry: b"noise")
    async with place.engine() as engine:  # nobody has tried yet
        found = await (await engine.get("order-1")).explain()
        assert found.reason == "blocked"
        assert "entry 1" in found.detail
    place.clock.advance(HOUR_MS)
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")

        async def is_blocked() -> bool:
            return (await row(engine, "order-1")).status == "blocked"

        await until(is_blocked)
        found = await handle.explain()
        assert (found.reason, found.status) == ("blocked", "blocked")
        assert "entry 1" in found.detail
        assert found.action


@pytest.mark.embedded
async def test_a_worker_that_shows_no_sign_of_life_is_named(place: Place) -> None:
    """Rows 55 and 70: until another one takes its runs over."""
    if place.kind == "memory":
        pytest.skip("who drives a store in memory dies with it")
    dies, clock = place.store(), place.clock
    await dies.open()
    await dies.register("worker-1", ("sound",))
    await dies.commit([Start("order-1", SOUND.build(), codec.encode(1)).new_run(None)])
    assert await dies.claim_one("worker-1", "order-1") is not None
    async with AsyncEngine(store=client_of(dies, place.directory, clock), clock=clock) as client:
        handle = await client.get("order-1")
        assert (await handle.explain()).reason == "running"
        await dies.close()
        clock.advance(LEASE.lease_ms)
        found = await handle.explain()
        assert (found.reason, found.status) == ("lease", "running")
        assert "worker-1" in found.detail
    async with place.engine(SOUND) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == 1
        assert (await handle.explain()).reason == "over"


async def test_an_unknown_run_has_no_reason(place: Place) -> None:
    """Row 55."""
    async with place.engine(SOUND) as engine:
        handle = await engine.start(SOUND, 1)
        await handle.result(PATIENCE_S)
        await engine.delete(handle.id)
        with pytest.raises(RunNotFoundError):
            await handle.explain()


def test_the_blocking_engine_explains_too(place: Place) -> None:
    """Row 55."""
    with place.blocking(SOUND) as engine:
        handle = engine.start(SOUND, 1)
        handle.result(PATIENCE_S)
        assert handle.explain().reason == "over"


# durable functions


@workflow
async def ships(ctx: Context, x: int) -> object:
    return await ctx.wait_signal("truck") if x else await ctx.sleep("1h")


@workflow
async def orders(ctx: Context, x: int) -> object:
    return await ctx.child(ships, x)


async def asks_by_name(ctx: Context, x: int) -> object:
    return await ctx.child("ships", x)


@pytest.mark.parametrize(("x", "reason"), [(1, "signal"), (0, "timer")])
async def test_a_child_is_told_with_how_it_is_and_explains_itself(place: Place, x: int, reason: str) -> None:
    """Row 55: the chain leads to who must act."""
    async with place.engine(orders, ships) as engine:
        handle = await engine.start(orders, x)

        async def waits_for_what_waits() -> bool:
            found = await handle.explain()
            return found.reason == "child" and "which is suspended" in found.detail

        await until(waits_for_what_waits)
        await until_parked(engine, handle.id)
        found = await handle.explain()
        assert (found.branch, found.step, found.operation) == ("main", "orders", "ships#1")
        assert found.child is not None
        assert (found.action, found.due_at) == (f"explain run {found.child!r}", None)
        child = await engine.get(found.child)
        told = await child.explain()
        assert (told.reason, told.child) == (reason, None)
        await child.pause()
        assert "which is paused" in (await handle.explain()).detail
        await child.cancel()
        await until_status(handle, "failed")
        assert (await handle.explain()).reason == "over"


async def test_a_child_that_is_blocked_is_told_as_blocked(place: Place) -> None:
    """Row 55."""
    async with place.engine(orders, ships) as engine:
        handle = await engine.start(orders, 1)

        async def waits_for_what_waits() -> bool:
            return "which is suspended" in (await handle.explain()).detail

        await until(waits_for_what_waits)
        child = (await handle.explain()).child
        assert child is not None
        await until_parked(engine, child)
    place.change_entry(child, 1, lambda _entry: b"noise")
    async with place.engine(orders, ships) as engine:
        await engine.send_signal(child, "truck")

        async def is_blocked() -> bool:
            return (await row(engine, child)).status == "blocked"

        await until(is_blocked)
        found = await (await engine.get(handle.id)).explain()
        assert found.reason == "child"
        assert "which is blocked" in found.detail
        told = await (await engine.get(child)).explain()
        assert told.reason == "blocked"
        assert "entry 1" in told.detail


async def test_a_child_that_no_worker_knows_is_waiting_for_one(place: Place) -> None:
    """Row 55: its parent says that it is pending, and it says why."""
    async with place.engine(ships):
        pass  # so that its structure is known
    by_name = Flow("by_name").then(asks_by_name)
    async with place.engine(by_name) as engine:
        handle = await engine.start(by_name, 1)

        async def waits() -> bool:
            return (await handle.explain()).reason == "child"

        await until(waits)
        found = await handle.explain()
        assert "which is pending" in found.detail
        assert found.child is not None
        assert (await (await engine.get(found.child)).explain()).reason == "no_worker"


async def test_a_body_in_backoff_is_told_with_the_key_of_what_it_tries_again(place: Place) -> None:
    """Row 55."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=5, base_delay="1h")])

    @workflow
    async def order(ctx: Context, x: int) -> object:
        return await ctx.step(flaky.task, x)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 1)
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        found = await handle.explain()
        assert (found.reason, found.step, found.operation) == ("backoff", "order", "flaky#1")
        assert "attempt 2" in found.detail
        assert "busy 1" in found.detail
        assert ms(found.due_at) == (await stamps(handle))["OperationRetried"] + HOUR_MS
