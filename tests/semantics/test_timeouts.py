"""Row 24: time-outs of attempts. Async bodies are cancelled, sync ones are abandoned, processes are killed."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import Flow, Retry, get_task_context, task
from holdfast.core.entries import RetryScheduled
from holdfast.errors import TaskError
from tests import process_bodies as bodies
from tests.semantics.places import Place, entries, kinds, until


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


async def test_a_sync_body_may_ask_whether_its_time_is_up(place: Place, stuck: threading.Event) -> None:
    """Rows 24 and 46."""
    ended = threading.Event()

    @task(timeout="30ms")
    def slow() -> str:
        context = get_task_context()
        assert context is not None
        while not context.cancelled and not stuck.wait(0.001):
            pass
        ended.set()
        return "too late"

    flow = Flow("order").then(slow)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError, match="timeout"):
            await handle.result()
        await until(ended.is_set)
        assert not stuck.is_set()
        assert await kinds(handle) == ["RunStarted", "RunFailed"]


async def test_a_sync_body_may_ask_whether_its_run_was_given_back(
    place: Place, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 46 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 30)
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        context = get_task_context()
        assert context is not None
        begun.set()
        while not context.cancelled and not stuck.wait(0.001):
            pass
        ended.set()

    flow = Flow("order").then(slow)
    async with place.engine(flow) as engine:
        await engine.start(flow)
        await until(begun.is_set)
    await until(ended.is_set)
    assert not stuck.is_set()


# processes

PATIENCE_S = 30


async def test_a_process_is_killed_when_its_time_is_up(place: Place, tmp_path: Path) -> None:
    """Row 24: what it would have done later does not happen."""
    flow = Flow("order").then(task("hang", executor="process", timeout="100ms")(bodies.hang))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, str(tmp_path))
        with pytest.raises(TaskError, match="timeout"):
            await handle.result(PATIENCE_S)
        await until(lambda: bodies.is_gone(bodies.told(tmp_path, "begun")))
        (tmp_path / "go").touch()
        assert await kinds(handle) == ["RunStarted", "RunFailed"]
    assert not (tmp_path / "effect").exists()


async def test_a_body_in_a_process_is_tried_again(place: Place, tmp_path: Path) -> None:
    """Rows 23 and 24."""
    retry = Retry(error_equals=("timeout",), base_delay=0, max_retries=1)
    flow = Flow("order").then(task("hang", executor="process", timeout="500ms", retry=retry)(bodies.hang_once))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, str(tmp_path))
        assert await handle.result(PATIENCE_S) == "second"
        assert await kinds(handle) == ["RunStarted", "RetryScheduled", "StepCompleted", "RunCompleted"]


async def test_a_process_that_dies_is_tried_again(place: Place, tmp_path: Path) -> None:
    """Rows 22 and 24."""
    retry = Retry(error_equals=("process_died",), base_delay=0, max_retries=1)
    flow = Flow("order").then(task("leave", executor="process", retry=retry)(bodies.leave_once))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, str(tmp_path))
        assert await handle.result(PATIENCE_S) != bodies.told(tmp_path, "first")
        (scheduled,) = [entry for entry in await entries(handle) if isinstance(entry, RetryScheduled)]
        assert scheduled.failure.message == "the process of the body was ended by SIGTERM"


async def test_a_process_is_killed_when_its_run_has_failed(place: Place, tmp_path: Path) -> None:
    """Rows 20 and 24."""

    async def fail(directory: str) -> None:
        await until((Path(directory) / "begun").exists)
        raise ValueError("enough")

    hang = task("hang", executor="process")(bodies.hang)
    flow = Flow("order").then(str).fork().branch(hang).branch(fail).join(len)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, str(tmp_path))
        with pytest.raises(TaskError, match="enough"):
            await handle.result(PATIENCE_S)
        await until(lambda: bodies.is_gone(bodies.told(tmp_path, "begun")))
        (tmp_path / "go").touch()
    assert not (tmp_path / "effect").exists()


async def test_a_process_is_killed_when_its_run_is_given_back(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 24 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 30)
    flow = Flow("order").then(task("hang", executor="process")(bodies.hang))
    async with place.engine(flow) as engine:
        await engine.start(flow, str(tmp_path), id="order-1")
        await until((tmp_path / "begun").exists)
    await until(lambda: bodies.is_gone(bodies.told(tmp_path, "begun")))
    assert not (tmp_path / "effect").exists()


async def test_a_body_in_a_process_has_its_context(place: Place) -> None:
    """Row 46."""
    flow = Flow("order", metadata={"team": "sales"}).then(task("look", executor="process")(bodies.look))
    async with place.engine(flow) as engine:
        seen = await (await engine.start(flow, id="order-1")).result(PATIENCE_S)
    assert (seen["run_id"], seen["step"], seen["attempt"]) == ("order-1", "look", 1)
    assert (seen["idempotency_key"], seen["metadata"]) == ("order-1/1/main/look/1", {"team": "sales"})


def test_a_blocking_engine_has_processes_too(place: Place) -> None:
    """Row 24."""
    flow = Flow("order").then(task("pid", executor="process")(bodies.pid))
    with place.blocking(flow) as engine:
        pid = engine.start(flow).result(PATIENCE_S)
        assert pid != os.getpid()
    assert bodies.is_gone(pid)
