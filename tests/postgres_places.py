"""PostgreSQL for hundreds of tests: one schema, emptied for each of them, with a clock to move.

Making a schema takes 50 ms, emptying one 3 ms.
"""

import functools
from collections.abc import Callable

import asyncpg

from holdfast.ports import Clock
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import LeaseTimes
from tests.postgres_server import migrated_schema, portal, server_url

# `base_ms` is all there is to the time, or what is added to the machine's.
_CLOCK = """
create table "{schema}".test_clock (base_ms bigint not null, moves boolean not null);
insert into "{schema}".test_clock values (0, true);
create or replace function "{schema}".now_ms() returns bigint language sql volatile as $$
    select base_ms + case when moves then floor(extract(epoch from clock_timestamp()) * 1000)::bigint else 0 end
    from "{schema}".test_clock
$$;
"""
_TABLES = "select tablename from pg_tables where schemaname = $1 and tablename not in ('format', 'test_clock')"


class Schema:
    """A schema with tables and a clock."""

    def __init__(self) -> None:
        self.name = migrated_schema()
        portal().execute(_CLOCK.format(schema=self.name))
        tables = [row[0] for row in portal().fetch(_TABLES, self.name)]
        # Who still holds a lock is of an earlier test and was never closed.
        self._empty = (
            "set lock_timeout = '1s'",
            *(f'delete from "{self.name}".{table}' for table in tables),  # noqa: S608 - names of ours
            f'alter sequence "{self.name}".run_keys restart',
        )

    def empty(self) -> None:
        portal().execute(";".join(self._empty))

    def set_clock(self, base_ms: int, *, moves: bool) -> None:
        update = f'update "{self.name}".test_clock set base_ms = $1, moves = $2'  # noqa: S608 - a name of ours
        portal().fetch(update, base_ms, moves)


@functools.cache
def _the_schema() -> Schema:
    return Schema()


def emptied_schema() -> Schema:
    """The schema of this process, without a row; another one if somebody holds on to it."""
    schema = _the_schema()
    try:
        schema.empty()
    except asyncpg.PostgresError:
        _the_schema.cache_clear()
        schema = _the_schema()
    return schema


def postgres(
    clock: Clock, *, moves: bool, lease: LeaseTimes, schema: Schema | None = None
) -> Callable[[], PostgresStore]:
    """Every time another object over the same schema, whose server's clock follows `clock.advance`.

    Args:
        clock: Of the test.
        moves: Whether it moves by itself, too.
        lease: Of workers.
        schema: None for the one of this process, emptied.
    """
    used = schema or emptied_schema()
    at_ms = 0 if moves else clock.wall_ms()
    passed_ms = 0
    advance: Callable[[int], None] = getattr(clock, "advance")  # noqa: B009 - not of every clock

    def advance_both(ms: int) -> None:
        nonlocal passed_ms
        passed_ms += ms
        advance(ms)
        used.set_clock(at_ms + passed_ms, moves=moves)

    used.set_clock(at_ms, moves=moves)
    clock.advance = advance_both  # type: ignore[attr-defined]
    return lambda: PostgresStore(server_url(), clock=clock, schema=used.name, lease=lease)
