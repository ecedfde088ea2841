"""`TestEngine`: time that passes by itself when nothing else can happen, and only then."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from holdfast import (
    AsyncEngine,
    Context,
    Flow,
    FollowUp,
    Retry,
    Step,
    Workflow,
    WorkflowError,
    get_task_context,
    task,
    workflow,
)
from holdfast.errors import ResultTimeoutError, RunNotFoundError, RunWaitingError, TaskError, UsageError
from holdfast.runtime.clock import SystemClock
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import LeaseTimes
from holdfast.testing import TestEngine, VirtualClock, crash_everywhere, engine


@dataclass(frozen=True)
class Order:
    total: int
    is_paid: bool = False


@task(retry=Retry(base_delay="1h", max_retries=3), timeout="10m")
def charge(order: Order) -> Order:
    return Order(order.total, is_paid=True)


@task
async def ship(order: Order) -> str:
    return f"shipped for {order.total}" if order.is_paid else "not paid"


ORDER = Flow("order").then(charge).delay("rest", "30d").then(ship)
ASKING = Flow("asking").then(charge).wait_for_signal("answer").then(str)
TURNS = 10_000
"""More turns of the loop than the engine waits before it lets time pass."""


def days(env: TestEngine, since: datetime) -> float:
    return (env.clock.now() - since).total_seconds() / 86_400


# Time.


async def test_thirty_days_pass_while_a_result_is_waited_for() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        begun = env.clock.now()
        assert await env.run(ORDER, Order(12)) == "shipped for 12"
        assert days(env, begun) == 30


async def test_advance_moves_from_timer_to_timer_and_leaves_the_engine_at_rest() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        begun = env.clock.now()
        handle = await env.start(ORDER, Order(12))
        await env.advance("29d23h")
        assert (await handle.status()).waiting[0].step == "rest"
        await env.advance("1d")
        assert (await handle.status()).output == "shipped for 12"
        assert env.is_at_rest
        assert days(env, begun) == pytest.approx(30 + 23 / 24)
        stamps = [(entry.at - begun).days for entry in await handle.journal()]
        assert stamps == [0, 0, 30, 30, 30]


async def test_settle_lets_no_time_pass() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        begun = env.clock.now()
        handle = await env.start(ORDER, Order(12))
        await env.settle()
        assert (await handle.status()).waiting[0].step == "rest"
        assert env.clock.now() == begun


async def test_retries_wait_in_virtual_time() -> None:
    def busy(order: Order) -> Order:
        if len(env.calls("charge")) < 3:
            raise ConnectionError("busy")
        return order

    async with TestEngine(workflows=[ORDER], replace={"charge": busy}) as env:
        handle = await env.start(ORDER, Order(12))
        assert await handle.result() == "not paid"
        retried = [entry.at for entry in await handle.journal() if entry.kind == "RetryScheduled"]
        assert [(at - retried[0]).total_seconds() for at in retried] == [0, 3_600]
        assert env.calls("charge") == [Order(12)] * 3


@pytest.mark.parametrize("url", ["memory://", "sqlite:///runs.db"])
async def test_no_time_passes_while_a_body_is_at_work(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread as well as in the loop: each takes more turns than the engine waits for."""
    monkeypatch.chdir(tmp_path)
    loop = asyncio.get_running_loop()
    seen: list[datetime] = []

    async def work(value: int) -> int:
        for _ in range(engine.QUIET_TURNS * 20):
            await asyncio.sleep(0)
        seen.append(env.clock.now())
        return value

    def work_in_a_thread(value: int) -> int:
        return asyncio.run_coroutine_threadsafe(work(value), loop).result()

    def nap(value: int) -> int:
        return value

    both = Flow("both").fork().branch(work).branch(work_in_a_thread).branch(nap).join(len).delay("d", "1d")
    async with TestEngine(url, workflows=[both]) as env:
        begun = env.clock.now()
        handle = await env.start(both, 1)
        await env.advance("2d")
        assert (await handle.status()).status == "completed"
        assert seen == [begun, begun]


