"""Row 31: steps at which a branch is paused until someone unpauses it."""

import pytest

from holdfast import Edge, Join, Pause, Step, Workflow
from holdfast.core.entries import Paused
from tests.semantics.flows import DAY_MS, Calls, keep, line
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    until_branch,
    until_parked,
    until_status,
)

REVIEW = Step("review", "pause", pause=Pause("look at it"))


async def test_a_branch_is_paused_where_it_comes_to_after_the_step(place: Place) -> None:
    """Row 31: it starts nothing until it is unpaused, however long that takes."""
    work = Calls()
    flow = line(Step("first", task="keep"), REVIEW, Step("work", task="work"), tasks=[work.task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "paused")
        await until_parked(engine, handle.id)
        status = await handle.status()
        pause = status.branches["main"].pause
        assert status.pause is None
        assert pause is not None
        assert (pause.reason, pause.by, status.branches["main"].step) == ("look at it", "", "work")
        (wait,) = status.waiting
        assert (wait.reason, wait.step, wait.due_at) == ("pause", "work", None)
        assert "look at it" in wait.detail
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "Paused"]
        assert (await entries(handle))[-1] == Paused("main", "look at it", "")
        assert (await row(engine, handle.id)).due_at_ms is None
        place.clock.advance(DAY_MS)
    async with place.engine(flow) as engine:
        handle = await engine.get(handle.id)
        assert ((await handle.status()).status, work.calls) == ("paused", [])
        await handle.unpause(by="ada")
        assert await handle.result(PATIENCE_S) == 1
    assert work.calls == [1]


@pytest.mark.parametrize("branch", [None, "main"])
async def test_an_unpause_of_the_run_or_of_the_branch_lets_it_go_on(place: Place, branch: str | None) -> None:
    """Rows 31 and 32."""
    flow = line(Step("first", task="keep"), REVIEW, Step("end", task="keep"))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "paused")
        await handle.unpause(branch=branch)
        assert await handle.result(PATIENCE_S) == 1


async def test_a_run_may_begin_with_a_pause(place: Place) -> None:
    """Row 31."""
    work = Calls()
    flow = line(REVIEW, Step("work", task="work"), tasks=[work.task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "paused")
        assert (await kinds(handle), work.calls) == (["RunStarted", "Paused"], [])
        await until_parked(engine, handle.id)
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1


async def test_each_branch_after_a_pause_is_paused_on_its_own(place: Place) -> None:
    """Row 31: at its successors."""
    a, b = Calls("a"), Calls("b")
    pause = Step("review", "pause", pause=Pause("both"), edges=(Edge("a", "a"), Edge("b", "b"), Edge("join")))
    steps = [
        Step("first", task="keep", edges=(Edge("review"),)),
        pause,
        Step("a", task="a"),
        Step("b", task="b"),
        Step("join", "join", join=Join(("a", "b"))),
    ]
    flow = Workflow("order", steps, tasks=[keep, a.task, b.task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "paused")
        await until_parked(engine, handle.id)
        assert (a.calls, b.calls) == ([], [])
        await handle.unpause(branch="a")
        await until_branch(handle, "a", "completed")
        await until_parked(engine, handle.id)
        assert ((await handle.status()).status, b.calls) == ("paused", [])
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == {"a": 1, "b": 1}
    assert (a.calls, b.calls) == ([1], [1])


async def test_a_pause_step_is_passed_anew_in_each_round(place: Place) -> None:
    """Rows 16 and 31."""
    work = Calls()
    steps = [
        Step("work", task="work", edges=(Edge("review"),)),
        Step("review", "pause", pause=Pause("again?"), edges=(Edge("work"),)),
    ]
    flow = Workflow("order", steps, tasks=[work.task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        for rounds in range(1, 4):
            await until_status(handle, "paused")
            await until_parked(engine, handle.id)
            assert len(work.calls) == rounds
            await handle.unpause()
        await handle.cancel()


async def test_two_pause_steps_in_a_row_are_one_pause(place: Place) -> None:
    """Row 31: one unpause lets the branch go on."""
    second = Step("second", "pause", pause=Pause("second"))
    flow = line(Step("first", task="keep"), REVIEW, second, Step("end", task="keep"))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_status(handle, "paused")
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1
