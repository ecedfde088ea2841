"""Row 38: branches that run side by side, and the join of what they give."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import Edge, Flow, Join, Retry, Step, Workflow, get_task_context, task
from holdfast.core.entries import BranchJoined
from holdfast.errors import TaskError
from tests.semantics.places import Place, entries, row, until

HOUR_MS = 3_600_000


def named(name: str, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def body(x: Any) -> Any:  # noqa: ANN401 - of any type
        return answer(x)

    return task(name)(body)


ADD, DOUBLE = named("add", lambda x: x + 1), named("double", lambda x: x * 2)
KEEP = named("keep", lambda x: x)


async def test_every_branch_gets_the_input_of_the_fork_and_the_join_a_dict(place: Place) -> None:
    """Row 38."""
    flow = Flow("order").then(ADD).fork().branch(DOUBLE).branch(ADD, name="plus").join(KEEP)
    assert await place.run(flow, 4) == {"double": 10, "plus": 6}


async def test_a_branch_runs_its_functions_one_after_the_other(place: Place) -> None:
    """Row 38."""
    flow = Flow("order").fork().branch(ADD, DOUBLE, ADD, name="three").branch(DOUBLE).join(KEEP).then(len)
    assert await place.run(flow, 4) == 2


async def test_the_dict_has_the_order_of_the_branches_whoever_is_first(place: Place) -> None:
    """Row 38."""
    second_is_done = asyncio.Event()

    async def slow(x: int) -> int:
        await second_is_done.wait()
        return x

    async def quick(x: int) -> int:
        second_is_done.set()
        return x

    flow = Flow("order").fork().branch(slow).branch(quick).join(KEEP)
    output = await place.run(flow, 1)
    assert list(output) == ["slow", "quick"]


async def test_async_branches_run_in_parallel(place: Place) -> None:
    """Row 38."""
    arrived = 0

    async def meet(x: int) -> int:
        nonlocal arrived
        arrived += 1
        await until(lambda: arrived == 3)
        return x

    flow = Flow("order").fork().branch(meet, name="a").branch(meet, name="b").branch(meet, name="c").join(KEEP)
    assert await place.run(flow, 1) == {"a": 1, "b": 1, "c": 1}


async def test_sync_branches_run_in_parallel(place: Place) -> None:
    """Row 38."""
    barrier = threading.Barrier(3, timeout=5)

    def meet(x: int) -> int:
        barrier.wait()
        return x

    flow = Flow("order").fork().branch(meet, name="a").branch(meet, name="b").branch(meet, name="c").join(KEEP)
    assert await place.run(flow, 1) == {"a": 1, "b": 1, "c": 1}


async def test_sync_and_async_branches_run_in_parallel(place: Place) -> None:
    """Row 38."""
    from_thread, from_loop = threading.Event(), threading.Event()

    def blocking(x: int) -> int:
        from_thread.set()
        assert from_loop.wait(5)
        return x

    async def waiting(x: int) -> int:
        await until(from_thread.is_set)
        from_loop.set()
        return x

    flow = Flow("order").fork().branch(blocking).branch(waiting).join(KEEP)
    assert await place.run(flow, 1) == {"blocking": 1, "waiting": 1}


async def test_forks_may_follow_one_another(place: Place) -> None:
    """Row 38."""
    flow = (
        Flow("order")
        .fork()
        .branch(ADD)
        .branch(DOUBLE)
        .join(named("sum", lambda parts: sum(parts.values())))
        .fork()
        .branch(ADD, name="again")
        .branch(DOUBLE, name="twice")
        .join(KEEP)
    )
    assert await place.run(flow, 4) == {"again": 14, "twice": 26}


async def test_a_fork_of_one_branch_is_a_fork(place: Place) -> None:
    """Row 38."""
    assert await place.run(Flow("order").fork().branch(ADD).join(KEEP), 4) == {"add": 5}


async def test_a_failing_branch_fails_the_run_and_cancels_its_siblings(place: Place) -> None:
    """Rows 20 and 38."""
    ends: list[str] = []
    begun = asyncio.Event()

    async def fails(x: int) -> int:
        await begun.wait()
        raise ValueError(f"no {x}")

    async def endless(_x: int) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("endless")
        return 0

    flow = Flow("order").fork().branch(fails).branch(endless).branch(ADD).join(KEEP)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 7)
        with pytest.raises(TaskError, match="ValueError in step 'fails': no 7"):
            await handle.result()
        await until(lambda: ends == ["endless"])
        status = await handle.status()
        assert {name: branch.status for name, branch in status.branches.items()} == {
            "main": "completed",
            "main-4": "cancelled",  # the trunk, which waited at the join
            "fails": "failed",
            "endless": "cancelled",
            "add": "completed",
        }


async def test_a_branch_waits_at_the_join_without_holding_a_worker(place: Place) -> None:
    """Rows 18 and 38."""
    tries = 0

    @task(retry=Retry(base_delay="1h"))
    async def flaky(x: int) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError("busy")
        return x

    flow = Flow("order").fork().branch(flaky).branch(ADD).join(KEEP)
    async with place.engine(flow) as engine:
        await engine.start(flow, 1, id="order-1")

        async def is_parked() -> bool:
            return (await row(engine, "order-1")).status == "suspended"

        await until(is_parked)
        assert (await row(engine, "order-1")).worker is None
        status = await (await engine.get("order-1")).status()
        assert [(wait.reason, wait.branch) for wait in status.waiting] == [
            ("backoff", "flaky"),
            ("join", "main-3"),
        ]
    place.clock.advance(HOUR_MS + 1_000)
    async with place.engine(flow) as engine:
        handle = await engine.get("order-1")
        assert await handle.result(5) == {"flaky": 1, "add": 2}
        joined = [entry for entry in await entries(handle) if isinstance(entry, BranchJoined)]
        assert [entry.joined for entry in joined] == [("flaky", "add")]


async def test_a_completed_branch_never_runs_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 38 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    calls: list[str] = []
    may_end = asyncio.Event()

    async def quick(x: int) -> int:
        calls.append("quick")
        return x

    async def slow(x: int) -> int:
        calls.append("slow")
        await may_end.wait()
        return x

    flow = Flow("order").fork().branch(quick).branch(slow).join(KEEP)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1")

        async def quick_is_done() -> bool:
            return (await handle.status()).branches["quick"].status == "completed"

        await until(quick_is_done)
    may_end.set()
    async with place.engine(flow) as engine:
        assert await (await engine.get("order-1")).result(5) == {"quick": 1, "slow": 1}
    assert calls == ["quick", "slow", "slow"]


async def test_a_hundred_branches_join(place: Place) -> None:
    """Row 38."""

    async def where(x: int) -> str:
        context = get_task_context()
        assert context is not None
        return f"{context.branch}:{x}"

    fork = Flow("wide").fork()
    for n in range(100):
        fork.branch(where, name=f"b{n}")
    output = await place.run(fork.join(KEEP), 1)
    assert output == {f"b{n}": f"b{n}:1" for n in range(100)}


async def test_a_graph_whose_joins_wait_for_each_other_from_the_start_fails_at_once(place: Place) -> None:
    """Row 19: never a run that hangs."""
    steps = (
        Step("fork", "fork", edges=(Edge("j", "a"), Edge("k", "b"))),
        Step("j", "join", join=Join(("b",))),
        Step("k", "join", join=Join(("a",))),
    )
    workflow = Workflow("circle", steps)
    async with place.engine(workflow) as engine:
        handle = await engine.start(workflow, 1, id="order-1")
        with pytest.raises(TaskError, match="join_unsatisfiable"):
            await handle.result(5)
        assert [entry.kind for entry in await handle.journal()] == ["RunStarted", "RunFailed"]
        record = await row(engine, "order-1")
        assert (record.status, record.worker, record.due_at_ms) == ("failed", None, None)
