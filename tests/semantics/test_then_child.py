"""Row 43: a step of a flow that is a run of another workflow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, Flow, Step, Workflow, arun, task, workflow
from holdfast.core.entries import OperationBegun
from holdfast.errors import DefinitionError, TaskError, UsageError, WorkflowError
from holdfast.stores.memory import MemoryStore
from tests.semantics.flows import Calls, Gate, keep
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    ShiftedClock,
    entries,
    kinds,
    row,
    until,
    until_parked,
    until_status,
)


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def inc(x: int) -> int:
    return x + 1


KID = Flow("kid").then(double)


def other_kid() -> Flow:
    """Another workflow of that name."""
    return Flow("kid").then(double).then(inc)


@workflow
async def waiting(ctx: Context, x: Any) -> Any:  # noqa: ANN401 - whatever it is
    """A child that waits for somebody."""
    return [x, await ctx.wait_signal("go")]


async def begun(handle: AsyncHandle) -> list[OperationBegun]:
    return [entry for entry in await entries(handle) if isinstance(entry, OperationBegun)]


async def nth_child(engine: AsyncEngine, handle: AsyncHandle, number: int = 0) -> AsyncHandle:
    """A child of a run, once there are so many."""

    async def is_there() -> bool:
        return len(await begun(handle)) > number

    await until(is_there)
    child = (await begun(handle))[number].child
    assert child is not None
    return await engine.get(child.id)


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


async def test_the_output_of_a_child_is_the_argument_of_the_next_step(place: Place) -> None:
    """Row 43: it gets what the step before it gave; the child is a run of its own."""
    flow = Flow("order").then(inc).then_child(KID).then(inc)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 4, id="order-1")
        assert await handle.result(PATIENCE_S) == 11
        child = await nth_child(engine, handle)
        assert await child.result(PATIENCE_S) == 10
        assert child.id.startswith("order-1/kid#1-")
        assert (await row(engine, child.id)).parent_key == (await row(engine, "order-1")).key
        steps = [entry.step for entry in await entries(handle) if type(entry).__name__ == "StepCompleted"]
        assert steps == ["inc", "kid", "inc_2"]
        assert (await kinds(child)) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_a_child_may_be_the_only_step_and_begin_and_end_a_flow(place: Place) -> None:
    """Row 43: the run's input is that of the child, and its output the run's."""
    only = Flow("only").then_child(KID)
    both = Flow("both").then_child(KID).then_child(only)
    async with place.engine(both) as engine:
        assert await (await engine.start(both, 5)).result(PATIENCE_S) == 20
        assert await (await engine.start(only, 5)).result(PATIENCE_S) == 10
        assert sorted(run.workflow for run in await engine.list()) == [
            "both",
            "kid",
            "kid",
            "kid",
            "only",
            "only",
        ]


@dataclass
class Receipt:
    order: str
    amount: int


@task
async def paid(order: str) -> Receipt:
    return Receipt(order, 5)


@task
async def amount(receipt: Receipt) -> int:
    assert isinstance(receipt, Receipt)
    return receipt.amount


async def test_what_a_child_gives_is_of_the_annotated_type(place: Place) -> None:
    """Rows 43 and 45: as after any step."""
    flow = Flow("order").then_child(Flow("paying").then(paid)).then(amount)
    async with place.engine(flow) as engine:
        assert await (await engine.start(flow, "chair")).result(PATIENCE_S) == 5


TARGETS: dict[str, Callable[[], Any]] = {
    "a flow": lambda: KID,
    "a workflow": KID.build,
    "a graph": lambda: Workflow("kid", [Step("twice", task="double")], tasks=[double]),
    "a function": lambda: workflow("kid")(twice),
}


async def twice(ctx: Context, x: int) -> int:
    return await ctx.step(double, x)


@pytest.mark.parametrize("which", TARGETS)
async def test_an_engine_that_is_given_the_parent_drives_the_child(place: Place, which: str) -> None:
    """Row 43: whatever kind of workflow it is; and it can be started there by itself."""
    target = TARGETS[which]()
    flow = Flow("order").then_child(target).then(inc)
    async with place.engine(flow) as engine:
        assert await (await engine.start(flow, 5)).result(PATIENCE_S) == 11
        assert await (await engine.start("kid", 5)).result(PATIENCE_S) == 10
        assert await (await engine.start(target, 6)).result(PATIENCE_S) == 12


async def test_children_of_children_are_driven_too(place: Place) -> None:
    """Row 43: also those of functions, and of a function that is a step."""

    @workflow(children=[KID.build()])
    async def inner(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child("kid", x)

    middle = Flow("middle").then(inner).then(inc)
    flow = Flow("order").then_child(middle).then(inc)
    async with place.engine(flow) as engine:
        assert await (await engine.start(flow, 5)).result(PATIENCE_S) == 12
        assert sorted(run.workflow for run in await engine.list()) == ["kid", "middle", "order"]


async def test_a_function_may_be_a_step_of_a_flow_and_starts_its_children_there(place: Place) -> None:
    """Row 43: it is no run of its own, other than as a child."""

    @workflow(children=[KID.build()])
    async def function(ctx: Context, x: int) -> int:
        given: int = await ctx.child("kid", await ctx.step(inc, x))
        return given

    as_step, as_child = (
        Flow("as step").then(function).then(inc),
        Flow("as child").then_child(function).then(inc),
    )
    async with place.engine(as_step, as_child) as engine:
        for flow, runs in ((as_step, 2), (as_child, 3)):
            before = len(await engine.list())
            assert await (await engine.start(flow, 4)).result(PATIENCE_S) == 11
            assert len(await engine.list()) - before == runs


async def test_a_child_may_be_named_and_is_looked_up_when_the_step_begins(place: Place) -> None:
    """Row 43: one that the engine is given, or that another worker knows."""
    flow = Flow("order").then_child("kid").then(inc)
    async with place.engine(flow, KID) as engine:
        assert await (await engine.start(flow, 5)).result(PATIENCE_S) == 11
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 6, id="order-1")
        child = await nth_child(engine, handle)
        assert (await child.status()).status == "pending"
    async with place.engine(flow, KID) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 13


async def test_a_child_that_nobody_knows_fails_the_step_and_a_retry_asks_again(place: Place) -> None:
    """Rows 43 and 52."""
    flow = Flow("order").then(inc).then_child("kid")
    async with place.engine(flow) as engine:
        error = await failed(await engine.start(flow, 4, id="order-1"))
        assert (error.failure.type, error.failure.step) == ("WorkflowNotFoundError", "kid")
    async with place.engine(flow, KID) as engine:
        await engine.retry("order-1")
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 10


async def test_steps_of_one_child_are_made_distinct_or_have_the_names_they_are_given(place: Place) -> None:
    """Rows 38 and 43: each is a run of its own."""
    flow = Flow("order").then_child(KID).then_child(KID).then_child(KID, name="last").then_child("kid")
    assert [step.name for step in flow.build().iter_nodes()] == ["kid", "kid_2", "last", "kid_3"]
    assert [child.name for child in flow.build().children] == ["kid"]
    assert flow.build().fingerprint == flow.build().fingerprint
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 16
        ids = {entry.child.id for entry in await begun(handle) if entry.child is not None}
        assert len(ids) == 4
        assert [entry.step for entry in await begun(handle)] == ["kid", "kid_2", "last", "kid_3"]


def test_a_name_that_is_taken_is_refused() -> None:
    """Rows 2 and 43."""
    flow = Flow("order").then(keep, name="pay").then_child(KID, name="pay")
    with pytest.raises(DefinitionError) as caught:
        flow.build()
    assert [(problem.step, problem.code) for problem in caught.value.problems] == [("pay", "duplicate_step")]


async def test_a_step_may_be_called_as_the_child_that_comes_later(place: Place) -> None:
    """Row 43: the child is not taken for the task."""
    flow = Flow("order").then(keep, name="kid").then_child(KID)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5)
        assert await handle.result(PATIENCE_S) == 10
        assert [entry.step for entry in await begun(handle)] == ["kid_2"]


async def test_a_workflow_of_any_name_may_be_a_step(place: Place) -> None:
    """Rows 43 and 47: also of the longest."""
    kids = [Flow(name).then(double) for name in ("k" * 255, "k" * 254 + "l", "ö" * 127, "a b/c#1 (d)")]
    flow = Flow("order")
    for kid in kids:
        flow.then_child(kid)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(PATIENCE_S) == 16
        started = [entry.child.workflow for entry in await begun(handle) if entry.child is not None]
        assert started == [kid.name for kid in kids]


@pytest.mark.parametrize("target", [5, None, "", keep, double.fn, ["kid"], Flow])
def test_what_is_no_workflow_is_refused_when_the_flow_is_built(target: Any) -> None:  # noqa: ANN401 - anything
    """Rows 2 and 43: with everything else that is wrong."""
    flow = Flow("order").then(keep).then_child(target, name="child").then(keep)
    with pytest.raises(DefinitionError, match="child") as caught:
        flow.build()
    assert [(problem.step, problem.code) for problem in caught.value.problems] == [("child", "not_a_workflow")]


def test_a_child_that_cannot_be_built_is_refused_with_its_parent() -> None:
    """Rows 2 and 43."""
    with pytest.raises(DefinitionError, match="'broken'"):
        Flow("order").then_child(Flow("broken")).build()
    nameless = Flow("nameless").then(lambda x: x)
    assert Flow("order").then_child(nameless).build().children
    with pytest.raises(DefinitionError, match="'nameless'"):
        Flow("order").then_child(nameless).build(durable=True)


def test_a_fork_is_joined_before_a_child() -> None:
    """Rows 38 and 43."""
    flow = Flow("order").then(keep)
    flow.fork().branch(keep)
    flow.then_child(KID)
    with pytest.raises(DefinitionError) as caught:
        flow.build()
    assert [problem.code for problem in caught.value.problems] == ["open_fork"]


@pytest.mark.parametrize("which", ["by itself", "by another flow"])
def test_a_flow_that_has_itself_as_a_child_is_refused(which: str) -> None:
    """Rows 2 and 43: it would never end."""
    flow = Flow("order").then(keep)
    flow.then_child(flow if which == "by itself" else Flow("between").then_child(flow))
    with pytest.raises(DefinitionError, match="order"):
        flow.build()


class NoCardError(Exception):
    pass


async def decline(how: str) -> None:
    if how == "typed":
        raise WorkflowError("no card", type="no_card", details={"card": 7})
    raise NoCardError("no card")


@pytest.mark.parametrize("how", ["by class", "typed"])
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_failure_of_the_child_is_one_of_the_step_and_of_the_same_type(
    place: Place, how: str, depth: int
) -> None:
    """Rows 22 and 43: whatever waits for it can tell what has happened."""
    flow = Flow("paying").then(decline)
    for n in range(depth):
        flow = Flow(f"order {n}").then(keep).then_child(flow, name="pay").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, how)
        error = await failed(handle)
        failure = error.failure
        assert failure.type == ("no_card" if how == "typed" else "NoCardError")
        assert (failure.message, failure.step, error.status) == ("no card", "pay", "failed")
        inside = (await (await nth_child(engine, handle)).status()).failure
        assert inside is not None
        assert (inside.type, inside.details) == (failure.type, failure.details)


async def test_a_retry_of_the_run_starts_another_child(place: Place) -> None:
    """Rows 43 and 52: the steps before it are not made again."""
    first, flaky = Calls("first"), Calls("flaky", failures=1)
    flow = Flow("order").then(first.task).then_child(Flow("kid").then(flaky.task)).then(inc)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5)
        assert (await failed(handle)).failure.type == "ConnectionError"
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 6
        children = [await nth_child(engine, handle, n) for n in range(2)]
        assert [(await child.status()).status for child in children] == ["failed", "completed"]
        assert (first.calls, flaky.calls) == ([5], [5, 5])


async def test_an_input_that_does_not_fit_the_child_fails_the_step_and_starts_none(place: Place) -> None:
    """Rows 43 and 45."""

    @task
    async def name(_x: int) -> str:
        return "many"

    flow = Flow("order").then(name).then_child(KID)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5)
        error = await failed(handle)
        assert (error.failure.type, error.failure.step) == ("InputError", "kid")
        assert len(await engine.list()) == 1


async def test_a_stored_run_whose_step_is_a_child_goes_on_after_a_restart(place: Place) -> None:
    """Rows 27 and 43: however often, and the child is started once."""
    calls = Calls("first")

    def flow() -> Flow:
        return Flow("order").then(calls.task).then_child(waiting).then(keep)

    for n in range(3):
        async with place.engine(flow()) as engine:
            handle = await engine.start("order", 5, id="order-1", on_conflict="use_existing")
            child = await nth_child(engine, handle)
            for run_id in (child.id, "order-1"):
                await until_parked(engine, run_id)
            if n == 2:
                await child.signal("go", "went")
                assert await handle.result(PATIENCE_S) == [5, "went"]
            assert len(await begun(handle)) == 1
            assert len(await engine.list()) == 2
    assert calls.calls == [5]


async def test_a_child_that_ends_while_nobody_drives_its_parent_is_heard_when_somebody_does(
    place: Place,
) -> None:
    """Rows 43 and 56."""
    flow = Flow("order").then_child(waiting).then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5, id="order-1")
        child = await nth_child(engine, handle)
        await until_parked(engine, child.id)
    async with place.engine(waiting) as engine:
        child = await engine.get(child.id)
        await child.signal("go", "went")
        assert await child.result(PATIENCE_S) == [5, "went"]
        assert (await (await engine.get("order-1")).status()).status == "suspended"
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == [5, "went"]


async def test_a_pause_and_a_cancel_go_down_to_it(place: Place) -> None:
    """Rows 43, 48 and 49."""
    flow = Flow("order").then_child(waiting)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 5)
        child = await nth_child(engine, handle)
        await until_parked(engine, handle.id)
        await handle.pause()
        await until_status(child, "paused")
        await handle.unpause()
        await until_status(child, "suspended")
        await handle.cancel("not needed", wait=True)
        await until_status(child, "cancelled")


async def test_a_body_of_the_child_that_is_cut_off_is_begun_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 43 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    gate = Gate()
    flow = Flow("order").then_child(Flow("kid").then(gate.task)).then(inc)
    async with place.engine(flow) as engine:
        await engine.start(flow, 5, id="order-1")
        await gate.until_called()
    gate = Gate()
    gate.open()
    flow = Flow("order").then_child(Flow("kid").then(gate.task)).then(inc)
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(PATIENCE_S) == 6
        assert len(await engine.list()) == 2


async def test_a_flow_with_a_child_runs_in_memory_at_once() -> None:
    """Rows 43 and 50."""
    assert await arun(Flow("order").then(inc).then_child(KID).then(inc), 4) == 11


def middle(kid: Flow, name: str) -> Flow:
    return Flow(name).then_child(kid)


GIVEN_TWICE: dict[str, Callable[[], list[Flow]]] = {
    "beside the parent": lambda: [Flow("order").then_child(KID), other_kid()],
    "before the parent": lambda: [other_kid(), Flow("order").then_child(KID)],
    "by two parents": lambda: [Flow("order").then_child(KID), Flow("other").then_child(other_kid())],
    "twice by one parent": lambda: [Flow("order").then_child(KID).then_child(other_kid(), name="other")],
    "below a child": lambda: [Flow("order").then_child(middle(KID, "middle")), other_kid()],
    "below two children": lambda: [
        Flow("order").then_child(middle(KID, "one")).then_child(middle(other_kid(), "other"))
    ],
    "below two parents": lambda: [
        Flow("order").then_child(middle(KID, "one")),
        Flow("other").then_child(middle(other_kid(), "two")),
    ],
    "a parent of that name": lambda: [Flow("kid").then_child(KID)],
}


@pytest.mark.parametrize("which", GIVEN_TWICE)
def test_two_workflows_of_one_name_are_refused_also_where_one_is_a_child(which: str) -> None:
    """Rows 2 and 43: nobody can tell which of them a run is to be of."""
    with pytest.raises((UsageError, DefinitionError), match="'kid'"):
        AsyncEngine(store=MemoryStore(ShiftedClock()), workflows=GIVEN_TWICE[which]())


async def test_the_same_workflow_may_be_given_as_often_as_one_likes(place: Place) -> None:
    """Row 43: as an equal one too, which has the same fingerprint."""
    one, other = Flow("order").then_child(KID), Flow("other").then_child(Flow("kid").then(double))
    async with place.engine(one, other, KID) as engine:
        assert await (await engine.start(one, 5)).result(PATIENCE_S) == 10
        assert await (await engine.start(other, 5)).result(PATIENCE_S) == 10


def test_equal_children_of_one_flow_are_one() -> None:
    """Row 43."""
    flow = Flow("order").then_child(Flow("kid").then(double)).then_child(Flow("kid").then(double))
    assert [child.name for child in flow.build().children] == ["kid"]


async def test_another_workflow_under_a_childs_name_is_not_started_instead(place: Place) -> None:
    """Row 47: the engine knows the child that it drives."""
    async with place.engine(Flow("order").then_child(KID)) as engine:
        with pytest.raises(UsageError, match="another workflow is called 'kid'"):
            await engine.start(other_kid(), 1)
        assert await engine.list() == []
