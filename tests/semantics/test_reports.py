"""Row 46: what bodies report while they run: heartbeats for the next attempt, progress for people."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import (
    AsyncHandle,
    Context,
    Flow,
    Retry,
    Step,
    TaskContext,
    Workflow,
    get_task_context,
    task,
    workflow,
)
from holdfast.codecs import json as codec
from holdfast.core.entries import Reported
from holdfast.errors import TaskError
from holdfast.runtime.limits import REPORT_MS
from holdfast.stores.records import Append, Member
from holdfast.testing.faults import Fault, FaultyStore
from tests.semantics.flows import DAY_MS, HOUR_MS, keep, parallel
from tests.semantics.places import PATIENCE_S, Place, entries, kinds, until, until_parked

AT_ONCE = Retry(max_retries=5, base_delay=0)


@pytest.fixture(autouse=True)
def _only_the_clock_of_the_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nothing is written because time has passed, but where a test says so."""
    monkeypatch.setattr("holdfast.runtime.reports.REPORT_MS", HOUR_MS)
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)


def here() -> TaskContext:
    found = get_task_context()
    assert found is not None
    return found


async def reports(handle: AsyncHandle) -> list[Reported]:
    return [entry for entry in await entries(handle) if isinstance(entry, Reported)]


async def progress(handle: AsyncHandle, branch: str = "main") -> Any:  # noqa: ANN401 - whatever was said
    return (await handle.status()).branches[branch].progress


async def until_progress(handle: AsyncHandle, expected: object, branch: str = "main") -> None:
    async def is_there() -> bool:
        found = (await handle.status()).branches.get(branch)
        return found is not None and found.progress == expected

    await until(is_there)


async def until_written(handle: AsyncHandle, number: int) -> None:
    async def are_there() -> bool:
        return len(await reports(handle)) >= number

    await until(are_there)


class Speaker:
    """A body that says something in each attempt but the last, which then fails.

    Attributes:
        told: What each attempt was told by the one before.
    """

    def __init__(self, *said: Sequence[object]) -> None:
        self.told: list[Any] = []
        self._said = said

    def speak(self) -> None:
        context = here()
        self.told.append(context.heartbeat_details())
        if len(self.told) <= len(self._said):
            for details in self._said[len(self.told) - 1]:
                context.heartbeat(details)
            raise ConnectionError("busy")

    def in_a_thread(self, x: int) -> int:
        self.speak()
        return x

    async def in_the_loop(self, x: int) -> int:
        await asyncio.sleep(0)
        self.speak()
        return x


BODIES: dict[str, Callable[[Speaker], Any]] = {
    "a sync body": lambda speaker: Flow("order").then(task(retry=AT_ONCE)(speaker.in_a_thread)),
    "an async body": lambda speaker: Flow("order").then(task(retry=AT_ONCE)(speaker.in_the_loop)),
    "a function": lambda speaker: workflow("order", retry=AT_ONCE)(function_of(speaker)),
    "a sync step of a function": lambda speaker: workflow("order")(calling(speaker.in_a_thread)),
    "an async step of a function": lambda speaker: workflow("order")(calling(speaker.in_the_loop)),
}


def function_of(speaker: Speaker) -> Any:  # noqa: ANN401 - a function
    async def order(_ctx: Context, x: int) -> int:
        speaker.speak()
        return x

    return order


def calling(body: Callable[..., Any]) -> Any:  # noqa: ANN401 - a function
    async def order(ctx: Context, x: int) -> int:
        given: int = await ctx.step(body, x, retry=AT_ONCE)
        return given

    return order


@pytest.mark.parametrize("which", BODIES)
async def test_an_attempt_is_told_what_the_one_before_it_said_last(place: Place, which: str) -> None:
    """Row 46: exactly, however much that said before; one that says nothing leaves what there is."""
    speaker = Speaker([1], ["two", {"n": 3}], [], [4, None, 5, 6])
    target = BODIES[which](speaker)
    async with place.engine(target) as engine:
        handle = await engine.start(target, 7)
        assert await handle.result(PATIENCE_S) == 7
    assert speaker.told == [None, 1, {"n": 3}, {"n": 3}, 6]


