"""Three worker processes on one PostgreSQL database: killed, frozen, and without their server."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.chaos import (
    ENTRIES,
    ENTRIES_OF_A_RUN,
    ask,
    check,
    fleet,
    someone_at_work,
    until,
    until_over,
)

SEED = 2611
RUNS = 2_000
KILLS = 100
FREEZES = 5
STOPS = 5
WORKERS = 3

Database = tuple[str, str]
"""URL with our options, and schema."""


@pytest.mark.slow
async def test_a_hundred_kills_lose_nothing_and_repeat_nothing_acknowledged(
    postgres_database: Callable[[], Database], tmp_path: Path
) -> None:
    url, schema = postgres_database()
    chance = random.Random(SEED)
    async with fleet(url, schema, tmp_path, body_s=0.05, workers=WORKERS, runs=RUNS) as made:
        share = (RUNS * (ENTRIES_OF_A_RUN - 1)) / KILLS
        for kill in range(KILLS):
            # The hundredth kill strikes when most of the work is done, whatever the machine's speed.
            wanted = RUNS + share * kill * 0.9 + chance.randrange(int(share * 0.9))
            await until(made, ENTRIES, lambda count, wanted=wanted: count >= wanted)
            made.kill(chance.choice(made.workers))
        await until_over(made)
    doubled = await check(made, runs=RUNS)
    print(f"{KILLS} kills, {doubled} bodies had their effect twice")  # noqa: T201 - a figure of the run


@pytest.mark.slow
async def test_a_frozen_worker_is_replaced_and_writes_nothing_when_it_thaws(
    postgres_database: Callable[[], Database], tmp_path: Path
) -> None:
    url, schema = postgres_database()
    chance = random.Random(SEED)
    async with fleet(url, schema, tmp_path, body_s=0.2, workers=WORKERS, runs=RUNS // 4) as made:
        for freeze in range(FREEZES):
            await until(made, ENTRIES, lambda count, freeze=freeze: count >= RUNS // 4 * (1.5 + freeze))
            frozen = await someone_at_work(made, chance)
            held = f"select count(*) from {{schema}}.runs where worker like '{frozen.pid}-%'"  # noqa: S608 - a number
            made.freeze(frozen)
            await until(made, held, lambda count: count == 0)
            made.thaw(frozen)
        await until_over(made)
    doubled = await check(made, runs=RUNS // 4)
    print(f"{FREEZES} freezes, {doubled} bodies had their effect twice")  # noqa: T201 - a figure of the run


@pytest.mark.slow
async def test_a_server_that_is_stopped_at_once_loses_nothing(
    own_postgres: Callable[[], "tuple[Database, Callable[[], None], Callable[[], None]]"], tmp_path: Path
) -> None:
    (url, schema), stop, start = own_postgres()
    async with fleet(url, schema, tmp_path, body_s=0.1, workers=WORKERS, runs=RUNS // 4, lease="30s") as made:
        for n in range(STOPS):
            await until(made, ENTRIES, lambda count, n=n: count >= RUNS // 4 * (1.5 + n))
            stop()
            start()
        await until_over(made)
        assert await ask(made, "select max(recoveries) from {schema}.runs") == 0
    doubled = await check(made, runs=RUNS // 4)
    print(f"{STOPS} stops of the server, {doubled} bodies had their effect twice")  # noqa: T201 - a figure of the run
