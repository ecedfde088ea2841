"""Row 28: signals are durable, kept in order, and stored once for each id."""

import asyncio
import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import Flow, Step, WaitSignal
from holdfast.core.entries import SignalReceived
from holdfast.errors import (
    CodecError,
    RunNotFoundError,
    RunStateError,
    SignalLimitError,
    TaskError,
    UsageError,
)
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep, line, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    until,
    until_branch,
    until_parked,
    until_status,
)

MOST = 2 * 1024 * 1024
"""Bytes of a payload, of which nine are its codec's name and the quotes of a text."""
WAIT = Flow("order").wait_for_signal("approval").then(keep)


def collecting(count: int, *, gate: Gate | None = None) -> tuple[Flow, list[Any]]:
    """A flow that waits so often for one signal, and the payloads in the order in which they came."""
    got: list[Any] = []

    async def collect(x: Any) -> None:  # noqa: ANN401 - whatever was sent
        got.append(x)

    flow = Flow("order")
    if gate is not None:
        flow.then(gate.task)
    for n in range(count):
        flow.wait_for_signal("item", name=f"item-{n}").then(collect)
    return flow, got


async def test_a_signal_ends_a_wait_and_its_payload_goes_on(place: Place) -> None:
    """Rows 28, 29, 34 and 41: also where nobody holds the run any more."""
    async with place.engine(WAIT) as engine:
        handle = await engine.start(WAIT, 1)
        await until_parked(engine, handle.id)
        assert (await handle.status()).status == "suspended"
        await handle.signal("approval", {"by": "ada"})
        assert await handle.result(PATIENCE_S) == {"by": "ada"}
        assert await kinds(handle) == ["RunStarted", "SignalReceived", "StepCompleted", "RunCompleted"]
        assert (await handle.status()).undelivered == []


async def test_a_signal_waits_until_somebody_waits_for_it(place: Place) -> None:
    """Row 28, and invariant 21: the wait and its end are one commit."""
    gate = Gate()
    flow = Flow("order").then(gate.task).wait_for_signal("approval").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await gate.until_called()
        await handle.signal("approval", "early")
        assert [signal.payload for signal in (await handle.status()).undelivered] == ["early"]
        gate.open()
        assert await handle.result(PATIENCE_S) == "early"
        assert (await kinds(handle))[1:3] == ["StepCompleted", "SignalReceived"]
        assert (await handle.status()).undelivered == []


async def test_signals_outlive_the_engine_that_has_taken_them(place: Place) -> None:
    """Row 28."""
    flow, got = collecting(3)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, id="order-1")
        await until_parked(engine, handle.id)
    async with place.engine() as engine:  # nobody here knows the workflow
        for n in range(3):
            await engine.send_signal("order-1", "item", n)
    async with place.engine(flow) as engine:
        await (await engine.get("order-1")).result(PATIENCE_S)
    assert got == [0, 1, 2]


async def test_signals_of_one_name_are_received_in_the_order_in_which_they_were_sent(place: Place) -> None:
    """Row 28, and invariant 20."""
    gate = Gate()
    flow, got = collecting(9, gate=gate)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await gate.until_called()
        for n in range(4):
            await handle.signal("item", n)
        gate.open()
        for n in range(4, 9):
            await handle.signal("item", n)
        await handle.result(PATIENCE_S)
        taken = [entry.seq for entry in await entries(handle) if isinstance(entry, SignalReceived)]
        assert taken == sorted(taken)
    assert got == list(range(9))


async def test_signals_that_many_send_at_once_are_received_once_each(place: Place) -> None:
    """Row 28, and invariant 19."""
    flow, got = collecting(25)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        async with asyncio.TaskGroup() as senders:
            for n in range(25):
                senders.create_task(handle.signal("item", n))
        await handle.result(PATIENCE_S)
        assert (await handle.status()).undelivered == []
    assert sorted(got) == list(range(25))


async def test_a_signal_of_another_name_ends_no_wait(place: Place) -> None:
    """Row 28."""
    async with place.engine(WAIT) as engine:
        handle = await engine.start(WAIT)
        await handle.signal("refusal", 1)
        await handle.signal("Approval", 2)
        await handle.signal("approval", 3)
        assert await handle.result(PATIENCE_S) == 3
        left = [(signal.name, signal.payload) for signal in (await handle.status()).undelivered]
        assert left == [("refusal", 1), ("Approval", 2)]


async def test_a_signal_is_stored_once_for_each_id(place: Place) -> None:
    """Row 28: also if it was received already, and whatever else it says the second time."""
    flow, got = collecting(2)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        assert await handle.signal("item", "first", id="m-1") == "m-1"
        assert await handle.signal("item", "again", id="m-1") == "m-1"
        await until(lambda: got == ["first"])
        await until_parked(engine, handle.id)
        assert await handle.signal("item", "once more", id="m-1") == "m-1"
        assert await handle.signal("other", "once more", id="m-1") == "m-1"
        assert (await handle.status()).undelivered == []
        assert (await handle.status()).status == "suspended"
        await handle.signal("item", "second", id="m-2")
        await handle.result(PATIENCE_S)
    assert got == ["first", "second"]


