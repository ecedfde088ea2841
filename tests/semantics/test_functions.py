"""Rows 72, 73, 76 and 77: durable functions, their steps, recorded values, and variables."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from holdfast import (
    AsyncHandle,
    Context,
    Edge,
    Flow,
    Function,
    Retry,
    Step,
    Workflow,
    arun,
    get_task_context,
    run,
    task,
    workflow,
)
from holdfast.codecs import json as codec
from holdfast.core.entries import OperationCompleted, OperationFailed, OperationRetried
from holdfast.errors import (
    CodecError,
    DefinitionError,
    InputError,
    RunBlockedError,
    StepError,
    TaskError,
    UsageError,
    WorkflowError,
)
from tests.semantics.flows import HOUR_MS, Calls, Gate, keep, parallel
from tests.semantics.places import PATIENCE_S, Place, entries, kinds, row, until, until_parked


@dataclass(frozen=True)
class Order:
    id: str
    euros: int


async def keys(handle: AsyncHandle) -> list[str]:
    """Keys of what is done, in the order of the journal."""
    return [e.key for e in await entries(handle) if isinstance(e, OperationCompleted | OperationFailed)]


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def slept(place: Place, function: Function[..., Any], value: object = None) -> Any:  # noqa: ANN401 - its output
    """What a function gives that is put away once, and woken by another engine."""
    async with place.engine(function) as engine:
        await until_parked(engine, (await engine.start(function, value, id="order-1")).id)
    place.clock.advance(HOUR_MS)
    async with place.engine(function) as engine:
        return await (await engine.get("order-1")).result(PATIENCE_S)


# Functions.


async def test_a_function_is_a_workflow_whose_steps_are_recorded_one_by_one(place: Place) -> None:
    """Rows 72 and 73."""
    first, second = Calls("first"), Calls("second")
    lives: list[int] = []

    @workflow
    async def order(ctx: Context, x: int) -> int:
        lives.append(x)
        return await ctx.step(first.task, x) + await ctx.step(second.task, x * 10)

    async with place.engine(order) as engine:
        handle = await engine.start(order, 2)
        assert await handle.result(PATIENCE_S) == 22
        recorded = ["RunStarted", "OperationCompleted", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
        assert await keys(handle) == ["first#1", "second#1"]
        status = await handle.status()
        assert (status.workflow, status.status, status.output) == ("order", "completed", 22)
    assert (lives, first.calls, second.calls) == ([2], [2], [20])


async def test_what_is_recorded_is_given_again_and_not_done_again(place: Place) -> None:
    """Rows 72 and 73."""
    before, after = Calls("before"), Calls("after")
    lives: list[str] = []

    @workflow
    async def order(ctx: Context) -> list[str]:
        lives.append(ctx.run_id)
        said = [await ctx.step(before.task, "one"), await ctx.step(before.task, "two")]
        await ctx.sleep("1h")
        return [*said, await ctx.step(after.task, "three")]

    assert await slept(place, order) == ["one", "two", "three"]
    assert (lives, before.calls, after.calls) == (["order-1"] * 2, ["one", "two"], ["three"])


async def test_steps_of_one_name_are_numbered(place: Place) -> None:
    """Row 73."""
    work = Calls()

    @workflow
    async def order(ctx: Context) -> int:
        total = 0
        for n in range(3):
            total += await ctx.step(work.task, n)
        return total + await ctx.step(work.task, 10, name="last")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 13
        assert await keys(handle) == ["work#1", "work#2", "work#3", "last#1"]


async def test_a_function_has_its_name_or_the_one_it_is_given(place: Place) -> None:
    """Row 72."""

    @workflow("checkout", metadata={"team": "shop"}, timeout="1d", retention="30d")
    async def order(ctx: Context, x: int) -> Any:  # noqa: ANN401 - metadata
        return [x, ctx.task.workflow, dict(ctx.task.metadata), ctx.task.branch, ctx.task.attempt]

    async with place.engine(order) as engine:
        handle = await engine.start("checkout", 1)
        assert await handle.result(PATIENCE_S) == [1, "checkout", {"team": "shop"}, "main", 1]
        assert (await handle.status()).workflow == "checkout"


async def test_a_function_may_do_without_input_and_without_steps(place: Place) -> None:
    """Row 72."""

    @workflow
    async def order(_ctx: Context) -> str:
        return "done"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == "done"
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_input_and_output_are_of_the_annotated_types(place: Place) -> None:
    """Rows 45, 65 and 72."""
    met: list[Order] = []

    @workflow
    async def order(ctx: Context, given: Order) -> list[Order]:
        met.append(given)
        await ctx.sleep("1h")
        met.append(given)
        return [given, Order("extra", 1)]

    assert await slept(place, order, Order("one", 5)) == [Order("one", 5), Order("extra", 1)]
    assert met == [Order("one", 5)] * 3
    async with place.engine(order) as engine:
        with pytest.raises(InputError):
            await engine.start(order, {"id": "one", "euros": "five"})
        assert len(await engine.list()) == 1


def test_a_function_is_async_and_takes_one_input() -> None:
    """Row 72."""
    with pytest.raises(UsageError):

        @workflow  # type: ignore[type-var] - that is the point
        def blocking(ctx: Context) -> None: ...

    with pytest.raises(UsageError):
        workflow("order")(5)  # type: ignore[arg-type] - that is the point

    @workflow
    async def greedy(_ctx: Context, x: int, y: int) -> int:
        return x + y

    with pytest.raises(DefinitionError):
        run(greedy, 1)


def test_a_function_runs_in_memory_at_once() -> None:
    """Rows 50 and 72."""

    @workflow
    async def order(ctx: Context, x: int) -> int:
        return await ctx.step(lambda n: n + 1, x, name="inc")

    assert run(order, 1) == 2
    assert asyncio.run(arun(order, 2)) == 3


async def test_the_parts_of_a_function_are_functions(place: Place) -> None:
    """Row 72: called with the context, they are part of it."""
    work = Calls()

    @workflow
    async def inner(ctx: Context, x: int) -> int:
        return await ctx.step(work.task, x)

    async def plain(ctx: Context, x: int) -> int:
        return await ctx.step(work.task, x)

    @workflow
    async def order(ctx: Context) -> int:
        return await inner(ctx, 1) + await plain(ctx, 2)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 3
        assert await keys(handle) == ["work#1", "work#2"]


async def test_the_journal_has_its_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 72: the run fails, and the function ends where it is."""
    monkeypatch.setattr("holdfast.core.decide.JOURNAL_ENTRIES_MAX", 8)
    work = Calls()
    ends: list[type[BaseException]] = []

    @workflow
    async def order(ctx: Context) -> None:
        try:
            while True:
                await ctx.step(work.task, 0)
        except BaseException as error:
            ends.append(type(error))
            raise

    async with place.engine(order) as engine:
        error = await failed(await engine.start(order))
        assert error.failure.type == "journal_limit"
        assert len(work.calls) == 8
    assert ends == [asyncio.CancelledError]