@pytest.mark.parametrize("which", BODIES)
async def test_it_is_told_so_also_when_another_worker_makes_it(place: Place, which: str) -> None:
    """Rows 23 and 46: in between there is nothing but the journal."""
    late = Retry(max_retries=5, base_delay="1h", backoff_rate=1)
    speaker = Speaker([1, 2], [3, 4])
    targets: dict[str, Any] = {
        "a sync body": Flow("order").then(task(retry=late)(speaker.in_a_thread)),
        "an async body": Flow("order").then(task(retry=late)(speaker.in_the_loop)),
        "a function": workflow("order", retry=late)(function_of(speaker)),
        "a sync step of a function": workflow("order")(late_calling(speaker.in_a_thread, late)),
        "an async step of a function": workflow("order")(late_calling(speaker.in_the_loop, late)),
    }
    for n in range(3):
        async with place.engine(targets[which]) as engine:
            handle = await engine.start("order", 7, id="order-1", on_conflict="use_existing")
            if n < 2:
                await until(lambda n=n: len(speaker.told) == n + 1)
                await until_parked(engine, "order-1")
            else:
                assert await handle.result(PATIENCE_S) == 7
        place.clock.advance(HOUR_MS)
    assert speaker.told == [None, 2, 4]


def late_calling(body: Callable[..., Any], retry: Retry) -> Any:  # noqa: ANN401 - a function
    async def order(ctx: Context, x: int) -> int:
        given: int = await ctx.step(body, x, retry=retry)
        return given

    return order


@pytest.mark.parametrize("which", ["a body", "a function", "a step of a function"])
async def test_what_was_said_is_told_after_a_failed_run_is_retried(place: Place, which: str) -> None:
    """Rows 46 and 52."""
    speaker = Speaker([1, 2])
    targets: dict[str, Any] = {
        "a body": Flow("order").then(speaker.in_a_thread),
        "a function": workflow("order")(function_of(speaker)),
        "a step of a function": workflow("order")(late_calling(speaker.in_a_thread, Retry(max_retries=0))),
    }
    async with place.engine(targets[which]) as engine:
        handle = await engine.start("order", 7)
        with pytest.raises(TaskError):
            await handle.result(PATIENCE_S)
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 7
    # An operation that is asked for anew begins anew: its own heartbeats are gone with it.
    assert speaker.told == [None, None if which == "a step of a function" else 2]


@dataclass
class Page:
    number: int
    url: str


async def test_details_are_decoded_as_the_type_that_is_asked_for(place: Place) -> None:
    """Rows 45 and 46."""
    told: list[Any] = []

    @task(retry=AT_ONCE)
    async def crawl(x: int) -> int:
        context = here()
        told.append((context.heartbeat_details(Page), context.heartbeat_details()))
        if context.attempt == 1:
            context.heartbeat(Page(3, "/three"))
            raise ConnectionError("busy")
        return x

    assert await place.run(Flow("order").then(crawl), 1) == 1
    assert told == [(None, None), (Page(3, "/three"), {"number": 3, "url": "/three"})]


async def test_what_cannot_be_encoded_is_an_error_where_it_is_said(place: Place) -> None:
    """Rows 45 and 46: nothing is reported then."""
    caught: list[str] = []

    async def body(x: int) -> int:
        for report in (here().heartbeat, here().report_progress):
            try:
                report(object())
            except Exception as error:  # noqa: BLE001 - its type is what is asked
                caught.append(type(error).__name__)
        return x

    flow = Flow("order").then(body)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 1
        assert await reports(handle) == []
    assert caught == ["CodecError", "CodecError"]


class Holds:
    """A body that reports until it is told to end.

    Attributes:
        told: What each attempt was told by the one before.
    """

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.may_end = asyncio.Event()

    def reported(self) -> None:
        context = here()
        self.told.append(context.heartbeat_details())
        context.heartbeat(f"first of {len(self.told)}")
        context.heartbeat(f"last of {len(self.told)}")

    async def body(self, x: int) -> int:
        self.reported()
        await self.may_end.wait()
        return x

    async def function(self, ctx: Context, x: int) -> int:
        self.reported()
        given: int = await ctx.step(self.wait, x)
        return given

    async def wait(self, x: int) -> int:
        await self.may_end.wait()
        return x

    async def calls(self, ctx: Context, x: int) -> int:
        given: int = await ctx.step(self.body, x)
        return given


def held(which: str, holds: Holds) -> Any:  # noqa: ANN401 - a workflow
    if which == "a body":
        return Flow("order").then(holds.body)
    return workflow("order")(holds.function if which == "a function" else holds.calls)


