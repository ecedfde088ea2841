"""Section 7: ids, starting twice, status, resuming, and results."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from holdfast import AsyncHandle, Flow, Retry, task
from holdfast.errors import (
    ResultTimeoutError,
    RunConflictError,
    RunExistsError,
    RunNotFoundError,
    TaskError,
    UsageError,
)
from tests.semantics.places import Place, kinds, row, until, until_status


async def inc(x: int) -> int:
    return x + 1


async def fail(_x: int) -> int:
    raise ValueError("no")


INC, FAIL = Flow("inc").then(inc), Flow("fail").then(fail)


def held_up() -> tuple[Flow, asyncio.Event]:
    """A flow whose only step waits, and what lets it go on."""
    may_end = asyncio.Event()

    async def hold(x: int) -> int:
        await may_end.wait()
        return x

    return Flow("hold").then(hold), may_end


async def test_a_generated_id_is_128_random_bits_in_base32(place: Place) -> None:
    """Row 47."""
    async with place.engine(INC) as engine:
        ids = {(await engine.start(INC, n)).id for n in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch("run_[a-z2-7]{26}", run_id) for run_id in ids)


@pytest.mark.parametrize("run_id", ["a", "x" * 255, "é" * 127, "order 42/Ä:%_'\"", " ", "🙂"])
async def test_an_id_of_1_to_255_bytes_is_taken_as_it_is(place: Place, run_id: str) -> None:
    """Row 47."""
    async with place.engine(INC) as engine:
        handle = await engine.start(INC, 1, id=run_id)
        assert await handle.result() == 2
        assert handle.id == run_id
        assert await (await engine.get(run_id)).result() == 2
        assert [run.id for run in await engine.list()] == [run_id]


@pytest.mark.parametrize(
    "run_id",
    ["", "x" * 256, "é" * 128, "a\nb", "a\x00b", "\x7f", "a\x85b", "\ud800", 5, b"bytes"],
    ids=repr,
)
async def test_any_other_id_is_refused(place: Place, run_id: str) -> None:
    """Row 47."""
    async with place.engine(INC) as engine:
        with pytest.raises(UsageError, match="255 bytes"):
            await engine.start(INC, 1, id=run_id)
        assert await engine.list() == []


async def test_starting_an_id_that_is_there_is_refused(place: Place) -> None:
    """Row 48."""
    async with place.engine(INC, FAIL) as engine:
        handle = await engine.start(INC, 1, id="order-1")
        await handle.result()
        for flow, value in ((INC, 1), (INC, 2), (FAIL, 1)):
            with pytest.raises(RunExistsError) as caught:
                await engine.start(flow, value, id="order-1")
            facts = caught.value.facts
            assert facts == {"run_id": "order-1", "workflow": "inc", "status": "completed"}
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_the_existing_run_is_used_where_workflow_and_input_are_the_same(place: Place) -> None:
    """Row 48."""
    calls: list[int] = []

    async def note(x: int) -> int:
        calls.append(x)
        return x + 1

    flow = Flow("note").then(note)
    async with place.engine(flow, INC) as engine:
        for _ in range(3):
            handle = await engine.start(flow, 1, id="order-1", on_conflict="use_existing")
            assert await handle.result() == 2
        with pytest.raises(RunConflictError, match="another input"):
            await engine.start(flow, 2, id="order-1", on_conflict="use_existing")
        with pytest.raises(RunConflictError, match="another workflow"):
            await engine.start(INC, 1, id="order-1", on_conflict="use_existing")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1", on_conflict="use_existing")
        assert await handle.result() == 2
    assert calls == [1]


async def test_one_id_started_by_many_at_once_is_one_run(place: Place) -> None:
    """Row 48."""
    calls: list[int] = []

    async def note(x: int) -> int:
        calls.append(x)
        return x

    flow = Flow("note").then(note)
    async with place.engine(flow) as engine, asyncio.TaskGroup() as clients:
        starts = [
            clients.create_task(engine.start(flow, 1, id="order-1", on_conflict="use_existing"))
            for _ in range(20)
        ]
        handles = [await start for start in starts]
        assert [await handle.result(5) for handle in handles] == [1] * 20
        assert await kinds(handles[0]) == ["RunStarted", "StepCompleted", "RunCompleted"]
    assert calls == [1]


async def test_the_existing_run_that_failed_is_given_as_it_is(place: Place) -> None:
    """Row 48."""
    async with place.engine(FAIL) as engine:
        for _ in range(2):
            handle = await engine.start(FAIL, 1, id="order-1", on_conflict="use_existing")
            with pytest.raises(TaskError):
                await handle.result()
        assert await kinds(handle) == ["RunStarted", "RunFailed"]


async def test_an_unknown_answer_to_conflicts_is_refused(place: Place) -> None:
    """Row 48."""
    async with place.engine(INC) as engine:
        with pytest.raises(UsageError, match="on_conflict 'replace'"):
            await engine.start(INC, 1, on_conflict="replace")  # type: ignore[arg-type] - the case


@pytest.mark.embedded
async def test_a_run_is_pending_until_there_is_a_slot(place: Place) -> None:
    """Row 49."""
    hold, may_end = held_up()
    async with place.engine(hold, INC, concurrency=1) as engine:
        running = await engine.start(hold, 1)
        waiting = await engine.start(INC, 1)
        assert (await running.status()).status == "running"
        assert (await waiting.status()).status == "pending"
        assert (await row(engine, waiting.id)).worker is None
        may_end.set()
        assert await waiting.result(5) == 2
        assert (await waiting.status()).status == "completed"


@pytest.mark.embedded
async def test_a_status_tells_everything_about_a_run(place: Place) -> None:
    """Row 49."""
    hold, may_end = held_up()
    begun = datetime.now(UTC)
    async with place.engine(hold, FAIL) as engine:
        handle = await engine.start(hold, 5, id="order-1")
        status = await handle.status()
        assert (status.id, status.workflow, status.status) == ("order-1", "hold", "running")
        assert (status.output, status.failure, status.waiting, status.position) == (None, None, [], 1)
        assert status.fingerprint == hold.build().fingerprint
        main = status.branches["main"]
        assert (main.status, main.step, main.attempt, main.parent) == ("active", "hold", 1, None)
        may_end.set()
        await handle.result()
        status = await handle.status()
        assert (status.status, status.output, status.worker) == ("completed", 5, None)
        assert status.branches["main"].status == "completed"
        late = timedelta(seconds=5)
        assert begun - timedelta(milliseconds=5) <= status.created_at <= status.updated_at <= begun + late
        failed = await engine.start(FAIL, 5)
        with pytest.raises(TaskError):
            await failed.result()
        status = await failed.status()
        assert (status.status, status.branches["main"].status) == ("failed", "failed")
        assert status.failure == status.branches["main"].failure


async def test_waiting_for_a_retry_is_told_with_its_due_time(place: Place) -> None:
    """Rows 35 and 49."""

    @task(retry=Retry(base_delay="1h"))
    async def busy() -> None:
        raise ConnectionError("try later")

    flow = Flow("order").then(busy)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await until_status(handle, "suspended")
        (wait,) = (await handle.status()).waiting
        assert (wait.branch, wait.step, wait.reason) == ("main", "busy", "backoff")
        assert "try later" in wait.detail
        (retry,) = [entry for entry in await handle.journal() if entry.kind == "RetryScheduled"]
        assert wait.due_at == retry.at + timedelta(hours=1)


async def test_a_handle_of_an_unknown_run_is_refused(place: Place) -> None:
    """Row 51."""
    async with place.engine(INC) as engine:
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.get("nobody")
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.resume("nobody")
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.list(after="nobody")


async def test_resuming_a_run_that_is_over_gives_its_result(place: Place) -> None:
    """Row 51."""
    async with place.engine(INC, FAIL) as engine:
        await (await engine.start(INC, 1, id="good")).result()
        with pytest.raises(TaskError):
            await (await engine.start(FAIL, 1, id="bad")).result()
    async with place.engine(INC, FAIL) as engine:
        assert await engine.resume("good") == 2
        with pytest.raises(TaskError, match="ValueError"):
            await engine.resume("bad")


@pytest.mark.embedded
async def test_resuming_drives_one_run_here_and_now(place: Place) -> None:
    """Row 51."""
    hold, may_end = held_up()
    async with place.engine(hold, INC, concurrency=1) as engine:
        await engine.start(hold, 1)
        waiting = await engine.start(INC, 1)
        assert (await waiting.status()).status == "pending"
        assert await engine.resume(waiting.id) == 2
        may_end.set()


async def test_resuming_a_run_that_is_driven_waits_for_it(place: Place) -> None:
    """Row 51."""
    hold, may_end = held_up()
    async with place.engine(hold) as engine, asyncio.TaskGroup() as clients:
        handle = await engine.start(hold, 1)
        resumed = [clients.create_task(engine.resume(handle.id)) for _ in range(3)]
        await until_status(handle, "running")
        may_end.set()
        assert [await each for each in resumed] == [1, 1, 1]
        assert (await row(engine, handle.id)).epoch == 1


async def test_many_may_wait_for_one_result(place: Place) -> None:
    """Row 59."""
    hold, may_end = held_up()
    async with place.engine(hold) as engine, asyncio.TaskGroup() as clients:
        handle = await engine.start(hold, 1)
        waiting = [clients.create_task(handle.result(5)) for _ in range(5)]
        other = await engine.get(handle.id)
        waiting += [clients.create_task(other.result(5)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        may_end.set()
        assert [await each for each in waiting[1:]] == [1] * 9


@pytest.mark.embedded
async def test_a_result_that_is_not_there_in_time_leaves_the_run_going(place: Place) -> None:
    """Row 59."""
    hold, may_end = held_up()
    async with place.engine(hold) as engine:
        handle = await engine.start(hold, 1, id="order-1")
        for timeout in ("20ms", 0, timedelta(milliseconds=1)):
            with pytest.raises(ResultTimeoutError) as caught:
                await handle.result(timeout)
            assert (caught.value.facts["run_id"], caught.value.facts["status"]) == ("order-1", "running")
        may_end.set()
        assert await handle.result(5) == 1


async def test_a_result_that_is_there_is_given_without_waiting(place: Place) -> None:
    """Row 59."""
    async with place.engine(INC) as engine:
        handle = await engine.start(INC, 1, id="order-1")
        await handle.result(5)
        assert await handle.result(timeout=0) == 2
        assert await (await engine.get("order-1")).result(timeout=0) == 2


@pytest.mark.parametrize("waiting", [-1, float("nan"), "soon", True])
async def test_a_time_to_wait_that_is_none_is_refused(place: Place, waiting: float) -> None:
    """Row 59."""
    hold, may_end = held_up()
    async with place.engine(hold) as engine:
        handle = await engine.start(hold, 1)
        with pytest.raises(UsageError, match="timeout"):
            await handle.result(waiting)
        may_end.set()


async def test_runs_are_listed_by_status_and_workflow_in_pages(place: Place) -> None:
    """Row 49."""
    async with place.engine(INC, FAIL) as engine:
        handles: list[AsyncHandle] = []
        for n in range(4):
            handles += [await engine.start(INC, n, id=f"inc-{n}"), await engine.start(FAIL, n, id=f"bad-{n}")]
        for handle in handles:
            await until(handle_is_over(handle))
        assert [run.id for run in await engine.list(workflow="inc")] == ["inc-3", "inc-2", "inc-1", "inc-0"]
        assert [run.id for run in await engine.list(status="failed", limit=2)] == ["bad-3", "bad-2"]
        rest = await engine.list(status="failed", limit=9, after="bad-2")
        assert [run.id for run in rest] == ["bad-1", "bad-0"]
        assert await engine.list(status="completed", workflow="fail") == []
        assert len(await engine.list()) == 8
        (first,) = await engine.list(limit=1)
        assert (first.workflow, first.status, first.position) == ("fail", "failed", 2)


def handle_is_over(handle: AsyncHandle) -> object:
    async def is_over() -> bool:
        return (await handle.status()).status in {"completed", "failed"}

    return is_over
