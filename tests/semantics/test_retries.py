"""Row 23: which policy answers a failure, how long it waits, and how often."""

import pytest

from holdfast import AsyncHandle, Flow, Retry, task
from holdfast.core.entries import RetryScheduled
from holdfast.errors import TaskError
from tests.semantics.places import Place, entries, until_status


class Chance:
    """Always the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


async def scheduled(handle: AsyncHandle) -> list[RetryScheduled]:
    return [entry for entry in await entries(handle) if isinstance(entry, RetryScheduled)]


async def test_a_step_is_tried_again_until_it_works(place: Place) -> None:
    """Row 23."""
    attempts = 0

    @task(retry=Retry(max_retries=5, base_delay=0))
    async def third_time(x: int) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError(f"busy {attempts}")
        return x * 10

    flow = Flow("order").then(third_time)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 4)
        assert await handle.result() == 40
        retries = await scheduled(handle)
        assert [(retry.attempt, retry.failure.message) for retry in retries] == [(2, "busy 1"), (3, "busy 2")]
        assert {(retry.branch, retry.step, retry.visit) for retry in retries} == {("main", "third_time", 1)}


async def test_a_budget_that_is_used_up_fails_the_run_with_the_last_error(place: Place) -> None:
    """Row 23."""
    attempts = 0

    @task(retry=Retry(max_retries=2, base_delay=0))
    async def never() -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionError(f"busy {attempts}")

    with pytest.raises(TaskError) as caught:
        await place.run(Flow("order").then(never))
    assert (attempts, caught.value.failure.message) == (3, "busy 3")


async def test_delays_grow_by_the_rate_up_to_the_longest(place: Place) -> None:
    """Row 23."""

    @task(retry=Retry(max_retries=6, base_delay="1ms", backoff_rate=3, max_delay="20ms"))
    async def never() -> None:
        raise ConnectionError("busy")

    flow = Flow("order").then(never)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError):
            await handle.result()
        assert [retry.delay_ms for retry in await scheduled(handle)] == [1, 3, 9, 20, 20, 20]


async def test_no_attempt_begins_before_its_delay_is_over(place: Place) -> None:
    """Row 23."""
    begun: list[int] = []

    @task(retry=Retry(max_retries=3, base_delay="15ms", backoff_rate=2))
    async def never() -> None:
        begun.append(engine._node.store.now_ms())
        raise ConnectionError("busy")

    flow = Flow("order").then(never)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError):
            await handle.result()
        journal = [entry for entry in await handle.journal() if entry.kind == "RetryScheduled"]
        for row, begun_ms in zip(journal, begun[1:], strict=True):
            assert isinstance(row.entry, RetryScheduled)
            assert begun_ms >= round(row.at.timestamp() * 1_000) + row.entry.delay_ms


@pytest.mark.parametrize(("chance", "delays"), [(0.0, [0, 0, 0]), (0.5, [2, 4, 8]), (0.999, [3, 7, 15])])
async def test_full_jitter_waits_a_part_of_each_delay(place: Place, chance: float, delays: list[int]) -> None:
    """Row 23."""

    @task(retry=Retry(max_retries=3, base_delay="4ms", jitter_strategy="FULL"))
    async def never() -> None:
        raise ConnectionError("busy")

    flow = Flow("order").then(never)
    async with place.engine(flow, chance=Chance(chance)) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError):
            await handle.result()
        assert [retry.delay_ms for retry in await scheduled(handle)] == delays


async def test_an_error_is_answered_by_the_first_policy_that_fits(place: Place) -> None:
    """Row 23."""
    policies = [
        Retry(error_equals=("KeyError",), max_retries=1, base_delay="1ms"),
        Retry(error_equals=(LookupError,), max_retries=1, base_delay="2ms"),
        Retry(max_retries=1, base_delay="3ms"),
    ]
    errors: list[Exception] = [ValueError("third"), IndexError("second"), KeyError("first")]

    @task(retry=policies)
    async def three_ways() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    flow = Flow("order").then(three_ways)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        assert await handle.result() == "done"
        retries = await scheduled(handle)
        assert [(retry.pattern, retry.delay_ms) for retry in retries] == [
            ("all", 3),
            ("LookupError", 2),
            ("KeyError", 1),
        ]


async def test_a_policy_that_is_used_up_is_not_followed_by_the_next_one(place: Place) -> None:
    """Row 23."""
    attempts = 0
    policies = [
        Retry(error_equals=("KeyError",), max_retries=1, base_delay=0),
        Retry(max_retries=5, base_delay=0),
    ]

    @task(retry=policies)
    async def never() -> None:
        nonlocal attempts
        attempts += 1
        raise KeyError("card")

    with pytest.raises(TaskError):
        await place.run(Flow("order").then(never))
    assert attempts == 2


async def test_every_policy_counts_its_own_budget(place: Place) -> None:
    """Row 23."""
    errors = [KeyError("a"), ValueError("b"), KeyError("c"), ValueError("d"), ValueError("e")]
    policies = [
        Retry(error_equals=("KeyError",), max_retries=2, base_delay="1ms"),
        Retry(error_equals=("ValueError",), max_retries=2, base_delay="1ms"),
    ]

    @task(retry=policies)
    async def alternating() -> None:
        raise errors.pop(0)

    flow = Flow("order").then(alternating)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(TaskError, match="e"):
            await handle.result()
        retries = await scheduled(handle)
        assert [retry.pattern for retry in retries] == ["KeyError", "ValueError", "KeyError", "ValueError"]
        assert [retry.attempt for retry in retries] == [2, 3, 4, 5]
        assert errors == []


async def test_a_new_step_has_new_budgets_and_attempts(place: Place) -> None:
    """Row 23."""
    called: list[str] = []

    def failing_once(name: str) -> Flow:
        @task(name, retry=Retry(max_retries=1, base_delay=0))
        async def body() -> str:
            called.append(name)
            if called.count(name) == 1:
                raise ConnectionError("busy")
            return name

        return flow.then(body)

    flow = Flow("order")
    for name in ("one", "two"):
        failing_once(name)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        assert await handle.result() == "two"
        assert [retry.attempt for retry in await scheduled(handle)] == [2, 2]
    assert called == ["one", "one", "two", "two"]


async def test_short_for_a_policy_are_retries_a_second_apart(place: Place) -> None:
    """Rows 23 and 36."""

    @task(retries=2)
    async def never() -> None:
        raise ConnectionError("busy")

    flow = Flow("order").then(never)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow)
        await until_status(handle, "suspended")
        (retry,) = await scheduled(handle)
        assert (retry.attempt, retry.delay_ms, retry.pattern) == (2, 1_000, "all")