@pytest.mark.parametrize("which", ["a body", "a function", "a step of a function"])
async def test_an_attempt_that_was_cut_off_has_left_what_was_written_last(place: Place, which: str) -> None:
    """Rows 46 and 53: at least that."""
    holds = Holds()
    target = held(which, holds)
    async with place.engine(target) as engine:
        handle = await engine.start(target, 7, id="order-1")
        await until_written(handle, 1)
        assert len(holds.told) == 1
    holds.may_end.set()
    async with place.engine(target) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 7
    assert holds.told[0] is None
    assert holds.told[1] in {"first of 1", "last of 1"}


@pytest.mark.embedded
@pytest.mark.parametrize("which", ["a body", "a function", "a step of a function"])
async def test_an_attempt_that_was_lost_in_a_crash_has_left_what_was_written_last(
    place: Place, which: str
) -> None:
    """Rows 27 and 46: at least that."""
    holds = Holds()
    target = held(which, holds)

    def reporting(_number: int, group: Sequence[Member]) -> Fault:
        reports = any(isinstance(each, Append) and b"Reported" in b"".join(each.entries) for each in group)
        return Fault.CRASH_AFTER if reports else Fault.NONE

    store = FaultyStore(place.store(), reporting)
    async with place.engine(target, store=store) as engine:
        await engine.start(target, 7, id="order-1")
        await store.crashed.wait()
    holds.may_end.set()
    place.clock.advance(31 * DAY_MS)
    async with place.engine(target) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 7
    assert holds.told == [None, "first of 1"]


async def test_what_is_said_while_time_passes_is_written_now_and_then(place: Place) -> None:
    """Row 46: the first at once, and of those that follow the latest one when the time is over."""
    assert REPORT_MS == 5_000
    say = asyncio.Queue[int | None]()

    async def body(x: int) -> int:
        while (said := await say.get()) is not None:
            here().report_progress(said)
        return x

    flow = Flow("order").then(body)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        say.put_nowait(0)
        await until_progress(handle, 0)
        for last in (3, 6, 9):
            for said in range(last - 2, last + 1):
                say.put_nowait(said)
            await until(say.empty)
            assert await progress(handle) == max(last - 3, 0)
            place.clock.advance(HOUR_MS)
            await until_progress(handle, last)
        assert len(await reports(handle)) == 4
        say.put_nowait(None)
        assert await handle.result(PATIENCE_S) == 1


@pytest.mark.parametrize("which", ["a sync body", "an async body", "a step of a function"])
async def test_many_reports_are_few_entries(place: Place, which: str) -> None:
    """Row 46: the first of each kind, and the last with the outcome."""
    many = 2_000

    def loud() -> None:
        for n in range(many):
            here().heartbeat(n)
            here().report_progress({"done": n})

    told: list[Any] = []

    def in_a_thread(x: int) -> int:
        told.append(here().heartbeat_details())
        loud()
        if len(told) == 1:
            raise ConnectionError("busy")
        return x

    async def in_the_loop(x: int) -> int:
        return in_a_thread(x)

    bodies: dict[str, Any] = {
        "a sync body": Flow("order").then(task(retry=AT_ONCE)(in_a_thread)),
        "an async body": Flow("order").then(task(retry=AT_ONCE)(in_the_loop)),
        "a step of a function": workflow("order")(calling(in_a_thread)),
    }
    async with place.engine(bodies[which]) as engine:
        handle = await engine.start("order", 7)
        assert await handle.result(PATIENCE_S) == 7
        assert len(await reports(handle)) <= 8
    assert told == [None, many - 1]


@pytest.mark.parametrize("which", ["a sync body", "an async body", "a function", "a step of a function"])
async def test_progress_is_shown_while_the_step_runs_and_gone_when_it_has_completed(
    place: Place, which: str
) -> None:
    """Row 46: of the branch that is there, as plain data."""
    said, may_end = Page(3, "/three"), threading.Event()

    def in_a_thread(x: int) -> int:
        here().report_progress(said)
        may_end.wait(PATIENCE_S)
        return x

    async def in_the_loop(x: int) -> int:
        here().report_progress(said)
        await until(may_end.is_set)
        return x

    async def function(ctx: Context, x: int) -> int:
        ctx.report_progress(said)
        await ctx.step(until, may_end.is_set)
        return x

    gate = asyncio.Event()

    @task
    async def after(x: int) -> int:
        assert here().heartbeat_details() is None
        await gate.wait()
        return x

    bodies = {"a sync body": in_a_thread, "an async body": in_the_loop, "a function": function}
    body: Any = bodies.get(which) or calling(in_a_thread)
    flow = Flow("order").then(body).then(after)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 7)
        await until_progress(handle, {"number": 3, "url": "/three"})
        may_end.set()
        await until(lambda: is_at(handle, "after"))
        assert await progress(handle) is None
        gate.set()
        assert await handle.result(PATIENCE_S) == 7
        assert await progress(handle) is None