# Functions in graphs and flows.


async def test_a_task_of_a_flow_may_take_the_context(place: Place) -> None:
    """Row 72: value and context, step after step, each with keys of its own."""
    work = Calls()
    lives: list[str] = []

    async def first(ctx: Context, x: int) -> int:
        lives.append("first")
        await ctx.sleep("1h")
        return await ctx.step(work.task, x + 1)

    async def second(ctx: Context, x: int) -> int:
        lives.append("second")
        return await ctx.step(work.task, x * 10)

    flow = Flow("order").then(keep).then(first).then(second).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        await until_parked(engine, handle.id)
        assert (await handle.status()).branches["main"].status == "suspended"
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == 20
        assert await keys(handle) == ["sleep#1", "work#1", "work#1"]
    assert (lives, work.calls) == (["first", "first", "second"], [2, 20])


async def test_branches_have_operations_of_their_own(place: Place) -> None:
    """Row 72: of the same names, side by side."""
    work = Calls()

    async def nap(ctx: Context, x: int) -> list[Any]:
        await ctx.sleep("1h")
        return [ctx.task.branch, await ctx.step(work.task, x)]

    named = task("nap")(nap)
    inner = {name: [Step(name, task="nap")] for name in ("left", "right")}
    flow = parallel(inner, named)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 7)
        await until_parked(engine, handle.id)
        place.clock.advance(HOUR_MS)
        assert await handle.result(PATIENCE_S) == {"left": ["left", 7], "right": ["right", 7]}
    assert work.calls == [7, 7]