async def test_a_body_that_sleeps_in_virtual_time_can_be_too_slow() -> None:
    async def slow(order: Order) -> Order:
        await env.sleep("11m")
        return order

    async with TestEngine(workflows=[ORDER]) as env:
        begun = env.clock.now()
        env.replace("charge", slow)
        handle = await env.start(ORDER, Order(12))
        with pytest.raises(TaskError) as caught:
            await handle.result()
        assert caught.value.failure.type == "timeout"
        # Four attempts of ten minutes, and backoffs of 1, 2 and 4 hours.
        assert days(env, begun) == pytest.approx((4 * 10 + 7 * 60) / 1_440)


async def test_several_results_are_waited_for_together() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        first = await env.start(ORDER, Order(1))
        await env.advance("10d")
        second = await env.start(ORDER, Order(2))
        assert await asyncio.gather(second.result(), first.result()) == ["shipped for 2", "shipped for 1"]


async def test_without_skipping_a_result_waits_for_whoever_moves_time() -> None:
    async with TestEngine(workflows=[ORDER], auto_skip=False) as env:
        handle = await env.start(ORDER, Order(12))
        waiting = asyncio.create_task(handle.result())
        await env.advance("29d")
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not waiting.done()
        await env.advance("1d")
        assert await waiting == "shipped for 12"


async def test_a_result_can_be_waited_for_in_virtual_time_only() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        begun = env.clock.now()
        handle = await env.start(ORDER, Order(12))
        with pytest.raises(ResultTimeoutError):
            await handle.result(timeout="3d")
        assert days(env, begun) == 3
        assert await handle.result(timeout="27d") == "shipped for 12"


# Runs that can never end.


async def test_a_run_that_waits_for_ever_is_an_error_that_says_for_what() -> None:
    async with TestEngine(workflows=[ASKING]) as env:
        handle = await env.start(ASKING, Order(12))
        with pytest.raises(RunWaitingError) as caught:
            await handle.result()
        assert "at step 'answer' waits for signal 'answer'" in str(caught.value)
        assert "no timer is left that could change that: send signal 'answer'" in str(caught.value)
        await handle.signal("answer", 42)
        assert await handle.result() == "42"


async def test_a_paused_run_is_an_error_that_says_why() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        handle = await env.start(ORDER, Order(12))
        await handle.pause("the bank is closed", by="ada")
        with pytest.raises(RunWaitingError) as caught:
            await handle.result()
        assert "paused by ada: the bank is closed" in str(caught.value)
        assert str(caught.value).endswith("unpause it")
        await handle.unpause()
        assert await handle.result() == "shipped for 12"


async def test_retention_keeps_no_time_running() -> None:
    """A worker in production looks every minute for what may be removed; here that would never end."""
    async with TestEngine(workflows=[ASKING], retention="30d") as env:
        with pytest.raises(RunWaitingError):
            await env.run(ASKING, Order(12))


async def test_runs_are_removed_when_their_retention_is_over() -> None:
    kept = Flow("kept", retention="10d").then(charge)
    async with TestEngine(workflows=[kept, ORDER], retention="60d") as env:
        short, long = await env.start(kept, Order(1)), await env.start(ORDER, Order(1))
        await env.advance("9d")
        assert (await short.status()).status == "completed"
        await env.advance("2d")
        with pytest.raises(RunNotFoundError):
            await short.status()
        await env.advance("60d")
        assert (await long.status()).status == "completed"
        await env.advance("30d")
        with pytest.raises(RunNotFoundError):
            await long.status()


# Tasks.


def paid(order: Order) -> Order:
    return Order(order.total, is_paid=True)


async def paid_later(order: Order) -> Order:
    await asyncio.sleep(0)
    return paid(order)


