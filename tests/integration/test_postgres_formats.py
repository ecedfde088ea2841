"""Tables of the format before this version's: worked with, and brought up to date with what is in them."""

# ruff: noqa: S608 - own schemas

from pathlib import Path

import pytest

from holdfast.stores.postgres import schema as schemas
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import WorkerRecord
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    applied,
    find,
    insert_held,
    parked,
)
from tests.postgres_server import fresh_schema, portal, server_url

FIRST = Path(schemas.__file__).parent / "migrations" / "0001_initial.sql"


@pytest.fixture
def first() -> str:
    """A schema of format 1."""
    name = fresh_schema()
    script = FIRST.read_text(encoding="utf-8").replace("{schema}", f'"{name}"')
    portal().execute(f'create schema "{name}"', script, f'update "{name}".format set version = 1')
    return name


async def test_what_is_in_the_tables_of_format_1_is_swept_after_the_migration(first: str) -> None:
    for found in (1, 2):
        store = PostgresStore(server_url(), clock=VirtualClock(), schema=first, hints=False, migrate=found == 2)
        await store.open()
        try:
            worker = f"{ME}-{found}"
            await store.register(worker, ["order"])
            assert (await schemas.status(server_url(), first)).found == found
            if found == 1:
                key = await insert_held(store, "a", worker=worker)
                await applied(store, parked(key, status="completed"))
                assert await store.workers() == [WorkerRecord(worker, ())]
                assert await store.sweep("order", "completed", before_ms=2**60, limit=10) == 0
                await find(store, "a")
            else:
                assert await store.workers() == [WorkerRecord(f"{ME}-1", ()), WorkerRecord(worker, ("order",))]
                assert await store.sweep("order", "completed", before_ms=2**60, limit=10) == 1
                assert await store.find_run("a") is None
        finally:
            await store.close()


async def test_the_migration_alone_is_printed() -> None:
    printed = schemas.sql("orders", from_format=1)
    assert "create table" not in printed
    assert "add column workflows" in printed
    assert printed.endswith('update "orders".format set version = 2;\n\ncommit;\n')
    name = fresh_schema()
    portal().execute(schemas.sql(name))
    assert (await schemas.status(server_url(), name)).found == 2