async def test_a_step_that_is_visited_again_begins_anew(place: Place) -> None:
    """Row 72: operations are for one visit."""
    work = Calls(failures=2)

    async def often(ctx: Context, x: int) -> int:
        await ctx.step(work.task, x)
        return ctx.task.visit

    order = Workflow(
        "order",
        [Step("often", task="often", edges=(Edge("again"),)), Step("again", task="often")],
        tasks=[task("often")(often)],
    )
    work = Calls()
    async with place.engine(order) as engine:
        handle = await engine.start(order, 1)
        assert await handle.result(PATIENCE_S) == 1
        assert await keys(handle) == ["work#1", "work#1"]
    assert work.calls == [1, 1]


async def test_a_function_may_be_a_step_of_a_flow(place: Place) -> None:
    """Row 72."""

    @workflow
    async def price(ctx: Context, x: int) -> int:
        return await ctx.step(lambda n: n * 3, x, name="triple")

    flow = Flow("order").then(keep).then(price).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 2)
        assert await handle.result(PATIENCE_S) == 6
        assert await keys(handle) == ["triple#1"]


# Steps.


async def test_any_callable_is_a_step(place: Place) -> None:
    """Row 73: sync ones run in a thread."""
    threads: set[str] = set()

    def blocking(x: int) -> int:
        threads.add(threading.current_thread().name)
        return x

    class Adder:
        def add(self, x: int, y: int) -> int:
            return x + y

    @workflow
    async def order(ctx: Context) -> list[Any]:
        threads.add(threading.current_thread().name)
        return [
            await ctx.step(blocking, 1),
            await ctx.step(Adder().add, 1, 1),
            await ctx.step(lambda: 3, name="three"),
            await ctx.step(partial(max, 1), 4, name="partial"),
            await ctx.step(len, "12345"),
            await ctx.step(task("named")(blocking), 6),
        ]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [1, 2, 3, 4, 5, 6]
        assert await keys(handle) == ["blocking#1", "add#1", "three#1", "partial#1", "len#1", "named#1"]
    assert len(threads) > 1


async def test_an_output_is_what_its_annotation_says_also_the_first_time(place: Place) -> None:
    """Row 73: encoded and decoded, so that no life of the function sees anything else."""
    seen: list[Any] = []

    async def typed() -> Order:
        return Order("one", 1)

    async def untyped():  # type: ignore[no-untyped-def]  # noqa: ANN202 - that is the point
        return (1, Order("two", 2))

    @workflow
    async def order(ctx: Context) -> None:
        seen.append([await ctx.step(typed), await ctx.step(untyped)])
        await ctx.sleep("1h")

    await slept(place, order)
    assert seen == [[Order("one", 1), [1, {"id": "two", "euros": 2}]]] * 2


async def test_a_step_that_failed_for_good_fails_again_without_being_called(place: Place) -> None:
    """Row 73: its failure is recorded."""
    flaky = Calls("flaky", failures=9)
    seen: list[StepError] = []

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.step(flaky.task, 1)
        except StepError as error:
            seen.append(error)
        await ctx.sleep("1h")
        return "mended"

    assert await slept(place, order) == "mended"
    assert flaky.calls == [1]
    for error in seen:
        assert (error.operation, error.kind) == ("flaky#1", "ConnectionError")
        assert "busy 1" in str(error)
        assert error.failure.message == "busy 1"
        assert error.is_a(ConnectionError)
        assert error.is_a(OSError)
        assert error.is_a("ConnectionError")
        assert not error.is_a(ValueError)
    assert len(seen) == 2


