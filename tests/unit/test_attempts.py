"""One attempt: argument, body, time-out, outcome as an event (semantics rows 22, 24, 26, 45; invariant 17)."""

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.codecs.entries import decode_entry, encode_entry
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure, RetryScheduled
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.run import Value
from holdfast.definition.policies import Retry
from holdfast.definition.task import Task, task
from holdfast.errors import MAKE_IT_FIT, CodecError, WorkflowError
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundStep
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext, get_task_context
from holdfast.runtime.executors import DaemonThreads
from holdfast.runtime.limits import CAUSES_MAX, TRACEBACK_CHARACTERS_MAX

EFFECT = StartAttempt("pay", "charge", 3, 2)
SOON_S = 0.001
PATIENCE_S = 10


@dataclasses.dataclass
class Order:
    id: int
    items: list[str]


class HalfChance:
    def random(self) -> float:
        return 0.5


Outcome = AttemptSucceeded | AttemptFailed
Make = Callable[..., Coroutine[Any, Any, Outcome]]


def with_attempts(body: Callable[[Attempts], Coroutine[Any, Any, Outcome]]) -> Outcome:
    async def main() -> Outcome:
        threads = DaemonThreads(2, name="body")
        try:
            return await body(Attempts(threads=threads, chance=HalfChance(), clock=SystemClock()))
        finally:
            threads.close()

    return asyncio.run(main())


def bound(target: Callable[..., object], timeout: float | None = None) -> BoundStep:
    return BoundStep("charge", task("charge", timeout=timeout)(target))


def attempt(
    target: Callable[..., object], value: Value = b"json.1:1", *, timeout: float | None = None
) -> Outcome:
    return with_attempts(lambda attempts: attempts.make(EFFECT, bound(target, timeout), value))


def output_of(target: Callable[..., object], value: Value = b"json.1:1") -> bytes:
    event = attempt(target, value)
    assert isinstance(event, AttemptSucceeded), event
    return event.output


def failure_of(
    target: Callable[..., object], value: Value = b"json.1:1", *, timeout: float | None = None
) -> Failure:
    event = attempt(target, value, timeout=timeout)
    assert isinstance(event, AttemptFailed), event
    assert (event.branch, event.step, event.visit, event.attempt) == ("pay", "charge", 3, 2)
    assert event.chance == 0.5
    # A failure is recorded as it is: what no journal can hold would block the run.
    entry = RetryScheduled("pay", "charge", 3, 3, 0, "all", event.failure)
    assert decode_entry(encode_entry(entry), run_id="r", position=1) == entry
    return event.failure


def raising(error: BaseException) -> Callable[[object], object]:
    async def body(_: object) -> object:
        raise error

    return body


def look_up() -> object:
    return dict[str, object]()["a"]


def inc(number: int) -> int:
    return number + 1