async def is_at(handle: AsyncHandle, step: str) -> bool:
    return (await handle.status()).branches["main"].step == step


async def test_progress_is_shown_after_the_run_has_failed(place: Place) -> None:
    """Row 46: how far it came, to the last word."""

    async def body(_x: int) -> None:
        for n in range(3):
            here().report_progress(n)
        raise ConnectionError("busy")

    flow = Flow("order").then(body)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        with pytest.raises(TaskError):
            await handle.result(PATIENCE_S)
        assert await progress(handle) == 2


async def test_branches_have_reports_of_their_own(place: Place) -> None:
    """Row 46."""
    may_end = asyncio.Event()
    told: dict[str, list[Any]] = {"left": [], "right": []}

    @task(retry=AT_ONCE)
    async def side(x: int) -> int:
        context = here()
        told[context.branch].append(context.heartbeat_details())
        if context.attempt == 1:
            context.heartbeat([context.branch, context.attempt])
            raise ConnectionError("busy")
        context.report_progress([context.branch, context.attempt])
        await may_end.wait()
        return x

    graph = parallel({name: [Step(name, task="side")] for name in told}, side)
    async with place.engine(graph) as engine:
        handle = await engine.start(graph, 7)
        for name in told:
            await until_progress(handle, [name, 2], name)
        may_end.set()
        assert await handle.result(PATIENCE_S) == {"left": 7, "right": 7}
    assert told == {name: [None, [name, 1]] for name in told}


async def test_steps_of_a_function_have_heartbeats_of_their_own(place: Place) -> None:
    """Row 46: also those that run side by side, and the function itself has one."""
    told: dict[str, list[Any]] = {}

    async def speaks(x: int) -> int:
        context = here()
        told.setdefault(context.operation, []).append(context.heartbeat_details())
        context.heartbeat([context.operation, context.attempt])
        if context.attempt < 3:
            raise ConnectionError("busy")
        return x

    @workflow(retry=AT_ONCE)
    async def order(ctx: Context, x: int) -> int:
        told.setdefault("", []).append(ctx.task.heartbeat_details())
        ctx.heartbeat("of the function")
        both = await ctx.gather(*(ctx.step(speaks, x, retry=AT_ONCE) for _ in range(2)))
        if ctx.task.attempt == 1:
            raise ConnectionError("busy")
        return sum(both)

    async with place.engine(order) as engine:
        assert await (await engine.start(order, 7)).result(PATIENCE_S) == 14
    assert told.pop("") == [None, "of the function"]
    assert len(told) == 2
    for key, found in told.items():
        assert found == [None, [key, 1], [key, 2]]


async def test_the_next_step_begins_with_nothing_said(place: Place) -> None:
    """Row 46: nor does the next visit, or the next operation of the same name."""
    told: list[Any] = []

    @task
    async def speaks(x: int) -> int:
        told.append(here().heartbeat_details())
        here().heartbeat("said")
        return x

    @task
    async def calls(ctx: Context, x: int) -> int:
        await ctx.step(speaks, x)
        return await ctx.step(speaks, x)

    flow = Flow("order").then(speaks).then(speaks).then(calls).then(speaks)
    assert await place.run(flow, 7) == 7
    assert told == [None] * 5


async def test_the_first_report_of_each_attempt_and_step_is_written_at_once(place: Place) -> None:
    """Row 46: whatever the one before has written just now."""
    gates = {"first": asyncio.Event(), "second": asyncio.Event()}

    @task(retry=AT_ONCE)
    async def first(x: int) -> int:
        here().report_progress(f"first {here().attempt}")
        if here().attempt == 1:
            raise ConnectionError("busy")
        await gates["first"].wait()
        return x

    @task
    async def second(x: int) -> int:
        here().report_progress("second 1")
        await gates["second"].wait()
        return x

    flow = Flow("order").then(first).then(second)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 7)
        await until_progress(handle, "first 2")
        gates["first"].set()
        await until_progress(handle, "second 1")
        gates["second"].set()
        assert await handle.result(PATIENCE_S) == 7