async def test_a_failure_that_the_function_lets_pass_is_its_own(place: Place) -> None:
    """Row 73: of the same type, with the same details."""

    async def refuse() -> None:
        raise WorkflowError("no money", type="declined", details={"euros": 5})

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.step(refuse)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        failure = (await failed(handle)).failure
        assert (failure.type, failure.message) == ("declined", "no money")
        assert codec.decoder(dict[str, int])(failure.details or b"") == {"euros": 5}
        assert failure.step == "order"
        assert any("refuse#1" in note for note in failure.notes)
        assert await kinds(handle) == ["RunStarted", "OperationFailed", "RunFailed"]


async def test_a_step_is_tried_again_by_the_policy_of_its_task(place: Place) -> None:
    """Rows 23 and 73."""
    flaky = Calls("flaky", failures=2, retry=[Retry(max_retries=2, base_delay=0)])
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> int:
        lives.append(1)
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 1
        recorded = ["RunStarted", *["OperationRetried"] * 2, "OperationCompleted"]
        assert await kinds(handle) == [*recorded, "StepCompleted", "RunCompleted"]
        retried = [e for e in await entries(handle) if isinstance(e, OperationRetried)]
        assert [e.attempt for e in retried] == [2, 3]
    assert (flaky.calls, lives) == ([1, 1, 1], [1])


async def test_the_options_of_a_call_count_before_those_of_the_task(place: Place) -> None:
    """Row 73."""
    never = Calls("never", failures=1, retry=[Retry(max_retries=9, base_delay=0)])
    twice = Calls("twice", failures=2)

    @workflow
    async def order(ctx: Context) -> list[Any]:
        said: list[Any] = [await ctx.step(twice.task, 2, retry=Retry(max_retries=2, base_delay=0))]
        try:
            await ctx.step(never.task, 1, retry=())
        except StepError as error:
            said.append(error.kind)
        return said

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == [2, "ConnectionError"]
    assert (never.calls, twice.calls) == ([1], [2, 2, 2])


async def test_retries_of_a_call_replace_the_policy_of_the_task(place: Place) -> None:
    """Row 73: `retries` is short for a policy, whatever the task says."""
    flaky = Calls("flaky", failures=9, retry=[Retry(max_retries=9, base_delay="1h")])

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.step(flaky.task, 1, retries=0)

    async with place.engine(order) as engine:
        assert (await failed(await engine.start(order))).failure.type == "ConnectionError"
    assert flaky.calls == [1]


async def test_a_long_retry_puts_the_function_away_and_is_not_shortened(place: Place) -> None:
    """Rows 23, 63 and 73."""
    flaky = Calls("flaky", failures=2, retry=[Retry(max_retries=2, base_delay="1h", backoff_rate=1)])
    lives: list[int] = []

    @workflow
    async def order(ctx: Context) -> int:
        lives.append(1)
        return await ctx.step(flaky.task, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order, id="order-1")
        await until_parked(engine, "order-1")
        found = await handle.journal()
        retried_at = next(each.at for each in found if each.kind == "OperationRetried")
        due_at_ms = (await row(engine, "order-1")).due_at_ms
        assert due_at_ms == round(retried_at.timestamp() * 1_000) + HOUR_MS
    place.clock.advance(HOUR_MS - 1_500)
    async with place.engine(order) as engine:
        assert (await (await engine.get("order-1")).status()).status == "suspended"
        assert flaky.calls == [1]
        place.clock.advance(1_500)
        await until(lambda: len(flaky.calls) == 2)
        await until_parked(engine, "order-1")
        place.clock.advance(HOUR_MS)
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 1
    assert flaky.calls == [1, 1, 1]
    assert lives == [1, 1, 1]


