"""Row 56: what happens to a parent goes down to its children, and what happens to them never gets lost."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, Flow, Retry, Step, WaitSignal, task, workflow
from holdfast.core.entries import OperationBegun, OperationCompleted, OperationFailed, RunCancelled
from holdfast.errors import ChildError, RunStateError, StepError, TaskError
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import Member, Outcome
from tests.semantics.flows import DAY_MS, HOUR_MS, Calls, Gate, keep, parallel
from tests.semantics.places import (
    PATIENCE_S,
    Place,
    entries,
    kinds,
    row,
    store_of,
    until,
    until_parked,
    until_status,
)


async def started(handle: AsyncHandle) -> list[str]:
    """Ids of the children that the run has waited for, in their order."""
    begun = [entry for entry in await entries(handle) if isinstance(entry, OperationBegun)]
    return [entry.child.id for entry in begun if entry.child is not None]


async def nth_child(engine: AsyncEngine, handle: AsyncHandle, number: int = 0) -> AsyncHandle:
    """A child of a run, once there are so many."""

    async def is_there() -> bool:
        return len(await started(handle)) > number

    await until(is_there)
    return await engine.get((await started(handle))[number])


async def answers(handle: AsyncHandle) -> list[OperationCompleted | OperationFailed]:
    """What the run has recorded of the ends of its children."""
    ended = [e for e in await entries(handle) if isinstance(e, OperationCompleted | OperationFailed)]
    return [entry for entry in ended if entry.kind == "child"]


async def failed(handle: AsyncHandle) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await handle.result(PATIENCE_S)
    return caught.value


@workflow
async def waiting(ctx: Context, x: Any) -> Any:  # noqa: ANN401 - whatever it is
    """A child that waits for somebody."""
    return [x, await ctx.wait_signal("go")]


@workflow
async def asking(ctx: Context, x: Any) -> Any:  # noqa: ANN401 - whatever the child gives
    """A parent that only waits."""
    return await ctx.child(waiting, x)


OTHER = Flow("other").then(keep)


class Family:
    """A parent, held or put away, and a child of each kind that it may have.

    Attributes:
        gate: Keeps a body of the child busy.
        own: Keeps one of the parent busy, beside the child.
        napping: What the child that sleeps does afterwards.
    """

    CHILDREN = ("busy", "waiting", "napping", "in backoff", "a flow")
    PARENTS = ("held", "put away")

    def __init__(self) -> None:
        self.gate, self.own = Gate("gate"), Gate("own")
        self.napping = Calls("after")
        retry = [Retry(max_retries=9, base_delay="1h")]
        self.flaky = Calls("flaky", failures=1, retry=retry)

        @workflow("busy")
        async def busy(ctx: Context, x: int) -> Any:  # noqa: ANN401 - whatever it is
            return await ctx.step(self.gate.task, x)

        @workflow("napping")
        async def napping(ctx: Context, x: int) -> Any:  # noqa: ANN401 - as above
            await ctx.sleep("1h")
            return await ctx.step(self.napping.task, x)

        @workflow("in backoff")
        async def in_backoff(ctx: Context, x: int) -> Any:  # noqa: ANN401 - as above
            return await ctx.step(self.flaky.task, x)

        @workflow("held")
        async def held(ctx: Context, child: str) -> list[Any]:
            return await ctx.gather(ctx.child(child, 1), ctx.step(self.own.task, 1))

        @workflow("put away")
        async def put_away(ctx: Context, child: str) -> Any:  # noqa: ANN401 - as above
            return await ctx.child(child, 1)

        flow = Flow("a flow").wait_for_signal("go").then(keep)
        self.all = (busy, napping, in_backoff, held, put_away, waiting, flow, OTHER)

    async def begin(self, engine: AsyncEngine, parent: str, child: str) -> tuple[AsyncHandle, AsyncHandle]:
        """Start both; return when they are in their state."""
        handle = await engine.start(parent, child, id="order-1")
        found = await nth_child(engine, handle)
        if child == "busy":
            await self.gate.until_called()
        else:
            await until_parked(engine, found.id)
        if parent == "held":
            await self.own.until_called()
        else:
            await until_parked(engine, handle.id)
        return handle, found

    async def end(self, place: Place, child: AsyncHandle) -> None:
        """Let the child come to its end."""
        self.gate.open()
        self.own.open()
        place.clock.advance(2 * HOUR_MS)
        if (await child.status()).workflow in {"waiting", "a flow"}:
            await child.signal("go", "went")


@pytest.mark.parametrize("parent", Family.PARENTS)
@pytest.mark.parametrize("kind", Family.CHILDREN)
async def test_a_cancel_goes_down(place: Place, parent: str, kind: str) -> None:
    """Rows 33 and 56: with its reason, whoever holds which of them."""
    family = Family()
    async with place.engine(*family.all) as engine:
        handle, child = await family.begin(engine, parent, kind)
        await handle.cancel("typing error", by="ada", wait=True)
        await until_status(child, "cancelled")
        assert (await entries(child))[-1] == RunCancelled("typing error", "ada")
        assert (await kinds(handle))[-1] == "RunCancelled"
        await until(lambda: family.gate.stops == (kind == "busy"))
        await until(lambda: family.own.stops == (parent == "held"))
        before = await entries(handle)
        place.clock.advance(DAY_MS)
        assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
        assert await entries(handle) == before
        assert (family.napping.calls, len(family.flaky.calls)) == ([], int(kind == "in backoff"))


@pytest.mark.parametrize("parent", Family.PARENTS)
@pytest.mark.parametrize("kind", Family.CHILDREN)
async def test_a_pause_goes_down_and_so_does_its_end(place: Place, parent: str, kind: str) -> None:
    """Rows 32 and 56: the child stands still, and its clocks do."""
    family = Family()
    async with place.engine(*family.all) as engine:
        handle, child = await family.begin(engine, parent, kind)
        for _ in range(2):
            await handle.pause("lunch", by="ada")
            await until_pause(child, is_paused=True)
            status = await child.status()
            assert status.pause is not None
            assert (status.pause.reason, status.pause.by, status.pause.freezes) == ("lunch", "ada", True)
            if kind != "busy":
                place.clock.advance(DAY_MS)
                assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
                assert (family.napping.calls, len(family.flaky.calls)) == ([], int(kind == "in backoff"))
            await handle.unpause(by="eve")
            await until_pause(child, is_paused=False)
        await family.end(place, child)
        await until_status(child, "completed")
        assert await handle.result(PATIENCE_S) is not None
        assert [name for name in await kinds(child) if "aused" in name] == ["Paused", "Unpaused"] * 2
        assert len(await answers(handle)) == 1


async def until_pause(handle: AsyncHandle, *, is_paused: bool) -> None:
    async def is_so() -> bool:
        return ((await handle.status()).pause is not None) is is_paused

    await until(is_so)


async def test_a_cancel_that_races_with_the_end_of_the_child_ends_both(place: Place) -> None:
    """Rows 33 and 56, and invariant 30: whichever is first."""
    async with place.engine(asking, waiting) as engine:
        handles = [await engine.start(asking, n) for n in range(15)]
        for n, handle in enumerate(handles):
            child = await nth_child(engine, handle)
            await until_waits(child)
            async with asyncio.TaskGroup() as clients:
                signalling = clients.create_task(is_acknowledged(child.signal("go", "went")))
                for _ in range(n):
                    await asyncio.sleep(0)
                cancelling = clients.create_task(is_acknowledged(handle.cancel()))
            with contextlib.suppress(TaskError):
                await handle.result(PATIENCE_S)
            status = (await handle.status()).status
            assert status == ("cancelled" if cancelling.result() else "completed")
            # From another process, the cancel may have reached the child before the signal did.
            assert signalling.result() or status == "cancelled"

            async def is_over(child: AsyncHandle = child) -> bool:
                return (await child.status()).status in {"completed", "cancelled"}

            await until(is_over)
            assert len(await answers(handle)) == int(status == "completed") or status == "cancelled"


async def is_acknowledged(asking: Awaitable[object]) -> bool:
    try:
        await asking
    except RunStateError:
        return False
    return True


async def test_a_paused_parent_takes_an_outcome_and_does_nothing_with_it(place: Place) -> None:
    """Rows 32 and 56: the child was let go on by itself."""
    last = Calls("last")

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.step(last.task, await ctx.child(waiting, x))

    async with place.engine(parent, waiting) as engine:
        handle = await engine.start(parent, 1)
        child = await nth_child(engine, handle)
        await until_parked(engine, handle.id)
        await handle.pause()
        await until_pause(child, is_paused=True)
        await child.unpause()
        await child.signal("go", "went")
        assert await child.result(PATIENCE_S) == [1, "went"]

        async def is_answered() -> bool:
            return len(await answers(handle)) == 1

        await until(is_answered)
        await until_parked(engine, handle.id)
        assert ((await row(engine, handle.id)).status, last.calls) == ("paused", [])
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == [1, "went"]


async def test_a_pause_of_a_branch_goes_down_to_the_children_of_that_branch(place: Place) -> None:
    """Rows 32 and 56."""

    @task
    async def ask(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(waiting, x)

    graph = parallel({"left": [Step("left", task="ask")], "right": [Step("right", task="ask")]}, ask)
    async with place.engine(graph, waiting) as engine:
        handle = await engine.start(graph, 1)
        children = {(await nth_child(engine, handle, n)).id for n in (0, 1)}
        begun = [e for e in await entries(handle) if isinstance(e, OperationBegun)]
        by_branch = {e.branch: await engine.get(e.child.id) for e in begun if e.child is not None}
        assert {child.id for child in by_branch.values()} == children
        for child in by_branch.values():
            await until_parked(engine, child.id)
        await handle.pause("lunch", branch="left")
        await until_pause(by_branch["left"], is_paused=True)
        assert (await row(engine, by_branch["right"].id)).status == "suspended"
        await handle.unpause(branch="left")
        for child in by_branch.values():
            await until_pause(child, is_paused=False)
            await child.signal("go", "went")
        went = [1, "went"]
        assert await handle.result(PATIENCE_S) == {"left": went, "right": went}
        assert "Paused" not in await kinds(by_branch["right"])


class StillStore(MemoryStore):
    """A memory store that commits when it may, as one with a disk does.

    Attributes:
        gate: Keeps every commit back.
        waiting: How many are kept back.
    """

    is_instant = False  # type: ignore[assignment] - of the class

    def __init__(self, place: Place) -> None:
        super().__init__(place.clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        del group

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return super().commit_now(group) or []


async def test_a_child_that_is_asked_for_beside_a_pause_does_nothing_before_its_end(tmp_path: Path) -> None:
    """Invariant 31: the pause is acknowledged before the commit that starts the child."""
    place = Place("memory", tmp_path)
    store, calls, note, ask = StillStore(place), Calls("calls"), asyncio.Event(), asyncio.Event()

    @workflow
    async def kid(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it got
        return await ctx.step(calls.task, x)

    @workflow
    async def parent(ctx: Context, _x: None) -> list[Any]:
        async def when_asked() -> Any:  # noqa: ANN401 - what the child gives
            await ask.wait()
            return await ctx.child(kid, 1)

        return await ctx.gather(ctx.record("note", note.wait), when_asked())

    async with place.engine(parent, kid, OTHER, store=store) as engine, asyncio.TaskGroup() as clients:
        handle = await engine.start(parent)
        worker = engine._node.worker
        store.gate.clear()
        other = clients.create_task(engine.start(OTHER, 1))
        await until(lambda: store.waiting)
        pausing = clients.create_task(handle.pause())
        await until(lambda: len(worker.group._pending) == 1)
        note.set()
        await until(lambda: len(worker.group._pending) == 2)
        ask.set()
        await until(lambda: worker._drivers[handle.id]._events)
        store.gate.set()
        await pausing
        child = await nth_child(engine, handle)
        assert await (await other).result(PATIENCE_S) == 1
        await until_pause(child, is_paused=True)
        assert calls.calls == []
        await handle.unpause()
        assert await handle.result(PATIENCE_S) == [True, 1]


async def test_a_race_cancels_the_children_that_lose(place: Place) -> None:
    """Rows 56 and 63: also grandchildren."""

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the winner gives
        return await ctx.race(ctx.child(asking, x), ctx.wait_signal("stop"))

    async with place.engine(parent, asking, waiting) as engine:
        handle = await engine.start(parent, 1)
        child = await nth_child(engine, handle)
        grandchild = await nth_child(engine, child)
        for each in (handle, child, grandchild):
            await until_parked(engine, each.id)
        await handle.signal("stop", "enough")
        assert await handle.result(PATIENCE_S) == "enough"
        for each in (child, grandchild):
            await until_status(each, "cancelled")
            assert "does not wait for it any more" in ((await each.status()).cancel_reason or "")
        assert await answers(handle) == []


async def test_what_fails_beside_them_cancels_the_children_of_a_gather(place: Place) -> None:
    """Rows 56 and 63: whoever catches that goes on, and is not answered by them."""

    async def fail() -> None:
        raise ValueError("no")

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it waits for
        try:
            await ctx.gather(ctx.child(waiting, x), ctx.child(waiting, x), failing(ctx))
        except StepError as error:
            return [error.kind, await ctx.wait_signal("end")]

    async def failing(ctx: Context) -> None:
        await ctx.wait_signal("fail")
        await ctx.step(fail)

    async with place.engine(parent, waiting) as engine:
        handle = await engine.start(parent, 1)
        children = [await nth_child(engine, handle, number) for number in (0, 1)]
        for child in children:
            await until_parked(engine, child.id)
        await handle.signal("fail")
        for child in children:
            await until_status(child, "cancelled")
        await handle.signal("end", "ended")
        assert await handle.result(PATIENCE_S) == ["ValueError", "ended"]
        assert await answers(handle) == []
        assert await store_of(engine).read_inbox((await row(engine, handle.id)).key) == []


async def test_a_failed_child_cancels_those_beside_it_with_its_parent(place: Place) -> None:
    """Rows 20 and 56; the parent, retried, asks for all of them anew."""
    flaky = Calls("flaky", failures=1)
    kid = Flow("kid").wait_for_signal("go").then(flaky.task)

    @workflow
    async def parent(ctx: Context, x: int) -> list[Any]:
        return await ctx.gather(ctx.child(waiting, x), ctx.child(kid, x))

    async with place.engine(parent, kid, waiting) as engine:
        handle = await engine.start(parent, 1)
        waits, fails = [await nth_child(engine, handle, number) for number in (0, 1)]
        await fails.signal("go", "first")
        assert (await failed(handle)).failure.type == "ConnectionError"
        await until_status(waits, "cancelled")
        await engine.retry(handle.id)
        again = [await nth_child(engine, handle, number) for number in (2, 3)]
        for each in again:
            await each.signal("go", "second")
        assert await handle.result(PATIENCE_S) == [[1, "second"], "second"]
        assert len({each.id for each in (waits, fails, *again)}) == 4
        assert (await waits.status()).status == "cancelled"


@pytest.mark.parametrize("how", ["a step", "the time"])
async def test_a_run_that_fails_cancels_its_children_and_begins_others_when_it_is_retried(
    place: Place, how: str
) -> None:
    """Rows 24, 52 and 56: of another branch, or because its time is up."""
    fails = Calls("fails", failures=1)

    @task
    async def ask(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(waiting, x)

    hold = Step("hold", "wait_signal", wait_signal=WaitSignal.of("fail"))
    branches = {"ask": [Step("ask", task="ask")], "fail": [hold, Step("fails", task="fails")]}
    timeout = "1h" if how == "the time" else None
    graph = parallel(branches, ask, fails.task, timeout=timeout)
    async with place.engine(graph, waiting) as engine:
        handle = await engine.start(graph, 1)
        old = await nth_child(engine, handle)
        for each in (old, handle):
            await until_parked(engine, each.id)
        if how == "the time":
            place.clock.advance(2 * HOUR_MS)
            assert (await failed(handle)).failure.type == "timeout"
            fails.calls.append("not this time")
        else:
            await handle.signal("fail", 7)
            assert (await failed(handle)).failure.type == "ConnectionError"
        await until_status(old, "cancelled")
        await engine.retry(handle.id)
        new = await nth_child(engine, handle, 1)
        assert new.id != old.id
        await until_parked(engine, new.id)
        if how == "the time":
            await handle.signal("fail", 7)
        await new.signal("go", "went")
        assert await handle.result(PATIENCE_S) == {"ask": [1, "went"], "fail": 7}
        assert len(await answers(handle)) == 1


async def test_a_time_out_of_a_child_is_a_failure_of_that_type(place: Place) -> None:
    """Rows 24 and 56."""

    @workflow(timeout="1h")
    async def slow(ctx: Context, _x: None) -> None:
        await ctx.child(waiting)

    @workflow
    async def parent(ctx: Context, _x: None) -> str:
        try:
            await ctx.child(slow)
        except ChildError as error:
            return f"{error.kind} {error.is_a(TimeoutError)}"
        return "no error"

    async with place.engine(parent, slow, waiting) as engine:
        handle = await engine.start(parent)
        child = await nth_child(engine, handle)
        grandchild = await nth_child(engine, child)
        await until_parked(engine, grandchild.id)
        place.clock.advance(2 * HOUR_MS)
        assert await handle.result(PATIENCE_S) == "timeout True"
        await until_status(grandchild, "cancelled")


async def test_a_child_whose_workflow_no_worker_knows_is_cancelled_when_one_comes(place: Place) -> None:
    """Row 56: before it does anything."""
    calls = Calls("calls")
    kid = Flow("kid").then(calls.task)

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child("kid", x)

    async with place.engine(kid):
        pass
    async with place.engine(parent) as engine:
        handle = await engine.start(parent, 1)
        child = await nth_child(engine, handle)
        await handle.cancel(wait=True)
        assert (await child.status()).status == "pending"
    async with place.engine(kid) as engine:
        await until_status(await engine.get(child.id), "cancelled")
    assert calls.calls == []


async def test_a_parent_that_is_gone_does_not_keep_its_children_from_ending(place: Place) -> None:
    """Rows 56 and 58: whoever is told of their end is not there any more."""
    family = Family()
    async with place.engine(*family.all) as engine:
        handle, child = await family.begin(engine, "put away", "busy")
        await handle.cancel(wait=True)
        await engine.delete(handle.id)
        await until_status(child, "cancelled")
        await engine.delete(child.id)
        assert await engine.list() == []


@workflow
async def keeps_on(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it waits for
    """A parent that goes on after its child has ended."""
    with contextlib.suppress(ChildError):
        await ctx.child(waiting, x)
    return await ctx.wait_signal("end")


async def test_a_child_is_kept_until_its_parent_is_over(place: Place) -> None:
    """Row 58: by hand and by retention; then either may go first."""
    async with place.engine(keeps_on, waiting) as engine:
        handles = [await engine.start(keeps_on, n) for n in (1, 2)]
        children = [await nth_child(engine, handle) for handle in handles]
        for handle, child in zip(handles, children, strict=True):
            await until_parked(engine, child.id)
            with pytest.raises(RunStateError, match="cannot be deleted"):
                await engine.delete(child.id)
            await child.signal("go", "went")
            await child.result(PATIENCE_S)
            with pytest.raises(RunStateError, match="the run that started it is not over"):
                await engine.delete(child.id)
            await handle.signal("end", "ended")
            assert await handle.result(PATIENCE_S) == "ended"
        await engine.delete(children[0].id)
        for each in (*handles, children[1]):
            await engine.delete(each.id)
        assert await engine.list() == []


async def test_the_retention_of_a_child_begins_to_count_when_its_parent_is_over(place: Place) -> None:
    """Row 58: at least it does not go before."""
    async with place.engine(keeps_on, waiting, retention="1d") as engine:
        handle = await engine.start(keeps_on, 1)
        child = await nth_child(engine, handle)
        await child.signal("go", "went")
        await child.result(PATIENCE_S)
        await until_parked(engine, handle.id)
        place.clock.advance(5 * DAY_MS)
        assert await swept(engine) == 0
        await handle.signal("end", "ended")
        assert await handle.result(PATIENCE_S) == "ended"
        await swept(engine)
        assert [run.id for run in await engine.list()] == [handle.id]


async def swept(engine: AsyncEngine) -> int:
    driving = getattr(engine, "beside", engine)
    count: int = await driving._node._sweeper.sweep()
    return count


async def test_a_child_that_is_restarted_answers_for_the_one_before(place: Place) -> None:
    """Rows 48 and 56: as long as nothing was heard of that."""
    async with place.engine(asking, waiting) as engine:
        handle = await engine.start(asking, 1)
        child = await nth_child(engine, handle)
        await until_parked(engine, child.id)
        again = await engine.start(waiting, 2, id=child.id, on_conflict="restart")
        before, found = (await row(engine, handle.id)).key, await row(engine, child.id)
        assert (found.incarnation, found.parent_key) == (2, before)
        await until_parked(engine, child.id)
        await again.signal("go", "went")
        assert await handle.result(PATIENCE_S) == [2, "went"]
        await engine.start(waiting, 3, id=child.id, on_conflict="restart")
        await again.signal("go", "again")
        assert await again.result(PATIENCE_S) == [3, "again"]
        assert await handle.result(PATIENCE_S) == [2, "went"]
        assert len(await answers(handle)) == 1


async def until_heard(engine: AsyncEngine, handle: AsyncHandle, messages: int) -> None:
    """Wait until the run has been sent so many messages, and has used them all."""

    async def has_heard() -> bool:
        found = await row(engine, handle.id)
        is_used = not await store_of(engine).read_inbox(found.key)
        return is_used and found.messages_sent == messages and found.worker is None

    await until(has_heard)


async def test_a_child_that_is_restarted_after_its_end_answers_nobody(place: Place) -> None:
    """Invariant 36: the outcome that its parent has heard stays."""
    async with place.engine(keeps_on, waiting) as engine:
        handle = await engine.start(keeps_on, 1)
        child = await nth_child(engine, handle)
        await child.signal("go", "went")
        await until_waits_for_signal(handle)
        await until_heard(engine, handle, 1)
        before = await kinds(handle)
        again = await engine.start(waiting, 2, id=child.id, on_conflict="restart")
        await again.signal("go", "again")
        assert await again.result(PATIENCE_S) == [2, "again"]
        await until_heard(engine, handle, 2)
        assert await kinds(handle) == before
        await handle.signal("end", "ended")
        assert await handle.result(PATIENCE_S) == "ended"


async def test_a_child_of_which_its_parent_has_failed_does_not_answer_for_the_next_one(place: Place) -> None:
    """Invariant 36: that has the same key, and another id."""
    flaky = Calls("flaky", failures=1)
    kid = Flow("kid").wait_for_signal("go").then(flaky.task)

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(kid, x)

    async with place.engine(parent, kid) as engine:
        handle = await engine.start(parent, 1)
        old = await nth_child(engine, handle)
        await old.signal("go", "first")
        await failed(handle)
        await engine.retry(handle.id)
        new = await nth_child(engine, handle, 1)
        await engine.start(kid, 1, id=old.id, on_conflict="restart")
        await old.signal("go", "old")
        assert await old.result(PATIENCE_S) == "old"
        await until_heard(engine, handle, 2)
        assert len(await answers(handle)) == 1
        await new.signal("go", "new")
        assert await handle.result(PATIENCE_S) == "new"


async def test_a_parent_that_is_restarted_is_not_answered_by_children_it_had_before(place: Place) -> None:
    """Rows 48 and 56."""
    async with place.engine(asking, waiting) as engine:
        handle = await engine.start(asking, 1, id="order-1")
        old = await nth_child(engine, handle)
        await until_parked(engine, "order-1")
        await engine.start(asking, 2, id="order-1", on_conflict="restart")
        new = await nth_child(engine, handle)
        assert new.id != old.id
        for each in (old, new, handle):
            await until_parked(engine, each.id)
        await old.signal("go", "old")
        assert await old.result(PATIENCE_S) == [1, "old"]
        assert (await row(engine, "order-1")).messages_sent == 0
        await new.signal("go", "new")
        assert await handle.result(PATIENCE_S) == [2, "new"]


async def test_a_child_that_begins_anew_answers_when_it_has_ended(place: Place) -> None:
    """Row 56: and is controlled as before."""

    @workflow
    async def kid(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it waits for
        if x < 3:
            await ctx.continue_as_new(x + 1)
        return [x, await ctx.wait_signal("go")]

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(kid, x)

    async with place.engine(parent, kid) as engine:
        handles = [await engine.start(parent, 1) for _ in range(2)]
        for handle in handles:
            child = await nth_child(engine, handle)
            await until_waits(child)
            found = await row(engine, child.id)
            assert (found.incarnation, found.parent_key) == (3, (await row(engine, handle.id)).key)
        await (await nth_child(engine, handles[0])).signal("go", "went")
        assert await handles[0].result(PATIENCE_S) == [3, "went"]
        await handles[1].cancel()
        await until_status(await nth_child(engine, handles[1]), "cancelled")


async def until_waits(handle: AsyncHandle) -> None:
    async def has_begun() -> bool:
        return any(isinstance(entry, OperationBegun) for entry in await entries(handle))

    await until(has_begun)


@workflow
async def double(_ctx: Context, x: int) -> int:
    """A child that ends by itself."""
    return 2 * x


@workflow
async def begins_anew(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it waits for
    """A parent that has other children in its second life."""
    if x == 1:
        await ctx.child(double, x)
        await ctx.race(ctx.child(waiting, x), ctx.wait_signal("next"))
        await ctx.continue_as_new(2)
    return [await ctx.child(waiting, x), await ctx.wait_signal("later")]


async def begun_anew(engine: AsyncEngine) -> tuple[AsyncHandle, list[AsyncHandle]]:
    """A run in its second life, and the children of its first one, which are over."""
    handle = await engine.start(begins_anew, 1, id="order-1")
    old = [await nth_child(engine, handle, number) for number in (0, 1)]
    await handle.signal("later", "kept")
    await handle.signal("next")

    async def is_anew() -> bool:
        return (await row(engine, "order-1")).incarnation == 2

    await until(is_anew)
    await until_status(old[1], "cancelled")
    return handle, old


async def test_a_parent_that_begins_anew_keeps_its_signals_and_none_of_its_children(place: Place) -> None:
    """Row 56: keys begin anew with it, and what ended before answers nothing."""
    async with place.engine(begins_anew, waiting, double) as engine:
        handle, old = await begun_anew(engine)
        new = await nth_child(engine, handle)
        assert new.id not in {each.id for each in old}
        await new.signal("go", "went")
        assert await handle.result(PATIENCE_S) == [[2, "went"], "kept"]
        assert len(await answers(handle)) == 1


async def test_what_a_run_has_started_before_it_began_anew_may_be_deleted(place: Place) -> None:
    """Row 58: nobody waits for it any more, however long that run goes on."""
    async with place.engine(begins_anew, waiting, double) as engine:
        handle, old = await begun_anew(engine)
        for each in old:
            await engine.delete(each.id)
        new = await nth_child(engine, handle)
        with pytest.raises(RunStateError, match="cannot be deleted"):
            await engine.delete(new.id)


async def test_a_child_that_ends_while_its_parent_is_busy_is_heard_at_once(place: Place) -> None:
    """Row 56: also while the parent waits for so short a time that it is not put away."""
    own = Gate("own")

    @workflow
    async def busy(ctx: Context, x: int) -> list[Any]:
        return await ctx.gather(ctx.child(waiting, x), ctx.step(own.task, x))

    @workflow
    async def short(ctx: Context, x: int) -> list[Any]:
        return await ctx.gather(ctx.child(waiting, x), ctx.sleep("900ms"))

    async with place.engine(busy, short, waiting) as engine:
        handles = [await engine.start(each, 1) for each in (busy, short)]
        for handle in handles:
            child = await nth_child(engine, handle)
            await child.signal("go", "went")

            async def is_answered(handle: AsyncHandle = handle) -> bool:
                return len(await answers(handle)) == 1

            await until(is_answered)
        assert (own.calls, (await row(engine, handles[0].id)).epoch) == ([1], 1)
        own.open()
        place.clock.advance(1_000)
        assert await handles[0].result(PATIENCE_S) == [[1, "went"], 1]
        assert await handles[1].result(PATIENCE_S) == [[1, "went"], None]


async def test_a_child_that_is_over_before_its_parent_is_put_away_wakes_it(place: Place) -> None:
    """Row 56: many times, because it is a race."""

    @workflow
    async def quick(_ctx: Context, x: int) -> int:
        return x

    @workflow
    async def parent(ctx: Context, x: int) -> int:
        total = 0
        for n in range(x):
            total += await ctx.child(quick, n)
        return total

    async with place.engine(parent, quick) as engine:
        handles = [await engine.start(parent, 10) for _ in range(10)]
        for handle in handles:
            assert await handle.result(PATIENCE_S) == 45


async def test_an_outcome_is_delivered_once_also_if_the_child_ends_again(place: Place) -> None:
    """Invariant 36: what a parent was told of its child's failure stays, whatever becomes of the child."""
    flaky = Calls("flaky", failures=1)
    kid = Flow("kid").then(flaky.task)

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what it waits for
        try:
            await ctx.child(kid, x)
        except ChildError as error:
            return [error.kind, await ctx.wait_signal("end")]

    async with place.engine(parent, kid) as engine:
        handle = await engine.start(parent, 1)
        child = await nth_child(engine, handle)
        await until_status(child, "failed")
        await until_waits_for_signal(handle)
        await until_parked(engine, handle.id)
        before = await kinds(handle)
        await engine.retry(child.id)
        assert await child.result(PATIENCE_S) == 1
        assert await kinds(handle) == before
        assert await store_of(engine).read_inbox((await row(engine, handle.id)).key) == []
        await handle.signal("end", "ended")
        assert await handle.result(PATIENCE_S) == ["ConnectionError", "ended"]
        assert len(await answers(handle)) == 1


