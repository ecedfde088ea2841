"""Row 27: trouble of the store, lost leases and shutdown are never an error of a step."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import pytest

from holdfast import AsyncEngine, Flow, task
from holdfast.errors import StoreUnavailableError
from holdfast.runtime.clock import SystemClock
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import DEFAULT_QUEUE, Claimed, Member, Stored
from holdfast.testing.faults import Fault, FaultyStore
from tests.semantics.places import Place, kinds, row, stolen_from, store_of, until

DONE = ["RunStarted", "StepCompleted", "StepCompleted", "RunCompleted"]


def two_steps() -> tuple[Flow, list[str]]:
    calls: list[str] = []

    async def first(x: int) -> int:
        calls.append("first")
        return x + 1

    def second(x: int) -> int:
        calls.append("second")
        return x * 10

    return Flow("order").then(first).then(second), calls


def faults(*chosen: Fault) -> Callable[[int, Sequence[Member]], Fault]:
    """One fault after the other, then none."""

    def choose(commit: int, _group: Sequence[Member]) -> Fault:
        return chosen[commit - 1] if commit <= len(chosen) else Fault.NONE

    return choose


@pytest.mark.parametrize(
    "chosen",
    [
        (Fault.REFUSE,),
        (Fault.NONE, Fault.REFUSE, Fault.REFUSE),
        (Fault.NONE, Fault.NONE, Fault.REFUSE),
        (Fault.APPLY_AND_FAIL,),
        (Fault.NONE, Fault.APPLY_AND_FAIL, Fault.REFUSE),
        (Fault.NONE, Fault.NONE, Fault.APPLY_AND_FAIL),
    ],
    ids=lambda chosen: "-".join(fault.name for fault in chosen),
)
async def test_a_store_that_fails_for_a_while_fails_no_step(place: Place, chosen: tuple[Fault, ...]) -> None:
    """Row 27."""
    flow, calls = two_steps()
    store = FaultyStore(place.store(), faults(*chosen))
    async with place.engine(flow, store=store) as engine:
        handle = await engine.start(flow, 1)
        assert await handle.result(5) == 20
        assert await kinds(handle) == DONE
    assert calls == ["first", "second"]
    assert sum(store.hits.values()) - store.hits[Fault.NONE] == len(
        [fault for fault in chosen if fault is not Fault.NONE]
    )


@pytest.mark.embedded
async def test_a_lost_lease_drops_the_attempt_without_a_trace(place: Place) -> None:
    """Row 27."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    async def slow(x: int) -> int:
        calls.append("slow")
        begun.set()
        await may_end.wait()
        return x + 1

    flow = Flow("order").then(slow)
    async with place.engine(flow, concurrency=1) as engine:
        handle = await engine.start(flow, 1, id="order-1")
        await begun.wait()
        stolen = await stolen_from(engine, "order-1")
        lives = len(calls)
        may_end.set()
        await until(lambda: "order-1" not in engine._node.worker._drivers)
        assert await kinds(handle) == ["RunStarted"]
        assert await row(engine, "order-1") == stolen
        await store_of(engine).release([(stolen.key, stolen.epoch)])
        assert await engine.resume("order-1") == 2
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
    assert calls == ["slow"] * (lives + 1)


