"""Row 46: what a body may ask about the attempt it runs in."""

import asyncio
from typing import Any

import pytest

from holdfast import Flow, Retry, TaskContext, get_task_context, task
from tests.semantics.places import Place, until


def facts() -> dict[str, Any]:
    context = get_task_context()
    assert context is not None
    names = ("run_id", "workflow", "step", "branch", "visit", "attempt", "incarnation", "idempotency_key")
    return {name: getattr(context, name) for name in names} | {"metadata": dict(context.metadata)}


EXPECTED = {
    "run_id": "order-1",
    "workflow": "order",
    "branch": "main",
    "visit": 1,
    "attempt": 1,
    "incarnation": 1,
    "metadata": {"team": "sales"},
}


async def test_sync_and_async_bodies_are_told_where_they_are(place: Place) -> None:
    """Row 46."""
    told: list[dict[str, Any]] = []

    def sync_body() -> None:
        told.append(facts())

    async def async_body() -> None:
        await asyncio.sleep(0)
        told.append(facts())

    flow = Flow("order", metadata={"team": "sales"}).then(sync_body).then(async_body)
    async with place.engine(flow) as engine:
        await (await engine.start(flow, id="order-1")).result()
    keys = [told[0].pop("idempotency_key"), told[1].pop("idempotency_key")]
    assert told == [EXPECTED | {"step": "sync_body"}, EXPECTED | {"step": "async_body"}]
    assert len(set(keys)) == 2


async def test_there_is_no_context_outside_of_an_attempt(place: Place) -> None:
    """Row 46."""
    assert get_task_context() is None

    async def body() -> bool:
        return get_task_context() is not None

    assert await place.run(Flow("order").then(body)) is True
    assert get_task_context() is None
    assert await asyncio.to_thread(get_task_context) is None


async def test_parallel_branches_have_contexts_of_their_own(place: Place) -> None:
    """Row 46."""

    def sync_body() -> str:
        return facts()["branch"]

    async def async_body() -> str:
        before = facts()
        await asyncio.sleep(0.01)
        assert facts() == before
        return before["branch"]

    fork = Flow("order").fork()
    for n in range(10):
        fork.branch(async_body if n % 2 else sync_body, name=f"b{n}")
    output = await place.run(fork.join(dict))
    assert output == {f"b{n}": f"b{n}" for n in range(10)}


async def test_the_idempotency_key_is_stable_over_attempts_and_recoveries(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 46."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    told: list[tuple[int, str]] = []
    may_end = asyncio.Event()

    @task(retry=Retry(base_delay=0))
    async def charge() -> None:
        context = get_task_context()
        assert isinstance(context, TaskContext)
        told.append((context.attempt, context.idempotency_key))
        if context.attempt == 1:
            raise ConnectionError("busy")
        await may_end.wait()

    flow = Flow("order").then(charge)
    async with place.engine(flow) as engine:
        await engine.start(flow, id="order-1")
        await until(lambda: len(told) == 2)
    may_end.set()
    async with place.engine(flow) as engine:
        await (await engine.get("order-1")).result(5)
    assert [attempt for attempt, _ in told] == [1, 2, 2]
    assert len({key for _, key in told}) == 1


async def test_the_idempotency_key_is_different_for_everything_else(place: Place) -> None:
    """Row 46."""

    async def key(_x: object) -> str:
        return str(facts()["idempotency_key"])

    async def both(keys: dict[str, str]) -> list[str]:
        return [*keys.values(), str(facts()["idempotency_key"])]

    flow = Flow("order").then(key).fork().branch(key, name="a").branch(key, name="b").join(both)
    async with place.engine(flow) as engine:
        keys = [key for run_id in ("x", "y") for key in await (await engine.start(flow, id=run_id)).result()]
    assert len(set(keys)) == len(keys) == 6