async def test_a_step_knows_its_key_and_its_attempt(place: Place) -> None:
    """Rows 46 and 73: the idempotency key is the same for all attempts, and for nothing else."""
    seen: list[tuple[str, int, str]] = []

    async def note(x: int) -> int:
        context = get_task_context()
        assert context is not None
        seen.append((context.operation, context.attempt, context.idempotency_key))
        if len(seen) == 1:
            raise ConnectionError
        return x

    @workflow
    async def order(ctx: Context) -> str:
        for n in range(2):
            await ctx.step(note, n, retry=Retry(max_retries=1, base_delay=0))
        outside = get_task_context()
        assert outside is not None
        return outside.operation

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == ""
    operations, attempts, marks = zip(*seen, strict=True)
    assert operations == ("note#1", "note#1", "note#2")
    assert attempts == (1, 2, 1)
    assert marks[0] == marks[1] != marks[2]


async def test_a_step_has_a_time_out(place: Place) -> None:
    """Rows 24 and 73."""
    gate = Gate()

    @workflow
    async def order(ctx: Context) -> list[str]:
        try:
            await ctx.step(gate.task, 1, timeout=0.05)
        except StepError as error:
            return [error.kind, error.operation, str(error.is_a(TimeoutError))]
        return []

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == ["timeout", "gate#1", "True"]
    assert (gate.calls, gate.stops) == ([1], 1)


def square(x: int) -> int:
    return x * x


@pytest.mark.embedded
async def test_a_step_may_run_in_a_process(place: Place) -> None:
    """Row 73: it takes one argument."""
    refused: list[str] = []

    @workflow
    async def order(ctx: Context) -> int:
        try:
            await ctx.step(square, 1, 2, executor="process")
        except UsageError as error:
            refused.append(str(error))
        return await ctx.step(square, 7, executor="process")

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == 49
    assert len(refused) == 1


async def test_an_output_that_cannot_be_encoded_fails_the_step_and_is_not_tried_again(place: Place) -> None:
    """Rows 62 and 73."""
    calls: list[int] = []

    async def strange() -> object:
        calls.append(1)
        return object()

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.step(strange, retries=5)
        except StepError as error:
            return error.kind
        return ""

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == "CodecError"
    assert calls == [1]


async def test_an_output_that_does_not_fit_its_annotation_is_an_error_each_time(place: Place) -> None:
    """Row 73: it is recorded as it was; the code that reads it is wrong, and may be mended."""

    async def lying() -> int:
        return "five"  # type: ignore[return-value] - that is the point

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.step(lying)
        except CodecError:
            return "lied"
        return ""

    async with place.engine(order) as engine:
        assert await (await engine.start(order)).result(PATIENCE_S) == "lied"


