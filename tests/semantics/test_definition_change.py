"""Runs keep the structure they started with; their code and policies are what is deployed."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from holdfast import Flow, Retry, task
from tests.semantics.places import Place, kinds, row, until, until_status

HOUR_MS = 3_600_000


class Deployment:
    """Tasks of which each deployment takes some, and what they were called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_busy = True

    def task(self, name: str, says: str | None = None) -> Callable[[list[str]], list[str]]:
        async def body(said: list[str]) -> list[str]:
            self.calls.append(says or name)
            return [*said, says or name]

        return task(name)(body)

    def flaky(self, name: str, delay: str = "1h") -> Callable[[list[str]], list[str]]:
        async def body(said: list[str]) -> list[str]:
            self.calls.append(name)
            if self.is_busy:
                raise ConnectionError("busy")
            return [*said, name]

        return task(name, retry=Retry(base_delay=delay, max_retries=3))(body)


async def suspended_run(place: Place, flow: Flow) -> None:
    """Start `order-1`, and close when it waits for its retry."""
    async with place.engine(flow) as engine:
        await until_status(await engine.start(flow, [], id="order-1"), "suspended")


async def test_a_run_goes_on_under_the_structure_it_started_with(place: Place) -> None:
    """Design: change of definition."""
    code = Deployment()
    first, middle, last = code.flaky("first"), code.task("middle"), code.task("last")
    await suspended_run(place, Flow("order").then(first).then(middle).then(last))
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    changed = Flow("order").then(last).then(code.task("added")).then(first).then(middle)
    async with place.engine(changed) as engine:
        old = await engine.get("order-1")
        assert await old.result(5) == ["first", "middle", "last"]
        new = await engine.start(changed, [], id="order-2")
        assert await new.result(5) == ["last", "added", "first", "middle"]
        statuses = [await old.status(), await new.status()]
        assert statuses[0].fingerprint != statuses[1].fingerprint
        assert await kinds(old) == ["RunStarted", "RetryScheduled", *["StepCompleted"] * 3, "RunCompleted"]


async def test_the_code_that_runs_is_the_one_deployed(place: Place) -> None:
    """Design: change of definition."""
    code = Deployment()
    first = code.flaky("first")
    await suspended_run(place, Flow("order").then(first).then(code.task("second")))
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    changed = Flow("order").then(first).then(code.task("second", says="second, corrected"))
    async with place.engine(changed) as engine:
        assert await (await engine.get("order-1")).result(5) == ["first", "second, corrected"]


async def test_the_policies_that_hold_are_the_ones_deployed(place: Place) -> None:
    """Design: change of definition. Budgets are counted by pattern."""
    code = Deployment()
    await suspended_run(place, Flow("order").then(code.flaky("first")))
    place.clock.advance(2 * HOUR_MS)
    async with place.engine(Flow("order").then(code.flaky("first", delay="1ms"))) as engine:
        handle = await engine.get("order-1")
        await until_status(handle, "failed")
        assert await kinds(handle) == ["RunStarted", *["RetryScheduled"] * 3, "RunFailed"]
        (marks,) = {(await handle.status()).fingerprint, (await row(engine, "order-1")).fingerprint}
        assert marks


async def test_a_run_whose_task_is_gone_waits_until_it_is_deployed_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Design: change of definition. It is not claimed again and again."""
    code = Deployment()
    first, gone = code.flaky("first"), code.task("gone")
    flow = Flow("order").then(first).then(gone)
    await suspended_run(place, flow)
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    changed = Flow("order").then(first)
    with caplog.at_level(logging.WARNING, logger="holdfast.worker"):
        async with place.engine(changed) as engine:
            await until(lambda: "task gone is not deployed here" in caplog.text)
            epoch = (await row(engine, "order-1")).epoch
            for n in range(5):
                assert await (await engine.start(changed, [], id=f"new-{n}")).result(5) == ["first"]
                await asyncio.sleep(0.05)  # for polls that must do nothing
            waiting = await row(engine, "order-1")
            assert (waiting.worker, waiting.status, waiting.recoveries) == (None, "suspended", 0)
            assert waiting.epoch == epoch
            assert caplog.text.count("is not deployed here") == 1
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(5) == ["first", "gone"]


async def test_runs_of_a_workflow_that_is_gone_wait_for_it(place: Place) -> None:
    """Row 34: only who knows a workflow drives its runs."""
    code = Deployment()
    flow = Flow("order").then(code.flaky("first"))
    await suspended_run(place, flow)
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    other = Flow("other").then(code.task("other"))
    async with place.engine(other) as engine:
        assert await (await engine.start(other, [])).result(5) == ["other"]
        before = await row(engine, "order-1")
        assert (before.worker, before.epoch) == (None, 1)
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(5) == ["first"]


async def test_a_resume_where_the_workflow_is_unknown_does_no_harm(place: Place) -> None:
    """Row 51."""
    code = Deployment()
    flow = Flow("order").then(code.flaky("first"))
    await suspended_run(place, flow)
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    async with place.engine() as engine, asyncio.TaskGroup() as clients:
        resuming = clients.create_task(quietly(engine.resume("order-1")))
        done, _ = await asyncio.wait({resuming}, timeout=0.2)
        assert (await row(engine, "order-1")).status == "suspended"
        if not done:
            resuming.cancel()
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(5) == ["first"]


async def quietly(waiting: object) -> None:
    """Wait; that it says no is as good an answer as none."""
    try:
        await waiting  # type: ignore[misc] - a coroutine
    except Exception as error:  # noqa: BLE001 - any answer will do
        assert "order" in str(error)  # noqa: PT017 - as good an answer as none


async def test_a_workflow_deployed_as_it_was_continues_without_a_new_definition(place: Place) -> None:
    """Row 44: equal structures have equal fingerprints, in any process."""
    code = Deployment()
    first = code.flaky("first")
    flow = Flow("order").then(first).then(code.task("second"))
    await suspended_run(place, flow)
    code.is_busy = False
    place.clock.advance(2 * HOUR_MS)
    again = Flow("order", metadata={"changed": True}).then(first).then(code.task("second"))
    assert again.build().fingerprint == flow.build().fingerprint
    async with place.engine(again) as engine:
        assert await (await engine.get("order-1")).result(5) == ["first", "second"]