FAKES: dict[str, Callable[..., Any]] = {
    "function": paid,
    "async function": paid_later,
    "value": lambda: Order(12, is_paid=True),
    "mock": Mock(side_effect=paid),
    "async mock": AsyncMock(return_value=Order(12, is_paid=True)),
    "partial": functools.partial(paid),
    "task": task("another")(paid),
}


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
async def test_a_task_is_replaced_by_whatever_can_be_called(fake: Callable[..., Any]) -> None:
    async with TestEngine(workflows=[ORDER], replace={"charge": fake}) as env:
        assert await env.run(ORDER, Order(12)) == "shipped for 12"
        assert env.calls("charge") == [Order(12)]
        assert env.calls("ship") == [Order(12, is_paid=True)]


@pytest.mark.parametrize("fake", [lambda _: "sent", lambda: "sent", AsyncMock(return_value="sent")])
async def test_an_async_task_is_replaced_by_whatever_can_be_called(fake: Callable[..., Any]) -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        env.replace("ship", fake)
        assert await env.run(ORDER, Order(12)) == "sent"


async def test_a_task_is_replaced_in_the_middle_of_a_run() -> None:
    async with TestEngine(workflows=[ORDER]) as env:
        handle = await env.start(ORDER, Order(12))
        await env.advance("1d")
        env.replace("ship", lambda: "late")
        assert await handle.result() == "late"


async def test_what_replaces_a_task_fails_by_the_policies_of_the_task() -> None:
    def fail() -> None:
        raise WorkflowError("no money", type="fatal")

    broke = Mock(side_effect=ConnectionError("down"))
    async with TestEngine(workflows=[ORDER], replace={"charge": broke}) as env:
        with pytest.raises(TaskError, match="down"):
            await env.run(ORDER, Order(12))
        assert len(env.calls("charge")) == 4
        env.replace("charge", fail)
        with pytest.raises(TaskError, match="no money"):
            await env.run(ORDER, Order(12))
        assert len(env.calls("charge")) == 5


async def test_unknown_tasks_are_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no task 'chrage' here; these are there: charge, ship"):
        TestEngine(workflows=[ORDER], replace={"chrage": paid})
    env = TestEngine(workflows=[ORDER])
    with pytest.raises(UsageError, match="charge, ship"):
        env.replace("order", paid)
    with pytest.raises(UsageError, match="charge, ship"):
        env.calls("order")


def convert(total: int, currency: str) -> float:
    raise AssertionError((total, currency))


@task(executor="process")
def weigh(order: Order) -> int:
    raise AssertionError(order)


@workflow
async def price(ctx: Context, total: int) -> float:
    return await ctx.step(convert, total, "EUR", retry=Retry(base_delay="1h", max_retries=2))


@pytest.mark.parametrize(
    ("fake", "result"),
    [
        (lambda total, currency: total if currency == "EUR" else 0, 12),
        (lambda: 3, 3),
        (Mock(return_value=4), 4),
        (AsyncMock(return_value=5), 5),
    ],
)
async def test_what_a_function_calls_is_replaced_by_name(fake: Callable[..., Any], result: int) -> None:
    async with TestEngine(workflows=[price], replace={"convert": fake}) as env:
        assert await env.run(price, 12) == result
        assert env.calls("convert") == [(12, "EUR")]
        assert env.calls("price") == [12]


async def test_a_task_that_a_function_calls_is_replaced_with_its_policies() -> None:
    """Retries and time-out stay those of the task; async ones, and ones of processes, are replaced alike."""

    @workflow
    async def buy(ctx: Context, order: Order) -> str:
        paid = await ctx.step(charge, order)
        weights = await ctx.map(weigh, [paid, paid])
        return f"{await ctx.step(ship, paid)} {weights}"

    def total(order: Order) -> int:
        return order.total

    charged = Mock(side_effect=[ConnectionError("down"), Order(12, is_paid=True)])
    async with TestEngine(
        workflows=[buy], replace={"charge": charged, "weigh": lambda order: order.total}
    ) as env:
        begun = env.clock.now()
        env.replace("ship", lambda order: str(order.is_paid))
        assert await env.run(buy, Order(12)) == "True [12, 12]"
        assert days(env, begun) == pytest.approx(1 / 24)
        assert env.calls("charge") == [Order(12)] * 2
        assert env.calls("weigh") == env.calls("ship") * 2 == [Order(12, is_paid=True)] * 2


