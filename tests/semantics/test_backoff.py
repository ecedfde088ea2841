"""Row 23: a run in backoff holds no worker, and nothing is lost when its worker goes."""

import asyncio
from collections.abc import Callable

import pytest

from holdfast import Flow, Retry, task
from holdfast.core.entries import RetryScheduled
from holdfast.errors import TaskError
from holdfast.runtime.limits import LINGER_MS
from tests.semantics.places import Place, entries, kinds, row, until, until_parked, until_status

HOUR_MS = 3_600_000


def failing(times: int, delay: str) -> tuple[Flow, list[str]]:
    """A flow whose only step fails so often, and the calls of it."""
    calls: list[str] = []

    @task(retry=Retry(max_retries=10, base_delay=delay, backoff_rate=1))
    async def flaky(x: str) -> str:
        calls.append(x)
        if calls.count(x) <= times:
            raise ConnectionError(f"busy {calls.count(x)}")
        return f"{x} done"

    return Flow("flaky").then(flaky), calls


async def work(x: int) -> int:
    return x + 1


async def test_a_long_backoff_gives_the_run_back(place: Place) -> None:
    """Row 23."""
    flow, calls = failing(1, "1h")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a", id="order-1")
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        stored = await row(engine, "order-1")
        (last,) = [entry for entry in await handle.journal() if entry.kind == "RetryScheduled"]
        assert isinstance(last.entry, RetryScheduled)
        assert stored.due_at_ms == round(last.at.timestamp() * 1_000) + HOUR_MS
        assert (stored.worker, stored.status, stored.recoveries) == (None, "suspended", 0)
        assert calls == ["a"]


@pytest.mark.parametrize(("longer_ms", "is_held"), [(1, False), (-300, True)])
async def test_only_a_wait_longer_than_the_linger_time_gives_the_run_back(
    place: Place, longer_ms: int, is_held: bool
) -> None:
    """Row 23."""
    flow, _ = failing(1, f"{LINGER_MS + longer_ms}ms")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a")
        await until_status(handle, "suspended")
        assert ((await row(engine, handle.id)).worker is not None) is is_held


async def test_a_run_in_backoff_does_not_block_another_one(place: Place) -> None:
    """Row 23."""
    works = Flow("works").then(work)
    for delay in ("800ms", "1h"):
        flow, _ = failing(1, delay)
        async with place.engine(flow, works, concurrency=1) as engine:
            waiting = await engine.start(flow, "a")
            await until_status(waiting, "suspended")
            for n in range(3):
                assert await (await engine.start(works, n)).result(5) == n + 1
            assert (await waiting.status()).status == "suspended"


async def test_runs_coming_out_of_backoff_keep_to_the_bound_of_active_runs(place: Place) -> None:
    """Row 23: concurrency counts the runs that are active at once."""
    active, most = 0, 0
    tried: set[int] = set()

    @task(retry=Retry(max_retries=1, base_delay="60ms"))
    async def flaky(x: int) -> None:
        nonlocal active, most
        if x not in tried:
            tried.add(x)
            raise ConnectionError("busy")
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.02)
        active -= 1

    flow = Flow("flaky").then(flaky)
    async with place.engine(flow, concurrency=2) as engine:
        handles = [await engine.start(flow, x) for x in range(8)]
        for handle in handles:
            await handle.result(5)
    assert (most, len(tried)) == (2, 8)


async def test_a_parked_run_wakes_up_by_itself_and_in_time(place: Place) -> None:
    """Rows 23 and 34."""
    flow, calls = failing(1, f"{LINGER_MS + 50}ms")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a")
        await until_status(handle, "suspended")
        assert (await row(engine, handle.id)).worker is None
        assert await handle.result(5) == "a done"
        first, second = [
            entry.at for entry in await handle.journal() if entry.kind in {"RetryScheduled", "StepCompleted"}
        ]
        assert LINGER_MS + 50 <= (second - first).total_seconds() * 1_000 < LINGER_MS + 2_000
    assert calls == ["a", "a"]


async def test_attempts_and_due_time_go_on_in_the_next_engine(place: Place) -> None:
    """Row 23."""
    flow, calls = failing(3, "1h")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a", id="order-1")
        await until_status(handle, "suspended")
    for attempt in (2, 3):
        place.clock.advance(HOUR_MS - 60_000)
        async with place.engine(flow) as engine:
            handle = await engine.get("order-1")
            status = await handle.status()
            assert (status.status, status.branches["main"].attempt) == ("suspended", attempt)
            (wait,) = status.waiting
            assert (wait.reason, wait.branch, wait.step) == ("backoff", "main", "flaky")
            assert len(calls) == attempt - 1
        place.clock.advance(61_000)
        async with place.engine(flow) as engine:
            handle = await engine.get("order-1")
            await until(has_attempts(calls, attempt))
            await until_status(handle, "suspended")
    place.clock.advance(HOUR_MS)
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(5) == "a done"
        retries = [entry for entry in await entries(handle) if isinstance(entry, RetryScheduled)]
        assert [retry.attempt for retry in retries] == [2, 3, 4]
        assert (await row(engine, "order-1")).recoveries == 0
    assert len(calls) == 4


def has_attempts(calls: list[str], count: int) -> Callable[[], bool]:
    return lambda: len(calls) == count


async def test_a_short_backoff_outlives_its_engine(place: Place) -> None:
    """Rows 23 and 53."""
    flow, calls = failing(1, "700ms")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "a", id="order-1")
        await until_status(handle, "suspended")
    place.clock.advance(100)
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(5) == "a done"
        assert await kinds(handle) == ["RunStarted", "RetryScheduled", "StepCompleted", "RunCompleted"]
        first, second = [entry.at for entry in await handle.journal()][1:3]
        assert (second - first).total_seconds() >= 0.7
        assert (await row(engine, "order-1")).recoveries == 0
    assert calls == ["a", "a"]


async def test_the_budget_of_a_parked_run_is_counted_over_engines(place: Place) -> None:
    """Row 23."""
    calls: list[str] = []

    @task(retry=Retry(max_retries=2, base_delay="1h", backoff_rate=1))
    async def never() -> None:
        calls.append("")
        raise ConnectionError("busy")

    flow = Flow("order").then(never)
    async with place.engine(flow) as engine:
        await until_status(await engine.start(flow, id="order-1"), "suspended")
    place.clock.advance(HOUR_MS)
    async with place.engine(flow) as engine:
        await until(has_attempts(calls, 2))
        await until_status(await engine.get("order-1"), "suspended")
    place.clock.advance(HOUR_MS)
    async with place.engine(flow) as engine:
        with pytest.raises(TaskError, match="busy"):
            await (await engine.get("order-1")).result(5)
    assert len(calls) == 3


async def test_a_branch_in_backoff_leaves_its_siblings_running(place: Place) -> None:
    """Rows 23 and 38."""
    tries = 0
    sibling_may_end = asyncio.Event()

    @task(retry=Retry(max_retries=1, base_delay="20ms"))
    async def flaky(x: int) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError("busy")
        sibling_may_end.set()
        return x

    async def steady(x: int) -> int:
        await sibling_may_end.wait()
        return x

    flow = Flow("order").fork().branch(flaky).branch(steady).join(dict)
    assert await place.run(flow, 5) == {"flaky": 5, "steady": 5}
