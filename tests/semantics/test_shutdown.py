"""Row 53: closing lets steps finish, gives runs back, fails none, and charges none."""

import asyncio
import threading
import time

import pytest

from holdfast import AsyncEngine, Flow, Retry, task
from holdfast.errors import StoreOwnedError
from tests.semantics.places import Place, kinds, row, until, until_status


async def test_a_running_step_is_finished_and_the_next_one_left_to_the_next_engine(place: Place) -> None:
    """Row 53."""
    calls: list[str] = []
    begun = asyncio.Event()

    async def first(x: int) -> int:
        calls.append("first")
        begun.set()
        await asyncio.sleep(0.05)
        return x + 1

    async def second(x: int) -> int:
        calls.append("second")
        return x * 10

    flow = Flow("order").then(first).then(second)
    async with place.engine(flow) as engine:
        await engine.start(flow, 1, id="order-1")
        await begun.wait()
    assert calls == ["first"]
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(5) == 20
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "StepCompleted", "RunCompleted"]
        assert (await row(engine, "order-1")).recoveries == 0
    assert calls == ["first", "second"]


async def test_runs_given_back_are_unheld_due_and_not_charged(place: Place) -> None:
    """Row 53."""
    begun, may_end = threading.Barrier(3, timeout=5), threading.Event()

    def slow(x: int) -> int:
        begun.wait()
        may_end.wait(5)
        return x

    async def never(x: int) -> int:
        return x

    flow = Flow("order").then(slow).then(never)
    async with place.engine(flow) as engine:
        for n in range(2):
            await engine.start(flow, n, id=f"order-{n}")
        await asyncio.to_thread(begun.wait)
        asyncio.get_running_loop().call_later(0.03, may_end.set)
    # No workflows: nothing claims them again.
    async with place.engine() as engine:
        for n in range(2):
            stored = await row(engine, f"order-{n}")
            assert (stored.worker, stored.recoveries, stored.status) == (None, 0, "running")
            assert (stored.position, stored.due_at_ms is not None) == (2, True)
            assert (stored.due_at_ms or 0) <= engine._node.store.now_ms()


async def test_a_body_still_running_after_the_grace_time_is_cancelled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 30)
    ends: list[str] = []
    begun = asyncio.Event()

    @task(retry=Retry(base_delay=0))
    async def endless(x: int) -> int:
        begun.set()
        if ends:
            return x + 1
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")
        return 0

    flow = Flow("order").then(endless)
    async with place.engine(flow) as engine:
        await engine.start(flow, 1, id="order-1")
        await begun.wait()
    assert ends == ["cancelled"]
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(5) == 2
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
        assert (await row(engine, "order-1")).recoveries == 0


async def test_a_sync_body_still_running_after_the_grace_time_is_abandoned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 30)
    stuck, begun = threading.Event(), threading.Event()

    def endless() -> None:
        begun.set()
        stuck.wait()

    flow = Flow("order").then(endless)
    async with place.engine(flow) as engine:
        await engine.start(flow, id="order-1")
        await until(begun.is_set)
    assert not stuck.is_set()
    stuck.set()
    async with place.engine() as engine:
        stored = await row(engine, "order-1")
        assert (stored.worker, stored.recoveries, stored.position) == (None, 0, 1)


async def test_closing_starts_no_retry_that_comes_due(place: Place) -> None:
    """Row 53."""
    calls: list[int] = []
    slow_begun, slow_may_end = asyncio.Event(), asyncio.Event()

    @task(retry=Retry(base_delay="400ms", max_retries=5, backoff_rate=1))
    async def flaky() -> None:
        calls.append(1)
        raise ConnectionError("busy")

    async def slow() -> None:
        slow_begun.set()
        await slow_may_end.wait()

    flaky_flow, slow_flow = Flow("flaky").then(flaky), Flow("slow").then(slow)
    async with place.engine(flaky_flow, slow_flow) as engine:
        handle = await engine.start(flaky_flow, id="flaky")
        await engine.start(slow_flow)
        await slow_begun.wait()
        await until_status(handle, "suspended")
        before = len(calls)
        asyncio.get_running_loop().call_later(0.8, slow_may_end.set)
    assert len(calls) == before
    async with place.engine() as engine:
        stored = await row(engine, "flaky")
        assert (stored.worker, stored.recoveries, stored.status) == (None, 0, "suspended")


async def test_an_engine_whose_caller_is_cancelled_gives_its_runs_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 53 and 59: Ctrl-C in an async program cancels the block."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 50)
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    flow = Flow("order").then(endless)

    async def program() -> None:
        async with place.engine(flow) as engine:
            await engine.start(flow, id="order-1")
            await asyncio.Event().wait()

    running = asyncio.create_task(program())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with place.engine() as engine:
        stored = await row(engine, "order-1")
        assert (stored.worker, stored.recoveries, stored.status) == (None, 0, "running")


async def test_a_file_is_free_when_its_engine_has_closed(place: Place) -> None:
    """Row 53."""
    url = f"sqlite:///{place.directory}/engine.db"
    for _ in range(3):
        async with AsyncEngine(url, worker=True) as engine:
            assert engine.is_driving
            with pytest.raises(StoreOwnedError):
                async with AsyncEngine(url, worker=True):
                    pass


@pytest.mark.embedded
async def test_closing_does_not_wait_for_the_next_poll(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 53."""
    for module in ("sqlite", "postgres"):
        monkeypatch.setattr(f"holdfast.stores.{module}.store.POLL_MS", (60_000, 60_000))

    async def inc(x: int) -> int:
        return x + 1

    flow = Flow("inc").then(inc)
    begun = time.monotonic()
    for n in range(3):
        async with asyncio.timeout(3):
            async with place.engine(flow) as engine:
                assert await (await engine.start(flow, n)).result() == n + 1
    assert time.monotonic() - begun < 3


async def test_many_runs_in_the_middle_are_finished_by_the_next_engine(place: Place) -> None:
    """Row 53."""
    calls: dict[str, int] = {}

    def step(name: str) -> object:
        @task(name)
        async def body(x: int) -> int:
            calls[f"{x}/{name}"] = calls.get(f"{x}/{name}", 0) + 1
            await asyncio.sleep(0.002)
            return x

        return body

    flow = Flow("order")
    for name in ("one", "two", "three", "four"):
        flow.then(step(name))  # type: ignore[arg-type] - a task
    async with place.engine(flow) as engine:
        for n in range(50):
            await engine.start(flow, n, id=f"order-{n}")
        await until(lambda: len(calls) > 100)
    async with place.engine(flow) as engine:
        for n in range(50):
            handle = await engine.get(f"order-{n}")
            assert await handle.result(5) == n
            assert len(await kinds(handle)) == 6
    assert set(calls.values()) == {1}
    assert len(calls) == 200