class UnreadableStore(MemoryStore):
    """Does not let journals be read until it is told to."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.is_readable = True
        self.refusals = 0

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        if not self.is_readable:
            self.refusals += 1
            raise StoreUnavailableError(store=self.url, reason="the disk is away")
        return await super().load(keys)


async def given_back(store: Store, flow: Flow, *run_ids: str) -> None:
    """Runs that an engine has started and given back: whoever opens the store next claims them."""
    async with AsyncEngine(store=store, workflows=[flow]) as engine:
        for run_id in run_ids:
            await engine.start(flow, 1, id=run_id)


def held_up() -> tuple[Flow, asyncio.Event]:
    """A flow that a closing engine leaves at its first step, and what lets it go on."""
    is_open = asyncio.Event()

    @task
    async def gate(x: int) -> int:
        await is_open.wait()
        return x + 1

    return Flow("order").then(gate), is_open


async def test_a_journal_that_cannot_be_read_now_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 27."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    monkeypatch.setattr("holdfast.runtime.claims.UNAVAILABLE_WAIT_MS", 10)
    store = UnreadableStore()
    flow, is_open = held_up()
    ids = [f"order-{n}" for n in range(3)]
    await given_back(store, flow, *ids)
    is_open.set()
    store.is_readable = False
    async with AsyncEngine(store=store, workflows=[flow]) as engine:
        await until(lambda: store.refusals >= 3)
        store.is_readable = True
        for run_id in ids:
            handle = await engine.get(run_id)
            assert await handle.result(5) == 2
            assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]


async def test_a_resume_while_the_store_does_not_answer_leaves_the_engine_working(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows 27 and 51."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    store = UnreadableStore()
    flow, is_open = held_up()
    await given_back(store, flow, "order-1")
    is_open.set()
    store.is_readable = False
    flow_of_another_kind = Flow("sound").then(lambda x: x + 1)
    async with AsyncEngine(store=store, workflows=[flow, flow_of_another_kind], concurrency=1) as engine:
        await until(lambda: store.refusals)
        record = await store.find_run("order-1")
        assert record is not None
        await store.release([(record.key, record.epoch)])
        with contextlib.suppress(StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(0.1):
                await engine.resume("order-1")
        assert await (await engine.start(flow_of_another_kind, 1)).result(5) == 2


class SlowStore(MemoryStore):
    """Claims, and then keeps whoever claims waiting for the answer."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.is_slow = False
        self.claimed = asyncio.Event()

    async def claim(
        self,
        worker: str,
        *,
        workflows: Sequence[str],
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        limit: int,
        suspects: int = 1,
        excluded: Sequence[str] = (),
    ) -> Claimed:
        claimed = await super().claim(
            worker, workflows=workflows, queues=queues, limit=limit, suspects=suspects, excluded=excluded
        )
        if self.is_slow and claimed.runs:
            self.claimed.set()
            await asyncio.sleep(0.05)
        return claimed


async def test_runs_claimed_while_the_engine_closes_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 27 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    store = SlowStore()
    flow, _ = held_up()
    await given_back(store, flow, "order-1", "order-2")
    store.is_slow = True
    async with AsyncEngine(store=store, workflows=[flow]):
        await store.claimed.wait()
    for run_id in ("order-1", "order-2"):
        record = await store.find_run(run_id)
        assert record is not None
        assert (record.worker, record.recoveries) == (None, 0)


class LateJournal(UnreadableStore):
    """Lets journals be read when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        self.asked.set()
        await self.answers.wait()
        return await super().load(keys)


async def test_runs_whose_journals_are_being_read_while_the_engine_closes_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows 27 and 53."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    store = LateJournal()
    store.answers.set()
    flow, _ = held_up()
    await given_back(store, flow, "order-1", "order-2")
    store.answers.clear()
    async with AsyncEngine(store=store, workflows=[flow]):
        store.asked.clear()
        await store.asked.wait()
    for run_id in ("order-1", "order-2"):
        record = await store.find_run(run_id)
        assert record is not None
        assert (record.worker, record.recoveries) == (None, 0)


async def test_a_run_resumed_while_others_are_claimed_disturbs_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 51."""
    monkeypatch.setattr("holdfast.runtime.worker.GRACE_MS", 1)
    store = LateJournal()
    store.answers.set()
    calls: list[int] = []
    is_open = asyncio.Event()

    async def gate(x: int) -> int:
        calls.append(x)
        await is_open.wait()
        return x

    flow = Flow("order").then(gate)
    ids = [f"order-{n}" for n in range(3)]
    await given_back(store, flow, *ids)
    calls.clear()
    is_open.set()
    store.answers.clear()
    async with AsyncEngine(store=store, workflows=[flow], concurrency=2) as engine:
        store.asked.clear()
        await store.asked.wait()  # two are claimed, and the journal of the first is being read
        async with asyncio.TaskGroup() as clients:
            resumed = clients.create_task(engine.resume("order-2"))
            await asyncio.sleep(0)
            store.answers.set()
            assert await resumed == 1
        for run_id in ids:
            handle = await engine.get(run_id)
            assert await handle.result(5) == 1
            assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunCompleted"]
    assert len(calls) == 3
