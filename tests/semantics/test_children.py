"""Row 56: child runs, from how they start to what their parents get of them."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import (
    AsyncEngine,
    AsyncHandle,
    Context,
    Edge,
    Flow,
    Join,
    Retry,
    Step,
    Workflow,
    arun,
    task,
    workflow,
)
from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_awaited
from holdfast.core.children import Awaited
from holdfast.core.entries import OperationBegun, OperationCompleted, OperationFailed
from holdfast.errors import (
    ChildError,
    InputError,
    OperationCancelledError,
    RunWaitingError,
    TaskError,
    WorkflowError,
    WorkflowNotFoundError,
)
from tests.semantics.flows import Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    ms,
    row,
    store_of,
    until,
    until_parked,
    until_status,
)


async def started(handle: AsyncHandle) -> list[OperationBegun]:
    """The entries that have started children which the run waits for, or has."""
    return [e for e in await entries(handle) if isinstance(e, OperationBegun) and e.child is not None]


async def nth_child(engine: AsyncEngine, handle: AsyncHandle, number: int = 0) -> AsyncHandle:
    """A child of a run, once there are so many."""

    async def is_there() -> bool:
        return len(await started(handle)) > number

    await until(is_there)
    child = (await started(handle))[number].child
    assert child is not None
    return await engine.get(child.id)


async def without_suspensions(handle: AsyncHandle) -> list[str]:
    """Whether a body is put away before its child ends is a matter of speed."""
    return [kind for kind in await kinds(handle) if kind != "StepSuspended"]


@workflow
async def double(ctx: Context, x: int) -> int:
    """A child that takes one step."""
    return await ctx.step(twice, x)


@task
async def twice(x: int) -> int:
    return 2 * x


@workflow
async def waiting(ctx: Context, x: Any) -> Any:  # noqa: ANN401 - whatever it is
    """A child that waits for somebody."""
    return [x, await ctx.wait_signal("go")]


@workflow("parent")
async def parent_of_one(ctx: Context, x: int) -> int:
    """A parent that gives what its child gives."""
    given: int = await ctx.child(double, x)
    return given


async def test_a_child_is_a_run_of_its_own_that_begins_in_its_parents_commit(place: Place) -> None:
    """Row 56: same stamp, an id made of the parent's and the key, and the row says who waits."""
    async with place.engine(parent_of_one, double) as engine:
        handle = await engine.start(parent_of_one, 21, id="order-1")
        assert await handle.result(PATIENCE_S) == 42
        (begun,) = await started(handle)
        assert begun.child is not None
        assert (begun.kind, begun.key, begun.child.workflow) == ("child", "double#1", "double")
        assert begun.child.id.startswith("order-1/double#1-")
        child, parent = await row(engine, begun.child.id), await row(engine, "order-1")
        stamp = next(ms(e.at) for e in await handle.journal() if e.kind == "OperationBegun")
        assert child.created_at_ms == stamp
        assert (child.parent_key, child.parent_incarnation) == (parent.key, 1)
        assert decode_awaited(child.parent_step or b"", run_id="") == Awaited("main", "parent", 1, "double#1")
        recorded = ["RunStarted", "OperationBegun", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await without_suspensions(handle) == recorded
        recorded = ["RunStarted", "OperationCompleted", "StepCompleted", "RunCompleted"]
        assert await without_suspensions(await engine.get(child.id)) == recorded
        assert await (await engine.get(child.id)).result(PATIENCE_S) == 42
        assert parent.messages_sent == 1
        assert await store_of(engine).read_inbox(parent.key) == []


async def test_a_suspended_child_suspends_its_parent_and_neither_needs_a_worker(place: Place) -> None:
    """Row 56: however often the parent's body begins anew, the child is started once."""
    calls: list[int] = []

    @workflow
    async def kid(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the signal brings
        await ctx.step(lambda: calls.append(x), name="note")
        return await ctx.wait_signal("go")

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - as above
        return await ctx.child(kid, x)

    for n in range(3):
        async with place.engine(parent, kid) as engine:
            handle = await engine.start(parent, 1, id="order-1", on_conflict="use_existing")
            child = await nth_child(engine, handle)
            for run_id in (child.id, handle.id):
                await until_parked(engine, run_id)
                assert (await row(engine, run_id)).status == "suspended"
            await handle.signal("other", n)
            if n == 2:
                await child.signal("go", "went")
                assert await handle.result(PATIENCE_S) == "went"
            assert len(await started(handle)) == 1
            assert len(await engine.list()) == 2
    assert calls == [1]


async def test_children_of_one_workflow_have_ids_of_their_own(place: Place) -> None:
    """Row 56: in one parent, in two, in a branch beside, and under ids that leave no room."""

    @workflow
    async def parent(ctx: Context, x: int) -> list[int]:
        one = await ctx.child(double, x)
        other = await ctx.child(double, x)
        return [one, other, await ctx.child(double, x, name="a name/with#signs")]

    async with place.engine(parent, double) as engine:
        handles = [await engine.start(parent, 1, id=run_id) for run_id in ("order-1", "order-2", "ö" * 127)]
        for handle in handles:
            assert await handle.result(PATIENCE_S) == [2, 2, 2]
            keys = [begun.key for begun in await started(handle)]
            assert keys == ["double#1", "double#2", "a name%2Fwith%23signs#1"]
        ids = [begun.child.id for handle in handles for begun in await started(handle) if begun.child]
        assert len(set(ids)) == 9
        assert max(len(run_id.encode()) for run_id in ids) <= 255
        assert ids[-1].startswith("ö" * 100)


@dataclass
class Receipt:
    order: str
    amount: int


async def test_the_output_is_decoded_as_the_child_is_annotated(place: Place) -> None:
    """Rows 45 and 56: as if the child had been called; a flow's by its last step."""

    @workflow
    async def typed(_ctx: Context, order: str) -> Receipt:
        return Receipt(order, 5)

    @task
    async def paid(order: str) -> Receipt:
        return Receipt(order, 6)

    @workflow
    async def parent(ctx: Context, order: str) -> bool:
        outputs = [await ctx.child(each, order) for each in (typed, "typed", flow, graph)]
        nothing = await ctx.child(silent, order)
        fives, sixes = [Receipt(order, 5)] * 2, [Receipt(order, 6)] * 2
        return outputs == [*fives, *sixes] and nothing is None

    @workflow
    async def silent(_ctx: Context, _order: str) -> None:
        pass

    flow = Flow("flow").then(keep).then(paid)
    graph = Workflow("graph", [Step("paid", task="paid")], tasks=[paid])
    async with place.engine(parent, typed, flow, graph, silent) as engine:
        assert await (await engine.start(parent, "order-1")).result(PATIENCE_S) is True


class PaymentError(Exception):
    pass


class DeclinedError(PaymentError):
    pass


@workflow
async def declined(ctx: Context, how: str) -> None:
    """A child that fails."""
    if how == "typed":
        raise WorkflowError("no card", type="no_card", details={"card": 7})
    if how == "step":
        await ctx.step(decline)
    raise DeclinedError("no card")


@task
async def decline() -> None:
    raise DeclinedError("no card")


@pytest.mark.parametrize("how", ["body", "step", "typed"])
async def test_a_parent_may_catch_what_its_child_failed_of(place: Place, how: str) -> None:
    """Rows 22 and 56: by the class, a class above it, or the name."""
    caught: list[ChildError] = []

    @workflow
    async def parent(ctx: Context, how: str) -> str:
        try:
            await ctx.child(declined, how)
        except ChildError as error:
            caught.append(error)
            return error.kind
        return "no error"

    async with place.engine(parent, declined) as engine:
        handle = await engine.start(parent, how)
        kind = await handle.result(PATIENCE_S)
        assert kind == ("no_card" if how == "typed" else "DeclinedError")
        error = caught[-1]
        assert (error.operation, error.run_id) == ("declined#1", (await nth_child(engine, handle)).id)
        assert error.failure.message == "no card"
        assert "no card" in str(error)
        assert "raise" in error.failure.traceback
        assert error.is_a(PaymentError) == error.is_a("DeclinedError") == (how != "typed")
        assert not error.is_a(ValueError)
        (entry,) = [e for e in await entries(handle) if isinstance(e, OperationFailed)]
        child = (await (await engine.get(error.run_id)).status()).failure
        assert child is not None
        assert entry.failure == child == error.failure
        if how == "typed":
            assert codec.decoder(dict[str, int])(child.details or b"") == {"card": 7}


@pytest.mark.parametrize("depth", [1, 3])
async def test_the_type_of_a_failure_is_kept_up_to_whoever_waits_for_the_outermost(
    place: Place, depth: int
) -> None:
    """Row 56: also three deep; the parents have failed, each of what its child failed of."""

    @workflow
    async def parent(ctx: Context, depth: int) -> None:
        await (ctx.child(parent, depth - 1) if depth else ctx.child(declined, "step"))

    async with place.engine(parent, declined) as engine:
        handle = await engine.start(parent, depth)
        with pytest.raises(TaskError, match="DeclinedError") as caught:
            await handle.result(PATIENCE_S)
        failure = caught.value.failure
        assert (failure.type, failure.message, failure.step) == ("DeclinedError", "no card", "parent")
        assert "PaymentError" in failure.types
        assert caught.value.status == "failed"
        runs = await engine.list()
        assert [run.status for run in runs] == ["failed"] * (depth + 2)


async def test_a_cancelled_child_is_a_failure_that_says_so(place: Place) -> None:
    """Row 56: the parent may go on; one that does not has failed, and is not cancelled itself."""

    @workflow
    async def parent(ctx: Context, *, is_caught: bool) -> str:
        try:
            await ctx.child(waiting)
        except ChildError as error:
            if not (is_caught and error.is_a("cancelled")):
                raise
            return f"{error.kind}: {error.failure.message}"
        return "no error"

    @workflow
    async def stubborn(ctx: Context, _x: None) -> str:
        return await parent(ctx, is_caught=True)

    @workflow
    async def plain(ctx: Context, _x: None) -> str:
        return await parent(ctx, is_caught=False)

    async with place.engine(stubborn, plain, waiting) as engine:
        handles = [await engine.start(each) for each in (stubborn, plain)]
        children = [await nth_child(engine, handle) for handle in handles]
        for child in children:
            await child.cancel("not needed", by="ada")
        message = f"cancelled: run {children[0].id!r} was cancelled: not needed"
        assert await handles[0].result(PATIENCE_S) == message
        with pytest.raises(TaskError, match="not needed") as caught:
            await handles[1].result(PATIENCE_S)
        assert (caught.value.status, caught.value.failure.type) == ("failed", "cancelled")


async def test_children_nest_and_each_knows_its_parent_only(place: Place) -> None:
    """Row 56."""

    @workflow
    async def nest(ctx: Context, depth: int) -> list[Any]:
        below = await (ctx.child(nest, depth - 1) if depth else ctx.child(waiting, 0))
        return [depth, *below]

    async with place.engine(nest, waiting) as engine:
        handle = await engine.start(nest, 2, id="order-1")
        runs = [handle]
        for _ in range(3):
            runs.append(await nth_child(engine, runs[-1]))
        assert all(below.id.startswith(above.id[:30]) for above, below in itertools.pairwise(runs))
        rows = [await row(engine, each.id) for each in runs]
        assert [each.parent_key for each in rows] == [None, *(each.key for each in rows[:-1])]
        await runs[-1].signal("go", "went")
        assert await handle.result(PATIENCE_S) == [2, 1, 0, 0, "went"]


async def test_many_children_run_at_once(place: Place) -> None:
    """Row 56: gather gives their outputs in the order of the parts."""
    gate, count = Gate(), 20

    @workflow
    async def kid(ctx: Context, x: int) -> int:
        return 2 * await ctx.step(gate.task, x)

    @workflow
    async def parent(ctx: Context, x: int) -> list[int]:
        return await ctx.gather(*(ctx.child(kid, n) for n in range(x)))

    async with place.engine(parent, kid) as engine:
        handle = await engine.start(parent, count)
        await gate.until_called(count)
        gate.open()
        assert await handle.result(PATIENCE_S) == [2 * n for n in range(count)]
        assert [begun.key for begun in await started(handle)] == [f"gather#1/{n}/kid#1" for n in range(count)]
        assert len(await engine.list()) == count + 1
    assert sorted(gate.calls) == list(range(count))


async def test_a_failed_child_stands_in_the_list_where_errors_are_wanted(place: Place) -> None:
    """Rows 56 and 63."""

    @workflow
    async def parent(ctx: Context, _x: None) -> list[Any]:
        results = await ctx.gather(
            ctx.child(double, 1), ctx.child(declined, "body"), ctx.child(double, 3), return_exceptions=True
        )
        return [each.kind if isinstance(each, ChildError) else each for each in results]

    async with place.engine(parent, double, declined) as engine:
        assert await (await engine.start(parent)).result(PATIENCE_S) == [2, "DeclinedError", 6]


async def test_a_map_starts_a_child_for_each_item_so_many_at_once(place: Place) -> None:
    """Row 56: and cancels those that are not needed any more."""
    under_way: list[int] = []
    most: list[int] = []

    @workflow
    async def kid(ctx: Context, x: int) -> int:
        under_way.append(x)
        most.append(len(under_way))
        await ctx.step(twice, x)
        under_way.remove(x)
        return 10 * x

    async def in_a_child(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(waiting if x == 2 else kid, x)

    @workflow
    async def parent(ctx: Context, items: list[int]) -> list[Any]:
        given = await ctx.map(in_a_child, items, concurrency=3, min_completed=5, failures_max=0)
        return ["none" if isinstance(each, OperationCancelledError) else each for each in given]

    async with place.engine(parent, kid, waiting) as engine:
        handle = await engine.start(parent, [0, 1, 2, 3, 4, 5])
        assert await handle.result(PATIENCE_S) == [0, 10, "none", 30, 40, 50]
        assert max(most) <= 3
        (other,) = await engine.list(workflow="waiting")
        await until_status(await engine.get(other.id), "cancelled")


async def test_the_first_child_wins_a_race(place: Place) -> None:
    """Row 56."""

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what either gives
        return await ctx.race(ctx.child(waiting, x), ctx.child(double, x), ctx.child(waiting, x))

    async with place.engine(parent, double, waiting) as engine:
        handle = await engine.start(parent, 4)
        assert await handle.result(PATIENCE_S) == 8
        for number in (0, 2):
            await until_status(await nth_child(engine, handle, number), "cancelled")
        assert (await kinds(handle)).count("OperationCompleted") == 1


async def test_a_detached_child_goes_its_own_way(place: Place) -> None:
    """Row 56: started once, with the parent's commit; nobody waits for it, pauses it or cancels it."""

    @workflow
    async def parent(ctx: Context, x: int) -> str:
        child: str = await ctx.child(waiting, x, detach=True)
        await ctx.wait_signal("end")
        return child

    async with place.engine(parent, waiting) as engine:
        handles = [await engine.start(parent, n, id=f"order-{n}") for n in (1, 2)]
        for handle in handles:
            await until_parked(engine, handle.id)
            (entry,) = [e for e in await entries(handle) if isinstance(e, OperationCompleted)]
            assert (entry.key, entry.kind) == ("waiting#1", "child")
        children = {run.id.partition("/")[0]: run.id for run in await engine.list(workflow="waiting")}
        await handles[0].pause()
        await handles[0].unpause()
        await handles[0].signal("end")
        assert await handles[0].result(PATIENCE_S) == children["order-1"]
        await handles[1].cancel(wait=True)
        for n in (1, 2):
            child = await engine.get(children[f"order-{n}"])
            found = await row(engine, child.id)
            assert (found.parent_key, found.messages_sent) == (None, 0)
            await child.signal("go", "went")
            assert await child.result(PATIENCE_S) == [n, "went"]
        assert len(await engine.list()) == 4


async def test_a_child_may_be_of_a_workflow_that_only_others_know(place: Place) -> None:
    """Row 56: by name; it waits for a worker that has it, and the parent gets plain data."""

    @workflow
    async def far(_ctx: Context, x: str) -> Receipt:
        return Receipt(x, 5)

    @workflow
    async def parent(ctx: Context, x: str) -> Any:  # noqa: ANN401 - plain data
        return await ctx.child("far", x)

    async with place.engine(far):
        pass
    async with place.engine(parent) as engine:
        handle = await engine.start(parent, "order-1", id="order-1")
        child = await nth_child(engine, handle)
        await until_parked(engine, "order-1")
        assert (await child.status()).status == "pending"
    async with place.engine(far) as engine:
        assert await (await engine.get(child.id)).result(PATIENCE_S) == Receipt("order-1", 5)
    async with place.engine(parent) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(PATIENCE_S) == {"order": "order-1", "amount": 5}


async def test_a_task_of_a_graph_starts_children_too_and_each_visit_its_own(place: Place) -> None:
    """Row 56: in two branches under the same key, and again where an edge leads back."""

    @task
    async def both(ctx: Context, x: int) -> int:
        given: int = await ctx.child(double, x)
        return given

    step = Step("left", task="both"), Step("right", task="both")
    graph = parallel({"left": [step[0]], "right": [step[1]]}, both)
    async with place.engine(graph, double, Flow("line").then(both).then(both)) as engine:
        handle = await engine.start(graph, 3)
        assert await handle.result(PATIENCE_S) == {"left": 6, "right": 6}
        begun = await started(handle)
        assert [each.key for each in begun] == ["double#1", "double#1"]
        assert {each.branch for each in begun} == {"left", "right"}
        handle = await engine.start("line", 3)
        assert await handle.result(PATIENCE_S) == 12
        assert len({each.child.id for each in await started(handle) if each.child}) == 2
        assert len(await engine.list(workflow="double")) == 4


REFUSED: dict[str, tuple[Callable[[Context], Any], type[Exception]]] = {
    "an input that fits no step": (lambda ctx: ctx.child(double, "many"), InputError),
    "an input that cannot be encoded": (lambda ctx: ctx.child(double, object()), InputError),
    "a workflow that nobody knows": (lambda ctx: ctx.child("nobody", 1), WorkflowNotFoundError),
}


@pytest.mark.parametrize("which", REFUSED)
async def test_a_child_that_cannot_be_started_is_an_error_of_the_body_and_leaves_no_trace(
    place: Place, which: str
) -> None:
    """Row 56: who catches it goes on, also when the body begins anew."""
    ask, kind = REFUSED[which]
    tries: list[str] = []

    @workflow
    async def lets_pass(ctx: Context, _x: None) -> None:
        await ask(ctx)

    @workflow
    async def catches(ctx: Context, _x: None) -> list[Any]:
        try:
            await ask(ctx)
        except kind:
            tries.append("caught")
        return [await ctx.child(double, 1), await ctx.wait_signal("go"), await ctx.child(double, 2)]

    async with place.engine(lets_pass, catches, double) as engine:
        handle = await engine.start(lets_pass)
        with pytest.raises(TaskError, match=kind.__name__) as caught:
            await handle.result(PATIENCE_S)
        assert caught.value.failure.type == kind.__name__
        assert await kinds(handle) == ["RunStarted", "RunFailed"]
        handle = await engine.start(catches)
        await until_parked(engine, handle.id)
        await handle.signal("go", "went")
        assert await handle.result(PATIENCE_S) == [2, "went", 4]
        assert len(await engine.list()) == 4
    assert len(tries) > 1


async def test_a_child_that_is_over_as_soon_as_it_is_started_answers_as_any_other(place: Place) -> None:
    """Row 56: its graph ends it in its first commit."""
    fork = Step("fork", "fork", edges=(Edge("one", "a"), Edge("other", "b")))
    joins = [Step("one", "join", join=Join(("b",))), Step("other", "join", join=Join(("a",)))]
    stuck = Workflow("stuck", [fork, *joins], tasks=[keep])

    @workflow
    async def parent(ctx: Context, _x: None) -> str:
        try:
            await ctx.child(stuck)
        except ChildError as error:
            return error.kind
        return "no error"

    async with place.engine(parent, stuck) as engine:
        assert await (await engine.start(parent)).result(PATIENCE_S) == "join_unsatisfiable"


async def test_a_child_is_retried_by_its_own_policies_and_its_parent_is_told_the_end(place: Place) -> None:
    """Rows 23 and 56."""
    flaky = Calls("flaky", failures=2, retry=[Retry(max_retries=5, base_delay=0)])
    kid = Flow("kid").then(flaky.task)

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(kid, x)

    async with place.engine(parent, kid) as engine:
        handle = await engine.start(parent, 7)
        assert await handle.result(PATIENCE_S) == 7
        assert flaky.calls == [7, 7, 7]
        assert (await row(engine, handle.id)).messages_sent == 1


async def test_a_function_that_fails_for_its_child_begins_another_one(place: Place) -> None:
    """Rows 23 and 56: what it has asked for before is not asked for again."""
    flaky, first = Calls("flaky", failures=2), Calls("first")
    kid = Flow("kid").then(flaky.task)

    @workflow(retry=Retry(max_retries=2, base_delay=0, error_equals=(ConnectionError,)))
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        await ctx.step(first.task, x)
        one = await ctx.child(double, x)
        return [one, await ctx.child(kid, x)]

    async with place.engine(parent, kid, double) as engine:
        handle = await engine.start(parent, 7)
        assert await handle.result(PATIENCE_S) == [14, 7]
        assert (first.calls, flaky.calls) == ([7], [7, 7, 7])
        begun = await started(handle)
        assert [each.key for each in begun] == ["double#1", "kid#1", "kid#1", "kid#1"]
        assert len({each.child.id for each in begun if each.child}) == 4
        statuses = [(await engine.get(each.child.id)).status() for each in begun if each.child]
        assert [(await each).status for each in statuses] == ["completed", "failed", "failed", "completed"]


async def test_children_are_driven_by_whoever_is_free(place: Place) -> None:
    """Row 56: a parent that waits takes no slot, so that even one is enough for a family."""

    @workflow
    async def nest(ctx: Context, depth: int) -> int:
        if not depth:
            return await ctx.step(twice, 1)
        return sum(await ctx.gather(ctx.child(nest, depth - 1), ctx.child(nest, depth - 1)))

    async with place.engine(nest, concurrency=1) as engine, asyncio.timeout(PATIENCE_S):
        assert await (await engine.start(nest, 3)).result(PATIENCE_S) == 16


async def test_whoever_has_a_workflow_drives_the_children_that_it_names(place: Place) -> None:
    """Rows 43 and 56: a step of a flow, and a function that says so."""

    @workflow(children=[double])
    async def parent(ctx: Context, x: int) -> int:
        return 1 + await ctx.child(double, x)

    @task
    async def how(_x: int) -> str:
        return "step"

    flow = Flow("flow").then(keep).then_child(parent).then(how).then_child(declined, name="last")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 10)
        with pytest.raises(TaskError, match="DeclinedError in step 'last'") as caught:
            await handle.result(PATIENCE_S)
        assert caught.value.failure.type == "DeclinedError"
        outputs = [(await (await nth_child(engine, handle, n)).status()).output for n in (0, 1)]
        assert outputs == [21, None]
        assert (await kinds(handle)).count("StepCompleted") == 3
        assert len(await engine.list()) == 4


async def test_a_run_that_nobody_can_reach_says_that_a_child_of_it_waits_for_somebody() -> None:
    """Rows 50 and 56: it cannot end; one whose children end gives its output."""

    @workflow(children=[double, waiting])
    async def parent(ctx: Context, *, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(double if x else waiting, x)

    @workflow(children=[double, waiting])
    async def ends(ctx: Context, _x: None) -> Any:  # noqa: ANN401 - as above
        return await parent(ctx, x=3)

    @workflow(children=[double, waiting])
    async def waits(ctx: Context, _x: None) -> Any:  # noqa: ANN401 - as above
        return await parent(ctx, x=0)

    async with asyncio.timeout(PATIENCE_S):
        assert await arun(ends) == 6
        with pytest.raises(RunWaitingError, match="go"):
            await arun(waits)
