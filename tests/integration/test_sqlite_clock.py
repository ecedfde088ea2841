"""The clock of a SQLite store over the life of a file: it never falls, and a wall clock may jump."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from holdfast import AsyncEngine, Flow, Retry, task
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.records import Append, Applied, Message, NewRun
from holdfast.stores.sqlite.clock import StoreClock
from holdfast.testing.clock import BEGIN_MS, VirtualClock
from holdfast.testing.contract.place import DAY_MS, MINUTE_MS
from tests.semantics.places import until_status

PATIENCE_S = 10


def make_store(directory: Path, clock: VirtualClock, *, worker: bool = True) -> Store:
    return store_at(f"sqlite:///{directory}/runs.db", worker=worker, clock=clock)


async def stamp(store: Store, run_id: str) -> int:
    """Insert a run and tell when that was."""
    new = NewRun(id=run_id, workflow="inc", fingerprint="f", entries=(b"e",), input_digest=b"d", worker="me")
    (outcome,) = await store.commit([new])
    assert isinstance(outcome, Applied)
    return outcome.at_ms


async def stamped(directory: Path, clock: VirtualClock, run_id: str) -> int:
    """The same with the file opened for it."""
    store = make_store(directory, clock)
    await store.open()
    try:
        return await stamp(store, run_id)
    finally:
        await store.close()


def test_a_wall_clock_set_back_before_opening_does_not_turn_the_store_clock_back(tmp_path: Path) -> None:
    async def look() -> list[int]:
        clock = VirtualClock()
        stamps = [await stamped(tmp_path, clock, "a")]
        clock.advance(10 * MINUTE_MS)
        stamps.append(await stamped(tmp_path, clock, "b"))
        clock.set_wall(-DAY_MS)
        stamps.append(await stamped(tmp_path, clock, "c"))
        clock.advance(MINUTE_MS)
        stamps.append(await stamped(tmp_path, clock, "d"))
        return stamps

    stamps = asyncio.run(look())
    assert stamps == sorted(stamps)
    assert stamps[2] - stamps[1] <= 1_000


def test_a_wall_clock_set_forward_before_opening_is_believed(tmp_path: Path) -> None:
    async def look() -> tuple[int, int]:
        clock = VirtualClock()
        before = await stamped(tmp_path, clock, "a")
        clock.set_wall(DAY_MS)
        return before, await stamped(tmp_path, clock, "b")

    before, after = asyncio.run(look())
    assert after - before == DAY_MS


def test_opening_again_at_once_does_not_run_the_clock_ahead(tmp_path: Path) -> None:
    async def look() -> int:
        clock = VirtualClock()
        for n in range(20):
            last = await stamped(tmp_path, clock, f"run-{n}")
            clock.advance(10)
        return last

    assert asyncio.run(look()) == BEGIN_MS + 19 * 10


def test_the_clock_of_an_open_store_moves_with_time_whatever_the_wall_clock_does(tmp_path: Path) -> None:
    async def look() -> None:
        clock = VirtualClock()
        store = make_store(tmp_path, clock)
        await store.open()
        begin_ms = store.now_ms()
        for by_ms in (DAY_MS, -3 * DAY_MS, 365 * DAY_MS):
            clock.set_wall(by_ms)
            assert store.now_ms() == begin_ms
        clock.advance(5_000)
        assert store.now_ms() == begin_ms + 5_000
        assert await stamp(store, "a") == begin_ms + 5_000
        await store.close()

    asyncio.run(look())


def test_an_owner_and_a_client_agree_on_the_time(tmp_path: Path) -> None:
    async def look() -> None:
        clock = VirtualClock()
        owner = make_store(tmp_path, clock)
        await owner.open()
        clock.advance(MINUTE_MS)
        last = await stamp(owner, "a")
        client = make_store(tmp_path, clock, worker=False)
        await client.open()
        assert await stamp(client, "b") == last
        await client.close()
        await owner.close()

    asyncio.run(look())


def test_a_timer_that_is_due_when_the_file_is_opened_again_fires(tmp_path: Path) -> None:
    calls: list[int] = []

    @task(retry=Retry(base_delay="1h"))
    async def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("busy")
        return "done"

    flow = Flow("flaky").then(flaky)

    async def drive() -> None:
        clock = VirtualClock()
        async with AsyncEngine(store=make_store(tmp_path, clock), workflows=[flow]) as engine:
            await until_status(await engine.start(flow, id="order-1"), "suspended")
        clock.advance(50 * MINUTE_MS)
        async with AsyncEngine(store=make_store(tmp_path, clock), workflows=[flow]) as engine:
            status = await (await engine.get("order-1")).status()
            assert (status.status, len(calls)) == ("suspended", 1)
            clock.advance(10 * MINUTE_MS)
            handle = await engine.get("order-1")
            assert await handle.result(PATIENCE_S) == "done"

    asyncio.run(drive())
    assert len(calls) == 2


async def inc(x: int) -> int:
    return x + 1


INC = Flow("inc").then(inc)


def test_a_run_started_by_a_client_whose_wall_clock_is_ahead_is_driven_at_once(tmp_path: Path) -> None:
    """After a machine slept, clocks of processes that slept with it are behind the wall clock."""

    async def drive() -> int:
        ahead, behind = VirtualClock(), VirtualClock()
        ahead.set_wall(DAY_MS)
        owning = AsyncEngine(store=make_store(tmp_path, behind), workflows=[INC])
        asking = AsyncEngine(store=make_store(tmp_path, ahead, worker=False), workflows=[INC])
        async with owning, asking:
            handle = await asking.start(INC, 1, id="order-1")
            output: int = await handle.result(PATIENCE_S / 4)
            return output

    assert asyncio.run(drive()) == 2


def test_a_message_of_a_client_whose_wall_clock_is_ahead_wakes_at_once(tmp_path: Path) -> None:
    async def look() -> list[str]:
        ahead, behind = VirtualClock(), VirtualClock()
        ahead.set_wall(DAY_MS)
        owner, client = make_store(tmp_path, behind), make_store(tmp_path, ahead, worker=False)
        await owner.open()
        await client.open()
        await stamp(owner, "a")
        run = await owner.find_run("a")
        assert run is not None
        await owner.commit([Append(run.key, 1, 1, (b"next",), "suspended", None, None)])
        await client.commit([Message(run_key=run.key, kind="signal", id="m-1", payload=b"p")])
        claimed = await owner.claim("me", workflows=["inc"], limit=9)
        await client.close()
        await owner.close()
        return [record.id for record in claimed.runs]

    assert asyncio.run(look()) == ["a"]


def test_the_time_that_opening_takes_is_not_lost(tmp_path: Path) -> None:
    """A file of a million runs is looked through for its newest stamp, if it was closed a moment ago."""
    clock = VirtualClock()
    store_clock = StoreClock(clock)
    connection = Slow(tmp_path / "runs.db", clock=clock, takes_ms=200)
    connection.execute("create table clock (high_ms integer)")
    connection.execute("create table runs (updated_at_ms integer)")
    connection.execute("create table inbox (at_ms integer)")
    connection.execute("insert into clock values (?)", (BEGIN_MS + 999,))
    connection.execute("insert into runs values (?)", (BEGIN_MS - 1,))
    store_clock.start(connection, owns=True)
    connection.close()
    assert clock.wall_ms() == BEGIN_MS + 200
    assert store_clock.now_ms() == clock.wall_ms()


class Slow(sqlite3.Connection):
    """Looking for the newest stamp takes its time."""

    def __init__(self, path: Path, *, clock: VirtualClock, takes_ms: int) -> None:
        super().__init__(path)
        self._clock = clock
        self._takes_ms = takes_ms

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401 - as above it
        if "max(updated_at_ms)" in sql:
            self._clock.advance(self._takes_ms)
        return super().execute(sql, parameters)