async def test_an_id_belongs_to_its_run(place: Place) -> None:
    """Row 28."""
    async with place.engine(WAIT) as engine:
        handles = [await engine.start(WAIT, id=f"order-{n}") for n in range(2)]
        for n, handle in enumerate(handles):
            await handle.signal("approval", n, id="m-1")
        assert [await handle.result(PATIENCE_S) for handle in handles] == [0, 1]


async def test_signals_without_an_id_are_all_stored(place: Place) -> None:
    """Row 28."""
    gate = Gate()
    flow = Flow("order").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        ids = [await handle.signal("note", "same") for _ in range(3)]
        undelivered = (await handle.status()).undelivered
        assert [signal.id for signal in undelivered] == ids
        assert len(set(ids)) == 3
        gate.open()


async def test_of_two_branches_the_one_that_waits_longer_gets_the_signal(place: Place) -> None:
    """Rows 28 and 29."""
    gate = Gate()
    late = [Step("gate", task="gate"), Step("late", "wait_signal", wait_signal=WaitSignal.of("item"))]
    early = [Step("early", "wait_signal", wait_signal=WaitSignal.of("item"))]
    flow = parallel({"late": late, "early": early}, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await gate.until_called()
        gate.open()

        async def both_wait() -> bool:
            return [wait.reason for wait in (await handle.status()).waiting].count("signal") == 2

        await until(both_wait)
        await handle.signal("item", 1)
        await until_branch(handle, "early", "completed")
        assert (await handle.status()).branches["late"].status == "waiting"
        await handle.signal("item", 2)
        assert await handle.result(PATIENCE_S) == {"late": 2, "early": 1}


async def test_two_branches_share_what_was_sent_before(place: Place) -> None:
    """Rows 28 and 29: one each, although both come there in one commit."""
    gate = Gate()
    waits = {
        name: [Step(name, "wait_signal", wait_signal=WaitSignal.of("item"))]
        for name in ("left", "right", "third")
    }
    flow = parallel(waits, gate.task, before=[Step("gate", task="gate")])
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await gate.until_called()
        await handle.signal("item", 1)
        await handle.signal("item", 2)
        gate.open()
        await until_branch(handle, "right", "completed")
        status = await handle.status()
        assert (status.waiting[0].branch, status.waiting[0].reason) == ("third", "signal")
        assert status.undelivered == []
        await handle.signal("item", 3)
        assert await handle.result(PATIENCE_S) == {"left": 1, "right": 2, "third": 3}


async def test_a_signal_reaches_a_branch_while_another_one_runs(place: Place) -> None:
    """Row 28: the run is held, and its worker hears of it."""
    gate = Gate()
    wait = [Step("wait", "wait_signal", wait_signal=WaitSignal.of("item"))]
    flow = parallel({"wait": wait, "gate": [Step("gate", task="gate")]}, gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await gate.until_called()
        await handle.signal("item", 1)
        await until_branch(handle, "wait", "completed")
        assert (await handle.status()).status == "running"
        gate.open()
        assert await handle.result(PATIENCE_S) == {"wait": 1, "gate": None}
    assert len(gate.calls) == 1


async def test_a_signal_to_a_run_that_is_over_or_unknown_is_refused(place: Place) -> None:
    """Row 28, and invariant 22."""
    fails = Flow("fails").then(Calls(failures=9).task)
    async with place.engine(WAIT, fails) as engine:
        completed = await engine.start(WAIT)
        await completed.signal("approval")
        await completed.result(PATIENCE_S)
        failed = await engine.start(fails)
        with pytest.raises(TaskError):
            await failed.result(PATIENCE_S)
        cancelled = await engine.start(WAIT)
        await cancelled.cancel(wait=True)
        for handle, status in ((completed, "completed"), (failed, "failed"), (cancelled, "cancelled")):
            with pytest.raises(RunStateError, match="takes no signal any more") as caught:
                await handle.signal("approval")
            assert (caught.value.run_id, caught.value.status) == (handle.id, status)
            assert (await handle.status()).undelivered == []
        with pytest.raises(RunNotFoundError, match="nobody"):
            await engine.send_signal("nobody", "approval")
        await engine.delete(completed.id)
        with pytest.raises(RunNotFoundError):
            await completed.signal("approval")


async def test_signals_that_nobody_received_are_listed_in_the_run_that_is_over(place: Place) -> None:
    """Row 28, and invariant 19."""
    gate, fails = Gate(), Calls("fails", failures=9)
    completes = Flow("completes").then(gate.task)
    breaks = Flow("breaks").then(gate.task).then(fails.task)
    async with place.engine(completes, breaks, WAIT) as engine:
        handles = [await engine.start(completes), await engine.start(breaks), await engine.start(WAIT)]
        await gate.until_called(2)
        before = datetime.now(UTC)
        for handle in handles:
            await handle.signal("note", {"n": 1}, id="m-1")
            await handle.signal("other", id="m-2")
        gate.open()
        await handles[2].cancel()
        for handle, status in zip(handles, ("completed", "failed", "cancelled"), strict=True):
            await until_status(handle, status)
            first, second = (await handle.status()).undelivered
            assert (first.name, first.id, first.payload) == ("note", "m-1", {"n": 1})
            assert (second.name, second.id, second.payload) == ("other", "m-2", None)
            assert abs((first.sent_at - before).total_seconds()) < 60


@dataclasses.dataclass
class Approval:
    by: str
    at: datetime


async def test_a_payload_becomes_what_the_next_step_is_annotated_with(place: Place) -> None:
    """Rows 29 and 45."""
    got: list[Approval] = []

    async def take(approval: Approval) -> None:
        got.append(approval)

    flow = Flow("order").wait_for_signal("approval").then(take)
    sent = Approval("ada", datetime(2030, 1, 1, tzinfo=UTC))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await handle.signal("approval", sent)
        await handle.result(PATIENCE_S)
        wrong = await engine.start(flow)
        await wrong.signal("approval", {"by": 5})
        with pytest.raises(TaskError, match="CodecError"):
            await wrong.result(PATIENCE_S)
    assert got == [sent]


@pytest.mark.parametrize("payload", ["x" * (MOST - 8), object(), float("nan")], ids=["large", "object", "nan"])
async def test_a_payload_that_cannot_be_kept_is_refused_before_anything_is_stored(
    place: Place, payload: object
) -> None:
    """Rows 28 and 62."""
    async with place.engine(WAIT) as engine:
        handle = await engine.start(WAIT)
        with pytest.raises(CodecError):
            await handle.signal("approval", payload)
        assert (await handle.status()).undelivered == []
        await handle.signal("approval", "x" * (MOST - 9))
        assert len(await handle.result(PATIENCE_S)) == MOST - 9


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\ud800", 5], ids=repr)
async def test_names_and_ids_have_1_to_255_bytes(place: Place, name: Any) -> None:  # noqa: ANN401 - what goes wrong
    """Row 28."""
    async with place.engine(WAIT) as engine:
        handle = await engine.start(WAIT)
        with pytest.raises(UsageError, match="255 bytes"):
            await handle.signal(name)
        with pytest.raises(UsageError, match="255 bytes"):
            await handle.signal("approval", id=name)
        assert (await handle.status()).undelivered == []


async def test_a_run_takes_so_many_signals_and_more_once_it_has_received_some(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 28, and the limits."""
    monkeypatch.setattr("holdfast.runtime.controls.PENDING_SIGNALS_MAX", 3)
    gate = Gate()
    flow, got = collecting(4, gate=gate)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await gate.until_called()
        for n in range(3):
            await handle.signal("item", n)
        with pytest.raises(SignalLimitError) as caught:
            await handle.signal("item", 3)
        assert (caught.value.run_id, caught.value.limit) == (handle.id, 3)
        assert len((await handle.status()).undelivered) == 3
        await handle.pause(by="ada")  # control is no signal, and has no such limit
        await handle.unpause()
        gate.open()
        await until(lambda: len(got) == 3)
        await handle.signal("item", 3)
        await handle.result(PATIENCE_S)
    assert got == [0, 1, 2, 3]


async def test_a_signal_that_is_stored_already_is_no_signal_too_many(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 28: who did not hear the answer may ask again."""
    monkeypatch.setattr("holdfast.runtime.controls.PENDING_SIGNALS_MAX", 2)
    gate = Gate()
    flow = Flow("order").then(gate.task)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        for n in range(2):
            await handle.signal("item", n, id=f"m-{n}")
        assert await handle.signal("item", 1, id="m-1") == "m-1"
        gate.open()


def test_the_blocking_engine_signals_too(place: Place) -> None:
    """Row 28."""
    with place.blocking(WAIT) as engine:
        handle = engine.start(WAIT, id="order-1")
        assert handle.signal("approval", 1, id="m-1") == "m-1"
        assert handle.result(PATIENCE_S) == 1
        other = engine.start(WAIT, id="order-2")
        assert engine.send_signal("order-2", "approval", 2)
        assert other.result(PATIENCE_S) == 2


async def test_a_signal_before_the_first_worker_is_received_by_it(place: Place) -> None:
    """Row 28: the run is pending."""
    flow = line(Step("wait", "wait_signal", wait_signal=WaitSignal.of("item")), Step("end", task="keep"))
    async with place.engine(flow):
        pass
    async with place.engine() as engine:
        handle = await engine.start("order", id="order-1")
        await handle.signal("item", 1)
        assert (await handle.status()).status in {"pending", "suspended"}
    place.clock.advance(HOUR_MS)
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1