async def inc_later(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


class Adder:
    def __call__(self, number: int) -> int:
        return number + 1

    async def later(self, number: int) -> int:
        return number + 1


class LaterAdder:
    async def __call__(self, number: int) -> int:
        return number + 1


# bodies


@pytest.mark.parametrize(
    "target",
    [
        inc,
        inc_later,
        Adder(),
        Adder().later,
        LaterAdder(),
        lambda number: number + 1,
        functools.partial(inc),
        functools.partial(inc_later),
        functools.partial(LaterAdder()),
        functools.partial(lambda add, number: number + add, 1),
        functools.partial(lambda number, add: number + add, add=1),
        functools.lru_cache(inc),
        task(inc),
        task("other")(inc_later),
        lambda *numbers: numbers[0] + 1,
        lambda number=7: number + 1,
        lambda number, add=1: number + add,
    ],
    ids=range(17),
)
def test_a_body_is_any_callable_sync_or_async(target: Callable[..., object]) -> None:
    """Row 37."""
    event = attempt(target)
    assert event == AttemptSucceeded("pay", "charge", 3, 2, b"json.1:2")


@pytest.mark.parametrize("target", [lambda: 5, lambda **_: 5, functools.partial(inc, 4)], ids=range(3))
def test_a_function_without_parameters_gets_none(target: Callable[..., object]) -> None:
    assert output_of(target, b'json.1:"ignored"') == b"json.1:5"


def test_a_sync_body_runs_off_the_loop_and_an_async_one_on_it() -> None:
    seen: list[threading.Thread] = []

    def sync(_: object) -> None:
        seen.append(threading.current_thread())

    async def later(_: object) -> None:
        seen.append(threading.current_thread())

    attempt(sync)
    attempt(later)
    assert [thread is threading.current_thread() for thread in seen] == [False, True]


def test_a_sync_body_that_gives_an_awaitable_is_awaited() -> None:
    def body(number: int) -> Coroutine[None, None, int]:
        return inc_later(number)

    assert output_of(body) == b"json.1:2"


def test_a_body_gets_what_its_annotation_says() -> None:
    """Row 45, section 7 of the design: always decoded anew, also on first execution."""
    seen: list[object] = []

    async def body(order: Order) -> Order:
        seen.append(order)
        return dataclasses.replace(order, id=order.id + 1)

    assert output_of(body, b'json.1:{"id":1,"items":["a"]}') == b'json.1:{"id":2,"items":["a"]}'
    assert seen == [Order(1, ["a"])]


def test_a_body_without_annotation_gets_plain_types() -> None:
    assert output_of(lambda order: type(order).__name__, b'json.1:{"id":1}') == b'json.1:"dict"'


def test_a_body_gets_the_parts_of_a_join_as_one_dict() -> None:
    """Row 38."""
    joined: Value = {"left": b"json.1:1", "right": b'text.1:"\\ud800"'}
    assert output_of(lambda parts: list(parts.items()), joined) == b'text.1:[["left",1],["right","\\ud800"]]'


def test_a_task_that_is_decorated_again_keeps_its_annotations() -> None:
    @task
    def body(order: Order) -> int:
        return order.id

    assert output_of(task("again", retries=1)(body), b'json.1:{"id":1,"items":[]}') == b"json.1:1"


def test_a_body_of_two_needed_arguments_cannot_be_bound() -> None:
    with pytest.raises(TypeError, match="left, right"):
        bound(lambda left, right: (left, right))


def test_a_body_that_needs_a_keyword_cannot_be_bound() -> None:
    def body(*, order: Order) -> None: ...

    with pytest.raises(TypeError, match="order"):
        bound(body)


def test_an_annotation_that_names_nothing_cannot_be_bound() -> None:
    def body(order: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the test

    with pytest.raises(NameError, match="Missing"):
        bound(body)


# what does not fit


def refused(failure: Failure) -> bool:
    """Of the codec's doing, and not to be tried again by `all`."""
    assert (failure.type, failure.step) == ("CodecError", "charge")
    assert not Retry().matches(failure.types)
    assert not Retry(error_equals=("task_failed",)).matches(failure.types)
    assert Retry(error_equals=(CodecError,)).matches(failure.types)
    return True


def test_an_argument_that_does_not_fit_fails_the_step_with_its_path() -> None:
    """Row 45: a clear error naming step and field."""
    called: list[object] = []

    def body(order: Order) -> None:
        called.append(order)

    failure = failure_of(body, b'json.1:{"id":"x","items":[]}')
    assert refused(failure)
    assert failure.message == f"Expected `int`, got `str` - at `$.id`; {MAKE_IT_FIT}"
    assert called == []


def test_an_output_that_cannot_be_encoded_fails_the_step_with_its_path() -> None:
    """Section 7 of the design."""
    failure = failure_of(lambda _: {"lock": [threading.Lock()]})
    assert refused(failure)
    assert failure.message.endswith(f"at `$.lock[0]`; {MAKE_IT_FIT}")


def test_an_output_that_is_too_large_fails_the_step() -> None:
    failure = failure_of(lambda _: "x" * 2 * 1024 * 1024)
    assert refused(failure)
    assert "pass its address" in failure.message


# failures


class PaymentError(Exception): ...


class CardError(PaymentError):
    def __init__(self, code: int) -> None:
        super().__init__(f"declined: {code}")


def test_a_failure_knows_the_type_and_its_bases() -> None:
    """Row 22: patterns name classes, which match their subclasses."""
    failure = failure_of(raising(CardError(51)))
    assert (failure.type, failure.message, failure.step) == ("CardError", "declined: 51", "charge")
    assert failure.types == ("CardError", "PaymentError")
    assert Retry(error_equals=(PaymentError,)).matches(failure.types)


def test_a_failure_of_a_thread_is_no_other() -> None:
    def body(_: object) -> None:
        raise CardError(51)

    failure = failure_of(body)
    assert (failure.type, failure.message) == ("CardError", "declined: 51")
    assert "raise CardError(51)" in failure.traceback


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt])
def test_what_would_end_a_loop_is_a_failure_of_a_sync_body(kind: type[BaseException]) -> None:
    def body(_: object) -> None:
        raise kind("x")

    failure = failure_of(body)
    assert failure.type == "RuntimeError"
    assert kind.__name__ in failure.message


class StopNowError(BaseException): ...


