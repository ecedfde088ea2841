"""Worker processes on PostgreSQL as users run them, and a client that waits for their results."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast import AsyncEngine
from tests.integration.chaos import OPEN, ask, check, fleet, until, until_over
from tests.integration.chaos_flow import STEPS

RUNS = 40
Database = tuple[str, str]


@pytest.mark.slow
async def test_a_client_gets_the_results_of_runs_that_others_drive(
    postgres_database: Callable[[], Database], tmp_path: Path
) -> None:
    url, schema = postgres_database()
    async with fleet(url, schema, tmp_path, body_s=0.02, workers=2, runs=RUNS, lease="30s") as made:
        async with AsyncEngine(url, worker=False) as client, asyncio.TaskGroup() as waiting:
            handles = [await client.get(f"run-{n}") for n in range(RUNS)]
            results = [waiting.create_task(handle.result("60s")) for handle in handles]
        assert [result.result() for result in results] == [n + STEPS for n in range(RUNS)]
        assert await ask(made, OPEN) == 0
    assert await check(made, runs=RUNS) == 0


@pytest.mark.slow
async def test_a_worker_that_is_stopped_gives_its_runs_back_at_once_and_uncharged(
    postgres_database: Callable[[], Database], tmp_path: Path
) -> None:
    """Invariant 34; nobody waits for its lease to expire."""
    url, schema = postgres_database()
    async with fleet(url, schema, tmp_path, body_s=0.3, workers=2, runs=RUNS * 4, lease="10m") as made:
        leaver = made.workers[0]
        held = f"select count(*) from {{schema}}.runs where worker like '{leaver.pid}-%'"  # noqa: S608 - a number
        await until(made, held, bool)
        leaver.terminate()
        assert leaver.wait(60) == 0
        assert await ask(made, held) == 0
        assert await ask(made, "select count(*) from {schema}.workers") == 1
        made.workers.remove(leaver)
        await until_over(made)
    assert await check(made, runs=RUNS * 4) == 0