async def test_what_replaces_a_step_of_a_function_fails_as_it_would() -> None:
    broke = AsyncMock(side_effect=ConnectionError("down"))
    async with TestEngine(workflows=[price], replace={"convert": broke}) as env:
        with pytest.raises(TaskError, match="down"):
            await env.run(price, 12)
        assert len(env.calls("convert")) == broke.await_count == 3


async def test_a_function_may_call_anything_so_any_name_is_taken() -> None:
    async with TestEngine(workflows=[price, ORDER], replace={"later": paid}) as env:
        assert env.calls("later") == []
        with pytest.raises(UsageError, match="no function"):
            env.replace("never", "paid")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="one argument"):
            env.replace("charge", lambda _one, _two: None)


async def test_what_follows_a_run_is_asked_as_it_is_without_the_test_engine() -> None:
    kid = Flow("kid").then(str)
    flow = Flow("order", on_complete=lambda done: FollowUp(kid, done.output)).then(abs)
    async with TestEngine(workflows=[flow, kid]) as env:
        assert await env.run(flow, -3) == 3
        await env.settle()
        assert (env.calls("abs"), env.calls("str")) == ([-3], [3])


def test_a_replaced_step_of_a_function_is_crashed_like_any_other() -> None:
    report = crash_everywhere(price, 12, replace={"convert": lambda total, _: total * 2.0})
    assert report.tasks == {"price", "convert"}
    report.assert_safe(idempotent={"convert"})


@pytest.mark.parametrize("fake", ["paid", None, lambda _one, _two: None])
def test_what_no_step_can_call_replaces_nothing(fake: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="cannot be replaced"):
        TestEngine(workflows=[ORDER], replace={"charge": fake})


async def test_calls_are_recorded_as_they_were_made() -> None:
    def mark(order: dict[str, int]) -> dict[str, int]:
        order["marked"] = 1
        return order

    marking = Flow("marking").then(mark).then(mark)
    async with TestEngine(workflows=[marking]) as env:
        assert await env.run(marking, {"total": 1}) == {"total": 1, "marked": 1}
        assert env.calls("mark") == [{"total": 1}, {"total": 1, "marked": 1}]


class Adder:
    async def __call__(self, order: Order) -> Order:
        return Order(order.total + 1)


class Shop:
    def add(self, order: Order) -> Order:
        return Order(order.total + 1)


KINDS: dict[str, Callable[..., Any]] = {
    "function": paid,
    "method": Shop().add,
    "object": Adder(),
    "partial": functools.partial(paid),
    "class": dict,
    "builtin": str,
}


@pytest.mark.parametrize("fn", KINDS.values(), ids=KINDS)
async def test_a_task_gets_what_it_is_annotated_with_as_without_the_test_engine(fn: Callable[..., Any]) -> None:
    flow = Workflow("kinds", [Step("fn", task="fn")], tasks=[task("fn")(fn)])
    value: object = [["a", 1]] if fn is dict else Order(3)
    async with AsyncEngine("memory://", workflows=[flow]) as plain:
        expected = await (await plain.start(flow, value)).result()
    async with TestEngine(workflows=[flow]) as env:
        assert await env.run(flow, value) == expected
        if fn not in (dict, str):
            assert env.calls("fn") == [Order(3)]


async def test_bodies_have_their_context() -> None:
    def where() -> str:
        context = get_task_context()
        assert context is not None
        return f"{context.step} {context.attempt}"

    async with TestEngine(workflows=[ORDER], replace={"ship": where}) as env:
        assert await env.run(ORDER, Order(1)) == "ship 1"


# Stores.


