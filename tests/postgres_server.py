"""The PostgreSQL server of the tests: started when the first test asks, one for each process, gone at exit.

`HOLDFAST_TEST_POSTGRES_URL` names another server instead; there every test has schemas of its own.
"""

# ruff: noqa: S608 - own schemas

import asyncio
import atexit
import functools
import itertools
import os
import secrets
import tempfile
import threading
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from holdfast.ports import Clock
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import LeaseTimes

T = TypeVar("T")
URL_VARIABLE = "HOLDFAST_TEST_POSTGRES_URL"

_numbers = itertools.count(1)
_mark = secrets.token_hex(4)
_schemas: list[str] = []


@functools.cache
def server_url() -> str:
    """Of a running server whose user may do everything."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        return given
    with warnings.catch_warnings():
        # It warns of a missing runtime directory, and is content with another.
        warnings.simplefilter("ignore")
        import pgserver  # noqa: PLC0415 - starting to look for directories is all that its import does

        directory = Path(tempfile.mkdtemp(prefix="holdfast-postgres-"))
        server = pgserver.get_server(directory, cleanup_mode="delete")
    return str(server.get_uri())


def with_schema(url: str, schema: str) -> str:
    """The URL of a server with the schema in its query."""
    return f"{url}{'&' if '?' in url else '?'}schema={schema}"


def fresh_schema() -> str:
    """A name that no other test has; the schema is dropped at exit, if someone has made it."""
    name = f"test_{os.getpid()}_{_mark}_{next(_numbers)}"
    _schemas.append(name)
    return name


class Portal:
    """Runs coroutines from blocking code, in a thread and a loop of its own, over one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-postgres", daemon=True)
        self._thread.start()
        self._connection: Any = None

    def execute(self, *statements: str, timeout_s: float = 30) -> None:
        self.call(self._execute(statements), timeout_s)

    def fetch(self, query: str, *args: object) -> list[Any]:
        return self.call(self._fetch(query, args))

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    async def _connected(self) -> Any:  # noqa: ANN401 - the driver is not typed
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(server_url())
            # A clock that was moved is seen by all at once; that it is on disk concerns nobody.
            await self._connection.execute("set synchronous_commit = off")
        return self._connection

    async def _execute(self, statements: tuple[str, ...]) -> None:
        connection = await self._connected()
        for statement in statements:
            await connection.execute(statement)

    async def _fetch(self, query: str, args: tuple[object, ...]) -> list[Any]:
        connection = await self._connected()
        return list(await connection.fetch(query, *args))

    def close(self) -> None:
        if self._connection is not None:
            self.call(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@functools.cache
def portal() -> Portal:
    """The one of this process."""
    server_url()  # registers its own end first, so that it comes last
    made = Portal()
    atexit.register(_clean_up, made)
    return made


def _clean_up(made: Portal) -> None:
    if URL_VARIABLE in os.environ:
        made.execute(*(f'drop schema if exists "{name}" cascade' for name in _schemas))
    made.close()


class ServerClock:
    """The clock of one schema, which stands still until it is set."""

    def __init__(self, schema: str, at_ms: int) -> None:
        """The schema must be there already."""
        self._schema = schema
        portal().execute(
            f'create table "{schema}".test_clock (at_ms bigint not null)',
            f'insert into "{schema}".test_clock values ({at_ms})',
            f'create or replace function "{schema}".now_ms() returns bigint language sql volatile'
            f' as $$ select at_ms from "{schema}".test_clock $$',
        )

    def set(self, at_ms: int) -> None:
        """From now on every statement sees this time."""
        portal().execute(f'update "{self._schema}".test_clock set at_ms = {int(at_ms)}')


def migrated_schema() -> str:
    """A fresh schema with the tables in it."""
    from holdfast.stores.postgres.schema import sql  # noqa: PLC0415

    name = fresh_schema()
    portal().execute(sql(name))
    return name


def postgres(_directory: Path, clock: Clock, **options: Any) -> Callable[[], PostgresStore]:  # noqa: ANN401 - of the store
    """Every time another object over the same schema, whose server's clock follows `clock.advance`."""
    schema = migrated_schema()
    at_ms = clock.wall_ms()
    server_clock = ServerClock(schema, at_ms)
    begun_ms = clock.monotonic_ms()
    advance = getattr(clock, "advance", None)
    if advance is not None:

        def advance_both(ms: int) -> None:
            advance(ms)
            server_clock.set(at_ms + int(clock.monotonic_ms() - begun_ms))

        clock.advance = advance_both  # type: ignore[attr-defined]
    options.setdefault("lease", LeaseTimes())
    return lambda: PostgresStore(server_url(), clock=clock, schema=schema, migrate=True, **options)
