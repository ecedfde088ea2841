"""Where the runs of one test are kept, and engines that open that place one after the other."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from holdfast import AsyncEngine, AsyncHandle, Engine
from holdfast.core.entries import Entry
from holdfast.ports import Clock
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import LeaseTimes, RunRecord
from tests.postgres_places import postgres
from tests.postgres_server import portal, server_url

PATIENCE_S = 10
"""Until what must happen is taken for never."""
LOOK_S = 0.002
LEASE = LeaseTimes.of(30 * 86_400_000)
"""Longer than any test puts the clock forward; engines that close give back what they hold."""


class ShiftedClock:
    """The machine's clocks, which a test may put forward: for both, that much time has passed."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._timers: set[ShiftedTimer] = set()

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1_000 + self._ahead_ms

    def wall_ms(self) -> int:
        return int(time.time() * 1_000) + self._ahead_ms

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> "ShiftedTimer":
        timer = ShiftedTimer(self, delay_ms, fn, self._timers)
        self._timers.add(timer)
        return timer

    def advance(self, ms: int) -> None:
        self._ahead_ms += ms
        for timer in list(self._timers):
            if not timer.loop.is_closed():
                timer.loop.call_soon_threadsafe(timer.wait)


class ShiftedTimer:
    """Waits for what is left, and less when the clock is put forward."""

    def __init__(
        self, clock: ShiftedClock, delay_ms: float, fn: Callable[[], object], timers: "set[ShiftedTimer]"
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._clock = clock
        self._due_ms = clock.monotonic_ms() + delay_ms
        self._fn = fn
        self._timers = timers
        self._handle: asyncio.TimerHandle | None = None
        self._is_over = False
        self.wait()

    def wait(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if not self._is_over:
            left_ms = max(self._due_ms - self._clock.monotonic_ms(), 0)
            self._handle = self.loop.call_later(left_ms / 1_000, self._call)

    def _call(self) -> None:
        self.cancel()
        self._fn()

    def cancel(self) -> None:
        self._is_over = True
        self._timers.discard(self)
        if self._handle is not None:
            self._handle.cancel()


Make = Callable[[], Store]


def memory(_directory: Path, clock: Clock) -> Make:
    store = MemoryStore(clock)
    return lambda: store


def sqlite(directory: Path, clock: Clock) -> Make:
    return lambda: store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=clock)


def on_postgres(_directory: Path, clock: Clock) -> Make:
    return postgres(clock, moves=True, lease=LEASE)


PLACES: Mapping[str, Callable[[Path, Clock], Make]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": on_postgres,
    "sqlite, by a worker": sqlite,
    "postgres, by a worker": on_postgres,
}


class ClientAndWorker(AsyncEngine):
    """An engine that drives nothing, and one beside it that drives everything."""

    def __init__(
        self,
        driving: Store,
        asking: Store,
        clock: Clock,
        workflows: tuple[Definable, ...],
        options: dict[str, Any],
    ) -> None:
        super().__init__(store=asking, clock=clock, workflows=workflows)
        self.beside = AsyncEngine(store=driving, clock=clock, workflows=workflows, **options)

    async def __aenter__(self) -> Self:
        await self.beside.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)  # type: ignore[arg-type] - as it is passed on
        await self.beside.__aexit__(None, None, None)


BY_A_WORKER = "by a worker"


def client_of(driving: Store, directory: Path, clock: Clock) -> Store:
    """The same place for someone who drives nothing."""
    if isinstance(driving, PostgresStore):
        return PostgresStore(server_url(), clock=clock, schema=driving._address.schema, drives=False)
    return store_at(f"sqlite:///{directory}/runs.db", worker=False, clock=clock)