async def test_progress_never_goes_back(place: Place) -> None:
    """Row 46: what a function has said before one of its steps did is not shown after that."""
    say = asyncio.Queue[int | None]()

    async def speaks() -> None:
        here().report_progress(3)
        while (said := await say.get()) is not None:
            here().heartbeat(said)

    @workflow
    async def order(ctx: Context, x: int) -> int:
        ctx.report_progress(1)
        ctx.report_progress(2)
        await ctx.step(speaks)
        return x

    async with place.engine(order) as engine:
        handle = await engine.start(order, 7)
        # What is kept back since before that has been written, or never will be, when these are.
        for said in range(3):
            say.put_nowait(said)
            await until(say.empty)
            place.clock.advance(HOUR_MS)
            await until(lambda said=said: is_written(handle, said))
        assert await progress(handle) == 3
        shown = [each.payload for each in await reports(handle) if each.kind == "progress"]
        assert shown in ([codec.encode(n) for n in (1, 3)], [codec.encode(n) for n in (1, 2, 3)])
        say.put_nowait(None)
        assert await handle.result(PATIENCE_S) == 7


async def is_written(handle: AsyncHandle, said: int) -> bool:
    return codec.encode(said) in [each.payload for each in await reports(handle) if each.kind == "heartbeat"]


@pytest.mark.parametrize("which", ["a body", "a step of a function"])
async def test_a_body_that_was_given_up_says_nothing_for_the_one_after_it(place: Place, which: str) -> None:
    """Rows 25 and 46: one in a thread goes on when its time is up, and nobody listens."""
    told: list[Any] = []
    has_spoken, may_speak = threading.Event(), threading.Event()

    def body(x: int) -> int:
        context = here()
        told.append(context.heartbeat_details())
        attempt = len(told)
        context.heartbeat(f"first of {attempt}")
        if attempt == 1:
            may_speak.wait(PATIENCE_S)
            context.heartbeat("late")
            has_spoken.set()
        elif attempt == 2:
            context.heartbeat("last of 2")
            may_speak.set()
            has_spoken.wait(PATIENCE_S)
            raise ConnectionError("busy")
        return x

    @workflow("order")
    async def function(ctx: Context, x: int) -> int:
        given: int = await ctx.step(body, x, timeout="2h", retry=AT_ONCE)
        return given

    flow = Flow("order").then(task(timeout="2h", retry=AT_ONCE)(body))
    target: Workflow = flow.build() if which == "a body" else function
    async with place.engine(target) as engine:
        handle = await engine.start(target, 7)
        await until_written(handle, 1)
        place.clock.advance(2 * HOUR_MS)
        assert await handle.result(PATIENCE_S) == 7
    assert told == [None, "first of 1", "last of 2"]


async def test_reports_are_seen_while_a_function_waits_for_something_else(place: Place) -> None:
    """Row 46: also when nobody drives it any more, and its next beginning says it again."""

    @workflow
    async def order(ctx: Context, x: int) -> int:
        ctx.report_progress("waiting")
        await ctx.wait_signal("go")
        ctx.report_progress("went")
        await ctx.step(keep, x)
        return x

    async with place.engine(order) as engine:
        handle = await engine.start(order, 7)
        await until_parked(engine, handle.id)
        assert await progress(handle) == "waiting"
        await handle.signal("go")
        assert await handle.result(PATIENCE_S) == 7
        assert (await kinds(handle))[-1] == "RunCompleted"


async def test_a_body_that_reports_may_be_paused_and_cancelled(place: Place) -> None:
    """Rows 46, 48 and 49: what it says goes on being written while it runs."""
    say = asyncio.Queue[int]()

    async def body(_x: int) -> None:
        while True:
            here().report_progress(await say.get())

    flow = Flow("order").then(body)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 7)
        say.put_nowait(1)
        await until_progress(handle, 1)
        await handle.pause()
        say.put_nowait(2)
        await until(say.empty)
        place.clock.advance(HOUR_MS)
        await until_progress(handle, 2)
        await handle.unpause()
        await handle.cancel(wait=True)
        assert (await handle.status()).status == "cancelled"


def refused(kind: str) -> str:
    """In a process: what the error was."""
    context = here()
    report = context.heartbeat if kind == "heartbeat" else context.report_progress
    try:
        report(1)
    except Exception as error:  # noqa: BLE001 - its type is what is asked
        return type(error).__name__
    return "no error"


@pytest.mark.parametrize("kind", ["heartbeat", "progress"])
async def test_a_body_in_a_process_of_its_own_cannot_report(place: Place, kind: str) -> None:
    """Row 46: only who drives the run can write."""
    flow = Flow("order").then(task(executor="process")(refused))
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, kind)
        assert await handle.result(PATIENCE_S) == "UsageError"
        assert await reports(handle) == []
