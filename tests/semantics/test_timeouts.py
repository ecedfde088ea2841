"""Row 24: time-outs of attempts. Async bodies are cancelled, sync ones are abandoned."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from holdfast import Flow, Retry, task
from holdfast.errors import TaskError
from tests.semantics.places import Place, kinds, until


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What an abandoned thread waits for; set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


async def test_an_async_body_is_cancelled_when_its_time_is_up(place: Place) -> None:
    """Row 24."""
    ends: list[str] = []

    @task(timeout="30ms")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with pytest.raises(TaskError) as caught:
        await place.run(Flow("order").then(slow))
    assert caught.value.failure.type == "timeout"
    assert caught.value.failure.step == "slow"
    assert "0.03 s" in caught.value.failure.message
    assert ends == ["cancelled"]


async def test_the_time_bounds_every_attempt_anew(place: Place) -> None:
    """Row 24."""
    attempts = 0

    @task(timeout="60ms", retry=Retry(base_delay=0, max_retries=2))
    async def slow_twice() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            await asyncio.Event().wait()
        await asyncio.sleep(0.03)
        return attempts

    assert await place.run(Flow("order").then(slow_twice)) == 3


async def test_a_body_that_is_done_in_time_is_left_alone(place: Place) -> None:
    """Row 24."""

    @task(timeout=5)
    async def quick(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @task(timeout=5)
    def quick_sync(x: int) -> int:
        return x + 1

    assert await place.run(Flow("order").then(quick).then(quick_sync), 1) == 3


async def test_a_time_out_of_zero_lets_nothing_be_waited_for(place: Place) -> None:
    """Row 24."""

    @task(timeout=0)
    async def slow() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TaskError, match="timeout"):
        await place.run(Flow("order").then(slow))


async def test_a_body_that_returns_although_its_time_is_up_has_timed_out(place: Place) -> None:
    """Row 24."""

    @task(timeout="20ms")
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "too late"

    with pytest.raises(TaskError, match="timeout"):
        await place.run(Flow("order").then(stubborn))


async def test_a_body_that_answers_its_time_out_with_an_error_has_timed_out(place: Place) -> None:
    """Row 24."""

    @task(timeout="20ms")
    async def clumsy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("cleaning up failed")

    with pytest.raises(TaskError) as caught:
        await place.run(Flow("order").then(clumsy))
    assert caught.value.failure.type == "timeout"


async def test_a_time_out_leaves_no_trace_in_what_runs_after_it(place: Place) -> None:
    """Row 24."""
    attempts = 0

    @task(timeout="20ms", retry=Retry(base_delay=0, max_retries=1))
    async def clumsy() -> int | None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            try:
                await asyncio.Event().wait()
            finally:
                raise ConnectionError("cleaning up failed")
        task = asyncio.current_task()
        return None if task is None else task.cancelling()

    async def cancels_itself(pending: int) -> int:
        assert pending == 0
        raise asyncio.CancelledError

    with pytest.raises(TaskError) as caught:
        await place.run(Flow("order").then(clumsy).then(cancels_itself))
    assert caught.value.failure.type == "CancelledError"


async def test_a_time_out_inside_a_body_is_an_error_of_the_body(place: Place) -> None:
    """Row 24."""

    @task(timeout=5)
    async def body() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TaskError) as caught:
        await place.run(Flow("order").then(body))
    assert caught.value.failure.type == "TimeoutError"


async def test_a_sync_body_is_abandoned_and_its_late_result_refused(
    place: Place, stuck: threading.Event
) -> None:
    """Row 24."""
    ended = threading.Event()

    @task(timeout="30ms")
    def slow() -> str:
        stuck.wait()
        ended.set()
        return "too late"

    flow = Flow("order").then(slow)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result()
        before = await kinds(handle)
        stuck.set()
        await until(ended.is_set)
        assert await kinds(handle) == before == ["RunStarted", "RunFailed"]


async def test_the_late_result_of_an_attempt_is_not_taken_for_the_next_one(
    place: Place, stuck: threading.Event
) -> None:
    """Row 24."""
    attempts: list[str] = []
    second = threading.Event()

    @task(timeout="100ms", retry=Retry(base_delay=0, max_retries=1))
    def body() -> str:
        attempts.append("begun")
        if len(attempts) == 1:
            second.wait()
            return "late result of the first"
        second.set()
        threading.Event().wait(0.05)
        return "result of the second"

    assert await place.run(Flow("order").then(body)) == "result of the second"
    assert len(attempts) == 2
    assert not stuck.is_set()


async def test_the_thread_of_an_abandoned_body_is_replaced(
    place: Place, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 24."""
    monkeypatch.setattr("holdfast.engine.THREADS_MAX", 1)

    @task(timeout="30ms")
    def slow() -> None:
        stuck.wait()

    def quick(x: int) -> int:
        return x + 1

    slows, quicks = Flow("slow").then(slow), Flow("quick").then(quick)
    async with place.engine(slows, quicks) as engine:
        for _ in range(3):
            with pytest.raises(TaskError, match="timeout"):
                await (await engine.start(slows)).result(5)
        assert await (await engine.start(quicks, 1)).result(5) == 2


async def test_a_closing_engine_does_not_wait_for_an_abandoned_body(
    place: Place, stuck: threading.Event
) -> None:
    """Row 24."""

    @task(timeout="30ms")
    def slow() -> None:
        stuck.wait()

    with pytest.raises(TaskError, match="timeout"):
        await place.run(Flow("order").then(slow))
    assert not stuck.is_set()
