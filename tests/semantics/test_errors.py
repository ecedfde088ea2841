"""Section 3: the types of errors, and what of an exception is kept."""

import asyncio
from typing import Any

import pytest

from holdfast import Flow, Retry, WorkflowError, task
from holdfast.codecs.json import decoder
from holdfast.core.entries import Failure, RunFailed
from holdfast.definition.policies import ALL, TASK_FAILED
from holdfast.errors import TaskError
from tests.semantics.places import Place, entries, until

CARDS: dict[str, str] = {}


class PaymentError(Exception):
    pass


class CardDeclinedError(PaymentError):
    pass


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class UninitializedError(WorkflowError):
    def __init__(self) -> None:
        pass  # and so it has neither type nor details


async def failure_of(place: Place, flow: Flow, value: object = None) -> Failure:
    with pytest.raises(TaskError) as caught:
        await place.run(flow, value)
    failure = caught.value.failure
    assert isinstance(failure, Failure)
    return failure


async def attempts_of(place: Place, error: BaseException, *policies: Retry) -> int:
    """How often a body is called that always raises `error`."""
    attempts = 0

    @task(retry=policies)
    async def body() -> None:
        nonlocal attempts
        attempts += 1
        raise error

    await failure_of(place, Flow("order").then(body))
    return attempts


def quick(*patterns: str | type[BaseException], max_retries: int = 1) -> Retry:
    return Retry(error_equals=patterns or (ALL,), max_retries=max_retries, base_delay=0)


async def test_the_type_of_a_failure_is_the_class_of_the_exception(place: Place) -> None:
    """Row 22."""

    async def charge() -> None:
        raise CardDeclinedError("no cover")

    failure = await failure_of(place, Flow("order").then(charge))
    assert (failure.type, failure.message, failure.step) == ("CardDeclinedError", "no cover", "charge")


async def test_a_workflow_error_chooses_its_type_and_brings_details(place: Place) -> None:
    """Row 22."""

    def charge() -> None:
        raise WorkflowError("no cover", type="card_declined", details={"limit": 100})

    failure = await failure_of(place, Flow("order").then(charge))
    assert (failure.type, failure.message) == ("card_declined", "no cover")
    assert failure.details is not None
    assert decoder(Any)(failure.details) == {"limit": 100}


@pytest.mark.parametrize(
    ("error", "pattern", "fits"),
    [
        (ValueError("x"), ALL, True),
        (WorkflowError("x", type="fatal"), ALL, False),
        (WorkflowError("x", type="fatal"), "fatal", True),
        (WorkflowError("x", type="fatal"), TASK_FAILED, False),
        (ValueError("x"), TASK_FAILED, True),
        (CardDeclinedError("x"), "CardDeclinedError", True),
        (CardDeclinedError("x"), CardDeclinedError, True),
        (CardDeclinedError("x"), PaymentError, True),
        (PaymentError("x"), CardDeclinedError, False),
        (CardDeclinedError("x"), ValueError, False),
        (WorkflowError("x", type="busy"), "busy", True),
        (WorkflowError("x", type="busy"), "WorkflowError", True),
        (WorkflowError("x", type="busy"), "other", False),
    ],
    ids=str,
)
async def test_a_pattern_names_which_errors_are_tried_again(
    place: Place, error: BaseException, pattern: str | type[BaseException], fits: bool
) -> None:
    """Row 22."""
    assert await attempts_of(place, error, quick(pattern)) == (2 if fits else 1)


@pytest.mark.parametrize(("pattern", "attempts"), [(ALL, 2), ("timeout", 2), (TASK_FAILED, 1)])
async def test_a_time_out_is_matched_by_all_and_by_its_name_only(
    place: Place, pattern: str, attempts: int
) -> None:
    """Row 22."""
    called = 0

    @task(timeout="20ms", retry=quick(pattern))
    async def slow() -> None:
        nonlocal called
        called += 1
        await asyncio.Event().wait()

    failure = await failure_of(place, Flow("order").then(slow))
    assert (failure.type, called) == ("timeout", attempts)


async def test_a_failure_keeps_message_notes_causes_and_traceback(place: Place) -> None:
    """Row 26."""

    def charge() -> None:
        error = CardDeclinedError("no cover")
        error.add_note("card ends in 42")
        error.add_note("second note")
        try:
            CARDS["card"]
        except KeyError as cause:
            raise error from cause

    failure = await failure_of(place, Flow("order").then(charge))
    assert failure.notes == ("card ends in 42", "second note")
    assert failure.types == ("CardDeclinedError", "PaymentError")
    assert "in charge" in failure.traceback
    assert failure.traceback.rstrip().endswith("second note")
    assert failure.cause is not None
    assert (failure.cause.type, failure.cause.message) == ("KeyError", "'card'")
    assert "in charge" in failure.cause.traceback
    assert failure.cause.cause is None


