"""Row 57: the runs that follow a run start in the very commit that completes it."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import (
    AsyncEngine,
    AsyncHandle,
    Completion,
    Context,
    Edge,
    Flow,
    FollowUp,
    Step,
    Workflow,
    get_task_context,
    task,
    workflow,
)
from holdfast.core.entries import RunFailed
from holdfast.errors import TaskError
from holdfast.stores.records import Append, Member
from holdfast.testing.faults import Fault, FaultyStore
from tests.semantics.flows import DAY_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    ms,
    row,
    stamps,
    until,
    until_parked,
    until_status,
)


@workflow
async def survey(_ctx: Context, about: Any) -> Any:  # noqa: ANN401 - whatever it is
    """What follows."""
    return about


def follow(done: Completion) -> list[FollowUp]:
    """A hook: one run, with the output of the one before."""
    return [FollowUp(survey, done.output, id=f"survey-{done.run_id}")]


async def others(engine: AsyncEngine, *known: str) -> list[str]:
    """The ids of all runs but these."""
    return sorted(run.id for run in await engine.list() if run.id not in known)


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


@dataclass
class Receipt:
    order: str
    amount: int


@task
async def paid(order: str) -> Receipt:
    return Receipt(order, 5)


async def asked_in_a_coroutine(done: Completion, seen: list[Completion]) -> list[FollowUp]:
    await asyncio.sleep(0)
    seen.append(done)
    return [FollowUp(survey, done.output.order, id="survey-1")]


def asked_in_a_thread(done: Completion, seen: list[Completion]) -> list[FollowUp]:
    seen.append(done)
    return [FollowUp(survey, done.output.order, id="survey-1")]


def asked_for_a_coroutine(done: Completion, seen: list[Completion]) -> Any:  # noqa: ANN401 - awaitable
    return asked_in_a_coroutine(done, seen)


@pytest.mark.parametrize("hook", [asked_in_a_coroutine, asked_in_a_thread, asked_for_a_coroutine])
async def test_a_hook_is_told_what_the_run_gave_and_starts_what_follows(
    place: Place, hook: Callable[..., Any]
) -> None:
    """Row 57: decoded as `handle.result()` gives it."""
    seen: list[Completion] = []
    flow = Flow("visit", {"team": "sales"}, on_complete=functools.partial(hook, seen=seen)).then(paid)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, "chair", id="order-1")
        assert await handle.result(PATIENCE_S) == Receipt("chair", 5)
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == "chair"
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
    (done,) = seen
    assert (done.run_id, done.workflow, done.output) == ("order-1", "visit", Receipt("chair", 5))
    assert dict(done.metadata) == {"team": "sales"}


async def test_what_follows_begins_in_the_commit_that_completes_the_run(place: Place) -> None:
    """Row 57: at the same moment of the store, as a run of its own that nobody waits for."""
    flow = Flow("visit", on_complete=follow).then(keep)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, "chair", id="1")
        await handle.result(PATIENCE_S)
        # It is there as soon as the run is completed, so that nothing has to be waited for.
        found = await row(engine, "survey-1")
        assert found.created_at_ms == (await stamps(handle))["RunCompleted"]
        assert (found.workflow, found.parent_key, found.parent_step) == ("survey", None, None)
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == "chair"
        assert (await row(engine, "1")).messages_sent == 0


NOTHING: dict[str, Callable[[Completion], Any]] = {
    "None": lambda _done: None,
    "an empty list": lambda _done: [],
}


@pytest.mark.parametrize("which", NOTHING)
async def test_a_hook_may_give_nothing(place: Place, which: str) -> None:
    """Row 57."""
    flow = Flow("visit", on_complete=NOTHING[which]).then(keep)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 1
        assert await others(engine, handle.id) == []


async def test_a_hook_may_give_several_of_the_same_workflow(place: Place) -> None:
    """Row 57: each has an id of its own, made of that of the run."""

    def three(done: Completion) -> list[FollowUp]:
        return [FollowUp(survey, done.output), FollowUp("survey", done.output), FollowUp(survey)]

    flow = Flow("visit", on_complete=three).then(keep)
    async with place.engine(flow, survey) as engine:
        for run_id in ("order-1", "order-2"):
            await (await engine.start(flow, run_id, id=run_id)).result(PATIENCE_S)
        found = await others(engine, "order-1", "order-2")
        assert len(found) == 6
        for run_id in ("order-1", "order-2"):
            mine = [each for each in found if each.startswith(f"{run_id}/on_complete")]
            outputs = [await (await engine.get(each)).result(PATIENCE_S) for each in mine]
            assert sorted(outputs, key=str) == [None, run_id, run_id]


async def test_an_id_that_is_made_of_a_long_one_is_none_that_is_too_long(place: Place) -> None:
    """Rows 47 and 57."""
    flow = Flow("visit", on_complete=lambda _done: [FollowUp(survey, n) for n in range(2)]).then(keep)
    async with place.engine(flow, survey) as engine:
        await (await engine.start(flow, 1, id="ö" * 127)).result(PATIENCE_S)
        found = await others(engine, "ö" * 127)
        assert len(found) == 2
        assert max(len(run_id.encode()) for run_id in found) <= 255


async def test_an_id_that_is_taken_starts_nothing(place: Place) -> None:
    """Row 57: also where the run has that id itself, or gives it twice."""

    def twice(done: Completion) -> list[FollowUp]:
        return [FollowUp(survey, n, id=run_id) for n, run_id in enumerate(["new", "taken", "new", done.run_id])]

    flow = Flow("visit", on_complete=twice).then(keep)
    async with place.engine(flow, survey) as engine:
        assert await (await engine.start(survey, "before", id="taken")).result(PATIENCE_S) == "before"
        handle = await engine.start(flow, "visit", id="order-1")
        assert await handle.result(PATIENCE_S) == "visit"
        assert await (await engine.get("new")).result(PATIENCE_S) == 0
        assert await (await engine.get("taken")).result(PATIENCE_S) == "before"
        assert await others(engine) == ["new", "order-1", "taken"]
        assert await kinds(await engine.get("taken")) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_what_follows_may_be_of_a_workflow_that_only_others_know(place: Place) -> None:
    """Row 57: by name; it waits for a worker that has it."""
    flow = Flow("visit", on_complete=lambda done: [FollowUp("survey", done.output, id="next")]).then(keep)
    async with place.engine(survey):
        pass
    async with place.engine(flow) as engine:
        assert await (await engine.start(flow, 5)).result(PATIENCE_S) == 5
        assert (await (await engine.get("next")).status()).status == "pending"
    async with place.engine(survey) as engine:
        assert await (await engine.get("next")).result(PATIENCE_S) == 5


async def test_a_run_may_be_followed_by_runs_of_its_own_workflow(place: Place) -> None:
    """Row 57: one after the other, each with a hook of its own."""
    asked: list[int] = []

    def again(done: Completion) -> list[FollowUp] | None:
        asked.append(done.output)
        return [FollowUp("count", done.output - 1)] if done.output else None

    flow = Flow("count", on_complete=again).then(keep)
    async with place.engine(flow) as engine:
        await engine.start(flow, 4)
        await until(lambda: asked == [4, 3, 2, 1, 0])
        await until(lambda: all_completed(engine, 5))


async def all_completed(engine: AsyncEngine, number: int) -> bool:
    return [run.status for run in await engine.list()] == ["completed"] * number


async def test_a_function_has_a_hook_too(place: Place) -> None:
    """Row 57: asked once, however often the body begins anew."""
    asked: list[Any] = []

    def hook(done: Completion) -> list[FollowUp]:
        asked.append(done.output)
        return follow(done)

    @workflow(on_complete=hook, metadata={"team": "sales"})
    async def visit(ctx: Context, order: str) -> Receipt:
        await ctx.step(keep, 1)
        await ctx.wait_signal("go")
        return Receipt(await ctx.step(keep, order), 5)

    async with place.engine(visit, survey) as engine:
        handle = await engine.start(visit, "chair", id="1")
        await until_parked(engine, "1")
        await handle.signal("go")
        assert await handle.result(PATIENCE_S) == Receipt("chair", 5)
        output = await (await engine.get("survey-1")).result(PATIENCE_S)
        assert output == {"order": "chair", "amount": 5}
    assert asked == [Receipt("chair", 5)]


async def test_a_hook_of_a_child_is_asked_as_any_other(place: Place) -> None:
    """Rows 56 and 57: the commit both answers the parent and starts what follows."""

    @workflow("kid", on_complete=follow)
    async def kid(_ctx: Context, x: int) -> int:
        return x

    @workflow(children=[kid])
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        given = await ctx.child(kid, x)
        await ctx.wait_signal("end")
        return given

    async with place.engine(parent, survey) as engine:
        handle = await engine.start(parent, 5, id="order-1")
        await until(lambda: all_but(engine, handle.id))
        (run,) = await engine.list(workflow="survey")
        (child,) = await engine.list(workflow="kid")
        assert run.id == f"survey-{child.id}"
        assert await (await engine.get(run.id)).result(PATIENCE_S) == 5
        await handle.signal("end")
        assert await handle.result(PATIENCE_S) == 5
        assert (await row(engine, run.id)).parent_key is None
        completed = (await stamps(await engine.get(child.id)))["RunCompleted"]
        assert (await row(engine, run.id)).created_at_ms == completed


async def all_but(engine: AsyncEngine, run_id: str) -> bool:
    """Whether there are three runs, of which only this one goes on."""
    runs = await engine.list()
    return len(runs) == 3 and all(run.status == "completed" for run in runs if run.id != run_id)


async def test_a_parent_asks_its_hook_when_its_child_has_ended(place: Place) -> None:
    """Rows 43 and 57."""
    flow = Flow("visit", on_complete=follow).then_child(Flow("kid").then(keep))
    async with place.engine(flow, survey) as engine:
        assert await (await engine.start(flow, 5, id="1")).result(PATIENCE_S) == 5
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == 5


async def test_a_function_that_begins_anew_is_asked_at_its_last_end_only(place: Place) -> None:
    """Row 57: a new beginning completes nothing."""
    asked: list[Any] = []

    def hook(done: Completion) -> list[FollowUp]:
        asked.append(done.output)
        return follow(done)

    @workflow(on_complete=hook)
    async def counter(ctx: Context, count: int) -> int:
        if count < 3:
            await ctx.continue_as_new(count + 1)
        return count

    async with place.engine(counter, survey) as engine:
        assert await (await engine.start(counter, 0, id="1")).result(PATIENCE_S) == 3
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == 3
    assert asked == [3]


async def test_the_hook_of_a_graph_is_given_what_the_graph_gives(place: Place) -> None:
    """Row 57: one output, or those of its branches by name."""
    seen: list[Any] = []
    fork = Step("fork", "fork", edges=(Edge("one", "a"), Edge("other", "b")))
    ends = Workflow(
        "ends",
        [fork, Step("one", task="keep"), Step("other", task="keep")],
        tasks=[keep],
        on_complete=lambda done: seen.append(done.output),
    )
    joined = parallel(
        {"left": [Step("one", task="keep")], "right": [Step("other", task="keep")]},
        on_complete=lambda done: seen.append(done.output),
    )
    async with place.engine(ends, joined) as engine:
        for graph in (ends, joined):
            seen.clear()
            output = await (await engine.start(graph, 7)).result(PATIENCE_S)
            assert seen == [output]
    assert seen == [{"left": 7, "right": 7}]


async def test_a_run_that_ends_with_a_wait_has_a_hook_too(place: Place) -> None:
    """Rows 30, 31 and 57."""
    nap = Flow("nap", on_complete=follow).then(keep).delay("for a while", "1d")
    wait = Flow("wait", on_complete=follow).then(keep).wait_for_signal("go")
    async with place.engine(nap, wait, survey) as engine:
        for flow in (nap, wait):
            handle = await engine.start(flow, "value", id=flow.name)
            await until_parked(engine, handle.id)
            assert await engine.list(workflow="survey") == [] or flow is wait
            if flow is nap:
                place.clock.advance(DAY_MS)
            else:
                await handle.signal("go", "went")
            output = await handle.result(PATIENCE_S)
            assert output == ("value" if flow is nap else "went")
            assert await (await engine.get(f"survey-{flow.name}")).result(PATIENCE_S) == output


async def test_a_run_that_fails_or_is_cancelled_is_followed_by_none(place: Place) -> None:
    """Row 57: nor is its hook asked."""
    asked: list[Any] = []

    def hook(done: Completion) -> list[FollowUp]:
        asked.append(done.output)
        return follow(done)

    flaky = Calls("flaky", failures=1)
    fails = Flow("fails", on_complete=hook).then(flaky.task)
    late = Flow("late", on_complete=hook, timeout="1h").then(keep).wait_for_signal("go")
    async with place.engine(fails, late, survey) as engine:
        failing = await engine.start(fails, 1, id="fails")
        await failed(failing)
        timed_out, cancelled = [await engine.start(late, 1, id=f"late-{n}") for n in range(2)]
        for handle in (timed_out, cancelled):
            await until_parked(engine, handle.id)
        await cancelled.cancel(wait=True)
        place.clock.advance(DAY_MS)
        assert (await failed(timed_out)).failure.type == "timeout"
        assert asked == []
        assert await engine.list(workflow="survey") == []
        await engine.retry("fails")
        assert await failing.result(PATIENCE_S) == 1
        assert asked == [1]
        assert await (await engine.get("survey-fails")).result(PATIENCE_S) == 1


class Ask:
    """A hook that waits until it may answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def hook(self, done: Completion) -> list[FollowUp]:
        self.asked += 1
        await self.may_answer.wait()
        return follow(done)


