"""A server that is not there, does not let us in, holds something else, or goes away in the middle."""

# ruff: noqa: S105, S608, ASYNC110, ASYNC240 - a made-up password; own schemas; a server is asked; a small file

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from holdfast.errors import (
    FormatError,
    HoldfastError,
    StoreConnectError,
    StoreUnavailableError,
    UsageError,
)
from holdfast.stores.postgres import schema as schemas
from holdfast.stores.postgres.connection import Address, Pool
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import Applied, Fenced, Refused
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import ME, append, applied, find, insert_held, new_run
from tests.postgres_server import fresh_schema, migrated_schema, portal, server_url

SECRET = "p4ss-w0rd"
_BLOCKED = "select pid from pg_stat_activity where wait_event_type = 'Lock' and strpos(query, $1) > 0"


def store_at(url: str, **options: Any) -> PostgresStore:  # noqa: ANN401 - of the store
    return PostgresStore(url, clock=VirtualClock(), **{"hints": False} | options)


def as_user(name: str) -> str:
    """The server's URL for another user."""
    parts = urlsplit(server_url())
    hosts = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}:{SECRET}@{hosts}"))


@asynccontextmanager
async def opened(schema: str, url: str = "", **options: Any) -> AsyncGenerator[PostgresStore]:  # noqa: ANN401
    store = store_at(url or server_url(), schema=schema, **options)
    await store.open()
    try:
        await store.register(ME)
        yield store
    finally:
        await store.close()


async def failure_of(store: PostgresStore) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        await store.open()
    await store.close()
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__
    return caught.value


async def test_no_server_is_said_with_its_place_and_without_the_password() -> None:
    error = await failure_of(store_at(f"postgresql://ann:{SECRET}@127.0.0.1:1/orders?password={SECRET}"))
    assert isinstance(error, StoreConnectError)
    assert "ann@127.0.0.1:1/orders" in str(error)


async def test_a_wrong_password_is_never_printed() -> None:
    hba = Path(portal().fetch("show hba_file")[0][0])
    if not hba.is_file():
        pytest.skip("the server is not ours to configure")
    role = fresh_schema()
    line = f"local all {role} scram-sha-256\n"
    portal().execute(f"create role {role} login password 'right'")
    before = hba.read_text(encoding="utf-8")
    try:
        hba.write_text(line + before, encoding="utf-8")
        portal().execute("select pg_reload_conf()")
        error = await failure_of(store_at(as_user(role), schema=migrated_schema()))
    finally:
        hba.write_text(before, encoding="utf-8")
        portal().execute("select pg_reload_conf()", f"drop role {role}")
    assert isinstance(error, StoreConnectError)
    assert "password authentication failed" in str(error)


async def test_an_unknown_database_cannot_be_opened() -> None:
    url = urlunsplit(urlsplit(server_url())._replace(path="/nowhere"))
    error = await failure_of(store_at(url))
    assert isinstance(error, StoreConnectError)
    assert "nowhere" in str(error)


async def test_a_user_without_rights_is_told_so() -> None:
    schema, role = migrated_schema(), fresh_schema()
    portal().execute(f"create role {role} login")
    try:
        error = await failure_of(store_at(as_user(role), schema=schema))
    finally:
        portal().execute(f"drop role {role}")
    assert isinstance(error, StoreConnectError)
    assert "permission denied" in str(error)


async def test_a_missing_schema_is_not_made_but_told() -> None:
    schema = fresh_schema()
    error = await failure_of(store_at(server_url(), schema=schema))
    assert isinstance(error, FormatError)
    assert "holdfast db migrate" in str(error)
    assert await schemas.status(server_url(), schema) == schemas.FormatStatus(0, 1, 2)


async def test_a_newer_format_is_refused_and_left_alone() -> None:
    schema = migrated_schema()
    portal().execute(f"update {schema}.format set version = 99")
    error = await failure_of(store_at(server_url(), schema=schema, migrate=True))
    assert isinstance(error, FormatError)
    assert "format 99" in str(error)
    assert (await schemas.status(server_url(), schema)).found == 99


async def test_migrating_at_once_and_again_makes_one_schema() -> None:
    schema = fresh_schema()
    done = await asyncio.gather(*[schemas.migrate(server_url(), schema) for _ in range(4)])
    assert {status.found for status in done} == {2}
    assert await schemas.migrate(server_url(), schema) == done[0]
    assert "create table" not in schemas.sql(schema, from_format=2)


@pytest.mark.parametrize("name", ["", "Upper", "1st", 'a"b', "a" * 64, "ä"])
def test_no_name_of_a_schema_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Address("postgresql://host/db", schema=name)


