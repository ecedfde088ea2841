"""Row 32: pausing a run or a branch from outside."""

import asyncio
from functools import partial
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Edge, Flow, Retry, Sleep, Step, WaitSignal, Workflow, task
from holdfast.core.entries import Paused, Unpaused
from holdfast.errors import BranchNotFoundError, RunNotFoundError, RunStateError, TaskError
from holdfast.runtime.controls import Controls
from holdfast.stores.records import RunRecord
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    stamps,
    until,
    until_branch,
    until_parked,
    until_status,
)

HOURLY = Retry(max_retries=9, base_delay="1h", backoff_rate=1)


def waiting_for(reason: str, *, delay: Retry = HOURLY) -> tuple[Workflow, Calls]:
    """A workflow that waits an hour for something, then works, and the work."""
    work = Calls()
    flaky = Calls("flaky", failures=1, retry=[delay])
    first = {
        "backoff": Step("flaky", task="flaky"),
        "timer": Step("nap", "sleep", sleep=Sleep.of("1h")),
        "signal": Step(
            "wait", "wait_signal", wait_signal=WaitSignal.of("item", timeout="1h", on_timeout="work")
        ),
    }[reason]
    return line(first, Step("work", task="work"), tasks=[work.task, flaky.task]), work


REASONS = ("backoff", "timer", "signal")


async def due_of(engine: AsyncEngine, run_id: str) -> int | None:
    await until_parked(engine, run_id)
    return (await row(engine, run_id)).due_at_ms


async def until_recorded(handle: AsyncHandle, kind: str, times: int = 1) -> None:
    async def is_recorded() -> bool:
        return (await kinds(handle)).count(kind) >= times

    await until(is_recorded)