async def test_another_engine_goes_on_with_the_file(tmp_path: Path) -> None:
    clock, url = VirtualClock(), f"sqlite:///{tmp_path / 'runs.db'}"
    async with TestEngine(url, workflows=[ORDER], clock=clock) as env:
        await env.start(ORDER, Order(12), id="order-42")
        await env.advance("10d")
    clock.advance(10 * 86_400_000)
    async with TestEngine(url, workflows=[ORDER], clock=clock) as env:
        begun = clock.now()
        assert await (await env.get("order-42")).result() == "shipped for 12"
        assert days(env, begun) == 10
        assert env.calls("charge") == []


async def test_what_a_client_of_the_same_file_sends_is_heard(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with TestEngine(url, workflows=[ASKING]) as env:
        handle = await env.start(ASKING, Order(12), id="order-42")
        await env.settle()
        async with AsyncEngine(url, worker=False, clock=env.clock) as client:
            await client.send_signal("order-42", "answer", 42)
        assert await handle.result() == "42"


async def test_a_store_that_goes_by_another_clock_is_refused() -> None:
    async with TestEngine(workflows=[ORDER], store=MemoryStore(SystemClock())) as env:
        await env.start(ORDER, Order(12))
        with pytest.raises(UsageError, match="clock of store memory:// did not move"):
            await env.advance("1d")


def test_a_server_has_a_clock_that_no_test_can_move() -> None:
    with pytest.raises(UsageError, match="use memory:// or a SQLite file"):
        TestEngine("postgresql://localhost/orders", workflows=[ORDER])
    clock = VirtualClock()
    with pytest.raises(UsageError, match="use memory:// or a SQLite file"):
        TestEngine(store=MemoryStore(clock, lease=LeaseTimes()), clock=clock, workflows=[ORDER])


# The end.


async def test_a_body_that_sleeps_holds_up_no_exit() -> None:
    stopped: list[str] = []

    async def sleep_for_ever(order: Order) -> Order:
        try:
            await env.sleep("99d")
        finally:
            stopped.append("cancelled")
        return order

    patient = Flow("patient").then(task("patient")(sleep_for_ever))
    async with TestEngine(workflows=[patient]) as env:
        handle = await env.start(patient, Order(1))
        await env.advance("1d")
        assert (await handle.status()).status == "running"
    assert stopped == ["cancelled"]


async def test_a_body_that_hangs_holds_up_no_exit_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "EXIT_GRACE_S", 0.01)

    async def hang(order: Order) -> Order:
        await asyncio.Event().wait()
        return order

    hanging = Flow("hanging").then(hang)
    async with TestEngine(workflows=[hanging]) as env:
        await env.start(hanging, Order(1))


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async def divide() -> None:
        async with TestEngine(workflows=[ORDER]) as env:
            await env.start(ORDER, Order(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await divide()


async def test_an_engine_that_is_killed_while_it_drains_leaves_no_timer() -> None:
    """One branch hangs, the other one waits for a retry: the run is held, and its driver has a timer."""

    async def hang(order: Order) -> Order:
        await asyncio.Event().wait()
        return order

    clock, begun = VirtualClock(), asyncio.Event()
    both = Flow("both").fork().branch(hang).branch(charge).join(len)

    async def live() -> None:
        down = Mock(side_effect=ConnectionError("down"))
        async with TestEngine(workflows=[both], clock=clock, replace={"charge": down}) as env:
            handle = await env.start(both, Order(1))
            for _ in range(TURNS):
                await asyncio.sleep(0)
                if any(wait.reason == "backoff" for wait in (await handle.status()).waiting):
                    begun.set()
                    break
            await asyncio.Event().wait()

    living = asyncio.create_task(live())
    await begun.wait()
    assert clock.next_in_ms() is not None
    for _ in range(2):
        living.cancel()
        for _ in range(engine.QUIET_TURNS):
            await asyncio.sleep(0)
    await asyncio.wait({living})
    assert clock.next_in_ms() is None