@pytest.mark.parametrize("error", [StopNowError("x"), SystemExit("x")], ids=["own", "exit"])
def test_what_is_no_exception_is_a_failure_of_an_async_body_too(error: BaseException) -> None:
    failure = failure_of(raising(error))
    assert (failure.type, failure.message) == (type(error).__name__, "x")


def test_a_failure_keeps_notes_cause_and_traceback() -> None:
    """Row 26."""

    def deeper() -> None:
        raise OSError("disk")

    async def body(_: object) -> None:
        try:
            deeper()
        except OSError as error:
            wrapped = CardError(51)
            wrapped.add_note("of order 42")
            wrapped.add_note("")
            raise wrapped from error

    failure = failure_of(body)
    assert failure.notes == ("of order 42", "")
    assert "raise wrapped from error" in failure.traceback
    assert failure.traceback.rstrip().endswith("of order 42")
    assert "OSError" not in failure.traceback
    assert "holdfast/runtime" not in failure.traceback.replace("\\", "/"), "only the frames of the body"
    cause = failure.cause
    assert cause is not None
    assert (cause.type, cause.message, cause.types) == ("OSError", "disk", ("OSError",))
    assert 'raise OSError("disk")' in cause.traceback
    assert (cause.step, cause.cause) == ("", None)


def test_what_an_error_was_raised_during_is_its_cause_too() -> None:
    async def body(_: object) -> None:
        try:
            look_up()
        except KeyError:
            raise CardError(51)  # noqa: B904 - that is the test

    cause = failure_of(body).cause
    assert cause is not None
    assert cause.type == "KeyError"


def test_a_cause_that_was_cut_off_is_none() -> None:
    async def body(_: object) -> None:
        try:
            look_up()
        except KeyError:
            raise CardError(51) from None

    assert failure_of(body).cause is None


def test_a_chain_of_causes_is_kept_to_a_depth() -> None:
    error = CardError(0)
    for code in range(1, 2 * CAUSES_MAX):
        outer = CardError(code)
        outer.__cause__ = error
        error = outer
    depth, failure = 0, failure_of(raising(error))
    while failure.cause is not None:
        depth, failure = depth + 1, failure.cause
    assert depth == CAUSES_MAX


def test_a_circle_of_causes_ends() -> None:
    first, second = CardError(1), CardError(2)
    first.__cause__, second.__cause__ = second, first
    assert failure_of(raising(first)).cause is not None


def test_of_a_long_traceback_the_end_is_kept() -> None:
    failure = failure_of(raising(ValueError("x" * 2 * TRACEBACK_CHARACTERS_MAX + "end")))
    assert len(failure.traceback) <= TRACEBACK_CHARACTERS_MAX
    assert failure.traceback.rstrip().endswith("end")


def test_lone_surrogates_are_replaced_in_what_is_recorded() -> None:
    error = ValueError("a\ud800b")
    error.add_note("c\udfffd")
    error.__cause__ = ValueError("\ud800")
    failure = failure_of(raising(error))
    assert (failure.message, failure.notes) == ("a?b", ("c?d",))
    assert failure.cause is not None
    assert failure.cause.message == "?"
    assert "a?b" in failure.traceback


def test_a_body_chooses_the_type_and_the_details_of_its_failure() -> None:
    """Row 22."""
    failure = failure_of(raising(WorkflowError("declined", type="card", details={"code": 51})))
    assert (failure.type, failure.message) == ("card", "declined")
    assert failure.types == ("card", "WorkflowError")
    assert failure.details == b'json.1:{"code":51}'


def test_a_fatal_failure_is_not_tried_again() -> None:
    failure = failure_of(raising(WorkflowError("hopeless", type="fatal")))
    assert failure.type == "fatal"
    assert not Retry().matches(failure.types)
    assert failure.details is None


def test_details_that_cannot_be_encoded_say_so() -> None:
    failure = failure_of(raising(WorkflowError("x", details={"lock": threading.Lock()})))
    assert failure.details is not None
    assert failure.details.startswith(b'json.1:"details that cannot be encoded: ')


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_that_cannot_be_printed_is_a_failure_all_the_same() -> None:
    assert failure_of(raising(MuteError())).type == "MuteError"


def test_a_type_with_lone_surrogates_can_be_recorded() -> None:
    assert failure_of(raising(WorkflowError("x", type="\ud800"))).message == "x"


def test_a_type_that_is_no_text_can_be_recorded() -> None:
    assert failure_of(raising(WorkflowError("x", type=5))).message == "x"  # type: ignore[arg-type]


# time-outs


