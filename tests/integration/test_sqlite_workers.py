"""Who owns a SQLite file and what it can drive, as other processes are told."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at
from holdfast.stores.records import WorkerRecord
from holdfast.stores.sqlite.ownership import OwnerLock
from holdfast.stores.sqlite.store import SqliteStore, WorkerMode

OWNER = WorkerRecord("w", ("invoice", "order"))
PROGRAM = """
import asyncio, sys, time
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at

async def main():
    store = store_at("sqlite:///" + sys.argv[1], worker=True, clock=SystemClock())
    await store.open()
    await store.register("w", ["order", "invoice"])
    print("ready", flush=True)
    time.sleep(60)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def opened(path: Path, worker: WorkerMode) -> AsyncGenerator[SqliteStore]:
    store = store_at(f"sqlite:///{path}", worker=worker, clock=SystemClock())
    assert isinstance(store, SqliteStore)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def test_a_client_is_told_of_the_owner_until_that_has_closed_the_file(path: Path) -> None:
    async def main() -> None:
        async with opened(path, worker=False) as client:
            assert await client.workers() == []
            async with opened(path, worker=True) as owner:
                await owner.register("w", ["order", "invoice"])
                assert await owner.workers() == await client.workers() == [OWNER]
            assert await client.workers() == []

    asyncio.run(main())


def test_an_owner_in_another_process_is_told_of_until_it_is_killed(path: Path) -> None:
    async def look() -> list[WorkerRecord]:
        async with opened(path, worker=False) as client:
            return await client.workers()

    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert asyncio.run(look()) == [OWNER]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert asyncio.run(look()) == []


def test_the_next_owner_forgets_the_one_before(path: Path) -> None:
    async def main() -> None:
        async with opened(path, worker=True) as owner:
            await owner.register("w", ["order"])
        async with opened(path, worker=True) as owner, opened(path, worker=False) as client:
            assert await owner.workers() == await client.workers() == []

    asyncio.run(main())


def test_what_a_client_registers_counts_once_it_is_the_owner(path: Path) -> None:
    async def main() -> None:
        async with opened(path, worker="auto") as owner, opened(path, worker="auto") as client:
            await client.register("w", ["order", "invoice"])
            assert await client.workers() == []
            await owner.close()
            assert await client.workers() == []
            await client.claim("w", workflows=["order"], limit=1)
            assert client.may_drive
            assert await client.workers() == [OWNER]
            async with opened(path, worker=False) as other:
                assert await other.workers() == [OWNER]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({}, True),
        ({"pid": 1}, False),  # alive, and did not write the row
        ({"host": "elsewhere"}, False),
        (None, False),
    ],
    ids=str,
)
def test_the_row_counts_while_the_lock_file_names_who_wrote_it(
    path: Path, change: dict[str, object] | None, is_told: bool
) -> None:
    async def main() -> None:
        async with opened(path, worker=True) as owner, opened(path, worker=False) as client:
            await owner.register("w", ["order", "invoice"])
            file = path.with_name("runs.db-owner")
            named = json.loads(file.read_bytes())
            assert named["pid"] == os.getpid()
            file.write_text("" if change is None else json.dumps(named | change))
            assert await client.workers() == ([OWNER] if is_told else [])

    asyncio.run(main())


def test_of_an_owner_on_another_host_nothing_is_known_so_it_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        async with opened(path, worker=True) as owner, opened(path, worker=False) as client:
            await owner.register("w", ["order", "invoice"])
            monkeypatch.undo()
            assert await client.workers() == [OWNER]

    asyncio.run(main())


def test_an_owner_of_another_user_is_alive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    async def main() -> None:
        async with opened(path, worker=True) as owner, opened(path, worker=False) as client:
            await owner.register("w", ["order", "invoice"])
            monkeypatch.setattr(os, "kill", kill)
            assert await client.workers() == [OWNER]

    asyncio.run(main())


def test_looking_never_takes_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(path, worker=False) as client:
            monkeypatch.setattr(OwnerLock, "acquire", lambda _lock: pytest.fail("it was taken"))
            assert await client.workers() == []

    asyncio.run(main())