def test_options_of_a_url_are_ours_and_secrets_are_not_shown() -> None:
    address = Address(
        f"postgresql://ann:{SECRET}@one:1,two:2/db?schema=jobs&prepared=off&hints=off&sslmode=require",
        schema="x",
    )
    assert (address.schema, address.prepared, address.hints) == ("jobs", False, False)
    assert address.dsn == f"postgresql://ann:{SECRET}@one:1,two:2/db?sslmode=require"
    assert address.url == "postgresql://ann@one:1,two:2/db?sslmode=require&schema=jobs"
    with pytest.raises(UsageError):
        Address("postgresql://host/db?prepared=no", schema="x")


@pytest.mark.parametrize("query", ["", "prepared=off"])
async def test_one_connection_is_enough_for_everything_at_once(query: str) -> None:
    separator = "&" if "?" in server_url() else "?"
    url = f"{server_url()}{separator}{query}" if query else server_url()
    async with opened(migrated_schema(), url, pool_max=1) as store:
        key = await insert_held(store, "a")
        async with asyncio.TaskGroup() as tasks:
            for n in range(20):
                tasks.create_task(store.commit([new_run(f"run-{n}")]))
                tasks.create_task(store.find_run("a"))
                tasks.create_task(store.claim(ME, workflows=["order"], limit=1))
                tasks.create_task(store.reap())
        assert isinstance(await applied(store, append(key)), Applied)
        await store.retire(ME)
        assert (await find(store, "a")).worker is None


async def test_a_connection_that_dies_in_a_commit_leaves_it_unknown_and_is_replaced() -> None:
    schema = migrated_schema()
    async with opened(schema) as store:
        key = await insert_held(store, "a")
        side = await asyncpg.connect(server_url())
        try:
            async with side.transaction():
                await side.execute(f"select from {schema}.runs where key = $1 for update", key)
                async with asyncio.TaskGroup() as tasks:
                    committing = tasks.create_task(unavailable(store, key))
                    probe = await asyncpg.connect(server_url())
                    while not (rows := await probe.fetch(_BLOCKED, f'"{schema}"')):
                        await asyncio.sleep(0)
                    await probe.execute("select pg_terminate_backend($1)", rows[0][0])
                    await probe.close()
                assert committing.result() is None
        finally:
            await side.close()
        outcome = await applied(store, append(key))
        assert (outcome.key, (await find(store, "a")).position) == (key, 2)
        assert await store.commit([append(key)]) == [Fenced()]


async def unavailable(store: PostgresStore, key: int) -> None:
    with pytest.raises(StoreUnavailableError):
        await store.commit([append(key)])


async def test_idle_connections_that_died_are_replaced_without_an_error() -> None:
    schema = migrated_schema()
    async with opened(schema) as store:
        await store.find_run("a")
        closed = [connection for pool in (store._writes, store._reads) for connection in pool._idle]
        portal().execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where application_name = 'holdfast' and strpos(query, '{schema}') > 0"
        )
        while not all(connection.is_closed() for connection in closed):
            await asyncio.sleep(0)
        assert await store.find_run("a") is None
        assert isinstance((await store.commit([new_run("a")]))[0], Applied)


async def test_a_server_that_is_down_is_asked_once_a_second_at_most() -> None:
    tried = 0
    pool = Pool(Address("postgresql://ann@127.0.0.1:1/orders", schema="holdfast"), size=5)
    reasons = set()
    for _ in range(100):
        try:
            async with pool.connection():
                tried += 1
        except StoreUnavailableError as error:
            reasons.add(error.__cause__)
    assert tried == 0
    assert len(reasons - {None}) <= 2


async def test_a_closed_store_says_so() -> None:
    async with opened(migrated_schema()) as store:
        pass
    with pytest.raises(StoreUnavailableError, match="it is closed"):
        await store.find_run("a")
    await store.close()


async def test_what_can_never_be_stored_is_refused_alone() -> None:
    async with opened(migrated_schema()) as store:
        keys = [await insert_held(store, run_id) for run_id in ("a", "b")]
        outcomes = await store.commit(
            [
                append(keys[0]),
                new_run("nul \x00"),
                append(keys[1], status="lone \ud800 surrogate"),
                new_run("c", priority=2**70),
                new_run("d"),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [Applied, Refused, Refused, Refused, Applied]
        assert "lone" not in str(outcomes[2])
        assert await store.find_run("nul \x00") is None
        assert (await find(store, "b")).position == 1
