"""Row 50: `run` and `arun` drive a run that nobody else knows of; waits really wait."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast import Flow, Pause, Retry, Sleep, Step, WaitSignal, arun, run
from holdfast.errors import RunWaitingError, TaskError
from tests.semantics.flows import Calls, Gate, keep, line, parallel


async def remind(x: Any) -> Any:  # noqa: ANN401 - whatever it is
    return f"{x}: no answer"


def test_a_sleep_of_a_run_really_sleeps() -> None:
    """Row 50."""
    begun = time.monotonic()
    assert run(Flow("order").delay("nap", "60ms").then(keep), 1) == 1
    assert time.monotonic() - begun >= 0.06


async def test_a_sleep_longer_than_a_run_lingers_really_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 50 and 63: the run is given back, and claimed when it is due."""
    monkeypatch.setattr("holdfast.runtime.driver.LINGER_MS", 1)
    until_moment = datetime.now(UTC) + timedelta(milliseconds=80)
    flow = Flow("order").delay("a", "40ms").delay("b", until=until_moment).then(keep)
    assert await arun(flow, 1) == 1
    assert datetime.now(UTC) >= until_moment


async def test_a_retry_longer_than_a_run_lingers_really_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 23 and 50."""
    monkeypatch.setattr("holdfast.runtime.driver.LINGER_MS", 1)
    flaky = Calls("flaky", failures=2, retry=[Retry(base_delay="20ms")])
    assert await arun(Flow("order").then(flaky.task), 1) == 1
    assert len(flaky.calls) == 3


WAITS = {
    "for ever": WaitSignal.of("approval"),
    "for an hour": WaitSignal.of("approval", timeout="1h"),
    "for a moment": WaitSignal.of("approval", timeout="100ms"),
}


@pytest.mark.parametrize("how_long", WAITS)
async def test_a_run_that_waits_for_a_signal_says_so(how_long: str) -> None:
    """Row 50: nobody can send it."""
    flow = line(Step("wait", "wait_signal", wait_signal=WAITS[how_long]), Step("end", task="keep"))
    with pytest.raises(RunWaitingError, match="'approval'") as caught:
        await arun(flow, 1)
    assert len(caught.value.waiting) == 1


@pytest.mark.parametrize("how_long", WAITS)
async def test_a_run_that_comes_to_wait_for_a_signal_says_so(how_long: str) -> None:
    """Row 50: after other steps."""
    wait = Step("wait", "wait_signal", wait_signal=WAITS[how_long])
    flow = line(
        Step("first", task="keep"), Step("nap", "sleep", sleep=Sleep.of("5ms")), wait, Step("end", task="keep")
    )
    with pytest.raises(RunWaitingError, match="'approval'"):
        await arun(flow, 1)


def test_a_run_that_waits_for_a_signal_says_so_to_a_blocking_caller() -> None:
    """Row 50."""
    with pytest.raises(RunWaitingError, match="'approval'"):
        run(Flow("order").then(keep).wait_for_signal("approval").then(keep), 1)


async def test_a_run_that_is_paused_says_so() -> None:
    """Row 50."""
    flow = line(Step("review", "pause", pause=Pause("look at it")), Step("end", task="keep"))
    with pytest.raises(RunWaitingError, match="look at it"):
        await arun(flow, 1)


async def test_a_run_is_not_given_up_while_another_branch_works() -> None:
    """Row 50: it may still fail, or its other branches may have work to do; what was begun ends first."""
    gate = Gate()
    branches = {
        "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("approval"))],
        "gate": [Step("gate", task="gate")],
    }
    async with asyncio.TaskGroup() as callers:
        running = callers.create_task(waits(parallel(branches, gate.task)))
        await gate.until_called()
        assert not running.done()
        gate.open()
        assert "'approval'" in await running
    assert gate.stops == 0


async def waits(flow: Any) -> str:  # noqa: ANN401 - a workflow
    with pytest.raises(RunWaitingError) as caught:
        await arun(flow, 1)
    return str(caught.value)


async def test_a_run_that_fails_while_a_branch_waits_fails() -> None:
    """Row 50."""
    branches = {
        "wait": [Step("wait", "wait_signal", wait_signal=WaitSignal.of("approval"))],
        "bad": [Step("nap", "sleep", sleep=Sleep.of(0)), Step("bad", task="bad")],
    }
    bad = Calls("bad", failures=1)
    with pytest.raises(TaskError, match="busy 1"):
        await arun(parallel(branches, bad.task), 1)