async def takes_context(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ctx: ctx.step(5),
        lambda ctx: ctx.step(takes_context),
        lambda ctx: ctx.step(keep, 1, name=""),
        lambda ctx: ctx.step(keep, 1, name="a\0b"),
        lambda ctx: ctx.step(keep, 1, retries=-1),
        lambda ctx: ctx.step(keep, 1, timeout=-1),
        lambda ctx: ctx.record("", lambda: 1),
        lambda ctx: ctx.sleep(),
        lambda ctx: ctx.sleep(-1),
        lambda ctx: ctx.sleep("soon"),
        lambda ctx: ctx.sleep("1h", until=datetime(2100, 1, 1, tzinfo=UTC)),
        lambda ctx: ctx.sleep(until=datetime(2100, 1, 1)),  # noqa: DTZ001 - that is the point
        lambda ctx: ctx.wait_signal(""),
        lambda ctx: ctx.wait_signal("go", timeout=-1),
        lambda ctx: ctx.race(),
        lambda ctx: ctx.map(keep, [1], concurrency=0),
        lambda ctx: ctx.map(keep, [1], min_completed=-1),
        lambda ctx: ctx.map(keep, [1], failures_max=-1),
        lambda ctx: ctx.map(5, [1]),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_and_leaves_no_trace(
    place: Place, wrong: Callable[[Context], Any]
) -> None:
    """Rows 73 to 75: a UsageError where it is asked for, that may be caught; the next thing is the first."""

    @workflow
    async def order(ctx: Context) -> int:
        with pytest.raises(UsageError):
            await wrong(ctx)
        return await ctx.step(keep, 1)

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 1
        assert await keys(handle) == ["keep#1"]


async def test_names_with_signs_of_the_journals_own_are_told_apart(place: Place) -> None:
    """Row 75."""

    @workflow
    async def order(ctx: Context) -> list[int]:
        names = ["a/b", "a#1", "a%2Fb", "gather#1/0/x", "a b", "ä"]
        given = [await ctx.step(keep, n, name=name) for n, name in enumerate(names)]
        await ctx.sleep("1h")
        return given

    assert await slept(place, order) == [0, 1, 2, 3, 4, 5]


# Values and records.


async def test_time_chance_and_names_are_the_same_whenever_the_function_runs(place: Place) -> None:
    """Row 76."""
    seen: list[list[Any]] = []

    @workflow
    async def order(ctx: Context) -> None:
        drawn = [ctx.now(), ctx.random(), ctx.uuid(), ctx.now(), ctx.random(), ctx.uuid()]
        seen.append(drawn)
        await ctx.sleep("1h")
        seen.append([ctx.now()])

    await slept(place, order)
    first, again, (woken,) = seen
    assert first == again
    assert all(isinstance(each, datetime) and each.utcoffset() is not None for each in (first[0], first[3]))
    assert all(isinstance(each, float) and 0 <= each < 1 for each in (first[1], first[4]))
    assert all(isinstance(each, UUID) and each.version == 4 for each in (first[2], first[5]))
    assert first[1] != first[4]
    assert first[2] != first[5]
    assert (woken - first[0]).total_seconds() >= 3_600


async def test_values_are_recorded_before_a_step_begins(place: Place) -> None:
    """Row 76: so that what the step did outside is never about another value."""
    handles: list[AsyncHandle] = []
    begun = asyncio.Event()
    found: list[str] = []

    async def look(_drawn: float) -> None:
        await begun.wait()
        found.extend(await keys(handles[0]))

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.step(look, ctx.random())

    async with place.engine(order) as engine:
        handles.append(await engine.start(order))
        begun.set()
        await handles[0].result(PATIENCE_S)
        assert await keys(handles[0]) == ["random#1", "look#1"]
    assert found == ["random#1"]


async def test_values_before_the_end_are_recorded_with_it(place: Place) -> None:
    """Row 76."""

    @workflow
    async def order(ctx: Context) -> float:
        return ctx.random()

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        drawn = await handle.result(PATIENCE_S)
        recorded = ["RunStarted", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
        (value,) = [e for e in await entries(handle) if isinstance(e, OperationCompleted)]
        assert (value.key, value.kind, codec.decoder(float)(value.output)) == ("random#1", "value", drawn)


async def test_values_are_kept_when_the_function_fails_and_runs_again(place: Place) -> None:
    """Rows 76 and 80."""
    seen: list[float] = []

    @workflow(retry=Retry(max_retries=2, base_delay=0))
    async def order(ctx: Context) -> float:
        seen.append(ctx.random())
        if len(seen) < 3:
            raise ConnectionError
        return seen[-1]

    async with place.engine(order) as engine:
        await (await engine.start(order)).result(PATIENCE_S)
    assert len(seen) == 3
    assert len(set(seen)) == 1


async def test_a_record_is_made_once(place: Place) -> None:
    """Row 76."""
    calls: list[str] = []

    def sync() -> Order:
        calls.append("sync")
        return Order("one", len(calls))

    async def later() -> int:
        calls.append("later")
        await asyncio.sleep(0)
        return len(calls)

    @workflow
    async def order(ctx: Context) -> list[Any]:
        said = [
            await ctx.record("config", sync, type=Order),
            await ctx.record("count", later),
            await ctx.record("config", sync),
        ]
        await ctx.sleep("1h")
        return said

    assert await slept(place, order) == [{"id": "one", "euros": 1}, 2, {"id": "one", "euros": 3}]
    assert calls == ["sync", "later", "sync"]


async def test_the_error_of_a_record_is_raised_as_it_is_and_not_recorded(place: Place) -> None:
    """Row 76: the next life of the function makes it."""
    calls: list[int] = []
    caught: list[KeyError] = []

    def load() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("config")
        return len(calls)

    @workflow(retry=Retry(max_retries=1, base_delay=0))
    async def order(ctx: Context) -> int:
        try:
            return await ctx.record("config", load)
        except KeyError as error:
            caught.append(error)
            raise

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == 2
        recorded = ["RunStarted", "RetryScheduled", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await kinds(handle) == recorded
    assert len(caught) == 1


async def test_a_function_that_goes_on_after_the_error_of_a_record_goes_on_after_it_again(place: Place) -> None:
    """Row 76: nothing is recorded of it, so it is called again, and as long as it fails, all is as before."""
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        raise KeyError("config")

    @workflow
    async def order(ctx: Context) -> str:
        try:
            await ctx.record("config", load)
        except KeyError:
            await ctx.step(keep, "default")
        await ctx.sleep("1h")
        return "done"

    assert await slept(place, order) == "done"
    assert len(calls) == 2


async def test_parallel_work_that_follows_the_error_of_a_record_follows_it_again(place: Place) -> None:
    """Row 76: nothing of the function itself is recorded after it, only of its parts."""
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        raise KeyError("config")

    @workflow
    async def order(ctx: Context) -> str:
        with contextlib.suppress(KeyError):
            await ctx.record("config", load)
        await ctx.gather(ctx.step(keep, 1), ctx.sleep("1h"))
        return "done"

    assert await slept(place, order) == "done"
    assert len(calls) == 2


async def test_a_record_that_is_tried_again_at_once_is_one_record(place: Place) -> None:
    """Row 76: the one that gave something, in each life."""
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return len(calls)

    @workflow
    async def order(ctx: Context) -> int:
        while True:
            try:
                given: int = await ctx.record("config", load)
            except ConnectionError:
                continue
            await ctx.sleep("1h")
            return given

    assert await slept(place, order) == 3
    assert len(calls) == 3


async def test_a_record_that_gives_something_at_last_where_the_function_went_on_without_is_a_change(
    place: Place,
) -> None:
    """Rows 76 and 79: the function would go another way than the one that is recorded."""
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return len(calls)

    @workflow
    async def order(ctx: Context) -> None:
        try:
            await ctx.record("config", load)
        except ConnectionError:
            await ctx.step(keep, "default")
        await ctx.sleep("1h")

    with pytest.raises(RunBlockedError) as caught:
        await slept(place, order)
    assert "keep#1" in str(caught.value)
    assert "record config#1" in str(caught.value)


async def test_a_value_that_cannot_be_encoded_is_no_record(place: Place) -> None:
    """Row 76."""

    @workflow
    async def order(ctx: Context) -> str:
        with pytest.raises(CodecError):
            await ctx.record("thing", object)
        return "refused"

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == "refused"
        assert await keys(handle) == []


# Variables.


async def test_variables_are_shown_and_are_there_for_later_steps(place: Place) -> None:
    """Row 77."""

    async def first(ctx: Context, x: int) -> int:
        ctx.set("euros", 5)
        ctx.set("gone", True)
        assert ctx.get("euros") == 5
        await ctx.step(keep, x)
        ctx.delete("gone")
        assert ctx.get("gone", "default") == "default"
        ctx.set("order", Order("one", 1))
        return x

    async def second(ctx: Context, _x: int) -> list[Any]:
        return [ctx.get("euros"), ctx.get("gone"), ctx.get("order", type=Order).id, ctx.get("never", 7)]

    flow = Flow("order").then(first).then(second)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == [5, None, "one", 7]
        (main,) = (await handle.status()).branches.values()
        assert main.variables == {"euros": 5, "order": {"id": "one", "euros": 1}}


async def test_a_function_reads_what_it_had_set_by_then_whenever_it_runs(place: Place) -> None:
    """Row 77: never what it sets later."""
    seen: list[list[Any]] = []

    @workflow
    async def order(ctx: Context) -> None:
        read = [ctx.get("n")]
        for n in range(3):
            ctx.set("n", n)
            await ctx.step(keep, n)
            read.append(ctx.get("n"))
        ctx.delete("n")
        read.append(ctx.get("n"))
        seen.append(read)
        await ctx.sleep("1h")

    await slept(place, order)
    assert seen == [[None, 0, 1, 2, None]] * 2


async def test_variables_are_shown_while_the_function_runs(place: Place) -> None:
    """Row 77: as they were set with what is recorded."""
    gate = Gate()

    @workflow
    async def order(ctx: Context) -> None:
        ctx.set("state", "begun")
        ctx.set("gone", 1)
        await ctx.step(keep, 1)
        ctx.set("state", "waiting")
        ctx.delete("gone")
        await ctx.wait_signal("go")

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await until_parked(engine, handle.id)
        assert (await handle.status()).branches["main"].variables == {"state": "waiting"}
        await handle.signal("go")
        await handle.result(PATIENCE_S)
        assert (await handle.status()).branches["main"].variables == {"state": "waiting"}
    assert gate.calls == []


async def test_branches_begin_with_the_variables_of_the_one_they_come_from(place: Place) -> None:
    """Row 77."""

    async def begin(ctx: Context, x: int) -> int:
        ctx.set("n", x)
        return x

    async def count(ctx: Context, x: int) -> list[int]:
        ctx.set("n", ctx.get("n") + (1 if ctx.task.branch == "left" else 2))
        await ctx.step(keep, x)
        return [x, ctx.get("n")]

    inner = {name: [Step(name, task="count")] for name in ("left", "right")}
    before = [Step("begin", task="begin")]
    flow = parallel(inner, task("count")(count), task("begin")(begin), before=before)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 10)
        assert await handle.result(PATIENCE_S) == {"left": [10, 11], "right": [10, 12]}
        branches = (await handle.status()).branches
        assert [branches[name].variables["n"] for name in ("main", "left", "right")] == [10, 11, 12]


async def test_what_a_forgotten_way_had_set_is_gone(place: Place) -> None:
    """Rows 77 and 80: a retry forgets what followed from the failure, also the variables."""
    flaky = Calls("flaky", failures=1)

    @workflow(retry=Retry(max_retries=1, base_delay=0))
    async def order(ctx: Context) -> list[Any]:
        ctx.set("kept", 1)
        await ctx.step(keep, 0)
        try:
            await ctx.step(flaky.task, 1)
        except StepError:
            ctx.set("failed", True)
            await ctx.step(keep, "compensated")
            raise
        return [ctx.get("kept"), ctx.get("failed")]

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        assert await handle.result(PATIENCE_S) == [1, None]
        assert (await handle.status()).branches["main"].variables == {"kept": 1}


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 256])
async def test_a_variable_has_a_proper_name(place: Place, name: str) -> None:
    """Row 77."""

    @workflow
    async def order(ctx: Context) -> None:
        with pytest.raises(UsageError):
            ctx.set(name, 1)
        with pytest.raises(CodecError):
            ctx.set("x", object())

    async with place.engine(order) as engine:
        handle = await engine.start(order)
        await handle.result(PATIENCE_S)
        assert (await handle.status()).branches["main"].variables == {}
