"""Row 33: cancelling a run, in whatever state it is."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast import AsyncHandle, Flow, Retry, Sleep, Step, WaitSignal, get_task_context, task
from holdfast.core.entries import RunCancelled
from holdfast.errors import RunNotFoundError, RunStateError, TaskError
from tests.semantics.flows import DAY_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    until,
    until_branch,
    until_parked,
    until_status,
)

OTHER = Flow("other").then(keep)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What an abandoned thread waits for; set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


async def fail(_x: Any) -> None:  # noqa: ANN401 - whatever it is
    raise ValueError("no")


STATES = ("backoff", "short backoff", "sleeping", "waiting", "joining", "paused", "paused branch")


def in_state(state: str) -> Any:  # noqa: ANN401 - a flow or workflow
    """A workflow that comes to that state by itself, or when it is paused."""
    retry = Retry(max_retries=9, base_delay="900ms" if state == "short backoff" else "1h")
    flaky = Calls("flaky", failures=99, retry=[retry])
    nap = Step("nap", "sleep", sleep=Sleep.of("1h"))
    match state:
        case "backoff" | "short backoff":
            return Flow("order").then(flaky.task)
        case "waiting":
            return Flow("order").wait_for_signal("item", timeout="1h").then(keep)
        case "joining":
            return parallel({"nap": [nap], "fast": [Step("fast", task="keep")]})
        case _:
            return Flow("order").delay("nap", "1h").then(keep)


@pytest.mark.parametrize("state", STATES)
async def test_a_run_that_waits_is_cancelled(place: Place, state: str) -> None:
    """Row 33: nothing of it happens any more."""
    flow = in_state(state)
    async with place.engine(flow, OTHER) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "suspended")
        if state != "short backoff":
            await until_parked(engine, handle.id)
        if state == "paused":
            await handle.pause("wait")
        elif state == "paused branch":
            await handle.pause("wait", branch="main")
        await handle.cancel("typing error", by="ada", wait=True)
        status = await handle.status()
        assert (status.status, status.cancel_reason, status.cancelled_by) == (
            "cancelled",
            "typing error",
            "ada",
        )
        assert (status.waiting, status.worker, status.failure) == ([], None, None)
        recorded = await entries(handle)
        assert recorded[-1] == RunCancelled("typing error", "ada")
        found = await row(engine, handle.id)
        assert (found.worker, found.due_at_ms, found.position) == (None, None, len(recorded))
        with pytest.raises(TaskError, match="cancelled") as caught:
            await handle.result(PATIENCE_S)
        assert (caught.value.status, caught.value.failure) == ("cancelled", None)
        place.clock.advance(DAY_MS)
        assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
        assert await entries(handle) == recorded
    async with place.engine(flow, OTHER) as engine:
        assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
        assert await entries(await engine.get(handle.id)) == recorded


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_run_that_no_worker_had_yet_is_cancelled(place: Place, is_known: bool) -> None:
    """Row 33: also where nobody knows its workflow."""
    work = Calls()
    flow = Flow("order").then(work.task)
    async with place.engine(flow):
        pass
    async with place.engine(OTHER) as engine:
        handle = await engine.start("order", 1, id="order-1")
        assert (await handle.status()).status == "pending"
        await handle.cancel("too late", by="ada", wait=True)
        assert (await handle.status()).status == "cancelled"
    async with place.engine(*([flow] if is_known else []), OTHER) as engine:
        assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
        handle = await engine.get("order-1")
        assert await kinds(handle) == ["RunStarted", "RunCancelled"]
    assert work.calls == []


async def test_an_async_body_is_told_by_a_cancelled_error(place: Place) -> None:
    """Row 33: it may clean up."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    flow = Flow("order").then(hang).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await begun.wait()
        await handle.cancel(wait=True)
        await until(cleaned.is_set)
        assert await kinds(handle) == ["RunStarted", "RunCancelled"]
        assert (await handle.status()).branches["main"].status == "cancelled"


async def test_a_sync_body_may_ask_whether_it_was_cancelled(place: Place, stuck: threading.Event) -> None:
    """Row 33: its late result is refused."""
    begun, seen = threading.Event(), threading.Event()

    def hang() -> str:
        context = get_task_context()
        assert context is not None
        assert not context.cancelled
        begun.set()
        while not context.cancelled and not stuck.wait(0.001):
            pass
        seen.set()
        return "too late"

    flow = Flow("order").then(hang)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(begun.is_set)
        await handle.cancel(wait=True)
        await until(seen.is_set)
        assert not stuck.is_set()
        assert await kinds(handle) == ["RunStarted", "RunCancelled"]


async def test_what_a_body_answers_to_its_cancellation_is_not_recorded(place: Place) -> None:
    """Row 33."""
    begun, answered = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        answered.set()
        return "all the same"

    flow = Flow("order").then(stubborn)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await begun.wait()
        await handle.cancel(wait=True)
        await until(answered.is_set)
        with pytest.raises(TaskError, match="cancelled"):
            await handle.result(PATIENCE_S)
        assert await kinds(handle) == ["RunStarted", "RunCancelled"]


async def test_a_body_may_cancel_its_own_run(place: Place) -> None:
    """Row 33."""
    handles: list[AsyncHandle] = []
    stops = 0

    async def give_up() -> None:
        nonlocal stops
        await until(lambda: handles)
        await handles[0].cancel("gave up", by="itself")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stops += 1
            raise

    flow = Flow("order").then(give_up)
    async with place.engine(flow) as engine:
        handles.append(await engine.start(flow))
        with pytest.raises(TaskError, match="cancelled"):
            await handles[0].result(PATIENCE_S)
        assert (await handles[0].status()).cancel_reason == "gave up"
        await until(lambda: stops == 1)


