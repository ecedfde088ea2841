"""Rows 30 and 34: sleeps are durable, last as long as they say, and end by themselves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast import AsyncEngine, Flow, Sleep, Step
from holdfast.errors import DefinitionError
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import Claimed
from holdfast.testing.clock import VirtualClock
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    kinds,
    row,
    stamps,
    until,
    until_branch,
    until_parked,
)

NAP = Flow("order").then(keep).delay("nap", "3d").then(keep)


def at(place: Place, in_ms: int) -> datetime:
    """A moment so far from now by the clock of the place."""
    return datetime.fromtimestamp((place.clock.wall_ms() + in_ms) / 1_000, tz=UTC)


async def test_a_sleep_ends_by_itself_and_passes_on_what_it_got(place: Place) -> None:
    """Rows 30, 34 and 41."""
    async with place.engine(NAP) as engine:
        handle = await engine.start(NAP, "value")
        await until_parked(engine, handle.id)
        found = await row(engine, handle.id)
        due_at_ms = (await stamps(handle))["StepCompleted"] + 3 * DAY_MS
        assert (found.status, found.worker, found.due_at_ms) == ("suspended", None, due_at_ms)
        place.clock.advance(3 * DAY_MS)
        assert await handle.result(PATIENCE_S) == "value"
        assert (await stamps(handle))["SleepEnded"] >= due_at_ms
        recorded = ["RunStarted", "StepCompleted", "SleepEnded", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded


async def test_a_sleep_goes_on_in_the_next_engine_and_ends_there(place: Place) -> None:
    """Rows 30 and 34: the time in which no engine is open counts."""
    async with place.engine(NAP) as engine:
        await until_parked(engine, (await engine.start(NAP, 1, id="order-1")).id)
    place.clock.advance(2 * DAY_MS)
    async with place.engine(NAP) as engine:
        assert (await row(engine, "order-1")).status == "suspended"
        place.clock.advance(DAY_MS)
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == 1
        assert (await row(engine, "order-1")).recoveries == 0


async def test_a_sleep_that_is_over_before_the_next_engine_opens_ends_at_once(place: Place) -> None:
    """Rows 30 and 34."""
    async with place.engine(NAP) as engine:
        await until_parked(engine, (await engine.start(NAP, 1, id="order-1")).id)
    place.clock.advance(10 * DAY_MS)
    async with place.engine(NAP) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1


async def test_a_sleep_is_never_over_too_early(place: Place) -> None:
    """Row 30, and invariant 24."""
    async with place.engine(NAP) as engine:
        await until_parked(engine, (await engine.start(NAP, 1, id="order-1")).id)
    for _ in range(3):
        place.clock.advance(DAY_MS - 60_000)
        async with place.engine(NAP, Flow("other").then(keep)) as engine:
            assert await (await engine.start("other", 1)).result(PATIENCE_S) == 1
            assert (await row(engine, "order-1")).status == "suspended"


async def test_a_sleep_until_a_moment_ends_then(place: Place) -> None:
    """Row 30."""
    until_moment = at(place, DAY_MS)
    flow = Flow("order").delay("nap", until=until_moment).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        due_at_ms = round(until_moment.timestamp() * 1_000)
        assert (await row(engine, handle.id)).due_at_ms == due_at_ms
        (wait,) = (await handle.status()).waiting
        assert wait.due_at == until_moment
        place.clock.advance(DAY_MS)
        assert await handle.result(PATIENCE_S) == 1
        assert (await stamps(handle))["SleepEnded"] >= due_at_ms


@pytest.mark.parametrize("back_ms", [1, DAY_MS, 40 * 365 * DAY_MS])
async def test_a_sleep_until_a_moment_that_has_passed_does_not_wait(place: Place, back_ms: int) -> None:
    """Row 30."""
    flow = Flow("order").delay("nap", until=at(place, -back_ms)).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 1
        assert (await kinds(handle))[:2] == ["RunStarted", "SleepEnded"]


@pytest.mark.parametrize("duration", [0, "0s", timedelta(0)], ids=repr)
async def test_a_sleep_of_no_time_does_not_wait(place: Place, duration: Any) -> None:  # noqa: ANN401 - a duration
    """Row 30."""
    flow = Flow("order").delay("nap", duration).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 1
        assert (await kinds(handle))[:2] == ["RunStarted", "SleepEnded"]


async def test_a_short_sleep_really_passes_and_takes_no_slot(place: Place) -> None:
    """Rows 30 and 63."""
    nap, other = Flow("nap").delay("nap", "150ms").then(keep), Flow("other").then(keep)
    async with place.engine(nap, other, concurrency=1) as engine:
        handle = await engine.start(nap, 1)
        assert await (await engine.start(other, 2)).result(PATIENCE_S) == 2
        assert await handle.result(PATIENCE_S) == 1
        found = await stamps(handle)
        assert found["SleepEnded"] - found["RunStarted"] >= 150


async def test_a_sleep_may_last_a_hundred_years(place: Place) -> None:
    """Row 30, and invariant 28."""
    flow = Flow("order").delay("nap", "36500d").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        assert (await row(engine, handle.id)).due_at_ms == (await stamps(handle))["RunStarted"] + 36500 * DAY_MS
        (wait,) = (await handle.status()).waiting
        assert wait.due_at is not None
        assert wait.due_at.year >= 2123


async def test_branches_sleep_side_by_side(place: Place) -> None:
    """Row 30: the run is due when the first of them is."""
    naps = {n: [Step(n, "sleep", sleep=Sleep.of(f"{n[1:]}h"))] for n in ("h3", "h1", "h2")}
    flow = parallel(naps)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        begun_at_ms = (await stamps(handle))["RunStarted"]
        for hours, name in enumerate(("h1", "h2", "h3"), 1):
            await until_parked(engine, handle.id)
            assert (await row(engine, handle.id)).due_at_ms == begun_at_ms + hours * HOUR_MS
            place.clock.advance(HOUR_MS)
            await until_branch(handle, name, "completed")
        assert await handle.result(PATIENCE_S) == {"h3": 1, "h1": 1, "h2": 1}


async def test_a_branch_sleeps_while_another_one_works(place: Place) -> None:
    """Rows 30 and 34: the run is held, and its worker looks at the clock."""
    gate = Gate()
    nap = [Step("nap", "sleep", sleep=Sleep.of("1h"))]
    flow = parallel({"nap": nap, "gate": [Step("gate", task="gate")]}, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        assert (await handle.status()).branches["nap"].status == "sleeping"
        place.clock.advance(HOUR_MS)
        await until_branch(handle, "nap", "completed")
        assert (await handle.status()).status == "running"
        gate.open()
        assert await handle.result(PATIENCE_S) == {"nap": 1, "gate": 1}


async def test_a_run_may_end_with_a_sleep(place: Place) -> None:
    """Row 30."""
    flow = line(Step("work", task="work"), Step("nap", "sleep", sleep=Sleep.of("1h")), tasks=[Calls().task])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, "value")
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == "value"
        assert (await kinds(handle))[-2:] == ["SleepEnded", "RunCompleted"]


async def test_a_timer_fires_once_and_one_that_was_cancelled_never(place: Place) -> None:
    """Invariant 26."""
    async with place.engine(NAP) as engine:
        ended, cancelled = await engine.start(NAP, 1), await engine.start(NAP, 2)
        await until_parked(engine, ended.id)
        await until_parked(engine, cancelled.id)
        await cancelled.cancel(wait=True)
        place.clock.advance(3 * DAY_MS)
        await ended.result(PATIENCE_S)
        place.clock.advance(3 * DAY_MS)
        assert (await kinds(ended)).count("SleepEnded") == 1
        assert await kinds(cancelled) == ["RunStarted", "StepCompleted", "RunCancelled"]


@pytest.mark.parametrize(
    "sleep",
    [{"duration": -1}, {"duration": "soon"}, {"duration": float("nan")}, {"duration": "101000d"}, {}],
    ids=repr,
)
def test_a_sleep_of_no_duration_is_refused_when_the_flow_is_built(sleep: dict[str, Any]) -> None:
    """Rows 2 and 21."""
    flow = Flow("order").then(keep).delay("nap", **sleep).then(keep)
    with pytest.raises(DefinitionError) as caught:
        flow.build()
    assert [problem.step for problem in caught.value.problems] == ["nap"]


async def test_sleeps_pass_in_virtual_time() -> None:
    """Row 30: to the millisecond, for there nothing else passes."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with AsyncEngine(store=store, clock=clock, workflows=[NAP]) as engine:
        handle = await engine.start(NAP, 1)
        await until_parked(engine, handle.id)
        clock.advance(3 * DAY_MS - 1)
        await drained(engine)
        assert (await handle.status()).status == "suspended"
        clock.advance(1)

        async def is_over() -> bool:
            clock.advance(0)  # for what is due now, and was not asked for before
            return (await handle.status()).status == "completed"

        await until(is_over)
        found = await handle.journal()
        slept = next(entry.at for entry in found if entry.kind == "SleepEnded")
        assert slept - found[1].at == timedelta(days=3)


async def drained(engine: AsyncEngine) -> None:
    """Let everything happen that can happen at this moment of virtual time: another run comes to its sleep."""
    handle = await engine.start(NAP, 2)
    await until_parked(engine, handle.id)


class SlowAnswers(MemoryStore):
    """Time passes while the answer to a claim is under way: the next run becomes due."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self._machine = clock
        self.is_slow = False

    async def claim(self, *args: Any, **options: Any) -> Claimed:  # noqa: ANN401 - as they are passed on
        found = await super().claim(*args, **options)
        if self.is_slow and found.next_due_at_ms is not None:
            self.is_slow = False
            self._machine.advance(found.next_due_at_ms - self.now_ms())
        return found


async def test_a_sleep_that_ends_while_the_worker_looks_for_work_is_not_passed_over() -> None:
    """Row 34, and invariant 25."""
    clock = VirtualClock()
    store = SlowAnswers(clock)
    async with AsyncEngine(store=store, clock=clock, workflows=[NAP]) as engine:
        handle = await engine.start(NAP, 1)
        await until_parked(engine, handle.id)
        store.is_slow = True
        await engine.start(NAP, 2)

        async def is_over() -> bool:
            clock.advance(0)
            return (await handle.status()).status == "completed"

        await until(is_over)
