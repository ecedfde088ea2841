"""Where the runs of one test are kept, and engines that open that place one after the other."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast import AsyncEngine, AsyncHandle, Engine
from holdfast.core.entries import Entry
from holdfast.ports import Clock
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import store_at
from holdfast.stores.base import RunRecord, Store
from holdfast.stores.memory import MemoryStore

PATIENCE_S = 10
"""Until what must happen is taken for never."""
LOOK_S = 0.002


class ShiftedClock:
    """The machine's clocks, which a test may put forward: for both, that much time has passed."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1_000 + self._ahead_ms

    def wall_ms(self) -> int:
        return int(time.time() * 1_000) + self._ahead_ms

    def advance(self, ms: int) -> None:
        self._ahead_ms += ms


Make = Callable[[], Store]


def memory(_directory: Path, clock: Clock) -> Make:
    store = MemoryStore(clock)
    return lambda: store


def sqlite(directory: Path, clock: Clock) -> Make:
    return lambda: store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=clock)


PLACES: Mapping[str, Callable[[Path, Clock], Make]] = {"memory": memory, "sqlite": sqlite}


class Place:
    """One kind of store, which keeps what it has from one engine to the next."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.clock = ShiftedClock()
        self.directory = directory
        self.store = PLACES[kind](directory, self.clock)

    def engine(self, *workflows: Definable, **options: Any) -> AsyncEngine:  # noqa: ANN401 - options of any type
        return AsyncEngine(**({"store": self.store(), "workflows": workflows} | options))

    def blocking(self, *workflows: Definable, **options: Any) -> Engine:  # noqa: ANN401 - options of any type
        return Engine(**({"store": self.store(), "workflows": workflows} | options))

    async def run(self, flow: Definable, value: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """Open, run one workflow to its end, close."""
        async with self.engine(flow) as engine:
            return await (await engine.start(flow, value)).result(PATIENCE_S)


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


async def until_status(handle: AsyncHandle, status: str) -> None:
    async def has_it() -> bool:
        return (await handle.status()).status == status

    await until(has_it)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition, sync or async, holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(LOOK_S)