class Place:
    """One kind of store, which keeps what it has from one engine to the next."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.clock = ShiftedClock()
        self.directory = directory
        self.store = PLACES[kind](directory, self.clock)

    def engine(self, *workflows: Definable, **options: Any) -> AsyncEngine:  # noqa: ANN401 - options of any type
        if self.kind.endswith(BY_A_WORKER) and "store" not in options:
            driving = self.store()
            asking = client_of(driving, self.directory, self.clock)
            return ClientAndWorker(driving, asking, self.clock, workflows, options)
        return AsyncEngine(**(self._given(workflows) | options))

    def blocking(self, *workflows: Definable, **options: Any) -> Engine:  # noqa: ANN401 - options of any type
        return Engine(**(self._given(workflows) | options))

    def _given(self, workflows: tuple[Definable, ...]) -> dict[str, Any]:
        return {"store": self.store(), "workflows": workflows, "clock": self.clock}

    def change_entry(self, run_id: str, position: int, change: Callable[[bytes], bytes]) -> None:
        """Change a stored entry while nobody has the place open."""
        store = self.store()
        if isinstance(store, MemoryStore):
            found = store._find(run_id)
            assert found is not None
            was = found.journal[position - 1]
            found.journal[position - 1] = msgspec.structs.replace(was, entry=changed(was.entry, change))
        elif isinstance(store, PostgresStore):
            where = "where run = (select key from {schema}.runs where id = $1) and position = $2"
            select = store._address.sql(f"select entry from {{schema}}.journal {where}")  # noqa: S608
            update = store._address.sql(f"update {{schema}}.journal set entry = $3 {where}")  # noqa: S608
            (row,) = portal().fetch(select, run_id, position)
            portal().fetch(update, run_id, position, changed(row[0], change))
        else:
            where = "where run = (select key from runs where id = ?) and position = ?"
            connection = sqlite3.connect(f"{self.directory}/runs.db")
            with connection:
                found = connection.execute(f"select entry from journal {where}", (run_id, position)).fetchone()  # noqa: S608
                update = f"update journal set entry = ? {where}"  # noqa: S608
                connection.execute(update, (changed(found[0], change), run_id, position))
            connection.close()

    async def run(self, flow: Definable, value: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """Open, run one workflow to its end, close."""
        async with self.engine(flow) as engine:
            return await (await engine.start(flow, value)).result(PATIENCE_S)


def changed(entry: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Another entry."""
    assert change(entry) != entry
    return change(entry)


def store_of(engine: AsyncEngine) -> Store:
    return engine._node.store


async def row(engine: AsyncEngine, run_id: str) -> RunRecord:
    """The run's row as it is stored now."""
    record = await store_of(engine).find_run(run_id)
    assert record is not None
    return record


async def entries(handle: AsyncHandle) -> list[Entry]:
    """The journal, which is checked to be gapless."""
    journal = await handle.journal()
    assert [entry.position for entry in journal] == list(range(1, len(journal) + 1))
    return [entry.entry for entry in journal]


async def kinds(handle: AsyncHandle) -> list[str]:
    return [type(entry).__name__ for entry in await entries(handle)]


def ms(moment: datetime | None) -> int:
    """A moment in store time."""
    assert moment is not None
    return round(moment.timestamp() * 1_000)


async def stamps(handle: AsyncHandle) -> dict[str, int]:
    """When the last entry of each kind was recorded, in ms of the store's clock."""
    return {entry.kind: ms(entry.at) for entry in await handle.journal()}


async def stolen_from(engine: AsyncEngine, run_id: str) -> RunRecord:
    """Take a run away from its worker, as if its lease had run out and another one had it now."""
    store = store_of(engine)
    await store.register("another worker")
    while True:
        held = await row(engine, run_id)
        await store.release([(held.key, held.epoch)])
        stolen = await store.claim_one("another worker", run_id)
        if stolen is not None:  # else its own worker has noticed in between, and has it again
            return stolen


async def until_parked(engine: AsyncEngine, run_id: str) -> None:
    """Wait until the run has been driven, and nobody holds it any more."""

    async def is_parked() -> bool:
        found = await row(engine, run_id)
        return found.worker is None and found.status not in {"pending", "running"}

    await until(is_parked)


async def until_status(handle: AsyncHandle, status: str) -> None:
    async def has_it() -> bool:
        return (await handle.status()).status == status

    await until(has_it)


async def until_branch(handle: AsyncHandle, branch: str, status: str) -> None:
    """Wait until a branch has a status."""

    async def has_it() -> bool:
        found = (await handle.status()).branches.get(branch)
        return found is not None and found.status == status

    await until(has_it)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition, sync or async, holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(LOOK_S)