async def test_all_branches_are_cancelled_and_what_is_completed_is_kept(place: Place) -> None:
    """Row 33."""
    gate = Gate()
    flow = parallel(
        {
            "done": [Step("done", task="keep")],
            "gate": [Step("gate", task="gate")],
            "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))],
            "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item"))],
        },
        gate.task,
    )
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await until_branch(handle, "done", "completed")
        await handle.signal("other", "kept")
        await handle.cancel(wait=True)
        status = await handle.status()
        assert {branch.id: branch.status for branch in status.branches.values()} == {
            "main": "completed",
            "done": "completed",
            "gate": "cancelled",
            "nap": "cancelled",
            "wait": "cancelled",
            "main-5": "cancelled",
        }
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCancelled"]
        assert [signal.payload for signal in status.undelivered] == ["kept"]
        await until(lambda: gate.stops == 1)


async def test_cancelling_a_cancelled_run_is_fine(place: Place) -> None:
    """Row 33: the first reason stands."""
    gate = Gate()
    sleeping, running = in_state("sleeping"), Flow("running").then(gate.task)
    async with place.engine(sleeping, running) as engine:
        handles = [await engine.start(sleeping, 1), await engine.start(running, 1)]
        await until_parked(engine, handles[0].id)
        await gate.until_called()
        for handle in handles:
            async with asyncio.TaskGroup() as clients:
                for n in range(3):
                    clients.create_task(handle.cancel(f"reason {n}", wait=True))
            reason = (await handle.status()).cancel_reason
            await handle.cancel("later", wait=True)
            assert (await handle.status()).cancel_reason == reason
            assert (await kinds(handle)).count("RunCancelled") == 1


async def test_a_run_that_has_ended_otherwise_is_not_cancelled(place: Place) -> None:
    """Row 33."""
    good, bad = Flow("good").then(keep), Flow("bad").then(fail)
    async with place.engine(good, bad) as engine:
        completed, failed = await engine.start(good, 1), await engine.start(bad, 1)
        await until_status(completed, "completed")
        await until_status(failed, "failed")
        for handle in (completed, failed):
            before = await kinds(handle)
            with pytest.raises(RunStateError, match="cannot be cancelled") as caught:
                await handle.cancel(wait=True)
            assert caught.value.status == (await handle.status()).status
            assert await kinds(handle) == before
        await engine.delete(completed.id)
        with pytest.raises(RunNotFoundError):
            await completed.cancel()


async def test_a_cancel_that_races_with_the_end_is_acknowledged_or_refused_and_never_both(place: Place) -> None:
    """Row 33, and invariant 30."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    ends: list[str] = []
    async with place.engine(flow) as engine:
        for n in range(30):
            gate.close()
            handle = await engine.start(flow, n)
            await gate.until_called(n + 1)
            async with asyncio.TaskGroup() as clients:
                cancelling = clients.create_task(is_acknowledged(handle))
                if n % 10 == 9:
                    await cancelling
                for _ in range(n % 10):
                    await asyncio.sleep(0)
                gate.open()
            with contextlib.suppress(TaskError):
                await handle.result(PATIENCE_S)
            status = (await handle.status()).status
            assert status == ("cancelled" if cancelling.result() else "completed")
            last = (await kinds(handle))[-1]
            assert last == ("RunCancelled" if cancelling.result() else "RunCompleted")
            ends.append(status)
    assert "cancelled" in ends


async def is_acknowledged(handle: AsyncHandle) -> bool:
    try:
        await handle.cancel()
    except RunStateError as error:
        assert error.status == "completed"  # noqa: PT017 - one of two answers
        return False
    return True


async def test_a_blocked_run_is_cancelled(place: Place) -> None:
    """Rows 33 and 68: whatever its journal says."""
    flow = in_state("backoff")
    async with place.engine(flow) as engine:
        await until_parked(engine, (await engine.start(flow, 1, id="order-1")).id)
    place.clock.advance(2 * DAY_MS)
    place.change_entry("order-1", 2, lambda _entry: b"noise")
    async with place.engine(flow, OTHER) as engine:
        handle = await engine.get("order-1")

        async def is_blocked() -> bool:
            return (await row(engine, "order-1")).status == "blocked"

        await until(is_blocked)
        async with asyncio.timeout(PATIENCE_S):
            await handle.cancel("cannot be read", by="ada", wait=True)
        found = await row(engine, "order-1")
        assert (found.status, found.worker, found.due_at_ms) == ("cancelled", None, None)
        assert (await handle.status()).status == "cancelled"
        assert (await handle.explain()).reason == "over"
        with pytest.raises(TaskError, match="cancelled"):
            await handle.result(PATIENCE_S)
        await handle.cancel("again")
        await engine.delete("order-1")


async def test_a_run_whose_journal_cannot_be_read_is_cancelled_before_a_worker_has_seen_that(
    place: Place,
) -> None:
    """Row 33."""
    flow = in_state("sleeping")
    async with place.engine(flow) as engine:
        await until_parked(engine, (await engine.start(flow, 1, id="order-1")).id)
    place.change_entry("order-1", 1, lambda _entry: b"noise")
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        await handle.cancel()
        assert (await row(engine, "order-1")).status == "cancelled"


async def test_a_run_is_cancelled_while_its_worker_is_closing(place: Place) -> None:
    """Rows 33 and 53: a cancel that was acknowledged is kept to by the next engine at the latest."""
    gate = Gate()

    @task
    async def after(x: Any) -> Any:  # noqa: ANN401 - whatever it is
        return x

    flow = Flow("order").then(gate.task).then(after)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1")
        await gate.until_called()
        await handle.cancel()
        gate.open()
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        await until_status(handle, "cancelled")
        assert "RunCompleted" not in await kinds(handle)