async def test_a_body_that_runs_ends_and_nothing_starts_after_it(place: Place) -> None:
    """Row 32: it takes effect at the next boundary."""
    gate, work = Gate(), Calls()
    flow = Flow("order").then(gate.task).then(work.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause("stock-taking", by="ada")
        await until_recorded(handle, "Paused")
        assert (await handle.status()).status == "paused"
        gate.open()
        await until_recorded(handle, "StepCompleted")
        await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        assert (found.status, found.worker, found.due_at_ms) == ("paused", None, None)
        assert (gate.stops, work.calls) == (0, [])
        await handle.unpause(by="bob")
        assert await handle.result(PATIENCE_S) == 1
        recorded = ["RunStarted", "Paused", "StepCompleted", "Unpaused", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
    assert (len(gate.calls), len(work.calls)) == (1, 1)


async def test_reason_and_who_are_kept(place: Place) -> None:
    """Rows 32 and 35."""
    flow, _ = waiting_for("timer")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause("stock-taking", by="ada")
        status = await handle.status()
        assert status.status == "paused"
        assert status.pause is not None
        assert (status.pause.reason, status.pause.by, status.pause.freezes) == ("stock-taking", "ada", True)
        (wait,) = status.waiting
        assert (wait.branch, wait.step, wait.reason) == ("main", "nap", "pause")
        assert "ada" in wait.detail
        assert "stock-taking" in wait.detail
        await handle.unpause(by="bob")
        status = await handle.status()
        assert (status.status, status.pause) == ("suspended", None)
        paused, unpaused = (await entries(handle))[-2:]
        assert paused == Paused("", "stock-taking", "ada", freezes=True)
        assert unpaused == Unpaused("", "bob")


@pytest.mark.parametrize("reason", REASONS)
async def test_a_pause_freezes_what_is_left_of_a_wait(place: Place, reason: str) -> None:
    """Row 32, and invariant 27: to the millisecond."""
    flow, work = waiting_for(reason)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        due_at_ms = await due_of(engine, handle.id)
        assert due_at_ms is not None
        place.clock.advance(HOUR_MS // 2)
        await handle.pause()
        assert await due_of(engine, handle.id) is None
        place.clock.advance(DAY_MS)
        assert (await handle.status()).status == "paused"
    async with place.engine(flow) as engine:
        handle = await engine.get(handle.id)
        assert (await handle.status()).status == "paused"
        await handle.unpause()
        await until_parked(engine, handle.id)
        found = await stamps(handle)
        later_ms = found["Unpaused"] - found["Paused"]
        assert later_ms >= DAY_MS
        assert await due_of(engine, handle.id) == due_at_ms + later_ms
        (wait,) = (await handle.status()).waiting
        assert (wait.reason, wait.due_at is None) == (reason, False)
        assert work.calls == []
        place.clock.advance(HOUR_MS // 2)
        assert await handle.result(PATIENCE_S) == 1
        assert max((await stamps(handle)).values()) >= due_at_ms + later_ms
    assert work.calls == [1]


@pytest.mark.parametrize("reason", REASONS)
async def test_what_was_frozen_twice_has_lost_no_millisecond(place: Place, reason: str) -> None:
    """Invariant 27."""
    flow, _ = waiting_for(reason)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        due_at_ms = await due_of(engine, handle.id)
        assert due_at_ms is not None
        paused_ms = 0
        for hours in (1, 5):
            place.clock.advance(HOUR_MS // 4)
            await handle.pause()
            place.clock.advance(hours * HOUR_MS)
            await handle.unpause()
            await until_parked(engine, handle.id)
            found = await stamps(handle)
            paused_ms += found["Unpaused"] - found["Paused"]
            assert await due_of(engine, handle.id) == due_at_ms + paused_ms


@pytest.mark.parametrize("reason", ["timer", "signal"])
async def test_without_freezing_a_wait_ends_in_its_time_and_nothing_starts(place: Place, reason: str) -> None:
    """Row 32."""
    flow, work = waiting_for(reason)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        due_at_ms = await due_of(engine, handle.id)
        await handle.pause(freeze=False)
        assert await due_of(engine, handle.id) == due_at_ms
        status = await handle.status()
        assert status.pause is not None
        assert status.pause.freezes is False
        place.clock.advance(HOUR_MS)
        await until_branch(handle, "main", "active")
        await until_parked(engine, handle.id)
        assert (await handle.status()).status == "paused"
        assert (await row(engine, handle.id)).due_at_ms is None
        assert work.calls == []
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1


async def test_without_freezing_a_retry_is_due_in_its_time_and_starts_when_unpaused(place: Place) -> None:
    """Row 32."""
    flow, work = waiting_for("backoff")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause(freeze=False)
        place.clock.advance(2 * HOUR_MS)
        await until_parked(engine, handle.id)
        assert (await handle.status()).branches["main"].status == "backoff"
        assert (await row(engine, handle.id)).due_at_ms is None
        await handle.unpause()  # its hour has passed
        assert await handle.result(PATIENCE_S) == 1
    assert work.calls == [1]


async def test_a_sleep_until_a_moment_is_not_moved_by_a_pause(place: Place) -> None:
    """Rows 30 and 32."""
    work = Calls()
    moment_ms = place.clock.wall_ms() + HOUR_MS
    nap = Step("nap", "sleep", sleep=Sleep(until_ms=moment_ms))
    flow = line(nap, Step("work", task="work"), tasks=[work.task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause()
        assert await due_of(engine, handle.id) == moment_ms
        place.clock.advance(HOUR_MS)
        await until_recorded(handle, "SleepEnded")
        await until_parked(engine, handle.id)
        assert ((await handle.status()).status, work.calls) == ("paused", [])
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1


async def test_a_run_that_joins_is_paused_there(place: Place) -> None:
    """Row 32: a branch that waits at a join, while another one works."""
    gate = Gate()
    flow = parallel({"gate": [Step("gate", task="gate")], "fast": [Step("fast", task="keep")]}, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause()
        gate.open()
        await until_recorded(handle, "BranchJoined")
        await until_parked(engine, handle.id)
        status = await handle.status()
        assert (status.status, status.waiting[0].step) == ("paused", "end")
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == {"gate": 1, "fast": 1}


async def test_pausing_and_unpausing_twice_is_fine(place: Place) -> None:
    """Row 32: the first pause stands."""
    flow, _ = waiting_for("timer")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.unpause()
        await handle.pause("first", by="ada")
        await handle.pause("second", by="bob", freeze=False)
        await handle.pause()
        status = await handle.status()
        assert status.pause is not None
        assert (status.pause.reason, status.pause.by, status.pause.freezes) == ("first", "ada", True)
        await handle.unpause()
        await handle.unpause()
        assert await kinds(handle) == ["RunStarted", "Paused", "Unpaused"]


async def test_pausing_twice_while_a_body_runs_is_fine(place: Place) -> None:
    """Row 32: through the inbox of a worker."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        for _ in range(2):
            await handle.pause("first")
            await handle.pause("second")
            await handle.unpause()
            await handle.unpause()
        gate.open()
        assert await handle.result(PATIENCE_S) == 1
        recorded = [kind for kind in await kinds(handle) if kind in {"Paused", "Unpaused"}]
        assert recorded == ["Paused", "Unpaused"] * 2
    assert len(gate.calls) == 1


@pytest.mark.parametrize("freeze", [True, False])
async def test_a_signal_is_received_in_a_pause_and_nothing_starts(place: Place, freeze: bool) -> None:
    """Rows 28 and 32, and invariants 21 and 31."""
    flow, work = waiting_for("signal")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        await handle.pause(freeze=freeze)
        await handle.signal("item", "sent in a pause")
        await until_recorded(handle, "SignalReceived")
        await until_parked(engine, handle.id)
        status = await handle.status()
        assert (status.status, status.undelivered, work.calls) == ("paused", [], [])
        await handle.signal("item", "another one")
        assert [signal.payload for signal in (await handle.status()).undelivered] == ["another one"]
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == "sent in a pause"
    assert work.calls == ["sent in a pause"]


async def test_a_pause_of_a_branch_leaves_the_others_going(place: Place) -> None:
    """Row 32."""
    left, right, work = Gate("left"), Gate("right"), Calls()
    flow = parallel(
        {
            "left": [Step("left", task="left"), Step("work", task="work")],
            "right": [Step("right", task="right"), Step("more", task="keep")],
        },
        left.task,
        right.task,
        work.task,
    )
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await left.until_called()
        await right.until_called()
        await handle.pause("only this", by="ada", branch="left")
        left.open()
        right.open()
        await until_branch(handle, "right", "completed")
        await until_parked(engine, handle.id)
        status = await handle.status()
        assert (status.status, status.pause, work.calls) == ("paused", None, [])
        pause = status.branches["left"].pause
        assert pause is not None
        assert (pause.reason, pause.by) == ("only this", "ada")
        assert status.branches["right"].pause is None
        assert [(wait.branch, wait.reason) for wait in status.waiting] == [
            ("left", "pause"),
            ("main-3", "join"),
        ]
        await handle.unpause(branch="left")
        assert await handle.result(PATIENCE_S) == {"left": 1, "right": 1}


async def test_a_pause_of_a_branch_freezes_its_clock_only(place: Place) -> None:
    """Row 32."""
    naps = {name: [Step(name, "sleep", sleep=Sleep.of("1h"))] for name in ("left", "right")}
    flow = parallel(naps)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        due_at_ms = await due_of(engine, handle.id)
        await handle.pause(branch="left")
        place.clock.advance(HOUR_MS)
        await until_branch(handle, "right", "completed")
        assert (await handle.status()).branches["left"].status == "sleeping"
        assert await due_of(engine, handle.id) is None
        await handle.unpause(branch="left")
        found = await stamps(handle)
        assert due_at_ms is not None
        assert await due_of(engine, handle.id) == due_at_ms + found["Unpaused"] - found["Paused"]


async def test_a_branch_that_a_paused_one_starts_is_paused(place: Place) -> None:
    """Row 32."""
    gate, work = Gate(), Calls()
    steps = [
        Step("gate", task="gate", edges=(Edge("work", "a"), Edge("end", "b"))),
        Step("work", task="work"),
        Step("end", task="keep"),
    ]
    flow = Workflow("order", steps, tasks=[gate.task, work.task, keep])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause(branch="main")
        gate.open()
        await until_recorded(handle, "StepCompleted")
        await until_parked(engine, handle.id)
        status = await handle.status()
        assert (status.status, work.calls) == ("paused", [])
        assert [wait.branch for wait in status.waiting] == ["a", "b"]
        await handle.unpause(branch="a")
        await until_branch(handle, "a", "completed")
        assert (await handle.status()).branches["b"].status == "active"
        await handle.unpause()  # of the run: the pauses of all branches end with it
        await handle.result(PATIENCE_S)


async def test_a_branch_is_paused_in_a_paused_run_and_outlives_no_unpause_of_the_run(place: Place) -> None:
    """Row 32: two pauses; each is its own."""
    flow, _ = waiting_for("timer")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        due_at_ms = await due_of(engine, handle.id)
        await handle.pause("run")
        await handle.pause("branch", branch="main")
        status = await handle.status()
        branch_pause = status.branches["main"].pause
        assert status.pause is not None
        assert branch_pause is not None
        assert (status.pause.reason, branch_pause.reason) == ("run", "branch")
        await handle.unpause(branch="main")
        status = await handle.status()
        assert (status.status, status.branches["main"].pause) == ("paused", None)
        assert await due_of(engine, handle.id) is None
        await handle.pause("branch", branch="main")
        await handle.unpause()
        status = await handle.status()
        assert (status.status, status.pause, status.branches["main"].pause) == ("suspended", None, None)
        found = await stamps(handle)
        first = next(entry.at for entry in await handle.journal() if entry.kind == "Paused")
        assert due_at_ms is not None
        frozen_ms = found["Unpaused"] - round(first.timestamp() * 1_000)
        assert await due_of(engine, handle.id) == due_at_ms + frozen_ms


async def test_a_pause_and_an_unpause_while_a_body_runs_start_nothing_twice(place: Place) -> None:
    """Row 32, and invariant 11."""
    gate = Gate()
    flow = Flow("order").then(gate.task).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause()
        await until_recorded(handle, "Paused")
        await handle.unpause()
        await until_recorded(handle, "Unpaused")
        assert (await handle.status()).status == "running"
        gate.open()
        assert await handle.result(PATIENCE_S) == 1
    assert (len(gate.calls), gate.stops) == (1, 0)


async def test_a_run_may_end_in_a_pause(place: Place) -> None:
    """Row 32: its last body ran already; it completes, or it fails."""
    good, bad = Gate("good"), Gate("bad")

    async def fail_later(x: Any) -> None:  # noqa: ANN401 - whatever it is
        await bad.task.fn(x)
        raise ValueError("no")

    completes, fails = Flow("completes").then(good.task), Flow("fails").then(fail_later)
    async with place.engine(completes, fails) as engine:
        handle, other = await engine.start(completes, 1), await engine.start(fails, 1)
        await good.until_called()
        await bad.until_called()
        for each in (handle, other):
            await each.pause()
            await until_recorded(each, "Paused")
        good.open()
        assert await handle.result(PATIENCE_S) == 1
        assert await kinds(handle) == ["RunStarted", "Paused", "StepCompleted", "RunCompleted"]
        bad.open()
        with pytest.raises(TaskError, match="no"):
            await other.result(PATIENCE_S)
        assert await kinds(other) == ["RunStarted", "Paused", "RunFailed"]


async def test_a_body_that_fails_in_a_pause_waits_for_its_retry_after_it(place: Place) -> None:
    """Rows 23 and 32: its delay does not run meanwhile."""
    gate = Gate()

    async def flaky(x: Any) -> Any:  # noqa: ANN401 - whatever it is
        await gate.task.fn(x)
        if len(gate.calls) == 1:
            raise ConnectionError("busy")
        return x

    flow = Flow("order").then(task(retry=HOURLY)(flaky))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause()
        await until_recorded(handle, "Paused")
        gate.open()
        await until_recorded(handle, "RetryScheduled")
        assert await due_of(engine, handle.id) is None
        place.clock.advance(DAY_MS)
        await handle.unpause()
        assert await due_of(engine, handle.id) == (await stamps(handle))["Unpaused"] + HOUR_MS
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 1
    assert len(gate.calls) == 2


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_run_that_no_worker_had_yet_is_paused_before_it_begins(place: Place, is_known: bool) -> None:
    """Rows 32 and 49: that needs neither a worker nor the definition."""
    work = Calls()
    flow = Flow("order").then(work.task)
    async with place.engine(flow):
        pass
    async with place.engine() as engine:
        handle = await engine.start("order", 1, id="order-1")
        assert (await handle.status()).status == "pending"
        await handle.pause(by="ada")
        assert (await handle.status()).status == "paused"
    other = Flow("other").then(keep)
    async with place.engine(*([flow] if is_known else []), other) as engine:
        assert await (await engine.start(other, 1)).result(PATIENCE_S) == 1
        assert (await (await engine.get("order-1")).status()).status == "paused"
        await (await engine.get("order-1")).unpause()
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1
    assert work.calls == [1]


async def test_a_run_that_is_over_is_not_paused(place: Place) -> None:
    """Row 32."""
    flow = Flow("order").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await handle.result(PATIENCE_S)
        with pytest.raises(RunStateError, match="cannot be paused") as caught:
            await handle.pause()
        assert caught.value.status == "completed"
        with pytest.raises(RunStateError, match="cannot be unpaused"):
            await handle.unpause()
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
        await engine.delete(handle.id)
        with pytest.raises(RunNotFoundError):
            await handle.pause()


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_branch_that_is_not_there_is_not_paused(place: Place, is_held: bool) -> None:
    """Row 32: the error names those that are."""
    gate = Gate()
    flow = Flow("order").then(gate.task) if is_held else waiting_for("timer")[0]
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await (gate.until_called() if is_held else until_parked(engine, handle.id))
        with pytest.raises(BranchNotFoundError) as caught:
            await handle.pause(branch="other")
        assert (caught.value.branch, caught.value.known) == ("other", ("main",))
        with pytest.raises(BranchNotFoundError):
            await handle.unpause(branch="other")
        assert await kinds(handle) == ["RunStarted"]
        gate.open()


async def test_a_pause_outlives_its_engine(place: Place) -> None:
    """Row 32: it is in the journal, and the next engine keeps to it."""
    gate, work = Gate(), Calls()
    flow = Flow("order").then(gate.task).then(work.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1")
        await gate.until_called()
        await handle.pause()
        gate.open()
    for _ in range(2):
        async with place.engine(flow) as engine:
            handle = await engine.get("order-1")
            await until_status(handle, "paused")
            assert work.calls == []
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1
    assert len(gate.calls) == 1


@pytest.mark.embedded
async def test_an_unpause_that_is_heard_at_once_is_no_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run may be over before whoever has sent it looks again."""
    gate, work = Gate(), Calls()
    flow = Flow("order").then(gate.task).then(work.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.pause()
        await until_recorded(handle, "Paused")
        looks: list[str] = []

        async def late(controls: Controls, run_id: str) -> RunRecord:
            looks.append(run_id)
            if len(looks) > 1:
                gate.open()
                await until_status(handle, "completed")
            return await find(controls, run_id)

        find = Controls._find
        monkeypatch.setattr(Controls, "_find", late)
        await handle.unpause()
        assert (len(looks), work.calls) == (2, [1])


async def test_nothing_starts_after_a_pause_was_acknowledged(place: Place) -> None:
    """Invariant 31: whatever is under way may end, and no step after it begins."""
    calls: list[int] = []

    async def work(x: int) -> int:
        await asyncio.sleep(0.002)  # a hundred of them outlast the asking, so no run ends before it is paused
        calls.append(x)
        return x

    flow = Flow("order")
    for n in range(100):
        flow.then(work, name=f"step-{n}")
    async with place.engine(flow) as engine:
        for moment in range(8):
            handle = await engine.start(flow, moment)
            await until(partial(has_calls, calls, moment, moment + 1))
            await handle.pause()
            await until_recorded(handle, "Paused")
            await until_parked(engine, handle.id)
            recorded = await kinds(handle)
            assert recorded[recorded.index("Paused") :].count("StepCompleted") <= 1
            known = calls.count(moment)
            assert recorded.count("StepCompleted") == known
            await handle.unpause()
            assert await handle.result(PATIENCE_S) == moment
            assert calls.count(moment) == 100


def has_calls(calls: list[int], value: int, times: int) -> bool:
    return calls.count(value) >= times