async def test_an_implicit_cause_is_kept_and_a_suppressed_one_is_not(place: Place) -> None:
    """Row 26."""

    def careless() -> None:
        try:
            CARDS["card"]
        except KeyError:
            raise PaymentError("failed")  # noqa: B904 - the case

    def careful() -> None:
        try:
            CARDS["card"]
        except KeyError:
            raise PaymentError("failed") from None

    failure = await failure_of(place, Flow("order").then(careless))
    assert failure.cause is not None
    assert failure.cause.type == "KeyError"
    assert (await failure_of(place, Flow("order").then(careful))).cause is None


async def test_a_long_chain_of_causes_ends_somewhere(place: Place) -> None:
    """Row 26."""

    def charge() -> None:
        error: Exception | None = None
        for depth in range(100):
            link = PaymentError(str(depth))
            link.__cause__ = error
            error = link
        assert error is not None
        raise error

    failure: Failure | None = await failure_of(place, Flow("order").then(charge))
    depth = 0
    while failure is not None:
        failure, depth = failure.cause, depth + 1
    assert 8 <= depth <= 10


async def test_the_failure_is_the_same_in_the_error_the_status_and_the_journal(place: Place) -> None:
    """Row 26."""

    def charge() -> None:
        raise CardDeclinedError("no \x00 cover \ud800")

    flow = Flow("order").then(charge)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, id="order-1")
        with pytest.raises(TaskError) as caught:
            await handle.result()
        assert caught.value.run_id == "order-1"
        assert caught.value.status == "failed"
        assert "order-1" in str(caught.value)
        assert "CardDeclinedError in step 'charge'" in str(caught.value)
        last = (await entries(handle))[-1]
        assert isinstance(last, RunFailed)
        assert last.failure == caught.value.failure == (await handle.status()).failure
        assert last.failure.message == "no \x00 cover ?"
    async with place.engine(flow) as engine:
        with pytest.raises(TaskError) as again:
            await (await engine.get("order-1")).result()
        assert again.value.failure == caught.value.failure


async def test_details_that_cannot_be_encoded_do_not_hide_the_failure(place: Place) -> None:
    """Row 26."""

    def charge() -> None:
        raise WorkflowError("no cover", details=object())

    failure = await failure_of(place, Flow("order").then(charge))
    assert failure.message == "no cover"
    assert failure.details is not None
    assert "cannot be encoded" in decoder(Any)(failure.details)


BROKEN = [
    UnprintableError(),
    UninitializedError(),
    WorkflowError("a class", type=ValueError),  # type: ignore[arg-type] - what goes wrong in the field
    WorkflowError("a number", type=7),  # type: ignore[arg-type] - as above
    WorkflowError("a surrogate", type="\ud800"),
]


@pytest.mark.parametrize("error", BROKEN, ids=["str", "init", "class", "number", "surrogate"])
async def test_an_error_that_is_itself_broken_fails_its_run_only(place: Place, error: Exception) -> None:
    """Rows 22 and 26."""

    async def charge() -> None:
        raise error

    async def work(x: int) -> int:
        return x + 1

    broken, sound = Flow("broken").then(charge), Flow("sound").then(work)
    async with place.engine(broken, sound) as engine:
        handle = await engine.start(broken, id="broken")
        with pytest.raises(TaskError):
            await handle.result(5)
        assert (await handle.status()).status == "failed"
        assert (await handle.journal())[-1].kind == "RunFailed"
        assert await (await engine.start(sound, 1)).result(5) == 2


async def test_a_cancellation_that_a_body_raises_itself_is_its_failure(place: Place) -> None:
    """Row 27."""

    async def charge() -> None:
        raise asyncio.CancelledError

    def charge_sync() -> None:
        raise asyncio.CancelledError

    for body in (charge, charge_sync):
        assert (await failure_of(place, Flow("order").then(body))).type == "CancelledError"


async def test_a_body_may_cancel_its_own_children(place: Place) -> None:
    """Row 24."""

    async def body() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "in time"
        return "never"

    assert await place.run(Flow("order").then(body)) == "in time"


async def test_a_failing_run_ends_only_once(place: Place) -> None:
    """Row 26."""
    started = 0

    async def fail() -> None:
        nonlocal started
        started += 1
        await until(lambda: started == 3)
        raise ValueError("all at once")

    flow = Flow("order").fork().branch(fail, name="a").branch(fail, name="b").branch(fail, name="c").join(dict)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError):
            await handle.result()
        assert [type(entry) for entry in await entries(handle)].count(RunFailed) == 1
