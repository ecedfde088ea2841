"""Rows 35 and 49: what a status tells of a run that waits, and of one that was controlled."""

from holdfast import Flow, Retry, Sleep, Step, WaitSignal
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    ms,
    row,
    stamps,
    until_branch,
    until_parked,
    until_status,
)


async def test_everything_that_branches_wait_for_is_told_the_dominant_first(place: Place) -> None:
    """Row 35: pauses, then signals, then timers, retries and joins; of one kind the earliest first."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=9, base_delay="10m")])
    branches = {
        "nap_2": [Step("nap_2", "sleep", sleep=Sleep.of("2h"))],
        "nap_1": [Step("nap_1", "sleep", sleep=Sleep.of("1h"))],
        "nap_3": [Step("nap_3", "sleep", sleep=Sleep.of("3h"))],
        "endless": [Step("endless", "wait_signal", wait_signal=WaitSignal.of("a"))],
        "timed": [Step("timed", "wait_signal", wait_signal=WaitSignal.of("b", timeout="9h"))],
        "flaky": [Step("flaky", task="flaky")],
        "done": [Step("done", task="keep")],
    }
    flow = parallel(branches, flaky.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_branch(handle, "done", "completed")
        await until_status(handle, "suspended")
        await until_parked(engine, handle.id)
        await handle.pause(branch="nap_3")
        status = await handle.status()
        told = [(wait.branch, wait.reason, wait.signal) for wait in status.waiting]
        assert told == [
            ("nap_3", "pause", None),
            ("timed", "signal", "b"),
            ("endless", "signal", "a"),
            ("nap_1", "timer", None),
            ("nap_2", "timer", None),
            ("flaky", "backoff", None),
            ("main-8", "join", None),
        ]
        found = await stamps(handle)
        due = {wait.branch: wait.due_at and ms(wait.due_at) for wait in status.waiting}
        assert due == {
            "nap_3": None,
            "timed": found["RunStarted"] + 9 * HOUR_MS,
            "endless": None,
            "nap_1": found["RunStarted"] + HOUR_MS,
            "nap_2": found["RunStarted"] + 2 * HOUR_MS,
            "flaky": found["RetryScheduled"] + HOUR_MS // 6,
            "main-8": None,
        }
        assert (await row(engine, handle.id)).due_at_ms == found["RetryScheduled"] + HOUR_MS // 6
        since = {wait.branch: wait.since and ms(wait.since) for wait in status.waiting}
        assert since["timed"] == since["nap_1"] == since["main-8"] == found["RunStarted"]
        steps = {wait.branch: wait.step for wait in status.waiting}
        assert (steps["timed"], steps["main-8"]) == ("timed", "join")
        assert all(wait.detail for wait in status.waiting)
        join = status.waiting[-1]
        assert "nap_1" in join.detail
        assert "done" not in join.detail


async def test_a_branch_that_works_waits_for_nothing(place: Place) -> None:
    """Row 35: what is told beside it is told all the same."""
    gate = Gate()
    branches = {"gate": [Step("gate", task="gate")], "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))]}
    flow = parallel(branches, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        status = await handle.status()
        assert status.status == "running"
        assert [(wait.branch, wait.reason) for wait in status.waiting] == [("nap", "timer"), ("main-3", "join")]
        gate.open()
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == {"gate": 1, "nap": 1}
        assert (await handle.status()).waiting == []


async def test_branches_tell_their_statuses_and_clocks(place: Place) -> None:
    """Rows 35 and 49."""
    branches = {
        "nap": [Step("nap", "sleep", sleep=Sleep.of("1h"))],
        "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item"))],
    }
    flow = parallel(branches)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        told = {branch.id: branch.status for branch in (await handle.status()).branches.values()}
        assert told == {"main": "completed", "nap": "sleeping", "wait": "waiting", "main-3": "joining"}
        await handle.pause("why", by="ada", branch="nap")
        status = await handle.status()
        assert {branch.id: branch.pause is not None for branch in status.branches.values()} == {
            "main": False,
            "nap": True,
            "wait": False,
            "main-3": False,
        }
        assert all(branch.variables == {} for branch in status.branches.values())


async def test_runs_are_listed_by_all_their_statuses(place: Place) -> None:
    """Row 49."""
    gate, naps = Gate(), Flow("naps").delay("nap", "1h")
    runs, sound = Flow("runs").then(gate.task), Flow("sound").then(keep)
    async with place.engine(runs, naps, sound) as engine:
        running = await engine.start(runs, 1, id="running")
        await gate.until_called()
        for name in ("suspended", "paused", "cancelled"):
            handle = await engine.start(naps, 1, id=name)
            await until_parked(engine, name)
            if name == "paused":
                await handle.pause()
            elif name == "cancelled":
                await handle.cancel()
        await (await engine.start(sound, 1, id="completed")).result(PATIENCE_S)
        for status in ("running", "suspended", "paused", "cancelled", "completed"):
            assert [run.id for run in await engine.list(status=status)] == [status]
        for status in ("pending", "blocked", "failed"):
            assert await engine.list(status=status) == []
        gate.open()
        await running.result(PATIENCE_S)