async def until_waits_for_signal(handle: AsyncHandle) -> None:
    async def is_there() -> bool:
        return any(getattr(entry, "kind", "") == "wait_signal" for entry in await entries(handle))

    await until(is_there)


async def test_a_child_that_is_retried_does_not_mend_the_parent_that_has_failed_of_it(place: Place) -> None:
    """Rows 52 and 56: that one is retried itself, and begins another child."""
    flaky = Calls("flaky", failures=1)
    kid = Flow("kid").then(flaky.task)

    @workflow
    async def parent(ctx: Context, x: int) -> Any:  # noqa: ANN401 - what the child gives
        return await ctx.child(kid, x)

    async with place.engine(parent, kid) as engine:
        handle = await engine.start(parent, 1)
        await failed(handle)
        old = await nth_child(engine, handle)
        await engine.retry(old.id)
        assert await old.result(PATIENCE_S) == 1
        assert (await handle.status()).status == "failed"
        await engine.retry(handle.id)
        assert await handle.result(PATIENCE_S) == 1
        new = await nth_child(engine, handle, 1)
        assert new.id != old.id
        assert [type(answer) for answer in await answers(handle)] == [OperationFailed, OperationCompleted]
        assert flaky.calls == [1, 1, 1]


@workflow("kid")
async def as_it_was(ctx: Context, _x: None) -> Any:  # noqa: ANN401 - what it waits for
    """A child, before its code was changed."""
    return await ctx.wait_signal("go")


