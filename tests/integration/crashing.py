"""Running a workflow into a crash and out of it again: what the crash tests share."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdfast import AsyncEngine, Flow, Retry, get_task_context, task
from holdfast.codecs.entries import decode_entry
from holdfast.core.effects import ArmTimer
from holdfast.core.entries import Entry, RetryScheduled, StepCompleted
from holdfast.core.evolve import evolve
from holdfast.core.header import Header, header_after
from holdfast.core.invariants import check
from holdfast.core.owed import owed
from holdfast.core.run import Run
from holdfast.runtime import worker
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import Member, RunRecord
from holdfast.testing.faults import Choose, Fault, FaultyStore
from tests.postgres_server import migrated_schema, portal, server_url

RUN_ID = "order-1"
DEADLINE_S = 20
CALLS: Counter[str] = Counter()
"""Bodies called, by idempotency key and attempt; cleared by `no_calls`."""


def _called() -> int:
    context = get_task_context()
    assert context is not None
    CALLS[f"{context.idempotency_key}#{context.attempt}"] += 1
    return context.attempt


@task
async def validate(x: int) -> int:
    """The step before the fork."""
    _called()
    return x + 1


@task(retry=Retry(base_delay="1ms", max_retries=3))
async def reserve(x: int) -> int:
    """Fails twice, then works."""
    if _called() < 3:
        raise ConnectionError("busy")
    return x * 2


@task
async def pack(x: int) -> int:
    """The second step of the branch that is retried."""
    _called()
    return x + 3


@task
async def charge(x: int) -> str:
    """The other branch."""
    _called()
    return f"{x} EUR"


@task
async def bill(parts: dict[str, Any]) -> str:
    """After the join."""
    _called()
    return f"{parts['reserve']} for {parts['charge']}"


@task
async def ship(text: str) -> str:
    """The last step."""
    _called()
    return f"{text}, shipped"


FLOW = Flow("order").then(validate).fork().branch(reserve, pack).branch(charge).join(bill).then(ship)
OUTPUT = "7 for 2 EUR, shipped"


def never(number: int, group: Sequence[Member]) -> Fault:
    """No fault at all."""
    del number, group
    return Fault.NONE


def at(number: int, fault: Fault) -> Choose:
    """One fault, at one commit."""
    return lambda n, _group: fault if n == number else Fault.NONE


def stores(kind: str, folder: Path) -> Callable[[], Store]:
    """A function that opens the same store again and again, as processes that follow each other do."""
    if kind == "memory":
        memory = MemoryStore(SystemClock())
        return lambda: memory
    if kind == "postgres":
        schema = migrated_schema()

        def reopen() -> Store:
            # Whoever opens the store next comes when the lease of the one before has expired.
            portal().execute(f'update "{schema}".workers set expires_at_ms = 0')  # noqa: S608 - a name of ours
            return PostgresStore(server_url(), clock=SystemClock(), schema=schema)

        return reopen
    return lambda: store_at(f"sqlite:///{folder / 'runs.db'}", worker=True, clock=SystemClock())


async def run_once(store: Store, *, flow: Flow = FLOW) -> object:
    """Start the run, or go on with it, and return its output."""
    async with asyncio.timeout(DEADLINE_S), AsyncEngine(store=store, workflows=[flow]) as engine:
        handle = await engine.start(flow, 1, id=RUN_ID, on_conflict="use_existing")
        return await handle.result()


async def run_until_crash(store: FaultyStore, *, flow: Flow = FLOW) -> bool:
    """Run until the store crashes (True) or the run is over (False); the process ends there."""
    running = asyncio.ensure_future(run_once(store, flow=flow))
    crashing = asyncio.ensure_future(store.crashed.wait())
    await asyncio.wait({running, crashing}, return_when=asyncio.FIRST_COMPLETED)
    crashing.cancel()
    grace_ms, worker.GRACE_MS = worker.GRACE_MS, 0  # the dead do not drain
    running.cancel()
    await asyncio.wait({running})
    worker.GRACE_MS = grace_ms
    if not running.cancelled():
        running.result()
    return store.crashed.is_set()


async def entries_of(store: Store) -> tuple[RunRecord | None, list[Entry]]:
    """The run's row and journal, checked: gapless positions, header equal to the fold at every commit."""
    await store.open()
    try:
        record = await store.find_run(RUN_ID)
        rows = [] if record is None else await store.read_journal(record.key)
    finally:
        await store.close()
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))
    entries = [decode_entry(r.entry, run_id=RUN_ID, position=r.position) for r in rows]
    run = Run(RUN_ID)
    for entry, row in zip(entries, rows, strict=True):
        evolve(run, entry, row.at_ms)
        assert not check(run), check(run)
    if record is not None:
        header: Header = header_after(run, [])
        fold = run.status if run.is_over else header.status
        assert {record.status, fold} in ({fold}, {"pending", "running"})
        assert record.position == run.position
    return record, entries


def completed(entries: Sequence[Entry]) -> set[str]:
    """Keys of the calls whose completion is recorded."""
    return {
        f"{RUN_ID}/1/{e.branch}/{e.step}/{e.visit}#{e.attempt}" for e in entries if isinstance(e, StepCompleted)
    }


def enabled(entries: Sequence[Entry]) -> set[str]:
    """Keys of all calls that a journal has ever allowed: recorded ones, and those it owes."""
    run = Run(RUN_ID)
    for entry in entries:
        evolve(run, entry, 0)
    attempts = [e.then if isinstance(e, ArmTimer) else e for e in owed(run)]
    failed = {
        f"{RUN_ID}/1/{e.branch}/{e.step}/{e.visit}#{e.attempt - 1}"
        for e in entries
        if isinstance(e, RetryScheduled)
    }
    due = {f"{RUN_ID}/1/{a.branch}/{a.step}/{a.visit}#{a.attempt}" for a in attempts}
    return completed(entries) | failed | due