async def test_a_cancel_that_comes_while_the_hook_is_asked_leaves_nothing_to_follow(place: Place) -> None:
    """Rows 49 and 57."""
    ask = Ask()
    flow = Flow("visit", on_complete=ask.hook).then(keep)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, 1, id="1")
        await until(lambda: ask.asked)
        await handle.cancel("not needed")
        ask.may_answer.set()
        await until_status(handle, "cancelled")
        assert await others(engine) == ["1"]
        assert (await kinds(handle))[-1] == "RunCancelled"


async def test_what_comes_while_the_hook_is_asked_changes_nothing(place: Place) -> None:
    """Row 57: a signal nobody waits for, and a pause whose end is awaited."""
    ask = Ask()
    flow = Flow("visit", on_complete=ask.hook).then(keep)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, 1, id="1")
        await until(lambda: ask.asked)
        await handle.signal("other", 1)
        await handle.pause()
        ask.may_answer.set()
        await until_parked(engine, "1")
        if (await handle.status()).status == "paused":
            assert await others(engine) == ["1"]
            await handle.unpause()
        assert await handle.result(PATIENCE_S) == 1
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == 1
        assert await others(engine) == ["1", "survey-1"]


async def test_a_hook_that_was_cut_off_is_asked_again_by_the_next_worker(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 53 and 57: nothing had been started; then what follows starts once."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    ask = Ask()

    def counted(done: Completion) -> list[FollowUp]:
        return [FollowUp(survey, done.output)]

    async def hook(done: Completion) -> list[FollowUp]:
        await ask.hook(done)
        return counted(done)

    flow = Flow("visit", on_complete=hook).then(keep)
    async with place.engine(flow, survey) as engine:
        handle = await engine.start(flow, 1, id="1")
        await until(lambda: ask.asked)
        assert (await handle.status()).status == "running"
    async with place.engine(survey) as engine:
        assert await others(engine) == ["1"]
        assert (await row(engine, "1")).recoveries == 0
    ask.may_answer.set()
    async with place.engine(flow, survey) as engine:
        handle = await engine.get("1")
        assert await handle.result(PATIENCE_S) == 1
        assert len(await others(engine, "1")) == 1
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
    assert ask.asked == 2
    async with place.engine(flow, survey) as engine:
        assert len(await others(engine, "1")) == 1


@pytest.mark.embedded
@pytest.mark.parametrize("crash", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
async def test_what_follows_starts_exactly_once_after_a_crash(
    place: Place, monkeypatch: pytest.MonkeyPatch, crash: Fault
) -> None:
    """Row 57: whether the worker died just before its last commit or just after it."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    asked: list[Any] = []

    def hook(done: Completion) -> list[FollowUp]:
        asked.append(done.output)
        return [FollowUp(survey, done.output), FollowUp(survey, done.output, id="other")]

    def completing(_number: int, group: Sequence[Member]) -> Fault:
        ends = any(isinstance(each, Append) and each.status == "completed" for each in group)
        return crash if ends else Fault.NONE

    flow, store = Flow("visit", on_complete=hook).then(keep), FaultyStore(place.store(), completing)
    async with place.engine(flow, survey, store=store) as engine:
        await engine.start(flow, 5, id="1")
        await store.crashed.wait()
    place.clock.advance(31 * DAY_MS)
    for _ in range(2):
        async with place.engine(flow, survey) as engine:
            assert await (await engine.get("1")).result(PATIENCE_S) == 5
            found = await others(engine, "1")
            assert len(found) == 2
            for run_id in found:
                assert await (await engine.get(run_id)).result(PATIENCE_S) == 5
    assert asked == ([5] if crash is Fault.CRASH_AFTER else [5, 5])


class NoSurveyError(Exception):
    pass


def raises(_done: Completion) -> None:
    raise NoSurveyError("nobody to ask")


async def raises_later(_done: Completion) -> None:
    await asyncio.sleep(0)
    raise NoSurveyError("nobody to ask")


NONSENSE: dict[str, tuple[Callable[[Completion], Any], str]] = {
    "raises": (raises, "NoSurveyError"),
    "raises later": (raises_later, "NoSurveyError"),
    "a number": (lambda _done: 5, "TypeError"),
    "a text": (lambda _done: "survey", "UsageError"),
    "a list of something else": (lambda _done: [FollowUp(survey), survey], "UsageError"),
    "no workflow": (lambda _done: [FollowUp(5)], "UsageError"),
    "a workflow that nobody knows": (lambda _done: [FollowUp("nobody")], "WorkflowNotFoundError"),
    "an input that cannot be encoded": (lambda _done: [FollowUp(survey, object())], "InputError"),
    "an input that fits no step": (lambda _done: [FollowUp("paying", {})], "InputError"),
    "an id that is none": (lambda _done: [FollowUp(survey, 1, id="")], "UsageError"),
    "an id that is no text": (lambda _done: [FollowUp(survey, 1, id=7)], "UsageError"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("which", NONSENSE)
async def test_a_hook_that_raises_or_gives_nonsense_fails_the_run(place: Place, which: str) -> None:
    """Row 57: at the step `on_complete`, and nothing is started, not even what was right of it."""
    hook, kind = NONSENSE[which]
    flow = Flow("visit", on_complete=hook).then(keep)
    async with place.engine(flow, survey, Flow("paying").then(paid)) as engine:
        handle = await engine.start(flow, 1, id="1")
        error = await failed(handle)
        assert (error.failure.type, error.failure.step) == (kind, "on_complete")
        assert error.failure == (await handle.status()).failure
        last = (await entries(handle))[-1]
        assert isinstance(last, RunFailed)
        assert (await kinds(handle)).count("RunCompleted") == 0
        assert await others(engine) == ["1"]


@pytest.mark.parametrize("ends_with", ["a step", "a sleep", "a signal", "a function"])
async def test_a_retry_asks_the_hook_again(place: Place, ends_with: str) -> None:
    """Rows 52 and 57: as often as it fails, and then the run completes."""
    asked: list[Any] = []

    def hook(done: Completion) -> list[FollowUp]:
        asked.append(done.output)
        if len(asked) < 3:
            raise NoSurveyError(f"nobody to ask {len(asked)}")
        return follow(done)

    first = Calls("first")

    @workflow("visit", on_complete=hook)
    async def function(ctx: Context, x: int) -> Any:  # noqa: ANN401 - whatever it is
        return await ctx.step(first.task, x)

    flow = Flow("visit", on_complete=hook).then(first.task)
    flows: dict[str, Any] = {
        "a step": flow.then(keep) if ends_with == "a step" else None,
        "a sleep": flow.delay("nap", 0) if ends_with == "a sleep" else None,
        "a signal": flow.wait_for_signal("go") if ends_with == "a signal" else None,
        "a function": function,
    }
    async with place.engine(flows[ends_with], survey) as engine:
        handle = await engine.start(flows[ends_with], 5, id="1")
        if ends_with == "a signal":
            await handle.signal("go", 5)
        for n in (1, 2):
            assert (await failed(handle)).failure.message == f"nobody to ask {n}"
            assert await engine.list(workflow="survey") == []
            await engine.retry("1")
        assert await handle.result(PATIENCE_S) == 5
        assert (await handle.status()).failure is None
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == 5
    assert asked == [5, 5, 5]
    assert first.calls == [5]


async def test_a_child_whose_hook_fails_has_failed_for_its_parent(place: Place) -> None:
    """Rows 56 and 57."""
    kid = Flow("kid", on_complete=raises).then(keep)
    flow = Flow("visit").then_child(kid)
    async with place.engine(flow) as engine:
        error = await failed(await engine.start(flow, 1))
        assert (error.failure.type, error.failure.message) == ("NoSurveyError", "nobody to ask")
        assert [run.status for run in await engine.list()] == ["failed", "failed"]


async def test_a_hook_is_outside_of_every_attempt(place: Place) -> None:
    """Rows 46 and 57: also where a body of the run has just ended."""
    seen: list[Any] = []

    async def asynchronous(_done: Completion) -> None:
        seen.append(get_task_context())

    def synchronous(_done: Completion) -> None:
        seen.append(get_task_context())

    for hook in (asynchronous, synchronous):
        assert await place.run(Flow(f"visit {hook.__name__}", on_complete=hook).then(keep), 1) == 1
    assert seen == [None, None]


async def test_a_hook_of_which_nobody_knew_when_the_run_began_is_asked(place: Place) -> None:
    """Rows 55 and 57: it is code and no structure; whoever completes the run asks it."""
    gate = Gate()

    def visit(**options: Any) -> Flow:  # noqa: ANN401 - of a Flow
        return Flow("visit", **options).then(gate.task).wait_for_signal("go")

    gate.open()
    assert visit().build().fingerprint == visit(on_complete=follow).build().fingerprint
    async with place.engine(visit()) as engine:
        await engine.start("visit", 1, id="1")
        await until_parked(engine, "1")
    async with place.engine(visit(on_complete=follow), survey) as engine:
        handle = await engine.get("1")
        await handle.signal("go", "went")
        assert await handle.result(PATIENCE_S) == "went"
        assert await (await engine.get("survey-1")).result(PATIENCE_S) == "went"
        assert (
            ms((await engine.list(workflow="survey"))[0].created_at) >= (await stamps(handle))["RunCompleted"]
        )