@workflow("kid")
async def changed(ctx: Context, _x: None) -> Any:  # noqa: ANN401 - as above
    """The same with another code, which cannot go on with its journal."""
    await ctx.sleep("1h")


@workflow
async def in_family(ctx: Context, _x: None) -> Any:  # noqa: ANN401 - what the child gives
    """A parent of a child that is known by its name."""
    try:
        return await ctx.child("kid")
    except ChildError as error:
        return error.kind


async def blocked_child(place: Place, *, is_readable: bool) -> str:
    """The id of a child of `order-1`, which is blocked as soon as it is driven again."""
    async with place.engine(in_family, as_it_was) as engine:
        handle = await engine.start(in_family, id="order-1")
        child = await nth_child(engine, handle)
        for each in (handle, child):
            await until_parked(engine, each.id)
    if not is_readable:
        place.change_entry(child.id, 1, lambda _entry: b"noise")
    async with place.engine(in_family, changed) as engine:
        child = await engine.get(child.id)
        await child.signal("go", "went")

        async def is_blocked() -> bool:
            return (await row(engine, child.id)).status == "blocked"

        await until(is_blocked)
    return child.id


async def test_a_parent_of_a_blocked_child_waits_and_says_for_whom(place: Place) -> None:
    """Rows 35, 55 and 56: and gets its outcome once somebody has brought back the code."""
    child_id = await blocked_child(place, is_readable=True)
    async with place.engine(in_family, OTHER) as engine:
        handle = await engine.get("order-1")
        assert await (await engine.start(OTHER, 1)).result(PATIENCE_S) == 1
        status = await handle.status()
        assert status.status == "suspended"
        (wait,) = status.waiting
        assert wait.reason == "child"
        assert child_id in wait.detail
        explanation = await handle.explain()
        assert explanation.reason == "child"
        assert child_id in f"{explanation.detail} {explanation.action}"
        assert "blocked" in explanation.detail
    async with place.engine(in_family, as_it_was) as engine:
        driving = getattr(engine, "beside", engine)
        assert await driving.resume(child_id) == "went"
        assert await (await engine.get("order-1")).result(PATIENCE_S) == "went"


@pytest.mark.parametrize("is_readable", [True, False])
async def test_a_blocked_child_that_is_cancelled_answers_its_parent(place: Place, *, is_readable: bool) -> None:
    """Rows 33 and 56: whatever its journal says."""
    child_id = await blocked_child(place, is_readable=is_readable)
    async with place.engine(in_family, changed) as engine:
        await (await engine.get(child_id)).cancel("cannot be mended", wait=True)
        assert await (await engine.get("order-1")).result(PATIENCE_S) == "cancelled"
        assert len(await answers(await engine.get("order-1"))) == 1


@pytest.mark.parametrize("is_readable", [True, False])
async def test_a_blocked_child_is_cancelled_with_its_parent(place: Place, *, is_readable: bool) -> None:
    """Rows 33 and 56: it is not left for ever."""
    child_id = await blocked_child(place, is_readable=is_readable)
    async with place.engine(in_family, changed) as engine:
        await (await engine.get("order-1")).cancel("not needed", wait=True)

        async def is_cancelled() -> bool:
            return (await row(engine, child_id)).status == "cancelled"

        await until(is_cancelled)
