"""Clients of a SQLite file: they never drive, and an automatic one takes over when the owner has gone."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from holdfast import AsyncEngine, Flow
from holdfast.errors import StoreUnavailableError
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at
from holdfast.stores.records import Claimed, NewRun
from holdfast.stores.sqlite import leases

PATIENCE_S = 5


async def inc(x: int) -> int:
    return x + 1


INC = Flow("inc").then(inc)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


async def define(url: str) -> None:
    """Let a worker bring its workflow to the file."""
    async with AsyncEngine(url, workflows=[INC], worker=True):
        pass


def test_a_client_that_knows_the_workflow_drives_nothing(url: str) -> None:
    async def drive() -> None:
        async with AsyncEngine(url, workflows=[INC], worker=False) as client:
            handle = await client.start(INC, 1)
            assert not client.is_driving
            await asyncio.sleep(0.25)  # for polls that must do nothing
            assert (await handle.status()).status == "pending"
        async with AsyncEngine(url, workflows=[INC], worker=True) as owner:
            assert await (await owner.get(handle.id)).result(PATIENCE_S) == 2

    asyncio.run(drive())


def test_a_resume_by_a_client_waits_for_an_owner(url: str) -> None:
    async def drive() -> None:
        async with (
            AsyncEngine(url, workflows=[INC], worker=False) as client,
            asyncio.TaskGroup() as clients,
        ):
            handle = await client.start(INC, 1)
            resuming = clients.create_task(client.resume(handle.id))
            await asyncio.wait({resuming}, timeout=0.2)
            status = await handle.status()
            assert (status.status, status.worker, resuming.done()) == ("pending", None, False)
            async with AsyncEngine(url, workflows=[INC], worker=True):
                async with asyncio.timeout(PATIENCE_S):
                    assert await resuming == 2

    asyncio.run(drive())


def test_a_store_that_may_not_drive_claims_nothing(url: str) -> None:
    async def look() -> None:
        store = store_at(url, worker=False, clock=SystemClock())
        await store.open()
        try:
            new = NewRun(id="a", workflow="inc", fingerprint="f", entries=(b"e",), input_digest=b"d")
            await store.commit([new])
            assert not store.may_drive
            assert await store.claim("me", workflows=["inc"], limit=9) == Claimed()
            assert await store.claim_one("me", "a") is None
            record = await store.find_run("a")
            assert record is not None
            assert (record.worker, record.epoch) == (None, 0)
        finally:
            await store.close()

    asyncio.run(look())


def test_an_automatic_worker_takes_over_when_the_owner_closes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite.store.INHERIT_MS", 20)

    async def drive() -> None:
        owner = AsyncEngine(url, workflows=[INC], worker=True)
        async with AsyncEngine(url, workflows=[INC]) as first:
            assert first.is_driving
        await owner.__aenter__()
        async with AsyncEngine(url, workflows=[INC]) as client:
            assert not client.is_driving
            await owner.__aexit__(None, None, None)
            assert await (await client.start(INC, 1)).result(PATIENCE_S) == 2
            assert client.is_driving

    asyncio.run(drive())


def test_taking_over_that_fails_is_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite.store.INHERIT_MS", 20)
    monkeypatch.setattr("holdfast.runtime.claims.UNAVAILABLE_WAIT_MS", 20)
    frees: list[int] = []
    real = leases.free_all

    def busy_once(connection: sqlite3.Connection, now_ms: int) -> int:
        frees.append(now_ms)
        if len(frees) == 2:
            raise StoreUnavailableError(store=url, reason="busy")
        return real(connection, now_ms)

    monkeypatch.setattr(leases, "free_all", busy_once)

    async def drive() -> None:
        owner = AsyncEngine(url, workflows=[INC], worker=True)
        await owner.__aenter__()
        async with AsyncEngine(url, workflows=[INC]) as client:
            await owner.__aexit__(None, None, None)
            assert await (await client.start(INC, 1)).result(PATIENCE_S) == 2

    asyncio.run(drive())
    assert len(frees) == 3


def test_of_many_automatic_workers_one_takes_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite.store.INHERIT_MS", 20)

    async def drive() -> None:
        owner = AsyncEngine(url, workflows=[INC], worker=True)
        await owner.__aenter__()
        async with (
            AsyncEngine(url, workflows=[INC]) as one,
            AsyncEngine(url, workflows=[INC]) as two,
            AsyncEngine(url, workflows=[INC]) as three,
        ):
            handles = [await each.start(INC, n) for n, each in enumerate((one, two, three))]
            await owner.__aexit__(None, None, None)
            handles += [await each.start(INC, n) for n, each in enumerate((one, two, three))]
            assert [await handle.result(PATIENCE_S) for handle in handles] == [1, 2, 3, 1, 2, 3]
            assert sorted([one.is_driving, two.is_driving, three.is_driving]) == [False, False, True]

    asyncio.run(drive())


def test_a_client_does_not_change_which_definition_is_current(url: str) -> None:
    async def twice(x: int) -> int:
        return x * 2

    async def drive() -> None:
        async with (
            AsyncEngine(url, workflows=[INC], worker=True),
            AsyncEngine(url, workflows=[Flow("inc").then(twice)], worker=False),
            AsyncEngine(url, worker=False) as client,
        ):
            assert await (await client.start("inc", 5)).result(PATIENCE_S) == 6

    asyncio.run(drive())