def test_an_async_body_is_cancelled_when_its_time_is_up() -> None:
    """Row 24, invariant 17."""
    seen: list[str] = []

    async def body(_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    failure = failure_of(body, timeout=SOON_S)
    assert failure == Failure(
        "timeout", "the attempt was not done after 0.001 s", ("timeout", "TimeoutError"), step="charge"
    )
    assert seen == ["cancelled"]


def test_a_sync_body_is_abandoned_when_its_time_is_up() -> None:
    """Row 24: its late result is refused."""
    let_go, ended = threading.Event(), threading.Event()

    def body(_: object) -> str:
        let_go.wait(PATIENCE_S)
        ended.set()
        return "late"

    assert failure_of(body, timeout=SOON_S).type == "timeout"
    assert not ended.is_set()
    let_go.set()
    assert ended.wait(PATIENCE_S)


@pytest.mark.parametrize("target", [inc, inc_later])
def test_a_body_in_time_is_left_alone(target: Callable[[int], object]) -> None:
    assert attempt(target, timeout=PATIENCE_S) == AttemptSucceeded("pay", "charge", 3, 2, b"json.1:2")


def test_a_time_out_ends_with_its_attempt() -> None:
    """The same task of a branch goes on: nothing may cancel it later."""
    timeout = 20 * SOON_S

    async def go_on(attempts: Attempts) -> Outcome:
        event = await attempts.make(EFFECT, bound(inc_later, timeout), b"json.1:1")
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(timeout + SOON_S, later.set)
        await later.wait()
        return event

    assert isinstance(with_attempts(go_on), AttemptSucceeded)


def test_a_body_that_fails_in_time_has_failed() -> None:
    assert failure_of(raising(CardError(51)), timeout=PATIENCE_S).type == "CardError"


def test_a_body_that_swallows_its_time_out_has_timed_out() -> None:
    """Invariant 17."""

    async def body(_: object) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return "never"

    assert failure_of(body, timeout=SOON_S).type == "timeout"


async def hang(_: object) -> None:
    await asyncio.Event().wait()


async def rude(_: object) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("cleaning up failed") from None


def test_a_body_that_fails_in_its_time_out_has_timed_out() -> None:
    """Invariant 17: a timed-out attempt is recorded as such."""
    assert failure_of(rude, timeout=SOON_S).type == "timeout"


def test_a_body_that_fails_in_its_time_out_does_not_break_the_next_attempt() -> None:
    """The same task of a branch makes the next attempt; if it ends, nobody goes on with the run."""

    async def twice(attempts: Attempts) -> Outcome:
        await attempts.make(EFFECT, bound(rude, SOON_S), b"json.1:1")
        return await attempts.make(EFFECT, bound(hang, SOON_S), b"json.1:1")

    event = with_attempts(twice)
    assert isinstance(event, AttemptFailed)


@pytest.mark.parametrize("target", [hang, lambda _: threading.Event().wait(0.05)], ids=["async", "sync"])
def test_one_task_may_time_out_again_and_again(target: Callable[[object], object]) -> None:
    async def three(attempts: Attempts) -> Outcome:
        for _ in range(2):
            await attempts.make(EFFECT, bound(target, SOON_S), b"json.1:1")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return await attempts.make(EFFECT, bound(target, SOON_S), b"json.1:1")

    event = with_attempts(three)
    assert isinstance(event, AttemptFailed)
    assert event.failure.type == "timeout"


class HandClock(SystemClock):
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers.append((delay_ms, fn))
        return super().call_later(3_600_000, fn)


@pytest.mark.parametrize("target", [hang, lambda _: threading.Event().wait(0.05)], ids=["async", "sync"])
def test_time_is_that_of_the_engine(target: Callable[[object], object]) -> None:
    """Row 24: so a test may let an hour pass."""

    async def main() -> Outcome:
        clock = HandClock()
        attempts = Attempts(threads=DaemonThreads(2, name="body"), chance=HalfChance(), clock=clock)
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(target, 3_600), b"json.1:1"))
        async with asyncio.timeout(PATIENCE_S):
            while not clock.timers:  # noqa: ASYNC110 - a thread sets no event of the loop
                await asyncio.sleep(0)
        ((delay_ms, fn),) = clock.timers
        assert delay_ms == 3_600_000
        fn()
        attempts.close()
        return await made

    event = asyncio.run(main())
    assert isinstance(event, AttemptFailed)
    assert event.failure.message == "the attempt was not done after 3600 s"


# being told to stop


class Watching:
    """A sync body that looks whether it was told to stop until it was."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def __call__(self, _: object) -> str:
        context = get_task_context()
        assert context is not None
        self.begun.set()
        while not context.cancelled and not self.ended.wait(0.001):
            pass
        self.ended.set()
        return "late"


def in_context(facts: RunFacts) -> TaskContext:
    context = TaskContext(facts, EFFECT)
    CURRENT.set(context)
    return context


def test_a_sync_body_sees_that_its_time_is_up() -> None:
    body = Watching()

    async def time_out(attempts: Attempts) -> Outcome:
        facts = RunFacts("r", 1, "w", {})
        in_context(facts)
        event = await attempts.make(EFFECT, bound(body, SOON_S), b"json.1:1")
        assert await asyncio.to_thread(body.ended.wait, PATIENCE_S)
        assert not facts.is_stopped, "the run goes on"
        assert not in_context(facts).cancelled, "and so does its next attempt"
        return event

    event = with_attempts(time_out)
    assert isinstance(event, AttemptFailed)
    assert event.failure.type == "timeout", "its late result is refused"


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["free", "timed"])
def test_a_sync_body_sees_that_its_attempt_was_cancelled(timeout: float | None) -> None:
    body = Watching()

    async def cancel(attempts: Attempts) -> Outcome:
        in_context(RunFacts("r", 1, "w", {}))
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(body, timeout), b"json.1:1"))
        await asyncio.to_thread(body.begun.wait, PATIENCE_S)
        made.cancel()
        with pytest.raises(asyncio.CancelledError):
            await made
        assert await asyncio.to_thread(body.ended.wait, PATIENCE_S)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        with_attempts(cancel)


def test_a_sync_body_sees_that_its_run_was_dropped() -> None:
    body, facts = Watching(), RunFacts("r", 1, "w", {})

    async def drop(attempts: Attempts) -> Outcome:
        in_context(facts)
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(body), b"json.1:1"))
        await asyncio.to_thread(body.begun.wait, PATIENCE_S)
        facts.is_stopped = True
        return await made

    assert isinstance(with_attempts(drop), AttemptSucceeded)


# cancellation


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["free", "timed"])
def test_a_body_that_raises_cancelled_error_by_itself_has_failed(timeout: float | None) -> None:
    failure = failure_of(raising(asyncio.CancelledError("by itself")), timeout=timeout)
    assert failure.type == "CancelledError"
    assert Retry().matches(failure.types)


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["free", "timed"])
def test_cancelling_an_attempt_cancels_the_body_and_reports_nothing(timeout: float | None) -> None:
    """Row 27: shutdown is never an error of a step."""
    begun, seen = asyncio.Event(), []

    async def body(_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def cancel(attempts: Attempts) -> Outcome:
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(body, timeout), b"json.1:1"))
        await begun.wait()
        made.cancel()
        return await made

    with pytest.raises(asyncio.CancelledError):
        with_attempts(cancel)
    assert seen == ["cancelled"]


@pytest.mark.parametrize("timeout", [None, PATIENCE_S], ids=["free", "timed"])
def test_a_body_that_answers_its_cancellation_with_an_error_reports_nothing(
    timeout: float | None,
) -> None:
    """Row 27: what a body does while it is shut down is never an error of its step."""

    async def cancel(attempts: Attempts) -> Outcome:
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(rude, timeout), b"json.1:1"))
        await asyncio.sleep(0)
        made.cancel()
        return await made

    with pytest.raises(asyncio.CancelledError):
        with_attempts(cancel)


def test_cancelling_an_attempt_abandons_a_sync_body() -> None:
    begun, let_go = threading.Event(), threading.Event()

    def body(_: object) -> None:
        begun.set()
        let_go.wait(PATIENCE_S)

    async def cancel(attempts: Attempts) -> Outcome:
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(body), b"json.1:1"))
        await asyncio.sleep(0)
        assert begun.wait(PATIENCE_S)
        made.cancel()
        return await made

    with pytest.raises(asyncio.CancelledError):
        with_attempts(cancel)
    let_go.set()


def test_cancelling_an_attempt_that_is_timing_out_is_a_cancellation() -> None:
    timed_out = asyncio.Event()

    async def body(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            timed_out.set()
            await asyncio.Event().wait()

    async def cancel(attempts: Attempts) -> Outcome:
        made = asyncio.ensure_future(attempts.make(EFFECT, bound(body, SOON_S), b"json.1:1"))
        await timed_out.wait()
        made.cancel()
        return await made

    with pytest.raises(asyncio.CancelledError):
        with_attempts(cancel)


def test_a_step_knows_how_it_is_called() -> None:
    step = BoundStep("charge", Task(inc_later, name="inc", timeout_ms=1_500))
    assert (step.name, step.is_async, step.timeout_ms) == ("charge", True, 1_500)
    assert bound(inc).timeout_ms is None
    assert not bound(inc).is_async
    assert bound(inc).importable is None
